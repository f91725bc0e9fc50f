"""A finished run brought back: its method with what it learned, proved to score as it did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from whalebench import WhalebenchError
from whalebench.benchmarks.core.machine import choose_device, cores
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import SCORES, WEIGHTS, RunRecord, find_run, read_arrays, read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import Benchmark, load_benchmark_of
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.methods.parts.pipeline import Pipeline, build_method
from whalebench.methods.registry import find_method

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
    """(test photos, identities), as the restored method gives them."""


def restore_run(name: str, workspace: Workspace, progress: Progress = SILENT) -> Restored:
    """The run of that name, or in that folder, with its method as it was after learning.

    Raises WhalebenchError where catalog, split or weights are not those of the run, where a part was fitted
    on test photos, where the method cannot be restored, and where it does not give the stored scores again.
    """
    folder = find_run(name, workspace)
    record = read_record(folder)
    if record.unfit:
        raise WhalebenchError(
            f"The run {record.run} learned nothing, because {record.unfit}: choose another run."
        )
    if record.members:
        raise WhalebenchError(
            f"The run {record.run} is an ensemble of finished runs and looks at no photos itself: choose one "
            f"of its members, {', '.join(record.members)}."
        )
    benchmark = load_benchmark_of(record, workspace, progress)
    method = _method(record)
    views = fold_views(benchmark, record.fold, oracle=record.oracle)
    weights, lineage = _read_weights(folder)
    _refuse_seen_test(record, lineage, views)
    device = _device(record)
    progress.stage("decode")
    for size in method.sizes():
        benchmark.store.pixels(size, progress.advance, cores())
    progress.stage("restore")
    _take_up(method, weights, views, device, folder / WEIGHTS)
    scores = np.asarray(method.score(views.queries()["test"]), np.float32)
    _refuse_other_scores(record, folder, views, scores, device)
    return Restored(record, folder, benchmark, method, views, scores)


def _method(record: RunRecord) -> Pipeline:
    kind = find_method(record.method)
    try:
        return build_method(kind, kind.Config.model_validate(record.config))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its fields"
        raise WhalebenchError(
            f"{record.run} was made with a {record.method} of other fields ({field}): run it again."
        ) from error


def _read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """What was learned by name, and by part the digests of the photos it was fitted on."""
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS
    try:
        with safe_open(file, "pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
            lineage = json.loads(opened.metadata()["lineage"])
    except (OSError, SafetensorError) as error:
        raise WhalebenchError(f"{file} cannot be read ({error}): repeat the run with --force.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise WhalebenchError(
            f"{file} does not say which photos it was fitted on: repeat the run with --force."
        ) from error
    return weights, lineage


def _refuse_seen_test(record: RunRecord, lineage: dict[str, list[str]], views: Views) -> None:
    if record.transductive:  # it was handed them without labels, and is ranked apart
        return
    for part, digests in lineage.items():
        seen = set(digests) & set(views.test.digests)
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
        reason = " ".join(str(error).split())[:120]
        raise WhalebenchError(
            f"{file} does not hold what {method.name} learned ({reason}): repeat the run with --force."
        ) from error


def _refuse_other_scores(
    record: RunRecord, folder: Path, views: Views, scores: NDArray[np.float32], device: torch.device
) -> None:
    file = folder / SCORES
    arrays, names = read_arrays(file, ("test_scores",), "names")
    stored = arrays.get("test_scores", np.zeros(0))
    shown = list(views.test.images), list(views.train.identities)
    if (names["test"], names["identities"]) != shown or stored.shape != scores.shape:
        raise WhalebenchError(f"{file} is of other photos than the run: repeat the run with --force.")
    then = str(record.hardware.get("device", "cpu"))
    exact = device.type == then == "cpu" and "bf16" not in json.dumps(record.config)
    allowed = TOLERANCE if exact else LOW_PRECISION * float(np.ptp(stored))
    of_photos = np.abs(scores - stored).max(axis=1)
    off = float(of_photos.max() if exact else np.quantile(of_photos, MOST_PHOTOS))
    if not off <= allowed:  # also where it is NaN
        raise WhalebenchError(
            f"{record.run} does not score as it did: its scores are off by up to {off:.2g}, made on {then} "
            f"and again on {device.type}; repeat the run with --force, or explain it where it was made."
        )
