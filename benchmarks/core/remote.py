"""Files at URLs, which fsspec reads and writes: what such a URL is, and where its file stands once fetched.

A photo at `s3://bucket/a.jpg` stands in the workspace's `cache/fetched-from/s3/bucket/a.jpg`, so that the URL
can be told from the path and the path from the URL: all else knows paths alone, and a catalog keeps the URL.
Who may read is for the provider's own files and variables to say. No URL holds a password.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from whalebench import MissingError, RunFailedError, WhalebenchError, one_line

FETCHED = f"{os.sep}cache{os.sep}fetched-from{os.sep}"
"""What stands in the path of every fetched file, between its workspace and its protocol."""
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)  # two letters: C: is a disk
ROOTED = ("file", "local", "memory")
"""Protocols whose places begin with a slash."""
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'whalebench[s3]'"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
}
"""What has to be installed for a protocol."""
REFUSED = ("PermissionError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
"""Errors, by name, of who has no right to be there."""
AT_A_TIME = 16
"""How many files are on their way at once."""

Advance = Callable[[int, int], None]


def is_url(text: str) -> bool:
    """Whether a text is a URL and no path.

    >>> is_url("s3://bucket/a.jpg"), is_url("photos/a.jpg"), is_url("C:/a.jpg")
    (True, False, False)
    """
    return bool(URL.fullmatch(text))


def check_url(url: str) -> str:
    """The URL as it is always written, without a slash at its end.

    Raises WhalebenchError, without printing it, for one that holds a password or is signed, which is as
    good as one; and for one of which no path can be made.

    >>> check_url("S3://bucket/seals/")
    's3://bucket/seals'
    """
    found = URL.fullmatch(url)
    if found is None:
        raise WhalebenchError(f"{one_line(url, 80)} is no URL; write one as s3://bucket/folder.")
    protocol, place = found[1].lower(), found[2].rstrip("/")
    host, at, _ = place.partition("@")
    if (at and "/" not in host and (":" in host or not protocol.startswith("abfs"))) or "?" in place:
        raise WhalebenchError(
            f"The URL {protocol}://... holds a password or a signature, which records would keep: leave what "
            f"is before @, or from ? on, out of it, and give credentials as the provider's tools take them."
        )
    parts = place.lstrip("/").split("/") if protocol in ROOTED else place.split("/")
    if not parts[0] or {"", ".", ".."} & set(parts) or "\\" in place or "\0" in place:
        raise WhalebenchError(
            f"{one_line(url, 120)} is no URL of a file or a folder: write one as s3://bucket/folder."
        )
    return f"{protocol}://{'/' if protocol in ROOTED else ''}{'/'.join(parts)}"


def fetched_path(url: str, cache_folder: Path) -> Path:
    """Where the file at a URL stands once it is fetched, by the cache folder of the workspace."""
    protocol, _, place = check_url(url).partition("://")
    return Path(f"{cache_folder.absolute().parent}{FETCHED}{protocol}") / place.lstrip("/")


def url_of(path: str | Path) -> str:
    """The URL whose file stands at the path once it is fetched, "" for a path of any other file.

    >>> url_of(fetched_path("s3://bucket/seals/a.jpg", Path("/ann/workspace/cache")))
    's3://bucket/seals/a.jpg'
    """
    _, mark, rest = str(path).partition(FETCHED)
    protocol, slash, place = rest.partition(os.sep)
    if not (mark and slash):
        return ""
    return f"{protocol}://{'/' if protocol in ROOTED else ''}{place.replace(os.sep, '/')}"


@cache
def file_system(protocol: str) -> Any:
    """What reads and writes files of that protocol; it remembers no listing.

    Raises MissingError where its package is not installed, WhalebenchError for an unknown protocol.
    """
    package = PACKAGES.get(protocol, "what fsspec needs for it")
    try:
        import fsspec

        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        return fsspec.filesystem(protocol, use_listings_cache=False, **options)
    except ImportError as error:
        raise MissingError(f"{protocol}:// needs a package that is absent: pip install {package}.") from error
    except ValueError as error:
        raise WhalebenchError(
            f"{protocol}:// is no protocol that fsspec knows; use s3://, gs:// or az://."
        ) from error


@contextmanager
def reached(url: str, kept: str = "then give the same command again") -> Iterator[None]:
    """A block that asks what is at a URL; what keeps it from an answer is a sentence, which ends in `kept`.

    WhalebenchError where there is nothing, or no right to it; RunFailedError where it is out of reach.
    """
    try:
        yield
    except WhalebenchError:
        raise
    except Exception as error:  # each provider has errors of its own
        why = re.sub(r"//[^/@\s]*@", "//...@", one_line(error, 80)) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            raise WhalebenchError(
                f"{url} is not there ({why}): check its name, or make the bucket."
            ) from error
        if {kind.__name__ for kind in type(error).__mro__} & set(REFUSED):
            raise WhalebenchError(
                f"{url} does not let you in ({why}): give credentials as the provider's own tools take them, "
                f"{kept}."
            ) from error
        raise RunFailedError(
            f"{url} is out of reach ({why}): see to network and endpoint, {kept}."
        ) from error


def place_at(url: str) -> tuple[Any, str]:
    """The file system of a URL, and what it calls the place."""
    return file_system(url.partition("://")[0]), url.partition("://")[2]


def names_below(url: str) -> tuple[str, ...]:
    """The names of all files below a URL, sorted; none that is hidden, or in a hidden folder.

    Raises WhalebenchError where there is none.
    """
    system, place = place_at(url)
    with reached(url):
        found = system.find(place)
    start = len(place.strip("/")) + 1
    names = (name.strip("/")[start:] for name in found)
    kept = sorted(
        name for name in names if name and not any(part[:1] in ("", ".") for part in name.split("/"))
    )
    if not kept:
        raise WhalebenchError(f"There are no files below {url}: check it.")
    return tuple(kept)


def is_file_at(url: str) -> bool:
    """Whether a file is at the URL itself."""
    system, place = place_at(url)
    with reached(url):
        return bool(system.isfile(place))


def fetch(urls: Iterable[tuple[str, Path]], staging: Path, progress: Advance | None = None) -> None:
    """Brings files from their URLs to paths, each whole or not at all, several at a time.

    One that is not there does no harm: nothing stands at its path then. `staging` is a folder on the same
    disk for what is not whole yet. Raises as `reached`.
    """
    wanted = list(urls)
    staging.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        arrived = pool.map(lambda pair: _fetch(pair[0], pair[1], staging), wanted)
        for done, _ in enumerate(arrived, start=1):
            if progress:
                progress(done, len(wanted))


def _fetch(url: str, target: Path, staging: Path) -> None:
    system, place = place_at(url)
    arriving = staging / f".new-{secrets.token_hex(6)}"
    try:
        with reached(url), suppress(FileNotFoundError, IsADirectoryError):
            system.get_file(place, str(arriving))
            if arriving.is_dir():  # some make one of a folder
                arriving.rmdir()
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(target)
    finally:
        arriving.unlink(missing_ok=True)
