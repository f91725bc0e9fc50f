"""Studies on a real PostgreSQL server: several workers, one killed; restarts; a password that nobody sees."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
from optuna.trial import TrialState

from tests import postgresql
from tests.postgresql import PASSWORD, Server
from whalebench import MissingError, RunFailedError, WhalebenchError
from whalebench.benchmarks.core.machine import STORAGE, choose_device
from whalebench.benchmarks.core.progress import SILENT, Progress, Silent
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.tuning import storage, study, tuner
from whalebench.benchmarks.tuning.space import Budget, build_pruner, search_space
from whalebench.benchmarks.tuning.storage import read_storage
from whalebench.benchmarks.tuning.study import StudyHandle, open_study
from whalebench.benchmarks.tuning.tuner import TrialContext, run_trials
from whalebench.methods.registry import find_method


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql.started() as running:
        yield running


@pytest.fixture
def context(shared_tiny: Workspace, tiny_settings: tuple[str, ...]) -> TrialContext:
    settings, method = (*tiny_settings, "epochs=1"), find_method("softmax")
    benchmark, fields = load_benchmark("tiny", shared_tiny), search_space(method, settings)
    return TrialContext(method, settings, fields, Budget(trials=6), benchmark, 0, 0, choose_device("cpu"))


class Quick:
    """Stands for the run of a trial: its value is its learning rate."""

    on_trial: ClassVar[Callable[[], object] | None] = None

    def __init__(self, context: TrialContext, config: Any, progress: Any) -> None:
        del context, progress
        self.config = config

    def valid_map_at_5(self) -> float:
        if Quick.on_trial:
            Quick.on_trial()
        return float(self.config.learning_rate)

    def photos(self) -> int:
        return 100


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "TrialRun", Quick)
    monkeypatch.setattr(tuner, "POLL", 0.05)
    monkeypatch.setattr(Quick, "on_trial", None)


def opened(server: Server, name: str, progress: Progress = SILENT) -> StudyHandle:
    return open_study(server.url, name, {"method": "softmax"}, build_pruner(1), progress)


def test_a_worker_killed_among_four_loses_no_trial_and_none_counts_twice(
    server: Server, context: TrialContext
) -> None:
    """All begin at once, as on machines of their own: the defaults are queued by one of them alone."""
    context = replace(context, budget=Budget(trials=9))
    fork = multiprocessing.get_context("fork")  # workers of their own, without importing torch again
    ready, killed = fork.Barrier(4), fork.Event()

    def start(number: int) -> None:
        Quick.on_trial = killed.wait if number else threading.Event().wait  # the first one never ends
        own = opened(server, "four")
        ready.wait()
        run_trials(context, own, SILENT, worker=number)

    processes = [fork.Process(target=start, args=(number,), daemon=True) for number in range(4)]
    for each in processes:
        each.start()
    handle, until, drawn = opened(server, "four"), time.monotonic() + 120, context.space.start.keys()

    def of_victim(trial: Any) -> bool:
        lease = trial.user_attrs.get(study.LEASE, {})
        return bool(trial.params.keys() == drawn and lease.get("pid") == processes[0].pid)

    while not (at_work := list(filter(of_victim, handle.summary().running))):
        assert time.monotonic() < until
        time.sleep(0.02)
    processes[0].kill()
    processes[0].join()
    killed.set()
    for each in processes:
        each.join(timeout=120)
    assert [each.exitcode for each in processes] == [-signal.SIGKILL, 0, 0, 0]
    found = handle.summary()
    assert (len(found.ended), found.running, found.waiting) == (9, (), ())
    lost = [trial for trial in handle.study.trials if study.LOST in trial.user_attrs]
    assert [trial.number for trial in lost] == [at_work[0].number]
    assert lost[0].state == TrialState.FAIL
    tried = [trial.params for trial in found.ended]
    assert tried.count(lost[0].params) == tried.count(context.space.start) == 1


def test_workers_exclude_each_other(server: Server) -> None:
    first, second, order = opened(server, "lock"), opened(server, "lock"), []
    inside = threading.Event()

    def other() -> None:
        inside.wait()
        with second.exclusive():
            order.append("second")

    thread = threading.Thread(target=other)
    thread.start()
    with first.exclusive(), opened(server, "another").exclusive():  # a study of another name does not wait
        inside.set()
        time.sleep(0.2)
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"]


def test_a_server_that_is_restarted_is_waited_for_and_the_study_goes_on(
    server: Server, context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Notes(Silent):
        stages: ClassVar[list[str]] = []

        def stage(self, name: str) -> None:
            self.stages.append(name)

    calls = 0

    def restarts() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            server.stop()
            threading.Timer(0.5, server.start).start()

    monkeypatch.setattr(Quick, "on_trial", restarts)
    handle = opened(server, "restarted", Notes())
    found = run_trials(context, handle, SILENT)
    assert "wait for the server" in Notes.stages
    assert len(found.ended) == len(handle.study.trials) == 6
    assert {trial.state for trial in found.ended} == {TrialState.COMPLETE}


def test_a_server_that_stays_away_is_a_sentence_and_the_same_command_goes_on(
    server: Server, context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "TIMEOUT", 0.3)
    fork = multiprocessing.get_context("fork")
    said = fork.Queue()

    def work() -> None:
        Quick.on_trial = server.stop
        handle = opened(server, "away")
        with pytest.raises(RunFailedError) as caught, handle.answering():
            run_trials(context, handle, SILENT)
        said.put(str(caught.value))

    process = fork.Process(target=work, daemon=True)
    process.start()
    try:
        sentence = said.get(timeout=120)
        process.join(timeout=120)
    finally:
        server.start()
    assert sentence.startswith("study away cannot be written (")
    assert "see that its storage answers, then give the same command again" in sentence
    assert PASSWORD not in sentence
    found = run_trials(context, opened(server, "away"), SILENT)
    assert [trial.params for trial in found.ended].count(context.space.start) == 1
    assert (len(found.ended), found.running) == (6, ())


def test_the_password_is_nowhere_but_where_it_was_put(
    server: Server,
    shared_tiny: Workspace,
    cli: Callable[..., Any],
    tiny_settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a file, named on the command line; then typed there, which is refused; then a wrong one."""
    (tmp_path / "storage").write_text(server.url + "\n")
    words = ["softmax", "--benchmark", "tiny", "--device", "cpu", "--study", "secret", "--trials", "2"]
    words += [*(f"--set={each}" for each in (*tiny_settings, "epochs=1")), "--workspace", shared_tiny.root]
    told = cli("tune", *words, "--storage", f"@{tmp_path / 'storage'}", "--json")
    assert told.code == 0
    assert json.loads(told.out)["storage"] == "postgresql://whale:***@/postgres?..."
    monkeypatch.setenv(STORAGE, server.url.replace("cret", "cretWRONG"))
    wrong = cli("tune", *words)
    assert wrong.code == 2
    assert "password authentication failed" in wrong.err
    typed = cli("tune", *words, "--storage", server.url)
    assert typed.code == 2
    assert "@/postgres?... holds a password, which everybody on this machine can read" in typed.err
    left = [file.read_bytes() for file in shared_tiny.root.rglob("*") if file.is_file()]
    secrets = (PASSWORD, "s%40cret", "s%40cretWRONG")
    for text in (*left, *(part.encode() for each in (told, wrong, typed) for part in (each.out, each.err))):
        assert not [secret for secret in secrets if secret.encode() in text]


def test_a_storage_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql://ann:secret@host/db\n")
    assert read_storage(f"@{tmp_path / 'url'}") == "postgresql://ann:secret@host/db"
    with pytest.raises(WhalebenchError, match=r"--storage @.*none cannot be read \(No such file"):
        read_storage(f"@{tmp_path / 'none'}")
    for query in ("password", "sslpassword"):
        with pytest.raises(WhalebenchError, match="holds a password"):
            read_storage(f"postgresql://ann@host/db?{query}=secret")
    monkeypatch.setenv(STORAGE, "postgresql://ann:secret@host/db")
    assert read_storage(os.environ[STORAGE]) == os.environ[STORAGE]
    assert read_storage("journal:study.log") == "journal:study.log"
    assert read_storage(None) is None


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_without_its_driver_the_sentence_names_the_extra(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "find_spec", lambda _: None)
    with pytest.raises(
        MissingError, match=r"postgres.*://ann:\*\*\*@host/db needs .*whalebench\[postgresql\]"
    ):
        open_study(f"{scheme}://ann:secret@host/db", "study", {}, optuna.pruners.NopPruner())
