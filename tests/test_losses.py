"""Losses against plain loops, and pooling at its two ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from whalebench.methods.parts.losses import ArcFaceLoss, SoftmaxLoss
from whalebench.methods.parts.pooling import AveragePool, GeM, Pooling, build_pooling


def slow_cross_entropy(logits: list[list[float]], labels: list[int], smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(logit) for logit in row))
        for place, logit in enumerate(row):
            target = smoothing / len(row) + (1 - smoothing) * (place == label)
            total -= target * (logit - log_sum)
    return total / len(labels)


def slow_arcface(
    embeddings: list[list[float]],
    prototypes: list[list[float]],
    labels: list[int],
    scale: float,
    margin: float,
) -> list[list[float]]:
    """The logits: cosines times scale, the margin in radians added to the angle to the own prototype."""
    rows = []
    for embedding, label in zip(embeddings, labels, strict=True):
        row = []
        for place, prototype in enumerate(prototypes):
            dot = sum(a * b for a, b in zip(embedding, prototype, strict=True))
            length = math.sqrt(sum(a * a for a in embedding)) * math.sqrt(sum(b * b for b in prototype))
            angle = math.acos(dot / length)
            row.append(scale * math.cos(angle + margin * (place == label)))
        rows.append(row)
    return rows


@pytest.mark.parametrize(("scale", "margin", "smoothing"), [(30, 0.3, 0.0), (10, 0.5, 0.1), (16, 0.0, 0.0)])
def test_arcface_is_the_plain_loop(scale: float, margin: float, smoothing: float) -> None:
    torch.manual_seed(0)
    loss = ArcFaceLoss(7, 5, scale=scale, margin=margin, label_smoothing=smoothing)
    labels = torch.tensor([0, 3, 6, 3])
    # Near their own prototypes: further away than pi minus the margin, implementations differ by design.
    embeddings = 3 * (loss.prototypes()[labels] + 0.4 * torch.randn(4, 5))
    logits = slow_arcface(embeddings.tolist(), loss.prototypes().tolist(), labels.tolist(), scale, margin)
    wanted = slow_cross_entropy(logits, labels.tolist(), smoothing)
    assert loss(embeddings, labels).item() == pytest.approx(wanted, rel=1e-4)


def test_arcface_takes_another_margin_in_radians() -> None:
    torch.manual_seed(0)
    loss = ArcFaceLoss(7, 5, scale=20, margin=0.5, label_smoothing=0.0)
    labels = torch.tensor([0, 3, 6, 3])
    embeddings = loss.prototypes()[labels] + 0.4 * torch.randn(4, 5)
    for margin in (0.0, 0.2, 0.5):
        loss.set_margin(margin)
        logits = slow_arcface(embeddings.tolist(), loss.prototypes().tolist(), labels.tolist(), 20, margin)
        wanted = slow_cross_entropy(logits, labels.tolist(), 0.0)
        assert loss(embeddings, labels).item() == pytest.approx(wanted, rel=1e-4)


def test_arcface_learns_its_prototypes_and_reads_half_precision() -> None:
    loss = ArcFaceLoss(3, 4, scale=30, margin=0.3, label_smoothing=0)
    embeddings = torch.randn(5, 4, dtype=torch.bfloat16, requires_grad=True)
    value = loss(embeddings, torch.tensor([0, 1, 2, 0, 1]))
    assert value.dtype == torch.float32
    value.backward()
    assert [name for name, parameter in loss.named_parameters() if parameter.grad is not None] == ["loss.W"]
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())
    assert torch.allclose(loss.prototypes().norm(dim=1), torch.ones(3))


def test_no_default_of_the_library_is_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter of every class that is used is given, so a new default changes nothing."""
    import inspect

    from pytorch_metric_learning import distances, losses, reducers

    given: dict[str, set[str]] = {}
    for kind in (losses.ArcFaceLoss, distances.CosineSimilarity, reducers.MeanReducer):
        original = kind.__init__

        def note(self: object, *args: object, _original: object = original, **kwargs: object) -> None:
            given.setdefault(type(self).__name__, set()).update(kwargs)
            _original(self, *args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(kind, "__init__", note)
    wrapped = ArcFaceLoss(3, 4, scale=20, margin=0.5, label_smoothing=0.2).loss
    monkeypatch.undo()

    def parameters(kind: type) -> set[str]:
        """By name, of the class and of those it hands its keyword arguments on to."""
        found: set[str] = set()
        for base in kind.__mro__:
            if base.__module__.startswith("pytorch_metric_learning"):
                found |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
        return found - {"self", "args", "kwargs"}

    behind = {"collect_stats", "normalize_embeddings", "is_inverted"}
    assert given["ArcFaceLoss"] >= parameters(losses.ArcFaceLoss) - behind
    assert {"p", "power"} <= given["CosineSimilarity"]
    assert math.radians(math.degrees(0.5)) == pytest.approx(float(wrapped.margin))
    assert wrapped.scale == 20
    assert (wrapped.weight_regularizer, wrapped.embedding_regularizer) == (None, None)
    assert type(wrapped.reducer).__name__ == "MeanReducer"
    distance = wrapped.distance
    assert (distance.p, distance.power, distance.normalize_embeddings, distance.is_inverted) == (
        2,
        1,
        True,
        True,
    )
    assert wrapped.cross_entropy.label_smoothing == 0.2
    assert wrapped.cross_entropy.reduction == "none"


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


def test_softmax_drops_features_in_training_only() -> None:
    loss = SoftmaxLoss(4, 50, dropout=0.5, label_smoothing=0.0)
    features, labels = torch.randn(3, 50), torch.tensor([0, 1, 2])
    assert loss(features, labels).item() != loss(features, labels).item()
    loss.eval()
    assert loss(features, labels).item() == loss(features, labels).item()


def test_gem_lies_between_mean_and_maximum() -> None:
    features = torch.rand(3, 5, 4, 6) + 0.1
    mean, largest = AveragePool()(features), features.amax(dim=(2, 3))
    assert torch.allclose(mean, features.mean(dim=(2, 3)))
    assert torch.allclose(GeM(exponent=1.0)(features), mean, rtol=1e-5)
    assert torch.allclose(GeM(exponent=80.0)(features), largest, rtol=0.06)
    middle = GeM(exponent=3.0)(features)
    assert bool(((mean < middle) & (middle < largest)).all())


def test_gem_learns_its_exponent_and_survives_negative_features() -> None:
    pool = build_pooling("gem", (1, 1))
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    pooled = pool(features - 10)
    pooled.sum().backward()
    assert isinstance(pool, GeM)
    assert isinstance(pool.exponent, nn.Parameter)
    assert pool.exponent.grad is not None
    assert bool(pooled.isfinite().all())
    assert bool(pool.exponent.grad.isfinite())
    assert pool(features.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", ["average", "gem"])
def test_cells_of_a_grid_are_pooled_apart(name: Pooling) -> None:
    features = torch.rand(2, 3, 4, 6) + 0.1
    pooled = build_pooling(name, (2, 3))(features)
    assert pooled.shape == (2, 18)
    alone = build_pooling(name, (1, 1))
    for row in range(2):
        for column in range(3):
            cell = features[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.allclose(pooled.reshape(2, 3, 2, 3)[:, :, row, column], alone(cell), atol=1e-6)


def test_poolings_by_name() -> None:
    assert [type(build_pooling(name, (1, 1))).__name__ for name in ("average", "gem")] == [
        "AveragePool",
        "GeM",
    ]


def test_pooling_in_a_grid_keeps_the_places_apart() -> None:
    features = torch.zeros(1, 2, 4, 6)
    features[0, 1, 3, 5] = 8.0  # the last cell of 2 x 3 covers four positions
    pooled = AveragePool((2, 3))(features)
    assert pooled.shape == (1, 12)
    assert pooled[0].nonzero().flatten().tolist() == [11]
    assert pooled[0, 11] == pytest.approx(2.0)
    assert torch.allclose(GeM((2, 3), exponent=1.0)(features), pooled, atol=1e-5)


def test_the_margin_can_grow_while_training_goes_on() -> None:
    torch.manual_seed(0)
    loss = ArcFaceLoss(4, 8, scale=10.0, margin=0.4, label_smoothing=0.0)
    embeddings, labels = torch.randn(6, 8), torch.arange(6) % 4
    whole = loss(embeddings, labels)
    loss.set_margin(0.0)
    cosines = torch.nn.functional.normalize(embeddings) @ loss.prototypes().T
    assert torch.allclose(
        loss(embeddings, labels), torch.nn.functional.cross_entropy(10 * cosines, labels), atol=1e-5
    )
    loss.set_margin(0.4)
    assert torch.allclose(loss(embeddings, labels), whole)
