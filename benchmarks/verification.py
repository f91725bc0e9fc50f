"""Whether photos are still the files that were catalogued, without reading most of them again."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from whalebench import WhalebenchError
from whalebench.benchmarks.workspace import atomic_text, digest_file

Stamp = tuple[str, int, int, int]
"""A file's SHA-256, its size, and when its content and its entry were last changed (nanoseconds)."""

STAMPS = "photos.stat.json"


def take_stamp(path: Path, digest: str = "") -> Stamp:
    """The digest given, with size and times of the file as they are now."""
    status = path.stat()
    # The entry's time, unlike the content's, cannot be set back by hand.
    return (digest, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def write_stamps(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Nothing; stamps by image, each taken before its file was hashed, are trusted from now on."""
    atomic_text(folder / STAMPS, json.dumps(stamps, separators=(",", ":")) + "\n")


def verify_files(
    name: str, images: Sequence[str], paths: Sequence[Path], digests: Sequence[str], folder: Path
) -> None:
    """Nothing when every file has its digest; else an error that names the images of the catalog `name`.

    Only files that differ from the stamps in `folder` are hashed; then the stamps are written anew.
    """
    known = _read_stamps(folder)
    current: dict[str, Stamp] = {}
    unsure: dict[str, Path] = {}
    absent: list[str] = []
    for image, path, digest in zip(images, paths, digests, strict=True):
        try:
            current[image] = take_stamp(path, digest)
        except OSError:
            absent.append(image)
            continue
        if known.get(image) != current[image]:
            unsure[image] = path
    with ThreadPoolExecutor() as pool:
        hashed = dict(zip(unsure, pool.map(_digest, unsure.values()), strict=True))
    changed = [image for image, digest in hashed.items() if digest != current[image][0]]
    if absent or changed:
        raise WhalebenchError(_complaint(name, absent, changed))
    if unsure or len(known) != len(current):
        write_stamps(folder, current)


def _read_stamps(folder: Path) -> dict[str, Stamp]:
    try:
        stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
        return {image: (str(d), int(s), int(m), int(c)) for image, (d, s, m, c) in stamps.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # without stamps every photo is hashed, which is slow but safe


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError:
        return ""


def _complaint(name: str, absent: list[str], changed: list[str]) -> str:
    parts = []
    for what, images in (("gone", absent), ("changed", changed)):
        if images:
            more = f" and {len(images) - 5} more" if len(images) > 5 else ""
            number = "1 photo is" if len(images) == 1 else f"{len(images)} photos are"
            parts.append(f"{number} {what} ({', '.join(images[:5])}{more})")
    return (
        f"The photos of {name} are not those that were catalogued: {'; '.join(parts)}; "
        "restore the files, or import the benchmark again under a new name."
    )
