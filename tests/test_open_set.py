"""New individuals: the metrics by hand, what is chosen for them on valid, and what the record says of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from whalebench.benchmarks.core.record import RunRecord, read_predictions
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.explaining.explain import diagnose
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.restored import restore_run
from whalebench.methods.method import MethodConfig
from whalebench.methods.registry import fields_of, find_method
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import NEW, balanced_mean
from whalebench.reports.metrics.summary import (
    alarms_allowed,
    detection_rate,
    normalised_accuracy,
    open_set_metrics,
)


def run(workspace: Workspace, *settings: str) -> RunRecord:
    chosen = ("backbone=test_resnet", "size=32", "epochs=0", *settings)
    return runner.run(runner.RunRequest("softmax", "tiny", settings=chosen, device="cpu"), workspace)


def test_an_individual_with_many_photos_weighs_no_more_than_one_with_few() -> None:
    correct, whales = [1.0] * 9 + [0.0], ["ann"] * 9 + ["bob"]
    assert np.mean(correct) == 0.9
    assert balanced_mean(correct, whales) == 0.5
    assert math.isnan(balanced_mean([], []))
    assert balanced_mean([math.nan, 1.0], ["ann", "bob"]) == 1.0  # nothing is known of ann


def test_all_called_new_is_worth_nothing_to_the_geometric_mean() -> None:
    table = evaluate_queries(
        images=["a", "b", "c"],
        truth=["ann", NEW, NEW],
        clusters=["ann", "encounter 1", "encounter 1"],
        identities=["ann", "bob"],
        scores=np.array([[0.9, 0.1], [0.2, 0.4], [0.8, 0.1]]),
        probabilities=np.ones((3, 2)),
        new_scores=np.zeros(3),
        new_threshold=2.0,
    )
    found = open_set_metrics(table)
    assert (found["baks"], found["baus"], found["baks_baus"]) == (0.0, 1.0, 0.0)
    assert found["normalised_accuracy"] == 0.5
    assert math.isnan(normalised_accuracy(math.nan, 1.0))


def test_detection_rate_at_its_ends() -> None:
    known, right = np.array([0.9, 0.5, 0.1]), np.array([True, False, True])
    assert detection_rate(known, right, np.array([0.0]), 0.01) == pytest.approx(2 / 3)  # all above any alarm
    assert detection_rate(known, right, np.array([0.9]), 0.01) == 0.0  # an equal score is an alarm, too
    assert math.isnan(detection_rate(known, right, np.array([]), 0.1))
    assert math.isnan(detection_rate(np.array([]), np.array([], bool), known, 0.1))


@pytest.mark.parametrize(("share", "photos", "allowed"), [(0.29, 100, 29), (0.58, 50, 29), (0.01, 99, 0)])
def test_alarms_that_are_allowed_but_for_rounding_are_allowed(
    share: float, photos: int, allowed: int
) -> None:
    assert alarms_allowed(share, photos) == allowed


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan"])
def test_a_share_of_new_photos_is_between_none_and_all(share: str) -> None:
    with pytest.raises(ValidationError, match="new_share"):
        MethodConfig.model_validate_strings({"new_share": share})


def test_every_method_has_the_fields_and_no_part_of_one() -> None:
    fields = [name for name, _ in fields_of(find_method("arcface").Config)]
    assert [name for name in fields if name.endswith(("new_rule", "new_share"))] == ["new_rule", "new_share"]
    assert MethodConfig().new_rule == "column" and MethodConfig().new_share is None


def test_the_record_has_the_curve_that_the_threshold_was_chosen_from(shared_tiny: Workspace) -> None:
    record = run(shared_tiny)
    curve: dict[str, Any] = record.new_curve
    keys = ("threshold", "map_at_5", "map_at_5_known", "map_at_5_new", "called_new", "map_at_5_adjusted")
    assert set(curve) == set(keys)
    assert len({len(curve[key]) for key in keys}) == 1 and len(curve["threshold"]) <= 52
    assert curve["threshold"] == sorted(curve["threshold"])
    assert curve["called_new"] == sorted(curve["called_new"]) and curve["called_new"][-1] == 1.0
    chosen = curve["threshold"].index(record.chosen["new_threshold"])
    assert curve["map_at_5"][chosen] == pytest.approx(record.valid_metrics["map_at_5"])
    assert curve["map_at_5"][chosen] == pytest.approx(max(curve["map_at_5"]))
    assert curve["map_at_5_new"][chosen] == pytest.approx(record.valid_metrics["map_at_5_new"])
    assert curve["map_at_5_adjusted"] == curve["map_at_5"]


def test_rule_second_holds_from_valid_to_the_predictions(shared_tiny: Workspace) -> None:
    record = run(shared_tiny, "new_rule=second", "new_share=0.3")
    table = read_predictions(shared_tiny.runs / record.run)
    first, second = (table[f"candidate_{place}"] == NEW for place in (1, 2))
    assert (first | second).all()
    threshold = record.chosen["new_threshold"]
    assert isinstance(threshold, float)
    assert (first == (-table["new_score"] < threshold)).all()
    curve: dict[str, Any] = record.new_curve
    columns = (curve[f"map_at_5_{key}"] for key in ("known", "new", "adjusted"))
    for known, new, adjusted in zip(*columns, strict=True):
        assert adjusted == pytest.approx(0.3 * new + 0.7 * known)
        assert new >= 0.5  # *new* is never third
    chosen = curve["threshold"].index(threshold)
    assert curve["map_at_5_adjusted"][chosen] == pytest.approx(max(curve["map_at_5_adjusted"]))
    assert record.config["new_rule"] == "second" and not any("new_share" in text for text in record.warnings)


def test_what_a_score_rests_on_is_judged_by_the_rule_of_the_run(shared_tiny: Workspace) -> None:
    restored = restore_run(run(shared_tiny, "new_rule=second").run, shared_tiny)
    below_all = restored.record.model_copy(update={"chosen": {"new_threshold": -1e9}})
    found = diagnose(replace(restored, record=below_all)).map_at_5["test"]
    expected = []
    for row, truth in zip(restored.scores, restored.opened.answers["test"].truth, strict=True):
        ranked = [restored.views.train.identities[column] for column in np.argsort(-row, kind="stable")]
        place = [ranked[0], NEW, *ranked[1:]].index(truth) + 1
        expected.append(1 / place if place <= 5 else 0.0)
    assert found == pytest.approx(np.mean(expected))


def test_the_metrics_of_the_record_are_those_of_its_predictions(shared_tiny: Workspace) -> None:
    record = run(shared_tiny)
    table = read_predictions(shared_tiny.runs / record.run)
    new = table[table["truth"] == NEW]
    hits = (new["candidate_1"] == NEW).groupby(new["cluster"]).mean()
    assert record.metrics["baus"] == pytest.approx(hits.mean())
    known = table[table["truth"] != NEW]
    hits = (known["candidate_1"] == known["truth"]).groupby(known["identity"]).mean()
    assert record.metrics["baks"] == pytest.approx(hits.mean())
    assert {"baks_baus", "normalised_accuracy", "dir_at_far_1", "dir_at_far_10"} <= set(record.metrics)
