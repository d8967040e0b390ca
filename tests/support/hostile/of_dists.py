"""Cases of DISTs, bench logs, apps and what phones say."""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from edge_transact.artifacts.digests import UNSEALED, seal, sha256
from tests.support.hostile.case import (
    DEEP,
    OF_ANY_FILE,
    OF_JSON,
    VALUES,
    Case,
    naming,
    on,
    paths_in,
    put,
    set_json,
)  # fmt: skip
from tests.support.hostile.worker import ANSWERS

RUN = ("run", "dist", "-p", "The people of", "--max-tokens", "4", "--raw")
EVAL = ("eval", "dist", "--text", "text.txt", "--max-windows", "1")
EXPORT = ("export", "dist", "-o", "out.gguf")
BUNDLE = ("bundle", "dist", "-o", "app")
INSPECT = ("inspect", "dist")
BENCH = ("bench", "dist", "--lengths", "8+4", "--repetitions", "1", "--warmups", "0", "-o", "bench.jsonl")
READERS = (RUN, EVAL, EXPORT, BUNDLE, INSPECT, BENCH)
NEEDS = ("dist", "text.txt")
LOG = ("bench.jsonl", "log.jsonl")
"""What a bench leaves although it fails: its log."""


def of_dists(base: Path) -> Iterator[Case]:
    """All cases of DISTs."""
    turn = count()
    files = sorted(path.relative_to(base / "dist").as_posix() for path in (base / "dist").rglob("*") if path.is_file())
    for name in files:
        for damage, harm in (OF_ANY_FILE | (OF_JSON if name.endswith(".json") else {})).items():
            # Not every command reads every file.
            yield Case(
                "DIST", f"{name}: {damage}", READERS[next(turn) % 6], naming(name, "dist is", "dist has no"),
                on(f"dist/{name}", harm), True, NEEDS, LOG,
            )  # fmt: skip
    for name in ("manifest.json", "tensor-cache.json", "mlc-chat-config.json", "tokenizer_config.json"):
        document = json.loads((base / "dist" / name).read_text())
        for keys in paths_in(document):
            for _ in range(3):
                value = list(VALUES)[next(turn) * 7 % len(VALUES)]
                yield Case(
                    "DIST", f"{name}, signed: {'.'.join(map(str, keys))} is {value}",
                    READERS[next(turn) * 5 // 4 % 6], naming(name, str(keys[-1]), "dist"),
                    signed(name, keys, VALUES[value]), True, NEEDS, LOG,
                )  # fmt: skip
    records = json.loads((base / "dist/tensor-cache.json").read_text())["records"][0]["records"]
    for key, values in {
        "byteOffset": (-1, 1, 10**9, 1 << 63, 1 << 64), "nbytes": (0, -4, 1, 10**9, 1 << 63),
        "shape": ([], [-1], [1 << 32, 1 << 32], [0], [10**9], [1] * 9000), "dtype": ("nope", "float32x4", "", "int8"),
        "name": ("", "x", "../x", records[1]["name"]), "format": ("raw", "nope"),
    }.items():  # fmt: skip
        for value in values:
            for command in (RUN, EXPORT):
                raw = json.dumps(value)
                yield Case(
                    "DIST", f"tensor-cache.json, signed: first {key} is {raw[:30]}", command,
                    naming("tensor-cache.json", "params_shard", records[0]["name"], key),
                    signed("tensor-cache.json", ("records", 0, "records", 0, key), raw), True, NEEDS,
                )  # fmt: skip
    for damage, change in {
        "ids of 50,000,005": lambda vocabulary: {word: index + 50_000_000 for word, index in vocabulary.items()},
        "ids just too large": lambda vocabulary: {word: index + 500 for word, index in vocabulary.items()},
        "one id for all": lambda vocabulary: dict.fromkeys(vocabulary, 5),
        "no words": lambda vocabulary: {"<unk>": 1},
    }.items():  # fmt: skip
        for command in READERS:
            yield Case(
                "DIST", f"tokenizer.json, signed: {damage}", command, naming("token", "vocabulary"),
                vocabulary(change), True, NEEDS, LOG,
            )  # fmt: skip
    for library in ("/etc/passwd", "../text.txt", "text.txt", "lib", "", "lib/nothing.so", "x" * 5000, "a\\u0000b"):
        for command in (RUN, BENCH, BUNDLE):
            target = "android-cpu" if command is BUNDLE else "host"
            yield Case(
                "DIST", f"manifest.json, signed: its {target} library is {library[:20]!r}", command,
                naming("manifest.json", "librar", "dist", library[:9]),
                signed("manifest.json", ("libraries", target), f'"{library}"'), command is BENCH, NEEDS, LOG,
            )  # fmt: skip


def _resign(dist: Path, name: str) -> None:
    """Makes the manifest right again, as an attacker would."""
    manifest = dist / "manifest.json"
    content = json.loads(manifest.read_text())
    if name != "manifest.json":
        content["files"][name] = sha256(dist / name)
    put(manifest, json.dumps(content | {"self_sha256": UNSEALED}, indent=2))
    seal(manifest)


def signed(name: str, keys: Sequence[str | int], raw: str) -> Callable[[Path], None]:
    """Sets a value in a JSON file of a DIST, and the manifest agrees."""

    def harm(work: Path) -> None:
        file = work / "dist" / name
        if name == "manifest.json":
            # What can't be read again is changed as text.
            if keys[-1] != "self_sha256":
                set_json(file, ("self_sha256",), f'"{UNSEALED}"')
                set_json(file, keys, raw)
                seal(file)
            else:
                set_json(file, keys, raw)
        else:
            set_json(file, keys, raw)
            _resign(work / "dist", name)

    return harm


def vocabulary(change: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[Path], None]:
    """Changes the words of a DIST's tokenizer, and the manifest agrees."""

    def harm(work: Path) -> None:
        file = work / "dist/tokenizer.json"
        content = json.loads(file.read_text())
        content["model"]["vocab"] = change(content["model"]["vocab"])
        content["model"]["merges"] = []
        put(file, json.dumps(content))
        _resign(work / "dist", "tokenizer.json")

    return harm


def of_benches(base: Path) -> Iterator[Case]:
    """All cases of logs."""
    turn = count()
    compare = ("bench", "compare", "log.jsonl", "other.jsonl")
    again = ("bench", "dist", "--lengths", "8+4", "-o", "log.jsonl", "--dry-run")
    needs = ("log.jsonl", "other.jsonl", "dist")
    for damage, harm in (OF_ANY_FILE | OF_JSON).items():
        for command in (compare, again):
            # A line that is cut off or damaged is set aside.
            yield Case("bench log", damage, command, naming("log.jsonl"), on("log.jsonl", harm), True, needs, LOG)
    first = json.loads((base / "log.jsonl").read_text().splitlines()[0])
    for key in first:
        for _ in range(4):
            value = list(VALUES)[next(turn) * 5 % len(VALUES)]

            def harm_line(work: Path, key: str = key, raw: str = VALUES[value]) -> None:
                lines = (work / "log.jsonl").read_text().splitlines()
                put(work / "line.json", lines[0])
                set_json(work / "line.json", (key,), raw)
                put(work / "log.jsonl", "\n".join([(work / "line.json").read_text(), *lines[1:]]) + "\n")
                (work / "line.json").unlink()

            command = (compare, again)[next(turn) // 3 % 2]
            yield Case("bench log", f"{key} is {value}", command, naming("log.jsonl", key), harm_line, True, needs, LOG)


# Apps

ENGINE = "lib/arm64-v8a/libtvm4j_runtime_packed.so"
MODELS = "assets/edge/models.json"


def _zip(entries: dict[str, bytes], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def _entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _patched(name: str, local: int, central: int, layout: str, value: int) -> Callable[[Path], None]:
    """Sets a field of an entry's two headers."""

    def harm(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            offset = archive.getinfo(name).header_offset
        content = bytearray(path.read_bytes())
        struct.pack_into(layout, content, offset + local, value)
        place = next(
            match.start() for match in re.finditer(b"PK\1\2", content)
            if content[match.start() + 46 :].startswith(name.encode())
        )  # fmt: skip
        struct.pack_into(layout, content, place + central, value)
        put(path, bytes(content))

    return harm


def _bomb(name: str) -> Callable[[Path], None]:
    """An entry of a few MB that becomes 5 GB."""

    def harm(path: Path) -> None:
        packer = zlib.compressobj(9, wbits=-15)
        once = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        _zip(_entries(path) | {name: once * 5000 + packer.flush()}, path)
        _patched(name, 8, 10, "<H", zipfile.ZIP_DEFLATED)(path)
        _patched(name, 22, 24, "<I", (5000 << 20) & 0xFFFFFFFF)(path)

    return harm


def _apks() -> dict[str, Callable[[Path], object]]:
    fields = {
        "encrypted": (6, 8, "<H", 1), "of an unknown compression": (8, 10, "<H", 97), "of wrong CRC": (14, 16, "<I", 5),
        "longer than the file": (18, 20, "<I", 1 << 30), "larger than it is": (22, 24, "<I", 1 << 30),
        "in LZMA": (8, 10, "<H", 14), "deflated, it says": (8, 10, "<H", 8),
    }  # fmt: skip
    found: dict[str, Callable[[Path], object]] = {
        f"{name} is {damage}": _patched(name, *field) for name in (ENGINE, MODELS) for damage, field in fields.items()
    }
    for name in (ENGINE, MODELS):
        found |= {
            f"{name} is missing": lambda path, name=name: _zip(
                {key: value for key, value in _entries(path).items() if key != name}, path
            ),
            f"{name} is empty": lambda path, name=name: _zip(_entries(path) | {name: b""}, path),
            f"{name} is noise": lambda path, name=name: _zip(_entries(path) | {name: bytes(range(256)) * 9}, path),
            f"{name} is a bomb": _bomb(name),
        }
    for damage, content in {
        "deep": DEEP.encode(), "[]": b"[]", "{}": b"{}", "no JSON": b"{", "UTF-16": "{}".encode("utf-16"),
    }.items():  # fmt: skip
        found[f"models.json is {damage}"] = lambda path, content=content: _zip(_entries(path) | {MODELS: content}, path)
    for at in (4, 5, 6, 16, 18, 20, 32, 40, 48, 52, 54, 56, 58, 60, 62):

        def harm(path: Path, at: int = at) -> None:
            entries = _entries(path)
            engine = bytearray(entries[ENGINE])
            engine[at] ^= 0xFF
            _zip(entries | {ENGINE: bytes(engine)}, path)

        found[f"the engine's byte {at} is flipped"] = harm
    return found


def of_apps(base: Path) -> Iterator[Case]:
    """All cases of APKs and projects."""
    turn = count()
    for damage, harm in (OF_ANY_FILE | _apks()).items():
        # What is found in an APK is in a table on stdout.
        says = "app.apk|models.json|^$"
        yield Case("APK", damage, ("verify", "app.apk"), says, on("app.apk", harm), False, ("app.apk",))
    models = json.loads(_entries(base / "app.apk")[MODELS])
    for keys in paths_in(models):
        for _ in range(3):
            value = list(VALUES)[next(turn) * 7 % len(VALUES)]

            def harm_models(path: Path, keys: Sequence[Any] = keys, raw: str = VALUES[value]) -> None:
                file = path.parent / "models.json"
                file.write_bytes(_entries(path)[MODELS])
                set_json(file, keys, raw)
                _zip(_entries(path) | {MODELS: file.read_bytes()}, path)
                file.unlink()

            yield Case(
                "APK", f"models.json: {'.'.join(map(str, keys))} is {value}", ("verify", "app.apk"),
                "models.json|^$", on("app.apk", harm_models), True, ("app.apk",),
            )  # fmt: skip
    for name in ("bundle.json", "app/src/main/assets/edge/models.json"):
        if not (base / "app" / name).exists():
            continue
        for damage, harm in (OF_ANY_FILE | OF_JSON).items():
            for command in (("install", "app"), ("bundle", "dist", "-o", "app", "--install")):
                yield Case(
                    # What this machine lacks for a build is in a table on stdout.
                    "app", f"{name}: {damage}", command, naming("app", "missing", "adb") + "|^$",
                    on(f"app/{name}", harm), True, ("dist", "app"),
                )  # fmt: skip


def of_phones() -> Iterator[Case]:
    """All cases of false adb servers."""
    bench = ("--device", "phone", "--lengths", "8+4", "--reconnect", "0", "--timeout", "1", "-o", "bench.jsonl")
    for answers in ANSWERS:
        for command in (
            ("bench", "dist", *bench), ("bench", "dist", "--device", "all", *bench[2:]),
            ("install", "dist", "--application-id", "org.example.chat"), ("bench", "dist", *bench, "--dry-run"),
        ):  # fmt: skip
            yield Case(
                "adb", f"a server with {answers}", command, naming("adb", "phone", "device"),
                may_work="--dry-run" in command, needs=("dist",), replaces=LOG, answers=answers,
            )  # fmt: skip
