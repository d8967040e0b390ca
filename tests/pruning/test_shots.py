"""Pruning in shots with a training after each: the published schedule, what each shot is, and where it goes on."""

import gc
import json
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import UsageError
from edge_transact.healing import train
from edge_transact.healing.options import HealOptions
from edge_transact.healing.run import heal
from edge_transact.healing.student import Student
from edge_transact.inputs.source import pruned_from
from edge_transact.pruning.options import PruneOptions, ShotTraining
from edge_transact.pruning.run import prune
from edge_transact.pruning.shots import ShotTrainer, shot_trainings
from tests.support.command import edge_transact
from tests.support.damage import flip
from tests.support.interruption import KilledError, write_every_state
from tests.support.pruning import weights_of

pytestmark = pytest.mark.usefixtures("own_cache")

SIZES = {"train_window": 64, "batch_tokens": 256, "micro_batch_tokens": 256, "learning_rate": 3e-3}
TOKENS = 256 * 8
"""Of all shots."""


@pytest.fixture(scope="module")
def trainer(random_model: Path, chapters: Path) -> ShotTrainer:
    return ShotTrainer(ShotTraining(train=str(chapters), train_tokens=TOKENS, **SIZES), str(random_model))


@pytest.fixture(scope="module")
def whole(random_model: Path, trainer: ShotTrainer, calibration: dict, tmp_path_factory) -> Path:
    """`random_model` by two shots of `obs`, without an interrupt."""
    path = tmp_path_factory.mktemp("whole") / "pruned"
    prune(str(random_model), path, PruneOptions(ratio=0.4, shots=2, **calibration), trainer)
    return path


def test_tokens_and_rates_are_those_of_the_paper() -> None:
    """1 B tokens over 8 shots, half of an even share in the first and one and a half in the last, up to 1e-4."""
    paper = ShotTraining(train="corpus", train_tokens=10**9, learning_rate=5e-5, cross_entropy=1.0)
    shots = shot_trainings(paper, 8, "model", seed=0)
    assert [shot.train_tokens for shot in shots][::7] == [62_500_000, 187_500_000]
    assert [round(shot.learning_rate, 9) for shot in shots][:2] == [1.25e-5, 2.5e-5]
    assert shots[-1].learning_rate == pytest.approx(1e-4) and len({shot.seed for shot in shots}) == 8
    assert all(shot.teacher is None for shot in shots)


@given(st.integers(1, 12), st.integers(1000, 10**9))
def test_the_shots_share_the_tokens(shots: int, tokens: int) -> None:
    trainings = shot_trainings(ShotTraining(train="corpus", train_tokens=tokens), shots, "model", seed=3)
    assert abs(sum(each.train_tokens for each in trainings) - tokens) <= shots
    sizes = [each.train_tokens for each in trainings]
    assert sizes == sorted(sizes) and all(each.teacher == "model" for each in trainings)


def test_a_shot_is_a_pruning_and_a_training(random_model, trainer, calibration, chapters, tmp_path: Path) -> None:
    """The official code's widths: MLP dims 96, 64, 32; then by hand, to the bit."""
    options = PruneOptions(intermediate=32, method="transact", shots=2, **calibration)
    prune(str(random_model), tmp_path / "shots", options, trainer)

    model, teacher = str(random_model), str(random_model)
    for shot, (dims, tokens) in enumerate([(64, TOKENS // 4), (32, 3 * TOKENS // 4)]):
        one = PruneOptions(intermediate=dims, method="transact", **calibration)
        prune(model, tmp_path / f"cut{shot}", one)
        sizes = SIZES | {"train_tokens": tokens, "learning_rate": SIZES["learning_rate"] * (shot + 1)}
        how = HealOptions(train=str(chapters), teacher=teacher, seed=shot, **sizes)
        heal(str(tmp_path / f"cut{shot}"), tmp_path / f"healed{shot}", how)
        model = str(tmp_path / f"healed{shot}")
    assert weights_of(tmp_path / "shots") == weights_of(Path(model))


@pytest.mark.soak
def test_only_one_shots_model_is_in_memory(random_model, trainer, calibration, tmp_path, monkeypatch) -> None:
    """With gradients and AdamW's means it is most of what a training takes, and accelerate keeps what it is given."""
    alive: weakref.WeakSet[Student] = weakref.WeakSet()
    counts = []

    class Counted(Student):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            gc.collect()
            alive.add(self)
            counts.append(len(alive))

    monkeypatch.setattr("edge_transact.healing.run.Student", Counted)
    options = PruneOptions(intermediate=32, method="magnitude", shots=3, **calibration)
    prune(str(random_model), tmp_path / "shots", options, trainer)
    assert counts == [1, 1, 1]


def test_best_is_compensated_trained_and_recorded(random_model: Path, whole: Path) -> None:
    record = json.loads((whole / "edge_transact.json").read_text())
    first, second = record["healed"]
    assert record["source"] == first["teacher"] == second["teacher"] == random_model.name and record["shots"] == 2
    assert (first["train_tokens"], second["train_tokens"]) == (TOKENS // 4, 3 * TOKENS // 4)
    assert second["loss"] < second["loss_before"]
    checkpoint, source = Checkpoint.open(whole), Checkpoint.open(random_model)
    assert 1 - sum(layer.intermediate_size for layer in checkpoint.plan.layers) / (4 * 96) > 0.35 or (
        checkpoint.plan.layers != source.plan.layers
    )
    (limit,), losses = record["limits"], record["losses"]
    assert limit["measured"] == costs.prunable_parameters(checkpoint.plan) and len(losses) == len(source.plan.layers)
    assert pruned_from(checkpoint).path == random_model
    model = AutoModelForCausalLM.from_pretrained(whole, dtype="auto")
    written = load_file(whole / "model.safetensors")
    assert model.model.layers[1].mlp.up_proj.weight.equal(written["model.layers.1.mlp.up_proj.weight"])


@pytest.mark.parametrize(
    "where", [pytest.param("between shots", marks=pytest.mark.soak), "inside the second shot's training"]
)
def test_it_goes_on_where_it_was_interrupted(
    random_model: Path,
    trainer: ShotTrainer,
    calibration: dict,
    whole: Path,
    tmp_path: Path,
    monkeypatch,
    caplog,
    where: str,
) -> None:
    begun, step, init = [], train.Training._step, train.Training.__init__

    def counted(self, *arguments, **options) -> None:
        begun.append(self)
        if where == "between shots" and len(begun) == 2:
            raise KilledError
        init(self, *arguments, **options)

    def dying(self, sequences) -> None:
        if len(begun) == 2 and self._done == 3 and where != "between shots":
            raise KilledError
        step(self, sequences)

    write_every_state(monkeypatch)
    monkeypatch.setattr(train.Training, "__init__", counted)
    monkeypatch.setattr(train.Training, "_step", dying)
    options = PruneOptions(ratio=0.4, shots=2, **calibration)
    with pytest.raises(KilledError):
        prune(str(random_model), tmp_path / "out", options, trainer)
    assert not (tmp_path / "out").exists() and len(begun) == 2
    if where == "between shots":
        (kept,) = (tmp_path / "cache").glob("unfinished/*/shot-2-pruned/model.safetensors")
        flip(kept)
    prune(str(random_model), tmp_path / "out", options, trainer, resume=True)
    assert len(begun) == 3, "the first shot was not trained again"
    assert where != "between shots" or f"{kept.parent} is damaged: making it again" in caplog.text
    assert weights_of(tmp_path / "out") == weights_of(whole)
    assert not list((tmp_path / "cache").glob("unfinished/*/shot-*")), "what was kept is gone"


def test_command_says_what_it_will_do_and_reports_it(random_model: Path, chapters: Path, tmp_path: Path) -> None:
    words = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", value)]
    words += ["--ratio", 0.3, "--shots", 2, "--train", chapters, "--train-tokens", TOKENS, "--method", "transact"]
    words += ["--calibration", chapters, "--calibration-tokens", 512, "-o", tmp_path / "out"]
    code, out, err = edge_transact("prune", random_model, *words, "--dry-run", "--json")
    assert code == 0, err
    names = [step["name"] for step in json.loads(out)["steps"]]
    assert names.count("train") == 2 and names.index("train") < names.index("score, shot 2 of 2")
    code, out, err = edge_transact("prune", random_model, *words, "--report", tmp_path / "report", "--json")
    assert code == 0, err
    assert len(json.loads(out.splitlines()[-1])["healed"]) == 2
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"<span>--train-tokens</span> <span>{TOKENS}</span>" in page


def test_training_without_a_text_is_refused() -> None:
    with pytest.raises(UsageError, match="learning-rate"):
        ShotTraining(learning_rate=1e-4)
