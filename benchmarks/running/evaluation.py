"""Scores evaluated: calibration and the threshold of *new* are chosen on valid and applied to valid and test.

Nothing here needs torch.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.core.machine import end_with_parent
from whalebench.benchmarks.running.calibration import choose_calibration
from whalebench.benchmarks.running.folds import NEW, Answers
from whalebench.methods.method import NEW_FIELDS, MethodConfig
from whalebench.reports.metrics.calibration import (
    UNCALIBRATED,
    Calibration,
    calibration_error,
    reliability,
    set_threshold,
)
from whalebench.reports.metrics.evaluation import evaluate_queries, means_by_threshold
from whalebench.reports.metrics.ranking import CANDIDATES
from whalebench.reports.metrics.summary import cmc, summarize

CALIBRATION = "calibration"
"""The part of the lineage that says which photos everything in `Evaluation.chosen` was chosen on."""
THRESHOLDS = 101
"""How many thresholds are tried on valid, spread over the scores of its best candidates."""
CURVE_STEP = 2
"""Every second of them is in the record's curve."""
EQUAL = 1e-12
"""By how much MAP@5 may differ by rounding alone."""
PLAIN = MethodConfig()
"""The configuration of a method that says nothing of *new*."""


@dataclass(frozen=True)
class Evaluation:
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


def evaluate_scores(
    identities: Sequence[str],
    scores: Mapping[str, NDArray[np.float32]],
    answers: Mapping[str, Answers],
    config: MethodConfig,
    precisions: Mapping[str, NDArray[np.float64]] | None = None,
) -> Evaluation:
    """Evaluates scores (photos, identities) of `valid` and `test` by what is chosen on valid.

    `precisions`, where there are embeddings, are the average precision at R of each photo by part. Raises
    RunFailedError where a photo is in both parts.
    """
    # What is chosen on valid must not be chosen by an answer to test.
    if shared := set(answers["valid"].images) & set(answers["test"].images):
        raise RunFailedError(
            f"{len(shared)} photo(s) are in valid and in test, first {min(shared)}, so that calibration and "
            f"thresholds would be chosen by answers to test: make the split again."
        )
    valid, known = scores["valid"], answers["valid"]
    calibration = choose_calibration(valid, known, identities)
    threshold, _ = choose_new_threshold(valid, known, identities, config)

    def queries(part: str, by: Calibration, set_limit: float | None = None) -> pd.DataFrame:
        return evaluate_queries(
            images=answers[part].images,
            truth=answers[part].truth,
            clusters=answers[part].clusters,
            identities=identities,
            scores=scores[part],
            probabilities=by,
            new_scores=-scores[part].max(axis=1),
            new_threshold=threshold,
            new_rule=config.new_rule,
            set_threshold=set_limit,
            embeddings_precision=(precisions or {}).get(part),
        )

    on_valid = queries("valid", calibration)
    set_limit = set_threshold(on_valid)
    on_test = queries("test", calibration, set_limit)
    uncalibrated = {part: queries(part, UNCALIBRATED) for part in ("valid", "test")}
    on_test.insert(1, "identity", pd.Series(answers["test"].identities, dtype="str"))
    if answers["test"].traits is not None:
        on_test = on_test.assign(**answers["test"].traits)
    return Evaluation(
        queries=on_test,
        chosen=vars(calibration) | {"new_threshold": threshold, "set_threshold_95": set_limit},
        metrics=summarize(on_test),
        valid_metrics=summarize(on_valid),
        cmc=cmc(on_test),
        calibration=_calibration_effect(uncalibrated, {"valid": on_valid, "test": on_test}),
        new_curve=new_threshold_curve(valid, known, identities, config, threshold),
    )


def metrics_afresh(
    identities: Sequence[str],
    scores: Mapping[str, NDArray[np.float32]],
    answers: Mapping[str, Answers],
    config: MethodConfig,
) -> dict[str, float]:
    """The metrics of `evaluate_scores` as a new process computes them, whatever was changed in this one."""
    # Of its configuration what all methods have: the class of its own would load the method there, too.
    rules = {name: getattr(config, name) for name in NEW_FIELDS}
    return _process().submit(_metrics, tuple(identities), dict(scores), dict(answers), rules).result()


@cache
def _process() -> ProcessPoolExecutor:
    """A process that meets no method: it takes a second to start, so one does for all."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent)


def _metrics(
    identities: Sequence[str],
    scores: Mapping[str, NDArray[np.float32]],
    answers: Mapping[str, Answers],
    rules: Mapping[str, object],
) -> dict[str, float]:
    return evaluate_scores(identities, scores, answers, MethodConfig.model_validate(rules)).metrics


def _calibration_effect(
    before: Mapping[str, pd.DataFrame], after: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """Log loss of both parts before and after calibration, of test also its error and the bins of that."""
    effect: dict[str, Any] = {}
    for when, queries in (("before", before), ("after", after)):
        for part, table in queries.items():
            effect[f"{part}_log_loss_{when}"] = summarize(table)["log_loss"]
        bins = reliability(queries["test"])
        effect[f"test_ece_{when}"] = calibration_error(bins)
        effect[f"reliability_{when}"] = bins
    return effect


def choose_new_threshold(
    scores: NDArray[np.float32],
    answers: Answers,
    identities: Sequence[str],
    config: MethodConfig = PLAIN,
) -> tuple[float | None, float]:
    """The threshold of *new* with the best MAP@5 on valid, and that MAP@5, at the share of *new* to expect.

    The threshold is None, and *new* no candidate, where valid has no new photo to choose by. Of equally good
    thresholds the middle one is taken.
    """
    candidates: list[float | None] = [*_candidate_thresholds(scores)] if NEW in answers.truth else [None]
    results = _means_of_thresholds(scores, answers, identities, config, candidates)["map_at_5_adjusted"]
    ties = [place for place, value in enumerate(results) if value >= max(results) - EQUAL]
    middle = ties[len(ties) // 2]
    return candidates[middle], results[middle]


def new_threshold_curve(
    scores: NDArray[np.float32],
    answers: Answers,
    identities: Sequence[str],
    config: MethodConfig,
    chosen: float | None,
) -> dict[str, list[float]]:
    """What some fifty thresholds of *new*, the chosen one among them, are worth on valid, in their order.

    Lists of one length: `threshold`, and the means of `means_by_threshold` with `map_at_5_adjusted`, which
    is at the share of *new* to expect. Empty where *new* is no candidate.
    """
    if chosen is None:
        return {}
    thresholds = sorted({*_candidate_thresholds(scores)[::CURVE_STEP], chosen})
    return {"threshold": thresholds} | _means_of_thresholds(scores, answers, identities, config, thresholds)


def constant_answer(photos: Mapping[str, int], valid_truth: Sequence[str]) -> list[str]:
    """The five candidates, or fewer, to answer with to every photo without looking at any.

    The individuals with most photos in train first, and *new* where MAP@5 on valid is best by it, of equally
    good places the last; nowhere if valid has no new photo. `photos` is their number by individual.

    >>> constant_answer({"ann": 2, "bob": 9, "cas": 5}, ["bob", "new", "new", "ann"])
    ['new', 'bob', 'cas', 'ann']
    """
    known = sorted(photos, key=lambda identity: (-photos[identity], identity))
    answers = [[*known[:place], NEW, *known[place:]][:CANDIDATES] for place in range(CANDIDATES + 1)]
    if NEW not in valid_truth:
        return known[:CANDIDATES]
    truths = Counter(valid_truth)

    def worth(answer: Sequence[str]) -> float:
        return sum(truths[candidate] / rank for rank, candidate in enumerate(answer, start=1))

    return max(reversed(answers), key=worth)


def new_share_warnings(answers: Answers, config: MethodConfig) -> list[str]:
    """A warning where the share of *new* to expect could not be applied; else none."""
    new = answers.truth.count(NEW)
    if config.new_share is None or 0 < new < len(answers.truth):
        return []
    head = f"new_share={config.new_share:g} was not used: valid has no"
    if new:
        return [f"{head} known photo to weigh the new ones against, so the threshold rests on those alone."]
    return [
        f"{head} new photo to choose a threshold by, so new is no candidate; a split made with --singles new "
        "has some."
    ]


def _candidate_thresholds(scores: NDArray[np.float32]) -> list[float]:
    """Between the scores of valid's best candidates, and beyond both ends."""
    best = np.unique(scores.max(axis=1).astype(np.float64))
    between = np.concatenate([[best[0] - 1e-3], (best[1:] + best[:-1]) / 2, [best[-1] + 1e-3]])
    return [float(value) for value in np.unique(np.quantile(between, np.linspace(0, 1, THRESHOLDS)))]


def _means_of_thresholds(
    scores: NDArray[np.float32],
    answers: Answers,
    identities: Sequence[str],
    config: MethodConfig,
    thresholds: Sequence[float | None],
) -> dict[str, list[float]]:
    """What each threshold is worth, and MAP@5 as if the share of *new* were the one to expect.

    share * new + (1 - share) * known, as Happywhale's 26th chose; as valid is where no share is given, or
    where valid has one kind of photos only.
    """
    means = means_by_threshold(
        truth=answers.truth,
        identities=identities,
        scores=scores,
        new_thresholds=thresholds,
        new_rule=config.new_rule,
    )
    share, adjusted = config.new_share, means["map_at_5"]
    if share is not None and 0 < answers.truth.count(NEW) < len(answers.truth):
        kinds = zip(means["map_at_5_new"], means["map_at_5_known"], strict=True)
        adjusted = [share * new + (1 - share) * known for new, known in kinds]
    return means | {"map_at_5_adjusted": adjusted}
