"""Checks an APK: its code, native libraries for 64-bit ARM and 16 KB pages, and models against models.json."""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from edge_transact.bundling.models import MODELS_JSON, AppModels, ModelFile
from edge_transact.bundling.sources import ABI, ENGINE, PROGRAMS
from edge_transact.compiler.archive import PAGE_BYTES
from edge_transact.compiler.targets import system_lib_prefix
from edge_transact.doctor.check import Check, verdict
from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import megabytes
from edge_transact.reading import MOST_BYTES, opened

MACHINES = {ABI: "EM_AARCH64", "x86_64": "EM_X86_64"}
"""Folder of libraries to the machine in their headers: a phone's, and an emulator's, which an app may leave out."""

_COMPILED_XML = struct.pack("<2H", 3, 8)
"""How a manifest begins that aapt2 compiled, before its size: RES_XML_TYPE and the header's (ResourceTypes.h)."""

_DEX = re.compile(r"classes([2-9]|[1-9]\d+)?\.dex")
_MODELS_JSON = re.compile(r"assets/edge/([^/]+/)?models\.json")

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""The header before an entry's data; it ends with the lengths of name and extra field (APPNOTE.TXT 4.3.7)."""

_BUILD = "build the app again: edge-transact bundle DIST -o APP --build --force"
_REALIGN = f"zipalign -P {PAGE_BYTES // 1024} -f 4 IN.apk OUT.apk, and sign again"


def examine_apk(path: Path) -> list[Check]:
    """The checks of an APK, the first alone if an entry is damaged; an `EdgeTransactError` if it isn't an APK."""
    from elftools.common.exceptions import ELFError

    try:
        with opened(path) as file, ZipFile(file) as archive:
            libraries = [entry for entry in archive.infolist() if re.fullmatch(r"(?s)lib/.*\.so", entry.filename)]
            if not (entries := _entries(archive)).ok:
                return [entries]  # the others read them
            checks = [entries, _code(archive), _abi(archive, libraries), _segments(archive, libraries)]
            return [*checks, _offsets(file, libraries), *_models(archive)]
    # zipfile has RuntimeError for encrypted entries and NotImplementedError for methods that it lacks.
    except (OSError, BadZipFile, struct.error, zlib.error, lzma.LZMAError, ELFError, EOFError, RuntimeError) as error:
        raise EdgeTransactError(f"{path} is not a complete APK: {error}", fix="Build it, or copy it, again.") from error


def _read(archive: ZipFile, name: str, at_most: int = 1 << 29) -> bytes:
    entry = archive.getinfo(name)
    if entry.file_size > at_most:
        raise BadZipFile(f"{name} has {entry.file_size:,} bytes, which no such file needs")
    return archive.read(entry)


def _entries(archive: ZipFile) -> Check:
    damaged = archive.testzip()
    found = f"{damaged} is damaged" if damaged else f"{len(archive.namelist())} entries have their CRC-32"
    return verdict("entries", damaged is None, found, _BUILD)


def _code(archive: ZipFile) -> Check:
    """The manifest is compiled, and the Java is there, whole."""
    manifest, names = "AndroidManifest.xml", archive.namelist()
    wrong = [f"no {name}" for name in (manifest, "classes.dex") if name not in names]
    if manifest in names:
        xml = _read(archive, manifest)
        if xml[:8] != _COMPILED_XML + struct.pack("<I", len(xml)):
            wrong.append(f"{manifest} is not compiled, or damaged")
    code = {name: _read(archive, name) for name in names if _DEX.fullmatch(name)}
    wrong += [f"{name} is damaged" for name, content in code.items() if not _is_dex(content)]
    found = ", ".join(f"{name} ({len(content):,} bytes)" for name, content in code.items())
    return verdict("code", not wrong, "; ".join(wrong) or found, _BUILD)


def _is_dex(content: bytes) -> bool:
    """Whether a DEX file has its magic number, size and Adler-32 (source.android.com, Dalvik executable format)."""
    checksum, size = (struct.unpack_from("<I", content.ljust(112, b"\0"), place)[0] for place in (8, 32))
    return content.startswith(b"dex\n") and size == len(content) and checksum == zlib.adler32(content[12:])


def _abi(archive: ZipFile, libraries: Sequence[ZipInfo]) -> Check:
    names = archive.namelist()
    folders = dict.fromkeys([ABI, *(entry.filename.split("/")[1] for entry in libraries)])
    # Android takes libraries from one folder only: each has all that Java loads.
    all_names = [f"lib/{abi}/{name}" for abi in folders if abi in MACHINES for name in (ENGINE, PROGRAMS)]
    if missing := [name for name in all_names if name not in names]:
        return Check("abi", False, f"no {', '.join(missing)}", _BUILD)
    wrong = [
        name
        for name, elf in _elves(archive, libraries)
        if elf is None or elf["e_machine"] != MACHINES.get(name.split("/")[1])
    ]
    if wrong:
        fix = f"set abiFilters to {ABI}, and x86_64 for emulators"
        return Check("abi", False, f"not for {' or '.join(MACHINES)}: {', '.join(wrong)}", fix)
    found = [f"for {abi}: {', '.join(Path(name).name for name in names if name.startswith(f'lib/{abi}/'))}"
             for abi in folders]  # fmt: skip
    return Check("abi", True, "; ".join(found))


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
    names = archive.namelist()
    lists = [name for name in names if _MODELS_JSON.fullmatch(name)]
    if not lists:
        return [Check("models", False, f"no assets/{MODELS_JSON}", _BUILD)]
    models = [model for name in lists for model in AppModels.parse(_read(archive, name, MOST_BYTES), name).models]
    wanted = [(ABI, library) for model in models for library in model.libraries.values()]
    engines = {abi: _read(archive, name) for abi in MACHINES if (name := f"lib/{abi}/{ENGINE}") in names}
    # An emulator has no OpenCL: it takes the last library, the one for CPUs.
    wanted += [(abi, [*model.libraries.values()][-1]) for abi in engines if abi != ABI for model in models]
    missing = []
    for abi, library in wanted:
        # A library registers itself by the names of its symbols.
        symbols, own = system_lib_prefix(library).encode() + b"__tvm_ffi", f"lib/{abi}/lib{library}.so"
        if symbols not in engines.get(abi, b"") and not (own in names and symbols in _read(archive, own)):
            missing.append(f"{library} for {abi}")
    found = f"{', '.join(model.id for model in models)}: all libraries are in the app"
    absent = f"neither in {ENGINE} nor in libraries of their own: {', '.join(missing)}"
    linked = verdict("libraries", not missing, absent if missing else found, _BUILD)
    # An APK for all phones has the asset packs that are installed with the app.
    folders = {name.rpartition("/")[0] for name in names}
    damaged = [
        f"{model.id}/{file.path} {problem}"
        for model in models
        if model.weights == "assets" or (model.weights == "pack" and f"assets/edge/{model.id}" in folders)
        for file in model.files
        if (problem := _asset_problem(archive, f"assets/edge/{model.id}/{file.path}", file))
    ]
    if damaged:
        return [linked, Check("models", False, "; ".join(damaged), _BUILD)]
    how = {"assets": "", "install": ", needs edge-transact install", "download": ", downloaded"}
    sizes = [f"{each.id} ({megabytes(each.bytes)}{how.get(each.weights, f', {each.pack}')})" for each in models]
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
