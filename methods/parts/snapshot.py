"""The snapshot: the weights of the epoch that was best on valid."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Snapshot:
    """Keeps a copy of the best weights so far, of equally good ones the first."""

    def __init__(self) -> None:
        self.best = 0
        """The best epoch, from 1; 0 where none was offered."""
        self._offered, self._value = 0, float("-inf")
        self._weights: list[dict[str, Tensor]] = []

    def offer(self, value: float, *modules: nn.Module) -> None:
        """Takes note of the modules as they are after the next epoch, which is worth so much on valid."""
        self._offered += 1
        if value > self._value:
            self.best, self._value = self._offered, value
            self._weights = [
                {name: weights.detach().clone() for name, weights in module.state_dict().items()}
                for module in modules
            ]

    def state_dict(self) -> dict[str, Any]:
        """The best weights so far, and how good they are."""
        return {
            "best": self.best,
            "offered": self._offered,
            "value": self._value,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.best, self._offered = state["best"], state["offered"]
        self._value, self._weights = state["value"], state["weights"]

    def put_back(self, *modules: nn.Module) -> None:
        """Gives the modules the best weights; leaves them alone where no epoch was offered."""
        if self.best:
            for module, weights in zip(modules, self._weights, strict=True):
                module.load_state_dict(weights)
