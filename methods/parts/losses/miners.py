"""Miners by pytorch-metric-learning behind one door: which triplets of a batch are learned from.

Distances are L2 between embeddings of length 1, so from 0 to 2. Every default of the library is written out.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

MinerName = Literal["all", "hard", "semihard", "distance_weighted", "batch_hard"]


def build_miner(name: MinerName, margin: float) -> nn.Module | None:
    """A miner, from embeddings (photos, dimensions) and labels (photos,) to triplets; None for all there are.

    Triplets are anchors, positives and negatives, each (triplets,) places in the batch. hard: the negative is
    no further from the anchor than the positive. semihard: it is further, by margin at most (Schroff et al.,
    2015). distance_weighted: see there. batch_hard: of each anchor the furthest positive and the nearest
    negative (Hermans et al., 2017).
    """
    from pytorch_metric_learning import miners  # noqa: PLC0415  (a second to import)

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
    from pytorch_metric_learning import distances  # noqa: PLC0415

    return distances.LpDistance(normalize_embeddings=True, p=2, power=1)
