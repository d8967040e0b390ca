"""Generated parts of pages say what the code says."""

import re
from xml.etree import ElementTree

import pytest

from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.benchmarking.evidence import write_evidence
from tests.support.bench_logs import in_rounds
from tools import phones, structure
from tools.__main__ import DOCS, outputs


@pytest.fixture(scope="module")
def generated():
    return outputs()


@pytest.mark.parametrize(
    "name", ["structure.svg", "architecture.md", "api.md", "cli.md", "phones.md", "lab/phone-gpu.md"]
)
def test_what_is_generated_is_current(generated, name):
    assert (DOCS / name).read_text() == generated[DOCS / name], "run `make docs`"


def test_the_table_lists_every_folder_and_module(generated):
    page = generated[DOCS / "architecture.md"].partition("<!-- table edge_transact -->")[2].partition("<!-- end -->")[0]
    listed = re.findall(r"^\| `(\w+)(?:/|\.py)`", page, re.MULTILINE)
    package = structure.ROOT / structure.PACKAGE
    there = [path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert sorted(listed) == sorted(set(there) - {"__init__"})


def test_files_of_evidence_are_rows_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(phones, "EVIDENCE", tmp_path)
    assert phones.measured() == "None yet."
    records = in_rounds(1.0, 1.0, model="SmolLM2", device="Maker Phone", runner="portable")
    info = DeviceInfo("s1", "Maker Phone", ("arm64-v8a",), soc="SM8650")
    write_evidence(tmp_path / "maker.zip", records, {}, [info], [])
    *_, row = phones.measured().splitlines()
    # 64 tokens in 0.2 s, then 0.2 s for each; 0.6 GB a token of 76.8 GB/s.
    phone = "[Maker Phone](../benchmarks/results/phones/maker.zip)"
    assert row == f"| {phone} | SM8650 | SmolLM2, q4f16_0 | android, portable | 64+5 | 320 | 5.0 | 4% |"


def test_a_prediction_is_what_its_parts_say():
    """A gigabyte a token, of 84.8 GB/s; llama.cpp's CPU reached 17.1 tokens of 67.2 GB/s and 38 of 84.8."""
    row = next(line for line in phones.predictions().splitlines() if line.startswith("| OnePlus 15"))
    qwen = phones.decode_bytes("Qwen3-1.7B") / 1e9
    low, high = 17.1 * qwen / 67.2, 38 * qwen / 84.8
    assert f"| {low * 84.8 / qwen:.0f} to {high * 84.8 / qwen:.0f}, < {84.8 / qwen:.0f} |" in row
    assert 0.95 < qwen < 1.05 and len(phones.PHONES) == 9


def test_everything_listed_says_what_it_holds():
    assert [name for layer in structure.layers() for name in layer if not structure.holds(name).strip()] == []


def test_texts_of_the_drawing_fit_their_boxes():
    from matplotlib.font_manager import FontProperties

    tags = ElementTree.fromstring((DOCS / "structure.svg").read_text())
    texts, box = 0, None
    for tag in tags:
        if tag.get("class") == "box":
            box = {name: float(tag.get(name)) for name in ("x", "y", "width", "height")}
        elif tag.tag.endswith("text") and box:
            bold = tag.get("class") == "b"
            size = structure.NAME_SIZE if bold else structure.TEXT_SIZE
            font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
            right = float(tag.get("x")) + structure.text_width(tag.text, font)
            assert box["x"] < float(tag.get("x")) and right < box["x"] + box["width"], tag.text
            assert box["y"] < float(tag.get("y")) < box["y"] + box["height"], tag.text
            texts += 1
    assert texts >= 2 * sum(map(len, structure.layers()))
