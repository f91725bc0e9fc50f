"""One run: a method on one fold of a benchmark, from frozen photos to a record that is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from whalebench import RunFailedError, WhalebenchError, __version__
from whalebench.benchmarks.core.checkpoint import CheckpointStore
from whalebench.benchmarks.core.machine import choose_device, cores, hardware, peak_memory_mb, versions
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import METRIC_KEYS, RunRecord, read_record, write_record, write_run
from whalebench.benchmarks.core.usage import track_words
from whalebench.benchmarks.core.workspace import Workspace, digest_text, run_lock
from whalebench.benchmarks.registry import Benchmark, load_benchmark, reopen_benchmark
from whalebench.benchmarks.running.evaluation import CALIBRATION, new_share_warnings
from whalebench.benchmarks.running.folds import OpenFold, Views, fold_views, open_fold
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.outcome import Submission, ask, evaluate_parts, write_outcome
from whalebench.methods.method import MethodConfig
from whalebench.methods.parts.networks.weights import pretraining, weight_files
from whalebench.methods.parts.pipeline import Pipeline, build_method
from whalebench.methods.parts.recipe import set_by_hand
from whalebench.methods.registry import configure, find_method

UNFINISHED = "unfinished"
"""The folder in the workspace's cache with one folder for each run that was begun and is not written."""


@dataclass(frozen=True)
class RunRequest:
    """What is asked for: together with the catalog and the split it determines every number."""

    method: str
    benchmark: str = "flukes"
    fold: int = 0
    seed: int = 0
    settings: tuple[str, ...] = ()
    """Fields of the method as key=value."""
    device: str = "auto"
    tuning: Mapping[str, Any] = field(default_factory=dict)
    """How the settings were tuned, for the record; with its `budget` and the `settings` it chose."""

    @property
    def tuning_budget(self) -> str:
        """What tuning might spend; empty where nothing was tuned."""
        return str(self.tuning["budget"]) if self.tuning else ""


def run(
    request: RunRequest,
    workspace: Workspace,
    progress: Progress = SILENT,
    *,
    force: bool = False,
) -> RunRecord:
    """The record of the run; one that is finished already is read, not repeated, unless force.

    One that was stopped goes on from the last epochs that were kept, to the same numbers; force begins anew.
    One that another process is at is waited for.

    Raises WhalebenchError for a request that cannot be met; then no run is left behind.
    """
    kind = find_method(request.method)
    config = configure(kind, request.settings)
    check_seed(request.seed)
    benchmark = load_benchmark(request.benchmark, workspace, progress, propose=True)
    benchmark.split.parts(request.fold)
    device = choose_device(request.device)
    folder = workspace.runs / run_name(request, config, benchmark, device.type)
    checkpoints = CheckpointStore(workspace.cache / UNFINISHED / folder.name, device)
    with run_lock(workspace, folder.name, lambda: progress.stage("wait")):
        if folder.exists() and not force:
            progress.stage("found")
            checkpoints.discard()  # what a process left that was stopped just before doing so
            return read_record(folder)
        digests = benchmark.catalog.digest, benchmark.split.digest
        reopen = partial(reopen_benchmark, benchmark.name, workspace, *digests)
        views = fold_views(benchmark, request.fold, oracle=config.sees_annotations(), reopen=reopen)
        if force:
            checkpoints.discard()
        method = build_method(kind, config)
        harness = RunHarness(request.seed, device, views, progress, config, checkpoints)
        if missing := method.missing_requirement(views.train, views.test):
            opened = open_fold(benchmark, request.fold)
            facts = _facts(request, method, benchmark, views, opened, harness)
            facts |= {"unfit": f"{benchmark.name} has no {missing}", "cmc": []}
            facts |= {"usage": None, "track": "nothing learned"}
            facts |= dict.fromkeys(("metrics", "valid_metrics"), dict.fromkeys(METRIC_KEYS))
            record = RunRecord(run=folder.name, **facts)
            write_run(folder, lambda into: write_record(into, record), force=force)
            return read_record(folder)
        harness.refuse_shared(CALIBRATION, views.valid)  # before hours of training, not after
        harness.stage("decode")
        for size in method.sizes():
            benchmark.store.pixels(size, progress.advance, cores())
        del benchmark  # the answers to test are nowhere in memory while the method is at work
        submission = _learn(method, views, harness, checkpoints)
        benchmark = reopen()
        opened = open_fold(benchmark, request.fold)
        outcome = evaluate_parts(submission, views, opened, harness)
        progress.stage("write")
        facts = _facts(request, method, benchmark, views, opened, harness)
        learned = RunRecord(run=folder.name, **facts, **outcome.numbers())
        write_run(folder, lambda into: write_outcome(into, learned, outcome, harness.curve()), force=force)
        checkpoints.discard()
        return read_record(folder)


def _learn(method: Pipeline, views: Views, harness: RunHarness, checkpoints: CheckpointStore) -> Submission:
    """What the method hands in after it has learned; its curve is kept where that goes wrong."""
    harness.seed_everything()
    try:
        harness.stage("learn")
        harness.fit(method)
        harness.stage("score")
        return ask(method, views, harness)
    except RunFailedError as error:
        curve = harness.curve()
        kept = checkpoints.write_note("curve.csv", curve.to_csv(index=False)) if len(curve) else None
        if kept is None:
            raise
        raise RunFailedError(f"{error} The epochs up to there are kept in {kept}.") from error
    except torch.OutOfMemoryError as error:
        raise RunFailedError(
            f"the memory of {harness.device} is too small for {method.name} as it is set: lower batch_size."
        ) from error


def run_name(request: RunRequest, config: MethodConfig, benchmark: Benchmark, device: str) -> str:
    """The run's folder: readable, and another one whenever anything that determines the numbers is."""
    everything = [
        __version__,
        request.method,
        config.model_dump(mode="json"),
        request.tuning_budget,
        weight_files(config),
        benchmark.catalog.digest,
        benchmark.split.digest,
        request.fold,
        request.seed,
        device,
    ]
    mark = digest_text(json.dumps(everything, sort_keys=True))[:8]
    return f"{request.method}-{benchmark.name}-fold{request.fold}-seed{request.seed}-{mark}"


def _facts(
    request: RunRequest,
    method: Pipeline,
    benchmark: Benchmark,
    views: Views,
    opened: OpenFold,
    harness: RunHarness,
) -> dict[str, Any]:
    """Everything a record says besides how good the run is."""
    of_share = new_share_warnings(opened.answers["valid"], method.config)
    tuned = {setting.partition("=")[0] for setting in request.tuning.get("settings", ())}
    by_hand = {name: value for name, value in set_by_hand(method.config).items() if name not in tuned}
    usage, counts = harness.usage.usage(by_hand, request.tuning_budget), opened.counts(views)
    return {
        "method": request.method,
        "config": method.config.model_dump(mode="json"),
        "benchmark": benchmark.name,
        "catalog_digest": benchmark.catalog.digest,
        "split_digest": benchmark.split.digest,
        "fold": request.fold,
        "seed": request.seed,
        "track": track_words([usage], [counts["train_known_photos"]]),
        "usage": usage,
        "oracle": views.oracle,
        "transductive": method.transductive,
        "pretraining": pretraining(method.config, benchmark.name, benchmark.dataset),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": versions(),
        "hardware": hardware(str(harness.device)),
        "seconds": harness.seconds(),
        "photos_per_second": harness.photos_per_second(),
        "peak_memory_mb": peak_memory_mb(),
        "counts": counts,
        "chosen": harness.chosen,
        "lineage": {
            part: {"photos": len(digests), "digest": digest_text("\n".join(digests))}
            for part, digests in opened.lineage(harness.lineage).items()
        },
        "warnings": [*benchmark.split.warnings, *opened.warnings(), *of_share, *harness.warnings],
        "tuning": dict(request.tuning),
    }


def check_seed(seed: int) -> None:
    """Raises WhalebenchError for a seed that some generator would not take."""
    if not 0 <= seed < 2**31:
        raise WhalebenchError(f"seed {seed} cannot be: give a whole number from 0 to {2**31 - 1}.")
