"""What must be true of every split, checked when it is proposed and again when it is read."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.catalog import Catalog
from whalebench.splits.groups import group_photos, lone_identities
from whalebench.splits.split import Parts, fold_parts


def check_split(table: pd.DataFrame, catalog: Catalog, protocol: str, parameters: dict[str, Any]) -> None:
    """Nothing when the table is a fair split of the catalog; else an error with the first broken rule.

    A published split is kept as it is: its test may hold unknown individuals and cut through groups.
    """
    problem = next(_problems(table, catalog, protocol, parameters), "")
    if problem:
        remedy = (
            "correct the column split"
            if protocol == "published"
            else "take fewer folds, the other rule for individuals of one encounter (singles), or more photos"
        )
        raise WhalebenchError(f"The photos of {catalog.name} cannot be split this way: {problem}; {remedy}.")


def straddling(table: pd.DataFrame) -> tuple[str, ...]:
    """The groups with photos in different folds or valid parts, sorted."""
    places = table.groupby("group")[["fold", "valid"]].nunique()
    return tuple(sorted(places.index[(places > 1).any(axis=1)].tolist()))


def _problems(
    table: pd.DataFrame, catalog: Catalog, protocol: str, parameters: dict[str, Any]
) -> Iterator[str]:
    if table["image"].tolist() != catalog.table["image"].tolist():
        yield "it does not hold each photo of the catalog exactly once"
        return
    groups = group_photos(catalog.table)
    group_of = {image: group.name for group in groups for image in group.images}
    if table["group"].tolist() != [group_of[image] for image in table["image"]]:
        yield "its groups are not those of the catalog's encounters and duplicates"
    cut = straddling(table)
    if cut and protocol != "published":
        yield f"the group of {cut[0]} is cut in two"
    if ((table["fold"] == table["valid"]) & (table["fold"] >= 0)).any():
        yield "a photo is in the test and the valid part of one fold"
    folds = range(int(parameters["folds"]))
    if not {*table["fold"].tolist(), *table["valid"].tolist()} <= {-1, *folds}:
        yield f"it has other folds than {', '.join(map(str, folds))}"
    identity_of = dict(zip(catalog.table["image"].tolist(), catalog.table["identity"].tolist(), strict=True))
    lone = lone_identities(groups) if parameters["singles"] == "new" else frozenset[str]()
    must_know = () if protocol == "published" else ("valid", "test")
    for fold in folds:
        yield from _fold_problems(fold_parts(table, fold), fold, identity_of, lone, must_know)


def _fold_problems(
    parts: Parts, fold: int, identity_of: dict[str, str], lone: frozenset[str], must_know: tuple[str, ...]
) -> Iterator[str]:
    known = {identity_of[image] for image in parts.train}
    for part in Parts._fields:
        images = getattr(parts, part)
        if not images:
            yield f"the {part} part of fold {fold} is empty"
        unknown = sorted({identity_of[image] for image in images} - known - lone - {""})
        if unknown and part in must_know:
            yield f"{unknown[0]} is in the {part} part of fold {fold} but not in its train part"
    if len(known - {""}) < 2:
        yield f"the train part of fold {fold} holds fewer than two individuals"
