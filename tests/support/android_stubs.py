"""Java stubs of Android's API, against which javac and kotlinc compile an app without an SDK.

The signatures are those that the PyPI package ``chaquopy-stubs-android`` tells Python's type checkers: level 36, with
exact types of parameters. `android_api` knows what is an interface, abstract, deprecated or a constant. Only what the
sources name is written, and what that needs.

What neither of the two knows:

- Which members are protected, which exceptions methods throw, and bounds of type variables: `PROTECTED`, `THROWS` and
  `GENERIC` say so for what the app uses.
- Whether a number that a method returns or a field holds is an int or a long. It is an int here unless `LONG` has it,
  so javac doesn't notice other longs that go into an int.
- Which interfaces a class needs for a conversion: only abstract classes implement theirs.
- What may be null: Kotlin takes everything for both.
"""

import importlib.metadata
import keyword
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.support.android_api import ApiClass, split
from tests.support.android_project import ROOT, java, javac

TVM4J = ROOT / "tests" / "bundling" / "stubs"

PROTECTED = {
    "android.app.Activity": {
        "onActivityResult",
        "onCreate",
        "onDestroy",
        "onNewIntent",
        "onSaveInstanceState",
        "onStart",
        "onStop",
    }
}
THROWS = {
    "android.content.pm.PackageManager.getPackageInfo": "android.content.pm.PackageManager.NameNotFoundException",
    "android.content.res.AssetManager.open": "java.io.IOException",
    "android.content.res.AssetManager.list": "java.io.IOException",
}
GENERIC = {("findViewById", 1): "<T extends android.view.View> T", ("getSystemService", 1): "<T> T"}
LONG = {"availMem", "elapsedRealtime", "getItemId", "lastUpdateTime", "threshold"}

_CLASS = re.compile(r" *class (\w+)(?:\((.*)\))?:")
_METHOD = re.compile(r" *def (\w+)\((.*)\) -> (.*): \.\.\.$")
_FIELD = re.compile(r" *(\w+): (.*) = \.\.\.$")
_JAVA = {"int": "int", "float": "float", "bool": "boolean", "str": "java.lang.String", "None": "void"}
_OBJECT = "java.lang.Object"


@dataclass
class Method:
    """A method, with types in Python; that of the rest of the parameters has a star."""

    name: str
    static: bool
    parameters: list[str]
    result: str


@dataclass
class Stub:
    """A class, with types in Python."""

    name: str
    bases: list[str]
    variables: list[str]
    methods: list[Method] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def simple(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def is_annotation(self) -> bool:
        return "java.lang.annotation.Annotation" in self.bases


@cache
def _package(name: str) -> dict[str, Stub]:
    """The classes of a package by full name."""
    root, *rest = name.split(".")
    distribution = importlib.metadata.distribution("chaquopy-stubs-android")
    file = Path(str(distribution.locate_file("/".join([f"{root}-stubs", *rest, "__init__.pyi"]))))
    stubs: dict[str, Stub] = {}
    scopes: list[Stub] = []
    static = False
    for line in filter(None, file.read_text().splitlines() if file.is_file() else []):
        del scopes[(len(line) - len(line.lstrip())) // 4 :]
        if found := _CLASS.match(line):
            bases = split(found[2] or _OBJECT)
            generic = "".join(base for base in bases if base.startswith("typing.Generic"))
            variables = [_variable(item) for item in split(generic[len("typing.Generic[") : -1])]
            inside = scopes[-1].name if scopes else name
            scopes.append(Stub(f"{inside}.{found[1]}", [b for b in bases if b != generic], variables))
            stubs[scopes[-1].name] = scopes[-1]
        elif found := _METHOD.match(line):
            parameters = [re.sub(r"^(\*?)\w+: ", r"\1", item) for item in split(found[2]) if ": " in item]
            name_in_java = found[1].removesuffix("_") if keyword.iskeyword(found[1][:-1]) else found[1]
            scopes[-1].methods.append(Method(name_in_java, static, parameters, found[3]))
        elif scopes and (found := _FIELD.match(line)):
            scopes[-1].fields[found[1]] = found[2]
        static = line.strip() == "@staticmethod" or (static and "@typing.overload" in line)
    return stubs


def _find(name: str) -> Stub | None:
    parts = name.split(".")
    return next((stub for size in range(len(parts)) if (stub := _package(".".join(parts[:size])).get(name))), None)


def _variable(name: str) -> str:
    """``T`` of ``_ArrayAdapter__T``."""
    return name.rpartition("__")[2]


def compile_stubs(api: dict[str, ApiClass], sources: Iterable[Path], output: Path) -> Path:
    """Classes of Android and tvm4j against which Java and Kotlin files compile; `api` is what `read_api` returned."""
    files = Stubs(api, [source.read_text() for source in sources]).write(output / "sources")
    done = javac([*files, *java(TVM4J)], [], output / "classes", "-nowarn")
    assert done.returncode == 0, done.stderr
    return output / "classes"


class Stubs:
    """Writes stubs for the texts of Java and Kotlin files."""

    def __init__(self, api: dict[str, ApiClass], sources: Iterable[str]) -> None:
        self._api = api
        text = "\n".join(sources)
        words = set(re.findall(r"\w+", text))
        # Kotlin calls `getName` and `setName` by `name`, and `setEnabled` by `isEnabled`.
        self._named = words | {f"{kind}{word[0].upper()}{word[1:]}" for word in words for kind in ("get", "set")}
        self._named |= {f"set{word[2:]}" for word in words if word.startswith("is")}
        self._texts: dict[str, str] = {}
        self._queue: list[str] = []
        for name in sorted(set(re.findall(r"\bandroid(?:\.\w+)+", text))):
            while "." in name and not _find(name):
                name = name.rpartition(".")[0]
            self._want(name)

    def write(self, directory: Path) -> list[Path]:
        """Writes Java files, and returns them."""
        while self._queue:
            stub = _find(self._queue.pop())
            assert stub
            self._texts[stub.name] = self._head(stub) + " {\n" + "".join(dict.fromkeys(self._members(stub)))
        files = []
        for name in self._texts:
            package, _, simple = name.rpartition(".")
            if package not in self._texts:
                files.append(directory / package.replace(".", "/") / f"{simple}.java")
                files[-1].parent.mkdir(parents=True, exist_ok=True)
                files[-1].write_text(f"package {package};\n{self._text(name)}")
        return files

    def _want(self, name: str) -> None:
        known = name in self._api and name.startswith(("android.", "org.xmlpull."))
        if known and name not in self._texts and _find(name):
            self._texts[name] = ""
            self._queue.append(name)
            self._want(name.rpartition(".")[0])

    def _text(self, name: str) -> str:
        inner = [self._text(other) for other in self._texts if other.rpartition(".")[0] == name]
        static = "static " if _find(name.rpartition(".")[0]) else ""
        return f"public {static}{self._texts[name]}{''.join(inner)}}}\n"

    def _head(self, stub: Stub) -> str:
        if stub.is_annotation:
            return f"@interface {stub.simple}"
        variables = f"<{', '.join(stub.variables)}>" if stub.variables else ""
        above = [base for base in stub.bases if base.partition("[")[0] not in (_OBJECT, "java.lang.Enum")]
        bases = [self._type(stub, base) for base in above]
        interfaces = ", ".join(base for base in bases if self._is_interface(base))
        if self._is_interface(stub.name):
            return f"interface {stub.simple}{variables}" + (f" extends {interfaces}" if interfaces else "")
        extends = "".join(f" extends {base}" for base in bases if not self._is_interface(base))
        if not self._api[stub.name].abstract:
            return f"class {stub.simple}{variables}{extends}"
        return f"abstract class {stub.simple}{variables}{extends}" + (f" implements {interfaces}" if interfaces else "")

    def _is_interface(self, name: str) -> bool:
        erased = name.partition("<")[0]
        return erased in self._api and self._api[erased].interface

    def _members(self, stub: Stub) -> Iterator[str]:
        if self._is_interface(stub.name) or stub.is_annotation:
            yield from (self._method(stub, method, "") for method in stub.methods)
            yield from (self._field(stub, name, kind) for name, kind in stub.fields.items() if name in self._named)
            self._want_inner(stub)
            return
        if Method("__init__", False, [], "None") not in stub.methods:
            yield f"protected {stub.simple}() {{}}\n"  # for subclasses among the stubs
        for method in self._written(stub):
            access = "protected" if method.name in PROTECTED.get(stub.name, ()) else "public"
            yield self._method(stub, method, f"{access} native {'static ' if method.static else ''}")
        if not self._api[stub.name].abstract:
            classes = [above for above in self._line(stub) if not self._is_interface(above.name)]
            written = {method.name for above in classes for method in self._written(above)}
            for name, (interface, method) in self._promised(stub).items():
                if name not in written:
                    yield self._method(interface, method, "public native ")
        self._want_inner(stub)
        for name, kind in stub.fields.items():
            if name in self._named:
                yield self._field(stub, name, kind)

    def _want_inner(self, stub: Stub) -> None:
        for name in self._named:
            self._want(f"{stub.name}.{name}")

    def _line(self, stub: Stub) -> Iterator[Stub]:
        """A class or interface, and all those above it."""
        yield stub
        for base in stub.bases:
            above = _find(self._type(stub, base).partition("<")[0])
            if above and above.name.startswith("android."):
                yield from self._line(above)

    def _written(self, stub: Stub) -> list[Method]:
        """The methods of a class that are needed."""
        needed = self._named | self._promised(stub).keys() | {"__init__"}
        return [method for method in stub.methods if method.name in needed]

    def _promised(self, stub: Stub) -> dict[str, tuple[Stub, Method]]:
        """Methods of the interfaces above a class, by name, with their interface."""
        interfaces = [above for above in self._line(stub) if self._is_interface(above.name)]
        return {method.name: (interface, method) for interface in interfaces for method in interface.methods}

    def _method(self, stub: Stub, method: Method, modifiers: str) -> str:
        parameters = ", ".join(f"{self._type(stub, kind)} p{i}" for i, kind in enumerate(method.parameters))
        old = self._api[stub.name].find(method.name.replace("__init__", "<init>"), len(method.parameters))
        deprecated = "@Deprecated " if old and old.deprecated else ""
        if method.name == "__init__":
            return f"{deprecated}public {stub.simple}({parameters}) {{}}\n"
        throws = THROWS.get(f"{stub.name}.{method.name}")
        result = "long" if method.name in LONG else self._type(stub, method.result)
        if (method.name, len(method.parameters)) in GENERIC and "String" not in parameters:
            result = GENERIC[method.name, len(method.parameters)]
            parameters = parameters.replace("Class<?>", "Class<T>")
        return f"{deprecated}{modifiers}{result} {method.name}({parameters}){f' throws {throws}' if throws else ''};\n"

    def _field(self, stub: Stub, name: str, kind: str) -> str:
        constant = self._api[stub.name].find(name, None)
        static = kind.startswith("typing.ClassVar[")
        java = "long" if name in LONG else self._type(stub, kind[len("typing.ClassVar[") : -1] if static else kind)
        value = f" = {constant.value}" if constant and re.fullmatch(r'-?\d+|".*"', constant.value) else ""
        deprecated = "@Deprecated " if constant and constant.deprecated else ""
        return f"{deprecated}public {'static ' if static else ''}{'final ' if value else ''}{java} {name}{value};\n"

    def _type(self, stub: Stub, python: str) -> str:
        """A type in Java; asks for the stubs of the classes in it."""
        if python.startswith("*"):
            return f"{self._type(stub, python[1:])}..."
        kind = python.removesuffix(" | None")
        if primitive := re.search(r"\| java\.j(\w+) \|", kind):
            return primitive[1]
        if " | " in kind:
            kind = next(item for item in kind.split(" | ") if item.startswith("java.lang."))
        if array := re.fullmatch(r"java\.chaquopy\.JavaArrayJ(\w+)", kind):
            return f"{array[1].lower()}[]"
        name, _, rest = kind.partition("[")
        arguments = [self._argument(stub, item) for item in split(rest[:-1])]
        if name == "java.chaquopy.JavaArray":
            return f"{self._type(stub, rest[:-1])}[]"
        if name == "typing.Type":
            return "java.lang.Class<?>"
        if name.startswith("_"):
            return _variable(name) if _variable(name) in stub.variables else _OBJECT
        if name in _JAVA:
            return _JAVA[name]
        full = self._resolve(stub, name)
        self._want(full)
        return full + (f"<{', '.join(arguments)}>" if arguments else "")

    def _argument(self, stub: Stub, python: str) -> str:
        java = self._type(stub, python)
        return "?" if java == _OBJECT else java

    def _resolve(self, stub: Stub, name: str) -> str:
        """The full name of a class: Python's stubs leave out their own package."""
        inside = stub.name
        while "." in inside:
            inside = inside.rpartition(".")[0]
            if _find(f"{inside}.{name}"):
                return f"{inside}.{name}"
        return name
