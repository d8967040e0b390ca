"""The source that a cached result is made of, derived from imports: a key of the cache changes whenever it changes.

The source of a function is its module, all modules of ours that this one imports, at its top or inside functions, and
so on, with the templates and other files that they name. A package's ``__init__`` counts where a name is taken from it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edge_transact.artifacts.templates import TEMPLATE_DIRECTORIES

LEFT_OUT = {
    "edge_transact": "makes transformers and logging ready for users",
    "edge_transact.errors": "messages",
    "edge_transact.formatting": "how numbers are written for people",
    "edge_transact.progress": "bars",
    "edge_transact.cache": "keeps what others compute",
    "edge_transact.cache.keys": "this module",
    "edge_transact.cache.resume": "finds a journal, whose content is in `cache.journal`",
    "edge_transact.compiler.identity": "refuses profiles of other devices",
    "edge_transact.artifacts.charts": "pictures",
    "edge_transact.artifacts.report": "reports",
    "edge_transact.artifacts.summary": "how results are shown in notebooks",
}
"""Modules that can't change a result, each with the reason. What they import counts only if others import it, too."""

OURS = __name__.partition(".")[0]

_TEMPLATES = f"{OURS}.artifacts.templates"
"""Modules that import it name templates by text."""


@cache
def code_of(*functions: Any) -> str:
    """A digest of the source of functions or classes of ours: 16 hex digits; a `ValueError` for others."""
    return _INSTALLED.digest(function.__module__ for function in functions)


class Sources:
    """The source files of the package. What they import is read once."""

    def __init__(self, package: Path, templates: Sequence[Path]) -> None:
        self._package, self._templates = package, templates
        self._uses: dict[str, tuple[set[str], set[Path]]] = {}

    def digest(self, modules: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for file in self.files(modules):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def files(self, modules: Iterable[str]) -> list[Path]:
        """The files that modules are made of; `ValueError` if a module isn't ours."""
        found: set[str] = set()
        todo = set(modules)
        while todo := todo - found - LEFT_OUT.keys():
            found |= todo
            self._uses |= {module: self._used_by(module) for module in todo - self._uses.keys()}
            todo = set().union(*(self._uses[module][0] for module in todo))
        return sorted(set().union(*(self._uses[module][1] for module in found)))

    def _used_by(self, module: str) -> tuple[set[str], set[Path]]:
        """The modules of ours that a module names, and the files: its own, others in its folder, and templates."""
        own = self._file(module)
        if own is None:
            raise ValueError(f"{module} is no module of {OURS}")
        package = module if own.name == "__init__.py" else module.rpartition(".")[0]
        modules: set[str] = set()
        texts: set[str] = set()
        for node in _executed(ast.parse(own.read_bytes())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                origin = ".".join([*above, *filter(None, [node.module])])
                names = {f"{origin}.{alias.name}" for alias in node.names}
                modules |= {name if self._file(name) else origin for name in names}
            elif isinstance(node, ast.Constant) and re.fullmatch(r"\w[\w./-]*", str(node.value)):
                texts.add(str(node.value))
        files = {own, *filter(Path.is_file, map(own.parent.joinpath, texts))}
        for text in texts:
            modules |= self._modules_of(text)
            files |= self._templates_of(text) if _TEMPLATES in modules else set()
        return {name for name in modules if self._file(name)}, files

    def _file(self, module: str) -> Path | None:
        first, *parts = module.split(".")
        path = self._package.joinpath(*parts)
        files = (path / "__init__.py", path.with_suffix(".py")) if first == OURS else ()
        return next((file for file in files if file.is_file()), None)

    def _modules_of(self, text: str) -> set[str]:
        """The module that a text names, or all in the package that it names, such as ``methods.`` of an f-string."""
        first, *parts = text.split(".")
        if first != OURS or not parts:
            return set()
        if parts[-1]:
            return {text}
        return {text + file.stem for file in self._package.joinpath(*parts).glob("[!_]*.py")}

    def _templates_of(self, text: str) -> set[Path]:
        """The template that a text names, with ``.j2`` or without, or all in the folder that it names."""
        for path in (base / name for base in self._templates for name in (text, f"{text}.j2")):
            if path.exists():
                return {file for file in (path, *path.rglob("*")) if file.is_file()}
        return set()


_INSTALLED = Sources(Path(__file__).parents[1], TEMPLATE_DIRECTORIES)


def _executed(module: ast.Module) -> Iterator[ast.AST]:
    """All nodes of a module but those that are for type checkers alone."""
    todo: list[ast.AST] = [module]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
        else:
            yield node
            todo += ast.iter_child_nodes(node)
