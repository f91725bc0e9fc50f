"""Small tables round the ranked ones, shown alike everywhere; here the one over folds and seeds.

The small table on calibration and candidate lists below a section.

The small tables below a section: calibration, *new*, how animals were found, what the scores rest on.

What the numbers of a leaderboard mean, each thing said once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from whalebench.reports.board import Leaderboard, Section, Table
from whalebench.reports.metrics.resampling import RESAMPLES
from whalebench.reports.over_folds import Standing, Summary
from whalebench.reports.wording import (
    CANDIDATES,
    UNDEFINED,
    between,
    candidates,
    explanation,
    name_cells,
    name_header,
    number,
    percent,
    split_mark,
    with_interval,
)


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


CALIBRATION = {
    "test_log_loss_before": "log loss before",
    "test_log_loss_after": "log loss after",
    "test_ece_before": "ECE before",
    "test_ece_after": "ECE after",
}
"""What a record says of test before and after calibration, and the title of its column."""

CALIBRATED = (
    "Calibration: before, probabilities are the softmax of the scores as the method gives them (nearly "
    "uniform where these are cosines); after, with the temperature and the epsilon that were chosen on "
    "valid, as far as they help there by more than chance. ECE, the expected calibration error: how far "
    "confidence and accuracy of the best individual are apart, over known photos in 15 bins of equal mass."
)
LISTED = (
    "List for 95 %: the mean length of the list that holds the right individual with 95 % certainty, and of "
    "how many known test photos it does."
)


def calibration_block(section: Section) -> Block | None:
    """Log loss and calibration error before and after, and candidate lists; None where no record has them."""
    rows = [row for row in section.rows if not row.unfit]
    if all(row.calibration.get("test_log_loss_after") is None for row in rows):
        return None
    return Block(
        f"Calibration and candidate lists, fold {section.fold}",
        (*name_header(section), *CALIBRATION.values(), CANDIDATES),
        tuple(
            (
                *name_cells(row, section),
                *(number(row.calibration.get(key)) for key in CALIBRATION),
                candidates(row.metrics),
            )
            for row in rows
        ),
        (CALIBRATED, LISTED),
    )


LOCATION = {
    "box_iou_mean": "box IoU",
    "mask_iou_mean": "mask IoU",
    "landmark_error_median": "landmark error",
    "landmark_error_p90": "error p90",
    "landmark_pixels_median": "median pixels",
    "fallback": "fell back",
}
"""What a record says of how animals were found, and the title of its column."""

NEW_INDIVIDUALS = {
    "baks": "BAKS",
    "baus": "BAUS",
    "dir_at_far_1": "DIR 1 %",
    "dir_at_far_5": "DIR 5 %",
    "dir_at_far_10": "DIR 10 %",
}
"""Metrics of *new* individuals, and the title of their column."""

DIAGNOSIS = {
    "test": "as tested",
    "annotated": "annotated",
    "without_background": "no background",
    "without_animal": "no animal",
    "chance": "chance",
    "mirrored": "mirrored",
}
"""What was done to the photos, and the title of its column."""

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
PAINTED = (
    "What the scores rest on: MAP@5 of test photos with everything but the animal painted over (no "
    "background), with the animal painted over (no animal: at chance, or the score rests on something else), "
    "and mirrored. Chance: what the answers without the animal get when they are given to other photos."
)
PARTLY = "Only annotated photos could be painted over; their MAP@5 as they are stands under annotated."


def section_blocks(section: Section) -> list[Block]:
    """What there is to show below a section."""
    found = (calibration_block(section), _new(section), _location(section), _diagnosis(section))
    return [block for block in found if block]


def _new(section: Section) -> Block | None:
    """Only where there are new individuals and a run that can say so."""
    rows = [row for row in section.rows if not isnan(row.metrics.get("dir_at_far_10", nan))]
    if not rows:
        return None
    return Block(
        f"New individuals, fold {section.fold}",
        (*name_header(section), "geometric mean", *NEW_INDIVIDUALS.values()),
        tuple(
            (
                *name_cells(row, section),
                with_interval(row.metrics, "baks_baus"),
                *(number(row.metrics.get(key)) for key in NEW_INDIVIDUALS),
            )
            for row in rows
        ),
        (BALANCED, DETECTED),
    )


def _location(section: Section) -> Block | None:
    rows = [row for row in section.rows if row.location]
    keys = [key for key in LOCATION if any(key in row.location for row in rows)]
    if not keys:
        return None
    notes = {"landmark_error_median": LANDMARKS, "fallback": FALLBACK}
    return Block(
        f"How well the animals were found, fold {section.fold}",
        (*name_header(section), *(LOCATION[key] for key in keys)),
        tuple((*name_cells(row, section), *(_found(row.location, key) for key in keys)) for row in rows),
        (MEASURED, *(note for key, note in notes.items() if key in keys)),
    )


def _found(said: dict[str, Any], key: str) -> str:
    value = said.get(key)
    if key == "fallback":
        return UNDEFINED if value is None else f"{value} of {said['photos']}"
    if key.startswith("landmark_error"):
        return percent(value)
    return number(value, 1 if key == "landmark_pixels_median" else 3)


def _diagnosis(section: Section) -> Block | None:
    found = [(row, row.diagnosis) for row in section.rows if row.diagnosis]
    if not found:
        return None
    keys = [key for key in DIAGNOSIS if any(said.get(key) is not None for _, said in found)]
    partly = "annotated" in keys and any(said.get("annotated") != said.get("test") for _, said in found)
    if "annotated" in keys and not partly:  # every photo was annotated: the same as tested
        keys.remove("annotated")
    return Block(
        f"What the scores rest on, fold {section.fold}",
        (*name_header(section), *(DIAGNOSIS[key] for key in keys)),
        tuple((*name_cells(row, section), *(number(said.get(key)) for key in keys)) for row, said in found),
        (PAINTED, PARTLY) if partly else (PAINTED,),
    )


def notes(board: Leaderboard) -> list[str]:
    """Paragraphs on what intervals and ranks mean, then on the small tables there are."""
    blocks = [summary_block(summary, table) for table in board.tables for summary in table.summaries]
    blocks += [
        block for table in board.tables for section in table.sections for block in section_blocks(section)
    ]
    return [explanation(), *dict.fromkeys(note for block in blocks for note in block.notes)]
