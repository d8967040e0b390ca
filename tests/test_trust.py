"""Data stays data: which modules may execute what they read, and why each of them may."""

import ast
from pathlib import Path

import edge_transact

PACKAGE = Path(edge_transact.__file__).parent
FORBIDDEN = {
    "cloudpickle", "compile", "dill", "distributed.checkpoint", "eval", "exec", ".exec_module", "hub.load", "joblib",
    "jsonpickle", ".load_module", "marshal", "os.system", "pickle", "runpy.run_path", "runpy", "shelve", "torch.load",
    "yaml.load", "yaml.unsafe_load",
}  # fmt: skip
ALLOWED = {
    "definition/emit.py": {"compile", "exec"},  # the text that it renders of integers
    "inputs/demo_texts.py": {"yaml.load"},  # with yaml's safe loader
    "mlc/__main__.py": {".exec_module"},  # the definition that this very build wrote
    "mlc/package.py": {"runpy.run_path", "runpy"},  # a script of the user's MLC-LLM
    "runtime/host.py": {".load_module"},  # a library is code by nature, and compared with the manifest
}


def names_in(tree: ast.AST) -> set[str]:
    """Imports, builtins that are called, methods with a dot before them, and the last two parts of dotted names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found |= {name, f".{name.rpartition('.')[2]}"}
    return found | {".".join(name.split(".")[-2:]) for name in found}


def test_nothing_executes_what_it_reads():
    for path in PACKAGE.rglob("*.py"):
        name, tree = path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())
        used = names_in(tree) & FORBIDDEN
        assert used == ALLOWED.get(name, set()), name
        set_flags = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
        assert not set_flags & {"trust_remote_code=True", "allow_pickle=True", "weights_only=False"}, name
