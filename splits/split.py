"""What a split is: which photo is tested, validated on or learned from, in each fold."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.workspace import digest_text

COLUMNS = ("image", "fold", "group", "valid")

Rows = Mapping[str, tuple[int, str, int]]
"""Fold, group and valid of each image."""


class Parts(NamedTuple):
    """The image ids of one fold, each part sorted."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """An assignment of the photos of one catalog to folds; `table` and `digest` never change once written."""

    table: pd.DataFrame
    """image, fold (tested there; -1: never), group, valid (the fold in whose valid part it is; -1: none)."""
    protocol: str
    """How it was made: published or stratified-encounters."""
    parameters: dict[str, Any]
    """What the protocol was given."""
    catalog_digest: str
    """The digest of the catalog it was made for."""
    digest: str
    """SHA-256 of the table as CSV."""
    counts: dict[str, Any]
    """Photos and individuals of each fold and part, and what became of individuals of one encounter."""
    warnings: tuple[str, ...] = ()
    """What a reader of scores on this split should know."""
    catalog_columns: dict[str, str] = field(default_factory=dict)
    """A digest of each catalog column, to say later which one changed."""

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """The folds there are, sorted."""
        return tuple(sorted(set(self.table["fold"].tolist()) - {-1}))

    def parts(self, fold: int) -> Parts:
        """The train, valid and test photos of a fold; the error for an unknown one names those there are."""
        if fold not in self.folds:
            there = ", ".join(map(str, self.folds))
            raise WhalebenchError(f"There is no fold {fold} in this split; choose one of {there}.")
        return fold_parts(self.table, fold)


def fold_parts(table: pd.DataFrame, fold: int) -> Parts:
    """The train, valid and test photos of one fold of a split's table."""
    test, valid = table["fold"] == fold, table["valid"] == fold
    images = table["image"]
    train, valid_part, test_part = (
        tuple(sorted(images[chosen].tolist())) for chosen in (~test & ~valid, valid & ~test, test)
    )
    return Parts(train, valid_part, test_part)


def make_table(rows: Rows) -> pd.DataFrame:
    """The split's table from fold, group and valid of each image, sorted by image."""
    images = sorted(rows)
    columns = {
        "image": pd.Series(images, dtype="str"),
        "fold": pd.Series([rows[image][0] for image in images], dtype="int64"),
        "group": pd.Series([rows[image][1] for image in images], dtype="str"),
        "valid": pd.Series([rows[image][2] for image in images], dtype="int64"),
    }
    return pd.DataFrame(columns)


def table_text(table: pd.DataFrame) -> str:
    """The split's table as the CSV it is kept as."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*(table[column].tolist() for column in COLUMNS), strict=True))
    return text.getvalue()


def table_digest(table: pd.DataFrame) -> str:
    """The SHA-256 of the split's table as CSV."""
    return digest_text(table_text(table))


def column_digests(table: pd.DataFrame) -> dict[str, str]:
    """A short digest of each column that counts in a catalog's table, to tell later which one changed."""
    counted = sorted(set(table.columns) - {"image", "path", "mask", "file_digest"})
    return {column: digest_text("\n".join(map(repr, table[column].tolist())))[:12] for column in counted}
