"""A gallery that grows: photos of individuals, new ones too, join what a trained method compares with.

Nothing is learned. What joins is an artefact of its own, in the workspace's folder `galleries`, which says
what it was made from; the run stays as it is. `predict` takes its name in place of the run's.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from whalebench import WhalebenchError, __version__, one_line
from whalebench.benchmarks.core import record as records
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.catalog import NAMELESS
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    digest_file,
    digest_text,
    parse_json,
    with_digest,
)
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.photos import LabelledPhotos
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import RunRecord, read_arrays, write_arrays
from whalebench.benchmarks.core.workspace import Workspace, atomic_path, atomic_text
from whalebench.benchmarks.predicting.photos import NewPhotos, decoded, read_new_photos
from whalebench.benchmarks.registry import Benchmark
from whalebench.benchmarks.running.folds import show_new_photos
from whalebench.benchmarks.running.restored import Restored, restore_run
from whalebench.methods.guests import blamed
from whalebench.methods.parts.pipeline import Pipeline

FOLDER, FACTS, PHOTOS, JOINED = "galleries", "gallery.json", "photos.parquet", "joined.safetensors"
IDENTITIES = "identities"
TRIED = 8
"""Test photos on which the run must score as it did."""
PLUS = "+"
"""Between the name of a run and the mark of what joined its gallery."""
AGAIN = "add the photos again, by `whalebench gallery add`"


class GalleryFacts(BaseModel):
    """What a gallery was made from, as gallery.json says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    name: str
    run: str
    run_digest: str
    """The digest of the run's record."""
    benchmark: str
    after: str = ""
    """The gallery whose photos it has, too; empty where it is the run's first."""
    photos: int
    """That joined, those of `after` among them."""
    new_individuals: list[str]
    """Who is in it and was not learned."""
    content_digest: str
    """Of what the photos show and whom."""
    source: list[str]
    """The paths as they were given."""
    created: str
    """ISO 8601, UTC."""
    by: str
    """The user's name on the machine; empty where it has none."""
    tool_version: str = __version__
    files: dict[str, str] = {}
    """SHA-256 of the other files of its folder."""
    digest: str = ""
    """SHA-256 of everything else in it."""


@dataclass(frozen=True, eq=False)
class NewGallery:
    """What joins the gallery of a run."""

    facts: GalleryFacts
    folder: Path
    table: pd.DataFrame
    """A row a photo, by the columns of every catalog, in the order in which they joined."""
    identities: tuple[str, ...]
    """The individuals of the run, and behind them those that are new."""

    @property
    def run(self) -> str:
        """The name of the run."""
        return self.facts.run

    def refuse_other(self, record: RunRecord) -> None:
        """Raises WhalebenchError where the run is no longer the one whose gallery it extends."""
        if self.facts.run_digest != record.digest:
            raise WhalebenchError(
                f"{record.run} was made again since photos joined its gallery as {self.facts.name}: add them "
                f"again, by `whalebench gallery add {record.run}`."
            )

    def join(self, method: Pipeline) -> None:
        """Has the photos in the galleries of the run's method, restored as it was after learning."""
        for name, gallery in method.galleries().items():
            wanted = [f"{name}/{key}" for key in ("gallery", "labels", "viewpoints")]
            arrays, _ = read_arrays(self.folder / JOINED, wanted, IDENTITIES, AGAIN)
            embeddings, labels, sides = (arrays.get(key) for key in wanted)
            if embeddings is None or labels is None:
                raise WhalebenchError(
                    f"{self.folder / JOINED} is of another method than {method.name}: {AGAIN}."
                )
            gallery.add(embeddings, labels, len(self.identities), sides)

    def document(self) -> dict[str, Any]:
        """What it was made from, as one JSON document."""
        return self.facts.model_dump(mode="json") | {"folder": str(self.folder), "said": self.said()}

    def said(self) -> str:
        """A sentence on it."""
        facts, new = self.facts, len(self.facts.new_individuals)
        return (
            f"{facts.photos} photo(s) joined the gallery of {facts.run}, {new} individual(s) that it never "
            f"learned among them; temperature, thresholds and the chance of *new* stay as they were chosen."
        )


def add_to_gallery(
    run: str, paths: Sequence[Path], workspace: Workspace, progress: Progress = SILENT
) -> NewGallery:
    """The gallery of a run, or one that was extended before, with the photos of named individuals behind it.

    The same photos again are the same gallery, which is found. Raises WhalebenchError for a photo that names
    nobody, that cannot be used, that is a test photo of the run, or that the gallery has, and for a method
    that has no gallery.
    """
    before = find_gallery(run, workspace)
    restored = restore_run(before.run if before else run, workspace, progress, photos=TRIED)
    if before is not None:
        before.refuse_other(restored.record)
    new = read_new_photos(paths, progress, in_boxes=restored.benchmark.catalog.has_given_boxes, headers=False)
    _refuse(new, restored, before)
    known = before.identities if before else restored.views.train.identities
    identities = (*known, *sorted(set(new.table["identity"]) - set(known)))
    facts = _facts(new, restored, before, identities, paths)
    folder = workspace.root / FOLDER / facts.name
    if not folder.exists():
        kept = {name: len(gallery.labels) for name, gallery in restored.method.galleries().items()}
        if before is not None:
            before.join(restored.method)
        _extend(restored, new, identities, workspace, progress)
        table = new.table if before is None else pd.concat([before.table, new.table], ignore_index=True)
        _write(folder, facts, table, identities, _arrays_of(restored.method, kept))
    return read_gallery(folder)


def _refuse(new: NewPhotos, restored: Restored, before: NewGallery | None) -> None:
    """Raises WhalebenchError for the first photo that cannot join, and says how many there are."""
    if new.problems:
        raise WhalebenchError(
            f"{new.problems[0]} Mend it or leave it out: {len(new.problems)} cannot be used."
        )
    table, benchmark = new.table, restored.benchmark
    nameless = table["image"][table["identity"].isin(NAMELESS)].tolist()
    if nameless:
        raise WhalebenchError(
            f"{len(nameless)} photo(s) name no individual, first {nameless[0]}: a gallery is of named ones, "
            f"so fill the column identity, or leave them out."
        )
    for image, part in _shown_before(table, benchmark, restored.record.fold, before):
        if part == "test":
            raise WhalebenchError(
                f"{image} is a test photo of {restored.record.run}, so its score would say who has its own "
                f"photo at hand: leave it out."
            )
        raise WhalebenchError(f"{image} is in the gallery of {restored.record.run} already: leave it out.")


def _shown_before(
    table: pd.DataFrame, benchmark: Benchmark, fold: int, before: NewGallery | None
) -> Sequence[tuple[str, str]]:
    """The photos of the table that show what one of the run's does, and in which part: test before train."""
    parts, catalog = benchmark.split.parts(fold), benchmark.catalog.table
    found = []
    for part in ("test", "train"):
        rows = catalog[catalog["image"].isin(getattr(parts, part))]
        rows = rows if part == "test" or before is None else pd.concat([rows, before.table])
        digests = {*rows["content_digest"], *rows["file_digest"]}
        same = table["content_digest"].isin(digests) | table["file_digest"].isin(digests)
        found += [(image, part) for image in table["image"][same]]
    return found


def _facts(
    new: NewPhotos,
    restored: Restored,
    before: NewGallery | None,
    identities: tuple[str, ...],
    paths: Sequence[Path],
) -> GalleryFacts:
    run, learned = restored.record, len(restored.views.train.identities)
    rows = new.table[["image", "identity", "viewpoint", "content_digest"]].to_numpy(object).tolist()
    after = before.facts.name if before else ""
    content = digest_text(json.dumps([before.facts.content_digest if before else "", rows]))
    mark = digest_text(json.dumps([run.digest, content]))[:8]
    user = ""
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        user = getpass.getuser()
    return GalleryFacts(
        name=f"{run.run}{PLUS}{mark}",
        run=run.run,
        run_digest=run.digest,
        benchmark=run.benchmark,
        after=after,
        photos=len(new.table) + (before.facts.photos if before else 0),
        new_individuals=list(identities[learned:]),
        content_digest=content,
        source=[str(path) for path in paths],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        by=user,
    )


def _extend(
    restored: Restored, new: NewPhotos, identities: tuple[str, ...], workspace: Workspace, progress: Progress
) -> None:
    """Has the method take the photos into its galleries."""
    method, record, column = restored.method, restored.record, columns_of(identities)
    with decoded(new, workspace, progress) as (store, broken):
        progress.stage("decode")
        for size in method.sizes():
            store.pixels(size, progress.advance, cores())
        if broken:
            row = min(broken)
            raise WhalebenchError(f"{new.table['path'][row]} cannot be used, {broken[row]}: leave it out.")
        shown = show_new_photos(
            restored.benchmark,
            record.fold,
            new.table,
            store,
            oracle=record.oracle,
            viewpoints=method.config.sees_viewpoints(),
        )
        labels = np.array([column[name] for name in new.table["identity"]], np.int64)
        progress.stage("gallery")
        labelled = LabelledPhotos(**vars(shown) | {"labels": labels, "identities": identities})
        with blamed(record.method):
            try:
                method.extend(labelled)
            except NotImplementedError as error:
                raise WhalebenchError(
                    f"{record.run} has no gallery that photos could join ({record.method} knows whom it "
                    f"learned, and nobody else): choose a run of a method that compares photos, as arcface."
                ) from error


def _arrays_of(method: Pipeline, kept: dict[str, int]) -> dict[str, NDArray[Any]]:
    """By name what each gallery has more than it had."""
    return {
        f"{name}/{key}": value.numpy()[kept[name] :]
        for name, gallery in method.galleries().items()
        for key, value in gallery.state_dict().items()
    }


def _write(
    folder: Path,
    facts: GalleryFacts,
    table: pd.DataFrame,
    identities: tuple[str, ...],
    arrays: dict[str, NDArray[Any]],
) -> None:
    """Leaves the folder, whole or not at all."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        table.to_parquet(temporary / PHOTOS, index=False)
        write_arrays(temporary / JOINED, arrays, IDENTITIES, list(identities))
        files = {name: digest_file(temporary / name) for name in (PHOTOS, JOINED)}
        document = with_digest(facts.model_copy(update={"files": files}).model_dump(mode="json"))
        atomic_text(temporary / FACTS, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def find_gallery(name: str, workspace: Workspace) -> NewGallery | None:
    """The extended gallery of that name, RUN+MARK, or whose name alone begins so; None for one without +."""
    if (Path(name) / FACTS).is_file():
        return read_gallery(Path(name).absolute())
    if PLUS not in name:
        return None
    there = sorted(file.parent for file in (workspace.root / FOLDER).glob(f"*{PLUS}*/{FACTS}"))
    fits = [folder for folder in there if folder.name.startswith(name)]
    if len(fits) != 1:
        listed = ", ".join(folder.name for folder in (fits or there)[: records.LISTED]) or "none"
        raise WhalebenchError(
            f"'{one_line(name, 80)}' fits {len(fits)} extended galleries; there are: {listed}."
        )
    return read_gallery(fits[0])


def read_gallery(folder: Path) -> NewGallery:
    """The extended gallery in a folder; raises WhalebenchError where it is not what was written."""
    file = folder / FACTS
    try:
        said = parse_json(file.read_bytes())
        if differs_from_digest(said):
            raise WhalebenchError(f"{file} {records.DIFFERS}: {AGAIN}, or restore the file.")
        facts = GalleryFacts.model_validate(said)
        for name, digest in facts.files.items():
            if digest_file(folder / name) != digest:
                raise WhalebenchError(f"{folder / name} {records.DIFFERS}: {AGAIN}, or restore the file.")
        table = pd.read_parquet(folder / PHOTOS)
        _, identities = read_arrays(folder / JOINED, (), IDENTITIES, AGAIN)
    except (OSError, ValueError, ValidationError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}): {AGAIN}.") from error
    return NewGallery(facts, folder, table, tuple(identities))
