"""``bench --tune``: a phone's clusters as Linux describes them, what is tried, what is taken, and where it is kept."""

import json
import math
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from edge_transact.artifacts.digests import SEAL, UNSEALED, seal
from edge_transact.artifacts.dist_files import TUNING
from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.benchmarking import session
from edge_transact.benchmarking.drivers.adb.clusters import CPUS, parse_clusters
from edge_transact.benchmarking.drivers.base import Cluster, DeviceInfo, ranges
from edge_transact.benchmarking.drivers.host import parse_cores
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.lines import LoadLine, RepetitionLine
from edge_transact.benchmarking.records.tuned import read_tuning
from edge_transact.benchmarking.session import bench_models, plan_bench
from edge_transact.cache import entry_of, lock
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.verification import verify
from tests.support.bench_logs import repetitions
from tests.support.bench_runs import QUICK, NoisyDevice
from tests.support.command import run, said
from tests.support.dists import make_dist
from tests.support.patience import HANG_S

A520, A55, A78, A715, X4 = "d80", "d05", "d41", "d4d", "d82"


def clusters(tree: Path, parts, capacity=None, khz=None, off=(), allowed="0-7", sysfs=True):
    """What is read of a phone that has these files, a core of each design in `parts`."""
    for core in range(len(parts)):
        cpu = tree / f"sys/devices/system/cpu/cpu{core}"
        if not sysfs:
            continue
        (cpu / "cpufreq").mkdir(parents=True)
        (cpu / "online").write_text(f"{int(core not in off)}\n")
        if capacity:
            (cpu / "cpu_capacity").write_text(f"{capacity[core]}\n")
        if khz and core not in off:  # Linux removes these of a core that is off
            (cpu / "cpufreq/cpuinfo_max_freq").write_text(f"{khz[core]}\n")
    for name in ("sys/devices/system/cpu/cpufreq", "proc/self"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "proc/self/status").write_text(f"Name:\tsh\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n")
    told = [
        f"processor\t: {core}\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0x{part}\nCPU revision\t: 0\n\n"
        for core, part in enumerate(parts)
        if part and core not in off
    ]
    (tree / "proc/cpuinfo").write_text("".join(told))
    script = CPUS.replace("/sys/", f"{tree}/sys/").replace("/proc/", f"{tree}/proc/")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert not done.stderr
    return parse_clusters(done.stdout)


def kinds(found):
    return [(each.name, ranges(each.cores), each.max_mhz) for each in found]


ONE_FIVE_TWO = [A520] * 2 + [A715] * 5 + [X4]
CAPACITY = [289] * 2 + [830] * 5 + [1024]
KHZ = [2_265_600] * 2 + [3_148_800] * 5 + [3_302_400]


def test_capacity_tells_1_5_2_apart(tmp_path):
    found = clusters(tmp_path, ONE_FIVE_TWO, CAPACITY, KHZ)
    assert kinds(found) == [("prime", "7", 3302.4), ("big", "2-6", 3148.8), ("little", "0-1", 2265.6)]
    assert [round(each.speed, 2) for each in found] == [1, 0.81, 0.28]
    assert str(found[1]) == "big 2-6, 3,149 MHz"


def test_clocks_do_where_there_is_no_capacity_or_one_for_all(tmp_path):
    khz = [1_800_000] * 4 + [2_400_000] * 4
    same = [("big", "4-7", 2400.0), ("little", "0-3", 1800.0)]
    assert kinds(clusters(tmp_path / "a", [A55] * 4 + [A78] * 4, None, khz)) == same
    assert kinds(clusters(tmp_path / "b", [A55] * 4 + [A78] * 4, [1024] * 8, khz)) == same


def test_designs_do_without_cpufreq(tmp_path):
    found = clusters(tmp_path / "a", ONE_FIVE_TWO)
    assert kinds(found) == [("prime", "7", None), ("big", "2-6", None), ("little", "0-1", None)]
    # Nor need there be anything in /sys that the shell may read.
    assert clusters(tmp_path / "b", ONE_FIVE_TWO, sysfs=False) == found
    assert str(found[0]) == "prime 7"


def test_cores_that_are_alike_or_tell_nothing_are_one_cluster(tmp_path):
    found = clusters(tmp_path / "a", [A78] * 8, [1024] * 8, [2_000_000] * 8)
    assert kinds(found) == [("cores", "0-7", 2000.0)]
    assert kinds(clusters(tmp_path / "b", [None] * 8)) == [("cores", "0-7", None)]
    assert clusters(tmp_path / "c", [None] * 8, sysfs=False) == ()


def test_cores_that_are_off_or_not_for_adb_are_left_out(tmp_path):
    found = clusters(tmp_path / "a", ONE_FIVE_TWO, CAPACITY, KHZ, off=(4, 7))
    assert kinds(found) == [("big", "2-3,5-6", 3148.8), ("little", "0-1", 2265.6)]
    # Capacity is of the fastest core that is on, too.
    assert found[0].speed == 1
    found = clusters(tmp_path / "b", ONE_FIVE_TWO, CAPACITY, KHZ, allowed="0-3,6")
    assert kinds(found) == [("big", "2-3,6", 3148.8), ("little", "0-1", 2265.6)]


def test_four_clusters_and_more(tmp_path):
    five, four = [160, 160, 400, 400, 800, 800, 1000, 1024], [160, 160, 400, 400, 800, 800, 800, 1024]
    assert [each.name for each in clusters(tmp_path / "a", [None] * 8, five)] == [f"cluster {i}" for i in range(1, 6)]
    assert [each.name for each in clusters(tmp_path / "b", [None] * 8, four)] == ["prime", "big", "middle", "little"]


@pytest.mark.parametrize(
    "line", ["core ² 5 5", "core 1 0 0", f"core 1 {'9' * 5000} -", "Cpus_allowed_list:\t-", "Cpus_allowed_list:\t0,9-5"]
)
def test_a_phone_may_print_anything(line):
    said = f"core 0 250 1800000\n{line}\nprocessor\t: x\nCPU part\t: 0xzz\n"
    assert 0 in parse_clusters(said)[0].cores


PHONES = {
    "1+5+2": (
        Cluster("prime", (7,), 3302, 1),
        Cluster("big", (2, 3, 4, 5, 6), 3148, 0.8),
        Cluster("little", (0, 1), 2265, 0.3),
    ),
    "4+4": (Cluster("big", (4, 5, 6, 7), 2400, 1), Cluster("little", (0, 1, 2, 3), 1800, 0.75)),
    "8": (Cluster("cores", tuple(range(8)), None, 1),),
    "unknown": (),
}


class Tuned(NoisyDevice):
    """A phone whose repetitions take so many seconds for the prompt and for the answer, by the candidate's cores."""

    target = "android-cpu"
    label = "Phone"

    def __init__(self, seconds, shape="1+5+2", noise=0.001, soc="SM8650", joules=None):
        super().__init__({}, noise)
        self.info = DeviceInfo("s1", "Phone", ("arm64-v8a",), soc=soc, opencl="/lib/cl.so", clusters=PHONES[shape])
        self._by_cores = seconds

    def lines(self, model, visit, stop):
        prefill, decode = self._by_cores.get(model.cores or model.target, (1.0, 1.0))
        self.visited.append((model.name, visit.round))
        yield LoadLine(run="", load_s=1.0, threads=len(parse_cores(model.cores)) or 6)
        steps = visit.lengths.decode_tokens - 1
        for index in range(visit.repetitions):
            prompt, answer = (each * math.exp(self._dice.gauss(0, self._noise)) for each in (prefill, decode))
            yield RepetitionLine(
                run="", index=index, ttft_s=prompt, prefill_s=prompt, decode_s=answer,
                decode_steps_s=(answer / steps,) * steps, e2e_s=prompt + answer, tokens=None,
                prefill_tokens=visit.lengths.prefill_tokens, decode_tokens=visit.lengths.decode_tokens,
            )  # fmt: skip


@pytest.fixture
def dist(tmp_path):
    return make_dist(tmp_path / "dist", context=1024)


@pytest.fixture
def tune(monkeypatch, dist, tmp_path):
    """Tunes the DIST on a phone, with the runner that the NDK built if there is one in ``built``."""
    (tmp_path / "built").mkdir()

    def run(phone, log="log.jsonl", **options):
        monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [phone])
        if (tmp_path / "built/edge-bench").exists():
            options["runner"] = tmp_path / "built"
        quick = QUICK.model_copy(update={"device": "s1", "tune": True, "repetitions": 4} | options)
        return bench_models([dist], quick, log=tmp_path / log, report=tmp_path / f"report-{log}")

    return run


def tried(dist, shape, monkeypatch, **options):
    monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [Tuned({}, shape)])
    options = BenchOptions(device="s1", tune=True, **options)
    return [name.removeprefix("dist").lstrip(", ") for name in plan_bench([dist], options, log=dist / "no").models]


def test_what_is_tried(dist, tmp_path, monkeypatch):
    assert tried(dist, "1+5+2", monkeypatch) == [
        "", "all cores 0-7", "prime 7", "big 2-6", "all but little 2-7", "4 cores 4-7"
    ]  # fmt: skip
    # Cores that were named already aren't tried twice, and decode of this target has four parts.
    assert tried(dist, "4+4", monkeypatch) == ["", "all cores 0-7", "big 4-7", "little 0-3"]
    assert tried(dist, "8", monkeypatch) == ["", "all cores 0-7", "4 cores 4-7"]
    assert tried(dist, "unknown", monkeypatch) == [""]
    # A GPU takes a runner that was built with the NDK, and a library.
    (tmp_path / "edge-bench").touch()
    assert tried(dist, "8", monkeypatch, runner=tmp_path)[-1] == "GPU"
    assert tried(dist, "8", monkeypatch, runner=tmp_path, target="android-cpu")[-1] == "4 cores 4-7"
    only = make_dist(tmp_path / "only" / "dist", ["android-cpu"], context=1024)
    assert tried(only, "8", monkeypatch, runner=tmp_path)[-1] == "4 cores 4-7"


def test_two_benches_of_a_phone_take_turns(dist, tmp_path, monkeypatch, caplog):
    """Also with an install: what one measures isn't slowed by the other."""
    caplog.set_level("INFO", "edge_transact")
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
    phone, serial = NoisyDevice({"dist": 1.0}), "s1"
    phone.info = replace(phone.info, serial=serial)
    monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [phone])
    measure = Thread(target=bench_models, args=([dist], QUICK), kwargs={"log": tmp_path / "log.jsonl"})
    with lock(entry_of("phones", {"serial": serial}), "install"):
        measure.start()
        end = time.monotonic() + HANG_S
        while f"bench on {serial}: waiting" not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
        assert f"bench on {serial}: waiting" in caplog.text and not phone.visited
    measure.join(HANG_S)
    assert phone.visited


def test_a_dry_run_names_the_candidates(dist, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [Tuned({}, "8")])
    monkeypatch.chdir(tmp_path)
    done = run("bench", "dist", "--device", "s1", "--tune", "--dry-run")
    assert done.stdout.splitlines()[1:] == ["  dist", "  dist, all cores 0-7", "  dist, 4 cores 4-7"]
    assert not list(tmp_path.glob("*.jsonl")) and not (dist / TUNING).exists()


def test_the_best_for_each_phase_is_kept_by_chip(tune, dist, tmp_path, caplog):
    """Decode is fastest on four cores, and a prompt on six."""
    caplog.set_level("INFO", "edge_transact")
    found = tune(Tuned({"4-7": (0.9, 0.5), "2-7": (0.5, 0.8)})).tuning
    decode, prefill = found.tuned.decode, found.tuned.prefill
    assert (decode.cores, decode.clear, prefill.cores, prefill.clear) == ([4, 5, 6, 7], True, [2, 3, 4, 5, 6, 7], True)
    assert decode.tok_s == pytest.approx(3 / 0.5, rel=0.01) and prefill.tok_s == pytest.approx(8 / 0.5, rel=0.01)
    assert "decode: dist, 4 cores 4-7 (" in caplog.text and "against dist, all but little 2-7: 1." in caplog.text
    kept = read_tuning(dist)
    assert kept == {"SM8650": found.tuned}
    # Every candidate took turns in each round, and the same command measures nothing more.
    measured = repetitions(tmp_path / "log.jsonl")
    assert len(measured) == 4 * 6 and len({each.model_digest for each in measured}) == 6
    assert measured[0].cpu == "prime 7, 3,302 MHz; big 2-6, 3,148 MHz; little 0-1, 2,265 MHz"
    again = Tuned({})
    assert tune(again).tuning.tuned == found.tuned and not again.visited
    # The page shows clusters and candidates.
    page = (tmp_path / "report-log.jsonl/index.html").read_text()
    assert "What it runs on best" in page and "big 2-6, 3,148 MHz" in page and "--tune" in page
    # Another chip is added, and the same one measured anew is replaced.
    tune(Tuned({"4-7": (0.9, 0.5)}, "4+4", soc="MT6989"), "other.jsonl")
    tune(Tuned({"7": (0.5, 0.5)}), "new.jsonl")
    assert {soc: each.decode.cores for soc, each in read_tuning(dist).items()} == {
        "MT6989": [4, 5, 6, 7],
        "SM8650": [7],
    }


def test_equal_candidates_have_no_winner_and_the_fewest_threads_are_taken(tune, caplog):
    caplog.set_level("INFO", "edge_transact")
    same = (0.5, 0.5)
    found = tune(Tuned({"4-7": same, "2-6": same, "2-7": same}, noise=0.05)).tuning
    assert found.tuned.decode.cores == [4, 5, 6, 7] and not found.tuned.decode.clear
    assert "no clear winner among" in found.sentences[0] and "2-6" in found.sentences[0]
    assert "all cores" not in found.sentences[0]


def test_a_gpu_can_win_one_phase(tune, tmp_path):
    (tmp_path / "built/edge-bench").touch()
    found = tune(Tuned({"android": (0.2, 2.0), "4-7": (1.0, 0.5)})).tuning.tuned
    assert (found.prefill.target, found.prefill.cores) == ("android", [])
    assert (found.decode.target, found.decode.cores) == ("android-cpu", [4, 5, 6, 7])


def test_a_phone_that_does_not_name_its_chip_is_measured_and_nothing_is_kept(tune, dist, caplog):
    outcome = tune(Tuned({"4-7": (0.5, 0.5)}, soc=None))
    assert outcome.tuning.tuned.decode.cores == [4, 5, 6, 7]
    assert "doesn't name its chip" in caplog.text and not (dist / TUNING).exists()


def test_what_is_kept_is_the_dists_own(tune, dist):
    tune(Tuned({"4-7": (0.5, 0.5)}))
    assert [check.ok for check in verify(dist)] == [True]
    refuse_existing(dist, force=True)
    content = (dist / TUNING).read_text()
    (dist / TUNING).write_text(content.replace("Phone", "Other"))
    assert [(Path(check.name).name, check.ok) for check in verify(dist)] == [(TUNING, False)]
    with pytest.raises(EdgeTransactError, match="was changed") as changed:
        tune(Tuned({}), "again.jsonl")
    assert "Remove it" in changed.value.fix
    wrong = {"device": "x", "decode": {"target": "hexagon", "cores": [0]}}
    (dist / TUNING).write_text(json.dumps({"socs": {"SM8650": wrong}, SEAL: UNSEALED}))
    seal(dist / TUNING)
    with pytest.raises(EdgeTransactError, match=r"tuning\.json cannot be read"):
        read_tuning(dist)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"threads": 4}, "--threads"),
        ({"cores": "4-7"}, "--cores"),
        ({"app": "org.example.chat"}, "--app"),
        ({"target": "android"}, "--target android"),
        ({"device": "host"}, "for a phone"),
        ({"lengths": "64+1"}, "decodes nothing"),
    ],
)
def test_what_contradicts_it(words, said):
    with pytest.raises(UsageError, match=said):
        BenchOptions(**{"device": "s1", "tune": True} | words)


def test_it_is_for_one_dist_on_one_phone(dist, tmp_path, monkeypatch):
    options = BenchOptions(device="s1", tune=True)
    monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [Tuned({})] * 2)
    with pytest.raises(UsageError, match="one DIST on one phone"):
        plan_bench([dist], options, log=tmp_path / "log.jsonl")
    with pytest.raises(UsageError, match=r"not with llama\.cpp"):
        plan_bench([dist], options, log=tmp_path / "log.jsonl", llama_cpp=dist / TUNING)


def test_a_phone_is_tuned_with_the_runner_on_its_cores(phone, runner, tiny_dist, tmp_path, monkeypatch):
    """Of its cores, adb's programs may use those of this machine, of which the second is the faster one."""
    phone.write("/sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq", 3_302_400)
    shutil.rmtree(phone.root / "sys/devices/system/cpu/cpu7")
    dist, log = Path(shutil.copytree(tiny_dist, tmp_path / "dist")), tmp_path / "log.jsonl"
    monkeypatch.setenv("EDGE_BENCH_RUNNER", str(runner))
    short = ["--lengths", "8+4", "--repetitions", 2, "--warmups", 0]
    result = said("bench", dist, "--device", phone.serial, "--tune", *short, "-o", log)
    assert result["failures"] == []
    threads = {each.model[len(dist.name) :]: each.threads for each in repetitions(log)}
    del threads[""]
    # TVM by itself would use the big cores alone, of which there is one, whatever it is told.
    assert threads == {", all cores 0-1": 2, ", big 1": 1, ", little 0": 1}
    assert len({each.tokens for each in repetitions(log)}) == 1
    tuning = result["tuning"]
    assert tuning["clusters"] == "big 1, 3,302 MHz; little 0, 2,266 MHz" and len(tuning["sentences"]) == 2
    kept = read_tuning(dist)[tuning["soc"]]
    assert (kept.decode.model_dump(), kept.prefill.model_dump()) == (tuning["decode"], tuning["prefill"])
