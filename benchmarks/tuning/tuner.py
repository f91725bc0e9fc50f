"""Tuning from end to end: trials judged by valid, then the best and the defaults scored on test once.

Each worker of a study takes trials, learned on train and scored on valid, until the budget is spent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whalebench import CONTROLS, RunFailedError, WhalebenchError, __version__, one_line
from whalebench.benchmarks.core.copies import copy_of
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.core.machine import STORAGE, choose_device, cores
from whalebench.benchmarks.core.progress import SILENT, EpochSummary, Progress
from whalebench.benchmarks.core.record import RunRecord, read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.launching.launcher import Job, Launcher, RemoteLauncher
from whalebench.benchmarks.registry import Benchmark, load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.folds import fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.outcome import score_photos
from whalebench.benchmarks.tuning import study
from whalebench.benchmarks.tuning.space import (
    Budget,
    Space,
    build_pruner,
    build_sampler,
    refuse_test_photos,
    search_space,
)
from whalebench.benchmarks.tuning.storage import SQLITE
from whalebench.benchmarks.tuning.study import StudyHandle, TrialSummary
from whalebench.methods.guests import blamed, named
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.networks.weights import weight_files
from whalebench.methods.registry import configure, find_method

if TYPE_CHECKING:
    import torch
    from optuna import Trial
    from optuna.trial import TrialState

    from whalebench.methods.method import Method, MethodConfig

STUDIES = "tuning"
"""The folder in the workspace's cache with a file for each study."""
LETTERS = 200
"""The most letters of a study's name, which is that of a file."""
BAD_INPUT = 2
"""The exit code of a worker that was asked for something that cannot be."""
LOOK = 0.5
"""Seconds from one look at the trials of the workers to the next."""
POLL = 1.0
"""Seconds from one look for work to the next, while others do the last trials."""


@dataclass(frozen=True)
class TuneRequest:
    """What is asked for; the study's name tells what determines the trials."""

    run: runner.RunRequest
    """The method before tuning; its settings are fixed."""
    budget: Budget
    storage: str | None = field(default=None, repr=False)
    """A database's URL, or journal:FILE; a file in the workspace unless given. It may hold a password."""
    study: str | None = None
    """Its name; made of the request unless given."""

    def options(self, study: str) -> tuple[str, ...]:
        """What a worker is told beside the run; not the storage, as everybody sees arguments."""
        budget, options = self.budget, ["--study", study]
        options += [] if budget.trials is None else ["--trials", str(budget.trials)]
        options += [] if budget.seconds is None else ["--budget", f"{budget.seconds!r}s"]
        options += [] if budget.photos is None else ["--budget", str(budget.photos)]
        return tuple(options)


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C, with what there is to say of the trials so far."""


class Tuner:
    """Looks for better settings of a method, in a study that it opens or makes.

    Raises WhalebenchError for a request that cannot be met.
    """

    def __init__(
        self,
        request: TuneRequest,
        workspace: Workspace,
        progress: Progress = SILENT,
        launcher: Launcher | None = None,
    ) -> None:
        """The launcher starts the workers, if the trials are not to be done by this process."""
        run = request.run
        method = find_method(run.method)
        config, space = configure(method, run.settings), search_space(method, run.settings)
        runner.check_seed(run.seed)
        benchmark = load_benchmark(run.benchmark, workspace, progress, propose=True)
        benchmark.split.parts(run.fold)
        self._is_remote = isinstance(launcher, RemoteLauncher)
        device = choose_device("auto" if self._is_remote else run.device)
        self._device_type = launcher.device_type if launcher else device.type
        self.context = TrialContext(
            method, run.settings, space, request.budget, benchmark, run.fold, run.seed, device
        )
        TrialRun(self.context, config, progress)  # refuses a method that does not fit
        facts = self._study_facts(run, config)
        digest = digest_text(json.dumps(facts, sort_keys=True))[:8]
        name = request.study or f"{run.method}-{run.benchmark}-fold{run.fold}-seed{run.seed}-{digest}"
        if "/" in name or name.startswith(".") or len(name) > LETTERS or CONTROLS.search(name):
            raise WhalebenchError(
                f"--study {one_line(name, 60)} cannot be a file's name: leave out slashes, controls "
                f"and a leading dot, and use {LETTERS} letters at most."
            )
        if not request.storage and copy_of(workspace.root):
            progress.stage("study of one machine")
        url = request.storage or f"{SQLITE}{workspace.cache / STUDIES / f'{name}.db'}"
        pruner = build_pruner(getattr(config, "epochs", 0))
        self.handle = study.open_study(url, name, facts, pruner, progress)
        if self._is_remote and self.handle.lock:
            raise WhalebenchError(
                f"study {name} is in a file for one machine ({self.handle.shown_url}): give --storage the "
                f"URL of a database that the nodes reach, or journal:FILE on a disk that they share."
            )
        self._request, self._workspace, self._progress = request, workspace, progress
        self._launcher = launcher

    def work(self, number: int) -> None:
        """Works as one of several workers on the study until its budget is spent."""
        with self.handle.answering():
            run_trials(self.context, self.handle, self._progress, worker=number)

    def tune(self) -> Tuned:
        """The tuned method beside its defaults, each scored on test once; a study that was stopped goes on.

        Raises RunFailedError where no trial came to an end, and TuningInterrupted after Ctrl-C.
        """
        try:
            with self.handle.answering():
                if self._launcher is None:
                    run_trials(self.context, self.handle, self._progress)
                else:
                    self._run_workers(self._launcher)
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
            "code": runner.code_of(self.context.method, config).digest,
            "method": run.method,
            "settings": config.model_dump(mode="json"),
            "weights": weight_files(config),
            "benchmark": run.benchmark,
            "catalog": benchmark.catalog.digest,
            "split": benchmark.split.digest,
            "fold": run.fold,
            "seed": run.seed,
            "device": self._device_type,
            "space": self.context.space.words(),
        }

    def _run_workers(self, launcher: Launcher) -> None:
        """Lets as many workers as the launcher has room for do the study until its budget is spent.

        The others do what is left of one that is killed. Raises WhalebenchError or RunFailedError with the
        reason where all have failed, and KeyboardInterrupt, when all have ended, after Ctrl-C.
        """
        handle, budget = self.handle, self.context.budget
        with handle.exclusive():
            handle.enqueue_defaults(self.context.space)
        self._progress.stage(f"Trials by {launcher.jobs} workers")
        with launcher:
            started = [launcher.launch(self._job("--worker", str(each))) for each in range(launcher.jobs)]
            while launcher.running() and not launcher.interrupts:
                spent = handle.summary().spent
                if budget.trials is not None:
                    self._progress.advance(spent.trials, budget.trials)
                else:
                    self._progress.advance(round(100 * budget.share(spent)), 100)
                time.sleep(LOOK)
        if launcher.interrupts:
            raise KeyboardInterrupt
        codes = [task.exit_code() for task in started]
        if all(codes):
            raise (WhalebenchError if BAD_INPUT in codes else RunFailedError)(started[0].reason())

    def _job(self, *options: str, runs: tuple[str, ...] = ()) -> Job:
        """The command of a worker on the study, whose storage it is told by its environment."""
        options = (*self._request.options(self.handle.study.study_name), *options)
        secrets = {STORAGE: self.handle.url}
        return Job("tune", self._request.run, self._workspace, options, runs, secrets)

    def _finish(self) -> Tuned:
        """The runs of the best trial and of the defaults, and everything there is to say of the study."""
        request, trials = self._request.run, self.handle.summary().within(self.context.budget)
        facts = tuning_facts(trials, self.context, self.handle)
        settings = (*request.settings, *trials.best().user_attrs[study.SETTINGS])
        best = replace(request, settings=settings, tuning=facts)
        if self._launcher and self._is_remote:
            tuned, default = self._finish_there(self._launcher, best)
        else:
            tuned, default = self._run_here(best)
        picture = self._workspace.reports / f"{STUDIES}-{self.handle.study.study_name}.svg"
        return Tuned(self.context, self.handle, trials, default, tuned, facts, picture)

    def _run_here(self, best: runner.RunRequest) -> tuple[RunRecord, RunRecord | str]:
        """The records of the best trial and of the defaults, or why the latter has none."""
        tuned = runner.run(best, self._workspace, self._progress)
        try:
            return tuned, runner.run(self._request.run, self._workspace, self._progress)
        except RunFailedError as error:  # no reason to lose what tuning came to
            return tuned, str(error)

    def _finish_there(self, launcher: Launcher, best: runner.RunRequest) -> tuple[RunRecord, RunRecord | str]:
        """The same, made by one more worker, as only nodes may have the device of the trials."""
        names = tuple(self._name(each) for each in (best, self._request.run))
        tuned, default = (self._workspace.runs / name for name in names)
        self._progress.stage("run the best")
        with launcher:
            task = launcher.launch(self._job("--json", runs=names))
            while task.is_running() and not launcher.interrupts:
                time.sleep(LOOK)
        if launcher.interrupts:
            raise KeyboardInterrupt
        if not tuned.exists():
            raise RunFailedError(task.reason())
        return read_record(tuned), read_record(default) if default.exists() else "it failed on its node"

    def _name(self, request: runner.RunRequest) -> str:
        context, config = self.context, configure(self.context.method, request.settings)
        code = runner.code_of(context.method, config).digest
        return runner.run_name(request, config, context.benchmark, self._device_type, code)


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
            "best": self.trials.ended.index(self.trials.best()),
            "trials": self.trials.rows(),
            "importance": self.trials.importance(self.context.seed),
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
        "settings": list(best.user_attrs[study.SETTINGS]),
        "valid_map_at_5": best.values[0],
    }


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a study have in common."""

    method: type[Method]
    settings: tuple[str, ...]
    """Fields that are not tuned, as key=value."""
    space: Space
    budget: Budget
    benchmark: Benchmark
    fold: int
    seed: int
    device: torch.device


def run_trials(
    context: TrialContext,
    handle: StudyHandle,
    progress: Progress,
    *,
    worker: int = 0,
) -> TrialSummary:
    """Runs trials until the budget is spent and no other worker is at one, and says what became of them.

    Trials whose worker was killed are done again. Raises WhalebenchError where the method cannot be run at
    all: for what keeps the defaults from being tried.
    """
    announced: set[int] = set()
    while True:
        trial = None
        with handle.exclusive():
            handle.requeue_stale()
            handle.enqueue_defaults(context.space)
            trials = handle.summary()
            is_over = context.budget.is_spent(trials.spent)
            if is_over and not trials.running:
                return trials
            if not is_over and not _is_allotted(context.budget, trials):
                trial = _begin(context, handle, len(trials.ended) + len(trials.running), worker)
        if trial is not None:
            TrialRunner(context, handle, trial).run(progress)
            continue
        awaited = {each.number for each in trials.running}
        if awaited - announced:
            progress.stage(f"Waiting for trial {', '.join(map(str, sorted(awaited)))} of other workers")
        announced = awaited
        time.sleep(POLL)


def _is_allotted(budget: Budget, trials: TrialSummary, surplus: int = 0) -> bool:
    """Whether enough trials have ended or are under way."""
    begun = len(trials.ended) + len(trials.running) - surplus
    return budget.trials is not None and begun >= budget.trials


def _begin(context: TrialContext, handle: StudyHandle, before: int, worker: int) -> Trial | None:
    """A trial with its values; None where another worker was quicker, who may be on another machine."""
    handle.study.sampler = build_sampler(context.seed, before, worker)
    trial = handle.study.ask(fixed_distributions=context.space.distributions)
    trial.set_user_attr(study.LEASE, study.new_lease())
    if not _is_allotted(context.budget, handle.summary(), surplus=1):
        return trial
    handle.abandon(trial, "there was no need of it", requeue_drawn=False)
    time.sleep(np.random.default_rng().uniform(0, POLL))  # else the same two would meet again and again
    return None


class TrialRunner:
    """Runs a trial that this worker has taken, and tells the study how it ended."""

    def __init__(self, context: TrialContext, handle: StudyHandle, trial: Trial) -> None:
        self._context, self._handle, self._trial = context, handle, trial
        self._settings = context.space.settings(trial.params)
        self._attributes: dict[str, Any] = {study.SETTINGS: list(self._settings), study.PHOTOS: 0}

    def run(self, progress: Progress) -> None:
        """Runs the trial until it is scored, pruned, or failed for a reason that the study keeps.

        What keeps the defaults from being tried at all is raised, but not that they did not learn. Nothing is
        said of a trial that was given to another meanwhile, because this machine was silent for long.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        started = time.perf_counter()
        try:
            with study.heartbeat(lambda lease: self._trial.set_user_attr(study.LEASE, lease)):
                value, state = self._outcome(progress)
            self._attributes[study.SECONDS] = round(time.perf_counter() - started, 2)
            for name, attribute in self._attributes.items():
                self._trial.set_user_attr(name, attribute)
            self._handle.sign(self._trial, value, state)
            self._handle.study.tell(self._trial, value, state)
        except UpdateFinishedTrialError:
            return
        except BaseException as error:  # Ctrl-C, too
            self._handle.abandon(self._trial, str(error) or "it was interrupted")
            raise

    def _outcome(self, progress: Progress) -> tuple[float | None, TrialState]:
        """MAP@5 on valid if it came to that, and how the trial ended."""
        from optuna import TrialPruned
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self._score(progress), TrialState.COMPLETE
        except TrialPruned:
            return None, TrialState.PRUNED
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            if not self._settings and not isinstance(error, RunFailedError):
                with blamed(self._context.method.name):
                    raise
            is_said = isinstance(error, WhalebenchError)
            self._attributes[study.REASON] = one_line(error, 300) if is_said else named(error)
            return None, TrialState.FAIL

    def _score(self, progress: Progress) -> float:
        """MAP@5 on valid of the trial's configuration."""
        context = self._context
        progress.stage(f"Trial {self._trial.number}: {' '.join(self._settings) or 'the defaults'}")
        config = configure(context.method, (*context.settings, *self._settings))
        run = TrialRun(context, config, TrialProgress(progress, self._report))
        try:
            return run.valid_map_at_5()
        finally:
            self._attributes[study.PHOTOS] = run.photos()

    def _report(self, step: int, map_at_5: float) -> None:
        """Tells the study; raises TrialPruned where MAP@5 on valid is too little after so many epochs."""
        from optuna import TrialPruned

        self._trial.report(map_at_5, step)
        if self._settings and self._trial.should_prune():  # the defaults are to be known in any case
            raise TrialPruned


class TrialRun:
    """One configuration that learns on train and is scored on valid, as test would be."""

    def __init__(self, context: TrialContext, config: MethodConfig, progress: Progress) -> None:
        """Raises WhalebenchError where the method does not fit, or there is nothing to choose by."""
        refuse_test_photos(config)
        self.benchmark, self.progress = context.benchmark, progress
        self.method = build_method(context.method, config)
        oracle, viewpoints = config.sees_annotations(), config.sees_viewpoints()
        views = fold_views(self.benchmark, context.fold, oracle=oracle, viewpoints=viewpoints)
        # No photo of test is in them.
        self.views = replace(views, test=views.test.select([]))
        name = self.benchmark.name
        if missing := self.method.missing_requirement(self.views.train, self.views.valid):
            raise WhalebenchError(f"{context.method.name} does not fit: {name} has no {missing}.")
        if not len(self.views.valid):
            raise WhalebenchError(
                f"fold {context.fold} of {name} has no valid photos: there is nothing to tune by."
            )
        self.harness = RunHarness(context.seed, context.device, self.views, progress, config)

    def valid_map_at_5(self) -> float:
        """MAP@5 on valid after learning, with the best threshold of *new* there."""
        self.harness.stage("decode")
        for size in self.method.sizes():
            self.benchmark.store.pixels(size, self.progress.advance, cores())
        self.harness.seed_everything()
        self.harness.stage("learn")
        self.method.learn(self.views.train, self.views.valid, self.harness)
        return self.harness.valid_map_at_5(score_photos(self.method, self.views.queries()["valid"]))

    def photos(self) -> int:
        """Photos learned from so far."""
        return int(self.harness.curve()["photos"].sum())


class TrialProgress:
    """Passes progress on, and reports MAP@5 on valid of each epoch to a function that may end the trial."""

    def __init__(self, progress: Progress, report: Callable[[int, float], None]) -> None:
        self.stage, self.advance = progress.stage, progress.advance
        self._progress, self._report = progress, report
        self._before = self._last = 0

    def epoch(self, summary: EpochSummary) -> None:
        """Shows the epoch, and reports it where it was validated, which those of a finder are not.

        Epochs are counted on where a method trains twice, so that steps rise.
        """
        self._progress.epoch(summary)
        if isnan(summary.valid_map_at_5):
            return
        if self._before + summary.number <= self._last:
            self._before = self._last
        self._last = self._before + summary.number
        self._report(self._last, summary.valid_map_at_5)
