"""The rules by which members become one, by name, and what `mean` and `product` learn from valid to do so.

The formulas are those of `methods.parts.fusion`; the stackers have files of their own, read when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import row_blocks
from whalebench.benchmarks.ensembles.embeddings import read_embeddings
from whalebench.benchmarks.ensembles.members import FoldData, FusionResult, FusionTask
from whalebench.methods.parts import fusion
from whalebench.methods.parts.fusion import Floats, Labels, Rows, ScoreFusion, Scores, log_probabilities
from whalebench.reports.metrics.evaluation import means_by_threshold

WEIGHTED = (*fusion.SCORE_RULES, "knn")
"""Rules that take weights."""
MOST = 2_000
"""Photos of valid, about, that powers are found on: a few numbers need no more."""


def fuse_members(rule: str, task: FusionTask) -> FusionResult:
    """The members' scores by that rule."""
    if rule in WEIGHTED:
        return _fuse_weighted(rule, task)
    if rule.endswith("-features"):
        from whalebench.benchmarks.ensembles.feature_stacking import CLASSIFIERS, stack_features

        return stack_features(task, fitted_mean(task), CLASSIFIERS[rule])
    from whalebench.benchmarks.ensembles.stacking import LEARNERS, Candidates, stack

    if rule == "pairs":
        from whalebench.benchmarks.ensembles.pairs import Pairs

        return stack(Pairs(task), LEARNERS["lightgbm"])
    return stack(Candidates(task), LEARNERS[rule])


def _fuse_weighted(rule: str, task: FusionTask) -> FusionResult:
    """Fused by the weights given; else by fitted ones for mean and product, equal ones for vote and knn."""
    learned = {"mean": fitted_mean, "product": log_opinion_pool}
    if rule in learned and task.weights is None and len(task.members) > 1:
        return _or_best_alone(learned[rule](task), rule, task)
    weights = task.equal_weights() if task.weights is None else task.weights
    if rule == "knn":
        valid, test = _fuse_embeddings(task, weights)
    else:
        pool = _score_fusion(rule, task)
        valid, test = pool.fuse(task.valid, weights), pool.fuse(task.test, weights)
    return FusionResult(valid, test, {"weights": weights.tolist()})


def _or_best_alone(fused: FusionResult, rule: str, task: FusionTask) -> FusionResult:
    """What was fused; where that loses to a member on valid by more than chance, that member alone.

    By more than chance is by more than twice the standard error of what is lost on each known photo.
    """
    labels = task.fold.valid_labels
    each = [fusion.ranked_right(scores, labels) for scores in task.valid]
    best = int(np.argmax([ranks.sum() for ranks in each]))
    lost = each[best] - fusion.ranked_right(fused.valid, labels)
    if not len(lost) or lost.mean() <= 2 * lost.std() / np.sqrt(len(lost)):
        return fused
    pool, alone = _score_fusion(rule, task), np.eye(len(each))[best]
    what = next(name for name in ("weights", "powers") if name in fused.chosen)
    return replace(
        fused,
        valid=pool.fuse(task.valid, alone),
        test=pool.fuse(task.test, alone),
        chosen=fused.chosen | {what: alone.tolist(), "best_alone": True},
        learned={what: alone},
    )


def _score_fusion(rule: str, task: FusionTask) -> ScoreFusion:
    return ScoreFusion.of_valid(fusion.SCORE_RULES[rule], task.valid, task.temperatures)


def _fuse_embeddings(task: FusionTask, weights: Floats) -> tuple[Scores, Scores]:
    """Scores of valid and test by cosines to the nearest photo (Happywhale, 26th: nine members)."""
    every = []
    for member in task.members:
        embeddings = read_embeddings(member, task.fold)
        if not embeddings:
            raise WhalebenchError(
                f"The run {member.name} keeps no embeddings of its gallery and of test to put beside the "
                f"others' ({member.run.record.method}): leave it out, or use --rule mean."
            )
        every.append(embeddings)
    gallery, valid, test = ([each[part] for each in every] for part in ("gallery", "valid", "test"))
    known = gallery, task.fold.gallery_labels, len(task.fold.identities)
    return fusion.nearest_scores(valid, *known, weights), fusion.nearest_scores(test, *known, weights)


def fitted_mean(task: FusionTask) -> FusionResult:
    """The mean (linear opinion pool) with weights fitted on valid, where they beat equal ones out-of-fold.

    They beat equal ones by a lower log loss and no lower MAP@5. The losses of the result are those of the
    fitted weights, also where equal ones were kept. Each valid photo is scored by weights fitted without it.
    """
    pool, equal, labels = _score_fusion("mean", task), task.equal_weights(), task.fold.valid_labels
    plain, known = pool.fuse(task.valid, equal), labels >= 0
    logs = fusion.target_log_probabilities(task.valid, task.temperatures, labels)
    by_photo = _out_of_fold_weights(task, lambda rows: fusion.fit_weights(logs[rows[known[rows]]]))
    if by_photo is None:
        chosen = {"weights": equal.tolist(), "equal_weights": True}
        return FusionResult(plain, pool.fuse(task.test, equal), chosen)
    weights = fusion.fit_weights(logs[known])
    in_sample, out_of_fold, of_equal = (
        float(fusion.mean_log_loss(logs, each)[known].mean()) for each in (weights, by_photo, equal)
    )
    fitted = pool.fuse(task.valid, by_photo)
    better = out_of_fold < of_equal and _map_at_5(fitted, task.fold) >= _map_at_5(plain, task.fold)
    kept = weights if better else equal
    return FusionResult(
        valid=fitted if better else plain,
        test=pool.fuse(task.test, kept),
        chosen={"weights": kept.tolist(), "equal_weights": not better},
        train_log_loss=in_sample,
        out_of_fold_log_loss=out_of_fold,
        learned={"weights": kept},
    )


def log_opinion_pool(task: FusionTask) -> FusionResult:
    """The product with the powers that make the truth of known valid photos most likely.

    Valid's scores are by powers found without the photo, and without its individual. Where valid has too few
    known photos for that all powers are one over the number of members.
    """
    pool, labels = _score_fusion("product", task), task.fold.valid_labels
    known = np.flatnonzero(labels >= 0)
    evidence = Evidence(task.valid, task.temperatures, known[:: max(1, len(known) // MOST)], labels)
    by_photo = _out_of_fold_weights(task, evidence.powers)
    if by_photo is None:
        equal = task.equal_weights()
        chosen = {"powers": equal.tolist()}
        return FusionResult(pool.fuse(task.valid, equal), pool.fuse(task.test, equal), chosen)
    powers = evidence.powers(known)
    return FusionResult(
        valid=pool.fuse(task.valid, by_photo),
        test=pool.fuse(task.test, powers),
        chosen={"powers": powers.tolist()},
        train_log_loss=evidence.log_loss(powers),
        out_of_fold_log_loss=evidence.log_loss(by_photo[evidence.rows]),
        learned={"powers": powers},
    )


def _out_of_fold_weights(task: FusionTask, fit: Callable[[Rows], Floats]) -> Floats | None:
    """Weights (valid photos, members) fitted without each photo; None where valid has too few known ones."""
    splits = task.fold.cross_validation(task.seed)
    by_photo = np.empty((len(task.fold.valid_labels), len(task.members)))
    for rows, rest in splits:
        by_photo[rest] = fit(rows)
    return by_photo if splits else None


class Evidence:
    """What the members say of some known valid photos, and whose these are."""

    def __init__(
        self, scores: Sequence[Scores], temperatures: Sequence[float], rows: Rows, labels: Labels
    ) -> None:
        """Scores and labels are of all valid photos, and `rows` those that are looked at."""
        self.rows, self.targets = rows, labels[rows]
        seen = zip((one[rows] for one in scores), temperatures, strict=True)
        self.logs = np.stack([log_probabilities(*each).astype(np.float32) for each in seen])

    def powers(self, fit: Rows) -> Floats:
        """The powers (members,), above 0, under which the truths of these valid photos are most likely.

        Beforehand each is taken to be within a factor of e of one over the number of members (a normal
        distribution of its logarithm), so that few photos move them little.
        """
        from scipy.optimize import minimize

        chosen = np.flatnonzero(np.isin(self.rows, fit))
        start = np.full(len(self.logs), -np.log(len(self.logs)))

        def cost(logarithms: Floats) -> tuple[float, Floats]:
            powers = np.exp(logarithms)
            loss, slope = self._loss_and_slope(powers, chosen)
            away = logarithms - start
            return loss + float(away @ away) / 2, slope * powers + away

        best = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-9})
        powers: Floats = np.exp(best.x)
        return powers

    def log_loss(self, powers: Floats) -> float:
        """Mean log loss of the photos under powers (members,) or (photos, members)."""
        rows = np.arange(len(self.rows))
        return self._loss_and_slope(powers, rows)[0] / len(rows)

    def _loss_and_slope(self, powers: Floats, chosen: Rows) -> tuple[float, Floats]:
        """Summed log loss of the photos at some places, and its derivatives by each power (members,)."""
        loss, slope = 0.0, np.zeros(len(self.logs))
        by_photo = np.broadcast_to(powers, (len(self.rows), len(self.logs)))
        for part in row_blocks(len(chosen), self.logs.shape[2]):
            rows = chosen[part]
            logs, targets = self.logs[:, rows].astype(np.float64), self.targets[rows, None]
            pooled = log_probabilities(np.einsum("pm,mpi->pi", by_photo[rows], logs))
            loss -= float(np.take_along_axis(pooled, targets, 1).sum())
            of_target = np.broadcast_to(targets, (len(logs), *targets.shape))
            right = np.take_along_axis(logs, of_target, 2).sum(axis=(1, 2))
            slope += np.einsum("pi,mpi->m", np.exp(pooled), logs) - right
        return loss, slope


def _map_at_5(scores: Scores, fold: FoldData) -> float:
    """On the known photos of valid."""
    means = means_by_threshold(
        truth=fold.valid.truth, identities=fold.identities, scores=scores, new_thresholds=[None]
    )
    return means["map_at_5_known"][0]


def given_weights(text: str | None, rule: str, members: int) -> Floats | None:
    """The weights (members,) as typed, 0.5,0.5 or 2,1, made to be one in all; None where none are given."""
    if text is None:
        return None
    if rule not in WEIGHTED:
        raise WhalebenchError(f"--rule {rule} learns its own weights from valid: leave --weights out.")
    try:
        weights = np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise WhalebenchError(f"--weights {text} are no numbers: give one a run, as 0.5,0.5.") from error
    if len(weights) != members:
        raise WhalebenchError(f"--weights {text} are {len(weights)} for {members} runs: give one a run.")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise WhalebenchError(f"--weights {text} cannot be: none may be below 0, and one must be above.")
    shares: Floats = weights / weights.sum()
    return shares
