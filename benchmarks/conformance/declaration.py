"""Checks of what a method says of itself, before it learns anything."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.on_trial import Broken, OnTrial
from whalebench.methods.method import MethodConfig, Search
from whalebench.methods.registry import configure, fields_of


def names_itself(trial: OnTrial) -> str:
    """It has the name it is installed under, a line on what it does, and a source."""
    kind = trial.kind
    for fact in ("name", "summary", "source"):
        value = getattr(kind, fact, None)
        if not isinstance(value, str) or not value.strip():
            raise Broken(f"{kind.__name__}.{fact} says nothing: give it one line.")
        if "\n" in value:
            raise Broken(f"{kind.__name__}.{fact} has more than one line: shorten it.")
    if kind.name != trial.name:
        raise Broken(f"It is installed as '{trial.name}' and calls itself '{kind.name}': use one name.")
    return f"{kind.summary} ({kind.source})."


def describes_its_fields(trial: OnTrial) -> str:
    """Every field, and every part's field, has a docstring."""
    named = list(_all_fields(trial.kind.Config))
    silent = [name for name, description in named if not (description or "").strip()]
    if silent:
        raise Broken(f"Without a docstring below them: {', '.join(silent)}.")
    return f"All {len(named)} fields are described."


def configures(trial: OnTrial) -> str:
    """Frozen, strict about unknown fields, the same when it is read back from a record; search ranges fit."""
    kind = trial.kind.Config
    if not (isinstance(kind, type) and issubclass(kind, MethodConfig)):
        raise Broken(f"{trial.kind.__name__}.Config is no MethodConfig: derive it from that class.")
    if not kind.model_config.get("frozen") or kind.model_config.get("extra") != "forbid":
        raise Broken(f"{kind.__name__} can be changed, or takes unknown fields: leave model_config alone.")
    again = kind.model_validate(json.loads(trial.config.model_dump_json()))
    if again != trial.config:
        raise Broken("Its configuration is another one when it is read back from JSON.")
    for name, field in fields_of(kind):
        for mark in field.metadata:
            if isinstance(mark, Search):
                _refuse_range(trial, name, mark)
    return "Frozen, strict, and the same when it is read back from a record."


def says_its_track(trial: OnTrial) -> str:
    """One line on what is held equal."""
    track = trial.config.track()
    if not isinstance(track, str) or not track.strip() or "\n" in track:
        raise Broken(
            f"track() gives {track!r}: say in one line which weights, pixels and photos it learns by."
        )
    if track == MethodConfig.track(trial.config):
        return "A track of its own, because track() does not say what is held equal."
    return f"Its track: {track}."


def _refuse_range(trial: OnTrial, name: str, mark: Search) -> None:
    if not mark.low < mark.high or (mark.log and mark.low <= 0):
        raise Broken(f"The search range of {name} is empty ({mark.low:g} to {mark.high:g}): mend it.")
    for value in (mark.low, mark.high):
        try:
            configure(trial.kind, [f"{name}={value}"])
        except WhalebenchError as error:
            raise Broken(f"The search range of {name} holds {value:g}, which it does not take.") from error


def _all_fields(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Every field with its description, those that hold a part, too."""
    for name, field in config.model_fields.items():
        yield prefix + name, field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _all_fields(field.annotation, f"{prefix}{name}.")


DECLARATION_CHECKS = {
    "name": names_itself,
    "configuration": configures,
    "fields": describes_its_fields,
    "track": says_its_track,
}
"""What each check is called."""
