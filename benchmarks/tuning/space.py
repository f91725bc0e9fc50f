"""Where tuning looks: the fields of a method with a range or words beside them, as Optuna wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo

from whalebench import WhalebenchError
from whalebench.methods.method import Choice, FieldValue, Method, Search
from whalebench.methods.registry import configure, fields_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

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
    from optuna import distributions  # noqa: PLC0415  (half a second to import)

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
