"""An ensemble of finished runs: from their stored scores to a run of its own, without torch or retraining.

What the record of an ensemble says of its members, of valid, and of what came of them.

What is asked of an ensemble, and what tells one from another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.core.machine import hardware, peak_memory_mb, versions
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import (
    CURVE,
    SCORES,
    VARIANTS,
    WEIGHTS,
    RunRecord,
    read_record,
    write_arrays,
    write_predictions,
    write_record,
    write_run,
    write_scores,
)
from whalebench.benchmarks.core.workspace import Workspace, digest_file, digest_text
from whalebench.benchmarks.ensembles.heuristics import Groups
from whalebench.benchmarks.ensembles.members import (
    Combined,
    Ground,
    Member,
    Named,
    find_ground,
    find_members,
    read_members,
)
from whalebench.benchmarks.ensembles.options import NO_OPTIONS, RULES, Options
from whalebench.benchmarks.ensembles.rules import combine, given_weights
from whalebench.benchmarks.ensembles.steps import STEPS, Taken, check_steps, look, take_steps
from whalebench.benchmarks.running.evaluation import CALIBRATION, Evaluation
from whalebench.methods.method import MethodConfig

STACKER = "stacker"
"""The part of the lineage that was fitted on valid."""


def lineage_of(members: Sequence[Member], ground: Ground, combined: Combined) -> dict[str, list[str]]:
    """By part of each member, and of the ensemble, digests of the photos it was fitted or chosen on."""
    found = {CALIBRATION: sorted(set(ground.valid_digests))} | {
        f"{number}.{part}": list(digests)
        for number, member in enumerate(members)
        for part, digests in member.lineage.items()
    }
    return found | ({STACKER: sorted(set(ground.valid_digests))} if combined.learned else {})


def config_of(named: Sequence[Named]) -> MethodConfig:
    """What the members say of *new*, where all say the same; else the defaults."""
    fields = tuple(MethodConfig.model_fields)
    said = [{key: one.record.config[key] for key in fields if key in one.record.config} for one in named]
    return MethodConfig.model_validate(said[0] if all(one == said[0] for one in said) else {})


def facts_of(
    named: Sequence[Named],
    ground: Ground,
    combined: Combined,
    judged: Evaluation,
    lineage: dict[str, list[str]],
) -> dict[str, Any]:
    """Everything a record says besides what tells it apart from others."""
    losses = {
        "train_log_loss": combined.train_log_loss,
        "out_of_fold_log_loss": combined.out_of_fold_log_loss,
    } | combined.alone
    return {
        "oracle": any(one.record.oracle for one in named),
        "transductive": any(one.record.transductive for one in named),
        "pretraining": {key: value for one in named for key, value in one.record.pretraining.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": versions(),
        "hardware": hardware("cpu"),
        "peak_memory_mb": peak_memory_mb(),
        "counts": named[0].record.counts,
        "chosen": combined.chosen | judged.chosen,
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
            f"had chosen their settings, too; its scores of valid are by what was learned without the photo."
        )
    for mark, what in (("oracle", "annotations of test photos"), ("transductive", "other test photos")):
        using = [one.record.run for one in named if getattr(one.record, mark)]
        if 0 < len(using) < len(named):
            said.append(f"{', '.join(using)} used {what}, so all of the ensemble is {mark}.")
    return said


METHOD = "ensemble"


@dataclass(frozen=True)
class EnsembleRequest:
    """What is asked for; raises WhalebenchError for an unknown rule, and for weights that cannot be."""

    runs: tuple[str, ...]
    rule: str = "mean"
    weights: str | None = None
    """One a run, as 0.5,0.5; chosen by the rule where none are given."""
    options: Options = NO_OPTIONS
    then: tuple[str, ...] = ()
    """Steps taken with the scores, in this order."""
    groups: Groups = ()
    """Known duplicates, for the step of that name."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise WhalebenchError(f"There is no rule '{self.rule}': choose one of {', '.join(RULES)}.")
        given_weights(self.weights, self.rule, len(self.runs))
        self.options.check(self.rule)
        check_steps(self.then, duplicates=bool(self.groups))

    def find(self, workspace: Workspace) -> list[Named]:
        """The runs, as `find_members` finds them; one alone will do where there are steps."""
        return find_members(self.runs, workspace, alone=bool(self.then))

    def shares(self) -> NDArray[np.float64] | None:
        """The given weights (runs,), one in all, or None."""
        return given_weights(self.weights, self.rule, len(self.runs))

    def ordered(self, named: Sequence[Named]) -> EnsembleRequest:
        """The same by folder, sorted by label, then name: the order in which runs are typed is none."""
        order = sorted(
            range(len(named)), key=lambda place: (label(named[place]), named[place].record.run, place)
        )
        shares = self.shares()
        weights = None if shares is None else ",".join(repr(float(shares[place])) for place in order)
        return replace(self, runs=tuple(str(named[place].folder) for place in order), weights=weights)


@dataclass(frozen=True)
class Identity:
    """What the record of an ensemble says of who it is."""

    run: str
    config: dict[str, Any]
    track: str
    seed: int
    first: Named

    def facts(self) -> dict[str, Any]:
        """By the record's fields."""
        same = ("benchmark", "catalog_digest", "split_digest", "fold")
        shared = {key: getattr(self.first.record, key) for key in same}
        own = {"run": self.run, "method": METHOD, "config": self.config, "track": self.track}
        return shared | own | {"seed": self.seed}


def identify(request: EnsembleRequest, named: Sequence[Named]) -> Identity:
    """Who the ensemble of those members by that rule is.

    Its configuration names members by method and settings, the same in every fold and for every seed, so
    that reports take the mean over them; its seed is the lowest of the members'. The name changes whenever a
    member's scores do.
    """
    records = [one.record for one in named]
    shares = request.shares()
    config: dict[str, Any] = {
        "rule": request.rule,
        "weights": None if shares is None else shares.tolist(),
        "members": [label(one) for one in named],
        **config_of(named).model_dump(mode="json"),
    } | request.options.settings()
    if request.then:
        config["then"] = list(request.then)
    if request.groups:
        config["duplicates"] = digest_text(json.dumps(request.groups))[:8]
    methods = " + ".join(sorted(one.method for one in records))
    tracks = " and ".join(dict.fromkeys(sorted(one.track for one in records)))
    everything = [
        __version__,
        config,
        [[one.record.run, digest_file(one.folder / SCORES)] for one in named],
    ]
    mark = digest_text(json.dumps(everything, sort_keys=True))[:8]
    seed = min(one.seed for one in records)
    run = f"{METHOD}-{records[0].benchmark}-fold{records[0].fold}-seed{seed}-{mark}"
    return Identity(run, config, f"ensemble of {methods}; each: {tracks}", seed, named[0])


def label(one: Named) -> str:
    """The method with a digest of its settings, the same in every fold and for every seed."""
    return f"{one.record.method}-{digest_text(json.dumps(one.record.config, sort_keys=True))[:6]}"


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
        _make(request, who, named, folder, workspace, progress, force=force)
    return Ensemble(read_record(folder), folder, [member.folder for member in named])


def _make(
    request: EnsembleRequest,
    who: Identity,
    named: Sequence[Named],
    folder: Path,
    workspace: Workspace,
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
    combined = combine(request.rule, members, ground, request.shares(), who.seed, request.options, progress)
    lineage = lineage_of(members, ground, combined)
    del members  # their scores are as large as those that are judged now
    progress.stage("judge")
    taken = _take(request, named, ground, combined)
    combined = replace(combined, valid=taken.scores["valid"], test=taken.scores["test"])
    progress.stage("write")
    seconds = {"combine": round(time.perf_counter() - began, 2)}
    facts = who.facts() | facts_of(named, ground, combined, taken.judged, lineage) | {"seconds": seconds}
    record = RunRecord(**taken.facts(facts))
    write_run(folder, lambda into: _write(into, record, ground, combined, taken, lineage), force=force)


def _take(request: EnsembleRequest, named: Sequence[Named], ground: Ground, combined: Combined) -> Taken:
    """The request's steps taken with what was combined; judged in any case."""
    weights: Any = combined.chosen.get("weights", [1 / len(named)] * len(named))
    looking = any(STEPS[name].looks_at_embeddings for name in request.then)
    sight = look(ground, named, weights, request.groups, embeddings=looking) if request.then else None
    scores = {"valid": combined.valid, "test": combined.test}
    return take_steps(request.then, scores, sight, ground, config_of(named))


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
