"""One trial from its values to its end: scored, pruned, failed with a reason, or given up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.tuning.evaluate import Attempt, Watch
from whalebench.benchmarks.tuning.lease import LEASE, kept_alive
from whalebench.benchmarks.tuning.tally import PHOTOS, REASON, SECONDS, SETTINGS, give_up
from whalebench.methods.registry import configure

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial, TrialState

    from whalebench.benchmarks.progress import Progress
    from whalebench.benchmarks.tuning.plan import Plan
    from whalebench.benchmarks.tuning.storage import Kept


class Trying:
    """A trial that this worker has taken."""

    def __init__(self, plan: Plan, kept: Kept, trial: Trial) -> None:
        self._plan, self._kept, self._trial = plan, kept, trial
        self._settings = plan.space.settings(trial.params)
        self._said: dict[str, Any] = {SETTINGS: list(self._settings), PHOTOS: 0}

    def finish(self, progress: Progress) -> None:
        """Nothing; the trial has ended, with a value, pruned, or with the reason why it failed.

        What keeps the defaults from being tried at all is raised, but not that they did not learn. Nothing is
        said of a trial that was given to another meanwhile, because this machine was silent for long.
        """
        from optuna.exceptions import UpdateFinishedTrialError  # noqa: PLC0415

        started = time.perf_counter()
        try:
            with kept_alive(lambda lease: self._trial.set_user_attr(LEASE, lease)):
                value, state = self._ended(progress)
            self._said[SECONDS] = round(time.perf_counter() - started, 2)
            for name, said in self._said.items():
                self._trial.set_user_attr(name, said)
            self._kept.study.tell(self._trial, value, state)
        except UpdateFinishedTrialError:
            return
        except BaseException as error:  # Ctrl-C, too
            give_up(self._kept, self._frozen(), str(error) or "it was interrupted")
            raise

    def score(self, step: int, map_at_5: float) -> None:
        """Nothing, or TrialPruned where MAP@5 on valid is too little after so many epochs."""
        from optuna import TrialPruned  # noqa: PLC0415

        self._trial.report(map_at_5, step)
        if self._settings and self._trial.should_prune():  # the defaults are to be known in any case
            raise TrialPruned

    def _ended(self, progress: Progress) -> tuple[float | None, TrialState]:
        """MAP@5 on valid if it came to that, and how the trial ended."""
        from optuna import TrialPruned  # noqa: PLC0415
        from optuna.exceptions import UpdateFinishedTrialError  # noqa: PLC0415
        from optuna.trial import TrialState  # noqa: PLC0415

        try:
            return self._learned(progress), TrialState.COMPLETE
        except TrialPruned:
            return None, TrialState.PRUNED
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            if not self._settings and not isinstance(error, RunFailedError):
                raise
            name = "" if isinstance(error, WhalebenchError) else f"{type(error).__name__}: "
            self._said[REASON] = f"{name}{error}"
            return None, TrialState.FAIL

    def _learned(self, progress: Progress) -> float:
        plan = self._plan
        progress.stage(f"Trial {self._trial.number}: {' '.join(self._settings) or 'the defaults'}")
        config = configure(plan.kind, (*plan.settings, *self._settings))
        attempt = Attempt(plan.kind, config, plan.ground, Watch(progress, self))
        try:
            return attempt.valid_map_at_5()
        finally:
            self._said[PHOTOS] = attempt.photos()

    def _frozen(self) -> FrozenTrial:
        trials = self._kept.study.get_trials(deepcopy=False)
        return next(each for each in trials if each.number == self._trial.number)
