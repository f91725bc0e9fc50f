"""A study: where it is kept, what has become of its trials, and who is at work on each.

It is kept in a file of the workspace, a journal file, or a database for several machines. A worker leaves a
lease on its trial, so that a trial whose worker was killed is known and done by another. Optuna's own
heartbeat takes slow workers for dead ones and the other way round, and is for databases only. A worker on
this machine is looked up; of one elsewhere all there is to go by is how long it has been silent.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from whalebench import MissingError, RunFailedError, WhalebenchError, one_line
from whalebench.benchmarks.core.files import digest_text, regular_file
from whalebench.benchmarks.core.machine import STORAGE, place_of_processes, start_time
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.workspace import NO_ROOM, file_lock
from whalebench.benchmarks.tuning.space import Budget, Space, Spent

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.engine import URL, Connection, Dialect, Engine

FACTS = "facts"
"""The name of the study's attribute that says what it tunes."""
LEASE, LOST, ORIGIN = "lease", "lost", "origin"
"""Names of a trial's attributes: who is at work on it, why its worker gave it up, and why it was queued."""
DIGEST = "digest"
"""And the digest of what was tried and what came of it, when it ended; trials of older versions have none."""
SETTINGS, REASON, SECONDS, PHOTOS = "settings", "reason", "seconds", "photos"
"""And what came of it: what to type after --set to repeat it, why it failed, what it cost."""
DEFAULTS = "the defaults"
SQLITE, JOURNAL, POSTGRESQL = "sqlite:///", "journal:", "postgresql"
DRIVER = "postgresql+psycopg"
"""The scheme that tells SQLAlchemy which driver to use."""
SECRET_FIELDS = ("password", "sslpassword")
"""Fields of a URL's query that hold a password."""
TIMEOUT = 60
"""Seconds that a worker waits for another one's write, and for a server that is restarted."""
RETRY = 0.2
"""Seconds from one knock at a server that is away to the next."""
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


def read_storage(given: str | None) -> str | None:
    """The storage that --storage names: a URL, or the one line of the FILE of @FILE.

    Raises WhalebenchError for a password that was typed, and for a file that cannot be read.
    """
    if given is None:
        return None
    if given.startswith("@"):
        try:
            return regular_file(Path(given[1:])).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise WhalebenchError(
                f"--storage {one_line(given, 100)} cannot be read ({reason}): give @FILE, with a URL in it."
            ) from error
    parsed = None if given == os.environ.get(STORAGE) else _parsed(given)
    if parsed and (parsed.password or set(SECRET_FIELDS) & set(parsed.query)):
        raise WhalebenchError(
            f"--storage {shown_url(given)} holds a password, which everybody on this machine can read in the "
            f"list of processes: put the URL into {STORAGE}, or into a file, and give --storage @FILE."
        )
    return given


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


def _refuse_damaged(file: Path) -> None:
    """Raises ValueError for a file of SQLite whose tables and indices do not agree."""
    if file.exists() and file.stat().st_size:
        with closing(sqlite3.connect(regular_file(file), timeout=TIMEOUT)) as database:
            ((found,), *_) = database.execute("PRAGMA integrity_check").fetchall()
        if found != "ok":
            raise ValueError(f"it is damaged: {found}")


def _create(url: str, name: str, pruner: BasePruner, progress: Progress) -> StudyHandle:
    """The study, made by the first who asks for it."""
    import optuna

    lock = _lock_file(url)
    with file_lock(lock) if lock else _tables_lock(url):
        if lock:
            _refuse_damaged(Path(url.removeprefix(SQLITE)))
        storage = _open_storage(url)
        server = _server(storage, progress)
        study = optuna.create_study(
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: each trial gets its own
            pruner=pruner,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
    return StudyHandle(study, storage, url, lock, server)


def _server(storage: BaseStorage, progress: Progress) -> Engine | None:
    """The PostgreSQL that a storage is in, which from now on is waited for; None for others."""
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    if not isinstance(storage, RDBStorage) or storage.engine.dialect.name != POSTGRESQL:
        return None

    @event.listens_for(storage.engine, "do_connect")
    def connect(dialect: Dialect, _: object, words: list[Any], options: dict[str, Any]) -> object:
        until, is_said = time.monotonic() + TIMEOUT, False
        while True:
            try:
                return dialect.connect(*words, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > until:
                    raise
            if not is_said:
                progress.stage("wait for the server")
            is_said = True
            time.sleep(RETRY)

    return storage.engine


@contextmanager
def advisory_lock(server: Engine, name: str) -> Iterator[None]:
    """A block of PostgreSQL's advisory lock of that name; it ends with the connection, however that ends."""
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    key = int(digest_text(f"whalebench {name}")[:15], 16)
    connection: Connection = server.connect()
    try:
        # A machine that lost its power in this block keeps the others waiting for two minutes, not for hours.
        for setting in (f"lock_timeout = '{3 * TIMEOUT}s'", f"tcp_keepalives_idle = {TIMEOUT}"):
            connection.execute(text(f"SET LOCAL {setting}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        yield
    finally:
        with suppress(SQLAlchemyError):  # the server may be away
            connection.invalidate()
            connection.close()


def shown_url(url: str) -> str:
    """A storage's URL as anybody may see it: without password and query, and of what is no URL its scheme.

    >>> shown_url("postgresql://ann:secret@host/db?password=secret"), shown_url("mysql://ann:se@cret@host/db")
    ('postgresql://ann:***@host/db?...', 'mysql:...')
    """
    if url.startswith((SQLITE, JOURNAL)):
        address, query = url.partition("?")[::2]
    elif parsed := _parsed(url):
        address, query = parsed.set(query={}).render_as_string(hide_password=True), str(parsed.query or "")
    else:
        scheme, colon, _ = url.partition(":")
        address, query = f"{scheme}{colon and ':...'}", ""
    return one_line(f"{address}{query and '?...'}", 100)


def without_secrets(text: str, url: str) -> str:
    """A text of a library, which may quote the URL or what is secret in it.

    >>> without_secrets("no secret for ann in x://ann:secret@host/db", "x://ann:secret@host/db")
    'no *** for ann in x://ann:***@host/db'
    """
    text = text.replace(url, shown_url(url))
    if (parsed := _parsed(url)) is None:
        return text
    values = (value if isinstance(value, tuple) else (value,) for value in parsed.query.values())
    secrets = [str(parsed.password or ""), *chain.from_iterable(values)]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for written in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(written, "***")
    return text


def _parsed(url: str) -> URL | None:
    """The parts of a database's URL; None for what is none, or has more than one @: a host may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    return None if "@" in f"{parsed.host}{parsed.database}" else parsed


def _lock_file(url: str) -> Path | None:
    """Beside the file of an SQLite database; None for what can order the writes of several workers."""
    if not url.startswith("sqlite"):
        return None
    file = Path(url.removeprefix(SQLITE))
    if not url.startswith(SQLITE) or file.name in ("", ":memory:"):
        raise WhalebenchError(
            f"storage {shown_url(url)} is no file to keep a study in: give sqlite:///FILE, with 3 slashes."
        )
    if refused := sorted(set("?#{}") & set(url)):
        raise WhalebenchError(
            f"storage {shown_url(url)} cannot be a database's URL: leave {' '.join(refused)} out of it, with "
            f"--study, --storage, or --workspace."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.with_name(f"{file.name}.lock")


def _open_storage(url: str) -> BaseStorage:
    from optuna import storages
    from optuna.storages import journal
    from sqlalchemy.pool import NullPool

    if url.startswith(JOURNAL):
        file = Path(url.removeprefix(JOURNAL))
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            regular_file(file)
        lock = journal.JournalFileOpenLock(str(file), grace_period=30)
        return storages.JournalStorage(journal.JournalFileBackend(str(file), lock_obj=lock))
    if "://" not in url:
        raise WhalebenchError(
            f"storage {shown_url(url)} is no place for a study: give sqlite:///FILE, journal:FILE or a URL."
        )
    if not url.startswith(SQLITE) and _parsed(url) is None:
        raise WhalebenchError(
            f"storage {shown_url(url)} cannot be read as a URL: in a user's name and password write @ : / "
            f"and ? as %40 %3A %2F and %3F."
        )
    # Without Optuna's heartbeat: a trial's lease does its work.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith(SQLITE):
        options = {"connect_args": {"timeout": TIMEOUT}}
    elif _is_postgresql(url):
        # None is idle when the server is restarted, and hundreds of workers do not use up those it has.
        options = {"poolclass": NullPool}
    return storages.RDBStorage(_with_driver(url), options)


def _is_postgresql(url: str) -> bool:
    return url.partition("://")[0] in (POSTGRESQL, "postgres", DRIVER)


def _tables_lock(url: str) -> AbstractContextManager[None]:
    """A block in which one worker at a time makes the tables of a PostgreSQL database."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    if not _is_postgresql(url) or _parsed(url) is None:
        return nullcontext()
    return advisory_lock(create_engine(_with_driver(url), poolclass=NullPool), "tables")


def _with_driver(url: str) -> str:
    """The URL with the driver that is meant where it names none; MissingError where that is not installed."""
    if not _is_postgresql(url):
        return url
    if find_spec("psycopg") is None:
        raise MissingError(
            f"storage {shown_url(url)} needs a package that is not installed: install whalebench[postgresql]."
        )
    return f"{DRIVER}://{url.partition('://')[2]}"


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
