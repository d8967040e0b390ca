"""AutoConfig, AutoModelForCausalLM and AutoTokenizer, in whatever order things are imported; each case is a process."""

import subprocess
import sys

import pytest

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from tests.support.checkpoints import narrowed, odd_plan

LOAD = """
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
config = AutoConfig.from_pretrained(path, trust_remote_code=remote)
model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=remote)
tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=remote)
out = model.generate(**tokenizer("It was", return_tensors="pt"), max_new_tokens=3, do_sample=False)
print(type(config).__module__, type(model).__module__, out[0].tolist())
"""


@pytest.fixture(scope="module")
def odd_tiny(tiny_model, tmp_path_factory):
    source = Checkpoint.open(tiny_model)
    plan = odd_plan(source.plan)
    output = tmp_path_factory.mktemp("auto") / "odd.tiny"
    return write_checkpoint(source, plan, narrowed(source, plan), {}, output).path


def run(program: str, *, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import edge_transact",
        "import transformers, edge_transact",
        "from transformers import AutoConfig; import edge_transact",
        "from transformers import AutoModelForCausalLM; import edge_transact",
        "import edge_transact; from transformers import LlamaConfig",
        "import edge_transact; from transformers import LlamaForCausalLM",
        "import edge_transact.checkpoint.modeling_edge_llama",
    ],
)
def test_with_edge_transact_imported(odd_tiny, first):
    line = run(f"{first}\npath, remote = {str(odd_tiny)!r}, False\n{LOAD}")
    assert line.startswith(
        "edge_transact.checkpoint.configuration_edge_llama edge_transact.checkpoint.modeling_edge_llama"
    )


@pytest.mark.slow
def test_without_edge_transact(odd_tiny, tmp_path, monkeypatch):
    """The two files in the directory do alone, and give the same model."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    program = f"import sys\nsys.modules['edge_transact'] = None\npath, remote = {str(odd_tiny)!r}, True\n{LOAD}"
    remote = run(program).split(maxsplit=2)
    assert all(module.startswith("transformers_modules.") for module in remote[:2])
    local = run(f"import edge_transact\npath, remote = {str(odd_tiny)!r}, False\n{LOAD}").split(maxsplit=2)
    assert remote[2] == local[2]


def test_importing_edge_transact_imports_nothing_heavy():
    heavy = run(
        "import sys, edge_transact, edge_transact.checkpoint, edge_transact.inputs, edge_transact.evaluate\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'tvm', 'safetensors') if name in sys.modules])"
    )
    assert heavy == "[]"
