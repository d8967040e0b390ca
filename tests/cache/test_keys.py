"""Keys of the cache: whatever source a result is made of changes its key, and nothing else does."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

import edge_transact
from edge_transact.artifacts.templates import TEMPLATE_DIRECTORIES
from edge_transact.bundling.project import bundle
from edge_transact.cache.keys import LEFT_OUT, Sources, code_of
from edge_transact.pruning.run import prune

PACKAGE = Path(edge_transact.__file__).parent
TEMPLATES = next(filter(Path.is_dir, TEMPLATE_DIRECTORIES))

CACHED = {
    "pruning.run": [
        *("quantization.py", "runtimes.py", "widths.py", "pruning/units.py", "pruning/score/methods/wanda.py"),
        *("layerwise/model.py", "layerwise/windows.py", "templates/model_card.md.j2"),
    ],
    "pruning.shots": ["healing/train.py", "pruning/run.py"],
    "healing.run": ["healing/losses.py", "evaluation/answers/basics.py", "runtime/text.py", "rounding/search.py"],
    "healing.lean": ["healing/losses.py", "checkpoint/causal_attention.py"],
    "selftext.writing": ["runtime/chat_template.py", "runtime/text.py"],
    "inputs.gguf": ["gguf/q4_0.py", "checkpoint/writer.py", "checkpoint/modeling_edge_llama.py"],
    "inputs.glassllm": ["checkpoint/writer.py"],
    "weights.convert": ["weights/w4.py", "quantization.py"],
    "rounding.choice": ["rounding/search.py", "gguf/q4_0.py", "weights/trained.py"],
    "rounding.calibrated": ["compiler/targets.py", "compiler/lowering.py", "rounding/student.py", "layerwise/gram.py"],
    "compiler.library": [
        *("compiler/gpu/w4.cl", "system/cpu.py", "definition/emit.py", "templates/edge_llama_model.py.j2"),
    ],
    "compiler.objects": ["compiler/lowering.py"],
    "evaluation.models": ["evaluation/perplexity.py", "runtime/host.py"],
    "evaluation.tasks": ["evaluation/library_lm.py"],
    "bundling.project": ["bundling/escaping.py", "templates/android/build.gradle"],
}
"""Modules whose functions are cached, and some files that they are made of."""

ELSEWHERE = {
    "pruning.run": ["healing/train.py", "benchmarking/session.py", "rounding/search.py", "building/dist.py"],
    "rounding.calibrated": ["pruning/run.py", "healing/train.py", "templates/page.css"],
    "weights.convert": ["rounding/search.py", "compiler/library.py"],
    "compiler.library": ["bundling/project.py", "templates/android/build.gradle", "weights/w4.py"],
    "selftext.writing": ["inputs/texts.py"],
}
"""Some that they aren't made of."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all sources."""
    root = tmp_path_factory.mktemp("sources")
    shutil.copytree(PACKAGE, root / "edge_transact", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TEMPLATES, root / "templates")
    return root


@pytest.fixture(scope="module")
def sources(root: Path) -> Sources:
    return Sources(root / "edge_transact", [root / "templates"])


def changes(root: Path, sources: Sources, module: str, name: str) -> bool:
    """Whether a comment in a file changes the key of what a module's functions make."""
    modules = [f"edge_transact.{module}"]
    file = root / name if name.startswith("templates/") else root / "edge_transact" / name
    before, original = sources.digest(modules), file.read_bytes()
    file.write_bytes(original + b"\n# changed\n")
    after = sources.digest(modules)
    file.write_bytes(original)
    return after != before


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in CACHED.items() for name in names])
def test_a_change_of_what_a_result_is_made_of_changes_its_key(root, sources, module, name):
    assert changes(root, sources, module, name)
    assert changes(root, sources, module, f"{module.replace('.', '/')}.py"), "the module itself"


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in ELSEWHERE.items() for name in names])
def test_a_change_elsewhere_does_not(root, sources, module, name):
    assert not changes(root, sources, module, name)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_computes_nothing(root, sources, name):
    path = Path(*name.split(".")).with_suffix(".py")
    file = path if (root / path).is_file() else path.with_suffix("") / "__init__.py"
    for module in CACHED:
        assert not changes(root, sources, module, str(file.relative_to("edge_transact")))
    packages = set(re.findall(r"^ *(?:import|from) (\w+)", (root / file).read_text(), re.MULTILINE))
    assert packages.isdisjoint({"torch", "numpy", "tvm", "transformers", "safetensors", "gguf", "accelerate", "jinja2"})


def test_names_that_load_on_use_are_not_hidden_in_packages(sources):
    """What a package's `__getattr__` imports can't be seen, and templates may not lead to others."""
    for file in sources.files(f"edge_transact.{module}" for module in CACHED):
        text = file.read_text()
        assert file.name != "__init__.py" or "def __getattr__" not in text, file
        assert file.suffix != ".j2" or not re.search(r"{% *-? *(include|import|extends|from) ", text), file


def test_a_function_of_ours_has_a_key_and_others_have_none():
    started = time.process_time()
    assert code_of(prune) != code_of(bundle) != code_of(prune, bundle)
    assert time.process_time() - started < 3
    with pytest.raises(ValueError, match="no module of edge_transact"):
        code_of(shutil.copytree)


def test_all_ways_to_name_a_module_are_followed(tmp_path):
    files = {
        "top.py": "import edge_transact.whole\nfrom edge_transact import room\n"
        "if TYPE_CHECKING:\n    from edge_transact import hints\n"
        "def f():\n    from edge_transact.room.inner import name\n    import_module(f'edge_transact.kinds.{kind}')\n",
        "whole.py": "from edge_transact.artifacts.templates import template\ntemplate('card.md')\nopen('beside.cl')\n",
        "room/__init__.py": "from .relative import a\nfrom edge_transact import errors\n",
        "room/relative.py": "import os, torch\n",
        "room/inner.py": "NAME = 'edge_transact.text'\n",
        "kinds/__init__.py": "",
        "kinds/one.py": "",
        "kinds/two.py": "from ..room import inner\n",
        "beside.cl": "",
        "text.py": "",
        "artifacts/templates.py": "",
        "hints.py": "",
        "errors.py": "from edge_transact import far\n",
        "far.py": "",
    }
    for name, text in files.items():
        (tmp_path / "edge_transact" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "edge_transact" / name).write_text(text)
    (tmp_path / "card.md.j2").write_text("{{ model }}")
    found = Sources(tmp_path / "edge_transact", [tmp_path]).files(["edge_transact.top"])
    names = {str(path.relative_to(tmp_path)).removeprefix("edge_transact/") for path in found}
    assert names == files.keys() - {"hints.py", "errors.py", "far.py", "kinds/__init__.py"} | {"card.md.j2"}
