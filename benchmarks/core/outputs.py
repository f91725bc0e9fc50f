"""Files that the user names to write to: as the user says, be it a file, a link, a device or a pipe."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from whalebench import RunFailedError, WhalebenchError, table_cell
from whalebench.benchmarks.core.files import KINDS
from whalebench.benchmarks.core.workspace import atomic_path

if TYPE_CHECKING:
    import pandas as pd


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


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV, in which no text is a formula."""
    texts = table.select_dtypes(include=["object", "str"]).columns
    cells = table.assign(**{name: table[name].map(table_cell) for name in texts})
    return cells.to_csv(index=False, lineterminator="\n")
