"""`salt-4th`: the animal cut out by its mask, in cycles that vote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import Learned, Trial, draw_ground
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.methods.parts.crops.finder import Crop
from whalebench.methods.parts.ensemble import voted
from whalebench.methods.registry import configure, find_method
from whalebench.methods.salt_4th import Salt4th


def configured(*settings: str) -> Any:
    return configure(find_method("salt-4th"), settings)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    kind = find_method("salt-4th")
    ground = draw_ground(Workspace.open(tmp_path_factory.mktemp("salt") / "workspace"))
    return Trial(kind.name, kind, configure(kind, smallest_settings(kind)), ground)


@pytest.fixture(scope="module")
def learned(trial: Trial) -> Learned:
    return trial.learn(trial.views)


def test_the_scales() -> None:
    full, small = configured(), configured("scale=small")
    for config, cycles in ((full, 7), (small, 3)):
        within: Any = config.inner()
        assert (config.of, within.crop, within.segmenter.background) == ("mask", "mask", "removed")
        assert (within.schedule.cycles, within.schedule.joined) == (cycles, "votes")
        assert type(config).model_validate_json(config.model_dump_json()) == config
    assert full.inner().schedule.shares(full.inner().epochs) == [52, 52, 52, 51, 51, 51, 51]
    assert (full.inner().backbone, full.inner().pretrained) == ("resnet34", "timm")
    assert small.inner().pretrained == small.inner().segmenter.pretrained == "none"
    assert configured("scale=small", "confidence=0.9").inner() == small.inner()


def test_what_the_suite_tries_has_all_its_cycles(trial: Trial) -> None:
    within: Any = trial.config.inner()  # type: ignore[union-attr]
    assert (within.schedule.cycles, within.schedule.joined) == (3, "votes")
    assert (within.epochs, within.segmenter.epochs, within.backbone) == (3, 1, "test_resnet")


def test_the_animal_alone_is_seen_in_cycles_that_vote_in_every_training(learned: Learned) -> None:
    (method,), test = learned.method.cycles, learned.views.queries()["test"]
    assert isinstance(method, Salt4th)
    assert set(method.models) == {"half_a", "half_b"}
    for each in (method.first, *method.models.values()):
        assert each.crop is not None
        seen = each.crop.see(test)
        assert isinstance(seen.lens, Crop)
        assert seen.lens.background == "removed"
        assert np.array_equal(each.score(test), voted([member.score(seen) for member in each.cycles]))
    assert {"segmenter", "network", "half_a.network", "half_b.segmenter"} <= set(learned.harness.lineage)
