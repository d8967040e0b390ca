"""`plan` lists what could be made of models for a budget, says how each figure is known, and recommends one."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_transact as et
from edge_transact import costs
from edge_transact.artifacts.manifest import Manifest
from edge_transact.checkpoint import Checkpoint
from edge_transact.costs.profile import Rates, roofline
from edge_transact.planning import phones
from edge_transact.planning.expected import read_expected
from edge_transact.planning.quality import Figure, _between, rise
from edge_transact.planning.run import best_of, frontier
from edge_transact.quantization import QUANTIZATIONS, get_quantization
from edge_transact.widths import WidthPlan, read_widths
from tests.support.checkpoints import save_llama
from tests.support.command import edge_transact, run, said

LISTS = st.lists(st.tuples(*[st.one_of(st.none(), st.integers(0, 4))] * 3), max_size=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA whose MLP is cut in steps of a tenth, for contexts of up to 4,096 tokens."""
    path = tmp_path_factory.mktemp("planned") / "model"
    return save_llama(path, vocab_size=512, intermediate_size=320, max_position_embeddings=4096)


def made_profile(model: Path | str, path: Path, *, quant: str = "q4f16_0", contexts: tuple[int, ...] = (64, 2048)):
    """A roofline as `profile` writes it, of a device that is slow enough to tell plans apart."""
    plan = et.load(model).plan
    rates = Rates(bandwidth_bytes_per_s=1e8, flops_per_s=1e9, launch_s=1e-5)
    made = roofline(plan, get_quantization(quant), rates, target="host", contexts=contexts, prefill_chunk=64)
    path.write_text(made.model_dump_json())
    return made


@given(LISTS)
def test_the_frontier_is_what_nothing_dominates(objectives):
    """By the definition: nothing on it is dominated, and all else is dominated or lacks a figure that another has."""
    used = [column for column in range(3) if any(row[column] is not None for row in objectives)]

    def is_known(row):
        return all(row[column] is not None for column in used)

    def dominates(one, other):
        pairs = [(one[column], other[column]) for column in used]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    found = set(frontier(objectives))
    for place, row in enumerate(objectives):
        beaten = is_known(row) and any(dominates(other, row) for other in objectives if is_known(other))
        assert (place in found) == (is_known(row) and not beaten)


def test_every_candidate_is_priced_as_its_parts_are(model, tmp_path):
    profile = made_profile(model, tmp_path / "profile.json")
    given = ["--profile", tmp_path / "profile.json", "--context", 200, "--prompts", "32,150"]
    found = said("plan", model, *given, "--ratios", "20%,0.4")
    source = Checkpoint.open(model).plan
    kinds = {name.partition("f")[0] for name in QUANTIZATIONS}
    assert {each["quantization"].partition("f")[0] for each in found["candidates"]} == kinds
    assert {each["ratio"] for each in found["candidates"]} == {0, 0.2, 0.4}
    for each in found["candidates"]:
        (tmp_path / "widths.json").write_text(json.dumps(each["widths"]))
        plan = read_widths(tmp_path / "widths.json", source)
        quantization = get_quantization(each["quantization"])
        assert costs.cut_ratio(plan, source) == pytest.approx(each["ratio"], abs=0.05)
        assert each["weight_bytes"] == costs.weight_bytes(plan, quantization)
        assert each["memory_bytes"] == costs.memory_bytes(plan, quantization, 200)
        if each["quantization"] == profile.quantization:
            assert each["decode_s"]["value"] == pytest.approx(profile.decode_s(plan, 200))
            assert each["prefill_s"]["150"]["value"] == pytest.approx(profile.prefill_s(plan, 150))
            assert each["decode_s"]["how"] == "predicted"
        else:
            assert (each["decode_s"]["value"], each["decode_s"]["how"]) == (None, "unknown")
        assert bool(each["cpu_s"]) == each["is_healed"]


@pytest.mark.soak
def test_the_commands_of_a_recommendation_make_what_was_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dense = said("plan", "demo:tiny", "--quant", "q4f16_0", "--no-heal")["recommended"]
    assert dense["ratio"] == 0
    most = round(0.93 * dense["weight_bytes"])
    cut = said("plan", "demo:tiny", "--quant", "q4f16_0", "--no-heal", "--max-weight-bytes", most)["recommended"]
    assert cut["ratio"] > 0 and cut["weight_bytes"] <= most
    for command in cut["commands"]:
        words = shlex.split(command.replace("android,host", "host").replace("--rounding best", ""))
        changed = ["512" if word in ("32768", "65536") else word for word in words[1:]]
        if "build" in changed:
            changed = [
                word for word in changed if word not in ("--calibration", "demo:mixed", "--calibration-tokens", "512")
            ]
        result = run(*changed)
        assert result.exit_code == 0, result.output
    built = Manifest.read(Path("dist"))
    assert built.weights_bytes <= most
    # `prune` spreads the cut by predicted loss, in steps of other units.
    assert built.weights_bytes == pytest.approx(cut["weight_bytes"], rel=0.05)


def test_a_budget_is_met_by_the_smallest_cut(make_llama):
    """In percent. The command has the budget, too, because `prune` spreads a cut in its own way."""
    model = make_llama(intermediate_size=3200)
    dense = et.plan(model, quant=["q4f16_0"], heal=False).recommended
    most = dense.memory_bytes - 50_000
    planned = et.plan(model, quant=["q4f16_0"], memory=most, ratios=[0.8], heal=False)
    chosen = planned.recommended
    assert chosen.memory_bytes <= most and 0.01 < chosen.ratio < 0.8
    larger = et.plan(model, quant=["q4f16_0"], ratios=[chosen.ratio - 0.01], heal=False).candidates[1]
    assert larger.memory_bytes > most
    assert f"--ratio {chosen.ratio:g} --max-memory {most} --quant q4f16_0" in chosen.commands(planned.options)[0]


def test_a_phone_is_its_bandwidth(tiny_model):
    """Half of the bandwidth takes twice the time, but for launches, and a phone that no prefill is known of says so."""
    fast, slow = (
        said("plan", tiny_model, "--phone", name, "--quant", "q0f16")["candidates"][0]
        for name in ("galaxy-s22", "galaxy-a55")
    )
    launches = 5e-6 * (4 + et.load(tiny_model).plan.num_hidden_layers * (3 + 2 + 1 + 2))
    read_s = [each["decode_s"]["value"] - launches for each in (fast, slow)]
    assert read_s[1] / read_s[0] == pytest.approx(51.2 / 25.6)
    low, high = phones.shares()
    other_s = fast["decode_s"]["other"] - launches
    assert read_s[0] / other_s == pytest.approx(high / low)
    assert fast["decode_s"]["how"] == "rule of thumb"
    assert fast["prefill_s"]["128"]["how"] == "unknown" and "Snapdragon 8 Gen 1" in fast["prefill_s"]["128"]["note"]


@pytest.mark.parametrize("row", [row for row in phones.PUBLISHED if row.prefill], ids=lambda row: row.soc)
def test_a_published_prefill_is_predicted_as_it_was_measured(row):
    phone = next(phone for phone in phones.PHONES.values() if phone.soc == row.soc)
    plan, q4 = phones.plan_of(row.model), get_quantization("q4f16_0")
    slow, _ = phones.rooflines(phone, plan, q4, [256])
    assert slow.prefill_s(plan, row.prompt) == pytest.approx(row.prompt / row.prefill, rel=0.1)


def test_every_figure_of_phones_has_its_source():
    assert 8 <= len(phones.PHONES) <= 12
    for phone in phones.PHONES.values():
        assert 10 < phone.bandwidth_gb_s < 200 and phone.memory.startswith("https://")
        assert (phone.ghz is None) == (phone.cores is None)
    assert all(row.source.startswith("https://") and row.model in phones.MODELS for row in phones.PUBLISHED)


def smollm2() -> WidthPlan:
    config = {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
    }  # fmt: skip
    return WidthPlan.from_config(config)


def test_quality_is_the_pages_or_unknown():
    """The lab's perplexities: 20.2 in 16 bits, 21.4 by `best`, 30.6 cut by 20 %, 28.2 trained in 4 bits."""
    q0, q4, plan = get_quantization("q0f16"), get_quantization("q4f16_0"), smollm2()
    assert rise(plan, True, 0.0, q0, False) == Figure(0.0, "counted", "the model itself")
    assert rise(plan, True, 0.2, q0, False).value == pytest.approx(math.log(30.6 / 20.2))
    trained = rise(plan, True, 0.2, q4, True)
    assert (trained.value, trained.how) == (pytest.approx(math.log(28.2 / 20.2)), "measured")
    untrained = rise(plan, True, 0.2, q4, False)
    assert untrained.value == pytest.approx(math.log(30.6 / 20.2) + math.log(21.4 / 20.2))
    assert untrained.how == "rule of thumb"
    between = rise(plan, True, 0.225, q4, True).value
    assert trained.value < between < rise(plan, True, 0.25, q4, True).value
    other = rise(replace(plan, vocab_size=1000), True, 0.2, q4, True)
    assert (other.value, other.how) == (trained.value, "published")
    for ratio, quantization, is_dense, healed in ((0.4, q4, True, True), (0.2, q4, False, True), (0.0, q4, True, True)):
        figure = rise(plan, is_dense, ratio, quantization, healed)
        assert (figure.value, figure.how) == (None, "unknown") and figure.note
    assert _between("q2", 0.0, False) is None


def test_what_is_unknown_is_not_recommended_over_what_is_known(model):
    planned = et.plan(model, quant=["q4f16_0"], max_weight_bytes="10GB")
    unknown = [each for each in planned.candidates if each.rise.value is None]
    assert unknown and planned.recommended.rise.value is not None
    assert best_of(unknown).ratio == min(each.ratio for each in unknown if not each.is_healed)
    assert not set(planned.frontier) & set(unknown) and planned.recommended in planned.frontier


def test_the_table_has_the_frontier_and_the_commands(model):
    code, out, err = edge_transact("plan", model, "--phone", "galaxy-s23", "--memory", "10GB")
    assert code == 0, err
    header, *rows = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert header[0] == "candidate" and any(name.startswith("first token after ") for name in header)
    assert [row[0] for row in rows if row[0].startswith("* ")] == ["* dense, q0f16"]
    assert all(re.fullmatch(r"[\d.e+]+ to [\d.e+]+", row[header.index("tokens/s")]) for row in rows)
    assert "rule of thumb, 25% to 45% of 67.2 GB/s" in out
    assert f"edge-transact build {model} --quant q0f16" in out


def test_several_models_have_a_best_candidate_each(model, tiny_model):
    found = said("plan", model, tiny_model, "--quant", "q4f16_0")
    assert len(found["best"]) == 2 and found["recommended"] is None
    assert "Rises of perplexity don't compare models" in found["notes"][-1]


def test_the_picture_has_every_model_and_what_is_recommended(model, tiny_model, tmp_path):
    plot = tmp_path / "frontier.svg"
    code, _, err = edge_transact("plan", model, tiny_model, "--phone", "galaxy-s23", "--plot", plot)
    assert code == 0, err
    drawn = plot.read_text()
    for words in ("weights, MB", "rise of log-perplexity", "tokens a second", f"{model}: all", "recommended"):
        assert words in drawn
    assert edge_transact("plan", model, "--plot", plot)[0] == 1  # it exists
    assert edge_transact("plan", model, "--plot", plot, "--force")[0] == 0
    assert "tokens a second" not in plot.read_text()  # nothing is known of it


def planned_file(path: Path, words: list[object], **changed: object) -> Path:
    """What ``plan --json > path`` writes, with some figures of the recommended model changed."""
    planned = said("plan", *words)
    planned["recommended"] |= changed
    path.write_text(json.dumps(planned))
    return path


@pytest.mark.soak
def test_a_build_says_how_it_differs_from_the_plan(tmp_path, caplog):
    words = ["demo:tiny", "--quant", "q4f32_1", "--no-heal"]
    size = said("plan", *words)["recommended"]["weight_bytes"]
    for share, quant, warned in ((1, "q4f32_1", ""), (0.88, "q4f32_1", "+14%"), (1, "q4f16_1", "is of q4f32_1")):
        plan = planned_file(tmp_path / "plan.json", words, weight_bytes=round(share * size))
        caplog.clear()
        build = ["build", "demo:tiny", "--target", "host", "--quant", quant, "-o", tmp_path / "dist", "--force"]
        result = run(*build, "--expect", plan)
        assert result.exit_code == 0, result.output
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [warned in line for line in warnings if "the plan" in line] == ([True] if warned else [])


def test_a_bench_says_where_the_plan_is_off(tmp_path, caplog):
    """A token of 0.3 s after 256 + 64 / 2 tokens of a context of 576: between 0.2 s when empty and 0.4 s."""
    figure = {"how": "predicted"}
    expected = {
        "quantization": "q4f16_0", "context": 576, "weight_bytes": 10,
        "decode_s": {"value": 0.4, "other": 0.2, **figure},
        "empty_s": 0.2, "prefill_s": {"256": {"value": 2.0, **figure}, "512": {"value": None, "how": "unknown"}},
    }  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps({"recommended": expected}))
    read = read_expected(tmp_path / "plan.json")
    lengths = {"prefill_tokens": 256, "decode_tokens": 64}
    measured = {"model": "dist", "device": "phone", "quantization": "q4f16_0", **lengths}
    for ttft_s, token_s, warnings in (
        (2.1, 0.3, []),
        (1.9, 0.16, []),
        (2.3, 0.3, ["+15%"]),
        (2.0, 0.34, ["+13%"]),
        (2.0, 0.12, ["-20%"]),
        (1.0, 0.6, ["-50%", "+100%"]),
    ):
        caplog.clear()
        read.compare_bench([{**measured, "ttft_s": ttft_s, "decode_tok_s": 1 / token_s}])
        said_of_it = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [line.rpartition(" ")[2] for line in said_of_it] == warnings, said_of_it
    caplog.clear()
    beyond = {"prefill_tokens": 512, "decode_tokens": 256, "ttft_s": 9.0, "decode_tok_s": 9.0}
    read.compare_bench([measured | beyond])
    assert not caplog.records


@pytest.mark.slow
def test_bench_and_build_read_the_plan_before_they_begin(built_dist, tmp_path, caplog):
    file, log = tmp_path / "plan.json", tmp_path / "log.jsonl"
    for content, said_of_it in (
        (None, r"does not exist\s+Write it: edge-transact plan"),
        ('{"recommended": null}', r"recommends no single model\s+Plan for one"),
        ("{}", r"plan.json .*what plan --json prints.*\s+Write it: edge-transact plan"),
    ):
        if content:
            file.write_text(content)
        for words in (["bench", built_dist, "-o", log], ["build", "demo:tiny", "-o", tmp_path / "dist"]):
            code, _, err = edge_transact(*words, "--expect", file)
            assert code in (1, 2) and re.search(said_of_it, err, re.DOTALL), err
    assert list(tmp_path.iterdir()) == [file]
    words = ["demo:tiny", "--quant", "q4f32_1", "--no-heal", "--phone", "galaxy-s23", "--prompts", 16]
    bench = ["bench", built_dist, "--lengths", "16+4", "--repetitions", 2, "-o", log]
    result = run(*bench, "--expect", planned_file(file, words))
    assert result.exit_code == 0, result.output
    compared = [record.getMessage() for record in caplog.records if "the plan said" in record.getMessage()]
    assert [line.partition(" of ")[0] for line in compared] == ["time to the first token", "a token"]


def test_what_is_refused(model, tiny_model, tmp_path):
    profile = tmp_path / "profile.json"
    made_profile(model, profile)
    for words, said_of_it in (
        (
            ["--memory", "10k"],
            r"nothing is within the limits: the nearest is .*, cut by 50%, q\d.*--memory allows 0.0 MB",
        ),
        (
            ["--phone", "galaxy-s22", "--max-prefill", "256:1us"],
            r"--max-prefill allows 0.001 ms, and it takes an unknown time",
        ),
        (["--max-decode", "5ms"], r"no device is given\s+Give --profile.*galaxy-s23"),
        (["--profile", profile, "--phone", "galaxy-s23"], "--profile and --phone"),
        (["--phone", "galaxy-s0"], r"unknown phone 'galaxy-s0'\s+Did you mean 'galaxy-s2.'\? There are: galaxy-s22"),
        (["--profile", profile, "--context", 4096], r"a context of 4,096 tokens is beyond the profile's 2,048"),
        (["--profile", profile, "--quant", "q4f16_1"], "the profile is of q4f16_0, and the model is to be q4f16_1"),
        (["--profile", tmp_path / "none.json"], "does not exist"),
        (["--memory", "600 apples"], "is not a number of bytes"),
        (["--max-prefill", "1.5s"], "is not a number of tokens and a time"),
        (["--max-decode", "fast", "--phone", "galaxy-s23"], "is not a time"),
        (["--ratios", "0.1,30"], "30 is not between 0 and 1"),
        (["--prompts", "100,200", "--context", 150], "200 tokens are more than the context, 150"),
    ):
        code, out, err = edge_transact("plan", model, *words)
        assert (code, out) == (2, "") and re.search(said_of_it, err, re.DOTALL), (words, err)
    code, _, err = edge_transact("plan", tiny_model, "--context", 129)
    assert code == 2 and "129 tokens are more than the model's maximum, 128" in err
    code, _, err = edge_transact("plan", tiny_model, "--profile", profile)
    assert code == 2 and "the profile is of a model whose" in err
