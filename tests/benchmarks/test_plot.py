"""A plot is a well-formed picture with every point inside its panel."""

from xml.etree import ElementTree

from tests.benchmarks import plot
from tests.benchmarks.plot import Curve, Panel

SVG = "{http://www.w3.org/2000/svg}"


def test_points_lie_inside_the_panel_and_larger_values_lie_higher():
    curve = Curve(name="a & b", points=[(1e4, 0.1), (3e5, 7.5)], dashed=True)
    root = ElementTree.fromstring(
        plot.plot([Panel(title="seconds", curves=[curve])], across="classes")
    )
    places = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]
    (x1, y1), (x2, y2) = places
    assert plot.LEFT < x1 < x2 < plot.WIDTH - plot.RIGHT
    assert plot.HEIGHT - plot.BOTTOM > y1 > y2 > plot.TOP
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"a & b", "seconds", "classes", "10,000", "1"} <= set(texts)


def test_a_single_point_is_drawn():
    curve = Curve(name="one", points=[(1e5, 2.0)])
    picture = plot.plot([Panel(title="", curves=[curve])], across="classes")
    assert picture.count("<circle") == 1
