"""Tuning from end to end: trials judged by valid, then the best and the defaults scored on test once."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import RunFailedError, WhalebenchError, __version__
from whalebench.benchmarks.core.machine import choose_device
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.workspace import Workspace, digest_text
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.workers import (
    WorkerPool,
    check_jobs,
    command_arguments,
    is_orphan,
    share_machine,
)
from whalebench.benchmarks.tuning.space import Budget, build_pruner, search_space
from whalebench.benchmarks.tuning.study import (
    PHOTOS,
    REASON,
    SECONDS,
    SETTINGS,
    SQLITE,
    StudyHandle,
    TrialSummary,
    open_study,
)
from whalebench.benchmarks.tuning.worker import TrialContext, TrialRun, run_trials
from whalebench.methods.registry import configure, find_method

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from whalebench.methods.method import MethodConfig

STUDIES = "tuning"
"""The folder in the workspace's cache with a file for each study."""
BAD_INPUT = 2
"""The exit code of a worker that was asked for something that cannot be."""
LOOK = 0.5
"""Seconds from one look at the trials of the workers to the next."""
TREES = 64
"""Of the forest that the importance is read from, each of as many levels at most."""
ENOUGH = 4
"""Complete trials, before which nothing is said of what mattered."""


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

    def arguments(self, study: str, storage: str, workspace: Workspace) -> list[str]:
        """The arguments of the command line of one of several workers on the study."""
        budget = self.budget
        arguments = command_arguments("tune", self.run, workspace)
        arguments += [] if budget.trials is None else ["--trials", str(budget.trials)]
        arguments += [] if budget.seconds is None else ["--budget", f"{budget.seconds!r}s"]
        arguments += [] if budget.photos is None else ["--budget", str(budget.photos)]
        return [*arguments, "--storage", storage, "--study", study]


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C, with what there is to say of the trials so far."""


class Tuner:
    """Looks for better settings of a method, in a study that it opens or makes.

    Raises WhalebenchError for a request that cannot be met.
    """

    def __init__(self, request: TuneRequest, workspace: Workspace, progress: Progress = SILENT) -> None:
        run = request.run
        method = find_method(run.method)
        config, space = configure(method, run.settings), search_space(method, run.settings)
        runner.check_seed(run.seed)
        check_jobs(request.jobs)
        benchmark = load_benchmark(run.benchmark, workspace, progress, propose=True)
        benchmark.split.parts(run.fold)
        device = choose_device(run.device)
        self.context = TrialContext(
            method, run.settings, space, request.budget, benchmark, run.fold, run.seed, device
        )
        TrialRun(self.context, config, progress)  # refuses a method that does not fit
        facts = self._study_facts(run, config)
        digest = digest_text(json.dumps(facts, sort_keys=True))[:8]
        name = request.study or f"{run.method}-{run.benchmark}-fold{run.fold}-seed{run.seed}-{digest}"
        if "/" in name or name.startswith("."):
            raise WhalebenchError(
                f"--study {name} cannot be a file's name: leave out slashes and a leading dot."
            )
        url = request.storage or f"{SQLITE}{workspace.cache / STUDIES / f'{name}.db'}"
        self.handle = open_study(url, name, facts, build_pruner(getattr(config, "epochs", 0)))
        self._request, self._workspace, self._progress = request, workspace, progress

    def work(self, number: int) -> None:
        """Works as one of several workers on the study until its budget is spent."""
        run_trials(self.context, self.handle, self._progress, worker=number, stopped=is_orphan)

    def tune(self) -> Tuned:
        """The tuned method beside its defaults, each scored on test once; a study that was stopped goes on.

        Raises RunFailedError where no trial came to an end, and TuningInterrupted after Ctrl-C.
        """
        try:
            if self._request.jobs == 1:
                run_trials(self.context, self.handle, self._progress)
            else:
                self._run_workers()
            return self._finish()
        except KeyboardInterrupt as error:
            ended = len(self.handle.summary().ended)
            raise TuningInterrupted(
                f"{ended} trial{'s' if ended != 1 else ''} of {self.context.budget.words()} are in study "
                f"{self.handle.study.study_name}. The same command goes on from here."
            ) from error

    def _study_facts(self, run: runner.RunRequest, config: MethodConfig) -> dict[str, Any]:
        """What determines the trials, and so the study's name unless another is given."""
        benchmark = self.context.benchmark
        return {
            "version": __version__,
            "method": run.method,
            "settings": config.model_dump(mode="json"),
            "track": config.track(),
            "benchmark": run.benchmark,
            "catalog": benchmark.catalog.digest,
            "split": benchmark.split.digest,
            "fold": run.fold,
            "seed": run.seed,
            "device": self.context.device.type,
            "space": self.context.space.words(),
        }

    def _run_workers(self) -> None:
        """Lets a process on each share of the machine work on the study until its budget is spent.

        The others do what is left of one that is killed. Raises WhalebenchError or RunFailedError with the
        reason where all have failed, and KeyboardInterrupt, when all have ended, after Ctrl-C.
        """
        request, handle = self._request, self.handle
        with handle.exclusive():
            handle.enqueue_defaults(self.context.space)
        self._progress.stage(f"Trials by {request.jobs} workers")
        arguments = request.arguments(handle.study.study_name, handle.url, self._workspace)
        with WorkerPool(share_machine(request.jobs, self.context.device, request.run.device)) as pool:
            workers = [pool.start([*arguments, "--worker", str(number)]) for number in range(request.jobs)]
            while pool.running() and not pool.interrupts:
                self._show_spent()
                time.sleep(LOOK)
        if pool.interrupts:
            raise KeyboardInterrupt
        codes = [worker.exit_code() for worker in workers]
        if all(codes):
            raise (WhalebenchError if BAD_INPUT in codes else RunFailedError)(workers[0].reason())

    def _show_spent(self) -> None:
        budget, spent = self.context.budget, self.handle.summary().spent
        if budget.trials is not None:
            self._progress.advance(spent.trials, budget.trials)
        else:
            self._progress.advance(round(100 * budget.share(spent)), 100)

    def _finish(self) -> Tuned:
        """The runs of the best trial and of the defaults, and everything there is to say of the study."""
        request, trials = self._request.run, self.handle.summary().within(self.context.budget)
        facts = tuning_facts(trials, self.context, self.handle)
        settings = (*request.settings, *trials.best().user_attrs[SETTINGS])
        best = replace(request, settings=settings, tuning=facts)
        tuned = runner.run(best, self._workspace, self._progress)
        default: RunRecord | str
        try:
            default = runner.run(request, self._workspace, self._progress)
        except RunFailedError as error:  # no reason to lose what tuning came to
            default = str(error)
        picture = self._workspace.reports / f"{STUDIES}-{self.handle.study.study_name}.svg"
        return Tuned(self.context, self.handle, trials, default, tuned, facts, picture)


@dataclass(frozen=True)
class Tuned:
    """A tuned method beside its defaults."""

    context: TrialContext
    handle: StudyHandle
    trials: TrialSummary
    default: RunRecord | str
    """Of the method before tuning, or why it has none."""
    tuned: RunRecord
    facts: dict[str, Any]
    """What the record of the tuned run says of the tuning."""
    picture: Path
    """Where history and importance are to be drawn."""

    def document(self) -> dict[str, Any]:
        """Everything but what takes the predictions to say, as JSON can hold it."""
        return {
            **self.facts,
            "storage": self.handle.shown_url,
            "method": self.context.method.name,
            "benchmark": self.tuned.benchmark,
            "fold": self.tuned.fold,
            "seed": self.tuned.seed,
            "fixed": list(self.context.settings),
            "best": self.trials.best().number,
            "trials": [trial_row(trial) for trial in self.trials.ended],
            "importance": importance(self.trials, self.context.seed),
            "runs": {
                "default": None if isinstance(self.default, str) else self.default.run,
                "tuned": self.tuned.run,
            },
            "default_failed": self.default if isinstance(self.default, str) else "",
            "picture": str(self.picture),
        }


def tuning_facts(trials: TrialSummary, context: TrialContext, handle: StudyHandle) -> dict[str, Any]:
    """What a record says of how its settings were tuned: what was to be spent, what was, and on what."""
    states = [trial.state.name for trial in trials.ended]
    best, spent = trials.best(), trials.spent
    return {
        "study": handle.study.study_name,
        "budget": context.budget.words(),
        "spent": {
            "trials": spent.trials,
            "pruned": states.count("PRUNED"),
            "failed": states.count("FAIL"),
            "seconds": round(spent.seconds, 1),
            "photos": spent.photos,
        },
        "space": context.space.words(),
        "settings": list(best.user_attrs[SETTINGS]),
        "valid_map_at_5": best.values[0],
    }


def trial_row(trial: FrozenTrial) -> dict[str, Any]:
    """One trial in plain values; a pruned one scored what it did after its last epoch."""
    attributes = trial.user_attrs
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "valid_map_at_5": trial.values[0] if trial.values else None,
        "epochs": max(trial.intermediate_values, default=None),
        "parameters": dict(trial.params),
        "settings": list(attributes.get(SETTINGS, ())),
        "seconds": attributes.get(SECONDS),
        "photos": attributes.get(PHOTOS),
        "reason": attributes.get(REASON, ""),
    }


def importance(trials: TrialSummary, seed: int) -> dict[str, float]:
    """Each field's share of how much valid MAP@5 varied, by fANOVA (Hutter et al. 2014), the largest first.

    Empty with few complete trials, or where they all scored the same.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = trials.complete()
    if len(complete) < ENOUGH or len({trial.values[0] for trial in complete}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")  # in memory: of these trials alone
    study.add_trials(complete)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=TREES, seed=seed)
    shares = get_param_importances(study, evaluator=evaluator, params=None, target=None, normalize=True)
    return {name: round(share, 4) for name, share in shares.items() if isfinite(share)}
