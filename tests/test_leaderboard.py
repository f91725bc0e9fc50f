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
from whalebench.benchmarks.core.record import (
    DIAGNOSIS,
    Diagnosis,
    RunRecord,
    read_record,
    write_predictions,
    write_record,
    write_run,
)
from whalebench.reports.document import render
from whalebench.reports.drawings.runs import histogram, reliability
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.summary import summarize
from whalebench.reports.run_report import run_summary
from whalebench.reports.tables import FittedGrid, Grid
from whalebench.reports.wording import percent
from whalebench.reports.writers import (
    to_csv,
    to_json,
    to_markdown,
    to_svg,
    write_reports,
)
from whalebench.tests.ensembling import change_predictions, change_record
from whalebench.tests.pages import page_of

NONE_NEW = 6
"""So many photos `put` makes without one of a new individual."""
KEYS = ("map_at_5", "top_1", "top_5", "log_loss", "auroc_new", "map_at_r")


def put(runs, name, method="arcface", skill=2.0, queries=60, found=None, least=None, **change):
    """A finished run, better with more `skill`; `found` are further columns of its queries."""
    fixed, rng = np.random.default_rng(1), np.random.default_rng(sum(name.encode()))
    names = [f"whale_{number:02d}" for number in range(20)]
    columns, is_new = fixed.integers(20, size=queries), fixed.random(queries) < 0.2
    scores = rng.normal(size=(queries, 20))
    scores[np.arange(queries)[~is_new], columns[~is_new]] += skill
    table = evaluate_queries(
        images=[f"photo_{row}" for row in range(queries)],
        truth=[NEW if one else names[column] for one, column in zip(is_new, columns, strict=True)],
        clusters=[f"{'sea' if one else ''}{column}" for one, column in zip(is_new, columns, strict=True)],
        identities=names,
        scores=scores,
        probabilities=np.exp(scores),
        new_scores=-scores.max(axis=1),
        new_threshold=2.0,
        set_threshold=least,
    ).assign(**found or {})
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


def put_unfit(runs, name, method="bbox", **change):
    """A run that ended with a reason instead of scores."""
    put(runs.parent / "other", name, method, unfit="flukes has no boxes", metrics={}, **change)
    record = read_record(runs.parent / "other" / name)
    write_run(runs / name, lambda folder: write_record(folder, record))


def shown(board, width=80, full=True, notes=True):
    """What a terminal of this width shows."""
    return printed(render(board, full=full, notes=notes), width)


def printed(what, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(what)
    return console.file.getvalue()


def everywhere(board):
    """The board on the terminal, in Markdown and on the page, as plain text with single blanks."""
    page = re.sub(r"<[^>]+>", " ", page_of(board))
    texts = [shown(board, 120), to_markdown(board).replace("\\", "").replace("|", " "), page]
    return [re.sub(r"\s+", " ", text) for text in texts]


def test_the_better_method_is_first_with_an_interval_around_each_number(tmp_path):
    table = put(tmp_path, "good", skill=3.0)
    put(tmp_path, "bad", "softmax", skill=0.3)
    put(tmp_path, "same", "triplet", skill=0.35)
    board = leaderboard(tmp_path)
    assert [one.name for one in board.tables[0].contestants] == ["arcface", "triplet", "softmax"]
    first, second, third = board.rows
    assert (first.record.method, first.seconds) == ("arcface", 120.0)
    assert first.metrics["map_at_5"] > second.metrics["map_at_5"] > third.metrics["map_at_5"]
    # One seed each says nothing of what another seed would have given.
    assert {row.rank for row in board.rows} == {None}
    assert all("No ranks: every contestant was trained with one seed" in text for text in everywhere(board))
    for key, value in summarize(table).items():
        assert first.metrics[key] == pytest.approx(value, nan_ok=True)
        if not math.isnan(value):
            assert first.metrics[f"{key}_low"] <= value <= first.metrics[f"{key}_high"]
    assert math.isnan(first.metrics["map_at_r"]) and math.isnan(first.metrics["map_at_r_low"])


def test_new_individuals_have_a_small_table_where_there_are_any(tmp_path):
    table = put(tmp_path, "one", skill=3.0, queries=120)
    board = leaderboard(tmp_path)
    found = board.rows[0].metrics
    assert found["baks_baus_low"] < found["baks_baus"] < found["baks_baus_high"]
    cells = [
        f"{found[key]:.3f}" for key in ("baks", "baus", *(f"dir_at_far_{share}" for share in (1, 5, 10)))
    ]
    for text in everywhere(board):
        assert "New individuals, fold 0" in text and "DIR: the share of known photos" in text
        assert " ".join(cells) in text
    known = table["truth"] != NEW
    assert found["dir_at_far_10"] <= found["top_1"] + (table["candidate_1"] == NEW)[known].mean()


def test_without_new_individuals_there_is_no_table_of_them(tmp_path):
    put(tmp_path, "one", queries=NONE_NEW)
    board = leaderboard(tmp_path)
    assert board.tables[0].sections[0].new == 0
    assert all("New individuals, fold" not in text and "BAUS is" not in text for text in everywhere(board))


CALIBRATED = {
    "test_log_loss_before": 4.6571,
    "test_log_loss_after": 2.7996,
    "test_ece_before": 0.3686,
    "test_ece_after": None,
    "reliability_before": {"confidence": [0.1, 0.2], "accuracy": [0.5, 1.0], "count": [24, 24]},
    "reliability_after": {"confidence": [0.4, 0.9], "accuracy": [0.5, 1.0], "count": [24, 24]},
}
"""What a record says of its calibration."""


def test_a_metric_that_an_older_record_lacks_is_not_checked_also_where_it_is_undefined(tmp_path):
    """Without candidate sets their coverage is NaN, and a record of that time says nothing of it."""
    put(tmp_path, "older", metrics={"map_at_5": None})
    complained = leaderboard(tmp_path).rows[0].problem
    assert "the record says map_at_5 None" in complained  # what it does say is checked
    change_record(tmp_path / "older", metrics={})
    assert leaderboard(tmp_path).rows[0].problem == ""


def test_calibration_and_lists_have_a_table_with_dashes_for_older_runs(tmp_path):
    table = put(tmp_path, "one", least=0.05, calibration=CALIBRATED)
    put(tmp_path, "older", "softmax")
    put_unfit(tmp_path, "bbox-0")
    board = leaderboard(tmp_path)
    known = table[table["truth"] != NEW]
    size, share = known["set_size_95"].mean(), known["covered_95"].mean()
    for text in everywhere(board):
        assert "Calibration and candidate sets, fold 0" in text and "nearly uniform" in text
        assert f"arcface 0 4.657 2.800 0.369 – {size:.1f} ({share:.0%}".replace("%", " %") in text
        assert "softmax 0 – – – – –" in text
    assert max(map(len, shown(board).splitlines())) <= 80 and "…" not in shown(board)
    rows = {row["run"]: row for row in json.loads(to_json(board))}
    assert rows["one"]["calibration"] == CALIBRATED and rows["older"]["calibration"] == {}
    assert rows["one"]["metrics"]["coverage_95_low"] < share < rows["one"]["metrics"]["coverage_95_high"]
    lines = {line["run"]: line for line in csv.DictReader(io.StringIO(to_csv(board)))}
    assert lines["one"]["calibration_test_log_loss_after"] == "2.7996"
    assert float(lines["one"]["set_size_95"]) == size and lines["older"]["set_size_95"] == ""
    assert not any(name.startswith("calibration_reliability") for name in lines["one"])


def test_whether_probabilities_are_what_they_say_is_drawn(tmp_path):
    put(tmp_path, "one", calibration=CALIBRATED)
    put(tmp_path, "older", "softmax")
    page = page_of(leaderboard(tmp_path))
    drawn = reliability(CALIBRATED, "arcface")
    assert drawn is not None and drawn.text.startswith("ECE 0.369 before calibration, – after.")
    assert page.count(drawn.svg) == page.count("how many answers are right, by confidence</figcaption>") == 2


def test_a_board_of_older_runs_says_nothing_of_calibration(tmp_path):
    table = put(tmp_path, "one")
    later = ["probability", "confidence", "set_size_95", "covered_95"]
    change_predictions(tmp_path / "one", table.drop(columns=later))
    board = leaderboard(tmp_path)
    assert board.rows[0].rank == 1 and math.isnan(board.rows[0].metrics["set_size_95"])
    assert all("Calibration" not in text for text in everywhere(board))
    assert "reliability" not in page_of(board).split("</style>")[1]


def test_what_may_not_be_compared_is_not_ranked_together(tmp_path):
    put(tmp_path, "plain")
    put(tmp_path, "oracle", skill=4.0, oracle=True)
    put(tmp_path, "transductive", transductive=True)
    put(tmp_path, "big", track="big network")
    put(tmp_path, "heads", benchmark="right-whale-heads")
    put(tmp_path, "fold-1", fold=1, queries=50)
    put(tmp_path, "other-split", split_digest="t" * 64, queries=40)
    put(tmp_path, "other-photos", catalog_digest="d" * 64, queries=30)
    put(tmp_path, "later", "softmax", fold=1, queries=50)
    board = leaderboard(tmp_path)
    assert [row.rank for row in board.rows] == [1] * 9  # each alone
    groups = {table.title: [(one.track, one.folds) for one in table.groups] for table in board.tables}
    of_flukes = groups.pop(f"flukes · split {'s' * 8} of catalog {'c' * 8}")
    assert sorted(of_flukes) == [
        ("big network", (0,)),
        ("small network", (0, 1)),
        ("small network", (1,)),
        ("small network, oracle", (0,)),
        ("small network, transductive", (0,)),
    ]
    assert sorted(groups) == [
        f"flukes · split {'s' * 8} of catalog {'d' * 8}",
        f"flukes · split {'t' * 8} of catalog {'c' * 8}",
        "right-whale-heads",
    ]
    assert any("different splits or catalogs" in note for note in board.tables[0].notes)
    assert len(leaderboard(tmp_path, "right-whale-heads").rows) == 1


def test_a_missing_fold_and_a_damaged_run_are_shown(tmp_path):
    put(tmp_path, "arcface-0")
    put(tmp_path, "arcface-1", fold=1)
    put(tmp_path, "softmax-0", "softmax")
    (tmp_path / "torn").mkdir()
    board = leaderboard(tmp_path)
    assert "torn" in shown(board, full=False, notes=False)
    for text in everywhere(board):
        assert "softmax has no finished run on fold 1." in text
        assert "torn" in text or "record.json" in text  # a page of another workspace leaves folders out


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
        change_record(tmp_path / "harmed", metrics={})
        change_predictions(tmp_path / "harmed", table.iloc[:-3])
    rows = {row.record.run: row for row in leaderboard(tmp_path).rows}
    assert rows["harmed"].rank is None and "harmed" in rows["harmed"].problem
    assert math.isnan(rows["harmed"].metrics["map_at_5_low"])
    assert rows["one"].rank == rows["two"].rank == 1  # one contestant
    assert "damaged" in shown(leaderboard(tmp_path), full=False, notes=False)
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
    assert [line["run"] for line in lines] == [row.record.run for row in board.rows]
    assert lines[0]["track"] == "a, b" and lines[0]["map_at_r"] == ""
    assert float(lines[0]["map_at_5_high"]) == board.rows[0].metrics["map_at_5_high"]


def test_reports_are_written_beside_nothing_else(tmp_path):
    put(tmp_path / "runs", "one")
    files, problems = write_reports(leaderboard(tmp_path / "runs"), tmp_path / "reports")
    assert problems == []
    assert [file.name for file in files] == ["leaderboard.md", "leaderboard.csv", "leaderboard.json"]
    assert sorted((tmp_path / "reports").iterdir()) == sorted(files)
    assert files[0].read_text().count("| A – | arcface |") == 2


def test_reports_go_where_they_are_asked_to_go(tmp_path):
    put(tmp_path / "runs", "one")
    board = leaderboard(tmp_path / "runs")
    more = {"csv_file": tmp_path / "b" / "b.csv", "svg": tmp_path / "c.svg"}
    page = tmp_path / "a.html", "<!doctype html>"
    written, _ = write_reports(board, tmp_path / "reports", page=page, **more)
    assert written[3:] == [page[0], *more.values()]
    assert page[0].read_text() == page[1] and more["csv_file"].read_text() == to_csv(board)
    assert more["svg"].read_text() == to_svg(board)


def test_where_the_reports_cannot_go_is_said_and_the_others_are_written(tmp_path):
    put(tmp_path / "runs", "one")
    (tmp_path / "reports").write_text("in the way")
    board = leaderboard(tmp_path / "runs")
    written, (problem,) = write_reports(board, tmp_path / "reports", csv_file=tmp_path / "a.csv")
    assert written == [tmp_path / "a.csv"]
    assert problem.startswith("The reports were not written into the workspace: ")
    with pytest.raises(WhalebenchError, match="cannot be written"):
        write_reports(board, tmp_path / "reports", csv_file=tmp_path / "reports" / "a.csv")


def test_the_terminal_shows_every_digit_in_80_columns(tmp_path):
    put(tmp_path, "one", "a-method-with-a-long-name")
    put(tmp_path, "two", "softmax", skill=1.0)
    board = leaderboard(tmp_path)
    text = shown(board)
    first = board.rows[0].metrics
    value = f"{first['map_at_5']:.3f}"
    interval = f"[{first['map_at_5_low']:.2f}, {first['map_at_5_high']:.2f}]"
    assert value in text and interval in text
    assert f"{value} {interval}" in shown(board, 120)
    assert "2.0 min" in text and "…" not in text and max(map(len, text.splitlines())) <= 80
    assert "all at once with 95 % confidence" in " ".join(text.split())


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (40, ["method                    MAP@5", "happywhale-26th  0.8 [0.7, 0.9]"]),
        (30, ["method                MAP@5", "                        0.8", "happywhale-26th  [0.7, 0.9]"]),
        (20, ["method         MAP@5", "happywha         0.8", "le-26th   [0.7, 0.9]"]),
    ],
)
def test_names_stay_whole_in_a_narrow_window_and_intervals_go_below(width, lines):
    grid = Grid("", ("method", "MAP@5"), (("happywhale-26th", "0.8 [0.7, 0.9]"),))
    said = printed(FittedGrid(grid), width).splitlines()
    assert [line.rstrip() for line in said if "─" not in line] == lines


def test_runs_of_one_method_and_seed_are_told_apart_by_name(tmp_path):
    put(tmp_path, "wide-margin")
    assert "wide-margin" not in shown(leaderboard(tmp_path), 120)
    put(tmp_path, "narrow-margin", created="2026-11-24T12:00:00+00:00")
    assert "wide-margin" in shown(leaderboard(tmp_path), 120)


def test_ensembles_with_and_without_an_option_are_two_contestants(tmp_path):
    pairs = {"method": "ensemble", "members": ["one", "two"]}
    put(tmp_path, "plain-0", **pairs, config={"rule": "pairs"})
    put(tmp_path, "plain-1", **pairs, config={"rule": "pairs"}, fold=1)
    put(tmp_path, "local-0", **pairs, config={"rule": "pairs", "local_matches": True}, skill=3.0)
    text = shown(leaderboard(tmp_path), 120)
    assert "ensemble local_matches=true" in text and "ensemble local_matches=none" in text


def test_marks_in_names_stay_text(tmp_path):
    put(tmp_path, "one", "a|b[bold]<script>&")
    board = leaderboard(tmp_path)
    page = page_of(board)
    assert page.count("<script>") == 1 and "a|b[bold]&lt;script&gt;&amp;" in page  # its own
    assert "a\\|b\\[bold\\]\\<script>&" in to_markdown(board)
    assert "a|b[bold]<script>&" in shown(board, 120)


def test_the_page_needs_no_network_and_draws_each_interval(tmp_path):
    for name in ("one", "two"):
        put(tmp_path / "runs", name, name)
    text = page_of(leaderboard(tmp_path / "runs"))
    assert not re.search(r"https?:|\ssrc=|@import|url\(", text)
    # In the main table and in that of the runs.
    assert text.count('<rect class="dot"') == 4 and "prefers-color-scheme: dark" in text


def test_the_picture_fetches_nothing_and_says_what_the_table_says(tmp_path):
    put(tmp_path / "runs", "one")
    board = leaderboard(tmp_path / "runs")
    text = to_svg(board)
    assert "url(http" not in text and "@font-face" not in text
    assert f">{board.rows[0].metrics['top_1']:.3f}<" in text and ">arcface<" in text
    assert text == to_svg(board)


def test_reports_never_import_torch():
    names = ("leaderboard", "metrics", "writers")
    code = f"import sys; {'; '.join(f'import whalebench.reports.{name}' for name in names)}; "
    code += "print(sorted({'torch', 'timm', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_method_that_does_not_fit_is_a_row_with_a_reason_and_no_gap(tmp_path):
    runs = tmp_path / "runs"
    for fold in (0, 1):
        put(runs, f"arcface-{fold}", fold=fold)
    put_unfit(runs, "bbox-0", counts={"test_photos": 60, "test_new_photos": 9})
    board = leaderboard(runs)
    row = next(row for row in board.rows if row.record.method == "bbox")
    assert row.rank is None and row.problem == "" and row.record.unfit == "flukes has no boxes"
    assert board.tables[0].notes == () and board.tables[0].contestants[-1].rows == (row,)
    for text in everywhere(board):
        assert "bbox does not fit: flukes has no boxes." in text
        assert re.search(r"– bbox (0 )?0 does not fit – – – – –", text)  # the page has a column of folds
    said = next(row for row in json.loads(to_json(board)) if row["method"] == "bbox")
    assert said["unfit"] == "flukes has no boxes"
    assert {f"{key}{end}" for key in KEYS for end in ("", "_low", "_high")} <= set(said["metrics"])
    assert set(said["metrics"].values()) == {None}
    line = next(line for line in csv.DictReader(io.StringIO(to_csv(board))) if line["method"] == "bbox")
    assert line["map_at_5"] == "" and line["unfit"] == "flukes has no boxes"


def test_a_fold_where_nothing_fits_knows_its_photos_from_the_record(tmp_path):
    put_unfit(tmp_path / "runs", "bbox-0", counts={"test_photos": 60, "test_new_photos": 9})
    board = leaderboard(tmp_path / "runs")
    assert (board.tables[0].sections[0].queries, board.tables[0].sections[0].new) == (60, 9)
    assert "<circle" not in page_of(board) and "bbox does not fit" in page_of(board)


def test_the_summary_of_a_run_says_how_animals_were_found_or_why_it_does_not_fit(tmp_path):
    found = {"box_iou_mean": 0.873, "photos": 60, "fallback": 3, "mask_iou_mean": None}
    points = {"landmark_error_median": 0.0512, "landmark_error_p90": 0.113, "landmark_pixels_median": 8.06}
    valid = {"map_at_5": 0.5}
    put(tmp_path / "runs", "one", location={"test": found, "valid": points}, valid_metrics=valid)
    text = printed(run_summary(read_record(tmp_path / "runs" / "one"), tmp_path / "runs"), 120)
    assert "box IoU 0.87 mean; mask IoU – mean; 3 of 60 photos fell back to the whole photo" in text
    assert "landmark error 5.1 % median (8.1 pixels), 11 % p90\n" in re.sub(r" +\n", "\n", text)
    put_unfit(tmp_path / "runs", "two")
    text = printed(run_summary(read_record(tmp_path / "runs" / "two"), tmp_path / "runs"), 120)
    assert "does not fit" in text and "flukes has no boxes" in text and "MAP@5" not in text


def test_how_well_animals_were_found_is_a_table_and_a_histogram(tmp_path):
    errors = np.r_[np.linspace(0.0, 0.2, 59), 4.0]
    ious = np.r_[np.full(30, 0.9), np.full(15, 0.5), np.full(15, np.nan)]
    boxes = {"box_iou_mean": 0.7667, "photos": 60, "fallback": 3}
    points = {"landmark_error_median": 0.1, "landmark_error_p90": 0.18, "photos": 60}
    put(tmp_path, "one", "bbox", found={"box_iou": ious}, location={"test": boxes})
    put(tmp_path, "two", "aligned", found={"landmark_error": errors}, location={"test": points})
    put(tmp_path, "three", "softmax")
    board = leaderboard(tmp_path)
    for text in everywhere(board):
        assert "How well the animals were found, fold 0" in text
        assert re.search(r"bbox 0 0\.767 – – 3 of 60", text)
        assert re.search(r"aligned 0 – 10 % 18 % –", text)
    page = page_of(board)
    overlaps = histogram("box_iou", ious[~np.isnan(ious)], "bbox")
    distances = histogram("landmark_error", errors, "aligned")
    assert overlaps.svg in page and distances.svg in page
    assert overlaps.text == "Mean 0.77 of 45 photos."
    median, limit = percent(np.median(errors)), percent(np.quantile(errors, 0.99))
    assert distances.text == f"Median {median} of 60 photos, 1 beyond."
    assert f"{limit}, 1 beyond</text>" in page
    (lines,) = [line for line in csv.DictReader(io.StringIO(to_csv(board))) if line["run"] == "one"]
    assert lines["location_box_iou_mean"] == "0.7667" and lines["location_landmark_error_p90"] == ""


def test_what_a_score_rests_on_is_shown_beside_it(tmp_path):
    put(tmp_path, "one")
    put(tmp_path, "two", "softmax")
    assert all("no background" not in text for text in everywhere(leaderboard(tmp_path)))
    score = {"test": 0.7, "without_background": 0.65, "without_animal": 0.031, "mirrored": None}
    facts = {"chance": {}, "photos": {"test": 60}, "region": "box", "created": "2026-11-23T12:00:00+00:00"}
    found = Diagnosis.model_validate(facts | {"map_at_5": score | {"chance": 0.03, "annotated": 0.7}})
    write_record(tmp_path / "one", found, DIAGNOSIS)
    board = leaderboard(tmp_path)
    for text in everywhere(board):
        assert re.search(r"tested (no )?background (no )?animal chance", text)  # on two lines, or on one
        assert "arcface 0 0.700 0.650 0.031 0.030 " in text and "mirrored" in text
    said = {row["run"]: row["diagnosis"] for row in json.loads(to_json(board))}
    assert said["two"] is None and said["one"]["without_animal"] == 0.031 and said["one"]["mirrored"] is None
    write_record(
        tmp_path / "one", found.model_copy(update={"map_at_5": score | {"annotated": 0.72}}), DIAGNOSIS
    )
    assert all("0.700 0.720 0.650" in text for text in everywhere(leaderboard(tmp_path)))


def test_a_damaged_diagnosis_costs_no_rank(tmp_path):
    put(tmp_path, "one")
    (tmp_path / "one" / DIAGNOSIS).write_text("{")
    board = leaderboard(tmp_path)
    assert board.rows[0].rank == 1 and board.rows[0].diagnosis is None
    assert "diagnosis.json is not JSON" in board.rows[0].problem
    assert all("diagnosis.json" in text for text in everywhere(board))


def test_runs_of_one_method_are_told_apart_by_the_settings_in_which_they_differ(tmp_path):
    base = {"crop": "none", "epochs": 30, "size": [96, 96], "localizer": {"epochs": 20, "rate": None}}
    box = base | {"crop": "box", "localizer": {"epochs": 40, "rate": None}}
    put(tmp_path, "whole", "softmax", config=base)
    put(tmp_path, "box", "softmax", config=box)
    put(tmp_path, "older", "softmax", config={key: base[key] for key in ("epochs", "size")} | {"grid": 3})
    put(tmp_path, "alone", "bbox", config=box)
    names = {row.record.run: row.contestant for row in leaderboard(tmp_path).rows}
    assert names == dict.fromkeys(("whole", "box", "older"), "softmax") | {"alone": "bbox"}
    (tmp_path / "older").rename(tmp_path / ".older")
    names = {row.record.run: row.contestant for row in leaderboard(tmp_path).rows}
    assert (names["whole"], names["box"]) == ("softmax crop=none", "softmax crop=box")
    assert names["alone"] == "bbox"
    put(tmp_path, "longer", "softmax", config=box | {"localizer": {"epochs": 60, "rate": None}})
    names = {row.record.run: row.contestant for row in leaderboard(tmp_path).rows}
    assert names["longer"] == "softmax crop=box localizer.epochs=60"
    assert names["whole"] == "softmax crop=none localizer.epochs=20"
