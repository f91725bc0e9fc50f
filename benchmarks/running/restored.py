"""A finished run taken up again: its method, brought back from its files, scores as it did."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core import record as records
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.machine import choose_device, cores
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import SCORES, WEIGHTS, RunRecord
from whalebench.benchmarks.core.store import StoreView
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import Benchmark, load_benchmark_of
from whalebench.benchmarks.running.folds import OpenFold, Views, contents, fold_views, open_fold
from whalebench.benchmarks.running.outcome import score_photos
from whalebench.methods.guests import blamed, guest
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.methods.registry import find_method, name_of

TOLERANCE = 1e-3
"""By how much a restored method may miss a stored score on the processor."""
LOW_PRECISION, MOST_PHOTOS = 0.02, 0.95
"""The same on another kind of device, or in bf16, as a share of the spread of the stored scores, and of how
many photos at least: one whose mask was found just so may be seen through another window there."""


@dataclass(frozen=True)
class Restored:
    """A run whose method scores again."""

    record: RunRecord
    folder: Path
    benchmark: Benchmark
    method: Pipeline
    views: Views
    scores: NDArray[np.float32]
    """(test photos that it was tried on, identities), as the restored method gives them."""

    @cached_property
    def opened(self) -> OpenFold:
        """The answers to its fold."""
        return open_fold(self.benchmark, self.record.fold)


def restore_run(
    name: str,
    workspace: Workspace,
    progress: Progress = SILENT,
    *,
    photos: int | None = None,
    device: str | None = None,
    benchmark: Benchmark | None = None,
) -> Restored:
    """The run of that name, or in that folder, with its method as it was after learning.

    It is tried on all test photos, or on so many of them, by the scores that it gave; on that device, or the
    one that the run was made on. Its benchmark is loaded and verified unless given.

    Raises WhalebenchError where catalog, split or weights are not those of the run, where a part was fitted
    on test photos, where the method cannot be restored, and where it does not give the stored scores again.
    """
    folder = records.find_run(name, workspace)
    record = records.read_record(folder)
    _refuse_without_method(record)
    benchmark = benchmark or load_benchmark_of(record, workspace, progress)
    method = _method(record, folder)
    if photos is not None:
        _refuse_together(record, method)
    if benchmark.split.gallery(record.fold):
        raise WhalebenchError(
            f"The run {record.run} was scored by a gallery of individuals that it never learned, which is "
            f"not kept with it: choose a run on a split that is not disjoint."
        )
    viewpoints = method.config.sees_viewpoints()
    views = fold_views(benchmark, record.fold, oracle=record.oracle, viewpoints=viewpoints)
    weights, lineage = read_weights(folder)
    content = contents(benchmark, record.fold)
    _refuse_seen_test(record, lineage, {content[each] for each in views.test.digests})
    place = choose_device(device) if device else _device(record)
    tried = np.unique(np.linspace(0, len(views.test) - 1, photos or len(views.test)).astype(np.int64))
    test = views.queries()["test"]
    if photos is None:
        progress.stage("decode")
        for size in method.sizes():
            benchmark.store.pixels(size, progress.advance, cores())
    else:
        test = _apart(test.select(tried), benchmark, record)
    progress.stage("restore")
    with blamed(record.method):
        _take_up(method, weights, views, place, folder / WEIGHTS)
        scores = score_photos(method, test)
    _refuse_other_scores(record, folder, benchmark, scores, tried, place)
    return Restored(record, folder, benchmark, method, views, scores)


def _refuse_without_method(record: RunRecord) -> None:
    if record.unfit:
        raise WhalebenchError(
            f"The run {record.run} learned nothing, because {record.unfit}: choose another run."
        )
    if record.members:
        raise WhalebenchError(
            f"The run {record.run} is an ensemble of finished runs and looks at no photos itself: choose one "
            f"of its members, {', '.join(record.members)}."
        )


def _refuse_together(record: RunRecord, method: Pipeline) -> None:
    """Raises WhalebenchError for a run that scores photos by those beside them, and has no others."""
    if record.transductive and not (method.transductive and method.scores_alone):
        raise WhalebenchError(
            f"{record.run} scores photos with the help of those that it is tested on, so it says nothing of "
            f"others: choose a run that is not transductive."
        )


def _apart(test: Photos, benchmark: Benchmark, record: RunRecord) -> Photos:
    """The same test photos out of a store of their own, so that no others need be decoded."""
    of_test, store = benchmark.split.parts(record.fold).test, benchmark.store
    row_of = columns_of(benchmark.catalog.table["image"])
    numbers = [int(image.rpartition("-")[2]) - 1 for image in test.images]
    rows = [row_of[of_test[number]] for number in numbers]
    few = replace(
        store,
        paths=tuple(store.paths[row] for row in rows),
        digests=tuple(store.digests[row] for row in rows),
        mask_paths=tuple(store.mask_paths[row] if record.oracle else "" for row in rows),
        regions=tuple(store.regions[row] for row in rows) if store.regions else (),
        _open={},
    )
    place_of = np.zeros(test.rows.max() + 1, np.int64)
    place_of[test.rows] = np.arange(len(rows))
    return replace(test, store=StoreView.of(place_of, lambda: few))


def _method(record: RunRecord, folder: Path) -> Pipeline:
    kind = find_method(_method_name(record, folder))
    with blamed(record.method), guest(record.method):
        try:
            config = kind.Config.model_validate(record.config)
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its fields"
            raise WhalebenchError(
                f"{record.run} was made with a {record.method} of other fields ({field}): run it again."
            ) from error
        return build_method(kind, config)


def _method_name(record: RunRecord, folder: Path) -> str:
    """The name of the run's method, loaded where it is a file; WhalebenchError where that is gone.

    Runs are passed on, and no program that came with them is run.
    """
    if not record.method_file:
        return record.method
    file = Path(record.method_file)
    if not file.is_absolute() or file.resolve().is_relative_to(folder.resolve().parent):
        raise WhalebenchError(
            f"The run {record.run} is of the method in {record.method_file}, which lies among the runs, and "
            f"no program is run from there: put the file elsewhere, and run it again."
        )
    if not file.exists():
        raise WhalebenchError(
            f"The run {record.run} is of the method in {record.method_file}, which is not there any more: "
            f"put the file back, or run it again from where it is now."
        )
    if (name := name_of(record.method_file)) != record.method:
        raise WhalebenchError(
            f"The run {record.run} is of the method {record.method}, and {record.method_file} holds {name} "
            f"now: put the file back, or run it again."
        )
    return name


def read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """What was learned by name, and by part the digests of the photos it was fitted on; both verified."""
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS
    try:
        with safe_open(records.verified(file), "pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
            lineage = json.loads(opened.metadata()["lineage"])
    except (OSError, SafetensorError) as error:
        raise WhalebenchError(f"{file} cannot be read ({error}): repeat the run with --force.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise WhalebenchError(
            f"{file} does not say which photos it was fitted on: repeat the run with --force."
        ) from error
    return weights, lineage


def _refuse_seen_test(record: RunRecord, lineage: dict[str, list[str]], test: set[str]) -> None:
    if record.transductive:  # it was handed them without labels, and is ranked apart
        return
    for part, digests in lineage.items():
        seen = set(digests) & test
        if seen:
            raise WhalebenchError(
                f"The {part} of {record.run} was fitted on {len(seen)} of its test photo(s), so its scores "
                f"mean nothing: run it again on the split as it is."
            )


def _device(record: RunRecord) -> torch.device:
    """The device the run was made on where it is here, because another one rounds differently."""
    try:
        return choose_device(str(record.hardware.get("device", "auto")))
    except WhalebenchError:
        return choose_device("auto")


def _take_up(
    method: Pipeline, weights: dict[str, torch.Tensor], views: Views, device: torch.device, file: Path
) -> None:
    try:
        method.restore(weights, views.train.identities, device)
    except NotImplementedError as error:
        raise WhalebenchError(
            f"{method.name} cannot be restored from its weights: choose a run of another method, or give it "
            f"a restore() (see methods/method.py)."
        ) from error
    except (KeyError, RuntimeError, ValueError) as error:
        reason = one_line(error, 120)
        raise WhalebenchError(
            f"{file} does not hold what {method.name} learned ({reason}): repeat the run with --force."
        ) from error


def _refuse_other_scores(
    record: RunRecord,
    folder: Path,
    benchmark: Benchmark,
    scores: NDArray[np.float32],
    tried: NDArray[np.int64],
    device: torch.device,
) -> None:
    """Scores (photos, identities) are of the test photos that were `tried`, by their places."""
    file = folder / SCORES
    arrays, names = records.read_scores(folder, ("test_scores",))
    stored = arrays.get("test_scores", np.zeros(0))
    parts, table = benchmark.split.parts(record.fold), benchmark.catalog.table
    known = sorted(set(table["identity"][table["image"].isin(parts.train)]) - {""})
    if (names["test"], names["identities"]) != (list(parts.test), known) or stored.shape != (
        len(parts.test),
        scores.shape[1],
    ):
        raise WhalebenchError(f"{file} is of other photos than the run: repeat the run with --force.")
    stored = stored[tried]
    then = str(record.hardware.get("device", "cpu"))
    exact = device.type == then == "cpu" and "bf16" not in json.dumps(record.config)
    allowed = TOLERANCE if exact else LOW_PRECISION * float(np.ptp(stored))
    off_by = np.abs(scores - stored)
    if (kept := records.kept_columns(folder, "test_scores")) is not None:  # the others are their mean
        off_by = np.take_along_axis(off_by, kept[tried].astype(np.int64), axis=1)
    of_photos = off_by.max(axis=1)
    off = float(of_photos.max() if exact else np.quantile(of_photos, MOST_PHOTOS))
    if not off <= allowed:  # also where it is NaN
        raise WhalebenchError(
            f"{record.run} does not score as it did: its scores are off by up to {off:.2g}, made on {then} "
            f"and again on {device.type}; repeat the run with --force, or explain it where it was made."
        )
