"""What recipes share: a published system's configuration at its own scale, and at that of a laptop.

What recipes around `arcface` share: its fields, and their way into the members' configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from whalebench.methods.arcface import ArcFaceConfig
from whalebench.methods.method import MethodConfig
from whalebench.methods.parts.embedder import EmbedderConfig
from whalebench.methods.parts.losses.margins import HeadConfig

Scale = Literal["full", "small"]
Values = Mapping[str, Any]


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


def _filled(given: Values, defaults: Values) -> dict[str, Any]:
    """What is given, and the defaults for all that is not, part by part."""
    filled = dict(defaults) | dict(given)
    for name in defaults.keys() & given.keys():
        if isinstance(defaults[name], Mapping) and isinstance(given[name], Mapping):
            filled[name] = _filled(given[name], defaults[name])
    return filled


class MarginHeadConfig(HeadConfig):
    """Fields of a recipe's margin softmax: those that `arcface` has of its own."""

    margin_warm_up: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training in which the margin grows from 0; the published systems had it from the start."""


class ArcFaceRecipeConfig(RecipeConfig, EmbedderConfig):
    """Fields of every recipe whose networks are trained as by `arcface` and compared by a gallery alone."""

    head: MarginHeadConfig = MarginHeadConfig()
    """The margin softmax, whose scale would else be mistaken for the recipe's."""

    @model_validator(mode="after")
    def _possible_for_arcface(self) -> Self:
        try:
            self.as_arcface()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self

    def mirrors(self) -> bool:
        """As for `arcface`."""
        return self.head.flip_identities or super().mirrors()

    def track(self) -> str:
        """As for `arcface`."""
        return self.as_arcface().track()

    def in_cycle(self, number: int) -> Self:
        """As for `arcface`."""
        whole = super().in_cycle(number)
        full_margin = {"head": self.head.model_copy(update={"margin_warm_up": 0.0})}
        return whole.model_copy(update=full_margin) if number else whole

    def as_arcface(self) -> ArcFaceConfig:
        """The fields of `arcface`, the networks' names still joined by +; only the gallery scores."""
        own = {name: getattr(self, name) for name in EmbedderConfig.model_fields}
        head = {name: getattr(self.head, name) for name in MarginHeadConfig.model_fields}
        return ArcFaceConfig.model_validate(own | head | {"photo_weight": 1.0})

    def members(self) -> list[ArcFaceConfig]:
        """The configuration of each network; the crop is cut once for all of them."""
        whole = self.as_arcface()
        seen = {"crop": "none", "oracle": False, "augment": self.strength()}
        return [whole.model_copy(update=seen | {"backbone": name}) for name in self.backbone.split("+")]
