"""A run's folder is whole or absent, and what is damaged is named."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from whalebench import WhalebenchError
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.record import (
    DIAGNOSIS,
    PREDICTIONS,
    RECORD,
    SCORES,
    Diagnosis,
    RunRecord,
    read_arrays,
    read_diagnosis,
    read_predictions,
    read_record,
    read_runs,
    verify_files,
    write_predictions,
    write_record,
    write_run,
    write_scores,
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


def with_files(folder, **change):
    """A run of two photos with all files, written as runs are."""

    def fill(inside):
        write_predictions(inside, pd.DataFrame({"image": ["a", "b"], "rank": [1.0, 2.0]}))
        write_scores(inside, {"test_scores": np.eye(2, dtype=np.float32)}, {"test": ["a", "b"]})
        write_record(inside, record(**change))

    write_run(folder, fill)
    return folder


def flip(file, place=-5):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_record_lists_the_files_of_its_run(tmp_path):
    read = read_record(with_files(tmp_path / "first"))
    files = {name: digest_file(tmp_path / "first" / name) for name in (PREDICTIONS, SCORES)}
    assert read.files == files
    verify_files(tmp_path / "first", read)
    write_record(tmp_path / "first", diagnosis(), DIAGNOSIS)  # what is added later does no harm
    assert read_record(tmp_path / "first") == read and read_diagnosis(tmp_path / "first") is not None


def diagnosis():
    facts = {"map_at_5": {"test": 0.5}, "chance": {}, "photos": {"test": 2}, "region": "none"}
    return Diagnosis(**facts, created="2026-11-23T12:00:00+00:00")


@pytest.mark.parametrize("name", [RECORD, PREDICTIONS, SCORES, DIAGNOSIS])
def test_what_differs_from_its_digest_is_named_and_not_read(tmp_path, name):
    folder = with_files(tmp_path / "first")
    write_record(folder, diagnosis(), DIAGNOSIS)
    readers = {
        RECORD: read_record,
        PREDICTIONS: read_predictions,
        SCORES: lambda folder: read_arrays(folder / SCORES, ("test_scores",), "names"),
        DIAGNOSIS: read_diagnosis,
    }
    readers[name](folder)
    text = (folder / name).read_bytes()
    if name in (RECORD, DIAGNOSIS):  # a number that could as well have been written
        (folder / name).write_bytes(text.replace(b"0.5", b"0.6", 1))
    elif name == SCORES:
        flip(folder / name)
    else:
        pd.DataFrame({"image": ["a", "b"], "rank": [1.0, 1.0]}).to_parquet(folder / name)
    with pytest.raises(WhalebenchError, match=rf"{name} differs from its digest.*--force") as caught:
        readers[name](folder)
    assert "\n" not in str(caught.value)
    (folder / name).write_bytes(text)
    readers[name](folder)


def test_layout_and_order_of_a_record_are_no_difference(tmp_path):
    folder = with_files(tmp_path / "first")
    content = json.loads((folder / RECORD).read_bytes())
    (folder / RECORD).write_text(json.dumps(dict(reversed(content.items()))))
    assert read_record(folder).seed == 0


def test_a_file_that_is_gone_is_named(tmp_path):
    folder = with_files(tmp_path / "first")
    (folder / SCORES).unlink()
    with pytest.raises(WhalebenchError, match=r"scores\.safetensors cannot be read \(No such file"):
        verify_files(folder, read_record(folder))


def test_photos_that_were_taken_out_are_told_of_an_older_run_too(tmp_path):
    folder = with_files(tmp_path / "first", counts={"test_photos": 2})
    older = json.loads((folder / RECORD).read_bytes())
    del older["files"], older["digest"]
    (folder / RECORD).write_text(json.dumps(older))
    assert len(read_predictions(folder)) == 2
    pd.DataFrame({"image": ["a"], "rank": [1.0]}).to_parquet(folder / PREDICTIONS)
    with pytest.raises(WhalebenchError, match="has 1 rows, but the run had 2 test photos"):
        read_predictions(folder)


def test_an_older_record_without_digests_is_read(tmp_path):
    folder = with_files(tmp_path / "first")
    older = json.loads((folder / RECORD).read_bytes())
    del older["files"], older["digest"]
    (folder / RECORD).write_text(json.dumps(older | {"seed": 3}))
    flip(folder / SCORES)
    assert (read_record(folder).seed, read_record(folder).files) == (3, {})
    assert len(read_predictions(folder)) == 2
    read_arrays(folder / SCORES, ("test_scores",), "names")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('"config": ' + "[" * 100 + "]" * 100, "more than 64 levels"),
        ('"config": ' + "[" * 100_000 + "]" * 100_000, "more than 64 levels"),
        ('"fold": 1' + "0" * 400, "too large a number"),
        ('"fold": 1' + "0" * 9000, "too large a number"),
        ('"cmc": [NaN]', "NaN is not finite"),
        ('"seconds": {"a": 1e999}', "1e999 is not finite"),
        ('"cmc": {"a": "b"}', "damaged at cmc"),
        ('"created": ["x"]', "damaged at created"),
        ('"method": "\\ud800"', "record.json"),
    ],
    ids=range(9),
)
def test_a_hostile_record_is_a_problem_of_its_run_only(tmp_path, change, words):
    for name in ("sound", "hostile"):
        write(tmp_path / name)
    file = tmp_path / "hostile" / RECORD
    older = json.loads(file.read_bytes())
    del older["digest"]
    file.write_text(json.dumps(older)[:-1] + f", {change}}}")
    runs = read_runs(tmp_path)
    assert [one.run for one in runs.records] == ["sound"]
    assert words in runs.problems[0] and "\n" not in runs.problems[0]
    assert len(runs.problems[0]) - len(str(tmp_path)) < 300


def test_what_is_no_file_is_not_read(tmp_path):
    write(tmp_path / "first")
    (tmp_path / "first" / RECORD).unlink()
    os.mkfifo(tmp_path / "first" / RECORD)
    with pytest.raises(WhalebenchError, match="is a named pipe and is not read"):
        read_record(tmp_path / "first")
