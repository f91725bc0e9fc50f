"""Softmax losses against plain loops and the library; the margins, their gradients and the scale."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from whalebench.methods.parts.losses.margins import (
    HeadConfig,
    Heads,
    Margin,
    MarginLoss,
    SoftmaxLoss,
    adacos,
    fixed_adacos,
    margins_by_size,
)

IDENTITIES, DIMENSIONS, SCALE = 6, 5, 12.0
MARGINS = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
COMBINATIONS = list(product(("arcface", "cosface"), (1, 3), (False, True), (False, True), (0.0, 0.2)))


def build(
    kind: Margin = "arcface",
    subcentres: int = 1,
    margins: float | Tensor = 0.3,
    twins: bool = False,
    label_smoothing: float = 0.0,
    scale: float = SCALE,
) -> MarginLoss:
    torch.manual_seed(0)
    config = HeadConfig(
        loss=kind,
        scale=scale,
        subcentres=subcentres,
        flip_identities=twins,
        label_smoothing=label_smoothing,
    )
    head = MarginLoss(config, np.ones(IDENTITIES // (1 + twins), np.int64), DIMENSIONS)
    head.get_buffer("margins")[:] = torch.as_tensor(margins)
    return head.double()


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def slow_logit(value: float, margin: float, kind: Margin) -> float:
    if kind == "cosface":
        return value - margin
    angle = math.acos(max(-1.0, min(1.0, value)))
    return math.cos(angle + margin) if angle <= math.pi - margin else value - margin * math.sin(margin)


def slow_loss(head: MarginLoss, embeddings: Tensor, labels: Tensor, share: float) -> float:
    """A photo, an identity and a centre at a time."""
    margins, total = head.get_buffer("margins").tolist(), 0.0
    for embedding, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        logits = []
        for place, centres in enumerate(head.centres.tolist()):
            value = max(cosine(embedding, centre) for centre in centres)
            if head.config.flip_identities and place != label and abs(place - label) == IDENTITIES // 2:
                value = 0.0
            if place == label:
                value = slow_logit(value, share * margins[place], head.config.loss)
            logits.append(float(head.get_buffer("scale")) * value)
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        smooth = head.config.label_smoothing
        total += log_sum - (1 - smooth) * logits[label] - smooth * sum(logits) / IDENTITIES
    return total / len(labels)


@pytest.mark.parametrize(("kind", "subcentres", "twins", "by_size", "smoothing"), COMBINATIONS)
def test_the_head_is_the_plain_loop(
    kind: Margin, subcentres: int, twins: bool, by_size: bool, smoothing: float
) -> None:
    head = build(kind, subcentres, MARGINS if by_size else 0.3, twins, smoothing)
    # Anywhere on the sphere, and at the far end of it, where the margin is a constant.
    embeddings = torch.randn(8, DIMENSIONS, dtype=torch.float64)
    embeddings[0] = -head.centres.detach()[4, 0]
    labels = torch.tensor([4, 0, 1, 2, 3, 5, 0, 3])
    for share in (1.0, 0.4):
        head.set_margin_factor(share)
        assert head(embeddings, labels).item() == pytest.approx(slow_loss(head, embeddings, labels, share))


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_the_head_is_the_librarys(kind: Margin) -> None:
    from pytorch_metric_learning import distances, losses, reducers

    given = {
        "num_classes": IDENTITIES,
        "embedding_size": DIMENSIONS,
        "scale": SCALE,
        "distance": distances.CosineSimilarity(p=2, power=1),
        "reducer": reducers.MeanReducer(),
    }
    theirs = {
        "arcface": lambda: losses.ArcFaceLoss(margin=math.degrees(0.3), **given),
        "cosface": lambda: losses.CosFaceLoss(margin=0.3, **given),
    }[kind]()
    head, labels = build(kind), torch.tensor([0, 3, 5, 3, 1])
    theirs.W.data = head.centres.detach()[:, 0].T.clone()
    embeddings = torch.randn(5, DIMENSIONS, dtype=torch.float64)
    embeddings[0] = -head.centres.detach()[0, 0]
    values, gradients = [], []
    for loss in (head, theirs):
        learned = embeddings.clone().requires_grad_()
        values.append(loss(learned, labels))
        values[-1].backward()
        assert learned.grad is not None
        gradients.append(learned.grad[1:])
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-6)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_the_logit_of_the_twin_gets_no_gradient() -> None:
    embeddings = torch.randn(1, DIMENSIONS, dtype=torch.float64)
    for label in range(IDENTITIES):
        head = build(twins=True)
        head(embeddings, torch.tensor([label])).backward()
        assert head.centres.grad is not None
        still = (head.centres.grad == 0).all(dim=2)[:, 0]
        assert still.nonzero().flatten().tolist() == [(label + IDENTITIES // 2) % IDENTITIES]
    plain = build()
    plain(embeddings, torch.tensor([0])).backward()
    assert plain.centres.grad is not None
    assert bool((plain.centres.grad != 0).any(dim=2).all())


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_an_embedding_on_its_prototype_and_opposite_has_a_finite_gradient(kind: Margin) -> None:
    head = build(kind).float()
    embeddings = torch.cat([head.centres.detach()[:1, 0], -head.centres.detach()[:1, 0]]).requires_grad_()
    head(embeddings, torch.tensor([0, 0])).backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())


def test_half_precision_is_read_and_cosines_take_the_nearest_centre() -> None:
    head = build(subcentres=2).float()
    embeddings = 7 * head.centres.detach()[:, 1]
    cosines = head.cosines(embeddings)
    assert cosines.shape == (IDENTITIES, IDENTITIES)
    assert torch.allclose(cosines.diagonal(), torch.ones(IDENTITIES), atol=1e-6)
    assert head(embeddings.bfloat16(), torch.arange(IDENTITIES)).dtype == torch.float32


def test_margins_by_the_number_of_photos_are_the_winners() -> None:
    found = margins_by_size(torch.tensor([1, 2, 5, 10, 50, 400]), 0.27126, -0.364399, 0.05)
    assert found.tolist() == pytest.approx([0.3213, 0.2607, 0.2009, 0.1672, 0.1152, 0.0806], abs=5e-5)
    assert margins_by_size(torch.tensor([0]), 0.27126, -0.364399, 0.05).item() == pytest.approx(
        0.3213, abs=5e-5
    )


def test_adacos_starts_as_published_and_follows_the_batch() -> None:
    assert fixed_adacos(5005) == pytest.approx(math.sqrt(2) * math.log(5004))
    assert fixed_adacos(2) == 1.0
    head = build(scale=0.0, margins=0.0)
    before = float(head.get_buffer("scale"))
    assert before == pytest.approx(math.sqrt(2) * math.log(IDENTITIES - 1))
    embeddings, labels = torch.randn(5, DIMENSIONS, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3])
    cosines = head.cosines(embeddings).tolist()
    total, angles = 0.0, []
    for row, label in zip(cosines, labels.tolist(), strict=True):
        total += sum(math.exp(before * value) for place, value in enumerate(row) if place != label)
        angles.append(math.acos(row[label]))
    wanted = math.log(total / 5) / math.cos(min(math.pi / 4, sorted(angles)[2]))
    assert adacos(torch.tensor(cosines), labels, torch.tensor(before)).item() == pytest.approx(
        wanted, rel=1e-5
    )
    head.eval()
    head(embeddings, labels)
    assert float(head.get_buffer("scale")) == before
    head.train()
    loss = head(embeddings, labels)
    assert float(head.get_buffer("scale")) == pytest.approx(wanted)
    assert loss.item() == pytest.approx(slow_loss(head, embeddings, labels, 1.0))


def test_the_scale_of_adacos_never_falls_below_one() -> None:
    cosines, labels = torch.tensor([[1.0, -1.0]]), torch.tensor([0])
    assert adacos(cosines, labels, torch.tensor(1.0)).item() == 1.0


def test_species_share_the_loss_and_photos_of_unknown_species_do_not() -> None:
    identity, species = build(), build(kind="cosface")
    heads = Heads(identity, species, weight=0.56)
    embeddings, labels = torch.randn(4, DIMENSIONS, dtype=torch.float64), torch.tensor([0, 1, 5, 2])
    kinds = torch.tensor([1, -1, 0, 1])
    named = kinds >= 0
    wanted = 0.44 * identity(embeddings, labels) + 0.56 * species(embeddings[named], kinds[named])
    assert heads(embeddings, (labels, kinds)).item() == pytest.approx(wanted.item())
    none_named = heads(embeddings, (labels, torch.full((4,), -1)))
    assert none_named.item() == pytest.approx(0.44 * identity(embeddings, labels).item())
    assert Heads(identity)(embeddings, (labels, None)).item() == identity(embeddings, labels).item()
    heads.set_margin_factor(0.25)
    assert [float(head.get_buffer("share")) for head in (identity, species)] == [0.25, 0.25]


def test_margins_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"margin_a=1.5 and margin_c=0.2 add up"):
        HeadConfig(margin_by_size=True, margin_a=1.5, margin_c=0.2)
    for wrong in (
        {"margin": 1.6},
        {"scale": -1},
        {"subcentres": 0},
        {"margin_b": 0.1},
        {"species_weight": 1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HeadConfig(**wrong)


def slow_cross_entropy(logits: list[list[float]], labels: list[int], smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(logit) for logit in row))
        for place, logit in enumerate(row):
            target = smoothing / len(row) + (1 - smoothing) * (place == label)
            total -= target * (logit - log_sum)
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_softmax_is_the_plain_loop(smoothing: float) -> None:
    torch.manual_seed(0)
    loss = SoftmaxLoss(4, 6, dropout=0.0, label_smoothing=smoothing)
    features, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 3])
    logits = loss.classifier(features).tolist()
    wanted = slow_cross_entropy(logits, labels.tolist(), smoothing)
    assert loss(features, labels).item() == pytest.approx(wanted, rel=1e-5)
    assert torch.allclose(loss.log_probabilities(features).exp().sum(dim=1), torch.ones(5))
    assert torch.equal(loss.log_probabilities(features).argmax(dim=1), torch.tensor(logits).argmax(dim=1))


def test_logits_have_the_digits_of_float32_also_where_the_network_has_not() -> None:
    torch.manual_seed(0)
    loss, features = SoftmaxLoss(50, 8, dropout=0.0, label_smoothing=0.0), 20 * torch.randn(4, 8)
    exact = loss.log_probabilities(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss.log_probabilities(features), exact)


def test_softmax_drops_features_in_training_only() -> None:
    loss = SoftmaxLoss(4, 50, dropout=0.5, label_smoothing=0.0)
    features, labels = torch.randn(3, 50), torch.tensor([0, 1, 2])
    assert loss(features, labels).item() != loss(features, labels).item()
    loss.eval()
    assert loss(features, labels).item() == loss(features, labels).item()


def of_share(share: float, identities: int = 40, twins: bool = False) -> MarginLoss:
    torch.manual_seed(0)
    config = HeadConfig(class_share=share, flip_identities=twins)
    return MarginLoss(config, np.ones(identities // (1 + twins), np.int64), DIMENSIONS).double()


@pytest.mark.parametrize("twins", [False, True])
def test_a_share_that_holds_everybody_is_the_whole_head_to_the_bit(twins: bool) -> None:
    embeddings, labels = torch.randn(7, DIMENSIONS).double(), torch.arange(7) * 5
    values, gradients = [], []
    for share in (1.0, 0.999):  # of 40: drawn, and all are
        head = of_share(share, twins=twins)
        value = head(embeddings, labels)
        (gradient,) = torch.autograd.grad(value, [head.centres])
        values.append(value)
        gradients.append(gradient)
    assert torch.equal(*values)
    assert torch.equal(*gradients)


def test_a_batch_is_told_apart_from_its_own_and_a_share_of_others() -> None:
    head, labels = of_share(0.25), torch.tensor([3, 30, 3, 12])
    drawn = [head._draw(labels) for _ in range(200)]
    assert {len(seen) for seen in drawn} == {10}
    assert all(torch.isin(labels, seen).all() and torch.equal(seen, seen.unique()) for seen in drawn)
    others = torch.cat(drawn).bincount(minlength=40).double()
    others[labels] = 0
    expected = 200 * 7 / 37
    assert (others[others > 0] - expected).abs().max() < 5 * expected**0.5
    assert (others > 0).sum() == 37
    assert len(head._draw(torch.arange(25))) == 25  # its own are never left out


def test_the_loss_of_a_share_is_that_of_a_head_of_those_alone() -> None:
    head, labels = of_share(0.3), torch.tensor([5, 17, 39])
    embeddings = torch.randn(3, DIMENSIONS).double()
    state = {name: value.clone() for name, value in head.state_dict().items()}
    seen = head._draw(labels)
    head.load_state_dict(state)
    value = head(embeddings, labels)
    few = of_share(1.0, len(seen))
    few.centres.data = head.centres.data[seen]
    assert torch.equal(value, few(embeddings, torch.searchsorted(seen, labels)))
    (gradient,) = torch.autograd.grad(value, [head.centres])
    assert sorted(gradient.flatten(1).abs().sum(dim=1).nonzero()[:, 0].tolist()) == seen.tolist()


def test_who_is_drawn_goes_on_where_a_checkpoint_was_and_is_another_by_another_seed() -> None:
    labels, head, other = torch.tensor([1]), of_share(0.25), of_share(0.25)
    head._draw(labels)
    state = {name: value.clone() for name, value in head.state_dict().items()}
    after = [head._draw(labels) for _ in range(3)]
    other.load_state_dict(state)
    assert all(map(torch.equal, after, [other._draw(labels) for _ in range(3)]))
    torch.manual_seed(1)
    another = MarginLoss(HeadConfig(class_share=0.25), np.ones(40, np.int64), DIMENSIONS)
    assert not torch.equal(another._draw(labels), of_share(0.25)._draw(labels))


def test_a_share_is_for_training_alone_and_not_for_adacos() -> None:
    embeddings, labels = torch.randn(3, DIMENSIONS).double(), torch.tensor([0, 1, 2])
    whole, head = of_share(1.0).eval(), of_share(0.1).eval()
    assert torch.equal(whole(embeddings, labels), head(embeddings, labels))
    with pytest.raises(ValueError, match=r"scale=0 \(AdaCos\) is made of all .* class_share=0.1"):
        HeadConfig(scale=0, class_share=0.1)
