"""The one visible folder everything lives in, and how files get there whole or not at all."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from whalebench import WhalebenchError
from whalebench.benchmarks.leftovers import TEMPORARY, clear_leftovers


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
    def open(cls, root: Path) -> "Workspace":
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
