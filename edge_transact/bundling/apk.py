"""Checks an APK: native libraries for 64-bit ARM and 16 KB pages, and models against models.json."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from edge_transact.bundling.models import MODELS_JSON, AppModels, ModelFile
from edge_transact.compiler.archive import PAGE_BYTES
from edge_transact.compiler.targets import system_lib_prefix
from edge_transact.doctor.check import Check, verdict
from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import megabytes
from edge_transact.reading import MOST_BYTES, opened

ABI = "arm64-v8a"
ENGINE = f"lib/{ABI}/libtvm4j_runtime_packed.so"
"""MLC's engine, with the models' libraries inside."""

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""The header before an entry's data; it ends with the lengths of name and extra field (APPNOTE.TXT 4.3.7)."""

_BUILD = "build the app again: edge-transact bundle DIST -o APP --build --force"
_REALIGN = f"zipalign -P {PAGE_BYTES // 1024} -f 4 IN.apk OUT.apk, and sign again"


def examine_apk(path: Path) -> list[Check]:
    """The checks of an APK, in the order of their output.

    Raises:
        EdgeTransactError: The file isn't an APK, or is damaged.
    """
    from elftools.common.exceptions import ELFError

    try:
        with opened(path) as file, ZipFile(file) as archive:
            libraries = [entry for entry in archive.infolist() if _is_library(entry)]
            checks = [_entries(archive), _abi(archive, libraries), _segments(archive, libraries)]
            return [*checks, _offsets(file, libraries), *_models(archive)]
    # zipfile has RuntimeError for encrypted entries and NotImplementedError for methods that it lacks.
    except (OSError, BadZipFile, struct.error, zlib.error, lzma.LZMAError, ELFError, EOFError, RuntimeError) as error:
        raise EdgeTransactError(f"{path} is not a complete APK: {error}", fix="Build it, or copy it, again.") from error


def _read(archive: ZipFile, name: str, at_most: int = 1 << 29) -> bytes:
    entry = archive.getinfo(name)
    if entry.file_size > at_most:
        raise BadZipFile(f"{name} has {entry.file_size:,} bytes, which no such file needs")
    return archive.read(entry)


def _is_library(entry: ZipInfo) -> bool:
    return entry.filename.startswith("lib/") and entry.filename.endswith(".so")


def _entries(archive: ZipFile) -> Check:
    damaged = archive.testzip()
    found = f"{damaged} is damaged" if damaged else f"{len(archive.namelist())} entries have their CRC-32"
    return verdict("entries", damaged is None, found, _BUILD)


def _abi(archive: ZipFile, libraries: Sequence[ZipInfo]) -> Check:
    wrong = [entry.filename for entry in libraries if not entry.filename.startswith(f"lib/{ABI}/")]
    wrong += [name for name, elf in _elves(archive, libraries) if elf is None or elf["e_machine"] != "EM_AARCH64"]
    if ENGINE not in archive.namelist():
        return Check("abi", False, f"no {ENGINE}", _BUILD)
    if wrong:
        return Check("abi", False, f"not for {ABI}: {', '.join(dict.fromkeys(wrong))}", "set abiFilters to arm64-v8a")
    return Check("abi", True, f"for {ABI}: {', '.join(Path(entry.filename).name for entry in libraries)}")


def _segments(archive: ZipFile, libraries: Sequence[ZipInfo]) -> Check:
    unaligned: dict[str, int] = {}
    for name, elf in _elves(archive, libraries):
        for segment in elf.iter_segments("PT_LOAD") if elf else ():
            if segment["p_align"] % PAGE_BYTES or (segment["p_vaddr"] - segment["p_offset"]) % PAGE_BYTES:
                unaligned.setdefault(name, segment["p_align"])
    if wrong := [f"{name} ({alignment})" for name, alignment in unaligned.items()]:
        fix = "link with NDK r28 or newer, or with -Wl,-z,max-page-size=16384"
        return Check("segments", False, f"segments not aligned to {PAGE_BYTES} bytes: {', '.join(wrong)}", fix)
    return Check("segments", True, f"segments aligned to {PAGE_BYTES} bytes")


def _offsets(file: IO[bytes], libraries: Sequence[ZipInfo]) -> Check:
    stored = [entry for entry in libraries if entry.compress_type == ZIP_STORED]
    wrong = [entry.filename for entry in stored if _data_offset(file, entry) % PAGE_BYTES]
    if wrong:
        fix = f"{_REALIGN}; AGP 8.5.1 or newer does it itself"
        return Check("offsets", False, f"not at multiples of {PAGE_BYTES} bytes: {', '.join(wrong)}", fix)
    packed = [entry.filename for entry in libraries if entry not in stored]
    unpacked = f"; Android unpacks {', '.join(packed)}" if packed else ""
    return Check("offsets", True, f"uncompressed libraries at multiples of {PAGE_BYTES} bytes{unpacked}")


def _data_offset(file: IO[bytes], entry: ZipInfo) -> int:
    file.seek(entry.header_offset)
    *_, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return entry.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _models(archive: ZipFile) -> list[Check]:
    name = f"assets/{MODELS_JSON}"
    if name not in archive.namelist():
        return [Check("models", False, f"no {name}", _BUILD)]
    models = AppModels.parse(_read(archive, name, MOST_BYTES), name).models
    engine = _read(archive, ENGINE) if ENGINE in archive.namelist() else b""
    missing = [
        library
        for model in models
        for library in model.libraries.values()
        # A library registers itself by the names of its symbols.
        if system_lib_prefix(library).encode() + b"__tvm_ffi" not in engine
    ]
    found = f"{', '.join(model.id for model in models)}: all libraries are in the engine"
    linked = verdict("libraries", not missing, f"not in {ENGINE}: {', '.join(missing)}" if missing else found, _BUILD)
    damaged = [
        f"{model.id}/{file.path} {problem}"
        for model in models
        if model.weights == "assets"
        for file in model.files
        if (problem := _asset_problem(archive, f"assets/edge/{model.id}/{file.path}", file))
    ]
    if damaged:
        return [linked, Check("models", False, "; ".join(damaged), _BUILD)]
    how = {"assets": "", "install": ", needs edge-transact install"}
    sizes = [f"{model.id} ({megabytes(model.bytes)}{how[model.weights]})" for model in models]
    return [linked, Check("models", True, ", ".join(sizes))]


def _asset_problem(archive: ZipFile, name: str, file: ModelFile) -> str | None:
    try:
        entry = archive.getinfo(name)
    except KeyError:
        return "is missing"
    if file.path.endswith(".bin") and entry.compress_type != ZIP_STORED:
        return "is compressed"
    with archive.open(entry) as content:
        digest = hashlib.file_digest(content, "sha256")  # type: ignore[arg-type]  # a file in an archive is readable
    return None if digest.hexdigest() == file.sha256 else "is damaged"


def _elves(archive: ZipFile, libraries: Sequence[ZipInfo]) -> Iterator[tuple[str, Any]]:
    """Name and pyelftools' file of each library; `None` if it isn't an ELF file."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    for entry in libraries:
        try:
            yield entry.filename, ELFFile(io.BytesIO(_read(archive, entry.filename)))
        except ELFError:
            yield entry.filename, None
