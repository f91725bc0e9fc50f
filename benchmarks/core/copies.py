"""A workspace at a URL: the folder here that is its working copy, and how the two are kept alike.

Opened, the copy takes over what is new at the URL: records and ledger at once, the other files of a run when
they are read. What is written into the copy is sent, a run's files first and its record.json last: without
one no run is there for anybody. Its files are at the URL in a folder of the record's own digest, so that two
writers never mix: the first whole run stays. What was not sent to its end is noted, and the next writer here
does so. Locks, caches, checkpoints and studies stay here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.core.remote import (
    AT_A_TIME,
    Advance,
    check_url,
    fetch,
    is_url,
    place_at,
    reached,
    url_of,
)

MARK, KNOWN = "whalebench-url", "known"
"""In a working copy: the file that holds the URL, and the folder of what is known to be there."""
LAYOUT, VERSION = "whalebench-workspace", b"1\n"
"""The object that says that a workspace is at the URL, and how it is laid out."""
LEDGER = "ledger"
"""The folder of the ledger, a file for each opening: nothing can be added to an object."""
SHARED = ("benchmarks", "runs", "galleries", "reports")
"""Folders of a workspace whose files are sent."""
RECORD, WHOLE, FOLDER = "record.json", ("record.json", "gallery.json"), "@folder"
"""The file of a run, and of what else without which the folder is not there; and what any is noted by."""
TABLES = {"catalog.json": ("catalog.parquet", "quarantine.csv")}
"""Files that are sent with, and before, another one that says that they are whole; as a split's table is."""
OF_THIS_DISK = ("photos.stat.json",)
CREATE, REPLACE, SENT = "create", "replace", "sent"
"""What is noted of what is on its way, by whether it may replace what is there; and of a folder, sent."""

Writing = Callable[..., AbstractContextManager[Path]]
"""`atomic_path`, which sends nothing."""


def folder_of(place: str | Path) -> Path:
    """The folder of a workspace: itself, or of a URL its working copy, made where absent.

    That is in `whalebench` of the user's cache folder, $XDG_CACHE_HOME or ~/.cache, named by a digest.
    """
    if not is_url(str(place)):
        return Path(place)
    url = check_url(str(place))
    place_at(url)  # what is missing for it is said first
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    folder = cache / "whalebench" / digest_text(url)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    _note(folder / MARK, url)
    return folder


def copy_of(path: Path) -> Copy | None:
    """The working copy that a path is in, or None for a path of no workspace at a URL."""
    for root in (path, *path.parents):
        with suppress(OSError, ValueError):
            if is_url(url := (root / MARK).read_text(encoding="utf-8")):
                return Copy(root, url)
    return None


def bring(paths: Iterable[str | Path], progress: Advance | None = None) -> None:
    """Fetches those of the files that are at a URL: photos there, and photos kept with a benchmark there."""
    copies: dict[Path, Copy | None] = {}
    pairs = []
    for path in map(Path, paths):
        url = url_of(path)
        if not url:
            if path.parent not in copies:
                copies[path.parent] = copy_of(path.parent)
            copy = copies[path.parent]
            url = f"{copy.url}/{copy.key(path)}" if copy and copy.shares(path) else ""
        if url:
            pairs.append((url, path))
    if pairs:
        fetch(pairs, Path(os.path.commonpath([str(path.parent) for _, path in pairs])), progress)


@dataclass(frozen=True)
class Copy:
    """The working copy of a workspace at a URL."""

    root: Path
    url: str

    def key(self, path: Path) -> str:
        """What a path of the copy is called at the URL, seen from there."""
        return path.relative_to(self.root).as_posix()

    def shares(self, path: Path) -> bool:
        """Whether what is written to the path is sent."""
        first, *rest = path.relative_to(self.root).parts or ("",)
        return first in SHARED and bool(rest) and path.name not in OF_THIS_DISK

    # --- what is new there

    def pull(self, writing: Writing, *, write: bool) -> None:
        """Makes the copy hold what the URL holds; with `write` also sends what was not sent to its end.

        Raises WhalebenchError where there is no workspace and none is to be made, and as `reached`.
        """
        self._check_layout(write=write)
        there = self._listed()
        self._drop(there)
        new = {key: mark for key, mark in there.items() if self._is_new(key, mark)}
        for key, content in self._read(new).items():
            if self._take(key, content, writing):
                _note(self.root / KNOWN / key, new[key])
        if write:
            self._complete(writing)

    def _check_layout(self, *, write: bool) -> None:
        system, place = place_at(self.url)
        version = VERSION
        try:
            with reached(self.url):
                version = bytes(system.cat_file(f"{place}/{LAYOUT}"))
        except WhalebenchError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            if not write:
                raise WhalebenchError(
                    f"There is no workspace at {self.url} ({one_line(error.__cause__, 80)}): check it, or "
                    f"begin one with `whalebench run` or `whalebench data import`."
                ) from error
        if version != VERSION:
            raise WhalebenchError(
                f"The workspace at {self.url} is laid out as {one_line(version.decode('latin-1'), 20)}, this "
                f"whalebench knows 1: install the version that made it."
            )
        if write:
            self._put(LAYOUT, VERSION)  # who may not is told so now, and not after hours of work

    def _listed(self) -> dict[str, str]:
        """What is to be here, by key, each with a mark that is another one when it is written anew.

        Of a benchmark only its own files, of a run its record and what was added to it later.
        """
        system, place = place_at(self.url)
        start, found = len(place.strip("/")) + 1, {}
        for folder, depth in (("benchmarks", 2), ("runs", None), ("galleries", None), (LEDGER, None)):
            with reached(self.url), suppress(FileNotFoundError):
                for name, facts in system.find(f"{place}/{folder}", maxdepth=depth, detail=True).items():
                    key = name.strip("/")[start:]
                    if key.count("/") == (1 if folder == LEDGER else 2):
                        found[key] = _mark(facts)
        whole = {key.rpartition("/")[0] for key in found if key.endswith(WHOLE)}
        return {
            key: mark
            for key, mark in found.items()
            if key.startswith(("benchmarks/", LEDGER)) or key.rpartition("/")[0] in whole
        }

    def _is_new(self, key: str, mark: str) -> bool:
        if key.startswith(f"{LEDGER}/"):
            return not (self.root / key).exists()
        known = _known(self.root / KNOWN / key)
        return known != REPLACE and (known != mark or not (self.root / key).exists())

    def _read(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The contents by key: records first, and of a benchmark last what says that it is whole."""
        system, place = place_at(self.url)

        def turn(key: str) -> tuple[bool, bool, bool, str]:
            return not key.endswith(f"/{RECORD}"), key.endswith(".json"), key.endswith("/catalog.json"), key

        wanted = sorted(keys, key=turn)

        def content(key: str) -> bytes | None:
            with reached(self.url), suppress(FileNotFoundError):  # gone since it was listed
                return bytes(system.cat_file(f"{place}/{key}"))
            return None

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            read = zip(wanted, pool.map(content, wanted), strict=True)
            return {key: found for key, found in read if found is not None}

    def _take(self, key: str, content: bytes, writing: Writing) -> bool:
        """Puts what was read where it belongs, and whether it did; a run with another record is another."""
        file = self.root / key
        if key.startswith(f"{LEDGER}/"):
            _note(file, content.decode("utf-8", "replace"))
            return False  # such an object is never another one
        if file.name != RECORD:
            if key.startswith("runs/") and not file.parent.exists():
                return False  # its record is gone since
            with writing(file) as temporary:
                temporary.write_bytes(content)
        elif not file.exists() or file.read_bytes() != content:
            with writing(file.parent) as temporary:
                temporary.mkdir()
                (temporary / RECORD).write_bytes(content)
        return True

    def _drop(self, there: Mapping[str, str]) -> None:
        """Removes what is not there any more; what was never sent stays."""
        for key, how in self._noted().items():
            if key not in there and how not in (CREATE, REPLACE, SENT) and not key.startswith("reports/"):
                file = self.root / key
                file.unlink(missing_ok=True)
                if file.name == RECORD:
                    shutil.rmtree(file.parent, ignore_errors=True)
                (self.root / KNOWN / key).unlink(missing_ok=True)

    def _noted(self) -> dict[str, str]:
        """What is noted, by key."""
        folder = self.root / KNOWN
        files = (file for file in sorted(folder.rglob("[!.]*")) if file.is_file())
        return {file.relative_to(folder).as_posix(): _known(file) for file in files}

    def fetch_of_run(self, file: Path, digest: str) -> None:
        """Brings a file of a run here, by the digest of its record; see `reached` for what is not there."""
        folder = self.key(file.parent)
        url = f"{self.url}/{folder}/{digest[:16]}/{file.name}"
        fetch([(url, file)], self.root / "cache" / "arriving")

    # --- what is new here

    def intend(self, path: Path, *, is_folder: bool, exclusive: bool) -> None:
        """Notes that what is about to stand at the path is to be sent; a table is, with what follows it."""
        if not _is_table(path):
            _note(self._note_of(path, is_folder=is_folder), CREATE if exclusive else REPLACE)

    def _note_of(self, path: Path, *, is_folder: bool) -> Path:
        named = RECORD if path.parent == self.root / "runs" else FOLDER
        return self.root / KNOWN / self.key(path / named if is_folder else path)

    def _complete(self, writing: Writing) -> None:
        """Sends what was noted and not sent to its end, as by a process that was killed."""
        for key, how in self._noted().items():
            if how in (CREATE, REPLACE):
                path = self.root / key
                path = path.parent if path.name in (RECORD, FOLDER) else path
                if path.exists():
                    self.send(path, writing, exclusive=how == CREATE)
                else:
                    (self.root / KNOWN / key).unlink(missing_ok=True)

    def send(self, path: Path, writing: Writing, *, exclusive: bool) -> bool:
        """Sends what stands at the path; whether it is what is there now.

        It is not where `exclusive` and another was there first, which then stands here, too. Raises as
        `reached`: then the next writer here sends it.
        """
        kept = f"then give the same command again: {path.name} is kept and sent by it"
        with reached(self.url, kept):
            if path.parent == self.root / "runs":
                is_ours = self._send_run(path, exclusive=exclusive)
            elif path.is_dir():
                files = [file for file in sorted(path.rglob("*")) if file.is_file()]
                self._send_files({self.key(file): file for file in files if file.name not in WHOLE})
                self._send_files({self.key(file): file for file in files if file.name in WHOLE})
                _note(self._note_of(path, is_folder=True), SENT)
                return True
            elif _is_table(path):
                return True  # with the file that says that it is whole
            else:
                is_ours = self._send_file(path, exclusive=exclusive)
        note = self._note_of(path, is_folder=path.is_dir())
        note.unlink(missing_ok=True)
        if is_ours:
            _note(note, self._mark_of(self.key(path / RECORD if path.is_dir() else path)))
        else:
            self.pull(writing, write=False)
        return is_ours

    def _send_run(self, folder: Path, *, exclusive: bool) -> bool:
        key, content = self.key(folder), (folder / RECORD).read_bytes()
        digest = _digest(content)
        before = self._there(f"{key}/{RECORD}")
        if exclusive and before is not None:
            return _digest(before) == digest
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != RECORD]
        self._send_files({f"{key}/{digest}/{file.name}": file for file in files})
        if not exclusive:
            self._remove(key, added=True)  # a diagnosis of the run that was
        if not self._put(f"{key}/{RECORD}", content, exclusive=exclusive):
            if is_same := _digest(self._there(f"{key}/{RECORD}") or b"{}") == digest:
                return is_same  # another process here completes the same
            self._remove(f"{key}/{digest}")
            return False
        if before is not None and _digest(before) != digest:
            self._remove(f"{key}/{_digest(before)}")
        return True

    def _send_file(self, file: Path, *, exclusive: bool) -> bool:
        """Sends a file, with what it says is whole before it, unless another one is there already."""
        key, content = self.key(file), file.read_bytes()
        if exclusive and (there := self._there(key)) is not None and there != content:
            return False
        others = [file.with_name(name) for name in TABLES.get(file.name, ())]
        others += [file.with_suffix(".csv")] if file.name.startswith("split") else []
        others = [other for other in others if other.exists()]
        self._send_files({self.key(other): other for other in others})
        for other in others:
            _note(self._note_of(other, is_folder=False), self._mark_of(self.key(other)))
        return self._put(key, content, exclusive=exclusive) or self._there(key) == content

    def _send_files(self, files: Mapping[str, Path]) -> None:
        system, place = place_at(self.url)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(lambda pair: system.put_file(str(pair[1]), f"{place}/{pair[0]}"), files.items()))

    def add_opening(self, name: str, line: bytes) -> None:
        """Adds a file to the ledger, there before here; see `reached` for what keeps it from that."""
        with reached(self.url):
            self._put(f"{LEDGER}/{name}", line)
        _note(self.root / LEDGER / name, line.decode())

    # --- single objects

    def _put(self, key: str, content: bytes, *, exclusive: bool = False) -> bool:
        """Writes an object; with `exclusive` only where there is none, and whether that was so."""
        system, place = place_at(self.url)
        try:
            with reached(self.url):
                system.pipe_file(f"{place}/{key}", content, **({"mode": "create"} if exclusive else {}))
        except WhalebenchError as error:
            cause = error.__cause__
            if exclusive and isinstance(cause, FileExistsError):
                return False
            raise
        return True

    def _there(self, key: str) -> bytes | None:
        system, place = place_at(self.url)
        with suppress(FileNotFoundError):
            return bytes(system.cat_file(f"{place}/{key}"))
        return None

    def _mark_of(self, key: str) -> str:
        system, place = place_at(self.url)
        with reached(self.url):
            return _mark(system.info(f"{place}/{key}"))

    def _remove(self, key: str, *, added: bool = False) -> None:
        """Removes all objects below a key; or of a run what was added to it later."""
        system, place = place_at(self.url)
        for name in system.find(f"{place}/{key}", maxdepth=1):
            if not added or not name.endswith(f"/{RECORD}"):
                system.rm_file(name)


def _is_table(file: Path) -> bool:
    """Whether another file says that it is whole, and it is sent with that."""
    of_split = file.name.startswith("split") and file.suffix == ".csv"
    return of_split or any(file.name in tables for tables in TABLES.values())


def _digest(record: bytes) -> str:
    """The folder at the URL with the files of a run, by its record."""
    try:
        return str(json.loads(record)["digest"])[:16]
    except (ValueError, KeyError, TypeError):
        return ""


def _mark(facts: Mapping[str, Any]) -> str:
    """Another text when an object is written anew: its entity tag, else its size and time."""
    tag = next((str(facts[name]) for name in ("ETag", "etag", "md5Hash") if facts.get(name)), "")
    times = (
        str(facts[name])
        for name in ("LastModified", "last_modified", "updated", "mtime", "created")
        if name in facts
    )
    return tag or f"{facts.get('size')} {next(times, '')}"


def _known(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _note(file: Path, text: str) -> None:
    """Writes a small file, whole or not at all, unless it says so already."""
    if _known(file) == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".new-{secrets.token_hex(6)}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
