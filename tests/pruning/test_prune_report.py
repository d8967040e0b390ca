"""`prune --report`: its numbers are those of the two models, and its page is self-contained."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from pathlib import Path

import pytest
import torch

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.evaluation.models import REPORT_TEXT, REPORT_TEXTS, REPORT_WINDOWS, evaluate_models
from edge_transact.evaluation.options import EvalOptions
from edge_transact.pruning.report import bars
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.units import UNITS
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths
from tests.support.command import edge_transact


@pytest.fixture(scope="module")
def written(random_model, chapters, tmp_path_factory) -> tuple[Path, Path]:
    """A pruned model and its report."""
    directory = tmp_path_factory.mktemp("report")
    output, report = directory / "pruned", directory / "report"
    options = ["--ratio", 0.4, "--no-drop", "--calibration", chapters, "--calibration-tokens", 1024]
    code, out, err = edge_transact("prune", random_model, *options, "-o", output, "--report", report, "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["report"] == str(report)
    return output, report


def test_the_figures_are_the_models(written, random_model) -> None:
    output, directory = written
    report = json.loads((directory / "report.json").read_text(), parse_constant=pytest.fail)
    source, pruned = Checkpoint.open(random_model).plan, Checkpoint.open(output).plan
    quantization = get_quantization("q4f16_0")
    evaluated = evaluate_models(
        [str(random_model), str(output)], EvalOptions(text=REPORT_TEXT, max_windows=REPORT_WINDOWS)
    )
    for name, model in zip(("source", "pruned"), evaluated, strict=True):
        assert report["models"][name]["perplexity"] == pytest.approx(model["perplexity"])
        assert report["evaluation"]["text_sha256"] == model["text_sha256"]
    assert [each["text"] for each in report["texts"]] == list(REPORT_TEXTS) and len(REPORT_TEXTS) == 3
    code = EvalOptions(text="demo:code", max_windows=REPORT_WINDOWS)
    (on_code,) = evaluate_models([str(output)], code)
    assert report["texts"][2]["pruned"] == pytest.approx(on_code["perplexity"])
    for name, plan in (("source", source), ("pruned", pruned)):
        model = report["models"][name]
        assert model["parameters"] == costs.parameters(plan)
        assert model["kv_bytes_per_token"] == costs.kv_bytes_per_token(plan, quantization)
        assert model["kv_padding_bytes_per_token"] == costs.kv_padding_bytes_per_token(plan, quantization)
        assert [layer[name] for layer in report["layers"]] == plan.to_list()
    assert report["ratio"] == pytest.approx(costs.cut_ratio(pruned, source))
    assert report["budget"]["ratio"] == 0.4 and report["method"] == "obs"
    assert not any("loss" in note for note in report["notes"])
    for layer, widths in zip(report["layers"], source.layers, strict=True):
        assert len(layer["salience"]["heads"]) == widths.num_attention_heads
        assert len(layer["salience"]["intermediate"]) == widths.intermediate_size
        assert min(layer["sensitivity"].values()) > 0
        assert list(layer["compensation"]) == ["self_attn.o_proj", "mlp.down_proj"]
        for fit in layer["compensation"].values():
            assert 1 > fit["error_before"] >= fit["error_after"] > 0


def test_the_page_says_what_the_figures_say(written, random_model, chapters) -> None:
    output, directory = written
    report = json.loads((directory / "report.json").read_text())
    page = unescape((directory / "index.html").read_text())
    fields = {
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "v-dims": "v_head_dim",
        "qk-pairs": "qk_head_dim",
    }
    cut = {
        f"salience-{name}"
        for name, field in fields.items()
        if any(layer["pruned"][field] < layer["source"][field] for layer in report["layers"])
    }
    pictures = {"widths", "sensitivity", "compensation", *cut}
    assert "salience-mlp" in cut
    assert {path.name for path in directory.iterdir()} == {"index.html", "report.json"} | {f"{p}.svg" for p in pictures}
    assert not re.search(r"<script|(?:src|href)=", page)
    source, pruned = report["models"]["source"], report["models"]["pruned"]
    smaller = 100 - 100 * pruned["weight_bytes"] / source["weight_bytes"]
    rises = {each["kind"]: each["pruned"] / each["source"] for each in report["texts"]}
    mean, worst = math.prod(rises.values()) ** (1 / 3), max(rises, key=rises.get)
    figures = f"{100 * mean - 100:+.0f} % on average, {100 * rises[worst] - 100:+.0f} % on {worst}"
    assert f"<h1>{smaller:.0f} % smaller, perplexity {figures}</h1>" in page
    assert "perplexity, Python code</" in page and "* Calibration" not in page, "it read none of these"
    card = (output / "README.md").read_text()
    assert f"- perplexity, Python code: {report['texts'][2]['source']:.2f}, pruned" in card
    for index, layer in enumerate(report["layers"]):
        before, after = (layer[which]["intermediate_size"] for which in ("source", "pruned"))
        assert f"<title>layer {index}: {before:,} source, {after:,} pruned</title>" in page, "under the pointer"
        assert f'<th scope="row">{index}</th><td class="figure" data-label="MLP dims">{after:,}</td>' in page
    command = f"prune {random_model} --ratio 0.4 --calibration {chapters} --calibration-tokens 1024 --no-drop"
    assert f"edge-transact {command} -o {output} --report {directory}" in re.sub("</?span>", "", page)


def test_bars_show_what_is_kept() -> None:
    """Two KV heads with two query heads, two pairs and four value dims; the second KV head is cut."""
    scores = LayerScores(
        heads=torch.tensor([3.0, 1.0, 0.5, 0.25]),
        v_dims=torch.tensor([[1.0, 4.0, 2.0, 3.0], [9.0, 9.0, 9.0, 9.0]]),
        qk_pairs=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        intermediate=torch.tensor([1.0, 5.0, 3.0]),
    )
    shown = {u.score or u.kept: bars(u, scores, LayerWidths(1, 1, 2, 3, 2)) for u in UNITS.values() if u.figure}
    assert {unit: values.tolist() for unit, (values, _) in shown.items()} == {
        "heads": [3, 1, 0.5, 0.25],
        "v_dims": [4, 3, 2, 1, 9, 9, 9, 9],
        "qk_pairs": [2, 1, 4, 3],
        "intermediate": [5, 3, 1],
    }
    assert {unit: kept.int().tolist() for unit, (_, kept) in shown.items()} == {
        "heads": [1, 0, 0, 0],
        "v_dims": [1, 1, 1, 0, 0, 0, 0, 0],
        "qk_pairs": [1, 0, 0, 0],
        "intermediate": [1, 1, 0],
    }


def test_a_report_that_cannot_be_written_is_refused_before_the_work(written, random_model, tmp_path) -> None:
    output, report = written
    new = tmp_path / "new" / "pruned"
    for place, more, message in (
        (report, [], f"{report} exists"),
        (new, [], "would replace"),
        (new.parent, ["--force"], "would replace"),
        (random_model, ["--force"], "would replace"),
    ):
        code, _, err = edge_transact("prune", random_model, "--ratio", 0.4, "-o", new, "--report", place, *more)
        assert code != 0 and message in err, err
    assert not new.parent.exists() and output.exists()
