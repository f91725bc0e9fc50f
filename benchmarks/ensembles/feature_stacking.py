"""A stacker on features: a classifier over individuals, on features of valid photos (Right Whale, 2nd).

It learns from the valid photos alone: no member has learned from them, so their features are as out-of-fold
as those of test. Those of train photos are in-fold, and a classifier knows them by heart. Most individuals
have few valid photos or none, so what it says is mixed with the mean of the members.

What a stacker on features learns with: classifiers over individuals.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.machine import free_memory
from whalebench.benchmarks.ensembles.fusion import Floats, Scores, blocks, log_softmax, mixed_log_loss
from whalebench.benchmarks.ensembles.members import FOLDS, Combined, Ground, Member, embeddings_of
from whalebench.benchmarks.ensembles.stacking import Part, as_bytes, growth

Labels = NDArray[np.int64]


class Projection:
    """Features standardised, and turned to their first principal components where that is asked for."""

    def __init__(self, features: Floats, components: int | None) -> None:
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

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
        from sklearn.linear_model import LogisticRegression

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
        import lightgbm

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


SHARES = tuple(step / 10 for step in range(11))
"""How much the classifier may count among the individuals it knows; the rest is the mean's."""
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """A classifier that has learned, and the columns of the individuals it knows."""

    classifier: Classifier
    columns: NDArray[np.int64]

    def mixed(self, base: Scores, features: Floats, choice: float, share: float) -> Scores:
        """Scores (photos, identities) of the mean, with the share of the individuals it knows dealt anew.

        What the mean gives to them together, and to everyone else, stays as it is.
        """
        found = base.copy()
        if not share:
            return found
        for rows in blocks(len(base), base.shape[1]):
            here = base[rows][:, self.columns].astype(np.float64)
            logs = self.classifier.log_probabilities(features[rows], choice) + _log_sum(here)[:, None]
            with np.errstate(divide="ignore"):  # a share of one leaves the mean nothing
                found[rows, self.columns] = np.logaddexp(np.log1p(-share) + here, np.log(share) + logs)
        return found

    def truths(self, base: Scores, features: Floats, own: Rows, choice: float) -> Floats:
        """(photos, 2) log probability of the truth `own` (photos,) by the mean, and by the classifier.

        Of an individual that it does not know the classifier says what the mean says.
        """
        logs = log_softmax(base.astype(np.float64))
        photos = np.arange(len(own))
        mean = logs[photos, own]
        place = np.searchsorted(self.columns, own) % len(self.columns)
        says = self.classifier.log_probabilities(features, choice)[photos, place]
        says = np.where(self.columns[place] == own, says + _log_sum(logs[:, self.columns]), mean)
        return np.stack([mean, says], axis=1)


def stack_features(
    members: Sequence[Member],
    ground: Ground,
    mean: Combined,
    kind: type[Classifier],
    seed: int,
    components: int | None,
) -> Combined:
    """The members' mean, mixed with what a classifier says of the individuals that valid shows.

    Its setting and its share are chosen by the log loss of valid photos that it has not learned from; photos
    of one encounter are kept apart, not those of an individual, whom nobody could name then. Then it learns
    from all of valid, and scores test.
    """
    valid = features_of(members, "valid")
    own, splits = ground.own, ground.splits(seed, ground.valid_groups)
    learned_from = [*[fit[own[fit] >= 0] for fit, _ in splits], np.flatnonzero(own >= 0)]
    _check(kind, ground, learned_from, valid.shape[1], components)
    *aside, whole = (_learn(kind, seed, components, valid[rows], own[rows]) for rows in learned_from)
    losses: dict[tuple[float, float], float] = {}
    for choice in kind.choices:
        truths = np.zeros((len(own), 2))
        for known, (_, rest) in zip(aside, splits, strict=True):
            truths[rest] = known.truths(mean.valid[rest], valid[rest], np.maximum(own[rest], 0), choice)
        losses |= {(choice, share): _loss(truths[own >= 0], share) for share in SHARES}
    # Of equal ones the least share; of those, what is best alone.
    choice, share = min(losses, key=lambda one: (losses[one], one[1], losses[one[0], SHARES[-1]]))
    scores = np.empty_like(mean.valid)
    for known, (_, rest) in zip(aside, splits, strict=True):
        scores[rest] = known.mixed(mean.valid[rest], valid[rest], choice, share)
    rows = learned_from[-1]
    trained = whole.truths(mean.valid[rows], valid[rows], own[rows], choice)
    return Combined(
        valid=scores,
        test=whole.mixed(mean.test, features_of(members, "test"), choice, share),
        chosen=mean.chosen | {kind.setting: choice, "share": share},
        train_log_loss=_loss(trained, share),
        out_of_fold_log_loss=losses[choice, share],
        alone={
            "classifier_train_log_loss": _loss(trained, SHARES[-1]),
            "classifier_out_of_fold_log_loss": losses[choice, SHARES[-1]],
        },
        learned=mean.learned | whole.classifier.arrays(choice) | {"columns": whole.columns},
    )


def features_of(members: Sequence[Member], part: Part) -> Floats:
    """(photos, features) of the part, the members' side by side.

    Raises WhalebenchError for a member that keeps none, or other ones of test than of valid.
    """
    found = []
    for member in members:
        both = {each: embeddings_of(member, each) for each in ("valid", "test")}
        one, other = both.values()
        if one is None or other is None or one.shape[1:] != other.shape[1:]:
            raise WhalebenchError(
                f"The run {member.name} keeps no features of valid and test ({member.named.record.method}): "
                f"leave it out, or use --rule mean."
            )
        features = both[part]
        assert features is not None
        if not np.isfinite(features).all():
            raise WhalebenchError(
                f"Features of {member.name} are not finite: repeat the run with --force, or leave it out."
            )
        found.append(features.astype(np.float64))
    return np.hstack(found)


def _learn(kind: type[Classifier], seed: int, components: int | None, features: Floats, own: Rows) -> Known:
    classifier = kind(seed, components)
    columns, labels = np.unique(own, return_inverse=True)
    classifier.fit(features, labels.astype(np.int64))
    return Known(classifier, columns)


def _loss(truths: Floats, share: float) -> float:
    """Mean log loss of the mix, of log probabilities (photos, 2) of the truth by the mean and beside it."""
    return float(mixed_log_loss(truths, np.array([1 - share, share])).mean())


def _log_sum(logs: Floats) -> Floats:
    """(photos,) log of the sum of exp of each row."""
    highest = logs.max(axis=1)
    found: Floats = highest + np.log(np.exp(logs - highest[:, None]).sum(axis=1))
    return found


def _check(
    kind: type[Classifier],
    ground: Ground,
    learned_from: Sequence[Rows],
    features: int,
    components: int | None,
) -> None:
    """Nothing; raises WhalebenchError where too little can be learned, or where it would take too much."""
    own, whole = ground.own, learned_from[-1]
    individuals = len(np.unique(own[whole]))
    shown = f"The {len(whole)} known valid photos show {individuals} individuals"
    fewest = min(len(np.unique(own[rows])) for rows in learned_from)
    met_again = any(np.isin(own[np.setdiff1d(whole, rows)], own[rows]).any() for rows in learned_from)
    if len(learned_from) == 1 or fewest < 2 or not met_again:
        raise WhalebenchError(
            f"{shown}, too few, or none of them in two encounters, so that nothing can be tried on photos "
            f"set aside: use --rule mean, or a split with a larger valid part."
        )
    photos = min(len(rows) for rows in learned_from)
    if components is not None and components > min(features, photos):
        raise WhalebenchError(
            f"--pca {components} components cannot be had of {features} features and {photos} photos: give "
            f"{min(features, photos)} or fewer."
        )
    _check_size(kind, shown, individuals, len(whole), components or features)


def _check_size(kind: type[Classifier], shown: str, individuals: int, photos: int, features: int) -> None:
    trees = individuals * int(max(kind.choices)) * (FOLDS + 1)
    if kind.most_trees is not None and trees > kind.most_trees:
        raise WhalebenchError(
            f"{shown}: with one for each of them in every round {trees:,} trees would be grown, more than "
            f"{kind.most_trees:,}; use --rule logistic-features, or mean."
        )
    needed, free = (FOLDS + 1) * kind.size(photos, features, individuals), free_memory()
    if free is not None and needed > free:
        raise WhalebenchError(
            f"{shown}: to learn them from {features:,} features takes about {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free; add --pca 100, or use --rule mean."
        )
