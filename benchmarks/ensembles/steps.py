"""Steps taken one after the other: settings chosen on valid, and every state in between judged.

The steps by name.

What steps are shown of a fold: photos without their answers, and the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core.arrays import columns_of, normalise
from whalebench.benchmarks.core.record import SCORES, WEIGHTS, read_arrays
from whalebench.benchmarks.ensembles.fusion import Scores
from whalebench.benchmarks.ensembles.heuristics import Balance, Bursts, Duplicates, Groups, Sizes
from whalebench.benchmarks.ensembles.members import Ground, Named
from whalebench.benchmarks.ensembles.reranking import (
    Expansion,
    ExpansionTogether,
    Reciprocal,
    ReciprocalTogether,
)
from whalebench.benchmarks.ensembles.step import Gallery, Queries, Setting, Step
from whalebench.benchmarks.running.evaluation import EQUAL, Evaluation, choose_new_threshold, evaluate_scores
from whalebench.methods.method import MethodConfig

STEPS: dict[str, type[Step]] = {
    step.name: step
    for step in (
        Reciprocal,
        ReciprocalTogether,
        Expansion,
        ExpansionTogether,
        Duplicates,
        Sizes,
        Bursts,
        Balance,
    )
}


def check_steps(names: Sequence[str], *, duplicates: bool) -> None:
    """Nothing; raises WhalebenchError for an unknown step, one given twice, and duplicates without a file."""
    for name in names:
        if name not in STEPS:
            hint = did_you_mean(name, STEPS, f"choose from {', '.join(STEPS)}.")
            raise WhalebenchError(f"There is no step '{name}': {hint}")
        if names.count(name) > 1:
            raise WhalebenchError(f"The step {name} is given twice: name each once.")
    if duplicates != (Duplicates.name in names):
        raise WhalebenchError(
            "--duplicates FILE is what --then duplicates reads: give both, or leave both out."
        )


Embeddings = dict[str, NDArray[np.float32]]
"""Embeddings (photos, dimensions) by `gallery`, `valid` and `test`."""


@dataclass(frozen=True)
class Sight:
    """The gallery, and of both parts everything but scores and answers."""

    gallery: Gallery
    photos: dict[str, pd.DataFrame]
    embeddings: Embeddings

    def queries(self, part: str, scores: Scores, temperature: float, unit: float) -> Queries:
        """The photos of `valid` or `test` with the scores they have by now."""
        photos = self.photos[part]
        encounters = tuple(photos["encounter"])
        sizes = photos[["width", "height"]].to_numpy(np.int64)
        return Queries(scores, temperature, unit, sizes, encounters, self.embeddings.get(part))


def look(
    ground: Ground, named: Sequence[Named], weights: Sequence[float], groups: Groups, *, embeddings: bool
) -> Sight:
    """What steps are shown of the ground; of members' embeddings nothing unless they are asked for."""
    column = columns_of(ground.identities)
    labels = ground.gallery_labels
    order = np.argsort(labels, kind="stable")
    parts = _side_by_side(named, weights, labels) if embeddings else {}
    known = (tuple(column[name] for name in group if name in column) for group in groups)
    gallery = Gallery(
        labels=labels[order],
        sizes=ground.photos["gallery"][["width", "height"]].to_numpy(np.int64)[order],
        embeddings=parts["gallery"][order] if parts else None,
        groups=tuple(group for group in known if len(group) > 1),
    )
    return Sight(gallery, ground.photos, parts)


def _side_by_side(named: Sequence[Named], weights: Sequence[float], labels: NDArray[np.int64]) -> Embeddings:
    """Embeddings of the members that keep a gallery, so that a cosine is the weighted mean of theirs."""
    found: dict[str, list[NDArray[np.float32]]] = {"gallery": [], "valid": [], "test": []}
    for one, weight in zip(named, weights, strict=True):
        kept, _ = read_arrays(one.folder / WEIGHTS, ("gallery", "labels"), "lineage")
        seen, _ = read_arrays(one.folder / SCORES, ("valid_embeddings", "test_embeddings"), "names")
        if len(kept) < 2 or len(seen) < 2 or not np.array_equal(kept["labels"], labels):
            continue
        if weight > 0 and seen["test_embeddings"].shape[1:] == kept["gallery"].shape[1:]:
            parts = {"gallery": kept["gallery"], **{name.split("_")[0]: each for name, each in seen.items()}}
            for part, each in parts.items():
                found[part].append(normalise(each) * np.float32(np.sqrt(weight)))
    return {part: normalise(np.hstack(each)) for part, each in found.items() if each}


WITHOUT = "without"
"""The state before the first step."""
Parts = dict[str, Scores]
"""Scores (photos, identities) by `valid` and `test`."""


@dataclass(frozen=True)
class State:
    """What the scores came to after a step, or before the first."""

    name: str
    judged: Evaluation
    transductive: bool = False
    chosen: Setting = field(default_factory=dict)
    unfit: str = ""
    """Why the step was not taken; then the judgement is that of the state before."""

    def variant(self) -> dict[str, Any]:
        """What the record says of it."""
        found = {"metrics": self.judged.metrics, "valid_metrics": self.judged.valid_metrics}
        if self.unfit:
            found = {part: dict.fromkeys(metrics, nan) for part, metrics in found.items()}
        said = {"transductive": self.transductive, "chosen": dict(self.chosen), "unfit": self.unfit}
        return found | said


@dataclass(frozen=True)
class Taken:
    """The scores after all steps, and the states on the way, the first without any."""

    scores: Parts
    states: tuple[State, ...]

    @property
    def judged(self) -> Evaluation:
        """The last state's."""
        return self.states[-1].judged

    def facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts of a record with what steps add; the same where there are none."""
        if len(self.states) == 1:
            return facts
        chosen = {f"{s.name}.{key}": value for s in self.states for key, value in s.chosen.items()}
        together = [state.name for state in self.states if state.transductive]
        warnings = [f"The step {s.name} does not fit: {s.unfit}." for s in self.states if s.unfit]
        if together:
            warnings.append(f"{', '.join(together)} used other test photos: transductive.")
        return facts | {
            "transductive": facts["transductive"] or bool(together),
            "chosen": facts["chosen"] | chosen,
            "variants": {state.name: state.variant() for state in self.states},
            "warnings": [*facts["warnings"], *warnings],
        }

    def queries(self) -> pd.DataFrame:
        """One row a test photo and state that there is, the state's name in `variant`."""
        there = [state for state in self.states if not state.unfit]
        return pd.concat(
            [state.judged.queries.assign(variant=state.name) for state in there], ignore_index=True
        )


def take_steps(
    names: Sequence[str],
    scores: Parts,
    sight: Sight | None,
    ground: Ground,
    config: MethodConfig,
) -> Taken:
    """What the steps make of the scores; a step that does not fit is passed over and says why.

    Steps see no answers. Settings are chosen by MAP@5 on valid with the best threshold of *new* there, then
    test is scored once; temperature and threshold are chosen after each step as for every run.
    """
    answers = {"valid": ground.valid, "test": ground.test}
    states = [State(WITHOUT, evaluate_scores(ground.identities, scores, answers, config))]
    for name in names:
        assert sight is not None
        before, unit = states[-1].judged, _unit(scores["valid"])
        temperature = before.chosen["temperature"] or 1.0
        valid, test = (sight.queries(part, scores[part], temperature, unit) for part in answers)
        step = STEPS[name](sight.gallery)
        if reason := step.missing_requirement(valid, test):
            states.append(State(name, before, unfit=reason))
            continue
        chosen = choose_setting(step, valid, ground, config)
        scores = {"valid": step.scores(valid, chosen), "test": step.scores(test, chosen)}
        judged = evaluate_scores(ground.identities, scores, answers, config)
        states.append(State(name, judged, step.transductive, chosen))
    return Taken(scores, tuple(states))


def choose_setting(step: Step, valid: Queries, ground: Ground, config: MethodConfig) -> Setting:
    """The setting of the step's grid with the best MAP@5 on valid; of equally good ones the first."""
    best, highest = step.settings[0], float("-inf")
    for setting in step.settings if len(step.settings) > 1 else ():
        scores = step.scores(valid, setting)
        worth = choose_new_threshold(scores, ground.valid, ground.identities, config)[1]
        if worth > highest + EQUAL:
            best, highest = setting, worth
    return best


def _unit(scores: Scores) -> float:
    """By how much the best score stands above the mean one, on average; above 0."""
    return max(float((scores.max(axis=1) - scores.mean(axis=1)).mean()), 1e-9)
