"""The drawings: the front, labels kept apart, any text, no trace of matplotlib's own file."""

from __future__ import annotations

import re

import pytest

from sapwood.pages.drawing import spread
from sapwood.pages.plots import (
    Point,
    Series,
    calibration_plot,
    cost_plot,
    curve_plot,
    length_plot,
    pareto_front,
)


def point(name: str, cost: float, value: float) -> Point:
    return Point(name=name, cost=cost, value=value, low=value - 3, high=value + 3)


def test_the_front_keeps_what_nothing_beats_on_both() -> None:
    points = [point("c", 10, 90), point("a", 1, 50), point("d", 20, 85), point("b", 1, 60)]
    assert [p.name for p in pareto_front(points)] == ["b", "c"]
    assert pareto_front([]) == []


@pytest.mark.parametrize(
    ("places", "expected"),
    [([50.0], [50.0]), ([10.0, 50.0], [10.0, 50.0]), ([50.0, 50.0], [45.0, 55.0])],
)
def test_labels_move_no_more_than_needed(places: list[float], expected: list[float]) -> None:
    assert spread(places, 10.0, 0.0, 100.0) == expected


def test_labels_stay_apart_and_inside() -> None:
    moved = spread([99.0, 98.0, 97.0, 3.0], 10.0, 0.0, 100.0)
    assert sorted(moved) == [3.0, 80.0, 90.0, 100.0]


def test_names_are_shown_as_they_are() -> None:
    svg = cost_plot(
        [point("$x^2$ <b>&", 1, 80), point("中文方案", 10, 90)],
        name="plot",
        x="毫秒",
        y="准确率",
        alt='a "b" <c>',
    )
    assert "$x^2$ &lt;b&gt;&amp;" in svg
    assert "中文方案" in svg
    assert 'aria-label="a &#34;b&#34; &lt;c&gt;"' in svg


def test_colours_are_variables_and_nothing_points_outside() -> None:
    svg = str(cost_plot([point("a", 1, 80)], name="plot", x="x", y="y", alt="z"))
    assert not re.findall(r"#0102|http|<style|<metadata|<!--|DejaVu", svg)
    assert "var(--ink)" in svg
    assert set(re.findall(r"url\(#(\w+)-", svg)) == {"plot"}


def test_one_point_one_bin_and_flat_lines_can_be_drawn() -> None:
    assert "svg" in curve_plot([Series(name="a", x=(1.0,), y=(0.5,))], name="c", x="x", alt="z")
    assert "svg" in calibration_plot(
        [{"confidence": 0.9, "accuracy": 0.8, "count": 3}], x="x", y="y", alt="z"
    )
    assert "svg" in length_plot([3], [0, 10], 2048, x="x", y="y", alt="z")


def test_a_limit_out_of_sight_is_not_drawn() -> None:
    near = length_plot([3, 4], [0, 10, 20], 15, x="x", y="y", alt="z")
    far = length_plot([3, 4], [0, 10, 20], 2048, x="x", y="y", alt="z")
    assert "stroke-dasharray" in near
    assert "stroke-dasharray" not in far
