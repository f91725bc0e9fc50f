"""Benchmarks by name: the embedded `flukes` and whatever was imported into the workspace.

`seals` is the benchmark with the split that it was given first. It may have others beside that, each with a
name of its own: `seals@open` is the same photos on the split `open`, and wherever a benchmark is asked for,
that will do. `twin`, and a name that ends in `-twin`, is that of a random twin: `seals@twin` is the one of
`seals`, `seals@open-twin` that of `seals@open`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whalebench import WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.auditing.verdicts import verdicts_in
from whalebench.benchmarks.core.catalog import (
    NO_ENCOUNTER,
    Catalog,
    catalogued_files,
    mask_of,
    read_catalog,
    read_facts,
    regions_of,
    verify_photos,
    write_catalog,
)
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.store import PhotoStore, inspect_photos
from whalebench.benchmarks.core.workspace import Workspace, atomic_path, benchmark_lock
from whalebench.splits.groupings import BY_DAY, days_of
from whalebench.splits.protocols import propose_split
from whalebench.splits.split import Split, committed_stem, has_split, read_split, write_split
from whalebench.splits.twin import random_twin

EMBEDDED = "flukes"
AT = "@"
"""Between the name of a benchmark and that of one of its splits."""
TWIN_NAME = "twin"


@dataclass(frozen=True)
class Benchmark:
    """What is measured: a catalog, its frozen folds, and its photos."""

    name: str
    """With that of its split, where it is not the first one: `seals`, or `seals@open`."""
    catalog: Catalog
    split: Split
    store: PhotoStore
    dataset: str = ""
    """The public set that the photos are, where it was said when they were imported."""

    @property
    def warnings(self) -> list[str]:
        """What a reader of any score on it should know: of its photos, then of its folds."""
        by_day = self.split.protocol == BY_DAY and all(days_of(self.catalog.table))
        of_photos = [each for each in self.catalog.warnings if not (by_day and each == NO_ENCOUNTER)]
        return [*of_photos, *self.split.warnings]


def load_benchmark_of(record: RunRecord, workspace: Workspace, progress: Progress = SILENT) -> Benchmark:
    """The benchmark of a run; raises WhalebenchError where catalog or split are no longer the same."""
    benchmark = load_benchmark(record.benchmark, workspace, progress)
    _refuse_other(benchmark, record.catalog_digest, record.split_digest, record.run)
    return benchmark


def reopen_benchmark(
    name: str, workspace: Workspace, catalog_digest: str, split_digest: str, progress: Progress = SILENT
) -> Benchmark:
    """The benchmark read from its files again, its photos not verified once more.

    Raises WhalebenchError where catalog or split have become others.
    """
    catalog = read_catalog(workspace.benchmarks / photos_name(name))
    benchmark = _with_split(catalog, name, workspace, progress)
    _refuse_other(benchmark, catalog_digest, split_digest, "this run")
    return benchmark


def check_content(catalog: Catalog, progress: Progress = SILENT) -> None:
    """Refuses a catalog whose photos or masks do not show what their rows say: all are decoded again.

    Stamps tell nothing of rows that have exchanged path and file digest, nor of a file that was damaged
    without being written. Of drawn photos, which are known by their scenes, and where photos are told apart
    by their files, as older whalebenches did, the file counts; of others what they show now or showed then.
    """
    files, table = list(catalogued_files(catalog.table)), catalog.table
    shown = (
        dict(zip(table["image"], table["content_digest"], strict=True)) if catalog.name != EMBEDDED else {}
    )
    if "mask_content_digest" in table:
        shown |= zip(map(mask_of, table["image"]), table["mask_content_digest"], strict=True)
    region_of = dict(zip(table["image"], regions_of(table), strict=True))
    region_of |= {mask_of(image): region for image, region in region_of.items()}
    progress.stage("inspect")
    paths, regions = [Path(path) for _, path, _ in files], [region_of[name] for name, _, _ in files]
    masks = len(paths) - len(table)
    facts = inspect_photos(paths, regions, masks=masks, progress=progress.advance)
    others = [
        name
        for (name, _, digest), fact in zip(files, facts, strict=True)
        if isinstance(fact, str)
        or fact.digest != digest
        or shown.get(name, digest) not in (digest, fact.content, fact.older)
    ]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise WhalebenchError(
            f"{len(others)} photos or masks of {catalog.name} do not show what was catalogued under their "
            f"names ({', '.join(others[:5])}{more}); restore them and catalog.parquet, or import the "
            f"benchmark again under a new name."
        )


def _refuse_other(benchmark: Benchmark, catalog_digest: str, split_digest: str, run: str) -> None:
    now = {"catalog": benchmark.catalog.digest, "split": benchmark.split.digest}
    for what, then in (("catalog", catalog_digest), ("split", split_digest)):
        if now[what] != then:
            raise WhalebenchError(
                f"The {what} of {benchmark.name} is not the one that {run} was made with "
                f"({now[what][:16]} now, {then[:16]} then): bring that one back, or run again."
            )


def benchmark_names(workspace: Workspace) -> tuple[str, ...]:
    """The embedded benchmark first, then the imported ones by name."""
    imported = sorted(file.parent.name for file in workspace.benchmarks.glob("*/catalog.json"))
    # A leading dot is a benchmark being written, or left by a crash.
    return (EMBEDDED, *(name for name in imported if name != EMBEDDED and not name.startswith(".")))


def load_catalog(name: str, workspace: Workspace, progress: Progress = SILENT) -> Catalog:
    """The catalog of that name, whatever the split; `flukes` is drawn the first time it is asked for.

    Raises WhalebenchError for an unknown name and for a catalog or a photo that is no longer what it was.
    """
    name = photos_name(name)
    folder = workspace.benchmarks / name
    if name == EMBEDDED:
        _draw_flukes(workspace, progress)
    elif name not in benchmark_names(workspace):
        how = "import one with `whalebench data import csv FILE --name NAME`."
        hint = did_you_mean(name, benchmark_names(workspace), how)
        raise WhalebenchError(f"There is no benchmark '{name}' in {workspace.root}: {hint}")
    try:
        catalog = read_catalog(folder)
        progress.stage("verify")
        verify_photos(catalog, folder)
    except WhalebenchError as error:
        if name != EMBEDDED:
            raise
        raise WhalebenchError(f"{error} Or remove {folder}: {EMBEDDED} is drawn again then.") from error
    return catalog


def load_benchmark(
    name: str, workspace: Workspace, progress: Progress = SILENT, *, propose: bool = False
) -> Benchmark:
    """The benchmark of that name with everything verified: photos, catalog and split.

    With propose, an imported catalog that has no split yet gets one, which is frozen from then on, and one
    whose random twin is asked for gets that.
    """
    catalog = load_catalog(name, workspace, progress)
    stem, of = split_stem(name, workspace), twin_of(name)
    is_there = stem.with_name(f"{stem.name}.json").exists()
    if propose and not is_there and (of or AT not in name):
        # That of a twin before the lock, which it needs itself.
        strict = load_benchmark(of, workspace, progress, propose=True).split if of else None
        with benchmark_lock(workspace, photos_name(name), lambda: progress.stage("wait for benchmark")):
            proposed = random_twin(strict, catalog) if strict else propose_split(catalog)
            if not has_split(stem, proposed):
                write_split(proposed, stem)
    return _with_split(catalog, name, workspace, progress)


def _with_split(catalog: Catalog, name: str, workspace: Workspace, progress: Progress) -> Benchmark:
    split, table = read_split(split_stem(name, workspace), catalog), catalog.table
    paths, digests, masks = (tuple(table[column]) for column in ("path", "file_digest", "mask"))
    regions = regions_of(table)
    store = PhotoStore(workspace.cache / "photos", paths, digests, masks, regions, tell=progress.stage)
    dataset = str(read_facts(workspace.benchmarks / photos_name(name)).get("dataset", ""))
    return Benchmark(name, catalog, split, store, dataset)


def photos_name(name: str) -> str:
    """The name of a benchmark without that of its split.

    >>> photos_name("seals@open"), photos_name("seals")
    ('seals', 'seals')
    """
    return name.partition(AT)[0]


def twin_of(name: str) -> str:
    """The benchmark whose random twin has this name; empty for the name of no twin.

    >>> twin_of("seals@twin"), twin_of("seals@open-twin"), twin_of("seals@open")
    ('seals', 'seals@open', '')
    """
    photos, _, split = name.partition(AT)
    if split == TWIN_NAME:
        return photos
    strict = split.removesuffix(f"-{TWIN_NAME}")
    return f"{photos}{AT}{strict}" if strict != split else ""


def split_stem(name: str, workspace: Workspace) -> Path:
    """Where the split of a benchmark is, without the suffix: in the package, or beside the catalog.

    Raises WhalebenchError for a split whose name cannot be.
    """
    photos, at, split = name.partition(AT)
    if at and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,49}", split):
        raise WhalebenchError(
            f"{one_line(repr(split), 60)} cannot name a split; use small letters, digits and hyphens, as in "
            f"@open."
        )
    return committed_stem(name) or workspace.benchmarks / photos / f"split{at}{split}"


def make_split(
    name: str,
    workspace: Workspace,
    *,
    seed: int = 0,
    groups: Path | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> Split:
    """The split of that name, made once; asked for again in the same way, it is the same one.

    The options are those of `propose_split`; a random twin takes none but the seed. `groups` is a CSV of
    verdicts on pairs of photos: those with yes are never in two parts. One that another process is making is
    waited for.
    """
    stem, options = (
        split_stem(name, workspace),
        {key: value for key, value in options.items() if value is not None},
    )
    if committed_stem(name):
        raise WhalebenchError(
            f"The split of '{name}' comes with whalebench and is never made anew; see it with "
            f"`whalebench split show {name}`, or make another one beside it, such as {name}@open."
        )
    catalog = load_catalog(name, workspace, progress)
    if groups:
        verdicts = verdicts_in(groups, catalog)
        options["together"] = tuple(pair for pair, verdict in verdicts.items() if verdict == "yes")
    if of := twin_of(name):
        if options:
            raise WhalebenchError(
                f"{name} is the random twin of {of} and takes after that, so {next(iter(options))} cannot be "
                f"chosen: leave it out, or name the split otherwise."
            )
        split = random_twin(load_benchmark(of, workspace, progress, propose=True).split, catalog, seed)
    else:
        split = propose_split(catalog, seed=seed, **options)
    with benchmark_lock(workspace, photos_name(name), lambda: progress.stage("wait for benchmark")):
        write_split(split, stem)
    return split


def _draw_flukes(workspace: Workspace, progress: Progress) -> None:
    """Leaves the drawn benchmark in its folder, one process at a time; one of this version stays."""
    from whalebench.benchmarks.flukes import DRAWING_VERSION, draw_flukes

    folder = workspace.benchmarks / EMBEDDED
    source = f"drawn by whalebench, drawing version {DRAWING_VERSION}"

    def is_there() -> bool:
        return (folder / "catalog.json").exists() and read_facts(folder).get("source") == source

    if is_there():
        return
    Workspace.open(workspace.root)  # whoever only reads has not made it writable yet
    with benchmark_lock(workspace, EMBEDDED, lambda: progress.stage("wait for benchmark")):
        if is_there():
            return
        progress.stage("draw")
        with atomic_path(folder, shared=False) as drawing:  # drawn alike everywhere
            drawing.mkdir()
            rows = draw_flukes(drawing, workers=cores(), progress=progress.advance)
            write_catalog(rows, drawing, EMBEDDED, source)
    Workspace.open(workspace.root)  # at a URL there may be splits and audits of it
