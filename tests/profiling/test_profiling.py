"""Times of kernels are found from times of probes, through the runner of a bench, and refused where they don't hold."""

import math
import random
from collections.abc import Generator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

import edge_transact as et
from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.drivers.base import RunFailed
from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.records.lines import Line, LoadLine, RepetitionLine
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.compiler.identity import require_current
from edge_transact.costs.profile import read_profile
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.profiling import run as profiling
from edge_transact.profiling.options import ProfileOptions
from edge_transact.profiling.probes import Maker, depth_of, probes_of
from edge_transact.quantization import get_quantization
from edge_transact.runtime.host import HostModel
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.bench_runs import NoisyDevice
from tests.support.checkpoints import save_llama
from tests.support.command import edge_transact, said
from tests.support.dists import make_dist

Q4 = get_quantization("q4f32_1")
WIDEST = LayerWidths(16, 8, 64, 64, 1024)
PLAN = WidthPlan(256, 2000, True, False, False, (WIDEST,) * 8)


def pass_s(plan: WidthPlan, tokens: int, past: float) -> float:
    """Seconds of a pass on a device that streams 10 GB/s or computes 100 GFLOPs/s, and starts 50,000 kernels a second.

    It writes nothing of `costs.profile`'s: matrices and attention calls are counted here.
    """
    seconds = 1e-3 + plan.vocab_size * plan.hidden_size * 0.625 / 10e9
    calls = math.gcd(*(layer.num_key_value_heads for layer in plan.layers))
    dim = max(-(-max(layer.qk_head_dim, layer.v_head_dim) // 16) * 16 for layer in plan.layers)
    has_own_dims = any({layer.qk_head_dim, layer.v_head_dim} - {0, plan.head_dim} for layer in plan.layers)
    for layer in plan.layers:
        q, kv, v = layer.num_attention_heads, layer.num_key_value_heads, layer.v_head_dim
        of_attention = (q + kv) * layer.qk_head_dim + kv * v + q * v
        weights = plan.hidden_size * (of_attention + 3 * layer.intermediate_size)
        seconds += max(weights * 0.625 / 10e9, 2 * tokens * weights / 100e9)
        seconds += 2e-5 * (3 * layer.has_mlp + 4 * layer.has_attention)
        if kv:
            pairs = tokens * past + tokens * (tokens + 1) / 2
            seconds += kv // calls * 4e-5 + pairs * q * (5e-10 + 2e-11 * dim) + 3e-5 * has_own_dims
    return seconds


class Known(NoisyDevice):
    """A device on which a model takes what `pass_s` says, times noise. `dies_after` so many visits, it is unplugged."""

    def __init__(self, noise: float = 0.0, dies_after: float = math.inf) -> None:
        super().__init__({}, noise)
        self.dies_after = dies_after

    def lines(self, model, visit, stop) -> Generator[Line, None, None]:
        self.visited.append((model.name, visit.round))
        if len(self.visited) > self.dies_after:
            raise KeyboardInterrupt
        yield LoadLine(run="", load_s=1.0, threads=2)
        prompt, decoded = visit.lengths.prefill_tokens, visit.lengths.decode_tokens
        for index in range(visit.repetitions):
            noise = math.exp(abs(self._dice.gauss(0, self._noise)))
            chunks = [(min(256, prompt - start), start) for start in range(0, prompt, 256)]
            prefill_s = noise * sum(pass_s(model.manifest.plan, *chunk) for chunk in chunks)
            steps = tuple(noise * pass_s(model.manifest.plan, 1, prompt + step) for step in range(decoded - 1))
            yield RepetitionLine(
                run="", index=index, ttft_s=prefill_s, prefill_s=prefill_s, decode_s=sum(steps), decode_steps_s=steps,
                e2e_s=prefill_s + sum(steps), tokens=None, prefill_tokens=prompt, decode_tokens=decoded,
            )  # fmt: skip


@pytest.fixture
def on_device(monkeypatch):
    """Makes a device what profiles are measured on, and stand-ins of probes, which aren't compiled."""

    def make(maker: Maker, plan: WidthPlan, path: Path) -> None:
        make_dist(path, targets=(), context=4096)
        manifest = Manifest.read(path)
        vars(manifest)["plan"] = plan
        (path / "manifest.json").unlink()
        manifest.write(path)

    def use(device: Known) -> Known:
        monkeypatch.setattr(profiling, "drivers_of", lambda *_, **__: [device])
        monkeypatch.setattr(Maker, "make", make)
        monkeypatch.setattr(profiling, "shape_of_model", lambda model: (PLAN, {}, None))
        return device

    return use


def varied_plans(count: int) -> list[WidthPlan]:
    draw = random.Random(1)

    def layer() -> LayerWidths:
        heads, dims = draw.randint(1, 8), [draw.randrange(32, 65, 8) for _ in range(2)]
        mlp = draw.randrange(128, 1025, 32)
        return draw.choice(
            [LayerWidths(2 * heads, heads, *dims, mlp)] * 5
            + [LayerWidths(0, 0, 0, 0, mlp), replace(WIDEST, intermediate_size=0)]
        )

    return [PLAN.with_layers([WIDEST if draw.random() < 0.3 else layer() for _ in PLAN.layers]) for _ in range(count)]


def test_plans_are_priced_by_what_probes_took(on_device, tmp_path):
    on_device(Known())
    made = profiling.profile("model", tmp_path / "profile.json", ProfileOptions(quant="q4f32_1"))
    profile = read_profile(tmp_path / "profile.json")
    assert profile == made.profile and profile.is_measured and made.misfit < 0.01
    for plan in varied_plans(20):
        profile.check(plan, "q4f32_1", [256, 2048])
        for context in (100, 256, 1500, 2048):
            assert profile.decode_s(plan, context) == pytest.approx(pass_s(plan, 1, context), rel=0.03)
        chunks = [(256, 0), (256, 256), (100, 512)]
        assert profile.prefill_s(plan, 612) == pytest.approx(sum(pass_s(plan, *chunk) for chunk in chunks), rel=0.03)
    require_current(profile)


def test_noise_adds_rounds_and_is_told(on_device, tmp_path, caplog):
    quiet = on_device(Known(0.001))
    options = ProfileOptions(quant="q4f32_1", contexts=[256], repetitions=2, until=0.05)
    profile = profiling.profile("model", tmp_path / "quiet.json", options).profile
    assert {number for _, number in quiet.visited} == {0, 1}
    profile.check(PLAN, "q4f32_1", [256])
    noisy = on_device(Known(0.5))
    profile = profiling.profile("model", tmp_path / "noisy.json", options).profile
    assert {number for _, number in noisy.visited} == {0, 1, 2, 3}
    assert "after 4 rounds" in caplog.text
    with pytest.raises(UsageError, match=r"noisy: .*% of a token"):
        profile.check(PLAN, "q4f32_1", [256])


def test_an_interrupted_profile_goes_on(on_device, tmp_path):
    options = ProfileOptions(quant="q4f32_1", contexts=[256], repetitions=2, until=0.05)
    first = on_device(Known(dies_after=7))
    with pytest.raises(KeyboardInterrupt):
        profiling.profile("model", tmp_path / "p.json", options)
    assert not (tmp_path / "p.json").exists()
    second = on_device(Known())
    profiling.profile("model", tmp_path / "p.json", options)
    assert len(first.visited[:7]) + len(second.visited) == 2 * 2 * len(probes_of(PLAN, depth_of(PLAN, Q4)))


def test_a_probe_that_fails_is_named(on_device, tmp_path, monkeypatch):
    device = on_device(Known())
    lines = device.lines

    def fail(model, visit, stop):
        if "MLP 128" in model.name:
            raise RunFailed("killed")
        return lines(model, visit, stop)

    monkeypatch.setattr(device, "lines", fail)
    with pytest.raises(EdgeTransactError, match=r"(?s)not everything.*MLP 128") as caught:
        profiling.profile("model", tmp_path / "p.json", ProfileOptions(quant="q4f32_1", contexts=[256], repetitions=2))
    assert "p.json.jsonl" in caught.value.fix and not (tmp_path / "p.json").exists()


def test_probes_differ_by_one_width():
    probes = probes_of(PLAN, 4)
    whole = probes[0].plan
    assert whole.layers == (WIDEST,) * 4
    for probe in probes[2:]:
        fields = {name for a in probe.plan.layers for name in vars(a) if getattr(a, name) != getattr(WIDEST, name)}
        assert (
            1
            <= len(fields - {"num_attention_heads"})
            <= (2 if "heads of" in probe.name else 3 if "no att" in probe.name else 1)
        )
    with_norms = replace(PLAN, use_qk_norm=True)
    assert {layer.qk_head_dim for probe in probes_of(with_norms, 2) for layer in probe.plan.layers} == {64, 0}
    # One KV head, one layer of each: what can't be narrowed isn't.
    least = WidthPlan(64, 100, True, False, False, (LayerWidths(1, 1, 16, 16, 32),) * 2)
    assert [probe.name for probe in probes_of(least, 2)] == ["whole", "half as deep", "no attention", "no MLP"]


def test_the_depth_of_probes_follows_their_weights():
    llama = WidthPlan(4096, 32000, False, False, False, (LayerWidths(32, 32, 128, 128, 11008),) * 32)
    assert depth_of(llama, Q4) == 2
    smol = WidthPlan(576, 49152, True, False, False, (LayerWidths(9, 3, 64, 64, 1536),) * 30)
    assert depth_of(smol, Q4) == 30


def test_a_probe_runs(tmp_path):
    """It is built without the model's weights, and gives finite numbers; half of its layers lack attention or dims."""
    layers = (LayerWidths(4, 2, 8, 16, 64), LayerWidths(4, 2, 16, 16, 96))
    plan = WidthPlan(64, 100, True, True, False, layers, head_dim=16)
    sizes = {"hidden_size": 64, "vocab_size": 100, "head_dim": 16}
    config = {"tie_word_embeddings": True, "attention_bias": True, "rms_norm_eps": 1e-5, "rope_theta": 1e4, **sizes}
    Maker(config, Q4, "host", {"context_window_size": 64, "prefill_chunk_size": 16}).make(plan, tmp_path / "probe")
    (model,) = open_models([tmp_path / "probe"], [Lengths(20, 4)])
    host = HostModel.load(model.path)
    logits = [host.prefill(model.prompt(20)), host.decode(3)]
    assert all(math.isfinite(value) for value in chain(*logits)) and len(logits[0]) == 100


def test_a_roofline_on_the_command_line(tmp_path):
    model = save_llama(tmp_path / "model")
    words = ["profile", model, "--gflops", 300, "--bandwidth-gb-s", 50, "--contexts", 64, "-o", tmp_path / "p.json"]
    made = said(*words)
    assert made["device"]["bandwidth_bytes_per_s"] == 50e9 and not made["is_measured"]
    assert made["quantization"] == "q4f32_1" and {each["module"] for each in made["kernels"]} >= {"mlp", "attention"}
    assert edge_transact(*words)[0] == 1  # it exists
    api = et.profile(model, tmp_path / "api.json", gflops=300, bandwidth_gb_s=50, contexts=[64])
    assert api.profile == read_profile(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gflops": 300.0}, "half a roofline"),
        ({"gflops": 3.0, "bandwidth_gb_s": 5.0, "threads": 2}, "--threads says nothing"),
        ({"device": "all"}, "of one device"),
        ({"device": "abc", "target": "host"}, "doesn't run on abc"),
    ],
)
def test_options_that_contradict_each_other(given, message):
    with pytest.raises(UsageError, match=message):
        ProfileOptions(**given)


def test_a_phone_that_is_not_there(tmp_path, monkeypatch):
    """It is said before probes are built."""
    monkeypatch.setattr(Maker, "make", lambda *_: pytest.fail("a probe was built"))
    with pytest.raises(EdgeTransactError, match=r"adb"):
        profiling.profile(
            str(save_llama(tmp_path / "model")), tmp_path / "p.json", ProfileOptions(device="nobody", contexts=[64])
        )


def test_a_profile_of_elsewhere(on_device, tmp_path):
    on_device(Known())
    options = ProfileOptions(quant="q4f32_1", contexts=[256], repetitions=2, until=0.05)
    profile = profiling.profile("model", tmp_path / "p.json", options).profile
    assert profile.device["threads"] == 2
    for changed, message in (
        ({"device": {**profile.device, "cpu": "Another CPU"}}, "another machine: its cpu is Another CPU"),
        ({"library": {**profile.library, "code": "0"}}, "another version"),
    ):
        with pytest.raises(UsageError, match=message):
            require_current(profile.model_copy(update=changed))
