"""`whalebench lr-find`: which learning rate a method's trainings bear, by a range test on train alone.

Smith 2017, as fastai has it: the learning rate grows from step to step, from far too small to far too large,
and the loss says where learning begins, where it is fastest and where it ends. Nothing is kept of what was
learned, no run is recorded, and no photo of test is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.machine import choose_device, cores
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.runner import RunRequest, command_of, resolved
from whalebench.benchmarks.tuning.space import refuse_test_photos
from whalebench.methods.guests import blamed
from whalebench.methods.method import MethodConfig, PartConfig
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.registry import configure, find_method

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 100
"""The first and the last learning rate, and the steps from the one to the other."""
DIVERGED = 4.0
"""A range test ends where the smoothed loss is so many times its least."""
SMOOTHING = 0.9
"""Weight of the steps before in the mean loss; with fastai's 0.98 it would be of half of all steps."""
OF_A_BAG = re.compile(r"\bbag_\d+\.")
"""What the bag of a training adds to its name."""
PLATEAU = 33
"""Steps whose rates are too small to learn by: they say what the loss is, and by how much it wavers."""
NOISE, BEGUN, ROUNDING = 4.0, 0.25, 1e-6
"""A loss falls where it does by so many times what its mean wavers; this share of it is its beginning."""


@dataclass(frozen=True)
class RangeTest:
    """What a training made of growing learning rates."""

    part: str
    """What is trained, as "network" or "localizer"; in parts of a recipe after their names."""
    setting: str
    """The field of the method with its learning rate; empty where that is no field of its own."""
    configured: float
    rates: tuple[float, ...]
    """Of each step that has a loss."""
    losses: tuple[float, ...]
    """Of each step, before it."""

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """The mean loss (steps,) up to each step, in which older steps count less."""
        return smoothed(self.losses)

    @property
    def mean_rates(self) -> NDArray[np.float64]:
        """The geometric mean (steps,) of the rates that each mean loss is of: it lags by as much."""
        return np.exp(smoothed(np.log(self.rates)))

    @property
    def _descent(self) -> slice | None:
        """The steps in which the mean loss falls to its least; None where it only wavers."""
        means, before = self.smoothed, np.array(self.losses[:PLATEAU])
        if len(means) <= PLATEAU:
            return None
        level, least = float(before.mean()), int(means.argmin())
        wavers = before.std() * np.sqrt((1 - SMOOTHING) / (1 + SMOOTHING))  # of a mean so smoothed
        fallen = level - means[least]
        if least < PLATEAU or fallen <= NOISE * wavers + ROUNDING * abs(level):
            return None
        begin = int(np.flatnonzero(means[:least] >= level - BEGUN * fallen).max())
        return slice(min(begin, least - 1), least + 1)

    @property
    def least(self) -> float | None:
        """The rate at which the mean loss is least, or None where it does not fall by more than it wavers."""
        return None if self._descent is None else float(self.mean_rates[self._descent][-1])

    @property
    def steepest(self) -> float | None:
        """The rate at which the mean loss falls fastest over the logarithm of the rate, or None likewise."""
        if self._descent is None:
            return None
        rates, means = self.mean_rates[self._descent], self.smoothed[self._descent]
        return float(rates[int(np.argmin(np.gradient(means, np.log(rates))))])

    def row(self) -> dict[str, Any]:
        """Everything, as JSON says it."""
        return {
            "part": self.part,
            "setting": self.setting,
            "configured": self.configured,
            "steepest": rounded(self.steepest),
            "least": rounded(self.least),
            "tenth_of_least": rounded(None if self.least is None else self.least / 10),
            "rates": list(self.rates),
            "losses": list(self.losses),
            "mean_rates": self.mean_rates.tolist(),
            "mean_losses": self.smoothed.tolist(),
        }


def smoothed(losses: Iterable[float]) -> NDArray[np.float64]:
    """The running mean (steps,) of losses, without a bias to its beginning.

    >>> smoothed([2.0, 2.0]).round(6).tolist(), smoothed([1.0, 3.0]).round(3).tolist()
    ([2.0, 2.0], [1.0, 2.053])
    """
    total, weight, means = 0.0, 0.0, []
    for loss in losses:
        total, weight = SMOOTHING * total + loss, SMOOTHING * weight + 1
        means.append(total / weight)
    return np.array(means, np.float64)


def rounded(rate: float | None) -> float | None:
    """The rate as it is typed: two significant digits are more than the test can tell."""
    return None if rate is None else float(f"{rate:.2g}")


def growing_rates() -> tuple[float, ...]:
    """The learning rate of each step."""
    return tuple(np.geomspace(LOWEST, HIGHEST, STEPS).tolist())


@dataclass
class RangeTests:
    """The range tests of a method's trainings, each of which is tried once: a `RateSearch` of the trainer."""

    config: MethodConfig
    harness: RunHarness
    progress: Progress
    rates: tuple[float, ...] = field(default_factory=growing_rates)
    tests: dict[str, RangeTest] = field(default_factory=dict)

    def begin(self, artefact: str, config: PartConfig) -> Callable[[float], bool] | None:
        """Takes the losses of a training; None for one of a further cycle or bag: the first was tried."""
        part = OF_A_BAG.sub("", self.harness.part(artefact))
        if part in self.tests:
            return None
        configured = float(getattr(config, "learning_rate"))  # noqa: B009  # every training has one
        losses: list[float] = []

        def goes_on(loss: float) -> bool:
            if isfinite(loss):
                losses.append(loss)
            tried = tuple(losses)
            self.tests[part] = RangeTest(
                part, self._setting(artefact), configured, self.rates[: len(tried)], tried
            )
            self.progress.advance(len(tried), len(self.rates))
            return isfinite(loss) and not has_diverged(tried)

        return goes_on

    def _setting(self, artefact: str) -> str:
        """The field of the method, or of its part of that name, that holds a training's learning rate."""
        part = getattr(self.config, artefact, None)
        if isinstance(part, PartConfig) and "learning_rate" in type(part).model_fields:
            return f"{artefact}.learning_rate"
        return "learning_rate" if "learning_rate" in type(self.config).model_fields else ""


def has_diverged(losses: tuple[float, ...]) -> bool:
    """Whether the mean loss has grown to a multiple of its least."""
    means = smoothed(losses)
    return bool(means[-1] > DIVERGED * means.min())


@dataclass(frozen=True)
class Finding:
    """The range tests of a method, and what they suggest."""

    request: RunRequest
    tests: tuple[RangeTest, ...]
    picture: Path
    """Where they are to be drawn."""

    def suggested(self) -> tuple[str, ...]:
        """By which settings each training learns fastest; of several by one field the lowest rate."""
        rates: dict[str, float] = {}
        for test in self.tests:
            rate = rounded(test.steepest)
            if test.setting and rate is not None:
                rates[test.setting] = min(rate, rates.get(test.setting, rate))
        return tuple(f"{setting}={rate:g}" for setting, rate in rates.items())

    def command(self) -> str:
        """The run with what is suggested; empty where nothing is."""
        suggested = self.suggested()
        settings = (*self.request.settings, *suggested)
        return command_of(replace(self.request, settings=settings)) if suggested else ""

    def document(self) -> dict[str, Any]:
        """Everything, as JSON says it."""
        asked = {name: getattr(self.request, name) for name in ("method", "benchmark", "fold", "seed")}
        found = {"suggested": list(self.suggested()), "command": self.command(), "picture": str(self.picture)}
        return asked | found | {"trainings": [test.row() for test in self.tests]}


def _in_one_bag(config: MethodConfig) -> MethodConfig:
    """The configuration and its parts in one bag: bags are trainings of one kind, of which one is enough."""
    fields = ((name, getattr(config, name)) for name in type(config).model_fields)
    parts = {
        name: part.model_copy(update={"bags": 1})
        for name, part in fields
        if isinstance(part, PartConfig) and "bags" in type(part).model_fields
    }
    return config.model_copy(update={"bags": 1, **parts})


def find_rates(
    request: RunRequest, workspace: Workspace, progress: Progress = SILENT, picture: Path | None = None
) -> Finding:
    """Tries growing learning rates in each training of the method; drawn in `reports` unless said where.

    Raises WhalebenchError for a request that cannot be met, and for a method that trains no network.
    """
    request = resolved(request, workspace, progress)
    kind = find_method(request.method)
    config = _in_one_bag(configure(kind, request.settings))
    refuse_test_photos(config)
    benchmark = load_benchmark(request.benchmark, workspace, progress, propose=True)
    benchmark.split.parts(request.fold)
    oracle, viewpoints = config.sees_annotations(), config.sees_viewpoints()
    views = fold_views(benchmark, request.fold, oracle=oracle, viewpoints=viewpoints)
    views = replace(views, test=views.test.select([]))  # no photo of test is in them
    harness = RunHarness(request.seed, choose_device(request.device), views, progress, config)
    with blamed(request.method):
        method = build_method(kind, config)
        missing = method.missing_requirement(views.train, views.valid)
    if missing:
        raise WhalebenchError(f"{request.method} does not fit: {request.benchmark} has no {missing}.")
    harness.stage("decode")
    for size in method.sizes():
        benchmark.store.pixels(size, progress.advance, cores())
    tests = RangeTests(config, harness, progress)
    harness.rate_search = tests
    harness.seed_everything()
    with blamed(request.method):
        method.learn(views.train, views.valid, harness)
    if not tests.tests:
        raise WhalebenchError(
            f"{request.method} trains no network as it is set, so it has no learning rate to find: "
            f"`whalebench methods {request.method}` shows what can be set instead."
        )
    name = f"lr-find-{request.method}-{request.benchmark}-fold{request.fold}-seed{request.seed}.svg"
    return Finding(request, tuple(tests.tests.values()), picture or workspace.reports / name)
