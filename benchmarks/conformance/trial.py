"""A method on trial: built, trained and scored as a run would, as often as the checks need it.

It is tried on benchmarks in miniature: 39 drawn photos of four individuals with seven photos, of two with one
(in train), and of *new* individuals in train, valid and test. Photos differ in shape; boxes, landmarks and
masks lack here and there; species are named.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from whalebench import one_line
from whalebench.benchmarks.core.checkpoint import CheckpointStore
from whalebench.benchmarks.core.photos import CPU, UNKNOWN, LabelledPhotos, Size
from whalebench.benchmarks.core.progress import SILENT, EpochSummary, Progress, Silent
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import Benchmark, load_benchmark
from whalebench.benchmarks.running.folds import OpenFold, Views, fold_views, open_fold
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.methods.guests import watch_guests
from whalebench.methods.method import Harness, Method, MethodConfig
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.pipeline import Pipeline

PHOTOS = {
    **{name: {"train": 4, "valid": 1, "test": 2} for name in ("ada", "bea", "cid", "dot")},
    **{name: {"train": 1} for name in ("one", "uno")},
    "nobody": {"train": 3, "valid": 2, "test": 3},
    "stranger": {"test": 1},
}
"""Photos by individual and part; "nobody" stands for individuals without a name."""
SHAPES = ((64, 96), (96, 64), (80, 80))
"""Heights and widths in pixels, by turns."""
PREFIXES = {"test": "a", "train": "b", "valid": "c"}
"""By part, what names begin with where they are others."""
BOX = ("x0", "y0", "x1", "y1")
GAPS = {BOX: 3, ("tip_x", "tip_y"): 4, ("mask",): 5}
"""Every so many photos these columns are empty."""
TOLERANCE = 1e-4
"""How far apart scores may lie that should be equal, as a share of their spread: sums are rounded."""


class CheckFailed(Exception):
    """What a method promised and did not keep, in one sentence."""


class NotApplicable(Exception):
    """Why a check says nothing of a method, in one sentence."""


@dataclass(frozen=True)
class Learned:
    """A method that has learned, and the harness it learned with."""

    method: Pipeline
    harness: RunHarness
    views: Views

    def scores(self, part: str = "valid") -> NDArray[np.float32]:
        """Its scores (photos, identities) of train's known photos, valid or test, as a run asks for them."""
        return np.asarray(self.method.score(self.views.queries()[part]))


class Trial:
    """The method with its configuration, the toy benchmarks, and what became of its learning."""

    learned: Learned | None = None
    """After `learns`, unless that failed."""
    misconduct = ""
    """What was not right as a guest's behaviour meanwhile, in a sentence."""

    def __init__(self, name: str, kind: type[Method], config: MethodConfig, toys: ToyBenchmarks) -> None:
        self.name, self.kind, self.config, self.toys = name, kind, config, toys
        self.requested_sizes: set[Size] = set()
        """Sizes at which photos of `views` were requested so far."""
        store = WatchedStore(**vars(toys.annotated.store), requested_sizes=self.requested_sizes)
        self.views = self.views_of(replace(toys.annotated, store=store))

    def views_of(self, benchmark: Benchmark) -> Views:
        """What the method may see of the benchmark's only fold."""
        oracle, viewpoints = self.config.sees_annotations(), self.config.sees_viewpoints()
        return fold_views(benchmark, 0, oracle=oracle, viewpoints=viewpoints)

    def build(self, config: MethodConfig | None = None) -> Pipeline:
        """The method before learning, behind its crop; as configured for the trial unless said otherwise."""
        return build_method(self.kind, config or self.config)

    def learn(
        self,
        views: Views,
        progress: Progress = SILENT,
        unfinished: CheckpointStore | None = None,
        method: Pipeline | None = None,
    ) -> Learned:
        """The method, as built unless given, after learning from the views; always with the same seed.

        With a folder of what is `unfinished`, it goes on from there and is kept there.
        """
        method = method or self.build()
        harness = RunHarness(0, CPU, views, progress, unfinished=unfinished)
        harness.seed_everything()
        harness.stage("learn")
        harness.fit(method)
        return Learned(method, harness, views)

    def learn_watched(self) -> None:
        """The method learns and scores for the first time, and it is noted how it behaves as a guest."""
        with watch_guests() as conduct:
            self.learned = self.learn(self.views)
            self.learned.scores("test")
        if conduct.printed:
            shown = one_line(conduct.printed.decode(errors="replace"), 80)
            self.misconduct = f"It prints on stdout, which is for results ('{shown}'): leave that out."
        elif conduct.changed:
            self.misconduct = f"It leaves {', '.join(sorted(conduct.changed))} changed: put back what it was."

    @cached_property
    def is_unmoved(self) -> bool:
        """Whether it learns and scores the same, to the last bit, where all that must not move it is changed.

        It learns from the photos in disguise, those of test grey, valid under the labels of other photos, and
        scores them in disguise. Where that moves nothing, no change need be tried alone.
        """
        learned, disguised = self.after_learning(), self.views_of(self.toys.disguised)
        seen = disguised if learned.method.transductive else self.views_of(self.toys.disguised_blank)
        try:
            other = replace(self.learn(seen, method=Mislabelled(self.kind, self.config)), views=disguised)
            return equal_weights(learned, other) and all(
                np.array_equal(learned.scores(part), other.scores(part)) for part in disguised.queries()
            )
        except Exception:  # what is wrong with it shows where the changes are tried one by one
            return False

    def opened(self) -> OpenFold:
        """The answers to what `views` show."""
        return open_fold(self.toys.annotated, 0)

    def after_learning(self) -> Learned:
        """The method as the check `learns` left it; where that failed, no further check applies."""
        if self.learned is None:
            raise NotApplicable("It has not learned.")
        return self.learned


class Mislabelled(Pipeline):
    """The method shown valid under the labels of other photos."""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Learns as ever, the labels and species of valid exchanged."""
        species = None if valid.species is None else np.roll(valid.species, 1)
        super().learn(train, replace(valid, labels=np.roll(valid.labels, 1), species=species), harness)


class Stopped(Exception):
    """A run stopped from outside."""


class StopsInEpoch(Silent):
    """Stops a run in the so many-th epoch that it learns, before that is kept."""

    def __init__(self, place: int) -> None:
        self.left = place

    def epoch(self, summary: EpochSummary) -> None:
        """Stopped at the last of them."""
        del summary
        self.left -= 1
        if not self.left:
            raise Stopped


@dataclass(frozen=True)
class WatchedStore(PhotoStore):
    """A store that notes at which sizes photos are requested."""

    requested_sizes: set[Size] = field(default_factory=set, compare=False)

    def pixels(self, size: Size, *further: Any) -> NDArray[np.uint8]:
        """The photos at that size, which is noted."""
        self.requested_sizes.add(size)
        return super().pixels(size, *further)


def without_singles(views: Views) -> Views:
    """The same views as if individuals with one photo in train had never been met."""
    train, valid = views.train, views.valid
    kept = np.flatnonzero(np.bincount(train.labels[train.labels != UNKNOWN]) > 1)
    # One longer than the individuals, so that UNKNOWN, which is -1, reads itself.
    renamed = np.full(len(train.identities) + 1, UNKNOWN)
    renamed[kept] = np.arange(len(kept))
    identities = tuple(train.identities[label] for label in kept)
    rest = np.flatnonzero((train.labels == UNKNOWN) | (renamed[train.labels] != UNKNOWN))
    known = replace(train, identities=identities, labels=renamed[train.labels]).select(rest)
    return replace(
        views, train=known, valid=replace(valid, identities=identities, labels=renamed[valid.labels])
    )


def equal_weights(one: Learned, other: Learned) -> bool:
    """Whether two methods have learned the same, to the last bit."""
    first, second = one.method.weights(), other.method.weights()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def relative_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest distance of two tables over the spread of the first; infinite for NaN and other shapes."""
    if np.shape(one) != np.shape(other):
        return float("inf")
    spread = max(float(np.ptp(one)), 1e-6)
    distance = float(np.abs(one.astype(np.float64) - other).max()) / spread
    return distance if np.isfinite(distance) else float("inf")


def refuse_difference(
    first: NDArray[np.float32], second: NDArray[np.float32], complaint: str, tolerance: float = 0.0
) -> None:
    """Raises CheckFailed where scores differ by more than that share of their spread, which fills {}."""
    distance = relative_distance(first, second)
    if distance > tolerance:
        raise CheckFailed(complaint.format(f"{distance:.2g}"))


class ToyBenchmarks(NamedTuple):
    """The benchmarks in miniature that a method is tried on."""

    annotated: Benchmark
    plain: Benchmark
    """The same photos with nothing annotated."""
    blank: Benchmark
    """The same photos and annotations as `annotated`, but for the test photos: all of them are grey."""
    disguised: Benchmark
    """The same photos and annotations under other names, in other folders, in another order but for that
    within a part, and with other answers to test."""
    disguised_blank: Benchmark
    """The same with grey test photos."""


def draw_toy_benchmarks(workspace: Workspace) -> ToyBenchmarks:
    """The benchmarks, drawn into the workspace; the same pixels every time."""
    rows = _draw(workspace.cache / "drawn")
    bare = rows.drop(columns=[*BOX, "tip_x", "tip_y", "notch_x", "notch_y", "mask", "species", "viewpoint"])
    annotated = _imported(rows, "trial", workspace)
    disguised = _imported(_disguise(rows, workspace.cache / "drawn"), "trial-disguised", workspace)
    grey = str(workspace.cache / "drawn" / "grey.png")
    plain = _imported(bare, "trial-plain", workspace)
    return ToyBenchmarks(annotated, plain, _blank(annotated, grey), disguised, _blank(disguised, grey))


def _blank(benchmark: Benchmark, grey: str) -> Benchmark:
    """The benchmark with that photo in place of each one of test."""
    test, store = set(benchmark.split.parts(0).test), benchmark.store
    images = benchmark.catalog.table["image"]
    paths = [grey if image in test else path for image, path in zip(images, store.paths, strict=True)]
    # What is kept of decoded photos goes by their digests, which are left as they are: another folder.
    altered = replace(store, paths=tuple(paths), cache=store.cache.with_name("grey"), _open={})
    return replace(benchmark, store=altered)


def _disguise(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The rows under other names, with their photos in other folders; test photos show others.

    Photos are sorted by name, so parts change places and are not mixed, and each is in its order.
    """
    test = (rows["split"] == "test").to_numpy()
    identity = rows["identity"].to_numpy(object)
    identity[test] = np.roll(identity[test], 2)
    image = rows["split"].map(PREFIXES) + rows["image"]
    path = "moved/" + pd.Series(identity) + "/" + image + ".png"
    for before, after in zip(rows["path"], path, strict=True):
        (folder / after).parent.mkdir(parents=True, exist_ok=True)
        (folder / after).write_bytes((folder / before).read_bytes())
    return rows.assign(image=image, path=path, identity=identity)


def _imported(rows: pd.DataFrame, name: str, workspace: Workspace) -> Benchmark:
    file = workspace.cache / "drawn" / f"{name}.csv"
    rows.to_csv(file, index=False)
    import_csv(file, name, workspace)
    return load_benchmark(name, workspace, propose=True)


def _draw(folder: Path) -> pd.DataFrame:
    """The rows of the table, its photos and masks in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SHAPES[0][::-1], (128, 128, 128)).save(folder / "grey.png")
    rng = np.random.default_rng(7)
    rows: list[dict[str, Any]] = []
    for place, (individual, parts) in enumerate(PHOTOS.items()):
        pattern = rng.integers(0, 256, (6, 8, 3))
        for part in (part for part, count in parts.items() for _ in range(count)):
            if individual == "nobody":
                pattern = rng.integers(0, 256, (6, 8, 3))
            facts = {"identity": individual.replace("nobody", ""), "split": part}
            facts |= {"species": ("humpback", "fin")[place % 2]}
            # Many keep a folder for each individual, which is a way to know who is on a photo.
            rows.append(_draw_one(folder, individual, len(rows), pattern, rng) | facts)
    return pd.DataFrame(rows)


def _draw_one(
    folder: Path, individual: str, number: int, pattern: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, Any]:
    """One photo, an ellipse with the pattern on noise, and what is annotated on it."""
    photo, mask_file = f"{individual}/{number:02d}.png", f"{number:02d}-mask.png"
    (folder / individual).mkdir(exist_ok=True)
    height, width = SHAPES[number % len(SHAPES)]
    high, wide = int(height * rng.uniform(0.5, 0.7)), int(width * rng.uniform(0.5, 0.7))
    top, left = int(rng.integers(0, height - high)), int(rng.integers(0, width - wide))
    animal = Image.fromarray(pattern.astype(np.uint8)).resize((wide, high), Image.Resampling.NEAREST)
    down, across = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : wide * 1j]
    pixels, mask = rng.normal(90, 20, (height, width, 3)), np.zeros((height, width), np.uint8)
    inside = down**2 + across**2 <= 1
    mask[top : top + high, left : left + wide][inside] = 255
    pixels[mask > 0] = np.asarray(animal)[inside] + rng.normal(0, 10, (int(inside.sum()), 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / photo)
    Image.fromarray(mask).save(folder / mask_file)
    values: dict[str, Any] = {"image": f"{number:02d}", "path": photo, "encounter": f"{number}"}
    values |= {"viewpoint": ("left", "right", "")[number % 3]}
    values |= {"mask": mask_file}
    values |= {"x0": left, "y0": top, "x1": left + wide, "y1": top + high}
    values |= {"tip_x": left + wide - 2, "tip_y": top + high // 2, "notch_x": left + 2, "notch_y": top + 2}
    for columns, gap in GAPS.items():
        if number % gap == 1:
            values |= dict.fromkeys(columns, "")
    return values
