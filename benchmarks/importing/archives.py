"""Archives: a zip or a tar, of which only the files that are asked for are copied, under numbers.

No name that an archive holds ever becomes a path, links and devices are left out, and what would fill a disk
is refused before it is unpacked.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from whalebench import CONTROLS, WhalebenchError, one_line
from whalebench.benchmarks.core.machine import refuse_full_disk

Advance = Callable[[int, int], None]
"""Called with how many files are done, of how many."""
READ = 1 << 30
"""The most bytes of a file that is read as a whole, as a table."""
MEMBERS, RATIO, FREE = 5_000_000, 100, 1 << 30
"""The most files of an archive, and how many times its size they may have, above so many bytes: photos are
compressed already, and what grows a hundred times is made to fill a disk."""
CHUNK, HEADER = 1 << 20, 1 << 24
"""Bytes that are copied at a time, and the most that the head of a file in a tar may have."""
IN_A_FOLDER = 1000
"""Copies that share a folder."""
PACKED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
"""How a compressed tar begins, and what reads it."""
OTHERS = {b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}
SHEETS = (".xlsx", ".xlsm", ".ods")
"""Files that are a zip and meant as a table."""
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What reading an archive raises that is damaged, encrypted, or of a kind that is not known."""


@dataclass(frozen=True)
class Member:
    """A file of an archive."""

    size: int
    start: int
    """Where it begins, to read many in their order."""
    handle: Any = None
    """What the archive's reader opens it by."""


class ArchiveSource(ABC):
    """The files of an archive, copied where a path is asked for."""

    def __init__(self, place: Path, folder: Path, end: Path) -> None:
        self.place, self.folder, self.end = place, folder, end
        self.opened = ExitStack()
        self.notes: list[str] = []
        self.members: dict[str, Member] = {}
        self.copied: dict[str, Path] = {}
        self.damaged: list[str] = []
        self.odd = 0
        self.total = 0
        self.most = max(FREE, RATIO * place.stat().st_size)
        try:
            self.index()
        except BROKEN as error:
            self.close()
            raise unreadable(place, error) from error
        except WhalebenchError:
            self.close()
            raise
        if self.odd:
            self.notes.append(
                f"{self.odd} links or devices of {place.name} are left out: only files are read."
            )

    @abstractmethod
    def index(self) -> None:
        """Adds all members."""

    @abstractmethod
    def chunks(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member, piece by piece, and no more than its size."""

    def close(self) -> None:
        """Closes the archive."""
        self.opened.close()

    def add(self, raw: str, member: Member, *, is_regular: bool) -> None:
        """Takes a member up under its name; raises WhalebenchError for what only an attack holds."""
        name = _safe_name(self.place, raw)
        self.total += member.size
        if self.total > self.most or len(self.members) >= MEMBERS:
            what = f"{self.total:,} bytes" if self.total > self.most else f"more than {MEMBERS:,} files"
            raise WhalebenchError(
                f"{self.place} would unpack to {what}, which no archive of photos of its size does; if it is "
                "to be trusted, unpack it, and give its folder."
            )
        if not name:
            return
        if not is_regular:
            self.odd += 1
        elif name in self.members:
            raise WhalebenchError(
                f"{self.place} holds {one_line(name, 100)!r} twice, and nothing says which counts; pack the "
                "photos again."
            )
        else:
            self.members[name] = member

    def names(self) -> tuple[str, ...]:
        """The names of all regular files, sorted."""
        return tuple(sorted(self.members))

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        member = self.members.get(self._held(name))
        if member is None:
            raise WhalebenchError(f"{self.place} holds no file {one_line(name, 100)!r}; check its content.")
        refuse_large(self.place, name, member.size)
        return b"".join(self._pieces(member))

    def path(self, name: str) -> Path:
        """The path of a copy, made now where it is not there."""
        held = self._held(name)
        if not held:  # below the archive, which is no folder: nothing can stand there
            return self.place.joinpath(*(part for part in _parts(name) if part != ".."))
        if held not in self.copied:
            self._copy(held)
        return self.copied[held]

    def kept(self, path: str) -> str:
        """The path of a copy when all of them have been moved to their end."""
        is_copy = Path(path).is_relative_to(self.folder)
        return str(self.end / Path(path).relative_to(self.folder)) if is_copy else path

    def fetch(self, names: Iterable[str], progress: Advance | None = None) -> None:
        """Copies these files in the order in which the archive holds them."""
        held = {held for name in names if (held := self._held(name)) and held not in self.copied}
        needed = sum(self.members[name].size for name in held)
        refuse_full_disk(self.folder, needed, f"Copying the photos of {self.place.name}")
        in_order = sorted(held, key=lambda name: self.members[name].start)
        for done, name in enumerate(in_order, 1):
            self._copy(name)
            if progress is not None:
                progress(done, len(in_order))
        if self.damaged:
            first = one_line(self.damaged[0], 80)
            self.notes.append(f"{len(self.damaged)} files of {self.place.name} are damaged, first {first}.")

    def spelled(self, name: str) -> str:
        """The name of a file that differs from this one in capitals only, or ""."""
        wanted = "/".join(_parts(name)).casefold()
        return next((held for held in self.members if held.casefold() == wanted), "")

    def _held(self, name: str) -> str:
        """The name as the archive has it, or "" where it does not."""
        if name in self.members:
            return name
        forms = (
            "/".join(part for part in form.split("/") if part not in ("", ".")) for form in name_forms(name)
        )
        is_below = not name.startswith(("/", "\\"))
        return next((form for form in forms if form in self.members), "") if is_below else ""

    def _copy(self, name: str) -> None:
        number = len(self.copied)
        suffix = Path(name).suffix.lower()
        suffix = suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""
        path = self.folder / f"{number // IN_A_FOLDER:04}" / f"{number:07}{suffix}"
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            try:
                for chunk in self._pieces(self.members[name]):
                    file.write(chunk)
            except WhalebenchError:
                self.damaged.append(name)
                file.truncate(0)  # set aside as an empty file, rather than taken for a whole one
        self.copied[name] = path

    def _pieces(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member; raises WhalebenchError for one that is damaged."""
        try:
            yield from self.chunks(member)
        except BROKEN as error:
            raise unreadable(self.place, error) from error


class ZipSource(ArchiveSource):
    """The files of a zip."""

    def index(self) -> None:
        """Adds all members; an encrypted one cannot be read."""
        self.archive = self.opened.enter_context(zipfile.ZipFile(self.place))
        guessed: list[tuple[str, str]] = []
        for info in self.archive.infolist():
            if info.is_dir():
                _safe_name(self.place, info.filename)
                continue
            if info.flag_bits & 0x1:
                raise WhalebenchError(f"{self.place} is encrypted; unpack it, and give its folder.")
            kind = stat.S_IFMT(info.external_attr >> 16)
            member = Member(info.file_size, info.header_offset, info)
            name, encoding = _zip_name(info)
            guessed += [(name, encoding)] if encoding else []
            self.add(name, member, is_regular=kind in (0, stat.S_IFREG))
        if guessed:
            name, encoding = guessed[0]
            self.notes.append(
                f"{len(guessed):,} names of {self.place.name} are not UTF-8 and do not say their encoding, "
                f"first {one_line(repr(name), 80)}, read as {encoding}: pack it again if that is wrong."
            )

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member; no more than its size, or zipfile raises an error."""
        with self.archive.open(member.handle) as file:
            while chunk := file.read(CHUNK):
                yield chunk


class TarSource(ArchiveSource):
    """The files of a tar, compressed or not."""

    def index(self) -> None:
        """Adds all members, in one pass that keeps none of tarfile's own records."""
        with self.place.open("rb") as file:
            head = file.read(8)
        opener = next((opener for magic, opener in PACKED.items() if head.startswith(magic)), None)
        stream: IO[bytes] = opener(self.place) if opener else self.place.open("rb")
        self.stream = self.opened.enter_context(stream)
        heads: Any = Heads(stream)
        with tarfile.open(fileobj=heads, mode="r:", encoding="utf-8") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # of millions, only what is needed is kept
                if info.size < 0:  # it would lead back, and be read for ever
                    raise tarfile.ReadError("a file of fewer than no bytes")
                member = Member(info.size, info.offset_data)
                if info.isdir():
                    _safe_name(self.place, _tar_name(info))
                else:
                    self.add(_tar_name(info), member, is_regular=info.isreg() and not info.issparse())

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member."""
        self.stream.seek(member.start)
        left = member.size
        while left:
            chunk = self.stream.read(min(CHUNK, left))
            if not chunk:
                raise EOFError("it ends too early")
            left -= len(chunk)
            yield chunk


class Heads:
    """A stream of which only heads are read: one that says it is endless is refused."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """So many bytes."""
        if not 0 <= size <= HEADER:
            raise tarfile.ReadError(f"the head of a file has {size:,} bytes")
        return self.stream.read(size)


def kind_of(place: Path, head: bytes) -> type[ArchiveSource] | None:
    """The class that reads an archive which begins like this; None for another file.

    Raises WhalebenchError for an archive that is not read.
    """
    if name := next((name for magic, name in OTHERS.items() if head.startswith(magic)), ""):
        raise WhalebenchError(
            f"{place} is a {name} archive, which is not read; unpack it, and give its folder."
        )
    suffix = place.suffix.lower()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and suffix not in SHEETS:
        return ZipSource
    is_tar = head.startswith(tuple(PACKED)) or head[257:262] == b"ustar" or suffix == ".tar"
    return TarSource if is_tar else None


def _zip_name(info: zipfile.ZipInfo) -> tuple[str, str]:
    """The name of a member, and the encoding where that had to be guessed, else "".

    What does not say that it is UTF-8 may be so, or of cp437, as the format has it, or Latin-1: of that all
    letters are bytes from 0xC0 on, where cp437 has frames and signs but for ß.
    """
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename, ""
    raw = info.filename.encode("cp437")
    with suppress(UnicodeError):
        return raw.decode("utf-8"), ""
    high = {byte for byte in raw if byte >= 0x80}
    encoding = "latin-1" if min(high) >= 0xC0 and high != {0xE1} else "cp437"
    return raw.decode(encoding), encoding


def _tar_name(info: tarfile.TarInfo) -> str:
    """The name of a member; of bytes that are not UTF-8, in Latin-1."""
    try:
        info.name.encode()
    except UnicodeEncodeError:
        return info.name.encode("utf-8", "surrogateescape").decode("latin-1")
    return info.name


def _safe_name(place: Path, raw: str) -> str:
    """The name with slashes, "" for a hidden file; raises WhalebenchError for one that leads out."""
    parts = _parts(raw)
    leads_out = ".." in parts or raw.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", raw)
    if leads_out or CONTROLS.search(raw):
        why = "which leads out of it" if leads_out else "with characters that no name has"
        raise WhalebenchError(
            f"{place} holds {one_line(raw, 80)!r}, {why}; nothing is read from it: pack the photos again."
        )
    is_hidden = any(part.startswith(".") for part in parts) or parts[:1] == ["__MACOSX"]
    return "" if is_hidden else "/".join(parts)


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def name_forms(name: str) -> tuple[str, ...]:
    """A name as other systems write it: with slashes, accents as one character or as two."""
    slashed = name.replace("\\", "/")
    return slashed, unicodedata.normalize("NFC", slashed), unicodedata.normalize("NFD", slashed)


def refuse_large(place: Path, name: str, size: int) -> None:
    """Raises WhalebenchError for a file with more bytes than are read as a whole."""
    if size > READ:
        raise WhalebenchError(
            f"{one_line(name, 80)} of {place} has {size:,} bytes, and {READ:,} are the most that are read as "
            "a whole; leave out what is not needed."
        )


def unreadable(place: Path, error: Exception) -> WhalebenchError:
    """The sentence for an archive that cannot be read."""
    why = one_line(error, 80) or type(error).__name__
    return WhalebenchError(f"{place} cannot be read as an archive ({why}); get it again, or unpack it.")
