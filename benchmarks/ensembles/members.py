"""The members of an ensemble: finished runs of one fold, none fitted on photos it is evaluated on.

`FoldData` is what they have in common: the fold's photos and the answers to valid and test. A `MemberRun` is
a run that is named, a `Member` one whose scores were read and found out-of-fold; a rule gets a `FusionTask`
and gives a `FusionResult`. Without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import JsonValue

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import (
    WEIGHTS,
    RunRecord,
    find_run,
    read_arrays,
    read_record,
    read_runs,
    read_scores,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.options import NO_OPTIONS, Options
from whalebench.benchmarks.registry import Benchmark, load_benchmark_of
from whalebench.benchmarks.running.calibration import choose_calibration
from whalebench.benchmarks.running.evaluation import CALIBRATION
from whalebench.benchmarks.running.folds import Answers, answers_of
from whalebench.methods.parts.fusion import Embeddings, Floats, Labels, Rows, Scores
from whalebench.reports.metrics.calibration import calibration_of
from whalebench.splits.inner import propose_inner_folds

FOLDS = 5
"""In how many parts valid is cut for cross-validation, or fewer where it has fewer clusters."""
CAPTURE = ["encounter", "width", "height"]
"""Columns of the catalog that steps see: they say nothing of who is shown."""
SHARED = ("benchmark", "catalog_digest", "split_digest", "twin_of", "fold")
"""What the records of two members must agree in."""


@dataclass(frozen=True)
class FoldData:
    """One fold: who is known, the answers to valid and test, and what may have been learned from."""

    identities: tuple[str, ...]
    valid: Answers
    test: Answers
    valid_digests: tuple[str, ...]
    """Of what the valid photos show."""
    test_digests: tuple[str, ...]
    """Without those of photos that train holds as well, in a published split: who learned from train has."""
    valid_groups: tuple[str, ...]
    """What each valid photo was taken with: its encounter, or what the split kept together."""
    gallery: tuple[str, ...]
    """The identity of each known photo of train, in the order in which methods embed them."""
    gallery_images: tuple[str, ...]
    gallery_digests: tuple[str, ...]
    benchmark: Benchmark
    photos: dict[str, pd.DataFrame]
    """By `gallery`, `valid` and `test`: encounter, width and height of the photos, nobody's name."""
    train: pd.DataFrame
    """Identity, content_digest and group of each photo of train, by its image."""

    @property
    def answers(self) -> dict[str, Answers]:
        """Those to `valid` and to `test`."""
        return {"valid": self.valid, "test": self.test}

    @cached_property
    def valid_labels(self) -> Labels:
        """(valid photos,) the column of each one's individual, -1 where it is new."""
        return self.columns(self.valid.truth)

    @cached_property
    def gallery_labels(self) -> Labels:
        """(known photos of train,) the column of each one's individual."""
        return self.columns(self.gallery)

    def columns(self, names: Sequence[str]) -> Labels:
        """(names,) the column of each individual, -1 of one who is not known."""
        column = columns_of(self.identities)
        return np.array([column.get(name, -1) for name in names], np.int64)

    def cross_validation(
        self, seed: int, clusters: Sequence[str] | None = None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Places in valid to fit on and to try on, (photos,) each, part by part.

        Empty where a part leaves no known photo. Nothing is tried on what it was fitted on, nor on a
        photo of the same cluster; clusters are individuals unless given. The largest are dealt first, equal
        ones in shuffled order, each to the smallest part.
        """
        clusters = self.valid.clusters if clusters is None else clusters
        names, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(names))
        order = order[np.argsort(-sizes[order], kind="stable")]
        part_of, filled = np.zeros(len(names), np.int64), np.zeros(min(FOLDS, len(names)), np.int64)
        for cluster in order:
            part_of[cluster] = filled.argmin()
            filled[part_of[cluster]] += sizes[cluster]
        parts = part_of[codes]
        cut = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in np.unique(parts)]
        enough = len(cut) > 1 and all((self.valid_labels[fit] >= 0).any() for fit, _ in cut)
        return cut if enough else []


def load_fold(record: RunRecord, workspace: Workspace, progress: Progress = SILENT) -> FoldData:
    """The fold of a run; raises WhalebenchError where catalog or split are no longer the same."""
    benchmark = load_benchmark_of(record, workspace, progress)
    parts, table = benchmark.split.parts(record.fold), benchmark.catalog.table.set_index("image", drop=False)
    if benchmark.split.gallery(record.fold):
        raise WhalebenchError(
            f"Runs on {record.benchmark} are compared with a gallery of individuals that none learned, which "
            f"ensembles do not know of: choose runs on a split that is not disjoint."
        )
    train, valid, test = (table.loc[list(images)] for images in (parts.train, parts.valid, parts.test))
    identities = tuple(sorted(set(train["identity"]) - {""}))
    groups = dict(zip(benchmark.split.table["image"], benchmark.split.table["group"], strict=True))
    known = train[train["identity"] != ""]
    return FoldData(
        identities=identities,
        valid=answers_of(valid, train, identities, groups),
        test=answers_of(test, train, identities, groups),
        valid_digests=tuple(valid["content_digest"]),
        test_digests=tuple(sorted(set(test["content_digest"]) - set(train["content_digest"]))),
        valid_groups=tuple(groups[image] for image in parts.valid),
        gallery=tuple(known["identity"]),
        gallery_images=tuple(known["image"]),
        gallery_digests=tuple(known["content_digest"]),
        benchmark=benchmark,
        photos={"gallery": known[CAPTURE], "valid": valid[CAPTURE], "test": test[CAPTURE]},
        train=train[["identity", "content_digest"]].assign(group=[groups[image] for image in parts.train]),
    )


@dataclass(frozen=True)
class MemberRun:
    """A finished run that is named as a member; only its record has been read."""

    folder: Path
    record: RunRecord


@dataclass(frozen=True)
class Member:
    """A finished run with its scores of the two parts."""

    run: MemberRun
    valid: Scores
    """Scores (valid photos, identities), higher is more likely."""
    test: Scores
    temperature: float
    """That over which the softmax of its scores is its probabilities, as chosen on valid."""
    lineage: dict[str, list[str]]
    """By part, digests of the photos it was fitted on."""
    features: Embeddings | None = None
    """Embeddings (test photos, dimensions) where `test` is not what its file keeps; else None."""

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.record.run

    @property
    def bags(self) -> int:
        """Over how many inner folds it was bagged; 1 for one that was not."""
        bags = self.run.record.config.get("bags", 1)
        return bags if isinstance(bags, int) else 1

    def inner_folds(self, fold: FoldData) -> Rows:
        """(photos of train,) in which inner fold of a bagged member each is, -1 for none."""
        made, number = fold.benchmark, self.run.record.fold
        inner = propose_inner_folds(made.split, made.catalog, number, self.bags).inner
        return np.array([inner[image] for image in fold.train.index], np.int64)


@dataclass(frozen=True)
class FusionTask:
    """What a rule is given: members of one fold, and what was asked for besides."""

    members: Sequence[Member]
    fold: FoldData
    seed: int = 0
    weights: Floats | None = None
    """(members,) as given, one in all. Where None, `mean` and `product` choose their own on valid, and the
    others weigh all members the same."""
    options: Options = NO_OPTIONS
    progress: Progress = SILENT

    @property
    def valid(self) -> list[Scores]:
        """Each member's scores of valid (photos, identities)."""
        return [member.valid for member in self.members]

    @property
    def test(self) -> list[Scores]:
        """Each member's scores of test (photos, identities)."""
        return [member.test for member in self.members]

    @property
    def temperatures(self) -> list[float]:
        """Each member's."""
        return [member.temperature for member in self.members]

    def equal_weights(self) -> Floats:
        """(members,) of sum 1."""
        return np.full(len(self.members), 1 / len(self.members))


@dataclass(frozen=True)
class FusionResult:
    """Scores (photos, identities) of valid and test, and what was learned from valid to make them."""

    valid: Scores
    """Of each photo by what was learned without it; temperatures and energies are of all of valid."""
    test: Scores
    chosen: dict[str, JsonValue] = field(default_factory=dict)
    """What was chosen on valid, by name."""
    train_log_loss: float | None = None
    """Of what was learned, on the photos it was learned from, also where it was not kept; else None."""
    out_of_fold_log_loss: float | None = None
    """Of valid photos by what was learned without them."""
    alone: dict[str, float] = field(default_factory=dict)
    """The same two of what was learned alone, by name, where the scores mix it with something else."""
    learned: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays to be stored as the run's weights; empty where nothing was learned."""
    learned_from: tuple[str, ...] = ()
    """Photos of train that it was learned from, which the members answered out of fold; else it was valid."""


def finished_runs(workspace: Workspace) -> tuple[str, ...]:
    """The names of the finished runs of the newest one's fold and seed, of each method with settings once.

    Ensembles are none of them, nor are runs that see annotations of test photos, or other test photos: these
    would make the ensemble one of that kind. Raises WhalebenchError where there are fewer than two.
    """
    single = [
        record
        for record in read_runs(workspace.runs).records
        if not (record.unfit or record.oracle or record.transductive or record.members)
        and record.method != "ensemble"
    ]
    newest = max(single, key=lambda record: (record.created, record.run), default=None)
    same = (*SHARED, "seed")
    runs = [each for each in single if all(getattr(each, key) == getattr(newest, key) for key in same)]
    runs.sort(key=lambda record: (record.created, record.run))
    # What was run again by newer code is the same method: its newest run stands for it.
    names = {(each.method, digest_text(str(each.config))): each.run for each in runs}
    if len(names) < 2:
        raise WhalebenchError(
            f"{len(names)} finished run(s) of one fold and seed are no ensemble: `whalebench run ensemble` "
            f"trains its members, or run another method first."
        )
    return tuple(sorted(names.values()))


def find_members(names: Sequence[str], workspace: Workspace, *, alone: bool = False) -> list[MemberRun]:
    """The finished runs of those names, in that order.

    Raises WhalebenchError for fewer than two, unless one may stand alone, for a run given twice, for one
    without scores, and where two differ in benchmark, catalog, split or fold.
    """
    if len(names) < 2 - alone:
        raise WhalebenchError(
            f"{len(names)} run(s) are no ensemble: name two or more, or one with a step, --then reciprocal."
        )
    members: list[MemberRun] = []
    for name in names:
        folder = find_run(name, workspace).resolve()
        if folder in [member.folder for member in members]:
            raise WhalebenchError(f"The run {folder.name} is given twice: name each member once.")
        record = read_record(folder)
        if record.unfit:
            raise WhalebenchError(
                f"The run {record.run} has no scores, because {record.unfit}: leave it out."
            )
        members.append(MemberRun(folder, record))
        _refuse_other_fold(members[0].record, record)
    return members


def _refuse_other_fold(first: RunRecord, second: RunRecord) -> None:
    for name in SHARED:
        one, other = (str(getattr(record, name)) for record in (first, second))
        if one != other:
            what = name.removesuffix("_digest")
            raise WhalebenchError(
                f"{first.run} and {second.run} differ in the {what} ({one[:16]}, {other[:16]}), so their "
                f"scores are not of the same photos: combine runs of one fold of one split."
            )


def read_members(runs: Sequence[MemberRun], fold: FoldData) -> Iterator[Member]:
    """The members with their scores, one after the other; those that must not be stacked are refused."""
    wanted = {"valid_scores": fold.valid.images, "test_scores": fold.test.images}
    for run in runs:
        record, lineage = run.record, _read_lineage(run)
        _refuse_fitted(record, lineage, fold)
        arrays, names = read_scores(run.folder, tuple(wanted))
        _refuse_in_fold(record.run, names.get("valid", []), _scoring_parts(lineage), fold)
        given = [names.get(part) for part in ("valid", "test", "identities")]
        shapes = [(len(images), len(fold.identities)) for images in wanted.values()]
        if (
            given != [list(fold.valid.images), list(fold.test.images), list(fold.identities)]
            or [array.shape for array in arrays.values()] != shapes
        ):
            raise WhalebenchError(
                f"The scores of {record.run} are of other photos or individuals than fold {record.fold} has: "
                f"repeat the run with --force."
            )
        valid, test = (np.asarray(arrays[name], np.float32) for name in wanted)
        if not (np.isfinite(valid).all() and np.isfinite(test).all()):
            raise WhalebenchError(f"Scores of {record.run} are not finite: repeat the run with --force.")
        calibration = calibration_of(record.chosen) or choose_calibration(valid, fold.valid, fold.identities)
        # Without its epsilon, which would make equal what the member still tells apart.
        yield Member(run, valid, test, calibration.temperature, lineage)


def lineage_facts(lineage: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a record says of the photos, by part: how many, and a digest of their digests."""
    return {
        part: {"photos": len(digests), "digest": digest_text("\n".join(digests))}
        for part, digests in lineage.items()
    }


def _read_lineage(run: MemberRun) -> dict[str, list[str]]:
    """By part, digests of the photos the run was fitted on, which its record must confirm."""
    _, lineage = read_arrays(run.folder / WEIGHTS, (), "lineage")
    if not _scoring_parts(lineage) or lineage_facts(lineage) != run.record.lineage:
        raise WhalebenchError(
            f"The run {run.record.run} does not say, or says in two ways, which photos it was fitted on, so "
            f"nobody can tell whether its scores of valid are out-of-fold: repeat it with --force."
        )
    return lineage


def _scoring_parts(lineage: dict[str, list[str]]) -> dict[str, list[str]]:
    """The parts that a member's own scores are made by; a calibration changes none of them."""
    return {part: own for part, own in lineage.items() if part.rpartition(".")[2] != CALIBRATION}


def _refuse_fitted(record: RunRecord, lineage: dict[str, list[str]], fold: FoldData) -> None:
    """Raises WhalebenchError for a part fitted on valid, or on test but for a transductive run's.

    That was handed test photos without their labels, and makes the ensemble transductive.
    """
    scoring = _scoring_parts(lineage)
    not_from_test = {
        part: own for part, own in lineage.items() if part not in scoring or not record.transductive
    }
    for name, photos, parts in (
        ("valid", fold.valid_digests, scoring),
        ("test", fold.test_digests, not_from_test),
    ):
        for part, digests in parts.items():
            if seen := set(digests) & set(photos):
                raise WhalebenchError(
                    f"The {part} of {record.run} was fitted on {len(seen)} of the {name} photo(s), so its "
                    f"scores of them are not out-of-fold and nothing may be learned from them: leave that "
                    f"run out."
                )


def _refuse_in_fold(
    run: str, images: Sequence[str], lineage: Mapping[str, Sequence[str]], fold: FoldData
) -> None:
    """Raises WhalebenchError where some of the images are photos that the run was fitted on.

    Second place of Right Whale 2015 stacked such features: train log loss 0, and twelve hours of panic.
    """
    table = fold.benchmark.catalog.table
    shown = set(table.loc[table["image"].isin(list(images)), "content_digest"])
    seen = shown & {digest for digests in lineage.values() for digest in digests}
    if seen:
        raise WhalebenchError(
            f"{run} gives features of {len(seen)} photo(s) that it was fitted on as those of valid photos. "
            f"It knows these by heart: a stacker that learns from them comes to a train log loss of nearly "
            f"0, which says nothing of photos it has not seen. Only valid photos are out-of-fold: repeat the "
            f"run with --force, or leave it out."
        )
