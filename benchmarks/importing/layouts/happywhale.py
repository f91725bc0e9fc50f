"""Whales and dolphins of 26 species, as Happywhale published them in 2022, whole or cropped."""

import posixpath
from collections.abc import Callable
from functools import cache

from whalebench.benchmarks.importing.layouts import annotated, published
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.sources import Source

COUNTS = {"photos": 51_033, "individuals": 15_587, "individuals with one photo": 9_258, "species": 26}
NEW = "new_individual"
SPELLINGS = {
    "globis": "short_finned_pilot_whale",
    "pilot_whale": "short_finned_pilot_whale",
    "kiler_whale": "killer_whale",
    "bottlenose_dolpin": "bottlenose_dolphin",
}
"""What the published species mean that are no names, as every leading team read them."""
BOXES = (
    "fullbody_train.csv",
    "train_fullbody.csv",
    "fullbody_train_charm.csv",
    "train2.csv",
    "train_backfin.csv",
    "train_backfins.csv",
    "backfin_train.csv",
)
"""Boxes found by networks: of whole bodies first, then of back fins."""
FINS = BOXES[-3:]
FIN = {"fin_upper_left": ("x0", "y0"), "fin_lower_right": ("x1", "y1")}
"""The landmarks that are the corners of a back fin's box, where the animal has a box, too."""


def read(source: Source, options: LayoutOptions) -> LaidOut:
    """The photos of train.csv with the boxes that lie beside it; raises WhalebenchError without it."""
    published.refuse_columns(options, "happywhale")
    labels = published.read_labels(
        source, ("image", "individual_id", "species"), options, new=NEW, spellings=SPELLINGS
    )
    photos, notes = published.photo_names(source, labels, "train_images", options)
    boxes, of_boxes = published.box_file(source, options, BOXES, "train_images")
    sizes = cache(lambda: annotated.sizes_of(source, photos))
    box = annotated.read_boxes(source, boxes, sizes) if boxes else {}
    if boxes and (without := len(set(labels.images) - set(box))):
        of_boxes.append(f"{boxes} has no box of {without:,} photos.")
    fins, of_fins = _fins(source, boxes, sizes)
    marks, of_sizes = annotated.fitting(published.merged(labels, box, fins), sizes())
    notes = [*published.count_notes(labels, COUNTS), *notes, *of_boxes, *of_fins, *of_sizes]
    return LaidOut(published.lay_out(labels, photos, marks), tuple(notes), "HappyWhale")


def _fins(
    source: Source, boxes: str, sizes: Callable[[], annotated.Sizes]
) -> tuple[published.Cells, list[str]]:
    """Two corners of each back fin as landmarks, where bodies have boxes and a table of fins lies beside."""
    name = next(filter(None, (published.find(source, file) for file in FINS)), "")
    if not name or not boxes or posixpath.basename(boxes) in FINS:
        return {}, []
    found = annotated.read_boxes(source, name, sizes)
    corners = {
        image: {
            column: value
            for landmark, (x, y) in FIN.items()
            for column, value in ((f"{landmark}_x", box[x]), (f"{landmark}_y", box[y]))
        }
        for image, box in found.items()
    }
    note = f"Back fins are those of {name}, by the landmarks {' and '.join(FIN)}: crop=part looks at them."
    return corners, [note]


LAYOUT = Layout(
    "happywhale",
    "Happywhale 2022: train.csv with image,species,individual_id, photos in train_images/, boxes",
    """\
train.csv
    image,species,individual_id
    00021adfb725ed.jpg,melon_headed_whale,cadddb1636b9
    000562241d384d.jpg,humpback_whale,1a71fbb72250
train_images/00021adfb725ed.jpg, train_images/000562241d384d.jpg
fullbody_train.csv or train_backfin.csv, where there is one
    image,bbox,conf
    00021adfb725ed.jpg,[[12 40 790 431]],[0.83]
""",
    read,
    takes_columns=True,
)
