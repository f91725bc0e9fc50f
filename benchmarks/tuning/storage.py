"""Where a study is kept: an SQLite file of this machine, a journal, or a PostgreSQL server."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from whalebench import MissingError, WhalebenchError, one_line
from whalebench.benchmarks.core.files import digest_text, regular_file
from whalebench.benchmarks.core.machine import STORAGE
from whalebench.benchmarks.core.progress import Progress

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL, Connection, Dialect, Engine

SQLITE, JOURNAL, POSTGRESQL = "sqlite:///", "journal:", "postgresql"
DRIVER = "postgresql+psycopg"
"""The scheme that tells SQLAlchemy which driver to use."""
SECRET_FIELDS = ("password", "sslpassword")
"""Fields of a URL's query that hold a password."""
TIMEOUT = 60
"""Seconds that a worker waits for another one's write, and for a server that is restarted."""
RETRY = 0.2
"""Seconds from one knock at a server that is away to the next."""


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


def refuse_damaged(file: Path) -> None:
    """Raises ValueError for a file of SQLite whose tables and indices do not agree."""
    if file.exists() and file.stat().st_size:
        with closing(sqlite3.connect(regular_file(file), timeout=TIMEOUT)) as database:
            ((found,), *_) = database.execute("PRAGMA integrity_check").fetchall()
        if found != "ok":
            raise ValueError(f"it is damaged: {found}")


def server_of(storage: BaseStorage, progress: Progress) -> Engine | None:
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


def lock_file(url: str) -> Path | None:
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


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage of that URL; WhalebenchError for what is none."""
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


def tables_lock(url: str) -> AbstractContextManager[None]:
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
