"""What the sample app keeps: chats and settings survive whatever ends it, and a damaged file loses itself alone."""

import subprocess
from pathlib import Path

import pytest

from tests.support.kotlin_app import app_command
from tests.support.patience import HANG_S

pytestmark = pytest.mark.needs("java", "npm")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``FilesMain`` says, by the first word of each line."""
    directory: Path = tmp_path_factory.mktemp("files") / "chats"
    done = subprocess.run(
        app_command("FilesMainKt", str(directory)), capture_output=True, encoding="utf-8", check=False, timeout=HANG_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.partition(" | ")[0]: line.partition(" | ")[2] for line in done.stdout.splitlines()}


TOLD = {
    "there are no chats at first": ("nothing", "[]"),
    "a chat comes back as it was": ("whole", "true"),
    "a model hears neither reasoning nor what failed": ("history", "true"),
    "an answer can be copied, once there is one": ("copyable", "[, yes, , ] | true | true"),
    "messages are kept in the library's own form": ("format", "true"),
    "an answer that was cut off was stopped": ("open", "STOPPED | true | first"),
    "the chat that changed last comes first": ("order", "[open, whole]"),
    "a file that was being written changes nothing": ("cut off", "[open, whole]"),
    "and is written the next time": ("written again", "[whole, open]"),
    "a damaged file loses one chat": ("damaged", "[whole, open] | null"),
    "a deleted chat does not come back": ("deleted", "[open]"),
    "settings that nobody made are the model's": ("defaults", "true"),
    "settings come back as they were": ("settings", "true | true"),
    "they are what the model is asked with": ("sampling", "0.5 | 0.25 | 7 | null"),
    "what makes no sense in settings is left out": ("outside", "true"),
}


@pytest.mark.parametrize("demand", TOLD)
def test_what_is_kept(told, demand):
    step, words = TOLD[demand]
    assert told[step] == words


@pytest.mark.parametrize("wrong", ["", "{", "[]", "null"])
def test_settings_that_are_damaged_are_as_if_nobody_had_chosen(told, wrong):
    assert told[f"wrong {wrong}"] == "true"


NUMBERS = {
    "": "null", " ": "null", "0,5": "0.5", "1.5": "1.5", "2": "2.0", "2.1": "no", "-1": "no", "x": "no", "NaN": "no",
    "1e9": "no", "\u0663": "no",
}  # fmt: skip


@pytest.mark.parametrize("typed", NUMBERS)
def test_a_number_is_taken_from_what_was_typed(told, typed):
    assert told[f"typed {typed}"] == NUMBERS[typed]
