"""Viewpoints: who is told them, a gallery of the same side, and what is said of sides."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from whalebench.benchmarks.core.photos import UNKNOWN
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.record import (
    BY_SIDE,
    RunRecord,
    read_predictions,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import Benchmark, load_benchmark, make_split
from whalebench.benchmarks.running import restored, runner
from whalebench.benchmarks.running.folds import answers_of, fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.methods.arcface import ArcFaceConfig
from whalebench.methods.ensemble import EnsembleConfig
from whalebench.methods.method import MethodConfig
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig, Rule
from whalebench.methods.registry import configure, find_method
from whalebench.methods.siamese import Siamese, SiameseConfig
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics import sides as by_side
from whalebench.reports.metrics.jackknife import paired_difference
from whalebench.reports.metrics.sides import SideView, precision_by_side, sides
from whalebench.reports.tracks import tracks
from whalebench.reports.writers import to_markdown
from whalebench.tests.pages import page_of
from whalebench.tests.sided import NearestPixels, draw_sided

LEFT, RIGHT = 0, 1
WINDOW = ("size=32x48", "crop=window", "window=0.12,0.12,0.88,0.88", "crop_source=32x48")


# --- the gallery


@pytest.fixture
def gallery() -> dict[str, Any]:
    """Five individuals, the last but one of which was seen from the right only, the last from nowhere."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(5), 6)
    viewpoints = rng.choice([LEFT, RIGHT, UNKNOWN], 30, p=[0.45, 0.45, 0.1])
    viewpoints[:2], viewpoints[labels == 3], viewpoints[labels == 4] = (LEFT, RIGHT), RIGHT, UNKNOWN
    embeddings, query = (rng.normal(size=(rows, 8)).astype(np.float32) for rows in (30, 9))
    return {"embeddings": embeddings, "labels": labels, "viewpoints": viewpoints, "query": query}


def fitting(viewpoints: NDArray[np.int64], labels: NDArray[np.int64], side: int) -> list[int]:
    """Photo by photo: those of that side or of none, and those of individuals without either."""
    if side == UNKNOWN:
        return list(range(len(labels)))
    fits = [viewpoint in (side, UNKNOWN) for viewpoint in viewpoints]
    having = {label for label, fit in zip(labels, fits, strict=True) if fit}
    return [row for row, label in enumerate(labels) if fits[row] or label not in having]


@pytest.mark.parametrize("rule", get_args(Rule))
def test_a_query_is_compared_with_photos_of_its_own_side(gallery: dict[str, Any], rule: Any) -> None:
    asked = np.array([LEFT, RIGHT, UNKNOWN] * 3)
    config = GalleryConfig(rule=rule, neighbours=4, side="same")
    sided = Gallery(config)
    sided.fill(gallery["embeddings"], gallery["labels"], 6, gallery["viewpoints"])
    found = sided.scores(gallery["query"], asked)
    for row, side in enumerate(asked):
        rows = fitting(gallery["viewpoints"], gallery["labels"], side)
        alone = Gallery(GalleryConfig(rule=rule, neighbours=4))
        alone.fill(gallery["embeddings"][rows], gallery["labels"][rows], 6)
        assert found[row].tolist() == alone.scores(gallery["query"][[row]])[0].tolist()
    plain = Gallery(GalleryConfig(rule=rule, neighbours=4))
    plain.fill(gallery["embeddings"], gallery["labels"], 6, gallery["viewpoints"])
    everyone = plain.scores(gallery["query"], asked)
    assert (everyone[asked == UNKNOWN] == found[asked == UNKNOWN]).all()
    assert (everyone[asked == LEFT] != found[asked == LEFT]).any()
    again = Gallery(config, 6)
    again.load_state_dict(sided.state_dict())
    assert (again.scores(gallery["query"], asked) == found).all()
    assert "viewpoints" not in plain.state_dict()


def test_a_pair_head_compares_with_the_same_side_only(
    gallery: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SiameseConfig(form="pair_head", dimensions=8, gallery=GalleryConfig(side="same"))
    method = Siamese(config)
    method.loss = method._loss().eval()
    method.gallery.fill(gallery["embeddings"], gallery["labels"], 5, gallery["viewpoints"])
    monkeypatch.setattr(method, "features", lambda photos: photos.query)

    class Asked:
        query, viewpoints = gallery["query"][:3], np.array([LEFT, RIGHT, UNKNOWN])

        def __len__(self) -> int:
            return 3

    found = method.score(Asked())  # type: ignore[arg-type]
    rows = fitting(gallery["viewpoints"], gallery["labels"], LEFT)
    method.gallery.fill(gallery["embeddings"][rows], gallery["labels"][rows], 5)
    assert found[0] == pytest.approx(method.score(Asked())[0], abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        ArcFaceConfig(gallery=GalleryConfig(side="same")),
        EnsembleConfig(members="softmax+triplet", member_settings="triplet:gallery.side=same"),
        configure(find_method("sift"), ("by=arcface", "shortlist=2", "by_settings=gallery.side=same")),
        configure(find_method("pseudo"), ("of=arcface", "of_settings=gallery.side=same")),
        configure(find_method("happywhale-26th"), ("gallery.side=same",)),
        configure(find_method("frozen"), ("gallery.side=same",)),
    ],
    ids=lambda config: type(config).__name__,
)
def test_whatever_holds_such_a_gallery_asks_for_viewpoints(config: MethodConfig) -> None:
    assert config.sees_viewpoints()
    assert not type(config)().sees_viewpoints()


NETWORK = ("backbone=test_resnet", "size=16x24", "batch_size=8")
MEMBERS = "member_settings=backbone=test_resnet,size=16x24,epochs=0,gallery.side=same"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """The same animals, but four, and four photos each time."""
    folder = tmp_path_factory.mktemp("few")
    workspace = Workspace.open(folder / "workspace")
    source = draw_sided(folder / "source", individuals=4, photos=4)
    import_csv(source, "few", workspace)
    make_split("few", workspace, folds=3, valid_share=0.3)
    return load_benchmark("few", workspace)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("arcface", (*NETWORK, "epochs=0", "photo_weight=1")),
        ("arcface", (*NETWORK, "epochs=2", "schedule.cycles=2", "schedule.joined=embeddings")),
        ("siamese", (*NETWORK, "epochs=0", "form=pair_head")),
        ("frozen", ("backbone=test_resnet", "size=16x24", "pretrained=none")),
        ("happywhale-26th", (*NETWORK, "scale=small", "epochs=0", "crop=none", "gallery.rule=nearest")),
        ("ensemble", ("members=triplet+triplet", "rule=knn", MEMBERS)),
    ],
)
def test_every_method_with_a_gallery_goes_by_the_side(
    few: Benchmark, method: str, settings: tuple[str, ...]
) -> None:
    own = () if method == "ensemble" else ("gallery.side=same",)
    kind = find_method(method)
    config = configure(kind, (*settings, *own))
    views = fold_views(few, 0, viewpoints=config.sees_viewpoints())
    made = build_method(kind, config)
    harness = RunHarness(0, torch.device("cpu"), views, SILENT, config)
    harness.seed_everything()
    harness.fit(made)
    told = views.queries()["test"]
    assert told.viewpoints is not None
    scores, others = (
        made.score(replace(told, viewpoints=viewpoints)) for viewpoints in (told.viewpoints, None)
    )
    assert (scores != others).any(axis=1).mean() > 0.5
    assert (scores <= others + 1e-5).all()  # the best of fewer photos


# --- a benchmark of animals with two sides


@pytest.fixture(scope="module")
def sided(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with twelve drawn animals, met three times each, twenty photos every time."""
    folder = tmp_path_factory.mktemp("sided")
    workspace = Workspace.open(folder / "workspace")
    import_csv(draw_sided(folder / "source"), "sided", workspace)
    make_split("sided", workspace, folds=3, valid_share=0.3)
    return workspace


@pytest.fixture(scope="module")
def pixels() -> Iterator[None]:
    """The method of this test, as if it were installed."""
    with pytest.MonkeyPatch.context() as patch:
        for place in (runner, restored):
            patch.setattr(place, "find_method", {"nearest-pixels": NearestPixels}.__getitem__)
        yield


def tried(workspace: Workspace, benchmark: str, *settings: str) -> RunRecord:
    request = runner.RunRequest("nearest-pixels", benchmark, settings=settings, device="cpu")
    return runner.run(request, workspace)


@pytest.fixture(scope="module")
def runs(sided: Workspace, pixels: None) -> dict[str, RunRecord]:
    """The animal cut out, with a gallery of all sides, of the same, on the twin; and whole photos there."""
    return {
        "all": tried(sided, "sided", *WINDOW),
        "same": tried(sided, "sided", *WINDOW, "gallery.side=same"),
        "twin": tried(sided, "sided@twin", *WINDOW),
        "whole": tried(sided, "sided@twin", "size=32x48"),
    }


def test_viewpoints_are_told_to_who_asks_and_to_nobody_else(sided: Workspace) -> None:
    benchmark = load_benchmark("sided", sided)
    plain, told = (fold_views(benchmark, 0, viewpoints=asked) for asked in (False, True))
    assert all(getattr(plain, part).viewpoints is None for part in ("train", "valid", "test"))
    assert not plain.usage.usage({}, "").annotations
    truth = benchmark.catalog.table.set_index("image")["viewpoint"]
    for part, images in benchmark.split.parts(0)._asdict().items():
        photos = getattr(told, part)
        assert photos.viewpoints.tolist() == [("left", "right").index(truth[image]) for image in images]
        chosen = photos.bare().select([3, 1])
        assert chosen.labels is None and chosen.viewpoints.tolist() == photos.viewpoints[[3, 1]].tolist()
    assert told.test.labels is None and told.queries()["test"].viewpoints is not None
    counted = told.usage.usage({}, "").annotations
    assert counted == {"viewpoint": {part: len(getattr(told, part)) for part in ("train", "valid", "test")}}


def test_the_same_side_is_not_worse_and_the_other_is_worth_a_guess(
    sided: Workspace, runs: dict[str, RunRecord]
) -> None:
    queries = {name: read_predictions(sided.runs / record.run) for name, record in runs.items()}
    lead = paired_difference(queries["same"], queries["all"])
    assert lead.value > 0 and lead.low > -0.01
    (found,) = sides(queries["all"])
    assert (found.photos, found.individuals) == (240, 12)
    assert found.metrics["same_side_low"] > 0.6
    assert found.metrics["other_side_low"] < found.guess < found.metrics["other_side_high"] < 0.5
    assert found.metrics["lead_low"] > 0.3 and not found.alike
    # By the nearest photo alone the diagnosis of the same side is the score of such a gallery.
    assert found.metrics["same_side"] == pytest.approx(runs["same"].metrics["map_at_5"])
    (whole,) = sides(queries["whole"])
    assert whole.alike and whole.metrics["other_side"] > 0.9


def test_what_encounters_in_train_add_is_above_nothing(sided: Workspace, runs: dict[str, RunRecord]) -> None:
    board = leaderboard(sided.runs, "sided")
    (inflation,) = (one.inflation for one in board.tables[0].contestants if one.inflation is not None)
    assert inflation.low > 0.05 and inflation.value > 0.1
    gained = runs["twin"].metrics["map_at_5"] - runs["all"].metrics["map_at_5"]
    assert inflation.value == pytest.approx(gained)


def test_a_run_that_was_told_the_side_is_of_a_track_of_its_own(runs: dict[str, RunRecord]) -> None:
    words = tracks([runs["all"], runs["same"]])
    assert "viewpoints of train + valid + test" in words[runs["same"].run]
    assert "viewpoint" not in words[runs["all"].run]
    assert not runs["same"].oracle and runs["same"].usage.annotations["viewpoint"]["test"] == 240


def test_a_restored_run_knows_the_sides_of_its_gallery(sided: Workspace, runs: dict[str, RunRecord]) -> None:
    found = restored.restore_run(runs["same"].run, sided)
    assert len(found.scores) == 240


def test_scores_by_side_are_shown_and_on_the_page(
    sided: Workspace, runs: dict[str, RunRecord], cli: Any
) -> None:
    asked = runs["all"].run, "--workspace", sided.root
    document = json.loads(cli("show", *asked, "--json").out)
    names = {(bucket["by"], bucket["name"]) for bucket in document["buckets"]}
    assert {("viewpoint", "left"), ("viewpoint", "right"), ("side_seen", "seen")} <= names
    assert document["sides"][0]["metrics"]["other_side"] < 0.5
    shown = " ".join(cli("show", *asked).out.split())
    assert "side seen in train" in shown and "By photos of the same side, and of others" in shown
    assert "find the individual as well" not in shown
    whole = cli("show", runs["whole"].run, "--workspace", sided.root)
    assert "find the individual as well" in " ".join(whole.out.split())
    board = leaderboard(sided.runs, "sided", closely=True)
    page = page_of(board)
    assert "were told from which side" in to_markdown(board)
    assert "Same side and other side, fold 0" in page and "MAP@5 by side in train, fold 0" in page


def test_a_method_that_asks_does_not_fit_where_there_are_no_viewpoints(tiny: Workspace, pixels: None) -> None:
    record = tried(tiny, "tiny", "size=32x48", "gallery.side=same")
    assert record.unfit == "tiny has no viewpoints in train"
    plain = tried(tiny, "tiny", "size=32x48")
    assert not set(BY_SIDE) & set(pd.read_parquet(tiny.runs / plain.run / "predictions.parquet"))


# --- numbers


def test_a_side_is_seen_where_train_shows_the_individual_from_it() -> None:
    def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
        columns = ["image", "identity", "viewpoint"]
        return pd.DataFrame(rows, columns=columns).assign(encounter="", species="")

    train = table(("a", "ann", "left"), ("b", "bob", "left"), ("c", "bob", ""), ("d", "", "right"))
    asked = [("ann", "left"), ("ann", "right"), ("ann", ""), ("bob", "left"), ("bob", "right")]
    asked += [("eve", "left"), ("", "right")]
    part = table(*((f"q{place}", *each) for place, each in enumerate(asked)))
    traits = answers_of(part, train, ("ann", "bob"), {image: image for image in part["image"]}).traits
    assert traits is not None
    seen = [None if math.isnan(value) else value for value in traits["side_seen"]]
    # Of bob a photo without a viewpoint may show the right; of eve and nobody train has no photo.
    assert seen == [1.0, 0.0, None, 1.0, None, None, None]


def test_precision_by_side_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    names, views = np.array(list("abcdefg")), np.array(["left", "right", "front", ""])
    query, gallery = (
        SideView(
            rng.normal(size=(count, 5)).astype(np.float32),
            rng.choice([*names, "new"] if count == 40 else names, count).tolist(),
            rng.choice(views, count).tolist(),
        )
        for count in (40, 60)
    )
    found = precision_by_side(query, gallery)
    assert list(found) == [*BY_SIDE] == [by_side.SAME, by_side.OTHER, by_side.GUESS]
    for row, (photo, name, view) in enumerate(zip(*query, strict=True)):
        near = gallery.embeddings @ photo / np.linalg.norm(gallery.embeddings, axis=1)
        best: list[dict[str, float]] = [{}, {}]
        for value, other, from_where in zip(near, *gallery[1:], strict=True):
            if from_where:
                side = best[from_where != view]
                side[other] = max(value, side.get(other, -9.0))
        both = best[0].keys() & best[1].keys()
        if not view or name not in both:
            assert found.loc[row].isna().all()
            continue
        for column, side in zip(BY_SIDE, best, strict=False):
            rank = 1 + sum(side[other] > side[name] for other in both)
            assert found[column][row] == pytest.approx(1 / rank if rank <= 5 else 0)
        worth = sum(1 / place for place in range(1, min(5, len(both)) + 1)) / len(both)
        assert found[BY_SIDE[2]][row] == pytest.approx(worth)
    assert 5 < found[BY_SIDE[0]].notna().sum() < 40


def test_sides_that_cannot_be_compared_are_none() -> None:
    one = SideView(np.ones((2, 3), np.float32), ["a", "b"], ["left", "left"])
    nothing = precision_by_side(one, one)
    assert nothing.isna().all(axis=None)
    assert sides(nothing.assign(cluster=["a", "b"])) == []


def test_a_benchmark_says_what_is_seen_from_where(tmp_path: Path, cli: Any) -> None:
    source = draw_sided(tmp_path / "source", individuals=4, encounters=1, photos=4)
    table = pd.read_csv(source)
    table.loc[table["identity"] == "nyala01", "viewpoint"] = "left"
    table.loc[table["identity"] == "nyala02", "viewpoint"] = ["left", "", "left", ""]
    table.loc[table["identity"] == "nyala03", "viewpoint"] = ""
    table.to_csv(source, index=False)
    workspace = Workspace.open(tmp_path / "workspace")
    import_csv(source, "sided", workspace)
    shown = json.loads(cli("data", "show", "sided", "--json", "--workspace", workspace.root).out)
    assert shown["viewpoints"] == (
        "left (8 photos of 3 individuals), right (2 photos of 1 individuals), "
        "not given (6 photos of 2 individuals)"
    )
    assert shown["individuals from one viewpoint only"] == 1
    assert (
        "individuals from one viewpoint only"
        in cli("data", "show", "sided", "--workspace", workspace.root).out
    )
