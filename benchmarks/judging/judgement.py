"""Scores of valid and test judged: what is chosen on valid, and what the judge says; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.judging.answers import Answers
from whalebench.benchmarks.judging.calibrating import choose_calibration
from whalebench.benchmarks.judging.calibration import AS_GIVEN, Calibration
from whalebench.benchmarks.judging.selection import Judge, choose_threshold, curve_of_new
from whalebench.methods.method import MethodConfig

CALIBRATION = "calibration"
"""The part of the lineage that says which photos everything in `Judgement.chosen` was chosen on."""


@dataclass(frozen=True)
class Judgement:
    """How good the scores of a run are, and what was chosen on valid to say so."""

    queries: pd.DataFrame
    """One row a test photo."""
    chosen: dict[str, float | None]
    """Temperature and epsilon, the thresholds of *new* and of candidate sets; None where there is none."""
    metrics: dict[str, float]
    valid_metrics: dict[str, float]
    cmc: list[float]
    calibration: dict[str, Any]
    """What the calibration changed; see docs/record.md."""
    new_curve: dict[str, list[float]]


def judge_scores(
    judge: Judge,
    identities: Sequence[str],
    scores: Mapping[str, NDArray[np.float32]],
    answers: Mapping[str, Answers],
    config: MethodConfig,
    precisions: Mapping[str, NDArray[np.float64]] | None = None,
) -> Judgement:
    """The judgement of scores (photos, identities) by `valid` and `test`: chosen on valid, applied to both.

    `precisions`, where there are embeddings, are the average precision at R of each photo by part. Raises
    RunFailedError where a photo is in both parts.
    """
    _refuse_shared(answers)
    valid, known = scores["valid"], answers["valid"]
    calibration = choose_calibration(valid, known, identities)
    threshold, _ = choose_threshold(judge, valid, known, identities, config)

    def queries(part: str, how: Calibration, least: float | None = None) -> pd.DataFrame:
        return judge.judge_queries(
            images=answers[part].images,
            truth=answers[part].truth,
            clusters=answers[part].clusters,
            identities=identities,
            scores=scores[part],
            probabilities=how.probabilities(scores[part]),
            new_scores=-scores[part].max(axis=1),
            new_threshold=threshold,
            new_rule=config.new_rule,
            set_threshold=least,
            embeddings_precision=(precisions or {}).get(part),
        )

    on_valid = queries("valid", calibration)
    least = judge.set_threshold(on_valid)
    judged = queries("test", calibration, least)
    as_given = {part: queries(part, AS_GIVEN) for part in ("valid", "test")}
    judged.insert(1, "identity", pd.Series(answers["test"].identities, dtype="str"))
    return Judgement(
        queries=judged,
        chosen=calibration.chosen() | {"new_threshold": threshold, "set_threshold_95": least},
        metrics=judge.summarize(judged),
        valid_metrics=judge.summarize(on_valid),
        cmc=judge.cmc(judged),
        calibration=_changed(judge, as_given, {"valid": on_valid, "test": judged}),
        new_curve=curve_of_new(judge, valid, known, identities, config, threshold),
    )


def _changed(
    judge: Judge, before: Mapping[str, pd.DataFrame], after: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """Log loss of both parts before and after calibration, of test also its error and the bins of that."""
    found: dict[str, Any] = {}
    for when, queries in (("before", before), ("after", after)):
        for part, table in queries.items():
            found[f"{part}_log_loss_{when}"] = judge.summarize(table)["log_loss"]
        bins = judge.reliability(queries["test"])
        found[f"test_ece_{when}"] = judge.calibration_error(bins)
        found[f"reliability_{when}"] = bins
    return found


def _refuse_shared(answers: Mapping[str, Answers]) -> None:
    """Nothing; what is chosen on valid must not be chosen by an answer to test."""
    if shared := set(answers["valid"].images) & set(answers["test"].images):
        raise RunFailedError(
            f"{len(shared)} photo(s) are in valid and in test, first {min(shared)}, so that calibration and "
            f"thresholds would be chosen by answers to test: make the split again."
        )
