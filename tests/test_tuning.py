"""Studies: the same trials every time, by valid alone, nothing lost and nothing counted twice."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy.engine import make_url

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.code import Code
from whalebench.benchmarks.core.machine import STORAGE, choose_device
from whalebench.benchmarks.core.progress import SILENT, EpochSummary, Silent
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.launching.launcher import Job
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner, workers
from whalebench.benchmarks.running.folds import fold_views
from whalebench.benchmarks.running.workers import local_launcher
from whalebench.benchmarks.tuning import space, tuner
from whalebench.benchmarks.tuning.space import Budget, build_pruner, search_space
from whalebench.benchmarks.tuning.study import LEASE, LOST, StudyHandle, TrialSummary, new_lease, open_study
from whalebench.benchmarks.tuning.tuner import TrialContext, TrialProgress, TrialRun, run_trials
from whalebench.methods.registry import configure, find_method
from whalebench.reports import many_runs

STORAGES = ("sqlite:///{}/study.db", "journal:{}/study.log")


@pytest.fixture
def context(shared_tiny: Workspace, tiny_settings: tuple[str, ...]) -> TrialContext:
    settings, method = (*tiny_settings, "epochs=1"), find_method("softmax")
    benchmark = load_benchmark("tiny", shared_tiny)
    fields = search_space(method, settings)
    return TrialContext(method, settings, fields, Budget(trials=4), benchmark, 0, 0, choose_device("cpu"))


def study_in(folder: Path, where: str = STORAGES[1], epochs: int = 1) -> StudyHandle:
    return open_study(where.format(folder), "study", {"method": "softmax"}, build_pruner(epochs))


class Quick:
    """Stands for the run of a trial: its value is its learning rate, after so many photos."""

    sleeps = 0.0

    def __init__(self, context: TrialContext, config: Any, progress: Any) -> None:
        del context, progress
        self.config = config

    def valid_map_at_5(self) -> float:
        time.sleep(self.sleeps)
        return float(self.config.learning_rate)

    def photos(self) -> int:
        return 100


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> type[Quick]:
    monkeypatch.setattr(tuner, "TrialRun", Quick)
    monkeypatch.setattr(tuner, "POLL", 0.05)
    return Quick


def parameters(handle: StudyHandle) -> list[dict[str, Any]]:
    return [trial.params for trial in handle.summary().ended]


def test_one_worker_tries_the_same_twice_the_defaults_first(
    context: TrialContext, quick: type[Quick], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "RANDOM_TRIALS", 3)
    context = replace(context, budget=Budget(trials=6))
    studies = [study_in(tmp_path / name) for name in ("one", "two")]
    for handle in studies:
        run_trials(context, handle, SILENT)
    first, second = map(parameters, studies)
    assert first == second
    assert first[0] == context.space.start
    assert len({trial["learning_rate"] for trial in first}) == 6
    other = study_in(tmp_path / "three")
    run_trials(replace(context, seed=1), other, SILENT)
    assert parameters(other)[1:] != first[1:]


@pytest.mark.parametrize("where", STORAGES)
def test_a_study_that_was_interrupted_goes_on_as_if_it_had_not_been(
    context: TrialContext, quick: type[Quick], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(space, "RANDOM_TRIALS", 2)
    context = replace(context, budget=Budget(trials=5))
    whole, handle = study_in(tmp_path / "whole"), study_in(tmp_path / "parts", where)
    run_trials(context, whole, SILENT)
    calls = 0

    def stopped_now_and_then(self: Quick) -> float:
        nonlocal calls
        calls += 1
        if calls in (2, 5):
            raise KeyboardInterrupt
        return float(self.config.learning_rate)

    monkeypatch.setattr(Quick, "valid_map_at_5", stopped_now_and_then)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_trials(context, study_in(tmp_path / "parts", where), SILENT)
    run_trials(context, study_in(tmp_path / "parts", where), SILENT)
    assert parameters(handle) == parameters(whole)
    assert len(handle.study.trials) == 7


@pytest.mark.parametrize("where", STORAGES)
def test_a_worker_killed_among_four_loses_no_trial_and_none_counts_twice(
    context: TrialContext, quick: type[Quick], tmp_path: Path, where: str
) -> None:
    context = replace(context, budget=Budget(trials=7))
    handle = study_in(tmp_path, where)
    fork = multiprocessing.get_context("fork")  # workers of their own, without importing torch again

    def start(number: int) -> None:
        Quick.sleeps = 0.0 if number else 600.0  # the first one is at its trial until it is killed
        run_trials(context, study_in(tmp_path, where), SILENT, worker=number)

    workers = [fork.Process(target=start, args=(number,)) for number in range(4)]
    workers[0].start()
    until = time.monotonic() + 60
    drawn = context.space.start.keys()
    while not (trials := [each for each in handle.summary().running if drawn == each.params.keys()]):
        assert time.monotonic() < until
        time.sleep(0.02)
    (victim,) = trials
    for each in workers[1:]:
        each.start()
    workers[0].kill()
    for each in workers:
        each.join(timeout=60)
    assert sorted(each.exitcode for each in workers) == [-signal.SIGKILL, 0, 0, 0]
    found = handle.summary()
    assert len(found.ended) == 7
    assert not found.running
    states = {trial.number: trial.state for trial in handle.study.trials}
    assert states[victim.number] == TrialState.FAIL
    assert [trial.params for trial in found.ended].count(victim.params) == 1
    assert [trial.params for trial in found.ended].count(context.space.start) == 1
    assert [row["number"] for row in found.rows()] == list(range(7))


def test_the_defaults_of_a_lost_trial_are_queued_once(context: TrialContext, tmp_path: Path) -> None:
    """Another worker may begin after the trial was marked as lost, and before its values are queued again."""
    handle, other = study_in(tmp_path), study_in(tmp_path)
    handle.enqueue_defaults(context.space)
    trial = handle.study.ask(context.space.distributions)
    trial.set_user_attr(LOST, "its worker was stopped")
    handle.study.tell(trial, state=TrialState.FAIL)
    other.enqueue_defaults(context.space)
    assert not other.summary().waiting


def test_a_trial_is_given_up_once(context: TrialContext, tmp_path: Path) -> None:
    handle, other = study_in(tmp_path), study_in(tmp_path)
    handle.study.ask(context.space.distributions).set_user_attr(LEASE, new_lease())
    trial = handle.study.trials[0]
    handle.abandon(trial, "its worker was stopped")
    other.abandon(trial, "its worker was stopped")
    found = handle.summary()
    assert (len(found.ended), len(found.running), len(found.waiting)) == (0, 0, 1)
    assert other.study.ask(context.space.distributions).params == trial.params


def test_trials_that_fail_are_kept_with_their_reason_and_are_not_fatal(
    context: TrialContext, quick: type[Quick], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([None, RunFailedError("the loss became nan"), ValueError("odd"), None])

    def fails(self: Quick) -> float:
        if error := next(errors):
            raise error
        return 0.5

    monkeypatch.setattr(Quick, "valid_map_at_5", fails)
    handle = study_in(tmp_path)
    found = run_trials(context, handle, SILENT)
    rows = found.rows()
    assert [row["state"] for row in rows] == ["complete", "fail", "fail", "complete"]
    assert [row["reason"] for row in rows] == ["", "the loss became nan", "ValueError: odd", ""]
    assert (found.spent.trials, found.spent.photos) == (4, 400)
    assert found.best().number == 0
    facts = tuner.tuning_facts(found, context, handle)
    assert facts["spent"]["failed"] == 2
    assert facts["budget"] == "4 trials"


def test_defaults_that_cannot_be_tried_are_fatal_and_are_tried_again(
    context: TrialContext, quick: type[Quick], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Quick) -> float:
        raise WhalebenchError("backbone 'none' is not known")

    handle = study_in(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(WhalebenchError, match="is not known"):
        patch.setattr(Quick, "valid_map_at_5", refuses)
        run_trials(context, handle, SILENT)
    assert not handle.summary().ended
    run_trials(context, handle, SILENT)
    assert parameters(handle)[0] == context.space.start


def test_no_trial_that_ends_is_a_failed_run(
    context: TrialContext, quick: type[Quick], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(self: Quick) -> float:
        raise RunFailedError("the loss became nan")

    monkeypatch.setattr(Quick, "valid_map_at_5", diverges)
    found = run_trials(context, study_in(tmp_path), SILENT)
    with pytest.raises(RunFailedError, match="none of 4 trials came to an end: the loss became nan"):
        found.best()


def test_hours_and_photos_end_a_study(context: TrialContext, quick: type[Quick], tmp_path: Path) -> None:
    by_photos = run_trials(replace(context, budget=Budget(photos=250)), study_in(tmp_path / "a"), SILENT)
    assert by_photos.spent.photos == 300
    Quick.sleeps, before = 0.06, Quick.sleeps
    try:
        by_time = run_trials(replace(context, budget=Budget(seconds=0.1)), study_in(tmp_path / "b"), SILENT)
    finally:
        Quick.sleeps = before
    assert 1 <= len(by_time.ended) <= 2


def test_a_smaller_budget_on_a_study_counts_its_first_trials_only(
    context: TrialContext, quick: type[Quick], tmp_path: Path
) -> None:
    handle = study_in(tmp_path)
    found = run_trials(replace(context, budget=Budget(trials=6)), handle, SILENT)
    assert len(found.ended) == 6
    two = found.within(Budget(trials=2))
    assert [trial.number for trial in two.ended] == [0, 1]
    assert (two.spent.trials, two.spent.photos) == (2, 200)
    assert len(found.within(Budget(photos=250)).ended) == 3
    assert found.within(Budget(trials=9)) == found
    best = two.best()
    assert best.values[0] == max(trial.values[0] for trial in found.ended[:2])
    facts = tuner.tuning_facts(two, replace(context, budget=Budget(trials=2)), handle)
    assert (facts["budget"], facts["spent"]["trials"]) == ("2 trials", 2)


def test_a_trial_that_was_begun_and_never_taken_is_done_again_at_once(
    context: TrialContext, quick: type[Quick], tmp_path: Path
) -> None:
    handle, whole = study_in(tmp_path, STORAGES[0]), study_in(tmp_path / "whole", STORAGES[0])
    handle.storage.create_new_trial(handle.study._study_id)  # as `ask` does before it does anything else
    began = time.monotonic()
    run_trials(context, handle, SILENT)
    run_trials(context, whole, SILENT)
    assert time.monotonic() - began < 30
    assert parameters(handle) == parameters(whole)


def test_a_trial_stopped_among_its_values_is_queued_with_all_of_them(
    context: TrialContext, quick: type[Quick], tmp_path: Path
) -> None:
    handle = study_in(tmp_path)
    handle.enqueue_defaults(context.space)
    name, distribution = next(iter(context.space.distributions.items()))
    handle.study.ask(fixed_distributions={name: distribution})
    (running,) = handle.summary().running
    assert set(running.params) == {name}
    handle.abandon(running, "its worker was stopped")
    (waiting,) = handle.summary().waiting
    assert waiting.system_attrs["fixed_params"] == context.space.start


def test_who_waits_for_the_trials_of_others_says_so_once(
    context: TrialContext, quick: type[Quick], tmp_path: Path
) -> None:
    class Notes(Silent):
        stages: ClassVar[list[str]] = []

        def stage(self, name: str) -> None:
            self.stages.append(name)

    handle = study_in(tmp_path)
    handle.enqueue_defaults(context.space)
    taken = handle.study.ask(context.space.distributions)
    taken.set_user_attr(LEASE, new_lease())
    ending = threading.Timer(1.0, lambda: study_in(tmp_path).study.tell(taken.number, 0.5))
    ending.start()
    run_trials(replace(context, budget=Budget(trials=1)), handle, Notes())
    ending.join()
    assert Notes.stages == ["Waiting for trial 0 of other workers"]


def test_a_trial_below_the_median_is_pruned_but_not_early(tmp_path: Path) -> None:
    handle = study_in(tmp_path, epochs=9)
    for number in range(5):
        trial = handle.study.ask()
        for epoch in range(1, 10):
            trial.report(0.9 if number < 4 else 0.1, epoch)
            assert trial.should_prune() == (number == 4 and epoch > 3), (number, epoch)
        handle.study.tell(trial, 0.9)


def test_steps_rise_over_two_trainings_and_leave_out_what_is_not_validated() -> None:
    told: list[tuple[int, float]] = []

    watch = TrialProgress(SILENT, lambda step, map_at_5: told.append((step, map_at_5)))
    nan = float("nan")
    for number, score in [(1, nan), (2, nan), (1, 0.1), (2, nan), (3, 0.2), (1, 0.3), (2, 0.4)]:
        watch.epoch(EpochSummary(number, 3, 1.0, score, 1.0, 0.0))
    assert told == [(1, 0.1), (3, 0.2), (4, 0.3), (5, 0.4)]


class Guarded(np.ndarray[Any, Any]):
    """Pixels that break when a row of test is read."""

    forbidden: set[int]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        assert not self.forbidden & set(np.atleast_1d(np.asarray(rows)).tolist())
        return np.asarray(self)[rows]


def test_a_trial_never_reads_test_and_says_what_the_record_says_of_valid(
    context: TrialContext,
    shared_tiny: Workspace,
    tiny_settings: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    benchmark, images = context.benchmark, context.benchmark.catalog.table["image"].tolist()
    rows = {images.index(image) for image in benchmark.split.parts(0).test}
    assert rows
    whole = type(benchmark.store).pixels

    def guarded(self: Any, *arguments: Any) -> NDArray[Any]:
        pixels = np.asarray(whole(self, *arguments)).view(Guarded)
        pixels.forbidden = rows
        return pixels

    request = runner.RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu")
    record = runner.run(request, shared_tiny)
    monkeypatch.setattr(type(benchmark.store), "pixels", guarded)
    trial_run = TrialRun(context, configure(context.method, tiny_settings), SILENT)
    assert trial_run.valid_map_at_5() == record.valid_metrics["map_at_5"]
    assert trial_run.photos() == 2 * record.counts["train_known_photos"]
    assert len(trial_run.views.test) == 0
    with pytest.raises(AssertionError):
        fold_views(benchmark, 0).test.batch([0], (32, 32))


def test_a_study_of_other_code_is_another(
    shared_tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of an edited method are not put among those of the method before."""
    run = runner.RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu")
    names, storage = [], f"journal:{shared_tiny.cache / 'edited.log'}"
    for digest in ("before", "after", "after"):
        monkeypatch.setattr(runner, "code_of", lambda *_, said=digest: Code(said, ()))
        request = tuner.TuneRequest(run, Budget(trials=1), storage)
        names.append(tuner.Tuner(request, shared_tiny).handle.study.study_name)
    assert names[0] != names[1] == names[2]
    named = tuner.TuneRequest(run, Budget(trials=1), storage, study=names[0])
    with pytest.raises(WhalebenchError, match=r"begun with another code \(before, not after\)"):
        tuner.Tuner(named, shared_tiny)


def test_another_study_of_that_name_and_a_strange_storage_are_refused(tmp_path: Path) -> None:
    study_in(tmp_path)
    where = STORAGES[1].format(tmp_path)
    pruner = build_pruner(1)
    with pytest.raises(WhalebenchError, match=r"begun with another method \(softmax, not arcface\)"):
        open_study(where, "study", {"method": "arcface"}, pruner)
    with pytest.raises(WhalebenchError, match=r"storage study\.db is no place for a study"):
        open_study("study.db", "study", {}, pruner)
    for nothing in ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite:///study.db"):
        with pytest.raises(WhalebenchError, match="is no file to keep a study in"):
            open_study(nothing, "study", {}, pruner)
    for odd in "?#{}":
        with pytest.raises(WhalebenchError, match=f"leave {re.escape(odd)} out of it"):
            open_study(f"sqlite:///{tmp_path}/a{odd}b.db", "study", {}, pruner)
    assert [path.name for path in tmp_path.iterdir()] == ["study.log"]
    with pytest.raises(WhalebenchError, match=r"nosuch://me:\*\*\*@host/db cannot be opened"):
        open_study("nosuch://me:secret@host/db", "study", {}, pruner)


def test_a_study_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    where = STORAGES[0].format(tmp_path)
    for name, direction in (("tried", "maximize"), ("least", "minimize")):
        study = optuna.create_study(storage=where, study_name=name, direction=direction)
        if name == "tried":
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        with pytest.raises(WhalebenchError, match="was not begun by `whalebench tune`"):
            open_study(where, name, {"method": "softmax"}, build_pruner(1))
        assert not study.user_attrs


def test_importance_finds_the_field_that_matters(context: TrialContext) -> None:
    fields, rng = context.space.distributions, np.random.default_rng(0)
    trials = []
    for _ in range(14):
        rates = {name: float(rng.uniform(field.low, field.high)) for name, field in fields.items()}
        value = rates["learning_rate"]
        trials.append(optuna.trial.create_trial(params=rates, distributions=fields, value=value))
    found = TrialSummary(tuple(trials))
    shares = found.importance(0)
    assert shares == found.importance(0)
    assert next(iter(shares)) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    assert TrialSummary(found.ended[:3]).importance(0) == {}


def document(trials: list[dict[str, Any]]) -> dict[str, Any]:
    facts = {"method": "softmax", "benchmark": "tiny", "fold": 0, "seed": 0, "budget": "3 trials"}
    return facts | {"trials": trials, "importance": {"dropout": 0.75, "<b>": 0.25}}


def trial(number: int, state: str, value: float | None, settings: list[str]) -> dict[str, Any]:
    return {"number": number, "state": state, "valid_map_at_5": value, "settings": settings}


def test_the_verdict_says_no_more_than_its_interval() -> None:
    def said(low: float | None, high: float | None, settings: list[str]) -> str:
        lead = {"map_at_5": 0.02, "low": low, "high": high}
        return many_runs.verdict({"settings": settings, "lead": lead})

    assert "is better on test than the defaults by 0.020 [0.01, 0.03]" in said(0.01, 0.03, ["dropout=0.1"])
    assert "cannot be told apart" in said(-0.01, 0.03, ["dropout=0.1"])
    assert "cannot be told apart" in said(None, None, ["dropout=0.1"])
    assert "same configuration" in said(0.0, 0.0, [])


def test_tune_is_interrupted_and_goes_on_and_is_told_as_json(
    tiny: Workspace,
    tiny_settings: tuple[str, ...],
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [f"--set={setting}" for setting in (*tiny_settings, "epochs=1")]
    words = ["tune", "softmax", "--benchmark", "tiny", *settings, "--trials", "2", "--device", "cpu"]
    words += ["--workspace", tiny.root]
    learned, whole = 0, TrialRun.valid_map_at_5

    def stopped_in_the_second(self: TrialRun) -> float:
        nonlocal learned
        learned += 1
        if learned == 2:
            raise KeyboardInterrupt
        return whole(self)

    monkeypatch.setattr(TrialRun, "valid_map_at_5", stopped_in_the_second)
    answer = cli(*words)
    assert answer.code == 130
    assert "Stopped. 1 trial of 2 trials are in study softmax-tiny-fold0-seed0-" in answer.err
    answer = cli(*words, "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert learned == 3
    assert [row["state"] for row in said["trials"]] == ["complete", "complete"]
    default, tuned = said["rows"]
    assert default["valid_map_at_5"] == said["trials"][0]["valid_map_at_5"]
    best = max(said["trials"], key=lambda row: (row["valid_map_at_5"], -row["number"]))
    assert tuned["valid_map_at_5"] == best["valid_map_at_5"]
    assert tuned["shrink"] == pytest.approx(tuned["valid_map_at_5"] - tuned["map_at_5"])
    record = json.loads((tiny.runs / tuned["run"] / "record.json").read_text())
    assert record["track"] == default["track"] + ", tuned with 2 trials"
    assert record["usage"]["tuning_budget"] == "2 trials"
    assert record["usage"]["by_hand"] == {}
    assert record["tuning"]["spent"]["trials"] == 2
    assert record["tuning"]["settings"] == best["settings"]
    assert Path(said["picture"]).read_text().startswith("<svg xmlns")
    assert len(list(tiny.runs.iterdir())) == 2


def test_defaults_that_diverge_cost_their_row_alone(
    tiny: Workspace, tiny_settings: tuple[str, ...], quick: type[Quick], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned, run = Quick.valid_map_at_5, runner.run

    def diverges(self: Quick) -> float:
        if self.config.learning_rate == config.learning_rate:
            raise RunFailedError("the loss became nan")
        return learned(self)

    def refuses(request: runner.RunRequest, *arguments: Any) -> Any:
        if not request.tuning:
            raise RunFailedError("the loss became nan")
        return run(request, *arguments)

    config = configure(find_method("softmax"), tiny_settings)
    monkeypatch.setattr(Quick, "valid_map_at_5", diverges)
    monkeypatch.setattr(runner, "run", refuses)
    asked = runner.RunRequest("softmax", "tiny", settings=(*tiny_settings, "epochs=1"), device="cpu")
    found = tuner.Tuner(tuner.TuneRequest(asked, Budget(trials=2)), tiny).tune()
    document = many_runs.with_scores(found.document(), tiny.runs)
    assert document["runs"] == {"default": None, "tuned": found.tuned.run}
    assert [row["name"] for row in document["rows"]] == ["tuned"]
    assert document["lead"] is None
    assert many_runs.verdict(document) == "The defaults have no row to compare with: the loss became nan"
    console = Console(record=True, file=io.StringIO())
    console.print(many_runs.tuning_report(document))
    assert "trial 0 failed: the loss became nan" in console.export_text()


def test_a_worker_is_asked_by_the_words_of_the_command(
    shared_tiny: Workspace,
    tiny_settings: tuple[str, ...],
    cli: Callable[..., Any],
    quick: type[Quick],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = runner.RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu")
    request = tuner.TuneRequest(run, Budget(trials=3, seconds=3600.0))
    where = STORAGES[0].format(tmp_path)
    monkeypatch.setenv(STORAGE, where)
    job = Job("tune", run, shared_tiny, (*request.options("named"), "--worker", "1"))
    assert cli(*job.arguments()).code == 0
    study = optuna.load_study(study_name="named", storage=where)
    assert [each.state for each in study.trials] == [TrialState.COMPLETE] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["softmax", "--jobs", "0"], "--jobs 0 cannot be"),
        (["softmax", "--study", "a/b"], "--study a/b cannot be a file's name"),
        (["frozen"], "'frozen' has nothing to tune"),
        (["mask"], "mask does not fit: tiny has no masks"),
        (["softmax", "--budget", "much"], "--budget much cannot be read"),
    ],
)
def test_wrong_use_is_a_sentence(
    shared_tiny: Workspace, cli: Callable[..., Any], words: list[str], said: str
) -> None:
    answer = cli("tune", *words, "--benchmark", "tiny", "--workspace", shared_tiny.root)
    assert answer.code == 2
    assert said in answer.err
    assert not (shared_tiny.cache / "tuning").exists()


SHOWS_ITSELF = """
import os, sys
place, words = sys.argv[1], "\\n".join(sys.argv)
with open(f"{place}/{os.getpid()}", "w") as file:
    try:
        words += open(f"/proc/{os.getpid()}/cmdline").read()
    except OSError:
        pass
    file.write(words + "\\n" + os.environ["WHALEBENCH_STORAGE"])
sys.stderr.write("Error: the disk is full.\\n")
sys.exit(1)
"""


def test_workers_are_told_the_storage_where_nobody_else_reads_it(
    shared_tiny: Workspace, tiny_settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, url = tmp_path / "seen", f"journal:{tmp_path}/SECRET.log"
    seen.mkdir()
    run = runner.RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu")
    request = tuner.TuneRequest(run, Budget(trials=2), url)
    assert "SECRET" not in repr(request)
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", SHOWS_ITSELF, str(seen)))
    with pytest.raises(RunFailedError, match="the disk is full"):
        tuner.Tuner(request, shared_tiny, launcher=local_launcher(2, "cpu")).tune()
    told = [file.read_text() for file in seen.iterdir()]
    assert len(told) == 2
    for each in told:
        arguments, _, variable = each.rpartition("\n")
        assert "--worker" in arguments and "SECRET" not in arguments
        assert variable == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nosuch://ann:SECRET@host/db", "nosuch://***@host/db"),
        ("nosuch://ann:se:c%25ret@host/db", "nosuch://***@host/db"),
        ("nosuch://ann@host/db?password=SECRET&sslmode=on", "nosuch://***@host/db?..."),
        ("nosuch://ann:SE@CRET@host/db", "nosuch:..."),
        ("nosuch://ann@work:SECRET@host/db", "nosuch://***@host/db"),
        ("nosuch:/ann:SECRET@host/db", "nosuch:..."),
        ("sqlite://ann:SECRET@host/db", "sqlite://***@host/db"),
        ("sqlite:///db?password=SECRET", "sqlite:///db?..."),
    ],
)
def test_what_is_secret_in_a_storage_is_shown_nowhere(
    shared_tiny: Workspace, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, url: str, shown: str
) -> None:
    def quotes(url: str, *arguments: object) -> None:
        parts = make_url(url)
        raise ValueError(f"{quote(str(parts.password), safe='')} {parts.query} {parts.password} {url}")

    monkeypatch.setattr(optuna.storages, "RDBStorage", quotes)
    monkeypatch.setenv(STORAGE, url)
    for words in (("tune",), ("--debug", "tune")):
        answer = cli(*words, "softmax", "--benchmark", "tiny", "--workspace", shared_tiny.root)
        assert answer.code == 2
        said = answer.err.splitlines()[-1]
        assert said.startswith(f"Error: storage {shown} ")
        # A traceback quotes libraries, where only what looks like a URL is known to hold something.
        for secret in ("SECRET", "CRET", "c%ret", "c%25ret", "%3Ac"):
            assert secret not in said
        assert url not in answer.err


def test_a_storage_that_falls_silent_is_a_failure_with_a_sentence(tmp_path: Path) -> None:
    handle = replace(study_in(tmp_path), url="nosuch://ann:SECRET@host/db")
    said = r"^study study cannot be written \(no \*\*\*\): free some space, or see that its storage answers"
    with pytest.raises(RunFailedError, match=said), handle.answering():
        raise optuna.exceptions.StorageInternalError("no SECRET")
    with pytest.raises(FileNotFoundError), handle.answering():
        (tmp_path / "nothing").read_text()


def test_workers_that_all_fail_say_why_and_are_stopped_by_a_signal(
    tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*tiny_settings, "epochs=1")
    request = tuner.TuneRequest(
        runner.RunRequest("softmax", "tiny", settings=settings, device="cpu"), Budget(trials=2)
    )
    fails = "import sys; sys.stderr.write('Error: the disk is full.\\n'); sys.exit({})"
    for code, kind in ((1, RunFailedError), (2, WhalebenchError)):
        monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", fails.format(code)))
        with pytest.raises(WhalebenchError, match=r"^the disk is full\.$") as caught:
            tuner.Tuner(request, tiny, launcher=local_launcher(2, "cpu")).tune()
        assert type(caught.value) is kind
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"))
    (database,) = (tiny.cache / "tuning").glob("*.db")

    class Interrupts(Silent):
        at_work = False

        def stage(self, name: str) -> None:
            self.at_work = name == "Trials by 2 workers"

        def advance(self, done: int, total: int) -> None:
            if self.at_work:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(tuner.TuningInterrupted, match=f"0 trials of 2 trials are in study {database.stem}"):
        tuner.Tuner(request, tiny, Interrupts(), local_launcher(2, "cpu")).tune()


# --- what a study holds is what was written


def study_of_two(folder: Path) -> StudyHandle:
    """A study in a file with a complete and a pruned trial, as a worker leaves them."""
    handle = reopened(folder)
    for value, state in ((0.5, TrialState.COMPLETE), (None, TrialState.PRUNED)):
        trial = handle.study.ask({"ema": optuna.distributions.FloatDistribution(0.1, 0.9)})
        trial.report(0.25, 1)
        trial.set_user_attr("settings", ["ema=0.5"])
        handle.sign(trial, value, state)
        handle.study.tell(trial, value, state)
    return handle


def test_trials_that_differ_from_their_digest_are_named(tmp_path: Path) -> None:
    handle = study_of_two(tmp_path)
    assert [trial.number for trial in handle.summary().ended] == [0, 1]
    for change in (
        "UPDATE trial_values SET value = 0.75 WHERE trial_id = 1",
        "UPDATE trial_values SET value = 0.75 WHERE trial_id = 2",
        "UPDATE trial_params SET param_value = 0.3 WHERE trial_id = 1",
        "UPDATE trial_intermediate_values SET intermediate_value = 0.3 WHERE trial_id = 2",
        "UPDATE trial_user_attributes SET value_json = '[]' WHERE key = 'settings' AND trial_id = 1",
    ):
        content = (tmp_path / "one.db").read_bytes()
        with closing(sqlite3.connect(tmp_path / "one.db")) as database:
            assert database.execute(change).rowcount == 1
            database.commit()
        number = 0 if "trial_id = 1" in change else 1
        with pytest.raises(WhalebenchError, match=f"trial {number} of study one differs from its digest"):
            reopened(tmp_path).summary()
        (tmp_path / "one.db").write_bytes(content)
    assert len(reopened(tmp_path).summary().ended) == 2


def reopened(folder: Path) -> StudyHandle:
    url = f"sqlite:///{folder / 'one.db'}"
    return open_study(url, "one", {"method": "softmax"}, optuna.pruners.NopPruner())


def test_a_study_whose_file_is_damaged_is_named(tmp_path: Path) -> None:
    study_of_two(tmp_path)
    content = bytearray((tmp_path / "one.db").read_bytes())
    content[4096:8192] = bytes(4096)
    (tmp_path / "one.db").write_bytes(content)
    with pytest.raises(
        WhalebenchError, match=r"storage sqlite:///.*one\.db cannot be opened .*restore the file"
    ):
        reopened(tmp_path)
