"""What is sent to a node and brought back: this package as it is running, a benchmark, a finished run.

Benchmarks and runs travel as a tar whose digest is told beside it, and are put in their place whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import whalebench
from whalebench import RunFailedError, __version__
from whalebench.benchmarks.core.code import OWN
from whalebench.benchmarks.core.files import digest_file, digest_text

CHUNK = 8 * 2**20
"""Bytes that are sent at a time."""
METADATA = ("METADATA", "entry_points.txt")
"""What an installed package says of itself: by it methods are found."""


def copy_package(into: Path) -> list[Path]:
    """The folders, in `into`, that are this package as it runs here: its code, and what it says of itself.

    So that a node runs the same code, an editable checkout's as well.
    """
    root = Path(whalebench.__file__).parent
    code, said = into / OWN, into / f"{OWN}-{__version__}.dist-info"
    for file in _package_files(root, is_root=True):
        place = code / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    said.mkdir()
    for name in METADATA:
        (said / name).write_text(distribution(OWN).read_text(name) or "", encoding="utf-8")
    return [code, said]


def _package_files(folder: Path, *, is_root: bool = False) -> Iterator[Path]:
    """Files of a package and those within; beside the root package other things lie in a checkout."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").is_file():
            yield from _package_files(path)
        elif path.is_dir() and not is_root and path.name != "__pycache__":
            yield from (file for file in sorted(path.rglob("*")) if file.is_file())
        elif path.is_file() and (path.suffix == ".py" or path.name == "py.typed"):
            yield path


def benchmark_key(folder: Path) -> str:
    """What tells a benchmark's folder, with its splits, from any other."""
    files = [folder / "catalog.json", *sorted(folder.glob("split*"))]
    return digest_text(json.dumps([[file.name, digest_file(file)] for file in files]))[:16]


def pack_benchmark(folder: Path, tar: IO[bytes]) -> str:
    """Writes the benchmark's catalog, splits, photos and masks into a tar, and says its digest.

    Wherever the photos lie here, there they are in the benchmark's folder; the catalog's digest is the same.
    """
    from whalebench.benchmarks.core.catalog import read_catalog, read_facts, write_catalog

    catalog, facts = read_catalog(folder), read_facts(folder)
    places: dict[str, str] = {"": ""}
    with TemporaryDirectory() as temporary, tarfile.open(fileobj=tar, mode="w") as packed:
        base, table = Path(temporary), catalog.table.copy()
        for column in ("path", "mask"):
            for path in table[column]:
                places.setdefault(path, str(base / "photos" / f"{len(places):07}{Path(path).suffix}"))
            table[column] = [places[path] for path in table[column]]
        write_catalog(
            table,
            base,
            catalog.name,
            facts["source"],
            quarantined=facts.get("quarantined", 0),
            dataset=facts.get("dataset", ""),
            derived=catalog.derived,
        )
        for file in (base / "catalog.json", base / "catalog.parquet", *sorted(folder.glob("split*"))):
            packed.add(file, file.name)
        for path, place in places.items():
            if path:
                packed.add(Path(path).resolve(), Path(place).relative_to(base).as_posix())
    return _digest(tar)


def pack_folder(folder: Path, tar: IO[bytes]) -> str:
    """Writes the files of a folder into a tar, and says its digest."""
    with tarfile.open(fileobj=tar, mode="w") as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.add(file, file.relative_to(folder).as_posix())
    return _digest(tar)


def unpack(tar: IO[bytes], digest: str, into: Path) -> None:
    """Unpacks a tar into a new folder; RunFailedError where it is not the one that was packed."""
    if _digest(tar) != digest:
        raise RunFailedError(f"what was sent for {into.name} did not arrive as it was: try again.")
    with tarfile.open(fileobj=tar) as packed:
        packed.extractall(into, filter="data")  # no links, nothing outside of it


def _digest(tar: IO[bytes]) -> str:
    """The SHA-256 of the file, which is at its beginning afterwards."""
    tar.seek(0)
    digest = hashlib.file_digest(tar, "sha256").hexdigest()  # type: ignore[arg-type]
    tar.seek(0)
    return digest
