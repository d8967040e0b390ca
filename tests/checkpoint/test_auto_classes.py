"""AutoConfig, AutoModelForCausalLM and AutoTokenizer, in whatever order things are imported; each case is a process."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from tests.support.checkpoints import narrowed, odd_plan
from tests.support.patience import HANG_S

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
    first, *others = odd_plan(source.plan).layers
    no_attention = replace(first, num_attention_heads=0, num_key_value_heads=0)
    layers = no_attention, *(replace(layer, v_head_dim=layer.v_head_dim - 1) for layer in others)
    plan = source.plan.with_layers([*layers[:-1], replace(layers[-1], intermediate_size=0)])
    output = tmp_path_factory.mktemp("auto") / "odd.tiny"
    return write_checkpoint(source, plan, narrowed(source, plan), {}, output).path


FORKS = """
import json, os, signal, sys
import accelerate, jinja2.sandbox, PIL.Image, scipy.optimize, sympy, tokenizers, torch._dynamo, torch.distributed.tensor
for line in sys.stdin:
    output, child_output = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        os.dup2(child_output, 1)
        exec(json.loads(line), {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    os.close(child_output)
    with open(output) as lines:
        printed = lines.read()
    print(json.dumps([os.waitpid(child, 0)[1], printed]), flush=True)
"""
"""Forks for every program on stdin, after importing what transformers and we import, but neither of the two."""


@pytest.fixture(scope="module")
def forked() -> Iterator[Callable[[str], str]]:
    """``forked(program)``: the last line that a program prints in a fork of `FORKS`."""
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:

        def run_forked(program: str) -> str:
            parent.stdin.write(json.dumps(program).encode() + b"\n")
            parent.stdin.flush()
            status, printed = json.loads(parent.stdout.readline())
            assert status == 0, printed
            return printed.splitlines()[-1]

        yield run_forked


def without_edge_transact(modules: Path) -> str:
    """The first lines of a program that has no edge-transact, and keeps modules of checkpoints in a directory."""
    return f"import os, sys\nsys.modules['edge_transact'] = None\nos.environ['HF_MODULES_CACHE'] = {str(modules)!r}"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S)
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
def test_with_edge_transact_imported(odd_tiny, forked, first):
    line = forked(f"{first}\npath, remote = {str(odd_tiny)!r}, False\n{LOAD}")
    assert line.startswith(
        "edge_transact.checkpoint.configuration_edge_llama edge_transact.checkpoint.modeling_edge_llama"
    )


@pytest.mark.slow
def test_without_edge_transact(odd_tiny, forked, tmp_path):
    """The two files in the directory do alone, and give the same model."""
    remote = forked(f"{without_edge_transact(tmp_path)}\npath, remote = {str(odd_tiny)!r}, True\n{LOAD}").split(
        maxsplit=2
    )
    assert all(module.startswith("transformers_modules.") for module in remote[:2])
    local = forked(f"import edge_transact\npath, remote = {str(odd_tiny)!r}, False\n{LOAD}").split(maxsplit=2)
    assert remote[2] == local[2]


OF_ONE_BODY = """
import transformers
kinds = ["", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification"]
models = [getattr(transformers, f"AutoModel{kind}").from_pretrained(path, trust_remote_code=remote) for kind in kinds]
ids = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)("It was", return_tensors="pt").input_ids
hidden = [getattr(model.eval(), "model", model)(ids).last_hidden_state for model in models]
assert all(one.equal(hidden[0]) for one in hidden)
print(*(type(model).__name__ for model in models))
"""


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True])
def test_all_auto_classes(odd_tiny, forked, tmp_path, remote):
    """Each loads the checkpoint's layers, by edge-transact or by its two files; a tokenizer needs neither."""
    first = without_edge_transact(tmp_path) if remote else "import edge_transact"
    kinds = ["Model", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification"]
    printed = forked(f"{first}\npath, remote = {str(odd_tiny)!r}, {remote}\n{OF_ONE_BODY}")
    assert printed.split() == [f"EdgeLlama{kind}" for kind in kinds]


def test_importing_edge_transact_imports_no_torch():
    program = "import sys, edge_transact, edge_transact.checkpoint, edge_transact.inputs, edge_transact.evaluation"
    assert run(f"{program}\nprint([name for name in ('torch', 'tvm', 'safetensors') if name in sys.modules])") == "[]"


@pytest.mark.soak
def test_peft_knows_the_modules(odd_tiny, forked):
    """Also if it is imported after the model was loaded."""
    line = forked(
        "import edge_transact\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(odd_tiny)!r})\n"
        "from peft import LoraConfig, get_peft_model\n"
        "model = get_peft_model(model, LoraConfig(task_type='CAUSAL_LM'))\n"
        "print(sorted({name.split('.')[-4] for name, _ in model.named_parameters() if 'lora_A' in name}))"
    )
    assert line == "['q_proj', 'v_proj']"
