"""What a sweep is to run: contestants, folds and seeds of one benchmark, as typed on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from whalebench import WhalebenchError
from whalebench.methods.parts.recipe import RecipeConfig
from whalebench.methods.registry import find_method, method_names

EVERY = "all"
"""Stands for every installed method, recipes at the scale of a laptop."""
MOST = 10_000
"""So many folds or seeds at most: more is a slip of the keyboard."""


@dataclass(frozen=True)
class Contestant:
    """A method with what is set of it."""

    method: str
    settings: tuple[str, ...] = ()
    """Fields as key=value; of two for one field the later counts."""


@dataclass(frozen=True)
class Plan:
    """Every contestant is run on every fold with every seed."""

    contestants: tuple[Contestant, ...]
    benchmark: str = "flukes"
    folds: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of a text such as 0-4 or 0,2,5-7, each once, in its order.

    Raises WhalebenchError, naming the option, for anything else.

    >>> whole_numbers("3,0-2,1", "--folds")
    (3, 0, 1, 2)
    """
    numbers: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part, re.ASCII)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if low > high:
            raise WhalebenchError(
                f"{option} '{text}' cannot be: write numbers and ranges from low to high, as 0-4 or 0,2."
            )
        if high - low >= MOST:
            raise WhalebenchError(f"{option} '{text}' are more than {MOST:,}: write fewer.")
        numbers |= dict.fromkeys(range(low, high + 1))
    return tuple(numbers)


def contestants_of(
    methods: Iterable[str], settings: Iterable[str] = (), more: Iterable[str] = ()
) -> tuple[Contestant, ...]:
    """The contestants of that name with those settings; `all` becomes every installed method.

    What is in `more` wins over a recipe's small scale, which is set for `all` only, and over settings.
    """
    found = []
    for method in methods:
        for name in method_names() if method == EVERY else (method,):
            scale = ("scale=small",) if method == EVERY and _is_recipe(name) else ()
            found.append(Contestant(name, (*scale, *settings, *more)))
    return tuple(found)


def _is_recipe(name: str) -> bool:
    return issubclass(find_method(name).Config, RecipeConfig)
