"""What grows with photos and individuals: scores kept as best candidates, memory asked for in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core import machine, record
from whalebench.benchmarks.core.machine import refuse_small_memory
from whalebench.benchmarks.core.record import (
    SCORES,
    read_arrays,
    read_record,
    read_scores,
    stored_bytes,
    write_arrays,
    write_scores,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.ensemble import EnsembleRequest, ensemble
from whalebench.benchmarks.predicting.predict import predict
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.restored import restore_run
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.benchmarks.submitting.submit import stored_answers
from whalebench.methods.parts.losses.margins import HeadConfig, build_heads
from whalebench.reports.metrics.calibration import Calibration
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.runs import rescore_runs

FEW = 2
"""Candidates that the shortened runs of these tests keep."""


def drawn(photos: int = 7, identities: int = 30) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(photos, identities)).astype(np.float32)


def names_of(scores: NDArray[Any]) -> dict[str, list[str]]:
    images, identities = (["i" + str(place) for place in range(length)] for length in scores.shape)
    return {"test": images, "identities": identities}


def test_scores_below_the_stated_size_are_kept_as_ever_to_the_byte(tmp_path: Path) -> None:
    scores, other = drawn(), tmp_path / "other.safetensors"
    write_scores(tmp_path, {"test_scores": scores, "test_embeddings": scores}, names_of(scores))
    write_arrays(other, {"test_scores": scores, "test_embeddings": scores}, "names", names_of(scores))
    assert (tmp_path / SCORES).read_bytes() == other.read_bytes()
    assert np.array_equal(read_scores(tmp_path, ("test_scores",))[0]["test_scores"], scores)


def test_of_more_scores_the_best_are_kept_and_the_mean_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MOST_CELLS", 100)
    monkeypatch.setattr(record, "KEPT", 5)
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", 60)  # two rows at a time
    scores = drawn()
    write_scores(tmp_path, {"test_scores": scores, "test_embeddings": scores}, names_of(scores))
    assert set(read_arrays(tmp_path / SCORES, ("test_scores", "test_embeddings"), "names")[0]) == {
        "test_embeddings"
    }
    read, names = read_scores(tmp_path, ("test_scores", "valid_scores"))
    assert set(read) == {"test_scores"}
    assert names == names_of(scores)
    order = np.argsort(-scores, axis=1)
    for photo, row in enumerate(read["test_scores"]):
        best, others = order[photo, :5], order[photo, 5:]
        assert np.array_equal(row[best], scores[photo, best])
        assert row[others] == pytest.approx(scores[photo, others].mean(), abs=1e-6)
        assert row[others].max() <= row[best].min()
    kept = sum(each.nbytes for each in record._best("x", scores).values())
    assert kept == stored_bytes(*scores.shape) == 7 * 44


def test_a_file_whose_columns_are_of_nobody_is_damaged(tmp_path: Path) -> None:
    parts = {"columns": np.full((1, 2), 9, np.int32), "best": np.zeros((1, 2), np.float32)}
    parts["rest"] = np.zeros(1, np.float32)
    arrays = {f"test_scores_{what}": values for what, values in parts.items()}
    write_arrays(tmp_path / SCORES, arrays, "names", {"test": ["a"], "identities": ["b", "c"]})
    with pytest.raises(WhalebenchError, match=r"scores\.safetensors is damaged .* repeat the run"):
        read_scores(tmp_path, ("test_scores",))


def test_whoever_reads_scores_reads_those_or_says_why_not(
    tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.run(RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu"), tiny)
    monkeypatch.setattr(record, "MOST_CELLS", 1)
    monkeypatch.setattr(record, "KEPT", FEW)
    few = runner.run(RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu", seed=1), tiny)
    again = runner.run(RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu"), tiny, force=True)
    assert again.metrics == whole.metrics
    (said,) = (each for each in again.warnings if "are more than" in each)
    assert f"of each photo the {FEW} best are" in said
    assert said not in whole.warnings
    restored = restore_run(again.run, tiny)
    answers = stored_answers(tiny.runs / again.run)
    places = np.argsort(-restored.scores, axis=1)[:, :FEW]
    stored, made = (np.take_along_axis(each, places, 1) for each in (answers.scores, restored.scores))
    assert np.abs(stored - made).max() < 1e-5
    photos = sorted((tiny.root.parent / "source").rglob("*.png"))[:1]
    assert len(predict(again.run, photos, tiny).photos) == 1
    (rescored,) = rescore_runs([again.run], tiny)
    assert f"keeps the {FEW} best scores" in rescored.problem
    both = ensemble(EnsembleRequest((again.run, few.run)), tiny)
    assert said in read_record(both.folder).warnings


def test_a_run_whose_scores_have_no_room_is_refused_before_it_learns(
    tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 10)
    with pytest.raises(
        RunFailedError, match=r"^Scoring \d+ photos by \d+ individuals needs .* split with fewer"
    ):
        runner.run(RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu"), tiny)
    assert not list(tiny.runs.glob("*"))


def test_a_training_without_room_for_gradient_and_moments_is_refused_before_its_first_step(
    tiny: Workspace, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 200_000)  # enough for the scores of a few photos
    with pytest.raises(RunFailedError, match=r"^What training adds to the weights needs .* lower dimensions"):
        runner.run(RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu"), tiny)


def test_a_head_without_room_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        labels = np.arange(100_000)
        identities = tuple(map(str, range(100_000)))

    monkeypatch.setattr(machine, "free_memory", lambda: 10**8)
    said = r"^A head over 100,000 individuals needs 614\.4 MB of memory, 100\.0 MB are free: lower dimensions"
    with pytest.raises(RunFailedError, match=said):
        build_heads(HeadConfig(), Known(), 512)  # type: ignore[arg-type]


def test_memory_is_no_matter_where_nobody_says_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    refuse_small_memory(10**15, "It", "buy more")
    with pytest.raises(RunFailedError, match=r"^It needs 2\.0 GB of memory, 1\.0 GB are free: buy more\.$"):
        refuse_small_memory(2 * 10**9, "It", "buy more", free=10**9)


@pytest.mark.parametrize("cells", [1, 50, 4_000_000])
def test_queries_are_judged_by_a_calibration_in_blocks_as_by_its_probabilities(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", cells)
    scores, calibration = drawn(11, 23), Calibration(0.3, 0.1)
    names = names_of(scores)
    common: dict[str, Any] = {
        "images": names["test"],
        "truth": ["new", *(f"i{place * 2}" for place in range(10))],
        "clusters": names["test"],
        "identities": names["identities"],
        "scores": scores,
        "new_scores": -scores.max(axis=1),
        "new_threshold": 1.0,
        "set_threshold": 0.2,
    }
    by_block = evaluate_queries(**common, probabilities=calibration)
    whole = evaluate_queries(**common, probabilities=calibration.probabilities(scores))
    assert by_block.equals(whole)
