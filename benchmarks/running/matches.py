"""What a run's answers rest on: the nearest gallery photo of each candidate, the window of each query.

Made of what a method has handed in, after the answers are opened, for whoever looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import blocks, columns_of, rows_by_label
from whalebench.benchmarks.core.search import BLOCK, top_k
from whalebench.methods.parts.pipeline import SeenWindows
from whalebench.reports.metrics.ranking import CANDIDATES


class Compared(NamedTuple):
    """Test photos and those that they are compared with."""

    query: NDArray[np.float32]
    """(test photos, dimensions)"""
    gallery: NDArray[np.float32]
    """(gallery photos, dimensions)"""
    images: Sequence[str]
    """The ids of the gallery's photos, in the catalog's order."""
    identities: Sequence[str]
    """Their individuals."""


def match_photos(
    queries: pd.DataFrame, compared: Compared | None, windows: SeenWindows | None
) -> pd.DataFrame | None:
    """A row a query, as `record.read_matches` says; None without embeddings and windows.

    queries is the per-query table with its candidates, whose rows those of embeddings and windows are.
    """
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {}
    text: dict[str, list[str]] = {"image": queries["image"].tolist()}
    places = range(1, CANDIDATES + 1)
    if compared is not None:
        candidates = queries[[f"candidate_{place}" for place in places]].to_numpy(object)
        nearest = nearest_photos(candidates, compared)
        text |= {f"nearest_{place}": nearest[:, place - 1].tolist() for place in places}
    if windows is not None:
        columns = window_columns(windows)
    if compared is None and windows is None:
        return None
    return pd.DataFrame(text, dtype="str").assign(**columns)


def window_columns(windows: SeenWindows) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """The columns `window_a` to `window_f`, `window_height` and `window_width`, see `record.read_matches`."""
    entries, (height, width) = windows.matrices.reshape(-1, 6), windows.size
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {}
    columns |= {f"window_{letter}": entries[:, place] for place, letter in enumerate("abcdef")}
    sides = {"window_height": height, "window_width": width}
    return columns | {name: np.full(len(entries), side, np.int64) for name, side in sides.items()}


def nearest_photos(candidates: NDArray[np.object_], compared: Compared) -> NDArray[np.object_]:
    """The id of the photo of each candidate with the largest cosine to the query; "" for who has none.

    candidates (queries, places) are names. Of equally near photos it is the first of the gallery. No other
    photos than the candidates' are compared, an individual at a time, so that memory does not grow.
    """
    label = columns_of(dict.fromkeys(compared.identities))
    photos = rows_by_label(np.array([label[name] for name in compared.identities], np.int64))
    named = np.array([label.get(name, -1) for name in candidates.ravel()], np.int64)
    images, found = np.array(compared.images, object), np.full(candidates.size, "", object)
    for individual, places in rows_by_label(named).items():
        if individual < 0:  # *new*, no candidate, or without a photo in this gallery
            continue
        own = photos[individual]
        for part in blocks(len(places), BLOCK):
            rows = places[part] // candidates.shape[1]
            nearest, _ = top_k(compared.query[rows], compared.gallery[own], 1)
            found[places[part]] = images[own[nearest[:, 0]]]
    return found.reshape(candidates.shape)
