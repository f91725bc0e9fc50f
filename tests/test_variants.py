"""Other ways to score: judged as the run itself is, in the record, and shown beside it."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from whalebench import RunFailedError
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.record import read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.methods.method import Method
from whalebench.methods.softmax import Softmax
from whalebench.reports.run_report import run_summary


@dataclass
class Ran:
    """A run of softmax that says how else it could score."""

    record: Any
    text: str


def ran(tiny: Workspace, settings: tuple[str, ...]) -> Ran:
    request = RunRequest("softmax", "tiny", settings=settings, device="cpu")
    record = runner.run(request, tiny)
    console = Console(width=160, record=True, file=StringIO())
    console.print(run_summary(record, tiny.runs))
    return Ran(record, console.export_text())


def same_and_random(self: Method, photos: Photos) -> dict[str, NDArray[np.float32]]:
    shape = (len(photos), len(photos.identities))
    return {"the same": self.score(photos), "chance": np.random.default_rng(0).random(shape, np.float32)}


def test_a_variant_is_judged_as_the_run_itself(
    tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Softmax, "variants", same_and_random)
    found = ran(tiny, tiny_settings)
    record, variants = found.record, found.record.variants
    assert list(variants) == ["the same", "chance"]
    for part in ("metrics", "valid_metrics"):
        own = {key: value for key, value in getattr(record, part).items() if key != "map_at_r"}
        same = {key: value for key, value in variants["the same"][part].items() if key != "map_at_r"}
        assert same == own
        assert variants["chance"][part]["log_loss"] != own["log_loss"]
    assert variants["the same"]["metrics"]["map_at_r"] is None  # there is no embedding of its own
    assert read_record(tiny.runs / record.run).variants == variants
    table = [line.split() for line in found.text.splitlines()]
    shown = [f"{record.metrics[key]:.3f}" for key in ("map_at_5", "top_1", "log_loss")]
    shown += [f"{record.valid_metrics[key]:.3f}" for key in ("map_at_5", "log_loss")]
    assert ["this", "run", *shown] in table
    assert ["the", "same", *shown] in table


def test_where_there_are_no_variants_none_are_shown(tiny: Workspace, tiny_settings: tuple[str, ...]) -> None:
    found = ran(tiny, tiny_settings)
    assert found.record.variants == {}
    assert "this run" not in found.text


def test_a_variant_of_another_shape_is_refused(
    tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Softmax, "variants", lambda self, photos: {"short": self.score(photos)[:, :2]})
    with pytest.raises(RunFailedError, match=r"softmax gave scores of shape \(\d+, 2\)"):
        ran(tiny, tiny_settings)


def test_a_crop_passes_them_on(
    tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Softmax, "variants", same_and_random)
    cropped = ("crop=box", "localizer.epochs=1", "localizer.size=32", "localizer.backbone=test_resnet")
    record = ran(tiny, (*tiny_settings, *cropped)).record
    assert record.variants["the same"]["metrics"]["log_loss"] == record.metrics["log_loss"]


def test_cycles_are_in_the_record(tiny: Workspace, tiny_settings: tuple[str, ...]) -> None:
    found = ran(tiny, (*tiny_settings, "schedule.cycles=2"))
    record = found.record
    assert record.usage is not None
    assert record.usage.photos_by_stage.keys() == {"cycle_1.train", "cycle_2.train"}
    assert record.usage.looks == 2
    assert list(record.variants) == ["best cycle", "last cycle"]
    assert record.chosen["best_cycle"] in (1, 2)
    assert record.config["schedule"] == {
        "cycles": 2,
        "joined": "scores",
        "tail": None,
        "best_by": "map_at_5",
    }
    assert {"cycle_1.train", "cycle_2.train"} < record.seconds.keys()
    assert "best cycle" in found.text
