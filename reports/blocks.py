"""Small tables round the ranked ones, shown alike everywhere; here the one over folds and seeds."""

from collections.abc import Callable
from dataclasses import dataclass

from whalebench.reports.board import Table
from whalebench.reports.over_folds import Standing, Summary
from whalebench.reports.resampling import RESAMPLES
from whalebench.reports.wording import UNDEFINED, between, number, split_mark


@dataclass(frozen=True)
class Block:
    """A table of texts, and what is to be known of it, a sentence or two each."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


COLUMNS: dict[str, Callable[[Standing], str]] = {
    "rank": lambda one: UNDEFINED if one.rank is None else str(one.rank),
    "method": lambda one: one.contestant,
    "seeds": lambda one: _span(*one.seeds),
    "MAP@5": lambda one: between(one.map_at_5, one.low, one.high),
    "seed spread": lambda one: number(one.seed_spread),
    "top-1": lambda one: number(one.top_1),
    "log loss": lambda one: number(one.log_loss),
    "lead over next": lambda one: between(*one.lead, digits=3) if one.lead else UNDEFINED,
}
NOTE = (
    "Over folds: MAP@5 is the mean over seeds, then over folds; its interval, and that of the lead over the "
    f"next row, come from {RESAMPLES:,} resamples of the individuals of all folds together, the lead's on "
    "the same photos. A lead whose interval holds zero is none."
)
SPREAD = "Seed spread: the standard deviation of MAP@5 between seeds of one fold, which no interval holds."


def summary_block(summary: Summary, table: Table) -> Block:
    """Means over folds and seeds, and leads over the next row."""
    least = min(one.seeds[0] for one in summary.standings)
    most = max(one.seeds[1] for one in summary.standings)
    # One seed each has no spread, and a number of seeds that all share is in the title.
    hidden = {"seed spread": most == 1, "seeds": least == most}
    names = [name for name in COLUMNS if not hidden.get(name)]
    rows = tuple(tuple(COLUMNS[name](one) for name in names) for one in summary.standings)
    notes = (NOTE,) if hidden["seed spread"] else (NOTE, SPREAD)
    return Block(_title(summary, table, least, most), tuple(names), rows, notes)


def _title(summary: Summary, table: Table, least: int, most: int) -> str:
    """What a summary is over, as "over folds 0, 1 with 3 seeds each: 480 test photos"."""
    noun, each = ("folds", " each") if len(summary.folds) > 1 else ("fold", "")
    folds = f"over {noun} {', '.join(map(str, summary.folds))}{split_mark(summary.split_digest, table)}"
    seeds = f"{_span(least, most)} seed{'s' if most > 1 else ''}{each}"
    return f"{folds} with {seeds}: {summary.queries:,} test photos"


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"
