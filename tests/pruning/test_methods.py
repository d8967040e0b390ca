"""The scores of every method equal those computed weight by weight from the complete model in fp64."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.layerwise.windows import read_calibration
from edge_transact.pruning.cut import pruned_tensors, select
from edge_transact.pruning.options import METHODS, PruneOptions
from edge_transact.pruning.run import prune
from edge_transact.widths import LayerWidths
from tests.support.pruning import scores_of

SHAPES = {
    "mha": {"num_key_value_heads": 6, "tie_word_embeddings": True},
    "gqa": {"num_key_value_heads": 3},
    "mqa": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
}
# More than one batch of the passes.
WINDOWS = torch.randint(96, (70, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=SHAPES)
def source(make_llama, request) -> Checkpoint:
    return Checkpoint.open(make_llama(num_hidden_layers=2, **SHAPES[request.param]))


def whole_model(path: Path) -> torch.nn.Module:
    """The model in fp64 after a backward pass; each linear's ``seen`` is its input, ``[tokens, features]``."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda module, inputs: setattr(module, "seen", inputs[0].detach().flatten(end_dim=1))
            )
    logits = model(WINDOWS).logits
    labels = WINDOWS[:, 1:].flatten()
    functional.cross_entropy(logits[:, :-1].flatten(end_dim=1), labels, reduction="sum").backward()
    return model


def taylor(linear: torch.nn.Linear) -> torch.Tensor:
    return (linear.weight * linear.weight.grad).abs()


def wanda(linear: torch.nn.Linear) -> torch.Tensor:
    return linear.weight.abs() * linear.seen.norm(dim=0)


def magnitude(linear: torch.nn.Linear) -> torch.Tensor:
    return linear.weight.abs()


@pytest.mark.parametrize("method", ["llm-pruner", "wanda", "magnitude"])
def test_sums_over_the_weights_of_a_unit(source: Checkpoint, method: str) -> None:
    """A unit's score is the sum over the rows and columns that are cut with it."""
    importance = {"llm-pruner": taylor, "wanda": wanda, "magnitude": magnitude}[method]
    widths = source.plan.layers[0]
    heads, groups, dim = widths.num_attention_heads, widths.num_key_value_heads, widths.qk_head_dim
    scored = scores_of(source, WINDOWS, method)
    for scores, layer in zip(scored, whole_model(source.path).model.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        with torch.no_grad():
            q, k, v = (importance(linear) for linear in (attention.q_proj, attention.k_proj, attention.v_proj))
            o, down = importance(attention.o_proj), importance(mlp.down_proj)
            gate, up = importance(mlp.gate_proj), importance(mlp.up_proj)

        def span(index: int) -> slice:
            return slice(index * dim, (index + 1) * dim)

        for group in range(groups):
            members = range(group * heads // groups, (group + 1) * heads // groups)
            # All heads of a group are cut with its keys and values.
            together = k[span(group)].sum() + v[span(group)].sum()
            together += sum(q[span(head)].sum() + o[:, span(head)].sum() for head in members)
            close(scores.heads[members].sum(), together)
            for head in members:
                alone = q[span(head)].sum() + o[:, span(head)].sum()
                first = q[span(members[0])].sum() + o[:, span(members[0])].sum()
                close(scores.heads[head] - scores.heads[members[0]] + first, alone)
            for value in range(dim):
                columns = [head * dim + value for head in members]
                if method != "wanda":  # it rotates them: test_rotation.py
                    close(scores.v_dims[group, value], v[group * dim + value].sum() + o[:, columns].sum())
            for pair in range(dim // 2):
                rows = [head * dim + pair + half for head in members for half in (0, dim // 2)]
                keys = [group * dim + pair + half for half in (0, dim // 2)]
                close(scores.qk_pairs[group, pair], q[rows].sum() + k[keys].sum())
        for index in range(widths.intermediate_size):
            close(scores.intermediate[index], gate[index].sum() + up[index].sum() + down[:, index].sum())


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-6)


def test_flap_is_the_error_that_a_bias_leaves(source: Checkpoint) -> None:
    """The score is the squared error of the output when a dim is replaced by its mean."""
    widths = source.plan.layers[0]
    scored, transact = (scores_of(source, WINDOWS, method) for method in ("flap", "transact"))
    for scores, same, layer in zip(scored, transact, whole_model(source.path).model.layers, strict=True):
        errors = {}
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            distances = linear.seen - linear.seen.mean(dim=0)
            errors[linear] = torch.stack(
                [
                    torch.outer(distances[:, column], linear.weight[:, column].detach()).square().sum()
                    for column in range(linear.in_features)
                ]
            ) / (len(distances) - 1)
        close(scores.intermediate, errors[layer.mlp.down_proj])
        close(scores.heads, errors[layer.self_attn.o_proj].view(widths.num_attention_heads, -1).sum(dim=1))
        assert torch.equal(scores.qk_pairs, same.qk_pairs)
        close(scores.means["attention"], layer.self_attn.o_proj.seen.mean(dim=0))
        close(scores.means["mlp"], layer.mlp.down_proj.seen.mean(dim=0))


def test_random_repeats_and_differs_by_layer_and_seed(source: Checkpoint) -> None:
    first, again, other = (scores_of(source, WINDOWS, "random", seed=seed) for seed in (0, 0, 1))
    for scores, repeated in zip(first, again, strict=True):
        assert all(torch.equal(scores.tensors()[name], repeated.tensors()[name]) for name in scores.tensors())
    drawn = [scores.intermediate for scores in (*first, *other)]
    assert all(not torch.equal(one, two) for i, one in enumerate(drawn) for two in drawn[:i])


@pytest.mark.parametrize("method", METHODS)
def test_scores_have_the_shapes_of_the_layer(make_llama, method: str) -> None:
    source = Checkpoint.open(make_llama(num_hidden_layers=1))
    widths = source.plan.layers[0]
    (scores,) = scores_of(source, WINDOWS, method)
    assert scores.heads.shape == (widths.num_attention_heads,)
    assert scores.v_dims.shape == (widths.num_key_value_heads, widths.v_head_dim)
    assert scores.qk_pairs.shape == (widths.num_key_value_heads, widths.qk_head_dim // 2)
    assert scores.intermediate.shape == (widths.intermediate_size,)
    for tensor in (scores.heads, scores.v_dims, scores.qk_pairs, scores.intermediate):
        assert tensor.dtype == torch.float32 and tensor.isfinite().all() and tensor.unique().numel() > 1


@pytest.fixture(scope="session")
def tiny_with_biases(tiny_model, tmp_path_factory) -> Path:
    """``demo:tiny`` with biases everywhere."""
    path = tmp_path_factory.mktemp("biases")
    config = AutoConfig.from_pretrained(tiny_model, attention_bias=True, mlp_bias=True)
    model = AutoModelForCausalLM.from_config(config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.load_state_dict(AutoModelForCausalLM.from_pretrained(tiny_model).state_dict(), strict=False)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
    return path


def mean_outputs(path: Path, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean outputs of layer 0's attention and MLP over all tokens, ``[hidden_size]`` each."""
    layer = (model := AutoModelForCausalLM.from_pretrained(path)).model.layers[0]
    outputs: list[torch.Tensor] = []
    for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output.mean(dim=(0, 1))))
    with torch.inference_mode():
        model(windows)
    attention, mlp = outputs
    return attention, mlp


@pytest.mark.parametrize(
    ("keep", "block", "shots"),
    [
        ({"heads": 2}, 0, 1),
        ({"intermediate": 100}, 1, 1),
        ({"intermediate": 100}, 1, 3),
        ({"num_key_value_heads": 2, "v_head_dim": 16}, 0, 1),
    ],
)
def test_flap_shifts_biases_so_that_mean_outputs_stay(
    tiny_with_biases, tmp_path: Path, chapters, calibration, keep, block, shots
) -> None:
    """In layer 0, whose inputs don't change, for any number of shots."""
    checkpoint = Checkpoint.open(tiny_with_biases)
    windows = read_calibration(checkpoint, CalibrationOptions(**calibration)).windows
    expected = mean_outputs(tiny_with_biases, windows)[block]
    if "v_head_dim" in keep:
        (tmp_path / "widths.json").write_text(json.dumps([keep] * len(checkpoint.plan.layers)))
        keep = {"widths": tmp_path / "widths.json"}
    distances = {}
    for method in ("flap", "wanda"):
        options = PruneOptions(**keep, method=method, shots=shots, **calibration)
        prune(str(tiny_with_biases), tmp_path / method, options)
        actual = mean_outputs(tmp_path / method, windows)[block]
        distances[method] = float((actual - expected).norm() / expected.norm())
    assert distances["flap"] < 1e-5 < 1e-3 < distances["wanda"]


def cut(source: Checkpoint, method: str, widths: LayerWidths, output: Path) -> Checkpoint:
    """The model with those widths in every layer, selected by a method's scores."""
    selections = [select(scores, widths) for scores in scores_of(source, WINDOWS, method)]
    plan = source.plan.with_layers([widths] * len(selections))
    return write_checkpoint(source, plan, pruned_tensors(source, selections), {}, output)


@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_model_is_pruned_again(source: Checkpoint, tmp_path: Path, method: str) -> None:
    """First dims of every kind and query heads inside groups, if there are several; then groups too."""
    groups = source.plan.layers[0].num_key_value_heads
    queries = max(1, source.plan.layers[0].q_per_kv - 1)
    once = cut(source, method, LayerWidths(groups * queries, groups, 6, 5, 30), tmp_path / "once")
    fewer = max(1, groups - 1)
    twice = cut(once, method, LayerWidths(fewer * queries, fewer, 4, 3, 20), tmp_path / "twice")
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(twice.path)(WINDOWS).logits
    assert logits.isfinite().all() and logits.std() > 0
