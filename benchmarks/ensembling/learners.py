"""What a stacker learns with: logistic regression or boosted trees on candidates, right or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.ensembling.mixing import Floats
from whalebench.benchmarks.machine import cores

Hits = NDArray[np.bool_]

ROWS = 50_000
"""Candidates that keep a thread busy."""


class Learner(ABC):
    """Says how likely a candidate is the right one, after features (candidates, features) of others."""

    setting: ClassVar[str]
    """What cross-validation chooses."""
    choices: ClassVar[Sequence[float]]
    """From the simplest to the richest."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @abstractmethod
    def fit(self, features: Floats, hits: Hits) -> None:
        """Learns under every choice from features and whether each candidate is right (candidates,)."""

    @abstractmethod
    def logits(self, features: Floats, choice: float) -> Floats:
        """(candidates,) log odds under that choice."""

    @abstractmethod
    def arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        """What was learned under that choice, by name, to be stored."""


class Logistic(Learner):
    """L2-regularised logistic regression on standardised features (Right Whale, 2nd, with C = 10)."""

    setting = "C"
    choices = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)

    def fit(self, features: Floats, hits: Hits) -> None:
        """Learns one line for each C."""
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

        self.scaler = StandardScaler().fit(features)
        scaled = self.scaler.transform(features)
        self.lines = {}
        for choice in self.choices:
            # Several features say nearly the same, so the solver takes its time.
            fitted = LogisticRegression(C=choice, max_iter=5_000, tol=1e-5).fit(scaled, hits)
            self.lines[choice] = np.append(fitted.coef_[0], fitted.intercept_)

    def logits(self, features: Floats, choice: float) -> Floats:
        """Linear in the standardised features."""
        line = self.lines[choice]
        found: Floats = self.scaler.transform(features) @ line[:-1] + line[-1]
        return found

    def arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        """Mean and scale of the features, and the line, its intercept last."""
        return {"mean": self.scaler.mean_, "scale": self.scaler.scale_, "line": self.lines[choice]}


class Trees(Learner):
    """LightGBM with few leaves: valid has few photos."""

    setting = "trees"
    choices = (10, 25, 50, 100, 200)

    def fit(self, features: Floats, hits: Hits) -> None:
        """Learns the most trees; fewer are the first of them."""
        import lightgbm  # noqa: PLC0415

        fixed = {"objective": "binary", "min_data_in_leaf": 20} | growth(len(features), self.seed)
        data = lightgbm.Dataset(features, hits.astype(np.int64), params={"verbosity": -1})
        self.booster = lightgbm.train(fixed, data, num_boost_round=int(max(self.choices)))

    def logits(self, features: Floats, choice: float) -> Floats:
        """The sum of the first trees."""
        found = self.booster.predict(features, raw_score=True, num_iteration=int(choice))
        return np.asarray(found, np.float64)

    def arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        """The trees in LightGBM's own words, as UTF-8 bytes."""
        return {"trees": as_bytes(self.booster.model_to_string(num_iteration=int(choice)))}


def growth(rows: int, seed: int) -> dict[str, Any]:
    """How LightGBM grows trees on so many rows: slowly, with few leaves, and the same everywhere."""
    return {
        "num_leaves": 7,
        "learning_rate": 0.05,
        "lambda_l2": 1.0,
        # Few rows are quicker on one thread: several wait for each other after every split.
        "num_threads": min(cores(), 1 + rows // ROWS),
        # The same trees whatever the machine: the way histograms are built is not tried out.
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
    }


def as_bytes(text: str) -> NDArray[np.uint8]:
    """The text in UTF-8, as an array can hold it."""
    return np.frombuffer(text.encode("utf-8"), np.uint8)


LEARNERS: dict[str, type[Learner]] = {"logistic": Logistic, "lightgbm": Trees}
