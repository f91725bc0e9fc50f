"""What each party of a run may see of photos, in batches and by fold; and what valid and test really show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import PARTS, build_catalog
from whalebench.benchmarks.core.photos import UNKNOWN, Annotations, LabelledPhotos, Photos
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.registry import Benchmark
from whalebench.benchmarks.running.folds import NEW, answers_shown, fold_views, open_fold
from whalebench.splits.split import Split
from whalebench.splits.table import make_table, table_digest

COUNT = 7
SIZE = (20, 40)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Seven photos of one grey each, the grey being ten times the row; rows in reverse; every third *new*."""
    for row in range(COUNT):
        Image.new("RGB", (80, 40), (row * 10,) * 3).save(tmp_path / f"{row}.png")
    Image.new("L", (80, 40), 255).save(tmp_path / "mask.png")
    masks = tuple(str(tmp_path / "mask.png") if row == 2 else "" for row in range(COUNT))
    paths = tuple(str(tmp_path / f"{row}.png") for row in range(COUNT))
    store = PhotoStore(tmp_path / "cache", paths, tuple(map(str, range(COUNT))), masks)
    boxes = np.full((COUNT, 4), np.nan, np.float32)
    boxes[2] = (0.25, 0.5, 0.75, 1.0)
    landmarks = np.full((COUNT, 2, 2), np.nan, np.float32)
    landmarks[2, 1] = (0.5, 0.25)
    rows = np.arange(COUNT)[::-1].copy()
    has_mask = np.array([path != "" for path in masks])
    return Photos(
        images=tuple(f"p{row}" for row in rows),
        digests=tuple(f"d{row}" for row in rows),
        identities=("ann", "bob"),
        store=store,
        rows=rows,
        shapes=np.tile(np.array([40, 80]), (COUNT, 1)),
        labels=np.array([UNKNOWN if row % 3 == 0 else row % 2 for row in rows], np.int64),
        annotations=Annotations(boxes, landmarks, ("left", "right"), has_mask),
    )


def greys(pixels: torch.Tensor) -> list[int]:
    return [round(float(value) * 25.5) for value in pixels.mean(dim=(1, 2, 3))]


def test_select_keeps_order_and_everything_together(photos: Photos) -> None:
    chosen = photos.select([3, 0])
    assert chosen.images == ("p3", "p6")
    assert chosen.digests == ("d3", "d6")
    assert chosen.rows.tolist() == [3, 6]
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [UNKNOWN, UNKNOWN]
    assert greys(chosen.batch([0, 1], SIZE).pixels) == [3, 6]


def test_known_leaves_out_the_new(photos: Photos) -> None:
    known = photos.known()
    assert known.images == ("p5", "p4", "p2", "p1")
    assert known.labels.tolist() == [1, 0, 0, 1]
    assert isinstance(known.select([0]), LabelledPhotos)
    assert not isinstance(known.unlabelled(), LabelledPhotos)


def test_bare_photos_hide_labels_and_annotations(photos: Photos) -> None:
    bare = photos.bare()
    assert (bare.labels, bare.annotations) == (None, None)
    assert replace(photos, species=np.arange(len(photos))).bare().species is None
    batch = bare.batch([0, 1], SIZE)
    assert (batch.labels, batch.boxes, batch.landmarks, batch.masks) == (None, None, None, None)
    with pytest.raises(ValueError, match="hidden"):
        bare.known()
    assert isinstance(photos.known().labelled().select([0]), LabelledPhotos)
    assert not isinstance(photos.known().bare(), LabelledPhotos)


def test_labelled_photos_hide_annotations_only(photos: Photos) -> None:
    labelled = photos.labelled()
    assert labelled.annotations is None
    assert labelled.labels is not None
    batch = labelled.batch([4], SIZE)
    assert batch.labels is not None
    assert batch.labels.tolist() == [0]
    assert batch.boxes is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_cover_all_photos_in_order(photos: Photos, batch_size: int) -> None:
    batches = list(photos.batches(SIZE, batch_size))
    assert [grey for batch in batches for grey in greys(batch.pixels)] == [6, 5, 4, 3, 2, 1, 0]
    assert all(batch.labels is None and batch.boxes is None for batch in batches)
    assert max(len(batch.pixels) for batch in batches) == min(batch_size, COUNT)


def test_pixels_are_float_between_0_and_1(photos: Photos) -> None:
    pixels = photos.batch([0], SIZE).pixels
    assert pixels.shape == (1, 3, *SIZE)
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels, torch.full_like(pixels, 60 / 255))


def test_annotations_are_in_the_frame_of_the_batch(photos: Photos) -> None:
    batch = photos.batch([photos.images.index("p2"), 0], SIZE)
    assert batch.boxes is not None
    assert batch.landmarks is not None
    assert batch.masks is not None
    assert batch.boxes[0].tolist() == [10, 10, 30, 20]
    assert batch.landmarks[0, 1].tolist() == [20, 5]
    assert batch.masks.shape == (2, 1, *SIZE)
    assert batch.masks.amin(dim=(1, 2, 3)).tolist() == [1, 0]
    assert bool(batch.boxes[1].isnan().all())
    assert bool(batch.landmarks[1].isnan().all())


def test_a_batch_moves_whole(photos: Photos) -> None:
    with_species = replace(photos, species=np.arange(len(photos)))
    batch = with_species.batch([4], SIZE).to(torch.device("meta"))
    tensors = [value for name, value in vars(batch).items() if name != "reader"]
    assert all(value.device.type == "meta" for value in tensors)
    moved = photos.bare().batch([4], SIZE).to(torch.device("meta"))
    assert moved.labels is None
    assert moved.pixels.device.type == "meta"


# image: identity, encounter group, and the part of fold 0 it is in
PHOTOS = {
    "a1": ("ann", "e1", "train"),
    "a2": ("ann", "e2", "valid"),
    "a3": ("ann", "e3", "test"),
    "b1": ("bob", "e4", "train"),
    "b2": ("bob", "e5", "test"),
    "c1": ("cas", "e6", "valid"),  # never in train: new wherever it is met
    "c2": ("cas", "e7", "test"),
    "n1": ("", "e8", "train"),
    "n2": ("", "e9", "valid"),
    "n3": ("", "e10", "test"),
}


def benchmark(tmp_path: Path, photos: dict[str, tuple[str, str, str]] = PHOTOS) -> Benchmark:
    count = len(photos)
    table = pd.DataFrame(
        {
            "image": list(photos),
            "path": [f"{image}.png" for image in photos],
            "identity": [identity for identity, _, _ in photos.values()],
            "width": [200] * count,
            "height": [100] * count,
            "x0": [20.0] * count,
            "y0": [10.0] * count,
            "x1": [120.0] * count,
            "y1": [60.0] * count,
            "tip_x": np.arange(count) * 10.0,
            "tip_y": [50.0] * count,
            "mask": [f"{image}-mask.png" for image in photos],
            "content_digest": [f"digest of {image}" for image in photos],
        }
    )
    catalog = build_catalog(table, "hand-made")
    rows = make_table(
        {
            image: (0 if part == "test" else -1, group, 0 if part == "valid" else -1)
            for image, (_, group, part) in photos.items()
        }
    )
    split = Split(rows, "published", {}, catalog.digest, table_digest(rows), {})
    paths = tuple(catalog.table["path"])
    return Benchmark("hand-made", catalog, split, PhotoStore(tmp_path, paths, paths, ("",) * count))


def test_the_parts_of_a_fold(tmp_path: Path) -> None:
    views = fold_views(benchmark(tmp_path), 0)
    opened = open_fold(benchmark(tmp_path), 0)
    assert opened.answers["valid"].images == ("a2", "c1", "n2")
    assert opened.answers["test"].images == ("a3", "b2", "c2", "n3")
    assert views.train.identities == views.test.identities == ("ann", "bob")
    of = {part: getattr(views, part).digests for part in ("train", "valid", "test")}
    assert opened.lineage(of) == {
        "train": tuple(f"digest of {image}" for image in ("a1", "b1", "n1")),
        "valid": tuple(f"digest of {image}" for image in ("a2", "c1", "n2")),
        "test": tuple(f"digest of {image}" for image in ("a3", "b2", "c2", "n3")),
    }


def test_a_photo_is_called_by_its_part_and_place_and_nothing_else(tmp_path: Path) -> None:
    views = fold_views(benchmark(tmp_path), 0)
    assert views.train.images == ("train-00001", "train-00002", "train-00003")
    assert views.valid.images == ("valid-00001", "valid-00002", "valid-00003")
    assert views.test.images == ("test-00001", "test-00002", "test-00003", "test-00004")
    assert [part.rows.tolist() for part in (views.train, views.valid, views.test)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8, 9],
    ]
    # As the sorted digests of a1, a2, a3, b1, b2, c1, c2, n1, n2, n3 are.
    assert views.test.digests == ("photo-0000002", "photo-0000004", "photo-0000006", "photo-0000009")


def test_equal_photos_have_equal_digests_in_all_parts(tmp_path: Path) -> None:
    made = benchmark(tmp_path)
    table = made.catalog.table
    doubled = table.assign(
        content_digest=table["content_digest"].where(table["image"] != "a3", "digest of b1")
    )
    views = fold_views(replace(made, catalog=replace(made.catalog, table=doubled)), 0)
    assert views.test.digests[0] == views.train.digests[1]
    assert len({*views.train.digests, *views.valid.digests, *views.test.digests}) == len(PHOTOS) - 1


def test_an_individual_that_is_not_in_train_is_new(tmp_path: Path) -> None:
    views = fold_views(benchmark(tmp_path), 0)
    answers = open_fold(benchmark(tmp_path), 0).answers
    assert answers["test"].truth == ("ann", "bob", NEW, NEW)
    assert answers["test"].identities == ("ann", "bob", "cas", "")
    assert answers["valid"].truth == answers_shown(views.valid).truth == ("ann", NEW, NEW)
    assert views.train.labels.tolist() == [0, 1, UNKNOWN]
    assert views.valid.labels.tolist() == [0, UNKNOWN, UNKNOWN]


def test_what_is_resampled_together(tmp_path: Path) -> None:
    clusters = open_fold(benchmark(tmp_path), 0).answers["test"].clusters
    assert clusters == ("individual ann", "individual bob", "individual cas", "group e10")


def test_a_valid_part_without_new_photos_is_warned_of(tmp_path: Path) -> None:
    assert open_fold(benchmark(tmp_path), 0).warnings() == []
    known = {name: facts for name, facts in PHOTOS.items() if name not in ("c1", "n2")}
    (warning,) = open_fold(benchmark(tmp_path, known), 0).warnings()
    assert "--singles new" in warning


def test_test_photos_carry_neither_labels_nor_annotations(tmp_path: Path) -> None:
    views = fold_views(benchmark(tmp_path), 0)
    assert views.test.labels is None
    assert views.test.annotations is None
    assert views.train.annotations is not None


def test_annotations_of_test_photos_are_not_to_be_had_through_train(tmp_path: Path) -> None:
    views = fold_views(benchmark(tmp_path), 0)
    for photos in (views.train, views.valid):
        assert photos.annotations is not None
        assert np.isnan(photos.annotations.boxes[views.test.rows]).all()
        assert np.isnan(photos.annotations.landmarks[views.test.rows]).all()
        assert not photos.annotations.has_mask[views.test.rows].any()


def reachable(thing: object, seen: set[int]) -> list[object]:
    """Everything that can be had from a thing by its attributes, underscores or not."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    inside = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    inside += list(thing.values()) if isinstance(thing, dict) else []
    inside += list(thing) if isinstance(thing, tuple | list) else []
    return [thing, *(found for each in inside for found in reachable(each, seen))]


@pytest.mark.parametrize("oracle", [False, True])
def test_no_view_leads_to_a_name_a_path_or_a_digest(tmp_path: Path, oracle: bool) -> None:
    views = fold_views(benchmark(tmp_path), 0, oracle=oracle)
    for photos in (views.train, views.valid, views.test, *views.queries().values()):
        found = reachable(photos, set())
        texts = {thing for thing in found if isinstance(thing, str)}
        shown = {*photos.images, *photos.digests, *views.train.identities, "tip"}
        harmless = {*vars(photos), "boxes", "landmarks", "landmark_names", "has_mask", "", *PARTS}
        assert texts - harmless <= shown
        assert not any(isinstance(thing, Path | pd.DataFrame | PhotoStore) for thing in found)


@pytest.mark.parametrize("oracle", [False, True])
def test_test_masks_are_read_by_an_oracle_alone(tmp_path: Path, oracle: bool) -> None:
    made = benchmark(tmp_path)
    Image.new("L", (20, 10), 255).save(tmp_path / "mask.png")
    masks = (str(tmp_path / "mask.png"),) * len(PHOTOS)
    views = fold_views(replace(made, store=replace(made.store, mask_paths=masks)), 0, oracle=oracle)
    store = views.train.store
    assert (store.read_masks(views.train.rows, (8, 8)) == 255).all()
    assert (store.read_masks(views.test.rows, (8, 8)) == (255 if oracle else 0)).all()


def test_an_oracle_is_shown_annotations_and_no_labels(tmp_path: Path) -> None:
    views = fold_views(benchmark(tmp_path), 0, oracle=True)
    for part in ("valid", "test"):
        shown = views.queries()[part]
        assert shown.labels is None
        assert shown.annotations is not None
        assert np.isfinite(shown.annotations.boxes[shown.rows]).all()
        annotated = open_fold(benchmark(tmp_path), 0).annotated[part]
        assert (annotated.images, annotated.labels) == (shown.images, None)


def test_annotations_are_shares_of_the_photo(tmp_path: Path) -> None:
    annotations = fold_views(benchmark(tmp_path), 0).train.annotations
    assert annotations is not None
    assert annotations.boxes[0].tolist() == pytest.approx([0.1, 0.1, 0.6, 0.6])
    assert annotations.landmarks[1, 0].tolist() == pytest.approx([0.15, 0.5])
    assert annotations.landmark_names == ("tip",)
    assert annotations.has_mask[[0, 1, 3]].all()


def test_species_are_those_of_train_and_hidden_with_the_labels(tmp_path: Path) -> None:
    made = benchmark(tmp_path)
    assert fold_views(made, 0).train.species is None
    named = {"a1": "right", "n1": "humpback", "a2": "right", "c1": "blue", "a3": "right"}
    table = made.catalog.table.assign(species=[named.get(image, "") for image in PHOTOS])
    for oracle in (False, True):
        views = fold_views(replace(made, catalog=replace(made.catalog, table=table)), 0, oracle=oracle)
        assert views.train.species is not None
        assert views.valid.species is not None
        assert views.train.species.tolist() == [1, UNKNOWN, 0]
        assert views.train.select([2, 0]).species.tolist() == [0, 1]  # type: ignore[union-attr]
        assert views.valid.species.tolist() == [1, UNKNOWN, UNKNOWN]
        assert views.test.species is None
        assert all(photos.species is None for photos in views.queries().values())


def test_counts_for_the_record(tmp_path: Path) -> None:
    assert open_fold(benchmark(tmp_path), 0).counts(fold_views(benchmark(tmp_path), 0)) == {
        "train_photos": 3,
        "train_known_photos": 2,
        "identities": 2,
        "valid_photos": 3,
        "valid_new_photos": 2,
        "test_photos": 4,
        "test_new_photos": 2,
    }


def test_one_individual_is_refused(tmp_path: Path) -> None:
    alone = {image: facts for image, facts in PHOTOS.items() if facts[0] != "bob"}
    with pytest.raises(WhalebenchError, match=r"fold 0 of hand-made has 1 individual.*at least two"):
        fold_views(benchmark(tmp_path, alone), 0)


def test_an_unknown_fold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match="There is no fold 3 in this split; choose one of 0"):
        fold_views(benchmark(tmp_path), 3)
