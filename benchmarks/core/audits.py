"""What an audit leaves beside its catalog: pairs of photos, the verdicts on them, what of a split they leak.

`whalebench data audit` writes audit.json and verdicts.json (`benchmarks/auditing/`). Runs, boards and the
gate read them here, each time anew, so that a verdict counts from then on.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import NAMELESS, read_facts
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    parse_json,
    regular_file,
    text_of_digest,
    with_digest,
)
from whalebench.benchmarks.core.workspace import atomic_text

AUDIT_VERSION = 2
"""Raise it when other pairs are found; an audit of another version is made again."""
AUDIT, VERDICTS = "audit.json", "verdicts.json"
"""Files in the folder of a benchmark."""
Kind = Literal["exact", "twin", "crop", "overlap", "burst", "look"]
KINDS: tuple[Kind, ...] = ("exact", "twin", "crop", "overlap", "burst", "look")
"""The same pixels; the same picture; a part of it; two parts of one; the same moment by the times of both;
the same individual in the same moment by its look."""
Verdict = Literal["yes", "no", "unsure"]
Images = tuple[str, str]
NO_PART = -2
"""The fold, in the file of a split, of photos that are in no part at all (`splits.assignment.LEFT_OUT`)."""
DRAWN = "drawn by whalebench"
"""How the source of photos begins that need no audit: no camera took them."""


@dataclass(frozen=True)
class Pair:
    """Two photos that should not be learned from and tested on."""

    first: str
    """The image id that comes first in the catalog."""
    second: str
    kind: Kind
    likeness: float
    """Correlation of aligned details; 1 for equal pixels, 0 where only the times say so."""
    first_identity: str
    second_identity: str
    seconds: float | None = None
    """Between the two, where only their times say that they are a burst."""
    turn: int = 0
    """Quarter turns of the larger photo until it is as the other, and 4 more where it is mirrored first."""
    trims: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Shares cropped off top, bottom, left and right of the larger."""
    shared: float | None = None
    """Of an overlap the share of one photo that the other shows, too: of that of which it is more."""

    @property
    def images(self) -> Images:
        """The two image ids."""
        return self.first, self.second

    @property
    def named_apart(self) -> bool:
        """Whether both have a name, and not the same."""
        names = {self.first_identity, self.second_identity}
        return len(names) == 2 and names.isdisjoint(NAMELESS)

    @property
    def two_labels(self) -> bool:
        """Whether it is one image with two labels, of which one at most is right."""
        return self.kind == "exact" and self.named_apart

    @property
    def two_names(self) -> bool:
        """Whether one picture bears two names: one individual under both of them, or a wrong one."""
        return self.kind in ("twin", "crop", "overlap") and self.named_apart


@dataclass(frozen=True)
class Audit:
    """What was found in the photos of one catalog."""

    benchmark: str
    catalog_digest: str
    photos: int
    pairs: tuple[Pair, ...]
    """Each once: by kind, the most alike first."""
    parts: bool = True
    """Whether parts of one picture were looked for, which needs OpenCV."""
    version: int = AUDIT_VERSION

    def document(self) -> dict[str, Any]:
        """The audit as JSON, with its digest."""
        return with_digest(json.loads(json.dumps(asdict(self))))


@dataclass(frozen=True)
class Leaks:
    """What is known of leaks between the parts of one split."""

    benchmark: str
    audited: bool
    """Whether the photos were audited as they are."""
    pairs: int = 0
    """Found and not rejected."""
    unseen: int = 0
    """Of them those that nobody has looked at, or was sure of; of the same pixels none needs to."""
    of_fold: Mapping[int, tuple[Pair, ...]] = field(default_factory=dict)
    """By fold the pairs of which one photo is tested on and the other learned from or validated on."""
    tested: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """By fold the images of these pairs that are tested on."""
    unseen_of_fold: Mapping[int, int] = field(default_factory=dict)
    """By fold how many of its pairs are among the unseen."""


def write_audit(audit: Audit, folder: Path) -> Path:
    """Writes audit.json into a benchmark's folder, whole or not at all."""
    atomic_text(folder / AUDIT, json.dumps(audit.document(), indent=2) + "\n")
    return folder / AUDIT


def no_audit(catalog_digest: str) -> bytes:
    """What stands in a bundle, which has no catalog, in place of an audit that nobody made."""
    document = {"version": AUDIT_VERSION, "catalog_digest": catalog_digest, "pairs": None}
    return json.dumps(with_digest(document), indent=2).encode() + b"\n"


def _read_document(folder: Path, catalog_digest: str) -> dict[str, Any] | None:
    """What is kept of a catalog's audit; None where nothing is, or of other photos or another version."""
    document = _read(folder / AUDIT, f"remove it and run `whalebench data audit {folder.name}`")
    if document is None or document.get("version") != AUDIT_VERSION:
        return None
    return document if document.get("catalog_digest") == catalog_digest else None


def read_audit(folder: Path, catalog_digest: str) -> Audit | None:
    """The audit of a catalog that is kept in its folder; None where there is none, or one of other photos.

    Raises WhalebenchError for one that was damaged or edited.
    """
    document = _read_document(folder, catalog_digest)
    if document is None or document.get("pairs") is None:
        return None
    try:
        return TypeAdapter(Audit).validate_python(
            {name: document[name] for name in document.keys() - {"digest"}}
        )
    except ValidationError as error:
        raise WhalebenchError(
            f"{folder / AUDIT} is no audit ({one_line(error, 80)}); remove it and audit again."
        ) from error


def keep_verdicts(verdict_of: Mapping[Images, Verdict], folder: Path, catalog_digest: str) -> None:
    """Adds verdicts to those kept in a benchmark's folder; a pair that has one gets the new one."""
    kept = read_verdicts(folder, catalog_digest) | dict(verdict_of)
    rows = [[*images, verdict] for images, verdict in sorted(kept.items())]
    document = with_digest({"catalog_digest": catalog_digest, "verdicts": rows})
    atomic_text(folder / VERDICTS, json.dumps(document, indent=2) + "\n")


def read_verdicts(folder: Path, catalog_digest: str) -> dict[Images, Verdict]:
    """The verdicts by pair of image ids, sorted; empty where there are none, or those on other photos.

    Raises WhalebenchError for a file that was damaged or edited.
    """
    remedy = "remove it and give the CSV of the page once more"
    document = _read(folder / VERDICTS, remedy)
    if document is None or document.get("catalog_digest") != catalog_digest:
        return {}
    try:
        rows = TypeAdapter(list[tuple[str, str, Verdict]]).validate_python(document.get("verdicts"))
    except ValidationError as error:
        raise WhalebenchError(
            f"{folder / VERDICTS} holds no verdicts ({one_line(error, 80)}); {remedy}."
        ) from error
    return {(first, second): verdict for first, second, verdict in rows}


def _read(file: Path, remedy: str) -> dict[str, Any] | None:
    """The JSON document of a file with a digest; None where there is no file."""
    try:
        document = parse_json(regular_file(file).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}); {remedy}.") from error
    if not isinstance(document, dict) or "digest" not in document or differs_from_digest(document):
        raise WhalebenchError(f"{file} differs from its digest, so it is not what was written; {remedy}.")
    return document


def find_leaks(
    audit: Audit, fold_of: Mapping[str, int], verdict_of: Mapping[Images, Verdict] | None = None
) -> Leaks:
    """What the pairs that were not rejected leak, where photos are in these folds (-1: never tested)."""
    verdicts = {} if verdict_of is None else verdict_of
    held = [(pair, verdicts.get(_sorted(pair.images))) for pair in audit.pairs]
    held = [(pair, verdict) for pair, verdict in held if verdict != "no"]
    unseen = {pair.images for pair, verdict in held if verdict != "yes" and pair.kind != "exact"}
    folds = sorted({fold for fold in fold_of.values() if fold >= 0})
    of_fold: dict[int, list[Pair]] = {fold: [] for fold in folds}
    tested: dict[int, set[str]] = {fold: set() for fold in folds}
    for pair, _ in held:
        its = {image: fold_of.get(image, NO_PART) for image in pair.images}
        if len(set(its.values())) < 2 or NO_PART in its.values():
            continue
        for image, fold in its.items():
            if fold >= 0:
                of_fold[fold].append(pair)
                tested[fold].add(image)
    return Leaks(
        audit.benchmark,
        audited=True,
        pairs=len(held),
        unseen=len(unseen),
        of_fold={fold: tuple(pairs) for fold, pairs in of_fold.items()},
        tested={fold: frozenset(images) for fold, images in tested.items()},
        unseen_of_fold={
            fold: sum(pair.images in unseen for pair in pairs) for fold, pairs in of_fold.items()
        },
    )


def _sorted(images: Iterable[str]) -> Images:
    first, second = sorted(images)
    return first, second


def read_leaks(benchmarks: Path, name: str, catalog_digest: str, split_digest: str) -> Leaks | None:
    """What is known of leaks of a benchmark on a split, from the folder of all benchmarks.

    None where that says nothing: the photos were drawn by code, they or their split are not there, or others.
    Raises WhalebenchError for files that are not what was written.
    """
    *_, split = audit_files(name)
    folder = (benchmarks / split).parent
    audit = read_audit(folder, catalog_digest)
    if audit is None:
        unaudited = _are_taken(folder, catalog_digest) or _read_document(folder, catalog_digest)
        return Leaks(folder.name, audited=False) if unaudited else None
    try:
        kept = regular_file(benchmarks / split).read_bytes().decode("utf-8")
    except (OSError, ValueError):
        return None
    if (text := text_of_digest(kept, split_digest)) is None:
        return None
    fold_of = {row["image"]: int(row["fold"]) for row in csv.DictReader(io.StringIO(text, newline=""))}
    return find_leaks(audit, fold_of, read_verdicts(folder, catalog_digest))


def audit_files(name: str) -> tuple[str, str, str]:
    """Where in the folder of all benchmarks lies what `read_leaks` reads of a benchmark on a split."""
    photos, at, split = name.partition("@")
    return f"{photos}/{AUDIT}", f"{photos}/{VERDICTS}", f"{photos}/split{at}{split}.csv"


def _are_taken(folder: Path, catalog_digest: str) -> bool:
    """Whether the catalog there is that one, of photos that were taken and not drawn by code."""
    if not (folder / "catalog.json").exists():
        return False
    facts = read_facts(folder)
    return facts["digest"] == catalog_digest and not str(facts.get("source", "")).startswith(DRAWN)
