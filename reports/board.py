"""The shape of a leaderboard: tables of sections of rows, what is shown of runs and nothing else."""

from dataclasses import dataclass, field
from typing import Any

from whalebench.reports.location import Histogram
from whalebench.reports.over_folds import Summary


@dataclass(frozen=True)
class Row:
    """One run: its metrics, each with `<key>_low` and `<key>_high`, NaN where undefined, and its rank."""

    rank: int | None
    method: str
    benchmark: str
    track: str
    fold: int
    seed: int
    run: str
    metrics: dict[str, float]
    oracle: bool
    transductive: bool
    photos_per_second: float | None
    seconds: float
    created: str
    catalog_digest: str
    split_digest: str
    contestant: str
    """The method, with the settings in which its runs in the table differ."""
    location: dict[str, Any]
    """How well the animals of test were found, as in the record; empty where it was not looked for them."""
    diagnosis: dict[str, float | None] | None
    """MAP@5 by what was done to the photos; None where `whalebench explain` has not looked at the run."""
    calibration: dict[str, Any] = field(default_factory=dict)
    """What calibration changed, as in the record; empty where the record does not say."""
    histograms: tuple[Histogram, ...] = ()
    problem: str = ""
    """Why this row has no interval and no rank; empty where it has, and where it does not fit."""
    unfit: str = ""
    """What the benchmark lacks for this method; then it has no metrics."""
    seen: str = ""
    """Which weights it starts from were trained on the benchmark's photos, as a sentence; empty for none."""


@dataclass(frozen=True)
class Section:
    """The rows of one fold of one split, best first: what is ranked and paired."""

    fold: int
    split_digest: str
    queries: int
    new: int
    clusters: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """The sections of one benchmark and track; oracle and transductive runs have tables of their own."""

    benchmark: str
    track: str
    oracle: bool
    transductive: bool
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    summaries: tuple[Summary, ...] = ()
    """Over folds and seeds, where there are several."""


@dataclass(frozen=True)
class Leaderboard:
    """All tables, and a sentence for each run that could not be read."""

    tables: tuple[Table, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of the tables."""
        return [row for table in self.tables for section in table.sections for row in section.rows]
