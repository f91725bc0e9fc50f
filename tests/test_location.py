"""How well animals were found: by hand, and where nothing was found or annotated."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whalebench.benchmarks.core.photos import Annotations, Photos
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.running.location import (
    box_iou,
    evaluate_location,
    location_summary,
    location_warnings,
)
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.methods.method import Located
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.writers import to_markdown
from whalebench.tests.conftest import draw_source
from whalebench.tests.pages import page_of

NAN = np.nan


def photos(boxes: list[list[float]], landmarks: list[list[list[float]]]) -> Photos:
    count = len(boxes)
    names = tuple("abc"[: len(landmarks[0])])
    return Photos(
        images=tuple(f"p{row}" for row in range(count)),
        digests=("",) * count,
        identities=("ann", "bob"),
        store=PhotoStore(None, (), (), ()),  # type: ignore[arg-type]
        rows=np.arange(count),
        shapes=np.tile(np.array([100, 200]), (count, 1)),
        annotations=Annotations(
            np.array(boxes, np.float32), np.array(landmarks, np.float32), names, np.zeros(count, np.bool_)
        ),
    )


def test_a_missed_box_counts_as_nothing_and_a_photo_without_one_not_at_all() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0.5, 0.5, 1, 1], [NAN] * 4])
    found = np.array([[0, 0, 1, 1], [NAN] * 4, [0, 0, 0.5, 0.5], [0, 0, 1, 1]])
    assert box_iou(found, truth).tolist()[:3] == [1.0, 0.0, 0.0]
    assert np.isnan(box_iou(found, truth)[3])


def test_landmark_errors_are_in_pixels_and_in_shares_of_the_largest_distance() -> None:
    """3-4-5: 6 pixels across and 8 down is 10; the landmarks are 100 pixels apart."""
    truth = [[[0.2, 0.5], [0.7, 0.5]], [[NAN, NAN], [0.7, 0.5]]]
    found = np.array([[[0.23, 0.58], [0.7, 0.5]], [[0.2, 0.5], [0.7, 0.5]]], np.float32)
    judged = evaluate_location(Located(landmarks=found), photos([[NAN] * 4] * 2, truth))
    assert judged["landmark_pixels"].tolist()[0] == pytest.approx(5.0, abs=1e-4)
    assert judged["landmark_error"].tolist()[0] == pytest.approx(0.05, abs=1e-5)
    assert judged.loc[1].isna().all()


def test_a_summary_counts_photos_and_fallbacks() -> None:
    located = Located(
        boxes=np.array([[0, 0, 1, 1], [0, 0, 0.5, 1]], np.float32), fallback=np.array([True, False])
    )
    judged = evaluate_location(located, photos([[0, 0, 1, 1]] * 2, [[[NAN, NAN]]] * 2))
    assert location_summary(judged) == {"photos": 2, "box_iou_mean": 0.75, "fallback": 1}
    assert list(judged) == ["box_iou", "fallback"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"test": {"photos": 8, "box_iou_mean": 0.0, "fallback": 8}},
            ["Boxes found on test", "Most test photos"],
        ),
        ({"test": {"photos": 8, "box_iou_mean": 0.1, "fallback": 4}}, []),
        (
            {"test": {"photos": 8, "box_iou_mean": 0.09, "fallback": 5}},
            ["Boxes found on test", "Most test photos"],
        ),
        ({"test": {"photos": 8, "mask_iou_mean": 0.02}}, ["Masks found on test"]),
        ({"test": {"photos": 8, "landmark_error_median": 0.51}}, ["Landmarks found on test"]),
        ({"test": {"photos": 8, "landmark_error_median": 0.5}}, []),
        ({"test": {"photos": 8, "box_iou_mean": NAN}}, []),
        (
            {"test": {"photos": 8, "box_iou_mean": NAN}, "valid": {"photos": 3, "box_iou_mean": 0.01}},
            ["Boxes found on valid"],
        ),
        (
            {"test": {"photos": 8, "box_iou_mean": 0.8}, "valid": {"photos": 3, "box_iou_mean": 0.01}},
            [],
        ),
        ({"test": {"photos": 8, "box_iou_mean": NAN, "fallback": 7}}, ["Most test photos were seen whole"]),
        ({}, []),
    ],
)
def test_what_was_not_found_is_a_warning(found: Any, said: list[str]) -> None:
    warnings = location_warnings(found)
    assert len(warnings) == len(said)
    assert all(warning.startswith(start) for warning, start in zip(warnings, said, strict=True))
    assert all(len(warning) <= 300 and "annotations may be wrong" in warning for warning in warnings)


def test_boxes_that_are_nowhere_near_are_said_wherever_the_run_is_shown(tmp_path: Any, cli: Any) -> None:
    """Annotated are two pixels, each time somewhere else: nothing could learn that."""
    source = draw_source(tmp_path / "source")
    table, rng = pd.read_csv(source), np.random.default_rng(1)
    table["x0"], table["y0"] = rng.integers(0, 40, len(table)), rng.integers(0, 30, len(table))
    table["x1"], table["y1"] = table["x0"] + 2, table["y0"] + 2
    table.to_csv(source, index=False)
    workspace = Workspace.open(tmp_path / "workspace")
    import_csv(source, "tiny", workspace)
    small = ("backbone=test_resnet", "size=32", "epochs=1", "batch_size=8")
    settings = (*small, *(f"localizer.{setting}" for setting in small))
    record = run(RunRequest("bbox", "tiny", settings=settings, device="cpu"), workspace)
    (warning,) = (each for each in record.warnings if each.startswith("Boxes found on test miss"))
    place = ("--workspace", workspace.root)
    again = ("--benchmark", "tiny", "--device", "cpu", *_set(settings))
    for command in (("show", "bbox"), ("report",), ("run", "bbox", *again)):
        assert warning in " ".join(cli(*command, *place).out.split()), command
    assert warning in json.loads(cli("show", "bbox", "--json", *place).out)["warnings"]
    board = leaderboard(workspace.runs)
    assert warning in page_of(board) and warning.split(" (")[0] in to_markdown(board)


def _set(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]
