"""A study: what has become of its trials, and who is at work on each.

A worker leaves a lease on its trial, so that a trial whose worker was killed is known and done by another.
Optuna's own heartbeat takes slow workers for dead ones and the other way round, and is for databases only. A
worker on this machine is looked up; of one elsewhere all there is to go by is how long it has been silent.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import RunFailedError, WhalebenchError, one_line
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.core.machine import place_of_processes, start_time
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.workspace import NO_ROOM, file_lock
from whalebench.benchmarks.tuning.space import Budget, Space, Spent
from whalebench.benchmarks.tuning.storage import (
    SQLITE,
    advisory_lock,
    lock_file,
    open_storage,
    refuse_damaged,
    server_of,
    shown_url,
    tables_lock,
    without_secrets,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.engine import Engine

FACTS = "facts"
"""The name of the study's attribute that says what it tunes."""
LEASE, LOST, ORIGIN = "lease", "lost", "origin"
"""Names of a trial's attributes: who is at work on it, why its worker gave it up, and why it was queued."""
DIGEST = "digest"
"""And the digest of what was tried and what came of it, when it ended; trials of older versions have none."""
SETTINGS, REASON, SECONDS, PHOTOS = "settings", "reason", "seconds", "photos"
"""And what came of it: what to type after --set to repeat it, why it failed, what it cost."""
DEFAULTS = "the defaults"
HEARTBEAT, LEASE_SECONDS = 30.0, 600.0
"""Seconds from one sign of life to the next, and without any until a worker elsewhere is given up."""
TREES = 64
"""Of the forest that the importance is read from, each of as many levels at most."""
ENOUGH = 4
"""Complete trials, before which nothing is said of what mattered."""


@dataclass(frozen=True)
class TrialSummary:
    """The trials of a study that count, in order of their numbers."""

    ended: tuple[FrozenTrial, ...]
    """Complete, pruned, or failed by themselves; not those whose worker was killed."""
    running: tuple[FrozenTrial, ...] = ()
    waiting: tuple[FrozenTrial, ...] = ()

    @property
    def spent(self) -> Spent:
        """What the ended trials cost."""
        attributes = [trial.user_attrs for trial in self.ended]
        seconds = sum(each.get(SECONDS, 0.0) for each in attributes)
        return Spent(len(attributes), seconds, sum(each.get(PHOTOS, 0) for each in attributes))

    def complete(self) -> list[FrozenTrial]:
        """The trials that were scored to the end."""
        return [trial for trial in self.ended if trial.state.name == "COMPLETE"]

    def best(self) -> FrozenTrial:
        """The complete trial that scored best on valid, the first of several.

        Raises RunFailedError where there is none.
        """
        if not self.complete():
            reasons = [trial.user_attrs[REASON] for trial in self.ended if REASON in trial.user_attrs]
            raise RunFailedError(
                f"none of {len(self.ended)} trials came to an end: {(reasons or ['all pruned'])[0]}"
            )
        return max(self.complete(), key=lambda trial: (trial.values[0], -trial.number))

    def within(self, budget: Budget) -> TrialSummary:
        """The trials that the budget pays for, first come, first served.

        A study may hold more: it was begun with a larger budget, or several workers ended theirs together.
        """
        count = 0
        while count < len(self.ended) and not budget.is_spent(TrialSummary(self.ended[:count]).spent):
            count += 1
        return replace(self, ended=self.ended[:count])

    def rows(self) -> list[dict[str, Any]]:
        """The ended trials in plain values; a pruned one scored what it did after its last epoch.

        They are numbered as if none had been lost.
        """
        return [
            {
                "number": number,
                "state": trial.state.name.lower(),
                "valid_map_at_5": trial.values[0] if trial.values else None,
                "epochs": max(trial.intermediate_values, default=None),
                "parameters": dict(trial.params),
                "settings": list(trial.user_attrs.get(SETTINGS, ())),
                "seconds": trial.user_attrs.get(SECONDS),
                "photos": trial.user_attrs.get(PHOTOS),
                "reason": trial.user_attrs.get(REASON, ""),
            }
            for number, trial in enumerate(self.ended)
        ]

    def importance(self, seed: int) -> dict[str, float]:
        """Each field's share of how much valid MAP@5 varied, by fANOVA (Hutter et al. 2014), largest first.

        Empty with few complete trials, or where they all scored the same.
        """
        import optuna
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        complete = self.complete()
        if len(complete) < ENOUGH or len({trial.values[0] for trial in complete}) < 2:
            return {}
        study = optuna.create_study(direction="maximize")  # in memory: of these trials alone
        study.add_trials(complete)
        evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=TREES, seed=seed)
        shares = get_param_importances(study, evaluator=evaluator)
        return {name: round(share, 4) for name, share in shares.items() if isfinite(share)}


@dataclass(frozen=True)
class StudyHandle:
    """A study and its storage."""

    study: Study
    storage: BaseStorage
    url: str = field(repr=False)
    lock: Path | None
    """Of a study in a file on this machine: by it workers exclude each other. None where they need not."""
    server: Engine | None = field(default=None, repr=False)
    """Of a study in PostgreSQL, where workers exclude each other, too."""

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return shown_url(self.url)

    def exclusive(self) -> AbstractContextManager[None]:
        """A block that one worker at a time is in, where the study is in an SQLite file, or in PostgreSQL.

        Else two workers could take the same trial, or both queue the defaults. System and server let go of
        the lock of a worker that is killed. Journals order their writes themselves.
        """
        if self.server is not None:
            return advisory_lock(self.server, self.study.study_name)
        return file_lock(self.lock) if self.lock else nullcontext()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A block that asks the study; RunFailedError where its storage is silent, or full as a disk is."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (StorageInternalError, SQLAlchemyError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise
            cause = one_line(without_secrets(str(error.__cause__ or error), self.url), 100)
            raise RunFailedError(
                f"study {self.study.study_name} cannot be written ({cause}): free some space, or see that "
                f"its storage answers, then give the same command again; trials that have ended are kept."
            ) from error

    def summary(self) -> TrialSummary:
        """What has become of the trials so far."""
        groups: dict[str, list[FrozenTrial]] = {"ended": [], "running": [], "waiting": []}
        for trial in self._trials():  # in order of their numbers
            if not (trial.state.name == "FAIL" and trial.user_attrs.get(LOST)):
                groups["ended" if trial.state.is_finished() else trial.state.name.lower()].append(trial)
        return TrialSummary(**{name: tuple(trials) for name, trials in groups.items()})

    def _trials(self) -> list[FrozenTrial]:
        """All trials; raises WhalebenchError where they cannot be read, or one is not what was written."""
        try:
            trials = self.study.get_trials(deepcopy=False)
        except Exception as error:  # every database has its own errors
            raise _unreadable(self.url, error) from error
        for trial in trials:
            # It is signed in the moment before it has ended, and may be lost in that moment.
            counts = trial.state.is_finished() and LOST not in trial.user_attrs
            digest = trial.user_attrs.get(DIGEST)
            if counts and digest and digest != trial_digest(trial, trial.values, trial.state.name):
                raise WhalebenchError(
                    f"trial {trial.number} of study {self.study.study_name} differs from its digest, so it "
                    f"is not what was written: restore {self.shown_url}, or begin another one with --study."
                )
        return trials

    def sign(self, trial: Trial, value: float | None, state: TrialState) -> None:
        """Leaves the digest of a trial that is about to be told to have ended so."""
        stored = self.storage.get_trial(trial._trial_id)
        if state.name == "PRUNED" and stored.last_step is not None:
            value = stored.intermediate_values[stored.last_step]  # which Optuna takes for its value
        values = None if value is None else [value]
        trial.set_user_attr(DIGEST, trial_digest(stored, values, state.name))

    def enqueue_defaults(self, space: Space) -> None:
        """Queues the values before tuning, unless they were; those of an abandoned trial are queued again."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.system_attrs.get("fixed_params", trial.params) == space.start:
                return
        self.study.enqueue_trial(dict(space.start), user_attrs={ORIGIN: DEFAULTS})

    def abandon(self, trial: Trial | FrozenTrial, reason: str, *, requeue_drawn: bool = True) -> None:
        """Marks the running trial as lost; its values are queued again, drawn ones only if asked to.

        Where two workers do so with one trial, or it ends in this moment, the storage lets the first through.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        stored = self.storage.get_trial(trial._trial_id)
        try:
            self.storage.set_trial_user_attr(trial._trial_id, LOST, reason)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL, None)
        except UpdateFinishedTrialError:
            return
        # One without a lease was stopped while its values were drawn; they are drawn again, to the same ones.
        drawn = stored.params if requeue_drawn and LEASE in stored.user_attrs else {}
        if values := stored.system_attrs.get("fixed_params", drawn):
            self.study.enqueue_trial(dict(values), user_attrs={ORIGIN: f"trial {trial.number}"})

    def requeue_stale(self) -> None:
        """Abandons the trials whose worker is gone, to be done again."""
        for trial in self.summary().running:
            began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            exclusive = self.lock is not None or self.server is not None
            if is_stale(trial.user_attrs.get(LEASE), began, exclusive=exclusive):
                self.abandon(trial, "its worker was stopped")


def open_study(
    url: str, name: str, facts: dict[str, Any], pruner: BasePruner, progress: Progress = SILENT
) -> StudyHandle:
    """The study of that name, made where it is not there yet; it maximises.

    A server that is restarted later is waited for, and progress told so.

    Raises WhalebenchError for a storage that cannot be opened, and for a study of that name that tunes
    something else.
    """
    import optuna
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        handle = _create(url, name, pruner, progress)
        study = handle.study
        if FACTS not in study.user_attrs:
            if study.get_trials(deepcopy=False) or study.directions != [StudyDirection.MAXIMIZE]:
                raise WhalebenchError(
                    f"study {name} was not begun by `whalebench tune`: give --study another name."
                )
            study.set_user_attr(FACTS, facts)
        stored = study.user_attrs[FACTS]
    except WhalebenchError:
        raise
    except Exception as error:  # every database has its own errors
        raise _unreadable(url, error) from error
    for key, value in facts.items():
        if stored.get(key) != value:
            raise WhalebenchError(
                f"study {name} was begun with another {key} ({one_line(stored.get(key), 60)}, not "
                f"{one_line(value, 60)}): give --study another name."
            )
    return handle


def trial_digest(trial: FrozenTrial, values: Sequence[float] | None, state: str) -> str:
    """The digest of a trial that ended so: what was tried, and all it came to."""
    kept = {name: value for name, value in trial.user_attrs.items() if name not in (LEASE, DIGEST, LOST)}
    steps = sorted(trial.intermediate_values.items())
    said = [trial.number, state, values, steps, trial.params, kept]
    return digest_text(json.dumps(said, sort_keys=True))


def _unreadable(url: str, error: Exception) -> WhalebenchError:
    # A server says last, after FATAL, what a driver begins with the address of.
    cause = str(error).partition("\n")[0].rpartition("FATAL: ")[2].strip()
    reason = one_line(without_secrets(cause, url), 80)
    return WhalebenchError(
        f"storage {shown_url(url)} cannot be opened ({reason}): give sqlite:///FILE, journal:FILE or the URL "
        f"of a database whose driver is installed, or restore the file."
    )


def _create(url: str, name: str, pruner: BasePruner, progress: Progress) -> StudyHandle:
    """The study, made by the first who asks for it."""
    import optuna

    lock = lock_file(url)
    with file_lock(lock) if lock else tables_lock(url):
        if lock:
            refuse_damaged(Path(url.removeprefix(SQLITE)))
        storage = open_storage(url)
        server = server_of(storage, progress)
        study = optuna.create_study(
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: each trial gets its own
            pruner=pruner,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
    return StudyHandle(study, storage, url, lock, server)


def new_lease() -> dict[str, Any]:
    """What this process leaves on its trial: until when it is to be believed alive, and how to look it up."""
    pid = os.getpid()
    return {
        "until": time.time() + LEASE_SECONDS,
        "place": place_of_processes(),
        "pid": pid,
        "born": start_time(pid),
    }


def is_stale(lease: Mapping[str, Any] | None, began: float, *, exclusive: bool = False) -> bool:
    """Whether the worker is gone that left the lease on a trial begun then (seconds since 1970).

    A trial without a lease was begun just now, or its worker died before it could leave one; where workers
    exclude each other the lease is left within that block, so that it can only be the latter.
    """
    if lease is None:
        return exclusive or time.time() - began > LEASE_SECONDS
    if lease["place"] == place_of_processes() and lease["born"]:
        return bool(start_time(lease["pid"]) != lease["born"])
    return bool(time.time() > lease["until"])


@contextmanager
def heartbeat(renew: Callable[[dict[str, Any]], None], interval: float = HEARTBEAT) -> Iterator[None]:
    """Gives `renew` a new lease at once and every few seconds until the block ends.

    A renewal that fails later is no reason to stop: the trial itself is told when it was given to another.
    """
    renew(new_lease())
    ended = threading.Event()

    def keep_renewing() -> None:
        while not ended.wait(interval):
            with suppress(Exception):  # the storage may be away, or the trial given to another
                renew(new_lease())

    thread = threading.Thread(target=keep_renewing, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
