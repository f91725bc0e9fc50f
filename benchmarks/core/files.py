"""Files that are read: regular ones only, by their digests what was written, and JSON within bounds.

A digest guards against accident, not against forgery: whoever may write a file can write its digest, too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from whalebench import WhalebenchError, cell_text, one_line

DEEPEST = 64
"""Levels of lists and dictionaries that a JSON document may have, far more than any written here has."""
KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
"""What a path may be that is no regular file."""
HALVES = re.compile("[\ud800-\udfff]")
"""What Python reads bytes of names as that are not of the encoding it takes names to have."""


def regular_file(path: Path) -> Path:
    """The path, which a regular file stands at, or a link to one; anything else might be read for ever.

    Raises WhalebenchError for what is another kind of file, and OSError where there is none.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((word for is_kind, word in KINDS if is_kind(mode)), "no regular file")
        raise WhalebenchError(f"{path} is {kind} and is not read; give a regular file.")
    return path


def refuse_not_utf8(paths: Iterable[str]) -> None:
    """Raises WhalebenchError for a name in an old encoding, as of a folder from an old disk.

    It can be written into no file of text, be it a catalog or a record. Also where Python takes names of
    files to be in an old encoding itself, as it may be told to.
    """
    for path in paths:
        if path.isascii():
            continue
        try:
            name = os.fsencode(path)
        except UnicodeEncodeError as error:
            raise _other_encoding(path) from error
        if not (found := HALVES.search(path)):
            continue
        part = next(part for part in Path(path).parts if found[0] in part)
        if not HALVES.search(name.decode("utf-8", "surrogateescape")):
            raise _other_encoding(name.decode())
        shown = one_line(os.fsencode(part).decode("utf-8", "backslashreplace"), 80)
        raise WhalebenchError(
            f"The name of {shown} is not UTF-8, and cannot be written into a catalog or a record; rename it, "
            "or make a link to it with a plain name and give that."
        )


def _other_encoding(name: str) -> WhalebenchError:
    return WhalebenchError(
        f"{one_line(name, 100)!r} cannot be named here, where Python takes names of files to be "
        f"{sys.getfilesystemencoding()}; set PYTHONUTF8=1 or LC_ALL=C.UTF-8."
    )


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


def digest_once(path: Path) -> str:
    """The same of a large file, which is read once a process while it is left alone."""
    return _digest_of(path, *file_state(path))


def file_state(path: Path) -> tuple[int, int, int, int]:
    """Size, times of content and entry, and number of a file: others when it is written or replaced."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@cache
def _digest_of(path: Path, *_: int) -> str:
    return digest_file(path)


def with_digest(document: Mapping[str, Any], key: str = "digest") -> dict[str, Any]:
    """The JSON document with a digest of all else in it under that key; order and layout play no part."""
    rest = {name: value for name, value in document.items() if name != key}
    return rest | {key: digest_text(json.dumps(rest, sort_keys=True))}


def differs_from_digest(document: Mapping[str, Any], key: str = "digest") -> bool:
    """Whether a document says something else than when it was written; older ones have no digest to tell."""
    return bool(document.get(key)) and document[key] != with_digest(document, key)[key]


def parse_json(content: bytes) -> Any:
    """The JSON document in some bytes of UTF-8.

    Raises ValueError for what is none, or none that is written here: with numbers that are not finite or
    have more than 64 bits, or with more than DEEPEST levels.
    """
    try:
        document = json.loads(content, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return document


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits[:20]}... is too large a number")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is not finite")
    return number


def text_of_digest(text: str, digest: str) -> str | None:
    """The text of a CSV that has the digest: that one, or the same without apostrophes; None for neither."""
    if digest_text(text) == digest:
        return text
    plain = without_apostrophes(text)
    return plain if digest_text(plain) == digest else None


def without_apostrophes(text: str) -> str:
    """A CSV as it was before `table_cell` kept its cells from being computed; what is none as it is."""
    plain = io.StringIO()
    try:
        rows = ([cell_text(cell) for cell in row] for row in csv.reader(io.StringIO(text)))
        csv.writer(plain, lineterminator="\n").writerows(rows)
    except csv.Error:
        return text
    return plain.getvalue()
