"""Tuning from end to end: trials judged by valid, then the best and the defaults scored on test once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from whalebench import RunFailedError, WhalebenchError, __version__
from whalebench.benchmarks import runner
from whalebench.benchmarks.machine import choose_device
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.tuning.budget import Budget
from whalebench.benchmarks.tuning.drawing import build_pruner
from whalebench.benchmarks.tuning.evaluate import Attempt, Ground, Watch
from whalebench.benchmarks.tuning.plan import Plan
from whalebench.benchmarks.tuning.result import Tuned, best_trial, tuned_facts
from whalebench.benchmarks.tuning.space import search_space
from whalebench.benchmarks.tuning.storage import SQLITE, Kept, open_study
from whalebench.benchmarks.tuning.tally import SETTINGS, begin_with_the_defaults, tally, within
from whalebench.benchmarks.tuning.worker import work
from whalebench.benchmarks.workspace import Workspace, digest_text
from whalebench.methods.registry import configure, find_method

if TYPE_CHECKING:
    from whalebench.benchmarks.judging.selection import Judge
    from whalebench.benchmarks.record import RunRecord

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


def tune(request: TuneRequest, workspace: Workspace, judge: Judge, progress: Progress = SILENT) -> Tuned:
    """The tuned method beside its defaults, each scored on test once; a study that was stopped goes on.

    Raises WhalebenchError for a request that cannot be met, RunFailedError where no trial came to an end, and
    Interrupted after Ctrl-C.
    """
    plan, kept, where = _prepare(request, workspace, judge, progress)
    try:
        if request.jobs == 1:
            work(plan, kept, progress)
        else:
            _together(request, plan, kept, where, workspace, progress)
        return _finish(request, plan, kept, workspace, judge, progress)
    except KeyboardInterrupt as error:
        done = len(tally(kept.study.get_trials(deepcopy=False)).ended)
        raise Interrupted(
            f"{done} trial{'s' if done != 1 else ''} of {plan.budget.words()} are in study "
            f"{kept.study.study_name}. The same command goes on from here."
        ) from error


def join(
    request: TuneRequest, number: int, workspace: Workspace, judge: Judge, progress: Progress = SILENT
) -> None:
    """Nothing; this process was one of several workers on the study until its budget was spent."""
    from whalebench.benchmarks.tuning.processes import is_orphan  # noqa: PLC0415

    plan, kept, _ = _prepare(request, workspace, judge, progress)
    work(plan, kept, progress, worker=number, stopped=is_orphan)


def _prepare(
    request: TuneRequest, workspace: Workspace, judge: Judge, progress: Progress
) -> tuple[Plan, Kept, str]:
    """What the workers do, the study, and its storage as it is opened; everything is checked."""
    run = request.run
    kind = find_method(run.method)
    config, space = configure(kind, run.settings), search_space(kind, run.settings)
    runner.check_seed(run.seed)
    if request.jobs < 1:
        raise WhalebenchError(f"--jobs {request.jobs} cannot be: at least one process has to work.")
    benchmark = load_benchmark(run.benchmark, workspace, progress, propose=True)
    benchmark.split.parts(run.fold)
    ground = Ground(benchmark, run.fold, run.seed, choose_device(run.device), judge)
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
    from whalebench.benchmarks.sweeping.shares import shares  # noqa: PLC0415
    from whalebench.benchmarks.tuning.processes import work_together  # noqa: PLC0415

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


def _finish(
    request: TuneRequest, plan: Plan, kept: Kept, workspace: Workspace, judge: Judge, progress: Progress
) -> Tuned:
    """The runs of the best trial and of the defaults, and everything there is to say of the study."""
    found = within(tally(kept.study.get_trials(deepcopy=False)), plan.budget)
    best = best_trial(found)
    facts = tuned_facts(found, plan, kept)
    wish = replace(request.run, settings=(*request.run.settings, *best.user_attrs[SETTINGS]), tuning=facts)
    tuned = runner.run(wish, workspace, judge, progress)
    default: RunRecord | str
    try:
        default = runner.run(request.run, workspace, judge, progress)
    except RunFailedError as error:  # no reason to lose what tuning came to
        default = str(error)
    picture = workspace.reports / f"{STUDIES}-{kept.study.study_name}.svg"
    return Tuned(plan, kept, found, default, tuned, facts, picture)
