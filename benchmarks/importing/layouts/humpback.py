"""Humpback whales by their flukes, as two competitions published them: the 2018 playground, and 2019."""

import posixpath
from collections.abc import Callable
from functools import cache

from whalebench.benchmarks.importing.layouts import annotated, published
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.published import Cells, Labels, find
from whalebench.benchmarks.importing.sources import Source

PLAYGROUND = {"photos": 9_850, "individuals": 4_250, "new photos": 810}
COUNTS_2019 = {
    "photos": 25_361,
    "individuals": 5_004,
    "individuals with one photo": 2_073,
    "new photos": 9_664,
}
NEW = "new_whale"
RENAMED = "train.v2.csv"
"""Labels in which groups of names are one, and some whales without a name have one."""
POINTS = {"left_tip": "1", "notch": "3", "right_tip": "5", "bottom": "8"}
"""The four of the ten points of keypoints.csv that the published systems go by."""
LANDMARKS = {"left_tip": "l", "notch": "n", "right_tip": "r", "bottom": "d"}
"""How landmark files end the names of their columns."""
FOLDS = tuple(f"landmark.train.{fold}.csv" for fold in range(5))
"""Found by five networks. A sixth is not read: by a slip it puts boxes in the upper left corner."""


def read(source: Source, options: LayoutOptions) -> LaidOut:
    """The photos of train.csv with the annotations that lie beside it; raises WhalebenchError without it."""
    published.refuse_columns(options, "humpback")
    labels = published.read_labels(
        source, ("Image", "Id"), options, new=NEW, species=options.species or "humpback_whale"
    )
    photos, notes = published.photo_names(source, labels, "train", options)
    sizes = cache(lambda: annotated.sizes_of(source, photos))
    boxes, of_boxes = published.box_file(source, options, ("bounding_boxes.csv", *FOLDS), "train")
    box = annotated.read_boxes(source, boxes, sizes) if boxes else {}
    points, of_points = ({}, []) if published.is_cropped(options, "train") else _points(source, sizes)
    marks, of_sizes = annotated.fitting(published.merged(labels, box, points), sizes())
    groups, of_groups = _duplicates(source, labels)
    digits = len(posixpath.splitext(labels.images[0])[0])
    counts = PLAYGROUND if digits == 8 else COUNTS_2019  # whose names have nine
    return LaidOut(
        published.lay_out(labels, photos, published.merged(labels, marks, groups)),
        (
            *published.count_notes(labels, counts),
            *(*notes, *of_boxes, *of_points, *of_sizes),
            *(*of_groups, *_leaks(source), *_other_names(source, labels)),
        ),
        "HumpbackWhaleID",  # the two sets share photos
    )


def _points(source: Source, sizes: Callable[[], annotated.Sizes]) -> tuple[Cells, list[str]]:
    """The landmarks: those that people added (which mend a few), else their first, else predicted ones."""
    points: Cells = {}
    notes = []
    if fold := next(filter(None, (find(source, file) for file in FOLDS)), ""):
        columns = {name: (f"x{end}", f"y{end}") for name, end in LANDMARKS.items()}
        points |= annotated.read_points(source, fold, columns, sizes())
        notes.append(
            f"Landmarks where no one set any are those of {fold}, of the {len(points):,} photos at hand."
        )
    if keypoints := find(source, "keypoints.csv"):
        columns = {name: (f"{number}_x", f"{number}_y") for name, number in POINTS.items()}
        points |= annotated.read_points(source, keypoints, columns)
        notes.append(f"Of the ten points of {keypoints} four are read: {', '.join(POINTS)}.")
    if added := find(source, "annotations.addition.json"):
        for image, marks in annotated.read_marks(source, added).items():
            if len(marks) == len(POINTS):  # in the same order
                cells = [annotated.point(name, *mark) for name, mark in zip(POINTS, marks, strict=True)]
                points[image] = {column: value for each in cells for column, value in each.items()}
    return points, notes


def _duplicates(source: Source, labels: Labels) -> tuple[Cells, list[str]]:
    """The group of each photo whose whale has other names, too, and a note of what becomes of them.

    The names stay as published. As encounters, groups would hide that nobody says when photos were taken.
    """
    name = find(source, "duplicate_ids.csv")
    if not name:
        return {}, []
    rows = published.read_rows(source, name, ("Id", "SubId")).rows
    group_of = {identity: row["Id"] for row in rows for identity in row["SubId"].split()}
    shown = zip(labels.images, labels.identities, strict=True)
    groups = {image: {"duplicates": group_of[who]} for image, who in shown if who in group_of}
    note = (
        f"{name} says of {len(rows)} groups of names ({len(group_of)} names, {len(groups)} photos) that each "
        f"is one whale. The names stay, as published, and no split parts the photos of a group, so that the "
        f"step `duplicates` gains on the competition's own test alone, by `submit`; `--aliases {name}` makes "
        f"each one whale."
    )
    return groups, [note]


def _other_names(source: Source, labels: Labels) -> list[str]:
    """A note on the names that the 3rd of 2019 gave, where they lie beside those of the competition."""
    name = find(source, RENAMED)
    if not name or name == labels.name:
        return []
    named = {row["Image"]: row["Id"] for row in published.read_rows(source, name, ("Image", "Id")).rows}
    before = zip(labels.images, labels.identities, strict=True)
    changed = sum(named.get(image, who or NEW) != (who or NEW) for image, who in before)
    return [f"{name} names {changed:,} photos otherwise: --column identity={RENAMED} takes its names."]


def _leaks(source: Source) -> list[str]:
    name = find(source, "leaks.csv")
    if not name:
        return []
    rows = published.read_rows(source, name, ("Image", "Id")).rows
    return [f"{name} names the whales of {len(rows)} test photos, which leaked: they are not read."]


LAYOUT = Layout(
    "humpback",
    "humpback whales 2018 (playground) and 2019: train.csv with Image,Id, photos in train/, boxes, points",
    """\
train.csv
    Image,Id
    0000e88ab.jpg,w_f48451c
    0001f9222.jpg,w_c3d896a
    00029d126.jpg,new_whale
train/0000e88ab.jpg, train/0001f9222.jpg, train/00029d126.jpg
bounding_boxes.csv, where there is one
    Image,x0,y0,x1,y1
    0000e88ab.jpg,223,149,860,438
keypoints.csv, where there is one: filename,1_x,1_y,...,9_x,9_y,0_x,0_y
landmark.train.0.csv, where there is one: filename,x,y,w,h,xl,yl,xn,yn,xr,yr,xd,yd
duplicate_ids.csv, where there is one: Id,SubId
""",
    read,
    takes_columns=True,
)
