"""Random whole numbers that are the same on every machine and in every version of a library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Stream:
    """An endless sequence of random numbers, fixed by the names it is opened with (splitmix64)."""

    def __init__(self, *names: str | int) -> None:
        digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
        self.state = int.from_bytes(digest[:8], "little")

    def word(self) -> int:
        """The next number of 64 bits."""
        self.state = (self.state + _GOLDEN) & _MASK
        value = self.state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        return value ^ (value >> 31)

    def between(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included, each equally likely."""
        return low + ((self.word() * (high - low + 1)) >> 64)

    def bell(self, low: int, high: int) -> int:
        """A number from `low` to `high` with the middle the most likely: the mean of three."""
        return sum(self.between(low, high) for _ in range(3)) // 3

    def either(self, permille: int, first: tuple[int, int], second: tuple[int, int]) -> int:
        """A number from the first range `permille` times in a thousand, else from the second."""
        return self.between(*(first if self.chance(permille) else second))

    def chance(self, permille: int) -> bool:
        """True `permille` times in a thousand."""
        return self.between(0, 999) < permille

    def positive(self, low: int, high: int) -> int:
        """A number from `low` to `high`, 0 instead of those below it."""
        return max(0, self.between(low, high))

    def seed(self) -> int:
        """A number of 32 bits, for `uniform`."""
        return self.word() >> 32

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in a new order (Fisher and Yates)."""
        deck = list(items)
        for last in range(len(deck) - 1, 0, -1):
            other = self.between(0, last)
            deck[last], deck[other] = deck[other], deck[last]
        return deck

    def fill(self, kind: type[Item], **given: Any) -> Item:
        """A dataclass whose fields are `drawn` in their order, but for those that are given."""
        for each in fields(kind):  # type: ignore[arg-type]
            if each.name not in given:
                draw, ranges = each.metadata["draw"]
                values = tuple(draw(self, *limits) for limits in ranges)
                given[each.name] = values if len(values) > 1 else values[0]
        return kind(**given)


def drawn(draw: Callable[..., Any], *ranges: tuple[Any, ...]) -> Any:
    """A field of a dataclass that `Stream.fill` draws: a value, or a tuple of one from each of the ranges."""
    return field(metadata={"draw": (draw, ranges or ((),))})


def uniform(seed: int, *shape: int) -> NDArray[np.float32]:
    """An array of `shape` with values in [0, 1), fixed by `seed` (splitmix64, all at once)."""
    count = int(np.prod(shape))
    start = np.uint64((seed * 0xD1342543DE82EF95 + 1) & _MASK)
    value = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return ((value >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)).reshape(shape)
