"""The commands that read finished runs: which run is meant, what is listed, scored again, packed."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from whalebench import WhalebenchError
from whalebench.benchmarks.core.ledger import Opening, append
from whalebench.benchmarks.core.record import (
    PREDICTIONS,
    RECORD,
    SCORES,
    TRAITS,
    find_run,
    find_runs,
    read_predictions,
    read_record,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.runs import rescore_runs, without_paths, write_bundle
from whalebench.reports.tables import FittedTable
from whalebench.tests.ensembling import change_record, make_run, split_tiny

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Workspace) -> Workspace:
    """Two runs of one method, which differ in their seeds, and one of another, the newest."""
    workspace = split_tiny(tmp_path_factory.mktemp("template"), shared_tiny)
    for seed in (0, 1):
        folder = make_run(workspace, f"arcface-tiny-fold0-seed{seed}-aa{seed}", 0.8, seed, method="arcface")
        change_record(folder, seed=seed, created=f"2026-11-0{seed + 1}T10:00:00+00:00")
    folder = make_run(workspace, "triplet-tiny-fold0-seed0-bb0", 0.3, 5, method="triplet")
    change_record(folder, created="2026-11-20T10:00:00+00:00", seconds={"learn": 90.0})
    return workspace


@pytest.fixture
def place(template: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it that may be changed."""
    shutil.copytree(template.root, tmp_path / "place")
    return Workspace.open(tmp_path / "place")


def printed(what: Any, width: int) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(what, crop=False)
    return capture.get()


# --- which run is meant


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("arcface-tiny-fold0-seed1-aa1", "arcface-tiny-fold0-seed1-aa1"),
        ("arcface-tiny-fold0-seed1", "arcface-tiny-fold0-seed1-aa1"),
        ("triplet", "triplet-tiny-fold0-seed0-bb0"),
        ("tri", "triplet-tiny-fold0-seed0-bb0"),
        ("@last", "triplet-tiny-fold0-seed0-bb0"),
    ],
)
def test_a_run_is_found_by_as_much_as_no_other_has(template: Workspace, name: str, expected: str) -> None:
    assert find_run(name, template) == template.runs / expected
    assert find_run(str(template.runs / expected), template) == template.runs / expected


def test_a_method_is_meant_before_the_beginning_of_another_name(place: Workspace) -> None:
    shutil.copytree(place.runs / "triplet-tiny-fold0-seed0-bb0", place.runs / "triplets-other")
    change_record(place.runs / "triplets-other", method="triplets")
    assert find_run("triplet", place).name == "triplet-tiny-fold0-seed0-bb0"
    assert [folder.name for folder in find_runs("arcface", place)] == [
        "arcface-tiny-fold0-seed0-aa0",
        "arcface-tiny-fold0-seed1-aa1",
    ]


def test_a_name_that_fits_several_lists_them_shortened(place: Workspace) -> None:
    with pytest.raises(
        WhalebenchError, match="fits 2 runs, arcface-tiny-fold0-seed0-aa0, arcface-tiny-fold0"
    ):
        find_run("arcface", place)
    for number in range(8):
        shutil.copytree(place.runs / "triplet-tiny-fold0-seed0-bb0", place.runs / f"many-{number}")
    with pytest.raises(
        WhalebenchError, match="fits 8 runs, many-0, many-1, many-2, many-3, many-4 and 3 more:"
    ):
        find_run("many", place)


@pytest.mark.parametrize("name", ["", "tripel", "@first", ".", "../runs", "triplet-tiny-fold1"])
def test_a_run_that_is_not_there_is_told(template: Workspace, name: str) -> None:
    with pytest.raises(WhalebenchError, match=f"There is no run '{name}'"):
        find_run(name, template)


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["show", "@last"],
        ["compare", "a", "b"],
        ["rescore"],
        ["rescore", "a"],
        ["bundle", "x.zip"],
        ["report"],
    ],
)
def test_an_empty_workspace_says_how_to_begin(arguments: list[str], tmp_path: Path, cli: Cli) -> None:
    answer = cli(*arguments, "--workspace", tmp_path / "none")
    assert (answer.code, answer.out) == (2, "")
    assert "`whalebench run" in answer.err
    assert not list(Path.cwd().glob("x.zip"))


# --- listed


def test_runs_are_listed_the_newest_first(place: Workspace, cli: Cli) -> None:
    (place.runs / "broken").mkdir()
    (place.runs / "broken" / RECORD).write_text("{")
    answer = cli("runs", "--workspace", place.root)
    assert answer.code == 0
    first = [line.split()[0] for line in answer.out.splitlines() if "-tiny-" in line]
    assert first == [
        "triplet-tiny-fold0-seed0-bb0",
        "arcface-tiny-fold0-seed1-aa1",
        "arcface-tiny-fold0-seed0-aa0",
    ]
    assert "broken" in answer.out
    newest = json.loads(cli("runs", "--json", "--workspace", place.root).out)[0]
    record = read_record(place.runs / first[0])
    assert newest == {
        "run": first[0],
        "method": "triplet",
        "contestant": "triplet",
        "by_hand": {},
        "benchmark": "tiny",
        "fold": 0,
        "seed": 0,
        "map_at_5": record.metrics["map_at_5"],
        "minutes": 1.5,
        "created": "2026-11-20T10:00:00+00:00",
        "unfit": "",
    }


def test_runs_of_a_benchmark_that_has_none(template: Workspace, cli: Cli) -> None:
    for command in (["runs"], ["bundle", "x.zip"]):
        answer = cli(*command, "--benchmark", "tini", "--workspace", template.root)
        assert answer.code == 2
        assert "no finished run of benchmark 'tini': did you mean 'tiny'?" in answer.err


def test_a_narrow_window_loses_columns_and_no_letter_of_a_name() -> None:
    name = "right-whale-2nd-flukes-fold0-seed0-0a1b2c3d"
    rows = [
        {
            "run": name,
            "settings": "epochs=10 size=48x80",
            "fold": 0,
            "MAP@5": "0.500",
            "when": "2026-11-28 10:00",
        }
    ]
    for width in (120, 80, 60, 20):
        text = printed(FittedTable(rows, ("fold", "when", "settings"), "settings"), width)
        assert name in text and "0.500" in text
        assert width < 50 or max(map(len, text.splitlines())) <= width
        assert ("2026-11-28 10:00" in text) == (width > 80)
        assert ("epochs=10" in text) == (width >= 80)
    for width in range(60, 120, 2):
        text = printed(FittedTable(rows, ("fold", "when", "settings"), "settings"), width)
        assert name in text and ("10:00" in text) == ("2026-11-28 10:00" in text)
        assert max(map(len, text.splitlines())) <= width
    assert "size=48x80" in printed(FittedTable(rows, ("fold", "when"), "settings"), 75)


# --- shown


def test_a_run_is_shown_with_its_buckets_and_the_effort(place: Workspace, cli: Cli) -> None:
    answer = cli("show", "@last", "--workspace", place.root)
    assert answer.code == 0
    for words in ("triplet on tiny, fold 0, seed 0", "photos in train", "seen in train", "90 %", "99 %"):
        assert words in answer.out
    document = json.loads(cli("show", "triplet", "--json", "--workspace", place.root).out)
    assert document["run"] == "triplet-tiny-fold0-seed0-bb0"
    queries = read_predictions(place.runs / document["run"])
    known = queries[queries["truth"] != "new"]
    of_photos = [bucket for bucket in document["buckets"] if bucket["by"] == "train_photos"]
    assert sum(bucket["photos"] for bucket in of_photos) == len(known)
    assert [row["share"] for row in document["effort"]] == [0.9, 0.95, 0.99]
    assert document["effort_curve"]["found"][-1] == 1
    assert cli("show", "triplet", "--svg", place.root / "effort.svg", "--workspace", place.root).code == 0
    assert document["run"] in (place.root / "effort.svg").read_text(encoding="utf-8")
    page = place.root / "run.html"
    words = (
        "show",
        place.runs / document["run"],
        "--html",
        page,
        "--json",
        "--workspace",
        place.root / "other",
    )
    assert json.loads(cli(*words).out) == document  # and nothing else, from whichever workspace
    assert document["run"] in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("status", [0, 3])
def test_the_page_is_opened_and_where_nothing_opens_it_that_is_said(
    place: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", lambda page: opened.append(page) or status)
    answer = cli("report", "--open", "--photos", "none", "--workspace", place.root)
    page = place.reports / "leaderboard.html"
    assert answer.code == 0 and opened == [str(page.resolve())] and page.exists()
    assert ("open it with a browser" in answer.err) == bool(status)


def test_a_run_on_the_floor_says_so(place: Workspace, cli: Cli) -> None:
    folder = find_run("triplet", place)
    queries, metrics = read_predictions(folder), read_record(folder).metrics
    most = queries["truth"].value_counts().index[0]
    change_record(
        folder, constant_answer=[most], counts={"identities": 6}, metrics=metrics | {"log_loss": 1.8}
    )
    floors = json.loads(cli("show", "triplet", "--json", "--workspace", place.root).out)["floors"]
    assert floors["constant_answer"] == pytest.approx((queries["truth"] == most).mean())
    assert floors["uniform_log_loss"] == pytest.approx(math.log(6))
    shown = cli("show", "triplet", "--workspace", place.root).out
    assert f"MAP@5 {floors['constant_answer']:.3f} ({most})" in shown and "Its log loss is above" in shown
    low = json.loads(cli("show", "triplet", "--json", "--workspace", place.root).out)["metrics"][
        "map_at_5_low"
    ]
    assert ("Its interval holds" in shown) == (low <= floors["constant_answer"])
    change_record(folder, constant_answer=["new", *sorted({*queries["truth"]} - {"new"})[:4]])
    assert "Its interval holds" in cli("show", "triplet", "--workspace", place.root).out


def test_a_run_of_an_older_version_is_shown_without_buckets(place: Workspace, cli: Cli) -> None:
    folder = find_run("triplet", place)
    queries = pd.read_parquet(folder / PREDICTIONS)
    queries.drop(columns=[*TRAITS]).to_parquet(folder / PREDICTIONS)
    answer = cli("show", "triplet", "--workspace", place.root)
    assert answer.code == 0
    assert "made before scores were kept by photos in train" in answer.out
    assert "99 %" in answer.out


def test_a_run_that_does_not_fit_is_shown_with_the_reason(place: Workspace, cli: Cli) -> None:
    folder = find_run("triplet", place)
    change_record(folder, unfit="tiny has no masks", metrics={}, valid_metrics={})
    (folder / PREDICTIONS).unlink()
    answer = cli("show", "triplet", "--workspace", place.root)
    assert answer.code == 0
    assert "tiny has no masks" in answer.out and "reviewer" not in answer.out


# --- scored again


def test_nothing_moves_in_runs_that_are_as_they_were(
    template: Workspace, shared_tiny: Workspace, cli: Cli
) -> None:
    """Also in one that was trained, with embeddings and what a new individual is told by."""
    for workspace in (template, shared_tiny):
        before = {file: file.read_bytes() for file in workspace.runs.rglob("*") if file.is_file()}
        answer = cli("rescore", "--workspace", workspace.root)
        assert answer.code == 0, answer
        assert "moved:" not in answer.out and "nothing moved" in answer.out
        assert before == {file: file.read_bytes() for file in workspace.runs.rglob("*") if file.is_file()}


def test_a_record_that_was_tampered_with_moves(place: Workspace, cli: Cli) -> None:
    folder = find_run("triplet", place)
    metrics = read_record(folder).metrics
    change_record(folder, metrics=metrics | {"top_1": 0.99}, cmc=[0.99, *read_record(folder).cmc[1:]])
    answer = cli("rescore", "triplet", "--workspace", place.root)
    assert answer.code == 1
    truth = f"{metrics['top_1']:.6f}"
    assert f"top_1: recorded 0.990000, by its predictions {truth}, by its scores {truth}" in answer.out
    assert "2 numbers and the predictions of 0 photos moved" in answer.out and "cmc 1" in answer.out
    assert cli("rescore", "arcface", "--workspace", place.root).code == 0
    assert cli("rescore", "--workspace", place.root).code == 1


def test_a_column_that_an_older_version_did_not_write_moves_nothing(place: Workspace) -> None:
    file = find_run("triplet", place) / PREDICTIONS
    pd.read_parquet(file).drop(columns=["identified", "confidence"]).to_parquet(file)
    (rescored,) = rescore_runs(["triplet"], place)
    assert not rescored.photos and not rescored.moved


def test_a_judge_that_was_patched_moves(place: Workspace, cli: Cli) -> None:
    """Predictions and record say that every photo was recognised; the stored scores do not."""
    folder = find_run("triplet", place)
    record, queries = read_record(folder), read_predictions(folder)
    wrong = queries["rank"] > 1
    better = queries.assign(rank=1.0, average_precision_at_5=1.0, top_1=1.0, top_5=1.0)
    better.to_parquet(folder / PREDICTIONS)
    change_record(folder, metrics=record.metrics | {"map_at_5": 1.0, "top_1": 1.0, "top_5": 1.0})
    (rescored,) = json.loads(cli("rescore", "triplet", "--json", "--workspace", place.root).out)
    (moved,) = (row for row in rescored["moved"] if row["metric"] == "map_at_5")
    assert (moved["recorded"], moved["predictions"]) == (1.0, 1.0)
    assert moved["scores"] == pytest.approx(record.metrics["map_at_5"])
    assert rescored["photos"] == queries["image"][wrong].tolist()


def test_predictions_that_alone_were_changed_move(place: Workspace) -> None:
    folder = find_run("triplet", place)
    queries = read_predictions(folder)
    queries.assign(top_5=0.25).to_parquet(folder / PREDICTIONS)
    (rescored,) = rescore_runs(["triplet"], place)
    (moved,) = rescored.moved
    assert (moved["metric"], moved["predictions"]) == ("top_5", 0.25)
    assert moved["recorded"] == moved["scores"] == queries["top_5"].mean()
    assert rescored.photos == queries["image"].tolist()


def test_what_is_no_number_in_an_edited_record_has_moved(place: Workspace) -> None:
    folder = find_run("triplet", place)
    change_record(folder, calibration=read_record(folder).calibration | {"test_ece_before": "1x1"})
    (moved,) = rescore_runs(["triplet"], place)[0].moved
    assert (moved["metric"], moved["recorded"]) == ("calibration test_ece_before", None)
    assert moved["scores"] > 0


def test_what_moved_is_written_where_that_is_asked_for(place: Workspace, cli: Cli) -> None:
    folder = find_run("triplet", place)
    record, queries = read_record(folder), read_predictions(folder)
    change_record(folder, metrics=record.metrics | {"top_1": 0.99})
    queries.assign(confidence=0.5).to_parquet(folder / PREDICTIONS)
    assert cli("rescore", "triplet", "--write", "--workspace", place.root).code == 1
    again = read_record(folder)
    assert again.metrics == record.metrics and again.cmc == record.cmc
    assert any("computed again from its stored scores" in warning for warning in again.warnings)
    pd.testing.assert_frame_equal(read_predictions(folder)[list(queries)], queries)
    assert cli("rescore", "triplet", "--workspace", place.root).code == 0


def test_what_cannot_be_scored_again_is_told(place: Workspace) -> None:
    folder = find_run("triplet", place)
    chosen = read_record(folder).chosen
    change_record(folder, chosen={})
    assert "does not say what was chosen on valid" in rescore_runs(["triplet"], place)[0].problem
    change_record(folder, chosen=dict(chosen))
    queries = read_predictions(folder)
    queries.iloc[::-1].to_parquet(folder / PREDICTIONS)
    assert "is of other photos" in rescore_runs(["triplet"], place)[0].problem
    (folder / SCORES).unlink()
    assert "cannot be read" in rescore_runs(["triplet"], place)[0].problem
    change_record(folder, unfit="tiny has no masks")
    (unfit,) = rescore_runs(["triplet"], place)
    assert not unfit.problem and "tiny has no masks" in unfit.note


def test_a_run_without_scores_is_not_taken_for_a_right_one(place: Workspace, cli: Cli) -> None:
    (find_run("triplet", place) / SCORES).unlink()
    answer = cli("rescore", "--workspace", place.root)
    assert answer.code == 1 and "cannot be read" in answer.out


# --- packed


def report(cli: Cli, root: Path) -> list[bytes]:
    assert cli("report", "--workspace", root).code == 0
    return [(root / "reports" / f"leaderboard.{kind}").read_bytes() for kind in ("md", "csv", "json")]


def opening(place: Workspace, **change: str) -> Opening:
    """An entry of the ledger of the run of triplet, or as the changes say."""
    return Opening.of(read_record(find_run("triplet", place)).model_dump() | change, forced=False)


def test_another_person_prints_the_same_report(place: Workspace, tmp_path: Path, cli: Cli) -> None:
    append(place, opening(place, command=f"{tmp_path}/bin/whalebench run triplet"))
    file = tmp_path / "packed.zip"
    assert cli("bundle", file, "--workspace", place.root).code == 0
    with zipfile.ZipFile(file) as packed:
        packed.extractall(tmp_path / "other")
    names = {
        str(path.relative_to(tmp_path / "other"))
        for path in (tmp_path / "other").rglob("*")
        if path.is_file()
    }
    kept = {f"runs/{run.name}/{name}" for run in place.runs.iterdir() for name in (RECORD, PREDICTIONS)}
    assert names == {"README.md", "ledger.jsonl", "benchmarks/tiny/audit.json", *kept}
    assert report(cli, tmp_path / "other") == report(cli, place.root)


def test_equal_bundles_are_equal_bytes_and_hold_no_path(place: Workspace, tmp_path: Path) -> None:
    folder = find_run("triplet", place)
    change_record(folder, warnings=[f"It was read\nfrom {folder}/x.", "C:\\Users\\ann\\photos\\w.jpg"])
    for name in ("tiny", "big"):
        append(place, opening(place, benchmark=name, command=f"{Path.home()}/run {name}"))
    for name in ("one.zip", "two.zip"):
        write_bundle(tmp_path / name, place, "tiny")
    content = (tmp_path / "one.zip").read_bytes()
    assert content == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert {file.date_time for file in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert not [path for path in (str(tmp_path), str(Path.home()), "Users") if path.encode() in content]
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        said = json.loads(packed.read(f"runs/{folder.name}/{RECORD}"))
        assert said["warnings"] == [f"It was read\nfrom runs/{folder.name}/x.", "w.jpg"]
        assert [json.loads(line)["command"] for line in packed.read("ledger.jsonl").splitlines()] == [
            "run tiny"
        ]


def test_a_damaged_run_is_left_out_and_told(place: Workspace, tmp_path: Path, cli: Cli) -> None:
    (find_run("triplet", place) / RECORD).write_text("{")
    (place.root / "ledger.jsonl").write_text('{"benchmark": "tiny"}\n{"benchm\n3\n')
    answer = cli("bundle", tmp_path / "x.zip", "--workspace", place.root)
    assert answer.code == 0
    assert "Left out: 3 line(s) of " in answer.err
    assert "Left out: " in answer.err and "triplet" in answer.err
    with zipfile.ZipFile(tmp_path / "x.zip") as packed:
        assert not [name for name in packed.namelist() if "triplet" in name]


def test_a_bundle_is_a_zip_or_nothing(
    place: Workspace, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = cli("bundle", tmp_path / "runs.tar", "--workspace", place.root)
    assert answer.code == 2 and "is no .zip: call the bundle runs.zip" in answer.err
    monkeypatch.setattr("whalebench.reports.runs._json", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_bundle(tmp_path / "x.zip", place)
    assert not [file.name for file in tmp_path.iterdir() if ".zip" in file.name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/whales/a.jpg", "a.jpg"),
        ("file:///srv/data/a.jpg", "file:a.jpg"),
        ("~/whales/a.jpg and (/mnt/b/c)", "a.jpg and (c)"),
        ("sqlite:////srv/data/study.db", "sqlite:study.db"),
        ("journal:/srv/data/study.log", "journal:study.log"),
        ("journal:C:/data/study.log", "journal:study.log"),
        (r"\\server\share\photos\a.jpg", "a.jpg"),
        (
            "runs/a/b, 1/2 of 3 / 4, https://example.org/a/b, km/h",
            "runs/a/b, 1/2 of 3 / 4, https://example.org/a/b, km/h",
        ),
    ],
)
def test_of_paths_the_last_part_is_kept(text: str, expected: str) -> None:
    assert without_paths({text: [text, 1, None]}) == {expected: [expected, 1, None]}


# --- damaged files


def test_a_damaged_record_is_told_beside_json_too(place: Workspace, cli: Cli) -> None:
    file = find_run("triplet", place) / RECORD
    file.write_text(file.read_text().replace('"triplet"', '"tripled"', 1))
    for command in ("report", "runs"):
        answer = cli(command, "--json", "--workspace", place.root)
        assert answer.code == 0 and len(json.loads(answer.out)) == 2
        assert f"! {file} differs from its digest" in answer.err


def test_a_damaged_catalog_hides_no_other(place: Workspace, cli: Cli) -> None:
    file = place.benchmarks / "tiny" / "catalog.json"
    file.write_text(file.read_text().replace('"photos": 44', '"photos": 45'))
    rows = {
        row["name"]: row for row in json.loads(cli("benchmarks", "--json", "--workspace", place.root).out)
    }
    assert "differs from its digest" in rows["tiny"]["source"] and "flukes" in rows


def test_a_run_with_a_damaged_file_is_told_by_rescore_and_left_out_of_a_bundle(
    shared_tiny: Workspace, tmp_path: Path
) -> None:
    place = Workspace.open(tmp_path / "place")
    one = min(shared_tiny.runs.iterdir())
    folder = shutil.copytree(one, place.runs / one.name)
    curve, predictions = folder / "curve.csv", folder / PREDICTIONS
    assert rescore_runs([], place)[0].problem == ""
    curve.write_text(curve.read_text() + "spoiled")  # of a run without epochs, too
    assert "curve.csv differs from its digest" in rescore_runs([], place)[0].problem
    write_bundle(tmp_path / "one.zip", place)
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        packed.extractall(tmp_path / "other")
    read_predictions(tmp_path / "other" / "runs" / folder.name)
    predictions.write_bytes(predictions.read_bytes()[:-1] + b"x")
    (left_out,) = write_bundle(tmp_path / "two.zip", place)
    assert left_out.startswith("Left out: ") and "predictions.parquet differs from its digest" in left_out
