"""Range tests: rates grow until the loss does, weights are as before, nothing is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from whalebench import WhalebenchError
from whalebench.benchmarks.core import ledger
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.tuning import finding
from whalebench.benchmarks.tuning.finding import (
    STEPS,
    RangeTest,
    RangeTests,
    find_rates,
    growing_rates,
    has_diverged,
    smoothed,
)
from whalebench.methods.softmax import Softmax
from whalebench.reports import many_runs

RATES = growing_rates()
FEW = 8
"""Steps of a range test that only has to come to its end."""


def tried(losses: list[float]) -> RangeTest:
    return RangeTest("network", "learning_rate", 0.004, RATES[: len(losses)], tuple(losses))


def valley(rate: float) -> float:
    """A loss that is flat up to 1e-4, falls round 1e-3, is least at about 1e-2, and then explodes."""
    power = np.log10(rate)
    return float(5 - 3 / (1 + np.exp(-4 * (power + 3))) + max(0.0, power + 2) ** 4)


def request(*settings: str, method: str = "softmax") -> runner.RunRequest:
    return runner.RunRequest(method, "tiny", settings=settings, device="cpu")


def test_the_mean_loss_has_no_bias_to_its_beginning() -> None:
    losses = [5.0, 4.0, 6.0, 1.0]
    for count in range(1, 5):
        weights = finding.SMOOTHING ** np.arange(count)[::-1]
        assert smoothed(losses)[count - 1] == pytest.approx(np.average(losses[:count], weights=weights))


def test_the_steepest_rate_lies_in_the_descent_and_before_the_least() -> None:
    found = tried([valley(rate) for rate in RATES])
    assert found.steepest is not None
    assert found.least is not None
    assert 3e-4 < found.steepest < 1.5e-3
    assert found.steepest < found.least < 0.05
    assert found.row()["tenth_of_least"] == float(f"{found.least / 10:.2g}")


@pytest.mark.parametrize("losses", [[], [3.0], [3.0 + step for step in range(STEPS)], [2.0] * STEPS])
def test_a_loss_that_does_not_fall_suggests_nothing(losses: list[float]) -> None:
    found = tried(losses)
    assert (found.steepest, found.least) == (None, None)
    made = finding.Finding(request(), (found,), Path("x.svg"))
    assert (made.suggested(), made.command()) == ((), "")
    assert "falls at no rate" in many_runs.rates_sentence(made.document())


def test_what_only_wavers_suggests_nothing_and_a_fall_is_found_behind_it() -> None:
    rng = np.random.default_rng(7)
    wavering = [4 + rng.normal(0, 0.3, STEPS) for _ in range(20)]
    assert [tried(list(losses)).steepest for losses in wavering] == [None] * 20
    fall = 0.6 * np.clip((np.log10(RATES) + 4) / 2, 0, 1)  # from a rate of 1e-4 to one of 1e-2
    found = [rate for losses in wavering if (rate := tried(list(losses - fall)).steepest)]
    assert len(found) > 15 and min(found) > 1e-5
    assert 1e-4 < float(np.median(found)) < 1e-2


def test_of_several_trainings_by_one_field_the_lowest_rate_is_taken() -> None:
    fast, slow = tried([valley(rate) for rate in RATES]), tried([valley(10 * rate) for rate in RATES])
    made = finding.Finding(request("size=32"), (fast, slow), Path("x.svg"))
    assert slow.steepest is not None
    assert made.suggested() == (f"learning_rate={float(f'{slow.steepest:.2g}'):g}",)
    assert made.command().startswith("whalebench run softmax --benchmark tiny --fold 0 --seed 0")
    assert made.command().endswith(f"--set=size=32 --set={made.suggested()[0]}")


def test_a_search_ends_where_the_mean_loss_is_four_times_its_least() -> None:
    assert not has_diverged((2.0, 1.0, 3.0))
    assert not has_diverged((1.0,) * 5 + (4.0,) * 5)
    assert has_diverged((1.0, 1.0, 100.0))


def test_a_search_ends_where_there_is_no_loss() -> None:
    class Harness:
        @staticmethod
        def part(artefact: str) -> str:
            return artefact

    config = Softmax.Config()
    tests = RangeTests(config, Harness(), runner.SILENT)  # type: ignore[arg-type]
    goes_on = tests.begin("network", config)
    assert goes_on is not None
    assert [goes_on(2.0), goes_on(1.9), goes_on(nan)] == [True, True, False]
    assert tests.tests["network"].losses == (2.0, 1.9)
    assert len(tests.tests["network"].rates) == 2
    assert tests.begin("network", config) is None  # of a further cycle
    assert tests.begin("arcface.bag_1.network", config) is not None
    tests.tests["arcface.network"] = tests.tests["network"]
    assert tests.begin("arcface.bag_2.network", config) is None


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> tuple[float, ...]:
    monkeypatch.setattr(finding, "STEPS", FEW)
    return growing_rates()


def test_each_training_is_tried_and_the_weights_are_as_before(
    tiny: Workspace,
    tiny_settings: tuple[str, ...],
    few_steps: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A finder and the network behind it, at rates that grow; what learned them starts the method again."""
    before, after, rates = [], [], []
    step, learn = torch.optim.AdamW.step, Softmax.learn

    def watched(self: Any, *given: Any) -> None:
        learn(self, *given)
        after.append({name: value.clone() for name, value in self.network.state_dict().items()})

    def stepped(self: Any, *given: Any) -> Any:
        rates.append(max(group["lr"] for group in self.param_groups))
        return step(self, *given)

    build = Softmax._build

    def built(self: Any, *given: Any) -> Any:
        both = build(self, *given)
        before.append({name: value.clone() for name, value in both[0].state_dict().items()})
        return both

    monkeypatch.setattr(Softmax, "learn", watched)
    monkeypatch.setattr(Softmax, "_build", built)
    monkeypatch.setattr(torch.optim.AdamW, "step", stepped)
    finder = tuple(f"localizer.{setting}" for setting in tiny_settings)
    settings = (*tiny_settings, "head_rate=2", "crop=box", "bags=2", "schedule.cycles=2", *finder)
    made = find_rates(request(*settings), tiny)
    localizer, network = made.tests
    assert [(test.part, test.setting) for test in made.tests] == [
        ("localizer", "localizer.learning_rate"), ("network", "learning_rate"),
    ]  # fmt: skip
    assert network.configured == 0.004
    assert all(test.rates == few_steps[: len(test.losses)] and len(test.losses) > 5 for test in made.tests)
    assert rates[: len(localizer.rates)] == pytest.approx(localizer.rates)
    of_network = rates[len(localizer.rates) :][: len(network.rates)]
    assert of_network == pytest.approx([2 * rate for rate in network.rates])  # groups keep their factors
    for was, now in zip(before, after, strict=True):
        assert all(torch.equal(was[name], now[name]) for name in was)


def test_nothing_is_recorded_and_no_photo_of_test_is_there(
    tiny: Workspace,
    tiny_settings: tuple[str, ...],
    few_steps: tuple[float, ...],
    cli: Callable[..., Any],
    tmp_path: Path,
) -> None:
    command = ("lr-find", "softmax", "--benchmark", "tiny", "--workspace", tiny.root)
    command += tuple(f"--set={setting}" for setting in tiny_settings)
    told = cli(*command, "--json")
    document = json.loads(told.out)
    (training,) = document["trainings"]
    assert training["part"] == "network"
    assert training["rates"] == list(few_steps[: len(training["rates"])])
    assert len(training["rates"]) == len(training["losses"]) == len(training["mean_losses"])
    assert document["picture"] == str(tiny.reports / "lr-find-softmax-tiny-fold0-seed0.svg")
    assert json.loads(cli(*command, "--json").out) == document
    drawn = ET.fromstring(Path(document["picture"]).read_text())
    assert "loss by learning rate" in "".join(drawn.itertext())
    assert not list(tiny.runs.glob("*"))
    assert not list(tiny.cache.glob("unfinished/*"))
    assert not ledger.read_ledger(tiny.runs).entries
    shown = cli(*command, "--svg", tmp_path / "rates.svg")
    assert shown.code == 0
    assert "falls fastest at" in shown.out
    assert (tmp_path / "rates.svg").exists()


def test_a_method_that_trains_nothing_is_told_so(tiny: Workspace) -> None:
    with pytest.raises(WhalebenchError, match="frozen trains no network as it is set, so it has no"):
        find_rates(request("size=32", "backbone=test_resnet", "pretrained=none", method="frozen"), tiny)
    with pytest.raises(WhalebenchError, match="softmax trains no network"):
        find_rates(request("epochs=0", "size=32", "backbone=test_resnet"), tiny)


def test_test_is_empty_for_the_method(
    tiny: Workspace, tiny_settings: tuple[str, ...], few_steps: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    del few_steps
    seen = []
    learn = Softmax.learn

    def watched(self: Any, train: Any, valid: Any, harness: Any) -> None:
        seen.append((len(harness._views.test), len(train)))
        learn(self, train, valid, harness)

    monkeypatch.setattr(Softmax, "learn", watched)
    find_rates(request(*tiny_settings), tiny)
    assert seen[0][0] == 0 < seen[0][1]
