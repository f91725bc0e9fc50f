"""What MegaDetector writes: boxes of animals, whose names are those of the folders that the photos lie in.

A dictionary with "images" has boxes [x, y, width, height] in shares of the upright photo
(https://lila.science/megadetector-output-format); a list of photos, as newer releases write it, has corners
[x0, y0, x1, y1] in pixels (https://microsoft.github.io/MegaDetector/output_format/).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.importing.layouts.layout import LaidOut, LayoutOptions
from whalebench.benchmarks.importing.layouts.rows import (
    Box,
    PhotoNames,
    box_cells,
    boxes_from_shares,
    four_numbers,
    is_plain,
    name_images,
    table_of,
)
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import Row

ANIMAL = "animal"
"""The category that is read; people and vehicles are not."""
THRESHOLD, THRESHOLD_OF_4 = 0.2, 0.8
"""The least confidence that counts where the file recommends none: of version 5 and later ones, and of 4."""


def is_detections(content: Any) -> bool:
    """Whether a JSON document is MegaDetector's: photos with a file each, and detections or a failure."""
    images = content.get("images") if isinstance(content, dict) else content
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "file" in first and bool({"detections", "failure"} & set(first))


def read(source: Source, name: str, content: Any, options: LayoutOptions) -> LaidOut:
    """One row a photo, with the box of its only animal, if any; a photo of several animals is left out.

    Raises WhalebenchError for photos in no folder, and for a file that is not as MegaDetector writes it.
    """
    if options.columns:
        raise WhalebenchError(
            f"{name} is MegaDetector's and has no keys to choose columns from; leave --column out."
        )
    threshold = threshold_of(content)
    photos = PhotoNames(source.names())
    counts: Counter[str] = Counter()
    rows, boxes, places = [], [], []
    for place, photo in _photos(name, content):
        found = _animals(photo, content, threshold, place, counts)
        path = photos.find(photo["file"], str(PurePosixPath(name).parent))
        identity = PurePosixPath(path).parent.name
        why = "failed" if photo.get("failure") else "several" if len(found) > 1 else ""
        why = why or ("" if identity else "nobody")
        counts[why or ("boxes" if found else "empty")] += 1
        if not why:
            rows.append({"path": path, "identity": identity, "species": options.species})
            boxes.append(found[0] if found else None)
            places.append(place)
    if not rows:
        raise WhalebenchError(
            f"{name} in {source.place} is MegaDetector's and names no individuals, so each must have its "
            f"folder of photos; put them there, or import a table."
        )
    is_shares = isinstance(content, dict)
    rows = [row | cells for row, cells in zip(rows, _cells(source, rows, boxes, is_shares), strict=True)]
    name_images(rows, [str(number) for number in range(1, len(rows) + 1)])
    return LaidOut(table_of(rows, places), tuple(_notes(counts, threshold)))


def threshold_of(content: Any) -> float:
    """The confidence that the file recommends, or else the usual one of the detector that it names."""
    info = content.get("info") if isinstance(content, dict) else None
    if not isinstance(info, dict):
        return THRESHOLD
    facts = info.get("detector_metadata")
    said = facts.get("typical_detection_threshold") if isinstance(facts, dict) else None
    if is_plain(said) and 0 <= said <= 1:
        return float(said)
    # Older files name no detector, and then it was version 4.
    return THRESHOLD_OF_4 if re.search(r"v4|^$", str(info.get("detector") or "").casefold()) else THRESHOLD


def _photos(name: str, content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, photo in enumerate(content["images"] if isinstance(content, dict) else content, 1):
        place = f"{name}, photo {number}"
        if not isinstance(photo, dict) or not isinstance(photo.get("file"), str) or not photo["file"]:
            raise WhalebenchError(f"{place} has no file; give the name of the photo.")
        yield place, photo


def _animals(
    photo: Mapping[str, Any], content: Any, threshold: float, place: str, counts: Counter[str]
) -> list[Box]:
    """The boxes of animals from the threshold on, left, top, width and height; the others are counted."""
    categories = content.get("detection_categories") if isinstance(content, dict) else None
    names = categories if isinstance(categories, dict) else {"1": ANIMAL}
    found = []
    for detection in photo.get("detections") or ():
        category = str(detection.get("category")) if isinstance(detection, dict) else ""
        confidence = detection.get("conf", detection.get("confidence")) if category else None
        if not is_plain(confidence):
            raise WhalebenchError(
                f"{place} has the detection {one_line(repr(detection), 60)} without a conf; write it again."
            )
        box = four_numbers(detection.get("bbox"), place)
        if names.get(category, category) != ANIMAL or box is None:
            counts["others"] += 1
        elif confidence < threshold:
            counts["below"] += 1
        else:
            found.append(box if isinstance(content, dict) else _from_corners(box))
    return found


def _from_corners(corners: Box) -> Box:
    left, top, right, bottom = corners
    return left, top, right - left, bottom - top


def _cells(source: Source, rows: list[Row], boxes: list[Box | None], is_shares: bool) -> list[Row]:
    if not is_shares:
        return [box_cells(box) if box else {} for box in boxes]
    with_box = [(row["path"], box) for row, box in zip(rows, boxes, strict=True) if box]
    cells = iter(boxes_from_shares(source, with_box))
    return [next(cells) if box else {} for box in boxes]


def _notes(counts: Counter[str], threshold: float) -> Iterator[str]:
    yield "Individuals are named after the folders that their photos lie in, as MegaDetector names none."
    for what, sentence in {
        "below": f"Detections below {threshold:g}, which are left out: {{}}.",
        "others": "Detections of no animal, which are left out: {}.",
        "empty": "Photos without a detected animal, which have no box: {}.",
        "several": "Photos of several animals, left out as their folder names one of them only: {}.",
        "failed": "Photos that MegaDetector could not read, which are left out: {}.",
        "nobody": "Photos in no folder, which are left out: {}.",
    }.items():
        if counts[what]:
            yield sentence.format(f"{counts[what]:,}")
