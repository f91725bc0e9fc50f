"""The shape of a leaderboard: for each benchmark its contestants, the floors, and the single runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan, nan
from typing import Any, NamedTuple

import pandas as pd

from whalebench.benchmarks.core.record import RunRecord
from whalebench.reports.metrics.breakdown import Breakdown
from whalebench.reports.metrics.comparison import Comparison, Standing
from whalebench.reports.metrics.jackknife import Difference
from whalebench.reports.metrics.ranking import mean
from whalebench.reports.wording import UNDEFINED, span


@dataclass(frozen=True)
class Row:
    """One run with its per-query table, or with the reason why there is none to trust."""

    record: RunRecord
    contestant: str
    """The method, with what its runs on the board differ in; see `tracks.contestants`."""
    track: str = ""
    """What is held equal between the runs that it may be compared with, in words, with its marks."""
    queries: pd.DataFrame | None = field(default=None, compare=False)
    problem: str = ""
    """Why there is no per-query table and so no rank, or why there is no diagnosis; else empty."""
    diagnosis: Mapping[str, float | None] | None = None
    """MAP@5 by how the photos were altered; None where `whalebench explain` has not been run on the run."""
    note: str = ""
    """Why a diagnosis lacks numbers."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Each with `<key>_low` and `<key>_high`, NaN where undefined."""
    doubts: Mapping[str, str] = field(default_factory=dict)
    """By metric what is to be doubted of its interval, a sentence; those without are left out."""
    breakdown: Breakdown | None = field(default=None, compare=False)
    """Its scores by photos, and the effort of a reviewer; None unless they were asked for."""
    floor_map_at_5: float = nan
    """MAP@5 of the constant answer on its test photos; NaN where that is not known."""
    looks: int = 0
    """How many times the test labels of its fold were opened, by the ledger of the workspace."""
    standing: Standing | None = None
    """That of its contestant; None where that is compared with nobody."""
    place: str = UNDEFINED
    """That of its contestant, see there."""
    inflation: Difference | None = None
    """That of its contestant, see there."""
    leaks: Mapping[str, int] = field(default_factory=dict)
    """Whether its photos were audited, and how many photos of its fold leak, in how many pairs."""
    without_leaks: Mapping[str, float] = field(default_factory=dict)
    """Of the test photos that leak nothing: how many `photos`, MAP@5 and the ends of its interval; empty
    where none is known to leak."""

    @property
    def rank_low(self) -> int | None:
        """The best rank that its contestant may have within its group; None where it has none."""
        return self.standing.rank_low if self.standing else None

    @property
    def rank_high(self) -> int | None:
        """The last rank that its contestant may have within its group; None where it has none."""
        return self.standing.rank_high if self.standing else None

    rank = rank_low

    @property
    def may_be_best(self) -> bool:
        """Whether its contestant has others to be compared with, and none is told to be better."""
        return self.rank_low == 1 and not self.place.endswith(UNDEFINED)

    @property
    def probability_best(self) -> float | None:
        """How probable it is that its contestant is the best of its group; None where it has no rank."""
        return self.standing.probability_best if self.standing else None

    @property
    def photos_seen(self) -> int | None:
        """Photos that all trainings of the run saw; None for a run of before they were counted."""
        return self.record.usage.photos_seen if self.record.usage else None

    @property
    def leak_inflation(self) -> dict[str, float]:
        """MAP@5 that leaks would add, with the ends of its interval; empty without a run on the twin."""
        if self.inflation is None:
            return {}
        return {"map_at_5": self.inflation.value, "low": self.inflation.low, "high": self.inflation.high}

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
    def grouping(self) -> dict[str, Any]:
        """How well test photos were grouped without names, in numbers; empty where that was not asked."""
        numbers = {
            name: value for name, value in self.record.grouping.items() if isinstance(value, int | float)
        }
        return numbers if "ari" in numbers else {}

    @property
    def seen(self) -> str:
        """Which weights it starts from were trained on the benchmark's photos, a sentence; empty for none."""
        facts = {name: known for name, known in self.record.pretraining.items() if isinstance(known, dict)}
        where = [f"{name}, trained on {known['seen']}" for name, known in facts.items() if known.get("seen")]
        return f"{self.contestant} starts from {' and '.join(where)}." if where else ""


class Group(NamedTuple):
    """Contestants that are ranked together: those of one track that have finished the same folds."""

    letter: str
    """By which the board speaks of it."""
    track: str
    folds: tuple[int, ...]
    comparison: Comparison


@dataclass(frozen=True, eq=False)
class Contestant:
    """A line of the board: a method with its settings, over the folds and seeds that it has finished."""

    name: str
    rows: tuple[Row, ...]
    group: Group | None = None
    """None for an untrained network, which is a floor, and where no run of it can be read."""
    standing: Standing | None = None
    """None where no run of it can be read; an untrained network has one without ranks."""
    inflation: Difference | None = None
    """MAP@5 on the random twin of the split less that on it, over the folds of both; None where not run."""
    without_leaks: Standing | None = None
    """Its MAP@5 on the test photos that leak nothing; None where none is known to leak, or all do."""

    @property
    def place(self) -> str:
        """The letter of its group with its ranks there, a dash for those where there is nobody else."""
        if self.group is None or self.standing is None:
            return UNDEFINED
        alone = len(self.group.comparison.standings) == 1
        ranks = UNDEFINED if alone else span(self.standing.rank_low, self.standing.rank_high)
        return f"{self.group.letter} {ranks}"

    @cached_property
    def newest(self) -> dict[int, dict[int, Row]]:
        """Its readable runs by fold and seed; of two equal ones the newer."""
        grid: dict[int, dict[int, Row]] = {}
        for row in sorted(self.rows, key=lambda row: (row.record.fold, row.record.created, row.record.run)):
            if row.queries is not None:
                grid.setdefault(row.record.fold, {})[row.record.seed] = row
        return grid

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds of which a run can be read."""
        return tuple(self.newest)

    @property
    def seeds(self) -> tuple[int, int]:
        """How many seeds a fold has, at least and at most."""
        numbers = [len(seeds) for seeds in self.newest.values()] or [0]
        return min(numbers), max(numbers)

    def mean(self, key: str) -> float:
        """The mean of a metric over seeds, then over folds; NaN where it is undefined."""
        return mean(mean(row.metrics[key] for row in seeds.values()) for seeds in self.newest.values())

    @cached_property
    def untrained(self) -> bool:
        """Whether it is a network that saw no photo, from weights that did not either: a floor."""
        usages = [row.record.usage for row in self.rows]
        return all(
            one is not None and not one.photos_seen and one.parameters > 0 and not any(one.weights.values())
            for one in usages
        )

    @property
    def by_hand(self) -> dict[str, Any]:
        """The fields that were set by hand, with what they are set to."""
        usages = [row.record.usage for row in self.rows]
        return {key: value for usage in usages if usage for key, value in usage.by_hand.items()}

    @property
    def annotations(self) -> tuple[str, ...]:
        """The kinds of annotations that were read, of whatever photos."""
        usages = [row.record.usage for row in self.rows]
        return tuple(dict.fromkeys(kind for usage in usages if usage for kind in usage.annotations))


class Floor(NamedTuple):
    """What an answer that looks at no photo is worth on some folds, the mean over them."""

    name: str
    folds: tuple[int, ...]
    map_at_5: float
    map_at_5_known: float
    top_1: float
    log_loss: float
    """NaN where the answer has no probabilities."""


class Section(NamedTuple):
    """The runs of one track on one fold, best first."""

    track: str
    fold: int | None
    """None where it was put together of several folds."""
    queries: int
    """Test photos."""
    new: int
    """Test photos of new individuals among them."""
    looks: int
    """How many times the fold's test labels were opened, by the ledger of the workspace."""
    rows: tuple[Row, ...]


class Table(NamedTuple):
    """One benchmark, on one split of one catalog."""

    title: str
    """The benchmark, with the split or the catalog where it has runs on several."""
    contestants: tuple[Contestant, ...]
    """Best first, those without a readable run last."""
    groups: tuple[Group, ...]
    floors: tuple[Floor, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...]
    """What split and runs warn of, with the folds and contestants for which they do."""
    notes: tuple[str, ...]
    """What is missing or cannot be read."""
    catalog_digest: str = ""
    split_digest: str = ""
    twin_of: str = ""
    """The digest of the split whose random twin this one is; empty where it is none."""

    def floors_of(self, folds: tuple[int, ...]) -> list[tuple[str, float]]:
        """Name and MAP@5 of what a score on these folds must leave: constant answer, untrained networks."""
        answers = [
            (one.name, one.map_at_5) for one in self.floors if one.folds == folds and one.name == CONSTANT
        ]
        networks = [
            (one.name, one.standing.value)
            for one in self.contestants
            if one.standing and one.untrained and one.folds == folds
        ]
        return [floor for floor in (*answers, *networks) if not isnan(floor[1])]


CONSTANT, UNIFORM = "constant answer", "uniform guess"
"""Names of the floors that are computed from labels alone."""


class Leaderboard(NamedTuple):
    """All tables, and a sentence for each run that could not be read."""

    tables: tuple[Table, ...]
    problems: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """Every run, in the order of the tables."""
        return [row for table in self.tables for section in table.sections for row in section.rows]
