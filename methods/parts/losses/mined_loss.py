"""A metric loss as the training loop calls it: of any length, mined, and compared with past batches."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from whalebench.methods.parts.losses.metric_losses import MetricLossConfig, build_loss
from whalebench.methods.parts.losses.miners import build_miner


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
        from pytorch_metric_learning.losses import CrossBatchMemory  # noqa: PLC0415

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
