"""A stacker on features: a classifier over individuals, on features of valid photos (Right Whale, 2nd).

It learns from the valid photos alone: no member has learned from them, so their features are as out-of-fold
as those of test. Those of train photos are in-fold, and a classifier knows them by heart. Most individuals
have few valid photos or none, so what it says is mixed with the mean of the members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.classifiers import Classifier
from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.ground import FOLDS, Ground
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.memory import free_memory
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, blocks, log_softmax
from whalebench.benchmarks.ensembling.shortlist import Part
from whalebench.benchmarks.ensembling.sides import embeddings_of
from whalebench.benchmarks.ensembling.weighing import mixed_log_loss

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
