"""The members of an ensemble: finished runs on one ground, none fitted on what a stacker learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.infold import refuse_in_fold
from whalebench.benchmarks.judging.calibrating import choose_calibration
from whalebench.benchmarks.judging.calibration import calibration_of
from whalebench.benchmarks.judging.judgement import CALIBRATION
from whalebench.benchmarks.record import WEIGHTS, RunRecord, read_record
from whalebench.benchmarks.runs.finished import find_run
from whalebench.benchmarks.runs.scores_file import SCORES, read_arrays
from whalebench.benchmarks.workspace import Workspace, digest_text

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
    for field, what in SAME.items():
        one, other = (str(getattr(record, field)) for record in (first, second))
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
