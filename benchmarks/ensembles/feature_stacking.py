"""Stackers on features: classifiers over individuals, on features of valid photos (Right Whale, 2nd).

They learn from the valid photos alone: no member has learned from them, so their features are as out-of-fold
as those of test. Those of train photos are in-fold, and a classifier knows them by heart; unless the members
are bagged: then each bag has a classifier of its own, in the space of its networks, which learns from the
train photos that these had not learned from. Most individuals have few such photos or none, so what a
classifier says is mixed with the mean of the members.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import normalise, row_blocks
from whalebench.benchmarks.core.machine import free_memory
from whalebench.benchmarks.ensembles.embeddings import read_features
from whalebench.benchmarks.ensembles.members import FOLDS, FusionResult, FusionTask, Member
from whalebench.benchmarks.ensembles.out_of_fold import TrainAnswers, answers_of_train
from whalebench.benchmarks.ensembles.stacking import Logistic, Trees
from whalebench.methods.parts import fusion
from whalebench.methods.parts.fusion import Floats, Labels, Rows, Scores, log_probabilities

SHARES = tuple(step / 10 for step in range(11))
"""How much the classifier may count among the individuals it knows; the rest is the mean's."""
Losses = dict[tuple[float, float], float]
"""By setting of the classifier and its share, the log loss of valid."""


class LogisticFeatures(Logistic):
    """Multinomial, a line for each individual (the last step of Right Whale, 2nd, with C = 10)."""

    choices = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
    tolerance = 1e-4

    @staticmethod
    def size(photos: int, features: int, classes: int) -> int:
        """Bytes at most, about: gradients of the solver's last ten steps and one set of lines a choice."""
        lines = classes * (min(photos, features) + 1)
        return 8 * ((25 + len(LogisticFeatures.choices)) * lines + 4 * photos * classes)

    def fit(self, features: Floats, targets: NDArray[Any]) -> None:
        """As any learner; L2 says the same however features are rotated, so as many as photos are enough."""
        if features.shape[1] > len(features):
            self.components = self.components or len(features)
        super().fit(features, targets)

    def _fit(self, features: Floats, targets: NDArray[Any]) -> None:
        with warnings.catch_warnings():
            # That individuals are many for so few photos is why the result is mixed with the mean.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            super()._fit(features, targets)
        for choice, lines in self.lines.items():
            if len(lines) == 1:  # of two classes the library gives the one line between them
                self.lines[choice] = np.vstack([np.zeros_like(lines), lines])


class TreeFeatures(Trees):
    """LightGBM over individuals: in each round a tree for each of them."""

    setting = "rounds"
    choices = (5, 10, 20, 40)
    standardises = True
    most_trees = 200_000
    """How many it may grow in all."""

    @staticmethod
    def size(photos: int, features: int, classes: int) -> int:
        """Bytes at most, about: scores and gradients, binned features, and 2 KiB a tree."""
        trees = classes * max(TreeFeatures.choices)
        return int(24 * photos * classes + 2 * photos * features + 2048 * trees)

    def objective(self, targets: NDArray[Any]) -> dict[str, Any]:
        """Two or three photos are all there is of most individuals."""
        return {"objective": "multiclass", "num_class": int(targets.max()) + 1, "min_data_in_leaf": 2}


Classifier = LogisticFeatures | TreeFeatures
CLASSIFIERS: dict[str, type[Classifier]] = {
    "logistic-features": LogisticFeatures,
    "lightgbm-features": TreeFeatures,
}


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier that has learned, and the columns of the individuals it knows."""

    classifier: Classifier
    columns: Labels

    @classmethod
    def of(cls, classifier: Classifier, features: Floats, columns: Labels) -> Self:
        """One that has learned from features of photos and the columns of whom they show (photos,)."""
        known, labels = np.unique(columns, return_inverse=True)
        classifier.fit(features, labels)
        return cls(classifier, known)

    def mix(self, base: Scores, features: Floats, choice: float, share: float) -> Scores:
        """Scores (photos, identities) of the mean, with the share of the individuals it knows dealt anew.

        What the mean gives to them together, and to everyone else, stays as it is.
        """
        mixed = base.copy()
        if not share:
            return mixed
        for rows in row_blocks(*base.shape):
            here = base[rows][:, self.columns].astype(np.float64)
            logits = self.classifier.logits(features[rows], choice)
            logs = log_probabilities(logits) + logsumexp(here, axis=1)[:, None]
            with np.errstate(divide="ignore"):  # a share of one leaves the mean nothing
                mixed[rows, self.columns] = np.logaddexp(np.log1p(-share) + here, np.log(share) + logs)
        return mixed

    def target_logs(self, base: Scores, features: Floats, targets: Labels, choice: float) -> Floats:
        """(photos, 2) log probability of the right column (photos,) by the mean, and by the classifier.

        Of an individual that it does not know the classifier says what the mean says.
        """
        logs, photos = log_probabilities(base), np.arange(len(targets))
        mean = logs[photos, targets]
        place = np.searchsorted(self.columns, targets) % len(self.columns)
        stacked = log_probabilities(self.classifier.logits(features, choice))[photos, place]
        stacked = np.where(
            self.columns[place] == targets, stacked + logsumexp(logs[:, self.columns], axis=1), mean
        )
        return np.stack([mean, stacked], axis=1)


def stack_features(task: FusionTask, mean: FusionResult, kind: type[Classifier]) -> FusionResult:
    """The members' mean, mixed with what a classifier says of the individuals that valid shows.

    Its setting and its share are chosen by the log loss of valid photos that it has not learned from; photos
    of one encounter are kept apart, not those of an individual, whom nobody could name then. Then it learns
    from all of valid, and scores test. Where members answered train out of fold it learns from that, and
    valid chooses.
    """
    valid, test = features_of(task.members)
    train = answers_of_train(task)
    if train is not None and all(each is not None for each in train.embeddings):
        return _stack_bags(task, mean, kind, train)
    fold, seed, components = task.fold, task.seed, task.options.pca
    labels, splits = fold.valid_labels, fold.cross_validation(seed, fold.valid_groups)
    learned_from = [*[fit[labels[fit] >= 0] for fit, _ in splits], np.flatnonzero(labels >= 0)]
    _check(kind, labels, learned_from, valid.shape[1], components)
    *aside, whole = (
        FittedClassifier.of(kind(seed, components), valid[rows], labels[rows]) for rows in learned_from
    )
    losses: Losses = {}
    for choice in kind.choices:
        logs = np.zeros((len(labels), 2))
        for fitted, (_, rest) in zip(aside, splits, strict=True):
            targets = np.maximum(labels[rest], 0)
            logs[rest] = fitted.target_logs(mean.valid[rest], valid[rest], targets, choice)
        losses |= {(choice, share): mix_log_loss(logs[labels >= 0], share) for share in SHARES}
    choice, share = _least(losses)
    scores = np.empty_like(mean.valid)
    for fitted, (_, rest) in zip(aside, splits, strict=True):
        scores[rest] = fitted.mix(mean.valid[rest], valid[rest], choice, share)
    rows = learned_from[-1]
    trained = whole.target_logs(mean.valid[rows], valid[rows], labels[rows], choice)
    made = FusionResult(
        valid=scores,
        test=whole.mix(mean.test, test, choice, share),
        chosen=mean.chosen | {kind.setting: choice, "share": share},
        learned=mean.learned | whole.classifier.arrays(choice) | {"columns": whole.columns},
    )
    return _with_losses(made, trained, losses, choice, share)


def _least(losses: Losses) -> tuple[float, float]:
    """The setting and the share of least loss; of equal ones the least share, of those what is best alone."""
    return min(losses, key=lambda one: (losses[one], one[1], losses[one[0], SHARES[-1]]))


def _with_losses(
    made: FusionResult, trained: Floats, losses: Losses, choice: float, share: float
) -> FusionResult:
    """The result with its losses, mixed and alone: of what was learned from (photos, 2), and of valid."""
    return replace(
        made,
        train_log_loss=mix_log_loss(trained, share),
        out_of_fold_log_loss=losses[choice, share],
        alone={
            "classifier_train_log_loss": mix_log_loss(trained, SHARES[-1]),
            "classifier_out_of_fold_log_loss": losses[choice, SHARES[-1]],
        },
    )


@dataclass(frozen=True)
class _Bags:
    """The classifiers of all bags, each with what it learned from, and the features it is asked about."""

    fitted: Sequence[FittedClassifier]
    train: Sequence[tuple[Rows, Floats]]
    """By bag, rows of the train photos it learned from and their features (rows, features)."""
    valid: Sequence[Floats]
    test: Sequence[Floats]

    @classmethod
    def of(cls, task: FusionTask, kind: type[Classifier], train: TrainAnswers) -> Self:
        """Those that have learned, each from the known photos of its inner fold."""
        bags, components = task.members[0].bags, task.options.pca
        given = [normalise(each) for each in train.embeddings if each is not None]
        own = np.hstack(given).astype(np.float64)
        rows = [np.flatnonzero((train.bags == bag) & (train.labels >= 0)) for bag in range(bags)]
        shown = [train.labels[each] for each in rows]
        if (fewest := min(len(np.unique(labels)) for labels in shown)) < 2:
            raise WhalebenchError(
                f"One of the {bags} inner folds shows {fewest} known individual(s), so that its classifier "
                f"has nothing to tell apart: use --rule mean, or fewer bags."
            )
        said = f"The inner folds show up to {max(len(np.unique(labels)) for labels in shown)} individuals"
        _check_sizes(kind, said, shown, bags, own.shape[1], components)
        fitted = [FittedClassifier.of(kind(task.seed, components), own[r], train.labels[r]) for r in rows]
        widths = [each.shape[1] for each in given]
        valid, test = (_by_bag(task.members, part, widths) for part in ("valid", "test"))
        return cls(fitted, [(each, own[each]) for each in rows], valid, test)

    def target_logs(self, base: Scores, targets: Labels, choice: float) -> Floats:
        """(valid photos, 2) as of one classifier; of several the mean of their probabilities."""
        asked = zip(self.fitted, self.valid, strict=True)
        each = np.stack([one.target_logs(base, features, targets, choice) for one, features in asked])
        return np.asarray(np.logaddexp.reduce(each, axis=0) - np.log(len(each)))

    def train_logs(self, train: TrainAnswers, base: Scores, choice: float) -> Floats:
        """(train photos, 2) the same of what each learned from."""
        asked = zip(self.fitted, self.train, strict=True)
        logs = [one.target_logs(base[rows], own, train.labels[rows], choice) for one, (rows, own) in asked]
        return np.concatenate(logs)

    def mix(self, base: Scores, every: Sequence[Floats], choice: float, share: float) -> Scores:
        """Scores (photos, identities): the mean of the probabilities of each one's mix."""
        mixed = None
        for one, features in zip(self.fitted, every, strict=True):
            logs = one.mix(base, features, choice, share)
            mixed = logs if mixed is None else np.logaddexp(mixed, logs)
        assert mixed is not None
        return np.asarray(mixed - np.log(len(self.fitted)), np.float32)


def _by_bag(members: Sequence[Member], part: str, widths: Sequence[int]) -> list[Floats]:
    """By bag, features (photos, widths) of valid or test: those of that bag of every member, at length 1.

    Raises WhalebenchError where a member's embeddings are not those of its bags, each of its width in train,
    side by side.
    """
    blocks = []
    for member, width in zip(members, widths, strict=True):
        features = read_features(member, part)
        assert features is not None
        if features.shape[1] != member.bags * width:
            raise WhalebenchError(
                f"{member.name} keeps {features.shape[1]} features of {part}, not {width} of each of its "
                f"{member.bags} bags, as of train: some networks answered train alone. Use --rule logistic, "
                f"or repeat the run, with a higher `best` if it has one, so that no network is dropped."
            )
        each = np.split(features, member.bags, axis=1)
        blocks.append([normalise(one).astype(np.float64) for one in each])
    return [np.hstack(each) for each in zip(*blocks, strict=True)]


def _stack_bags(
    task: FusionTask, mean: FusionResult, kind: type[Classifier], train: TrainAnswers
) -> FusionResult:
    """As `stack_features`, learned from train out of fold; valid chooses, and is never learned from."""
    bags, labels = _Bags.of(task, kind, train), task.fold.valid_labels
    known, targets = labels >= 0, np.maximum(labels, 0)
    losses: Losses = {}
    for choice in kind.choices:
        logs = bags.target_logs(mean.valid, targets, choice)[known]
        losses |= {(choice, share): mix_log_loss(logs, share) for share in SHARES}
    choice, share = _least(losses)
    of_train = fusion.mean_scores(train.scores, train.temperatures, task.equal_weights())
    trained = bags.train_logs(train, of_train, choice)
    learned = [{**one.classifier.arrays(choice), "columns": one.columns} for one in bags.fitted]
    made = FusionResult(
        valid=bags.mix(mean.valid, bags.valid, choice, share),
        test=bags.mix(mean.test, bags.test, choice, share),
        chosen=mean.chosen | {kind.setting: choice, "share": share},
        learned=mean.learned
        | {f"{bag}.{name}": values for bag, each in enumerate(learned) for name, values in each.items()},
        learned_from=train.images,
    )
    return _with_losses(made, trained, losses, choice, share)


def features_of(members: Sequence[Member]) -> tuple[Floats, Floats]:
    """(photos, features) of valid and of test, the members' side by side.

    Raises WhalebenchError for a member that keeps none, or other ones of test than of valid.
    """
    every = []
    for member in members:
        valid, test = read_features(member, "valid"), read_features(member, "test")
        if valid is None or test is None or valid.shape[1:] != test.shape[1:]:
            raise WhalebenchError(
                f"The run {member.name} keeps no features of valid and test ({member.run.record.method}): "
                f"leave it out, or use --rule mean."
            )
        if not (np.isfinite(valid).all() and np.isfinite(test).all()):
            raise WhalebenchError(
                f"Features of {member.name} are not finite: repeat the run with --force, or leave it out."
            )
        every.append((valid, test))
    of_valid, of_test = (np.hstack(part).astype(np.float64) for part in zip(*every, strict=True))
    return of_valid, of_test


def mix_log_loss(target_logs: Floats, share: float) -> float:
    """Mean log loss of the mix, of log probabilities (photos, 2) of the truth by the mean and beside it."""
    return float(fusion.mean_log_loss(target_logs, np.array([1 - share, share])).mean())


def _check(
    kind: type[Classifier],
    labels: Labels,
    learned_from: Sequence[Rows],
    features: int,
    components: int | None,
) -> None:
    """Raises WhalebenchError where too little can be learned, or where it would take too much."""
    whole = learned_from[-1]
    individuals = len(np.unique(labels[whole]))
    shown = f"The {len(whole)} known valid photos show {individuals} individuals"
    fewest = min(len(np.unique(labels[rows])) for rows in learned_from)
    met_again = any(np.isin(labels[np.setdiff1d(whole, rows)], labels[rows]).any() for rows in learned_from)
    if len(learned_from) == 1 or fewest < 2 or not met_again:
        raise WhalebenchError(
            f"{shown}, too few, or none of them in two encounters, so that nothing can be tried on photos "
            f"set aside: use --rule mean, or a split with a larger valid part."
        )
    _check_sizes(kind, shown, [labels[rows] for rows in learned_from], FOLDS + 1, features, components)


def _check_sizes(
    kind: type[Classifier],
    shown: str,
    learned_from: Sequence[Labels],
    times: int,
    features: int,
    components: int | None,
) -> None:
    """Raises WhalebenchError where so many classifiers that learn from photos of whom take too much."""
    photos, most = min(map(len, learned_from)), max(map(len, learned_from))
    individuals = max(len(np.unique(labels)) for labels in learned_from)
    if components is not None and components > min(features, photos):
        raise WhalebenchError(
            f"--pca {components} components cannot be had of {features} features and {photos} photos: give "
            f"{min(features, photos)} or fewer."
        )
    trees = individuals * int(max(kind.choices)) * times
    if issubclass(kind, TreeFeatures) and trees > kind.most_trees:
        raise WhalebenchError(
            f"{shown}: with one for each of them in every round {trees:,} trees would be grown, more than "
            f"{kind.most_trees:,}; use --rule logistic-features, or mean."
        )
    width = components or features
    needed, free = times * kind.size(most, width, individuals), free_memory()
    if free is not None and needed > free:
        raise WhalebenchError(
            f"{shown}: to learn them from {width:,} features takes about {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free; add --pca 100, or use --rule mean."
        )
