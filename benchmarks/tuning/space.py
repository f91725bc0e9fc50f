"""How tuning searches: the fields and their ranges, what it may cost, and Optuna's sampler and pruner."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic.fields import FieldInfo

from whalebench import WhalebenchError
from whalebench.benchmarks.core.durations import UNITS, duration_words
from whalebench.methods.method import Choice, FieldValue, Method, MethodConfig, Search
from whalebench.methods.registry import configure, fields_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

DIGITS = 4
"""Significant digits of a value that is tried: more make no difference, and these can be typed."""
MOST = 1e12
"""Of hours, photos or millions of them no budget has so many."""
TRIALS = 20
"""The budget where none is given."""
THOUSANDS = {"": 1, "k": 1_000, "M": 1_000_000}
RANDOM_TRIALS = 8
"""Trials, the defaults among them, before the sampler goes by what they scored."""
BEFORE_PRUNING = 4
"""Trials that a median is of, at least."""


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
        return {name: _describe(distribution) for name, distribution in self.distributions.items()}


def search_space(method: type[Method], settings: Sequence[str]) -> Space:
    """Where tuning looks for the fields that are not among the settings (key=value).

    A range is widened to hold the value before tuning; a field that is off, as 0 of a logarithmic range,
    stays off. Raises WhalebenchError where nothing is left.
    """
    tunable = configure(method, settings).tunable()
    fixed = {setting.partition("=")[0] for setting in settings}
    fields = dict(fields_of(method.Config))
    distributions = {
        name: distribution
        for name, value in sorted(tunable.items())
        if name not in fixed and (distribution := _distribution(fields[name], value)) is not None
    }
    if not distributions:
        reason = "every field with a search range is set" if tunable else "no field has a search range"
        raise WhalebenchError(
            f"'{method.name}' has nothing to tune: {reason}; see `whalebench methods {method.name}`."
        )
    return Space(distributions, {name: tunable[name] for name in distributions})


def refuse_test_photos(config: MethodConfig) -> None:
    """Raises WhalebenchError for a configuration that learns from test photos, of which tuning sees none."""
    if setting := config.adapts_by():
        raise WhalebenchError(
            f"{setting} learns from test photos, and none is looked at to choose settings: leave it out."
        )


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
        return distributions.IntDistribution(int(low), int(high), log=mark.log)
    return distributions.FloatDistribution(low, high, log=mark.log)


def _typed(value: FieldValue) -> str:
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _describe(distribution: Any) -> str:
    if hasattr(distribution, "choices"):
        return ", ".join(map(str, distribution.choices))
    return f"{distribution.low:g} to {distribution.high:g}{' (log)' if distribution.log else ''}"


@dataclass(frozen=True)
class Spent:
    """What the ended trials of a study cost."""

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
        limits = [] if self.trials is None else [f"{self.trials} trial{'s' if self.trials > 1 else ''}"]
        limits += [] if self.seconds is None else [duration_words(self.seconds)]
        limits += [] if self.photos is None else [f"{self.photos:,} photos"]
        return ", ".join(limits)

    def is_spent(self, spent: Spent) -> bool:
        """Whether no further trial may begin."""
        return any(cost >= limit for cost, limit in self._limits(spent))

    def share(self, spent: Spent) -> float:
        """How much of it is spent, from 0 to 1."""
        return min(1.0, max(cost / limit for cost, limit in self._limits(spent)))

    def _limits(self, spent: Spent) -> list[tuple[float, float]]:
        """What was spent of each thing that is limited, and the limit."""
        pairs = ((spent.trials, self.trials), (spent.seconds, self.seconds), (spent.photos, self.photos))
        return [(cost, limit) for cost, limit in pairs if limit is not None]


def read_budget(trials: int | None, text: str | None) -> Budget:
    """The budget as it is typed: a number of trials, and a text as 2h, 90m, 45s, 500k or 1.5M (photos).

    20 trials where neither is given. Raises WhalebenchError for anything else.
    """
    if trials is not None and trials < 1:
        raise WhalebenchError(f"--trials {trials} is no budget: give at least 1, the defaults.")
    if text is None:
        return Budget(trials=TRIALS if trials is None else trials)
    # Blanks that two parts of a pattern may take are tried in all ways, so there is one at most.
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?(h|min|m|s|k|M|)(?: ?photos)?", " ".join(text.split()))
    amount, unit = (float(parts[1]), parts[2]) if parts else (0.0, "")
    if not 0 < amount < MOST or (unit in UNITS and text.rstrip().endswith("photos")):
        raise WhalebenchError(
            f"--budget {text} cannot be read: write hours or minutes as 2h or 90m, or photos as 500k."
        )
    if unit in UNITS:
        return Budget(trials, seconds=amount * UNITS[unit])
    return Budget(trials, photos=max(1, round(amount * THOUSANDS[unit])))


def build_sampler(seed: int, trials: int, worker: int = 0) -> BaseSampler:
    """TPE (Bergstra et al. 2011; multivariate: Falkner et al. 2018), seeded anew for each trial of a worker.

    So the trials do not depend on whether a study was stopped and went on. The constant liar keeps workers
    from trying the same place at once.
    """
    from optuna.samplers import TPESampler

    state = np.random.SeedSequence([seed, trials, worker]).generate_state(1)
    return TPESampler(
        n_startup_trials=RANDOM_TRIALS, seed=int(state[0]), multivariate=True, constant_liar=True
    )


def build_pruner(epochs: int) -> BasePruner:
    """Ends a trial that after an epoch scores less on valid than the median of those before, after as many.

    Not in the first third of the epochs, in which a low learning rate looks worse than it is.
    """
    from optuna.pruners import MedianPruner

    # Its steps are counted from 0, epochs from 1.
    return MedianPruner(BEFORE_PRUNING, n_warmup_steps=epochs // 3 + 1, n_min_trials=BEFORE_PRUNING)
