"""In-fold features, which no stacker may learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.ground import Ground


def refuse_in_fold(
    run: str, images: Sequence[str], lineage: Mapping[str, Sequence[str]], ground: Ground
) -> None:
    """Nothing; raises WhalebenchError where some of the images are photos that the run was fitted on.

    Seed 002's author stacked such features: train log loss 0, and twelve hours of panic.
    """
    table = ground.benchmark.catalog.table
    shown = set(table.loc[table["image"].isin(list(images)), "content_digest"])
    seen = shown & {digest for digests in lineage.values() for digest in digests}
    if seen:
        raise WhalebenchError(
            f"{run} gives features of {len(seen)} photo(s) that it was fitted on as those of valid photos. "
            f"It knows these by heart: a stacker that learns from them comes to a train log loss of nearly "
            f"0, which says nothing of photos it has not seen. Only valid photos are out-of-fold: repeat the "
            f"run with --force, or leave it out."
        )
