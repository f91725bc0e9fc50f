"""`salt-4th`: the animal cut out by its mask, in cycles that vote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whalebench.benchmarks.conformance.ground import draw_ground
from whalebench.benchmarks.conformance.on_trial import Learned, OnTrial
from whalebench.benchmarks.conformance.smallest import smallest_settings
from whalebench.benchmarks.photos import CPU
from whalebench.benchmarks.workspace import Workspace
from whalebench.methods.parts.cropping import Cropping
from whalebench.methods.parts.crops import Crop
from whalebench.methods.parts.cycles import InCycles, voted
from whalebench.methods.registry import configure, find_method
from whalebench.reports import metrics


def configured(*settings: str) -> Any:
    return configure(find_method("salt-4th"), settings)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> OnTrial:
    kind = find_method("salt-4th")
    ground = draw_ground(Workspace.open(tmp_path_factory.mktemp("salt") / "workspace"))
    return OnTrial(kind.name, kind, configure(kind, smallest_settings(kind)), ground, metrics)


@pytest.fixture(scope="module")
def learned(trial: OnTrial) -> Learned:
    return trial.learn(trial.views)


def test_the_scales() -> None:
    full, small = configured(), configured("scale=small")
    assert (full.crop, full.segmenter.background, full.backbone) == ("mask", "removed", "resnet34")
    assert (full.schedule.cycles, full.schedule.joined) == (7, "votes")
    assert full.schedule.shares(full.epochs) == [52, 52, 52, 51, 51, 51, 51]
    assert (small.schedule.cycles, small.schedule.joined, small.epochs) == (3, "votes", 30)
    assert small.pretrained == small.segmenter.pretrained == "none"
    assert configured("schedule.cycles=5").schedule.joined == "votes"
    for config in (full, small):
        assert type(config).model_validate_json(config.model_dump_json()) == config


def test_what_the_suite_tries_has_all_its_cycles(trial: OnTrial) -> None:
    config: Any = trial.config
    assert (config.schedule.cycles, config.epochs, config.segmenter.epochs) == (3, 3, 1)


def test_cycles_see_the_animal_alone_and_vote(learned: Learned) -> None:
    method, test = learned.method, learned.views.queries()["test"]
    assert isinstance(method, Cropping)
    seen = method._cropped(test)[0]
    assert isinstance(seen.lens, Crop)
    assert seen.lens.background == "removed"
    assert isinstance(method.inner, InCycles)
    each = [member.score(seen) for member in method.inner.members]
    assert np.array_equal(method.score(test), voted(each))
    assert list(learned.harness.lineage) == ["segmenter", "network"]


def test_it_comes_back_whole(trial: OnTrial, learned: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    again, test = trial.build(), learned.views.queries()["test"]
    monkeypatch.setattr(learned.method.inner, "best", 1)  # type: ignore[attr-defined]
    again.restore(learned.method.weights(), learned.views.train.identities, CPU)
    assert np.array_equal(again.score(test), learned.scores("test"))
    for name, scores in learned.method.variants(test).items():
        assert np.array_equal(again.variants(test)[name], scores)
