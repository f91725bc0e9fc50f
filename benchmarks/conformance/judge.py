"""The judge in a process of its own, which a method that is loaded in this one cannot have changed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.running.folds import Answers
from whalebench.methods.method import MethodConfig

Scores = Mapping[str, NDArray[np.float32]]


def judge_afresh(
    identities: Sequence[str], scores: Scores, answers: Mapping[str, Answers], config: MethodConfig
) -> dict[str, float]:
    """The metrics of scores (photos, identities) of valid and test, as a new process computes them."""
    # Of its configuration what all methods have: the class of its own would load the method there, too.
    rules = {name: getattr(config, name) for name in MethodConfig.model_fields}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_metrics, tuple(identities), dict(scores), dict(answers), rules).result()


def _metrics(
    identities: Sequence[str], scores: Scores, answers: Mapping[str, Answers], rules: Mapping[str, object]
) -> dict[str, float]:
    from whalebench.benchmarks.running.evaluation import evaluate_scores

    return evaluate_scores(identities, scores, answers, MethodConfig.model_validate(rules)).metrics
