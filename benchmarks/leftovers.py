"""What processes leave that were killed while they wrote: taken away, and a run they had moved put back.

Only what whalebench itself names and makes, by the whole name and by kind, and never through a link: a
folder of the workspace may hold anything else of the user's, and may stand for a folder outside of it.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

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
