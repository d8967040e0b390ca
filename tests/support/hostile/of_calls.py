"""Cases of options, outputs, projects, widths and texts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from edge_transact.cli import load_command
from tests.support.hostile.case import DEEP, OF_ANY_FILE, OF_JSON, OF_TEXT, VALUES, Case, naming, on, put, set_json
from tests.support.hostile.of_dists import BENCH, LOG
from tests.support.hostile.of_models import EVAL, EXPORT, PLAN, PRUNE

NUMBERS = {
    "-1": "-1", "0": "0", "1": "1", "10^9": str(10**9), "10^30": str(10**30), "10^400": str(10**400),
    "5000 digits": "9" * 5000, "nan": "nan", "inf": "inf", "1e308": "1e308", "-1e-308": "-1e-308", "1.5": "1.5",
    "letters": "x", "nothing": "", "a superscript": "²", "hexadecimal": "0x10", "a list": "1,,2", "a NUL": "1\0",
    "a lone surrogate": "\udcff", "a format": "%s{0}", "a path": "../..", "a range": "0-999999999", "a share": "1e9%",
    "a size": "99999999999GiB",
}  # fmt: skip

HEAL = ("heal", "pruned", "--teacher", "model", "--train", "text.txt", "--train-tokens", "1024", "-o", "out")
CALLS = {
    "prune": PLAN,
    "heal": (*HEAL, "--dry-run"),
    "build": ("build", "model", "--target", "host", "-o", "out", "--dry-run"),
    "eval": (*EVAL, "--dry-run"),
    "export": EXPORT,
    "inspect": ("inspect", "model"),
    "bench": ("bench", "dist", "--lengths", "8+4", "--dry-run"),
    "run": ("run", "dist", "-p", "The people", "--max-tokens", "2"),
    "bundle": ("bundle", "dist", "-o", "out"),
    "install": ("install", "dist"),
    "init": ("init", "demo:tiny"),
    "cache": ("cache",),
}
"""A call of each command that ends soon, to which an option is added."""
ALL = ("model", "pruned", "dist", "text.txt", "log.jsonl", "other.jsonl")
OTHERS = "model|dist|adb|not valid Unicode|does not exist"
PLACES = {"--tasks", "--output", "--report", "--plot", "--format"}


def of_options() -> Iterator[Case]:
    """All cases of options."""
    turn = count()
    for name, call in CALLS.items():
        for parameter in load_command(name).params:
            flag = next((flag for flag in getattr(parameter, "opts", ()) if flag.startswith("--")), "")
            if not flag or getattr(parameter, "is_flag", False) or flag in PLACES:
                continue
            kind = type(parameter.type).__name__ if getattr(parameter, "type", None) else ""
            numeric = "Int" in kind or "Float" in kind
            step = 2 if numeric else 4
            values = {key: NUMBERS[key] for key in list(NUMBERS)[next(turn) % step :: step]}
            for damage, value in values.items():
                says = naming(
                    flag,
                    flag.strip("-"),
                    flag.strip("-").replace("-", " "),
                    value[:9] or "''",
                    repr(value[:9].split(",")[0]),
                )
                yield Case(
                    "options", f"{name} {flag} is {damage}", (*call, f"{flag}={value}"), f"{says}|{OTHERS}",
                    may_work=True, needs=ALL, replaces=("out", "out.gguf", "edge-transact.toml", *LOG),
                )  # fmt: skip
    for command in (EVAL, ("run", *CALLS["run"][1:]), BENCH):
        for threads in ("0", "-1", "100000", str(10**9), str(10**20)):
            yield Case(
                "options", f"{command[0]} --threads is {threads}", (*command, "--threads", threads), "threads",
                may_work=True, needs=ALL, replaces=LOG,
            )  # fmt: skip


def _linked(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _full(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o20666, os.makedev(1, 3))
    except PermissionError:
        os.mkfifo(path)


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a text": lambda path: path.write_text("mine"),
    "a directory with a text": _full,
    "a FIFO": os.mkfifo,
    "a device": _device,
    "a link to nothing": _linked("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a directory": _linked("model"),
    "a link to a text": _linked("text.txt"),
}
NAMES = {
    "a name of 300 letters": "x" * 300, "a path of 5000 letters": "x/" * 2500 + "x", "a NUL": "a\0b", "here": ".",
    "above": "..", "nothing": "", "a model": "model", "below a text": "text.txt/x", "in /proc": "/proc/x",
    "in a place that is missing": "no/../out", "below a link to nothing": "dangling/x",
}  # fmt: skip
MAY_BE = {"bench": ["nothing", "in a place that is missing"]}
"""Outputs that work: a bench makes the directory of its log."""
SUFFIX = {"export": ".gguf", "inspect": ".png", "bench": ".jsonl"}
WRITERS = {
    "prune": PRUNE[:-2], "heal": HEAL[:-2], "export": EXPORT[:-2], "bundle": ("bundle", "dist"),
    "build": ("build", "model", "--target", "host"), "inspect": ("inspect", "model", "--plot"),
    "eval": (*EVAL, "--report"), "bench": BENCH[:-2],
    "compare": ("bench", "compare", "log.jsonl", "other.jsonl", "--report"), "prune --report": (*PRUNE, "--report"),
}  # fmt: skip


def of_outputs() -> Iterator[Case]:
    """All cases of outputs."""
    for name, writer in WRITERS.items():
        call = writer if writer[-1] in ("--plot", "--report") else (*writer, "-o")
        can_force = name not in ("bench", "compare")
        for force in ((), ("--force",)) if can_force else ((),):
            for damage, make in IN_THE_WAY.items():
                place = f"place{SUFFIX.get(name, '')}"
                yield Case(
                    "outputs", f"{damage} is in the way of {name}{' with --force' if force else ''}",
                    (*call, place, *force), "place", on(place, make),
                    name == "bench", ALL, LOG,
                )  # fmt: skip
            for damage, out in NAMES.items():

                def harm(work: Path) -> None:
                    (work / "dangling").symlink_to("nowhere")

                suffix = SUFFIX.get(name, "") if damage[:2] in ("a ", "be") and "model" not in damage else ""
                yield Case(
                    "outputs", f"{damage} is the output of {name}{' with --force' if force else ''}",
                    (*call, out + suffix, *force),
                    f"{naming(out[:9] or 'out')}|output|too long|text.txt|dangling|null byte|no|--plot", harm,
                    damage in MAY_BE.get(name, ()), ALL, LOG,
                )  # fmt: skip


TOML = """model = "model"
output = "out"
[build]
target = ["host"]
quant = "q4f32_1"
context = 64
[prune]
ratio = 0.3
calibration = "text.txt"
seed = 0
[heal]
train = ["text.txt"]
train_tokens = 1024
learning_rate = 1e-4
"""
TOML_VALUES = {
    "missing": None, "true": "true", "text": '"text"', "empty text": '""', "-1": "-1", "0": "0", "1.5": "1.5",
    "10^9": str(10**9), "10^400": str(10**400), "5000 digits": "9" * 5000, "nan": "nan", "inf": "-inf", "list": "[1]",
    "empty list": "[]", "map": "{a = 1}", "nested": DEEP, "date": "2026-01-01", "cut": '"text', "NUL": '"a\\u0000b"',
    "path": '"../../x"', "surrogate": '"\\ud800"', "nothing": "",
}  # fmt: skip


def of_projects() -> Iterator[Case]:
    """All cases of ``edge-transact.toml``."""
    turn = count()
    commands = (("build", "--dry-run"), ("build", "--dry-run", "--context", "32"), ("init", "--force", "--seed", "1"))
    file = "edge-transact.toml"
    for damage, harm in (OF_ANY_FILE | OF_TEXT).items():

        def whole(work: Path, harm: Callable[[Path], object] = harm) -> None:
            put(work / file, TOML)
            harm(work / file)

        yield Case(
            "toml", damage, commands[next(turn) % 3], naming(file), whole,
            damage in ("missing", "flipped inside", "a byte order mark", "an eighth", "all but a byte"), ALL, (file,),
        )  # fmt: skip
    for line in [*TOML.splitlines(), "x = 1", '"a.b" = 1', "[[build]]", "[prune.x]"]:
        key, is_there = line.partition(" =")[0], line in TOML
        for value, raw in TOML_VALUES.items() if " = " in line else [("alone", None)]:

            def changed(work: Path, line: str = line, key: str = key, raw: str | None = raw) -> None:
                new = line if raw is None and line not in TOML else "" if raw is None else f"{key} = {raw}"
                put(work / file, TOML.replace(line, new) if line in TOML else f"{TOML}{new}\n")

            yield Case(
                "toml", f"{key} is {value}", commands[next(turn) % 3], naming(file, key, "model"), changed,
                is_there, ALL, (file,),
            )  # fmt: skip


WIDTHS = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "qk_head_dim", "v_head_dim", "x")


def of_widths() -> Iterator[Case]:
    """All cases of ``--widths``."""
    turn = count()
    prune = ("prune", "model", "--widths", "widths.json", "--method", "magnitude", "-o", "out")
    build = ("build", "model", "--target", "host", "--widths", "widths.json", "-o", "out")
    for damage, harm in (OF_ANY_FILE | OF_JSON).items():
        yield Case(
            "widths", damage, prune, naming("widths.json", "--widths", "nothing to prune"),
            on("widths.json", harm), damage in ("flipped inside", "flipped at its start", "a byte order mark"),
            ("model", "widths.json"),
        )  # fmt: skip
    for key in WIDTHS:
        for value, raw in VALUES.items():
            # What is missing does no harm, and a build takes a while.
            command = prune if value == "missing" else (prune, build)[next(turn) % 2]
            yield Case(
                "widths", f"layer 1's {key} is {value}", command,
                naming("widths.json", key, "nothing to prune"),
                lambda work, key=key, raw=raw: set_json(work / "widths.json", (1, key), raw),
                value == "missing" or (key, value) == ("x", "missing"), ("model", "widths.json"),
            )  # fmt: skip


def _lines(*lines: str) -> Callable[[Path], None]:
    return lambda path: put(path, "\n".join(lines).encode("utf-8", "surrogatepass"))


_LONG = '{"text": "' + "words of a text " * 800 + '"}'
JSONL: dict[str, Callable[[Path], None]] = {
    "no JSON": _lines(_LONG, "{"), "a number": _lines(_LONG, "5"), "null": _lines(_LONG, "null"),
    "no text": _lines(_LONG, '{"a": 1}'), "two texts": _lines(_LONG, '{"a": "x", "b": "y"}'),
    "text is a number": _lines(_LONG, '{"text": 5}'), "text is null": _lines(_LONG, '{"text": null}'),
    "lone surrogate": _lines(_LONG.replace("words", "\\ud800")), "NUL": _lines(_LONG.replace("words", "\\u0000")),
    "raw surrogate": _lines(_LONG.replace("words", "\ud800")), "nested": _lines(_LONG, DEEP),
    "a number of 5000 digits": _lines(_LONG, '{"text": "x", "n": 1' + "0" * 5000 + "}"),
    "nested map": _lines(_LONG, '{"text": "x", "n": ' + DEEP + "}"),
    "no turns": _lines(_LONG, '{"messages": []}'), "turns is a text": _lines(_LONG, '{"messages": "x"}'),
    "a turn is a list": _lines(_LONG, '{"messages": [[]]}'), "no role": _lines(_LONG, '{"messages": [{"a": 1}]}'),
    "odd role": _lines(_LONG, '{"messages": [{"role": "x", "content": "y"}]}'),
    "content is a map": _lines(_LONG, '{"messages": [{"role": "user", "content": {}}]}'),
    "blank lines": _lines("", " ", "", ""),
}  # fmt: skip


def of_texts() -> Iterator[Case]:
    """All cases of texts."""
    turn = count()
    evaluate: tuple[str, ...] = ("eval", "model", "--max-windows", "1", "--text")
    commands = (evaluate, (*PRUNE, "--calibration"))
    heal = ("heal", "pruned", "--teacher", "model", "--train-tokens", "256", "--train-window", "64", "-o", "out")
    for suffix in (".txt", ".md", ".html", ".jsonl", ".parquet"):
        for damage, harm in (OF_ANY_FILE | OF_TEXT | (JSONL if suffix == ".jsonl" else {})).items():

            def made(work: Path, suffix: str = suffix, harm: Callable[[Path], object] = harm) -> None:
                put(work / f"t{suffix}", (work / "text.txt").read_bytes())
                if suffix == ".jsonl":
                    put(work / f"t{suffix}", json.dumps({"text": (work / "text.txt").read_text()}))
                harm(work / f"t{suffix}")

            command = commands[next(turn) % 2]
            if next(turn) % 14 == 0:
                command = (*heal, "--train")
            yield Case(
                "text", f"{suffix}: {damage}", (*command, f"t{suffix}"), naming(f"t{suffix}", "text"), made, True, ALL
            )
    for damage, content in {
        "one line of 200 MB": "word " * 40_000_000, "one word of 20 MB": "a" * 20_000_000,
        "20 MB of spaces": " " * 20_000_000, "deep HTML": "<div>" * 100_000, "an unclosed comment": "<!--" * 100_000,
        "entities": "&#x" + "f" * 100_000 + ";" + "&lt;" * 100_000, "combining marks": "a" + "\u0301" * 1_000_000,
        "right to left": "\u202e abc " * 2000, "escape sequences": "\x1b[2J\x1b]0;x\x07 " * 2000, "one letter": "a",
        "special tokens": "<bos><eos><pad>" * 2000, "private use": "\ue000\U0010ffff " * 2000,
    }.items():  # fmt: skip
        for suffix in (".txt", ".html"):
            command = commands[next(turn) % 2]
            yield Case(
                "text", f"{suffix}: {damage}", (*command, f"t{suffix}"), naming(f"t{suffix}", "text"),
                lambda work, suffix=suffix, content=content: put(work / f"t{suffix}", content), True, ALL,
            )  # fmt: skip


def of_caches() -> Iterator[Case]:
    """All cases of cache directories."""

    def harmed(damage: Callable[[Path], object]) -> Callable[[Path], None]:
        def harm(work: Path) -> None:
            (work.parent / "cache").rmdir()
            damage(work.parent / "cache")

        return harm

    for damage, make in IN_THE_WAY.items():
        if damage in ("a directory with a text", "a link to a directory"):
            continue
        for command in (("cache",), ("cache", "--clear"), PRUNE, ("prune", "model.gguf", *PRUNE[2:])):
            yield Case(
                "cache", f"{damage} is the cache", command, "cache", harmed(make), True,
                ("model", "model.gguf", "text.txt"), 
            )  # fmt: skip
