"""`triplet` on a benchmark in miniature: it learns, counts, validates when asked to, and comes back whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from whalebench import WhalebenchError
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import NEW, Views, fold_views, open_fold
from whalebench.methods.registry import configure
from whalebench.methods.triplet import Triplet
from whalebench.tests.notes import Notes

SMALL = ("backbone=test_resnet", "size=32", "batch_size=8", "photos_per_identity=2", "dimensions=16")


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(views: Views, *settings: str, seed: int = 0) -> tuple[Triplet, Notes]:
    notes = Notes(seed)
    torch.manual_seed(seed)
    method = Triplet(configure(Triplet, (*SMALL, *settings)))  # type: ignore[arg-type]
    method.learn(views.train, views.valid, notes)
    return method, notes


def with_singles(views: Views, singles: int) -> Views:
    """The same with one train photo left of each of the first individuals."""
    known = views.train.known()
    assert known.labels is not None
    first = [int(np.flatnonzero(known.labels == label)[0]) for label in range(singles)]
    return replace(views, train=known.select([*first, *np.flatnonzero(known.labels >= singles)]))


def test_it_learns(views: Views, shared_tiny: Workspace) -> None:
    settings = ("epochs=12", "learning_rate=0.01", "augment=none", "miner=semihard", "ema=0")
    method, notes = learn(views, *settings)
    truths = open_fold(load_benchmark("tiny", shared_tiny), 0).answers["test"].truth
    known = [row for row, truth in enumerate(truths) if truth != NEW]
    own = [views.train.identities.index(truths[row]) for row in known]
    assert (method.score(views.test)[known].argmax(axis=1) == own).mean() > 0.6
    assert notes.epochs[-1].loss < notes.epochs[0].loss


@pytest.mark.parametrize("settings", [("loss=proxy_anchor",), ("memory=32", "miner=batch_hard", "fill=true")])
def test_a_restored_method_is_the_one_that_learned(views: Views, settings: tuple[str, ...]) -> None:
    from safetensors.torch import load, save

    method, _ = learn(views, "epochs=2", *settings)
    weights = {name: value.contiguous().clone() for name, value in method.weights().items()}
    again = Triplet(method.config)
    again.restore(load(save(weights)), views.train.identities, torch.device("cpu"))
    assert np.allclose(again.score(views.test), method.score(views.test), atol=1e-5)
    kept = again.weights()
    assert set(kept) == set(weights)
    assert all(torch.equal(kept[name], weights[name]) for name in weights)


def test_the_memory_that_is_kept_is_the_one_that_was_used(views: Views) -> None:
    """Not the average of memories that the averaged weights come with."""
    method, _ = learn(views, "epochs=2", "memory=16", "warm_up=0.5")
    weights, photos = method.weights(), len(views.train.known())
    steps = -(-photos // 8)
    seen_since_warm_up = photos  # one of two epochs
    assert steps > 1
    assert weights["loss._extra_state"].tolist() == [seen_since_warm_up % 16, int(seen_since_warm_up >= 16)]
    lengths = weights["loss.memory.embedding_memory"].norm(dim=1)
    assert torch.allclose(lengths, torch.ones(16), atol=1e-5)


def test_embeddings_do_not_depend_on_the_other_photos(views: Views) -> None:
    method, _ = learn(views, "epochs=1")
    whole = method.embed(views.test)
    for rows in ([3], [5, 3, 1], list(range(len(views.test)))[::-1]):
        assert np.allclose(method.embed(views.test.select(rows)), whole[rows], atol=1e-5)


@pytest.mark.parametrize(("singles", "seen"), [("alone", 2), ("repeat", 4), ("leave_out", 0)])
def test_an_identity_with_one_photo_neither_crashes_nor_vanishes(
    views: Views, singles: str, seen: int
) -> None:
    few = with_singles(views, 2)
    method, notes = learn(few, "epochs=2", f"singles={singles}", "validate_every=1")
    left_out = 2 if singles == "leave_out" else 0
    assert notes.chosen == {"individuals_with_one_photo": 2, "individuals_left_out": left_out}
    assert notes.epochs[0].photos == len(few.train) - 2 + seen
    scores = method.score(few.train)
    # Whether learned from or not, they are in the gallery: each of their photos finds itself.
    assert np.allclose(scores[[0, 1], [0, 1]], 1, atol=1e-5)
    assert len(notes.lineage["gallery"]) == len(few.train)


def test_every_few_epochs_are_validated_and_the_last_always(views: Views) -> None:
    method, notes = learn(views, "epochs=5", "validate_every=3")
    validated = [epoch.number for epoch in notes.epochs if epoch.valid_scores is not None]
    assert validated == [3, 5]
    last = notes.epochs[-1].valid_scores
    assert last is not None
    assert np.array_equal(last, method.score(views.valid))


def test_the_same_seed_learns_the_same_and_another_one_another(views: Views) -> None:
    settings = ("epochs=1", "miner=distance_weighted", "warm_up=0", "memory=16")
    first, again, other = (learn(views, *settings, seed=seed)[0].score(views.test) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_epochs_score_too(views: Views) -> None:
    method, notes = learn(views, "epochs=0", "loss=n_pair")
    assert np.isfinite(method.score(views.test)).all()
    assert notes.epochs == []


def test_it_does_not_fit_where_no_individual_has_two_photos(views: Views) -> None:
    few = with_singles(views, len(views.train.identities)).train
    assert "two train photos" in Triplet(configure(Triplet, SMALL)).missing_requirement(few, views.test)  # type: ignore[arg-type]
    for train, settings in ((views.train, SMALL), (few, (*SMALL, "singles=repeat"))):
        assert Triplet(configure(Triplet, settings)).missing_requirement(train, views.test) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("batch_size=6",), "photos_per_identity=4; set 8"),
        (("memory=16",), "memory=16 is less than one batch of 32"),
    ],
)
def test_contradictions_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(WhalebenchError, match=message):
        configure(Triplet, settings)
