"""Checks of what a method says of itself, and of what it leaves behind when it has learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from pydantic import BaseModel

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.trial import (
    TOLERANCE,
    CheckFailed,
    Learned,
    NotApplicable,
    Trial,
    relative_distance,
)
from whalebench.benchmarks.core.photos import CPU, UNKNOWN
from whalebench.benchmarks.running.evaluation import CALIBRATION
from whalebench.benchmarks.running.folds import Views
from whalebench.benchmarks.running.outcome import evaluate_parts
from whalebench.methods.method import MethodConfig, Search
from whalebench.methods.registry import configure, fields_of


def names_itself(trial: Trial) -> str:
    """It has the name it is installed under, a line on what it does, and a source."""
    kind = trial.kind
    for fact in ("name", "summary", "source"):
        value = getattr(kind, fact, None)
        if not isinstance(value, str) or not value.strip():
            raise CheckFailed(f"{kind.__name__}.{fact} says nothing: give it one line.")
        if "\n" in value:
            raise CheckFailed(f"{kind.__name__}.{fact} has more than one line: shorten it.")
    if kind.name != trial.name:
        raise CheckFailed(f"It is installed as '{trial.name}' and calls itself '{kind.name}': use one name.")
    return f"{kind.summary} ({kind.source})."


def describes_its_fields(trial: Trial) -> str:
    """Every field, and every part's field, has a docstring."""
    named = list(_all_fields(trial.kind.Config))
    silent = [name for name, description in named if not (description or "").strip()]
    if silent:
        raise CheckFailed(f"Without a docstring below them: {', '.join(silent)}.")
    return f"All {len(named)} fields are described."


def configures(trial: Trial) -> str:
    """Frozen, strict about unknown fields, the same when it is read back from a record; search ranges fit."""
    kind = trial.kind.Config
    if not (isinstance(kind, type) and issubclass(kind, MethodConfig)):
        raise CheckFailed(f"{trial.kind.__name__}.Config is no MethodConfig: derive it from that class.")
    if not kind.model_config.get("frozen") or kind.model_config.get("extra") != "forbid":
        raise CheckFailed(
            f"{kind.__name__} can be changed, or takes unknown fields: leave model_config alone."
        )
    again = kind.model_validate(json.loads(trial.config.model_dump_json()))
    if again != trial.config:
        raise CheckFailed("Its configuration is another one when it is read back from JSON.")
    for name, field in fields_of(kind):
        for mark in field.metadata:
            if isinstance(mark, Search):
                _refuse_range(trial, name, mark)
    return "Frozen, strict, and the same when it is read back from a record."


def says_its_track(trial: Trial) -> str:
    """One line on what is held equal."""
    track = trial.config.track()
    if not isinstance(track, str) or not track.strip() or "\n" in track:
        raise CheckFailed(
            f"track() gives {track!r}: say in one line which weights, pixels and photos it learns by."
        )
    if track == MethodConfig.track(trial.config):
        return "A track of its own, because track() does not say what is held equal."
    return f"Its track: {track}."


def _refuse_range(trial: Trial, name: str, mark: Search) -> None:
    if not mark.low < mark.high or (mark.log and mark.low <= 0):
        raise CheckFailed(f"The search range of {name} is empty ({mark.low:g} to {mark.high:g}): mend it.")
    for value in (mark.low, mark.high):
        try:
            configure(trial.kind, [f"{name}={value}"])
        except WhalebenchError as error:
            raise CheckFailed(
                f"The search range of {name} holds {value:g}, which it does not take."
            ) from error


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


def learns(trial: Trial) -> str:
    """It learns where train has photos of *new* individuals and individuals with one photo."""
    views = trial.views
    if missing := trial.build().missing_requirement(views.train, views.test):
        raise NotApplicable(f"It asks for {missing}, which the photos it is tried on lack.")
    try:
        trial.learned = trial.learn(views)
    except Exception as error:
        if reason := _learnable_without(trial):
            raise CheckFailed(
                f"Only without {reason} it learns ({type(error).__name__}: {error})."
            ) from error
        raise
    counts = views.counts()
    return f"It learned {counts['identities']} individuals from {counts['train_photos']} photos."


def is_evaluated(trial: Trial) -> str:
    """Its scores are evaluated like those of a run."""
    learned = trial.after_learning()
    outcome = evaluate_parts(learned.method, learned.views, learned.harness)
    return (
        f"MAP@5 on {len(outcome.queries)} test photos: {outcome.metrics['map_at_5']:.3f}, which says little."
    )


def declares_its_lineage(trial: Trial) -> str:
    """Every part says which photos it was fitted on; the harness has refused any that it must not be."""
    harness = trial.after_learning().harness
    # What was chosen on valid the harness has written down itself.
    lineage = {part: digests for part, digests in harness.lineage.items() if part != CALIBRATION}
    adapted = harness.adapted_to()
    if not lineage:
        raise CheckFailed(
            "It does not say what it was fitted on: call harness.fitted(part, photos) in learn()."
        )
    parts = ", ".join(
        f"{part} ({len(digests)} photos{f', {adapted[part]} of them of test' if part in adapted else ''})"
        for part, digests in lineage.items()
    )
    return f"Fitted on {'train and bare test photos, none of valid' if adapted else 'train only'}: {parts}."


def is_restored(trial: Trial) -> str:
    """Its weights, stored in a file and restored into a new one, give the same scores."""
    from safetensors.torch import load, save

    learned = trial.after_learning()
    weights = {name: value.detach().contiguous().clone() for name, value in learned.method.weights().items()}
    stored = load(save(weights))
    # As for a finished run: the configuration from its record, the weights from their file.
    again = trial.build(type(trial.config).model_validate(json.loads(trial.config.model_dump_json())))
    torch.manual_seed(1)
    try:
        again.restore(stored, learned.views.train.identities, CPU)
    except NotImplementedError as error:
        raise NotApplicable("It cannot be restored: `whalebench explain` will refuse its runs.") from error
    off = relative_distance(learned.scores(), Learned(again, learned.harness, learned.views).scores())
    if off > TOLERANCE:
        raise CheckFailed(
            f"Restored from its weights it scores otherwise, by {off:.2g} of the spread: have weights() give "
            "everything that score() reads."
        )
    return f"Restored from its weights ({len(stored)} stored by name) it scores the same."


def declares_its_sizes(trial: Trial) -> str:
    """Photos are requested at the sizes that were decoded before the clock started."""
    learned = trial.after_learning()
    learned.scores("test")
    undeclared = sorted(trial.requested_sizes - set(learned.method.sizes()))
    if undeclared:
        named = ", ".join(f"{height} x {width}" for height, width in undeclared)
        raise CheckFailed(f"It asks for photos of {named} px, which sizes() does not name: name them there.")
    return "All photo sizes it asks for are named by sizes()."


def _learnable_without(trial: Trial) -> str:
    """The kind of train photos without which it can learn, or ""."""
    views = trial.views
    others = {
        "photos of new individuals": replace(views, train=views.train.known()),
        "individuals with one photo": _without_singles(views),
    }
    for reason, rest in others.items():
        with suppress(Exception):  # whatever it is, the first error is the one to report
            trial.learn(rest)
            return reason
    return ""


def _without_singles(views: Views) -> Views:
    """The same views as if individuals with one photo in train had never been met."""
    train, valid = views.train, views.valid
    kept = np.flatnonzero(np.bincount(train.labels[train.labels != UNKNOWN]) > 1)
    # One longer than the individuals, so that UNKNOWN, which is -1, reads itself.
    renamed = np.full(len(train.identities) + 1, UNKNOWN)
    renamed[kept] = np.arange(len(kept))
    identities = tuple(train.identities[label] for label in kept)
    rest = np.flatnonzero((train.labels == UNKNOWN) | (renamed[train.labels] != UNKNOWN))
    known = replace(train, identities=identities, labels=renamed[train.labels]).select(rest)
    return replace(
        views, train=known, valid=replace(valid, identities=identities, labels=renamed[valid.labels])
    )


LEARNING_CHECKS = {
    "judged": is_evaluated,
    "lineage": declares_its_lineage,
    "restored": is_restored,
    "sizes": declares_its_sizes,
}
"""What each check is called."""
