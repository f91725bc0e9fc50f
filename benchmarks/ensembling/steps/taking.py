"""Steps taken one after the other: settings chosen on valid, and every state in between judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import pandas as pd

from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.mixing import Scores
from whalebench.benchmarks.ensembling.steps.registry import STEPS
from whalebench.benchmarks.ensembling.steps.sight import Sight
from whalebench.benchmarks.ensembling.steps.step import Queries, Setting, Step
from whalebench.benchmarks.judging.judgement import Judgement, judge_scores
from whalebench.benchmarks.judging.selection import EQUAL, Judge, choose_threshold
from whalebench.methods.method import MethodConfig

WITHOUT = "without"
"""The state before the first step."""
Parts = dict[str, Scores]
"""Scores (photos, identities) by `valid` and `test`."""


@dataclass(frozen=True)
class State:
    """What the scores came to after a step, or before the first."""

    name: str
    judged: Judgement
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
    def judged(self) -> Judgement:
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
    judge: Judge,
    config: MethodConfig,
) -> Taken:
    """What the steps make of the scores; a step that does not fit is passed over and says why.

    Steps see no answers. Settings are chosen by MAP@5 on valid with the best threshold of *new* there, then
    test is scored once; temperature and threshold are chosen after each step as for every run.
    """
    answers = {"valid": ground.valid, "test": ground.test}
    states = [State(WITHOUT, judge_scores(judge, ground.identities, scores, answers, config))]
    for name in names:
        assert sight is not None
        before, unit = states[-1].judged, _unit(scores["valid"])
        temperature = before.chosen["temperature"] or 1.0
        valid, test = (sight.queries(part, scores[part], temperature, unit) for part in answers)
        step = STEPS[name](sight.gallery)
        if reason := step.unfit(valid, test):
            states.append(State(name, before, unfit=reason))
            continue
        chosen = choose_setting(step, valid, ground, judge, config)
        scores = {"valid": step.scores(valid, chosen), "test": step.scores(test, chosen)}
        judged = judge_scores(judge, ground.identities, scores, answers, config)
        states.append(State(name, judged, step.transductive, chosen))
    return Taken(scores, tuple(states))


def choose_setting(step: Step, valid: Queries, ground: Ground, judge: Judge, config: MethodConfig) -> Setting:
    """The setting of the step's grid with the best MAP@5 on valid; of equally good ones the first."""
    best, highest = step.settings[0], float("-inf")
    for setting in step.settings if len(step.settings) > 1 else ():
        scores = step.scores(valid, setting)
        worth = choose_threshold(judge, scores, ground.valid, ground.identities, config)[1]
        if worth > highest + EQUAL:
            best, highest = setting, worth
    return best


def _unit(scores: Scores) -> float:
    """By how much the best score stands above the mean one, on average; above 0."""
    return max(float((scores.max(axis=1) - scores.mean(axis=1)).mean()), 1e-9)
