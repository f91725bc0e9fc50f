"""What all pictures have in common: colours, the sheet they are drawn on, the SVG that comes of it."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import cycle, islice
from math import ceil, floor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from unicodedata import category, east_asian_width
from xml.etree import ElementTree

from whalebench import visible

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LIGHT: Mapping[str, str] = {
    "ink": "#1d2b36",
    "paper": "#fbfcfd",
    "faint": "#56646f",
    "line": "#d3dce2",
    "mark": "#0b6e99",
    "second": "#b04a00",
    "third": "#7a4a9e",
    "fourth": "#3d7a1f",
    "fifth": "#a8326e",
    "sixth": "#6b6200",
}
"""The variables of a page that pictures are coloured by, and what they are on light paper."""
DARK: Mapping[str, str] = {
    "ink": "#dfe8ee",
    "paper": "#10181e",
    "faint": "#9aabb7",
    "line": "#33424e",
    "mark": "#58b7e0",
    "second": "#f0924a",
    "third": "#c3a1e6",
    "fourth": "#8fcf6a",
    "fifth": "#f08ab8",
    "sixth": "#d6c64a",
}
"""The same on dark paper."""
INK, PAPER, FAINT, LINE, *SERIES = LIGHT.values()
MARK, SECOND = SERIES[:2]
WIDTH = 358
"""Pixels that a phone of 390 has for a picture."""
EDGE = 8
"""Pixels left free round a picture."""
TEXT, SMALL = 12, 11
"""Sizes of texts in pixels."""
LONGEST = 120
"""Letters of a text that is shown, whatever room there is."""
HALF = 0.5
Anchor = Literal["left", "center", "right"]


def css(*, dark: bool) -> str:
    """The variables as declarations of a style sheet."""
    return " ".join(f"--{name}: {colour};" for name, colour in (DARK if dark else LIGHT).items())


class Picture(NamedTuple):
    """A picture of numbers."""

    svg: str
    """One `<svg>` element for a page, coloured by its variables; without ids, so it may stand there twice."""
    title: str
    """What is shown; not drawn."""
    text: str
    """In words what a reader must know who does not see it."""


class Style(NamedTuple):
    """How one of several series is drawn: told apart by colour, dashes and the shape of its marks."""

    colour: str
    dashes: tuple[float, ...]
    marker: str


def styles(number: int) -> list[Style]:
    """As many styles, the first twelve all different."""
    dashes = ((), (5, 2), (1.5, 2), (7, 2, 1.5, 2), (3, 1.5))
    every = zip(cycle(SERIES), cycle(dashes), cycle("osD^vP"), strict=False)
    return [Style(*style) for style in islice(every, number)]


def width_of(text: str, size: float = TEXT) -> float:
    """About how many pixels a text is wide, in whatever font a page has: rather too many than too few."""

    def letter(one: str) -> float:
        if category(one) in ("Mn", "Me", "Cf"):
            return 0
        return 1 if east_asian_width(one) in "WF" else 0.9 if one in "mwMW@%…" else 0.58

    return size * sum(map(letter, text))


def fitted(text: str, width: float, size: float = TEXT) -> str:
    """The text as it may be shown, its end cut off where it is wider than that many pixels.

    >>> fitted("arcface", 80), fitted("a" * 300, 60), fitted("a\\nb", 80)
    ('arcface', 'aaaaaaa…', 'a\\\\nb')
    """
    text = visible(text)
    shown = text[:LONGEST]
    while shown and width_of(shown + "…" * (shown != text), size) > width:
        shown = shown[:-1]
    return shown if shown == text else f"{shown.rstrip()}…"


def tenths(values: Sequence[float]) -> tuple[float, float]:
    """The tenths between which the values lie, at least one apart.

    >>> tenths([0.34, 0.71]), tenths([1.0]), tenths([])
    ((0.3, 0.8), (0.9, 1.0), (0.0, 1.0))
    """
    if not values:
        return 0.0, 1.0
    low, high = floor(10 * min(values) + 1e-9), ceil(10 * max(values) - 1e-9)
    return (low - (low == high == 10)) / 10, (high + (low == high < 10)) / 10


def tenth_ticks(low: float, high: float) -> dict[float, str]:
    """Ticks between two tenths with their labels, six at most."""
    steps = round(10 * (high - low))
    places = range(0, steps + 1, ceil(steps / 5)) if steps > 1 else (0, HALF, 1)
    return {low + place / 10: f"{low + place / 10:.{1 if steps > 1 else 2}f}" for place in places}


def compact(value: float) -> str:
    """A count with few letters.

    >>> [compact(value) for value in (0.2, 5, 20_000, 3e6)]
    ['0.2', '5', '20k', '3M']
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def listed(facts: Sequence[str], most: int = 8) -> str:
    """The facts as a sentence, and how many more there are than are told.

    >>> listed(["a 1", "b 2", "c 3"], most=2)
    'a 1; b 2; and 1 more.'
    """
    more = [f"and {len(facts) - most} more"] if len(facts) > most else []
    return f"{'; '.join([*facts[:most], *more])}."


class Sheet:
    """What a picture is drawn on; all places are pixels from its left and its top."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self._figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        self._hints: dict[str, str] = {}
        FigureCanvasSVG(self._figure)

    def axes(
        self,
        box: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        x_ticks: Mapping[float, str] | None = None,
        y_ticks: Mapping[float, str] | None = None,
    ) -> Axes:
        """Axes in the box (left, top, width, height) with these limits; lines of a grid at the ticks of y."""
        left, top, width, height = box
        place = (left / self.width, 1 - (top + height) / self.height)
        axes = self._figure.add_axes((*place, width / self.width, height / self.height))
        axes.set(xlim=x, ylim=y, frame_on=False)
        axes.tick_params(length=0, pad=4, labelsize=SMALL, labelcolor=FAINT)
        axes.grid(axis="y", color=LINE, linewidth=1)
        axes.set_axisbelow(True)
        axes.set_xticks([*(x_ticks or {})], [*(x_ticks or {}).values()])
        axes.set_yticks([*(y_ticks or {})], [*(y_ticks or {}).values()])
        return axes

    def place(self, axes: Axes, x: float, y: float) -> tuple[float, float]:
        """Where a point of the axes lies on the sheet."""
        across, up = axes.transData.transform((x, y))
        return float(across), self.height - float(up)

    def text(
        self,
        x: float,
        y: float,
        content: str,
        width: float | None = None,
        *,
        anchor: Anchor = "left",
        colour: str = INK,
        size: float = TEXT,
    ) -> None:
        """A text whose line is at y, cut to the width and then with all of it as its hint."""
        shown = fitted(content, self.width if width is None else width, size)
        drawn = self._figure.text(
            x / self.width,
            1 - y / self.height,
            shown,
            ha=anchor,
            va="baseline",
            color=colour,
            fontsize=size,
        )
        if shown != visible(content):
            self.hint(drawn, content)

    def hint(self, drawn: Artist, text: str) -> None:
        """Shows the text where the pointer rests on what was drawn."""
        gid = f"hint{len(self._hints)}"
        drawn.set_gid(gid)
        self._hints[gid] = visible(text)

    def line(self, x: Sequence[float], y: Sequence[float], **look: Any) -> None:
        """A line through places of the sheet, over all axes."""
        from matplotlib.lines import Line2D

        across, up = [one / self.width for one in x], [1 - one / self.height for one in y]
        self._figure.add_artist(Line2D(across, up, **look))

    def sample(self, x: float, y: float, style: Style, *, line: bool = True) -> None:
        """What a series looks like, 24 pixels wide."""
        look = drawn_as(style) | ({} if line else {"linestyle": "none"})
        self.line((x, x + 12, x + 24), (y, y, y), **look, markevery=[1])

    def shapes(
        self, x: float, y: float, names: Sequence[tuple[str, str]], colours: Sequence[str] = (FAINT,)
    ) -> None:
        """Marks and what they stand for, one after the other, going on in the next line where one is full."""
        left = x
        for (marker, name), colour in zip(names, cycle(colours), strict=False):
            wide = 16 + width_of(name, SMALL)
            if left > x and left + wide > self.width - EDGE:
                left, y = x, y + 18
            self.line((left + 5, left + 5), (y - 4, y - 4), color=colour, marker=marker, markersize=7)
            self.text(left + 14, y, name, size=SMALL)
            left += wide + 12

    def legend(self, top: float, names: Sequence[tuple[str, str]], *, line: bool = True) -> None:
        """A line of 18 pixels a series: what it looks like, its name, and what is said of it."""
        for place, ((name, said), style) in enumerate(zip(names, styles(len(names)), strict=True)):
            y, right = top + 18 * place, self.width - EDGE
            self.sample(EDGE, y + 9, style, line=line)
            self.text(EDGE + 32, y + 13, name, right - EDGE - 40 - width_of(said, SMALL))
            self.text(right, y + 13, said, anchor="right", colour=FAINT, size=SMALL)

    def picture(self, title: str, text: str) -> Picture:
        """What was drawn."""
        title, text, raw = visible(title), visible(text), StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self._figure.savefig(raw, format="svg", metadata=nothing, transparent=True)
        drawn = ElementTree.fromstring(raw.getvalue())  # noqa: S314  # of matplotlib, from our texts
        size = {"width": f"{self.width:g}", "height": f"{self.height:g}"}
        box = f"0 0 {size['width']} {size['height']}"
        root = ElementTree.Element("svg", {"role": "img", "aria-label": f"{title}. {text}", **size})
        root.attrib |= {"viewBox": box, "font-family": "system-ui, sans-serif", "stroke-linejoin": "round"}
        ElementTree.SubElement(root, "title").text = title
        shapes = {str(path.get("id")): path for path in drawn.iter(f"{SVG}path") if path.get("id")}
        root.extend(_cleaned(drawn, shapes, self._hints))
        return Picture(ElementTree.tostring(root, encoding="unicode"), title, text)


def drawn_as(style: Style, size: float = 5) -> dict[str, Any]:
    """The style as matplotlib's lines take it."""
    dashes = (0, style.dashes) if style.dashes else "-"
    return {"color": style.colour, "linestyle": dashes, "marker": style.marker, "markersize": size}


SETTINGS: Mapping[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib; only measured with
    "lines.dash_capstyle": "butt",
    "lines.linewidth": 1.75,
    "lines.markeredgewidth": 1.25,
    "lines.scale_dashes": False,
    "lines.solid_capstyle": "butt",
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "whalebench",
    "text.parse_math": False,  # a name with dollars is a name
}


@contextmanager
def sheet(width: float, height: float) -> Iterator[Sheet]:
    """A sheet to draw on while the context lasts, whatever somebody's matplotlibrc says."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of its font cache, and of a home that it cannot write to
    try:
        with warnings.catch_warnings():
            # The font that texts are measured with has not every letter; that of the page has.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            import matplotlib

            usual = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
            with matplotlib.rc_context(usual | SETTINGS):
                yield Sheet(width, height)
    finally:
        logger.setLevel(level)


# --- from matplotlib's SVG to one that is small and has no ids

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
VARIABLES = {colour: f"var(--{name}, {colour})" for name, colour in LIGHT.items()}
KEPT = ("d", "x", "y", "transform")
DROPPED = ("font-family", "stroke-linejoin")


def _cleaned(
    node: ElementTree.Element, shapes: Mapping[str, ElementTree.Element], hints: Mapping[str, str]
) -> list[ElementTree.Element]:
    """What there is to see of an element: groups only where they have a hint, marks where they are used."""
    name = node.tag.removeprefix(SVG)
    if name in ("defs", "metadata"):
        return []
    if name == "use":
        return [_mark(node, shapes[node.attrib[LINK].removeprefix("#")])]
    if name in ("svg", "g"):
        content = [piece for child in node for piece in _cleaned(child, shapes, hints)]
        if node.get("id", "") not in hints:
            return content
        group = ElementTree.Element("g")
        ElementTree.SubElement(group, "title").text = hints[node.attrib["id"]]
        group.extend(content)
        return [group]
    kept = ElementTree.Element(name, _attributes(node))
    kept.text = node.text
    kept.extend(piece for child in node for piece in _cleaned(child, shapes, hints))
    return [kept]


def _mark(node: ElementTree.Element, shape: ElementTree.Element) -> ElementTree.Element:
    """A mark where it is used: a circle, which alone has curves, or its outline moved there."""
    look, outline = _attributes(shape) | _attributes(node), _numbers(shape.attrib["d"])
    x, y = look.pop("x"), look.pop("y")
    if "C" not in outline:
        return ElementTree.Element("path", look | {"d": outline, "transform": f"translate({x} {y})"})
    del look["d"]
    radius = outline.removeprefix("M0 ").partition("C")[0]
    return ElementTree.Element("circle", {"cx": x, "cy": y, "r": radius} | look)


def _attributes(node: ElementTree.Element) -> dict[str, str]:
    """The attributes and the style of an element as attributes, its colours as variables."""
    kept = {key: _numbers(value) for key, value in node.attrib.items() if key in KEPT}
    if kept.get("transform", "").startswith(("rotate(0 ", "rotate(-0 ")):
        del kept["transform"]
    style = (part.partition(": ") for part in node.get("style", "").split("; ") if part)
    look = {key: value.removesuffix("px") for key, _, value in style if key not in DROPPED}
    return kept | {key: VARIABLES.get(value, value) for key, value in look.items()}


def _numbers(text: str) -> str:
    """A path or a place with no more blanks and digits than can be seen."""
    rounded = re.sub(r"-?\d+\.\d+", lambda found: f"{round(float(found[0]), 2) + 0:g}", text)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", " ".join(rounded.split())) if "M" in text else rounded


TITLE_HEIGHT = 30


def standalone(picture: Picture) -> str:
    """The picture as the text of a file: on light paper, its title above it."""
    inner = ElementTree.fromstring(picture.svg)  # noqa: S314  # our own
    colours = {variable: LIGHT[name] for name, variable in zip(LIGHT, VARIABLES.values(), strict=True)}
    for element in inner.iter():
        element.attrib |= {key: colours.get(value, value) for key, value in element.attrib.items()}
    width, height = inner.attrib["width"], f"{float(inner.attrib['height']) + TITLE_HEIGHT:g}"
    root = ElementTree.Element("svg", {"xmlns": SVG[1:-1], **inner.attrib, "height": height})
    root.set("viewBox", f"0 0 {width} {height}")
    ElementTree.SubElement(root, "title").text = picture.title
    ElementTree.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": LIGHT["paper"]})
    place = {"x": f"{EDGE}", "y": "20", "font-size": "13", "fill": INK}
    ElementTree.SubElement(root, "text", place).text = fitted(picture.title, float(width) - 2 * EDGE, 13)
    drawn = ElementTree.SubElement(root, "svg", {"y": f"{TITLE_HEIGHT}"})
    drawn.attrib |= {key: inner.attrib[key] for key in ("width", "height", "viewBox")}
    drawn.extend(element for element in inner if element.tag != "title")
    return ElementTree.tostring(root, encoding="unicode") + "\n"
