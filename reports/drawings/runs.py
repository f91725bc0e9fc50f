"""Single runs in pictures: effort, reliability, how animals were found, losses, what scores rest on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import isfinite, isnan, log10
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from whalebench import visible
from whalebench.reports.drawings.sheets import Sheet, sheet
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    HALF,
    INK,
    LINE,
    MARK,
    SECOND,
    SERIES,
    SMALL,
    WIDTH,
    Picture,
    Style,
    brief,
    compact,
    drawn_as,
    listed,
    styles,
    tenth_ticks,
    tenths,
    width_of,
    wrapped,
)
from whalebench.reports.metrics.breakdown import SHARES, Effort
from whalebench.reports.metrics.ranking import Floats
from whalebench.reports.wording import number, percent

LEFT = 44
"""Pixels for the labels of an upright axis."""


class Reviewed(NamedTuple):
    """A run with what it asks of a reviewer, see `metrics.breakdown`."""

    name: str
    curve: Mapping[str, Sequence[float]]
    effort: Sequence[Effort]


EFFORT_HEIGHT, EFFORT_ROW = 200, 48
DOTS = dict(zip(SHARES, "osD", strict=True))
"""The shape of the dot at each share of the matches."""


def effort(runs: Sequence[Reviewed]) -> Picture:
    """The share of matches found over the candidates looked at a photo, on a logarithmic axis, a line a run.

    Dots are 90, 95 and 99 % of the matches; below, a run a row, they have their intervals.
    """
    ends = [end for run in runs for one in run.effort for end in (one.high, one.candidates) if end > 1]
    most = log10(max([10.0, *ends, *(places for run in runs for places in run.curve["candidates"])]))
    ticks = {float(power): compact(10**power) for power in range(int(most) + 1)}
    rows, limits = 26 + EFFORT_ROW * len(runs), (-0.03 * most, most * 1.01)
    below, wide = EFFORT_HEIGHT + 72, WIDTH - LEFT - 2 * EDGE
    with sheet(WIDTH, below + rows + 4) as page:
        shares = {0: "0 %", HALF: "50 %", 0.9: "90 %", 1: "100 %"}
        axes = page.axes((LEFT, 20, wide, EFFORT_HEIGHT), limits, (0, 1), ticks, shares)
        intervals = page.axes((LEFT, below, wide, rows), limits, (rows, 0))
        page.text(EDGE, 12, "matches found", colour=FAINT, size=SMALL)
        what = "candidates looked at a photo"
        page.text(WIDTH - EDGE, EFFORT_HEIGHT + 50, what, anchor="right", colour=FAINT, size=SMALL)
        page.shapes(LEFT, below + 4, [(shape, percent(share)) for share, shape in DOTS.items()])
        for place, (run, style) in enumerate(zip(runs, styles(len(runs)), strict=True)):
            top = 26 + EFFORT_ROW * place
            _reviewed(page, run, style, below + top)
            _found(page, axes, run, style)
            for lane, one in enumerate(run.effort):
                height, mark = top + 8 + 10 * lane, _dot(one, style)
                if not isnan(one.low):
                    ends = [log10(one.low), log10(one.high)]
                    intervals.plot(ends, (height, height), color=style.colour)
                intervals.plot([log10(one.candidates)], [height], **mark)
        names = brief(runs[0].name) if len(runs) == 1 else f"{len(runs)} runs"
        facts = [f"{brief(run.name)}: {', '.join(map(_looked_at, run.effort)) or NOTHING}" for run in runs]
        return page.picture(f"{names}: effort of finding the matches", listed(facts))


NOTHING = "no known photo"


def _found(page: Sheet, axes: Any, run: Reviewed, style: Style) -> None:
    """The curve of a run, from none of the matches to all, and the dots on it."""
    found = [0.0, *run.curve["found"]]
    places = [log10(candidates) for candidates in run.curve["candidates"]]
    steps = [(x, y) for at, x in enumerate(places) for y in found[at : at + 2]]
    (drawn,) = axes.plot([x for x, _ in steps], [y for _, y in steps], **drawn_as(style) | {"marker": ""})
    page.hint(drawn, brief(run.name))
    for one in run.effort:
        (dot,) = axes.plot([log10(one.candidates)], [one.share], **_dot(one, style))
        page.hint(dot, f"{brief(run.name)}: {_looked_at(one)}")


def _reviewed(page: Sheet, run: Reviewed, style: Style, y: float) -> None:
    """What the line of a run looks like, its name, and how many candidates it asks for."""
    counted = ", ".join(f"{one.candidates:,}" for one in run.effort)
    said = f"{counted} candidates" if counted else NOTHING
    page.line((EDGE, EDGE + 24), (y - 5, y - 5), **drawn_as(style) | {"marker": ""})
    page.text(EDGE + 30, y - 1, run.name, WIDTH - 2 * EDGE - 40 - width_of(said, SMALL))
    page.text(WIDTH - EDGE, y - 1, said, anchor="right", colour=FAINT, size=SMALL)


def _dot(one: Effort, style: Style) -> dict[str, Any]:
    return {"color": style.colour, "markersize": 6, "linestyle": "none", "marker": DOTS.get(one.share, "o")}


def _looked_at(one: Effort) -> str:
    ends = "" if isnan(one.low) else f" [{one.low:.0f}, {one.high:.0f}]"
    return f"{percent(one.share)} of the matches by {one.candidates}{ends} candidates"


SQUARE = 200
"""Width and height of a reliability diagram."""


def reliability(calibration: Mapping[str, Any], name: str) -> Picture | None:
    """Accuracy over confidence in bins of equal mass, before and after calibration.

    On the diagonal confidence and accuracy are equal; below it the method is overconfident. None for a record
    without bins.
    """
    bins = {when: calibration.get(f"reliability_{when}") or {"count": []} for when in ("before", "after")}
    if not all(each["count"] for each in bins.values()):
        return None
    errors = {when: number(calibration.get(f"test_ece_{when}")) for when in bins}
    ticks = {0: "0", HALF: "0.5", 1: "1"}
    with sheet(LEFT + SQUARE + 2 * EDGE, SQUARE + 92) as page:
        axes = page.axes((LEFT, 20, SQUARE, SQUARE), (0, 1), (0, 1), ticks, ticks)
        axes.plot((0, 1), (0, 1), color=FAINT, linewidth=1)
        page.text(EDGE, 12, "share right", colour=FAINT, size=SMALL)
        right = LEFT + SQUARE
        page.text(right, SQUARE + 48, "confidence", anchor="right", colour=FAINT, size=SMALL)
        looks = (Style(SECOND, (4, 2), "s"), Style(MARK, (), "o"))
        for place, ((when, each), style) in enumerate(zip(bins.items(), looks, strict=True)):
            axes.plot(each["confidence"], each["accuracy"], **drawn_as(style))
            y = SQUARE + 56 + 16 * place
            page.sample(EDGE, y + 4, style)
            page.text(EDGE + 32, y + 8, f"{when} calibration")
            page.text(right, y + 8, f"ECE {errors[when]}", anchor="right", colour=FAINT, size=SMALL)
        said = f"ECE {errors['before']} before calibration, {errors['after']} after."
        ends = [(each["confidence"][-1], each["accuracy"][-1]) for each in bins.values()]
        said += (
            " Of the surest photos, confidence {:.2f} before, {:.2f} after, right {:.2f} and {:.2f}.".format(
                *(end[0] for end in ends), *(end[1] for end in ends)
            )
        )
        return page.picture(f"{brief(name)}: how many answers are right, by confidence", said)


OVERLAPS = {"box_iou": "box IoU", "mask_iou": "mask IoU", "mask_precision": "mask precision"}
"""Per-query measures that go from 0 to 1 and have a mean, and their names."""
MEASURES = OVERLAPS | {"landmark_error": "landmark error"}
"""All per-query measures that a histogram is drawn of; the others have a median and no upper end."""
BINS = 20
FARTHEST = 0.99
"""The quantile at which the axis of a measure without an upper end ends."""
BARS_WIDTH, BARS_HEIGHT = 240, 80


def measures(queries: pd.DataFrame | None) -> dict[str, Floats]:
    """The defined values of each measure that the per-query table has any of; none without a table."""
    columns = {} if queries is None else {key: queries[key].dropna() for key in MEASURES if key in queries}
    return {key: values.to_numpy(np.float64) for key, values in columns.items() if len(values)}


def histogram(measure: str, values: Floats, name: str) -> Picture:
    """A bar a bin of the values, at least one and none negative, and a line at their mean or median.

    The axis ends at 1 for an overlap, else at the 99th percentile, with the number of photos beyond.
    """
    overlap = measure in OVERLAPS
    limit = 1.0 if overlap else float(np.quantile(values, FARTHEST)) or 1.0
    values = np.minimum(values, 1.0) if overlap else values  # an overlap of 1 may be a last digit more
    middle = float(values.mean() if overlap else np.median(values))
    what = f"mean {number(middle, 2)}" if overlap else f"median {percent(middle)}"
    above = int((values > limit).sum())
    beyond = f", {above} beyond" if above else ""
    counts, edges = np.histogram(values, BINS, (0, limit))
    end = f"{'1' if overlap else percent(limit)}{beyond}"
    with sheet(BARS_WIDTH + 2 * EDGE, BARS_HEIGHT + 44) as page:
        box = (EDGE, 22, BARS_WIDTH, BARS_HEIGHT)
        axes = page.axes(box, (0, limit), (0, max(*counts.tolist(), 1)), None, {0: ""})
        filled = counts > 0
        axes.bar(edges[:-1][filled], counts[filled], 0.9 * limit / BINS, align="edge", color=FAINT, alpha=0.7)
        axes.plot((middle, middle), axes.get_ylim(), color=SECOND, linewidth=2)
        page.text(EDGE, 13, f"{MEASURES[measure]}, {what}", size=SMALL)
        page.text(EDGE, BARS_HEIGHT + 38, "0", colour=FAINT, size=SMALL)
        right = EDGE + BARS_WIDTH
        page.text(right, BARS_HEIGHT + 38, end, anchor="right", colour=FAINT, size=SMALL)
        title = f"{brief(name)}: {MEASURES[measure]}"
        return page.picture(title, f"{what[0].upper()}{what[1:]} of {len(values)} photos{beyond}.")


LOSS_HEIGHT, VALID_HEIGHT = 80, 100
GAP, ABREAST = 10, 3
"""Pixels between stages, and how many stand side by side at most."""
ROOM, NARROWEST = WIDTH - LEFT - EDGE, 80
"""Pixels of a row of stages, and of a stage at least."""
LINE_HEIGHT = 14
JUDGED = "MAP@5 on valid"

WATCHED = {"train_loss": ("train as evaluated", SECOND), "valid_loss": ("valid", INK)}
"""Losses in evaluation mode, where a run was asked for them: in words, and their colour."""


class Stage(NamedTuple):
    """Epochs in a row that bear one name, and where they are drawn."""

    name: str
    rows: pd.DataFrame
    title: str
    """Its name as far as there is room for it, unlike those of other stages."""
    left: float = 0
    width: float = 0

    def points(self, column: str) -> tuple[list[float], list[float]]:
        """Places on the sheet of the epochs at which the column has a number, and the numbers."""
        values = self.rows.get(column, pd.Series(dtype=np.float64)).to_numpy(np.float64)
        across = np.linspace(0, 1, len(values)) if len(values) > 1 else np.array([HALF])
        defined = np.isfinite(values)
        return (self.left + self.width * across[defined]).tolist(), values[defined].tolist()

    @property
    def epochs(self) -> str:
        """How many, in words."""
        return f"{len(self.rows)} epoch{'s' * (len(self.rows) > 1)}"

    def said(self) -> str:
        """From which loss it came to which, over how many epochs."""
        _, losses = self.points("loss")
        ends = f", loss {losses[0]:.3g} to {losses[-1]:.3g}" if losses else ""
        watched = [f", {words} {each[0]:.3g} to {each[-1]:.3g}" for words, _, _, each in self.watched()]
        return f"{brief(self.name)}: {self.epochs}{ends}{''.join(watched)}"

    def watched(self) -> list[tuple[str, str, list[float], list[float]]]:
        """Of each loss in evaluation mode that there is: in words, its colour, places and numbers."""
        found = [(words, colour, *self.points(name)) for name, (words, colour) in WATCHED.items()]
        return [each for each in found if each[3]]


def _titles(names: Sequence[str]) -> dict[str, str]:
    """By its name the title of each stage, no two alike: such that two fit a row, else one, else numbered.

    Names of several parts lose a last part that they share; then the words of their parts are cut.

    >>> _titles(["aligner", "network_1.train"])["network_1.train"]
    'network_1.train'
    >>> [*_titles(["train", "net.bag_1.cycle_1.segmenter", "net.bag_1.cycle_2.segmenter"]).values()]
    ['train', 'net.bag_1.cycle_1', 'net.bag_1.cycle_2']
    >>> [*_titles([f"bag_{bag}.cycle_1.network_1.train" for bag in (1, 2)]).values()]
    ['bag_1.cycle_1.netwo_1', 'bag_2.cycle_1.netwo_1']
    """
    names = [*dict.fromkeys(names)]
    whole = [*map(visible, names)]
    bare = whole
    if len({name.rpartition(".")[2] for name in whole if "." in name}) == 1:
        bare = [name.rpartition(".")[0] or name for name in whole]
    ways = [whole, bare, *([_cut(name, most) for name in bare] for most in (5, 4, 3))]
    for room in ((ROOM - GAP) / 2, ROOM):
        for titles in ways:
            if len({*titles}) == len(names) and all(width_of(title, SMALL) <= room for title in titles):
                return dict(zip(names, titles, strict=True))
    return {name: f"{place}: {name}" for place, name in enumerate(names, start=1)}


def _cut(name: str, most: int) -> str:
    """The name, where it has several parts, with that many letters of each word.

    >>> _cut("cycle_1.network_2", 4), _cut("localizer", 4)
    ('cycl_1.netw_2', 'localizer')
    """
    return re.sub(rf"([^\W\d_]{{{most}}})[^\W\d_]+", r"\1", name) if "." in name else name


def _stages(curve: pd.DataFrame) -> list[Stage]:
    """The stages of a table in their order, not yet placed."""
    names = [*map(str, curve["stage"])]
    titles = _titles(names)
    groups = groupby(range(len(names)), names.__getitem__)
    return [Stage(name, curve.iloc[[*places]], titles[name]) for name, places in groups]


def _abreast(stages: Sequence[Stage]) -> list[list[Stage]]:
    """The stages in rows, each as wide as it has epochs, but none so narrow that it cannot be read."""
    rows: list[list[Stage]] = []
    for stage in stages:
        last = [*rows[-1], stage] if rows else []
        if 1 < len(last) <= ABREAST and sum(map(_least, last)) + GAP * (len(last) - 1) <= ROOM:
            rows[-1].append(stage)
        else:
            rows.append([stage])
    return [[*_beside(row)] for row in rows]


def _least(stage: Stage) -> float:
    """Pixels that a stage needs for its title, all of a row at most."""
    return min(ROOM, max(NARROWEST, width_of(stage.title, SMALL)))


def _beside(row: Sequence[Stage]) -> Iterator[Stage]:
    left, free = float(LEFT), ROOM - GAP * (len(row) - 1) - sum(map(_least, row))
    for stage in row:
        share = len(stage.rows) / sum(len(each.rows) for each in row)
        width = _least(stage) + max(0.0, free) * share
        yield stage._replace(left=left, width=width)
        left += width + GAP


def learning(curve: pd.DataFrame, name: str) -> Picture | None:
    """Losses of all stages, each on a scale of its own, and below MAP@5 on valid, over the epochs.

    The table is that of `curve.csv`; None where it has no row.
    """
    stages = _stages(curve)
    if not stages:
        return None
    judged = [stage for stage in stages if np.isfinite(stage.rows["valid_map_at_5"]).any()]
    shown = {words: colour for stage in stages for words, colour, _, _ in stage.watched()}
    facts = [stage.said() for stage in stages]
    lines, highest = _highest(judged) if judged else ([], "")
    facts += [highest] if judged else []
    first = 18 if shown else 10
    loss_row, valid_row = 34 + LOSS_HEIGHT + 26, VALID_HEIGHT + 26
    losses, valid = _abreast(stages), _abreast(judged)
    top = first + loss_row * len(losses)
    below = top + LINE_HEIGHT * len(lines)
    with sheet(WIDTH, below + valid_row * len(valid)) as page:
        page.text(EDGE, 12, "loss", colour=FAINT, size=SMALL)
        if shown:
            every = {"in training": MARK, **shown}
            page.shapes(LEFT, 12, [("o", words) for words in every], [*every.values()])
        for place, row in enumerate(losses):
            _losses(page, row, first + loss_row * place)
        if judged:
            page.text(EDGE, top + 10, JUDGED, colour=FAINT, size=SMALL)
        for place, line in enumerate(lines):
            y = top + 10 + LINE_HEIGHT * place
            page.text(WIDTH - EDGE, y, line, WIDTH - 2 * EDGE, anchor="right", size=SMALL)
        ends = tenths([value for stage in judged for value in stage.points("valid_map_at_5")[1]])
        for place, row in enumerate(valid):
            _valid(page, row, below + valid_row * place, ends)
        return page.picture(f"{brief(name)}: learning curve", listed(facts))


def _losses(page: Sheet, row: Sequence[Stage], top: float) -> None:
    """The losses of stages, each between its lowest and its highest, its name above, its epochs below."""
    base = top + 34 + LOSS_HEIGHT
    axes = page.axes((0, top + 34, WIDTH, LOSS_HEIGHT), (0, WIDTH), (-0.08, 1.08))
    for stage in row:
        x, losses = stage.points("loss")
        page.text(stage.left, top + 14, stage.title, stage.width, size=SMALL)
        page.line((stage.left, stage.left + stage.width), (base, base), color=LINE, linewidth=1)
        page.text(stage.left, base + 14, stage.epochs, stage.width, colour=FAINT, size=SMALL)
        if losses:
            said = f"{losses[0]:.3g} → {losses[-1]:.3g}"
            page.text(stage.left, top + 28, said, stage.width, colour=FAINT, size=SMALL)
            curves = [("", MARK, x, losses), *stage.watched()]
            low, high = (end(value for *_, values in curves for value in values) for end in (min, max))
            for _, colour, places, values in curves:
                heights = [(value - low) / (high - low) if high > low else HALF for value in values]
                (drawn,) = axes.plot(places, heights, color=colour, **_dots("o", values))
                page.hint(drawn, stage.said())


def _dots(marker: str, values: Sequence[float]) -> dict[str, Any]:
    """A dot an epoch where they are not too many."""
    return {"marker": marker, "markersize": 4} if len(values) <= 30 else {}


def _highest(judged: Sequence[Stage]) -> tuple[list[str], str]:
    """Which epoch has the highest MAP@5 on valid: in lines, the first beside what is drawn, and in words.

    The first line is empty where there is no room for it.
    """
    epochs = [(value, at, stage) for stage in judged for at, value in _by_epoch(stage)]
    value, at, stage = max(epochs, key=lambda one: one[0])
    said = f"highest {value:.3f} at epoch {at}"
    name, title = (f" of {each}" if len(judged) > 1 else "" for each in (brief(stage.name), stage.title))
    room = WIDTH - 2 * EDGE
    fits = width_of(said + title, SMALL) <= room - width_of(JUDGED, SMALL) - GAP
    lines = [said + title] if fits else ["", *wrapped(said + title, room, SMALL)]
    return lines, f"{JUDGED}: {said}{name}, {epochs[-1][0]:.3f} at the end"


def _by_epoch(stage: Stage) -> list[tuple[int, float]]:
    rows = stage.rows[np.isfinite(stage.rows["valid_map_at_5"])]
    return [*zip(rows["epoch"].tolist(), rows["valid_map_at_5"].tolist(), strict=True)]


def _valid(page: Sheet, row: Sequence[Stage], top: float, ends: tuple[float, float]) -> None:
    """MAP@5 on valid of stages on one scale, the highest of each marked, its name below."""
    box = (LEFT, top + 4, WIDTH - LEFT - EDGE, VALID_HEIGHT)
    axes = page.axes(box, (LEFT, WIDTH - EDGE), ends, None, tenth_ticks(*ends))
    for stage in row:
        x, values = stage.points("valid_map_at_5")
        axes.plot(x, values, color=SECOND, **_dots("s", values))
        best = values.index(max(values))
        (dot,) = axes.plot([x[best]], [values[best]], "s", color=SECOND, markersize=8, markeredgecolor=INK)
        page.hint(dot, f"{brief(stage.name)}: {values[best]:.3f} at epoch {_by_epoch(stage)[best][0]}")
        page.text(stage.left, top + VALID_HEIGHT + 18, stage.title, stage.width, colour=FAINT, size=SMALL)


ALTERED = {
    "test": ("as tested", "o", 7),
    "without_background": ("no background", "s", 7),
    "without_animal": ("no animal", "v", 7),
    "mirrored": ("mirrored", "D", 7),
    "chance": ("chance", "|", 13),
}
"""What was done to the photos: in words, and the shape and the size of its mark."""
ALTERED_COLOURS = (*SERIES[:4], INK)
ALTERED_ROW = 36


def shortcuts(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> Picture | None:
    """MAP@5 of photos as they are and altered, a row a run; None where no run has a number."""
    defined = [(name, found) for name, numbers in rows if (found := _defined(numbers))]
    if not defined:
        return None
    ticks = {tick / 5: f"{tick / 5:.1f}" for tick in range(6)}
    top, high = 46, ALTERED_ROW * len(defined)
    with sheet(WIDTH, top + high + 22) as page:
        axes = page.axes((EDGE + 6, top, WIDTH - 2 * EDGE - 12, high), (0, 1), (high, 0), ticks)
        page.shapes(EDGE, 16, [(shape, words) for words, shape, _ in ALTERED.values()], ALTERED_COLOURS)
        for place, (name, numbers) in enumerate(defined):
            y = ALTERED_ROW * place + 26
            page.text(EDGE, top + y - 12, name, WIDTH - 2 * EDGE)
            axes.plot((0, 1), (y, y), color=LINE, linewidth=1)
            for key, value in numbers.items():
                words, shape, size = ALTERED[key]
                (dot,) = axes.plot([value], [y], shape, markersize=size)
                dot.set_color(ALTERED_COLOURS[[*ALTERED].index(key)])
                page.hint(dot, f"{brief(name)}, {words}: {number(value)}")
        facts = [f"{brief(name)}: {_told(numbers)}" for name, numbers in defined]
        return page.picture("MAP@5 of altered photos", listed(facts))


def _told(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{ALTERED[key][0]} {number(value)}" for key, value in numbers.items())


def _defined(numbers: Mapping[str, float | None]) -> dict[str, float]:
    found = ((key, numbers.get(key)) for key in ALTERED)
    return {key: value for key, value in found if value is not None and isfinite(value)}
