"""A run is judged once: what the cache keeps is what would be computed of these predictions by this code."""

from __future__ import annotations

import json
from hashlib import sha256
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest

from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.record import BY_SIDE, read_record, write_predictions
from whalebench.reports import judging
from whalebench.reports import leaderboard as board
from whalebench.reports.judging import Judged, Judgements, judge
from whalebench.reports.metrics.breakdown import Breakdown, Effort
from whalebench.reports.metrics.ranking import Photos
from whalebench.reports.run_report import run_document
from whalebench.reports.writers import to_json
from whalebench.tests.ensembling import change_record
from whalebench.tests.synthetic_runs import put, queries_of, ranks, record

PHOTOS, INDIVIDUALS = 80, 12


def answers(skill: float = 0.0, fold: int = 0, seed: int = 0):
    """A per-query table with traits; its photos are those of the fold."""
    drawn = ranks(skill, fold, seed, queries=PHOTOS, individuals=INDIVIDUALS)
    table = queries_of(drawn, fold, INDIVIDUALS)
    traits = {"train_photos": np.arange(PHOTOS) % 12, "viewpoint": "left", "species": ""}
    traits |= dict.fromkeys(("encounter_seen", "side_seen", *BY_SIDE), nan)
    return table.assign(**traits)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The runs of a workspace: two methods on two folds."""
    (tmp_path / "cache").mkdir()
    for place, method in enumerate(("good", "bad")):
        for fold in range(2):
            put(tmp_path / "runs", record(f"{method}-{fold}", method, fold=fold), answers(-place, fold))
    return tmp_path / "runs"


@pytest.fixture
def no_judge(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whether anything was judged from here on: a word for each time."""
    judged: list[str] = []

    def spy(*given, **asked):
        judged.append("again")
        return judge(*given, **asked)

    monkeypatch.setattr(board, "judge", spy)
    monkeypatch.setattr("whalebench.reports.run_report.judge", spy)
    return judged


def kept(runs: Path) -> list[Path]:
    return sorted((runs.parent / "cache" / "judged").glob("*"))


def shown(runs: Path, *, closely: bool = True) -> str:
    return to_json(board.leaderboard(runs, closely=closely))


def test_what_was_judged_is_read_again_to_the_last_digit(runs: Path, no_judge: list[str]) -> None:
    first = shown(runs)
    assert (len(no_judge), len(kept(runs))) == (4, 2)
    assert shown(runs) == first
    assert shown(runs, closely=False) != first
    assert run_document(runs / "good-0")["metrics"]["map_at_5_low"] > 0
    assert len(no_judge) == 4


def test_a_closer_look_is_judged_when_it_is_first_asked_for(runs: Path, no_judge: list[str]) -> None:
    alone = run_document(runs / "good-0")
    plain = shown(runs, closely=False)
    assert len(no_judge) == 4  # of the one that was looked at the numbers are known
    assert json.loads(shown(runs))[0]["buckets"]
    assert len(no_judge) == 4 + 3
    assert shown(runs, closely=False) == plain
    assert run_document(runs / "good-0") == alone
    assert len(no_judge) == 4 + 3


def test_other_predictions_are_not_taken_for_those_that_were_judged(runs: Path, no_judge: list[str]) -> None:
    shown(runs)
    write_predictions(runs / "good-0", answers().assign(top_1=0.0))
    digest = digest_file(runs / "good-0" / "predictions.parquet")
    change_record(runs / "good-0", files={"predictions.parquet": digest})
    problems = {row.record.run: row.problem for row in board.leaderboard(runs).rows}
    assert "top_1" in problems["good-0"] and not problems["bad-0"]
    file = runs / "bad-0" / "predictions.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    problems = {row.record.run: row.problem for row in board.leaderboard(runs).rows}
    assert "differs from its digest" in problems["bad-0"]


@pytest.mark.parametrize("harm", ["cut", "flipped", "spoilt", "other code"])
def test_a_cache_that_is_not_whole_or_of_other_code_is_made_again(
    harm: str, runs: Path, no_judge: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shown(runs)
    for file in kept(runs):
        whole, text = file.read_bytes(), file.read_bytes().partition(b"\n")[2]
        if harm == "cut":
            file.write_bytes(whole[: len(whole) // 2])
        elif harm == "flipped":
            file.write_bytes(whole.replace(b"0.", b"1.", 3))
        elif harm == "spoilt":
            text = text.replace(b'"map_at_5"', b'["map_at_5"]')
            file.write_bytes(sha256(text).hexdigest().encode() + b"\n" + text)
    if harm == "other code":
        monkeypatch.setattr(judging, "_code", lambda: "other")
    assert shown(runs) == first
    assert len(no_judge) == 8
    assert shown(runs) == first
    assert len(no_judge) == 8


@pytest.mark.parametrize("place", ["none", "a file"])
def test_a_workspace_that_cannot_be_written_is_read(place: str, runs: Path, no_judge: list[str]) -> None:
    first = shown(runs)
    for file in kept(runs):
        file.unlink()
    (runs.parent / "cache" / "judged").rmdir()
    if place == "none":
        (runs.parent / "cache").rmdir()
    else:
        (runs.parent / "cache" / "judged").write_text("in the way")
    assert shown(runs) == first == shown(runs)
    assert len(no_judge) == 12
    assert (runs.parent / "cache").exists() == (place == "a file")


def test_runs_on_other_photos_share_nothing(runs: Path) -> None:
    """Each is judged by its own photos, in whatever order they stand."""
    put(runs, record("shuffled-0", "shuffled"), answers().sample(frac=1, random_state=1, ignore_index=True))
    put(runs, record("other-0", "other"), answers(fold=5))
    rows = {row.record.run: row for row in board.leaderboard(runs).rows}
    assert "other photos" in rows["other-0"].problem
    assert rows["shuffled-0"].metrics["map_at_5"] == rows["good-0"].metrics["map_at_5"]
    alone = judge(answers(-1))
    assert rows["bad-0"].metrics == pytest.approx(alone.metrics, rel=0, abs=0, nan_ok=True)
    tables = [rows[run].queries for run in ("good-0", "bad-0")]
    assert np.shares_memory(
        *(np.asarray(table["image"].array._pa_array.chunk(0).buffers()[2]) for table in tables)
    )


def test_the_photos_of_another_run_give_the_same_numbers() -> None:
    shared = Photos(answers(0.5))
    for closely in (False, True):
        assert repr(judge(answers(), shared, closely=closely)) == repr(judge(answers(), closely=closely))


def test_older_runs_are_judged_each_time(runs: Path, no_judge: list[str]) -> None:
    of = read_record(runs / "good-0").model_copy(update={"files": {}})
    judgements = Judgements(runs, [of])
    judgements.put(of, judge(answers()))
    judgements.keep()
    assert judgements.get(of, closely=False) is None and kept(runs) == []


def test_every_number_comes_back_from_the_file(runs: Path) -> None:
    of = read_record(runs / "good-0")
    numbers = np.random.default_rng(1).integers(0, 2**63, 400, np.int64).view(np.float64)
    metrics = {str(place): float(number) for place, number in enumerate(numbers)} | {"a": nan, "b": -inf}
    effort = Effort(0.9, 3, nan, 4.0, 0.1, inf)
    judgements = Judgements(runs, [of])
    judgements.put(of, Judged(metrics, {"a": "–"}, Breakdown([], [effort], {"found": [0.1, 1.0]}, [])))
    judgements.keep()
    read = Judgements(runs, [of]).get(of, closely=True)
    assert read is not None and read.breakdown is not None
    assert repr(read.breakdown.effort) == repr([effort]) and read.doubts == {"a": "–"}
    same = [
        isnan(read.metrics[key]) if isnan(value) else read.metrics[key] == value
        for key, value in metrics.items()
    ]
    assert len(same) == 402 and all(same)


def test_a_file_has_room_for_so_many(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MOST", 1)
    shown(runs)
    for file in kept(runs):
        assert len(json.loads(file.read_bytes().partition(b"\n")[2])["runs"]) == 1
