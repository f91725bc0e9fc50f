"""The rules by name, and what may be asked of some of them besides; light, for the front door."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from whalebench import WhalebenchError

Rule = Literal[
    "mean",
    "product",
    "vote",
    "knn",
    "logistic",
    "lightgbm",
    "pairs",
    "logistic-features",
    "lightgbm-features",
]
RULES: tuple[str, ...] = get_args(Rule)
"""What may be typed after --rule."""
HOURS = 2.0
"""Longest that local matches may be estimated to take unless told otherwise."""
USERS = {
    "pca": ("logistic-features", "lightgbm-features"),
    "local_matches": ("pairs",),
    "hours": ("pairs",),
}
"""The rules that heed each option."""


@dataclass(frozen=True)
class Options:
    """What some rules take, as typed; the defaults ask for nothing."""

    pca: int | None = None
    """Principal components that the features are turned to; all features as they are where None."""
    local_matches: bool = False
    """Whether key points that two photos share are a feature of theirs."""
    hours: float | None = None
    """Longest that they may be estimated to take, over both parts; HOURS where None."""

    def check(self, rule: str) -> None:
        """Nothing; raises WhalebenchError for values that cannot be, and for what the rule would not heed."""
        for name in self.asked():
            if rule not in USERS[name]:
                raise WhalebenchError(
                    f"--{name.replace('_', '-')} means nothing to --rule {rule}: leave it out, or use --rule "
                    f"{' or '.join(USERS[name])}."
                )
        if self.pca is not None and self.pca < 1:
            raise WhalebenchError(f"--pca {self.pca} components are none: give 1 or more, or leave it out.")
        if self.hours is not None and not self.local_matches:
            raise WhalebenchError(
                f"--hours {self.hours:g} bounds the comparing of key points, which was not asked for: add "
                f"--local-matches, or leave it out."
            )
        if self.hours is not None and not self.hours > 0:
            raise WhalebenchError(f"--hours {self.hours:g} is no time: give more than 0.")

    def asked(self) -> dict[str, Any]:
        """By name what differs from the defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def settings(self) -> dict[str, Any]:
        """The same without what cannot change a score."""
        return {name: value for name, value in self.asked().items() if name != "hours"}


NO_OPTIONS = Options()
"""Nothing is asked for."""
