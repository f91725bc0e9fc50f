"""Where tuning looks: the fields of a method with a range or words beside them, as Optuna wants them.

What tuning may cost: trials, hours of work, or photos learned from; and what it has cost so far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo

from whalebench import WhalebenchError
from whalebench.methods.method import Choice, FieldValue, Method, Search
from whalebench.methods.registry import configure, fields_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


TRIALS = 20
"""Where nothing is said."""
HOUR = 3600.0
UNITS = {"h": HOUR, "min": 60.0, "m": 60.0, "s": 1.0}
THOUSANDS = {"": 1, "k": 1_000, "M": 1_000_000}


@dataclass(frozen=True)
class Spent:
    """What the finished trials of a study came to."""

    trials: int = 0
    seconds: float = 0.0
    """Of work, those of several workers added together."""
    photos: int = 0
    """Photos learned from, one seen twice counts twice."""


@dataclass(frozen=True)
class Budget:
    """What a study may cost; of several limits the one that is reached first counts."""

    trials: int | None = None
    seconds: float | None = None
    photos: int | None = None

    def words(self) -> str:
        """The limits as a person reads them.

        >>> Budget(trials=20, seconds=7200).words(), Budget(photos=500_000).words()
        ('20 trials, 2 h', '500,000 photos')
        """
        said = [] if self.trials is None else [f"{self.trials} trial{'s' if self.trials > 1 else ''}"]
        said += [] if self.seconds is None else [_duration(self.seconds)]
        said += [] if self.photos is None else [f"{self.photos:,} photos"]
        return ", ".join(said)

    def is_spent(self, spent: Spent) -> bool:
        """Whether no further trial may begin."""
        limits = ((self.trials, spent.trials), (self.seconds, spent.seconds), (self.photos, spent.photos))
        return any(limit is not None and cost >= limit for limit, cost in limits)

    def share(self, spent: Spent) -> float:
        """How much of it is spent, from 0 to 1."""
        limits = ((self.trials, spent.trials), (self.seconds, spent.seconds), (self.photos, spent.photos))
        return min(1.0, max(cost / limit for limit, cost in limits if limit is not None))


def read_budget(trials: int | None, text: str | None) -> Budget:
    """The budget as it is typed: a number of trials, and a text as 2h, 90m, 45s, 500k or 1.5M (photos).

    20 trials where neither is given. Raises WhalebenchError for anything else.
    """
    if trials is not None and trials < 1:
        raise WhalebenchError(f"--trials {trials} is no budget: give at least 1, the defaults.")
    if text is None:
        return Budget(trials=TRIALS if trials is None else trials)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(h|min|m|s|k|M|)(?:\s*photos)?", text.strip())
    amount = float(found[1]) if found else 0.0
    if not found or not amount or (found[2] in UNITS and text.rstrip().endswith("photos")):
        raise WhalebenchError(
            f"--budget {text} cannot be read: write hours or minutes as 2h or 90m, or photos as 500k."
        )
    if found[2] in UNITS:
        return Budget(trials, seconds=amount * UNITS[found[2]])
    return Budget(trials, photos=max(1, round(amount * THOUSANDS[found[2]])))


def _duration(seconds: float) -> str:
    if seconds >= HOUR:
        return f"{seconds / HOUR:g} h"
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


DIGITS = 4
"""Significant digits of a value that is tried: more make no difference, and these can be typed."""


@dataclass(frozen=True)
class Space:
    """The fields that are tuned."""

    distributions: dict[str, BaseDistribution]
    start: dict[str, FieldValue]
    """The values that the fields have, or stand for, before tuning."""

    def settings(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The values as key=value, those left out that are as before tuning: none for the defaults."""
        return tuple(
            f"{name}={_typed(value)}" for name, value in parameters.items() if value != self.start[name]
        )

    def words(self) -> dict[str, str]:
        """Each field's range or words, as a person reads them."""
        return {name: _words(found) for name, found in self.distributions.items()}


def search_space(method: type[Method], settings: Sequence[str]) -> Space:
    """Where tuning looks for the fields that are not among the settings (key=value).

    A range is widened to hold the value before tuning; a field that is off, as 0 of a logarithmic range,
    stays off. Raises WhalebenchError where nothing is left.
    """
    config = configure(method, settings)
    fixed = {setting.partition("=")[0] for setting in settings}
    fields = dict(fields_of(method.Config))
    distributions: dict[str, BaseDistribution] = {}
    start: dict[str, FieldValue] = {}
    for name, value in sorted(config.tunable().items()):
        found = None if name in fixed else _distribution(fields[name], value)
        if found is not None:
            distributions[name], start[name] = found, value
    if not distributions:
        left = "every field with a search range is set" if config.tunable() else "no field has a search range"
        raise WhalebenchError(
            f"'{method.name}' has nothing to tune: {left}; see `whalebench methods {method.name}`."
        )
    return Space(distributions, start)


def _distribution(field: FieldInfo, start: FieldValue) -> BaseDistribution | None:
    from optuna import distributions

    mark = next(mark for mark in field.metadata if isinstance(mark, Search | Choice))
    if isinstance(mark, Choice):
        return distributions.CategoricalDistribution(list(dict.fromkeys([*mark.values, str(start)])))
    number = float(start)
    if mark.log and number <= 0:
        return None
    low, high = min(mark.low, number), max(mark.high, number)
    if field.annotation is int:
        return distributions.IntDistribution(int(low), int(high), log=mark.log, step=1)
    return distributions.FloatDistribution(low, high, log=mark.log, step=None)


def _typed(value: FieldValue) -> str:
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _words(distribution: Any) -> str:
    if hasattr(distribution, "choices"):
        return ", ".join(map(str, distribution.choices))
    return f"{distribution.low:g} to {distribution.high:g}{' (log)' if distribution.log else ''}"
