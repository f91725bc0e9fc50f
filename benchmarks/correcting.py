"""A benchmark as people who looked have corrected it: their decisions make a new version of it.

The version that was corrected stays as it is, with its catalog, its folds and its runs; the new one says in
its catalog who corrected what, when, and by which decisions.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import (
    DIGESTS,
    NAMELESS,
    NOT_IDENTIFIED,
    Catalog,
    build_catalog,
    read_catalog,
    read_facts,
    write_catalog,
)
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import find_run, read_record
from whalebench.benchmarks.core.workspace import Workspace, benchmark_lock
from whalebench.benchmarks.decisions import (
    Decision,
    Settled,
    labels_of,
    on_photos,
    read_decisions,
    refuse_decisions,
    settle,
)
from whalebench.benchmarks.importing.tables import problem
from whalebench.benchmarks.predicting.photos import read_new_photos
from whalebench.benchmarks.registry import EMBEDDED, load_catalog, photos_name

CORRECTED = "corrected"
"""What a version's catalog says of how it came about: a list, the oldest correction first."""
Change = dict[str, Any]


@dataclass(frozen=True)
class Correction:
    """A version of a benchmark, and how it differs from the one that was corrected."""

    catalog: Catalog
    change: Change
    """Who, when, from what, and what has changed: the last entry of what its catalog says under CORRECTED."""
    notes: tuple[str, ...]


def correct(
    name: str,
    file: Path,
    workspace: Workspace,
    *,
    by: str = "",
    photos: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> Correction:
    """The new version of a benchmark that the decisions of a file make: `seals-2` of `seals`.

    `photos` are those that the benchmark does not have yet, as `predict` was given them; all of them join it,
    those that nobody decided on as not identified, or as their table names them. `by` is who decided.
    Raises WhalebenchError for decisions that contradict each other or labels, that are about other photos or
    individuals, or that were made with a run on other photos; and where nothing would change.
    """
    if photos_name(name) == EMBEDDED:
        raise WhalebenchError(f"The photos of {EMBEDDED} are drawn, and it is known who is on each of them.")
    catalog = load_catalog(name, workspace, progress)
    decisions = read_decisions(file)
    added, notes = _new_rows(photos, catalog, progress)
    table = pd.concat([catalog.table, added], ignore_index=True) if len(added) else catalog.table
    _check_runs(file, decisions, catalog, workspace)
    settled = settle(file, on_photos(file, decisions, table), table)
    corrected = table.assign(identity=[settled.name_of(*row) for row in labels_of(table)])
    change = {
        "from": catalog.name,
        "digest": catalog.digest,
        "by": by or "not said",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "decisions": file.name,
        "decisions_digest": digest_file(file),
        **_counts(decisions, settled, table, len(added)),
    }
    return replace(_write(corrected, catalog, change, workspace, progress), notes=tuple(notes))


def _check_runs(file: Path, decisions: Sequence[Decision], catalog: Catalog, workspace: Workspace) -> None:
    """Raises WhalebenchError for decisions on candidates of runs that saw other photos than these."""
    why: dict[str, str] = {"": ""}
    for run in dict.fromkeys(one.run for one in decisions if one.run):
        try:
            record = read_record(find_run(run, workspace))
        except WhalebenchError:
            why[run] = (
                "it is not in this workspace, so nobody can tell on which photos it was; bring it here, or "
                "empty the cells"
            )
            continue
        if record.catalog_digest != catalog.digest:
            now, then = catalog.digest[:12], record.catalog_digest[:12]
            why[run] = (
                f"its benchmark, {record.benchmark}, is not {catalog.name} as it is now (digest {then} then, "
                f"{now} now); correct the benchmark that it was made with"
            )
    wrong = [(index, one.run) for index, one in enumerate(decisions) if why.get(one.run)]
    refuse_decisions(file, decisions, [(index, problem("run", run, why[run])) for index, run in wrong])


def _new_rows(photos: Sequence[Path], catalog: Catalog, progress: Progress) -> tuple[pd.DataFrame, list[str]]:
    """The catalog's rows of photos that it does not have yet, and notes on them."""
    if not photos:
        return catalog.table.iloc[:0], []
    found = read_new_photos(photos, progress, in_boxes=catalog.has_given_boxes, headers=False)
    there = catalog.table.set_index("image")["content_digest"]
    known = found.table["image"].isin(there.index)
    for image, *digests in found.table[known][["image", *DIGESTS]].itertuples(index=False):
        if there[image] not in digests:  # which are those of files where an older whalebench made the catalog
            raise WhalebenchError(
                f"{catalog.name} has another photo called {one_line(image, 60)!r}; rename the new one, and "
                f"predict it by its new name."
            )
    rows = found.table[~known]
    # That a table names nobody does not say that the animal is none of the others.
    rows = rows.assign(identity=rows["identity"].where(rows["identity"] != "", NOT_IDENTIFIED))
    copies = rows["image"][rows["content_digest"].isin(there)].tolist()
    twice = (
        f"{len(copies)} of the new photos have the very pixels of one that {catalog.name} has, first "
        f"{one_line(copies[0], 60)}; they share a group in every split."
        for _ in copies[:1]
    )
    return rows, [*found.problems, *found.notes, *twice]


def _counts(decisions: Sequence[Decision], settled: Settled, table: pd.DataFrame, added: int) -> Change:
    """What decisions there are, and what they change, for the catalog's history."""
    labels = dict(labels_of(table))
    changed = [(labels[image], name) for image, name in settled.names.items() if labels[image] != name]
    moved = [pair for pair in changed if settled.merged.get(pair[0]) != pair[1]]
    return {
        "words": dict(Counter(one.decision for one in decisions)),
        "added": added,
        "named": sum(old in NAMELESS and name not in NAMELESS for old, name in moved),
        "renamed": sum(old not in NAMELESS and name not in NAMELESS for old, name in moved),
        "unnamed": sum(old not in NAMELESS and name in NAMELESS for old, name in moved),
        "merged": dict(settled.merged),
        "new": list(settled.new),
        "runs": sorted({one.run for one in decisions if one.run}),
    }


def _write(
    table: pd.DataFrame, old: Catalog, change: Change, workspace: Workspace, progress: Progress
) -> Correction:
    """The version with these rows, written beside all others; one that has the same rows is found again."""
    history = [*old.derived.get(CORRECTED, ()), change]
    root = history[0]["from"]
    new = build_catalog(table, old.name)
    if new.digest == old.digest:
        raise WhalebenchError(
            f"{change['decisions']} changes nothing in {old.name}: its "
            f"{sum(change['words'].values())} decisions agree with the labels, or are unsure."
        )
    if len(new.identities) < 2:
        raise WhalebenchError(
            f"{change['decisions']} leaves fewer than two individuals; a benchmark needs two."
        )
    with benchmark_lock(workspace, root, lambda: progress.stage("wait for benchmark")):
        number = 2
        while (folder := workspace.benchmarks / f"{root}-{number}").joinpath("catalog.json").exists():
            if read_facts(folder)["digest"] == new.digest:
                there = read_catalog(folder)
                if said := there.derived.get(CORRECTED):
                    return Correction(there, said[-1], ())
            number += 1
        rows = new.table.copy()
        for column in ("path", "mask"):
            rows[column] = [_from_folder(path, folder) for path in rows[column]]
        dataset = str(read_facts(workspace.benchmarks / old.name).get("dataset", ""))
        catalog = write_catalog(
            rows,
            folder,
            folder.name,
            f"{old.name} ({old.digest[:12]}), corrected by {change['decisions']}",
            dataset=dataset,
            derived={**old.derived, CORRECTED: history},
        )
    return Correction(catalog, change, ())


def _from_folder(path: str, folder: Path) -> str:
    """A path as the version's folder finds it, when its workspace is moved, too."""
    is_near = path and Path(os.path.normpath(path)).is_relative_to(folder.parent)
    return os.path.relpath(path, folder) if is_near else path
