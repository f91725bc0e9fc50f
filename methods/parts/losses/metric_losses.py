"""Metric losses and miners of pytorch-metric-learning, and a loss as the training loop calls it.

Every default of the library is written out: its next version changes them. Embeddings have length 1:
contrastive, triplet and all miners measure their L2 distance, from 0 to 2, the other losses their cosine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from whalebench.methods.method import Choice, FieldValue, MethodConfig, Search

MinerName = Literal["all", "hard", "semihard", "distance_weighted", "batch_hard"]


def build_miner(name: MinerName, margin: float) -> nn.Module | None:
    """The miner of that name, from embeddings (photos, dimensions) and labels (photos,) to triplets.

    Triplets are anchors, positives and negatives, each (triplets,) indices in the batch; None stands for all.
    hard: the negative is no further from the anchor than the positive. semihard: it is further, by margin at
    most (Schroff et al., 2015). distance_weighted: see `DistanceWeighted`. batch_hard: of each anchor the
    furthest positive and the nearest negative (Hermans et al., 2017).
    """
    from pytorch_metric_learning import miners

    miner: nn.Module | None = None
    l2 = {"distance": l2_distance()}
    match name:
        case "hard" | "semihard":
            miner = miners.TripletMarginMiner(margin=margin, type_of_triplets=name, **l2)
        case "batch_hard":
            miner = miners.BatchHardMiner(allowed_pos_range=None, allowed_neg_range=None, **l2)
        case "distance_weighted":
            near = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4, **l2)
            miner = DistanceWeighted(near)
    return miner


class DistanceWeighted(nn.Module):
    """Negatives drawn so that each distance is as likely (Wu et al., 2017), on the processor in float64.

    In float32 the library's weights of distant negatives become 0 beside one near pair anywhere in the batch,
    and their anchors silently fall out; on the processor the draws are the same for every device.
    """

    def __init__(self, miner: nn.Module) -> None:
        super().__init__()
        self.miner = miner

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Triplets of embeddings and labels; with those of a memory, others than anchors are from there."""
        given = (each.detach().cpu() for each in batch)
        triplets = self.miner(*(each.double() if each.is_floating_point() else each for each in given))
        return tuple(indices.to(batch[0].device) for indices in triplets)


def l2_distance() -> Any:
    """The library's L2 distance between embeddings normalised to length 1."""
    from pytorch_metric_learning import distances

    return distances.LpDistance(normalize_embeddings=True, p=2, power=1)


class NPair(nn.Module):
    """N-pair loss (Sohn, 2016) in as many rounds as it takes to bring each photo into a pair.

    The library's own uses only the first two photos of an identity.
    """

    def __init__(self, loss: nn.Module, temperature: float) -> None:
        super().__init__()
        self.loss, self.temperature = loss, temperature

    def forward(self, embeddings: Tensor, labels: Tensor, mined: None = None) -> Tensor:
        """The mean over all pairs; a pair's positive competes with those of the other pairs of its round."""
        del mined
        scaled, total, pairs = embeddings * self.temperature**-0.5, embeddings.sum() * 0, 0
        for anchors, positives in _rounds(labels):
            none = anchors[:0]
            total = total + len(anchors) * self.loss(scaled, labels, (anchors, positives, none, none))
            pairs += len(anchors)
        return total / max(pairs, 1)


def _rounds(labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Anchors and positives of each round, one pair an identity; rounds of a single pair are left out."""
    photos_of: dict[int, list[int]] = {}
    for photo, label in enumerate(labels.tolist()):
        photos_of.setdefault(label, []).append(photo)
    rounds: dict[int, list[tuple[int, int]]] = {}
    for photos in photos_of.values():
        # The last of an odd number is paired with the first.
        for number, (anchor, positive) in enumerate(
            zip(photos[::2], [*photos[1::2], photos[0]], strict=False)
        ):
            if anchor != positive:
                rounds.setdefault(number, []).append((anchor, positive))
    tensors = [torch.tensor(pairs, device=labels.device) for pairs in rounds.values() if len(pairs) > 1]
    return [(pairs[:, 0], pairs[:, 1]) for pairs in tensors]


LossName = Literal["contrastive", "triplet", "n_pair", "multi_similarity", "circle", "supcon", "proxy_anchor"]
MARGINS = {"contrastive": 1.0, "triplet": 0.2, "circle": 0.4, "proxy_anchor": 0.1}
"""The usual margin of each loss that has one: its paper's, for triplets FaceNet's."""
MINED = ("contrastive", "triplet", "multi_similarity", "circle", "supcon")
"""The losses that learn from chosen pairs or triplets, and so take a miner and a memory."""


class MetricLossConfig(MethodConfig):
    """Fields of a method with a metric loss."""

    loss: LossName = "triplet"
    """contrastive, triplet, n_pair, multi_similarity, circle, supcon or proxy_anchor."""
    miner: Annotated[MinerName, Choice(("all", "semihard", "distance_weighted", "batch_hard"))] = "all"
    """Triplets of a batch that are learned from: all, hard, semihard, distance_weighted or batch_hard."""
    margin: Annotated[float | None, Field(gt=0, le=2), Search(0.05, 1.0)] = None
    """Of the loss, and of miner=semihard; unless given contrastive 1, triplet 0.2, circle 0.4, proxy_anchor
    0.1, and 0.2 for the miner. The others have none."""
    soft_margin: bool = False
    """For loss=triplet, log(1 + exp(difference)) in place of a margin (Hermans et al. 2017)."""
    temperature: Annotated[float, Field(gt=0), Search(0.02, 0.5, log=True)] = 0.1
    """Divides the cosines of loss=supcon and n_pair."""
    memory: Annotated[int, Field(ge=0)] = 0
    """Embeddings of past batches to compare with too (cross-batch memory, Wang et al. 2020), from the end of
    the warm-up on; 0 for none."""

    @model_validator(mode="after")
    def _what_goes_together(self) -> Self:
        mined = f"{', '.join(MINED[:-1])} or {MINED[-1]}"
        if self.miner != "all" and self.loss not in MINED:
            raise ValueError(
                f"miner={self.miner} has no part in loss={self.loss}; set miner=all or loss={mined}"
            )
        if self.memory and self.loss not in MINED:
            raise ValueError(f"loss={self.loss} cannot use a memory; set memory=0 or loss={mined}")
        if self.soft_margin and self.loss != "triplet":
            raise ValueError(f"soft_margin=true is for loss=triplet, not {self.loss}; leave one out")
        if self.margin is not None and self.miner != "semihard":
            if self.soft_margin:
                raise ValueError(f"soft_margin=true leaves margin={self.margin} without use; leave one out")
            if self.loss not in MARGINS:
                raise ValueError(f"loss={self.loss} with miner={self.miner} has no margin; leave margin out")
        return self

    def tunable(self) -> dict[str, FieldValue]:
        """The fields worth tuning, without those that have no effect on the loss."""
        used = {
            "miner": self.loss in MINED,
            "temperature": self.loss in ("supcon", "n_pair"),
            "margin": self.loss_margin() > 0,
        }
        fields = super().tunable() | {"margin": self.loss_margin()}
        return {name: start for name, start in fields.items() if used.get(name, True)}

    def loss_margin(self) -> float:
        """The margin of the loss; 0 where it has none."""
        usual = 0.0 if self.soft_margin else MARGINS.get(self.loss, 0.0)
        return usual if self.margin is None or not usual else self.margin

    def miner_margin(self) -> float:
        """The margin of the miner."""
        return MARGINS["triplet"] if self.margin is None else self.margin


def build_loss(config: MetricLossConfig, identities: int, dimensions: int) -> nn.Module:
    """The loss of embeddings (photos, dimensions) of length 1, labels (photos,) and mined triplets or None.

    contrastive: Hadsell et al. 2006; triplet: Schroff et al. 2015; multi_similarity: Wang et al. 2019;
    circle: Sun et al. 2020; supcon: Khosla et al. 2020; proxy_anchor: Kim et al. 2020. Means are over what is
    not 0, but over all photos for multi_similarity; proxy_anchor divides by proxies.
    """
    from pytorch_metric_learning import distances, losses, reducers

    margin = config.loss_margin()
    plain: dict[str, Any] = {"embedding_regularizer": None, "embedding_reg_weight": 1}
    l2 = plain | {"distance": l2_distance(), "reducer": reducers.AvgNonZeroReducer()}
    cosine = plain | {"distance": distances.CosineSimilarity(p=2, power=1)}
    active = cosine | {"reducer": reducers.AvgNonZeroReducer()}
    loss: nn.Module
    match config.loss:
        case "contrastive":
            loss = losses.ContrastiveLoss(pos_margin=0, neg_margin=margin, **l2)
        case "triplet":
            loss = losses.TripletMarginLoss(
                margin=margin, swap=False, smooth_loss=config.soft_margin, triplets_per_anchor="all", **l2
            )
        case "n_pair":
            product = distances.DotProductSimilarity(normalize_embeddings=False, p=2, power=1)
            each = losses.NPairsLoss(distance=product, reducer=reducers.MeanReducer(), **plain)
            loss = NPair(each, config.temperature)
        case "multi_similarity":
            mean = reducers.MeanReducer()
            loss = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5, reducer=mean, **cosine)
        case "circle":
            loss = losses.CircleLoss(m=margin, gamma=80, **active)
        case "supcon":
            loss = losses.SupConLoss(temperature=config.temperature, **active)
        case "proxy_anchor":
            loss = losses.ProxyAnchorLoss(
                num_classes=identities,
                embedding_size=dimensions,
                margin=margin,
                alpha=32,
                weight_init_func=nn.init.xavier_normal_,
                weight_regularizer=None,
                weight_reg_weight=1,
                reducer=reducers.DivisorReducer(),
                **cosine,
            )
    return loss


def build_metric_loss(config: MetricLossConfig, identities: int, dimensions: int) -> MetricLoss:
    """The configured loss, with its miner and, if it has one, its memory."""
    return (RememberingLoss if config.memory else MetricLoss)(config, identities, dimensions)


class MetricLoss(nn.Module):
    """A loss and its miner."""

    def __init__(self, config: MetricLossConfig, identities: int, dimensions: int) -> None:
        super().__init__()
        self.loss = build_loss(config, identities, dimensions)
        self.miner = build_miner(config.miner, config.miner_margin())

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (photos, dimensions), of any length, under labels (photos,).

        Where the batch has no valid pair or triplet it is 0, with a gradient of 0.
        """
        precise = torch.promote_types(embeddings.dtype, torch.float32)
        return self.compare(normalize(embeddings.to(precise)), labels)

    def compare(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings of length 1, compared among themselves."""
        mined = None if self.miner is None else self.miner(embeddings, labels)
        value: Tensor = self.loss(embeddings, labels, mined)
        return value

    def remember(self, use: bool) -> None:
        """Switches the memory on or off, where there is one."""

    def take_memory(self, other: Self) -> None:
        """Copies the memory of another loss of the same configuration, where there is one."""


class RememberingLoss(MetricLoss):
    """A metric loss with a memory, whose embeddings and how far it is filled are part of the state."""

    def __init__(self, config: MetricLossConfig, identities: int, dimensions: int) -> None:
        super().__init__(config, identities, dimensions)
        from pytorch_metric_learning.losses import CrossBatchMemory

        self.memory = CrossBatchMemory(
            loss=self.loss, embedding_size=dimensions, memory_size=config.memory, miner=self.miner
        )
        self.used = False

    def compare(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss compared among themselves or, once it is on, with the memory, which takes them in."""
        if not (self.used and self.training) or len(embeddings) > self.memory.memory_size:
            return super().compare(embeddings, labels)
        value: Tensor = self.memory(embeddings, labels)
        return value

    def remember(self, use: bool) -> None:
        """Switches the memory on or off."""
        self.used = use

    def take_memory(self, other: Self) -> None:
        """Copies the other's memory."""
        self.memory.load_state_dict(other.memory.state_dict())
        self.set_extra_state(other.get_extra_state())

    def get_extra_state(self) -> Tensor:
        """(2,): where the memory is written next, and whether it is full."""
        return torch.tensor([self.memory.queue_idx, int(self.memory.has_been_filled)])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what `get_extra_state` gave."""
        self.memory.queue_idx, self.memory.has_been_filled = int(state[0]), bool(state[1])
