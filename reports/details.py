"""The single runs behind a leaderboard: what can be told apart, each fold, and what only some runs have.

That is what `report --full` shows below the main table, and what every file holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import isnan, nan
from typing import Any, NamedTuple

from whalebench.reports import wording
from whalebench.reports.board import Group, Row, Section, Table
from whalebench.reports.drawings.contestants import Mark, standings
from whalebench.reports.drawings.runs import Reviewed, effort, histogram, measures, reliability
from whalebench.reports.drawings.theme import Picture
from whalebench.reports.figures import escape
from whalebench.reports.metrics.breakdown import Bucket, Effort
from whalebench.reports.metrics.sides import Sides
from whalebench.reports.tables import Grid
from whalebench.reports.wording import METRICS, UNDEFINED, between, number, span, with_interval

SEEN = "seen in pretraining"


class Pictures(NamedTuple):
    """SVGs side by side, on the page only."""

    title: str
    drawings: tuple[str, ...]


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


def details(table: Table, *, pictures: bool) -> Iterator[Grid | Pictures]:
    """The parts of a table below its main one, with `pictures` those of the page, too."""
    for group in table.groups:
        if len(group.comparison.standings) > 1:
            yield _told_apart(group)
    for section in table.sections:
        yield from _section(section, pictures=pictures)


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


def _section(section: Section, *, pictures: bool) -> Iterator[Grid | Pictures]:
    """The runs of a fold, then small tables on what some runs have, then pictures."""
    header, names = _names(section)
    photos = f"{section.queries} test photos, {section.new} of them new individuals"
    drawn = standings([_row_mark(row) for row in section.rows]) if pictures else None
    yield Grid(
        title=f"{section.track} · fold {section.fold}: {photos}; test opened {wording.times(section.looks)}",
        header=("rank", *header, *METRICS.values(), "time"),
        rows=tuple((row.place, *names(row), *_metrics(row)) for row in section.rows),
        best=frozenset(at for at, row in enumerate(section.rows) if row.may_be_best),
        forest=drawn.svg if drawn else "",
    )
    yield from _small_tables(section)
    yield from _broken_down(section)
    if pictures:
        yield from _pictures(section)


def _row_mark(row: Row) -> Mark:
    value, low, high = (row.metrics[f"map_at_5{end}"] for end in ("", "_low", "_high"))
    return Mark(_name(row), value, low, high)


def _pictures(section: Section) -> Iterator[Pictures]:
    diagrams = [reliability(row.record.calibration, _name(row)) for row in section.rows]
    bars = [
        histogram(measure, values, _name(row))
        for row in section.rows
        for measure, values in measures(row.queries).items()
    ]
    title = "How many answers are right, by confidence, before (hollow) and after calibration"
    if any(diagrams):
        yield Pictures(f"{title}, fold {section.fold}", tuple(map(_figure, filter(None, diagrams))))
    if bars:
        yield Pictures("", tuple(map(_figure, bars)))
    if curves := [
        _figure(effort([Reviewed(_name(row), row.breakdown.curve, row.breakdown.effort)]))
        for row in section.rows
        if row.breakdown and row.breakdown.effort
    ]:
        yield Pictures(
            f"Share of the matches found by so many candidates a photo, fold {section.fold}", tuple(curves)
        )


def _figure(drawn: Picture) -> str:
    return f"<figure><figcaption>{escape(drawn.title)}</figcaption>{drawn.svg}</figure>"


def _names(section: Section) -> tuple[tuple[str, ...], Callable[[Row], tuple[str, ...]]]:
    """Titles of the columns that name the rows of a section, and what fills them; the run where needed."""
    pairs = {(row.contestant, row.record.seed) for row in section.rows}
    header = ("method", "seed", "run") if len(pairs) < len(section.rows) else ("method", "seed")

    def cells(row: Row) -> tuple[str, ...]:
        method = f"{row.contestant} ({SEEN})" if row.seen else row.contestant
        return (method, str(row.record.seed), row.record.run)[: len(header)]

    return header, cells


def _name(row: Row) -> str:
    """The row's name in pictures."""
    return f"{row.contestant}, seed {row.record.seed}"


def _metrics(row: Row) -> list[str]:
    """The metrics and the time of one row; only MAP@5, which ranks, shows its interval."""
    others = [number(row.metrics.get(key)) for key in METRICS if key != "map_at_5"]
    if row.record.unfit:
        return ["does not fit", *others, UNDEFINED]
    return [with_interval(row.metrics, "map_at_5"), *others, wording.duration(row.seconds)]


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
RowNumbers = Sequence[tuple[Row, Mapping[str, Any]]]
"""Rows, each with some of its numbers by name."""


def _small_tables(section: Section) -> Iterator[Grid]:
    """Tables on what only some rows have: calibration, *new* individuals, found animals, altered photos."""
    fit: RowNumbers = [
        (row, {**row.record.calibration, **row.metrics}) for row in section.rows if not row.record.unfit
    ]
    if any(numbers.get("test_log_loss_after") is not None for _, numbers in fit):
        title = "Calibration and candidate sets"
        yield _small(title, section, fit, CALIBRATION, [*CALIBRATION], CALIBRATED, CANDIDATE_SETS)
    new = [(row, row.metrics) for row in section.rows if not isnan(row.metrics.get("dir_at_far_10", nan))]
    if new:
        yield _small("New individuals", section, new, NEW_INDIVIDUALS, [*NEW_INDIVIDUALS], BALANCED, DETECTED)
    located = [(row, row.location) for row in section.rows if row.location]
    keys = [key for key in LOCATION if any(key in numbers for _, numbers in located)]
    if keys:
        legend = {"landmark_error_median": LANDMARKS, "fallback": FALLBACK}
        legends = [legend[key] for key in keys if key in legend]
        yield _small("How well the animals were found", section, located, LOCATION, keys, MEASURED, *legends)
    altered = [(row, row.diagnosis) for row in section.rows if row.diagnosis]
    keys = [key for key in DIAGNOSIS if any(numbers.get(key) is not None for _, numbers in altered)]
    if all(numbers.get("annotated") == numbers.get("test") for _, numbers in altered):
        keys = [key for key in keys if key != "annotated"]  # every photo was annotated
    if altered:
        legends = [ALTERED, *([ANNOTATED] if "annotated" in keys else [])]
        yield _small("What the scores rest on", section, altered, DIAGNOSIS, keys, *legends)


def _broken_down(section: Section) -> Iterator[Grid]:
    """Scores by what is known of photos, a table for each, and the effort; of runs that were broken down."""
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
            yield Grid(f"MAP@5 by {title}, fold {section.fold}", (*header, *counted), lines, (BUCKETS,))
    if sided := [(row, one) for row, made in rows for one in made.sides]:
        yield Grid(
            f"Same side and other side, fold {section.fold}",
            (*header, *side_cells(sided[0][1])),
            tuple((*cells(row), *side_cells(one).values()) for row, one in sided),
            (SIDES,),
        )
    if efforts := [(row, made.effort) for row, made in rows if made.effort]:
        shares = [wording.percent(one.share) for one in efforts[0][1]]
        titles = tuple(f"{what} {share}" for what in ("find", "abundance at") for share in shares)
        lines = tuple((*cells(row), *map(candidates, of), *map(abundance, of)) for row, of in efforts)
        yield Grid(
            f"What a reviewer must look at, fold {section.fold}",
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
    return Grid(f"{title}, fold {section.fold}", (*header, *(names[key] for key in keys)), lines, legend)


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
    return number(value, 1 if key == "landmark_pixels_median" else 3)
