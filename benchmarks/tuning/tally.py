"""What has become of the trials of a study: which count, and how one that its worker left is done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whalebench.benchmarks.tuning.budget import Spent
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
    spent = Spent(
        len(ended),
        sum(trial.user_attrs.get(SECONDS, 0.0) for trial in ended),
        sum(trial.user_attrs.get(PHOTOS, 0) for trial in ended),
    )
    ended.sort(key=lambda trial: trial.number)
    return Tally(
        tuple(ended), tuple(of_state[TrialState.RUNNING]), tuple(of_state[TrialState.WAITING]), spent
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
    if again:
        values = trial.params or trial.system_attrs.get("fixed_params", {})
        kept.study.enqueue_trial(dict(values), user_attrs={ORIGIN: f"trial {trial.number}"})


def reap(kept: Kept) -> None:
    """Nothing; trials whose worker is gone are given up, to be done again."""
    from optuna.trial import TrialState  # noqa: PLC0415

    for trial in kept.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        lease: dict[str, Any] | None = trial.user_attrs.get(LEASE)
        if has_run_out(lease, began):
            give_up(kept, trial, "its worker was stopped")


def begin_with_the_defaults(kept: Kept, space: Space) -> None:
    """Nothing; the values before tuning wait to be tried, unless they have been or are being tried."""
    found = tally(kept.study.get_trials(deepcopy=False))
    for trial in (*found.ended, *found.running, *found.waiting):
        if trial.system_attrs.get("fixed_params", trial.params) == space.start:
            return
    kept.study.enqueue_trial(dict(space.start), user_attrs={ORIGIN: DEFAULTS})
