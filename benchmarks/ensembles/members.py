"""The members of an ensemble: finished runs on one ground, none fitted on what a stacker learns from.

The ground that all members of an ensemble stand on: one fold, its photos and answers; without torch.

In-fold features, which no stacker may learn from.

What a rule makes of the members.

What members keep of photos besides scores: embeddings of valid and test, and of the gallery.
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
from whalebench.benchmarks.core.arrays import columns_of, normalise
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import SCORES, WEIGHTS, RunRecord, find_run, read_arrays, read_record
from whalebench.benchmarks.core.workspace import Workspace, digest_text
from whalebench.benchmarks.registry import Benchmark, load_benchmark
from whalebench.benchmarks.running.calibration import calibration_of, choose_calibration
from whalebench.benchmarks.running.evaluation import CALIBRATION
from whalebench.benchmarks.running.folds import Answers, answers_of

FOLDS = 5
"""In how many parts valid is cut for cross-validation, or fewer where it has fewer clusters."""

FACTS = ["encounter", "width", "height"]
"""Columns of the catalog that say nothing of who is shown."""


@dataclass(frozen=True)
class Ground:
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

    @cached_property
    def own(self) -> NDArray[np.int64]:
        """(valid photos,) the column of each one's individual, -1 where it is new."""
        column = columns_of(self.identities)
        return np.array([column.get(truth, -1) for truth in self.valid.truth], np.int64)

    @cached_property
    def gallery_labels(self) -> NDArray[np.int64]:
        """(known photos of train,) the column of each one's individual."""
        column = columns_of(self.identities)
        return np.array([column[identity] for identity in self.gallery], np.int64)

    def folds(self, seed: int, clusters: Sequence[str] | None = None) -> NDArray[np.int64]:
        """(valid photos,) the part of cross-validation each is in; a cluster's photos are in one part.

        Clusters are individuals unless given. The largest are dealt first, equal ones in shuffled order, each
        to the smallest part.
        """
        named = self.valid.clusters if clusters is None else clusters
        names, codes, sizes = np.unique(named, return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(names))
        order = order[np.argsort(-sizes[order], kind="stable")]
        part, filled = np.zeros(len(names), np.int64), np.zeros(min(FOLDS, len(names)), np.int64)
        for cluster in order:
            part[cluster] = filled.argmin()
            filled[part[cluster]] += sizes[cluster]
        return np.asarray(part[codes], np.int64)

    def splits(
        self, seed: int, clusters: Sequence[str] | None = None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows of valid to fit on and rows to try on, part by part; empty where no part leaves a known photo.

        Nothing is tried on what it was fitted on, nor on a photo of the same individual, or of the same
        cluster where those are given.
        """
        parts = self.folds(seed, clusters)
        cut = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in np.unique(parts)]
        enough = len(cut) > 1 and all((self.own[fit] >= 0).any() for fit, _ in cut)
        return cut if enough else []


def find_ground(record: RunRecord, workspace: Workspace, progress: Progress = SILENT) -> Ground:
    """The ground a run stands on; raises WhalebenchError where catalog or split are no longer the same."""
    benchmark = load_benchmark(record.benchmark, workspace, progress)
    now = {"catalog": benchmark.catalog.digest, "split": benchmark.split.digest}
    for what, then in (("catalog", record.catalog_digest), ("split", record.split_digest)):
        if now[what] != then:
            raise WhalebenchError(
                f"The {what} of {record.benchmark} is not the one that {record.run} was made with "
                f"({now[what][:16]} now, {then[:16]} then): bring that one back, or run again."
            )
    parts, table = benchmark.split.parts(record.fold), benchmark.catalog.table.set_index("image", drop=False)
    train, valid, test = (table.loc[list(images)] for images in (parts.train, parts.valid, parts.test))
    identities = tuple(sorted(set(train["identity"]) - {""}))
    groups = dict(zip(benchmark.split.table["image"], benchmark.split.table["group"], strict=True))
    known = train[train["identity"] != ""]
    shown = {"gallery": known, "valid": valid, "test": test}
    return Ground(
        identities=identities,
        valid=answers_of(valid, identities, groups),
        test=answers_of(test, identities, groups),
        valid_digests=tuple(valid["content_digest"]),
        test_digests=tuple(sorted(set(test["content_digest"]) - set(train["content_digest"]))),
        valid_groups=tuple(groups[image] for image in parts.valid),
        gallery=tuple(known["identity"]),
        gallery_images=tuple(known["image"]),
        gallery_digests=tuple(known["content_digest"]),
        benchmark=benchmark,
        photos={part: rows[FACTS] for part, rows in shown.items()},
    )


def refuse_in_fold(
    run: str, images: Sequence[str], lineage: Mapping[str, Sequence[str]], ground: Ground
) -> None:
    """Nothing; raises WhalebenchError where some of the images are photos that the run was fitted on.

    Seed 002's author stacked such features: train log loss 0, and twelve hours of panic.
    """
    table = ground.benchmark.catalog.table
    shown = set(table.loc[table["image"].isin(list(images)), "content_digest"])
    seen = shown & {digest for digests in lineage.values() for digest in digests}
    if seen:
        raise WhalebenchError(
            f"{run} gives features of {len(seen)} photo(s) that it was fitted on as those of valid photos. "
            f"It knows these by heart: a stacker that learns from them comes to a train log loss of nearly "
            f"0, which says nothing of photos it has not seen. Only valid photos are out-of-fold: repeat the "
            f"run with --force, or leave it out."
        )


@dataclass(frozen=True)
class Combined:
    """Scores (photos, identities) of valid and test, and what was learned from valid to make them."""

    valid: NDArray[np.float32]
    """Of each photo by what was learned without it."""
    test: NDArray[np.float32]
    chosen: dict[str, JsonValue] = field(default_factory=dict)
    """What was chosen on valid, by name."""
    train_log_loss: float | None = None
    """Of the valid photos that were learned from; None where nothing was learned."""
    out_of_fold_log_loss: float | None = None
    """Of the same photos by what was learned without them."""
    alone: dict[str, float] = field(default_factory=dict)
    """The same two of what was learned alone, by name, where the scores mix it with something else."""
    learned: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays to be stored as the run's weights; empty where nothing was learned from valid."""


SAME = {
    "benchmark": "the benchmark",
    "catalog_digest": "the catalog",
    "split_digest": "the split",
    "fold": "the fold",
}
"""What the records of two members must agree in."""


@dataclass(frozen=True)
class Named:
    """A finished run that is asked for as a member; nothing but its record has been read."""

    folder: Path
    record: RunRecord


@dataclass(frozen=True)
class Member:
    """A finished run with its scores of the two parts."""

    named: Named
    valid: NDArray[np.float32]
    """Scores (valid photos, identities), higher is more likely."""
    test: NDArray[np.float32]
    temperature: float
    """That over which the softmax of its scores is its probabilities, as chosen on valid."""
    lineage: dict[str, list[str]]
    """By part, digests of the photos it was fitted on."""

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.named.record.run


def find_members(names: Sequence[str], workspace: Workspace, *, alone: bool = False) -> list[Named]:
    """The finished runs of those names, in that order.

    Raises WhalebenchError for fewer than two, unless one may stand alone, for a run given twice, for one
    without scores, and where two differ in benchmark, catalog, split or fold.
    """
    if len(names) < 2 - alone:
        raise WhalebenchError(
            f"{len(names)} run(s) are no ensemble: name two or more, or one with a step, --then reciprocal."
        )
    members: list[Named] = []
    for name in names:
        folder = find_run(name, workspace).resolve()
        if folder in [member.folder for member in members]:
            raise WhalebenchError(f"The run {folder.name} is given twice: name each member once.")
        record = read_record(folder)
        if record.unfit:
            raise WhalebenchError(
                f"The run {record.run} has no scores, because {record.unfit}: leave it out."
            )
        members.append(Named(folder, record))
    for other in members[1:]:
        _refuse_other_ground(members[0].record, other.record)
    return members


def _refuse_other_ground(first: RunRecord, second: RunRecord) -> None:
    for name, what in SAME.items():
        one, other = (str(getattr(record, name)) for record in (first, second))
        if one != other:
            raise WhalebenchError(
                f"{first.run} and {second.run} differ in {what} ({one[:16]}, {other[:16]}), so their scores "
                f"are not of the same photos: combine runs of one fold of one split."
            )


def read_members(named: Sequence[Named], ground: Ground) -> Iterator[Member]:
    """The members with their scores, one after the other; those that must not be stacked are refused."""
    for one in named:
        lineage = _lineage(one)
        _refuse_seen(one.record, lineage, ground)
        wanted = {"valid_scores": ground.valid.images, "test_scores": ground.test.images}
        arrays, names = read_arrays(one.folder / SCORES, tuple(wanted), "names")
        refuse_in_fold(one.record.run, names.get("valid", []), _learned(lineage), ground)
        there = [names.get(part) for part in ("valid", "test", "identities")]
        shapes = [(len(images), len(ground.identities)) for images in wanted.values()]
        if (
            there != [list(ground.valid.images), list(ground.test.images), list(ground.identities)]
            or [array.shape for array in arrays.values()] != shapes
        ):
            raise WhalebenchError(
                f"The scores of {one.record.run} are of other photos or individuals than fold "
                f"{one.record.fold} has: repeat the run with --force."
            )
        valid, test = (np.asarray(arrays[name], np.float32) for name in wanted)
        if not (np.isfinite(valid).all() and np.isfinite(test).all()):
            raise WhalebenchError(f"Scores of {one.record.run} are not finite: repeat the run with --force.")
        said = calibration_of(one.record.chosen)
        calibration = said or choose_calibration(valid, ground.valid, ground.identities)
        yield Member(one, valid, test, calibration.temperature, lineage)


def _lineage(one: Named) -> dict[str, list[str]]:
    """By part, digests of the photos the run was fitted on, which its record must confirm."""
    _, lineage = read_arrays(one.folder / WEIGHTS, (), "lineage")
    said = {
        part: {"photos": len(digests), "digest": digest_text("\n".join(digests))}
        for part, digests in lineage.items()
    }
    if not _learned(lineage) or said != one.record.lineage:
        raise WhalebenchError(
            f"The run {one.record.run} does not say, or says in two ways, which photos it was fitted on, so "
            f"nobody can tell whether its scores of valid are out-of-fold: repeat it with --force."
        )
    return lineage


def _learned(lineage: dict[str, list[str]]) -> dict[str, list[str]]:
    """The parts that scores are made by; calibrations, also those of a member's members, change no score."""
    return {part: own for part, own in lineage.items() if part.rpartition(".")[2] != CALIBRATION}


def _refuse_seen(record: RunRecord, lineage: dict[str, list[str]], ground: Ground) -> None:
    """Nothing, where no part was fitted on valid, nor on test but for a transductive run's.

    That was handed test photos without their labels, and makes the ensemble transductive.
    """
    learned = _learned(lineage)
    told_test = {part: own for part, own in lineage.items() if part not in learned}
    if not record.transductive:
        told_test |= learned
    for name, own, parts in (
        ("valid", ground.valid_digests, learned),
        ("test", ground.test_digests, told_test),
    ):
        for part, digests in parts.items():
            if seen := set(digests) & set(own):
                raise WhalebenchError(
                    f"The {part} of {record.run} was fitted on {len(seen)} of the {name} photo(s), so its "
                    f"scores of them are not out-of-fold and nothing may be learned from them: leave that "
                    f"run out."
                )


Embeddings = NDArray[np.float32]
GALLERY = "gallery"
"""The array of a run's weights that holds its gallery, and the part of its lineage that says whose it is."""


@dataclass(frozen=True)
class Side:
    """One member's embeddings (photos, dimensions), each of length 1."""

    valid: Embeddings
    test: Embeddings
    gallery: Embeddings
    """Of the known photos of train, as `Ground.gallery_images` has them."""


def side_of(member: Member, ground: Ground) -> Side | None:
    """The member's embeddings; None where it keeps none of its gallery, or none of valid and test.

    Raises WhalebenchError for a gallery that is not one embedding a known train photo.
    """
    arrays, _ = read_arrays(member.named.folder / WEIGHTS, (GALLERY, "labels"), "lineage")
    valid, test = (embeddings_of(member, part) for part in ("valid", "test"))
    if set(arrays) != {GALLERY, "labels"} or valid is None or test is None:
        return None
    _refuse_other_gallery(member, arrays["labels"], ground)
    gallery = arrays[GALLERY]
    if not valid.shape[1:] == test.shape[1:] == gallery.shape[1:]:
        return None
    return Side(*(normalise(each) for each in (valid, test, gallery)))


def embeddings_of(member: Member, part: str) -> Embeddings | None:
    """Embeddings (photos, dimensions) of valid or test, as the member gave them; None where it gave none."""
    name = f"{part}_embeddings"
    arrays, _ = read_arrays(member.named.folder / SCORES, (name,), "names")
    found = arrays.get(name)
    scores = member.valid if part == "valid" else member.test
    if found is not None and len(found) != len(scores):
        raise WhalebenchError(
            f"{member.name} keeps {len(found)} embeddings of {len(scores)} {part} photos: repeat the run "
            f"with --force."
        )
    return found


def _refuse_other_gallery(member: Member, labels: NDArray[np.int64], ground: Ground) -> None:
    """Nothing; raises WhalebenchError unless the gallery is of the known train photos, one after another."""
    filled = set(member.lineage.get(GALLERY, ()))
    if not np.array_equal(labels, ground.gallery_labels) or filled != set(ground.gallery_digests):
        raise WhalebenchError(
            f"The gallery of {member.name} is not, or does not say that it is, one embedding a known train "
            f"photo, so it cannot be put beside another: leave that run out, or use --rule mean."
        )
