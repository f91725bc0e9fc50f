"""Recipes: published systems at two scales, which are methods like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from whalebench import WhalebenchError
from whalebench.benchmarks.runner import RunRequest, run
from whalebench.benchmarks.workspace import Workspace
from whalebench.methods.registry import configure, find_method
from whalebench.reports import metrics

SETTINGS = ("scale=small", "backbone=test_resnet+narrow_resnet10", "size=32", "epochs=1", "batch_size=8")


def test_a_scale_sets_what_is_not_set_beside_it() -> None:
    recipe = find_method("right-whale-2nd")
    full, small = (configure(recipe, [f"scale={scale}"]) for scale in ("full", "small"))
    assert (full.size, small.size) == ((256, 256), (64, 64))  # type: ignore[attr-defined]
    mixed = configure(recipe, ["epochs=7", "aligner.turns=2"])
    assert mixed.epochs == 7  # type: ignore[attr-defined]
    assert (mixed.aligner.turns, mixed.aligner.zooms) == (2, 3)  # type: ignore[attr-defined]
    assert configure(recipe, []) == full
    assert recipe.Config.model_validate(mixed.model_dump(mode="json")) == mixed


def test_a_scale_there_is_not_is_refused() -> None:
    with pytest.raises(WhalebenchError, match="cannot take scale='huge': input should be 'full' or 'small'"):
        configure(find_method("right-whale-2nd"), ["scale=huge"])


def test_the_defaults_shown_are_those_of_the_recipe(cli: Callable[..., Any]) -> None:
    import json

    rows = {row["field"]: row for row in json.loads(cli("methods", "right-whale-2nd", "--json").out)}
    assert rows["size"]["default"] == [256, 256]
    assert rows["aligner.shifts"]["default"] == 3
    assert "lau_resnet67" in rows["backbone"]["default"]
    listed = {row["name"]: row for row in json.loads(cli("methods", "--json").out)}
    assert "0.976" in listed["right-whale-2nd"]["published"]


def test_members_are_trained_and_averaged(tiny: Workspace) -> None:
    """The score of the recipe is the mean of the probabilities of networks trained on the same crops."""
    from whalebench.benchmarks.registry import load_benchmark
    from whalebench.benchmarks.views import fold_views

    settings = (*SETTINGS, "crop=box", "localizer.epochs=1", "localizer.size=32")
    record = run(RunRequest("right-whale-2nd", "tiny", settings=settings, device="cpu"), tiny, metrics)
    assert record.track.startswith("test_resnet+narrow_resnet10 from scratch, 1 epochs, 32 x 32 px")
    assert set(record.lineage) == {"localizer", "network"}
    kept = load_file(tiny.runs / record.run / "weights.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"localizer", "0", "1"}
    scores = load_file(tiny.runs / record.run / "scores.safetensors")["test_scores"]
    assert np.allclose(np.exp(scores).sum(axis=1), 1, atol=1e-4)
    assert len(fold_views(load_benchmark("tiny", tiny), 0).test) == len(scores)


def test_one_landmark_is_not_enough_to_align(tiny: Workspace) -> None:
    settings = (*SETTINGS, "aligner.epochs=1", "aligner.size=32")
    record = run(RunRequest("right-whale-2nd", "tiny", settings=settings, device="cpu"), tiny, metrics)
    assert record.unfit == "tiny has no second landmark"
    assert set(record.metrics.values()) == {None}
    assert record.lineage == {}
