"""What a rule makes of the members."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue


@dataclass(frozen=True)
class Combined:
    """Scores (photos, identities) of valid and test, and what was learned from valid to make them."""

    valid: NDArray[np.float32]
    """Of each photo by what was learned without it."""
    test: NDArray[np.float32]
    chosen: dict[str, JsonValue] = field(default_factory=dict)
    """What was chosen on valid, by name."""
    train_log_loss: float | None = None
    """Of the valid photos that were learned from; None where nothing was learned."""
    out_of_fold_log_loss: float | None = None
    """Of the same photos by what was learned without them."""
    alone: dict[str, float] = field(default_factory=dict)
    """The same two of what was learned alone, by name, where the scores mix it with something else."""
    learned: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays to be stored as the run's weights; empty where nothing was learned from valid."""
