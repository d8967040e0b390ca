"""Rules for the tests themselves: where helpers are, how they are imported, and that an assertion can fail."""

import ast
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
FORBIDDEN = {"", "tests", "benchmarks", *(path.stem for path in FILES if path.parent.name != "support")} - {"__init__"}
"""First parts of names that would import a benchmark, a test, a conftest, or a neighbour by a relative name."""
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def _tests_in_files():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(TESTS)}:{node.name}", node


FUNCTIONS = dict(_tests_in_files())


def own_nodes(function: ast.FunctionDef):
    """The nodes of a function, without those of functions inside it."""
    nodes: list[ast.AST] = list(function.body)
    for node in nodes:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            nodes.extend(ast.iter_child_nodes(node))


def test_pytest_finds_every_file(pytestconfig):
    """It passes over folders of some names, and stops at two files of one name."""
    patterns = pytestconfig.getini("norecursedirs")
    folders = {folder.name for path in FILES for folder in path.relative_to(TESTS).parents}
    assert [name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)] == []
    names = Counter(path.name for path in FILES if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_helpers_are_imported_from_support_by_name(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            assert module.startswith("tests.support.") or module.split(".")[0] not in FORBIDDEN, module


def test_no_test_ends_before_its_last_assertion():
    early = {name for name, test in FUNCTIONS.items() for node in own_nodes(test) if isinstance(node, ast.Return)}
    assert early == set(), "skip, assume, or make two tests of it"


def test_no_failed_assertion_is_suppressed():
    suppressed = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any("suppress(" in ast.unparse(item.context_expr) for item in node.items)
        if any(isinstance(inside, ast.Assert) for statement in node.body for inside in ast.walk(statement))
    ]
    assert suppressed == []


def test_no_assertion_holds_whatever_happens():
    """No ``assert (a, b)``, no constant, nothing compared with itself."""
    empty = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                test = node.test
                same = isinstance(test, ast.Compare) and ast.dump(test.left) == ast.dump(test.comparators[0])
                if same or isinstance(test, ast.Tuple | ast.Constant | ast.JoinedStr):
                    empty.append(f"{path.relative_to(TESTS)}:{node.lineno}")
    assert empty == []
