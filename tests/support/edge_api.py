"""What of the library ``edge`` is public: classes, and their members as bytecode has them.

``python -m tests.support.edge_api`` writes the dump anew, with which a test compares it.
"""

import re
import subprocess
from pathlib import Path

from tests.support.android_project import QUICK, ROOT
from tests.support.edge_library import KOTLIN, build_library
from tests.support.kotlin import runtime

DUMP = ROOT / "tests/data/edge_api.txt"


def public_api() -> str:
    """In bytecode, Kotlin's internal classes are public, and its internal functions have a ``$`` in their names."""
    library = build_library()
    text = "".join(file.read_text() for file in KOTLIN.rglob("*.kt"))
    internal = set(re.findall(r"^internal (?:\w+ )*(?:class|interface|object) (\w+)", text, re.MULTILINE))
    names = [path.relative_to(library.classes).with_suffix("").as_posix() for path in library.classes.rglob("*.class")]
    own = [name for name in sorted(names) if not {*re.split(r"[$/]", name)} & internal and not name.endswith("Kt")]
    classpath = ":".join(map(str, [*library.classpath, *runtime()]))
    said = subprocess.check_output(["javap", *QUICK, "-public", "-cp", classpath, *own], text=True)
    kept: dict[str, str] = {}
    for head, body in re.findall(r"^(public .*) \{\n((?:  .*\n)*)\}$", said, re.MULTILINE):
        name = re.split(r" (?:class|interface) ", head)[1].split()[0].partition("<")[0]
        outer, _, inner = name.rpartition("$")
        if (outer and outer not in kept) or inner in ("Companion", "DefaultImpls") or inner.isdigit():
            continue
        members = [line for line in body.splitlines() if not re.search(r"[ .]\w+(\$\w+)+\(|ConstructorMarker", line)]
        constructors = [line for line in body.splitlines() if f" {name}(" in line and "ConstructorMarker" not in line]
        kept[name] = "\n".join([f"{head} {{", *sorted({*members, *constructors}), "}"])
    return "\n".join(kept.values()) + "\n"


def main() -> None:
    Path(DUMP).write_text(public_api())


if __name__ == "__main__":
    main()
