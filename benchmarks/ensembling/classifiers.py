"""What a stacker on features learns with: classifiers over individuals."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.ensembling.learners import as_bytes, growth
from whalebench.benchmarks.ensembling.mixing import Floats, log_softmax

Labels = NDArray[np.int64]


class Projection:
    """Features standardised, and turned to their first principal components where that is asked for."""

    def __init__(self, features: Floats, components: int | None) -> None:
        from sklearn.decomposition import PCA  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

        scaler = StandardScaler().fit(features)
        self.mean, self.scale, self.components = scaler.mean_, scaler.scale_, None
        if components is not None:
            turned = PCA(components, svd_solver="full").fit(scaler.transform(features))
            self.components = turned.components_  # standardised features have mean 0

    def __call__(self, features: Floats) -> Floats:
        """(photos, components) of features (photos, features)."""
        scaled: Floats = (features - self.mean) / self.scale
        return scaled if self.components is None else scaled @ self.components.T

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned, by name, to be stored."""
        turned = {} if self.components is None else {"components": self.components}
        return {"mean": self.mean, "scale": self.scale} | turned


class Classifier(ABC):
    """Says which individual a photo shows, after features (photos, features) of others."""

    setting: ClassVar[str]
    """What cross-validation chooses."""
    choices: ClassVar[Sequence[float]]
    """From the simplest to the richest."""
    most_trees: ClassVar[int | None] = None
    """How many trees it may grow in all; None where it grows none."""
    turns: ClassVar[bool] = False
    """Whether it says the same however features are turned, so that as many as photos are enough."""

    def __init__(self, seed: int, components: int | None) -> None:
        self.seed, self.components = seed, components

    def fit(self, features: Floats, labels: Labels) -> None:
        """Learns under every choice from features and labels (photos,) of 0 to the number of classes."""
        needless = self.turns and features.shape[1] > len(features)
        self.projection = Projection(features, self.components or (len(features) if needless else None))
        self._fit(self.projection(features), labels)

    def log_probabilities(self, features: Floats, choice: float) -> Floats:
        """(photos, classes) under that choice."""
        return log_softmax(self._logits(self.projection(features), choice))

    def arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        """What was learned under that choice, by name, to be stored."""
        return self.projection.arrays() | self._arrays(choice)

    @staticmethod
    @abstractmethod
    def size(photos: int, features: int, classes: int) -> int:
        """Bytes that one fit holds at most, about, under all choices."""

    @abstractmethod
    def _fit(self, features: Floats, labels: Labels) -> None: ...

    @abstractmethod
    def _logits(self, features: Floats, choice: float) -> Floats: ...

    @abstractmethod
    def _arrays(self, choice: float) -> dict[str, NDArray[Any]]: ...


class LogisticFeatures(Classifier):
    """L2-regularised multinomial logistic regression (the last step of Right Whale, 2nd, with C = 10)."""

    setting = "C"
    choices = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
    turns = True

    @staticmethod
    def size(photos: int, features: int, classes: int) -> int:
        """Gradients of the solver's last ten steps and one set of lines a choice."""
        lines = classes * (min(photos, features) + 1)
        return 8 * ((25 + len(LogisticFeatures.choices)) * lines + 4 * photos * classes)

    def _fit(self, features: Floats, labels: Labels) -> None:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

        self.lines = {}
        for choice in self.choices:
            with warnings.catch_warnings():
                # That individuals are many for so few photos is why the result is mixed with the mean.
                warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
                fitted = LogisticRegression(C=choice, max_iter=5_000, tol=1e-4).fit(features, labels)
            lines = np.column_stack([fitted.coef_, fitted.intercept_])
            # Of two classes the library gives the one line between them.
            self.lines[choice] = lines if len(lines) > 1 else np.vstack([np.zeros_like(lines), lines])

    def _logits(self, features: Floats, choice: float) -> Floats:
        lines = self.lines[choice]
        found: Floats = features @ lines[:, :-1].T + lines[:, -1]
        return found

    def _arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        return {"lines": self.lines[choice]}


class TreeFeatures(Classifier):
    """LightGBM over individuals: in each round a tree for each of them."""

    setting = "rounds"
    choices = (5, 10, 20, 40)
    most_trees = 200_000

    @staticmethod
    def size(photos: int, features: int, classes: int) -> int:
        """Scores and gradients, binned features, and 2 KiB a tree."""
        trees = classes * max(TreeFeatures.choices)
        return int(24 * photos * classes + 2 * photos * features + 2048 * trees)

    def _fit(self, features: Floats, labels: Labels) -> None:
        import lightgbm  # noqa: PLC0415

        self.classes = int(labels.max()) + 1
        # Two or three photos are all there is of most individuals.
        fixed = {"objective": "multiclass", "num_class": self.classes, "min_data_in_leaf": 2}
        data = lightgbm.Dataset(features, labels, params={"verbosity": -1})
        rounds = int(max(self.choices))
        self.booster = lightgbm.train(fixed | growth(len(features), self.seed), data, num_boost_round=rounds)

    def _logits(self, features: Floats, choice: float) -> Floats:
        found = self.booster.predict(features, raw_score=True, num_iteration=int(choice))
        return np.asarray(found, np.float64)

    def _arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        return {"trees": as_bytes(self.booster.model_to_string(num_iteration=int(choice)))}


CLASSIFIERS: dict[str, type[Classifier]] = {
    "logistic-features": LogisticFeatures,
    "lightgbm-features": TreeFeatures,
}
