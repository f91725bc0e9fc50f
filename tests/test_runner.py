"""A whole run: what it leaves, that it repeats, what it refuses, and that test answers are out of reach."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.catalog import NO_ENCOUNTER
from whalebench.benchmarks.core.photos import UNKNOWN, LabelledPhotos, Photos
from whalebench.benchmarks.core.record import CURVE, PREDICTIONS, RECORD, WEIGHTS, RunRecord, read_runs
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark, make_split
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.evaluation import constant_answer
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.methods.method import Method, MethodConfig

KEYS = {"map_at_5", "top_1", "top_5", "log_loss", "auroc_new", "map_at_r"}


class PlainConfig(MethodConfig):
    """Fields of `plain`."""

    share: float = 0.5
    """Nothing in particular."""


class Plain(Method):
    """Scores by mean colour, in no time, and notes what it was shown."""

    name = "plain"
    summary = "mean colour"
    source = "this test"
    Config = PlainConfig
    shown: dict[str, list[Photos]]

    def learn(self, train: Photos, valid: Photos, harness: Any) -> None:
        Plain.shown = {"learn": [train, valid], "score": [], "embed": []}
        known = train.known()
        assert known.labels is not None
        colours = self.embed(known)
        self.prototypes = np.stack(
            [colours[known.labels == label].mean(axis=0) for label in range(len(train.identities))]
        )
        Plain.shown["embed"].clear()

    def score(self, photos: Photos) -> Any:
        Plain.shown["score"].append(photos)
        return -np.linalg.norm(self._colours(photos)[:, None] - self.prototypes, axis=2).astype(np.float32)

    def embed(self, photos: Photos) -> Any:
        Plain.shown["embed"].append(photos)
        return self._colours(photos)

    def _colours(self, photos: Photos) -> Any:
        pixels = photos.batch(range(len(photos)), (10, 12)).pixels
        return pixels.reshape(len(photos), -1).numpy()


class Bad(Plain):
    """Fails as `trouble` says."""

    trouble = ""

    def learn(self, train: Photos, valid: Photos, harness: Any) -> None:
        super().learn(train, valid, harness)
        if self.trouble == "learn":
            raise RuntimeError("learning broke")

    def score(self, photos: Photos) -> Any:
        scores = super().score(photos)
        if self.trouble == "score":
            raise RuntimeError("scoring broke")
        if self.trouble == "nan":
            scores[0, 0] = np.nan
        return scores[:, 1:] if self.trouble == "shape" else scores


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"plain": Plain, "bad": Bad}
    monkeypatch.setattr(runner, "find_method", kinds.__getitem__)


def run(
    workspace: Workspace,
    method: str = "plain",
    settings: tuple[str, ...] = (),
    *,
    seed: int = 0,
    force: bool = False,
) -> RunRecord:
    request = RunRequest(method, "tiny", 0, seed, settings, "cpu")
    return runner.run(request, workspace, force=force)


def bytes_of(workspace: Workspace, record: RunRecord) -> bytes:
    return (workspace.runs / record.run / PREDICTIONS).read_bytes()


def arrays_of(workspace: Workspace, record: RunRecord) -> dict[str, Any]:
    folder = workspace.runs / record.run
    return load_file(folder / WEIGHTS) | load_file(folder / "scores.safetensors")


def run_folders(workspace: Workspace) -> list[str]:
    return [folder.name for folder in workspace.runs.iterdir()]


@pytest.fixture(scope="module")
def finished(shared_tiny: Workspace) -> tuple[Workspace, RunRecord]:
    """One real run, learned by a network."""
    settings = ("backbone=test_resnet", "size=32", "epochs=2", "batch_size=8")
    return shared_tiny, run(shared_tiny, "arcface", settings)


def test_a_run_leaves_every_file(finished: tuple[Workspace, RunRecord]) -> None:
    workspace, record = finished
    folder = workspace.runs / record.run
    assert {file.name for file in folder.iterdir()} == {
        RECORD,
        PREDICTIONS,
        CURVE,
        WEIGHTS,
        "matches.parquet",
        "scores.safetensors",
    }
    assert (RECORD, PREDICTIONS, CURVE, WEIGHTS) == (
        "record.json",
        "predictions.parquet",
        "curve.csv",
        "weights.safetensors",
    )
    assert read_runs(workspace.runs).problems == []


def test_the_record_says_everything(finished: tuple[Workspace, RunRecord]) -> None:
    workspace, record = finished
    content = json.loads((workspace.runs / record.run / RECORD).read_text())
    assert content == record.model_dump(mode="json")
    benchmark = load_benchmark("tiny", workspace, propose=True)
    assert (record.method, record.benchmark, record.fold, record.seed) == ("arcface", "tiny", 0, 0)
    assert (record.catalog_digest, record.split_digest) == (benchmark.catalog.digest, benchmark.split.digest)
    assert record.config["backbone"] == "test_resnet"
    assert record.config["scale"] == 20.0
    assert all(part in record.track for part in ("scratch", "32x32 px", "2 passes", "1 look a photo"))
    assert (record.oracle, record.transductive) == (False, False)
    assert set(record.seconds) >= {"decode", "learn", "train", "gallery", "score"}
    assert set(record.chosen) == {
        "photo_weight",
        "temperature",
        "epsilon",
        "new_threshold",
        "set_threshold_95",
    }
    assert {"torch", "timm", "numpy", "python", "whalebench"} <= set(record.environment)
    assert record.hardware["device"] == "cpu"
    valid = [*benchmark.split.parts(0).valid]
    assert record.lineage["calibration"]["photos"] == len(valid)  # type: ignore[index,call-overload]
    assert record.photos_per_second is not None
    assert record.peak_memory_mb is not None
    assert record.peak_memory_mb > 50


def test_metrics_have_the_fixed_keys(finished: tuple[Workspace, RunRecord]) -> None:
    _, record = finished
    for found in (record.metrics, record.valid_metrics):
        assert set(found) >= KEYS
        assert all(value is None or isinstance(value, float) for value in found.values())
    assert 0 < record.metrics["map_at_5"] <= 1  # type: ignore[operator]
    assert record.calibration["test_log_loss_after"] == record.metrics["log_loss"]
    assert record.valid_metrics["coverage_95"] is None
    assert record.calibration["valid_log_loss_after"] <= record.calibration["valid_log_loss_before"] + 1e-9  # type: ignore[operator]
    assert record.cmc == sorted(record.cmc)


def test_predictions_are_a_row_for_each_test_photo(finished: tuple[Workspace, RunRecord]) -> None:
    workspace, record = finished
    queries = pd.read_parquet(workspace.runs / record.run / PREDICTIONS)
    benchmark = load_benchmark("tiny", workspace, propose=True)
    test = benchmark.split.parts(0).test
    assert queries["image"].tolist() == list(test)
    identity_of = dict(
        zip(benchmark.catalog.table["image"], benchmark.catalog.table["identity"], strict=True)
    )
    assert queries["identity"].tolist() == [identity_of[image] for image in test]
    candidates = [f"candidate_{place}" for place in range(1, 6)]
    assert {*candidates, *(f"score_{place}" for place in range(1, 6))} <= set(queries.columns)
    assert {"rank", "average_precision_at_5", "log_loss", "new_score"} <= set(queries.columns)
    for row in queries[candidates].itertuples(index=False):
        assert len(set(row)) == 5
        assert set(row) <= {*(f"whale{number}" for number in range(6)), "new"}


def test_scores_and_embeddings_are_kept_with_their_names(finished: tuple[Workspace, RunRecord]) -> None:
    workspace, record = finished
    file = workspace.runs / record.run / "scores.safetensors"
    arrays = load_file(file)
    with safe_open(file, framework="numpy") as opened:
        names = json.loads(opened.metadata()["names"])
    parts = load_benchmark("tiny", workspace, propose=True).split.parts(0)
    assert (names["test"], names["valid"]) == (list(parts.test), list(parts.valid))
    assert arrays["test_scores"].shape == (len(parts.test), len(names["identities"]))
    assert arrays["valid_scores"].shape == (len(parts.valid), len(names["identities"]))
    assert arrays["test_embeddings"].shape == (len(parts.test), record.config["dimensions"])
    assert "prototypes" in load_file(workspace.runs / record.run / WEIGHTS)


def test_the_curve_has_a_row_for_each_epoch(finished: tuple[Workspace, RunRecord]) -> None:
    workspace, record = finished
    curve = pd.read_csv(workspace.runs / record.run / CURVE)
    assert curve["epoch"].tolist() == [1, 2]
    assert {"loss", "learning_rate", "valid_map_at_5", "photos", "photos_per_second", "seconds"} <= set(curve)
    assert curve.notna().all(axis=None)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    finished: tuple[Workspace, RunRecord], tiny_settings: tuple[str, ...]
) -> None:
    workspace, record = finished
    predictions, arrays = bytes_of(workspace, record), arrays_of(workspace, record)
    again = run(workspace, "arcface", tiny_settings, force=True)
    assert again.run == record.run
    assert again.metrics == record.metrics
    assert bytes_of(workspace, again) == predictions
    repeated = arrays_of(workspace, again)
    assert set(repeated) == set(arrays)
    assert all(np.array_equal(repeated[name], arrays[name]) for name in arrays)
    other = run(workspace, "arcface", tiny_settings, seed=1)
    assert other.run != record.run
    assert bytes_of(workspace, other) != predictions


def test_a_finished_run_is_found_and_not_repeated(
    finished: tuple[Workspace, RunRecord], tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from whalebench.methods.arcface import ArcFace

    def refuse(*args: object) -> None:
        raise AssertionError("learned again")

    workspace, record = finished
    monkeypatch.setattr(ArcFace, "learn", refuse)
    found = run(workspace, "arcface", tiny_settings)
    assert found.run == record.run
    with pytest.raises(RunFailedError, match="arcface failed with AssertionError: learned again"):
        run(workspace, "arcface", tiny_settings, force=True)
    with pytest.raises(RunFailedError, match="arcface failed with AssertionError: learned again"):
        run(workspace, "arcface", (*tiny_settings, "margin=0.2"))
    assert (workspace.runs / record.run / RECORD).is_file()


def test_a_method_sees_no_answers(tiny: Workspace, plain: None) -> None:
    run(tiny)
    train, valid = Plain.shown["learn"]
    scored_valid, scored_test = Plain.shown["score"]
    for photos in (*Plain.shown["score"], *Plain.shown["embed"]):
        assert photos.labels is None
        assert photos.annotations is None
    assert scored_valid.images == valid.images
    parts = [set(photos.images) for photos in (train, valid, scored_test)]
    assert (
        sum(map(len, parts))
        == len(set.union(*parts))
        == len(load_benchmark("tiny", tiny, propose=True).catalog.table)
    )
    assert len(scored_test) == len(load_benchmark("tiny", tiny, propose=True).split.parts(0).test)
    for photos in (train, valid):
        assert photos.annotations is not None
        assert not np.isnan(photos.annotations.boxes[photos.rows]).any()
        assert np.isnan(photos.annotations.boxes[scored_test.rows]).all()


def test_a_simple_method_tells_the_individuals_apart(tiny: Workspace, plain: None) -> None:
    record = run(tiny)
    assert record.metrics["top_1"] == 1.0
    assert record.metrics["auroc_new"] == 1.0
    assert record.metrics["map_at_5"] > 0.9  # type: ignore[operator]
    assert record.track.startswith("no network, 10x12 px")
    assert record.photos_per_second is None


def test_the_constant_answer_is_of_train_and_valid(tiny: Workspace, plain: None) -> None:
    """Recounted: every order of *new* among those with most photos in train, by MAP@5 on valid."""
    make_split("tiny", tiny, protocol="auto", folds=3, singles="new", valid_share=0.4, seed=0)
    record = run(tiny)
    benchmark = load_benchmark("tiny", tiny)
    parts, table = benchmark.split.parts(0), benchmark.catalog.table.set_index("image")
    photos = table.loc[list(parts.train), "identity"].replace("", np.nan).value_counts()
    known = sorted(photos.index, key=lambda name: (-photos[name], name))
    truth = [name if name in known else "new" for name in table.loc[list(parts.valid), "identity"]]
    assert "new" in truth

    def worth(answer: list[str]) -> float:
        return sum(1 / (1 + answer.index(name)) for name in truth if name in answer)

    every = [[*known[:place], "new", *known[place:]][:5] for place in range(6)]
    assert record.constant_answer in every
    assert worth(record.constant_answer) == max(map(worth, every))


@pytest.mark.parametrize(
    ("photos", "valid", "answer"),
    [
        ({"a": 1, "b": 3, "c": 2}, ["a", "b"], ["b", "c", "a"]),
        ({"a": 1, "b": 3}, ["new"] * 9, ["new", "b", "a"]),
        ({"a": 1, "b": 3}, ["b"] * 9 + ["new"], ["b", "new", "a"]),
        ({"a": 1, "b": 3}, ["b"] * 9 + ["a", "new"], ["b", "a", "new"]),
        (dict.fromkeys("fedcba", 1), ["a", "b", "c", "d", "e", "new"], ["a", "b", "c", "d", "e"]),
        (dict.fromkeys("fedcba", 1), ["a", "b", "c", "d", "new"], ["a", "b", "c", "d", "new"]),
    ],
)
def test_new_stands_where_valid_says(photos: dict[str, int], valid: list[str], answer: list[str]) -> None:
    assert constant_answer(photos, valid) == answer


def test_what_is_to_be_said_of_benchmark_and_split_is_in_the_record(tiny: Workspace, plain: None) -> None:
    assert run(tiny).warnings == []
    source = tiny.root.parent / "source" / "table.csv"
    table = pd.read_csv(source, dtype=str, keep_default_na=False)
    table["split"] = ["test" if place % 6 == 5 else "train" if place else "" for place in range(len(table))]
    table.drop(columns="encounter").to_csv(source.with_name("bare.csv"), index=False)
    import_csv(source.with_name("bare.csv"), "bare", tiny)
    split = make_split("bare", tiny, protocol="auto", folds=None, singles="train", valid_share=0.5, seed=0)
    assert split.warnings
    request = RunRequest("plain", "bare", 0, 0, (), "cpu")
    warnings = runner.run(request, tiny).warnings
    assert warnings[: 1 + len(split.warnings)] == [NO_ENCOUNTER, *split.warnings]


def test_a_split_from_before_with_test_photos_in_train_is_refused(
    tiny: Workspace, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(*arguments: Any, **options: Any) -> Views:
        views = fold_views(*arguments, **options)
        digests = (views.train.digests[0], *views.test.digests[1:])
        return replace(views, test=replace(views.test, digests=digests))

    monkeypatch.setattr(runner, "fold_views", leaking)
    with pytest.raises(RunFailedError, match=r"1 test photo\(s\) of tiny are in train, too.*drop"):
        run(tiny)
    assert run_folders(tiny) == []


def test_a_record_names_no_place_and_no_machine(tiny: Workspace, plain: None) -> None:
    text = run(tiny).model_dump_json()
    assert str(tiny.root) not in text
    assert platform.node() not in text
    assert sys.prefix not in text
    assert str(Path.home()) not in text or Path.home() == Path("/")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_leak_through_calibration_is_refused(
    tiny: Workspace, plain: None, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Whoever calibrates on photos that were learned from, or on those that are judged, gets no run."""

    def leaking(*arguments: Any, **options: Any) -> Views:
        views = fold_views(*arguments, **options)
        photos = {"train": views.train, "test": views.test}[part]
        unknown = np.full(len(photos), UNKNOWN)
        return replace(views, valid=LabelledPhotos(**vars(photos) | {"labels": unknown}))

    monkeypatch.setattr("whalebench.benchmarks.running.runner.fold_views", leaking)

    def learning(*_: Any) -> None:
        raise AssertionError("it is said before anything is learned")

    monkeypatch.setattr("whalebench.benchmarks.running.harness.RunHarness.fit", learning)
    with pytest.raises(WhalebenchError, match=rf"calibration would be chosen on \d+ photo\(s\) of {part}"):
        run(tiny)
    assert run_folders(tiny) == []


@pytest.mark.parametrize(
    ("trouble", "kind", "sentence"),
    [
        ("learn", RunFailedError, "plain failed with RuntimeError: learning broke"),
        ("score", RunFailedError, "plain failed with RuntimeError: scoring broke"),
        ("nan", WhalebenchError, "plain gave scores that are not finite"),
        ("shape", WhalebenchError, r"plain gave scores of shape \(\d+, 5\), not \(\d+, 6\)"),
    ],
)
def test_a_crash_leaves_no_run(
    tiny: Workspace,
    plain: None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    trouble: str,
    kind: type[Exception],
    sentence: str,
) -> None:
    monkeypatch.setattr(Bad, "trouble", trouble)
    with pytest.raises(kind, match=sentence):
        run(tiny, "bad")
    assert run_folders(tiny) == []


def test_a_crash_keeps_the_run_that_was_there(
    tiny: Workspace, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(tiny, "bad")
    before = bytes_of(tiny, record)
    monkeypatch.setattr(Bad, "trouble", "score")
    with pytest.raises(RunFailedError, match="failed with RuntimeError: scoring broke"):
        run(tiny, "bad", force=True)
    assert run_folders(tiny) == [record.run]
    assert bytes_of(tiny, record) == before


def change_photo(tiny: Workspace) -> None:
    Image.new("RGB", (48, 40)).save(tiny.root.parent / "source" / "photos" / "w03e2.png")


def remove_photo(tiny: Workspace) -> None:
    (tiny.root.parent / "source" / "photos" / "w03e2.png").unlink()


def change_catalog(tiny: Workspace) -> None:
    file = tiny.benchmarks / "tiny" / "catalog.parquet"
    table = pd.read_parquet(file)
    table.loc[table["image"] == "w03e2.png", "identity"] = "whale0"
    table.to_parquet(file, index=False)


def change_split(tiny: Workspace) -> None:
    file = tiny.benchmarks / "tiny" / "split.csv"
    lines = file.read_text().splitlines(keepends=True)
    image, fold, rest = lines[1].split(",", 2)
    file.write_text("".join([lines[0], f"{image},{(int(fold) + 1) % 5},{rest}", *lines[2:]]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_photo, r"photos of tiny are not those .*1 photo is changed \(w03e2\.png\)"),
        (remove_photo, r"photos of tiny are not those .*1 photo is gone \(w03e2\.png\)"),
        (change_catalog, r"catalog\.parquet is not the table that was catalogued as tiny"),
        (change_split, r"split\.csv was edited after the split was made"),
    ],
)
def test_what_was_changed_is_refused_by_name(
    tiny: Workspace, plain: None, change: Callable[[Workspace], None], sentence: str
) -> None:
    load_benchmark("tiny", tiny, propose=True)
    change(tiny)
    with pytest.raises(WhalebenchError, match=sentence):
        run(tiny)
    assert run_folders(tiny) == []


def test_a_finished_run_is_not_found_when_a_photo_was_changed(tiny: Workspace, plain: None) -> None:
    run(tiny)
    change_photo(tiny)
    with pytest.raises(WhalebenchError, match="not those that were catalogued"):
        run(tiny)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (
            RunRequest("plain", "tiny", fold=7),
            "There is no fold 7 in this split; choose one of 0, 1, 2, 3, 4",
        ),
        (RunRequest("plain", "tinny"), r"There is no benchmark 'tinny' in .*: did you mean 'tiny'\?"),
        (RunRequest("plain", "tiny", seed=-1), "seed -1 cannot be"),
        (
            RunRequest("plain", "tiny", device="cuda:99"),
            "device 'cuda:99' is not on this machine: choose one of",
        ),
    ],
)
def test_what_cannot_be_asked_for(tiny: Workspace, plain: None, request_: RunRequest, sentence: str) -> None:
    with pytest.raises(WhalebenchError, match=sentence):
        runner.run(request_, tiny)
    assert run_folders(tiny) == []


def test_a_fold_of_its_own_settings_is_a_run_of_its_own(tiny: Workspace, plain: None) -> None:
    names = {
        run(tiny).run,
        run(tiny, settings=("share=0.5",)).run,
        run(tiny, settings=("share=0.25",)).run,
        run(tiny, seed=3).run,
        runner.run(RunRequest("plain", "tiny", fold=1), tiny).run,
    }
    assert len(names) == 4


def test_flukes_are_drawn_once_and_again_when_the_drawing_changes(
    tmp_path: Path, small_flukes: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of sixty photos stand in for the real drawing; what counts is when it is asked for."""
    import shutil

    import whalebench.benchmarks.flukes as flukes
    from whalebench.benchmarks.registry import load_catalog

    drawings: list[Path] = []

    def draw(folder: Path, **_: object) -> pd.DataFrame:
        drawings.append(folder)
        shutil.copytree(small_flukes[0], folder, dirs_exist_ok=True)
        return small_flukes[1]

    monkeypatch.setattr(flukes, "draw_flukes", draw)
    workspace = Workspace.open(tmp_path)
    first = load_catalog("flukes", workspace)
    assert load_catalog("flukes", workspace).digest == first.digest
    assert len(drawings) == 1
    assert drawings[0].parent.parent == workspace.root / "temporary"
    assert [folder.name for folder in workspace.benchmarks.iterdir()] == ["flukes"]
    monkeypatch.setattr(flukes, "DRAWING_VERSION", flukes.DRAWING_VERSION + 1)
    load_catalog("flukes", workspace)
    assert len(drawings) == 2


def test_half_a_benchmark_is_none(tiny: Workspace) -> None:
    from whalebench.benchmarks.registry import benchmark_names

    (tiny.benchmarks / "tiny").rename(tiny.benchmarks / ".tmp-1234-tiny")
    assert benchmark_names(tiny) == ("flukes",)
