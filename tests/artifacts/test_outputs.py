"""Output directories: complete or absent, whatever ends the run that writes them."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from edge_transact.artifacts import outputs
from edge_transact.artifacts.listing import write_listing
from edge_transact.artifacts.outputs import new_directory, new_file, refuse_existing
from edge_transact.cli.common import guarded
from edge_transact.errors import EdgeTransactError, UsageError


def killed(path: Path, while_: str) -> None:
    """In a fork, which costs no imports."""
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        return
    replace, end = os.replace, partial(os.kill, os.getpid(), signal.SIGKILL)
    if while_ == "renaming":
        os.replace = lambda a, b: replace(a, b) if b.name == "old" else end()
    with new_directory(path, own=True) as directory:
        (directory / "half").write_text("half")
        if while_ == "writing":
            end()
    os._exit(1)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_an_output_is_complete_when_it_appears(tmp_path):
    with new_directory(tmp_path / "a" / "out") as directory:
        (directory / "file").write_text("text")
        assert not (tmp_path / "a" / "out").exists()
    assert names(tmp_path / "a") == {"out"} and names(tmp_path / "a" / "out") == {"file"}


def test_a_failure_keeps_the_old_output(tmp_path):
    with new_directory(tmp_path / "out") as directory:
        (directory / "first").touch()
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "out", own=True):
        raise KeyboardInterrupt
    with pytest.raises(EdgeTransactError, match="exists"), new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"first"}


def test_the_working_directory_and_inputs_are_never_replaced(tmp_path, monkeypatch):
    here, model = tmp_path / "project" / "here", tmp_path / "models" / "llama"
    for directory in (here, model):
        directory.mkdir(parents=True)
    monkeypatch.chdir(here)
    for path in (Path("."), here, Path(".."), tmp_path, model, model.parent):
        with pytest.raises(UsageError, match="would replace"):
            refuse_existing(path, force=True, apart_from=["org/name", model])
    with pytest.raises(UsageError, match=f"would replace {here}"):
        refuse_existing(Path("../here"), force=True, apart_from=["demo:tiny"])
    with pytest.raises(UsageError, match="would replace"), new_directory(Path("."), force=True):
        pass
    refuse_existing(model / "pruned", force=True, apart_from=["org/name", model])
    assert here.is_dir() and model.is_dir()


def test_the_next_run_removes_the_remains_of_a_killed_one(tmp_path):
    killed(tmp_path / "out", "writing")
    assert len(names(tmp_path)) == 1 and not (tmp_path / "out").exists()
    with new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"}


def test_an_output_that_a_killed_run_moved_away_is_restored(tmp_path):
    with new_directory(tmp_path / "out") as directory:
        (directory / "first").touch()
    killed(tmp_path / "out", "renaming")
    assert not (tmp_path / "out").exists()
    with pytest.raises(EdgeTransactError, match="exists"), new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"first"}


def test_workspaces_in_use_and_other_directories_are_kept(tmp_path):
    (tmp_path / ".out-mine").mkdir()
    with new_directory(tmp_path / "out") as first:
        with new_directory(tmp_path / "out"):
            pass
        assert first.is_dir() and names(tmp_path) >= {"out", ".out-mine"}
        with pytest.raises(EdgeTransactError, match="exists"), new_directory(tmp_path / "out"):
            pass
        (tmp_path / "out").rmdir()
    assert names(tmp_path) == {"out", ".out-mine"}


def report(path: Path) -> Path:
    with new_directory(path) as directory:
        for name in ("report.json", "index.html", "chart.svg"):
            (directory / name).write_text("edge-transact prune")
    return path


def test_force_replaces_an_output_and_nothing_else(tmp_path):
    out = report(tmp_path / "out")
    refuse_existing(out, force=True)
    for name in ("notes.txt", "tensorboard.txt", "more/chart.svg", "link.svg"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).symlink_to("chart.svg") if name == "link.svg" else (out / name).write_text("mine")
        with pytest.raises(EdgeTransactError, match=rf"out holds {name}, which edge-transact didn't write"):
            refuse_existing(out, force=True)
        (out / name).unlink()
    with new_directory(out, force=True) as fresh:
        (fresh / "report.json").touch()
    assert names(out) == {"report.json"}
    (out / "index.html").write_text("My report")
    with (
        pytest.raises(EdgeTransactError, match=r"holds index\.html, report\.json, which"),
        new_directory(out, force=True),
    ):
        pass  # names alone make no report


@pytest.mark.parametrize(
    "name", ["app/build/outputs/a.apk", ".gradle/1", "dist/lib/a.so", "logs/gradle.log", "app/a.kt"]
)
def test_what_gradle_makes_of_a_project_goes_with_it(tmp_path, name):
    for known in ("settings.gradle", "app/a.kt"):
        (tmp_path / "app" / known).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "app" / known).touch()
    write_listing(tmp_path / "app/bundle.json", {"edge_transact": 1})
    (tmp_path / "app" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "app" / name).touch()
    refuse_existing(tmp_path / "app", force=True)
    mine = Path("app/src", name)
    (tmp_path / "app" / mine).parent.mkdir(parents=True)
    (tmp_path / "app" / mine).touch()
    with pytest.raises(EdgeTransactError, match=f"holds {mine}, which"):
        refuse_existing(tmp_path / "app", force=True)


@pytest.mark.parametrize("kind", ["text", "device", "fifo", "link", "dangling", "file", "another's", "directory"])
def test_what_is_no_output_stays(tmp_path, kind):
    out, begins = tmp_path / "out", b"GGUF"
    made = {
        "text": lambda: out.write_text("mine"),
        "device": lambda: out.symlink_to("/dev/null"),
        "fifo": lambda: os.mkfifo(out),
        "link": lambda: out.symlink_to(report(tmp_path / "another")),
        "dangling": lambda: out.symlink_to(tmp_path / "nowhere"),
        "file": lambda: out.write_bytes(b"GGUF edge_transact.config"),
        "another's": lambda: out.write_bytes(b"GGUF llama.config"),
        "directory": lambda: report(out),
    }
    made[kind]()
    before = out.lstat()
    with pytest.raises(EdgeTransactError) as refused, new_file(out, begins, force=True) as fresh:
        fresh.write_bytes(b"GGUF")
        assert kind == "file"
        raise EdgeTransactError("replaced")
    assert (refused.value.message == "replaced") == (kind == "file")
    if kind in ("link", "file", "dangling"):
        with pytest.raises(EdgeTransactError), new_directory(out, force=True):
            pass
    assert out.lstat().st_ino == before.st_ino


def test_workspaces_are_those_of_one_output(tmp_path):
    """Of `a-b` and not of `a`."""
    report(tmp_path / "a-b")
    killed(tmp_path / "a-b", "renaming")
    report(tmp_path / "a")
    assert names(tmp_path / "a") == {"report.json", "index.html", "chart.svg"}
    with pytest.raises(EdgeTransactError, match="a-b exists"), new_directory(tmp_path / "a-b"):
        pass
    assert names(tmp_path) == {"a", "a-b"}


def test_a_workspace_that_is_being_locked_is_not_swept(tmp_path, monkeypatch):
    acquire = outputs.FileLock.acquire

    def while_another_sweeps(lock, *arguments, **options):
        if Path(lock.lock_file).parent.suffix == ".begun":
            outputs._sweep(tmp_path, ".out-")
        return acquire(lock, *arguments, **options)

    monkeypatch.setattr(outputs.FileLock, "acquire", while_another_sweeps)
    report(tmp_path / "out")
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("name", ["x/../out", "a" * 300, "file/out"])
def test_an_output_that_can_not_be_written_is_refused_before_the_work(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(EdgeTransactError, match=r"output|path"):
        try:
            refuse_existing(tmp_path / name, force=False)
        except EdgeTransactError as error:
            raise EdgeTransactError(error.fix) from error
    assert names(tmp_path) == {"file"}


def test_long_names(tmp_path):
    report(tmp_path / ("a" * 250))
    assert names(tmp_path) == {"a" * 250}


def test_what_the_system_refuses_is_no_bug(capsys):
    with pytest.raises(SystemExit) as ended:
        guarded(lambda: Path("/proc/edge").mkdir())()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "/proc/edge: " in said and "permissions" in said and "a bug" not in said


def test_scratch_directories_of_killed_runs_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = "scratch-0123456789abcdef.edge-transact"
    for name in (killed, "scratch-mine", "out-abcdefgh.edge-transact"):
        (tmp_path / name / "new").mkdir(parents=True)
    with outputs.scratch_directory() as first, outputs.scratch_directory() as second:
        assert first != second and first.is_dir() and second.is_dir()
        assert names(tmp_path) & {killed, "scratch-mine"} == {"scratch-mine"}
    assert names(tmp_path) == {"scratch-mine", "out-abcdefgh.edge-transact"}
