"""The columns of a catalog: which there are, of which type, and the digest over them."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from whalebench.benchmarks.workspace import digest_text

REQUIRED = ("image", "path", "identity")
OPTIONAL_TEXT = ("encounter", "date", "viewpoint", "species", "mask")
BOX = ("x0", "y0", "x1", "y1")
SIZE = ("width", "height")
DIGESTS = ("content_digest", "file_digest")
PARTS = ("train", "valid", "test")


def landmark_names(columns: Iterable[str]) -> tuple[str, ...]:
    """The names for which there is both a `<name>_x` and a `<name>_y` column, sorted.

    >>> landmark_names(["x0", "notch_y", "notch_x", "tip_x"])
    ('notch',)
    """
    held = set(columns)
    return tuple(sorted(name[:-2] for name in held if name.endswith("_x") and f"{name[:-2]}_y" in held))


def complete_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by image, with all catalog columns in their fixed order and types and no others.

    Texts that are absent become "", numbers NaN, sizes 0. The column `split` stays absent when it is empty.
    """
    images = [str(image) for image in table["image"]]
    # Python's order of code points, so that no library's collation decides.
    rows = table.iloc[sorted(range(len(images)), key=images.__getitem__)].reset_index(drop=True)
    columns: dict[str, Any] = {column: _text(rows, column) for column in (*REQUIRED, *OPTIONAL_TEXT)}
    for column in (*BOX, *(f"{name}_{axis}" for name in landmark_names(rows.columns) for axis in "xy")):
        columns[column] = pd.to_numeric(rows[column]) if column in rows else pd.Series(np.nan, rows.index)
        columns[column] = columns[column].astype("float64")
    for column in SIZE:
        columns[column] = rows[column].astype("int64") if column in rows else pd.Series(0, rows.index)
    for column in DIGESTS:
        columns[column] = _text(rows, column)
    split = _text(rows, "split")
    if any(split):
        columns["split"] = split
    return pd.DataFrame(columns)


def table_digest(table: pd.DataFrame) -> str:
    """The SHA-256 of a complete table's rows, whatever the order of columns, without paths and file digests.

    Numbers enter with four decimals, and of a mask only whether there is one.
    """
    parts = []
    for column in sorted(set(table.columns) - {"path", "file_digest"}):
        values = table[column]
        if column == "mask":
            texts = ["yes" if value else "" for value in values]
        elif values.dtype.kind == "f":
            # Adding zero turns a rounded -0.0 into 0.0.
            rounded = np.round(values.to_numpy(dtype=np.float64), 4) + 0.0
            texts = ["" if text == "nan" else text for text in map("{:.4f}".format, rounded.tolist())]
        else:
            texts = [str(value) for value in values.tolist()]
        parts.append(json.dumps([column, texts]))
    return digest_text("\n".join(parts))


def _text(table: pd.DataFrame, column: str) -> "pd.Series[str]":
    values = table[column].fillna("") if column in table else [""] * len(table)
    return pd.Series(list(map(str, values)), index=table.index, dtype="str")
