"""The sheet that pictures are drawn on, and how matplotlib's SVG becomes one that is small and has no ids."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import cycle
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from whalebench import visible
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    INK,
    LINE,
    NAMESPACE,
    SMALL,
    TEXT,
    VARIABLES,
    Anchor,
    Picture,
    Style,
    drawn_as,
    fitted,
    styles,
    width_of,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


class Sheet:
    """What a picture is drawn on; all places are pixels from its left and its top."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self._figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        self._hints: dict[str, str] = {}
        self._canvas = FigureCanvasSVG(self._figure)

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
        # `savefig` would draw everything twice
        self._canvas.print_svg(raw, metadata=nothing)  # type: ignore[no-untyped-call]
        drawn = ElementTree.fromstring(raw.getvalue())  # noqa: S314  # of matplotlib, from our texts
        size = {"width": f"{self.width:g}", "height": f"{self.height:g}"}
        box = f"0 0 {size['width']} {size['height']}"
        root = ElementTree.Element("svg", {"role": "img", "aria-label": f"{title}. {text}", **size})
        root.attrib |= {"viewBox": box, "font-family": "system-ui, sans-serif"} | DEFAULTS
        ElementTree.SubElement(root, "title").text = title
        shapes = {str(path.get("id")): path for path in drawn.iter(f"{SVG}path") if path.get("id")}
        root.extend(_cleaned(drawn, shapes, self._hints))
        return Picture(ElementTree.tostring(root, encoding="unicode"), title, text)


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

            settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, **SETTINGS}
            del settings["backend"]  # another one than this picture's is not its business
            with matplotlib.rc_context(settings):
                yield Sheet(width, height)
    finally:
        logger.setLevel(level)


# --- from matplotlib's SVG to one that is small and has no ids

LINK = "{http://www.w3.org/1999/xlink}href"
SVG = f"{{{NAMESPACE}}}"
KEPT = ("d", "x", "y", "transform")
DROPPED = ("font-family", "stroke-linejoin", "stroke-dashoffset")
DEFAULTS = {"font-size": f"{TEXT}", "fill": VARIABLES[INK], "stroke-linejoin": "round"}
"""What the whole picture has where nothing else is said."""
OWN = ("cx", "cy", "d", "opacity", "r", "text-anchor", "transform", "x", "y")
"""Attributes that are not those of a group."""


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
        return _grouped(content, hints.get(node.get("id", "")))
    kept = ElementTree.Element(name, _attributes(node))
    if name == "path" and kept.get("fill") == "none" and "stroke" not in kept.attrib:
        return []
    kept.text = node.text
    kept.extend(piece for child in node for piece in _cleaned(child, shapes, hints))
    return [kept]


def _grouped(content: list[ElementTree.Element], hint: str | None) -> list[ElementTree.Element]:
    """The elements, in a group where they have a hint or what three or more of them look like is the same."""
    alike = (
        set(content[0].attrib.items()).intersection(*(one.attrib.items() for one in content))
        if content
        else set()
    )
    alike = {(key, value) for key, value in alike if key not in OWN}
    if hint is None and (len(content) < 3 or not alike):
        return content
    group = ElementTree.Element("g")
    if hint is not None:
        ElementTree.SubElement(group, "title").text = hint
    if len(content) > 1:
        group.attrib |= dict(sorted(alike))
        for element in content:
            element.attrib = {
                key: value for key, value in element.attrib.items() if (key, value) not in alike
            }
    group.extend(content)
    return [group]


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
    coloured = {key: VARIABLES.get(value, value) for key, value in look.items()}
    return kept | {key: value for key, value in coloured.items() if DEFAULTS.get(key) != value}


def _numbers(text: str) -> str:
    """A path or a place with no more blanks and digits than can be seen."""
    rounded = re.sub(r"-?\d+\.\d+", lambda found: f"{round(float(found[0]), 2) + 0:g}", text)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", " ".join(rounded.split())) if "M" in text else rounded
