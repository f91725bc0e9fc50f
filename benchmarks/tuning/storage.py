"""Where a study is kept: a file in the workspace, a journal file, or a database for several machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import WhalebenchError
from whalebench.benchmarks.turns import CAN_LOCK, turn

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage

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
        with turn(self.lock) if self.lock else nullcontext():
            yield


def open_study(where: str, name: str, facts: dict[str, Any], pruner: BasePruner) -> Kept:
    """The study of that name, made where it is not there yet; it maximises.

    Raises WhalebenchError for a storage that cannot be opened, and for a study of that name that tunes
    something else.
    """
    import optuna  # noqa: PLC0415  (half a second to import)

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
    from optuna.study import StudyDirection  # noqa: PLC0415

    if study.get_trials(deepcopy=False) or study.directions != [StudyDirection.MAXIMIZE]:
        raise WhalebenchError(
            f"study {study.study_name} was not begun by `whalebench tune`: give --study another name."
        )


def _made(where: str, name: str, shown: str, pruner: BasePruner) -> Kept:
    """The study, made by the first who asks for it."""
    import optuna  # noqa: PLC0415

    lock = _lock(where)
    with turn(lock) if lock else nullcontext():
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
    return file.with_name(f"{file.name}.lock") if CAN_LOCK else None


def _open(where: str) -> BaseStorage:
    from optuna import storages  # noqa: PLC0415
    from optuna.storages import journal  # noqa: PLC0415

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
