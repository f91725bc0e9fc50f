"""The one visible folder everything lives in: its files, written whole or not at all, and its locks.

Opening a workspace also clears away what killed processes left there: only what whalebench itself names and
makes, by the whole name and by kind, and never through a link, because a folder of the workspace may hold
anything else of the user's and may stand for a folder outside of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from whalebench import RunFailedError, WhalebenchError

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""
WRITTEN = re.compile(r"\.tmp-[0-9a-f]{12}-.+|\.tmp-flukes-[a-z0-9_]{8}")
"""Names that `atomic_path` and the drawing of flukes give to what is not whole yet."""
MOVED = re.compile(r"\.(?P<run>.+)\.[0-9a-f]{8}\.(?P<kind>partial|old)")
"""Names that `write_run` gives to a run's folder while it is written, and to one that it replaces."""
LONG, MOMENT = 86_400.0, 60.0
"""Seconds after which nobody is writing any more, and after which nobody is between two moves."""
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
    with regular_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def check_output(path: Path) -> Path:
    """The path, which the user names to write to and which can be; done before the work that it is to hold.

    Raises WhalebenchError for a folder, for a path below a file, and for a disk or a socket.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG  # still to be made, as is what a link points to that leads nowhere
    except OSError as error:
        raise WhalebenchError(f"{path} cannot be written: {error.strerror}; give another path.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        kind = next((word for is_kind, word in KINDS if is_kind(mode)), "no file")
        raise WhalebenchError(f"{path} is {kind} and cannot be written; give the name of a file.")
    return path


@contextmanager
def output_path(path: Path) -> Iterator[Path]:
    """A temporary path; what the block writes there then goes to where the user says.

    A file is replaced, whole or not at all; where a link stands, the file that it points to, so that the
    link stays. Devices, named pipes and descriptors, as /dev/stdout, are opened and written to,
    and never replaced.
    """
    check_output(path)
    if path.exists() and _is_stream(path):
        with TemporaryDirectory() as folder:
            temporary = Path(folder) / path.with_suffix(path.suffix or ".out").name
            yield temporary
            _stream(temporary, path)
        return
    target = Path(os.path.realpath(path))
    with atomic_path(target) as temporary:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)


def write_output(path: Path, text: str) -> None:
    """Writes a text in UTF-8 to a path that the user names; see `output_path`."""
    with output_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _is_stream(path: Path) -> bool:
    """Whether it is no regular file, or one that is open already, as stdout sent to a file."""
    if not path.is_file() or os.path.realpath(path.parent).startswith("/proc/"):
        return True
    return _standard(path) is not None


def _standard(path: Path) -> int | None:
    """Which of stdout and stderr the path stands for, or None."""
    for descriptor in (1, 2):
        with suppress(OSError):  # it may be closed
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def _stream(content: Path, path: Path) -> None:
    """Writes a file's bytes behind what was written to a device, a pipe or a descriptor before."""
    try:
        standard = _standard(path)
        if standard is None:
            # A pipe that nobody reads would keep us waiting for ever.
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
        else:
            # Opened anew it would begin where the file begins; and what was printed before comes first.
            (sys.stdout if standard == 1 else sys.stderr).flush()
            descriptor = os.dup(standard)
        with content.open("rb") as source, os.fdopen(descriptor, "wb") as stream:
            shutil.copyfileobj(source, stream)
    except BrokenPipeError:
        raise  # who reads has seen enough
    except OSError as error:
        why = "nobody reads from it" if error.errno == errno.ENXIO else error.strerror
        raise RunFailedError(f"{path} cannot be written: {why}; mend that, or give another path.") from error
