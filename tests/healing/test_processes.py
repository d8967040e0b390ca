"""Training with two real processes: the losses of one, resumed on another number, and one that dies."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.errors import UsageError
from edge_transact.healing.options import HealOptions
from edge_transact.healing.processes import Processes
from edge_transact.healing.run import heal
from edge_transact.pruning.options import PruneOptions, ShotTraining
from edge_transact.pruning.run import prune
from edge_transact.pruning.shots import ShotTrainer
from tests.support.examples import ROOT
from tests.support.patience import HANG_S
from tests.support.pruning import another_cache

SIZES = {"train_tokens": 64 * 4 * 6, "batch_tokens": 256, "micro_batch_tokens": 64, "learning_rate": 3e-3}
AGAINST_LOOPS = SIZES | {"train_tokens": 64 * 4 * 4, "micro_batch_tokens": 128, "unlikelihood": 1.0}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    # Accelerate keeps one precision for a process, and other tests have trained in this one.
    AcceleratorState._reset_state(reset_partial_state=True)
    another_cache(tmp_path / "cache", monkeypatch)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield dict(os.environ)
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(rows: list[dict]) -> list[float]:
    return [row["loss"] for row in rows if "loss" in row]


LAUNCHER = """
import os, signal, sys, traceback
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from edge_transact.healing import run, train
from edge_transact.pruning import run, shots
together = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
for line in sys.stdin:
    code, environment, output = eval(line)
    if not (child := os.fork()):
        signal.alarm(300)
        os.environ.update(environment)
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1), os.dup2(file, 2)
        try:
            elastic_launch(LaunchConfig(**together, max_restarts=0, start_method="fork"), exec)(code, {})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def launcher() -> Iterator[subprocess.Popen]:
    """Forks what torchrun would launch, which imports everything twice, from a process that has imported it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], **pipes) as process:
        yield process
        process.communicate(timeout=HANG_S)


@pytest.fixture
def launched(launcher: subprocess.Popen, environment, tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """Runs Python code in two processes that know of each other: the exit status, and what they print."""

    def launch(code: str) -> tuple[int, str]:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
        launcher.stdin.write(f"{(code, environment, str(output))!r}\n")
        launcher.stdin.flush()
        return int(launcher.stdout.readline()), output.read_text()

    return launch


def by_torchrun(environment: dict[str, str], code: str) -> subprocess.CompletedProcess:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python", sys.executable]
    return subprocess.run(
        [sys.executable, *torchrun, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_S
    )


def code_of(model: Path, output: Path, text: Path, before: str = "", **options) -> str:
    return (
        "import os\nfrom pathlib import Path\n"
        "from edge_transact.cache import journal\nfrom edge_transact.healing import train\n"
        "from edge_transact.healing.options import HealOptions\nfrom edge_transact.healing.run import heal\n"
        "journal.STATE_S, journal.STATE_SHARE = 0, 1e9\n"
        f"{before}\n"
        f"done = heal({str(model)!r}, Path({str(output)!r}), HealOptions(train={str(text)!r}, **{SIZES | options!r}))\n"
        "import json\n"
        f"if done.is_main: Path({str(output)!r} + '.json').write_text(json.dumps(done.measures.rows))\n"
    )


DIES = """
step = train.Training._step
def dying(training, sequences):
    if training._done == 3 and training.processes.rank == 1:
        {how}
    step(training, sequences)
train.Training._step = dying
"""


@pytest.mark.slow
def test_two_processes(pruned_model: Path, chapters: Path, tmp_path: Path, environment, launched) -> None:
    """They have the losses of one process, and when one fails or is killed, the other stops and one process goes on."""
    options = HealOptions(train=str(chapters), **AGAINST_LOOPS)
    expected = losses(heal(str(pruned_model), tmp_path / "one", options).measures.rows)

    dies = DIES.format(how="os.kill(os.getpid(), 9)")
    killed = code_of(pruned_model, tmp_path / "two", chapters, dies, **AGAINST_LOOPS)
    result = by_torchrun(environment, killed)
    # torchrun names the signal, and ends process 0, which may have said before that it lost the connection.
    words = ("Signal 9 (SIGKILL) received", "process 0 lost the connection to another process")
    assert result.returncode != 0 and any(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "two").exists()

    dies = DIES.format(how="raise OSError('the text is gone')")
    status, output = launched(code_of(pruned_model, tmp_path / "two", chapters, dies, **AGAINST_LOOPS))
    assert status != 0 and "the text is gone" in output, output

    again = heal(str(pruned_model), tmp_path / "two", options, resume=True)
    assert losses(again.measures.rows) == pytest.approx(expected, abs=1e-5)

    status, output = launched(code_of(pruned_model, tmp_path / "both", chapters, **AGAINST_LOOPS))
    assert status == 0, output
    assert losses(json.loads((tmp_path / "both.json").read_text())) == pytest.approx(expected, abs=1e-5)


SHARDED = """
# Accelerate shards on accelerators alone. What it does there works on CPUs, once it takes them for some.
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor
from edge_transact.healing import processes
init, run = processes.Processes.__init__, train.Training.run
def pretending(self):
    init(self)
    self.accelerator.state.distributed_type = DistributedType.FSDP
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    self.accelerator.state.fsdp_plugin = plugin
def checked(training):
    parameters = list(training.model.parameters())
    assert all(isinstance(each, DTensor) and each.to_local().numel() < each.numel() for each in parameters)
    return run(training)
processes.Processes.__init__, train.Training.run = pretending, checked
"""


@pytest.mark.soak
def test_sharded_weights(pruned_model: Path, chapters: Path, tmp_path: Path, launched) -> None:
    """FSDP2 has the losses of one process, and both continue what two have saved; whole weights are written."""
    options = HealOptions(train=str(chapters), **AGAINST_LOOPS)
    expected = losses(heal(str(pruned_model), tmp_path / "one", options).measures.rows)

    dies = SHARDED + DIES.format(how="raise OSError('the text is gone')")
    status, output = launched(code_of(pruned_model, tmp_path / "two", chapters, dies, **AGAINST_LOOPS))
    assert status != 0 and "the text is gone" in output, output
    unfinished = shutil.copytree(tmp_path / "cache" / "unfinished", tmp_path / "unfinished")
    again = heal(str(pruned_model), tmp_path / "two", options, resume=True)
    assert losses(again.measures.rows) == pytest.approx(expected, abs=1e-5)

    shutil.copytree(unfinished, tmp_path / "cache" / "unfinished", dirs_exist_ok=True)
    assert any((tmp_path / "cache" / "unfinished").glob("*/step-3.safetensors"))
    status, output = launched(code_of(pruned_model, tmp_path / "whole", chapters, SHARDED, **AGAINST_LOOPS))
    assert status == 0 and not any((tmp_path / "cache" / "unfinished").iterdir()), output
    assert losses(json.loads((tmp_path / "whole.json").read_text())) == pytest.approx(expected, abs=1e-5)
    shapes = [
        {name: tensor.shape for name, tensor in load_file(tmp_path / name / "model.safetensors").items()}
        for name in ("one", "whole")
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.soak
@pytest.mark.parametrize("before", ["", SHARDED], ids=["DDP", "FSDP2"])
def test_lora_over_weights_of_another_dtype(
    before: str, random_model: Path, pruned_model: Path, chapters: Path, tmp_path: Path, launched
) -> None:
    """The weights stay bf16, as in their file, beside LoRA's of fp32."""
    model = tmp_path / "model"
    shutil.copytree(pruned_model, model)
    tensors = load_file(model / "model.safetensors")
    stored = {name: each.bfloat16() if each.is_floating_point() else each for name, each in tensors.items()}
    save_file(stored, model / "model.safetensors", {"format": "pt"})
    choices = {"lora": 4, "teacher": str(random_model)}
    one = heal(str(model), tmp_path / "one", HealOptions(train=str(chapters), **SIZES, **choices))
    status, output = launched(code_of(model, tmp_path / "two", chapters, before, **choices))
    assert status == 0, output
    found = losses(json.loads((tmp_path / "two.json").read_text()))
    assert found == pytest.approx(losses(one.measures.rows), abs=1e-5)


def test_fp16_is_refused(environment, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # as `accelerate launch --mixed_precision fp16` does
    with pytest.raises(UsageError, match="mixed precision fp16: training computes in bf16 or fp32"):
        Processes()


def test_recipe_is_a_configuration_of_accelerate() -> None:
    recipe = load_config_from_file(str(ROOT / "examples" / "fsdp2.yaml"))
    assert (recipe.distributed_type.value, recipe.num_processes, recipe.mixed_precision) == ("FSDP", 8, "bf16")
    known = {field.name for field in fields(FullyShardedDataParallelPlugin)}
    assert {name.removeprefix("fsdp_") for name in recipe.fsdp_config} <= known | {"version"}


@pytest.mark.soak
def test_two_processes_train_between_shots(
    random_model: Path, chapters: Path, calibration: dict, tmp_path: Path, launched
) -> None:
    """One prunes, both train, and the model is nearly that of one process."""
    text = str(chapters)
    options = PruneOptions(intermediate=32, method="transact", shots=2, **calibration)
    trainer = ShotTrainer(ShotTraining(train=text, **SIZES), str(random_model))
    one = prune(str(random_model), tmp_path / "one", options, trainer)
    status, output = launched(
        "from pathlib import Path\nfrom edge_transact.pruning.run import prune\n"
        "from edge_transact.pruning.shots import ShotTrainer\n"
        "from edge_transact.pruning.options import PruneOptions, ShotTraining\n"
        f"options = PruneOptions(**{options.model_dump(exclude_unset=True)!r})\n"
        f"trainer = ShotTrainer(ShotTraining(train={text!r}, **{SIZES!r}), {str(random_model)!r})\n"
        f"prune({str(random_model)!r}, Path({str(tmp_path / 'two')!r}), options, trainer)\n",
    )
    assert status == 0, output
    records = [json.loads((tmp_path / name / PROVENANCE_FILE).read_text())["healed"] for name in ("one", "two")]
    for alone, together in zip(*records, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    assert one.checkpoint.plan == Checkpoint.open(tmp_path / "two").plan
