"""Tuning from end to end: trials judged by valid, then the best and the defaults scored on test once.

What tuning came to: the trials, what mattered, and the runs of the tuned method and of its defaults.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import RunFailedError, WhalebenchError, __version__
from whalebench.benchmarks.core.machine import choose_device
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.workspace import Workspace, digest_text
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.tuning.space import Budget, search_space
from whalebench.benchmarks.tuning.study import (
    PHOTOS,
    REASON,
    SECONDS,
    SETTINGS,
    SQLITE,
    Kept,
    Tally,
    begin_with_the_defaults,
    build_pruner,
    open_study,
    tally,
    within,
)
from whalebench.benchmarks.tuning.worker import Attempt, Ground, Plan, Watch, work
from whalebench.methods.registry import configure, find_method

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from whalebench.benchmarks.core.record import RunRecord
    from whalebench.benchmarks.tuning.study import Kept
    from whalebench.benchmarks.tuning.worker import Plan


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
    from optuna.trial import TrialState

    complete = [trial for trial in found.ended if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = [trial.user_attrs[REASON] for trial in found.ended if REASON in trial.user_attrs]
        raise RunFailedError(
            f"none of {len(found.ended)} trials came to an end: {(reasons or ['all pruned'])[0]}"
        )
    return max(complete, key=lambda trial: (trial.values[0], -trial.number))


def tuned_facts(found: Tally, plan: Plan, kept: Kept) -> dict[str, Any]:
    """What a record says of how its settings were tuned: what was to be spent, what was, and on what."""
    from optuna.trial import TrialState

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
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = [trial for trial in found.ended if trial.state == TrialState.COMPLETE]
    if len(complete) < ENOUGH or len({trial.values[0] for trial in complete}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")  # in memory: of these trials alone
    study.add_trials(complete)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=TREES, seed=seed)
    shares = get_param_importances(study, evaluator=evaluator, params=None, target=None, normalize=True)
    return {name: round(share, 4) for name, share in shares.items() if isfinite(share)}


STUDIES = "tuning"
"""The folder in the workspace's cache with a file for each study."""


@dataclass(frozen=True)
class TuneRequest:
    """What is asked for; the study's name tells what determines the trials."""

    run: runner.RunRequest
    """The method before tuning; its settings are fixed."""
    budget: Budget
    storage: str | None = None
    """A database's URL, or journal:FILE; a file in the workspace unless given."""
    study: str | None = None
    """Its name; made of the request unless given."""
    jobs: int = 1
    """Workers on this machine."""

    def words(self, study: str, storage: str, workspace: Workspace) -> list[str]:
        """The command line of one of several workers on the study."""
        run, budget = self.run, self.budget
        words = ["tune", run.method, "--benchmark", run.benchmark, "--fold", str(run.fold)]
        words += ["--seed", str(run.seed), *(f"--set={setting}" for setting in run.settings)]
        words += [] if budget.trials is None else ["--trials", str(budget.trials)]
        words += [] if budget.seconds is None else ["--budget", f"{budget.seconds!r}s"]
        words += [] if budget.photos is None else ["--budget", str(budget.photos)]
        words += ["--storage", storage, "--study", study, "--device", run.device]
        return [*words, "--workspace", str(workspace.root)]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what there is to say of the trials so far."""


def tune(request: TuneRequest, workspace: Workspace, progress: Progress = SILENT) -> Tuned:
    """The tuned method beside its defaults, each scored on test once; a study that was stopped goes on.

    Raises WhalebenchError for a request that cannot be met, RunFailedError where no trial came to an end, and
    Interrupted after Ctrl-C.
    """
    plan, kept, where = _prepare(request, workspace, progress)
    try:
        if request.jobs == 1:
            work(plan, kept, progress)
        else:
            _together(request, plan, kept, where, workspace, progress)
        return _finish(request, plan, kept, workspace, progress)
    except KeyboardInterrupt as error:
        done = len(tally(kept.study.get_trials(deepcopy=False)).ended)
        raise Interrupted(
            f"{done} trial{'s' if done != 1 else ''} of {plan.budget.words()} are in study "
            f"{kept.study.study_name}. The same command goes on from here."
        ) from error


def join(request: TuneRequest, number: int, workspace: Workspace, progress: Progress = SILENT) -> None:
    """Nothing; this process was one of several workers on the study until its budget was spent."""
    from whalebench.benchmarks.sweeping.workers import is_orphan

    plan, kept, _ = _prepare(request, workspace, progress)
    work(plan, kept, progress, worker=number, stopped=is_orphan)


def _prepare(request: TuneRequest, workspace: Workspace, progress: Progress) -> tuple[Plan, Kept, str]:
    """What the workers do, the study, and its storage as it is opened; everything is checked."""
    run = request.run
    kind = find_method(run.method)
    config, space = configure(kind, run.settings), search_space(kind, run.settings)
    runner.check_seed(run.seed)
    if request.jobs < 1:
        raise WhalebenchError(f"--jobs {request.jobs} cannot be: at least one process has to work.")
    benchmark = load_benchmark(run.benchmark, workspace, progress, propose=True)
    benchmark.split.parts(run.fold)
    ground = Ground(benchmark, run.fold, run.seed, choose_device(run.device))
    Attempt(kind, config, ground, Watch(progress, Unmoved()))  # refuses a method that does not fit
    facts = {
        "version": __version__,
        "method": run.method,
        "settings": config.model_dump(mode="json"),
        "track": config.track(),
        "benchmark": run.benchmark,
        "catalog": benchmark.catalog.digest,
        "split": benchmark.split.digest,
        "fold": run.fold,
        "seed": run.seed,
        "device": ground.device.type,
        "space": space.words(),
    }
    mark = digest_text(json.dumps(facts, sort_keys=True))[:8]
    name = request.study or f"{run.method}-{run.benchmark}-fold{run.fold}-seed{run.seed}-{mark}"
    if "/" in name or name.startswith("."):
        raise WhalebenchError(f"--study {name} cannot be a file's name: leave out slashes and a leading dot.")
    where = request.storage or f"{SQLITE}{workspace.cache / STUDIES / f'{name}.db'}"
    kept = open_study(where, name, facts, build_pruner(getattr(config, "epochs", 0)))
    return Plan(kind, run.settings, space, request.budget, ground), kept, where


class Unmoved:
    """Is told scores and does nothing."""

    def score(self, step: int, map_at_5: float) -> None:
        """Nothing."""


def _together(
    request: TuneRequest, plan: Plan, kept: Kept, where: str, workspace: Workspace, progress: Progress
) -> None:
    from whalebench.benchmarks.sweeping.workers import shares, work_together

    with kept.turn():
        begin_with_the_defaults(kept, plan.space)
    words = request.words(kept.study.study_name, where, workspace)
    progress.stage(f"Trials by {request.jobs} workers")
    work_together(
        words, shares(request.jobs, plan.ground.device, request.run.device), _shown(plan, kept, progress)
    )


def _shown(plan: Plan, kept: Kept, progress: Progress) -> Callable[[], None]:
    """Shows how far the study is, when it is called."""

    def look() -> None:
        spent = tally(kept.study.get_trials(deepcopy=False)).spent
        if plan.budget.trials is not None:
            progress.advance(spent.trials, plan.budget.trials)
        else:
            progress.advance(round(100 * plan.budget.share(spent)), 100)

    return look


def _finish(request: TuneRequest, plan: Plan, kept: Kept, workspace: Workspace, progress: Progress) -> Tuned:
    """The runs of the best trial and of the defaults, and everything there is to say of the study."""
    found = within(tally(kept.study.get_trials(deepcopy=False)), plan.budget)
    best = best_trial(found)
    facts = tuned_facts(found, plan, kept)
    wish = replace(request.run, settings=(*request.run.settings, *best.user_attrs[SETTINGS]), tuning=facts)
    tuned = runner.run(wish, workspace, progress)
    default: RunRecord | str
    try:
        default = runner.run(request.run, workspace, progress)
    except RunFailedError as error:  # no reason to lose what tuning came to
        default = str(error)
    picture = workspace.reports / f"{STUDIES}-{kept.study.study_name}.svg"
    return Tuned(plan, kept, found, default, tuned, facts, picture)
