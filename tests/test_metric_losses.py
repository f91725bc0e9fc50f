"""Metric losses and miners against plain loops; what may be combined; batches with nothing to learn from."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from whalebench import WhalebenchError
from whalebench.methods.parts.losses.metric_losses import (
    MARGINS,
    MINED,
    LossName,
    MetricLoss,
    MetricLossConfig,
    MinerName,
    RememberingLoss,
    build_metric_loss,
    build_miner,
)
from whalebench.methods.registry import configure
from whalebench.methods.triplet import Triplet

LOSSES: tuple[LossName, ...] = (*MINED, "n_pair", "proxy_anchor")  # type: ignore[assignment]
MINERS: tuple[MinerName, ...] = ("hard", "semihard", "distance_weighted", "batch_hard")
LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 3]
"""Three, two and three photos, and an identity alone."""
Rows = list[list[float]]


def batch(seed: int, labels: list[int] = LABELS, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Embeddings near the centres of their identities, of any length."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(labels) + 1, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), 6, generator=generator, dtype=torch.float64)
    return 2 * (centres[labels] + spread * noise), torch.tensor(labels)


def unit(rows: Any) -> Rows:
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows.tolist()]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def l2(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def mean_of_active(values: list[float]) -> float:
    active = [value for value in values if value > 0]
    return sum(active) / len(active) if active else 0.0


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def others(labels: list[int], anchor: int) -> tuple[list[int], list[int]]:
    """Positives and negatives of an anchor."""
    places = [place for place in range(len(labels)) if place != anchor]
    return (
        [place for place in places if labels[place] == labels[anchor]],
        [place for place in places if labels[place] != labels[anchor]],
    )


def triplets_of(labels: list[int]) -> list[tuple[int, int, int]]:
    return [
        (anchor, positive, negative)
        for anchor in range(len(labels))
        for positive, negative in itertools.product(*others(labels, anchor))
    ]


def slow_contrastive(rows: Rows, labels: list[int], margin: float) -> float:
    pairs = list(itertools.permutations(range(len(rows)), 2))
    same = [l2(rows[a], rows[b]) for a, b in pairs if labels[a] == labels[b]]
    different = [margin - l2(rows[a], rows[b]) for a, b in pairs if labels[a] != labels[b]]
    return mean_of_active(same) + mean_of_active(different)


def slow_triplet(rows: Rows, labels: list[int], margin: float) -> float:
    return mean_of_active(
        [l2(rows[a], rows[p]) - l2(rows[a], rows[n]) + margin for a, p, n in triplets_of(labels)]
    )


def slow_soft_triplet(rows: Rows, labels: list[int]) -> float:
    each = [softplus(l2(rows[a], rows[p]) - l2(rows[a], rows[n])) for a, p, n in triplets_of(labels)]
    return sum(each) / len(each)


def slow_n_pair(rows: Rows, labels: list[int], temperature: float) -> float:
    """First (0, 1), (3, 4), (5, 6) of LABELS, then the odd third photos (2, 0), (7, 5) with their first."""
    assert labels == LABELS
    losses = []
    for pairs in ([(0, 1), (3, 4), (5, 6)], [(2, 0), (7, 5)]):
        for anchor, positive in pairs:
            each = [math.exp(cosine(rows[anchor], rows[other]) / temperature) for _, other in pairs]
            target = math.exp(cosine(rows[anchor], rows[positive]) / temperature)
            losses.append(-math.log(target / sum(each)))
    return sum(losses) / len(losses)


def slow_multi_similarity(rows: Rows, labels: list[int]) -> float:
    total = 0.0
    for anchor in range(len(rows)):
        positives, negatives = others(labels, anchor)
        near = sum(math.exp(-2 * (cosine(rows[anchor], rows[p]) - 0.5)) for p in positives)
        far = sum(math.exp(50 * (cosine(rows[anchor], rows[n]) - 0.5)) for n in negatives)
        total += math.log(1 + near) / 2 + math.log(1 + far) / 50
    return total / len(rows)


def slow_circle(rows: Rows, labels: list[int], margin: float) -> float:
    losses = []
    for anchor in range(len(rows)):
        positives, negatives = others(labels, anchor)
        if not positives:
            continue
        total = 0.0
        for p, n in itertools.product(positives, negatives):
            near, far = cosine(rows[anchor], rows[p]), cosine(rows[anchor], rows[n])
            pull = max(0.0, 1 + margin - near) * (near - (1 - margin))
            push = max(0.0, far + margin) * (far - margin)
            total += math.exp(80 * (push - pull))
        losses.append(math.log(1 + total))
    return mean_of_active(losses)


def slow_supcon(rows: Rows, labels: list[int], temperature: float) -> float:
    losses = []
    for anchor in range(len(rows)):
        positives, negatives = others(labels, anchor)
        if not positives:
            continue
        each = {o: math.exp(cosine(rows[anchor], rows[o]) / temperature) for o in positives + negatives}
        logs = [math.log(each[p] / sum(each.values())) for p in positives]
        losses.append(-sum(logs) / len(logs))
    return sum(losses) / len(losses)


def slow_proxy_anchor(rows: Rows, labels: list[int], proxies: Rows, margin: float) -> float:
    near_total = far_total = 0.0
    for identity, proxy in enumerate(proxies):
        near = [cosine(row, proxy) for row, label in zip(rows, labels, strict=True) if label == identity]
        far = [cosine(row, proxy) for row, label in zip(rows, labels, strict=True) if label != identity]
        if near:
            near_total += math.log(1 + sum(math.exp(-32 * (s - margin)) for s in near))
        if far:
            far_total += math.log(1 + sum(math.exp(32 * (s + margin)) for s in far))
    return near_total / len(set(labels)) + far_total / len(proxies)


TWINS: dict[str, tuple[dict[str, Any], Callable[[Rows, list[int]], float]]] = {
    "contrastive": ({"loss": "contrastive"}, lambda r, y: slow_contrastive(r, y, 1.0)),
    "contrastive 0.6": ({"loss": "contrastive", "margin": 0.6}, lambda r, y: slow_contrastive(r, y, 0.6)),
    "triplet": ({"loss": "triplet"}, lambda r, y: slow_triplet(r, y, 0.2)),
    "triplet 0.5": ({"loss": "triplet", "margin": 0.5}, lambda r, y: slow_triplet(r, y, 0.5)),
    "soft triplet": ({"loss": "triplet", "soft_margin": True}, slow_soft_triplet),
    "n_pair": ({"loss": "n_pair", "temperature": 0.3}, lambda r, y: slow_n_pair(r, y, 0.3)),
    "multi_similarity": ({"loss": "multi_similarity"}, slow_multi_similarity),
    "circle": ({"loss": "circle"}, lambda r, y: slow_circle(r, y, 0.4)),
    "circle 0.25": ({"loss": "circle", "margin": 0.25}, lambda r, y: slow_circle(r, y, 0.25)),
    "supcon": ({"loss": "supcon"}, lambda r, y: slow_supcon(r, y, 0.1)),
    "supcon 0.5": ({"loss": "supcon", "temperature": 0.5}, lambda r, y: slow_supcon(r, y, 0.5)),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_loss_is_its_plain_loop(name: str, seed: int) -> None:
    settings, twin = TWINS[name]
    loss = build_metric_loss(MetricLossConfig(**settings), 4, 6)
    embeddings, labels = batch(seed)
    wanted = twin(unit(embeddings), labels.tolist())
    assert wanted > 0
    assert loss(embeddings, labels).item() == pytest.approx(wanted, rel=1e-9)
    # Neither the length of the embeddings nor the order of the photos matters (N-pair chooses by the order).
    if "n_pair" not in name:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        assert loss(3 * embeddings[order], labels[order]).item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("margin", [None, 0.3])
def test_proxy_anchor_is_its_plain_loop(margin: float | None) -> None:
    torch.manual_seed(0)
    loss = build_metric_loss(MetricLossConfig(loss="proxy_anchor", margin=margin), 6, 6)
    embeddings, labels = batch(0)
    value = loss(embeddings, labels)
    proxies = unit(loss.state_dict()["loss.proxies"])
    wanted = slow_proxy_anchor(unit(embeddings), labels.tolist(), proxies, margin or 0.1)
    assert value.item() == pytest.approx(wanted, rel=1e-9)
    value.backward()
    assert [name for name, each in loss.named_parameters() if each.grad is not None] == ["loss.proxies"]


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("name", MINED)
def test_a_miner_decides_what_the_loss_sees(name: LossName, miner: MinerName) -> None:
    config = MetricLossConfig(loss=name, miner=miner)
    loss, mine = build_metric_loss(config, 4, 6), build_miner(miner, 0.2)
    embeddings, labels = batch(3, LABELS * 2, spread=1.5)
    torch.manual_seed(5)
    value = loss(embeddings, labels)
    torch.manual_seed(5)
    assert mine is not None
    chosen = mine(torch.nn.functional.normalize(embeddings), labels)
    assert len(chosen[0]) > 1
    wanted = build_metric_loss(MetricLossConfig(loss=name), 4, 6).loss(
        torch.nn.functional.normalize(embeddings), labels, chosen
    )
    assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert value.item() != pytest.approx(
        build_metric_loss(MetricLossConfig(loss=name), 4, 6)(embeddings, labels).item()
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MINERS)
def test_miners_return_the_triplets_that_define_them(name: MinerName, seed: int) -> None:
    embeddings, labels = batch(seed, LABELS * 3, spread=0.8)
    miner, owner, rows = build_miner(name, 0.3), labels.tolist(), unit(embeddings)
    assert miner is not None
    torch.manual_seed(seed)
    mined = list(zip(*(places.tolist() for places in miner(embeddings, labels)), strict=True))
    assert mined
    assert set(mined) <= set(triplets_of(owner))
    gap = {(a, p, n): l2(rows[a], rows[n]) - l2(rows[a], rows[p]) for a, p, n in triplets_of(owner)}
    if name == "hard":
        assert set(mined) == {triplet for triplet, wide in gap.items() if wide <= 0}
    if name == "semihard":
        assert set(mined) == {triplet for triplet, wide in gap.items() if 0 < wide <= 0.3}
    if name == "batch_hard":
        assert len(mined) == len(owner)
        for triplet in mined:
            assert gap[triplet] == min(wide for each, wide in gap.items() if each[0] == triplet[0])
    if name == "distance_weighted":
        assert all(l2(rows[a], rows[n]) < 1.4 for a, _, n in mined)


def test_distance_weighted_prefers_near_negatives_and_loses_no_anchor_that_has_none() -> None:
    """Beside a pair at 0.6 the weights at 1.35 are below what float32 can hold, in 512 dimensions."""
    directions = torch.eye(512)

    def at(distance: float, axis: int) -> Tensor:
        near = 1 - distance**2 / 2
        return near * directions[0] + math.sqrt(1 - near**2) * directions[axis]

    photos = [directions[0], directions[0], at(0.6, 1), at(0.6, 1), at(1.35, 2), at(1.35, 2)]
    miner = build_miner("distance_weighted", 0.2)
    assert miner is not None
    torch.manual_seed(0)
    drawn = [miner(torch.stack(photos), torch.tensor([0, 0, 1, 1, 2, 2])) for _ in range(20)]
    triplets = torch.cat([torch.stack(each) for each in drawn], dim=1).T.tolist()
    assert {anchor for anchor, _, _ in triplets} == set(range(6))
    assert {negative for anchor, _, negative in triplets if anchor < 2} == {2, 3}


@pytest.mark.parametrize("copies", [1, 8], ids=["few", "many"])
@pytest.mark.parametrize("name", LOSSES)
def test_photos_that_look_the_same_have_a_finite_gradient(name: LossName, copies: int) -> None:
    embeddings = torch.ones(4 * copies, 6).requires_grad_()
    loss = build_metric_loss(MetricLossConfig(loss=name), 4, 6)
    loss(embeddings, torch.tensor([0, 0, 1, 1] * copies)).backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())


@pytest.mark.parametrize(
    "settings",
    [
        *({"loss": name} for name in LOSSES),
        {"soft_margin": True},
        *({"miner": name} for name in MINERS),
        *({"loss": name, "memory": 32} for name in MINED),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 3], [1, 1, 1, 1], [2]], ids=["all apart", "one identity", "one photo"]
)
def test_nothing_to_learn_from_is_no_crash(settings: dict[str, Any], labels: list[int]) -> None:
    torch.manual_seed(0)
    loss = build_metric_loss(MetricLossConfig(**settings), 4, 6)
    loss.remember(True)
    embeddings = torch.randn(len(labels), 6, requires_grad=True)
    value = loss(embeddings, torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())
    if loss.miner is not None or settings.get("loss", "triplet") in ("triplet", "n_pair", "circle", "supcon"):
        assert value.item() == 0
        assert not embeddings.grad.any()


def slow_remembered_triplet(
    rows: Rows, owner: list[int], queue: list[tuple[list[float], int]], first: int
) -> float:
    """Anchors of this batch, the others from the queue, which holds the batch itself from first on."""
    gaps = []
    for anchor, row in enumerate(rows):
        places = [place for place in range(len(queue)) if place != first + anchor]
        near = [l2(row, queue[place][0]) for place in places if queue[place][1] == owner[anchor]]
        far = [l2(row, queue[place][0]) for place in places if queue[place][1] != owner[anchor]]
        gaps += [a - b + 0.2 for a, b in itertools.product(near, far)]
    return mean_of_active(gaps)


def test_the_memory_is_compared_with_once_it_is_used() -> None:
    loss = build_metric_loss(MetricLossConfig(memory=100), 4, 6)
    assert isinstance(loss, RememberingLoss)
    batches = [batch(seed, LABELS[seed:]) for seed in range(3)]
    plain = [slow_triplet(unit(rows), labels.tolist(), 0.2) for rows, labels in batches]
    assert loss(*batches[0]).item() == pytest.approx(plain[0])
    loss.remember(True)
    queue: list[tuple[list[float], int]] = []
    for rows, labels in batches:
        first, owner = len(queue), labels.tolist()
        queue += list(zip(unit(rows), owner, strict=True))
        wanted = slow_remembered_triplet(unit(rows), owner, queue, first)
        assert loss(rows, labels).item() == pytest.approx(wanted, rel=1e-9)
    assert wanted != pytest.approx(plain[2])
    # At evaluation nothing is remembered, nor compared with what is.
    state = loss.get_extra_state().tolist()
    assert loss.eval()(*batches[1]).item() == pytest.approx(plain[1])
    assert loss.get_extra_state().tolist() == state == [9 + 8 + 7, 0]


@pytest.mark.parametrize("miner", ["all", *MINERS])
def test_a_loss_goes_on_from_what_another_remembered(miner: MinerName) -> None:
    config = MetricLossConfig(miner=miner, memory=20)
    went_on, restored, taken = (build_metric_loss(config, 4, 6).double() for _ in range(3))
    went_on.remember(True)
    for seed in range(3):  # 27 photos: the oldest are forgotten
        went_on(*batch(seed))
    restored.load_state_dict(went_on.state_dict())
    taken.take_memory(went_on)
    values = []
    for loss in (went_on, restored, taken):
        loss.remember(True)
        torch.manual_seed(0)
        values.append(loss(*batch(3)).item())
    assert values[0] > 0
    assert values[0] == values[1] == values[2]
    assert went_on.state_dict()["_extra_state"].tolist() == [36 % 20, 1]


def test_a_batch_larger_than_the_memory_is_compared_with_itself() -> None:
    loss = build_metric_loss(MetricLossConfig(memory=4), 4, 6)
    loss.remember(True)
    embeddings, labels = batch(0)
    assert loss(embeddings, labels).item() == pytest.approx(slow_triplet(unit(embeddings), LABELS, 0.2))


def test_half_precision_is_computed_in_single() -> None:
    embeddings, labels = batch(0)
    for name in LOSSES:
        loss = build_metric_loss(MetricLossConfig(loss=name), 4, 6)
        assert loss(embeddings.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss=proxy_anchor", "miner=semihard"], "miner=semihard has no part in loss=proxy_anchor"),
        (["loss=n_pair", "miner=batch_hard"], "miner=batch_hard has no part in loss=n_pair"),
        (["loss=n_pair", "memory=64"], "loss=n_pair cannot use a memory"),
        (["loss=supcon", "soft_margin=true"], "soft_margin=true is for loss=triplet"),
        (["soft_margin=true", "margin=0.2"], "soft_margin=true leaves margin=0.2 without use"),
        (["loss=supcon", "margin=0.2"], "loss=supcon with miner=all has no margin"),
        (["loss=multi_similarity", "miner=hard", "margin=0.2"], "has no margin"),
        (["loss=angular"], "loss='angular'"),
        (["margin=-1"], "greater than 0"),
    ],
)
def test_contradictions_are_refused_when_the_configuration_is_built(
    settings: list[str], message: str
) -> None:
    with pytest.raises(WhalebenchError, match=message):
        configure(Triplet, settings)


def test_the_margin_goes_to_whoever_has_one() -> None:
    mined = MetricLossConfig(loss="multi_similarity", miner="semihard", margin=0.3)
    assert (mined.loss_margin(), mined.miner_margin()) == (0, 0.3)
    soft = MetricLossConfig(soft_margin=True, miner="semihard", margin=0.3)
    assert (soft.loss_margin(), soft.miner_margin()) == (0, 0.3)
    both = MetricLossConfig(miner="semihard", margin=0.5)
    assert (both.loss_margin(), both.miner_margin()) == (0.5, 0.5)
    for name in LOSSES:
        assert MetricLossConfig(loss=name).loss_margin() == MARGINS.get(name, 0)
        assert MetricLossConfig(loss=name).miner_margin() == 0.2


def test_no_default_of_the_library_is_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter of every class that is used is given, so a new default changes nothing."""
    from pytorch_metric_learning import distances, losses, miners, reducers

    used = [
        losses.ContrastiveLoss,
        losses.TripletMarginLoss,
        losses.NPairsLoss,
        losses.MultiSimilarityLoss,
        losses.CircleLoss,
        losses.SupConLoss,
        losses.ProxyAnchorLoss,
        losses.CrossBatchMemory,
        miners.TripletMarginMiner,
        miners.BatchHardMiner,
        miners.DistanceWeightedMiner,
        distances.LpDistance,
        distances.CosineSimilarity,
        distances.DotProductSimilarity,
        reducers.AvgNonZeroReducer,
        reducers.MeanReducer,
        reducers.DivisorReducer,
    ]
    given: dict[type, set[str]] = {}
    for kind in used:
        original = kind.__init__

        def note(self: object, *args: object, _original: Any = original, **kwargs: object) -> None:
            given.setdefault(type(self), set(kwargs))
            _original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", note)
    for name in LOSSES:
        MetricLoss(MetricLossConfig(loss=name), 4, 6)
    for miner in MINERS:
        RememberingLoss(MetricLossConfig(miner=miner, memory=8), 4, 6)
    monkeypatch.undo()

    # Set by the class itself, chosen by its name, or of no consequence for the numbers.
    settled = {
        "self", "args", "kwargs", "collect_stats", "is_inverted", "mat_based_loss", "low", "high",
        "pos_strategy", "neg_strategy",
    }  # fmt: skip
    for kind in used:
        wanted: set[str] = set()
        for base in kind.__mro__:
            if base.__module__.startswith("pytorch_metric_learning"):
                wanted |= set(inspect.signature(base.__init__).parameters)
        if kind is distances.CosineSimilarity:
            wanted -= {"normalize_embeddings"}
        assert given[kind] >= wanted - settled, kind
