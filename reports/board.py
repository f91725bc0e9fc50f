"""The shape of a leaderboard: tables of sections of rows, and summaries over folds and seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from whalebench.benchmarks.core.record import RunRecord
from whalebench.reports.metrics.resampling import Difference


@dataclass(frozen=True)
class Row:
    """One run with its per-query table, or with the reason why there is none to trust, and its rank."""

    record: RunRecord
    contestant: str
    """The method, with the settings in which its runs in the table differ."""
    queries: pd.DataFrame | None = field(default=None, compare=False)
    problem: str = ""
    """Why there is no per-query table and so no rank; empty where there is one, and where it does not fit."""
    diagnosis: Mapping[str, float | None] | None = None
    """MAP@5 by how the photos were altered; None where `whalebench explain` has not been run on the run."""
    note: str = ""
    """What else could not be read, or why a diagnosis lacks numbers."""
    rank: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Each with `<key>_low` and `<key>_high`, NaN where undefined."""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the whole run."""
        return self.record.seconds.get("total", sum(self.record.seconds.values()))

    @property
    def location(self) -> dict[str, Any]:
        """How well the animals of test were localized; empty for methods that do not."""
        location = self.record.location.get("test")
        return location if isinstance(location, dict) else {}

    @property
    def seen(self) -> str:
        """Which weights it starts from were trained on the benchmark's photos, a sentence; empty for none."""
        facts = {name: known for name, known in self.record.pretraining.items() if isinstance(known, dict)}
        where = [f"{name}, trained on {known['seen']}" for name, known in facts.items() if known.get("seen")]
        return f"{self.contestant} starts from {' and '.join(where)}." if where else ""


class Section(NamedTuple):
    """The rows of one fold of one split, best first: what is ranked and paired."""

    fold: int
    split_digest: str
    queries: int
    """Test photos."""
    new: int
    """Test photos of new individuals among them."""
    rows: tuple[Row, ...]


class Standing(NamedTuple):
    """One contestant over the folds of a summary: means over seeds, then over folds."""

    rank: int | None
    contestant: str
    seeds: tuple[int, int]
    """How many seeds a fold has, at least and at most."""
    map_at_5: float
    low: float
    high: float
    """Of the 95 % interval over individuals of all folds together."""
    seed_spread: float
    """Standard deviation of MAP@5 between seeds of one fold; NaN where no fold has several."""
    top_1: float
    log_loss: float
    lead: Difference | None
    """Over the next standing, paired on the same photos; None for the last."""


class Summary(NamedTuple):
    """The contestants that have finished the same folds of one split, best first."""

    folds: tuple[int, ...]
    split_digest: str
    queries: int
    standings: tuple[Standing, ...]


class Table(NamedTuple):
    """The sections of one benchmark and track; oracle and transductive runs have tables of their own."""

    benchmark: str
    track: str
    oracle: bool
    transductive: bool
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    summaries: tuple[Summary, ...] = ()
    """Over folds and seeds, where there are several."""


class Leaderboard(NamedTuple):
    """All tables, and a sentence for each run that could not be read."""

    tables: tuple[Table, ...]
    problems: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of the tables."""
        return [row for table in self.tables for section in table.sections for row in section.rows]
