"""transformers' own tests of a model, from the sdist of the installed version, for LLaMA and for ours.

`ModelTesterMixin` and `TrainingTesterMixin` are in the sdist; the tests of generation and of export are not.
``python -m tests.support.transformers_suite`` runs LLaMA and all variants, with all of their classes.
"""

import subprocess
import sys
import tarfile
import unittest
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import AutoConfig

from edge_transact.cache import Recipe, made
from edge_transact.checkpoint.auto_classes import MODEL_TYPE

PACKAGE = "transformers_tests"
"""The name under which transformers' tests are imported; ours are `tests`."""

CLASSES = ("Model", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification")
"""All classes of the model, without the prefix of their names."""

FILES = ("test_modeling_common.py", "test_training_mixin.py")
MARKERS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "is_training_test",
    "torch_compile_test",
)  # fmt: skip
"""The pytest markers in them, which ``--strict-markers`` wants to know."""

ABSENT = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
"""The modules that these files import but the sdist lacks, and the class that each is asked for."""

ABSENT_TESTS = "the sdist has no tests of generation"
ONE_HEAD_COUNT = "reads the model's one num_attention_heads"

OWN_WIDTHS = {"1": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 20}}
OWN_DIMS = {"0": {"v_head_dim": 4}, "1": {"qk_head_dim": 6}}
BOTH = {"0": OWN_DIMS["0"], "1": OWN_WIDTHS["1"] | OWN_DIMS["1"]}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 5, "factor": 4.0}
LONGROPE |= {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.5, 3.0, 4.0, 5.0]}
PARTIAL = LONGROPE | {"partial_rotary_factor": 0.5, "short_factor": [1.0, 1.5], "long_factor": [1.5, 3.0]}
VARIANTS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "own widths": {"per_layer_config": OWN_WIDTHS},
    "cut head dims": {"per_layer_config": OWN_DIMS},
    "own widths, cut head dims and RoPE of a part": {
        "per_layer_config": BOTH, "rope_parameters": PARTIAL, "no_rope_layers": [1, 0],
    },
    "own widths and normed heads": {
        "per_layer_config": {"0": OWN_DIMS["0"], **OWN_WIDTHS}, "use_qk_norm": True, "attention_bias": True,
        "attention_out_bias": False,
    },
    "qwen2": {"attention_bias": True, "attention_out_bias": False},
    "qwen3": {"use_qk_norm": True},
    "smollm3": {"no_rope_layers": [1, 0], "rope_parameters": YARN},
    "phi3": {"rope_parameters": LONGROPE},
    "phi3, partial RoPE": {"rope_parameters": PARTIAL},
}  # fmt: skip
"""What each variant of our model adds to `SIZES`; a family's name stands for what it adds to LLaMA."""

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


@dataclass
class Outcome:
    """What became of each test: names, those of skipped ones with the reason, of failed ones with the traceback."""

    passed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def exceptions(variant: str | None) -> dict[str, str]:
    """The tests that a variant, or LLaMA (`None`), can't pass, and why."""
    layers = VARIANTS.get(variant or "", {}).get("per_layer_config", {}).values()
    heads_differ = any("num_attention_heads" in layer for layer in layers)
    of_heads = ("test_model_rope_scaling_frequencies", "test_training_overfit") if heads_differ else ()
    return {"test_generation_tester_mixin_inheritance": ABSENT_TESTS} | dict.fromkeys(of_heads, ONE_HEAD_COUNT)


def run(variant: str | None, classes: tuple[str, ...], only: set[str] | None = None) -> Outcome:
    """Runs the tests, or `only` some, of a variant, or of LLaMA (`None`), with classes such as ``ForCausalLM``."""
    AutoConfig.for_model(MODEL_TYPE)  # fills the tables by which these tests tell a model's heads
    case = _test_case(variant, classes)
    names = unittest.defaultTestLoader.getTestCaseNames(case)
    names = [name for name in names if only is None or name in only]
    result = unittest.TestResult()
    unittest.TestSuite(map(case, names)).run(result)
    failed = {_name(test): traceback for test, traceback in [*result.failures, *result.errors]}
    skipped = {_name(test): reason for test, reason in result.skipped if _name(test) not in failed}
    return Outcome(set(names) - failed.keys() - skipped.keys(), skipped, failed)


def _name(test: Any) -> str:
    """A test's name; what it does in `subTest` is reported by a case of its own."""
    return getattr(test, "test_case", test)._testMethodName


def _test_case(variant: str | None, classes: tuple[str, ...]) -> type[unittest.TestCase]:
    common, training = (import_module(f"{_package()}.{Path(file).stem}") for file in FILES)
    if variant is None:
        from transformers import LlamaConfig as config_class
        from transformers.models.llama import modeling_llama as modeling
    else:
        from edge_transact.checkpoint import modeling_edge_llama as modeling
        from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig as config_class
    prefix = "Llama" if variant is None else "EdgeLlama"

    class Tester:
        batch_size, seq_length, is_training = 13, 7, True
        num_hidden_layers, num_attention_heads = SIZES["num_hidden_layers"], SIZES["num_attention_heads"]
        hidden_size = SIZES["hidden_size"]
        base_model_class = getattr(modeling, f"{prefix}Model")
        causal_lm_class = getattr(modeling, f"{prefix}ForCausalLM")

        def get_config(self) -> Any:
            return config_class(**SIZES, **VARIANTS.get(variant or "", {}))

        def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
            ids = common.ids_tensor([self.batch_size, self.seq_length], SIZES["vocab_size"])
            return self.get_config(), {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape).tril()}

    class Suite(common.ModelTesterMixin, training.TrainingTesterMixin, unittest.TestCase):
        all_model_classes = tuple(getattr(modeling, prefix + name) for name in classes)
        model_tester = Tester()

        def setUp(self) -> None:
            from transformers import set_seed

            set_seed(0)

    return Suite


@cache
def _package() -> str:
    """Makes `PACKAGE` importable, with empty classes for what the sdist lacks."""
    ingredients = {"transformers": version("transformers"), "files": FILES}
    directory = made(Recipe("transformers-tests", "download transformers' tests", ingredients, _download))
    for name in (PACKAGE, *(f"{PACKAGE}.{module.partition('.')[0]}" for module in ABSENT)):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(directory)] if name == PACKAGE else []
    for name, class_name in ABSENT.items():
        module = sys.modules[f"{PACKAGE}.{name}"] = ModuleType(name)
        setattr(module, class_name, type(class_name, (), {}))
    return PACKAGE


def _download(directory: Path) -> None:
    release = f"transformers-{version('transformers')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(directory), release.replace("-", "==")], check=True)
    sdist = directory / f"{release}.tar.gz"
    with tarfile.open(sdist) as archive:
        for name in FILES:
            (directory / name).write_bytes(archive.extractfile(f"{release}/tests/{name}").read())
    sdist.unlink()


def main() -> None:
    """Prints a line for LLaMA and for each variant, and what fails."""
    from time import process_time

    for variant in (None, *VARIANTS):
        start = process_time()
        outcome = run(variant, CLASSES)
        excepted = outcome.failed.keys() & exceptions(variant).keys()
        counts = f"{len(outcome.passed)} passed, {len(outcome.skipped)} skipped, {len(excepted)} excepted"
        print(f"{variant or 'LLaMA'}: {counts}, {len(outcome.failed) - len(excepted)} failed", end=" ")
        print(f"({process_time() - start:.0f} CPU s)", *sorted(outcome.failed), sep="\n  ")


if __name__ == "__main__":
    main()
