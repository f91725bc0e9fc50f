"""Losses on pairs, triplets and proxies by pytorch-metric-learning behind one door.

Every default of the library is written out: its next version changes them. Embeddings have length 1:
contrastive and triplet measure their L2 distance, from 0 to 2, the others their cosine.

Miners by pytorch-metric-learning behind one door: which triplets of a batch are learned from.

Distances are L2 between embeddings of length 1, so from 0 to 2. Every default of the library is written out.

The N-pair loss, over all photos of a batch.

A metric loss as the training loop calls it: of any length, mined, and compared with past batches.
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
    """A miner, from embeddings (photos, dimensions) and labels (photos,) to triplets; None for all there are.

    Triplets are anchors, positives and negatives, each (triplets,) places in the batch. hard: the negative is
    no further from the anchor than the positive. semihard: it is further, by margin at most (Schroff et al.,
    2015). distance_weighted: see there. batch_hard: of each anchor the furthest positive and the nearest
    negative (Hermans et al., 2017).
    """
    from pytorch_metric_learning import miners

    miner: nn.Module | None = None
    match name:
        case "hard" | "semihard":
            miner = miners.TripletMarginMiner(margin=margin, type_of_triplets=name, distance=l2_distance())
        case "batch_hard":
            miner = miners.BatchHardMiner(
                allowed_pos_range=None, allowed_neg_range=None, distance=l2_distance()
            )
        case "distance_weighted":
            miner = DistanceWeighted(
                miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4, distance=l2_distance())
            )
    return miner


class DistanceWeighted(nn.Module):
    """Negatives drawn so that each distance is as likely (Wu et al., 2017), on the processor in float64.

    In float32 the library's weights of distant negatives become 0 beside one near pair anywhere in the batch,
    and their anchors silently fall out; on the processor the draws are the same for every device.
    """

    def __init__(self, miner: nn.Module) -> None:
        super().__init__()
        self.miner = miner

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Triplets of the batch, or with anchors there and the others in ref (the memory)."""
        ref = None if ref_emb is None else ref_emb.detach().cpu().double()
        others = None if ref_labels is None else ref_labels.cpu()
        triplets = self.miner(embeddings.detach().cpu().double(), labels.cpu(), ref, others)
        return tuple(places.to(embeddings.device) for places in triplets)


def l2_distance() -> Any:
    """The library's L2 distance between embeddings, brought to length 1."""
    from pytorch_metric_learning import distances

    return distances.LpDistance(normalize_embeddings=True, p=2, power=1)


class NPair(nn.Module):
    """N-pair loss (Sohn, 2016) in as many rounds as it takes to bring each photo into a pair.

    The library's takes the first two photos of an identity and passes over the others.
    """

    def __init__(self, loss: nn.Module, temperature: float) -> None:
        super().__init__()
        self.loss, self.temperature = loss, temperature

    def forward(self, embeddings: Tensor, labels: Tensor, mined: None = None) -> Tensor:
        """The mean over all pairs; a pair's positive is told from those of the other pairs of its round."""
        del mined
        scaled, total, pairs = embeddings * self.temperature**-0.5, embeddings.sum() * 0, 0
        for anchors, positives in _rounds(labels):
            none = anchors[:0]
            total = total + len(anchors) * self.loss(scaled, labels, (anchors, positives, none, none))
            pairs += len(anchors)
        return total / max(pairs, 1)


def _rounds(labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Anchors and positives of each round, one pair an identity; rounds of a single pair are left out."""
    rounds: dict[int, list[tuple[int, int]]] = {}
    owner = labels.tolist()
    for identity in dict.fromkeys(owner):
        photos = [place for place, label in enumerate(owner) if label == identity]
        if len(photos) > 1:
            for number, start in enumerate(range(0, len(photos), 2)):
                partner = photos[start + 1] if start + 1 < len(photos) else photos[0]
                rounds.setdefault(number, []).append((photos[start], partner))
    tensors = [torch.tensor(pairs, device=labels.device) for pairs in rounds.values() if len(pairs) > 1]
    return [(pairs[:, 0], pairs[:, 1]) for pairs in tensors]


LossName = Literal["contrastive", "triplet", "n_pair", "multi_similarity", "circle", "supcon", "proxy_anchor"]
MARGINS = {"contrastive": 1.0, "triplet": 0.2, "circle": 0.4, "proxy_anchor": 0.1}
"""Of each loss that has one, unless said otherwise: of the papers, and of FaceNet for triplets."""
MINED = ("contrastive", "triplet", "multi_similarity", "circle", "supcon")
"""The losses that learn from chosen pairs or triplets, and so take a miner and a memory."""


class MetricLossConfig(MethodConfig):
    """Fields of a method with such a loss."""

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
        """As for every method, without what the loss does not have."""
        found = super().tunable() | {"margin": self.loss_margin()}
        unused = set() if self.loss in MINED else {"miner"}
        unused |= set() if self.loss in ("supcon", "n_pair") else {"temperature"}
        unused |= set() if self.loss_margin() else {"margin"}
        return {name: start for name, start in found.items() if name not in unused}

    def loss_margin(self) -> float:
        """The margin of the loss; 0 where it has none."""
        usual = 0.0 if self.soft_margin else MARGINS.get(self.loss, 0.0)
        return usual if self.margin is None or not usual else self.margin

    def miner_margin(self) -> float:
        """The margin of the miner."""
        return MARGINS["triplet"] if self.margin is None else self.margin


def build_loss(config: MetricLossConfig, identities: int, dimensions: int) -> nn.Module:
    """The loss alone: of embeddings (photos, dimensions) of length 1, labels (photos,), and mined or None.

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
            soft = config.soft_margin
            loss = losses.TripletMarginLoss(
                margin=margin, swap=False, smooth_loss=soft, triplets_per_anchor="all", **l2
            )
        case "n_pair":
            product = distances.DotProductSimilarity(normalize_embeddings=False, p=2, power=1)
            each = losses.NPairsLoss(distance=product, reducer=reducers.MeanReducer(), **plain)
            loss = NPair(each, config.temperature)
        case "multi_similarity":
            loss = losses.MultiSimilarityLoss(
                alpha=2, beta=50, base=0.5, reducer=reducers.MeanReducer(), **cosine
            )
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
    """The loss, its miner, and the memory where one is asked for; from embeddings and labels to a number."""
    return (RememberingLoss if config.memory else MetricLoss)(config, identities, dimensions)


class MetricLoss(nn.Module):
    """A loss and the miner that chooses for it."""

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
        """The loss of embeddings of length 1, among themselves."""
        mined = None if self.miner is None else self.miner(embeddings, labels)
        value: Tensor = self.loss(embeddings, labels, mined)
        return value

    def remember(self, use: bool) -> None:
        """Uses the memory from now on, or no longer; without one nothing changes."""

    def take_memory(self, other: Self) -> None:
        """Takes up what another loss of the same configuration remembers."""


class RememberingLoss(MetricLoss):
    """The same with a memory; its embeddings and how far it is filled are part of the state."""

    def __init__(self, config: MetricLossConfig, identities: int, dimensions: int) -> None:
        super().__init__(config, identities, dimensions)
        from pytorch_metric_learning.losses import CrossBatchMemory

        self.memory = CrossBatchMemory(
            loss=self.loss, embedding_size=dimensions, memory_size=config.memory, miner=self.miner
        )
        self.used = False

    def compare(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss among themselves and, once it is used, with the memory, which then takes them up."""
        if not (self.used and self.training) or len(embeddings) > self.memory.memory_size:
            return super().compare(embeddings, labels)
        value: Tensor = self.memory(embeddings, labels)
        return value

    def remember(self, use: bool) -> None:
        """Uses the memory from now on, or no longer."""
        self.used = use

    def take_memory(self, other: Self) -> None:
        """Takes up what the other remembers."""
        self.memory.load_state_dict(other.memory.state_dict())
        self.set_extra_state(other.get_extra_state())

    def get_extra_state(self) -> Tensor:
        """(2,) the next place to be written to, and whether all places have been."""
        return torch.tensor([self.memory.queue_idx, int(self.memory.has_been_filled)])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes up what `get_extra_state` gave."""
        self.memory.queue_idx, self.memory.has_been_filled = int(state[0]), bool(state[1])
