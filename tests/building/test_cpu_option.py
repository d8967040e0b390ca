"""``--cpu``: the CPU that a host library is for, known or not, and where the library runs."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from edge_transact.artifacts.manifest import Manifest
from edge_transact.building import dist
from edge_transact.building.concerns import concerns
from edge_transact.cli import app
from edge_transact.compiler.targets import get_target
from edge_transact.errors import UsageError
from edge_transact.evaluation import requirements
from edge_transact.quantization import get_quantization
from edge_transact.system import cpu as features
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.dists import edit_json, make_dist

X86 = platform.machine() == "x86_64"
PLAIN, WIDE = ("x86-64", "znver5") if X86 else ("cortex-a53", "neoverse-v2")
SIZES = {"context_window_size": 128, "prefill_chunk_size": 64, "max_batch_size": 1}


def test_a_cpu_that_llvm_does_not_know():
    result = CliRunner().invoke(app, ["build", "demo:tiny", "--target", "host", "--cpu", f"{WIDE}x"])
    assert result.exit_code == 2 and f"LLVM knows no CPU '{WIDE}x'" in result.stderr
    assert f"Did you mean '{WIDE}'?" in result.stderr


@pytest.mark.skipif(not X86, reason="other architectures have no CPUs of 32 bits under this name")
@pytest.mark.parametrize("cpu", ["i386", "pentium4"])
def test_a_cpu_of_32_bits(cpu):
    with pytest.raises(UsageError, match=f"'{cpu}' is a CPU of 32 bits"):
        get_target("host", cpu=cpu)


def test_another_targets_cpu_is_its_own():
    assert get_target("android-cpu", cpu=WIDE) == get_target("android-cpu")
    with pytest.raises(UsageError):
        get_target("host", cpu="haswel")


def test_a_cpu_that_no_library_asks_for():
    plan = WidthPlan(64, 100, True, False, False, (LayerWidths(4, 2, 16, 16, 32),))
    (said,) = concerns(plan, get_quantization("q4f16_0"), ["android"], **SIZES, cpu=WIDE)
    assert said.startswith(f"--cpu {WIDE} says what CPU")
    assert concerns(plan, get_quantization("q4f16_0"), ["host"], **SIZES, cpu=WIDE) == []


@pytest.fixture
def plain_cpu(tmp_path, monkeypatch):
    """This machine's CPU has what `PLAIN` has, and no more."""
    file = tmp_path / "cpuinfo"
    file.write_text("flags : sse4_2\n" if X86 else "Features : asimd\n")
    monkeypatch.setattr(features, "CPUINFO", file)


def test_a_cpu_that_this_machine_is_not(plain_cpu):
    """Its library isn't run to compare it with torch."""
    assert not get_target("host", cpu=WIDE).runs_here() and get_target("host", cpu=PLAIN).runs_here()
    assert get_target("host").runs_here() and not get_target("android-cpu").runs_here()


@pytest.mark.parametrize(("cpu", "asked"), [(PLAIN, True), (WIDE, False)])
def test_a_library_is_asked_questions_where_it_runs(plain_cpu, tmp_path, tiny_model, monkeypatch, cpu, asked):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    edit_json(model / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    path, gated = make_dist(tmp_path / "made", targets=()), []
    (path / "lib" / "host.so").touch()
    parity = {"prefill_error": 0.0, "decode_error": 0.0, "token_agreement": 1.0, "library": "host"}
    manifest = replace(Manifest.read(path), libraries={"host": "lib/host.so"}, parity=parity)
    made = dist.Build(path, manifest, (), 0.0)
    monkeypatch.setattr(dist, "build", lambda *arguments, **options: made)
    monkeypatch.setattr(requirements, "gate", gated.append)
    command = ["build", str(model), "--target", "host", "--cpu", cpu, "-o", str(tmp_path / "dist"), "--json"]
    planned = CliRunner().invoke(app, [*command, "--dry-run"])
    assert ("questions" in planned.stdout) is asked
    assert CliRunner().invoke(app, command).exit_code == 0
    assert gated == [path] * asked
