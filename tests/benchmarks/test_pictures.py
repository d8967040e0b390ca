"""The pictures of the pages, drawn again: what they show, and what they say that they leave out."""

import json
import re
import shlex
import xml.etree.ElementTree

import pytest

from benchmarks import page, pictures, terminal


def test_the_picture_of_the_methods_names_what_it_leaves_out(tmp_path):
    curves = {
        "best": [20.0, 30.0],
        "random": [50.0, 2e4],
        "magnitude": [1e6, 3e6],
        "transact, groups too": [25.0, None],
    }
    text = pictures.methods(curves, (0.1, 0.2), 10.0, tmp_path / "methods.svg")
    drawn = (tmp_path / "methods.svg").read_text()
    assert ">best<" in drawn and ">random<" in drawn and "magnitude" not in drawn
    assert "`magnitude` at every cut (1.0e+06 to 3.0e+06)" in text
    assert "`random` from 20 % on (2.0e+04 to 2.0e+04)" in text
    assert "`transact, groups too` at 20 %" in text
    assert "best" not in text.split("leaves out")[1]


def test_the_same_data_gives_the_same_picture(tmp_path):
    measured = json.loads((page.RESULTS / "loss-curves.json").read_text())
    for name in ("first.svg", "second.svg"):
        (tmp_path / name).mkdir()
        pictures.widths(measured, tmp_path / name / "widths.svg")
        pictures.loss_curves(measured, (0, 29), tmp_path / name / "curves.svg")
    for picture in ("widths.svg", "curves.svg"):
        first, second = ((tmp_path / name / picture).read_text() for name in ("first.svg", "second.svg"))
        assert first == second
    assert re.findall(r">layer (\d+)<", first) == ["0", "29"]


def test_the_picture_of_the_roundings_has_a_line_for_each(tmp_path):
    def row(subject, rounding, quant, megabytes, perplexity):
        text = {"perplexity": perplexity}
        return {
            "rounding": rounding,
            "quant": quant,
            "weights_bytes": megabytes * 1e6,
            "speeches": text,
            "manual": text,
        }

    rows = [
        row(subject, *choice, megabytes, perplexity)
        for subject, megabytes in (("dense", 80), ("pruned", 60))
        for choice, perplexity in ((("16 bit", ""), 20.0), (("nearest", "q4f16_0"), 30.0), (("best", "q4f16_0"), 22.0))
    ]
    pictures.roundings(rows, "q4f16_0", ("speeches", "manual"), tmp_path / "rounding.svg")
    drawn = (tmp_path / "rounding.svg").read_text()
    assert all(f">{word}<" in drawn for word in ("16 bit", "nearest", "best", "speeches", "manual", "weights, MB"))


def test_chosen_widths_are_points_of_the_curves():
    """Dots lie on the lines: the allocation moves along these very points."""
    measured = json.loads((page.RESULTS / "loss-curves.json").read_text())
    for layer, curves in zip(measured["pruned"], measured["curves"], strict=True):
        assert layer["intermediate_size"] in [units for units, _ in curves["mlp"]]
        assert layer["v_head_dim"] in [units for units, _ in curves["values"]]
        assert all(loss >= 0 for _, loss in curves["mlp"])


def test_the_terminal_picture_shows_what_was_printed_without_the_network(tmp_path):
    program = "import sys; print('\\x1b[1mbold\\x1b[0m ┃ <b>', sys.stdout.isatty())"
    line = f"edge-transact -c {shlex.quote(program)}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(terminal, "MODULE", [])
        output = terminal.printed(line, tmp_path)
    terminal.draw([("edge-transact inspect demo:tiny", output)], tmp_path / "terminal.svg")
    drawn = (tmp_path / "terminal.svg").read_text()
    words = "".join(xml.etree.ElementTree.fromstring(drawn).itertext()).replace("\xa0", " ")
    assert "edge-transact inspect demo:tiny" in words and "bold ┃ <b> True" in words
    assert "@font-face" not in drawn and "url(http" not in drawn
