"""The leaderboard as a document, which is rendered for the terminal, as Markdown and as an HTML page.

A chapter for each table: headings, grids of texts, pictures, remarks. Below all chapters stands the legend:
what intervals, ranks and columns mean, each thing once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan, nan
from typing import Any, NamedTuple

from whalebench.reports import wording
from whalebench.reports.board import Leaderboard, Row, Section, Standing, Summary, Table
from whalebench.reports.figures import Mark, forest, histogram_svg, measures, reliability_svg
from whalebench.reports.metrics.resampling import RESAMPLES
from whalebench.reports.wording import METRICS, UNDEFINED, between, number, with_interval

SEEN = "seen in pretraining"
NAME_COLUMNS = ("method", "run")
"""Columns of names, which stand to the left; all others are numbers."""


class Grid(NamedTuple):
    """A table of texts below a title."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[str, ...] = ()
    """What its columns mean, a sentence or two each."""
    best: frozenset[int] = frozenset()
    """Places of the rows of rank 1 in a fold, shown in bold."""
    forest: str = ""
    """Its intervals as an SVG, shown above it on the page; empty for none."""


class Pictures(NamedTuple):
    """SVGs side by side, on the page only."""

    title: str
    drawings: tuple[str, ...]


class Chapter(NamedTuple):
    """One table of the leaderboard."""

    title: str
    parts: tuple[Grid | Pictures, ...]
    remarks: tuple[str, ...]
    """What is missing or wrong, a sentence each."""

    @property
    def grids(self) -> list[Grid]:
        """The parts without the pictures."""
        return [part for part in self.parts if isinstance(part, Grid)]


class Document(NamedTuple):
    """What is shown of a leaderboard, wherever it is shown."""

    chapters: tuple[Chapter, ...]
    legend: tuple[str, ...]
    problems: tuple[str, ...]
    """A sentence for each run that could not be read."""


BRACKETS = (
    f"In brackets: the 95 % interval of MAP@5 over {RESAMPLES:,} resamples of the test individuals (of "
    "the encounters, for new ones). Rows share a rank when the interval of their difference to the first "
    "of them, on the same photos, holds zero, so that they cannot be told apart. "
    "Of log loss, the lower is the better."
)
OVER_FOLDS = (
    "Over folds: MAP@5 is the mean over seeds, then over folds; its interval, and that of the lead over the "
    f"next row, come from {RESAMPLES:,} resamples of the individuals of all folds together, the lead's on "
    "the same photos. A lead whose interval holds zero is none."
)
SEED_SPREAD = (
    "Seed spread: the standard deviation of MAP@5 between seeds of one fold, which no interval holds."
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
ANNOTATED = "Only annotated photos could be painted over; their MAP@5 as they are stands under annotated."


def board_document(board: Leaderboard, *, folds: bool = True) -> Document:
    """The document of a leaderboard.

    Without `folds`, those of a table are left out where its summaries hold every contestant that has a rank.
    """
    chapters = []
    for table in board.tables:
        parts: list[Grid | Pictures] = [_summary(summary, table) for summary in table.summaries]
        ranked = {
            row.contestant for section in table.sections for row in section.rows if row.rank is not None
        }
        if folds or ranked - {one.contestant for summary in table.summaries for one in summary.standings}:
            parts += [part for section in table.sections for part in _section(section, table)]
        # What sets a table apart from those with honest boxes and single photos is in its title.
        marks = [name for name in ("oracle", "transductive") if getattr(table, name)]
        title = " · ".join([table.benchmark, table.track, *marks])
        chapters.append(Chapter(title, tuple(parts), tuple(_remarks(table))))
    legend = dict.fromkeys(
        sentence for chapter in chapters for grid in chapter.grids for sentence in grid.legend
    )
    over_folds_first = sorted(legend, key=lambda sentence: sentence not in (OVER_FOLDS, SEED_SPREAD))
    return Document(tuple(chapters), (BRACKETS, *over_folds_first), board.problems)


def _remarks(table: Table) -> Iterator[str]:
    """Marks, checkpoints that saw the photos, methods that do not fit, gaps, and damaged runs."""
    rows = [row for section in table.sections for row in section.rows]
    if table.oracle:
        yield "Oracle: these runs used annotated boxes, landmarks or masks of test photos."
    if table.transductive:
        yield "Transductive: these runs scored test photos with the help of other test photos."
    yield from dict.fromkeys(f"{SEEN.capitalize()}: {row.seen}" for row in rows if row.seen)
    yield from dict.fromkeys(
        f"{row.contestant} does not fit: {row.record.unfit}." for row in rows if row.record.unfit
    )
    yield from table.notes
    yield from (row.problem for row in rows if row.problem)


STANDING: dict[str, Callable[[Standing], str]] = {
    "rank": lambda one: number(one.rank, 0),
    "method": lambda one: one.contestant,
    "seeds": lambda one: _span(*one.seeds),
    "MAP@5": lambda one: between(one.map_at_5, one.low, one.high),
    "seed spread": lambda one: number(one.seed_spread),
    "top-1": lambda one: number(one.top_1),
    "log loss": lambda one: number(one.log_loss),
    "lead over next": lambda one: between(*one.lead, digits=3) if one.lead else UNDEFINED,
}
"""Titles of the columns of a summary, and what stands in them."""


def _summary(summary: Summary, table: Table) -> Grid:
    """Means over folds and seeds, and leads over the next row."""
    least = min(one.seeds[0] for one in summary.standings)
    most = max(one.seeds[1] for one in summary.standings)
    # One seed each has no spread, and a number of seeds that all share is in the title.
    hidden = {"seed spread": most == 1, "seeds": least == most}
    names = [name for name in STANDING if not hidden.get(name)]
    noun, each = ("folds", " each") if len(summary.folds) > 1 else ("fold", "")
    folds = f"over {noun} {', '.join(map(str, summary.folds))}{_split(summary.split_digest, table)}"
    seeds = f"{_span(least, most)} seed{'s' if most > 1 else ''}{each}"
    return Grid(
        title=f"{folds} with {seeds}: {summary.queries:,} test photos",
        header=tuple(names),
        rows=tuple(tuple(STANDING[name](one) for name in names) for one in summary.standings),
        legend=(OVER_FOLDS,) if hidden["seed spread"] else (OVER_FOLDS, SEED_SPREAD),
        forest=forest([Mark(one.contestant, one.map_at_5, one.low, one.high) for one in summary.standings]),
    )


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"


def _split(digest: str, table: Table) -> str:
    """ ", split 0123abcd" where the table has several splits, else nothing."""
    several = len({section.split_digest for section in table.sections}) > 1
    return f", split {digest[:8]}" if several else ""


def _section(section: Section, table: Table) -> Iterator[Grid | Pictures]:
    """The ranked rows, then small tables on what some runs have, then pictures."""
    head = f"fold {section.fold}{_split(section.split_digest, table)}"
    ends = ("", "_low", "_high")
    header, names = _names(section)
    yield Grid(
        title=f"{head}: {section.queries} test photos, {section.new} of them new individuals",
        header=("rank", *header, *METRICS.values(), "time"),
        rows=tuple((number(row.rank, 0), *names(row), *_metrics(row)) for row in section.rows),
        best=frozenset(place for place, row in enumerate(section.rows) if row.rank == 1),
        forest=forest(
            [Mark(_name(row), *(row.metrics[f"map_at_5{end}"] for end in ends)) for row in section.rows]
        ),
    )
    yield from _small_tables(section)
    diagrams = [reliability_svg(row.record.calibration, _name(row)) for row in section.rows]
    bars = [
        histogram_svg(measure, values, _name(row))
        for row in section.rows
        for measure, values in measures(row.queries).items()
    ]
    title = "How many answers are right, by confidence, before (hollow) and after calibration"
    if any(diagrams):
        yield Pictures(f"{title}, fold {section.fold}", tuple(filter(None, diagrams)))
    if bars:
        yield Pictures("", tuple(bars))


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
