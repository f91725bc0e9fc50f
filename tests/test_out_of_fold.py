"""What bagged members said of train: who may learn from it, and that nobody is told what he knew by heart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.record import read_scores, write_scores
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.embeddings import in_own_space, read_embeddings
from whalebench.benchmarks.ensembles.members import FusionTask, lineage_facts
from whalebench.benchmarks.ensembles.out_of_fold import answers_of_train, read_out_of_fold
from whalebench.methods.parts.fusion import side_by_side
from whalebench.splits.inner import propose_inner_folds
from whalebench.tests.ensembling import change_lineage, combine, fold_of, make_run, members_of, split_tiny

BAGS, WIDTH = 2, 6
STORED = ("valid_scores", "test_scores", "valid_embeddings", "test_embeddings")
OF_TRAIN = ("train_scores", "train_bags", "train_embeddings")
STACKERS = ("logistic", "lightgbm", "pairs", "logistic-features", "lightgbm-features")


def bagged_run(workspace: Workspace, name: str, seed: int, quality: float = 0.9) -> Path:
    """A run as if of two networks, each of which had learned from train without its inner fold."""
    fold, rng = fold_of(workspace), np.random.default_rng(seed)
    benchmark, known = fold.benchmark, fold.train["identity"].to_numpy() != ""
    inner = np.array(list(propose_inner_folds(benchmark.split, benchmark.catalog, 0, BAGS).inner.values()))
    digests, labels = fold.train["content_digest"].to_numpy(), fold.columns(list(fold.train["identity"]))
    centres = rng.normal(size=(BAGS, len(fold.identities) + 1, WIDTH))  # of new photos the last one

    def shown(bag: int, columns: Any) -> Any:
        return normalise((centres[bag, columns] + rng.normal(size=(len(columns), WIDTH))).astype(np.float32))

    def by_all(columns: Any) -> Any:
        return side_by_side([shown(bag, columns) for bag in range(BAGS)])

    of = {"valid": fold.valid_labels, "test": fold.columns(fold.test.truth)}
    embeddings = {part: by_all(columns) for part, columns in of.items()}
    folder = make_run(workspace, name, quality, seed, embeddings=embeddings, config={"bags": BAGS})
    lineage: dict[str, list[str]] = {}
    weights: dict[str, Any] = {}
    for bag in range(BAGS):
        order = np.concatenate(
            [np.flatnonzero(known & (inner != bag)), np.flatnonzero(known & (inner == bag))]
        )
        weights |= {f"{bag}.gallery": shown(bag, labels[order]), f"{bag}.labels": labels[order]}
        for part, rows in {
            "network": inner != bag,
            "gallery": known & (inner != bag),
            "gallery_of_inner_fold": known & (inner == bag),
        }.items():
            lineage[f"bag_{bag + 1}.{part}"] = sorted(set(digests[rows]))
    change_lineage(folder, lineage, **weights)
    held = np.flatnonzero(inner >= 0)
    scores = rng.normal(0, 0.4, (len(held), len(fold.identities))).astype(np.float32)
    is_known = np.flatnonzero(labels[held] >= 0)
    scores[is_known, labels[held][is_known]] += quality
    embedded = np.concatenate([shown(inner[row], labels[[row]]) for row in held])
    arrays, names = read_scores(folder, STORED)
    arrays |= dict(zip(OF_TRAIN, (scores, inner[held], embedded), strict=True))
    write_scores(folder, arrays, names | {"train": list(fold.train.index[held])})
    return folder


@pytest.fixture(scope="module")
def finished(shared_tiny: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two bagged runs."""
    workspace = split_tiny(tmp_path_factory.mktemp("bagged"), shared_tiny)
    for seed, name in enumerate(("one", "two")):
        bagged_run(workspace, name, seed)
    return workspace


@pytest.fixture
def place(finished: Workspace, tmp_path: Path) -> Workspace:
    """The same, to be changed."""
    shutil.copytree(finished.root, tmp_path / "workspace", symlinks=True)
    return Workspace.open(tmp_path / "workspace")


@pytest.mark.parametrize("rule", STACKERS)
def test_a_stacker_learns_from_train_and_says_so(finished: Workspace, rule: str) -> None:
    record = combine(finished, "one", "two", rule=rule).record
    fold, members = members_of(finished, "one", "two")
    train = answers_of_train(FusionTask(members, fold))
    assert train is not None and len(train.images) > 5
    assert not set(fold.train["group"].loc[list(train.images)]) & set(fold.valid_groups)
    assert record.counts["stacker_train_photos"] == len(train.images)
    digests = sorted(set(fold.train["content_digest"].loc[list(train.images)]))
    assert record.lineage["stacker"] == lineage_facts({"": digests})[""]
    (said,) = [each for each in record.warnings if "learned from" in each]
    assert f"learned from {len(train.images)} train photos" in said
    assert set(record.calibration) >= {"train_log_loss", "out_of_fold_log_loss"}


def test_with_one_member_that_is_not_bagged_valid_is_learned_from(place: Workspace) -> None:
    make_run(place, "plain", 0.9, 5)
    record = combine(place, "one", "plain", rule="logistic").record
    assert "stacker_train_photos" not in record.counts
    fold, _ = members_of(place, "one", "plain")
    assert record.lineage["stacker"] == lineage_facts({"": sorted(set(fold.valid_digests))})[""]


def exchanged(folder: Path, what: str) -> None:
    """Two rows of what is kept of train are exchanged between the bags."""
    arrays, names = read_scores(folder, (*STORED, *OF_TRAIN))
    bags = arrays["train_bags"]
    one, other = int(np.flatnonzero(bags == 0)[0]), int(np.flatnonzero(bags == 1)[0])
    if what == "bags":
        bags[[one, other]] = bags[[other, one]]
    else:
        images = names["train"]
        images[one], images[other] = images[other], images[one]
    write_scores(folder, arrays, names)


@pytest.mark.parametrize(
    ("what", "why"), [("bags", "learned from and knows by heart"), ("names", "not a row for each")]
)
def test_rows_exchanged_between_bags_are_refused(place: Workspace, what: str, why: str) -> None:
    exchanged(place.runs / "two", what)
    with pytest.raises(WhalebenchError, match=f"two.*{why}"):
        combine(place, "one", "two", rule="logistic", force=True)


def test_a_network_that_learned_from_its_inner_fold_is_refused(place: Workspace) -> None:
    fold, (_, member) = members_of(place, "one", "two")
    everything = sorted(set(fold.train["content_digest"]))
    change_lineage(place.runs / "two", member.lineage | {"bag_1.finder": everything})
    with pytest.raises(WhalebenchError, match="its network 1 says"):
        combine(place, "one", "two", rule="logistic", force=True)


def test_what_all_networks_share_must_not_have_learned_from_train(place: Workspace) -> None:
    fold, (_, member) = members_of(place, "one", "two")
    shared = member.lineage | {"finder": sorted(set(fold.train["content_digest"]))}
    change_lineage(place.runs / "two", shared)
    with pytest.raises(WhalebenchError, match="knows by heart"):
        combine(place, "one", "two", rule="logistic", force=True)


def test_in_its_own_space_a_photo_has_the_cosines_of_its_network() -> None:
    rng = np.random.default_rng(0)
    blocks = [normalise(rng.normal(size=(4, WIDTH)).astype(np.float32)) for _ in range(BAGS)]
    asked, bags = normalise(rng.normal(size=(3, WIDTH)).astype(np.float32)), np.array([1, 0, 1])
    cosines = in_own_space(asked, bags, BAGS) @ side_by_side(blocks).T
    wanted = [photo @ blocks[bag].T for photo, bag in zip(asked, bags, strict=True)]
    assert np.allclose(cosines, wanted, atol=1e-6)


def test_galleries_of_all_bags_stand_in_the_order_of_train(finished: Workspace) -> None:
    fold, (member, _) = members_of(finished, "one", "two")
    found, read = read_embeddings(member, fold), read_out_of_fold(member, fold)
    assert read is not None and found["gallery"].shape == (len(fold.gallery), BAGS * WIDTH)
    assert (combine(finished, "one", "two", rule="knn").record.metrics["top_1"] or 0) > 0.3
