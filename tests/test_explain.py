"""Why a run scores as it does: planted shortcuts are found, maps point at what matters, bad input is told."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from whalebench import WhalebenchError
from whalebench.benchmarks.core.files import with_digest
from whalebench.benchmarks.core.photos import Annotations, Photos
from whalebench.benchmarks.core.record import (
    DIAGNOSIS,
    RECORD,
    WEIGHTS,
    Diagnosis,
    find_run,
    read_diagnosis,
    read_matches,
    read_record,
    write_arrays,
    write_record,
)
from whalebench.benchmarks.core.saliency import HEAT_SIZE, SALIENCY, Saliency, read_saliency, write_saliency
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.explaining import explain as shortcuts
from whalebench.benchmarks.explaining.altered import (
    MAP_SIZE,
    Mirror,
    Occluded,
    PaintedOver,
    Regions,
    find_regions,
    mirrored,
    occlude,
    sliding_boxes,
    spread,
    without_background,
)
from whalebench.benchmarks.explaining.answers import find_answer
from whalebench.benchmarks.explaining.explain import choose_photos, explain, kept_heat
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import restored, runner
from whalebench.benchmarks.running.folds import fold_views, open_fold
from whalebench.benchmarks.running.restored import restore_run
from whalebench.methods.method import Harness, Method, MethodConfig
from whalebench.reports.metrics.calibration import UNCALIBRATED, Calibration

SIZE = (30, 40)
Cli = Callable[..., Any]


class PixelsConfig(MethodConfig):
    """Fields of `pixels`."""


class Pixels(Method):
    """Nearest mean photo: as good as anything where the colour tells, and quick."""

    name, summary, source, Config = "pixels", "nearest mean photo", "this test", PixelsConfig

    def sizes(self) -> tuple[tuple[int, int], ...]:
        return (SIZE,)

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        known = train.known()
        harness.fitted("prototypes", known)
        pixels, labels = self._pixels(known), known.labels
        means = [pixels[labels == label].mean(dim=0) for label in range(len(train.identities))]
        self.prototypes = torch.stack(means)

    def score(self, photos: Photos) -> Any:
        assert photos.labels is None and photos.annotations is None
        return -torch.cdist(self._pixels(photos), self.prototypes).numpy()

    def weights(self) -> dict[str, torch.Tensor]:
        return {"prototypes": self.prototypes}

    def restore(self, weights: Mapping[str, torch.Tensor], identities: Any, device: torch.device) -> None:
        self.prototypes = weights["prototypes"]

    def _pixels(self, photos: Photos) -> torch.Tensor:
        return torch.cat([batch.pixels.flatten(1) for batch in photos.batches(SIZE, 64)])


class Forgetful(Pixels):
    """Cannot be restored."""

    name = "forgetful"
    restore = Method.restore


@pytest.fixture(scope="module", autouse=True)
def _methods() -> Iterator[None]:
    kinds: dict[str, type[Method]] = {"pixels": Pixels, "forgetful": Forgetful}
    found = runner.find_method
    with pytest.MonkeyPatch.context() as patch:
        for module in (runner, restored):
            patch.setattr(module, "find_method", lambda name: kinds.get(name) or found(name))
        yield


def draw_planted(folder: Path, where: str, *, boxes: bool = True) -> Path:
    """120 photos of ten individuals whose colour is that of the animal or that of the background alone."""
    folder.mkdir()
    rng, rows = np.random.default_rng(3), []
    colours = rng.integers(0, 256, (10, 3))
    for individual, photo in product(range(10), range(12)):
        own, other = colours[individual], rng.integers(108, 148, 3)
        x, y = rng.integers(10, 15), rng.integers(6, 10)
        pixels = np.empty((*SIZE, 3))
        pixels[:] = own if where == "background" else other
        pixels[y : y + 14, x : x + 16] = other if where == "background" else own
        noisy = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        image = f"{individual}-{photo:02d}.png"
        Image.fromarray(noisy).save(folder / image)
        rows.append([image, image, f"ind{individual}", *([x, y, x + 16, y + 14] if boxes else [""] * 4)])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "path", "identity", "x0", "y0", "x1", "y1"], *rows])
    return folder / "table.csv"


def planted(folder: Path, where: str, *, boxes: bool = True) -> tuple[Workspace, str]:
    """A workspace with one run on planted photos, and the run's name."""
    workspace = Workspace.open(folder / "workspace")
    import_csv(draw_planted(folder / "source", where, boxes=boxes), "planted", workspace)
    request = runner.RunRequest("pixels", "planted", device="cpu")
    return workspace, runner.run(request, workspace).run


# --- the three numbers


@pytest.mark.parametrize("where", ["background", "animal"])
def test_a_planted_shortcut_is_found_and_its_absence_too(tmp_path: Path, where: str) -> None:
    workspace, run = planted(tmp_path, where)
    found = explain(run, workspace, photos=1, box=0.5).diagnosis
    scores, chance = found.map_at_5, found.chance
    tells, hides = f"without_{where}", "without_background" if where == "animal" else "without_animal"
    assert scores["test"] > 0.9  # type: ignore[operator]
    assert scores[hides] > 0.9  # type: ignore[operator]
    assert scores["mirrored"] > 0.8  # type: ignore[operator]
    assert scores[tells] == pytest.approx(chance[tells], abs=0.15)
    assert 0.15 < chance[tells] < 0.35  # type: ignore[operator]
    assert scores["chance"] == chance["without_animal"]
    assert found.region == "box"
    assert found.photos["box"] == found.photos["test"] > 15
    assert found.photos["none"] == found.photos["mask"] == 0


def test_photos_without_any_region_leave_numbers_out_with_the_reason(tmp_path: Path) -> None:
    workspace, run = planted(tmp_path, "animal", boxes=False)
    explanation = explain(run, workspace, photos=2, box=0.5)
    found = explanation.diagnosis
    assert found.map_at_5["without_background"] is None
    assert found.map_at_5["without_animal"] is None
    assert found.map_at_5["mirrored"] is not None
    assert found.map_at_5["chance"] is not None
    assert (found.region, found.photos["none"]) == ("none", found.photos["test"])
    assert "no test photo has a mask, a box or two landmarks" in found.reason
    assert [row["on_animal"] for row in explanation.shown] == [None, None]


def test_chance_is_the_mean_over_all_pairings_of_answers_and_truths() -> None:
    rng = np.random.default_rng(0)
    names = ["a", "b", "c", "d", "new", ""]
    truth = rng.choice(["a", "a", "b", "new"], 30)
    candidates = np.array([rng.permutation(names)[:5] for _ in truth])
    queries = pd.DataFrame({"truth": truth})
    for place in range(5):
        queries[f"candidate_{place + 1}"] = candidates[:, place]
    slow = [
        sum(1 / (place + 1) for place in range(5) if row[place] == other)
        for row in candidates
        for other in truth
    ]
    assert shortcuts.chance(queries) == pytest.approx(np.mean(slow))
    queries["candidate_1"] = "a"
    assert shortcuts.chance(queries) > np.mean(truth == "a")


# --- the lenses


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Four photos of noise with box, mask, two landmarks and one landmark; the mask is a triangle."""
    rng, paths = np.random.default_rng(7), []
    for row in range(4):
        paths.append(str(tmp_path / f"{row}.png"))
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(paths[-1])
    triangle = np.tri(*SIZE, k=-10, dtype=np.uint8) * 255
    Image.fromarray(triangle).save(tmp_path / "mask.png")
    boxes = np.full((4, 4), np.nan, np.float32)
    boxes[0] = 0.25, 0.2, 0.75, 0.6
    landmarks = np.full((4, 2, 2), np.nan, np.float32)
    landmarks[2] = (0.25, 0.5), (0.75, 0.5)
    landmarks[3, 0] = 0.5, 0.5
    digests = tuple("abcd")
    store = PhotoStore(tmp_path / "cache", tuple(paths), digests, ("", str(tmp_path / "mask.png"), "", ""))
    has_mask = np.array([False, True, False, False])
    notes = Annotations(boxes, landmarks, ("one", "two"), has_mask)
    return Photos(tuple("pqrs"), digests, ("x", "y"), store, np.arange(4), np.tile(SIZE, (4, 1)), None, notes)


def pixels_of(photos: Photos, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return photos.batch(np.arange(len(photos)), size).pixels


def test_regions_are_mask_else_box_else_round_the_landmarks(photos: Photos) -> None:
    regions = find_regions(photos)
    assert regions.kinds.tolist() == ["box", "mask", "landmarks", "none"]
    # Landmarks 20 pixels apart: pushed outwards by 10, cut at the photo.
    assert regions.boxes[2].tolist() == pytest.approx([0, 5 / 30, 1, 25 / 30])
    shares = regions.shares(np.arange(4), SIZE)[:, 0]
    assert shares[0].sum() == pytest.approx(20 * 12, abs=1e-3)
    assert shares[1].sum() == np.tri(*SIZE, k=-10).sum()
    assert shares[3].sum() == 0
    turned = regions.select(np.array([1, 0])).shares(np.array([1]), SIZE)
    assert torch.equal(turned[0, 0], shares[0])


def test_what_is_painted_over_is_gone_and_the_rest_is_as_it_was(photos: Photos) -> None:
    regions, before = find_regions(photos), pixels_of(photos)
    animal = pixels_of(photos.through(PaintedOver(regions, "animal")))
    background = pixels_of(without_background(photos, regions, SIZE))
    # The box is rows 6 to 18 and columns 10 to 30; the paint reaches one pixel further.
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[5:19, 9:31] = False
    assert torch.equal(animal[0][:, outside], before[0][:, outside])
    left = before[0][:, outside].mean(dim=1)
    assert torch.allclose(animal[0][:, ~outside], left[:, None].expand(3, int((~outside).sum())), atol=1e-5)
    assert torch.equal(background[0][:, 7:17, 11:29], before[0][:, 7:17, 11:29])
    # What is round the animals, of all photos together.
    round_them = 1 - regions.shares(np.arange(4), SIZE)
    paint = (before * round_them).sum(dim=(0, 2, 3)) / round_them.sum()
    for place in ((0, 0), (6, 20), (29, 39)):
        assert torch.allclose(background[0][:, *place], paint, atol=1e-5)
    # Nothing is known of the last photo's animal: none of it is painted over, or everything.
    assert torch.equal(animal[3], before[3])
    assert torch.allclose(background[3], paint[:, None, None], atol=1e-5)


def test_of_a_mask_the_rectangle_is_painted_over_and_the_outline_kept(photos: Photos) -> None:
    regions, before = find_regions(photos), pixels_of(photos)
    animal = pixels_of(photos.through(PaintedOver(regions, "animal")))[1]
    background = pixels_of(without_background(photos, regions, SIZE))[1]
    assert torch.equal(animal[:, :9], before[1][:, :9])
    assert torch.equal(animal[:, :, 21:], before[1][:, :, 21:])
    assert torch.allclose(
        animal[:, 10, 19], animal[:, 29, 0], atol=1e-6
    )  # corner and middle of the rectangle
    assert torch.equal(background[:, 28, 5], before[1][:, 28, 5])
    assert torch.allclose(background[:, 15, 15], background[:, 0, 39], atol=1e-6)


@pytest.mark.parametrize("size", [SIZE, (15, 20), (17, 23)])
@pytest.mark.parametrize("over", ["animal", "background"])
def test_nothing_of_what_is_painted_over_shows_through(photos: Photos, over: Any, size: Any) -> None:
    """The same photo with another animal looks the same without its animal, and so with the background."""
    first = np.array(Image.open(photos.store.paths[0]))
    inside = np.zeros(SIZE, bool)
    inside[6:18, 10:30] = True
    first[inside if over == "animal" else ~inside] //= 3
    Image.fromarray(first).save(photos.store.paths[3])
    regions = find_regions(photos).select(np.array([0, 0]))
    pair = photos.select([0, 3])
    assert (pixels_of(pair, size)[0] - pixels_of(pair, size)[1]).abs().max() > 0.2
    altered = (
        pair.through(PaintedOver(regions, "animal"))
        if over == "animal"
        else without_background(pair, regions, SIZE)
    )
    seen = pixels_of(altered, size)
    # Bicubic resizing reaches a little further than paint does.
    assert (seen[0] - seen[1]).abs().max() < 0.03


def test_the_mirror_turns_pixels_and_annotations(photos: Photos) -> None:
    seen = mirrored(photos)
    batch, before = seen.batch(np.arange(4), SIZE), photos.batch(np.arange(4), SIZE)
    assert torch.allclose(batch.pixels, before.pixels.flip(3), atol=1e-5)
    assert before.masks is not None
    assert batch.masks is not None
    assert torch.allclose(batch.masks, before.masks.flip(3), atol=1e-5)
    assert batch.boxes is not None
    assert batch.landmarks is not None
    assert batch.boxes[0].tolist() == pytest.approx([10, 6, 30, 18], abs=1e-3)
    assert batch.landmarks[2, 0].tolist() == pytest.approx([30, 15], abs=1e-3)
    # What is read past the batch says the same, as shares.
    notes = seen.annotations
    assert notes is not None
    assert np.allclose(notes.boxes[0] * [40, 30, 40, 30], batch.boxes[0], atol=1e-3)
    assert np.allclose(notes.landmarks[2] * [40, 30], batch.landmarks[2], atol=1e-3)
    assert torch.allclose(pixels_of(mirrored(seen)), before.pixels, atol=1e-5)
    assert mirrored(photos.bare()).annotations is None
    assert seen.select([2]).batch([0], SIZE).pixels.equal(batch.pixels[2:3])


def test_annotations_stay_where_they_are_behind_paint(photos: Photos) -> None:
    seen = photos.through(PaintedOver(find_regions(photos), "animal")).batch([0, 2], SIZE)
    before = photos.batch([0, 2], SIZE)
    assert seen.boxes is not None
    assert before.boxes is not None
    assert torch.equal(seen.boxes[0], before.boxes[0])
    assert seen.masks is not None


# --- the map


def looks_at(photos: Photos, row: int, column: int) -> Method:
    """A method that gives its first individual the more, the whiter one pixel of 30 x 40 is."""

    class Stare(Pixels):
        def score(self, photos: Photos) -> Any:
            seen = torch.cat([batch.pixels for batch in photos.batches(SIZE, 16)])
            spot = seen[:, :, row, column].mean(dim=1).numpy()
            return np.stack([spot, np.zeros_like(spot)], axis=1)

    return Stare(PixelsConfig())


def white(photos: Photos) -> Photos:
    Image.new("RGB", (40, 30), "white").save(photos.store.paths[0])
    return photos.select([0]).bare()


@pytest.mark.parametrize(("row", "column", "inside"), [(12, 20, True), (0, 39, False), (29, 0, False)])
def test_the_map_points_at_what_matters(photos: Photos, row: int, column: int, *, inside: bool) -> None:
    region = find_regions(photos.select([0]))
    found = occlude(
        looks_at(photos, row, column), white(photos), 0, Calibration(0.5), side=0.2, region=region
    )
    peak = np.unravel_index(found.heat.argmax(), found.heat.shape)
    assert abs(peak[0] / MAP_SIZE[0] - row / 30) < 0.15
    assert abs(peak[1] / MAP_SIZE[1] - column / 40) < 0.15
    # White becomes grey under the box: 1 / 0.5 becomes 0.5 / 0.5 in the exponent.
    expected = math.log(1 / (1 + math.exp(-2))) - math.log(1 / (1 + math.exp(-1)))
    assert found.largest == pytest.approx(expected, abs=1e-4)
    assert found.on_animal is not None
    assert (found.on_animal > 0.95) if inside else (found.on_animal == 0)
    assert found.animal == pytest.approx(0.5 * 0.4, abs=0.01)


def test_what_matters_against_an_individual_is_negative(photos: Photos) -> None:
    region = find_regions(photos.select([3]))
    found = occlude(looks_at(photos, 15, 20), white(photos), 1, UNCALIBRATED, side=0.2, region=region)
    assert found.heat.min() < -0.1
    assert found.largest <= 1e-6
    assert (found.on_animal, found.animal) == (None, None)


@pytest.mark.parametrize("side", [0.04, 0.15, 0.3, 0.5])
def test_boxes_cover_the_photo_from_edge_to_edge(side: float) -> None:
    boxes = sliding_boxes(side)
    assert boxes.min() == 0
    assert boxes.max() == pytest.approx(1)
    assert np.allclose(boxes[:, 2:] - boxes[:, :2], side, atol=1e-6)
    steps = np.diff(np.unique(boxes[:, 0]))
    assert steps.max() <= side / 2 + 1e-6
    if side > 0.1:
        assert np.allclose(spread(np.ones(len(boxes)), boxes), 1)


def test_a_hidden_box_is_grey_and_the_rest_is_as_it_was(photos: Photos) -> None:
    boxes = np.tile(np.array([[0.25, 0.2, 0.5, 0.6]], np.float32), (4, 1))
    seen, before = pixels_of(photos.through(Occluded(boxes))), pixels_of(photos)
    assert torch.allclose(seen[:, :, 6:18, 10:20], torch.tensor(0.5), atol=1e-4)
    assert torch.allclose(seen[:, :, :, 20:], before[:, :, :, 20:], atol=1e-4)
    assert isinstance(photos.through(Mirror()).select([1]).lens, Mirror)


def test_photos_to_look_at_are_half_wrong_and_spread_over_the_ranks() -> None:
    ranks = [1.0] * 20 + [2.0, 3.0, 4.0, 9.0, 30.0] + [1.0, math.nan]
    truth = ["a"] * 25 + ["new"] * 2
    queries = pd.DataFrame({"rank": ranks, "truth": truth, "log_loss": np.arange(27.0)})
    queries["image"] = [f"{row:02d}" for row in range(27)]
    assert choose_photos(queries, 6) == [0, 10, 19, 20, 22, 24]
    assert choose_photos(queries, 1) == [0]
    assert choose_photos(queries, 25) == list(range(25))
    assert choose_photos(queries, 64) == list(range(25))
    assert choose_photos(queries.iloc[:20], 4)[0] == 0
    assert choose_photos(queries.iloc[20:25], 2) == [20, 24]
    assert choose_photos(queries.iloc[25:], 2) == [25, 26]
    shuffled = queries.sample(frac=1, random_state=1)
    assert choose_photos(shuffled, 6) == choose_photos(queries, 6)


# --- the command


@pytest.fixture(scope="module")
def network_run(shared_tiny: Workspace) -> str:
    """A run of a network on the shared benchmark."""
    settings = ("backbone=test_resnet", "size=32", "epochs=2", "batch_size=8")
    return runner.run(runner.RunRequest("softmax", "tiny", settings=settings, device="cpu"), shared_tiny).run


def test_a_run_is_explained_from_end_to_end(
    shared_tiny: Workspace, network_run: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--workspace", shared_tiny.root)
    before = {file.name: file.read_bytes() for file in (shared_tiny.runs / network_run).iterdir()}
    said = cli("explain", network_run, "--photos", 2, "--box", 0.4, *place)
    assert said.code == 0, said.err
    assert all(
        words in said.out for words in ("without background", "without the animal", "mirrored", "chance")
    )
    picture = shared_tiny.reports / f"explain-{network_run}.png"
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert len(drawn.convert("RGB").getcolors(1 << 24) or []) > 100
    kept = read_diagnosis(shared_tiny.runs / network_run)
    assert kept is not None
    after = {file.name: file.read_bytes() for file in (shared_tiny.runs / network_run).iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {DIAGNOSIS, SALIENCY}
    maps = read_saliency(shared_tiny.runs / network_run)
    assert len(maps) == 2
    assert set(kept.map_at_5) == {
        "test",
        "annotated",
        "without_background",
        "without_animal",
        "mirrored",
        "chance",
    }
    assert all(value is not None and 0 <= value <= 1 for value in kept.map_at_5.values())
    record = json.loads(before[RECORD])
    assert kept.map_at_5["test"] == pytest.approx(record["metrics"]["map_at_5"])
    assert kept.map_at_5["annotated"] == kept.map_at_5["test"]

    # The diagnosis that is there is read; the picture is of what is asked for now.
    def refuse(*_: object) -> Diagnosis:
        raise AssertionError("diagnosed again")

    monkeypatch.setattr("whalebench.benchmarks.explaining.explain.diagnose", refuse)
    image = pd.read_parquet(shared_tiny.runs / network_run / "predictions.parquet")["image"].iloc[3]
    chosen = ("--image", image, "--image", image, "--box", 0.5, "--out", tmp_path / "one.jpg", "--json")
    again = cli("explain", shared_tiny.runs / network_run, *chosen, *place)
    assert again.code == 0, again.err
    assert again.err == ""
    document = json.loads(again.out)
    assert document["map_at_5"] == kept.map_at_5
    assert [row["image"] for row in document["shown"]] == [image]
    assert document["picture"] == str(tmp_path / "one.jpg")
    with Image.open(tmp_path / "one.jpg") as drawn:
        assert drawn.format == "JPEG"
    row = document["shown"][0]
    assert row["right"] == (row["answer"] == row["truth"])
    kept_matches = read_matches(shared_tiny.runs / network_run, read_record(shared_tiny.runs / network_run))
    assert kept_matches is not None
    assert row["gallery_photo"] in kept_matches.set_index("image").loc[image].filter(like="nearest_").tolist()
    assert row["matched"]
    # The maps of other photos are kept.
    assert set(read_saliency(shared_tiny.runs / network_run)) == {*maps, image}
    forced = cli("explain", network_run, "--force", *chosen, *place)
    assert forced.code == 1
    assert "diagnosed again" in forced.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["softmax-tini"], "There is no run 'softmax-tini'"),
        (["RUNN"], "did you mean 'RUN'?"),
        (["RUN", "--photos", "0"], "--photos 0 cannot be shown: give a number from 1 to 64"),
        (["RUN", "--photos", "65"], "--photos 65 cannot be shown"),
        (["RUN", "--box", "0"], "--box 0.0 cannot slide"),
        (["RUN", "--box", "nan"], "--box nan cannot slide"),
        (["RUN", "--out", "map.gif"], "A picture cannot be written as 'map.gif'"),
        (["RUN", "--image", "w03e9.png"], "There is no photo 'w03e9.png' in tiny"),
        (["RUN", "--image", "TRAIN"], "is no test photo of this run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_explained_is_told(
    shared_tiny: Workspace, network_run: str, cli: Cli, arguments: list[str], expected: str
) -> None:
    train = load_benchmark("tiny", shared_tiny).split.parts(0).train[0]

    def filled(word: str) -> str:
        return word.replace("RUN", network_run).replace("TRAIN", train)

    answer = cli("explain", *map(filled, arguments), "--workspace", shared_tiny.root)
    assert answer.code == 2
    assert answer.out == ""
    lines = [line for line in answer.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert filled(expected) in lines[0]


def test_a_workspace_without_runs_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match="there are no runs; begin with `whalebench run METHOD`"):
        find_run("softmax", Workspace.open(tmp_path))


@pytest.fixture
def copy(shared_tiny: Workspace, network_run: str, tmp_path: Path) -> Path:
    """A copy of the run to damage, found by its path, with the digests of its test photos in a file."""
    folder = Path(shutil.copytree(shared_tiny.runs / network_run, tmp_path / "copy"))
    benchmark = load_benchmark("tiny", shared_tiny)
    digests = [open_fold(benchmark, 0).digests[each] for each in fold_views(benchmark, 0).test.digests]
    (folder / "test_digests.json").write_text(json.dumps(digests))
    edit_record(folder, files={})  # as an older run, whose files have no digests
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    with safe_open(folder / WEIGHTS, "pt") as opened:
        names = list(opened.keys())
        weights = {name: opened.get_tensor(name) for name in names}
        metadata = opened.metadata()
    change(weights, metadata)
    save_file(weights, folder / WEIGHTS, metadata)


def edit_record(folder: Path, **change: Any) -> None:
    content = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(with_digest(content | change)))


def tripled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value * 3 for name, value in weights.items() if value.is_floating_point()}


def seen_test(folder: Path) -> None:
    digest = json.loads((folder / "test_digests.json").read_text())[0]
    rewrite(folder, lambda _, metadata: metadata.update(lineage=json.dumps({"network": [digest]})))


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / WEIGHTS).write_bytes(b"no weights"), "weights.safetensors cannot be read"),
    (lambda folder: (folder / WEIGHTS).unlink(), "weights.safetensors cannot be read"),
    (
        lambda folder: rewrite(folder, lambda weights, _: weights.clear()),
        "does not hold what softmax learned",
    ),
    (
        lambda folder: rewrite(folder, lambda _, metadata: metadata.update(lineage="no json")),
        "does not say which photos it was fitted on",
    ),
    (
        lambda folder: rewrite(folder, lambda _, metadata: metadata.pop("lineage") and metadata.update(x="")),
        "does not say which photos it was fitted on",
    ),
    (
        lambda folder: rewrite(folder, lambda weights, _: weights.update(tripled(weights))),
        "does not score as it did: its scores are off by up to",
    ),
    (seen_test, "The network of copy was fitted on 1 of its test photo"),
    (lambda folder: (folder / "scores.safetensors").unlink(), "scores.safetensors cannot be read"),
    (lambda folder: (folder / RECORD).write_text("{"), "record.json is not JSON"),
    (lambda folder: edit_record(folder, catalog_digest="0" * 64), "The catalog of tiny is not the one"),
    (lambda folder: edit_record(folder, split_digest="0" * 64), "The split of tiny is not the one"),
    (
        lambda folder: edit_record(folder, unfit="tiny has no masks"),
        "learned nothing, because tiny has no masks",
    ),
    (
        lambda folder: edit_record(folder, config={"mood": "good"}),
        "made with a softmax of other fields (mood)",
    ),
    (lambda folder: edit_record(folder, method="softmix"), "There is no method 'softmix'"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES, ids=[words for _, words in DAMAGES])
def test_a_run_that_is_not_what_it_was_is_refused(
    shared_tiny: Workspace, copy: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(copy)
    with pytest.raises(WhalebenchError) as caught:
        explain(str(copy), shared_tiny)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_transductive_run_is_not_explained(
    shared_tiny: Workspace, network_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whalebench.methods.softmax import Softmax

    monkeypatch.setattr(Softmax, "transductive", True)
    with pytest.raises(WhalebenchError, match="softmax scores photos with the help of the others"):
        explain(network_run, shared_tiny)


def test_a_method_that_cannot_be_restored_is_told(shared_tiny: Workspace) -> None:
    run = runner.run(runner.RunRequest("forgetful", "tiny", device="cpu"), shared_tiny).run
    with pytest.raises(WhalebenchError, match="forgetful cannot be restored from its weights"):
        explain(run, shared_tiny)
    shutil.rmtree(shared_tiny.runs / run)


@pytest.mark.parametrize("settings", [("crop=box",), ("crop=box", "oracle=true")], ids=" ".join)
def test_a_run_behind_a_crop_is_explained(tiny: Workspace, settings: tuple[str, ...]) -> None:
    small = ("backbone=test_resnet", "size=32", "epochs=1", "batch_size=8")
    finder = ("localizer.backbone=test_resnet", "localizer.size=32", "localizer.epochs=1")
    request = runner.RunRequest("softmax", "tiny", settings=(*small, *finder, *settings), device="cpu")
    record = runner.run(request, tiny)
    back = restore_run(record.run, tiny)
    assert back.views.oracle == back.record.oracle == ("oracle=true" in settings)
    found = explain(record.run, tiny, photos=1, box=0.5)
    assert found.diagnosis.map_at_5["without_animal"] is not None
    assert found.shown[0]["on_animal"] is None or 0 <= found.shown[0]["on_animal"] <= 1


@pytest.fixture(scope="module")
def on_animal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A workspace with one run on planted photos, and the run's name; its diagnosis and maps may change."""
    return planted(tmp_path_factory.mktemp("planted"), "animal")


def test_the_picture_shows_the_photo_that_was_matched(
    on_animal: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, run = on_animal
    queries = pd.read_parquet(workspace.runs / run / "predictions.parquet")
    parts = load_benchmark("planted", workspace).split.parts(0)
    query = queries.iloc[0]
    number = query["candidate_1"].removeprefix("ind")
    of_answer = [image for image in parts.train if image.startswith(f"{number}-")]
    drawn: list[Any] = []
    monkeypatch.setattr(shortcuts, "draw_heat", lambda photos, *_: drawn.extend(photos))
    monkeypatch.setattr(shortcuts, "diagnose", lambda *_: diagnosis())

    def shown() -> tuple[dict[str, Any], Any]:
        row = explain(run, workspace, images=[query["image"]], box=0.5).shown[0]
        return row, drawn.pop().answer

    row, beside = shown()
    assert (row["answer"], row["matched"]) == (query["candidate_1"], False)
    assert row["gallery_photo"] == of_answer[0]
    assert Path(beside.path).name == of_answer[0]
    assert "".join(beside.caption) == f"any photo of ind{number}, as no match is kept: {of_answer[0]}"
    matches = queries[["image"]].assign(nearest_1=of_answer[-1], nearest_2=of_answer[0])
    monkeypatch.setattr(shortcuts.record, "read_matches", lambda *_: matches)
    row, beside = shown()
    assert (row["gallery_photo"], row["matched"]) == (of_answer[-1], True)
    assert Path(beside.path).name == of_answer[-1]
    assert "".join(beside.caption) == f"nearest photo of ind{number}: {of_answer[-1]}"
    verdict = "right" if query["candidate_1"] == query["truth"] else f"wrong: it is {query['truth']}"
    assert "".join(beside.title) == f"answer: ind{number}, {verdict}"


def test_the_answer_is_right_or_wrong_and_new_has_the_best_individual_beside_it(
    on_animal: tuple[Workspace, str],
) -> None:
    benchmark = load_benchmark("planted", on_animal[0])
    train = benchmark.split.parts(0).train
    query = pd.Series({"truth": "ind3", "candidate_1": "new", "candidate_2": "ind4", "candidate_3": "ind3"})
    query = query.reindex([*query.index, "candidate_4", "candidate_5"], fill_value="")
    match = pd.Series({"nearest_1": "", "nearest_2": "4-05.png", "nearest_3": "3-01.png"})
    answer = find_answer(query, match, benchmark, 0)
    assert answer.facts() == {"answer": "new", "right": False, "gallery_photo": "4-05.png", "matched": True}
    assert "".join(answer.photo(benchmark).title) == "answer: new, wrong: it is ind3"
    assert "".join(answer.photo(benchmark).caption) == "nearest photo of ind4: 4-05.png"
    for without in (None, match[[]]):
        found = find_answer(query, without, benchmark, 0)
        assert not found.matched
        assert found.image == next(image for image in train if image.startswith("4-"))
    nobody = query.replace({"ind4": "", "ind3": "new"})
    alone = find_answer(nobody, match, benchmark, 0)
    assert (alone.photo(benchmark).path, alone.image) == ("", "")
    assert "".join(alone.photo(benchmark).title) == "answer: new, right"


# --- the files


def test_maps_come_back_and_newer_ones_replace_older(tmp_path: Path) -> None:
    assert read_saliency(tmp_path) == {}
    rng = np.random.default_rng(0)
    first, second, third = (kept_heat(rng.normal(size=MAP_SIZE)) for _ in range(3))
    assert first.shape == HEAT_SIZE
    assert first.dtype == np.float16
    assert np.abs(first).max() == 1
    maps = {"b": Saliency("ann", first), "鯨": Saliency("", second)}
    write_saliency(tmp_path, maps)
    written = (tmp_path / SALIENCY).read_bytes()
    write_saliency(tmp_path, dict(reversed(maps.items())))
    assert (tmp_path / SALIENCY).read_bytes() == written
    write_saliency(tmp_path, read_saliency(tmp_path) | {"b": Saliency("bea", third)})
    back = read_saliency(tmp_path)
    assert {image: each.followed for image, each in back.items()} == {"b": "bea", "鯨": ""}
    assert np.array_equal(back["b"].heat, third)
    assert np.array_equal(back["鯨"].heat, second)
    assert kept_heat(np.zeros(MAP_SIZE)).max() == 0


def test_a_heat_keeps_its_place_and_its_sign() -> None:
    heat = np.zeros(MAP_SIZE)
    heat[10:12, 20:22], heat[100, 100] = 3.0, -3.0
    kept = kept_heat(heat)
    assert (kept[5, 10], kept[50, 50]) == (1, -0.25)
    assert np.count_nonzero(kept) == 2


def test_a_damaged_map_is_refused_by_name(tmp_path: Path) -> None:
    write_saliency(tmp_path, {"b": Saliency("ann", np.ones(HEAT_SIZE, np.float16))})
    whole = (tmp_path / SALIENCY).read_bytes()
    remedy = rf"explain {tmp_path.name} --force"
    for place in (0, 3, whole.index(b"ann"), whole.index(b"digest"), len(whole) - 5, len(whole) // 2):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        (tmp_path / SALIENCY).write_bytes(spoilt)
        with pytest.raises(WhalebenchError, match=rf"saliency\.safetensors .*{remedy}"):
            read_saliency(tmp_path)
    (tmp_path / SALIENCY).write_bytes(whole[:-1])
    with pytest.raises(WhalebenchError, match=remedy):
        read_saliency(tmp_path)
    write_arrays(tmp_path / SALIENCY, {"heat": np.ones((1, 2))}, "saliency", ["no", "photos"])
    with pytest.raises(WhalebenchError, match=remedy):
        read_saliency(tmp_path)


def diagnosis() -> Diagnosis:
    """Any diagnosis."""
    created = "2026-11-23T12:00:00+00:00"
    return Diagnosis(map_at_5={}, chance={}, photos={"test": 3}, region="box", created=created)


def test_a_damaged_map_is_told_and_made_again_when_forced(
    on_animal: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, run = on_animal
    monkeypatch.setattr(shortcuts, "diagnose", lambda *_: diagnosis())
    (workspace.runs / run / SALIENCY).unlink(missing_ok=True)
    explain(run, workspace, photos=2, box=0.5)
    folder = workspace.runs / run
    spoilt = bytearray((folder / SALIENCY).read_bytes())
    spoilt[-5] ^= 1
    (folder / SALIENCY).write_bytes(spoilt)
    with pytest.raises(WhalebenchError, match=r"saliency\.safetensors differs from its digest"):
        explain(run, workspace, photos=1, box=0.5)
    shown = explain(run, workspace, photos=1, box=0.5, force=True).shown
    assert set(read_saliency(folder)) == {row["image"] for row in shown}
    assert next(iter(read_saliency(folder).values())).followed == shown[0]["followed"]


def test_a_diagnosis_comes_back_equal_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_diagnosis(tmp_path) is None
    known = Diagnosis(
        map_at_5={"test": 0.5, "mirrored": math.nan},
        chance={"test": 0.1},
        photos={"test": 3},
        region="box",
        created="2026-11-23T12:00:00+00:00",
    )
    write_record(tmp_path, known, DIAGNOSIS)
    read = read_diagnosis(tmp_path)
    assert read is not None
    assert read.model_copy(update={"digest": ""}) == known
    assert known.map_at_5["mirrored"] is None
    (tmp_path / DIAGNOSIS).write_text('{"schema_version": 1}')
    with pytest.raises(WhalebenchError, match=r"diagnosis\.json is damaged at map_at_5.*explain .* --force"):
        read_diagnosis(tmp_path)


def test_regions_that_are_unknown_cover_nothing(photos: Photos) -> None:
    unknown = Regions(photos, np.full((4, 4), np.nan, np.float32), np.full(4, "none"))
    assert unknown.shares(np.arange(4), SIZE).sum() == 0
    hidden = replace(photos, annotations=None)
    assert torch.equal(pixels_of(hidden.through(PaintedOver(unknown, "animal"))), pixels_of(photos))
