"""The numbers of a split: how many photos and individuals are where, and who is always or never known."""

from typing import Any

import pandas as pd

from whalebench.benchmarks.catalog import Catalog
from whalebench.splits.groups import Group, lone_identities
from whalebench.splits.split import Parts, fold_parts


def count_split(
    table: pd.DataFrame, catalog: Catalog, groups: tuple[Group, ...], singles: str
) -> dict[str, Any]:
    """The counts of a split, as its sidecar keeps them.

    `new` counts the photos of a valid or test part whose individual is not in the train part. Individuals
    of one encounter are those that appear in a single group; those of a single photo are among them.
    """
    identities = catalog.table["identity"]
    photos = identities[identities != ""].value_counts()
    lone = sorted(lone_identities(groups))
    fold_of = dict(zip(table["image"].tolist(), table["fold"].tolist(), strict=True))
    tested = catalog.table["image"].map(fold_of) >= 0
    lone_tested = set(identities[tested & identities.isin(lone)].tolist())
    return {
        "photos": len(table),
        "individuals": len(catalog.identities),
        "new_photos": int((identities == "").sum()),
        "groups": len(groups),
        "singles_rule": singles,
        "single_photo_individuals": int((photos == 1).sum()),
        "one_encounter_individuals": len(lone),
        "one_encounter_photos": int(identities.isin(lone).sum()),
        "one_encounter_individuals_always_in_train": len(lone) - len(lone_tested),
        "one_encounter_individuals_tested_as_new": len(lone_tested),
        "never_tested_photos": int((~tested).sum()),
        "folds": [_count_fold(table, catalog, fold) for fold in sorted(set(fold_of.values()) - {-1})],
    }


def _count_fold(table: pd.DataFrame, catalog: Catalog, fold: int) -> dict[str, Any]:
    parts = fold_parts(table, fold)
    identity_of = dict(zip(catalog.table["image"].tolist(), catalog.table["identity"].tolist(), strict=True))
    known = {identity_of[image] for image in parts.train} - {""}
    counts: dict[str, Any] = {"fold": fold}
    for part in Parts._fields:
        names = [identity_of[image] for image in getattr(parts, part)]
        counts[part] = {
            "photos": len(names),
            "individuals": len(set(names) - {""}),
            "new": sum(name not in known for name in names),
        }
    return counts
