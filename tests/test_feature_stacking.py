"""The stackers on features: what they mix, what they learn from, and what they refuse."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import SCORES, WEIGHTS, read_arrays, read_record, write_scores
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles import feature_stacking
from whalebench.benchmarks.ensembles.feature_stacking import (
    CLASSIFIERS,
    FittedClassifier,
    LogisticFeatures,
    TreeFeatures,
)
from whalebench.benchmarks.ensembles.members import FoldData, FusionTask
from whalebench.benchmarks.ensembles.options import Options
from whalebench.benchmarks.ensembles.rules import fuse_members
from whalebench.benchmarks.ensembles.stacking import Projection
from whalebench.methods.parts.fusion import log_probabilities
from whalebench.tests.ensembling import Embeddings, combine, fold_of, make_run, members_of, split_tiny

Cli = Callable[..., Any]
NEVER = 10**15


def features(fold: FoldData, seed: int, noise: float) -> Embeddings:
    """Of valid and test: a centre of each individual and so much noise; of new photos noise alone."""
    rng = np.random.default_rng(seed)
    centres = dict(zip(fold.identities, np.eye(len(fold.identities)), strict=True))
    size = len(fold.identities)
    return {
        part: np.array(
            [centres.get(truth, np.zeros(size)) + noise * rng.normal(size=size) for truth in named],
            np.float32,
        )
        for part, named in (("valid", fold.valid.truth), ("test", fold.test.truth))
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Workspace) -> Workspace:
    """`tiny` with a large valid part; two runs whose features tell all, and two whose scores tell more."""
    workspace = split_tiny(tmp_path_factory.mktemp("features"), shared_tiny, valid_share=0.5)
    make_run(workspace, "plain", 0.0, 3)
    fold = fold_of(workspace)
    for seed, name in enumerate(("telling", "telling2", "idle", "idle2")):
        quality, noise = (1.0, 9.0) if name.startswith("idle") else (0.0, 0.05)
        make_run(workspace, name, quality, seed, embeddings=features(fold, seed, noise))
    return workspace


@pytest.fixture
def place(template: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to write into."""
    shutil.copytree(template.root, tmp_path / "workspace")
    return Workspace.open(tmp_path / "workspace")


@pytest.mark.parametrize(("rule", "arrays"), [("logistic-features", "lines"), ("lightgbm-features", "trees")])
def test_features_that_tell_are_believed(place: Workspace, rule: str, arrays: str) -> None:
    record = combine(place, "telling", "telling2", rule=rule).record
    mean = combine(place, "telling", "telling2").record
    assert record.chosen["share"] > 0.5
    assert record.metrics["map_at_5"] > mean.metrics["map_at_5"] + 0.1
    assert record.metrics["log_loss"] < mean.metrics["log_loss"]
    losses = record.calibration
    assert losses["out_of_fold_log_loss"] < mean.calibration["out_of_fold_log_loss"]
    assert losses["train_log_loss"] < losses["out_of_fold_log_loss"]
    names = (arrays, "mean", "scale", "columns", "weights")
    learned, lineage = read_arrays(place.runs / record.run / WEIGHTS, names, "lineage")
    assert set(learned) == set(names)
    assert len(lineage["stacker"]) == len(fold_of(place).valid.images)
    assert any("valid photos" in warning for warning in record.warnings)


@pytest.mark.parametrize("rule", CLASSIFIERS)
def test_idle_features_change_nothing_and_the_panic_is_in_the_record(place: Workspace, rule: str) -> None:
    """The classifier knows noise by heart, and is not believed: its two losses stand side by side."""
    record = combine(place, "idle", "idle2", rule=rule).record
    mean = combine(place, "idle", "idle2").record
    trained, aside = (record.calibration[f"classifier_{key}_log_loss"] for key in ("train", "out_of_fold"))
    if rule == "logistic-features":  # forty rounds of trees do not come as far
        assert trained < aside - 0.2
    assert record.chosen["share"] <= 0.3
    assert record.calibration["out_of_fold_log_loss"] <= mean.calibration["out_of_fold_log_loss"]
    if record.chosen["share"] == 0:
        assert record.metrics == mean.metrics


class Says:
    """A classifier that says the same of every photo."""

    def __init__(self, *probabilities: float) -> None:
        self.logs = np.log(np.array(probabilities))

    def logits(self, features: NDArray[np.float64], choice: float) -> NDArray[np.float64]:
        return np.tile(self.logs, (len(features), 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_only_the_individuals_that_valid_shows_are_dealt_anew(share: float) -> None:
    fitted = FittedClassifier(Says(0.75, 0.25), np.array([1, 3]))  # type: ignore[arg-type]
    base = np.random.default_rng(1).normal(2, 1, (4, 5)).astype(np.float32)
    found = fitted.mix(base, np.zeros((4, 2)), 1.0, share)
    assert found is not base
    np.testing.assert_array_equal(found[:, [0, 2, 4]], base[:, [0, 2, 4]])
    mass = np.exp(base[:, [1, 3]].astype(np.float64))
    slow = (1 - share) * mass + share * mass.sum(axis=1, keepdims=True) * [0.75, 0.25]
    np.testing.assert_allclose(np.exp(found[:, [1, 3]]), slow, rtol=1e-5)
    own = np.array([0, 1, 3, 4])
    logs = fitted.target_logs(base, np.zeros((4, 2)), own, 1.0)
    mixed = log_probabilities(found)[np.arange(4), own]
    loss = feature_stacking.mix_log_loss(logs, share)
    assert loss == pytest.approx(-mixed.mean(), rel=1e-5)


def test_what_is_tried_was_in_another_encounter(template: Workspace) -> None:
    fold = fold_of(template)
    groups = np.array([*fold.valid_groups[:-1], fold.valid_groups[0]])
    splits = fold.cross_validation(0, groups.tolist())
    for fit, rest in splits:
        assert not set(groups[fit]) & set(groups[rest])
    assert sorted(np.concatenate([rest for _, rest in splits])) == list(range(len(groups)))
    encounters = fold.benchmark.catalog.table.set_index("image")["encounter"]
    assert len(set(fold.valid_groups)) == len(set(encounters.loc[list(fold.valid.images)]))


def test_valid_is_scored_by_what_was_learned_without_it(template: Workspace) -> None:
    """Another name for one photo changes no score of its own, but some of photos it was learned from for."""
    fold, members = members_of(template, "telling", "telling2")
    fit, rest = fold.cross_validation(0, fold.valid_groups)[0]
    photo = rest[fold.valid_labels[rest] >= 0][0]
    identity = (fold.valid_labels[photo] + 1) % len(fold.identities)
    truth = list(fold.valid.truth)
    truth[photo] = fold.identities[identity]
    lied = replace(fold, valid=replace(fold.valid, truth=tuple(truth)))
    # The same parts, and the same mean: what differs is what the classifier is told of the photo.
    mean = fuse_members("mean", FusionTask(members, fold, weights=np.full(2, 0.5)))
    both = [
        feature_stacking.stack_features(FusionTask(members, one), mean, LogisticFeatures)
        for one in (fold, lied)
    ]
    assert both[0].chosen == both[1].chosen
    np.testing.assert_array_equal(both[0].valid[photo], both[1].valid[photo])
    assert (both[0].valid[fit] != both[1].valid[fit]).any()


@pytest.mark.parametrize("rule", ["mean", "pairs", *CLASSIFIERS])
def test_features_of_train_are_refused(place: Workspace, rule: str) -> None:
    """Those that the run was fitted on, passed off as those of valid: the seed's train log loss of 0."""
    record = read_record(place.runs / "telling")
    fold = fold_of(place)
    parts = fold.benchmark.split.parts(record.fold)
    arrays, names = read_arrays(
        place.runs / "telling" / SCORES,
        ("valid_scores", "test_scores", "valid_embeddings", "test_embeddings"),
        "names",
    )
    count = len(parts.valid)
    write_scores(place.runs / "telling", arrays, names | {"valid": list(parts.train[:count])})
    with pytest.raises(
        WhalebenchError, match=r"telling gives features of \d+ photo.* train log loss of nearly 0"
    ):
        combine(place, "telling", "idle", rule=rule)


def test_what_cannot_be_learned_is_a_sentence(place: Workspace, cli: Cli) -> None:
    fold = fold_of(place)
    broken = features(fold, 1, 0.1)
    broken["test"][0, 0] = np.nan
    make_run(place, "broken", 0.0, 7, embeddings=broken)
    short = {name: each[:, : 6 if name == "valid" else 5] for name, each in features(fold, 1, 0.1).items()}
    make_run(place, "uneven", 0.0, 8, embeddings=short)
    make_run(
        place, "cut", 0.0, 9, embeddings={name: each[:-1] for name, each in features(fold, 1, 0.1).items()}
    )
    for other, more, said in (
        ("plain", (), "keeps no features of valid and test"),
        ("uneven", (), "keeps no features of valid and test"),
        ("broken", (), "Features of broken are not finite"),
        ("cut", (), "cut keeps"),
        ("telling2", ("--pca", "13"), "--pca 13 components cannot be had of 12 features"),
    ):
        arguments = ("ensemble", "telling", other, "--rule", "logistic-features", *more)
        answer = cli(*arguments, "--workspace", place.root)
        assert (answer.code, said in answer.err) == (2, True), answer.err
    assert not list(place.runs.glob("ensemble-*"))


def test_individuals_met_once_are_too_few(template: Workspace) -> None:
    fold, members = members_of(template, "telling", "telling2")
    once, seen = [], set()
    for truth in fold.valid.truth:
        once.append("new" if truth in seen else truth)
        seen.add(truth)
    alone = replace(fold, valid=replace(fold.valid, truth=tuple(once)))
    with pytest.raises(WhalebenchError, match="none of them in two encounters"):
        fuse_members("logistic-features", FusionTask(members, alone))


def test_trees_and_memory_are_counted_first(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("something was learned")

    monkeypatch.setattr(LogisticFeatures, "fit", never)
    monkeypatch.setattr(TreeFeatures, "fit", never)
    monkeypatch.setattr(TreeFeatures, "most_trees", 1439)  # 6 individuals, 40 rounds, 6 times over
    with pytest.raises(WhalebenchError, match="1,440 trees would be grown, more than 1,439"):
        combine(place, "telling", "idle", rule="lightgbm-features")
    monkeypatch.setattr(TreeFeatures, "most_trees", NEVER)
    monkeypatch.setattr(feature_stacking, "free_memory", lambda: 1000)
    for rule in CLASSIFIERS:
        with pytest.raises(WhalebenchError, match="to learn them from 12 features takes about"):
            combine(place, "telling", "idle", rule=rule)


def test_components_are_those_of_the_photos_learned_from(place: Workspace) -> None:
    made = combine(place, "telling", "telling2", rule="logistic-features", options=Options(pca=3))
    assert made.record.config["pca"] == 3
    assert made.record.run != combine(place, "telling", "telling2", rule="logistic-features").record.run
    learned, _ = read_arrays(made.folder / WEIGHTS, ("components", "lines"), "lineage")
    assert learned["components"].shape == (3, 12)
    assert learned["lines"].shape == (6, 4)
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=(20, 4)) * [1, 50, 1, 1] + 3
    turned = Projection(drawn, 2)(drawn)
    standard = (drawn - drawn.mean(axis=0)) / drawn.std(axis=0)
    _, vectors = np.linalg.eigh(standard.T @ standard)
    np.testing.assert_allclose(np.abs(turned), np.abs(standard @ vectors[:, ::-1][:, :2]), atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3])
def test_lines_are_those_of_all_features_where_photos_are_few(classes: int) -> None:
    """Turned to as many components as there are photos, L2 says the same."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    drawn, labels = rng.normal(size=(9, 30)), np.arange(9) % classes
    ours = LogisticFeatures(0, None)
    ours.fit(drawn, labels)
    assert ours.arrays(1.0)["lines"].shape == (classes, 10)
    standard = (drawn - drawn.mean(axis=0)) / drawn.std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(standard, labels)
    other = (rng.normal(size=(4, 30)) - drawn.mean(axis=0)) / drawn.std(axis=0)
    found = log_probabilities(ours.logits(other * drawn.std(axis=0) + drawn.mean(axis=0), 1.0))
    np.testing.assert_allclose(found, theirs.predict_log_proba(other), atol=2e-3)
