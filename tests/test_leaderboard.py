"""The board of a small workspace: what is ranked together, what is shown missing, and what is written."""

import csv
import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from whalebench import WhalebenchError
from whalebench.benchmarks.record import RunRecord, write_predictions, write_record, write_run
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics import NEW, judge_queries, summarize
from whalebench.reports.page import to_html, write_html
from whalebench.reports.terminal import render, render_svg, to_svg
from whalebench.reports.writers import to_csv, to_json, to_markdown, write_reports

KEYS = ("map_at_5", "top_1", "top_5", "log_loss", "auroc_new", "map_at_r")


def put(runs, name, method="arcface", skill=2.0, queries=60, **change):
    """A finished run, its scores the better the higher `skill`."""
    fixed, rng = np.random.default_rng(1), np.random.default_rng(sum(name.encode()))
    names = [f"whale_{number:02d}" for number in range(20)]
    columns, is_new = fixed.integers(20, size=queries), fixed.random(queries) < 0.2
    scores = rng.normal(size=(queries, 20))
    scores[np.arange(queries)[~is_new], columns[~is_new]] += skill
    table = judge_queries(
        images=[f"photo_{row}" for row in range(queries)],
        truth=[NEW if one else names[column] for one, column in zip(is_new, columns, strict=True)],
        clusters=[f"{'sea' if one else ''}{column}" for one, column in zip(is_new, columns, strict=True)],
        identities=names,
        scores=scores,
        probabilities=np.exp(scores),
        new_scores=-scores.max(axis=1),
        new_threshold=2.0,
    )
    facts = {
        "run": name,
        "method": method,
        "config": {},
        "benchmark": "flukes",
        "catalog_digest": "c" * 64,
        "split_digest": "s" * 64,
        "fold": 0,
        "seed": 0,
        "track": "small network",
        "created": "2026-11-23T12:00:00+00:00",
        "environment": {},
        "hardware": {},
        "seconds": {"train": 100.0, "score": 20.0},
        "photos_per_second": 300.0,
        "counts": {},
        "metrics": summarize(table),
        "valid_metrics": {},
        "cmc": [],
    }

    def fill(folder):
        write_predictions(folder, table)
        write_record(folder, RunRecord.model_validate(facts | change))

    write_run(runs / name, fill)
    return table


def shown(board, width=80):
    """What a terminal of this width shows."""
    console = Console(width=width, file=io.StringIO())
    console.print(render(board))
    return console.file.getvalue()


def test_the_better_method_is_first_with_an_interval_around_each_number(tmp_path):
    table = put(tmp_path, "good", skill=3.0)
    put(tmp_path, "bad", "softmax", skill=0.3)
    put(tmp_path, "same", "triplet", skill=0.35)
    first, second, third = leaderboard(tmp_path).rows
    assert (first.rank, first.method, first.seconds) == (1, "arcface", 120.0)
    assert (second.rank, third.rank) == (2, 2)
    for key, value in summarize(table).items():
        assert first.metrics[key] == pytest.approx(value, nan_ok=True)
        if not math.isnan(value):
            assert first.metrics[f"{key}_low"] <= value <= first.metrics[f"{key}_high"]
    assert math.isnan(first.metrics["map_at_r"]) and math.isnan(first.metrics["map_at_r_low"])


def test_what_may_not_be_compared_is_not_ranked_together(tmp_path):
    put(tmp_path, "plain")
    put(tmp_path, "oracle", skill=4.0, oracle=True)
    put(tmp_path, "transductive", transductive=True)
    put(tmp_path, "big", track="big network")
    put(tmp_path, "heads", benchmark="right-whale-heads")
    put(tmp_path, "fold-1", fold=1, queries=50)
    put(tmp_path, "other-split", split_digest="t" * 64, queries=40)
    put(tmp_path, "other-photos", catalog_digest="d" * 64, queries=30)
    board = leaderboard(tmp_path)
    assert [row.rank for row in board.rows] == [1] * 8 and len(board.tables) == 5
    plain = next(table for table in board.tables if {"plain", "fold-1"} <= _runs(table))
    assert len(plain.sections) == 4 and [section.fold for section in plain.sections] == [0, 0, 0, 1]
    assert any("different splits or catalogs" in note for note in plain.notes)
    assert len(leaderboard(tmp_path, "right-whale-heads").rows) == 1


def _runs(table):
    return {row.run for section in table.sections for row in section.rows}


def test_a_missing_fold_and_a_damaged_run_are_shown(tmp_path):
    put(tmp_path, "arcface-0")
    put(tmp_path, "arcface-1", fold=1)
    put(tmp_path, "softmax-0", "softmax")
    (tmp_path / "torn").mkdir()
    board = leaderboard(tmp_path)
    texts = [re.sub(r"\s+", " ", text) for text in (shown(board), to_markdown(board), to_html(board))]
    for text in texts:
        assert "softmax has no finished run on fold 1." in text and "torn" in text


@pytest.mark.parametrize("harm", ["lost", "not parquet", "other columns", "changed", "fewer photos"])
def test_a_run_without_predictions_to_trust_has_a_row_but_no_rank(tmp_path, harm):
    for name in ("one", "two"):
        put(tmp_path, name)
    table = put(tmp_path, "harmed", "softmax", skill=5.0)
    file = tmp_path / "harmed" / "predictions.parquet"
    file.unlink()
    if harm == "not parquet":
        file.write_text("no parquet")
    if harm == "other columns":
        table.drop(columns="log_loss").to_parquet(file)
    if harm == "changed":
        table.assign(top_1=1.0).to_parquet(file)
    if harm == "fewer photos":
        record = json.loads((tmp_path / "harmed" / "record.json").read_text())
        record["metrics"] = {}
        (tmp_path / "harmed" / "record.json").write_text(json.dumps(record))
        table.iloc[:-3].to_parquet(file)
    rows = {row.run: row for row in leaderboard(tmp_path).rows}
    assert rows["harmed"].rank is None and "harmed" in rows["harmed"].problem
    assert math.isnan(rows["harmed"].metrics["map_at_5_low"])
    assert rows["one"].rank == rows["two"].rank == 1
    assert rows["harmed"].problem.split(":")[0] in to_markdown(leaderboard(tmp_path)).replace("\\", "")


def test_nothing_finished_says_what_to_type(tmp_path):
    with pytest.raises(WhalebenchError, match="type `whalebench run arcface --fold 0` first"):
        leaderboard(tmp_path / "absent")
    put(tmp_path, "one")
    with pytest.raises(WhalebenchError, match="did you mean 'flukes'"):
        leaderboard(tmp_path, "fluks")
    with pytest.raises(WhalebenchError, match="there are runs of flukes"):
        leaderboard(tmp_path, "leopards")


def test_json_has_the_agreed_keys_and_null_for_undefined(tmp_path):
    put(tmp_path, "one", seed=3)
    text = to_json(leaderboard(tmp_path))
    (row,) = json.loads(text)
    assert "NaN" not in text
    names = ("rank", "method", "benchmark", "track", "fold", "seed", "run")
    assert [row[name] for name in names] == [1, "arcface", "flukes", "small network", 0, 3, "one"]
    assert {f"{key}{end}" for key in KEYS for end in ("", "_low", "_high")} <= set(row["metrics"])
    assert (
        row["metrics"]["map_at_r"] is None and 0 < row["metrics"]["map_at_5_low"] < row["metrics"]["map_at_5"]
    )


def test_csv_has_a_line_a_run_and_empty_cells_for_undefined(tmp_path):
    put(tmp_path, "one", track="a, b")
    put(tmp_path, "two", "softmax", track="a, b")
    board = leaderboard(tmp_path)
    lines = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert [line["run"] for line in lines] == [row.run for row in board.rows]
    assert lines[0]["track"] == "a, b" and lines[0]["map_at_r"] == ""
    assert float(lines[0]["map_at_5_high"]) == board.rows[0].metrics["map_at_5_high"]


def test_reports_are_written_beside_nothing_else(tmp_path):
    put(tmp_path / "runs", "one")
    files = write_reports(leaderboard(tmp_path / "runs"), tmp_path / "reports")
    assert [file.name for file in files] == ["leaderboard.md", "leaderboard.csv", "leaderboard.json"]
    assert sorted((tmp_path / "reports").iterdir()) == sorted(files)
    assert files[0].read_text().count("| 1 | arcface | 0 |") == 1


def test_reports_go_where_they_are_asked_to_go(tmp_path):
    put(tmp_path / "runs", "one")
    board = leaderboard(tmp_path / "runs")
    more = {"html": tmp_path / "a.html", "csv_file": tmp_path / "b" / "b.csv", "svg": tmp_path / "c.svg"}
    assert write_reports(board, tmp_path / "reports", **more)[3:] == list(more.values())
    assert more["html"].read_text() == to_html(board) and more["csv_file"].read_text() == to_csv(board)
    assert more["svg"].read_text() == to_svg(board)


def test_the_terminal_shows_every_digit_in_80_columns(tmp_path):
    put(tmp_path, "one", "a-method-with-a-long-name")
    put(tmp_path, "two", "softmax", skill=1.0)
    board = leaderboard(tmp_path)
    text = shown(board)
    first = board.rows[0].metrics
    assert f"{first['map_at_5']:.3f} [{first['map_at_5_low']:.2f}, {first['map_at_5_high']:.2f}]" in text
    assert "2.0 min" in text and "…" not in text and max(map(len, text.splitlines())) <= 80
    assert "10,000 resamples" in text and "share a rank" in text


def test_runs_of_one_method_and_seed_are_told_apart_by_name(tmp_path):
    put(tmp_path, "wide-margin")
    assert "wide-margin" not in shown(leaderboard(tmp_path), 120)
    put(tmp_path, "narrow-margin")
    assert "wide-margin" in shown(leaderboard(tmp_path), 120)


def test_marks_in_names_stay_text(tmp_path):
    put(tmp_path, "one", "a|b[bold]<script>&")
    board = leaderboard(tmp_path)
    assert "<script>" not in to_html(board) and "a|b[bold]&lt;script&gt;&amp;" in to_html(board)
    assert "a\\|b\\[bold\\]\\<script>&" in to_markdown(board)
    assert "a|b[bold]<script>&" in shown(board, 120)


def test_the_page_needs_no_network_and_draws_each_interval(tmp_path):
    for name in ("one", "two"):
        put(tmp_path / "runs", name, name)
    text = write_html(leaderboard(tmp_path / "runs"), tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|src=|@import|url\(", text)
    assert text.count("<circle") == 2 and "prefers-color-scheme: dark" in text


def test_the_picture_fetches_nothing_and_says_what_the_table_says(tmp_path):
    put(tmp_path / "runs", "one")
    board = leaderboard(tmp_path / "runs")
    text = render_svg(board, tmp_path / "board.svg").read_text()
    assert "url(http" not in text and "@font-face" not in text
    assert f">{board.rows[0].metrics['top_1']:.3f}<" in text and ">arcface<" in text
    edges = {  # numbers stand under the right end of their titles
        shown: float(x) + float(length)
        for x, length, shown in re.findall(r'x="([\d.]+)"[^>]*textLength="([\d.]+)"[^>]*>([^<]+)<', text)
    }
    assert edges["rank"] == pytest.approx(edges["1"]) and edges["time"] == pytest.approx(edges["2.0\xa0min"])
    assert text == render_svg(board, tmp_path / "again.svg").read_text()


def test_reports_never_import_torch():
    names = ("leaderboard", "metrics", "page", "statistics", "terminal", "writers")
    code = f"import sys; {'; '.join(f'import whalebench.reports.{name}' for name in names)}; "
    code += "print(sorted({'torch', 'timm', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
