"""Stackers: from photos that no member has learned from they learn which candidate is right.

These are photos of train where all members are bagged, as each was answered by a network that had not learned
from it; else those of valid.

A photo's candidates are those that any member ranks high. Of each the members say how likely it is, and a
learner, logistic regression or boosted trees, says whether it is the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import row_blocks, top_columns
from whalebench.benchmarks.core.machine import cores, free_memory
from whalebench.benchmarks.ensembles.members import FusionResult, FusionTask
from whalebench.benchmarks.ensembles.out_of_fold import TrainAnswers, answers_of_train
from whalebench.methods.parts import fusion
from whalebench.methods.parts.fusion import Floats, Labels, Rows, Scores, log_probabilities

Matches = NDArray[np.bool_]
Part = Literal["valid", "test", "train"]
ROWS = 50_000
"""Candidates that keep a thread busy."""
LENGTH = 20
"""Candidates that each member brings."""
MEMBER_FEATURES = ("log probability", "score", "reciprocal rank", "margin")
"""What each member says of a candidate; the margin is that of its log probability over its best rival's, and
the reciprocal rank is 0 beyond the first 20."""
COPIES = 3
"""How many times the features are held while a stacker learns."""


class Projection:
    """Features standardised, and projected on their first principal components where those are asked for."""

    def __init__(self, features: Floats, components: int | None) -> None:
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(features)
        self.mean, self.scale, self.components = scaler.mean_, scaler.scale_, None
        if components is not None:
            fitted = PCA(components, svd_solver="full").fit(scaler.transform(features))
            self.components = fitted.components_  # standardised features have mean 0

    def __call__(self, features: Floats) -> Floats:
        """(rows, components) of features (rows, features)."""
        scaled: Floats = (features - self.mean) / self.scale
        return scaled if self.components is None else scaled @ self.components.T

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned, by name, to be stored."""
        components = {} if self.components is None else {"components": self.components}
        return {"mean": self.mean, "scale": self.scale} | components


class Learner(ABC):
    """Says after features (rows, features) of others of which class a row is, as right or wrong."""

    setting: ClassVar[str]
    """What cross-validation chooses."""
    choices: ClassVar[Sequence[float]]
    """From the simplest to the richest."""
    standardises: ClassVar[bool] = True
    """Whether it learns from standardised features; only then they may be turned to components."""

    def __init__(self, seed: int, components: int | None = None) -> None:
        self.seed, self.components = seed, components

    def fit(self, features: Floats, targets: NDArray[Any]) -> None:
        """Learns under every choice from features and the class of each row (rows,), the first being 0."""
        self.projection = Projection(features, self.components) if self.standardises else None
        self._fit(self._projected(features), targets)

    def logits(self, features: Floats, choice: float) -> Floats:
        """(rows, classes) under that choice; where it learned which rows are right, (rows,) log odds."""
        return self._logits(self._projected(features), choice)

    def arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        """What was learned under that choice, by name, to be stored."""
        return (self.projection.arrays() if self.projection else {}) | self._arrays(choice)

    def _projected(self, features: Floats) -> Floats:
        return self.projection(features) if self.projection else features

    @abstractmethod
    def _fit(self, features: Floats, targets: NDArray[Any]) -> None: ...

    @abstractmethod
    def _logits(self, features: Floats, choice: float) -> Floats: ...

    @abstractmethod
    def _arrays(self, choice: float) -> dict[str, NDArray[Any]]: ...


class Logistic(Learner):
    """L2-regularised logistic regression on standardised features (Right Whale, 2nd, with C = 10)."""

    setting = "C"
    choices = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    tolerance: ClassVar[float] = 1e-5
    """Several features say nearly the same, so the solver takes its time."""

    def _fit(self, features: Floats, targets: NDArray[Any]) -> None:
        from sklearn.linear_model import LogisticRegression

        self.lines = {}
        for choice in self.choices:
            fitted = LogisticRegression(C=choice, max_iter=5_000, tol=self.tolerance).fit(features, targets)
            self.lines[choice] = np.column_stack([fitted.coef_, fitted.intercept_])

    def _logits(self, features: Floats, choice: float) -> Floats:
        lines = self.lines[choice]
        logits: Floats = features @ lines[:, :-1].T + lines[:, -1]
        return logits if len(lines) > 1 else logits[:, 0]

    def _arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        lines = self.lines[choice]
        return {"lines": lines} if len(lines) > 1 else {"line": lines[0]}


class Trees(Learner):
    """LightGBM with few leaves: valid has few photos."""

    setting = "trees"
    choices: ClassVar[Sequence[float]] = (10, 25, 50, 100, 200)
    standardises = False

    def objective(self, targets: NDArray[Any]) -> dict[str, Any]:
        """What LightGBM is told of the targets."""
        return {"objective": "binary", "min_data_in_leaf": 20}

    def _fit(self, features: Floats, targets: NDArray[Any]) -> None:
        import lightgbm

        growth = self.objective(targets) | {
            "num_leaves": 7,
            "learning_rate": 0.05,
            "lambda_l2": 1.0,
            # Few rows are quicker on one thread: several wait for each other after every split.
            "num_threads": min(cores(), 1 + len(features) // ROWS),
            # The same trees whatever the machine: the way histograms are built is not tried out.
            "deterministic": True,
            "force_row_wise": True,
            "seed": self.seed,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(features, targets.astype(np.int64), params={"verbosity": -1})
        # The most trees; fewer are the first of them.
        self.booster = lightgbm.train(growth, data, num_boost_round=int(max(self.choices)))

    def _logits(self, features: Floats, choice: float) -> Floats:
        logits = self.booster.predict(features, raw_score=True, num_iteration=int(choice))
        return np.asarray(logits, np.float64)

    def _arrays(self, choice: float) -> dict[str, NDArray[Any]]:
        return {"trees": as_bytes(self.booster.model_to_string(num_iteration=int(choice)))}


def as_bytes(text: str) -> NDArray[np.uint8]:
    """The text in UTF-8, as an array can hold it."""
    return np.frombuffer(text.encode("utf-8"), np.uint8)


LEARNERS: dict[str, type[Learner]] = {"logistic": Logistic, "lightgbm": Trees}


@dataclass(frozen=True)
class Shortlist:
    """The candidates of some photos, by photo and then by column; each photo has one at least.

    A candidate has one row, or one for each pair of the photo with a photo of the candidate.
    """

    photos: NDArray[np.int64]
    """(rows,) the row of the photo."""
    columns: NDArray[np.int64]
    """(rows,) the column of the individual."""
    features: Floats
    """(rows, features) what is known of each; that of the members first, one after the other."""
    names: tuple[str, ...]
    """Of the features."""

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """(candidates,) where each candidate's rows begin."""
        new = (np.diff(self.photos, prepend=-1) != 0) | (np.diff(self.columns, prepend=-1) != 0)
        return np.flatnonzero(new)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) whether they are of one of the photos at these rows of scores."""
        return np.isin(self.photos, rows)

    def is_match(self, labels: Labels) -> Matches:
        """(rows,) whether the candidate is the right one, given the right column of each photo (photos,)."""
        match: Matches = self.columns == labels[self.photos]
        return match

    def best(self, logits: Floats) -> Floats:
        """(candidates,) the highest of each candidate's logits (rows,)."""
        return np.maximum.reduceat(logits, self.firsts)


class Candidates:
    """The candidates of valid, test and train with what the members say of them: what a stacker goes by."""

    def __init__(self, task: FusionTask) -> None:
        self.task = task
        self.train = answers_of_train(task)
        """None where members say nothing of train that could be learned from."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of which there are candidates."""
        return ("valid", "test", "train") if self.train else ("valid", "test")

    def scores(self, part: Part) -> list[Scores]:
        """Scores (photos, identities) by member."""
        if train := self.out_of_fold(part):
            return train.scores
        return self.task.valid if part == "valid" else self.task.test

    def out_of_fold(self, part: Part) -> TrainAnswers | None:
        """What was said of train where it is that part; else None."""
        return self.train if part == "train" else None

    def check(self) -> None:
        """Raises WhalebenchError for what would take more memory, or longer, than there is."""
        members = len(self.task.members)
        for photos, identities in (self.scores(part)[0].shape for part in self.parts):
            rows, width = photos * min(identities, LENGTH * members), len(MEMBER_FEATURES) * members
            needed, free = rows * width * 8 * COPIES, free_memory()
            if free is not None and needed > free:
                raise WhalebenchError(
                    f"Stacking {members} runs of {photos:,} photos takes about {needed / 2**30:.1f} GiB, "
                    f"{rows:,} candidates with {width} features each, and {free / 2**30:.1f} GiB are free: "
                    f"combine fewer runs, or use --rule mean."
                )

    def gather(self, part: Part) -> Shortlist:
        """The candidates of the part's photos."""
        names = [member.name for member in self.task.members]
        train = self.out_of_fold(part)
        return shortlist(self.scores(part), (train or self.task).temperatures, names)


def shortlist(scores: Sequence[Scores], temperatures: Sequence[float], members: Sequence[str]) -> Shortlist:
    """The first 20 candidates of every member for each photo, of scores (photos, identities) by member."""
    photos, columns, features = [], [], []
    for rows in row_blocks(*scores[0].shape):
        best = [top_columns(one[rows], LENGTH) for one in scores]
        is_candidate = np.zeros(scores[0][rows].shape, np.bool_)
        for each in best:
            np.put_along_axis(is_candidate, each, True, 1)
        photo, column = np.nonzero(is_candidate)
        by_member = [
            _member_features(one[rows], temperature, each, photo, column)
            for one, temperature, each in zip(scores, temperatures, best, strict=True)
        ]
        photos.append(photo + rows.start)
        columns.append(column)
        features.append(np.hstack(by_member))
    names = tuple(f"{feature} by {member}" for member in members for feature in MEMBER_FEATURES)
    return Shortlist(np.concatenate(photos), np.concatenate(columns), np.concatenate(features), names)


def _member_features(scores: Scores, temperature: float, best: Labels, photo: Rows, column: Labels) -> Floats:
    """(candidates, MEMBER_FEATURES) what one member says of candidates (photo, column)."""
    logs = log_probabilities(scores, temperature)
    ranks = fusion.reciprocal_ranks(best, scores.shape[1])
    first, second = (np.take_along_axis(logs, best[:, place, None], 1)[:, 0] for place in (0, 1))
    log = logs[photo, column]
    rival = np.where(column == best[photo, 0], second[photo], first[photo])
    return np.stack([log, scores[photo, column], ranks[photo, column], log - rival], axis=1)


def full_scores(
    gathered: Shortlist, logits: Floats, scores: Sequence[Scores], temperatures: Sequence[float]
) -> Scores:
    """Scores (photos, identities): the highest logit (rows,) of each candidate, and all others below them.

    The others of a photo weigh together as much as its last candidate, and are told apart by the mean of the
    members' log probabilities.
    """
    full: Scores = np.empty(scores[0].shape, np.float32)
    photos, columns = gathered.photos[gathered.firsts], gathered.columns[gathered.firsts]
    best = gathered.best(logits)
    last = np.minimum.reduceat(best, np.searchsorted(photos, np.arange(len(full))))
    for rows in row_blocks(*full.shape):
        mean = np.zeros(full[rows].shape)
        for one, temperature in zip(scores, temperatures, strict=True):
            mean += log_probabilities(one[rows], temperature) / len(scores)
        here = slice(*np.searchsorted(photos, (rows.start, rows.stop)))
        photo, column = photos[here] - rows.start, columns[here]
        mean[photo, column] = -np.inf
        # Where everyone is a candidate nobody is left, and the maximum is that of nothing.
        highest = np.maximum(mean.max(axis=1, keepdims=True), np.finfo(np.float64).min)
        total = np.log(np.maximum(np.exp(mean - highest).sum(axis=1, keepdims=True), 1e-300)) + highest
        mean += last[rows, None] - total
        mean[photo, column] = best[here]
        full[rows] = mean
    return full


def stack(candidates: Candidates, kind: type[Learner]) -> FusionResult:
    """The members' scores fused by what the learner makes of their candidates.

    Its setting is chosen by the log loss of photos it has not learned from, individuals kept apart; of valid
    it gives scores by those that were learned without them, too. Then it learns from all of valid, and scores
    test. Where members answered train out of fold it learns from that, and valid chooses the setting.
    """
    candidates.check()
    if candidates.train is not None:
        return _stack_on_train(candidates, candidates.train, kind)
    task = candidates.task
    fold, seed, temperatures = task.fold, task.seed, task.temperatures
    labels = fold.valid_labels
    splits, valid = fold.cross_validation(seed), candidates.gather("valid")
    features, is_match = valid.features, valid.is_match(labels)
    if not splits or not all(is_match[valid.of(fit)].any() for fit, _ in splits):
        raise WhalebenchError(
            f"The {len(fold.valid.images)} valid photos show too few known individuals, found among the "
            f"candidates, for a stacker to learn from and be tried on: use --rule mean or vote."
        )
    aside = {choice: np.empty(len(is_match)) for choice in kind.choices}
    for fit, rest in splits:
        learner, fitted, tried = kind(seed), valid.of(fit), valid.of(rest)
        learner.fit(features[fitted], is_match[fitted])
        for choice, logits in aside.items():
            logits[tried] = learner.logits(features[tried], choice)
    losses = {choice: candidate_log_loss(valid, logits, labels) for choice, logits in aside.items()}
    chosen = min(kind.choices, key=lambda choice: losses[choice])  # of equal ones the simplest
    learner = kind(seed)
    learner.fit(features, is_match)
    trained = candidate_log_loss(valid, learner.logits(features, chosen), labels)
    test = candidates.gather("test")
    return FusionResult(
        valid=full_scores(valid, aside[chosen], task.valid, temperatures),
        test=full_scores(test, learner.logits(test.features, chosen), task.test, temperatures),
        chosen={kind.setting: chosen},
        train_log_loss=trained,
        out_of_fold_log_loss=losses[chosen],
        learned=learner.arrays(chosen) | {"features": as_bytes("\n".join(valid.names))},
    )


def _stack_on_train(candidates: Candidates, train: TrainAnswers, kind: type[Learner]) -> FusionResult:
    """As `stack`, learned from what the members said of train out of fold; valid is never learned from."""
    task, seed = candidates.task, candidates.task.seed
    labels, temperatures = task.fold.valid_labels, task.temperatures
    gathered, valid = candidates.gather("train"), candidates.gather("valid")
    is_match = gathered.is_match(train.labels)
    if not (is_match.any() and valid.is_match(labels).any()):
        raise WhalebenchError(
            f"The {len(train.images)} photos of train, or those of valid, show no known individual found "
            f"among the candidates, for a stacker to learn from and be tried on: use --rule mean or vote."
        )
    learner = kind(seed)
    learner.fit(gathered.features, is_match)
    tried = {choice: learner.logits(valid.features, choice) for choice in kind.choices}
    losses = {choice: candidate_log_loss(valid, logits, labels) for choice, logits in tried.items()}
    chosen = min(kind.choices, key=lambda choice: losses[choice])
    trained = learner.logits(gathered.features, chosen)
    test = candidates.gather("test")
    return FusionResult(
        valid=full_scores(valid, tried[chosen], task.valid, temperatures),
        test=full_scores(test, learner.logits(test.features, chosen), task.test, temperatures),
        chosen={kind.setting: chosen},
        train_log_loss=candidate_log_loss(gathered, trained, train.labels),
        out_of_fold_log_loss=losses[chosen],
        learned=learner.arrays(chosen) | {"features": as_bytes("\n".join(valid.names))},
        learned_from=train.images,
    )


def candidate_log_loss(gathered: Shortlist, logits: Floats, labels: Labels) -> float:
    """Mean log loss of the known photos whose individual is a candidate, normalised over candidates.

    Each candidate counts once, by the highest of its logits (rows,); labels (photos,) are the right columns.
    """
    photos, best = gathered.photos[gathered.firsts], gathered.best(logits)
    starts = np.flatnonzero(np.diff(photos, prepend=-1))
    highest = np.maximum.reduceat(best, starts)
    total = np.log(np.add.reduceat(np.exp(best - highest[photos]), starts)) + highest
    is_match = gathered.is_match(labels)[gathered.firsts]
    return float((total[photos[is_match]] - best[is_match]).mean())
