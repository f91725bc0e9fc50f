"""Cycles of a training: the learning rate starts anew several times, and each cycle leaves a network."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from whalebench.methods.method import PartConfig

Joined = Literal["scores", "embeddings", "votes"]

TAIL = 0.6
"""The tail where none is given; in the 4th place of TGS Salt 2018 it began at epoch 20 of 50."""


class ScheduleConfig(PartConfig):
    """How a training is cut into cycles; the field `schedule` of every method that trains a network."""

    cycles: Annotated[int, Field(ge=1)] = 1
    """Cosines with restarts that share the epochs out (Loshchilov & Hutter 2017; Huang et al. 2017); each
    goes on where the one before ended and leaves a network, and all of them answer together."""
    tail: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a cycle, its last, in which the best epoch on valid is kept; unless given, 0.6 of each of
    several cycles, and of a single one its last epoch."""
    joined: Joined = "scores"
    """What of the cycles is put together: the mean of their scores; that of their embeddings, compared by the
    gallery; or votes, 1 / rank among each one's first 20, equal votes by the mean score."""

    @model_validator(mode="after")
    def _several_to_join(self) -> Self:
        if self.cycles == 1 and self.joined != "scores":
            raise ValueError(f"joined={self.joined} joins several cycles and there is one; set cycles=7")
        return self

    def shares(self, epochs: int) -> list[int]:
        """The epochs of each cycle: all of them together, and none more than one longer than another."""
        each, rest = divmod(epochs, self.cycles)
        return [each + (place < rest) for place in range(self.cycles)]

    def first_kept(self, epochs: int) -> int | None:
        """The first epoch, from 1, of so many, of which the best is kept; None where the last one is."""
        if self.tail is None:
            return None
        # Rounded, because 0.14 times 50 is a little more than 7.
        return epochs + 1 - math.ceil(round(self.tail * epochs, 6))

    def of_one_cycle(self) -> ScheduleConfig:
        """The schedule of each of several cycles, taken by itself."""
        return ScheduleConfig(tail=TAIL if self.tail is None else self.tail)
