"""What Android's API has since which level, as NativeScript's declarations of it say.

The npm package ``@nativescript/types-android`` describes the public classes of ``android.jar``, levels 21 to 37, in
TypeScript: members with ``@since`` and ``@deprecated``, interfaces and constants. Numbers are all of one type there.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.npm import npm_packages

PACKAGE = "@nativescript/types-android"
VERSION = "9.1.1"
FILE = "lib/android/android-platform-21-37-merged.d.ts"

_SCOPE = re.compile(r"(?:declare|export) (?:module|(abstract )?class) (\w+)(?:<.*?> )?(?: extends ([\w.]+))?")
_MEMBER = re.compile(r"public (static )?(?:abstract )?(\w+)(?:\((.*)\))?: (.*);$")


@dataclass
class ApiMember:
    """A method, with its count of parameters, or a field."""

    name: str
    parameters: int | None
    since: int
    deprecated: bool
    value: str
    """A constant's literal, or a type."""


@dataclass
class ApiClass:
    """A class or an interface; inner classes are classes of their own, named ``outer.inner``."""

    since: int
    abstract: bool
    bases: list[str]
    interface: bool = False
    members: list[ApiMember] = field(default_factory=list)

    def find(self, name: str, parameters: int | None) -> ApiMember | None:
        """The oldest member with this name and count of parameters."""
        found = [member for member in self.members if member.name == name and member.parameters == parameters]
        return min(found, key=lambda member: (member.since, member.deprecated), default=None)


def install_api() -> Path:
    """Installs the declarations once for a run, and returns their file."""
    return npm_packages("android-types", f"{PACKAGE}@{VERSION}") / "node_modules" / PACKAGE / FILE


def read_api(file: Path) -> dict[str, ApiClass]:
    """All classes by name, such as ``android.view.WindowInsets.Type``."""
    classes: dict[str, ApiClass] = {}
    scopes: list[str | None] = []
    comment = ""
    for line in map(str.strip, file.open(encoding="utf-8")):
        inside = ".".join(filter(None, scopes))
        if line.startswith(("/**", "*")):
            comment += line
            continue
        if scope := _SCOPE.match(line):
            scopes.append(scope[2])
            if " class " in line:
                bases = [scope[3] or "", *split(line.partition(" implements ")[2].removesuffix("{"))]
                name = f"{inside}.{scope[2]}".lstrip(".")
                classes[name] = ApiClass(_since(comment), bool(scope[1]), [base for base in bases if base])
        elif line.endswith("{"):
            scopes.append(None)
            if "interface with the provided implementation" in comment:
                classes[inside].interface = True
        elif line.startswith("}"):
            scopes.pop()
        elif inside in classes and None not in scopes and (member := _member(line, comment)):
            classes[inside].members.append(member)
        comment = ""
    return classes


def level_of(classes: dict[str, ApiClass], name: str, member: str | None = None, parameters: int | None = None) -> int:
    """The level that has a class or a member of it, inherited ones too.

    Raises:
        LookupError: There is no such class or member.
    """
    found = classes[name]
    if member is None:
        return found.since
    if own := found.find(member, parameters):
        return max(own.since, found.since)
    for base in [*found.bases, "java.lang.Object"]:
        if base in classes and name != "java.lang.Object":
            try:
                return max(found.since, level_of(classes, base, member, parameters))
            except LookupError:
                continue
    raise LookupError(f"{name} has no {member} with {parameters} parameters")


def _member(line: str, comment: str) -> ApiMember | None:
    if line.startswith("public constructor("):
        line = line.replace(";", ": void;")
    if not (found := _MEMBER.match(line)):
        return None
    parameters = None if found[3] is None else len(split(found[3]))
    name = "<init>" if found[2] == "constructor" else found[2]
    return ApiMember(name, parameters, _since(comment), "@deprecated" in comment, found[4])


def split(listed: str) -> list[str]:
    """The items of a list with commas; brackets in it may hold commas."""
    items, depth = [""], 0
    for character in listed:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items if item.strip()]


def _since(comment: str) -> int:
    level = re.search(r"@since (\d+)", comment)
    return int(level[1]) if level else 0
