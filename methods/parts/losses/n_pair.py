"""The N-pair loss, over all photos of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
