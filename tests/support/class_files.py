"""What compiled Java calls, as javap shows it."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CLASS = re.compile(r"(?:[a-z]+ )*(?:class|interface|enum) ([\w.$]+)(?:<.*>)?(?: extends ([\w.$]+))?")
_DECLARED = re.compile(r"  (?![ \d]).*?([\w$.]+)(\(.*\))?(?: throws .*)?;$")
_DESCRIPTOR = re.compile(r"    descriptor: (\(.*\))")
_USED = re.compile(
    r"(?://|REF_\w+) (?:(?:Interface)?Method |Field )?(?:([\w/$\[;]+)\.)?\"?([\w$]+|<\w+>)\"?:(\(.*\))?[\w/$\[;]+"
)
_CREATED = re.compile(r"// class \"?([\w/$]+)\"?")
_LEVEL = re.compile(r"^          value=(\d+)$")


@dataclass(frozen=True)
class Use:
    """A method or field that code uses, or a class if `member` is None."""

    owner: str
    member: str | None
    parameters: int | None


@dataclass
class ClassFile:
    """A class, the class that it extends, and what it declares: names with counts of parameters, None for fields.

    `uses` is what it uses, with the level that the method around it is for, as its ``@TargetApi`` says; otherwise 0.
    """

    name: str
    above: str
    declared: set[tuple[str, int | None]] = field(default_factory=set)
    uses: list[tuple[Use, int]] = field(default_factory=list)


def read_classes(directory: Path) -> list[ClassFile]:
    """The classes below a directory."""
    files = sorted(str(file) for file in directory.rglob("*.class"))
    shown = subprocess.run(["javap", "-v", "-p", *files], capture_output=True, text=True, check=True).stdout
    return [_read(text) for text in re.split(r"^Classfile .*$", shown, flags=re.MULTILINE)[1:]]


def _read(text: str) -> ClassFile:
    lines = text.splitlines()
    index = next(i for i, line in enumerate(lines) if _CLASS.match(line))
    head = _CLASS.match(lines[index])
    assert head
    found = ClassFile(_dotted(head[1]), _dotted(head[2] or "java.lang.Object"))
    for member in _members(lines[lines.index("{", index) + 1 :]):
        if declared := _DECLARED.match(member[0]):
            method = next((descriptor[1] for line in member if (descriptor := _DESCRIPTOR.match(line))), None)
            name = "<init>" if declared[2] and declared[1] == head[1] else declared[1].rpartition(".")[2]
            found.declared.add((name, _count(method) if method else None))
        level = next((int(value[1]) for line in member if (value := _LEVEL.match(line))), 0)
        found.uses += [(use, level) for line in member for use in _uses(line, found.name)]
    return found


def _members(lines: Sequence[str]) -> Iterator[list[str]]:
    """The lines of each member, then those of what follows the members."""
    member: list[str] = []
    for line in lines:
        if line.startswith(("  ", "}")) and not line.startswith("   ") and member:
            yield member
            member = []
        if line:
            member.append(line)
    yield member


def _uses(line: str, inside: str) -> Iterator[Use]:
    if "InvokeDynamic" in line or "java/lang/invoke" in line:
        return  # D8 makes ordinary classes of lambdas and of joined strings
    if used := _USED.search(line):
        owner = used[1] or inside
        if not owner.startswith("["):
            yield Use(_dotted(owner), used[2], None if used[3] is None else _count(used[3]))
    elif created := _CREATED.search(line):
        yield Use(_dotted(created[1]), None, None)


def _count(descriptor: str) -> int:
    return len(re.findall(r"\[*(?:L[^;]+;|[BCDFIJSZ])", descriptor[1:-1]))


def _dotted(name: str) -> str:
    return name.replace("/", ".").replace("$", ".")
