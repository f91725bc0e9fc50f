"""The single runs behind a leaderboard: what can be told apart, each fold, and what only some runs have.

That is what `report --full` shows below the main table, and what every file holds. A topic each: the terminal
shows the topics fold by fold, the page the folds topic by topic.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf, isnan, nan
from typing import Any

from whalebench.reports import wording
from whalebench.reports.board import Group, Row, Section, Table
from whalebench.reports.metrics.breakdown import Bucket, Effort
from whalebench.reports.metrics.sides import Sides
from whalebench.reports.repeating import run_command
from whalebench.reports.tables import Cell, Grid, RowFacts
from whalebench.reports.wording import METRICS, UNDEFINED, between, number, span, with_interval

SEEN = "seen in pretraining"


TOLD_APART = (
    "What can be told apart: P(best) is how probable it is that the row is the best of its letter; seed "
    "spread the standard deviation of MAP@5 between seeds of one fold; the lead over the next row holds "
    "together with all others of its letter, and one whose interval holds zero is none."
)
CALIBRATED = (
    "Calibration: before, probabilities are the softmax of the scores as the method gives them (nearly "
    "uniform where these are cosines); after, with the temperature and the epsilon that were chosen on "
    "valid, as far as they help there by more than chance. ECE, the expected calibration error: how far "
    "confidence and accuracy of the best individual are apart, over known photos in 15 bins of equal mass."
)
CANDIDATE_SETS = (
    "Candidate set: the individuals among whom the right one is with 95 % certainty; the mean size of the "
    "sets, and the share of known test photos whose set really holds it."
)
BALANCED = (
    "New individuals: BAKS is the share of known photos whose first candidate is right, BAUS that of new "
    "photos called new, each individual weighing the same; the geometric mean is theirs."
)
DETECTED = (
    "DIR: the share of known photos whose best individual is right and scores above the threshold at which "
    "at most 1, 5 or 10 % of new photos would be taken for a known one."
)
MEASURED = (
    "How well the animals were found: on annotated test photos; IoU is the mean overlap with box or mask."
)
PRECISION = (
    "Mask precision: of the IoU thresholds 0.5, 0.55 ... 0.95 the share that a photo's mask exceeds, the "
    "mean over photos; the measure of the TGS Salt challenge."
)
LANDMARKS = (
    "Landmark error: how far found landmarks are from annotated ones, as a share of the largest distance "
    "between two annotated ones; the median photo, and at p90 what nine of ten stay below."
)
FALLBACK = "Fell back: what was found made no sense, and the whole photo was seen."
ALTERED = (
    "What the scores rest on: MAP@5 of test photos with everything but the animal painted over (no "
    "background), with the animal painted over (no animal: at chance, or the score rests on something else), "
    "and mirrored. Chance: what the answers without the animal get when they are given to other photos."
)
GROUPED = (
    "Groups without names: the test photos that show a named individual, put together by their embeddings "
    "alone, with a threshold chosen on valid by the mean of ARI and AMI. Both are 1 where groups are the "
    "individuals and 0 on average by chance; pair precision is the share of pairs in one group that show one "
    "individual, pair recall that of pairs of one individual that are in one group, F1 their harmonic mean. "
    "Best first by the mean of ARI and AMI, a task of its own: no rank of the board rests on it."
)
BY = {
    "train_photos": "{} photos in train",
    "viewpoint": "viewpoint {}",
    "species": "species {}",
    "encounter_seen": "encounter {} in train",
    "side_seen": "side {} in train",
}
"""What scores are broken down by, and how a bucket of that name is called."""
BUCKETS = (
    "MAP@5 by photos in train: of the known test photos whose individual has so many; by encounter in train: "
    "of photos with and without another one of their encounter there; by side in train: of known photos with "
    "and without one of their individual from the same viewpoint there. After a name, the test photos and "
    "the individuals among them."
)
SIDES = (
    "Same and other side: MAP@5 of the embeddings alone, by the nearest train photo from the same viewpoint "
    "and by the nearest from another, of photos whose individual train shows from both; guess: of a guess "
    "among as many. Where sides look different, another side that finds as much as the same one says that "
    "something else than the pattern is read: the light, the place, the day."
)
EFFORT = (
    "How many candidates a photo, best first, find that share of the matches. "
    "A match is a test photo whose individual is in train. What is missed makes known animals look new: by "
    "how much an estimate of abundance from two occasions (Lincoln and Petersen) is then too high."
)
MOST_BUCKETS = 6
"""How many viewpoints or species a table has columns for, those with most photos."""
ANNOTATED = "Only annotated photos could be painted over; their MAP@5 as they are stands under annotated."


def details(table: Table) -> Iterator[Grid]:
    """The tables of a benchmark below its main one: what can be told apart, then all topics of each fold."""
    yield from told_apart(table)
    for section in table.sections:
        yield from single_runs(section)
        for topic in (calibration, new_individuals, located, altered, by_photos, by_side, grouped, reviewed):
            yield from topic(section)


def of_folds(table: Table) -> list[Section]:
    """A section a fold, with the runs of all tracks, best first."""
    return [
        sections[0]._replace(track="all tracks", rows=_best_first(sections))
        for fold in dict.fromkeys(section.fold for section in table.sections)
        if (sections := [section for section in table.sections if section.fold == fold])
    ]


def of_all(table: Table) -> Section:
    """One section with all runs, best first; of no fold, unless there is just one."""
    first, *others = of_folds(table)
    if not others:
        return first
    return first._replace(fold=None, rows=_best_first(table.sections))


def _best_first(sections: Sequence[Section]) -> tuple[Row, ...]:
    def order(row: Row) -> float:
        value = row.metrics.get("map_at_5", nan)
        return inf if isnan(value) else -value

    return tuple(sorted((row for section in sections for row in section.rows), key=order))


def told_apart(table: Table) -> Iterator[Grid]:
    """How sure the order is within each letter that has several contestants."""
    for group in table.groups:
        if len(group.comparison.standings) > 1:
            yield _told_apart(group)


def _told_apart(group: Group) -> Grid:
    """The contestants of a group with what is known of how sure their order is."""
    standings = group.comparison.standings
    leads = [
        between(*group.comparison.leads[one.contestant, after.contestant][:3], digits=3)
        for one, after in pairwise(standings)
    ]
    rows = [
        (
            span(one.rank_low, one.rank_high),
            one.contestant,
            number(one.probability_best, 2),
            between(one.value, one.low, one.high, digits=3),
            number(one.seed_spread),
            lead,
        )
        for one, lead in zip(standings, [*leads, UNDEFINED], strict=True)
    ]
    header = ("rank", "method", "P(best)", "MAP@5", "seed spread", "lead over next")
    title = f"What can be told apart, {group.letter} ({group.track})"
    return Grid(title, header, tuple(rows), (TOLD_APART,))


def single_runs(section: Section) -> Iterator[Grid]:
    """The runs of a fold, a line each."""
    header, names = _names(section)
    photos = f"{section.queries} test photos, {section.new} of them new individuals"
    opened = f"test opened {wording.times(section.looks)}"
    yield Grid(
        title=f"{section.track} · fold {section.fold}: {photos}; {opened}"
        if section.fold is not None
        else "Each run",
        header=("rank", *header, *METRICS.values(), "time"),
        rows=tuple((row.place, *names(row), *_metrics(row)) for row in section.rows),
        best=frozenset(at for at, row in enumerate(section.rows) if row.may_be_best),
        facts=tuple(map(_facts, section.rows)),
    )


def _facts(row: Row) -> RowFacts:
    """What a page does with the line of a run."""
    value, low, high = (row.metrics[f"map_at_5{end}"] for end in ("", "_low", "_high"))
    return RowFacts(
        anchor=row.record.run,
        command=run_command(row.record),
        track=row.place.partition(" ")[0],
        marks=marks_of(row),
        interval=None if isnan(value) else (value, low, high),
    )


def marks_of(row: Row, *, untrained: bool = False) -> tuple[str, ...]:
    """By what a reader may want to leave out a run, or the contestant whose it is."""
    record = row.record
    marks = {"oracle": record.oracle, "transductive": record.transductive, SEEN: bool(row.seen)}
    return tuple(name for name, holds in (marks | {"untrained": untrained}).items() if holds)


def _fold(section: Section) -> str:
    """What a title says of the fold."""
    return "" if section.fold is None else f", fold {section.fold}"


def _names(section: Section) -> tuple[tuple[str, ...], Callable[[Row], tuple[str, ...]]]:
    """Titles of the columns that name the rows of a section, and what fills them; the run where needed."""
    told = {(row.contestant, row.record.fold, row.record.seed) for row in section.rows}
    header = ("method", *(("fold",) if section.fold is None else ()), "seed")
    if len(told) < len(section.rows):
        header += ("run",)

    def cells(row: Row) -> tuple[str, ...]:
        method = f"{row.contestant} ({SEEN})" if row.seen else row.contestant
        named = {"method": method, "fold": str(row.record.fold), "seed": str(row.record.seed)}
        return tuple((named | {"run": row.record.run})[name] for name in header)

    return header, cells


def _metrics(row: Row) -> list[str]:
    """The metrics and the time of one row; only MAP@5, which ranks, shows its interval."""
    others = [number(row.metrics.get(key)) for key in METRICS if key != "map_at_5"]
    if row.record.unfit:
        return ["does not fit", *others, UNDEFINED]
    return [with_interval(row.metrics, "map_at_5"), *others, Cell.of(wording.duration, row.seconds)]


CALIBRATION = {
    "test_log_loss_before": "log loss before",
    "test_log_loss_after": "log loss after",
    "test_ece_before": "ECE before",
    "test_ece_after": "ECE after",
    "candidate_set": wording.CANDIDATE_SET,
}
"""What a record says of test before and after calibration, and the title of its column."""
NEW_INDIVIDUALS = {
    "baks_baus": "geometric mean",
    "baks": "BAKS",
    "baus": "BAUS",
    "dir_at_far_1": "DIR 1 %",
    "dir_at_far_5": "DIR 5 %",
    "dir_at_far_10": "DIR 10 %",
}
"""Metrics of *new* individuals, and the title of their column."""
TITLES = METRICS | NEW_INDIVIDUALS
TITLES |= {"map_at_5_known": "MAP@5 of known", "map_at_5_new": "MAP@5 of new", "map_at_r": "MAP@R"}
TITLES |= {"accuracy_new": "accuracy new", "normalised_accuracy": "normalised accuracy"}
TITLES |= {"set_size_95": "set size", "coverage_95": "coverage"}
"""What metrics are called; by their key."""
LOCATION = {
    "box_iou_mean": "box IoU",
    "mask_iou_mean": "mask IoU",
    "mask_precision_mean": "mask precision",
    "landmark_error_median": "landmark error",
    "landmark_error_p90": "error p90",
    "landmark_pixels_median": "median pixels",
    "fallback": "fell back",
}
"""What a record says of how animals were localized, and the title of its column."""
DIAGNOSIS = {
    "test": "as tested",
    "annotated": "annotated",
    "without_background": "no background",
    "without_animal": "no animal",
    "chance": "chance",
    "mirrored": "mirrored",
}
"""What was done to the photos, and the title of its column."""
GROUPING = {
    "ari": "ARI",
    "ami": "AMI",
    "pair_f1": "pair F1",
    "pair_precision": "precision",
    "pair_recall": "recall",
    "groups": "groups",
    "individuals": "individuals",
    "photos": "photos",
}
"""What a record says of groups without names, and the title of its column."""
RowNumbers = Sequence[tuple[Row, Mapping[str, Any]]]
"""Rows, each with some of its numbers by name."""


def calibration(section: Section) -> Iterator[Grid]:
    """Log loss and ECE before and after calibration, and candidate sets, of runs that have them."""
    fit: RowNumbers = [
        (row, {**row.record.calibration, **row.metrics}) for row in section.rows if not row.record.unfit
    ]
    if any(numbers.get("test_log_loss_after") is not None for _, numbers in fit):
        title = "Calibration and candidate sets"
        yield _small(title, section, fit, CALIBRATION, [*CALIBRATION], CALIBRATED, CANDIDATE_SETS)


def new_individuals(section: Section) -> Iterator[Grid]:
    """How well *new* individuals are told from known ones, of runs that have both kinds of test photos."""
    new = [(row, row.metrics) for row in section.rows if not isnan(row.metrics.get("dir_at_far_10", nan))]
    if new:
        yield _small("New individuals", section, new, NEW_INDIVIDUALS, [*NEW_INDIVIDUALS], BALANCED, DETECTED)


def located(section: Section) -> Iterator[Grid]:
    """How well boxes, landmarks and masks were found, of runs that look for them."""
    rows = [(row, row.location) for row in section.rows if row.location]
    keys = [key for key in LOCATION if any(key in numbers for _, numbers in rows)]
    if keys:
        legend = {"mask_precision_mean": PRECISION, "landmark_error_median": LANDMARKS, "fallback": FALLBACK}
        legends = [legend[key] for key in keys if key in legend]
        yield _small("How well the animals were found", section, rows, LOCATION, keys, MEASURED, *legends)


def altered(section: Section) -> Iterator[Grid]:
    """What a score rests on, of runs that were explained."""
    rows = [(row, row.diagnosis) for row in section.rows if row.diagnosis]
    keys = [key for key in DIAGNOSIS if any(numbers.get(key) is not None for _, numbers in rows)]
    if all(numbers.get("annotated") == numbers.get("test") for _, numbers in rows):
        keys = [key for key in keys if key != "annotated"]  # every photo was annotated
    if rows:
        legends = [ALTERED, *([ANNOTATED] if "annotated" in keys else [])]
        yield _small("What the scores rest on", section, rows, DIAGNOSIS, keys, *legends)


def by_photos(section: Section) -> Iterator[Grid]:
    """Scores by what is known of photos, a table for each, of runs that were broken down."""
    rows = [(row, row.breakdown) for row in section.rows if row.breakdown]
    header, cells = _names(section)
    for by, words in BY.items():
        parts = [(row, {one.name: one for one in made.buckets if one.by == by}) for row, made in rows]
        found = {name: one for _, of_row in parts for name, one in of_row.items()}
        most = sorted(found, key=lambda name: -found[name].photos)[:MOST_BUCKETS]
        names = [name for name in found if name in most]
        if names:
            counted = (f"{name} ({found[name].photos} of {found[name].individuals})" for name in names)
            lines = tuple(
                (*cells(row), *(_in_bucket(of_row.get(name)) for name in names)) for row, of_row in parts
            )
            title = " ".join(words.format("").split())
            yield Grid(f"MAP@5 by {title}{_fold(section)}", (*header, *counted), lines, (BUCKETS,))


def by_side(section: Section) -> Iterator[Grid]:
    """What the same side and another one are worth, of runs with embeddings where train has sides."""
    header, cells = _names(section)
    rows = [(row, one) for row in section.rows if row.breakdown for one in row.breakdown.sides]
    if rows:
        yield Grid(
            f"Same side and other side{_fold(section)}",
            (*header, *side_cells(rows[0][1])),
            tuple((*cells(row), *side_cells(one).values()) for row, one in rows),
            (SIDES,),
        )


def grouped(section: Section) -> Iterator[Grid]:
    """How well test photos are grouped without names, of runs with embeddings: best first."""
    rows = [(row, row.grouping) for row in section.rows if row.grouping]
    rows.sort(key=lambda one: -(one[1]["ari"] + one[1]["ami"]))
    if rows:
        yield _small("Groups without names", section, rows, GROUPING, [*GROUPING], GROUPED)


def reviewed(section: Section) -> Iterator[Grid]:
    """What a reviewer must look at to find most matches, of runs that were broken down."""
    header, cells = _names(section)
    efforts = [(row, row.breakdown.effort) for row in section.rows if row.breakdown and row.breakdown.effort]
    if efforts:
        shares = [wording.percent(one.share) for one in efforts[0][1]]
        titles = tuple(f"{what} {share}" for what in ("find", "abundance at") for share in shares)
        lines = tuple((*cells(row), *map(candidates, of), *map(abundance, of)) for row, of in efforts)
        yield Grid(
            f"What a reviewer must look at{_fold(section)}",
            (*header, *titles),
            lines,
            (f"What a reviewer must look at: {EFFORT[0].lower()}{EFFORT[1:]}",),
            optional=titles[len(shares) :],
        )


def _in_bucket(bucket: Bucket | None) -> str:
    return with_interval(bucket.metrics, "map_at_5") if bucket else UNDEFINED


def side_cells(sides: Sides) -> dict[str, str]:
    """The texts of a table's columns: how many photos, and what each side is worth."""
    names = {"same_side": "same side", "other_side": "other side", "lead": "lead"}
    counted = {"photos": f"{sides.photos}", "individuals": f"{sides.individuals}"}
    found = {title: with_interval(sides.metrics, key) for key, title in names.items()}
    return counted | found | {"guess": number(sides.guess)}


def candidates(effort: Effort) -> str:
    """How many candidates must be looked at, with their interval."""
    ends = "" if isnan(effort.low) else f" [{effort.low:.0f}, {effort.high:.0f}]"
    return f"{effort.candidates:,}{ends}"


def abundance(effort: Effort) -> str:
    """By how much an estimate of abundance is too high then."""
    return f"+{wording.percent(effort.abundance_bias)}"


def _small(
    title: str,
    section: Section,
    rows: RowNumbers,
    names: Mapping[str, str],
    keys: Sequence[str],
    *legend: str,
) -> Grid:
    """A table of the numbers of these keys of some rows, their names as titles of the columns."""
    header, cells = _names(section)
    lines = tuple((*cells(row), *(_cell(numbers, key) for key in keys)) for row, numbers in rows)
    return Grid(f"{title}{_fold(section)}", (*header, *(names[key] for key in keys)), lines, legend)


def _cell(numbers: Mapping[str, Any], key: str) -> str:
    value = numbers.get(key)
    if key == "candidate_set":
        return wording.candidate_set(numbers)
    if key == "baks_baus":
        return with_interval(numbers, key)
    if key == "fallback":
        return UNDEFINED if value is None else f"{value} of {numbers['photos']}"
    if key.startswith("landmark_error"):
        return wording.percent(value)
    if isinstance(value, int):
        return f"{value:,}"
    return number(value, 1 if key == "landmark_pixels_median" else 3)
