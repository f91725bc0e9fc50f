"""An ensemble of finished runs: from their stored scores to a run of its own, without torch or retraining."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.facts import config_of, facts_of, lineage_of
from whalebench.benchmarks.ensembling.ground import Ground, find_ground
from whalebench.benchmarks.ensembling.identity import EnsembleRequest, Identity, identify
from whalebench.benchmarks.ensembling.members import Named, read_members
from whalebench.benchmarks.ensembling.rules import combine
from whalebench.benchmarks.ensembling.steps.registry import STEPS
from whalebench.benchmarks.ensembling.steps.sight import look
from whalebench.benchmarks.ensembling.steps.taking import Taken, take_steps
from whalebench.benchmarks.judging.selection import Judge
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.record import (
    CURVE,
    VARIANTS,
    WEIGHTS,
    RunRecord,
    read_record,
    write_predictions,
    write_record,
    write_run,
)
from whalebench.benchmarks.runs.scores_file import write_arrays, write_scores
from whalebench.benchmarks.workspace import Workspace


@dataclass(frozen=True)
class Ensemble:
    """A finished ensemble and where its members lie."""

    record: RunRecord
    folder: Path
    members: list[Path]
    """Their folders, in the order of the record's members."""


def ensemble(
    request: EnsembleRequest,
    workspace: Workspace,
    judge: Judge,
    progress: Progress = SILENT,
    *,
    force: bool = False,
) -> Ensemble:
    """The ensemble; one that is finished already is read, not repeated, unless force.

    Raises WhalebenchError for runs that cannot be combined: see `members`. What is learned is learned from
    the valid photos; test is scored once.
    """
    request = request.ordered(request.find(workspace))
    named = request.find(workspace)
    who = identify(request, named)
    folder = workspace.runs / who.run
    if folder.exists() and not force:
        progress.stage("found")
    else:
        _make(request, who, named, folder, workspace, judge, progress, force=force)
    return Ensemble(read_record(folder), folder, [member.folder for member in named])


def _make(
    request: EnsembleRequest,
    who: Identity,
    named: Sequence[Named],
    folder: Path,
    workspace: Workspace,
    judge: Judge,
    progress: Progress,
    *,
    force: bool,
) -> None:
    """Nothing; the finished ensemble stands in the folder."""
    began = time.perf_counter()
    ground = find_ground(named[0].record, workspace, progress)
    progress.stage("read")
    members = list(read_members(named, ground))
    progress.stage("combine")
    combined = combine(
        request.rule, members, ground, request.shares(), judge, who.seed, request.options, progress
    )
    lineage = lineage_of(members, ground, combined)
    del members  # their scores are as large as those that are judged now
    progress.stage("judge")
    taken = _take(request, named, ground, combined, judge)
    combined = replace(combined, valid=taken.scores["valid"], test=taken.scores["test"])
    progress.stage("write")
    seconds = {"combine": round(time.perf_counter() - began, 2)}
    facts = who.facts() | facts_of(named, ground, combined, taken.judged, lineage) | {"seconds": seconds}
    record = RunRecord(**taken.facts(facts))
    write_run(folder, lambda into: _write(into, record, ground, combined, taken, lineage), force=force)


def _take(
    request: EnsembleRequest, named: Sequence[Named], ground: Ground, combined: Combined, judge: Judge
) -> Taken:
    """The request's steps taken with what was combined; judged in any case."""
    weights: Any = combined.chosen.get("weights", [1 / len(named)] * len(named))
    looking = any(STEPS[name].looks_at_embeddings for name in request.then)
    sight = look(ground, named, weights, request.groups, embeddings=looking) if request.then else None
    scores = {"valid": combined.valid, "test": combined.test}
    return take_steps(request.then, scores, sight, ground, judge, config_of(named))


def _write(
    into: Path,
    record: RunRecord,
    ground: Ground,
    combined: Combined,
    taken: Taken,
    lineage: dict[str, list[str]],
) -> None:
    """Leaves every file of the run in the folder, the record last; there was no training, so no curve."""
    write_predictions(into, taken.judged.queries)
    if record.variants:
        write_predictions(into, taken.queries(), VARIANTS)
    pd.DataFrame(columns=["stage", "epoch", "loss"]).to_csv(into / CURVE, index=False)
    names = {"identities": ground.identities, "valid": ground.valid.images, "test": ground.test.images}
    write_scores(into, {"valid_scores": combined.valid, "test_scores": combined.test}, names)
    write_arrays(into / WEIGHTS, combined.learned, "lineage", lineage)
    write_record(into, record)
