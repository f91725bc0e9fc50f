"""Which test photos of a run are worth looking at."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.catalog import Catalog
from whalebench.benchmarks.views import NEW


def choose_photos(queries: pd.DataFrame, count: int) -> list[int]:
    """Rows of so many test photos, half of them wrong if so many are, each half spread over its ranks.

    Photos of known individuals come first; *new* ones only where none is known.
    """
    known = queries[queries["truth"] != NEW]
    ordered = (known if len(known) else queries).sort_values(["rank", "log_loss", "image"], kind="stable")
    right = ordered.index[ordered["rank"] <= 1]
    wrong = ordered.index[~(ordered["rank"] <= 1)]
    of_wrong = min(len(wrong), max(count // 2, count - len(right)))
    halves = [(right, min(len(right), count - of_wrong)), (wrong, of_wrong)]
    places = [
        half[np.linspace(0, len(half) - 1, number).round().astype(int)] for half, number in halves if number
    ]
    return [int(row) for half in places for row in half]


def named_photos(images: Sequence[str], queries: pd.DataFrame, catalog: Catalog) -> list[int]:
    """Rows of the test photos of these names, each once; raises WhalebenchError for any other name."""
    place = {image: row for row, image in enumerate(queries["image"])}
    first = next(iter(place))
    for image in images:
        if image in place:
            continue
        if image in set(catalog.table["image"]):
            raise WhalebenchError(
                f"Photo '{image}' is no test photo of this run, so it was not identified: choose one "
                f"that is, such as '{first}'."
            )
        close = difflib.get_close_matches(image, list(place), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"the test photos begin with '{first}'."
        raise WhalebenchError(f"There is no photo '{image}' in {catalog.name}: {hint}")
    return [place[image] for image in dict.fromkeys(images)]
