"""An ensemble of finished runs: from their stored scores to a run of its own, without torch or retraining."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.facts import config_of, facts_of, lineage_of
from whalebench.benchmarks.ensembling.ground import Ground, find_ground
from whalebench.benchmarks.ensembling.identity import EnsembleRequest, Identity, identify
from whalebench.benchmarks.ensembling.members import Named, find_members, read_members
from whalebench.benchmarks.ensembling.rules import combine
from whalebench.benchmarks.judgement import Judgement, judge_scores
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.record import (
    CURVE,
    WEIGHTS,
    RunRecord,
    read_record,
    write_predictions,
    write_record,
    write_run,
)
from whalebench.benchmarks.scores_file import write_arrays, write_scores
from whalebench.benchmarks.selection import Judge
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
    request = request.ordered(find_members(request.runs, workspace))
    named = find_members(request.runs, workspace)
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
    scores = {"valid": combined.valid, "test": combined.test}
    answers = {"valid": ground.valid, "test": ground.test}
    judged = judge_scores(judge, ground.identities, scores, answers, config_of(named))
    progress.stage("write")
    seconds = {"combine": round(time.perf_counter() - began, 2)}
    facts = who.facts() | facts_of(named, ground, combined, judged, lineage) | {"seconds": seconds}
    record = RunRecord(**facts)
    if force or not folder.exists():  # else another process was asked for the same and was quicker
        write_run(folder, lambda into: _write(into, record, ground, combined, judged, lineage), force=force)


def _write(
    into: Path,
    record: RunRecord,
    ground: Ground,
    combined: Combined,
    judged: Judgement,
    lineage: dict[str, list[str]],
) -> None:
    """Leaves every file of the run in the folder, the record last; there was no training, so no curve."""
    write_predictions(into, judged.queries)
    pd.DataFrame(columns=["stage", "epoch", "loss"]).to_csv(into / CURVE, index=False)
    names = {"identities": ground.identities, "valid": ground.valid.images, "test": ground.test.images}
    write_scores(into, {"valid_scores": combined.valid, "test_scores": combined.test}, names)
    write_arrays(into / WEIGHTS, combined.learned, "lineage", lineage)
    write_record(into, record)
