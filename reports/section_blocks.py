"""The small tables below a section: calibration, *new*, how animals were found, what the scores rest on."""

from math import isnan, nan
from typing import Any

from whalebench.reports.blocks import Block
from whalebench.reports.board import Section
from whalebench.reports.calibration_block import calibration_block
from whalebench.reports.wording import UNDEFINED, name_cells, name_header, number, percent, with_interval

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
