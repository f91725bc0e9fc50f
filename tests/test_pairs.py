"""The rule `pairs`: what is known of two photos, against slow twins, and no way for an answer to leak in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from whalebench import MissingError, WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.benchmarks.core.record import RECORD, WEIGHTS, read_arrays
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles import local_matches, pairs
from whalebench.benchmarks.ensembles.local_matches import LocalMatches
from whalebench.benchmarks.ensembles.members import FoldData, FusionResult, FusionTask
from whalebench.benchmarks.ensembles.options import RULES, Options
from whalebench.benchmarks.ensembles.pairs import (
    NEAREST,
    Pairs,
    capture_differences,
    capture_metadata,
    day_of,
    nearest,
)
from whalebench.benchmarks.ensembles.rules import fuse_members
from whalebench.benchmarks.ensembles.stacking import full_scores
from whalebench.methods.parts import keypoints
from whalebench.tests.ensembling import (
    change_lineage,
    combine,
    embedded,
    fold_of,
    make_run,
    members_of,
    split_tiny,
)

Cli = Callable[..., Any]
EMBEDDED = ("one", "two")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Workspace) -> Workspace:
    """A workspace with `tiny`, a large valid part, two runs with a gallery, and one with scores only."""
    workspace = split_tiny(tmp_path_factory.mktemp("pairs"), shared_tiny)
    make_run(workspace, "plain", 0.3, 3)
    fold = fold_of(workspace)
    for seed, name in enumerate(EMBEDDED):
        make_run(workspace, name, 0.3, seed, embeddings=embedded(fold, seed))
    return workspace


@pytest.fixture
def place(template: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to write into."""
    shutil.copytree(template.root, tmp_path / "workspace")
    return Workspace.open(tmp_path / "workspace")


def altered(fold: FoldData, **columns: Any) -> FoldData:
    """The ground with other columns in its catalog."""
    catalog = fold.benchmark.catalog
    changed = Catalog(catalog.name, catalog.table.assign(**columns), catalog.digest)
    return replace(fold, benchmark=replace(fold.benchmark, catalog=changed))


def described(fold: FoldData) -> FoldData:
    """The ground with a size, a date and a side for most photos."""
    rng, photos = np.random.default_rng(4), len(fold.benchmark.catalog.table)
    dates = [f"2024-05-{day:02d}" if day else "" for day in rng.integers(0, 28, photos)]
    return altered(
        fold,
        width=rng.integers(20, 60, photos),
        height=rng.integers(20, 60, photos),
        date=dates,
        viewpoint=rng.choice(["left", "right", ""], photos),
    )


def everything(made: FusionResult) -> list[bytes]:
    """All that an ensemble knows, but its metrics."""
    arrays = [made.valid, made.test, *(made.learned[name] for name in sorted(made.learned))]
    return [array.tobytes() for array in arrays] + [json.dumps(made.chosen).encode()]


def test_pairs_leave_a_whole_run(place: Workspace, cli: Cli) -> None:
    answer = cli("ensemble", "one", "plain", "--rule", "pairs", "--json", "--workspace", place.root)
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["config"]["rule"] == "pairs"
    assert set(document["config"]) == {"rule", "weights", "members", "new_rule", "new_share"}
    assert document["chosen"]["trees"] in (10, 25, 50, 100, 200)
    assert document["calibration"]["train_log_loss"] < document["calibration"]["out_of_fold_log_loss"]
    arrays, lineage = read_arrays(place.runs / document["run"] / WEIGHTS, ("trees", "features"), "lineage")
    import lightgbm

    booster = lightgbm.Booster(model_str=arrays["trees"].tobytes().decode())
    names = arrays["features"].tobytes().decode().splitlines()
    assert booster.num_feature() == len(names) == 8 + 1 + 1 + 6
    assert names[8:10] == ["cosine by one", "photos in the gallery"]
    assert len(lineage["stacker"]) == 10


def test_a_pair_says_what_is_known_of_its_two_photos(place: Workspace) -> None:
    fold, members = members_of(place, "one", "plain", "two")
    fold = described(fold)
    said = Pairs(FusionTask(members, fold))
    found, candidates = said.gather("test"), super(Pairs, said).gather("test")
    assert len(found.features) > len(candidates.features)
    table = fold.benchmark.catalog.table.set_index("image")
    names = list(found.names)
    cosines = {name: place for place, name in enumerate(names) if name.startswith("cosine")}
    assert list(cosines) == ["cosine by one", "cosine by two"]
    seen: dict[tuple[int, int], list[int]] = {}
    embeddings = [embedded(fold, seed) for seed in range(2)]
    for row in range(len(found.features)):
        photo, column = int(found.photos[row]), int(found.columns[row])
        values = dict(zip(names, found.features[row], strict=True))
        # Which photo of the gallery it is, is told by its cosines.
        slow = np.array(
            [
                [
                    float(one["test"][photo] @ other)
                    / np.linalg.norm(one["test"][photo])
                    / np.linalg.norm(other)
                    for one, other in zip(embeddings, both, strict=True)
                ]
                for both in zip(*(one["gallery"] for one in embeddings), strict=True)
            ]
        )
        own = found.features[row, list(cosines.values())]
        shown = int(np.abs(slow - own).sum(axis=1).argmin())
        np.testing.assert_allclose(slow[shown], own, atol=1e-6)
        assert fold.gallery[shown] == fold.identities[column]
        seen.setdefault((photo, column), []).append(shown)
        query, other = table.loc[fold.test.images[photo]], table.loc[fold.gallery_images[shown]]
        assert values["photos in the gallery"] == fold.gallery.count(fold.identities[column])
        ratios = [np.log(query[side] / other[side]) for side in ("width", "height")]
        assert values["log width"] == pytest.approx(ratios[0])
        assert values["log area"] == pytest.approx(sum(ratios))
        assert values["log aspect"] == pytest.approx(ratios[0] - ratios[1])
        known = bool(query["date"] and other["date"])
        days = abs(int(query["date"][8:]) - int(other["date"][8:])) if known else np.nan
        np.testing.assert_equal(values["days between"], days)
        sides = query["viewpoint"], other["viewpoint"]
        np.testing.assert_equal(
            values["same viewpoint"], float(sides[0] == sides[1]) if all(sides) else np.nan
        )
        whose = (candidates.photos == photo) & (candidates.columns == column)
        np.testing.assert_array_equal(found.features[row, :12], candidates.features[whose][0])
    assert len(seen) == len(candidates.features)
    for (photo, column), shown_photos in seen.items():
        means = np.mean([unit(one["test"][photo]) @ unit(one["gallery"]).T for one in embeddings], axis=0)
        own = [place for place, name in enumerate(fold.gallery) if name == fold.identities[column]]
        assert set(shown_photos) == set(sorted(own, key=lambda place: -means[place])[:NEAREST])


def unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / lengths


def test_of_equally_near_photos_the_first_are_taken() -> None:
    candidate = np.array([1, 0, 0, 0, 0, 1])
    gallery = np.array([9, 4, 2, 7, 3, 8])
    assert nearest(candidate, gallery, np.zeros(6)).tolist() == [2, 4, 1, 5, 0]
    assert nearest(candidate, gallery, np.array([0, 0, 0, 1, 0.5, 0])).tolist() == [3, 4, 2, 5, 0]


def test_an_individual_is_as_likely_as_its_best_pair(place: Workspace) -> None:
    fold, members = members_of(place, "one", "two")
    pairs = Pairs(FusionTask(members, fold))
    shortlist = pairs.gather("valid")
    logits = np.random.default_rng(1).normal(size=len(shortlist.photos))
    scores = full_scores(shortlist, logits, pairs.scores("valid"), pairs.task.temperatures)
    for photo, column in {*zip(shortlist.photos.tolist(), shortlist.columns.tolist(), strict=True)}:
        mine = (shortlist.photos == photo) & (shortlist.columns == column)
        assert scores[photo, column] == pytest.approx(logits[mine].max())


def test_without_embeddings_pairs_go_by_the_rest(place: Workspace) -> None:
    make_run(place, "plainer", 0.3, 8)
    fold, members = members_of(place, "plain", "plainer")
    found = Pairs(FusionTask(members, fold)).gather("valid")
    assert not [name for name in found.names if name.startswith("cosine")]
    assert combine(place, "plain", "plainer", rule="pairs").record.metrics["map_at_5"] is not None


def test_days_are_those_of_dates_that_name_one() -> None:
    assert day_of("2024-03-01") - day_of("2024-02-28") == 2
    assert day_of("2024-03-01T06:00:00+06:00") == day_of("2024-03-01")
    assert np.isnan([day_of(text) for text in ("", "2024", "2024-03")]).all()
    table = pd.DataFrame({"image": ["a", "b"], "width": [0, 4], "height": [3, 4]}).assign(
        date="", viewpoint=["left", ""]
    )
    taken = capture_metadata(table, ["b", "a"])
    assert np.isnan(capture_differences(taken, taken, np.array([0]), np.array([1]))[0, [0, 2, 3, 4, 5]]).all()
    assert capture_differences(taken, taken, np.array([1]), np.array([1]))[0, 5] == 1


def test_local_matches_are_those_of_sift_at_its_defaults(place: Workspace) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: the extra sift")
    from whalebench.benchmarks.running.folds import fold_views
    from whalebench.methods.parts.keypoints import PairGallery, find_all_keypoints
    from whalebench.methods.sift import SiftConfig

    fold, _ = members_of(place, "one", "two")
    config = SiftConfig()
    views = fold_views(fold.benchmark, 0)
    known = views.train.known()
    assert len(known) == len(fold.gallery_images)
    import torch

    gallery = PairGallery(config, torch.device("cpu"))
    few = np.arange(6)
    gallery.fill(find_all_keypoints(known.select(few), config), few)  # each photo an individual
    queries = views.test.select([0, 3])
    slow = gallery.inliers(find_all_keypoints(queries, config), np.ones((2, 6), np.bool_))
    rows, others = np.repeat([0, 1], 6), np.tile([5, 4, 3, 2, 1, 0], 2)
    found = LocalMatches(fold, 1.0).count([fold.test.images[row] for row in (0, 3)], rows, others)
    assert found.max() > 3
    np.testing.assert_array_equal(found, slow[rows, others])


def test_local_matches_tell_who_scores_do_not(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members say next to nothing; the photos of an individual share a pattern."""
    pytest.importorskip("cv2", reason="OpenCV is not installed: the extra sift")
    small = partial(LocalMatches, matching=local_matches.MatchingConfig(size=(80, 96), keypoints=60))
    monkeypatch.setattr(local_matches, "LocalMatches", small)
    for seed, name in enumerate(("noise", "noise2")):
        make_run(place, name, 0.0, 20 + seed)
    without = combine(place, "noise", "noise2", rule="pairs").record
    asked = combine(place, "noise", "noise2", rule="pairs", options=Options(local_matches=True)).record
    assert asked.run != without.run
    assert asked.config["local_matches"] is True
    assert asked.metrics["map_at_5"] > without.metrics["map_at_5"] + 0.2
    assert asked.calibration["out_of_fold_log_loss"] < without.calibration["out_of_fold_log_loss"]


def test_hours_change_no_score_and_so_no_name(place: Workspace) -> None:
    asked = [Options(local_matches=True, hours=hours).settings() for hours in (None, 1.0, 5.0)]
    assert asked == [{"local_matches": True}] * 3


def test_nothing_is_begun_that_would_take_beyond_its_hours(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a photo was looked at")

    pytest.importorskip("cv2", reason="OpenCV is not installed: the extra sift")
    monkeypatch.setattr(local_matches, "find_keypoints", never)
    arguments = ("ensemble", "one", "two", "--rule", "pairs", "--local-matches", "--hours", "1e-6")
    answer = cli(*arguments, "--workspace", place.root)
    assert answer.code == 2
    assert "Local matches would be counted for up to" in answer.err
    assert "--hours 1" in answer.err
    monkeypatch.setattr(local_matches, "free_memory", lambda: 1000)
    with pytest.raises(WhalebenchError, match=r"The key points of .* photos take about"):
        combine(place, "one", "two", rule="pairs", options=Options(local_matches=True))


def test_without_opencv_local_matches_are_missed_at_once(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keypoints, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="OpenCV"):
        combine(place, "one", "two", rule="pairs", options=Options(local_matches=True))
    assert combine(place, "one", "two", rule="pairs").record.metrics["map_at_5"] is not None


def test_the_memory_of_pairs_is_estimated_first(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "free_memory", lambda: 1000)
    with pytest.raises(WhalebenchError, match=r"Up to \d+ pairs of photos with 18 features each"):
        combine(place, "one", "two", rule="pairs")
    fold, members = members_of(place, "one", "two")
    said = Pairs(FusionTask(members, fold))
    most = len(fold.test.images) * said.most_pairs(NEAREST)
    assert len(said.gather("test").photos) <= most


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--local-matches",), "--local-matches means nothing to --rule mean"),
        (("--rule", "lightgbm", "--hours", "3"), "--hours means nothing to --rule lightgbm"),
        (("--rule", "pairs", "--hours", "3"), "add --local-matches"),
        (("--rule", "pairs", "--local-matches", "--hours", "0"), "is no time"),
        (("--rule", "pairs", "--pca", "3"), "--pca means nothing to --rule pairs"),
        (("--rule", "pairs", "--weights", "1,1"), "leave --weights out"),
        (("--rule", "logistic-features", "--pca", "0"), "--pca 0 components are none"),
    ],
)
def test_options_are_heeded_or_refused(
    template: Workspace, cli: Cli, arguments: tuple[str, ...], said: str
) -> None:
    answer = cli("ensemble", "one", "two", *arguments, "--workspace", template.root)
    assert (answer.code, said in answer.err) == (2, True), answer.err


def test_neither_torch_nor_opencv_is_loaded_unasked(place: Workspace) -> None:
    code = (
        "import sys\nfrom whalebench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, [name for name in ('torch', 'cv2') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "ensemble", "one", "two", "--rule", "pairs"]
    answer = subprocess.run(
        [*command, "--workspace", str(place.root)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] in ("0 []", "None []")


@pytest.mark.parametrize("rule", RULES)
def test_the_answers_to_test_change_nothing_but_metrics(template: Workspace, rule: str) -> None:
    """Nor does whom test photos show in the catalog, nor encounters, even where they say who it is."""
    fold, members = members_of(template, *EMBEDDED)
    first = everything(fuse_members(rule, FusionTask(members, fold)))
    table = fold.benchmark.catalog.table
    tested = table["image"].isin(fold.test.images)
    names = table["identity"].where(~tested, "somebody else")
    lied = altered(fold, identity=names, encounter=table["identity"])
    wrong = replace(fold.test, truth=fold.test.truth[::-1], identities=fold.test.identities[::-1])
    assert wrong.truth != fold.test.truth
    assert everything(fuse_members(rule, FusionTask(members, replace(lied, test=wrong)))) == first


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("vote", "knn")])
def test_the_answers_to_valid_change_what_is_learned(template: Workspace, rule: str) -> None:
    """So that the test before this one can fail."""
    fold, members = members_of(template, *EMBEDDED)
    first = everything(fuse_members(rule, FusionTask(members, fold)))
    wrong = replace(fold.valid, truth=fold.valid.truth[::-1])
    assert everything(fuse_members(rule, FusionTask(members, replace(fold, valid=wrong)))) != first


@pytest.mark.parametrize("rule", ["pairs", "logistic-features", "lightgbm-features"])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_member_that_learned_from_valid_or_test_is_refused(place: Workspace, rule: str, part: str) -> None:
    fold, _ = members_of(place, *EMBEDDED)
    stolen = fold.valid_digests if part == "valid" else fold.test_digests
    make_run(place, "leak", 3.0, 5, fitted=stolen[:2], embeddings=embedded(fold, 5, noise=0))
    with pytest.raises(WhalebenchError, match=f"network of leak was fitted on 2 of the {part} photo"):
        combine(place, "one", "leak", rule=rule)


@pytest.mark.parametrize("rule", ["pairs", "knn"])
def test_a_gallery_that_holds_test_photos_is_refused(place: Workspace, rule: str) -> None:
    fold, _ = members_of(place, *EMBEDDED)
    arrays, lineage = read_arrays(place.runs / "two" / WEIGHTS, ("gallery", "labels"), "lineage")
    queries = embedded(fold, 1)["test"]
    own, column = fold.gallery_labels, columns_of(fold.identities)
    truth = np.array([column.get(name, 0) for name in fold.test.truth])

    def plant(gallery: Any, labels: Any, of: list[str]) -> None:
        said = {"network": lineage["network"], "gallery": sorted(of)}
        change_lineage(place.runs / "two", said, gallery=gallery, labels=labels)

    both = np.concatenate([arrays["gallery"], queries]), np.concatenate([own, truth])
    plant(*both, lineage["gallery"])  # more photos than train has
    with pytest.raises(WhalebenchError, match="The gallery of two is not, or does not say that it is, one"):
        combine(place, "one", "two", rule=rule)
    plant(*both, [*lineage["gallery"], *fold.test_digests])  # and says so
    with pytest.raises(WhalebenchError, match=r"The gallery of two was fitted on .* of the test photo"):
        combine(place, "one", "two", rule=rule)
    plant(np.resize(queries, arrays["gallery"].shape), own, [])  # instead of train's, and says nothing
    with pytest.raises(WhalebenchError, match="The gallery of two is not, or does not say that it is, one"):
        combine(place, "one", "two", rule=rule)
    plant(arrays["gallery"], own, lineage["gallery"])
    assert (combine(place, "one", "two", rule=rule).folder / RECORD).is_file()


def test_pairs_that_say_nothing_are_not_believed(place: Workspace) -> None:
    """Noise is learned by heart, and what is said and chosen rests on photos of individuals set aside."""
    fold, _ = members_of(place, *EMBEDDED)
    rng = np.random.default_rng(9)
    for seed, name in enumerate(("noise", "noise2")):
        noise = {
            part: rng.normal(size=each.shape).astype(np.float32) for part, each in embedded(fold, 0).items()
        }
        make_run(place, name, 0.0, 30 + seed, embeddings=noise)
    record = combine(place, "noise", "noise2", rule="pairs").record
    trained, aside = (record.calibration[f"{key}_log_loss"] for key in ("train", "out_of_fold"))
    assert trained < aside
    assert record.valid_metrics["log_loss"] > 1.2  # of six individuals; by chance 1.79


def test_blocks_change_no_pair(template: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    fold, members = members_of(template, "one", "plain", "two")
    at_once = Pairs(FusionTask(members, fold)).gather("test")
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", 11)
    again = Pairs(FusionTask(members, fold)).gather("test")
    np.testing.assert_array_equal(at_once.features, again.features)
    np.testing.assert_array_equal(at_once.columns, again.columns)
