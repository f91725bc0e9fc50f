"""A worker of a study: takes a trial, learns, says what came of it, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from whalebench.benchmarks.tuning.drawing import build_sampler
from whalebench.benchmarks.tuning.lease import LEASE, own_lease
from whalebench.benchmarks.tuning.tally import Tally, begin_with_the_defaults, give_up, reap, tally
from whalebench.benchmarks.tuning.trying import Trying

if TYPE_CHECKING:
    from optuna import Trial

    from whalebench.benchmarks.progress import Progress
    from whalebench.benchmarks.tuning.budget import Budget
    from whalebench.benchmarks.tuning.plan import Plan
    from whalebench.benchmarks.tuning.storage import Kept

POLL = 1.0
"""Seconds from one look for work to the next, while others do the last trials."""


def work(
    plan: Plan,
    kept: Kept,
    progress: Progress,
    *,
    worker: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Tally:
    """What has become of the trials when the budget is spent and nobody is at work any more.

    Trials whose worker was killed are done again. Raises WhalebenchError where the method cannot be run at
    all: for what keeps the defaults from being tried. Stopped, it returns after the trial it is at.
    """
    awaited: set[int] = set()
    while True:
        trial = None
        with kept.turn():
            reap(kept)
            begin_with_the_defaults(kept, plan.space)
            found = tally(kept.study.get_trials(deepcopy=False))
            over = plan.budget.is_spent(found.spent)
            if stopped() or (over and not found.running):
                return found
            if not over and not _is_taken(plan.budget, found):
                trial = _begin(plan, kept, len(found.ended) + len(found.running), worker)
        if trial is None:
            running = {each.number for each in found.running}
            if running - awaited:
                progress.stage(f"Waiting for trial {', '.join(map(str, sorted(running)))} of other workers")
            awaited = running
            time.sleep(POLL)
        else:
            Trying(plan, kept, trial).finish(progress)


def _is_taken(budget: Budget, found: Tally, surplus: int = 0) -> bool:
    """Whether enough trials have ended or are under way."""
    begun = len(found.ended) + len(found.running) - surplus
    return budget.trials is not None and begun >= budget.trials


def _begin(plan: Plan, kept: Kept, before: int, worker: int) -> Trial | None:
    """A trial with its values; None where another worker was quicker, who may be on another machine."""
    kept.study.sampler = build_sampler(plan.ground.seed, before, worker)
    trial = kept.study.ask(fixed_distributions=plan.space.distributions)
    trial.set_user_attr(LEASE, own_lease())
    found = tally(kept.study.get_trials(deepcopy=False))
    if not _is_taken(plan.budget, found, surplus=1):
        return trial
    own = next(each for each in found.running if each.number == trial.number)
    give_up(kept, own, "there was no need of it", again="fixed_params" in own.system_attrs)
    time.sleep(np.random.default_rng().uniform(0, POLL))  # who meets again, meets for ever
    return None
