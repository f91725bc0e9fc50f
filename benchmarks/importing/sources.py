"""Sources: a folder, a file, a zip or a tar, whose files are read by their names and never written to.

One at a URL is named by the path at which it stands once it is fetched, see `core/remote.py`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.copies import bring
from whalebench.benchmarks.core.files import regular_file
from whalebench.benchmarks.core.remote import fetched_path, is_file_at, is_url, names_below, url_of
from whalebench.benchmarks.core.workspace import atomic_path
from whalebench.benchmarks.importing.archives import Advance, kind_of, name_forms, refuse_large


class Source(Protocol):
    """Files by name. A name is relative, with slashes, and leads nowhere else."""

    place: Path
    """The folder or archive, to name it in sentences."""
    notes: list[str]
    """Sentences on what of it is left out."""

    def names(self) -> tuple[str, ...]:
        """The names of all regular files, sorted; none that is hidden, or in a hidden folder."""

    def read(self, name: str) -> bytes:
        """The bytes of a small file, as a table; raises WhalebenchError for none, and one too large."""

    def path(self, name: str) -> Path:
        """A path at which the file stands: itself in a folder, a copy in the workspace of an archive's.

        Where there is no such file, a path at which nothing stands.
        """

    def fetch(self, names: Iterable[str], progress: Advance | None = None) -> None:
        """Makes `path` quick for all these names, copied in one pass; those that are not there do no harm."""

    def kept(self, path: str) -> str:
        """Where a file at such a path stands once the source is closed: in a folder where it stands now."""

    def spelled(self, name: str) -> str:
        """The name of a file that differs from this one in capitals only, or "" where there is none."""


@contextmanager
def open_source(place: Path, copies: Path | None = None, cache: Path | None = None) -> Iterator[Source]:
    """The source at a path, of whichever kind it is by its content.

    What is copied from an archive stands in the folder `copies` when the block succeeds, which is replaced;
    without one it is gone then. Files that a table names by URLs are fetched into `cache`. Raises
    WhalebenchError for what cannot be read, and for an archive that holds a name that leads out of it, a name
    twice or with controls, or far more bytes than photos unpack to.
    """
    url = url_of(place)
    is_file = bool(url) and is_file_at(url)
    if is_file:
        bring([place])
    if not is_file and (url or place.is_dir()):
        yield FolderSource(place, cache)
        return
    if (archive := kind_of(place, _first_bytes(place))) is None:
        yield FileSource(place, cache)
        return
    with whole_folder(copies) if copies else tempfile.TemporaryDirectory() as folder:
        source = archive(place, Path(folder), copies or Path(folder))
        try:
            yield source
        finally:
            source.close()


def _first_bytes(place: Path) -> bytes:
    """How a regular file begins, as far as archives tell by it."""
    try:
        with regular_file(place).open("rb") as file:
            return file.read(262)
    except FileNotFoundError as error:
        raise WhalebenchError(f"{place} does not exist; check its path.") from error
    except OSError as error:
        why = one_line(error.strerror or error, 100)
        raise WhalebenchError(f"{place} cannot be read ({why}); check its permissions.") from error


@contextmanager
def whole_folder(copies: Path) -> Iterator[Path]:
    """A folder that stands at the path when the block succeeds; else nothing is left of it."""
    try:
        with atomic_path(copies) as folder:
            folder.mkdir()
            yield folder
    except BaseException:
        with suppress(OSError):  # it is not empty, then: a benchmark stands there
            copies.parent.rmdir()
        raise


class FileSource:
    """One file, and those that it names from its folder."""

    def __init__(self, place: Path, cache: Path | None = None) -> None:
        """What URLs name is fetched into `cache`."""
        self.place = place
        self.folder = place.absolute().parent
        self.notes: list[str] = []
        self._cache = cache
        self._fetched: set[Path] = set()

    def names(self) -> tuple[str, ...]:
        """The file's own name: what else its folder holds may be anything."""
        return (self.place.name,)

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        path = self.path(name)
        self.fetch([name])
        try:
            refuse_large(self.place, name, regular_file(path).stat().st_size)
            return path.read_bytes()
        except OSError as error:
            why = one_line(error.strerror or error, 100)
            raise WhalebenchError(f"{path} cannot be read ({why}); check path and permissions.") from error

    def path(self, name: str) -> Path:
        """The path as it is written, or as another system would have written it where only that exists.

        Of a URL where the file stands once it is fetched.
        """
        if self._cache and is_url(name):
            return fetched_path(name, self._cache)
        path = str(self.folder / name)
        is_plain = name.isascii() and "\\" not in name  # other systems write it alike
        if is_plain or os.path.isfile(path):  # noqa: PTH113 (ten times quicker)
            return Path(path)
        others = (str(self.folder / form) for form in name_forms(name))
        return Path(next((other for other in others if os.path.isfile(other)), path))  # noqa: PTH113

    def fetch(self, names: Iterable[str], progress: Advance | None = None) -> None:
        """Fetches those that are at a URL, each once, also where one was fetched for another import."""
        paths = map(self.path, filter(None, names))
        wanted = [path for path in paths if path not in self._fetched and url_of(path)]
        self._fetched.update(wanted)
        bring(wanted, progress)

    def kept(self, path: str) -> str:
        """The path: nothing is moved."""
        return path

    def spelled(self, name: str) -> str:
        """The name of a file that differs from this one in capitals only, or ""."""
        found = self.folder
        with suppress(OSError, KeyError):  # no such folder, none to be read, or nothing alike in it
            for part in Path(name.replace("\\", "/")).parts:
                found = {path.name.casefold(): path for path in sorted(found.iterdir())}[part.casefold()]
            return str(found.relative_to(self.folder)) if found.is_file() else ""
        return ""


class FolderSource(FileSource):
    """The files below a folder, links to files and folders followed."""

    def __init__(self, place: Path, cache: Path | None = None) -> None:
        super().__init__(place, cache)
        self.folder = place.absolute()

    def names(self) -> tuple[str, ...]:
        """The names of all regular files, sorted; a folder with several links to it counts once."""
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        url = url_of(self.folder)
        return names_below(url) if url else tuple(sorted(self._below("", set())))

    def _below(self, name: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        try:
            state = (self.folder / name).stat()
            if (state.st_dev, state.st_ino) in seen:  # a link that leads back would have no end
                return
            seen.add((state.st_dev, state.st_ino))
            # Real folders first, so that a name is that of a folder and not of a link to it.
            entries = sorted(
                os.scandir(self.folder / name), key=lambda entry: (entry.is_symlink(), entry.name)
            )
        except OSError as error:
            why = one_line(error.strerror or error, 100)
            raise WhalebenchError(
                f"{self.folder / name} cannot be read ({why}); check its permissions."
            ) from error
        for entry in entries:
            inner = f"{name}/{entry.name}" if name else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from self._below(inner, seen)
            elif entry.is_file():
                yield inner
