"""Averages of weights: what a network is after training, besides where its last step left it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

Average = Literal["ema", "checkpoints"]


class LastWeights:
    """No average: the network as its last step leaves it."""

    def __init__(self, both: nn.ModuleList) -> None:
        self.both = both
        self.kept = both
        """Network and loss as they are validated and used: at any time, and after the last epoch."""

    def after_step(self, steps: int) -> None:
        """Takes note of the weights after so many steps."""

    def after_epoch(self, number: int, plain: Iterable[Tensor]) -> None:
        """Takes note of the weights after an epoch, counted from 1.

        plain is one pass over the training photos as they are, batches of pixels (photos, channels, height,
        width); nothing is read unless it is needed.
        """

    def state_dict(self) -> dict[str, Any]:
        """The average so far; nothing, where network and loss are all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        del state


class RunningAverage(LastWeights):
    """The exponential moving average of the weights after every step."""

    def __init__(self, both: nn.ModuleList, decay: float) -> None:
        super().__init__(both)
        from timm.utils.model_ema import ModelEmaV3

        self.average = ModelEmaV3(both, decay=decay, use_warmup=True)
        self.kept = self.average.module
        self._averaged, self._weights = list(self.kept.parameters()), list(both.parameters())
        self._buffers = [
            (ours, theirs, name)
            for ours, theirs in zip(self.kept.modules(), both.modules(), strict=True)
            for name, value in theirs._buffers.items()
            if value is not None and name not in theirs._non_persistent_buffers_set
        ]
        """Where the buffers are: a module may put another tensor in the place of one."""

    @torch.no_grad()
    def after_step(self, steps: int) -> None:
        """Moves the average towards the weights, as ModelEmaV3 does, which gathers all of them anew."""
        buffers = [(ours.get_buffer(name), theirs.get_buffer(name)) for ours, theirs, name in self._buffers]
        moved = [pair for pair in buffers if pair[0].is_floating_point()]
        averaged = [*self._averaged, *(ours for ours, _ in moved)]
        weights = [*self._weights, *(theirs for _, theirs in moved)]
        # The count makes the average follow quickly at first and forget where it started.
        torch._foreach_lerp_(averaged, weights, weight=1.0 - self.average.get_decay(steps))
        for ours, theirs in buffers:
            if not ours.is_floating_point():
                ours.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The average so far."""
        return {"average": self.kept.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.kept.load_state_dict(state["average"])


class CheckpointAverage(LastWeights):
    """The equal average of the last epochs' weights (Izmailov et al., 2018; Humpback 2019, 3rd place).

    Batch normalisation has never seen the averaged weights: its statistics are taken anew in one pass over
    the training photos without augmentation. Until then the network is validated as its last step left it.
    """

    def __init__(self, both: nn.ModuleList, epochs: int, checkpoints: int) -> None:
        super().__init__(both)
        from torch.optim.swa_utils import AveragedModel

        self.epochs, self.first = epochs, epochs - checkpoints + 1
        self.average = AveragedModel(both)

    def after_epoch(self, number: int, plain: Iterable[Tensor]) -> None:
        """Adds the weights to the average; after the last epoch the average is what is kept."""
        from torch.optim.swa_utils import update_bn

        if number >= self.first:
            self.average.update_parameters(self.both)
        if number == self.epochs:
            self._keep_average()
            update_bn(plain, self.kept[0])

    def state_dict(self) -> dict[str, Any]:
        """The average so far, and whether it is what is kept."""
        return {"average": self.average.state_dict(), "complete": self.kept is self.average.module}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.average.load_state_dict(state["average"])
        if state["complete"]:
            self._keep_average()

    def _keep_average(self) -> None:
        kept = self.average.module
        assert isinstance(kept, nn.ModuleList)
        self.kept = kept
