"""Arguments reach the phone's shell as data."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_transact.benchmarking.drivers.adb.client import AndroidDevice, ShellOutput, adb_client, quote
from edge_transact.benchmarking.drivers.base import CommandTimeout, DeviceRefused
from edge_transact.errors import UsageError
from tests.support.hostile_names import NAMES
from tests.support.patience import HANG_S

ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
WORDS = st.lists(ANY | st.lists(st.sampled_from(NAMES), max_size=8).map("".join), min_size=1, max_size=6)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_arguments_come_back_as_they_were(phone, words):
    device = AndroidDevice(adb_client(), phone.serial)
    # `print` is built into the phone's shell, so it prints exactly what the shell has read.
    result = device.script('for word in "$@"; do print -r -- "$word"; print //; done', *words)
    assert result.stdout == "".join(f"{word}\n//\n" for word in words)
    assert result.code == 0 and result.stderr == ""


def test_a_command_gets_its_arguments_and_its_exit_code_comes_back(phone):
    device = AndroidDevice(adb_client(), phone.serial)
    assert device.shell("printf", "%s|", "a b", "$HOME", "c;d", "e\nf").stdout == "a b|$HOME|c;d|e\nf|"
    assert device.shell("sh", "-c", "exit 7").code == 7
    with pytest.raises(DeviceRefused, match="No such file"):
        device.checked("cat", "/no; such 'file'")


@pytest.mark.parametrize("word", ["a\0b", "\ud800"])
def test_what_no_shell_can_take_is_refused(word):
    with pytest.raises(UsageError):
        quote(["echo", word])


def test_a_phone_that_is_back_with_a_slow_shell_is_waited_for(monkeypatch):
    device = AndroidDevice(adb_client(), "phone")
    slow = [CommandTimeout("a command took longer than it was given")]

    def script(*_, **__):
        if slow:
            raise slow.pop()
        return ShellOutput(0, "", "")

    monkeypatch.setattr(device, "state", lambda: "device")
    monkeypatch.setattr(device, "script", script)
    assert device.wait(HANG_S, threading.Event())
