"""The steps by name, taken one after the other: settings chosen on valid, every state evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import pandas as pd

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.ensembles import heuristics, reranking
from whalebench.benchmarks.ensembles.members import FoldData
from whalebench.benchmarks.ensembles.step import Queries, Setting, Step, StepInputs
from whalebench.benchmarks.running.evaluation import EQUAL, Evaluation, choose_new_threshold, evaluate_scores
from whalebench.methods.method import MethodConfig
from whalebench.methods.parts.fusion import Scores

STEPS = {step.name: step for step in (*reranking.STEPS, *heuristics.STEPS)}
WITHOUT = "without"
"""The state before the first step."""


def check_steps(names: Sequence[str], *, duplicates: bool) -> None:
    """Raises WhalebenchError for an unknown step, one given twice, and duplicates without a file."""
    for name in names:
        if name not in STEPS:
            hint = did_you_mean(name, STEPS, f"choose from {', '.join(STEPS)}.")
            raise WhalebenchError(f"There is no step '{name}': {hint}")
        if names.count(name) > 1:
            raise WhalebenchError(f"The step {name} is given twice: name each once.")
    if duplicates != (heuristics.Duplicates.name in names):
        raise WhalebenchError(
            "--duplicates FILE is what --then duplicates reads: give both, or leave both out."
        )


@dataclass(frozen=True)
class State:
    """What the scores came to after a step, or before the first."""

    name: str
    evaluation: Evaluation
    transductive: bool = False
    chosen: Setting = field(default_factory=dict)
    unfit: str = ""
    """Why the step was not taken; then the evaluation is that of the state before."""

    def variant(self) -> dict[str, Any]:
        """What the record says of it."""
        metrics = {"metrics": self.evaluation.metrics, "valid_metrics": self.evaluation.valid_metrics}
        if self.unfit:
            metrics = {part: dict.fromkeys(values, nan) for part, values in metrics.items()}
        chosen = dict(self.chosen)
        return metrics | {"transductive": self.transductive, "chosen": chosen, "unfit": self.unfit}


@dataclass(frozen=True)
class StepResults:
    """The scores (photos, identities) after all steps, and the states on the way, the first without any."""

    scores: Mapping[str, Scores]
    states: tuple[State, ...]

    @property
    def evaluation(self) -> Evaluation:
        """The last state's."""
        return self.states[-1].evaluation

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The facts of a record with what steps add to them."""
        chosen = {f"{s.name}.{key}": value for s in self.states for key, value in s.chosen.items()}
        transductive = [state.name for state in self.states if state.transductive]
        warnings = [f"The step {s.name} does not fit: {s.unfit}." for s in self.states if s.unfit]
        if transductive:
            warnings.append(f"{', '.join(transductive)} used other test photos: transductive.")
        return {
            **facts,
            "transductive": facts["transductive"] or bool(transductive),
            "chosen": facts["chosen"] | chosen,
            "variants": {state.name: state.variant() for state in self.states},
            "warnings": [*facts["warnings"], *warnings],
        }

    def queries(self) -> pd.DataFrame:
        """One row a test photo and state whose step was taken, the state's name in `variant`."""
        taken = [state for state in self.states if not state.unfit]
        tables = [state.evaluation.queries.assign(variant=state.name) for state in taken]
        return pd.concat(tables, ignore_index=True)


def run_steps(
    names: Sequence[str],
    scores: Mapping[str, Scores],
    inputs: StepInputs,
    fold: FoldData,
    config: MethodConfig,
) -> StepResults:
    """What the steps make of the scores by `valid` and `test`; a step that does not fit is passed over.

    Steps see no answers. Settings are chosen by MAP@5 on valid with the best threshold of *new* there, then
    test is scored once; temperature and threshold are chosen after each step as for every run.
    """
    states = [State(WITHOUT, evaluate_scores(fold.identities, scores, fold.answers, config))]
    for name in names:
        before, now = states[-1].evaluation, scores["valid"]
        unit = max(float((now.max(axis=1) - now.mean(axis=1)).mean()), 1e-9)
        temperature = before.chosen["temperature"] or 1.0
        valid, test = (inputs.queries(part, scores[part], temperature, unit) for part in ("valid", "test"))
        step = STEPS[name](inputs.gallery)
        if reason := step.missing_requirement(valid, test):
            states.append(State(name, before, unfit=reason))
            continue
        chosen = choose_setting(step, valid, fold, config)
        scores = {"valid": step.scores(valid, chosen), "test": step.scores(test, chosen)}
        evaluation = evaluate_scores(fold.identities, scores, fold.answers, config)
        states.append(State(name, evaluation, step.transductive, chosen))
    return StepResults(scores, tuple(states))


def choose_setting(step: Step, valid: Queries, fold: FoldData, config: MethodConfig) -> Setting:
    """The setting of the step's grid with the best MAP@5 on valid; of equally good ones the first."""
    best, highest = step.settings[0], float("-inf")
    for setting in step.settings if len(step.settings) > 1 else ():
        scores = step.scores(valid, setting)
        map_at_5 = choose_new_threshold(scores, fold.valid, fold.identities, config)[1]
        if map_at_5 > highest + EQUAL:
            best, highest = setting, map_at_5
    return best
