"""Matplotlib figures as inline SVG that follows the page's colours, fonts and width.

Figures are drawn with stand-in colours, which become CSS variables, so that one drawing serves
the light and the dark page. Nothing global is left changed: no pyplot, no figure registry, and
the settings hold only while a figure is written. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# 440 units across: at 400 px a label of 11 units is still 9 px tall, and two fit side by side.
WIDTH = 440
FONT = 11

# Stand-ins that no drawing would choose; the page's style sheet gives each its true colour.
INK, MUTED, RULE, PAPER, ACCENT = "#010203", "#010204", "#010205", "#010206", "#010207"
SERIES = ("#010207", "#010208", "#010209", "#01020a", "#01020b", "#01020c")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES)},
}
_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": FONT,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "axes.labelsize": FONT,
    "figure.facecolor": "none",
    "lines.linewidth": 1.6,
}


def draw(paint: Callable[[Figure], None], *, name: str, alt: str, height: float) -> Markup:
    """Return `paint`'s figure as an inline SVG of WIDTH by `height` units.

    `name` is unique in the page (it prefixes every id); `alt` says in words what is to be seen.
    """
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with style.context(["default", {**_SETTINGS, "svg.hashsalt": name}]), _missing_glyphs_allowed():
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        paint(figure)
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), name, alt, height)


def axes(figure: Figure, *, left: float = 46, right: float = 14, bottom: float = 40) -> Axes:
    """Add and return axes with margins given in drawing units (8 above)."""
    wide, high = figure.get_size_inches() * 72
    top = 8.0
    found = figure.add_axes(
        (
            left / wide,
            bottom / high,
            (wide - left - right) / wide,
            (high - bottom - top) / high,
        )
    )
    found.tick_params(length=0, pad=5)
    return found


def spread(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Return `places` moved as little as needed to be `gap` apart within [low, high].

    >>> spread([5.0, 5.0, 30.0], 10.0, 0.0, 40.0)
    [0.0, 10.0, 30.0]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    groups: list[tuple[float, list[int]]] = []
    for index in order:
        groups.append((places[index], [index]))
        while len(groups) > 1 and _reach(groups[-2], gap)[1] + gap > _reach(groups[-1], gap)[0]:
            members = groups[-2][1] + groups[-1][1]
            groups[-2:] = [(sum(places[i] for i in members) / len(members), members)]
    for centre, members in groups:
        start = centre - gap * (len(members) - 1) / 2
        start = max(low, min(start, high - gap * (len(members) - 1)))
        for offset, index in enumerate(members):
            moved[index] = start + gap * offset
    return moved


def _reach(group: tuple[float, list[int]], gap: float) -> tuple[float, float]:
    half = gap * (len(group[1]) - 1) / 2
    return group[0] - half, group[0] + half


@contextmanager
def _missing_glyphs_allowed() -> Iterator[None]:
    """The browser's fonts show the text; that matplotlib's own lack a glyph does not matter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _inline(svg: str, name: str, alt: str, height: float) -> Markup:
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    for piece in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        body = re.sub(piece, "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", lambda tag: _tag(tag.group(), name), body)
    body = re.sub(r">\s*\n\s*<", "><", body).strip()
    return Markup(
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {height:g}" '
        f'aria-label="{escape(alt)}"><title>{escape(alt)}</title>{body}</svg>'
    )


def _tag(tag: str, name: str) -> str:
    """Take what belongs to a free-standing file out of one tag of matplotlib's output."""
    tag = re.sub(r' id="(?:figure|axes|matplotlib|patch|line2d|text|[a-z]*tick|Path|LineCollection'
                 r'|PathCollection|FillBetween|legend)[^"]*"', "", tag)  # fmt: skip
    tag = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', tag)
    tag = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{name}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", tag)
    tag = re.sub(r"font(?:-size)?: ([\d.]+px)[^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    return tag
