"""The page without a browser: what it says and in which order, where links lead, what rows are sorted by."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from whalebench.benchmarks.core.record import RunRecord, write_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.page.page import board_page, run_page
from whalebench.reports.page.views import table_view
from whalebench.reports.repeating import contestant_command, run_command
from whalebench.reports.tables import Cell, Grid, RowFacts
from whalebench.reports.verdict import verdict, verdicts
from whalebench.reports.wording import duration
from whalebench.tests.pages import page_of
from whalebench.tests.synthetic_runs import put, queries_of, ranks, record, usage

SKILLS = {"good": 3.0, "as-good": 2.9, "bad": -1.0, "worse": -3.0}


def fill(runs: Path, skills: dict[str, float], seeds: int = 3, **change: object) -> None:
    for name, skill in skills.items():
        for seed in range(seeds):
            drawn = ranks(skill, 0, seed, queries=300, individuals=60)
            put(runs, record(f"{name}-{seed}", name, seed=seed, **change), queries_of(drawn, 0, 60))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("page") / "runs"
    fill(folder, SKILLS)
    return folder


def test_the_sentence_says_who_may_be_the_best_and_by_how_much_others_are_beaten(runs: Path) -> None:
    (table,) = leaderboard(runs).tables
    (group,) = table.groups
    compared = group.comparison
    said = verdict(compared)
    found = re.fullmatch(
        r"good and as-good cannot be told apart; both beat bad and worse by at least (.+)\.", said
    )
    assert found is not None, said
    leads = [compared.leads[top, one].low for top in ("good", "as-good") for one in ("bad", "worse")]
    assert 0 <= min(leads) - float(found[1]) < 0.01  # rounded down, so that it is true
    assert [*verdicts(table.groups)] == [said]


def test_one_alone_at_the_top_beats_the_others(tmp_path: Path) -> None:
    fill(tmp_path, {"good": 3.0, "bad": -1.0})
    (table,) = leaderboard(tmp_path).tables
    assert verdict(table.groups[0].comparison).startswith("good beats bad by at least 0.")


def test_nobody_is_told_apart_where_nothing_tells(tmp_path: Path) -> None:
    fill(tmp_path, {"one": 0.0, "two": 0.0})
    (table,) = leaderboard(tmp_path).tables
    assert verdict(table.groups[0].comparison) in (
        "one and two cannot be told apart.",
        "two and one cannot be told apart.",
    )


def test_with_one_seed_the_sentence_promises_nothing(tmp_path: Path) -> None:
    fill(tmp_path, {"good": 3.0, "bad": -1.0}, seeds=1)
    (table,) = leaderboard(tmp_path).tables
    said = verdict(table.groups[0].comparison)
    assert said.startswith("good is ahead of bad by 0.") and "more than chance is not known" in said


def test_those_alone_on_their_tracks_share_a_sentence(tmp_path: Path) -> None:
    fill(tmp_path, {"one": 1.0}, seeds=1)
    fill(tmp_path, {"two": 1.0}, seeds=1, usage=usage(pixels=["9x9"]))
    (table,) = leaderboard(tmp_path).tables
    (said,) = verdicts(table.groups)
    assert said.startswith("Each alone on its track") and "one 0." in said and "two 0." in said


def test_a_command_repeats_what_was_asked_for_and_names_no_folder_of_the_machine() -> None:
    asked = record("r", "arcface", settings=["epochs=3", "weights=/home/ann/secret/w.safetensors"], fold=2)
    words = shlex.split(run_command(asked))
    assert (
        words[:4] == ["whalebench", "run", "arcface", "--benchmark"] and words[-1] == "weights=w.safetensors"
    )
    assert words[words.index("--set") + 1] == "epochs=3" and words[words.index("--fold") + 1] == "2"
    older = record("r", usage=usage(by_hand={"size": [48, 80]}))
    assert run_command(older).endswith("--set size=48x80")


def test_the_command_of_a_contestant_has_all_its_folds_and_seeds() -> None:
    records = [record(f"{fold}{seed}", fold=fold, seed=seed) for fold in (0, 1, 2) for seed in (0, 2)]
    assert contestant_command(records) == (
        "whalebench sweep arcface --benchmark flukes --folds 0-2 --seeds 0,2"
    )
    assert contestant_command(records[:1]) == run_command(records[0])


def test_the_command_of_an_ensemble_names_its_members() -> None:
    config = {
        "rule": "product",
        "weights": [0.5, 0.5],
        "pca": None,
        "then": ["duplicates"],
        "duplicates": "d",
    }
    made = record("e", "ensemble", members=["a", "b"], config=config)
    assert run_command(made) == (
        "whalebench ensemble a b --rule product --weights 0.5,0.5 --then duplicates --duplicates FILE.csv"
    )


def test_cells_are_sorted_by_their_numbers_and_times_by_seconds() -> None:
    texts = ("0.712 [0.65, 0.76]", "20.6 %", "–", "1,204", Cell.of(duration, 150.0), Cell.of(duration, 42.0))
    view = table_view(Grid("t", ("method", *"abcde"), (("one", *texts[:5]), ("two", *texts[1:]))), "a", {})
    first, second = view.rows
    assert [cell.sort for cell in first.cells] == [None, 0.712, 20.6, None, 1204.0, 150.0]
    assert second.cells[-1].sort == 42.0 and second.cells[-1].text == "42 s"
    assert first.cells[0].name and not first.cells[1].name


def test_intervals_floors_and_ranks_are_drawn_to_scale() -> None:
    facts = (
        RowFacts("one", track="A", interval=(0.8, 0.7, 0.9), ranks=(1, 2), command="run"),
        RowFacts(marks=("floor",), interval=(0.55, float("nan"), float("nan"))),
    )
    grid = Grid("t", ("method", "MAP@5"), (("one", "0.8"), ("floor", "0.55")), facts=facts)
    view = table_view(grid, "a", {"one": "run-one"}, {"A": "A: words"})
    assert view.axis == ("0.5", "1.0") and view.floors == (10.0,) and view.ranked == 2
    assert view.rows[0].score == (60.0, 40.0, 80.0) and view.rows[0].ranks == (0, 0.0, 100.0)
    assert view.rows[1].score == (10.0, None, None) and view.rows[1].ranks is None
    assert view.rows[0].cells[0].href == "run-one" and view.marks == ("floor",) and view.commands


def test_the_parts_of_the_page_come_in_their_order_and_every_link_leads_somewhere(runs: Path) -> None:
    page = page_of(leaderboard(runs, closely=True))
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert not [name for name, number in Counter(ids).items() if number > 1]
    assert {*re.findall(r'href="#([^"]+)"', page)} <= {*ids}
    parts = ["leaderboard", "cost", "rests", "seeds", "photos", "runs"]
    places = [page.index(f'<section id="flukes-{part}"') for part in parts]
    assert places == sorted(places) and places[-1] < page.index('<section id="notes"')
    assert all(f'id="run-{name}-{seed}"' in page for name in SKILLS for seed in range(3))
    assert "test labels were opened 0 times" in page and "both beat bad and worse" in page


def test_the_page_carries_no_folder_of_the_machine(tmp_path: Path) -> None:
    place = Workspace.open(tmp_path / "mine")
    fill(place.runs, {"one": 1.0}, seeds=1, settings=[f"weights={tmp_path}/w.safetensors"])
    page = board_page(leaderboard(place.runs, closely=True), place, "none")
    assert str(tmp_path) not in page and "workspace mine" in page and "weights=w.safetensors" in page


def test_the_page_of_one_run_has_its_command_and_its_parts(tmp_path: Path) -> None:
    place = Workspace.open(tmp_path)
    fill(place.runs, {"one": 1.0}, seeds=2)
    page = run_page(leaderboard(place.runs, runs={"one-1"}, closely=True), place, "none")
    assert "<h1>one: one run</h1>" in page and "--seed 1" in page and 'id="run-one-1"' in page
    assert "one-0" not in page


def test_a_run_that_does_not_fit_is_on_the_page_with_its_reason(tmp_path: Path) -> None:
    place = Workspace.open(tmp_path)
    fill(place.runs, {"one": 1.0}, seeds=1)
    unfit: RunRecord = record("none-0", "none", unfit="flukes has no boxes", usage=None)
    (place.runs / "none-0").mkdir()
    write_record(place.runs / "none-0", unfit)
    page = board_page(leaderboard(place.runs, closely=True), place, "none")
    assert "It does not fit: flukes has no boxes." in page


def test_a_damaged_curve_is_a_warning_and_not_the_end(tmp_path: Path) -> None:
    place = Workspace.open(tmp_path)
    fill(place.runs, {"one": 1.0}, seeds=1)
    (place.runs / "one-0" / "curve.csv").write_text("stage,loss\ntrain,1\n")
    page = board_page(leaderboard(place.runs, closely=True), place, "none")
    assert "curve.csv lacks the column epoch: repeat the run" in page and str(tmp_path) not in page


def test_more_runs_than_the_page_has_parts_for_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whalebench.reports.page.topics.MOST_RUNS", 2)
    place = Workspace.open(tmp_path)
    fill(place.runs, {"one": 1.0, "two": 0.0}, seeds=2)
    page = board_page(leaderboard(place.runs, closely=True), place, "none")
    assert "2 more runs have no section here" in page
    assert 'id="run-one-0"' in page and 'id="run-two-0"' in page and 'id="run-one-1"' not in page


def test_pages_are_equal_but_for_their_dates(runs: Path) -> None:
    one, other = (re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page_of(leaderboard(runs))) for _ in range(2))
    workspace = re.compile(r"workspace \w+")
    assert workspace.sub("", one) == workspace.sub("", other)


def test_costs_without_numbers_are_not_drawn(tmp_path: Path) -> None:
    place = Workspace.open(tmp_path)
    fill(place.runs, {"one": 1.0}, seeds=1, usage=None)
    page = board_page(leaderboard(place.runs), place, "none")
    assert "minutes" in page and "MAP@5 over photos seen" not in page
