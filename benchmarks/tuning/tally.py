"""What has become of the trials of a study: which count, and how one that its worker left is done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from whalebench.benchmarks.tuning.budget import Budget, Spent
from whalebench.benchmarks.tuning.lease import LEASE, has_run_out

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from whalebench.benchmarks.tuning.space import Space
    from whalebench.benchmarks.tuning.storage import Kept

LOST, ORIGIN = "lost", "origin"
"""Names of a trial's attributes: why its worker gave it up, and what it was put in the queue for."""
SETTINGS, REASON, SECONDS, PHOTOS = "settings", "reason", "seconds", "photos"
"""And what came of it: what to type after --set to repeat it, why it failed, what it cost."""
DEFAULTS = "the defaults"


@dataclass(frozen=True)
class Tally:
    """The trials of a study that count, in order of their numbers."""

    ended: tuple[FrozenTrial, ...]
    """Complete, pruned, or failed by themselves; not those whose worker was killed."""
    running: tuple[FrozenTrial, ...]
    waiting: tuple[FrozenTrial, ...]
    spent: Spent


def tally(trials: Sequence[FrozenTrial]) -> Tally:
    """The trials sorted by what has become of them."""
    from optuna.trial import TrialState  # noqa: PLC0415

    of_state: dict[TrialState, list[FrozenTrial]] = {state: [] for state in TrialState}
    for trial in trials:
        if not (trial.state == TrialState.FAIL and trial.user_attrs.get(LOST)):
            of_state[trial.state].append(trial)
    ended = of_state[TrialState.COMPLETE] + of_state[TrialState.PRUNED] + of_state[TrialState.FAIL]
    ended.sort(key=lambda trial: trial.number)
    running, waiting = of_state[TrialState.RUNNING], of_state[TrialState.WAITING]
    return Tally(tuple(ended), tuple(running), tuple(waiting), _spent(ended))


def within(found: Tally, budget: Budget) -> Tally:
    """The trials that the budget pays for, first come, first served.

    A study may hold more: it was begun with a larger budget, or several workers ended theirs together.
    """
    paid: tuple[FrozenTrial, ...] = ()
    for trial in found.ended:
        if budget.is_spent(_spent(paid)):
            break
        paid += (trial,)
    return replace(found, ended=paid, spent=_spent(paid))


def _spent(ended: Sequence[FrozenTrial]) -> Spent:
    return Spent(
        len(ended),
        sum(trial.user_attrs.get(SECONDS, 0.0) for trial in ended),
        sum(trial.user_attrs.get(PHOTOS, 0) for trial in ended),
    )


def give_up(kept: Kept, trial: FrozenTrial, reason: str, *, again: bool = True) -> None:
    """Nothing; the running trial counts no more, and with `again` waits with the same values as another one.

    Where two workers say it of one trial, or it ends in this moment, the storage lets the first one through.
    """
    from optuna.exceptions import UpdateFinishedTrialError  # noqa: PLC0415
    from optuna.trial import TrialState  # noqa: PLC0415

    try:
        kept.storage.set_trial_user_attr(trial._trial_id, LOST, reason)
        kept.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL, None)
    except UpdateFinishedTrialError:
        return
    # One without a lease was stopped while its values were drawn; they are drawn again, to the same ones.
    drawn = trial.params if LEASE in trial.user_attrs else {}
    values = trial.system_attrs.get("fixed_params", drawn)
    if again and values:
        kept.study.enqueue_trial(dict(values), user_attrs={ORIGIN: f"trial {trial.number}"})


def reap(kept: Kept) -> None:
    """Nothing; trials whose worker is gone are given up, to be done again."""
    from optuna.trial import TrialState  # noqa: PLC0415

    for trial in kept.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        lease: dict[str, Any] | None = trial.user_attrs.get(LEASE)
        if has_run_out(lease, began, in_turns=kept.lock is not None):
            give_up(kept, trial, "its worker was stopped")


def begin_with_the_defaults(kept: Kept, space: Space) -> None:
    """Nothing; the values before tuning wait to be tried, unless they have been or are being tried."""
    found = tally(kept.study.get_trials(deepcopy=False))
    for trial in (*found.ended, *found.running, *found.waiting):
        if trial.system_attrs.get("fixed_params", trial.params) == space.start:
            return
    kept.study.enqueue_trial(dict(space.start), user_attrs={ORIGIN: DEFAULTS})
