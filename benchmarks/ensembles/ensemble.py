"""An ensemble of finished runs: from their stored scores to a run of its own, without torch or retraining."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.core import ledger
from whalebench.benchmarks.core.code import read_code
from whalebench.benchmarks.core.files import digest_file, digest_text
from whalebench.benchmarks.core.machine import hardware, peak_memory_mb, versions
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import (
    CURVE,
    SCORES,
    VARIANTS,
    WEIGHTS,
    RunRecord,
    read_predictions,
    read_record,
    read_scores,
    write_arrays,
    write_predictions,
    write_record,
    write_run,
    write_scores,
)
from whalebench.benchmarks.core.usage import add_up, track_words
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.embeddings import read_features
from whalebench.benchmarks.ensembles.members import (
    SHARED,
    FoldData,
    FusionResult,
    FusionTask,
    Member,
    MemberRun,
    find_members,
    lineage_facts,
    load_fold,
    read_members,
)
from whalebench.benchmarks.ensembles.options import NO_OPTIONS, RULES, Groups, Options
from whalebench.benchmarks.ensembles.rules import fuse_members, given_weights
from whalebench.benchmarks.running.evaluation import CALIBRATION, Evaluation, constant_answer, evaluate_scores
from whalebench.benchmarks.running.folds import NEW
from whalebench.methods.method import NEW_FIELDS, MethodConfig

if TYPE_CHECKING:
    from whalebench.benchmarks.ensembles.step import StepInputs
    from whalebench.benchmarks.ensembles.steps import StepResults

METHOD = "ensemble"
TRIED = 8
"""Test photos on which an ensemble that is asked again must score as it did."""
STACKER = "stacker"
"""The part of the lineage that was fitted on valid, or on train out of fold: a stacker, or weights."""


@dataclass(frozen=True)
class EnsembleRequest:
    """What is asked for; raises WhalebenchError for an unknown rule, and for weights that cannot be."""

    runs: tuple[str, ...]
    rule: str = "mean"
    weights: str | None = None
    """One a run, as 0.5,0.5; where none are given, mean and product fit theirs on valid, others are equal."""
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
        if self.then or self.groups:
            from whalebench.benchmarks.ensembles.steps import check_steps

            check_steps(self.then, duplicates=bool(self.groups))


@dataclass(frozen=True)
class EnsembleSpec:
    """A request with its members found: what tells one ensemble from another."""

    request: EnsembleRequest
    members: Sequence[MemberRun]
    """In the order of their labels, then names: the order in which runs are typed is none."""
    shares: NDArray[np.float64] | None
    """The given weights (members,), one in all, or None."""

    @property
    def seed(self) -> int:
        """The lowest of the members'."""
        return min(member.record.seed for member in self.members)

    def given(self) -> dict[str, Any]:
        """`usage` and `track` in the record: what the members were given, added up.

        Where one of them is of a version that did not count, their tracks stand side by side.
        """
        records = [member.record for member in self.members]
        counted = {f"{place}.{record.method}": record.usage for place, record in enumerate(records)}
        usages = {name: usage for name, usage in counted.items() if usage is not None}
        if len(usages) < len(counted):
            methods = " + ".join(sorted(record.method for record in records))
            tracks = " and ".join(dict.fromkeys(sorted(record.track for record in records)))
            return {"usage": None, "track": f"ensemble of {methods}; each: {tracks}"}
        usage = add_up(usages)
        return {"usage": usage, "track": track_words([usage], [records[0].counts["train_known_photos"]])}

    def method_config(self) -> MethodConfig:
        """What the members say of *new*, where all say the same; else the defaults."""
        configs = [member.record.config for member in self.members]
        given = [{key: config[key] for key in NEW_FIELDS if key in config} for config in configs]
        return MethodConfig.model_validate(given[0] if all(one == given[0] for one in given) else {})

    def config(self) -> dict[str, Any]:
        """The configuration in the record: members by method and settings.

        The same in every fold and for every seed, so that reports take the mean over them.
        """
        request = self.request
        config: dict[str, Any] = {
            "rule": request.rule,
            "weights": None if self.shares is None else self.shares.tolist(),
            "members": [label(member) for member in self.members],
            **self.method_config().model_dump(mode="json", include=set(NEW_FIELDS)),
        } | request.options.settings()
        if request.then:
            config["then"] = list(request.then)
        if request.groups:
            config["duplicates"] = digest_text(json.dumps(request.groups))[:8]
        return config

    def code_digest(self) -> str:
        """Of the code that fuses, and of that by which its members learned."""
        of_members = sorted({member.record.code_digest for member in self.members})
        return digest_text("\n".join([read_code([__name__]).digest, *of_members]))

    def facts(self) -> dict[str, Any]:
        """By the record's fields who the ensemble is. Its name changes whenever a member's scores do."""
        first, config = self.members[0].record, self.config()
        scores = [[member.record.run, digest_file(member.folder / SCORES)] for member in self.members]
        code = self.code_digest()
        mark = digest_text(json.dumps([__version__, code, config, scores], sort_keys=True))[:8]
        return {key: getattr(first, key) for key in SHARED} | {
            "run": f"{METHOD}-{first.benchmark}-fold{first.fold}-seed{self.seed}-{mark}",
            "method": METHOD,
            "config": config,
            "code_digest": code,
            "seed": self.seed,
            **self.given(),
        }


def resolve(request: EnsembleRequest, workspace: Workspace) -> EnsembleSpec:
    """The request with its runs found, in an order of their own, and the weights with them."""
    runs = find_members(request.runs, workspace, alone=bool(request.then))
    shares = given_weights(request.weights, request.rule, len(runs))
    order = sorted(range(len(runs)), key=lambda place: (label(runs[place]), runs[place].record.run, place))
    if shares is not None:
        shares = shares[order] / shares[order].sum()  # of sum 1 to the last bit in this order, too
    return EnsembleSpec(request, [runs[place] for place in order], shares)


def label(member: MemberRun) -> str:
    """The method with a digest of its settings, the same in every fold and for every seed."""
    digest = digest_text(json.dumps(member.record.config, sort_keys=True))[:6]
    return f"{member.record.method}-{digest}"


@dataclass(frozen=True)
class Ensemble:
    """A finished ensemble and where its members lie."""

    record: RunRecord
    folder: Path
    members: list[Path]
    """Their folders, in the order of the record's members."""


def ensemble(
    request: EnsembleRequest, workspace: Workspace, progress: Progress = SILENT, *, force: bool = False
) -> Ensemble:
    """The ensemble; one that is finished already is read, not repeated, unless force.

    Raises WhalebenchError for runs that cannot be combined: see members.py. What is learned is learned from
    the valid photos; test is scored once.
    """
    spec = resolve(request, workspace)
    key = spec.facts()
    folder = workspace.runs / key["run"]
    if folder.exists() and not force:
        progress.stage("found")
    else:
        began = time.perf_counter()
        for member in spec.members:
            read_predictions(member.folder)  # which it is compared with in the end
        opening = ledger.Opening.of(key, forced=force)
        outcome = _fuse(spec, workspace, progress, lambda: ledger.append(workspace, opening))
        progress.stage("write")
        seconds = {"combine": round(time.perf_counter() - began, 2)}
        record = RunRecord(**key | outcome.facts(spec) | {"seconds": seconds})
        write_run(folder, lambda into: outcome.write(into, record), force=force)
    return Ensemble(read_record(folder), folder, [member.folder for member in spec.members])


class NewScores(NamedTuple):
    """What a member says of photos that are in no benchmark."""

    scores: NDArray[np.float32]
    """(photos, identities)"""
    embeddings: NDArray[np.float32] | None
    """(photos, dimensions), None for a member that has none."""


def fuse_new_photos(
    folder: Path, of_members: Sequence[NewScores], workspace: Workspace, progress: Progress = SILENT
) -> NDArray[np.float32]:
    """The ensemble's scores (photos, identities) of new photos, given what its members say of them.

    Its rule is fitted again on the valid scores that the members keep, which gives the same, as is tried on
    some of its test photos. For ensembles that `refuse_more_than_scores` lets pass; raises WhalebenchError
    where the members no longer give what it was made of.
    """
    record = read_record(folder)
    rule, config = str(record.config["rule"]), record.config
    runs = find_members(record.members, workspace)
    fold = load_fold(runs[0].record, workspace, progress)
    stored = read_scores(folder, ("test_scores",))[0]["test_scores"]
    tried = np.unique(np.linspace(0, len(stored) - 1, TRIED).astype(np.int64))
    members = [
        _with_new(member, tried, new)
        for member, new in zip(read_members(runs, fold), of_members, strict=True)
    ]
    images = tuple(f"{NEW}-{place}" for place in range(len(members[0].test)))
    unknown = replace(
        fold.test, images=images, identities=images, truth=(NEW,) * len(images), clusters=images
    )
    shares = config.get("weights")
    options = Options(pca=config.get("pca"))  # type: ignore[arg-type]
    task = FusionTask(
        members,
        replace(fold, test=unknown),
        record.seed,
        None if shares is None else np.array(shares, np.float64),
        options,
        progress,
    )
    fused = fuse_members(rule, task).test
    if not np.allclose(fused[: len(tried)], stored[tried], rtol=1e-4, atol=1e-4):
        raise WhalebenchError(
            f"The members of {record.run} no longer give what it was made of: combine them again, by "
            f"`whalebench ensemble {' '.join(record.members)} --rule {rule}`."
        )
    return fused[len(tried) :]


def refuse_more_than_scores(record: RunRecord) -> None:
    """Raises WhalebenchError for an ensemble whose rule or steps look at more than scores and embeddings."""
    steps, rule = record.config.get("then"), record.config["rule"]
    if steps or rule == "pairs":
        what = f"--then {', '.join(map(str, steps))}" if isinstance(steps, list) else f"--rule {rule}"
        raise WhalebenchError(
            f"{record.run} was made with {what}, which looks at more of a photo than scores and embeddings: "
            f"ask an ensemble without it, or one of its members."
        )


def _with_new(member: Member, tried: NDArray[np.int64], new: NewScores) -> Member:
    """The member with some of its test photos, and behind them new ones, as test."""
    features = read_features(member, "test")
    if features is not None and new.embeddings is not None:
        features = np.concatenate([features[tried], new.embeddings])
    return replace(member, test=np.concatenate([member.test[tried], new.scores]), features=features)


@dataclass(frozen=True)
class _Outcome:
    """What came of the members: everything that is kept in the ensemble's folder."""

    fold: FoldData
    fused: FusionResult
    """Its scores are those after all steps."""
    evaluation: Evaluation
    steps: StepResults | None
    """None where none were asked for."""
    lineage: Mapping[str, list[str]]
    """By part of each member, and of the ensemble, digests of the photos it was fitted or chosen on."""

    def facts(self, spec: EnsembleSpec) -> dict[str, Any]:
        """Everything a record says besides what tells it apart from others, and seconds."""
        records = [member.record for member in spec.members]
        losses = {key: getattr(self.fused, key) for key in ("train_log_loss", "out_of_fold_log_loss")}
        losses = {key: value for key, value in losses.items() if value is not None} | self.fused.alone
        evaluated = ("metrics", "valid_metrics", "cmc", "new_curve")
        facts = {key: getattr(self.evaluation, key) for key in evaluated} | {
            "oracle": any(record.oracle for record in records),
            "transductive": any(record.transductive for record in records),
            "pretraining": {key: value for record in records for key, value in record.pretraining.items()},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": versions(),
            "hardware": hardware("cpu"),
            "peak_memory_mb": peak_memory_mb(),
            "counts": records[0].counts | self._learned_from(),
            "chosen": self.fused.chosen | self.evaluation.chosen,
            "calibration": self.evaluation.calibration | losses,
            "lineage": lineage_facts(self.lineage),
            "constant_answer": constant_answer(Counter(self.fold.gallery), self.fold.valid.truth),
            "warnings": self._warnings(records),
            "members": [record.run for record in records],
        }
        return facts if self.steps is None else self.steps.facts(facts)

    def _learned_from(self) -> dict[str, int]:
        """How many photos of train a stacker learned from; nothing where it was valid, or none."""
        return {"stacker_train_photos": len(self.fused.learned_from)} if self.fused.learned_from else {}

    def _warnings(self, records: Sequence[RunRecord]) -> list[str]:
        """What a reader of the scores should know: of the members, and of what was learned where."""
        of_members = [warning for record in records for warning in record.warnings]
        warnings = list(dict.fromkeys([*self.fold.benchmark.warnings, *of_members]))
        if self.fused.learned_from:
            warnings.append(
                f"The ensemble learned from {len(self.fused.learned_from):,} train photos, each as "
                f"answered by networks that had not learned from it; the {len(self.fold.valid.images)} "
                f"valid photos chose its setting."
            )
        elif self.fused.learned:
            warnings.append(
                f"The ensemble learned from the {len(self.fold.valid.images)} valid photos, by which its "
                f"members had chosen their settings, too; its scores of valid are by what was learned "
                f"without the photo."
            )
        if self.fused.chosen.get("best_alone"):
            (counted,) = (np.flatnonzero(each) for each in self.fused.learned.values())
            warnings.append(
                f"On valid all members together lose to {records[counted[0]].run} by more than chance, so "
                f"the ensemble is that run alone."
            )
        for mark, what in (("oracle", "annotations of test photos"), ("transductive", "other test photos")):
            using = [record.run for record in records if getattr(record, mark)]
            if 0 < len(using) < len(records):
                warnings.append(f"{', '.join(using)} used {what}, so all of the ensemble is {mark}.")
        return warnings

    def write(self, into: Path, record: RunRecord) -> None:
        """Leaves every file of the run in the folder, the record last; no training, so an empty curve."""
        write_predictions(into, self.evaluation.queries)
        if self.steps is not None:
            write_predictions(into, self.steps.queries(), VARIANTS)
        pd.DataFrame(columns=["stage", "epoch", "loss"]).to_csv(into / CURVE, index=False)
        fold, fused = self.fold, self.fused
        names = {"identities": fold.identities, "valid": fold.valid.images, "test": fold.test.images}
        write_scores(into, {"valid_scores": fused.valid, "test_scores": fused.test}, names)
        write_arrays(into / WEIGHTS, fused.learned, "lineage", self.lineage)
        write_record(into, record)


def _fuse(
    spec: EnsembleSpec, workspace: Workspace, progress: Progress, before_test: Callable[[], None]
) -> _Outcome:
    """The members' scores read, fused by the rule, taken through the steps and evaluated."""
    fold = load_fold(spec.members[0].record, workspace, progress)
    progress.stage("read")
    members = list(read_members(spec.members, fold))
    progress.stage("combine")
    request = spec.request
    task = FusionTask(members, fold, spec.seed, spec.shares, request.options, progress)
    fused = fuse_members(request.rule, task)
    lineage = _lineage_of(members, fold, fused)
    shown = _shown_to_steps(request, members, fold, fused) if request.then else None
    del members, task  # their scores are as large as those that are evaluated now
    progress.stage("judge")
    before_test()
    scores = {"valid": fused.valid, "test": fused.test}
    if shown:
        from whalebench.benchmarks.ensembles.steps import run_steps

        steps = run_steps(request.then, scores, shown, fold, spec.method_config())
        fused = replace(fused, valid=steps.scores["valid"], test=steps.scores["test"])
        return _Outcome(fold, fused, steps.evaluation, steps, lineage)
    evaluation = evaluate_scores(fold.identities, scores, fold.answers, spec.method_config())
    return _Outcome(fold, fused, evaluation, None, lineage)


def _shown_to_steps(
    request: EnsembleRequest, members: Sequence[Member], fold: FoldData, fused: FusionResult
) -> StepInputs:
    from whalebench.benchmarks.ensembles.step import build_inputs
    from whalebench.benchmarks.ensembles.steps import STEPS

    equal = [1 / len(members)] * len(members)
    alone = fused.chosen.get("powers") if "best_alone" in fused.chosen else None
    weights: Any = fused.chosen.get("weights", alone or equal)
    embedded = any(STEPS[name].looks_at_embeddings for name in request.then)
    return build_inputs(fold, members, weights, request.groups, embedded=embedded)


def _lineage_of(members: Sequence[Member], fold: FoldData, fused: FusionResult) -> dict[str, list[str]]:
    valid = sorted(set(fold.valid_digests))
    of_train = sorted(set(fold.train["content_digest"].loc[list(fused.learned_from)]))
    of_members = {
        f"{number}.{part}": list(digests)
        for number, member in enumerate(members)
        for part, digests in member.lineage.items()
    }
    learned = {STACKER: of_train or valid} if fused.learned else {}
    if of_train and "weights" in fused.learned:  # those of the mean that a classifier is mixed with
        learned["weights"] = valid
    return {CALIBRATION: valid} | of_members | learned
