"""The leaderboard as a document, which is rendered for the terminal, as Markdown, LaTeX and as an HTML page.

A chapter for each table: first one line a contestant, then what its letters and marks mean and what the table
comes to; then the single runs. Below all chapters stands the legend: what columns mean, each thing once.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from math import isnan, nan
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from whalebench.reports import wording
from whalebench.reports.board import UNIFORM, Contestant, Floor, Leaderboard, Table
from whalebench.reports.board import Group as Ranked
from whalebench.reports.details import SEEN, TITLES, Pictures
from whalebench.reports.details import details as details_of
from whalebench.reports.drawings.contestants import Mark, standings
from whalebench.reports.metrics.comparison import Standing
from whalebench.reports.metrics.ranking import mean
from whalebench.reports.tables import FittedGrid, Grid
from whalebench.reports.wording import UNDEFINED, between, listed, number, span, spans

BY_HAND, ON_FLOOR, OVERCONFIDENT = "*", "†", "‡"
"""Marks of fields set by hand, of an interval that holds a floor, and of a log loss above chance."""


class Chapter(NamedTuple):
    """One table of the leaderboard."""

    title: str
    main: Grid
    """A line a contestant, the floors among them."""
    key: tuple[str, ...]
    """What the letters and marks of the lines mean, and how often test was opened."""
    essential: tuple[str, ...]
    """What the table comes to, a sentence each, the most important one first."""
    details: tuple[Grid | Pictures, ...]
    doubts: tuple[str, ...]
    """Which intervals of the details may be too narrow."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    """What else is to be known, is missing or wrong, a sentence each."""


class Document(NamedTuple):
    """What is shown of a leaderboard, wherever it is shown."""

    chapters: tuple[Chapter, ...]
    legend: tuple[str, ...]
    problems: tuple[str, ...]
    """A sentence for each run that could not be read."""

    def notes(self) -> list[str]:
        """The notes of all tables, then what columns mean."""
        several = len(self.chapters) > 1
        of_tables = [
            f"{chapter.title}: {note}" if several else note
            for chapter in self.chapters
            for note in chapter.notes
        ]
        return [*of_tables, *self.legend]


RANKS = (
    "Rank: the ranks that a row may have among those with its letter. It begins below the rows that are told "
    "to be better and ends above those told to be worse; rows whose ranks do not meet are told apart, all at "
    "once with 95 % confidence, over other test individuals (encounters, for new ones) and other seeds."
)
BRACKETS = (
    "In brackets: the 95 % interval of MAP@5 over test individuals (over encounters, for new ones), and of a "
    "ranked row over seeds as well. Known: MAP@5 of photos whose individual is in train. Of log loss, the "
    "lower is the better. Means are over seeds, then over folds; photos seen and time are those of a run."
)
INFLATION = (
    "Leak inflation: MAP@5 on the random twin of the split, which has as many photos of each individual in "
    "each part but keeps no encounters apart, less that on the split: so much would a random split flatter. "
    "Its 95 % interval is over individuals and, where there are several, seeds."
)
LESS_LEAKS = (
    "MAP@5 without leaks: of the test photos of which neither train nor valid has the same picture or "
    "moment, as far as the audit knows and no verdict rejects it, with its 95 % interval as that of MAP@5."
)
FLOORS = (
    "Floors: the uniform guess takes every candidate for equally likely; the constant answer is the same "
    "five candidates for every photo, the individuals most photographed in train, and new where it is best "
    "on valid; an untrained network saw no photo. None of them has a rank."
)


def board_document(board: Leaderboard, *, details: bool = True, pictures: bool = False) -> Document:
    """The document of a leaderboard; without `details` no runs, and `pictures` only where they are shown."""
    chapters = tuple(_chapter(table, details=details, pictures=pictures) for table in board.tables)
    legend = dict.fromkeys(
        sentence
        for chapter in chapters
        for part in (chapter.main, *chapter.details)
        if isinstance(part, Grid)
        for sentence in part.legend
    )
    of_rows = (row.problem for row in board.rows if row.problem)
    return Document(chapters, tuple(legend), (*board.problems, *of_rows))


def _chapter(table: Table, *, details: bool, pictures: bool) -> Chapter:
    return Chapter(
        title=table.title,
        main=_main(table, pictures=pictures),
        key=tuple(_key(table)),
        essential=tuple(_essential(table)),
        details=tuple(details_of(table, pictures=pictures)) if details else (),
        doubts=tuple(_doubts(table)) if details else (),
        warnings=table.warnings,
        notes=tuple(_notes(table)),
    )


class _Line(NamedTuple):
    """What stands in the columns of a contestant or of a floor."""

    rank: str
    method: str
    map_at_5: str
    known: str
    top_1: str
    log_loss: str
    seen: str
    annotations: str
    time: str
    runs: str
    leaks: str = UNDEFINED
    without: str = UNDEFINED


MAIN = (
    "rank",
    "method",
    "MAP@5",
    "known",
    "top-1",
    "log loss",
    "photos seen",
    "annotations",
    "time",
    "seeds × folds",
)
LEAKS = "leak inflation"
"""A further column, where a contestant has runs on the random twin of the split."""
WITHOUT = "MAP@5 without leaks"
"""A further column, where test photos are known to leak."""
OPTIONAL = ("time", "annotations", "photos seen", "log loss", "top-1", "known", "seeds × folds")
"""Columns of `MAIN` that a narrow window may do without, the first one first."""


def _main(table: Table, *, pictures: bool) -> Grid:
    """A line a contestant over all tracks, best first, the floors where their scores put them."""
    on_floor, too_sure = standing_on_floor(table), set(above_chance(table))
    lines = [
        (_value(one), _line(one, ON_FLOOR * (one in on_floor), OVERCONFIDENT * (one in too_sure)), _mark(one))
        for one in table.contestants
    ]
    several = len({floor.folds for floor in table.floors}) > 1
    lines += [
        (floor.map_at_5, _floor_line(floor, several), Mark(floor.name, floor.map_at_5, nan, nan))
        for floor in table.floors
    ]
    # Sorting is stable: what has no score keeps its place at the end.
    lines.sort(key=lambda line: (isnan(line[0]), 0 if isnan(line[0]) else -line[0]))
    first = {one.name for one in table.contestants if any(row.may_be_best for row in one.rows)}
    leaks = any(one.inflation for one in table.contestants)
    without = any(one.without_leaks for one in table.contestants)
    shown = (True,) * len(MAIN) + (leaks, without)
    return Grid(
        title="",
        header=tuple(compress((*MAIN, LEAKS, WITHOUT), shown)),
        rows=tuple(tuple(compress(line, shown)) for _, line, _ in lines),
        legend=(RANKS, BRACKETS, FLOORS, *(INFLATION,) * leaks, *(LESS_LEAKS,) * without),
        best=frozenset(place for place, (*_, mark) in enumerate(lines) if mark.name in first),
        forest=_forest(table) if pictures else "",
        optional=OPTIONAL,
    )


def _forest(table: Table) -> str:
    """The contestants with their ranks, and the floors, as an SVG; empty where none has a score."""
    floors = [(floor.name, floor.map_at_5) for floor in table.floors]
    drawn = standings([_mark(one) for one in table.contestants], floors)
    return drawn.svg if drawn else ""


def _value(one: Contestant) -> float:
    return one.standing.value if one.standing else nan


def _ends(standing: Standing) -> tuple[float, float, float]:
    """Its score with the ends of the interval."""
    return standing.value, standing.low, standing.high


def _mark(one: Contestant) -> Mark:
    """Its score, and its ranks where it has others to be compared with."""
    if one.standing is None:
        return Mark(one.name, nan, nan, nan)
    mark = Mark(one.name, *_ends(one.standing), letter=one.group.letter if one.group else "")
    if one.group is None or len(one.group.comparison.standings) < 2:
        return mark
    return mark._replace(rank_low=one.standing.rank_low, rank_high=one.standing.rank_high)


def _line(one: Contestant, on_floor: str, too_sure: str) -> _Line:
    """The cells of a contestant, with the marks of its interval and of its log loss."""
    runs = [row for seeds in one.newest.values() for row in seeds.values()]
    marks = BY_HAND * bool(one.by_hand) + on_floor
    name = one.name + (" (untrained)" if one.untrained else "") + (f" ({SEEN})" if one.rows[0].seen else "")
    if not runs:
        why = "does not fit" if any(row.record.unfit for row in one.rows) else "damaged"
        return _Line(UNDEFINED, name, why, *[UNDEFINED] * 7)
    counted = [row.photos_seen for row in runs if row.photos_seen is not None]
    return _Line(
        rank=one.place,
        method=f"{name} {marks}".strip(),
        map_at_5=between(*_mark(one)[1:4]),
        known=number(one.mean("map_at_5_known")),
        top_1=number(one.mean("top_1")),
        log_loss=number(one.mean("log_loss")) + too_sure,
        seen=wording.thousands(mean(counted) if counted else None),
        annotations=", ".join(one.annotations) or ("none" if counted else UNDEFINED),
        time=wording.duration(mean(row.seconds for row in runs)),
        runs=f"{span(*one.seeds)} × {len(one.folds)}",
        leaks=between(*one.inflation) if one.inflation else UNDEFINED,
        without=between(*_ends(one.without_leaks)) if one.without_leaks else UNDEFINED,
    )


def _floor_line(floor: Floor, several: bool) -> _Line:
    """The cells of a floor; where there are several sets of folds, its name says which."""
    folds = f", {_folds(floor.folds)}" if several else ""
    name, numbers = f"{floor.name} (floor{folds})", [number(value) for value in floor[2:]]
    return _Line(*[UNDEFINED, name, *numbers, "0", "none", UNDEFINED, UNDEFINED])


def standing_on_floor(table: Table) -> dict[Contestant, tuple[str, float]]:
    """Trained contestants whose interval begins no higher than a floor of their folds, with the highest."""
    low = {}
    for one in table.contestants:
        floors = table.floors_of(one.folds)
        if one.group and one.standing and floors:
            highest = max(floors, key=lambda floor: floor[1])
            if one.standing.low <= highest[1]:
                low[one] = highest
    return low


def above_chance(table: Table) -> list[Contestant]:
    """Contestants whose log loss is above that of the uniform guess, calibrated as it is."""
    chance = {floor.folds: floor.log_loss for floor in table.floors if floor.name == UNIFORM}
    return [
        one for one in table.contestants if one.folds and one.mean("log_loss") > chance.get(one.folds, nan)
    ]


def _folds(folds: tuple[int, ...]) -> str:
    return f"{'fold' if len(folds) == 1 else 'folds'} {spans(folds)}"


def _key(table: Table) -> Iterator[str]:
    """What each letter and each mark stands for, and how often the test labels were opened."""
    for group in table.groups:
        yield f"{group.letter}: {group.track} · {_folds(group.folds)}"
    if any(one.by_hand for one in table.contestants):
        yield f"{BY_HAND} Fields with a search range were set by hand; the notes say which."
    if standing_on_floor(table):
        yield f"{ON_FLOOR} No better than a floor: the interval holds it."
    if above_chance(table):
        yield f"{OVERCONFIDENT} A log loss above that of the uniform guess, after calibration."


def opened(table: Table) -> str:
    """How many times the test labels of the folds were opened, as far as that was written down."""
    looks = {section.fold: section.looks for section in table.sections}
    scored = (row for section in table.sections for row in section.rows if not row.record.unfit)
    runs = Counter(row.record.fold for row in scored)
    folds = ", ".join(f"fold {fold}: {times}" for fold, times in sorted(looks.items()))
    older = any(times < runs[fold] for fold, times in looks.items())
    more = "; not counted are runs older than the ledger" if older else ""
    return f"Test labels were opened {wording.times(sum(looks.values()))} ({folds}{more})."


def _essential(table: Table) -> Iterator[str]:
    """Who leads and how surely, what stands on a floor, how often test was opened."""
    groups = sorted(table.groups, key=lambda group: -len(group.comparison.standings))
    leaders = [sentence for group in groups for sentence in _leader(group)]
    yield from leaders[:1]
    on_floor = standing_on_floor(table)
    if on_floor:
        name, value = max(on_floor.values(), key=lambda floor: floor[1])
        yield f"No better than a floor ({name}, {value:.3f}): {listed(one.name for one in on_floor)}."
    if sure := above_chance(table):
        yield f"Log loss above the uniform guess's: {listed(one.name for one in sure)}."
    yield opened(table)
    yield from leaders[1:]


def _leader(group: Ranked) -> Iterator[str]:
    """Who leads a group, how surely, and what its test could have seen."""
    compared, letter = group.comparison, group.letter
    if len(compared.standings) < 2:
        (alone,) = compared.standings
        numbers = between(alone.value, alone.low, alone.high)
        yield f"{letter}: {alone.contestant} stands alone with {numbers}. {compared.warning}".strip()
        return
    first, second = compared.standings[:2]
    lead = compared.leads[first.contestant, second.contestant]
    ahead = f"ahead of {second.contestant} by {number(lead.value)}"
    if compared.unranked:
        yield f"{letter}: {first.contestant} has {number(first.value)} and is {ahead}. {compared.unranked}"
        if compared.warning:
            yield f"{letter}: {compared.warning}"
    else:
        sure = "told apart" if lead.told_apart else "not told apart"
        candidates = sum(one.rank_low == 1 for one in compared.standings)
        sure_of_it = wording.probability(first.probability_best)
        yield (
            f"{letter}: {first.contestant} is first of {len(compared.standings)} with {number(first.value)}; "
            f"{candidates} may be the best, it with probability {sure_of_it}. It is {ahead} "
            f"[{number(lead.low)}, {number(lead.high)}], {sure}."
        )
        individuals = f"{compared.effective_individuals:.0f} effective individuals."
        least = compared.detectable_lead
        told = f"a lead of {number(least)}" if least < 1 else "no lead"
        detectable = f"{told} would have been told with 80 % power"
        yield f"{letter}: {detectable}. {compared.warning or individuals}"


def _notes(table: Table) -> Iterator[str]:
    """What marks mean, what does not fit, and gaps."""
    rows = [row for section in table.sections for row in section.rows]
    if any(row.record.oracle for row in rows):
        yield "Oracle: these runs used annotated boxes, landmarks or masks of test photos."
    if any("viewpoint" in one.annotations for one in table.contestants):
        yield "Viewpoint: these runs were told from which side test photos were taken, as photographers know."
    if any(row.record.transductive for row in rows):
        yield "Transductive: these runs scored test photos with the help of other test photos."
    for one in table.contestants:
        if one.by_hand:
            fields = (f"{key}={wording.typed(value)}" for key, value in one.by_hand.items())
            yield f"Set by hand: {one.name}: {' '.join(fields)}."
    yield from dict.fromkeys(f"{SEEN.capitalize()}: {row.seen}" for row in rows if row.seen)
    yield from dict.fromkeys(
        f"{row.contestant} does not fit: {row.record.unfit}." for row in rows if row.record.unfit
    )
    yield from table.notes


def _doubts(table: Table) -> Iterator[str]:
    """Which intervals of single runs are to be doubted, and whose; each doubt once."""
    doubts: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in (row for section in table.sections for row in section.rows):
        for key, doubt in row.doubts.items():
            metrics, names = doubts.setdefault(doubt, ({}, {}))
            metrics[TITLES.get(key, key)] = names[row.contestant] = None
    for doubt, (metrics, names) in doubts.items():
        yield f"The interval of {listed(metrics, most=9)} {doubt} ({listed(names)})."


# --- on the terminal

ESSENTIAL_LINES = 10
"""How many lines of a window the essential takes."""
WARNINGS = 6
"""How many warnings of a table, and how many problems, the terminal shows unless asked for the notes."""


def render(board: Leaderboard, *, full: bool = False, notes: bool = False) -> Group:
    """What `rich` prints of a leaderboard: a main table for each benchmark, and at the end the essential.

    With `full` the tables of single runs follow each main one, with `notes` all warnings, notes and legends.
    """
    document, shown = board_document(board, details=full), None if notes else WARNINGS
    parts: list[RenderableType] = []
    for chapter in document.chapters:
        parts += [Text(chapter.title, style="bold cyan"), FittedGrid(chapter.main)]
        parts += [Text(sentence, style="dim") for sentence in chapter.key]
        if full:
            grids = [FittedGrid(part) for part in chapter.details if isinstance(part, Grid)]
            parts += [each for grid in grids for each in (Text(), grid)] + [Text()]
        warnings = (*chapter.doubts, *chapter.warnings[:shown])
        parts += [Text(f"! {warning}", style="yellow") for warning in warnings]
        parts.append(Text())
    if notes:
        parts += [Text(sentence, style="dim") for sentence in document.notes()]
    parts += [Text(f"! {problem}", style="red") for problem in document.problems[:shown]]
    end = _more(document, full=full, notes=notes)
    return Group(*parts, Essential(tuple(_first_sentences(document)), end))


def _first_sentences(document: Document) -> Iterator[str]:
    """What the tables come to; with several, the first sentence of each comes before the others."""
    chapters = document.chapters
    if len(chapters) == 1:
        yield from chapters[0].essential
        return
    yield from (f"{chapter.title}, {chapter.essential[0]}" for chapter in chapters)
    yield from (f"{chapter.title}, {sentence}" for chapter in chapters for sentence in chapter.essential[1:])


def _more(document: Document, *, full: bool, notes: bool) -> str:
    """What is not shown, and how to see it."""
    said = [document.problems, *(chapter.warnings for chapter in document.chapters)]
    hidden = sum(max(0, len(sentences) - WARNINGS) for sentences in said)
    warnings = f"{hidden} more warnings and " if hidden else ""
    parts = [] if notes else [f"{warnings}{len(document.notes())} notes: --notes."]
    parts += [] if full else ["Single runs, calibration, new individuals: --full."]
    return " ".join(parts)


@dataclass(frozen=True)
class Essential:
    """As many of the sentences as ten lines of the window hold with an end that is always there."""

    sentences: tuple[str, ...]
    end: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def lines(sentence: str) -> int:
            return len(Text(sentence).wrap(console, options.max_width))

        left = ESSENTIAL_LINES - lines(self.end)
        for sentence in self.sentences:
            left -= lines(sentence)
            if left < 0:
                break
            yield Text(sentence)
        if self.end:
            yield Text(self.end, style="dim")
