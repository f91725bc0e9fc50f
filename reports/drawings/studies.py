"""A tuning study in a picture: a mark a trial, and which fields mattered."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from whalebench.reports.drawings.sheets import Sheet, sheet
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    MARK,
    PAPER,
    SECOND,
    SMALL,
    WIDTH,
    Picture,
    brief,
    listed,
    tenth_ticks,
    tenths,
)

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
