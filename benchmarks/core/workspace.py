"""The one visible folder everything lives in, and how files get there whole or not at all.

What processes leave that were killed while they wrote: taken away, and a run they had moved put back.

Only what whalebench itself names and makes, by the whole name and by kind, and never through a link: a
folder of the workspace may hold anything else of the user's, and may stand for a folder outside of it.

Turns: what one process at a time may do, on one machine.

Who is at a run: one process at a time, so that none does what another one is doing.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from whalebench import WhalebenchError

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""
LONG, MOMENT = 86_400.0, 60.0
"""Seconds after which nobody is writing any more, and after which nobody is between two moves."""
WRITTEN = re.compile(r"\.tmp-[0-9a-f]{12}-.+|\.tmp-flukes-[a-z0-9_]{8}")
"""Names that `atomic_path` and the drawing of flukes give to what is not whole yet."""
MOVED = re.compile(r"\.(?P<run>.+)\.[0-9a-f]{8}\.(?P<kind>partial|old)")
"""Names that `write_run` gives to a run's folder while it is written, and to one that it replaces."""


def clear_leftovers(folders: Iterable[Path], runs: Path) -> None:
    """Deletes half-written files of processes that are long gone from the folders and from that of runs.

    A run that was moved away to be replaced, by a process that came no further, is put back.
    """
    for path in _ours(folders, WRITTEN):
        if _age(path) > LONG:
            _delete(path)
    for path in _ours([runs], MOVED):
        name = MOVED.fullmatch(path.name)
        if name is None or not path.is_dir():
            continue
        replaced = path.with_name(name["run"])
        if name["kind"] == "old" and not replaced.exists():
            if _age(path) > MOMENT:
                with suppress(OSError):  # another process puts it back, too
                    path.rename(replaced)
        elif _age(path) > LONG:
            _delete(path)


def _ours(folders: Iterable[Path], pattern: re.Pattern[str]) -> Iterator[Path]:
    """Files and folders of such names that stand in the folders themselves; links neither way."""
    for folder in folders:
        if not folder.is_symlink():
            yield from (
                path for path in folder.glob(".*") if pattern.fullmatch(path.name) and not path.is_symlink()
            )


def _age(path: Path) -> float:
    """Seconds since something last happened to it; 0 where another process has just taken it away."""
    with suppress(OSError):
        return time.time() - path.lstat().st_ctime
    return 0.0


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # another process clears, too
            path.unlink()


try:
    import fcntl
except ImportError:  # not on every system; then nobody waits
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
"""Whether this system has such locks."""


@contextmanager
def turn(lock: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A block that one process at a time is in; `waits` is called where another one is in it.

    The system lets go of the lock of a process that is killed. The file is gone when nobody is in the block.
    """
    if not CAN_LOCK:
        yield
        return
    while True:
        with _opened(lock) as file:
            if not _taken(file):
                waits()
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(file, lock):  # the one before has deleted it: what is locked is no longer there
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def is_taken(lock: Path) -> bool:
    """Whether a process is in the block of that lock right now."""
    if not CAN_LOCK:
        return False
    try:
        with lock.open() as file:
            return not _taken(file)
    except FileNotFoundError:
        return False


def _opened(lock: Path) -> IO[str]:
    try:
        return lock.open("a")
    except PermissionError:  # of another user, who is in the block: to be waited for, it need not be written
        return lock.open()


def _taken(file: IO[str]) -> bool:
    """Whether the lock is this process's now, or this file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Workspace:
    """The folder of benchmarks, runs, reports and caches; open it with `Workspace.open`."""

    root: Path

    @property
    def benchmarks(self) -> Path:
        """The folder with one folder for each benchmark."""
        return self.root / "benchmarks"

    @property
    def runs(self) -> Path:
        """The folder with one folder for each finished run."""
        return self.root / "runs"

    @property
    def reports(self) -> Path:
        """The folder of written reports."""
        return self.root / "reports"

    @property
    def cache(self) -> Path:
        """The folder of everything that can be made again."""
        return self.root / "cache"

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """The workspace at `root`, its four folders made where absent; an unwritable one is refused."""
        workspace = cls(Path(root).absolute())
        for folder in (workspace.benchmarks, workspace.runs, workspace.reports, workspace.cache):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Permission bits do not tell (root, network folders, read-only mounts): really write.
                probe = folder / f".probe-{secrets.token_hex(4)}"
                probe.write_bytes(b"probe")
                probe.unlink()
            except OSError as error:
                raise WhalebenchError(
                    f"The workspace {workspace.root} cannot be written ({error.strerror or error}); "
                    "choose a folder you may write to with --workspace or WHALEBENCH_WORKSPACE."
                ) from error
        outer = (workspace.benchmarks, workspace.cache)
        within = (inner for folder in outer if not folder.is_symlink() for inner in folder.glob("*/"))
        clear_leftovers((*outer, workspace.reports, *within), workspace.runs)
        return workspace


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block succeeds and removed when it fails.

    The block may make a file there or a folder. The suffix is kept, since some writers go by it.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")
    _make_folder(path.parent)
    try:
        yield temporary
        _move(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def atomic_text(path: Path, text: str) -> None:
    """Nothing; `path` then holds `text` in UTF-8 with its line ends as given, or is as it was before."""
    with atomic_path(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            raise _unwritable(path, error) from error


def flush(path: Path) -> None:
    """Nothing; what the path is named for is on the disk, and not only on its way there.

    A power cut may else leave a new name with nothing behind it.
    """
    with suppress(OSError) if path.is_dir() else nullcontext():  # not every system can do it with folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def share(file: Path) -> None:
    """Nothing; whoever may read and write files in the folder of this one may do so with it.

    Some writers make a file that is for its owner alone.
    """
    file.chmod(file.parent.stat().st_mode & 0o666)


def digest_text(text: str) -> str:
    """The SHA-256 of a text in UTF-8, as 64 hexadecimal digits.

    >>> digest_text("fluke")[:8]
    '7625d82f'
    """
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _move(temporary: Path, path: Path) -> None:
    try:
        flush(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> WhalebenchError:
    return WhalebenchError(
        f"{path} cannot be written: {error.strerror or error}; "
        "free some space or make the folder writable, then try again."
    )


def run_lock(workspace: Workspace, run: str, waits: Callable[[], None]) -> AbstractContextManager[None]:
    """A block in which no other process of this machine is at the run; `waits` is called where one is."""
    lock = _lock(workspace, run)
    lock.parent.mkdir(exist_ok=True)
    return turn(lock, waits)


def is_run_locked(workspace: Workspace, run: str) -> bool:
    """Whether a process is at the run right now."""
    return is_taken(_lock(workspace, run))


def _lock(workspace: Workspace, run: str) -> Path:
    return workspace.cache / "claimed" / run
