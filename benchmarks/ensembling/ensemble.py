"""An ensemble of finished runs: from their stored scores to a run of its own, without torch or retraining."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.ground import Ground, find_ground
from whalebench.benchmarks.ensembling.identity import EnsembleRequest, identify
from whalebench.benchmarks.ensembling.members import Member, Named, find_members, read_members
from whalebench.benchmarks.ensembling.rules import combine
from whalebench.benchmarks.judgement import Judgement, judge_scores
from whalebench.benchmarks.machine import hardware, peak_memory_mb, versions
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
from whalebench.benchmarks.workspace import Workspace, digest_text
from whalebench.methods.method import MethodConfig

STACKER = "stacker"
"""The part of the lineage that was fitted on valid."""


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
    began = time.perf_counter()
    request = request.ordered(find_members(request.runs, workspace))
    named = find_members(request.runs, workspace)
    who = identify(request, named)
    folder, folders = workspace.runs / who.run, [member.folder for member in named]
    if folder.exists() and not force:
        progress.stage("found")
        return Ensemble(read_record(folder), folder, folders)
    ground = find_ground(named[0].record, workspace, progress)
    progress.stage("read")
    members = list(read_members(named, ground))
    progress.stage("combine")
    combined = combine(request.rule, members, ground, request.shares(), judge, who.seed)
    lineage = _lineage(members, ground, combined)
    del members  # their scores are as large as those that are judged now
    progress.stage("judge")
    scores = {"valid": combined.valid, "test": combined.test}
    answers = {"valid": ground.valid, "test": ground.test}
    judged = judge_scores(judge, ground.identities, scores, answers, _config(named))
    progress.stage("write")
    seconds = {"combine": round(time.perf_counter() - began, 2)}
    facts = who.facts() | _facts(named, ground, combined, judged, lineage) | {"seconds": seconds}
    record = RunRecord(**facts)
    write_run(folder, lambda into: _write(into, record, ground, combined, judged, lineage), force=force)
    return Ensemble(read_record(folder), folder, folders)


def _lineage(members: Sequence[Member], ground: Ground, combined: Combined) -> dict[str, list[str]]:
    """By part of each member, and of the ensemble, digests of the photos it was fitted on."""
    found = {
        f"{number}.{part}": list(digests)
        for number, member in enumerate(members)
        for part, digests in member.lineage.items()
    }
    return found | ({STACKER: sorted(set(ground.valid_digests))} if combined.learned else {})


def _config(named: Sequence[Named]) -> MethodConfig:
    """What the members say of *new*, where all say the same; else the defaults."""
    fields = tuple(MethodConfig.model_fields)
    said = [{key: one.record.config[key] for key in fields if key in one.record.config} for one in named]
    return MethodConfig.model_validate(said[0] if all(one == said[0] for one in said) else {})


def _facts(
    named: Sequence[Named],
    ground: Ground,
    combined: Combined,
    judged: Judgement,
    lineage: dict[str, list[str]],
) -> dict[str, Any]:
    """Everything a record says besides what tells it apart from others."""
    losses = {
        "train_log_loss": combined.train_log_loss,
        "out_of_fold_log_loss": combined.out_of_fold_log_loss,
    }
    chosen = {"temperature": judged.temperature, "new_threshold": judged.threshold}
    return {
        "oracle": any(one.record.oracle for one in named),
        "transductive": any(one.record.transductive for one in named),
        "pretraining": {key: value for one in named for key, value in one.record.pretraining.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": versions(),
        "hardware": hardware("cpu"),
        "peak_memory_mb": peak_memory_mb(),
        "counts": named[0].record.counts,
        "chosen": combined.chosen | chosen,
        "calibration": judged.calibration
        | {key: value for key, value in losses.items() if value is not None},
        "new_curve": judged.new_curve,
        "lineage": {
            part: {"photos": len(digests), "digest": digest_text("\n".join(digests))}
            for part, digests in lineage.items()
        },
        "metrics": judged.metrics,
        "valid_metrics": judged.valid_metrics,
        "cmc": judged.cmc,
        "warnings": _warnings(named, ground, combined),
        "members": [one.record.run for one in named],
    }


def _warnings(named: Sequence[Named], ground: Ground, combined: Combined) -> list[str]:
    """What a reader of the scores should know: of the members, and of what was learned where."""
    said = list(dict.fromkeys(warning for one in named for warning in one.record.warnings))
    if combined.learned:
        said.append(
            f"The ensemble learned from the {len(ground.valid.images)} valid photos, by which its members "
            f"had chosen their settings, too; its scores of valid are of photos and individuals set aside."
        )
    for mark, what in (("oracle", "annotations of test photos"), ("transductive", "other test photos")):
        using = [one.record.run for one in named if getattr(one.record, mark)]
        if 0 < len(using) < len(named):
            said.append(f"{', '.join(using)} used {what}, so all of the ensemble is {mark}.")
    return said


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
