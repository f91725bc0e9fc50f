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
from whalebench.benchmarks.auditing.audit import (
    KINDS,
    Audit,
    Pair,
    audit_catalog,
    find_leaks,
    read_audit,
    write_audit,
)
from whalebench.benchmarks.auditing.verdicts import read_verdicts
from whalebench.benchmarks.core.catalog import Catalog, Region, regions_of
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.store import MAX_PIXELS, pixel_limit, read_photo
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_catalog, split_stem
from whalebench.splits.split import Split, read_split

THUMBNAIL = 240
"""Most pixels of a side of a photo on the page."""


@dataclass(frozen=True, eq=False)
class Audited:
    """An audit, less the pairs that were rejected, and the split as it stands."""

    catalog: Catalog
    audit: Audit
    split: Split | None
    """None where none has been made yet."""
    rejected: int = 0

    @cached_property
    def leaks(self) -> dict[int, tuple[Pair, ...]]:
        """By fold, the pairs that it tears apart."""
        return find_leaks(self.audit, self.split) if self.split else {}

    def leaking(self) -> bool:
        """Whether any fold tests on a photo whose other half it learns from or validates on."""
        return any(self.leaks.values())

    def document(self) -> dict[str, Any]:
        """Counts, leaks by fold, and every pair with the folds that it leaks in."""
        folds_of: dict[tuple[str, str], list[int]] = {}
        for fold, pairs in self.leaks.items():
            for pair in pairs:
                folds_of.setdefault(pair.images, []).append(fold)
        made = self.audit.document()
        kinds = Counter(pair.kind for pair in self.audit.pairs)
        return {
            "name": self.audit.benchmark,
            "photos": self.audit.photos,
            "audit_digest": made["digest"],
            "kinds": {kind: kinds[kind] for kind in KINDS},
            "two_names": sum(pair.two_names for pair in self.audit.pairs),
            "rejected": self.rejected,
            "leaks": None
            if self.split is None
            else {str(fold): len(each) for fold, each in self.leaks.items()},
            "pairs": [
                each | {"two_names": pair.two_names, "leaks_in": folds_of.get(pair.images, [])}
                for each, pair in zip(made["pairs"], self.audit.pairs, strict=True)
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

    Pairs that the verdicts reject are left out. Raises WhalebenchError where a split is needed and absent.
    """
    catalog, folder, stem = (
        load_catalog(name, workspace, progress),
        workspace.benchmarks / name,
        split_stem(name, workspace),
    )
    has_split = stem.with_suffix(".json").exists()
    if need_split and not has_split:
        raise WhalebenchError(
            f"{name} has no split that could have leaks: make one with `whalebench split make {name}`."
        )
    rejected = read_verdicts(verdicts, catalog)["no"] if verdicts else ()
    made = None if force else read_audit(catalog, folder)
    if made is None:
        made = audit_catalog(catalog, progress)
        write_audit(made, folder)
    kept = made.without(rejected)
    split = read_split(stem, catalog) if has_split else None
    return Audited(catalog, kept, split, len(made.pairs) - len(kept.pairs))


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
