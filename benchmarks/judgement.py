"""Scores of valid and test judged: what is chosen on valid, and what the judge says; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.answers import Answers
from whalebench.benchmarks.selection import (
    Judge,
    choose_temperature,
    choose_threshold,
    curve_of_new,
    probabilities,
)
from whalebench.methods.method import MethodConfig


@dataclass(frozen=True)
class Judgement:
    """How good the scores of a run are, and what was chosen on valid to say so."""

    queries: pd.DataFrame
    """One row a test photo."""
    temperature: float
    threshold: float | None
    metrics: dict[str, float]
    valid_metrics: dict[str, float]
    cmc: list[float]
    calibration: dict[str, float]
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

    `precisions`, where there are embeddings, are the average precision at R of each photo by part.
    """
    valid, known = scores["valid"], answers["valid"]
    temperature = choose_temperature(valid, known, identities)
    threshold, _ = choose_threshold(judge, valid, known, identities, config)

    def queries(part: str, heat: float) -> pd.DataFrame:
        return judge.judge_queries(
            images=answers[part].images,
            truth=answers[part].truth,
            clusters=answers[part].clusters,
            identities=identities,
            scores=scores[part],
            probabilities=probabilities(scores[part], heat),
            new_scores=-scores[part].max(axis=1),
            new_threshold=threshold,
            new_rule=config.new_rule,
            embeddings_precision=(precisions or {}).get(part),
        )

    judged = queries("test", temperature)
    on_valid = judge.summarize(queries("valid", temperature))
    raw = judge.summarize(queries("valid", 1.0))
    judged.insert(1, "identity", pd.Series(answers["test"].identities, dtype="str"))
    return Judgement(
        queries=judged,
        temperature=temperature,
        threshold=threshold,
        metrics=judge.summarize(judged),
        valid_metrics=on_valid,
        cmc=judge.cmc(judged),
        calibration={"valid_log_loss_before": raw["log_loss"], "valid_log_loss_after": on_valid["log_loss"]},
        new_curve=curve_of_new(judge, valid, known, identities, config, threshold),
    )
