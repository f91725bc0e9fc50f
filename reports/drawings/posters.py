"""Pictures in files of their own: a tuning study, and the main table of the leaderboard."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil, floor, isnan, log10
from typing import Any

from whalebench import visible
from whalebench.reports.drawings.contestants import Mark
from whalebench.reports.drawings.sheets import Sheet, sheet
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    LINE,
    MARK,
    PAPER,
    SECOND,
    SMALL,
    WIDTH,
    Anchor,
    Picture,
    brief,
    listed,
    tenth_ticks,
    tenths,
    width_of,
    wrapped,
)
from whalebench.reports.tables import NAME_COLUMNS

# --- a tuning study

Trials = Sequence[Mapping[str, Any]]
HISTORY, LEFT = 190, 36
BAR_ROW, BAR_LEFT = 20, 150


def tuning(document: Mapping[str, Any]) -> Picture:
    """A study: a dot a trial in the order they ended in, and below a bar a field by how much it mattered.

    The document is that of `tune --json`. Full dots are complete trials, hollow ones were pruned after their
    last epoch, crosses failed. The line is the best complete one so far, the dashed one the defaults.
    """
    trials, bars = document["trials"], document["importance"]
    top = HISTORY + 60
    with sheet(WIDTH, top + (16 + BAR_ROW * len(bars) if bars else -16)) as page:
        said = _history(page, trials)
        if bars:
            _importance(page, bars, top)
        title = "{method} on {benchmark}, fold {fold}, seed {seed}: {budget}".format_map(document)
        shares = [f"{brief(name)} {100 * share:.0f} %" for name, share in bars.items()]
        mattered = f" What mattered: {listed(shares)}" if shares else ""
        return page.picture(title, f"{len(trials)} trial{'s' * (len(trials) != 1)}; {said}.{mattered}")


def _history(page: Sheet, trials: Trials) -> str:
    """The trials, the best complete one so far, what the defaults scored; the last two in words."""
    low, high = tenths([trial["valid_map_at_5"] for trial in trials if trial["valid_map_at_5"] is not None])
    box = (LEFT, 20, WIDTH - LEFT - EDGE, HISTORY)
    axes = page.axes(box, (-0.5, max(len(trials), 1) - 0.5), (low, high), None, tenth_ticks(low, high))
    page.text(EDGE, 12, "MAP@5 on valid", colour=FAINT, size=SMALL)
    page.text(WIDTH - EDGE, HISTORY + 36, "trial by trial", anchor="right", colour=FAINT, size=SMALL)
    values = [trial["valid_map_at_5"] if trial["state"] == "complete" else None for trial in trials]
    best = [*accumulate(values, lambda one, other: other if one is None else max(one, other or 0.0))]
    places = [(place, value) for place, value in enumerate(best) if value is not None]
    said = "no trial is complete"
    if places:
        (line,) = axes.plot(*zip(*places, strict=True), color=MARK, linewidth=2)
        page.hint(line, "the best so far")
        said = f"the best scores {places[-1][1]:.3f} on valid"
    default = next((v for v, trial in zip(values, trials, strict=True) if not trial["settings"]), None)
    if default is not None:
        axes.plot(axes.get_xlim(), (default, default), color=SECOND, linewidth=1.25, dashes=(4, 2))
        page.text(WIDTH - EDGE, 12, f"dashed: defaults {default:.3f}", anchor="right", size=SMALL)
        said += f", the defaults {default:.3f}"
    for place, trial in enumerate(trials):
        value, settings = trial["valid_map_at_5"], " ".join(trial["settings"]) or "the defaults"
        failed = value is None or trial["state"] == "fail"
        if failed:
            (dot,) = axes.plot([place], [low], "x", markersize=6, color=SECOND)
        else:
            fill = MARK if trial["state"] == "complete" else PAPER
            (dot,) = axes.plot([place], [value], "o", markersize=6, color=fill, markeredgecolor=MARK)
        page.hint(dot, f"trial {trial['number']}: {settings}")
    return said


def _importance(page: Sheet, bars: Mapping[str, float], top: float) -> None:
    """A line a field: its name, a bar, and its share in percent."""
    page.text(EDGE, top, "What mattered: share of how much valid MAP@5 varied", colour=FAINT, size=SMALL)
    for place, (name, share) in enumerate(bars.items()):
        y = top + 10 + BAR_ROW * (place + 0.5)
        page.text(EDGE, y + 4, name, BAR_LEFT - EDGE - 8)
        wide = (WIDTH - BAR_LEFT - 52) * share
        page.line((BAR_LEFT, BAR_LEFT + wide), (y, y), color=MARK, linewidth=10)
        page.text(WIDTH - EDGE, y + 4, f"{100 * share:.0f} %", anchor="right", colour=FAINT, size=SMALL)


# --- learning rates found

RATES = 130
"""Height of the losses of one training."""


def rates(document: Mapping[str, Any]) -> Picture:
    """Range tests: for each training its mean loss over the learning rate, and the rates that say something.

    The document is that of `lr-find --json`. Dots are the losses of single steps. What grows beyond where it
    began is cut off.
    """
    trainings = document["trainings"]
    with sheet(WIDTH, (RATES + 56) * len(trainings)) as page:
        facts = [_range_test(page, one, (RATES + 56) * at) for at, one in enumerate(trainings)]
        title = "{method} on {benchmark}, fold {fold}, seed {seed}: loss by learning rate".format_map(
            document
        )
        return page.picture(title, listed(facts))


def _range_test(page: Sheet, training: Mapping[str, Any], top: float) -> str:
    """The losses of a training, its name and its rates above; the latter in words."""
    powers, at = ([log10(one) for one in training[key]] for key in ("rates", "mean_rates"))
    means = training["mean_losses"]
    low, high = min(means, default=0.0), max(means[: len(means) // 2 + 1], default=1.0)
    room = (high - low or 1.0) / 4
    decades = range(floor(min(powers, default=0)), ceil(max(powers, default=0)) + 1)
    ticks = {float(decade): f"1e{decade}" for decade in decades}
    limits = (decades[0] - 0.1, max(decades[-1], decades[0] + 1) + 0.1)
    box = (LEFT, top + 36, WIDTH - LEFT - EDGE, RATES)
    axes = page.axes(box, limits, (low - room, high + room), ticks, {low: f"{low:.3g}", high: f"{high:.3g}"})
    losses = zip(powers, training["losses"], strict=True)
    shown = [(power, loss) for power, loss in losses if low - room <= loss <= high + room]
    axes.plot([power for power, _ in shown], [loss for _, loss in shown], "o", color=FAINT, markersize=2)
    axes.plot(at, [min(mean, high + room) for mean in means], color=MARK, linewidth=2)
    said = []
    for key, words, colour in RATE_WORDS:
        if training[key] is not None:
            said.append(f"{words} {training[key]:.2g}")
            (line,) = axes.plot([log10(training[key])] * 2, axes.get_ylim(), color=colour, dashes=(4, 2))
            page.hint(line, said[-1])
    page.text(EDGE, top + 12, training["part"], WIDTH - 2 * EDGE)
    page.text(EDGE, top + 28, ", ".join(said), WIDTH - 2 * EDGE, colour=FAINT, size=SMALL)
    return f"{brief(training['part'])}: {', '.join(said)}"


RATE_WORDS = (
    ("steepest", "fastest at", MARK),
    ("tenth_of_least", "least / 10", SECOND),
    ("configured", "set", FAINT),
)
"""The rates that a picture marks, what they are, and their colours."""


# --- the main table

LEAST, MOST = 700, 1000
"""Between which the picture's width lies, but for tables that need more."""
GAP, ROW, SENTENCE, HEAD = 14, 24, 17, 36
DRAWN = 150
"""Width of the column of intervals."""
WIDEST, NARROWEST = 230, 110
"""The most that a column may take, and what the names at least keep."""


def board(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    marks: Sequence[Mark],
    sentences: Sequence[str],
) -> Picture:
    """The table with its marks, one a row, drawn right of the column MAP@5, and the sentences below it."""
    after = header.index("MAP@5")
    widths = _widths(header, rows)
    lefts = [*accumulate(widths[:-1], lambda left, wide: left + wide + GAP, initial=float(EDGE))]
    lefts = [left + (DRAWN + GAP) * (at > after) for at, left in enumerate(lefts)]
    width = max(LEAST, lefts[-1] + widths[-1] + EDGE)
    lines = [line for sentence in sentences for line in wrapped(sentence, width - 2 * EDGE)]
    below = HEAD + ROW * len(rows) + 34
    with sheet(width, below + SENTENCE * len(lines)) as page:
        page.line((EDGE, width - EDGE), (HEAD - 2, HEAD - 2), color=LINE, linewidth=1)
        columns = list(zip(header, lefts, widths, strict=True))
        for name, left, wide in columns:
            for place, part in enumerate(_head(name)):
                page.text(
                    *_edge(name, left, wide, 13 + 14 * place), part, wide, anchor=_side(name), colour=FAINT
                )
        for place, texts in enumerate(rows):  # row by row, as it is read aloud
            for text, (name, left, wide) in zip(texts, columns, strict=True):
                page.text(*_edge(name, left, wide, HEAD + ROW * place + 16), text, wide, anchor=_side(name))
        _intervals(page, marks, (lefts[after] + widths[after] + GAP, HEAD, DRAWN, ROW * len(rows)))
        for place, line in enumerate(lines):
            page.text(EDGE, below + SENTENCE * place, line, colour=FAINT)
        return page.picture(title, listed([mark.said() for mark in marks if not isnan(mark.value)]))


def _side(name: str) -> Anchor:
    """Names stand to the left, numbers to the right."""
    return "left" if name in NAME_COLUMNS else "right"


def _edge(name: str, left: float, wide: float, y: float) -> tuple[float, float]:
    """Where the texts of a column are anchored."""
    return (left if name in NAME_COLUMNS else left + wide), y


def _head(name: str) -> list[str]:
    """The title of a column in two lines, the last words below the first."""
    first, _, rest = name.partition(" ")
    return [first, rest] if rest else ["", first]


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[float]:
    """What each column takes; names are cut where all would take more than `MOST`."""
    columns = [[*_head(name), *map(visible, texts)] for name, *texts in zip(header, *rows, strict=True)]
    widths = [min(WIDEST, max(width_of(text) for text in column) + 1) for column in columns]
    over = sum(widths) + DRAWN + GAP * len(widths) + 2 * EDGE - MOST
    for at, name in enumerate(header):
        if name in NAME_COLUMNS:
            widths[at] = min(widths[at], max(NARROWEST, widths[at] - max(over, 0)))
    return widths


def _intervals(page: Sheet, marks: Sequence[Mark], box: tuple[float, float, float, float]) -> None:
    """A dot and a bar a row."""
    low, high = tenths([end for mark in marks for end in mark.ends() if not isnan(end)])
    ticks = tenth_ticks(low, high)
    axes = page.axes(box, (low, high), (len(marks), 0), ticks)
    axes.grid(axis="x", color=LINE, linewidth=1)
    for place, mark in enumerate(marks):
        if not isnan(mark.value):
            axes.plot(mark.ends(), (place + 0.5,) * 2, color=MARK, linewidth=3)
            (dot,) = axes.plot(
                [mark.value], [place + 0.5], "o", color=MARK, markersize=8, markeredgecolor=PAPER
            )
            page.hint(dot, mark.said())
