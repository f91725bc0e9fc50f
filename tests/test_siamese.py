"""`siamese`: its head and losses against plain loops, and both forms on a benchmark in miniature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.photos import UNKNOWN
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import NEW, Views, fold_views, open_fold
from whalebench.methods.parts import pairs as pair_head
from whalebench.methods.parts.pairs import (
    FLOOR,
    ContrastivePairs,
    PairHead,
    PairHeadLoss,
    best_pair_scores,
    pair_logits,
)
from whalebench.methods.registry import configure
from whalebench.methods.siamese import Siamese
from whalebench.tests.notes import Notes

SMALL = ("backbone=test_resnet", "size=32", "batch_size=8", "dimensions=16", "grid=1", "augment=none")
FORMS = ("contrastive", "pair_head")
LABELS = np.array([0, 1, 2, 0, 0, 3, 4, 0], np.int64)
"""Four pairs, left and right: the first matches, and the last."""


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(views: Views, *settings: str, seed: int = 0) -> tuple[Siamese, Notes]:
    notes = Notes(seed)
    torch.manual_seed(seed)
    method = Siamese(configure(Siamese, (*SMALL, *settings)))  # type: ignore[arg-type]
    method.learn(views.train, views.valid, notes)
    return method, notes


@pytest.fixture(scope="module", params=FORMS)
def learned(request: pytest.FixtureRequest, views: Views) -> tuple[Siamese, Notes]:
    settings = ("epochs=10", "learning_rate=0.01", "ema=0", "score_every=4", "negatives=assigned")
    return learn(views, f"form={request.param}", *settings)


def features(photos: int, dimensions: int = 5, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(photos, dimensions)).astype(np.float32)


def head(dimensions: int = 5) -> PairHead:
    torch.manual_seed(0)
    return PairHead(dimensions)


def logit_in_plain_loops(head: PairHead, left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    hidden, feature, total = (
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in (head.hidden, head.feature, head.total)
    )
    logit = float(total[1][0])
    for place, (x, y) in enumerate(zip(left.astype(float), right.astype(float), strict=True)):
        relations = (x * y, x + y, abs(x - y), (x - y) ** 2)
        number = float(feature[1][0])
        for unit in range(len(hidden[1])):
            value = sum(w * r for w, r in zip(hidden[0][unit], relations, strict=True)) + hidden[1][unit]
            number += feature[0][0, unit] * max(value, 0.0)
        logit += total[0][0, place] * number
    return logit


def test_the_pair_head_is_its_plain_loop_and_symmetric() -> None:
    left, right, network = features(4), features(4, seed=1), head()
    with torch.no_grad():
        logits = network(torch.from_numpy(left), torch.from_numpy(right))
        swapped = network(torch.from_numpy(right), torch.from_numpy(left))
    expected = [logit_in_plain_loops(network, x, y) for x, y in zip(left, right, strict=True)]
    assert np.ptp(expected) > 0.1
    assert logits.numpy() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(logits, swapped)


def test_logits_of_all_pairs_do_not_depend_on_how_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery, network = features(3), features(11, seed=1), head()
    whole = pair_logits(network, query, gallery)
    assert whole[2, 7] == pytest.approx(logit_in_plain_loops(network, query[2], gallery[7]), abs=1e-5)
    assert np.array_equal(whole[1:2], pair_logits(network, query[1:2], gallery))
    upper = pair_logits(network, gallery, gallery, triangle=True)
    assert upper == pytest.approx(np.triu(pair_logits(network, gallery, gallery)), abs=1e-5)
    assert np.array_equal(upper, np.triu(upper))
    monkeypatch.setattr(pair_head, "BLOCK", {"cpu": 20})
    assert pair_logits(network, query, gallery) == pytest.approx(whole, abs=1e-5)
    assert pair_logits(network, query[:0], gallery).shape == (0, 11)


def test_an_identity_scores_by_its_best_photo() -> None:
    query, gallery, network = features(3), features(6, seed=1), head()
    labels = np.array([2, 0, UNKNOWN, 2, 0, 2])
    scores, logits = (
        best_pair_scores(network, query, gallery, labels, 4),
        pair_logits(network, query, gallery),
    )
    assert scores.dtype == np.float32
    for identity, photos in {0: [1, 4], 2: [0, 3, 5]}.items():
        assert scores[:, identity] == pytest.approx(logits[:, photos].max(axis=1), abs=1e-5)
    assert (scores[:, [1, 3]] == FLOOR).all()
    gallery[0, 0] = np.nan
    with pytest.raises(RunFailedError, match="NaN"):
        best_pair_scores(network, query, gallery, labels, 4)


@pytest.mark.parametrize("margin", [0.5, 1.2])
def test_the_contrastive_loss_is_its_plain_loop(margin: float) -> None:
    embeddings = features(8)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    pulled, pushed = [], []
    for left in range(4):
        distance = float(np.linalg.norm(unit[left] - unit[left + 4]))
        if LABELS[left] == LABELS[left + 4]:
            pulled.append(distance)
        elif distance < margin:
            pushed.append(margin - distance)
    expected = np.mean(pulled) + (np.mean(pushed) if pushed else 0)
    found = ContrastivePairs(margin)(torch.from_numpy(embeddings), torch.from_numpy(LABELS))
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_the_pair_head_is_its_plain_loop() -> None:
    torch.manual_seed(0)
    photos, loss = features(8), PairHeadLoss(5)
    each = []
    for left in range(4):
        likely = 1 / (1 + np.exp(-logit_in_plain_loops(loss.head, photos[left], photos[left + 4])))
        each.append(-np.log(likely if LABELS[left] == LABELS[left + 4] else 1 - likely))
    found = loss(torch.from_numpy(photos), torch.from_numpy(LABELS))
    assert float(found.detach()) == pytest.approx(np.mean(each), abs=1e-5)


@pytest.mark.parametrize("loss", [ContrastivePairs(1.0), PairHeadLoss(5)], ids=FORMS)
def test_likenesses_lie_between_0_and_1_and_are_symmetric(loss: ContrastivePairs | PairHeadLoss) -> None:
    alike = loss.among(features(6))
    assert alike.shape == (6, 6)
    assert (alike >= 0).all()
    assert (alike <= 1).all()
    assert np.array_equal(alike, alike.T)
    assert np.ptp(alike) > 0.01


def test_it_learns(learned: tuple[Siamese, Notes], views: Views, shared_tiny: Workspace) -> None:
    method, notes = learned
    truths = open_fold(load_benchmark("tiny", shared_tiny), 0).answers["test"].truth
    known = [row for row, truth in enumerate(truths) if truth != NEW]
    own = [views.train.identities.index(truths[row]) for row in known]
    assert (method.score(views.test)[known].argmax(axis=1) == own).mean() > 0.6
    # Of 24 photos the last pairs assigned may be hard ones again.
    assert min(epoch.loss for epoch in notes.epochs) < 0.5 * notes.epochs[0].loss
    assert notes.chosen == {"individuals_with_one_photo": 0}
    # As many photos an epoch as there are, in whole pairs of both kinds.
    photos = len(views.train.known())
    assert {epoch.photos for epoch in notes.epochs} == {photos // 4 * 4}


def test_every_few_epochs_are_validated_as_test_is_scored(
    learned: tuple[Siamese, Notes], views: Views
) -> None:
    method, notes = learned
    assert [each.number for each in notes.epochs if each.valid_scores is not None] == [4, 8, 10]
    last = notes.epochs[-1].valid_scores
    assert last is not None
    assert np.array_equal(last, method.score(views.valid))


def test_scores_and_embeddings_do_not_depend_on_the_other_photos(
    learned: tuple[Siamese, Notes], views: Views
) -> None:
    method, _ = learned
    scores, embeddings = method.score(views.test), method.embed(views.test)
    assert embeddings.shape == (len(views.test), 16)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    for rows in ([3], list(range(len(views.test)))[::-1]):
        assert np.allclose(method.score(views.test.select(rows)), scores[rows], atol=1e-4)
        assert np.allclose(method.embed(views.test.select(rows)), embeddings[rows], atol=1e-5)


def test_a_restored_method_is_the_one_that_learned(learned: tuple[Siamese, Notes], views: Views) -> None:
    from safetensors.torch import load, save

    method, _ = learned
    weights = {name: value.contiguous().clone() for name, value in method.weights().items()}
    assert any(name.startswith("loss.") for name in weights) == (method.config.form == "pair_head")
    again = Siamese(method.config)
    again.restore(load(save(weights)), views.train.identities, torch.device("cpu"))
    assert np.allclose(again.score(views.test), method.score(views.test), atol=1e-5)
    kept = again.weights()
    assert set(kept) == set(weights)
    assert all(torch.equal(kept[name], weights[name]) for name in weights)


@pytest.mark.parametrize("form", FORMS)
def test_the_seed_determines_the_scores(form: str, views: Views) -> None:
    settings = (f"form={form}", "epochs=2", "score_every=1", "negatives=assigned")
    first, again, other = (learn(views, *settings, seed=seed)[0].score(views.test) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_identity_with_one_photo_neither_crashes_nor_vanishes(views: Views) -> None:
    known = views.train.known()
    assert known.labels is not None
    first = int(np.flatnonzero(known.labels == 0)[0])
    few = replace(views, train=known.select([first, *np.flatnonzero(known.labels > 0)]))
    method, notes = learn(few, "epochs=1")
    assert notes.chosen == {"individuals_with_one_photo": 1}
    assert np.allclose(method.score(few.train)[0, 0], 1, atol=1e-5)
    assert len(notes.lineage["gallery"]) == len(few.train)
    alone = known.select([int(np.flatnonzero(known.labels == label)[0]) for label in range(6)])
    assert "two train photos" in method.missing_requirement(alone, views.test)
    assert "two individuals" in method.missing_requirement(known.select([first]), views.test)
    assert method.missing_requirement(few.train, views.test) == ""


def test_the_pair_head_sees_every_look_at_a_photo(views: Views) -> None:
    method, _ = learn(views, "form=pair_head", "epochs=0", "gallery.flip=true", "second_size=48")
    plain = Siamese(configure(Siamese, (*SMALL, "form=pair_head")))  # type: ignore[arg-type]
    plain.network, plain.device = method.network, method.device
    both = method.features(views.test)
    assert method.sizes() == ((32, 32), (48, 48))
    assert both.shape == (len(views.test), 16)
    assert not np.allclose(both, plain.features(views.test), atol=1e-3)
    assert np.isfinite(method.score(views.test)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("batch_size=3",), "batch_size=3 has no room"),
        (("form=pair_head", "margin=0.5"), "no margin=0.5"),
        (("form=pair_head", "gallery.rule=mean"), "no gallery.rule=mean"),
    ],
)
def test_contradictions_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(WhalebenchError, match=message):
        configure(Siamese, settings)
