"""The report, shown by a real browser."""

from __future__ import annotations

import json
import re
import struct
import subprocess

import pytest

from edge_transact.bench.analysis.published import FIGURE_4
from edge_transact.bench.analysis.report import write_report
from edge_transact.bench.records.readings import Reading
from edge_transact.errors import EdgeTransactError
from tests.support.bench_logs import in_rounds, repetition, visit

NASTY = '<script>alert("x")</script> & $(id)'


@pytest.fixture(scope="module")
def records():
    trace = [Reading(at_s=float(second), temp_c=30 + second / 10) for second in range(60)]
    found = []
    for model, factor in (("dense", 2.0), ("pruned", 1.0), (NASTY, 1.5)):
        for prefill in (64, 256):
            seconds = factor * prefill / 64
            common = {"model": model, "model_digest": model, "prefill_tokens": prefill}
            found += in_rounds(*(seconds * noise for noise in (0.99, 1.0, 1.02)), **common)
            found.append(visit(trace, **common))
    return found


@pytest.fixture(scope="module")
def report(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report"
    names = write_report(records, path, perplexities={"dense": 23.8, "pruned": 29.1}, published=True)
    return path, names


def test_figures_are_drawn(report):
    path, names = report
    assert names == ["1-latency.png", "1-speedup.png", "1-quality.png", "1-temperature.png", "published.png"]
    for name in names:
        data = (path / name).read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG") and width > 600 and height > 300
    assert len(json.loads((path / "results.json").read_text())) == 6


@pytest.mark.needs("chromium")
def test_a_browser_shows_the_page(report, tmp_path):
    path, names = report
    probe = tmp_path / "probe.html"
    # A script in the page checks it, and leaves what it finds in the title.
    script = """<script>addEventListener("load", () => {
        const images = [...document.images];
        document.title = JSON.stringify({
            drawn: images.filter((image) => image.complete && image.naturalWidth > 600).map((image) => image.alt),
            wide: images.every((image) => image.getBoundingClientRect().right <= innerWidth),
            rows: document.querySelectorAll("tbody tr").length,
            first: document.querySelectorAll("tbody tr")[4].cells[0].textContent,
            results: JSON.parse(document.getElementById("results").textContent).length,
            scripts: document.scripts.length,
            loaded: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
        });
    });</script>"""
    probe.write_text((path / "index.html").read_text().replace("</body>", script + "</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    shown = subprocess.run([*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", shown.stdout)
    assert title, shown.stderr[-2000:]
    found = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found.pop("first") == f"{NASTY} q4f16_0"
    assert found == {"drawn": names, "wide": True, "rows": 6, "results": 6, "scripts": 2, "loaded": 0}
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", probe.as_uri()], capture_output=True, timeout=120)
    assert picture.stat().st_size > 20_000


def test_a_report_of_a_plan_that_was_cut_short(tmp_path):
    """Two models, each with a perplexity, have no lengths in common yet."""
    records = [repetition(model="a", model_digest="a"), repetition(model="b", model_digest="b", prefill_tokens=128)]
    names = write_report(records, tmp_path / "report", perplexities={"a": 1.0, "b": 2.0})
    assert names == ["1-latency.png"]


def test_an_existing_report_stays(report, records):
    path, _ = report
    with pytest.raises(EdgeTransactError, match="exists"):
        write_report(records, path)


def test_the_published_figure_is_the_papers():
    saved = {
        pair: 1 - FIGURE_4["TransAct-1.3B"][pair][1] / FIGURE_4["LLaMA-2-7B"][pair][1]
        for pair in FIGURE_4["LLaMA-2-7B"]
    }
    headlines = {str(pair): round(100 * value) for pair, value in saved.items()}
    assert headlines["256+64"] == 79 and headlines["256+256"] == 74
