"""A run's folder is whole or absent, and what is damaged is named."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import (
    RunRecord,
    read_predictions,
    read_record,
    read_runs,
    write_predictions,
    write_record,
    write_run,
)


def record(**change):
    known = {
        "run": "first",
        "method": "arcface",
        "config": {"margin": 0.3, "sizes": (96, 128), "weights": Path("weights.safetensors"), "crop": None},
        "benchmark": "flukes",
        "catalog_digest": "c" * 64,
        "split_digest": "s" * 64,
        "fold": 0,
        "seed": 0,
        "track": "small network",
        "created": "2026-11-23T12:00:00+00:00",
        "environment": {"python": "3.11"},
        "hardware": {"cores": 2},
        "seconds": {"train": 100.0},
        "photos_per_second": np.float32(12.5),
        "counts": {"test": 240},
        "chosen": {"threshold": -math.inf, "grid": np.array([0.0, 1.0]), "flip": np.bool_(True)},
        "metrics": {"map_at_5": 0.5, "map_at_r": math.nan},
        "valid_metrics": {"auroc_new": np.float64("nan")},
        "cmc": [0.5, 1.0],
    }
    return RunRecord.model_validate(known | change)


def write(folder, *, force=False, **change):
    write_run(folder, lambda inside: write_record(inside, record(**change)), force=force)


def test_a_record_comes_back_equal_and_nan_is_null(tmp_path):
    write(tmp_path / "first")
    text = (tmp_path / "first" / "record.json").read_text()
    read = read_record(tmp_path / "first")
    assert read.model_copy(update={"digest": ""}) == record() and len(read.digest) == 64
    assert "NaN" not in text and "Infinity" not in text
    content = json.loads(text)
    assert content["metrics"] == {"map_at_5": 0.5, "map_at_r": None}
    assert content["valid_metrics"] == {"auroc_new": None}
    assert content["chosen"] == {"threshold": None, "grid": [0.0, 1.0], "flip": True}
    assert content["config"]["sizes"] == [96, 128] and content["config"]["weights"] == "weights.safetensors"


def test_a_record_is_frozen_and_takes_no_unknown_field():
    with pytest.raises(ValidationError, match="frozen"):
        record().fold = 1
    with pytest.raises(ValidationError, match="mood"):
        record(mood="good")


def test_a_run_that_fails_while_being_written_leaves_nothing(tmp_path):
    def fill(inside):
        write_record(inside, record())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "first", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_record_is_no_run(tmp_path):
    with pytest.raises(WhalebenchError, match=r"without a record\.json"):
        write_run(tmp_path / "first", lambda inside: None)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_replaced_with_force_only(tmp_path):
    write(tmp_path / "first", seed=1)
    (tmp_path / "first" / "extra").write_text("of the old run")
    write(tmp_path / "first", seed=2)
    assert read_record(tmp_path / "first").seed == 1
    write(tmp_path / "first", seed=2, force=True)
    assert read_record(tmp_path / "first").seed == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["first", "record.json"]


def test_of_two_processes_that_write_one_run_the_quicker_one_has_written_it(tmp_path):
    def fill(inside):
        write(tmp_path / "first", seed=1)
        write_record(inside, record(seed=2))

    write_run(tmp_path / "first", fill)
    assert read_record(tmp_path / "first").seed == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["first", "record.json"]


def test_a_forced_run_that_fails_keeps_the_old_one(tmp_path):
    write(tmp_path / "first", seed=1)
    with pytest.raises(WhalebenchError):
        write_run(tmp_path / "first", lambda inside: None, force=True)
    assert read_record(tmp_path / "first").seed == 1 and len(list(tmp_path.iterdir())) == 1


def test_the_old_run_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write(tmp_path / "first", seed=1)

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WhalebenchError, match="Permission denied"):
        write(tmp_path / "first", seed=2, force=True)
    assert read_record(tmp_path / "first").seed == 1 and len(list(tmp_path.iterdir())) == 1


def test_runs_that_cannot_be_written_are_told_in_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(WhalebenchError, match="cannot be written"):
        write(tmp_path / "runs" / "first")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema_version": 1, "run": ', "not JSON"),
        ("[1]", "damaged at the document"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 1, "run": "first"}', "damaged at method"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, text, words):
    (tmp_path / "record.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WhalebenchError, match=words) as caught:
        read_record(tmp_path)
    assert "record.json" in str(caught.value)


def test_runs_are_listed_without_those_being_written_and_damaged_ones_are_told(tmp_path):
    write(tmp_path / "second", seed=2)
    write(tmp_path / "first", seed=1)
    (tmp_path / ".third.1234.partial").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not a run")
    runs = read_runs(tmp_path)
    assert [(one.run, one.seed) for one in runs.records] == [("first", 1), ("second", 2)]
    assert len(runs.problems) == 1 and "empty" in runs.problems[0]
    assert read_runs(tmp_path / "absent") == ([], [])


def test_a_renamed_run_goes_by_its_new_name(tmp_path):
    write(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "best")
    assert read_record(tmp_path / "best").run == "best"


def test_predictions_come_back_equal_and_are_the_same_bytes(tmp_path):
    table = pd.DataFrame({"image": pd.Series(["a", "b"], dtype="str"), "rank": [1.0, math.nan]})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_predictions(tmp_path / name, table)
    read = read_predictions(tmp_path / "one")
    pd.testing.assert_frame_equal(read[list(table)], table)
    assert read[["probability", "confidence", "set_size_95", "covered_95"]].isna().all(axis=None)
    one, two = ((tmp_path / name / "predictions.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_predictions_that_cannot_be_read_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / "predictions.parquet").write_bytes(content)
    with pytest.raises(WhalebenchError, match=r"predictions\.parquet"):
        read_predictions(tmp_path)
