"""The table of a split: where each photo is in each fold, its parts, its digest and its counts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from whalebench import table_cell
from whalebench.benchmarks.core.catalog import NOT_COUNTED, Catalog
from whalebench.benchmarks.core.files import (
    digest_text,
)
from whalebench.splits.assignment import LEFT_OUT, NEVER, Group, single_encounter_identities

COLUMNS = ("image", "fold", "group", "valid")
GALLERY = "gallery"
"""The further column of a disjoint split: the fold in whose gallery a photo is, -1 for none."""
Rows = Mapping[str, tuple[int, str, int]]
"""Fold, group and valid of each image."""


class Parts(NamedTuple):
    """The image ids of one fold, each part sorted."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


def fold_gallery(table: pd.DataFrame, fold: int) -> tuple[str, ...]:
    """The photos of one fold's gallery, sorted; empty for any but a disjoint split."""
    return tuple(sorted(table["image"][table[GALLERY] == fold].tolist())) if GALLERY in table else ()


def fold_parts(table: pd.DataFrame, fold: int) -> Parts:
    """The train, valid and test photos of one fold of a split's table; those of a gallery are in none."""
    test, valid = table["fold"] == fold, table["valid"] == fold
    train = ~test & ~valid & (table["fold"] != LEFT_OUT)
    if GALLERY in table:
        train &= table[GALLERY] != fold
    images = table["image"]
    return Parts(*(tuple(sorted(images[each].tolist())) for each in (train, valid & ~test, test)))


def make_table(rows: Rows, gallery: Mapping[str, int] | None = None) -> pd.DataFrame:
    """The split's table from fold, group and valid of each image, and its gallery if any, sorted by image."""
    images = sorted(rows)
    columns = {
        "image": pd.Series(images, dtype="str"),
        "fold": pd.Series([rows[image][0] for image in images], dtype="int64"),
        "group": pd.Series([rows[image][1] for image in images], dtype="str"),
        "valid": pd.Series([rows[image][2] for image in images], dtype="int64"),
    }
    if gallery is not None:
        columns[GALLERY] = pd.Series([gallery.get(image, NEVER) for image in images], dtype="int64")
    return pd.DataFrame(columns)


def table_text(table: pd.DataFrame) -> str:
    """The split's table as the CSV it is kept as."""
    columns = [*COLUMNS, *([GALLERY] if GALLERY in table else [])]
    return table.to_csv(columns=columns, index=False, lineterminator="\n")


def kept_text(table: pd.DataFrame) -> str:
    """The same as it stands in the file: a name that a spreadsheet would compute has an apostrophe before it.

    The digest is of the text without, as it was when files were without.
    """
    return table_text(
        table.assign(image=table["image"].map(table_cell), group=table["group"].map(table_cell))
    )


def table_digest(table: pd.DataFrame) -> str:
    """The SHA-256 of the split's table as CSV."""
    return digest_text(table_text(table))


def column_digests(table: pd.DataFrame) -> dict[str, str]:
    """A short digest of each column that counts in a catalog's table, to tell later which one changed."""
    counted = sorted(set(table.columns) - {"image", "mask", *NOT_COUNTED})
    return {column: digest_text("\n".join(map(repr, table[column].tolist())))[:12] for column in counted}


def count_split(
    table: pd.DataFrame, catalog: Catalog, groups: tuple[Group, ...], singles: str
) -> dict[str, Any]:
    """The counts of a split, as its sidecar keeps them.

    `new` counts the photos of a valid or test part whose individual is not in the train part, or of a test
    that has a gallery, not in that. Individuals of one encounter are those that appear in a single group;
    those of a single photo are among them. Photos of animals that are not identified are counted by
    themselves, where there are some.
    """
    nobody = len(table) - len(catalog.identified.table)
    catalog = catalog.identified
    identities = catalog.table["identity"]
    photos = identities[identities != ""].value_counts()
    single = sorted(single_encounter_identities(groups))
    fold_of = dict(zip(table["image"].tolist(), table["fold"].tolist(), strict=True))
    tested = catalog.table["image"].map(fold_of) >= 0
    single_tested = set(identities[tested & identities.isin(single)].tolist())
    return {
        "photos": len(table),
        **({"not_identified_photos": nobody} if nobody else {}),
        "individuals": len(catalog.identities),
        "new_photos": int((identities == "").sum()),
        "groups": len(groups),
        "singles_rule": singles,
        "single_photo_individuals": int((photos == 1).sum()),
        "one_encounter_individuals": len(single),
        "one_encounter_photos": int(identities.isin(single).sum()),
        "one_encounter_individuals_always_in_train": len(single) - len(single_tested),
        "one_encounter_individuals_tested_as_new": len(single_tested),
        "never_tested_photos": int((~tested).sum()),
        "folds": [
            _count_fold(table, catalog, fold) for fold in sorted(set(fold_of.values()) - {NEVER, LEFT_OUT})
        ],
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
    if gallery := [identity_of[image] for image in fold_gallery(table, fold)]:
        counts[GALLERY] = {"photos": len(gallery), "individuals": len(set(gallery) - {""}), "new": 0}
        tested = [identity_of[image] for image in parts.test]
        counts["test"]["new"] = sum(name not in set(gallery) - {""} for name in tested)
    return counts
