"""`build --report`: its numbers are those of the shards, computed once more without the code that it uses."""

from __future__ import annotations

import json
import re
from functools import partial
from html import unescape

import pytest
import torch

from edge_transact.artifacts.manifest import Manifest
from edge_transact.building.report import measure as measured
from edge_transact.building.report.figures import kl_by_part
from edge_transact.building.report.measure import Dequantized, measure
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.evaluation.models import REPORT_TEXT, evaluate_models
from edge_transact.evaluation.options import EvalOptions
from edge_transact.inputs import read_text
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding.search import searching
from edge_transact.weights.convert import convert, restore
from edge_transact.weights.shards import ShardReader
from edge_transact.widths import LayerWidths
from tests.support.checkpoints import SIZES
from tests.support.command import edge_transact
from tests.support.definitions import emit
from tests.support.pruning import cut_at_random

WINDOWS = torch.randint(0, 96, (5, 64), generator=torch.Generator().manual_seed(0))
PART_WINDOWS, PART_WINDOW = 3, 24
"""What parts are measured on here."""


def tokenizer(_text: str, verbose: bool) -> dict[str, list[int]]:
    return {"input_ids": WINDOWS.flatten().tolist()}


class Rounded:
    """A checkpoint and its rounded tensors, and what transformers computes with some of them."""

    def __init__(self, checkpoint: Checkpoint, quantization: str, directory):
        from transformers import AutoModelForCausalLM

        self.checkpoint = checkpoint
        sources = emit(directory / "definition", checkpoint.plan, checkpoint.config | SIZES).parameter_sources()
        kind = QUANTIZATIONS[quantization]
        self.views, self.tensors = {}, {}
        for name, rounding in (("nearest", None), ("search", searching(checkpoint, sources, kind))):
            (directory / name).mkdir()
            convert(checkpoint, sources, kind, directory / name, rounding)
            reader = ShardReader(directory / name)
            self.tensors[name] = dict(restore(reader, sources, tensor_shapes(checkpoint.plan), kind))
            self.views[name] = Dequantized(**vars(checkpoint), reader=reader, sources=sources, quantization=kind)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
        self.exact = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @torch.inference_mode()
    def logits(self, rounding: str | None = None, prefix: tuple[str, ...] = ("",)) -> torch.Tensor:
        """With the rounded tensors whose names begin with `prefix`; fp64."""
        tensors = dict(self.exact)
        if rounding:
            tensors |= {name: value for name, value in self.tensors[rounding].items() if name.startswith(prefix)}
        if self.checkpoint.plan.tie_word_embeddings:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        self.model.load_state_dict(tensors)
        return self.model(WINDOWS).logits.double()

    def kl(self, rounding: str, prefix: tuple[str, ...]) -> float:
        """The mean divergence of predictions, when some tensors are rounded."""
        exact, rounded = (
            logits[:PART_WINDOWS, : PART_WINDOW - 1].log_softmax(-1)
            for logits in (self.logits(), self.logits(rounding, prefix))
        )
        return (exact.exp() * (exact - rounded)).sum(-1).mean().item()

    def inputs(self) -> dict[str, torch.Tensor]:
        """The inputs of the unrounded model's projections, fp64 ``[tokens, in]``."""
        kept = {}

        def keep(name, _module, args):
            kept[name] = args[0][:PART_WINDOWS, :PART_WINDOW].flatten(end_dim=1).double()

        projections = [(n, m) for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)]
        handles = [module.register_forward_pre_hook(partial(keep, name)) for name, module in projections]
        self.logits()
        for handle in handles:
            handle.remove()
        return kept


PRUNED = [LayerWidths(2, 1, 4, 8, 7), LayerWidths(6, 3, 8, 5, 33), LayerWidths(4, 2, 6, 1, 0)]
PRUNED += [LayerWidths(0, 0, 0, 0, 0), LayerWidths(0, 0, 0, 0, 40)]
"""Every layer different, with fewer KV groups, RoPE pairs, value dims and MLP dims, or without attention or MLP."""


@pytest.fixture(params=["tied q4f16_1", "untied q4f32_1", "pruned q4f16_0"])
def rounded(request, make_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "PART_WINDOWS", PART_WINDOWS)
    monkeypatch.setattr(measured, "PART_WINDOW", PART_WINDOW)
    which, quantization = request.param.split()
    with_biases = {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": len(PRUNED)}
    options = {"tied": {"tie_word_embeddings": True}, "untied": {}, "pruned": with_biases}
    checkpoint = Checkpoint.open(make_llama(**options[which]))
    if which == "pruned":
        checkpoint = cut_at_random(checkpoint, PRUNED, tmp_path / "pruned")
        monkeypatch.setattr("edge_transact.cache.journal.MEMORY_BYTES", 0)  # hidden states in files
    return Rounded(checkpoint, quantization, tmp_path)


def test_every_figure_is_that_of_the_shards(rounded, tmp_path):
    """Divergences by transformers with some tensors replaced, and errors from the inputs' Gram matrices, in fp64."""
    journal = Journal(tmp_path / "journal")
    measurement = measure(rounded.checkpoint, rounded.views, tokenizer, "", journal)
    # What rounds to itself differs by the products' fp32 sums alone.
    close = partial(pytest.approx, rel=1e-3, abs=1e-6)

    embedding, lm_head = ("model.embed_tokens.",), ("lm_head.", "model.norm.")
    parts = {f"layer {index}": (f"model.layers.{index}.",) for index in range(len(rounded.checkpoint.plan.layers))}
    if rounded.checkpoint.plan.tie_word_embeddings:
        parts = {"embedding, lm_head": embedding + lm_head} | parts
    else:
        parts = {"embedding": embedding} | parts | {"lm_head": lm_head}
    assert [part.name for part in measurement.parts] == list(parts)
    for part in measurement.parts:
        assert part.kl == {name: close(rounded.kl(name, parts[part.name])) for name in ("nearest", "search")}

    inputs, compared = rounded.inputs(), 0
    for part in measurement.parts:
        for matrix, by_rounding in part.matrices.items():
            name = f"{parts[part.name][0]}{matrix}" if part.name.startswith("layer") else matrix
            for rounding, error in by_rounding.items():
                tensors = rounded.tensors[rounding]
                weight = rounded.exact[f"{name}.weight"].double()
                change = tensors.get(f"{name}.weight", tensors["model.embed_tokens.weight"]).double() - weight
                assert error.weight_error == close((change.norm() / weight.norm()).item() ** 2)
                if matrix == "model.embed_tokens":
                    change, size = (
                        each[WINDOWS[:PART_WINDOWS, :PART_WINDOW]].square().sum() for each in (change, weight)
                    )
                else:
                    gram = inputs[name].T @ inputs[name]
                    change, size = ((each @ gram @ each.T).trace() for each in (change, weight))
                assert error.output_error == close((change / size).item()), (name, rounding)
                compared += 1
    modules = [4 * layer.has_attention + 3 * layer.has_mlp for layer in rounded.checkpoint.plan.layers]
    assert compared == 2 * (2 + sum(modules))
    assert len(kl_by_part(measurement.parts).rows) == len(parts) - modules.count(0), (
        "a layer without matrices isn't rounded"
    )

    labels = WINDOWS[:, 1:].flatten()
    for name, result in (("unrounded", measurement.unrounded), *measurement.rounded.items()):
        logits = rounded.logits(None if name == "unrounded" else name)[:, :-1].flatten(end_dim=1)
        assert result["perplexity"] == close(torch.nn.functional.cross_entropy(logits, labels).exp().item())


@pytest.fixture(scope="module")
def built(tiny_model, tmp_path_factory):
    """``demo:tiny`` as a DIST, and its report."""
    directory = tmp_path_factory.mktemp("report")
    dist, report, text = directory / "dist", directory / "report", directory / "speeches.txt"
    text.write_text(read_text("demo:sotu", "calibration")[:20_000])
    options = ["--target", "host", "--rounding", "gptq", "--calibration", text, "--calibration-tokens", 1024]
    code, out, err = edge_transact("build", tiny_model, *options, "-o", dist, "--report", report, "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["report"] == str(report)
    return dist, report


def test_the_report_says_what_was_built(built, tiny_model):
    dist, directory = built
    report = json.loads((directory / "report.json").read_text(), parse_constant=pytest.fail)
    manifest = Manifest.read(dist)
    for name in ("quantization", "rounding", "parameters", "weights_bytes", "bits_per_parameter"):
        assert report[name] == getattr(manifest, name)
    assert list(report["models"]) == ["unrounded", "nearest", "search", "gptq"]
    # The host library computes what torch does with the shards.
    evaluation = report["evaluation"]
    asked = EvalOptions(text=REPORT_TEXT, max_windows=evaluation["windows"], reference=str(tiny_model))
    unrounded, library = evaluate_models([str(tiny_model), str(dist)], asked, evaluation["window"])
    assert report["models"]["unrounded"] == {"perplexity": pytest.approx(unrounded["perplexity"], rel=1e-4)}
    gptq = report["models"]["gptq"]
    assert gptq == {name: pytest.approx(library[name], rel=1e-2) for name in gptq}
    assert evaluation["text_sha256"] == library["text_sha256"]
    nearest, search = report["models"]["nearest"], report["models"]["search"]
    assert gptq["kl_mean"] < search["kl_mean"] < nearest["kl_mean"]
    assert [part["name"] for part in report["parts"]] == ["embedding, lm_head", *(f"layer {i}" for i in range(4))]
    for part in report["parts"]:
        assert list(part["kl"]) == ["nearest", "search", "gptq"]
        for errors in part["matrices"].values():
            assert all(set(each) == {"weight_error", "output_error"} for each in errors.values())


def test_the_page_says_what_the_figures_say_and_nothing_is_left_over(built, tiny_model):
    dist, directory = built
    assert {path.name for path in directory.iterdir()} == {"report.json", "index.html", "kl.svg", "errors.svg"}
    report = json.loads((directory / "report.json").read_text())
    page = unescape((directory / "index.html").read_text())
    assert not re.search(r"<script|(?:src|href)=", page)
    before, after = (f"{report['models'][name]['perplexity']:.0f}" for name in ("unrounded", "gptq"))
    share = f"{100 * report['bits_per_parameter'] / 16:.0f} % of 16 bits"
    assert f"0.5 MB, {share}: perplexity {before} → {after}</h1>" in page
    for part in report["parts"]:
        assert f"<title>{part['name']}: " + ", ".join(f"{name} {kl:.3g}" for name, kl in part["kl"].items()) in page
    command = f"build {tiny_model} --target host --rounding gptq --calibration {dist.parent}/speeches.txt"
    assert f"edge-transact {command} --calibration-tokens 1024 -o {dist}" in re.sub("</?span>", "", page)


def test_a_report_that_cannot_be_written_is_refused_before_the_work(built, tiny_model, tmp_path):
    _, report = built
    new = tmp_path / "new" / "dist"
    for place, more, message in (
        (report, [], f"{report} exists"),
        (new.parent, ["--force"], "would replace"),
        (tiny_model, ["--force"], "would replace"),
        (tmp_path / "report", ["--quant", "q0f16"], "q0f16 isn't quantized"),
    ):
        code, _, err = edge_transact("build", tiny_model, "--target", "host", "-o", new, "--report", place, *more)
        assert code != 0 and message in err, err
    assert not new.parent.exists()
