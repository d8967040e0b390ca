"""Charts: round numbers along axes, words for what they show, and SVG that any reader parses."""

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from edge_transact.artifacts.charts import TICKS, Axis, Chart
from edge_transact.artifacts.report import Section
from edge_transact.artifacts.summary import width_section
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.pages import NAME

VALUES = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20)
SVG = "{http://www.w3.org/2000/svg}"


def plan(*intermediate: int) -> WidthPlan:
    return WidthPlan(64, 96, True, False, False, tuple(LayerWidths(4, 2, 16, 16, dims) for dims in intermediate))


@given(VALUES, st.booleans())
def test_an_axis_shows_its_values_and_a_few_round_numbers(values, log):
    axis = Axis.over(values, log=log)
    assert all(0 <= axis.share(value) <= 1 for value in values)
    ticks = axis.ticks()
    assert len(ticks) <= TICKS + 1 and list(ticks) == sorted(ticks)
    assert all(-1e-9 <= axis.share(tick) <= 1 + 1e-9 for tick in ticks)
    assert len(set(ticks.values())) == len(ticks)


def test_the_picture_of_widths_says_what_it_shows():
    picture = width_section(plan(96, 32, 64), plan(96, 96, 96))
    (chart,) = picture.charts
    assert chart.text == ("source: 96 in every layer; pruned: from 32 (layer 1) to 96 (layer 0), 64 on average.")
    assert picture.text == (
        "As in the source: KV heads: 2 in every layer; query heads: 4 in every layer; "
        "dims of a query or key head: 16 in every layer; dims of a value head: 16 in every layer."
    )
    assert [row[:2] for row in picture.rows] == [["0", "96"], ["1", "32"], ["2", "64"]]
    assert "layer 1: 96 source, 32 pruned" in picture.panels()


def test_layers_without_attention_lost_their_heads_not_dims_of_heads():
    source = plan(96, 96)
    picture = width_section(source.with_layers((source.layers[0], LayerWidths(0, 0, 0, 0, 0))), source)
    assert [chart.title for chart in picture.charts] == ["MLP dims", "KV heads", "Query heads"]
    assert picture.text.count("16 in every layer") == 2
    assert "layer 1: 2 source, 0 pruned" in picture.panels()


def test_a_model_that_was_not_pruned_shows_all_its_widths_in_a_notebook():
    picture = width_section(plan(96))
    assert len(picture.charts) == 5 and not picture.legend
    assert picture._repr_html_().startswith("<style>") and picture._repr_html_().count("<svg") == 5
    assert width_section(plan(96), plan(96)).panels(), "nothing was cut"


def test_a_file_is_whole_and_takes_no_name_for_markup():
    chart = Chart(NAME, f"1 is {NAME}", Axis(0, 1, NAME), Axis(0, 1, NAME))
    chart.hover([NAME])
    chart.words(0, 0, NAME)
    root = ElementTree.fromstring(Section("name", NAME, [chart] * 3, legend={NAME: 0}).file())
    assert root.find(f"{SVG}style") is not None and len(root.findall(f"{SVG}svg")) == 3
    assert root.find(f"{SVG}title").text == NAME
    left, top, width, height = map(float, root.get("viewBox").split())
    for panel in root.findall(f"{SVG}svg"):
        x, y, right, bottom = (float(panel.get(name)) for name in ("x", "y", "width", "height"))
        assert left <= x and top <= y and x + right <= left + width and y + bottom <= top + height
