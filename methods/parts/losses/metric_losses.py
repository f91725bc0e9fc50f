"""Losses on pairs, triplets and proxies by pytorch-metric-learning behind one door.

Every default of the library is written out: its next version changes them. Embeddings have length 1:
contrastive and triplet measure their L2 distance, from 0 to 2, the others their cosine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from whalebench.methods.method import Choice, FieldValue, MethodConfig, Search
from whalebench.methods.parts.losses.miners import MinerName, l2_distance
from whalebench.methods.parts.losses.n_pair import NPair

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
    from pytorch_metric_learning import distances, losses, reducers  # noqa: PLC0415  (a second to import)

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
