"""What a run keeps of its answers: the nearest photo of each candidate, the window that the method saw."""

from __future__ import annotations

import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.record import (
    MATCHES,
    PREDICTIONS,
    RunRecord,
    read_matches,
    read_predictions,
    read_record,
    write_record,
)
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark, make_split
from whalebench.benchmarks.running.folds import fold_views, open_fold
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.matches import Compared, match_photos, nearest_photos
from whalebench.benchmarks.running.outcome import ask, evaluate_parts
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.methods.method import Located
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.crops.aligner import Reference
from whalebench.methods.parts.crops.cropping import Cropping
from whalebench.methods.parts.crops.finder import Finder, Windows, whole_where, windows_around
from whalebench.methods.parts.pipeline import SeenWindows
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.registry import configure, find_method
from whalebench.reports.runs import rescore_runs, write_bundle

NEAREST = [f"nearest_{place}" for place in range(1, 6)]
CANDIDATES = [f"candidate_{place}" for place in range(1, 6)]
WINDOW = [f"window_{letter}" for letter in "abcdef"]
SIDES = ["window_height", "window_width"]
HEIGHT, WIDTH = 60, 90
LOOSELY = ("localizer.backbone=test_resnet", "localizer.size=32", "localizer.epochs=1")


def test_the_nearest_photo_of_each_candidate_and_of_equal_ones_the_first() -> None:
    """By a plain loop over all photos; sizes are such that an individual's queries take several blocks."""
    rng = np.random.default_rng(0)
    names = ["ann", "bob", "cas"]
    who = [names[place] for place in rng.integers(0, 3, 40)]
    gallery = rng.normal(size=(40, 4)).astype(np.float32)
    gallery[[name == "bob" for name in who]] = gallery[who.index("bob")]
    query = rng.normal(size=(1200, 4)).astype(np.float32)
    images = [f"g{place}" for place in range(40)]
    candidates = np.array([["new", "bob", "ann", "dee", ""]] * 1200, object)
    candidates[7] = ["cas", "new", "", "", ""]
    found = nearest_photos(candidates, Compared(query, gallery, images, who))
    length = np.linalg.norm(gallery, axis=1)
    for row in (0, 7, 8, 511, 512, 1199):
        cosines = gallery @ query[row] / length
        for name, photo in zip(candidates[row], found[row], strict=True):
            own = [place for place in range(40) if who[place] == name]
            assert photo == (images[max(own, key=lambda place: cosines[place])] if own else "")
    assert set(found[candidates == "bob"]) == {images[who.index("bob")]}  # all of whose photos are equal


def test_of_nothing_there_is_no_table() -> None:
    queries = pd.DataFrame({"image": ["a"], **{name: ["ann"] for name in CANDIDATES}})
    assert match_photos(queries, None, None) is None
    seen = SeenWindows(np.arange(6.0).reshape(1, 2, 3), (20, 30))
    table = match_photos(queries, None, seen)
    assert table is not None
    assert table.to_dict("records") == [
        {"image": "a"} | dict(zip(WINDOW, range(6), strict=True)) | {"window_height": 20, "window_width": 30}
    ]


class Given(Finder):
    """A finder that says what it was told, in windows that it was told."""

    artefact, needs = "given", "boxes"
    looks = False

    def __init__(self, windows: Windows) -> None:
        super().__init__(TrainingConfig())
        self.given = windows

    def annotated(self, photos: Photos) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.ones(len(photos), np.bool_)

    def locate(self, photos: Photos) -> Located:
        return Located(boxes=np.zeros((len(photos), 4), np.float32))

    def windows(self, located: Located, photos: Photos) -> Windows:
        return self.given


def drawn(folder: Path) -> Photos:
    """Two photos of smooth colours, the same."""
    across, down = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    pixels = np.stack([across, down, (np.sin(7 * across) + np.cos(5 * down)) / 4 + 0.5], axis=2)
    for name in ("a.png", "b.png"):
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / name)
    paths = str(folder / "a.png"), str(folder / "b.png")
    store = PhotoStore(folder / "cache", paths, ("0", "1"), ("", ""))
    shapes = np.array([[HEIGHT, WIDTH]] * 2)
    return Photos(("a", "b"), ("0", "1"), ("ann",), store, np.arange(2), shapes)


def turned() -> Windows:
    """The window that brings two landmarks, on a line 25 degrees off level, to where they belong."""
    angle = math.radians(25)
    ends = [
        (45 - 20 * math.cos(angle), 30 - 20 * math.sin(angle)),
        (45 + 20 * math.cos(angle), 30 + 20 * math.sin(angle)),
    ]
    landmarks = torch.tensor([[(x / WIDTH, y / HEIGHT) for x, y in ends]] * 2, dtype=torch.float64)
    reference = Reference(torch.tensor([[0.2, 0.4], [0.8, 0.6]], dtype=torch.float64), 1.5, "similarity")
    shapes = torch.tensor([[HEIGHT, WIDTH]] * 2, dtype=torch.float64)
    return whole_where(np.array([False, True]), reference.matrices(landmarks, shapes))


BOXES = np.array([[0.1, 0.2, 0.5, 0.8], [0.4, 0.1, 0.9, 0.5]], np.float32)


@pytest.mark.parametrize("windows", [windows_around(BOXES, 0.0, 0.05), turned()], ids=["box", "aligned"])
def test_what_a_window_says_is_what_the_method_sees(tmp_path: Path, windows: Windows) -> None:
    """The photo warped by Pillow as a page would, beside the pixels that a method is handed."""
    photos, (height, width) = drawn(tmp_path), (24, 36)
    crop = Cropping(Given(windows), (HEIGHT, WIDTH), oracle=False)
    seen = crop.see(photos).batch([0, 1], (height, width)).pixels.permute(0, 2, 3, 1).numpy()
    for row, matrix in enumerate(crop.windows(photos)):
        to_photo = np.diag([WIDTH, HEIGHT]) @ matrix @ np.diag([1 / width, 1 / height, 1])
        photo = Image.open(tmp_path / "a.png")
        warped = photo.transform(
            (width, height), Image.Transform.AFFINE, to_photo.ravel(), Image.Resampling.BILINEAR
        )
        inside = np.asarray(warped).sum(axis=2) > 0  # Pillow is black where the photo has ended
        assert inside.mean() > 0.7
        difference = np.abs(np.asarray(warped) / 255 - seen[row])[inside]
        assert difference.mean() < 0.01 and difference.max() < 0.05
    whole = np.eye(2, 3)
    assert np.allclose(crop.windows(photos)[1], whole) == bool(windows.fallback[1])


@pytest.fixture(scope="module")
def boxed(shared_tiny: Workspace) -> tuple[Workspace, RunRecord]:
    """A run with embeddings behind boxes that are found."""
    settings = ("backbone=test_resnet", "size=24x32", "epochs=1", "batch_size=8", "crop=box", *LOOSELY)
    return shared_tiny, run(RunRequest("arcface", "tiny", settings=settings, device="cpu"), shared_tiny)


def test_a_run_keeps_its_matches(boxed: tuple[Workspace, RunRecord]) -> None:
    workspace, record = boxed
    folder = workspace.runs / record.run
    matches, queries = read_matches(folder, record), read_predictions(folder)
    assert matches is not None
    assert list(matches) == ["image", *NEAREST, *WINDOW, *SIDES]
    assert matches["image"].tolist() == queries["image"].tolist()
    benchmark = load_benchmark("tiny", workspace)
    name_of = benchmark.catalog.table.set_index("image")["identity"]
    train = set(benchmark.split.parts(0).train)
    pairs = [*zip(queries[CANDIDATES].to_numpy().ravel(), matches[NEAREST].to_numpy().ravel(), strict=True)]
    assert {photo for name, photo in pairs if name in ("new", "")} <= {""}
    answered = [(name, photo) for name, photo in pairs if name not in ("new", "")]
    assert len(answered) > 20 and all(name_of[photo] == name and photo in train for name, photo in answered)
    assert (matches[SIDES] == [24, 32]).all(axis=None)
    # Without margin, a box (x0, y0, x1, y1) has the matrix (x1 - x0, 0, x0; 0, y1 - y0, y0).
    assert (matches[["window_b", "window_d"]] == 0).all(axis=None)
    assert matches["window_a"].between(0.05, 1.2).all() and matches["window_c"].between(-0.2, 1).all()
    assert read_matches(folder, record.model_copy(update={"files": {}})) is None


def test_the_photo_of_the_best_candidate_has_its_score(shared_tiny: Workspace, tiny_settings: Any) -> None:
    """In a disjoint fold a candidate's score is the largest cosine of its gallery photos."""
    make_split("tiny@apart", shared_tiny, protocol="disjoint", folds=2)
    benchmark = load_benchmark("tiny@apart", shared_tiny)
    config = configure(find_method("arcface"), tiny_settings)
    views, method = fold_views(benchmark, 0), build_method("arcface", config)
    harness = RunHarness(0, torch.device("cpu"), views, SILENT, config)
    harness.fit(method)
    submission = ask(method, views, harness)
    assert submission.windows is None
    outcome = evaluate_parts(submission, views, open_fold(benchmark, 0), harness)
    assert outcome.matches is not None and list(outcome.matches) == ["image", *NEAREST]
    gallery = benchmark.split.gallery(0)
    unit = {
        part: each / np.linalg.norm(each, axis=1, keepdims=True)
        for part, each in submission.embeddings.items()
    }
    for row, (photo, score) in enumerate(
        zip(outcome.matches["nearest_1"], outcome.queries["score_1"], strict=True)
    ):
        assert unit["gallery"][gallery.index(photo)] @ unit["test"][row] == pytest.approx(score, abs=1e-5)


def test_an_oracles_windows_are_those_of_the_annotations(shared_tiny: Workspace, tiny_settings: Any) -> None:
    settings = (*tiny_settings, "crop=box", "oracle=true", "localizer.margin=0")
    record = run(RunRequest("softmax", "tiny", settings=settings, device="cpu"), shared_tiny)
    matches = read_matches(shared_tiny.runs / record.run, record)
    assert matches is not None
    rows = load_benchmark("tiny", shared_tiny).catalog.table.set_index("image").loc[matches["image"]]
    shares = rows[["x0", "y0", "x1", "y1"]].to_numpy(float) / [48, 40, 48, 40]
    expected = np.stack(
        [shares[:, 2] - shares[:, 0], shares[:, 0], shares[:, 3] - shares[:, 1], shares[:, 1]], axis=1
    )
    assert np.allclose(matches[["window_a", "window_c", "window_e", "window_f"]], expected, atol=1e-6)


def copied(boxed: tuple[Workspace, RunRecord], folder: Path) -> tuple[Workspace, Path]:
    place = Workspace.open(folder / "place")
    return place, shutil.copytree(boxed[0].runs / boxed[1].run, place.runs / "one")


def test_matches_that_differ_from_their_digest_are_not_read(
    boxed: tuple[Workspace, RunRecord], tmp_path: Path
) -> None:
    place, folder = copied(boxed, tmp_path)
    content = (folder / MATCHES).read_bytes()
    (folder / MATCHES).write_bytes(content[:-1] + b"x")
    with pytest.raises(WhalebenchError, match=r"matches.parquet differs from its digest"):
        read_matches(folder, read_record(folder))
    assert "matches.parquet differs" in rescore_runs([], place)[0].problem
    (folder / MATCHES).unlink()
    with pytest.raises(WhalebenchError, match=r"matches.parquet cannot be read"):
        read_matches(folder, read_record(folder))


def test_a_bundle_has_the_matches(boxed: tuple[Workspace, RunRecord], tmp_path: Path) -> None:
    place, folder = copied(boxed, tmp_path)
    assert write_bundle(tmp_path / "one.zip", place) == []
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        packed.extractall(tmp_path / "other")
    unpacked = tmp_path / "other" / "runs" / "one"
    record = read_record(unpacked)
    assert set(record.files) == {PREDICTIONS, MATCHES}
    matches = read_matches(unpacked, record)
    assert matches is not None and matches.equals(read_matches(folder, read_record(folder)))


def test_rescored_candidates_take_their_photos_along(
    boxed: tuple[Workspace, RunRecord], tmp_path: Path
) -> None:
    """Predictions that named others, in another order: photos go with the names, nobody gets another's."""
    place, folder = copied(boxed, tmp_path)
    record, queries = read_record(folder), read_predictions(folder)
    right = read_matches(folder, record)
    assert right is not None
    swapped = {
        "candidate_1": queries["candidate_2"],
        "candidate_2": queries["candidate_1"],
        "candidate_3": "whale9",
    }
    queries.assign(**swapped).to_parquet(folder / PREDICTIONS, index=False)
    photos = {"nearest_1": right["nearest_2"], "nearest_2": right["nearest_1"], "nearest_3": "of-whale9"}
    right.assign(**photos).to_parquet(folder / MATCHES, index=False)
    write_record(folder, record.model_copy(update={"files": {**record.files, **digests(folder)}}))
    assert rescore_runs([], place, write=True)[0].note == "written anew"
    again = read_matches(folder, read_record(folder))
    assert again is not None
    assert read_predictions(folder)[CANDIDATES].equals(queries[CANDIDATES])
    assert again.equals(right.assign(nearest_3=""))


def digests(folder: Path) -> dict[str, str]:
    from whalebench.benchmarks.core.files import digest_file

    return {name: digest_file(folder / name) for name in (PREDICTIONS, MATCHES)}
