"""The one visible folder everything lives in: its files, written whole or not at all, and its locks.

Opening a workspace also clears away what killed processes left there: only what whalebench itself names and
makes, by the whole name and by kind, and never through a link, because a folder of the workspace may hold
anything else of the user's and may stand for a folder outside of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from whalebench import WhalebenchError

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""
WRITTEN = re.compile(r"\.tmp-[0-9a-f]{12}-.+|\.tmp-flukes-[a-z0-9_]{8}")
"""Names that `atomic_path` and the drawing of flukes give to what is not whole yet."""
MOVED = re.compile(r"\.(?P<run>.+)\.[0-9a-f]{8}\.(?P<kind>partial|old)")
"""Names that `write_run` gives to a run's folder while it is written, and to one that it replaces."""
LONG, MOMENT = 86_400.0, 60.0
"""Seconds after which nobody is writing any more, and after which nobody is between two moves."""
DEEPEST = 64
"""Levels of lists and dictionaries that a JSON document may have, far more than any written here has."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)
"""Errors of file systems that have no locks."""


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
    with _refuse_unwritable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with _refuse_unwritable(path):
            sync_to_disk(temporary)
            temporary.replace(path)
    finally:
        _delete(temporary)


def atomic_text(path: Path, text: str) -> None:
    """Writes the text to `path` in UTF-8 with its line ends as given, whole or not at all."""
    with atomic_path(path) as temporary, _refuse_unwritable(path):
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def _refuse_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WhalebenchError(
            f"{path} cannot be written: {error.strerror or error}; "
            "free some space or make the folder writable, then try again."
        ) from error


def sync_to_disk(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk, and not only on their way there.

    A power cut may else leave a new name with nothing behind it.
    """
    with suppress(OSError) if path.is_dir() else nullcontext():  # not every system can do it with folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def inherit_permissions(file: Path) -> None:
    """Lets whoever may read and write files in a file's folder do so with the file.

    Some writers make a file that is for its owner alone.
    """
    file.chmod(_file_mode(file.parent))


def _file_mode(folder: Path) -> int:
    """The permissions of a folder as those of a file in it."""
    return folder.stat().st_mode & 0o666


KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
"""What a path may be that is no regular file."""


def regular_file(path: Path) -> Path:
    """The path, which a regular file stands at, or a link to one; anything else might be read for ever.

    Raises WhalebenchError for what is another kind of file, and OSError where there is none.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((word for is_kind, word in KINDS if is_kind(mode)), "no regular file")
        raise WhalebenchError(f"{path} is {kind} and is not read; give a regular file.")
    return path


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


def digest_once(path: Path) -> str:
    """The same of a large file, which is read once a process while it is left alone."""
    return _digest_of(path, *file_state(path))


def file_state(path: Path) -> tuple[int, int, int, int]:
    """Size, times of content and entry, and number of a file: others when it is written or replaced."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@cache
def _digest_of(path: Path, *_: int) -> str:
    return digest_file(path)


def with_digest(document: Mapping[str, Any], key: str = "digest") -> dict[str, Any]:
    """The JSON document with a digest of all else in it under that key; order and layout play no part."""
    rest = {name: value for name, value in document.items() if name != key}
    return rest | {key: digest_text(json.dumps(rest, sort_keys=True))}


def differs_from_digest(document: Mapping[str, Any], key: str = "digest") -> bool:
    """Whether a document says something else than when it was written; older ones have no digest to tell."""
    return bool(document.get(key)) and document[key] != with_digest(document, key)[key]


def parse_json(content: bytes) -> Any:
    """The JSON document in some bytes of UTF-8.

    Raises ValueError for what is none, or none that is written here: with numbers that are not finite or
    have more than 64 bits, or with more than DEEPEST levels.
    """
    try:
        document = json.loads(content, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return document


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits[:20]}... is too large a number")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is not finite")
    return number


@contextmanager
def file_lock(path: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A block that one process at a time is in; `waits` is called once where another one is in it.

    The system lets go of the lock of a process that is killed. The file stays, since all have to lock the
    same one. Where the file system has no locks nobody waits.
    """
    lock = FileLock(path, mode=_file_mode(path.parent))
    try:
        if not _acquire(lock):
            waits()
            lock.acquire()
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process is in the block of that lock right now."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        return not _acquire(lock)
    finally:
        lock.release()


def _acquire(lock: FileLock) -> bool:
    """Whether the lock is this process's now, or the file system has none."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def run_lock(workspace: Workspace, run: str, waits: Callable[[], None]) -> AbstractContextManager[None]:
    """A block in which no other process of this machine makes the run; `waits` is called where one does."""
    path = _run_lock_path(workspace, run)
    path.parent.mkdir(exist_ok=True)
    return file_lock(path, waits)


def is_run_locked(workspace: Workspace, run: str) -> bool:
    """Whether a process is making the run right now."""
    return is_locked(_run_lock_path(workspace, run))


def _run_lock_path(workspace: Workspace, run: str) -> Path:
    return workspace.cache / "claimed" / run


def clear_leftovers(folders: Iterable[Path], runs: Path) -> None:
    """Deletes half-written files of processes that are long gone from the folders and from that of runs.

    A run that was moved away to be replaced, by a process that came no further, is put back.
    """
    for path in _of_whalebench(folders, WRITTEN):
        if _age(path) > LONG:
            _delete(path)
    for path in _of_whalebench([runs], MOVED):
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


def _of_whalebench(folders: Iterable[Path], pattern: re.Pattern[str]) -> Iterator[Path]:
    """Files and folders of such names that stand in the folders themselves; links neither way."""
    for folder in folders:
        if not folder.is_symlink():
            yield from (
                path for path in folder.glob(".*") if pattern.fullmatch(path.name) and not path.is_symlink()
            )


def _age(path: Path) -> float:
    """Seconds since something last happened to a file; 0 where another process has just taken it away."""
    with suppress(OSError):
        return time.time() - path.lstat().st_ctime
    return 0.0


def _delete(path: Path) -> None:
    """Deletes a file or a folder; what is not there, or cannot be deleted, is left."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # another process clears, too
            path.unlink()
