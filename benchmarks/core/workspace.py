"""The one visible folder everything lives in: its files, written whole or not at all, and its locks.

What is not whole yet stands in the workspace's folder `temporary`, in a folder for each writer with a
manifest of who that is and a lock that it holds. Opening a workspace clears away there, and nowhere else,
what is left of writers that are gone: the lock says so, or the system where there are no locks; no clock.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock, Timeout

from whalebench import RunFailedError, WhalebenchError, one_line
from whalebench.benchmarks.core.copies import copy_of
from whalebench.benchmarks.core.files import refuse_not_utf8
from whalebench.benchmarks.core.machine import place_of_processes, start_time

TEMPORARY = "temporary"
"""The folder of a workspace with a folder for each writer."""
WRITER = re.compile(r"[0-9a-f]{12}")
"""How the folders in there are called."""
LOCK, MANIFEST, OLD = "lock", "manifest.json", "old"
"""What a writer's folder holds besides what it writes: its lock, who it is, and the folder it replaces."""
UNSEEN = re.compile(r"\.new-[0-9a-f]{12}-.+")
"""How anything is called that is not in its place yet."""
CLAIMED = "claimed"
"""The folder of the cache with the locks of runs and benchmarks."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)
"""Errors of file systems that have no locks."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that is full, or of a share of it."""


class ExistsError(WhalebenchError):
    """Something stands there that is never replaced."""


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

    @property
    def folders(self) -> tuple[Path, ...]:
        """The four folders that make it a workspace."""
        return self.benchmarks, self.runs, self.reports, self.cache

    @property
    def address(self) -> str:
        """What another process, on another machine as well, opens it by: its URL, or the path of its root."""
        copy = copy_of(self.root)
        return copy.url if copy else str(self.root)

    @classmethod
    def open(cls, root: Path, *, write: bool = True) -> Workspace:
        """The workspace at `root`, its folders made where absent; an unwritable one is refused.

        Only to be read, with `write` false, it is taken as it is, and nothing is made, cleared or tried. The
        working copy of one at a URL holds afterwards what is there.
        """
        workspace = cls(Path(root).absolute())
        refuse_not_utf8([str(workspace.root)])
        if workspace.root.exists() and not workspace.root.is_dir():
            raise WhalebenchError(f"The workspace {workspace.root} is no folder: give another --workspace.")
        copy = copy_of(workspace.root)
        if write or copy:
            _make_writable(workspace)
        if copy:
            with file_lock(workspace.cache / CLAIMED / "copy"):
                copy.pull(_here, write=write)
        return workspace


def _make_writable(workspace: Workspace) -> None:
    clear_temporary(workspace.root)  # first: it may be all that keeps a disk full
    for folder in workspace.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Permission bits do not tell (root, network folders, read-only mounts): really write.
            with TemporaryFile(dir=folder, buffering=0) as probe:
                probe.write(b"probe")
        except OSError as error:
            raise _kind(error)(
                f"The workspace {workspace.root} cannot be written ({_why(error)}): free some space, or "
                "choose a folder you may write to with --workspace or WHALEBENCH_WORKSPACE."
            ) from error


@contextmanager
def atomic_path(
    path: Path, *, exclusive: bool = False, kept: str = "then try again", shared: bool = True
) -> Iterator[Path]:
    """A temporary path, moved onto `path` when the block succeeds and removed when it fails.

    The block may make a file there or a folder; a folder that stands at `path` is moved away before it is
    deleted, so that no half of it is ever seen. The suffix is kept, since some writers go by it. With
    `exclusive` nothing is replaced: raises ExistsError where something stands there in the end. What else
    keeps it from being written, in the block too, is a sentence: see `refuse_unwritable`. What is `shared`
    goes to the URL of a workspace that is at one, whole or not at all.
    """
    if any(map(UNSEEN.fullmatch, path.parent.parts)):  # whole or not at all with the folder that it is in
        yield path
        return
    copy = copy_of(path.parent) if shared else None
    if copy and not copy.shares(path):
        copy = None
    with refuse_unwritable(path, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as (temporary, old):
            yield temporary
            sync_to_disk(temporary)
            if copy and not (exclusive and os.path.lexists(path)):
                copy.intend(path, is_folder=temporary.is_dir(), exclusive=exclusive)
            try:
                _put(temporary, path, old, exclusive=exclusive)
            except OSError as error:
                if exclusive and os.path.lexists(path):
                    raise ExistsError(f"{path} is there already and is never replaced.") from error
                raise
    if copy and not copy.send(path, _here, exclusive=exclusive):
        raise ExistsError(f"{path} is there already and is never replaced.")


_here = partial(atomic_path, shared=False)
"""The same of what stays in the working copy of a workspace at a URL."""


def atomic_text(path: Path, text: str, *, exclusive: bool = False) -> None:
    """Writes the text in UTF-8 with its line ends as given, whole or not at all; see `atomic_path`."""
    with atomic_path(path, exclusive=exclusive) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _put(temporary: Path, path: Path, old: Path, *, exclusive: bool) -> None:
    """Moves what was made into its place; `old` is where a folder goes that is replaced."""
    if temporary.is_dir() and path.is_dir() and not exclusive:
        if (manifest := old.with_name(MANIFEST)).exists():
            sync_to_disk(manifest)  # it says where this belongs
        path.rename(old)
        _move(temporary, path)
        old.rename(temporary)  # it is not to be put back any more, least of all when half of it is deleted
    elif temporary.is_dir() or not exclusive:
        _move(temporary, path)
    else:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # no file has two names there
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            _move(temporary, path)


def _move(temporary: Path, path: Path) -> None:
    """Renames it; where another file system is mounted in between, a copy beside the path."""
    try:
        temporary.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = path.with_name(_unseen_name(path))
        try:
            (shutil.copytree if temporary.is_dir() else shutil.copy2)(temporary, beside)
            beside.replace(path)
        finally:
            _delete(beside)


def _unseen_name(path: Path) -> str:
    return f".new-{secrets.token_hex(6)}-{path.name}"


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, Path]]:
    """Where what is to stand at the path is written, and where what stands there now is moved.

    Outside of a workspace, and where a folder of it is linked to another disk, both are beside the path. Both
    are gone afterwards; what was moved away and not replaced is back.
    """
    root = _workspace_of(path)
    with _writer(root, path) if root else nullcontext() as folder:
        temporary = (folder or path.parent) / _unseen_name(path)
        old = folder / OLD if folder else path.with_name(_unseen_name(path))
        try:
            yield temporary, old
        finally:
            if os.path.lexists(old) and not os.path.lexists(path):  # stopped between the two moves
                old.rename(path)
            _delete(temporary)


def _workspace_of(path: Path) -> Path | None:
    """The workspace that the path is in, on the same disk as its folder of temporary files; else None."""
    for root in path.absolute().parents:
        if all(folder.is_dir() for folder in Workspace(root).folders):
            folder = root / TEMPORARY
            with suppress(FileExistsError):
                folder.mkdir()
            is_near = folder.stat().st_dev == path.parent.stat().st_dev
            return root if is_near and not folder.is_symlink() and folder.is_dir() else None
    return None


@contextmanager
def _writer(root: Path, path: Path) -> Iterator[Path]:
    """A folder of this writer's own, with a manifest and its lock held while the block lasts."""
    folder, lock = _locked_folder(root / TEMPORARY)
    try:
        # Nobody reads it here who may not read it there.
        folder.chmod(stat.S_IMODE(path.parent.stat().st_mode))
        manifest = {
            "purpose": path.absolute().relative_to(root).as_posix(),
            "host": place_of_processes(),
            "process": os.getpid(),
            "started": start_time(os.getpid()),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        yield folder
    finally:
        lock.release()
        if not os.path.lexists(folder / OLD):  # else it could not be put back, and is for the next clearing
            _delete(folder)


def _locked_folder(temporary: Path) -> tuple[Path, FileLock]:
    """A new folder in there, and its lock, held."""
    while True:
        folder = temporary / secrets.token_hex(6)
        folder.mkdir()
        lock = FileLock(folder / LOCK)
        with suppress(FileNotFoundError):  # as where it is cleared in the moment between the two
            if _acquire(lock):
                return folder, lock


def clear_temporary(root: Path) -> None:
    """Deletes from the workspace's folder of temporary files those of writers that are gone.

    Nothing else anywhere is deleted or moved, and no link is followed. A folder that was moved away to be
    replaced, by a process that came no further, is put back.
    """
    folder = root / TEMPORARY
    if not _is_real(folder, stat.S_ISDIR):
        return
    with suppress(OSError):  # a folder that cannot be read, or that another process clears
        for entry in folder.iterdir():
            if WRITER.fullmatch(entry.name) and _is_real(entry, stat.S_ISDIR):
                with suppress(OSError):
                    _clear_abandoned(entry, root)


def _clear_abandoned(entry: Path, root: Path) -> None:
    """Deletes that folder if its writer is gone; what it had moved away is then where it was."""
    if not any(entry.iterdir()):  # stopped before there was a lock
        entry.rmdir()
    elif _is_real(entry / LOCK, stat.S_ISREG):
        lock = FileLock(entry / LOCK)
        try:
            # With the lock held: else a writer that is about to take it would be in a folder that vanishes.
            if _acquire(lock) and _is_abandoned(entry, root, lock.is_locked):
                _delete(entry)
        finally:
            lock.release()


def _is_abandoned(entry: Path, root: Path, has_lock: bool) -> bool:
    """Whether the writer of that folder, whose lock is ours or there is none, is gone."""
    manifest = _read_manifest(entry)
    if manifest is None:  # stopped before it was whole, and then before anything else was written
        return has_lock and {path.name for path in entry.iterdir()} <= {LOCK, MANIFEST}
    if not has_lock and not _has_ended(manifest):
        return False
    replaced = root / manifest["purpose"]
    if os.path.lexists(entry / OLD):
        (entry / OLD).rename(entry / "gone" if os.path.lexists(replaced) else replaced)
    return True


def _has_ended(manifest: dict[str, Any]) -> bool:
    """Whether the process is known to be none of this machine's any more."""
    is_here = manifest["host"] == place_of_processes()
    return is_here and manifest["started"] not in ("", start_time(manifest["process"]))


def _read_manifest(entry: Path) -> dict[str, Any] | None:
    """What a writer's folder says of it; None where that is not whole, or not ours."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        purpose = PurePosixPath(manifest["purpose"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    is_ours = (
        manifest.keys() >= {"host", "process", "started"} and purpose.parts and ".." not in purpose.parts
    )
    return manifest if is_ours and not purpose.is_absolute() else None


def _is_real(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether such a file stands there itself, and not a link to one."""
    try:
        return kind(path.lstat().st_mode)
    except OSError:
        return False


def _delete(path: Path) -> None:
    """Deletes a file, a link or a folder; what is not there, or cannot be deleted, is left."""
    if _is_real(path, stat.S_ISDIR):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def refuse_unwritable(path: Path, kept: str = "then try again") -> Iterator[None]:
    """A block that writes to the path; what keeps it from that is a sentence, which ends in `kept`.

    RunFailedError where the disk is full, else WhalebenchError.
    """
    try:
        yield
    except OSError as error:
        raise _kind(error)(
            f"{path} cannot be written ({_why(error)}): free some space or make the folder writable, {kept}."
        ) from error


def _kind(error: OSError) -> type[WhalebenchError]:
    return RunFailedError if error.errno in NO_ROOM else WhalebenchError


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else one_line(error, 120)


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


@contextmanager
def file_lock(path: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A block that one process at a time is in; `waits` is called once where another one is in it.

    The system lets go of the lock of a process that is killed. The file stays, since all have to lock the
    same one. Where the file system has no locks nobody waits.
    """
    with refuse_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, mode=_file_mode(path.parent))
        is_mine = _acquire(lock)
    try:
        if not is_mine:
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
    return file_lock(workspace.cache / CLAIMED / run, waits)


def is_run_locked(workspace: Workspace, run: str) -> bool:
    """Whether a process is making the run right now."""
    return is_locked(workspace.cache / CLAIMED / run)


def benchmark_lock(
    workspace: Workspace, name: str, waits: Callable[[], None]
) -> AbstractContextManager[None]:
    """A block in which no other process imports, draws or splits the benchmark; `waits` as for a run."""
    return file_lock(workspace.cache / CLAIMED / f"benchmark {name}", waits)
