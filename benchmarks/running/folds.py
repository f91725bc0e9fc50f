"""From a benchmark and a fold to what a method may see, and, once it has answered, to the answers.

A method sees photos under fresh ids, digests and rows, in a view that leads to no file. The answers to test
are read when it has given its scores: before that they are nowhere in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.catalog import BOX, landmark_names, regions_of
from whalebench.benchmarks.core.store import PhotoStore, Rows, StoreView
from whalebench.benchmarks.core.usage import PartUsage, UsageCounter
from whalebench.benchmarks.registry import Benchmark
from whalebench.splits.inner import propose_inner_folds
from whalebench.splits.table import GALLERY

if TYPE_CHECKING:  # photos are batches of tensors, and answers do without torch
    from whalebench.benchmarks.core.photos import Annotations, LabelledPhotos, Photos

DISJOINT = (
    "Test shows individuals that train does not, so embeddings are compared with those of a gallery of them; "
    "temperature and thresholds are chosen on valid, whose individuals train shows."
)
"""What is to be known of every run on a disjoint split."""
SCORED = ("valid", "test")
"""The parts of a fold that are scored, and have answers."""
NEW = "new"
"""The truth of a photo whose individual is not known in train."""


@dataclass(frozen=True)
class Answers:
    """What the photos of one part really show: kept by the harness, never handed to a method."""

    images: tuple[str, ...]
    identities: tuple[str, ...]
    """As in the catalog, "" where it has none."""
    truth: tuple[str, ...]
    """The identity where it is known in train, else NEW."""
    clusters: tuple[str, ...]
    """What is resampled as one: the individual, or the encounter group of a photo that names none."""
    traits: pd.DataFrame | None = field(default=None, compare=False)
    """A row a photo of `TRAITS`, by which scores are broken down."""
    groups: tuple[str, ...] = ()
    """The encounter of each, or what shows the same pixels; none where nobody says."""


@dataclass(frozen=True)
class Views:
    """The three parts of one fold as a method sees them; nothing here tells who is on a test photo."""

    train: LabelledPhotos
    valid: LabelledPhotos
    test: Photos
    oracle: bool = False
    """Whether the annotations of valid and test are shown where they are scored."""
    viewpoints: bool = False
    """Whether all photos have their viewpoints."""
    usage: UsageCounter = field(default_factory=UsageCounter)
    """What the photos of train, valid and test tell when they are read."""
    gallery: Photos | None = None
    """What test is compared with, bare as test is, where that is not the train part: in a disjoint split."""
    inner_folds: Callable[..., Mapping[str, int]] = field(default=lambda *_: {}, repr=False)
    """Of so many inner folds that in which each photo of train is held back, by its id; -1 for none.

    Photos whose ids are given behind the number are left out."""

    def queries(self) -> dict[str, Photos]:
        """The photos of valid and test as they are scored, those of train and gallery as they are embedded.

        Of train the known ones. They are bare, but for annotations in an oracle's run and viewpoints where
        they were asked for.
        """
        parts = {"train": self.train.known(), "valid": self.valid, "test": self.test}
        parts |= {GALLERY: self.gallery} if self.gallery is not None else {}
        return {part: photos.unlabelled() if self.oracle else photos.bare() for part, photos in parts.items()}


@dataclass(frozen=True)
class OpenFold:
    """What the harness knows of a fold once its answers are opened; a method never meets it."""

    answers: dict[str, Answers]
    """Of valid and test."""
    annotated: dict[str, Photos]
    """The photos of valid and test with everything that is annotated on them, without labels."""
    digests: dict[str, str]
    """The content digest that stands behind each digest a method sees."""
    candidates: tuple[str, ...]
    """Who may be named: the individuals of train, then those of the gallery of a disjoint split."""
    known_viewpoints: tuple[str, ...]
    """Of the photos that test is compared with: those of such a gallery, else the known ones of train."""
    known_images: tuple[str, ...]
    """The ids of the same photos."""
    gallery: tuple[str, ...] = ()
    """The individual of each photo of such a gallery."""
    train_images: tuple[str, ...] = ()
    """The ids of the photos of train."""

    def lineage(self, shown: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """By part, sorted, the content digests behind those that a method saw."""
        return {part: tuple(self.digests[each] for each in digests) for part, digests in shown.items()}

    def counts(self, views: Views) -> dict[str, int]:
        """Photos and individuals by part, for the record."""
        of_gallery = {"gallery_photos": len(self.gallery), "gallery_identities": len(set(self.gallery))}
        return (of_gallery if self.gallery else {}) | {
            "train_photos": len(views.train),
            "train_known_photos": len(views.train.known()),
            "identities": len(views.train.identities),
            "valid_photos": len(views.valid),
            "valid_new_photos": self.answers["valid"].truth.count(NEW),
            "test_photos": len(views.test),
            "test_new_photos": self.answers["test"].truth.count(NEW),
        }

    def warnings(self) -> list[str]:
        """What a reader of the scores should know of this fold."""
        if self.gallery:
            return [DISJOINT]
        if NEW in self.answers["test"].truth and NEW not in self.answers["valid"].truth:
            return [
                "Valid has no new photo to choose a threshold by, so new is no candidate and every new test "
                "photo scores 0; a split made with --singles new has some."
            ]
        return []


@dataclass(frozen=True)
class _Fold:
    """The rows of one fold's photos: train, then valid, then test, and the gallery of a disjoint split."""

    table: pd.DataFrame
    """Those of the catalog, in this order."""
    rows: Rows
    """Their places in the catalog."""
    places: dict[str, Rows]
    """By part, its places in `table`."""
    identities: tuple[str, ...]
    species: tuple[str, ...]
    viewpoints: tuple[str, ...]
    """Those known in train, sorted."""

    @classmethod
    def of(cls, benchmark: Benchmark, fold: int) -> _Fold:
        row_of = columns_of(benchmark.catalog.table["image"])
        parts = {
            part: [row_of[image] for image in images]
            for part, images in benchmark.split.parts(fold)._asdict().items()
        }
        parts[GALLERY] = [row_of[image] for image in benchmark.split.gallery(fold)]
        rows = np.array([row for part in parts.values() for row in part], np.int64)
        ends = np.cumsum([0, *map(len, parts.values())])
        places = {part: np.arange(ends[n], ends[n + 1]) for n, part in enumerate(parts)}
        table = benchmark.catalog.table.iloc[rows].reset_index(drop=True)
        known = table.iloc[places["train"]]
        columns = ("identity", "species", "viewpoint")
        return cls(table, rows, places, *(tuple(sorted(set(known[of]) - {""})) for of in columns))

    @property
    def hidden(self) -> Rows:
        """The places of the photos of which nothing is told: those of test and of its gallery."""
        return np.concatenate([self.places["test"], self.places[GALLERY]])

    @cached_property
    def shown_digests(self) -> dict[str, str]:
        """What stands for each content digest: a number in their order, so that equal photos stay equal."""
        digests = sorted(set(self.table["content_digest"]))
        return {digest: f"photo-{place:07d}" for place, digest in enumerate(digests)}

    def digests_of(self, table: pd.DataFrame) -> tuple[str, ...]:
        """What stands for each photo of a table in no fold: as here where the file is here, else anew."""
        files, there = (
            list(zip(each["file_digest"], regions_of(each), strict=True)) for each in (table, self.table)
        )
        shown = {file: f"{NEW}-{place:07d}" for place, file in enumerate(dict.fromkeys(files))}
        known = (self.shown_digests[digest] for digest in self.table["content_digest"])
        shown |= zip(there, known, strict=True)
        return tuple(shown[file] for file in files)

    def photos(
        self,
        part: str,
        store: StoreView,
        annotations: Annotations,
        usage: PartUsage | None = None,
        *,
        viewpoints: bool = False,
    ) -> LabelledPhotos:
        """The photos of one part, labelled and annotated, under fresh ids; with their viewpoints if asked."""
        from whalebench.benchmarks.core.photos import LabelledPhotos

        places = self.places[part]
        table, shown = self.table.iloc[places], self.shown_digests
        return LabelledPhotos(
            images=tuple(f"{part}-{place + 1:05d}" for place in range(len(places))),
            digests=tuple(shown[digest] for digest in table["content_digest"]),
            identities=self.identities,
            store=store,
            rows=places,
            shapes=np.array(table[["height", "width"]], np.int64),
            labels=_labels(table["identity"], self.identities),
            annotations=annotations,
            species=_labels(table["species"], self.species) if self.species else None,
            viewpoints=_labels(table["viewpoint"], self.viewpoints) if viewpoints else None,
            usage=usage,
        )


def fold_views(
    benchmark: Benchmark,
    fold: int,
    *,
    oracle: bool = False,
    viewpoints: bool = False,
    reopen: Callable[[], Benchmark] | None = None,
) -> Views:
    """The parts of a fold; raises WhalebenchError for an unknown fold or one with one individual only.

    An oracle is shown the boxes, landmarks and masks of test photos; nobody else can reach them. `viewpoints`
    are handed out of all parts or of none, and count as read. Where the benchmark is not to be kept in memory
    `reopen` reads it again, for photos of a size not decoded yet.
    """
    content = _Fold.of(benchmark, fold)
    if len(content.identities) < 2:
        raise WhalebenchError(
            f"fold {fold} of {benchmark.name} has {len(content.identities)} individual(s) in train: "
            f"there is nothing to tell apart; import photos of at least two individuals."
        )
    again = reopen or (lambda: benchmark)
    annotations, test_rows = _annotations(content.table), content.rows[content.hidden]
    if not oracle:
        annotations = _hidden(annotations, content.hidden)

    def photo_store() -> PhotoStore:
        store = again().store
        return store if oracle else store.without_masks_of(test_rows)

    store = StoreView.of(content.rows, photo_store)
    usage = UsageCounter()

    def shown(part: str) -> LabelledPhotos:
        return content.photos(part, store, annotations, usage.of(_asked_for(part)), viewpoints=viewpoints)

    train, valid = shown("train"), shown("valid")
    asked = shown("test"), shown(GALLERY)
    test, gallery = (photos.unlabelled() if oracle else photos.bare() for photos in asked)
    if viewpoints:
        for part, places in content.places.items():
            has_one = content.table["viewpoint"].iloc[places] != ""
            usage.handed("viewpoint", _asked_for(part), places[has_one])

    def inner_folds(count: int, without: Collection[str] = ()) -> Mapping[str, int]:
        made = again()
        image_of = dict(zip(train.images, made.split.parts(fold).train, strict=True))
        held = {image_of[image] for image in without}
        inner = propose_inner_folds(made.split, made.catalog, fold, count, held).inner
        return {shown: inner[image] for shown, image in image_of.items() if image not in held}

    of_disjoint = gallery if len(gallery) else None
    return Views(train, valid, test, oracle, viewpoints, usage, of_disjoint, inner_folds)


def _asked_for(part: str) -> str:
    """The part for whose sake photos are looked at: those of a gallery for that of test."""
    return "test" if part == GALLERY else part


def show_new_photos(
    benchmark: Benchmark,
    fold: int,
    table: pd.DataFrame,
    store: PhotoStore,
    *,
    oracle: bool = False,
    viewpoints: bool = False,
) -> Photos:
    """Photos of a complete table that are in no fold, shown as those of test are to what learned on the fold.

    `store` has the rows of the table. Individuals, landmarks and the places of viewpoints are the fold's, and
    so is the digest of a file that the fold has, too: who must not answer it knows it again.
    """
    content, rows = _Fold.of(benchmark, fold), np.arange(len(table))
    points = (f"{name}_{axis}" for name in landmark_names(content.table.columns) for axis in "xy")
    kept = [name for name in table.columns if name[-2:] not in ("_x", "_y")]
    table = table[kept].assign(**{point: table.get(point, nan) for point in points})
    new = replace(content, table=table, rows=rows, places={NEW: rows})
    view = StoreView.of(rows, lambda: store if oracle else store.without_masks_of(rows))
    photos = new.photos(NEW, view, _annotations(table), viewpoints=viewpoints)
    photos = replace(photos, digests=content.digests_of(table))
    return photos.unlabelled() if oracle else photos.bare()


def contents(benchmark: Benchmark, fold: int) -> dict[str, str]:
    """The content digest that stands behind each digest that a method sees of a fold's photos."""
    return {shown: digest for digest, shown in _Fold.of(benchmark, fold).shown_digests.items()}


def open_fold(benchmark: Benchmark, fold: int) -> OpenFold:
    """The answers to valid and test; to be asked for when a method has answered, and not before."""
    content = _Fold.of(benchmark, fold)
    groups = dict(zip(benchmark.split.table["image"], benchmark.split.table["group"], strict=True))
    annotations = _annotations(content.table)
    store = StoreView.of(content.rows, lambda: benchmark.store)
    parts = {part: content.table.iloc[places] for part, places in content.places.items()}
    gallery = tuple(parts[GALLERY]["identity"])
    compared = parts[GALLERY if gallery else "train"]
    compared = compared[compared["identity"] != ""]
    known = dict.fromkeys(SCORED, (parts["train"], content.identities))
    known |= {"test": (parts[GALLERY], tuple(sorted(set(gallery))))} if gallery else {}
    return OpenFold(
        {part: answers_of(parts[part], *known[part], groups) for part in SCORED},
        {part: content.photos(part, store, annotations).unlabelled() for part in SCORED},
        {shown: digest for digest, shown in content.shown_digests.items()},
        tuple(dict.fromkeys((*content.identities, *known["test"][1]))),
        tuple(compared["viewpoint"]),
        tuple(compared["image"]),
        gallery,
        tuple(parts["train"]["image"]),
    )


def answers_of(
    part: pd.DataFrame, train: pd.DataFrame, identities: Sequence[str], groups: Mapping[str, str]
) -> Answers:
    """The answers to some rows of a catalog, given those of train, its individuals and each image's group."""
    known = set(identities)
    truth = tuple(identity if identity in known else NEW for identity in part["identity"])
    clusters = tuple(
        f"individual {identity}" if identity else f"group {groups[image]}"
        for image, identity in zip(part["image"], part["identity"], strict=True)
    )
    together = tuple(groups[image] for image in part["image"])
    return Answers(
        tuple(part["image"]), tuple(part["identity"]), truth, clusters, _traits(part, train), together
    )


def _traits(part: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """The `TRAITS` of some rows of a catalog, a row each; NaN what cannot be told."""
    photos = Counter(train["identity"][train["identity"] != ""])
    encounters = set(train["encounter"])
    seen = [float(name in encounters) if name else nan for name in part["encounter"]]
    return pd.DataFrame(
        {
            "train_photos": np.array([photos[name] for name in part["identity"]], np.int64),
            "viewpoint": list(part["viewpoint"]),
            "species": list(part["species"]),
            "encounter_seen": np.array(seen, np.float64),
            "side_seen": _sides_seen(part, train),
        }
    )


def _sides_seen(part: pd.DataFrame, train: pd.DataFrame) -> NDArray[np.float64]:
    """Whether train shows the individual of each photo from the photo's viewpoint: 1, 0, or NaN.

    NaN for *new* photos, those without a viewpoint, and where one of train without a viewpoint may show it.
    """
    sides = train.groupby("identity")["viewpoint"].agg(set).to_dict()

    def seen(identity: str, viewpoint: str) -> float:
        shown = sides.get(identity, set()) if identity else set()
        if not viewpoint or not shown or (viewpoint not in shown and "" in shown):
            return nan
        return float(viewpoint in shown)

    pairs = zip(part["identity"], part["viewpoint"], strict=True)
    return np.array([seen(*pair) for pair in pairs], np.float64)


def answers_shown(photos: LabelledPhotos) -> Answers:
    """The answers that the labels of photos give away: what there is to choose by."""
    names = (*photos.identities, NEW)  # the last for UNKNOWN, which is -1
    truth = tuple(names[label] for label in photos.labels)
    return Answers(photos.images, truth, truth, truth)


def _labels(values: pd.Series[str], names: tuple[str, ...]) -> NDArray[np.int64]:
    """Each value's place among names, UNKNOWN where it is none of them."""
    from whalebench.benchmarks.core.photos import UNKNOWN

    place_of = columns_of(names)
    return np.array([place_of.get(value, UNKNOWN) for value in values], np.int64)


def _annotations(table: pd.DataFrame) -> Annotations:
    """Of all rows, as shares of each photo's width and height."""
    from whalebench.benchmarks.core.photos import Annotations

    width, height = (table[side].to_numpy(np.float64)[:, None] for side in ("width", "height"))
    boxes = table[list(BOX)].to_numpy(np.float64) / np.hstack([width, height, width, height])
    names = landmark_names(table.columns)
    points = np.full((len(table), len(names), 2), np.nan)
    for place, name in enumerate(names):
        points[:, place] = table[[f"{name}_x", f"{name}_y"]].to_numpy(np.float64) / np.hstack([width, height])
    has_mask = (table["mask"] != "").to_numpy().copy()
    return Annotations(boxes.astype(np.float32), points.astype(np.float32), names, has_mask)


def _hidden(annotations: Annotations, rows: Rows) -> Annotations:
    """A copy with nothing annotated at some rows: what is shared with train must not tell about test."""
    boxes, points = annotations.boxes.copy(), annotations.landmarks.copy()
    has_mask = annotations.has_mask.copy()
    boxes[rows], points[rows], has_mask[rows] = np.nan, np.nan, False
    return replace(annotations, boxes=boxes, landmarks=points, has_mask=has_mask)
