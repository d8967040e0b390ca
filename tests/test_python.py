"""``import edge_transact as et``: what it offers, how its functions are called, and what results show.

The examples of docs/api.md run in ``test_examples.py``, those of the notebook in ``test_notebook.py``.
"""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import edge_transact as et
from edge_transact import costs
from edge_transact.artifacts.summary import Summarized, Summary, summary_of_widths
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.building.options import BuildOptions
from edge_transact.bundling.options import BundleOptions
from edge_transact.evaluation.options import EvalOptions
from edge_transact.exporting.options import ExportOptions
from edge_transact.inspection import InspectOptions
from edge_transact.options.keywords import keywords, part, signature_of
from edge_transact.planning.options import PlanOptions
from edge_transact.pruning.options import PruneChoices, PruneOptions
from tests.support.dists import PLAN, make_dist
from tests.support.patience import HANG_S

FUNCTIONS = ("bench", "build", "bundle", "evaluate", "export", "heal", "inspect", "load", "prune")


def test_importing_it_is_light_and_silent():
    program = """
import logging, sys
import edge_transact as et
logging.getLogger("edge_transact.pruning.run").warning("nobody has asked for logs")
et.prune, dir(et)
print([name for name in ("torch", "tvm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")


def test_checkers_and_editors_see_the_names_that_load_on_first_use():
    seen = {
        alias.name: node.module.removeprefix("edge_transact.")
        for block in ast.parse(Path(et.__file__).read_text()).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        for alias in node.names
    }
    assert seen == et._API


@pytest.mark.parametrize("name", sorted(et._API))
def test_every_name_is_there(name):
    assert callable(getattr(et, name)) and inspect.getdoc(getattr(et, name))


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        et.prunes  # noqa: B018


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("prune", [PruneOptions]),
        ("build", [BuildOptions, PruneChoices]),
        ("bench", [BenchOptions]),
        ("evaluate", [EvalOptions]),
        ("inspect", [InspectOptions]),
        ("plan", [PlanOptions]),
        ("export", [ExportOptions]),
        ("bundle", [BundleOptions]),
    ],
)
def test_keyword_arguments_are_the_fields_of_the_options_typed_and_documented(name, models):
    function = getattr(et, name)
    parameters, documented = inspect.signature(function).parameters, inspect.getdoc(function)
    for model in models:
        for field, parameter in signature_of(model).parameters.items():
            assert parameters[field] == parameter
    assert [field for field in parameters if f"\n    {field}: " not in documented] == []


def test_text_stands_for_sizes_and_lists_as_on_the_command_line():
    @keywords(PruneOptions)
    def given(model: str, output: str | Path, options: PruneOptions) -> tuple:
        """Args:
        model: Any.
        output: Any.
        """
        return model, output, options

    options = {"max_weight_bytes": "60MB", "target_params": "100M", "units": "mlp,groups", "widths": None}
    model, output, got = given("m", "out", **options)
    assert (model, output, got.max_weight_bytes, got.target_params) == ("m", "out", 60_000_000, 100_000_000)
    assert got.units == ["mlp", "groups"]
    parameters = inspect.signature(given).parameters
    assert str(parameters["max_weight_bytes"].annotation) == "int | str | None"
    assert part(got, PruneOptions) == got


def test_a_budget_stands_for_its_fields(tmp_path):
    from edge_transact.api import _Prune

    budget = et.Budget(ratio=0.3, max_kv_bytes_per_token="16k")
    fields = part(_Prune(budget=budget, seed=1), PruneOptions)
    assert fields == PruneOptions(ratio=0.3, max_kv_bytes_per_token="16k", seed=1)
    with pytest.raises(et.UsageError, match="several budgets"):
        et.prune("demo:tiny", tmp_path / "small", budget=budget, heads=4)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(et.UsageError, match="no option 'ration'") as refused:
        et.prune("demo:tiny", tmp_path / "small", ration=0.3)
    assert "Did you mean 'ratio'?" in refused.value.fix
    with pytest.raises(TypeError, match="output"):
        et.prune("demo:tiny", ratio=0.3)
    with pytest.raises(et.UsageError, match="temperature"):
        et.load("demo:tiny", temperature=0.0)
    dist = make_dist(tmp_path / "small-dist")
    with pytest.raises(et.UsageError, match="no option 'temprature'") as refused:
        et.load(dist, temprature=0.0)
    assert "Did you mean 'temperature'?" in refused.value.fix
    with pytest.raises(et.UsageError, match="no option 'widow'"):
        et.evaluate("demo:tiny", widow=64)
    # Nothing is pruned, and no rounding reads text.
    with pytest.raises(et.UsageError, match="no budget"):
        et.build("demo:tiny", tmp_path / "dist", calibration_tokens=2048)


def html(shown) -> ElementTree.Element:
    """What a notebook gets, which must be well-formed."""
    return ElementTree.fromstring(f"<div>{shown._repr_html_()}</div>")


def test_a_model_shows_what_it_is():
    checkpoint, inspection = et.load("demo:tiny"), et.inspect("demo:tiny")
    for shown in (checkpoint, inspection):
        assert max(map(len, repr(shown).splitlines())) <= 120
        for fact in (f"{costs.parameters(checkpoint.plan):,}", str(checkpoint.plan.layers[0].intermediate_size)):
            assert fact in repr(shown) and any(cell.text == fact for cell in html(shown).iter("td"))
    assert "q4f16_0" in repr(inspection)


class Widths(Summarized):
    """Of a model of two layers, with the widths of one that was pruned to it."""

    def summary(self) -> Summary:
        return summary_of_widths("small", PLAN, PLAN.with_layers([PLAN.layers[0]] * 2))


def test_widths_are_a_picture_and_a_table():
    page = html(Widths())
    charts = [chart.find("title").text for chart in page.iter("svg")]
    assert charts == ["MLP dims", "KV heads", "Query heads"], "the widths that were cut"
    columns = [cell.text for cell in page.findall(".//details//th")]
    rows = [[cell.text for cell in row] for row in page.findall(".//details//tbody/tr")]
    for row, layer in zip(rows, PLAN.layers, strict=True):
        assert row[columns.index("MLP dims")] == str(layer.intermediate_size)
        assert row[columns.index("KV heads")] == str(layer.num_key_value_heads)


def test_a_picture_that_is_shown_twice_has_ids_of_its_own():
    twice = ElementTree.fromstring(f"<div>{Widths()._repr_html_()}{Widths()._repr_html_()}</div>")
    ids = [element.get("id") for element in twice.iter() if element.get("id")]
    assert ids and len(ids) == len(set(ids))


def test_evaluations_show_the_change_from_the_first():
    rows = [
        {"model": name, "text": "t", "perplexity": perplexity, "tokens": 8, "windows": 2, "window": 4, "tasks": {}}
        for name, perplexity in (("dense", 20.0), ("<b>small", 30.0))
    ]
    shown = et.Evaluations(rows)
    assert repr(shown).splitlines()[2].split() == ["perplexity", "20.00", "30.00", "(+50", "%)"]
    assert [cell.text for cell in html(shown).findall(".//thead//th")] == [None, "dense", "<b>small"]
    assert [cell.text for cell in html(shown).findall(".//tbody//td")] == ["20.00", "30.00 (+50 %)"]
    assert "%" not in repr(et.Evaluations(rows[:1])) and repr(et.Evaluations()) == "no models"


def test_names_cant_end_an_element():
    name = '</td><script>alert("x")</script>\N{PILE OF POO}&'

    class Named(Summarized):
        def summary(self) -> Summary:
            return Summary(name, {name: name}, header=(name, name), rows=[(name, name)])

    page = html(Named())
    assert not page.findall(".//script") and sum(element.text == name for element in page.iter()) == 7
