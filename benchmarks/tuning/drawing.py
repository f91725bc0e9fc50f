"""How values are drawn and bad trials ended: Optuna's sampler and pruner, every argument written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

RANDOM_TRIALS = 8
"""Trials, the defaults among them, before the sampler goes by what they scored."""
BEFORE_PRUNING = 4
"""Trials that a median is of, at least."""


def build_sampler(seed: int, trials: int, worker: int = 0) -> BaseSampler:
    """TPE (Bergstra et al. 2011; multivariate: Falkner et al. 2018), seeded anew for each trial of a worker.

    So the trials do not depend on whether a study was stopped and went on. The constant liar keeps workers
    from trying the same place at once.
    """
    from optuna.samplers import TPESampler  # noqa: PLC0415

    drawn = np.random.SeedSequence([seed, trials, worker]).generate_state(1)
    return TPESampler(
        n_startup_trials=RANDOM_TRIALS,
        n_ei_candidates=24,
        seed=int(drawn[0]),
        multivariate=True,
        group=False,
        constant_liar=True,
    )


def build_pruner(epochs: int) -> BasePruner:
    """Ends a trial that after an epoch scores less on valid than the median of those before, after as many.

    Not in the first third of the epochs, in which a low learning rate looks worse than it is.
    """
    from optuna.pruners import MedianPruner  # noqa: PLC0415

    # Its steps are counted from 0, epochs from 1.
    return MedianPruner(
        n_startup_trials=BEFORE_PRUNING,
        n_warmup_steps=epochs // 3 + 1,
        interval_steps=1,
        n_min_trials=BEFORE_PRUNING,
    )
