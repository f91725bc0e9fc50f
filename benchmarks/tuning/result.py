"""What tuning came to: the trials, what mattered, and the runs of the tuned method and of its defaults."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import RunFailedError
from whalebench.benchmarks.tuning.tally import PHOTOS, REASON, SECONDS, SETTINGS, Tally

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from whalebench.benchmarks.record import RunRecord
    from whalebench.benchmarks.tuning.plan import Plan
    from whalebench.benchmarks.tuning.storage import Kept

TREES = 64
"""Of the forest that the importance is read from, each of as many levels at most."""
ENOUGH = 4
"""Complete trials, before which nothing is said of what mattered."""


@dataclass(frozen=True)
class Tuned:
    """A tuned method beside its defaults."""

    plan: Plan
    kept: Kept
    found: Tally
    default: RunRecord | str
    """Of the method before tuning, or why it has none."""
    tuned: RunRecord
    facts: dict[str, Any]
    """What the record of the tuned run says of the tuning."""
    picture: Path
    """Where history and importance are to be drawn."""

    def document(self) -> dict[str, Any]:
        """Everything but what takes the predictions to say, as JSON can hold it."""
        best = best_trial(self.found)
        return {
            **self.facts,
            "storage": self.kept.where,
            "method": self.plan.kind.name,
            "benchmark": self.tuned.benchmark,
            "fold": self.tuned.fold,
            "seed": self.tuned.seed,
            "fixed": list(self.plan.settings),
            "best": best.number,
            "trials": [trial_row(trial) for trial in self.found.ended],
            "importance": importance(self.found, self.plan.ground.seed),
            "runs": {
                "default": None if isinstance(self.default, str) else self.default.run,
                "tuned": self.tuned.run,
            },
            "default_failed": self.default if isinstance(self.default, str) else "",
            "picture": str(self.picture),
        }


def best_trial(found: Tally) -> FrozenTrial:
    """The complete trial that scored best on valid, the first of several; raises RunFailedError for none."""
    from optuna.trial import TrialState  # noqa: PLC0415

    complete = [trial for trial in found.ended if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = [trial.user_attrs[REASON] for trial in found.ended if REASON in trial.user_attrs]
        raise RunFailedError(
            f"none of {len(found.ended)} trials came to an end: {(reasons or ['all pruned'])[0]}"
        )
    return max(complete, key=lambda trial: (trial.values[0], -trial.number))


def tuned_facts(found: Tally, plan: Plan, kept: Kept) -> dict[str, Any]:
    """What a record says of how its settings were tuned: what was to be spent, what was, and on what."""
    from optuna.trial import TrialState  # noqa: PLC0415

    states = [trial.state for trial in found.ended]
    best = best_trial(found)
    return {
        "study": kept.study.study_name,
        "budget": plan.budget.words(),
        "spent": {
            "trials": found.spent.trials,
            "pruned": states.count(TrialState.PRUNED),
            "failed": states.count(TrialState.FAIL),
            "seconds": round(found.spent.seconds, 1),
            "photos": found.spent.photos,
        },
        "space": plan.space.words(),
        "settings": list(best.user_attrs[SETTINGS]),
        "valid_map_at_5": best.values[0],
    }


def trial_row(trial: FrozenTrial) -> dict[str, Any]:
    """One trial in plain values; a pruned one scored what it did after its last epoch."""
    said = trial.user_attrs
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "valid_map_at_5": trial.values[0] if trial.values else None,
        "epochs": max(trial.intermediate_values, default=None),
        "parameters": dict(trial.params),
        "settings": list(said.get(SETTINGS, ())),
        "seconds": said.get(SECONDS),
        "photos": said.get(PHOTOS),
        "reason": said.get(REASON, ""),
    }


def importance(found: Tally, seed: int) -> dict[str, float]:
    """Each field's share of how much valid MAP@5 varied, by fANOVA (Hutter et al. 2014), the largest first.

    Empty with few complete trials, or where they all scored the same.
    """
    import optuna  # noqa: PLC0415  (half a second to import)
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # noqa: PLC0415
    from optuna.trial import TrialState  # noqa: PLC0415

    complete = [trial for trial in found.ended if trial.state == TrialState.COMPLETE]
    if len(complete) < ENOUGH or len({trial.values[0] for trial in complete}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")  # in memory: of these trials alone
    study.add_trials(complete)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=TREES, seed=seed)
    shares = get_param_importances(study, evaluator=evaluator, params=None, target=None, normalize=True)
    return {name: round(share, 4) for name, share in shares.items() if isfinite(share)}
