"""The board as a hostile reviewer reads it: who is pooled, what is on a floor, what leaks, what is hidden."""

import csv
import io
import json
import re
import subprocess
import sys
from html import unescape

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from whalebench.benchmarks.core.ledger import Opening, append
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.board import CONSTANT, UNIFORM
from whalebench.reports.document import render
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.many_runs import board_json
from whalebench.reports.metrics.ranking import constant_answer, uniform_guess
from whalebench.reports.metrics.summary import summarize
from whalebench.reports.tracks import contestants
from whalebench.reports.writers import (
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    to_svg,
)
from whalebench.tests.pages import page_of
from whalebench.tests.synthetic_runs import fill_workspace, put, queries_of, ranks, record, usage

QUERIES, INDIVIDUALS = 300, 60


def add(place, name, method="arcface", skill=0.0, fold=0, seed=0, queries=QUERIES, **change):
    """A run in the workspace, and its per-query table."""
    table = queries_of(ranks(skill, fold, seed, queries=queries, individuals=INDIVIDUALS), fold, INDIVIDUALS)
    put(place / "runs", record(name, method, fold=fold, seed=seed, **change), table)
    return table


def printed(board, width=80, **options):
    console = Console(width=width, file=io.StringIO())
    console.print(render(board, **options))
    return console.file.getvalue()


def plain_text(text):
    """Without mark-up, and with single blanks."""
    text = unescape(re.sub(r"<[^>]+>", " ", text)).replace("--", "–")
    return re.sub(r"\s+", " ", text.replace("\\", "").replace("|", " "))


def everywhere(board):
    """What each format for people says, as plain text."""
    texts = {"terminal": printed(board, 130), "markdown": to_markdown(board), "page": page_of(board)}
    # The picture has no-break spaces, the table in LaTeX its own signs.
    texts |= {"picture": to_svg(board).replace("&#160;", " ").replace("\xa0", " ")}
    texts |= {"latex": to_latex(board).replace("&", " ").replace("{[}", "[").replace("{]}", "]")}
    return {name: plain_text(text) for name, text in texts.items()}


def of(board, name):
    return next(one for one in board.tables[0].contestants if one.name == name)


def test_seeds_of_one_method_are_one_contestant_with_one_rank(tmp_path):
    for seed in range(4):
        add(tmp_path, f"softmax-{seed}", "softmax", seed=seed)
        add(tmp_path, f"arcface-{seed}", skill=1.0, seed=seed)
    board = leaderboard(tmp_path / "runs")
    first, second = board.tables[0].contestants
    assert (first.name, first.seeds, second.name, second.seeds) == ("arcface", (4, 4), "softmax", (4, 4))
    for one, rank in ((first, 1), (second, 2)):
        assert {(row.rank_low, row.rank_high) for row in one.rows} == {(rank, rank)}
        assert {row.probability_best for row in one.rows} == {one.standing.probability_best}
        own = [row.metrics["map_at_5"] for row in one.rows]
        assert one.standing.value == pytest.approx(np.mean(own)) and len(set(own)) == 4
        assert one.mean("top_1") == pytest.approx(np.mean([row.metrics["top_1"] for row in one.rows]))
    rows = json.loads(to_json(board))
    assert {row["run"]: row["rank"] for row in rows if row["method"] == "softmax"} == {
        f"softmax-{seed}": 2 for seed in range(4)
    }


def test_equal_methods_share_every_rank(tmp_path):
    for method in "abcdef":
        for seed in range(2):
            add(tmp_path, f"{method}{seed}", method, seed=10 * ord(method) + seed)
    (table,) = leaderboard(tmp_path / "runs").tables
    assert {(one.standing.rank_low, one.standing.rank_high) for one in table.contestants} == {(1, 6)}


def test_without_a_second_seed_of_anybody_there_is_an_order_and_no_rank(tmp_path):
    add(tmp_path, "good", skill=2.0)
    add(tmp_path, "bad", "softmax")
    board = leaderboard(tmp_path / "runs")
    assert [one.name for one in board.tables[0].contestants] == ["arcface", "softmax"]
    assert {row["rank_low"] for row in json.loads(to_json(board))} == {None}
    for text in everywhere(board).values():
        assert "A – arcface" in text and "No ranks: every contestant was trained with one seed" in text
    add(tmp_path, "good-1", skill=2.0, seed=1)
    assert None not in {row.rank for row in leaderboard(tmp_path / "runs").rows}


def test_of_two_equal_runs_the_newer_one_counts(tmp_path):
    add(tmp_path, "old", skill=-1.0)
    add(tmp_path, "new", skill=1.0, created="2026-11-25T12:00:00+00:00")
    (one,) = leaderboard(tmp_path / "runs").tables[0].contestants
    newer = next(row for row in one.rows if row.record.run == "new")
    assert one.standing.value == pytest.approx(newer.metrics["map_at_5"]) and one.seeds == (1, 1)


def test_contestants_of_other_folds_or_tracks_are_never_ranked_together(tmp_path):
    for fold in (0, 1):
        for seed in (0, 1):
            add(tmp_path, f"a{fold}{seed}", "a", skill=1.0, fold=fold, seed=seed)
            add(tmp_path, f"b{fold}{seed}", "b", fold=fold, seed=seed)
    add(tmp_path, "c00", "c", skill=3.0)
    add(tmp_path, "d00", "d", skill=-2.0, track="another track", usage=None)
    (table,) = leaderboard(tmp_path / "runs").tables
    lines = [(one.name, one.group.letter, one.folds, one.standing.rank_low) for one in table.contestants]
    assert lines == [("c", "A", (0,), 1), ("a", "B", (0, 1), 1), ("b", "B", (0, 1), 2), ("d", "C", (0,), 1)]
    value, rows = (
        of(leaderboard(tmp_path / "runs"), "a").standing.value,
        of(leaderboard(tmp_path / "runs"), "a").newest,
    )
    means = [np.mean([row.metrics["map_at_5"] for row in seeds.values()]) for seeds in rows.values()]
    assert value == pytest.approx(np.mean(means))


def test_runs_of_other_code_are_no_further_seeds(tmp_path):
    for seed, code in ((0, "1a2b3c4d99"), (1, "1a2b3c4d99"), (2, "5e6f7a8b99"), (3, "")):
        add(tmp_path, f"run-{seed}", seed=seed, code_digest=code)
    add(tmp_path, "other", "softmax", code_digest="5e6f7a8b99")
    board = leaderboard(tmp_path / "runs")
    names = {one.name: one.seeds for one in board.tables[0].contestants}
    assert names == {
        "arcface (code 1a2b3c4d)": (2, 2),
        "arcface (code 5e6f7a8b)": (1, 1),
        "arcface (code not recorded)": (1, 1),
        "softmax": (1, 1),
    }
    assert all("arcface (code 1a2b3c4d)" in text for text in everywhere(board).values())
    records = [row.record for row in board.rows]
    named = contestants(records)
    assert {row["contestant"] for row in json.loads(to_json(board))} == set(named.values()) == set(names)


def test_a_path_in_a_name_is_its_last_part_where_that_is_enough(tmp_path):
    for name, weights in (("a", "/data/ann/one.pt"), ("b", "/data/bob/two.pt"), ("c", "none")):
        add(tmp_path, name, config={"pretrained": weights})
    names = {one.name for one in leaderboard(tmp_path / "runs").tables[0].contestants}
    assert names == {"arcface pretrained=one.pt", "arcface pretrained=two.pt", "arcface pretrained=none"}
    add(tmp_path, "d", config={"pretrained": "/data/bob/one.pt"})
    names = {one.name for one in leaderboard(tmp_path / "runs").tables[0].contestants}
    assert "arcface pretrained=/data/bob/one.pt" in names and len(names) == 4


def test_floors_are_those_a_reader_computes_by_hand(tmp_path):
    table = add(tmp_path, "one", constant_answer=["new", "whale_001"], counts={"identities": 60})
    board = leaderboard(tmp_path / "runs")
    floors = {floor.name: floor for floor in board.tables[0].floors}
    worth = [1.0 if truth == "new" else 0.5 if truth == "whale_001" else 0.0 for truth in table["truth"]]
    assert floors[CONSTANT].map_at_5 == pytest.approx(np.mean(worth))
    assert floors[CONSTANT].top_1 == pytest.approx((table["truth"] == "new").mean())
    known = [value for value, truth in zip(worth, table["truth"], strict=True) if truth != "new"]
    assert floors[CONSTANT].map_at_5_known == pytest.approx(np.mean(known))
    assert floors[UNIFORM].map_at_5 == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 61)
    assert floors[UNIFORM].log_loss == pytest.approx(np.log(60)) and floors[UNIFORM].top_1 == 1 / 61
    (row,) = json.loads(to_json(board))
    assert row["floor_map_at_5"] == pytest.approx(np.mean(worth))
    for text in everywhere(board).values():
        assert f"constant answer (floor) {np.mean(worth):.3f}" in text
        assert "– uniform guess (floor) 0.037" in text


def test_a_uniform_guess_is_worth_what_random_orders_are_worth():
    rng, truth = np.random.default_rng(0), ["a", "c"]
    orders = [rng.permutation(["a", "b", "c"]).tolist() for _ in range(20_000)]
    drawn = np.mean([[1 / (1 + order.index(one)) for one in truth] for order in orders], axis=0)
    assert uniform_guess(truth, 3, new_is_candidate=False) == pytest.approx(drawn, abs=0.01)
    assert uniform_guess(["new"], 3, new_is_candidate=False).tolist() == [0.0]
    assert constant_answer(["a", "f"], list("bcdefa")).tolist() == [0.0, 0.2]  # the sixth counts no more


@pytest.mark.parametrize("harm", ["floor", "untrained"])
def test_a_run_that_does_no_better_than_a_floor_says_so(tmp_path, harm):
    easy = ["new", *(f"whale_{one:03d}" for one in range(4))]
    for seed in range(2):
        add(tmp_path, f"bad-{seed}", "siamese", skill=-2.5, seed=seed, constant_answer=easy)
        add(tmp_path, f"good-{seed}", skill=2.5, seed=seed, constant_answer=easy)
    if harm == "untrained":
        add(tmp_path, "none", "softmax", skill=-2.0, constant_answer=[], usage=usage(photos_seen=0))
    board = leaderboard(tmp_path / "runs")
    said = "untrained" if harm == "untrained" else "constant answer"
    for text in everywhere(board).values():
        assert re.search(r"siamese (†|dag)", text) and not re.search(r"arcface (†|dag)", text)
        assert "No better than a floor" in text
        assert re.search(r"siamese(,|\.)", text.split("No better than a floor (")[1])
    if harm == "untrained":
        one = of(board, "softmax")
        assert one.untrained and one.group is None and one.standing.rank_low is None
        assert f"softmax ({said})" in printed(board, 130)
        assert {row.rank for row in board.rows if row.record.method == "softmax"} == {None}


def test_methods_that_learn_nothing_or_bring_weights_are_no_floor(tmp_path):
    sift = usage(photos_seen=0, parameters=0)
    add(tmp_path, "sift", "sift", usage=sift)
    add(tmp_path, "zero", "zero-shot", usage=usage(photos_seen=0, weights={"net": "a" * 64}))
    assert [one.untrained for one in leaderboard(tmp_path / "runs").tables[0].contestants] == [False, False]


def test_a_log_loss_above_the_uniform_guess_is_flagged(tmp_path):
    add(tmp_path, "one", counts={"identities": 2})
    add(tmp_path, "two", counts={"identities": 2}, fold=1)
    board = leaderboard(tmp_path / "runs")
    assert of(board, "arcface").mean("log_loss") > np.log(2)
    for text in everywhere(board).values():
        assert re.search(r"\d\.\d{3} ?(‡|ddag)", text)
        assert "Log loss above the uniform guess's: arcface." in text


def test_warnings_of_split_and_run_are_in_every_format_with_whom_they_hold_for(tmp_path):
    leak = "300 of 300 test photos lie byte for byte in train."
    for fold in (0, 1):
        add(tmp_path, f"a{fold}", fold=fold, warnings=[leak] if fold == 0 else [])
        own = ["train: no photo is mirrored."] if fold == 0 else []
        add(tmp_path, f"b{fold}", "softmax", fold=fold, warnings=[leak, *own] if fold == 0 else own)
    board = leaderboard(tmp_path / "runs")
    assert board.tables[0].warnings == (
        f"fold 0: {leak}",
        "softmax, fold 0: train: no photo is mirrored.",
    )
    texts = everywhere(board)
    for text in texts.values():
        assert f"fold 0: {leak}" in text and "softmax, fold 0: train" in text
    assert {leak in text for text in texts.values()} == {True}
    assert texts["terminal"].count(leak) == 1
    row = next(row for row in json.loads(to_json(board)) if row["run"] == "b0")
    assert row["warnings"] == [leak, "train: no photo is mirrored."]
    line = next(line for line in csv.DictReader(io.StringIO(to_csv(board))) if line["run"] == "b0")
    assert line["warnings"] == f"{leak} train: no photo is mirrored."


def test_a_warning_of_every_run_names_none_and_many_warnings_are_counted(tmp_path):
    add(tmp_path, "a", warnings=[f"Trouble {number}." for number in range(9)])
    board = leaderboard(tmp_path / "runs")
    assert board.tables[0].warnings[0] == "Trouble 0."
    text = printed(board)
    assert text.count("! Trouble") == 6 and "3 more warnings and" in text
    assert printed(board, notes=True).count("! Trouble") == 9


def test_how_often_test_was_opened_is_on_every_table(tmp_path):
    for fold in (0, 1):
        add(tmp_path, f"a{fold}", fold=fold)
    facts = {"method": "arcface", "settings": "s", "benchmark": "flukes", "catalog_digest": "c" * 64}
    facts |= {"split_digest": "s" * 64, "seed": 0, "run": "gone", "when": "2026-11-23T12:00:00+00:00"}
    facts |= {"command": "whalebench run arcface", "forced": False}
    folds = [0, 0, 0, 1]
    lines = [json.dumps(facts | {"fold": fold}) for fold in folds]
    lines += [json.dumps(facts | {"fold": 0, "split_digest": "t" * 64})]
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    board = leaderboard(tmp_path / "runs")
    assert {row["fold"]: row["looks"] for row in json.loads(to_json(board))} == {0: 3, 1: 1}
    for text in everywhere(board).values():
        assert "Test labels were opened 4 times (fold 0: 3, fold 1: 1)." in text
    assert "test opened 3 times" in printed(board, 130, full=True)
    (tmp_path / "ledger.jsonl").unlink()
    text = (
        "Test labels were opened 0 times (fold 0: 0, fold 1: 0; not counted are runs older than the ledger)."
    )
    assert text in printed(leaderboard(tmp_path / "runs"), 130)


def test_fields_set_by_hand_are_marked_and_named(tmp_path):
    add(tmp_path, "a", usage=usage(by_hand={"epochs": 10, "size": [48, 80]}))
    board = leaderboard(tmp_path / "runs")
    for name, text in everywhere(board).items():
        assert "arcface *" in text or "arcface textasteriskcentered" in text
        if name not in ("terminal", "latex", "picture"):  # they hold no notes
            assert "Set by hand: arcface: epochs=10 size=48x80." in text
    assert "Set by hand: arcface: epochs=10 size=48x80." in printed(board, 130, notes=True)


def test_json_rows_have_the_keys_of_a_contestants_rank_and_of_what_was_counted(tmp_path):
    for seed in (0, 1):
        add(tmp_path, f"a{seed}", seed=seed)
    row, _ = json.loads(to_json(leaderboard(tmp_path / "runs")))
    assert (row["rank"], row["rank_low"], row["rank_high"]) == (1, 1, 1)
    assert row["probability_best"] == 1 and row["photos_seen"] == 30_000
    assert row["code_digest"] == "c0de" * 16 and row["looks"] == 0


def test_runs_of_before_all_this_are_shown_as_they_were(tmp_path):
    old = {"usage": None, "code_digest": "", "constant_answer": [], "counts": {}}
    add(tmp_path, "a", **old)
    board = leaderboard(tmp_path / "runs")
    (row,) = json.loads(to_json(board))
    assert (row["photos_seen"], row["code_digest"], row["floor_map_at_5"]) == (None, "", None)
    assert board.tables[0].floors == () and row["track"] == "small network"
    text = printed(board, 130)
    assert "floor" not in text and re.search(r"A – +arcface +0\.\d{3} \[.*\] .* – +– +2\.0 min +1 × 1", text)


LONG = "a-method-of-another-package"


@pytest.fixture
def wide(tmp_path):
    """A workspace with long names and paths."""
    for seed, place in ((seed, place) for seed in range(2) for place in range(3)):
        config = {"backbone": f"convnext_tiny_{place}", "size": [48, 80]}
        add(tmp_path, f"{LONG}-{place}-{seed}", LONG, skill=place, seed=seed, config=config)
    return tmp_path


def test_at_80_columns_no_name_is_broken_and_a_line_is_a_contestant(wide):
    board = leaderboard(wide / "runs")
    text = printed(board)
    assert max(map(len, text.splitlines())) <= 80
    for place in range(3):
        whole = rf"^ *A \S+ +{LONG} backbone=convnext_tiny_{place} +0\.\d{{3}} \[0"
        assert len(re.findall(whole, text, re.MULTILINE)) == 1
    assert "In a wider window: time, annotations, photos seen" in text


def test_a_pipe_is_not_as_narrow_as_a_window(wide):
    code = "from whalebench.cli import main; main()"
    command = [sys.executable, "-c", code, "report", "--workspace", str(wide)]
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (line,) = [line for line in done.stdout.splitlines() if "convnext_tiny_2 " in line and "×" in line]
    assert re.search(r"30\.0k +none +2\.0 min +2 × 1", line) and "In a wider window" not in done.stdout
    assert str(wide / "reports" / "leaderboard.json") in done.stdout
    assert not any(line.startswith(" ahead") for line in done.stdout.splitlines())


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("tracks", [1, 9])
def test_the_end_is_the_essential_in_ten_lines(tmp_path, width, tracks):
    for track in range(tracks):
        for method in ("arcface", "softmax"):
            for seed in range(2):
                own = {"track": f"track {track}", "usage": None, "benchmark": f"benchmark-{track % 2}"}
                add(tmp_path, f"{method}{track}{seed}", f"{method}-{track}", seed=seed, queries=60, **own)
    text = printed(leaderboard(tmp_path / "runs"), width)
    end = text.rstrip("\n").split("\n\n")[-1].splitlines()
    assert len(end) <= 10 and "--notes" in text.splitlines()[-1] + text.splitlines()[-2]
    said = " ".join(" ".join(end).split())
    assert re.search(r"is first of \d with 0\.\d+; \d may be the best, it with probability 0\.\d\d", said)
    if tracks > 1:
        assert said.count("is first of") >= 2 and "benchmark-0, " in said and "benchmark-1, " in said
    else:
        assert re.search(
            r"would have been told with 80 % power\. The photos count for \d\d individuals", said
        )
        assert "fewer than 50 say little of others" in said


def test_full_and_notes_add_what_is_left_out(tmp_path):
    for seed in range(2):
        add(tmp_path, f"a{seed}", seed=seed)
        add(tmp_path, f"b{seed}", "softmax", seed=seed, skill=1.0)
    board = leaderboard(tmp_path / "runs")
    short, full, notes = (printed(board, 130, **more) for more in ({}, {"full": True}, {"notes": True}))
    assert "P(best)" not in short + notes and "P(best)" in full and "AUROC" in full
    assert "Rank: the ranks that a row may have" in notes and "Rank: the" not in short + full
    assert "--full" in short and "--full" not in full and "--notes" not in notes
    standing = of(board, "softmax").standing
    lead = board.tables[0].groups[0].comparison.leads["softmax", "arcface"]
    assert f"{lead.value:.3f} [{lead.low:.3f}, {lead.high:.3f}]" in full
    assert f"{standing.seed_spread:.3f}" in full
    for text in (to_markdown(board), page_of(board)):
        assert text.index("arcface") < text.index("P(best)") < text.index("Rank: the ranks")


def test_latex_is_a_table_of_booktabs_with_nothing_that_breaks_it(tmp_path):
    add(tmp_path, "a", "50%_{cut}\\of~a^b#1$&", warnings=["100 % of <it>."])
    text = to_latex(leaderboard(tmp_path / "runs"))
    assert text.startswith("\\begin{table}") and text.rstrip().endswith("\\end{table}")
    assert text.index("\\toprule") < text.index("\\midrule") < text.index("\\bottomrule")
    name = r"50\%\_\{cut\}\textbackslash{}of\textasciitilde{}a\textasciicircum{}b\#1\$\&"
    assert f" & {name} & 0." in text and r"100 \% of \textless{}it\textgreater{}." in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    sides = re.search(r"\\begin{tabular}{(\w+)}", text).group(1)
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(sides)}
    assert text.count("{") == text.count("}") and text.isascii()


def test_the_summary_of_a_sweep_is_a_line_a_contestant(tmp_path):
    for seed in range(2):
        add(tmp_path, f"a{seed}", seed=seed)
        add(tmp_path, f"b{seed}", "softmax", seed=seed, skill=3.0)
    document = json.loads(json.dumps(board_json(leaderboard(tmp_path / "runs")), allow_nan=False))
    first, second = document["summary"]
    assert (first["contestant"], first["rank_low"], second["rank_low"]) == ("softmax", 1, 2)
    assert first["map_at_5"] == pytest.approx(first["value"]) and first["folds"] == [0]
    assert len(document["rows"]) == 4 and board_json(None) == {"summary": [], "rows": []}


def test_a_workspace_of_many_runs_is_read_by_columns(tmp_path, monkeypatch):
    fill_workspace(tmp_path, 4, range(2), range(2), queries=50, individuals=10)
    board = leaderboard(tmp_path / "runs")
    assert len(board.rows) == 16 and len(board.tables[0].contestants) == 4
    kept = set().union(*(set(row.queries.columns) for row in board.rows))
    assert "score_5" in set(pd.read_parquet(tmp_path / "runs" / "method-000-0-0" / "predictions.parquet"))
    assert not {name for name in kept if name.startswith("score_")}


def drawn(skill=0.5, seed=0, number=QUERIES, individuals=INDIVIDUALS):
    return queries_of(ranks(skill, 0, seed, queries=number, individuals=individuals), 0, individuals)


def test_a_row_with_nobody_to_be_ranked_with_shows_no_rank(tmp_path):
    put(tmp_path / "runs", record("a", "a"), drawn())
    put(tmp_path / "runs", record("b", "b", usage=usage(pixels=["32x32"])), drawn())
    (table,) = leaderboard(tmp_path / "runs").tables
    assert {one.place for one in table.contestants} == {"A –", "B –"}
    assert not any(row.may_be_best for one in table.contestants for row in one.rows)


def test_a_tie_at_the_top_is_read_as_it_was_recorded(tmp_path):
    """What a tied best individual counts for is a column of its own, which a report must read."""
    tied = drawn().assign(identified=np.where(np.arange(QUERIES) % 3 == 0, 0.5, 0.0))
    put(tmp_path / "runs", record("one"), tied)
    (row,) = leaderboard(tmp_path / "runs").rows
    assert row.problem == "" and row.metrics["dir_at_far_10"] == summarize(tied)["dir_at_far_10"]


def test_no_lead_is_above_what_the_metric_allows(tmp_path):
    for seed in (0, 1):
        for name, skill in (("good", 9.0), ("bad", -9.0)):
            of = record(f"{name}{seed}", name, seed=seed)
            put(tmp_path / "runs", of, drawn(skill, seed, number=12, individuals=3))
    (group,) = leaderboard(tmp_path / "runs").tables[0].groups
    leads = group.comparison.leads
    assert all(-1 <= lead.low <= lead.value <= lead.high <= 1 for lead in leads.values())
    assert leads["good", "bad"].high == 1


def test_what_the_ledger_cannot_say_is_a_problem_of_the_board(tmp_path):
    put(tmp_path / "runs", record("one"), drawn())
    (tmp_path / "ledger.jsonl").write_text("torn\n")
    board = leaderboard(tmp_path / "runs")
    assert len(board.problems) == 1 and "ledger.jsonl" in board.problems[0]
    assert board.problems[0] in to_markdown(board).replace("\\", "")


def test_a_run_that_does_not_fit_opened_nothing(tmp_path):
    put(tmp_path / "runs", record("one"), drawn())
    put(tmp_path / "runs", record("mask", "mask", unfit="flukes has no masks"), drawn())
    append(Workspace.open(tmp_path), Opening.of(record("one").model_dump(), forced=False))
    assert "Test labels were opened once (fold 0: 1)." in printed(leaderboard(tmp_path / "runs"), 130)
