"""What is to be had without a look at any photo: the floors beside which a score is read."""

from collections.abc import Iterable, Sequence

import numpy as np

from whalebench.reports.metrics.ranking import CANDIDATES, NEW, Floats, average_precision_at_k


def constant_answer(truth: Iterable[str], answer: Sequence[str]) -> Floats:
    """Average precision at 5 of each photo where all are given the same candidates, best first; (queries,).

    >>> constant_answer(["a", "new", "b"], ["new", "a"]).tolist()
    [0.5, 1.0, 0.0]
    """
    worth = {name: average_precision_at_k(place) for place, name in enumerate(answer, start=1)}
    return np.array([worth.get(name, 0.0) for name in truth])


def uniform_guess(truth: Iterable[str], identities: int, *, new_is_candidate: bool) -> Floats:
    """Expected average precision at 5 of each photo where every candidate is equally likely; (queries,).

    >>> uniform_guess(["a", "new"], 4, new_is_candidate=False).round(4).tolist()  # (1 + 1/2 + 1/3 + 1/4) / 4
    [0.5208, 0.0]
    """
    candidates = identities + new_is_candidate
    worth = sum(1 / place for place in range(1, min(CANDIDATES, candidates) + 1)) / candidates
    return np.array([worth if new_is_candidate or name != NEW else 0.0 for name in truth])
