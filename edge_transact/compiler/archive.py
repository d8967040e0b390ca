"""Archives of objects, and checks of built libraries: their machine, and that their symbols resolve on a phone."""

from __future__ import annotations

import gzip
import io
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from edge_transact.compiler.targets import BuildTarget, architecture, system_lib_prefix
from edge_transact.errors import EdgeTransactError

logger = logging.getLogger(__name__)

MACHO_64 = 0xFEEDFACF
LIBRARY_SYMBOL = "__tvm_ffi__library_bin"
"""The symbol of the embedded bytecode and device code; in an archive, it follows the system library's prefix."""

WORKSPACE_SYMBOL = "TVMBackendAllocWorkspace"
"""What host code calls to allocate a kernel's temporaries."""

TVM_PREFIXES = ("TVMFFI", "TVMBackend")
"""Prefixes of the symbols that TVM's runtime resolves."""

_C_SYMBOLS = "memcpy memset memmove malloc free abort getauxval sincos sincosf __stack_chk_fail __cxa_finalize"
_MATH_SYMBOLS = """
    exp exp2 log log2 log10 pow sin cos tan sinh cosh tanh asin acos atan atan2 sqrt erf floor ceil round nearbyint rint
    trunc fabs fma fmod fmin fmax ldexp
"""
C_SYMBOLS = frozenset(_C_SYMBOLS.split()) | {name + suffix for name in _MATH_SYMBOLS.split() for suffix in ("", "f")}
"""The symbols that Android's `C_LIBRARIES` resolve, in the NDK's lists for Android 8."""

_HOST_SYMBOLS = """
    bzero exp10 exp10f roundeven roundevenf __extendhfsf2 __truncsfhf2 __gnu_f2h_ieee __gnu_h2f_ieee
    __gmon_start__ _ITM_deregisterTMCloneTable _ITM_registerTMCloneTable
"""
"""What this machine's libraries resolve besides."""

C_LIBRARIES = ("libm.so", "libc.so")
"""What every library for Android names as needed.

Android's loader looks symbols up in the executable, what was preloaded, the library and its needs; never, as glibc
does, in the executable's needs (AOSP's ``bionic/linker/linker.cpp``).
"""

PAGE_BYTES = 16384
"""Android's largest page size. Google Play requires segments to be aligned to it."""


def write_archive(path: Path, objects: Iterable[tuple[str, bytes]]) -> None:
    """Write a gzipped archive that depends on its objects alone: without times and owners, in the order of names."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in sorted(objects):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def check_library(path: Path, target: BuildTarget, model_lib: str) -> None:
    """Inspect a library or archive without loading it; an archive's symbols start with `model_lib`.

    Raises an `EdgeTransactError` for another machine, no embedded library, or a symbol that no phone has.
    """
    wanted = (system_lib_prefix(model_lib) if target.is_system_lib else "") + LIBRARY_SYMBOL
    defined: set[str] = set()
    for name, stream in _objects(path):
        where = f"{path}, {name}" if name != path.name else str(path)
        # On macOS, libraries for the CPU are Mach-O, too.
        if target.device == "metal" or (not target.is_system_lib and sys.platform == "darwin"):
            data = stream.read()
            if int.from_bytes(data[:4], "little") != MACHO_64:
                raise EdgeTransactError(f"{where} is not a 64-bit Mach-O object", fix="Build again.")
            # In a Mach-O string table, a name has an underscore before it and a zero byte after it.
            defined |= {wanted} if b"\0_" + wanted.encode() + b"\0" in data else set()
            continue
        machine, symbols, undefined = _elf(stream, where)
        defined |= symbols
        wanted_machine = f"EM_{architecture(target).upper()}"
        if target.is_system_lib and machine != wanted_machine:
            raise EdgeTransactError(f"{where} is for {machine}, not for {wanted_machine}", fix="Build again.")
        known = C_SYMBOLS if target.is_system_lib else C_SYMBOLS.union(_HOST_SYMBOLS.split())
        unknown = sorted(name for name in undefined if not (name.startswith(TVM_PREFIXES) or name in known))
        if unknown:
            raise EdgeTransactError(f"{where} needs {unknown[0]}, which no phone has", fix="Report this as a bug.")
    if wanted not in defined:
        raise EdgeTransactError(f"{path} has no symbol {wanted}", fix="Build again.")


def check_temporaries(path: Path) -> None:
    """Raise an `EdgeTransactError` if a kernel of an OpenCL archive allocates memory while it runs, as MLC's may."""
    for name, stream in _objects(path):
        if WORKSPACE_SYMBOL in _elf(stream, name)[2]:
            raise EdgeTransactError(f"{path}, {name}: a kernel allocates GPU memory", fix="Report this as a bug.")


def archived(path: Path) -> list[tuple[str, bytes]]:
    return [(name, stream.read()) for name, stream in _objects(path)]


def _objects(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if path.suffix != ".tar":
        with path.open("rb") as stream:
            yield path.name, stream
        return
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        if not members:
            raise EdgeTransactError(f"{path} is empty", fix="Build again.")
        for member in members:
            content = archive.extractfile(member)
            assert content is not None
            yield member.name, io.BytesIO(content.read())


def _elf(stream: IO[bytes], where: str) -> tuple[str, set[str], set[str]]:
    """Machine, defined and undefined symbols."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        file = ELFFile(stream)
        defined: set[str] = set()
        undefined: set[str] = set()
        for section in file.iter_sections():
            if isinstance(section, SymbolTableSection):
                for symbol in section.iter_symbols():
                    name = symbol.name.split("@")[0]
                    if name:
                        (undefined if symbol["st_shndx"] == "SHN_UNDEF" else defined).add(name)
        return file["e_machine"], defined, undefined
    except ELFError as error:
        raise EdgeTransactError(f"{where} is not an ELF object: {error}", fix="Build again.") from error


def android_linker(architecture: str = "aarch64") -> list[str] | None:
    """The start of a clang command that links as the NDK does; `None` if clang or lld is not installed."""
    for suffix in ("", "-21", "-20", "-19", "-18", "-17"):
        clang, lld = shutil.which(f"clang{suffix}"), shutil.which(f"ld.lld{suffix}")
        if clang and lld:
            return [clang, f"--target={architecture}-linux-android28", f"-fuse-ld={lld}"]
    return None


def link_android(archive: Path, output: Path, linker: list[str], engine: str | None = None) -> None:
    """Link an archive of Android objects into a shared library, its segments aligned to `PAGE_BYTES`.

    It needs `C_LIBRARIES`, and `engine`, the library with TVM's runtime, unless the executable that loads it has that.
    An `EdgeTransactError` if the linker fails or aligns segments differently.
    """
    from elftools.elf.elffile import ELFFile

    with tempfile.TemporaryDirectory(dir=output.parent) as workspace, tarfile.open(archive) as objects:
        objects.extractall(workspace, filter="data")
        inputs = [*sorted(map(str, Path(workspace).rglob("*.o"))), "-Wl,--no-as-needed"]
        for name in (*([engine] if engine else []), *C_LIBRARIES):
            link_empty(linker, Path(workspace) / name)
            inputs.append(str(Path(workspace) / name))
        _link(linker, output, inputs)
    with output.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments("PT_LOAD"):
            if segment["p_align"] % PAGE_BYTES:
                raise EdgeTransactError(
                    f"{output}: a segment is aligned to {segment['p_align']} bytes, not {PAGE_BYTES}",
                    fix="Use a newer lld, or NDK r28 or newer.",
                )


def link_empty(linker: list[str], output: Path) -> None:
    """A library without symbols, whose name is all that a linker or a loader wants of it."""
    _link(linker, output, ["-x", "c", os.devnull])


def _link(linker: list[str], output: Path, inputs: list[str]) -> None:
    flags = ["-nostdlib", "-shared", f"-Wl,-z,max-page-size={PAGE_BYTES}", f"-Wl,-soname,{output.name}"]
    command = [*linker, *flags, "-o", str(output), *inputs]
    logger.debug("$ %s", shlex.join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeTransactError(f"{output.name} doesn't link: {done.stderr.strip()}", fix="Report this as a bug.")
