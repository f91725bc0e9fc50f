"""From scores of new photos to answers, by what valid chose: probabilities, *new*, sets, whole encounters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.record import RunRecord, read_scores
from whalebench.benchmarks.registry import Benchmark
from whalebench.benchmarks.running.calibration import NewChance, fit_new_chance
from whalebench.methods.method import NewRule
from whalebench.reports.metrics.calibration import UNCALIBRATED, Calibration, calibration_of, candidate_sets
from whalebench.reports.metrics.evaluation import CLIP, evaluate_queries
from whalebench.reports.metrics.ranking import CANDIDATES, NEW

Scores = NDArray[np.float32]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Joining = Literal["mean of log probabilities", "mean of probabilities", "best photo"]
LEAST = 5
"""Encounters of several photos that valid must have to say how their photos answer best together."""
NO_CHANCE = (
    "Valid has not both photos of known individuals and new ones, so how probable it is that a photo shows "
    "somebody new cannot be told."
)
NO_SETS = "Valid has too few known photos for lists that hold the right individual in 95 % of photos."


class Candidates(NamedTuple):
    """The candidates of some photos or encounters (rows, 5), the best first."""

    names: NDArray[np.object_]
    """"" where there are fewer."""
    scores: Floats
    columns: Rows
    """That of each individual, -1 for *new* and for none."""


@dataclass(frozen=True)
class Judge:
    """What valid chose for one run: how scores become answers."""

    calibration: Calibration
    new_rule: NewRule
    new_threshold: float | None
    """None: *new* is no candidate."""
    set_threshold: float | None
    chance: NewChance | None
    """How probable *new* is by the best score; None where valid cannot tell."""
    joining: Joining = "mean of log probabilities"
    """How the photos of one encounter answer together."""
    notes: tuple[str, ...] = ()
    """What is to be known of these choices."""

    def chances(self, scores: Scores) -> tuple[Floats, Floats]:
        """Probabilities (rows, identities) given that it is one of them, and that it is none (rows,)."""
        best = scores.max(axis=1)
        new = np.full(len(scores), np.nan) if self.chance is None else self.chance.of(best)
        return self.calibration.probabilities(scores), new

    def candidates(self, identities: Sequence[str], scores: Scores) -> Candidates:
        """The candidates of rows of scores (rows, identities), by the code that evaluates test."""
        names = [str(row) for row in range(len(scores))]
        queries = evaluate_queries(
            images=names,
            truth=[NEW] * len(names),  # nobody knows it; candidates do not depend on it
            clusters=names,
            identities=identities,
            scores=scores,
            probabilities=np.ones_like(scores),
            new_scores=-scores.max(axis=1),
            new_threshold=self.new_threshold,
            new_rule=self.new_rule,
        )
        places = range(1, CANDIDATES + 1)
        found = queries[[f"candidate_{place}" for place in places]].to_numpy(object)
        column = columns_of(identities)
        columns = np.array([column.get(name, -1) for name in found.ravel()], np.int64).reshape(found.shape)
        return Candidates(
            found, queries[[f"score_{place}" for place in places]].to_numpy(np.float64), columns
        )

    def sets(self, probabilities: Floats) -> NDArray[np.bool_] | None:
        """Who is in the list of each row (rows, identities); None where valid was too small for one."""
        return None if self.set_threshold is None else candidate_sets(probabilities, self.set_threshold)

    def join(self, scores: Scores, rows: Sequence[Rows]) -> Scores:
        """Scores (encounters, identities) of the photos at some rows together, on the scale of photos."""
        return np.stack([_JOINED[self.joining](scores[each], self.calibration.temperature) for each in rows])


def _mean_of_logs(scores: Scores, temperature: float) -> Scores:
    """Of which the softmax is the normalised geometric mean of the photos' probabilities."""
    del temperature
    mean: Scores = scores.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _mean_of_probabilities(scores: Scores, temperature: float) -> Scores:
    """Of which the softmax is the mean of the photos' probabilities; of equal photos their own scores."""
    scaled = scores.astype(np.float64) / temperature
    highest = scaled.max(axis=1, keepdims=True)
    totals = np.log(np.exp(scaled - highest).sum(axis=1, keepdims=True)) + highest
    shares = np.exp(scaled - totals).mean(axis=0)
    mean: Scores = (temperature * (np.log(np.maximum(shares, 1e-300)) + totals.mean())).astype(np.float32)
    return mean


def _best_photo(scores: Scores, temperature: float) -> Scores:
    del temperature
    best: Scores = scores.max(axis=0)
    return best


_JOINED: dict[Joining, Callable[[Scores, float], Scores]] = {
    "mean of log probabilities": _mean_of_logs,
    "mean of probabilities": _mean_of_probabilities,
    "best photo": _best_photo,
}


def judge_of(record: RunRecord, folder: Path, benchmark: Benchmark) -> Judge:
    """What valid chose for a run: by its record, and by the scores of valid that it keeps."""
    valid = _valid_of(record, folder, benchmark)
    chosen, config = record.chosen, record.config
    calibration = calibration_of(chosen) or UNCALIBRATED
    share = config.get("new_share")
    chance = fit_new_chance(
        valid.scores.max(axis=1),
        np.array([name == NEW for name in valid.truth]),
        float(str(share)) if share is not None else None,
    )
    joining, said = _choose_joining(valid, calibration)
    limits = [_number(chosen.get(name)) for name in ("new_threshold", "set_threshold_95")]
    notes = ([] if chance else [NO_CHANCE]) + ([] if limits[1] is not None else [NO_SETS])
    rule: NewRule = "second" if config.get("new_rule") == "second" else "column"
    return Judge(calibration, rule, limits[0], limits[1], chance, joining, (*notes, said))


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))


class _Valid(NamedTuple):
    """The photos of valid with the scores that a run keeps of them."""

    scores: Scores
    truth: tuple[str, ...]
    """The individual where train knows it, else NEW."""
    encounters: tuple[str, ...]
    identities: tuple[str, ...]


def _valid_of(record: RunRecord, folder: Path, benchmark: Benchmark) -> _Valid:
    arrays, names = read_scores(folder, ("valid_scores",))
    table = benchmark.catalog.table.set_index("image")
    rows = table.loc[names["valid"]]
    known = set(names["identities"])
    truth = tuple(name if name in known else NEW for name in rows["identity"])
    identities = tuple(names["identities"])
    return _Valid(arrays["valid_scores"], truth, tuple(rows["encounter"]), identities)


def _choose_joining(valid: _Valid, calibration: Calibration) -> tuple[Joining, str]:
    """How photos of one encounter answer together with the least log loss on valid, and a sentence on it.

    Tried on encounters of several photos of one known individual, where there are LEAST or more.
    """
    column = columns_of(valid.identities)
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(valid.encounters, valid.truth, strict=True)):
        if key[0] and key[1] != NEW:
            groups.setdefault(key, []).append(row)
    several = {key: np.array(rows) for key, rows in groups.items() if len(rows) > 1}
    plain: Joining = "mean of log probabilities"
    if len(several) < LEAST:
        return plain, (
            f"Photos of one encounter answer by the {plain}: valid has {len(several)} encounters of several "
            f"photos of one known individual, too few to choose by."
        )
    targets = np.array([column[name] for _, name in several])

    def log_loss(joining: Joining) -> float:
        judge = Judge(calibration, "column", None, None, None, joining)
        shares = calibration.probabilities(judge.join(valid.scores, list(several.values())))
        return float(-np.log(np.maximum(shares[np.arange(len(targets)), targets], CLIP)).mean())

    losses = {joining: log_loss(joining) for joining in _JOINED}
    best = min(losses, key=losses.__getitem__)
    return best, (
        f"Photos of one encounter answer by the {best}, which has the least log loss on the {len(several)} "
        f"encounters of several photos that valid has."
    )
