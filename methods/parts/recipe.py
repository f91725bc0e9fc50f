"""What recipes share: a published system's configuration at its own scale, and at that of a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from whalebench.methods.method import FieldValue, MethodConfig
from whalebench.methods.registry import by_part

Scale = Literal["full", "small"]
Values = Mapping[str, Any]


def typed(settings: str) -> Values:
    """The fields of settings as they are typed, as "epochs=10 head.scale=20"; of one set twice the later."""
    return by_part(settings.split())


class RecipeConfig(MethodConfig):
    """Fields of every recipe."""

    scales: ClassVar[Mapping[Scale, Values]]
    """By scale: the fields that differ from their defaults, as they would be typed."""

    scale: Scale = "full"
    """full: as published; small: what two processor cores finish in minutes. What is set beside it wins."""

    @model_validator(mode="before")
    @classmethod
    def _at_its_scale(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return _filled(given, cls.scales.get(given.get("scale", "full"), {}))


def set_by_hand(config: MethodConfig) -> dict[str, FieldValue]:
    """The fields worth tuning that stand off their defaults, a recipe's off those of its scale; their values.

    Fields of methods within follow the number of theirs, from 0, and a dot.
    """
    required = [name for name, field in type(config).model_fields.items() if field.is_required()]
    kept = [*required, *(["scale"] if isinstance(config, RecipeConfig) else [])]
    default = type(config).model_validate({name: getattr(config, name) for name in kept})
    values = {
        name: value
        for name, value in config.tunable().items()
        if attrgetter(name)(config) != attrgetter(name)(default)
    }
    for place, inner in enumerate(config.within()):
        values |= {f"{place}.{name}": value for name, value in set_by_hand(inner).items()}
    return values


def _filled(given: Values, defaults: Values) -> dict[str, Any]:
    """What is given, and the defaults for all that is not, part by part."""
    filled = dict(defaults) | dict(given)
    for name in defaults.keys() & given.keys():
        if isinstance(defaults[name], Mapping) and isinstance(given[name], Mapping):
            filled[name] = _filled(given[name], defaults[name])
    return filled
