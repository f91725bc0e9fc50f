"""What a training has to take up again to go on as if it had never stopped, besides its network."""

from __future__ import annotations

from typing import Any

import torch


class KeptOptimizer:
    """The state of an optimizer, put back in the memory layout of its parameters.

    By itself torch leaves it in the layout it was stored in, which fused steps do not check.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """What the optimizer says of itself."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.optimizer.load_state_dict(state)
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)


class KeptGenerator:
    """The state of a generator of random numbers."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.generator.set_state(state["state"])
