"""What all pictures have in common: colours, sizes, how texts and axes are cut; a picture as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from math import ceil, floor
from typing import Any, Literal, NamedTuple
from unicodedata import category, east_asian_width
from xml.etree import ElementTree

from whalebench import visible

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
"""The variables of a page that pictures are coloured by, and what they are where no page sets them."""
INK, PAPER, FAINT, LINE, *SERIES = LIGHT.values()
MARK, SECOND = SERIES[:2]
VARIABLES = {colour: f"var(--{name}, {colour})" for name, colour in LIGHT.items()}
"""How a picture names a colour, with what it is where there is no variable."""
NAMESPACE = "http://www.w3.org/2000/svg"
WIDTH = 358
"""Pixels that a phone of 390 has for a picture."""
EDGE = 8
"""Pixels left free round a picture."""
TEXT, SMALL = 12, 11
"""Sizes of texts in pixels."""
LONGEST = 200
"""Letters of a text that is shown, whatever room there is."""
HALF = 0.5
Anchor = Literal["left", "center", "right"]


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


def brief(name: str) -> str:
    """The name as it is told beside a number: its end cut off where it is long.

    >>> brief("arcface"), len(brief("a" * 300))
    ('arcface', 80)
    """
    return name if len(name) <= 80 else f"{name[:79]}…"


def wrapped(text: str, width: float, size: float = TEXT) -> list[str]:
    """The text in lines of at most that many pixels; a longer word has a line of its own.

    >>> wrapped("a pod of whales", 50)
    ['a pod', 'of', 'whales']
    """
    lines: list[str] = []
    for word in visible(text).split():
        if lines and width_of(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


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
    return f"{'; '.join([*facts[:most], *more]) or 'nothing'}."


def drawn_as(style: Style, size: float = 5) -> dict[str, Any]:
    """The style as matplotlib's lines take it."""
    dashes = (0, style.dashes) if style.dashes else "-"
    return {"color": style.colour, "linestyle": dashes, "marker": style.marker, "markersize": size}


TITLE, TITLE_ROW, TITLE_ROWS = 13, 18, 3
"""Size of the title of a file, the height of a line of it, and how many it may have."""


def standalone(picture: Picture) -> str:
    """The picture as the text of a file: on light paper, its title above it."""
    inner = ElementTree.fromstring(picture.svg)  # noqa: S314  # our own
    colours = {variable: colour for colour, variable in VARIABLES.items()}
    for element in inner.iter():
        element.attrib |= {key: colours.get(value, value) for key, value in element.attrib.items()}
    width = float(inner.attrib["width"])
    lines = wrapped(picture.title, width - 2 * EDGE, TITLE)[:TITLE_ROWS]
    top = TITLE_ROW * len(lines) + 12
    root = ElementTree.Element("svg", {"xmlns": NAMESPACE, **inner.attrib})
    root.set("height", f"{float(inner.attrib['height']) + top:g}")
    root.set("viewBox", f"0 0 {width:g} {root.attrib['height']}")
    ElementTree.SubElement(root, "title").text = picture.title
    ElementTree.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": LIGHT["paper"]})
    for place, line in enumerate(lines, start=1):
        at = {"x": f"{EDGE}", "y": f"{TITLE_ROW * place + 2}", "font-size": f"{TITLE}", "fill": INK}
        ElementTree.SubElement(root, "text", at).text = fitted(line, width - 2 * EDGE, TITLE)
    drawn = ElementTree.SubElement(root, "svg", {"y": f"{top}"})
    drawn.attrib |= {key: inner.attrib[key] for key in ("width", "height", "viewBox")}
    drawn.extend(element for element in inner if element.tag != "title")
    return ElementTree.tostring(root, encoding="unicode") + "\n"
