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

PARSERS = (
    "json.load",
    "json.loads",
    "from_json",
    "tomllib.load",
    "tomllib.loads",
    "model_validate_json",
    "validate_json",
)
PARSED = {
    "benchmarking/drivers/host_runner.py": "our own request on stdin",
    "benchmarking/records/lines.py": "a line of a running program; others are shown as they are",
    "benchmarking/records/log.py": "lines of a log; others are left out with a warning",
    "cache/__init__.py": "our own records, of which a damaged one counts as none",
    "bundling/engine.py": "TOML that our template made",
    "cache/journal.py": "our own files, checked by digest",
    "cli/history.py": "our own record, of which a damaged one counts as none",
    "compiler/passes/kv_cache.py": "text that the definition made",
    "doctor/packages.py": "our own pyproject.toml",
    "doctor/system.py": "the answer of our own process",
    "exporting/tokenizer.py": "text that the package tokenizers made",
    "inputs/glassllm.py": "files of a package from PyPI",
    "planning/phones.py": "the table beside it",
    "planning/quality.py": "the figures beside it",
    "project.py": "TOML of what read_text read",
    "reading.py": "the door",
    "runtime/chat_template.py": "the answer of our own process",
    "runtime/host.py": "what a library says of itself",
    "runtime/template_process.py": "our own request on stdin",
}
"""Modules that parse JSON or TOML themselves, and of what; files from outside come through `reading`."""


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


def test_nothing_executes_what_it_reads_and_files_come_through_one_door():
    parsing = set()
    for path in PACKAGE.rglob("*.py"):
        name, tree = path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())
        names = names_in(tree)
        assert names & FORBIDDEN == ALLOWED.get(name, set()), name
        set_flags = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
        assert not set_flags & {"trust_remote_code=True", "allow_pickle=True", "weights_only=False"}, name
        if names & {*PARSERS, *(f".{parser}" for parser in PARSERS)}:
            parsing.add(name)
    assert parsing == PARSED.keys()
