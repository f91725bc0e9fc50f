"""What a page says of a benchmark and of a run, subject by subject, in the order in which it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import read_curve
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports import details
from whalebench.reports.board import Contestant, Row, Section, Table
from whalebench.reports.document import Chapter
from whalebench.reports.drawings import contestants as of_contestants
from whalebench.reports.drawings import runs as of_runs
from whalebench.reports.drawings.theme import Picture
from whalebench.reports.metrics.ranking import mean
from whalebench.reports.page.doubts import (
    Doubts,
    HardIndividual,
    doubts_csv,
    hardest_individuals,
    suspected_labels,
)
from whalebench.reports.page.galleries import Disagreement, Galleries, Photo, QuerySet
from whalebench.reports.page.views import TableView, table_view
from whalebench.reports.repeating import run_command
from whalebench.reports.tables import Grid
from whalebench.reports.tracks import facts_of, settings_of
from whalebench.reports.verdict import verdicts
from whalebench.reports.wording import METRICS, UNDEFINED, duration, number, with_interval

MOST_RUNS = 60
"""Runs that have a section of their own on the page of a leaderboard."""
MOST_FIELDS = 60
"""Fields in which contestants differ that are shown."""
UNNAMED = re.compile(r"[^\w.-]+")


class Sample(NamedTuple):
    """Photos of some individuals that have about as many."""

    name: str
    title: str
    individuals: tuple[tuple[str, int, tuple[Photo, ...]], ...]
    """Name, number of photos, and some of them."""


class Topic(NamedTuple):
    """A part of the page below a heading, with parts of its own."""

    anchor: str
    """Its id: the same for the same benchmark, run and subject."""
    title: str
    sentences: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    """What marks and columns mean."""
    warnings: tuple[str, ...] = ()
    command: str = ""
    facts: Mapping[str, str] = {}
    tables: tuple[TableView, ...] = ()
    pictures: tuple[Picture, ...] = ()
    folded: tuple[TableView, ...] = ()
    """Tables that are opened by who wants the numbers."""
    sets: tuple[QuerySet, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    doubts: Doubts | None = None
    doubts_csv: str = ""
    hard: tuple[HardIndividual, ...] = ()
    samples: tuple[Sample, ...] = ()
    topics: tuple[Topic, ...] = ()
    named: bool = True
    """Whether the contents name it."""


def anchor_of(*names: str) -> str:
    """An id for what has these names, none of which has to be fit for one.

    >>> anchor_of("flukes @ open", "cost")
    'flukes-open-cost'
    """
    return "-".join(UNNAMED.sub("-", name).strip("-") for name in names)


@dataclass(frozen=True)
class BenchmarkTopics:
    """Everything that a page says of one table of the leaderboard."""

    table: Table
    chapter: Chapter
    workspace: Workspace
    galleries: Galleries

    def topic(self) -> Topic:
        """All of it, below the name of the benchmark."""
        parts = (
            self._leaderboard(),
            self._cost(),
            self._found(),
            self._sure(),
            self._learned(),
            self._located(),
            self._rests(),
            self._parts(),
            self._grouped(),
            self._differ(),
            self._seeds(),
            self._photos(),
            self._runs(),
        )
        return Topic(
            self._anchor(),
            self.table.title,
            sentences=tuple(verdicts(self.table.groups)),
            topics=tuple(part for part in parts if part),
        )

    def of_one_run(self) -> tuple[Topic, ...]:
        """Where the one run of the table was found, for which photos, and what it rests on."""
        parts = (
            self._leaderboard(),
            self._sure(),
            self._found(),
            self._located(),
            self._rests(),
            self._parts(),
        )
        return tuple(part._replace(pictures=()) for part in parts if part)

    def _anchor(self, *names: str) -> str:
        return anchor_of(self.table.title, *names)

    @cached_property
    def links(self) -> dict[str, str]:
        """The anchors of runs and contestants, by their names."""
        runs = {row.record.run: anchor_of("run", row.record.run) for row in self.shown_runs}
        first = {one.name: _first(one) for one in self.table.contestants}
        return runs | {
            name: runs[row.record.run] for name, row in first.items() if row and row.record.run in runs
        }

    @cached_property
    def shown_runs(self) -> list[Row]:
        """The runs with a section of their own: the first of each contestant, then the others."""
        rows = [row for one in self.table.contestants for row in one.rows]
        firsts = {row.record.run for one in self.table.contestants if (row := _first(one))}
        return sorted(rows, key=lambda row: row.record.run not in firsts)[:MOST_RUNS]

    @cached_property
    def readable(self) -> list[tuple[Contestant, Row]]:
        """The contestants with a run that can be read, each with its first."""
        found = ((one, _first(one)) for one in self.table.contestants)
        return [(one, row) for one, row in found if row]

    def _tables(self, subject: str, grids: Iterable[Grid]) -> tuple[TableView, ...]:
        return tuple(
            table_view(grid, self._anchor(subject, f"t{place}"), self.links)
            for place, grid in enumerate(grids, 1)
        )

    def _grids(self, *topics: Callable[[Section], Iterator[Grid]]) -> list[Grid]:
        """The tables of some topics, of all runs."""
        section = details.of_all(self.table)
        return [grid for topic in topics for grid in topic(section)]

    def _leaderboard(self) -> Topic:
        chapter = self.chapter
        tracks = {group.letter: f"{group.letter}: {group.track}" for group in self.table.groups}
        main = table_view(chapter.main, self._anchor("board"), self.links, tracks)
        apart = [*details.told_apart(self.table)]
        return Topic(
            self._anchor("leaderboard"),
            "Leaderboard",
            small=(*chapter.key, *chapter.essential),
            warnings=chapter.warnings,
            tables=(main,),
            folded=self._tables("apart", apart),
        )

    def _cost(self) -> Topic | None:
        """Score against minutes, photos seen and parameters."""
        costs: dict[str, Callable[[Row], float | None]] = {
            "minutes": lambda row: row.seconds / 60,
            "photos seen": lambda row: row.photos_seen,
            "parameters": lambda row: row.record.usage.parameters if row.record.usage else None,
        }
        drawn = (of_contestants.cost(self._points(of), axis) for axis, of in costs.items())
        pictures = tuple(filter(None, drawn))
        sentence = (
            "On the line are those that nobody beats at the same cost or less, by their means; the bars are "
            "intervals, and what was timed on other machines or beside other work is no comparison of speed."
        )
        return _unless_empty(
            Topic(self._anchor("cost"), "Score against cost", (sentence,), pictures=pictures)
        )

    def _points(self, cost: Callable[[Row], float | None]) -> list[of_contestants.Point]:
        points = []
        for one, _ in self.readable:
            costs = [cost(row) for seeds in one.newest.values() for row in seeds.values()]
            known = [value for value in costs if value is not None]
            if known and one.standing:
                standing = one.standing
                points.append(
                    of_contestants.Point(one.name, mean(known), standing.value, standing.low, standing.high)
                )
        return points

    def _found(self) -> Topic | None:
        """CMC, and what a reviewer must open."""
        curves = [(one.name, _mean_curve(one)) for one, _ in self.readable]
        pictures = [of_contestants.cmc([(name, curve) for name, curve in curves if curve])]
        reviewed = [
            of_runs.Reviewed(one.name, row.breakdown.curve, row.breakdown.effort)
            for one, row in self.readable
            if row.breakdown and row.breakdown.effort
        ]
        if reviewed:
            pictures.append(of_runs.effort(reviewed))
        return _unless_empty(
            Topic(
                self._anchor("found"),
                "How many candidates must be looked at",
                ("CMC is the mean over folds and seeds; effort is that of each contestant's first run.",),
                pictures=tuple(filter(None, pictures)),
                folded=self._tables("found", self._grids(details.reviewed)),
            )
        )

    def _sure(self) -> Topic | None:
        """Reliability, candidate lists, *new* individuals."""
        pictures = (of_runs.reliability(row.record.calibration, one.name) for one, row in self.readable)
        grids = self._grids(details.calibration, details.new_individuals)
        return _unless_empty(
            Topic(
                self._anchor("sure"),
                "How far probabilities can be trusted",
                ("Of each contestant's first run, before and after calibration on valid.",),
                pictures=tuple(filter(None, pictures)),
                folded=self._tables("sure", grids),
            )
        )

    def _learned(self) -> Topic | None:
        """Losses and valid MAP@5 over the epochs."""
        drawn, problems = [], []
        for one, row in self.readable:
            try:
                drawn.append(_learning(self.workspace, row, one.name))
            except WhalebenchError as error:
                problems.append(str(error))
        return _unless_empty(
            Topic(
                self._anchor("learned"),
                "How they learned",
                ("Of each contestant's first run.",),
                warnings=tuple(problems),
                pictures=tuple(filter(None, drawn)),
            )
        )

    def _located(self) -> Topic | None:
        """How well boxes, landmarks and masks were found."""
        pictures = [picture for one, row in self.readable for picture in _histograms(row, one.name)]
        return _unless_empty(
            Topic(
                self._anchor("located"),
                "How well the animals were found",
                pictures=tuple(pictures),
                folded=self._tables("located", self._grids(details.located)),
            )
        )

    def _rests(self) -> Topic:
        """What is left of scores without background, without animal, and in a mirror."""
        rows = [*self._explained()]
        picture = of_runs.shortcuts(rows) if rows else None
        none = "No run was explained: `whalebench explain RUN` scores its test photos without background, "
        none += "without animal and mirrored."
        return Topic(
            self._anchor("rests"),
            "What the scores rest on",
            () if rows else (none,),
            pictures=(picture,) if picture else (),
            folded=self._tables("rests", self._grids(details.altered)),
        )

    def _explained(self) -> Iterator[tuple[str, Mapping[str, float | None]]]:
        """What the first run of each contestant that was explained rests on."""
        for one in self.table.contestants:
            found = next((row.diagnosis for row in one.rows if row.diagnosis), None)
            if found:
                yield one.name, found

    def _parts(self) -> Topic | None:
        grids = [grid for fold in details.of_folds(self.table) for grid in details.by_photos(fold)]
        grids += self._grids(details.by_side)
        return _unless_empty(
            Topic(
                self._anchor("parts"),
                "For which photos they score",
                tables=self._tables("parts", grids[:1]),
                folded=self._tables("more-parts", grids[1:]),
            )
        )

    def _grouped(self) -> Topic | None:
        """How well they tell who is together where nobody has a name."""
        return _unless_empty(
            Topic(
                self._anchor("grouped"),
                "Groups without names",
                ("A task of its own, as of a survey that begins with photos alone.",),
                tables=self._tables("grouped", self._grids(details.grouped)),
            )
        )

    def _differ(self) -> Topic | None:
        """What contestants were given and set to, where they differ."""
        records = {one.name: one.rows[0].record for one in self.table.contestants}
        if len(records) < 2:
            return None
        given = {name: facts_of(record) for name, record in records.items()}
        fields = {name: settings_of(record) for name, record in records.items()}
        titles = ["What the harness counted, by contestant", "Fields that at least two of them have"]
        grids = [_differing(title, values) for title, values in zip(titles, (given, fields), strict=True)]
        shown = [grid for grid in grids if grid.rows]
        return _unless_empty(
            Topic(
                self._anchor("differ"),
                "What differs between the rows",
                tables=self._tables("differ", shown[:1]),
                folded=self._tables("fields", shown[1:]),
            )
        )

    def _seeds(self) -> Topic | None:
        """Folds and seeds of each contestant."""
        grids = (
            (
                one.name,
                {
                    fold: {seed: row.metrics["map_at_5"] for seed, row in seeds.items()}
                    for fold, seeds in one.newest.items()
                },
            )
            for one, _ in self.readable
            if len(one.rows) > 1
        )
        pictures = (of_contestants.seed_grid(values, name) for name, values in grids)
        return _unless_empty(
            Topic(self._anchor("seeds"), "Folds and seeds", pictures=tuple(filter(None, pictures)))
        )

    def _photos(self) -> Topic:
        """On which photos the best disagree, which labels are doubted, who is hard to tell."""
        doubts = suspected_labels(self.table, self.galleries)
        return Topic(
            self._anchor("photos"),
            "Photos to look at",
            disagreements=self.galleries.best_pairs(self.table),
            doubts=doubts,
            doubts_csv=doubts_csv(doubts),
            hard=hardest_individuals(self.table, self.galleries),
        )

    def _runs(self) -> Topic:
        shown, every = self.shown_runs, sum(len(one.rows) for one in self.table.contestants)
        left = f"{every - len(shown)} more runs have no section here: whalebench show RUN --html FILE."
        return Topic(
            self._anchor("runs"),
            "The runs",
            (left,) if every > len(shown) else (),
            warnings=self.chapter.doubts,
            tables=self._tables("runs", self._grids(details.single_runs)),
            topics=tuple(run_topic(row, self.workspace, self.galleries) for row in shown),
        )


def run_topic(row: Row, workspace: Workspace, galleries: Galleries, *, every: bool = False) -> Topic:
    """What a page says of one run; with `every` of all its photos, where these are wanted."""
    record, name = row.record, row.contestant
    anchor = anchor_of("run", record.run)
    warnings = [*record.warnings, *filter(None, [row.problem, row.note])]
    drawn: list[Picture | None] = []
    try:
        drawn.append(_learning(workspace, row, name))
    except WhalebenchError as error:
        warnings.append(str(error))
    drawn.append(of_contestants.cmc([(name, record.cmc)]) if record.cmc else None)
    drawn.append(of_runs.reliability(record.calibration, name))
    if row.breakdown and row.breakdown.effort:
        drawn.append(of_runs.effort([of_runs.Reviewed(name, row.breakdown.curve, row.breakdown.effort)]))
    drawn += _histograms(row, name)
    if row.diagnosis:
        drawn.append(of_runs.shortcuts([(name, row.diagnosis)]))
    gallery = galleries.of(row, every=every)
    return Topic(
        anchor,
        record.run,
        sentences=tuple(
            filter(None, [record.unfit and f"It does not fit: {record.unfit}.", gallery.sentence])
        ),
        warnings=tuple(dict.fromkeys(warnings)),
        command=run_command(record),
        facts=_run_facts(row),
        pictures=tuple(filter(None, drawn)),
        sets=gallery.sets,
        named=False,
    )


def _run_facts(row: Row) -> dict[str, str]:
    record = row.record
    scores = {name: with_interval(row.metrics, key) for key, name in METRICS.items()}
    scores["valid MAP@5"] = number(record.valid_metrics.get("map_at_5"))
    facts = {} if record.unfit else scores
    facts |= {"finished": record.created, "time": duration(row.seconds), "track": row.track}
    facts |= {"code": record.code_digest[:8], "catalog": record.catalog_digest[:8]}
    facts |= {"split": record.split_digest[:8], "members": ", ".join(record.members)}
    machine = {**record.hardware, **record.environment}
    facts["machine"] = ", ".join(f"{name} {value}" for name, value in machine.items() if value)
    return {name: value for name, value in facts.items() if value}


def _first(one: Contestant) -> Row | None:
    """Its run of the first fold and seed that can be read."""
    return next((row for seeds in one.newest.values() for _, row in sorted(seeds.items())), None)


def _mean_curve(one: Contestant) -> list[float]:
    """The CMC of a contestant, the mean over seeds, then over folds."""
    folds = [[row.record.cmc for row in seeds.values() if row.record.cmc] for seeds in one.newest.values()]
    of_folds = [[mean(values) for values in zip(*curves, strict=False)] for curves in folds if curves]
    return [mean(values) for values in zip(*of_folds, strict=False)]


def _learning(workspace: Workspace, row: Row, name: str) -> Picture | None:
    curve = read_curve(workspace.runs / row.record.run, row.record)
    return None if curve is None else of_runs.learning(curve, name)


def _histograms(row: Row, name: str) -> list[Picture]:
    """How well the animals of its test photos were found."""
    return [
        of_runs.histogram(measure, values, name) for measure, values in of_runs.measures(row.queries).items()
    ]


def _differing(title: str, values: Mapping[str, Mapping[str, str]]) -> Grid:
    """A row for each thing in which at least two contestants that have it differ, a column a contestant."""
    keys = dict.fromkeys(key for of in values.values() for key in of)
    rows = []
    for key in keys:
        there = [of[key] for of in values.values() if key in of]
        if len(there) > 1 and len({*there}) > 1:
            rows.append((key, *(of.get(key, UNDEFINED) for of in values.values())))
    return Grid(title, ("what", *values), tuple(rows[:MOST_FIELDS]))


def _unless_empty(topic: Topic) -> Topic | None:
    """The topic, if there is anything in it but sentences."""
    return topic if topic.tables or topic.folded or topic.pictures or topic.warnings else None
