"""What must be true of every split, and what of one by each protocol: when it is made and when it is read."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED, Catalog
from whalebench.splits.assignment import LEFT_OUT, NEVER, single_encounter_identities
from whalebench.splits.groupings import protocol_groups, side_of
from whalebench.splits.table import GALLERY, Parts, fold_gallery, fold_parts
from whalebench.splits.timing import LAST, dates_of

TWIN = "random-twin"
"""The protocol of a split that has the counts of another one and keeps apart nothing that it does."""


def check_split(table: pd.DataFrame, catalog: Catalog, protocol: str, parameters: dict[str, Any]) -> None:
    """Refuses a table that is no fair split of the catalog, with the first broken rule.

    A published split is kept as it is: its test may hold unknown individuals and cut through groups. A random
    twin is held to what its strict split is, but for what that keeps apart.
    """
    problem = next(_problems(table, catalog, protocol, parameters), "")
    if problem:
        remedy = REMEDIES.get(protocol, REMEDY)
        raise WhalebenchError(f"The photos of {catalog.name} cannot be split this way: {problem}; {remedy}.")


REMEDY = "take fewer folds, the other rule for individuals of one encounter (singles), or more photos"
REMEDIES = {
    "published": "correct the column split",
    "time-aware": "choose another cutoff, or import more photos",
    "side-aware": "take fewer folds, or import more photos",
    "closed": "take fewer folds, or import more photos",
    "disjoint": "take fewer folds, or import more photos",
    "open": "take fewer folds, another share of new individuals, or more photos",
}


def _problems(
    table: pd.DataFrame, catalog: Catalog, protocol: str, parameters: dict[str, Any]
) -> Iterator[str]:
    if table["image"].tolist() != catalog.table["image"].tolist():
        yield "it does not hold each photo of the catalog exactly once"
        return
    nobody = catalog.table["identity"] == NOT_IDENTIFIED
    if (table["fold"][nobody] != LEFT_OUT).any() or (table["valid"][nobody] != NEVER).any():
        yield "a photo of an animal that is not identified yet is in one of its parts"
    table, facts = table[~nobody], catalog.identified.table
    is_twin, protocol = protocol == TWIN, parameters.get("twin_protocol", protocol)
    groups = protocol_groups(catalog.table, protocol, parameters.get("together", ()))
    group_of = {image: group.name for group in groups for image in group.images}
    if table["group"].tolist() != [group_of[image] for image in table["image"]]:
        yield "its groups are not those of the catalog's encounters and duplicates"
    places = table.groupby("group")[["fold", "valid"]].nunique()
    cut = places.index[(places > 1).any(axis=1)].tolist()
    if cut and protocol != "published" and not is_twin:
        yield f"the group of {min(cut)} is cut in two"
    if ((table["fold"] == table["valid"]) & (table["fold"] >= 0)).any():
        yield "a photo is in the test and the valid part of one fold"
    folds = range(int(parameters["folds"]))
    elsewhere = {NEVER, LEFT_OUT} if protocol in ("published", "time-aware") else {NEVER}
    if not (set(table["fold"]) <= {*elsewhere, *folds} and set(table["valid"]) <= {NEVER, *folds}):
        yield f"it has other folds than {', '.join(map(str, folds))}"
    identity_of = dict(zip(facts["image"].tolist(), facts["identity"].tolist(), strict=True))
    may_be_new = single_encounter_identities(groups) if parameters["singles"] == "new" else frozenset[str]()
    if protocol == "open":
        may_be_new |= _in_one_place(table, identity_of)
    if (protocol == "disjoint") != (GALLERY in table):
        yield "a gallery is that of a disjoint split, which has one"
        return
    only_valid = dict.fromkeys(("time-aware", "disjoint"), ("valid",))
    must_know = ({"published": ()} | only_valid).get(protocol, ("valid", "test"))
    for fold in folds:
        parts = fold_parts(table, fold)
        yield from _fold_problems(parts, fold, identity_of, may_be_new, must_know)
        if protocol == "disjoint":
            yield from _gallery_problems(parts, fold_gallery(table, fold), fold, identity_of)
        if not is_twin:
            yield from _protocol_problems(parts, fold, facts, protocol, parameters)


def _in_one_place(table: pd.DataFrame, identity_of: Mapping[str, str]) -> frozenset[str]:
    """The individuals that are whole in one fold and one valid part, so *new* where those are scored."""
    places = table.groupby(table["image"].map(identity_of))[["fold", "valid"]].nunique()
    return frozenset(places.index[(places == 1).all(axis=1)].tolist())


def _protocol_problems(
    parts: Parts, fold: int, table: pd.DataFrame, protocol: str, parameters: dict[str, Any]
) -> Iterator[str]:
    """What the protocol promises beyond what holds of every split."""
    scored = (*parts.valid, *parts.test)
    if protocol == "closed":
        nobody = set(table["image"][table["identity"] == ""]).intersection(scored)
        if nobody:
            yield f"{min(nobody)} is tested in fold {fold} and shows no known individual"
    if protocol == "side-aware":
        sides = side_of(table)
        known = {sides[image] for image in parts.train} | {""}
        for image in (image for image in scored if sides[image] not in known):
            yield f"the side that {image} shows is in fold {fold} but not in its train part"
    if protocol == "time-aware":
        dates, cutoff = dates_of(table), parameters.get("cutoff", "")
        late = [image for image in (*parts.train, *parts.valid) if dates[image] + LAST >= cutoff]
        early = [image for image in parts.test if dates[image] and dates[image] < cutoff]
        late = [image for image in late if dates[image]]
        if late or early:
            yield f"{min(late + early)} is on the other side of {cutoff}"


def _fold_problems(
    parts: Parts,
    fold: int,
    identity_of: dict[str, str],
    may_be_new: frozenset[str],
    must_know: tuple[str, ...],
) -> Iterator[str]:
    known = {identity_of[image] for image in parts.train}
    for part in Parts._fields:
        images = getattr(parts, part)
        if not images:
            yield f"the {part} part of fold {fold} is empty"
        unknown = sorted({identity_of[image] for image in images} - known - may_be_new - {""})
        if unknown and part in must_know:
            yield f"{unknown[0]} is in the {part} part of fold {fold} but not in its train part"
    if len(known - {""}) < 2:
        yield f"the train part of fold {fold} holds fewer than two individuals"


def _gallery_problems(
    parts: Parts, gallery: tuple[str, ...], fold: int, identity_of: dict[str, str]
) -> Iterator[str]:
    """What is wrong with a disjoint fold: each tested individual is to be in its gallery, none in train."""
    learned = {identity_of[image] for image in (*parts.train, *parts.valid)}
    there = {identity_of[image] for image in gallery}
    if both := sorted(learned & {*there, *(identity_of[image] for image in parts.test)} - {""}):
        yield f"{both[0]} is in the test of fold {fold} and in its train part"
    if "" in there or len(there) < 2:
        yield f"the gallery of fold {fold} holds fewer than two individuals, or a photo of nobody"
    if strange := sorted({identity_of[image] for image in parts.test} - there):
        yield f"{strange[0] or 'nobody'} is in the test part of fold {fold} but not in its gallery"
    if not set(gallery).isdisjoint((*parts.valid, *parts.test)):
        yield f"a photo is in the gallery of fold {fold} and in another part of it"
