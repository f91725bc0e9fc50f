"""What the workers of one study do, and where they find it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whalebench.benchmarks.tuning.budget import Budget
    from whalebench.benchmarks.tuning.evaluate import Ground
    from whalebench.benchmarks.tuning.space import Space
    from whalebench.methods.method import Method


@dataclass(frozen=True)
class Plan:
    """What the workers of one study do."""

    kind: type[Method]
    settings: tuple[str, ...]
    """Fields that are not tuned, as key=value."""
    space: Space
    budget: Budget
    ground: Ground
