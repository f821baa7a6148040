from xml.etree import ElementTree

import numpy as np
from more4d.report.figures import curve_svg, table_svg
from more4d.report.model import Curve, Estimate, MeasureRow, MeasureTable

STEP = np.array([10.0, 20.0, 30.0])


def test_a_curve_is_one_svg_in_the_pages_colours() -> None:
    svg = curve_svg(Curve("4D-STraG", STEP, {"loss": 1 / STEP, "moving": 2 / STEP, "gradient_norm": STEP}))
    ElementTree.fromstring(svg)
    assert svg.startswith("<svg") and "var(--series-0)" in svg and "#010101" not in svg
    assert "moving" in svg and "gradient_norm" not in svg


def test_a_curve_with_gaps_or_negative_values_is_drawn() -> None:
    ElementTree.fromstring(curve_svg(Curve("x", STEP, {"loss": np.array([1.0, np.nan, -2.0])})))
    ElementTree.fromstring(curve_svg(Curve("x", STEP, {"loss": np.full(3, np.nan)})))


def test_labels_are_text_even_where_they_look_like_markup_or_mathematics() -> None:
    row = MeasureRow('<b> & "$x$', (Estimate(1.0, 0.5, 1.5),), ours=True)
    svg = table_svg(MeasureTable('<script>"&', "", ("a",), (row,), reference=1.0, chart_column=0))
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert '<b> & "$x$' in texts and "var(--accent)" in svg


def test_a_figure_is_the_same_every_time_and_its_ids_are_its_own() -> None:
    def draw(title: str) -> str:
        return curve_svg(Curve(title, STEP, {"loss": 1 / STEP}))

    def ids(svg: str) -> set[str]:
        return {e.attrib["id"] for e in ElementTree.fromstring(svg).iter() if "id" in e.attrib}

    assert draw("a") == draw("a")
    assert not ids(draw("a")) & ids(draw("b"))
