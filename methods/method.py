"""What every method is: a frozen configuration and two verbs, learn and score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from whalebench.benchmarks.photos import Photos


@dataclass(frozen=True)
class Search:
    """The range in which tuning looks for a field's value; written beside the field."""

    low: float
    high: float
    log: bool = False


class MethodConfig(BaseModel):
    """Base of every method's configuration: frozen, typed, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def track(self) -> str:
        """What a table holds equal: weights, pixels, photos seen; only one track is ranked together.

        A method that does not say is on a track of its own.
        """
        return f"open to {type(self).__name__} alone"


@dataclass(frozen=True)
class Epoch:
    """What a method tells the harness after each epoch."""

    number: int
    """From 1."""
    of: int
    loss: float
    """Mean over the epoch's photos."""
    learning_rate: float
    photos: int
    """Photos learned from in this epoch."""
    seconds: float
    """Spent on learning, without validation."""
    valid_scores: NDArray[np.float32] | None = None
    """(valid photos, identities) as after this epoch, or None where the epoch was not validated."""


class Harness(Protocol):
    """What the runner gives a learning method, and how the method reports back."""

    seed: int
    device: torch.device

    def stage(self, name: str) -> None:
        """Announces the next phase of the work; its seconds are in the record under this name."""

    def epoch(self, epoch: Epoch) -> None:
        """Takes note of an epoch: the curve, the progress shown, the validation score."""

    def valid_map_at_5(self, scores: NDArray[np.float32]) -> float:
        """MAP@5 on valid of scores (valid photos, identities), with the best *new* threshold on valid."""

    def choose(self, name: str, value: float | None) -> None:
        """Writes down what was chosen on valid, for the record."""


class Method(ABC):
    """An approach to identification. Subclasses name themselves, their configuration and their source."""

    name: ClassVar[str]
    """What is typed after `whalebench run`."""
    summary: ClassVar[str]
    """One line for `whalebench methods`."""
    source: ClassVar[str]
    """The paper or the system it comes from."""
    Config: ClassVar[type[MethodConfig]]
    transductive: ClassVar[bool] = False
    """Whether a photo's score depends on the others it is scored with; such runs have tables of their own."""

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The photo sizes (height, width) it will ask for, decoded before the clock starts."""
        return ()

    @abstractmethod
    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Learns from train and chooses on valid; both are labelled."""

    @abstractmethod
    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Scores (photos, identities), higher is more likely; photos carry no labels."""

    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """Embeddings (photos, dimensions) for retrieval, or None for a method that has none."""
        return None

    def weights(self) -> dict[str, torch.Tensor]:
        """What was learned, by name, to be stored as safetensors."""
        return {}
