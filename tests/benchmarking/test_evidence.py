"""A file of evidence tells what was measured and nothing of whom it was measured by, and a strange one does no harm."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from edge_transact.benchmarking.analysis.compare import paired
from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.benchmarking.evidence import Evidence, refuse, write_evidence
from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.records.log import read_records
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.reading import MOST_ARCHIVE_BYTES, zip_member
from tests.support.bench_logs import in_rounds, visit, write_log
from tests.support.command import run, said
from tests.support.dists import make_dist
from tests.support.hostile_names import NAME

SERIAL, ADDRESS = "R5CT30ABCDE", "192.168.178.23:5555"


@pytest.fixture
def measured(tmp_path):
    """A log of two phones, and the evidence of it."""
    home = str(Path.home())
    failed = f"{ADDRESS}: cannot read {home}/dist/params_shard_0.bin or /Users/ann/dist"
    common = {"model": NAME, "build": {"torch": "2"}}
    records = [
        *in_rounds(1.0, 1.1, serial=SERIAL, **common),
        *in_rounds(2.0, 2.1, serial=ADDRESS, device=ADDRESS, **common),
    ]
    ended = visit(serial=ADDRESS, device=ADDRESS, **common)
    log = write_log(tmp_path / "log.jsonl", [*records, ended])
    lines = log.read_text().replace('"error": null', f'"error": {json.dumps(failed)}')
    log.write_text(lines)
    infos = [DeviceInfo(SERIAL, "Maker Phone", ("arm64-v8a",), soc="SM8650"), DeviceInfo(ADDRESS, ADDRESS, ())]
    models = open_models([make_dist(tmp_path / "dist")], [])
    file = tmp_path / "phone.zip"
    write_evidence(file, read_records(log), {"threads": 4}, infos, models)
    return log, file, models


def test_it_is_written_again_with_what_was_measured_since(measured):
    log, file, models = measured
    write_log(log, in_rounds(1.0, 1.1, 1.2, serial=SERIAL, model=NAME))
    write_evidence(file, read_records(log), {"threads": 4}, [], models)
    assert len(read_records(file)) == 3


def test_it_has_everything_but_whose_it_is(measured):
    log, file, (model,) = measured
    archive = zipfile.ZipFile(file)
    texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {"evidence.json", "log.jsonl", "report/index.html", "report/results.json"} <= set(texts)
    for name, text in texts.items():
        for secret in (SERIAL, ADDRESS, "192.168", str(Path.home()) + "/", "/Users/ann", str(file.parent)):
            assert secret not in text, (name, secret)
    facts = Evidence.read(file)
    assert facts.devices["device-1"]["soc"] == "SM8650" and facts.devices["device-2"]["name"] == "device-2"
    assert facts.dists[model.digest]["files"] == dict(model.manifest.files)
    assert facts.dists[model.digest]["versions"] == dict(model.manifest.versions)
    assert json.loads(texts["log.jsonl"].splitlines()[0])["threads"] == 4
    # The figures are the log's.
    before, after = read_records(log), read_records(file)
    assert [record.serial for record in after] == ["device-1"] * 2 + ["device-2"] * 3
    figures = [(record.e2e_s, record.model) for record in before if record.kind == "repetition"]
    assert [(record.e2e_s, record.model) for record in after if record.kind == "repetition"] == figures
    assert after[-1].error == "device-2: cannot read ~/dist/params_shard_0.bin or ..."
    assert len(paired(file, file)) == 2
    assert said("bench", "compare", file, file)["comparisons"]


def bomb(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("log.jsonl", "w") as log,
    ):
        for _ in range(65):
            log.write(bytes(1 << 20))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


def elsewhere(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../log.jsonl", "{}")


def large(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(MOST_ARCHIVE_BYTES + 1)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (bomb, "has more than 67,108,864 bytes"),
        (cut, "is not a ZIP archive that can be read"),
        (damaged, "phone.zip"),
        (elsewhere, "holds no log.jsonl"),
        (large, "has more than 16,777,216 bytes"),
    ],
)
def test_a_strangers_file(measured, harm, words, tmp_path):
    _, file, _ = measured
    harm(file)
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(EdgeTransactError, match=words):
        zip_member(file, "evidence.json") if harm is damaged else read_records(file)
    assert sorted(tmp_path.rglob("*")) == there, "nothing was unpacked"


def test_facts_that_are_none(measured, tmp_path):
    _, file, _ = measured
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr("evidence.json", '{"schema": 1, "devices": []}')
    with pytest.raises(EdgeTransactError, match=r"odd\.zip is not evidence of a bench"):
        Evidence.read(tmp_path / "odd.zip")
    refuse(file)
    with pytest.raises(UsageError, match="not the name of a ZIP file"):
        refuse(tmp_path / "log.jsonl")
    shutil.copy(tmp_path / "odd.zip", tmp_path / "mine.zip")
    dist = tmp_path / "dist"
    result = run("bench", dist, "--evidence", tmp_path / "mine.zip")
    assert result.exit_code == 1 and "is not evidence" in result.stderr
