"""The snapshot: the weights of the epoch that was best on valid."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Snapshot:
    """Keeps a copy of the best weights so far, of equally good ones the first."""

    def __init__(self, first: int | None = 1) -> None:
        """Only epochs from the first on are looked at, none where there is no first one."""
        self.first = first
        self.best = 0
        """The best epoch, from 1; 0 where none was offered."""
        self._value = float("-inf")
        self._weights: dict[str, Tensor] = {}

    def takes(self, epoch: int) -> bool:
        """Whether the epoch of that number, from 1, may be the best."""
        return self.first is not None and epoch >= self.first

    def offer(self, epoch: int, value: float, module: nn.Module) -> None:
        """Takes note of the module as it is after the epoch, which is worth so much on valid."""
        if value > self._value:
            self.best, self._value = epoch, value
            self._weights = {name: each.detach().clone() for name, each in module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """The best weights so far, and how good they are."""
        return {"best": self.best, "value": self._value, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.best, self._value, self._weights = state["best"], state["value"], state["weights"]

    def put_back(self, module: nn.Module) -> None:
        """Gives the module the best weights; leaves it alone where no epoch was offered."""
        if self.best:
            module.load_state_dict(self._weights)
