"""How Android's loader resolves a library's symbols, from the ELF files alone.

bionic (AOSP's ``bionic/linker/linker.cpp``) looks a symbol up in the executable and in the library with what it needs,
and what these need, in turn. What only the executable needs isn't searched, though glibc does so: a library may run
under qemu and load on no phone. Phones have the NDK's public libraries; all others have to be shipped.
"""

import configparser
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tvm_ffi
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

SYMBOLS = Path(__file__).parents[1] / "data/ndk_symbols.txt"


@dataclass(frozen=True)
class Dynamic:
    """What a loader reads: needed libraries, symbols that are offered, and those that must be found elsewhere."""

    needed: tuple[str, ...]
    defined: frozenset[str]
    undefined: frozenset[str]


@functools.cache
def public() -> dict[str, Dynamic]:
    """A phone's libraries."""
    parser = configparser.ConfigParser(allow_no_value=True, delimiters="\0")
    parser.optionxform = str
    parser.read(SYMBOLS)
    return {name: Dynamic((), frozenset(" ".join(parser[name]).split()), frozenset()) for name in parser.sections()}


@functools.cache
def tvm_runtime() -> Dynamic:
    """TVM's runtime, as MLC's engine and the runner that the NDK builds have it in themselves."""
    libraries = Path(tvm_ffi.__file__).parent / "lib/libtvm_ffi.so", *_runtime()
    return Dynamic((), frozenset().union(*(read(path).defined for path in libraries)), frozenset())


def _runtime() -> list[Path]:
    return sorted(Path(tvm_ffi.__file__).parents[1].glob("tvm/lib/libtvm_runtime*.so"))


def read(path: Path) -> Dynamic:
    with path.open("rb") as stream:
        file = ELFFile(stream)
        (dynamic,) = (section for section in file.iter_sections() if isinstance(section, DynamicSection))
        symbols = [each for each in file.get_section_by_name(".dynsym").iter_symbols() if each.name]
        missing = {each for each in symbols if each["st_shndx"] == "SHN_UNDEF"}
        return Dynamic(
            tuple(tag.needed for tag in dynamic.iter_tags("DT_NEEDED")),
            frozenset(each.name for each in symbols if each not in missing),
            frozenset(each.name for each in missing if each["st_info"]["bind"] != "STB_WEAK"),
        )


def lacks(library: Path, shipped: Mapping[str, Dynamic] | None = None, executable: Dynamic | None = None) -> list[str]:
    """What keeps a phone from loading a library: libraries that aren't there, and symbols that nothing resolves.

    `shipped` are the libraries beside it. The symbols of the `executable` are found, but not those of its needs.
    """
    own = read(library)
    found, group, wrong = set(executable.defined if executable else ()), [own], []
    seen: set[str] = set()
    for each in group:  # grows meanwhile
        found |= each.defined
        for name in each.needed:
            if name not in seen:
                seen.add(name)
                needed = (shipped or {}).get(name) or public().get(name)
                if needed is None:
                    wrong.append(name)
                else:
                    group.append(needed)
    return wrong + sorted(own.undefined - found)
