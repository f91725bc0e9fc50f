"""Single runs in pictures: effort, reliability, how animals were found, losses, what scores rest on."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import isfinite, isnan, log10
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

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
    Sheet,
    Style,
    compact,
    drawn_as,
    listed,
    sheet,
    styles,
    tenth_ticks,
    tenths,
    width_of,
)
from whalebench.reports.metrics.breakdown import Effort
from whalebench.reports.metrics.ranking import Floats
from whalebench.reports.wording import number, percent

LEFT = 40
"""Pixels for the labels of an upright axis."""


class Reviewed(NamedTuple):
    """A run with what it asks of a reviewer, see `metrics.breakdown`."""

    name: str
    curve: Mapping[str, Sequence[float]]
    effort: Sequence[Effort]


EFFORT_HEIGHT, EFFORT_ROW = 200, 48
DOTS = "osD"
"""The shapes of the dots at 90, 95 and 99 % of the matches."""


def effort(runs: Sequence[Reviewed]) -> Picture:
    """The share of matches found over the candidates looked at a photo, on a logarithmic axis, a line a run.

    Dots are 90, 95 and 99 % of the matches; below, a run a row, they have their intervals.
    """
    most = log10(max([10.0, *(places for run in runs for places in run.curve["candidates"])]))
    most = max([most, *(log10(one.high) for run in runs for one in run.effort if one.high > 1)])
    ticks = {float(power): compact(10**power) for power in range(int(most) + 1)}
    rows = 26 + EFFORT_ROW * len(runs)
    wide = WIDTH - LEFT - 2 * EDGE
    with sheet(WIDTH, EFFORT_HEIGHT + 76 + rows) as page:
        shares = {0: "0 %", HALF: "50 %", 0.9: "90 %", 1: "100 %"}
        axes = page.axes((LEFT, 20, wide, EFFORT_HEIGHT), (0, most), (0, 1), ticks, shares)
        page.text(EDGE, 12, "matches found", colour=FAINT, size=SMALL)
        below = EFFORT_HEIGHT + 72
        what = "candidates looked at a photo"
        page.text(WIDTH - EDGE, EFFORT_HEIGHT + 50, what, anchor="right", colour=FAINT, size=SMALL)
        intervals = page.axes((LEFT, below, wide, rows), (0, most), (rows, 0))
        page.shapes(LEFT, below + 4, [(mark, f"{one:.0%}") for mark, one in zip(DOTS, SHARES, strict=True)])
        for place, (run, style) in enumerate(zip(runs, styles(len(runs)), strict=True)):
            reached = [log10(candidates) for candidates in run.curve["candidates"]]
            found = [0.0, *run.curve["found"]]
            steps = [(x, y) for at, x in enumerate(reached) for y in found[at : at + 2]]
            look = drawn_as(style) | {"marker": "none"}
            if steps:
                (drawn,) = axes.plot(*zip(*steps, strict=True), **look)
                page.hint(drawn, run.name)
            y = 26 + EFFORT_ROW * place
            page.line((EDGE, EDGE + 24), (below + y - 5, below + y - 5), **look)
            said = ", ".join(f"{one.candidates:,}" for one in run.effort)
            room = WIDTH - 2 * EDGE - 40 - width_of(said, SMALL)
            page.text(EDGE + 30, below + y - 1, run.name, room)
            page.text(WIDTH - EDGE, below + y - 1, said, anchor="right", colour=FAINT, size=SMALL)
            for lane, (one, shape) in enumerate(zip(run.effort, DOTS, strict=False)):
                x, height = log10(one.candidates), y + 8 + 10 * lane
                if not isnan(one.low):
                    ends = (log10(one.low), log10(one.high))
                    intervals.plot(ends, (height, height), color=style.colour)
                mark = {"color": style.colour, "markersize": 6, "linestyle": "none", "marker": shape}
                intervals.plot([x], [height], **mark)
                (dot,) = axes.plot([x], [one.share], **mark)
                page.hint(dot, f"{run.name}: {_looked_at(one)}")
        names = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
        facts = [f"{run.name}: {', '.join(map(_looked_at, run.effort)) or 'no match'}" for run in runs]
        return page.picture(f"{names}: share of the matches found by looking at so many", listed(facts))


SHARES = (0.9, 0.95, 0.99)


def _looked_at(one: Effort) -> str:
    ends = "" if isnan(one.low) else f" [{one.low:.0f}, {one.high:.0f}]"
    return f"{one.share:.0%} of the matches by {one.candidates}{ends} candidates"


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
        return page.picture(f"{name}: how many answers are right, by confidence", said)


OVERLAPS = {"box_iou": "box IoU", "mask_iou": "mask IoU"}
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
        title = f"{name}: {MEASURES[measure]}"
        return page.picture(title, f"{what[0].upper()}{what[1:]} of {len(values)} photos{beyond}.")


LOSS_HEIGHT, VALID_HEIGHT, STAGE_GAP = 80, 100, 10


class Stage(NamedTuple):
    """Epochs in a row that bear one name."""

    name: str
    rows: pd.DataFrame
    left: float
    """Where it begins on the sheet, in pixels."""
    width: float

    def points(self, column: str) -> tuple[list[float], list[float]]:
        """Places on the sheet of the epochs at which the column has a number, and the numbers."""
        values = self.rows[column].to_numpy(np.float64).tolist()
        last = max(len(values) - 1, 1)
        points = [
            (self.left + self.width * (at / last if len(values) > 1 else HALF), value)
            for at, value in enumerate(values)
            if isfinite(value)
        ]
        return [x for x, _ in points], [y for _, y in points]

    def said(self) -> str:
        """From which loss it came to which, over how many epochs."""
        _, losses = self.points("loss")
        ends = f", loss {losses[0]:.3g} to {losses[-1]:.3g}" if losses else ""
        return f"{self.name}: {len(self.rows)} epoch{'s' * (len(self.rows) > 1)}{ends}"


def stages(curve: pd.DataFrame) -> list[Stage]:
    """The stages of a curve side by side: by their epochs, but none so narrow that it cannot be read."""
    names = curve["stage"].astype(str).tolist()
    groups = [
        (name, [at for at, _ in group]) for name, group in groupby(enumerate(names), lambda one: one[1])
    ]
    room = WIDTH - LEFT - EDGE - STAGE_GAP * (len(groups) - 1)
    least = min(70, room / max(len(groups), 1))
    share = (room - least * len(groups)) / max(len(curve), 1)
    left, found = float(LEFT), []
    for name, rows in groups:
        width = least + share * len(rows)
        found.append(Stage(name, curve.iloc[rows], left, width))
        left += width + STAGE_GAP
    return found


def learning(curve: pd.DataFrame, name: str) -> Picture | None:
    """Losses of all stages, each on a scale of its own, and below MAP@5 on valid, over the epochs.

    The table is that of `curve.csv`; None where it has no row.
    """
    found = stages(curve)
    if not found:
        return None
    judged = curve[np.isfinite(curve["valid_map_at_5"].to_numpy(np.float64))]
    height = 40 + LOSS_HEIGHT + 28 + (VALID_HEIGHT + 28 if len(judged) else 0)
    with sheet(WIDTH, height) as page:
        page.text(EDGE, 12, "loss", colour=FAINT, size=SMALL)
        axes = page.axes((0, 40, WIDTH, LOSS_HEIGHT), (0, WIDTH), (-0.08, 1.08))
        for stage in found:
            _losses(page, axes, stage)
        facts = [stage.said() for stage in found]
        if len(judged):
            facts.append(_valid(page, found, judged, 40 + LOSS_HEIGHT + 28))
        return page.picture(f"{name}: learning curve", listed(facts))


def _losses(page: Sheet, axes: Any, stage: Stage) -> None:
    """The losses of a stage between their lowest and their highest, its name above, its epochs below."""
    (x, losses), right, base = stage.points("loss"), stage.left + stage.width, 40 + LOSS_HEIGHT
    page.text(stage.left, 24, stage.name, stage.width, size=SMALL)
    page.line((stage.left, right), (base, base), color=LINE, linewidth=1)
    epochs = f"{len(stage.rows)} epoch{'s' * (len(stage.rows) > 1)}"
    said = f"{losses[0]:.3g} → {losses[-1]:.3g}" if losses else ""
    for y, words in ((37, said), (base + 14, epochs)):
        if width_of(words, SMALL) <= stage.width:
            page.text(stage.left, y, words, colour=FAINT, size=SMALL)
    if losses:
        low, spread = min(losses), max(losses) - min(losses)
        heights = [(loss - low) / spread if spread else HALF for loss in losses]
        look = {"marker": "o", "markersize": 4} if len(losses) <= 30 else {}
        (drawn,) = axes.plot(x, heights, color=MARK, **look)
        page.hint(drawn, stage.said())


def _valid(page: Sheet, found: Sequence[Stage], judged: pd.DataFrame, top: float) -> str:
    """MAP@5 on valid on one scale for all stages, its highest marked; what is to be said of it."""
    scores = judged["valid_map_at_5"]
    best = scores.idxmax()
    said = f"{scores[best]:.3f} at epoch {judged['epoch'][best]}"
    (low, high), base = tenths(scores.tolist()), top + 20
    page.text(EDGE, top + 10, "MAP@5 on valid", colour=FAINT, size=SMALL)
    page.text(WIDTH - EDGE, top + 10, f"highest {said}", anchor="right", size=SMALL)
    box = (LEFT, base, WIDTH - LEFT - EDGE, VALID_HEIGHT)
    axes = page.axes(box, (LEFT, WIDTH - EDGE), (low, high), None, tenth_ticks(low, high))
    for stage in found:
        x, values = stage.points("valid_map_at_5")
        look = {"marker": "s", "markersize": 4} if len(values) <= 30 else {}
        axes.plot(x, values, color=SECOND, **look)
        if best in stage.rows.index:
            at = stage.rows.loc[:best, "valid_map_at_5"].notna().sum() - 1
            (dot,) = axes.plot([x[at]], [values[at]], "s", color=SECOND, markersize=9, markeredgecolor=INK)
            page.hint(dot, said)
    return f"MAP@5 on valid: highest {said}, {scores.iloc[-1]:.3f} at the end"


ALTERED = {
    "test": ("as tested", "o"),
    "without_background": ("no background", "s"),
    "without_animal": ("no animal", "v"),
    "mirrored": ("mirrored", "D"),
    "chance": ("chance", "|"),
}
"""What was done to the photos: in words, and the shape of its mark."""
ALTERED_ROW = 36


def shortcuts(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> Picture | None:
    """MAP@5 of photos as they are and altered, a row a run; None where no run has a number."""
    defined = [
        (name, {key: numbers[key] for key in ALTERED if _is_number(numbers.get(key))})
        for name, numbers in rows
    ]
    defined = [(name, numbers) for name, numbers in defined if numbers]
    if not defined:
        return None
    ticks = {tick / 5: f"{tick / 5:.1f}" for tick in range(6)}
    top, high = 46, ALTERED_ROW * len(defined)
    with sheet(WIDTH, top + high + 22) as page:
        axes = page.axes((EDGE + 6, top, WIDTH - 2 * EDGE - 12, high), (0, 1), (high, 0), ticks)
        colours = dict(zip(ALTERED, [*SERIES[:4], INK], strict=True))
        page.shapes(EDGE, 16, [(shape, words) for words, shape in ALTERED.values()], [*colours.values()])
        for place, (name, numbers) in enumerate(defined):
            y = ALTERED_ROW * place + 26
            page.text(EDGE, top + y - 12, name, WIDTH - 2 * EDGE)
            axes.plot((0, 1), (y, y), color=LINE, linewidth=1)
            for key, value in numbers.items():
                words, shape = ALTERED[key]
                edge = 2 if shape == "|" else 1
                look = {
                    "color": colours[key],
                    "markersize": 12 if shape == "|" else 7,
                    "markeredgewidth": edge,
                }
                (dot,) = axes.plot([value], [y], shape, **look, clip_on=False)
                page.hint(dot, f"{name}, {words}: {number(value)}")
        facts = [
            f"{name}: {', '.join(f'{ALTERED[key][0]} {number(value)}' for key, value in numbers.items())}"
            for name, numbers in defined
        ]
        return page.picture("MAP@5 of altered photos", listed(facts))


def _is_number(value: float | None) -> bool:
    return value is not None and isfinite(value)
