"""Sources: a folder, a zip or a tar, whose files are read by their names and never written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from whalebench import WhalebenchError


class Source(Protocol):
    """Files by name. A name is relative, with slashes, and leads nowhere else."""

    place: Path
    """The folder or archive, to name it in sentences."""

    def names(self) -> tuple[str, ...]:
        """The names of all regular files, sorted."""

    def read(self, name: str) -> bytes:
        """The bytes of a small file, as a table; raises WhalebenchError for none, and one too large."""

    def path(self, name: str) -> Path:
        """A path at which the file stands: itself in a folder, a copy in the workspace of an archive's."""


@contextmanager
def open_source(place: Path) -> Iterator[Source]:
    """The source at a path; raises WhalebenchError for what is none."""
    if not place.is_dir():
        raise WhalebenchError(f"{place} is no folder.")
    yield FolderSource(place)


class FolderSource:
    """The files below a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def names(self) -> tuple[str, ...]:
        """The names of all regular files, sorted."""
        files = (path for path in self.place.rglob("*") if path.is_file())
        return tuple(sorted(path.relative_to(self.place).as_posix() for path in files))

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        return self.path(name).read_bytes()

    def path(self, name: str) -> Path:
        """The path of the file."""
        return self.place / name
