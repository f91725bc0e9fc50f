"""Inner folds: the train part of a fold in parts, each of which is held back from what learns on the rest.

They are made of the split that they lie in, by whole groups and evenly by individual, as that was; and kept
beside it, so that what was stacked upon them can be made again. What one of them leaves of train is cut anew
by what is bagged within.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.benchmarks.core.files import parse_json, regular_file, with_digest
from whalebench.benchmarks.core.workspace import ExistsError, atomic_text
from whalebench.splits.assignment import (
    NEVER,
    Group,
    assign_folds,
    groups_by_identity,
    make_groups,
    single_encounter_identities,
)
from whalebench.splits.split import Split


@dataclass(frozen=True)
class InnerFolds:
    """Which photos of a fold's train part are held back together."""

    split_digest: str
    fold: int
    count: int
    inner: Mapping[str, int]
    """By image of train: its inner fold from 0; NEVER where it is in none, and every one learns from it."""


def propose_inner_folds(
    split: Split, catalog: Catalog, fold: int, count: int, without: Collection[str] = ()
) -> InnerFolds:
    """So many inner folds of a fold, or of what is left of it without some images, the same on every machine.

    Photos of one group are never in two of them, nor those of one picture. An individual that has one group
    only is in none of them, like the groups of such individuals; photos of *new* ones are spread like others.
    Raises WhalebenchError where there are too few groups for as many.
    """
    train = _left(split, fold, without)
    groups = _groups(split, catalog, train)
    single = single_encounter_identities(groups)
    kept = {group.name for group in groups if single.intersection(group.identities)}
    seed = int(split.parameters.get("seed", 0))
    found = assign_folds(groups, count, seed, train_only=kept, single_encounter=frozenset())
    inner = {image: found[group.name] for group in groups for image in group.images}
    proposed = InnerFolds(split.digest, fold, count, {image: inner[image] for image in train})
    check_inner_folds(proposed, split, catalog, without)
    return proposed


def check_nested(
    split: Split, catalog: Catalog, fold: int, counts: Sequence[int], without: Collection[str] = ()
) -> None:
    """Raises WhalebenchError unless what is left of each inner fold can be cut by the next of the counts."""
    count, *others = counts
    inner = propose_inner_folds(split, catalog, fold, count, without).inner
    for number in range(count) if others else ():
        held = {image for image, place in inner.items() if place == number}
        check_nested(split, catalog, fold, others, held.union(without))


def check_inner_folds(
    inner: InnerFolds, split: Split, catalog: Catalog, without: Collection[str] = ()
) -> None:
    """Raises WhalebenchError for inner folds that are not fair, with the first reason."""
    if problem := _problem(inner, split, catalog, without):
        left = f", without {len(without)} photos that are held back," if without else ""
        raise WhalebenchError(
            f"Fold {inner.fold} of {catalog.name}{left} cannot be cut in {inner.count} inner folds: "
            f"{problem}; {'take fewer bags' if inner.count > 2 else 'leave bags out'}."
        )


def _left(split: Split, fold: int, without: Collection[str]) -> tuple[str, ...]:
    return tuple(image for image in split.parts(fold).train if image not in without)


def _problem(inner: InnerFolds, split: Split, catalog: Catalog, without: Collection[str]) -> str:
    train = _left(split, inner.fold, without)
    if tuple(inner.inner) != tuple(train):
        return "they do not hold each photo of its train part exactly once"
    if strange := set(inner.inner.values()) - {NEVER, *range(inner.count)}:
        return f"there is an inner fold {min(strange)}"
    if empty := set(range(inner.count)) - set(inner.inner.values()):
        return f"there are too few encounters, and inner fold {min(empty)} is empty"
    groups = _groups(split, catalog, train)
    for group in groups:
        if len({inner.inner[image] for image in group.images}) > 1:
            return f"the group of {group.name} is cut in two"
    for identity, appearances in sorted(groups_by_identity(groups).items()):
        places = {inner.inner[group.name] for group in appearances}
        if len(places) == 1 and NEVER not in places:
            return f"{identity} is in inner fold {min(places)} alone, where nobody has learned it"
    return ""


def _groups(split: Split, catalog: Catalog, train: tuple[str, ...]) -> tuple[Group, ...]:
    """What is in train of the split's groups, one of which a published split may have cut."""
    identity_of = dict(zip(catalog.table["image"], catalog.table["identity"], strict=True))
    group_of = dict(zip(split.table["image"], split.table["group"], strict=True))
    photos: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for image in train:
        photos[group_of[image]].append((image, identity_of[image]))
    return make_groups(photos.values())


def keep_inner_folds(inner: InnerFolds, stem: Path) -> None:
    """Writes inner folds beside the split of that stem; raises WhalebenchError where others are kept."""
    file = stem.with_name(f"{stem.name}.inner-fold{inner.fold}-bags{inner.count}.json")
    facts = with_digest({**vars(inner), "inner": dict(inner.inner)})
    with suppress(ExistsError):  # another process was first, and wrote the same
        if not file.exists():
            atomic_text(file, json.dumps(facts, indent=1) + "\n", exclusive=True)
    try:
        there = parse_json(regular_file(file).read_bytes())
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}): remove it.") from error
    if there != facts:
        raise WhalebenchError(
            f"{file} holds other inner folds than the split beside it gives, so it was edited or is of "
            f"another split: remove it, knowing that bagged runs before cannot be made again."
        )
