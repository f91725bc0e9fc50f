"""Names written into pictures: in the letters of every script, and never over what stands beside them.

A letter is drawn by the first font that has it: DejaVu Sans, which comes with matplotlib, then those of this
machine. One that none has stands as its code (`\\u9be8`), so that no two names look equal as rows of boxes.
Text from right to left is put in order by the Unicode bidirectional algorithm (UAX #9) without embeddings and
brackets, each part by its own first letter, as `<bdi>` does on a page. Pillow joins the letters of Arabic and
of the scripts of India where it has libraqm; without it they stand side by side, in the right order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from unicodedata import bidirectional, category

from PIL import Image, ImageDraw, ImageFont, features

from whalebench import visible

LINE = 1.5
"""Height of a line, in sizes of its letters."""
BASELINE = 1.15
ELLIPSIS = "…"
JOINERS = "\u200c\u200d"
"""What keeps letters apart or joins them: unseen, but part of how a word is written."""
UNSEEN = ("Cf", "Zs")
"""Categories of what would not be seen, as a blank without width; the blank itself is no such letter."""
RIGHT_TO_LEFT = 1


class Letter(NamedTuple):
    """A letter with its marks, or the codes of what no font has."""

    text: str
    font: str
    direction: str
    """Its class in the bidirectional algorithm."""


class Run(NamedTuple):
    """Letters of one font and one direction, as they are read."""

    letters: list[Letter]
    font: str
    level: int
    """Odd from right to left; the even ones from left to right."""


def write(page: Image.Image, place: tuple[int, int], width: int, size: int, colour: str, *parts: str) -> None:
    """Writes a line of at most `width` pixels with its left upper corner at a place, and nothing beside it.

    Each part, as a name, is in the order of its own script. Where there is no room for all, the longest is
    cut in its middle.
    """
    room = Image.new("L", (width, round(LINE * size)))
    pen, left = ImageDraw.Draw(room), 0.0
    for letters in fit([_letters(part) for part in parts], width, size):
        for run in _as_seen(_runs(letters)):
            font, text, order = _font(run.font, size), _text(run), _order(run)
            pen.text((left, BASELINE * size), text, 255, font, "ls", direction=order)
            left += font.getlength(text, direction=order)
    page.paste(colour, place, room)


def fit(parts: Sequence[list[Letter]], width: float, size: int) -> list[list[Letter]]:
    """The parts as they fit into a width of pixels: the widest is cut in its middle, then the next."""
    fitted = list(parts)
    for _ in parts:
        widths = [_width(letters, size) for letters in fitted]
        beyond = sum(widths) - width
        if beyond <= 0:
            break
        widest = widths.index(max(widths))
        fitted[widest] = _cut(fitted[widest], max(widths[widest] - beyond, width / len(parts)), size)
    return fitted


def _cut(letters: list[Letter], width: float, size: int) -> list[Letter]:
    """Beginning and end of some letters, as many as fit, with an ellipsis between them."""
    fewest, most = 0, len(letters) - 1
    while fewest < most:
        kept = (fewest + most + 1) // 2
        fewest, most = (kept, most) if _width(_ends(letters, kept), size) <= width else (fewest, kept - 1)
    return _ends(letters, fewest)


def _ends(letters: list[Letter], kept: int) -> list[Letter]:
    return [*letters[: kept - kept // 2], *_letters(ELLIPSIS), *letters[len(letters) - kept // 2 :]]


def _width(letters: list[Letter], size: int) -> float:
    """How wide some letters are, in pixels."""
    return sum(_font(run.font, size).getlength(_text(run), direction=_order(run)) for run in _runs(letters))


# --- letters and their fonts


def _letters(text: str) -> list[Letter]:
    """The letters of a text as they can be drawn here; controls as escapes, see `visible`."""
    together: list[str] = []
    for letter in visible(text):
        if together and (category(letter).startswith("M") or letter in JOINERS):
            together[-1] += letter
        else:
            together.append(letter)
    return [_drawn(letters) for letters in together]


def _drawn(letters: str) -> Letter:
    """A letter and its marks, those that its font does not have as their codes."""
    font = _font_of(letters[0])
    path = font or _own_font()
    there = _codes(path)
    text = "".join(
        letter if letter in JOINERS or (font and ord(letter) in there) else ascii(letter)[1:-1]
        for letter in letters
    )
    return Letter(text, path, bidirectional(letters[0]) if font else "L")


@cache
def _font_of(letter: str) -> str | None:
    """The first font that draws a letter so that it is seen; None where none does."""
    if letter != " " and category(letter) in UNSEEN:
        return None
    if ord(letter) in _codes(_own_font()):
        return _own_font()
    return next((font for font in _system_fonts() if ord(letter) in _codes(font)), None)


@cache
def _own_font() -> str:
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _system_fonts() -> tuple[str, ...]:
    """The fonts of this machine, upright ones of common weight without serifs first; always in one order."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font, StyleFlags

    ranked = []
    for path in map(str, findSystemFonts()):
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):  # damaged, or of a kind that is not read
            continue
        family = font.family_name.replace(" ", "")
        if "LastResort" in family:  # which has a box for every letter there is
            continue
        slanted, common = font.style_flags != StyleFlags.NORMAL, font.style_name in ("Regular", "Book")
        ranked.append((slanted, not common, "Serif" in family or "Mono" in family, family, path))
    return tuple(path for *_, path in sorted(ranked))


@cache
def _codes(path: str) -> frozenset[int]:
    """The letters that a font has, as the numbers of Unicode."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    engine = ImageFont.Layout.RAQM if _joins_letters() else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size, layout_engine=engine)


@cache
def _joins_letters() -> bool:
    """Whether Pillow has what puts letters together as their script asks for; libraqm needs fribidi."""
    return features.check("raqm") is True and features.check("fribidi") is True


# --- from right to left


def _runs(letters: list[Letter]) -> list[Run]:
    """The letters by font and direction, as they are read."""
    levels = bidi_levels([letter.direction for letter in letters])
    pairs = groupby(zip(letters, levels, strict=True), lambda pair: (pair[0].font, pair[1]))
    return [Run([letter for letter, _ in group], font, level) for (font, level), group in pairs]


def bidi_levels(directions: Sequence[str]) -> list[int]:
    """The level of each letter: odd from right to left, a higher one within what is round it.

    >>> bidi_levels(["L", "WS", "R", "R"]), bidi_levels(["R", "WS", "EN", "ES", "EN", "ON", "L"])
    ([0, 0, 1, 1], [1, 1, 2, 2, 2, 1, 2])
    """
    kinds = ["R" if each == "AL" else each for each in directions]
    base = next((kind for kind in kinds if kind in ("L", "R")), "L")
    for place in range(1, len(kinds) - 1):
        if kinds[place] in ("ES", "CS") and kinds[place - 1] == kinds[place + 1] == "EN":
            kinds[place] = "EN"
    strong = base
    for place, kind in enumerate(kinds):
        strong = kind if kind in ("L", "R") else strong
        if kind == "EN" and strong == "L":  # a number belongs to the word before it
            kinds[place] = "L"
    return [1 if kind == "R" else 0 if kind == base == "L" else 2 for kind in _settled(kinds, base)]


def _settled(kinds: Sequence[str], base: str) -> list[str]:
    """The kinds with each blank and sign of the direction on both its sides, or of that of all."""
    known = {"L": "L", "R": "R", "EN": "R", "AN": "R"}
    settled, before = [], base
    for place, kind in enumerate(kinds):
        if kind in known:
            before = known[kind]
            settled.append(kind)
        else:
            after = next((known[each] for each in kinds[place:] if each in known), base)
            settled.append(before if before == after else base)
    return settled


def _as_seen(runs: list[Run]) -> list[Run]:
    """The runs from left to right: numbers within a text from the right are turned twice, so not at all."""
    return _turned(_turned(runs, 2), RIGHT_TO_LEFT)


def _turned(runs: list[Run], least: int) -> list[Run]:
    """The runs with those next to each other that are of a level, or a higher one, turned round."""
    groups = [(turned, list(group)) for turned, group in groupby(runs, lambda run: run.level >= least)]
    return [run for turned, group in groups for run in (reversed(group) if turned else group)]


def _text(run: Run) -> str:
    """The letters as the font is to draw them: turned round where Pillow does not do so itself."""
    turned = run.level == RIGHT_TO_LEFT and not _joins_letters()
    return "".join(letter.text for letter in (reversed(run.letters) if turned else run.letters))


def _order(run: Run) -> str | None:
    """The direction that Pillow is told, where it can be told one."""
    if not _joins_letters():
        return None
    return "rtl" if run.level == RIGHT_TO_LEFT else "ltr"
