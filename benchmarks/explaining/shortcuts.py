"""What a score is owed to: MAP@5 on test photos without background, without animal, and mirrored."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.explaining.altered import mirrored, without_animal, without_background
from whalebench.benchmarks.explaining.regions import Regions, find_regions
from whalebench.benchmarks.judging.calibration import AS_GIVEN, Calibration, calibration_of
from whalebench.benchmarks.judging.selection import Judge
from whalebench.benchmarks.machine import cores
from whalebench.benchmarks.photos import Photos, Size
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.record import Diagnosis
from whalebench.benchmarks.runs.restored import Restored

SMALL: Size = (64, 96)
"""Height and width at which the mean background is taken for a method that names no size."""
KINDS = ("mask", "box", "landmarks")
CANDIDATES = tuple(f"candidate_{place}" for place in range(1, 6))


def diagnose(restored: Restored, judge: Judge, progress: Progress = SILENT) -> Diagnosis:
    """MAP@5 of a run on altered test photos, judged by the very code path that judged test.

    Photos whose animal is not annotated are left out where it, or what is round it, is painted over.
    """
    test = restored.views.queries()["test"]
    regions = find_regions(restored.views.annotated["test"])
    shown = np.flatnonzero(regions.kinds != "none")
    _decode_masks(restored, regions, progress)
    judged = {"test": _judge(restored, judge, np.arange(len(test)), restored.scores)}
    if len(shown):
        judged["annotated"] = judged["test"].iloc[shown]
    altered = _altered(test, regions, shown, (*restored.method.sizes(), SMALL)[0])
    for done, (name, (indices, photos)) in enumerate(altered.items()):
        progress.stage(name)
        judged[name] = _judge(restored, judge, indices, restored.method.score(photos))
        progress.advance(done + 1, len(altered))
    chances = {name: chance(queries) for name, queries in judged.items()}
    blind = chances.get("without_animal", chances["test"])
    scores = {name: judge.summarize(queries)["map_at_5"] for name, queries in judged.items()}
    missing = dict.fromkeys(("annotated", "without_background", "without_animal"))
    counts = {kind: int((regions.kinds == kind).sum()) for kind in (*KINDS, "none")}
    return Diagnosis(
        map_at_5=missing | scores | {"chance": blind},
        chance=missing | chances,
        photos={"test": len(test)} | counts,
        region=" or ".join(kind for kind in KINDS if counts[kind]) or "none",
        reason=""
        if len(shown)
        else "no test photo has a mask, a box or two landmarks to say where the animal is",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def chance(queries: pd.DataFrame) -> float:
    """MAP@5 of the same answers given to the wrong photos: the mean over all pairings of answers and truths.

    What somebody gets who does not look at the photos but knows which answers are worth giving. Where *new*
    is often the answer and often the truth, this is far above one in so many individuals.
    """
    count = Counter(queries["truth"])
    share = {name: number / len(queries) for name, number in count.items()}
    places = [queries[column].map(share).fillna(0.0) / (rank + 1) for rank, column in enumerate(CANDIDATES)]
    return float(sum(place.mean() for place in places))


def _altered(
    test: Photos, regions: Regions, shown: NDArray[np.int64], size: Size
) -> dict[str, tuple[NDArray[np.int64], Photos]]:
    """By name of the alteration: which test photos, and how the method sees them."""
    altered = {"mirrored": (np.arange(len(test)), mirrored(test))}
    if len(shown):
        seen, where = test.select(shown), regions.select(shown)
        altered["without_background"] = (shown, without_background(seen, where, size))
        altered["without_animal"] = (shown, without_animal(seen, where))
    return altered


def _judge(restored: Restored, judge: Judge, indices: NDArray[np.int64], scores: Any) -> pd.DataFrame:
    """One row a photo, as when the run was judged: its calibration, its threshold of *new*."""
    answers, chosen = restored.views.test_answers, restored.record.chosen
    values = np.asarray(scores, np.float32)
    threshold = chosen.get("new_threshold")
    return judge.judge_queries(
        images=[answers.images[index] for index in indices],
        truth=[answers.truth[index] for index in indices],
        clusters=[answers.clusters[index] for index in indices],
        identities=restored.views.train.identities,
        scores=values,
        probabilities=calibration(restored).probabilities(values),
        new_scores=-values.max(axis=1),
        new_threshold=None if threshold is None else float(str(threshold)),
        new_rule=restored.method.config.new_rule,
    )


def calibration(restored: Restored) -> Calibration:
    """What the run chose on valid to make probabilities by."""
    return calibration_of(restored.record.chosen) or AS_GIVEN


def _decode_masks(restored: Restored, regions: Regions, progress: Progress) -> None:
    """Nothing; masks are in the store at every size the method asks for, and whoever waits sees why."""
    if (regions.kinds == "mask").any():
        progress.stage("decode")
        for size in restored.method.sizes():
            restored.benchmark.store.masks(size, progress.advance, cores())
