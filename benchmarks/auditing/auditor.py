"""`whalebench data audit`: an audit made once and kept beside the catalog, and what it says of the split."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.auditing.audit import audit_catalog
from whalebench.benchmarks.auditing.parts import can_find_parts
from whalebench.benchmarks.auditing.verdicts import verdicts_in
from whalebench.benchmarks.core.audits import (
    KINDS,
    Audit,
    Images,
    Leaks,
    Pair,
    Verdict,
    find_leaks,
    keep_verdicts,
    read_audit,
    read_verdicts,
    write_audit,
)
from whalebench.benchmarks.core.catalog import Catalog, Region, regions_of
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.store import MAX_PIXELS, pixel_limit, read_photo
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_catalog, photos_name, split_stem
from whalebench.splits.split import Split, read_split

THUMBNAIL = 240
"""Most pixels of a side of a photo on the page."""


@dataclass(frozen=True, eq=False)
class Audited:
    """An audit with the verdicts on its pairs, and the split as it stands."""

    catalog: Catalog
    audit: Audit
    split: Split | None
    """None where none has been made yet."""
    verdict_of: Mapping[Images, Verdict]
    """By pair of image ids, sorted."""

    @cached_property
    def leaks(self) -> Leaks:
        """What of it the split tears apart, without the pairs that were rejected."""
        table = self.split.table if self.split else None
        fold_of = {} if table is None else dict(zip(table["image"], table["fold"].tolist(), strict=True))
        return find_leaks(self.audit, fold_of, self.verdict_of)

    def leaking(self) -> bool:
        """Whether any fold tests on a photo whose other half it learns from or validates on."""
        return any(self.leaks.of_fold.values())

    def verdict(self, pair: Pair) -> str:
        """The verdict on a pair, "" where there is none."""
        first, second = sorted(pair.images)
        return self.verdict_of.get((first, second), "")

    def document(self) -> dict[str, Any]:
        """Counts, leaks by fold, and every pair not rejected with its verdict and the folds it leaks in."""
        folds_of: dict[Images, list[int]] = {}
        for fold, torn in self.leaks.of_fold.items():
            for pair in torn:
                folds_of.setdefault(pair.images, []).append(fold)
        made = self.audit.document()
        both = zip(made["pairs"], self.audit.pairs, strict=True)
        kept = [(each, pair) for each, pair in both if self.verdict(pair) != "no"]
        kinds, pairs = Counter(pair.kind for _, pair in kept), self.audit.pairs
        return {
            "name": self.audit.benchmark,
            "photos": self.audit.photos,
            "audit_digest": made["digest"],
            "parts": self.audit.parts,
            "kinds": {kind: kinds[kind] for kind in KINDS},
            "two_names": sum(pair.two_names for _, pair in kept),
            "two_labels": sum(pair.two_labels for _, pair in kept),
            "rejected": len(pairs) - len(kept),
            "unseen": self.leaks.unseen,
            "leaks": {str(fold): len(torn) for fold, torn in self.leaks.of_fold.items()}
            if self.split
            else None,
            "leaking_photos": {str(fold): len(each) for fold, each in self.leaks.tested.items()}
            if self.split
            else None,
            "pairs": [
                each
                | {"two_names": pair.two_names, "two_labels": pair.two_labels}
                | {"verdict": self.verdict(pair), "leaks_in": folds_of.get(pair.images, [])}
                for each, pair in kept
            ],
            "credits": credits_of(
                self.catalog, {image for pair in self.audit.pairs for image in pair.images}
            ),
        }


def audit(
    name: str,
    workspace: Workspace,
    progress: Progress = SILENT,
    *,
    verdicts: Path | None = None,
    need_split: bool = False,
    force: bool = False,
) -> Audited:
    """The audit of a benchmark, made where there is none yet or with `force`, and what its split tears apart.

    Verdicts that are given are kept beside the audit from then on. One that was made without OpenCV is made
    again where that is installed. Raises WhalebenchError where a split is needed and absent.
    """
    catalog, folder, stem = (
        load_catalog(name, workspace, progress),
        workspace.benchmarks / photos_name(name),
        split_stem(name, workspace),
    )
    has_split = stem.with_name(f"{stem.name}.json").exists()
    if need_split and not has_split:
        raise WhalebenchError(
            f"{name} has no split that could have leaks: make one with `whalebench split make {name}`."
        )
    if verdicts:
        keep_verdicts(verdicts_in(verdicts, catalog), folder, catalog.digest)
    made = None if force else read_audit(folder, catalog.digest)
    if made is None or (can_find_parts() and not made.parts):
        made = audit_catalog(catalog, progress)
        write_audit(made, folder)
    split = read_split(stem, catalog) if has_split else None
    return Audited(catalog, made, split, read_verdicts(folder, catalog.digest))


def credits_of(catalog: Catalog, images: Container[str]) -> dict[str, str]:
    """Whose some photos are and under which licence, by image id; none of those of which neither is said."""
    columns = [column for column in ("rightsholder", "licence") if column in catalog.table]
    said = catalog.table[["image", *columns]].itertuples(index=False)
    credited = ((image, ", ".join(filter(None, texts))) for image, *texts in said)
    return {image: text for image, text in credited if text and image in images}


def thumbnails(catalog: Catalog, images: Iterable[str]) -> Mapping[str, str]:
    """Small JPEGs of some photos as data URIs, by image id, for a page that needs no other file."""
    table = catalog.table
    places = zip(table["path"], regions_of(table), strict=True)
    place_of = dict(zip(table["image"], places, strict=True))
    with pixel_limit(MAX_PIXELS):
        return {image: _thumbnail(*place_of[image]) for image in images}


def _thumbnail(path: str, region: Region | None) -> str:
    photo = read_photo(Path(path), "RGB", (THUMBNAIL, THUMBNAIL), region)
    photo.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    written = io.BytesIO()
    photo.save(written, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")
