"""What processes leave that were killed while they wrote: taken away, and a run they had moved put back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""
LONG, MOMENT = 86_400.0, 60.0
"""Seconds after which nobody is writing any more, and after which nobody is between two moves."""


def clear_leftovers(folders: Iterable[Path]) -> None:
    """Nothing; the folders hold no half-written files of processes that are long gone.

    A run that was moved away to be replaced, by a process that came no further, is back in its place.
    """
    for path in _leftovers(folders):
        with suppress(OSError):  # another process clears, too
            age = time.time() - path.lstat().st_ctime
            if (replaced := _replaced(path)) and not replaced.exists():
                if age > MOMENT:
                    path.rename(replaced)
            elif age > LONG:
                _delete(path)


def _leftovers(folders: Iterable[Path]) -> Iterator[Path]:
    """Temporary files and folders of `atomic_path` and `write_run`."""
    for folder in folders:
        for path in folder.glob(".*"):
            if path.name.startswith(TEMPORARY) or path.name.endswith((".partial", ".old")):
                yield path


def _replaced(path: Path) -> Path | None:
    """The run whose old folder this is, moved away as .RUN.mark.old; None for anything else."""
    run, *rest = path.name[1:].rsplit(".", 2)
    return path.with_name(run) if len(rest) == 2 and rest[1] == "old" else None


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
