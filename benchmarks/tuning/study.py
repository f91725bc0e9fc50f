"""Where a study is kept: a file in the workspace, a journal file, or a database for several machines.

How values are drawn and bad trials ended: Optuna's sampler and pruner, every argument written out.

Who is at work on a trial, so that one whose worker was killed is known and done by another.

Optuna's own heartbeat takes slow workers for dead ones and the other way round, and is for databases only.
A worker on this machine is looked up; of one elsewhere all there is to go by is how long it has been silent.

What has become of the trials of a study: which count, and how one that its worker left is done again.
"""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whalebench import WhalebenchError
from whalebench.benchmarks.core.workspace import file_lock
from whalebench.benchmarks.tuning.space import Budget, Spent

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from whalebench.benchmarks.tuning.space import Space


RANDOM_TRIALS = 8
"""Trials, the defaults among them, before the sampler goes by what they scored."""
BEFORE_PRUNING = 4
"""Trials that a median is of, at least."""


def build_sampler(seed: int, trials: int, worker: int = 0) -> BaseSampler:
    """TPE (Bergstra et al. 2011; multivariate: Falkner et al. 2018), seeded anew for each trial of a worker.

    So the trials do not depend on whether a study was stopped and went on. The constant liar keeps workers
    from trying the same place at once.
    """
    from optuna.samplers import TPESampler

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
    from optuna.pruners import MedianPruner

    # Its steps are counted from 0, epochs from 1.
    return MedianPruner(
        n_startup_trials=BEFORE_PRUNING,
        n_warmup_steps=epochs // 3 + 1,
        interval_steps=1,
        n_min_trials=BEFORE_PRUNING,
    )


LEASE = "lease"
"""The name of the trial's attribute."""
BEAT, PATIENCE = 30.0, 600.0
"""Seconds from one sign of life to the next, and without any until a worker elsewhere is given up."""


def own_lease() -> dict[str, Any]:
    """What this process leaves on its trial: until when it is to be believed alive, and how to look it up."""
    pid = os.getpid()
    return {"until": time.time() + PATIENCE, "place": _place(), "pid": pid, "born": _born(pid)}


def has_run_out(lease: Mapping[str, Any] | None, began: float, *, in_turns: bool = False) -> bool:
    """Whether the worker is gone that left the lease on a trial begun then (seconds since 1970).

    A trial without a lease was begun just now, or its worker died before it could leave one; where workers
    take turns the lease is left within the turn, so that it can only be the latter.
    """
    if lease is None:
        return in_turns or time.time() - began > PATIENCE
    if lease["place"] == _place() and lease["born"]:
        return bool(_born(lease["pid"]) != lease["born"])
    return bool(time.time() > lease["until"])


@contextmanager
def kept_alive(renew: Callable[[dict[str, Any]], None], beat: float = BEAT) -> Iterator[None]:
    """Gives `renew` a new lease at once and every few seconds until the block ends.

    A renewal that fails later is no reason to stop: the trial itself is told when it was given to another.
    """
    renew(own_lease())
    done = threading.Event()

    def keep() -> None:
        while not done.wait(beat):
            with suppress(Exception):  # the storage may be away, or the trial given to another
                renew(own_lease())

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@cache
def _place() -> str:
    """This machine, its start, and the space its process numbers are from: what makes those comparable."""
    parts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        try:
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text().strip())
        except OSError:
            continue
    return " ".join(parts)


def _born(pid: int) -> str:
    """When the process of that number began, in ticks; empty where there is none, or no telling."""
    try:
        # The name in brackets may hold anything, so count from behind it; the 20th word from there (proc(5)).
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in ("Z", "X") else words[19]


LOST, ORIGIN = "lost", "origin"
"""Names of a trial's attributes: why its worker gave it up, and what it was put in the queue for."""
SETTINGS, REASON, SECONDS, PHOTOS = "settings", "reason", "seconds", "photos"
"""And what came of it: what to type after --set to repeat it, why it failed, what it cost."""
DEFAULTS = "the defaults"


@dataclass(frozen=True)
class Tally:
    """The trials of a study that count, in order of their numbers."""

    ended: tuple[FrozenTrial, ...]
    """Complete, pruned, or failed by themselves; not those whose worker was killed."""
    running: tuple[FrozenTrial, ...]
    waiting: tuple[FrozenTrial, ...]
    spent: Spent


def tally(trials: Sequence[FrozenTrial]) -> Tally:
    """The trials sorted by what has become of them."""
    from optuna.trial import TrialState

    of_state: dict[TrialState, list[FrozenTrial]] = {state: [] for state in TrialState}
    for trial in trials:
        if not (trial.state == TrialState.FAIL and trial.user_attrs.get(LOST)):
            of_state[trial.state].append(trial)
    ended = of_state[TrialState.COMPLETE] + of_state[TrialState.PRUNED] + of_state[TrialState.FAIL]
    ended.sort(key=lambda trial: trial.number)
    running, waiting = of_state[TrialState.RUNNING], of_state[TrialState.WAITING]
    return Tally(tuple(ended), tuple(running), tuple(waiting), _spent(ended))


def within(found: Tally, budget: Budget) -> Tally:
    """The trials that the budget pays for, first come, first served.

    A study may hold more: it was begun with a larger budget, or several workers ended theirs together.
    """
    paid: tuple[FrozenTrial, ...] = ()
    for trial in found.ended:
        if budget.is_spent(_spent(paid)):
            break
        paid += (trial,)
    return replace(found, ended=paid, spent=_spent(paid))


def _spent(ended: Sequence[FrozenTrial]) -> Spent:
    return Spent(
        len(ended),
        sum(trial.user_attrs.get(SECONDS, 0.0) for trial in ended),
        sum(trial.user_attrs.get(PHOTOS, 0) for trial in ended),
    )


def give_up(kept: Kept, trial: FrozenTrial, reason: str, *, again: bool = True) -> None:
    """Nothing; the running trial counts no more, and with `again` waits with the same values as another one.

    Where two workers say it of one trial, or it ends in this moment, the storage lets the first one through.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        kept.storage.set_trial_user_attr(trial._trial_id, LOST, reason)
        kept.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL, None)
    except UpdateFinishedTrialError:
        return
    # One without a lease was stopped while its values were drawn; they are drawn again, to the same ones.
    drawn = trial.params if LEASE in trial.user_attrs else {}
    values = trial.system_attrs.get("fixed_params", drawn)
    if again and values:
        kept.study.enqueue_trial(dict(values), user_attrs={ORIGIN: f"trial {trial.number}"})


def reap(kept: Kept) -> None:
    """Nothing; trials whose worker is gone are given up, to be done again."""
    from optuna.trial import TrialState

    for trial in kept.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        lease: dict[str, Any] | None = trial.user_attrs.get(LEASE)
        if has_run_out(lease, began, in_turns=kept.lock is not None):
            give_up(kept, trial, "its worker was stopped")


def begin_with_the_defaults(kept: Kept, space: Space) -> None:
    """Nothing; the values before tuning wait to be tried, unless they have been or are being tried."""
    found = tally(kept.study.get_trials(deepcopy=False))
    for trial in (*found.ended, *found.running, *found.waiting):
        if trial.system_attrs.get("fixed_params", trial.params) == space.start:
            return
    kept.study.enqueue_trial(dict(space.start), user_attrs={ORIGIN: DEFAULTS})


FACTS = "facts"
"""The name of the study's attribute that says what it tunes."""
SQLITE, JOURNAL = "sqlite:///", "journal:"
WAIT = 60
"""Seconds that a worker waits for another one's write to a file."""


@dataclass(frozen=True)
class Kept:
    """A study and where it is."""

    study: Study
    storage: BaseStorage
    where: str
    """As it may be shown: without password."""
    lock: Path | None
    """Of a study in a file on this machine: what workers take turns by. None where they do not."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A block that one worker at a time is in, where the study is in a file on this machine.

        SQLite has no locked rows, so that two workers could take the same trial. The system lets go of the
        lock of a worker that is killed. Databases and journals order their writes themselves.
        """
        with file_lock(self.lock) if self.lock else nullcontext():
            yield


def open_study(where: str, name: str, facts: dict[str, Any], pruner: BasePruner) -> Kept:
    """The study of that name, made where it is not there yet; it maximises.

    Raises WhalebenchError for a storage that cannot be opened, and for a study of that name that tunes
    something else.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shown = re.sub(r"//([^:/@]*):[^@]*@", r"//\1:***@", where)
    try:
        kept = _made(where, name, shown, pruner)
        if FACTS not in kept.study.user_attrs:
            _check_new(kept.study)
            kept.study.set_user_attr(FACTS, facts)
        said = kept.study.user_attrs[FACTS]
    except WhalebenchError:
        raise
    except Exception as error:  # every database has its own errors
        first = str(error).partition("\n")[0]
        raise WhalebenchError(
            f"storage {shown} cannot be opened ({first}): give sqlite:///FILE, journal:FILE or the URL of a "
            f"database whose driver is installed."
        ) from error
    for key, value in facts.items():
        if said.get(key) != value:
            raise WhalebenchError(
                f"study {name} was begun with another {key} ({said.get(key)}, not {value}): give --study "
                f"another name."
            )
    return kept


def _check_new(study: Study) -> None:
    """Nothing; raises WhalebenchError where someone else has begun the study for a purpose of their own."""
    from optuna.study import StudyDirection

    if study.get_trials(deepcopy=False) or study.directions != [StudyDirection.MAXIMIZE]:
        raise WhalebenchError(
            f"study {study.study_name} was not begun by `whalebench tune`: give --study another name."
        )


def _made(where: str, name: str, shown: str, pruner: BasePruner) -> Kept:
    """The study, made by the first who asks for it."""
    import optuna

    lock = _lock(where)
    with file_lock(lock) if lock else nullcontext():
        storage = _open(where)
        study = optuna.create_study(
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: each trial gets its own
            pruner=pruner,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
    return Kept(study, storage, shown, lock)


def _lock(where: str) -> Path | None:
    """Beside the file of an SQLite database; None for what can order the writes of several workers."""
    if not where.startswith("sqlite"):
        return None
    file = Path(where.removeprefix(SQLITE))
    if not where.startswith(SQLITE) or file.name in ("", ":memory:"):
        raise WhalebenchError(
            f"storage {where} is no file to keep a study in: give sqlite:///FILE, with three slashes."
        )
    if odd := sorted(set("?#{}") & set(where)):
        raise WhalebenchError(
            f"storage {where} cannot be a database's URL: leave {' '.join(odd)} out of it, with --study, "
            f"--storage, or --workspace."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.with_name(f"{file.name}.lock")


def _open(where: str) -> BaseStorage:
    from optuna import storages
    from optuna.storages import journal

    if where.startswith(JOURNAL):
        file = Path(where.removeprefix(JOURNAL))
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = journal.JournalFileOpenLock(str(file), grace_period=30)
        return storages.JournalStorage(journal.JournalFileBackend(str(file), lock_obj=lock))
    if "://" not in where:
        raise WhalebenchError(
            f"storage {where} is no place for a study: give sqlite:///FILE, journal:FILE or a database's URL."
        )
    in_file = where.startswith(SQLITE)
    return storages.RDBStorage(
        where,
        engine_kwargs={"connect_args": {"timeout": WAIT}} if in_file else {"pool_pre_ping": True},
        skip_compatibility_check=False,
        heartbeat_interval=None,  # it takes slow workers for dead ones; see lease.py
        grace_period=None,
        skip_table_creation=False,
    )
