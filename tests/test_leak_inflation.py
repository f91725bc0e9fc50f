"""A benchmark on several splits, and what a random twin's score says of leaks."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.synthetic_runs import put, queries_of, ranks, record
from whalebench import WhalebenchError
from whalebench.benchmarks.registry import load_benchmark, make_split
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics.comparison import SeedSpread, leak_inflation
from whalebench.reports.writers import to_csv, to_json, to_markdown


def queries(of: dict[str, list[float]], key: str = "average_precision_at_5") -> pd.DataFrame:
    """A table with these values of each cluster."""
    rows = [(cluster, value) for cluster, values in of.items() for value in values]
    return pd.DataFrame(rows, columns=["cluster", key])


STRICT = {"a": [0.0, 1.0], "b": [0.5], "c": [0.2, 0.2, 0.2], "d": [1.0]}
LEAKING = {"a": [1.0, 1.0], "b": [0.5], "c": [0.6, 0.2, 0.7], "d": [1.0]}


def slow(twin: dict[str, list[float]], strict: dict[str, list[float]]) -> tuple[float, float]:
    """The difference and its jackknife standard error, one individual after the other left out of both."""

    def gap(without: str) -> float:
        kept = [[v for name, of in side.items() if name != without for v in of] for side in (twin, strict)]
        return float(np.mean(kept[0]) - np.mean(kept[1]))

    left = np.array([gap(name) for name in strict])
    return gap(""), float(np.sqrt((len(left) - 1) / len(left) * np.square(left - left.mean()).sum()))


def test_inflation_is_jackknifed_over_individuals_left_out_of_both_sides() -> None:
    found = leak_inflation({0: {0: queries(LEAKING)}}, {0: {0: queries(STRICT)}})
    value, error = slow(LEAKING, STRICT)
    assert found is not None and found.value == pytest.approx(value)
    assert found.low < value < found.high
    # Seven photos of four individuals count for 49 / 15, and t of 2.27 degrees for 3.84.
    assert (found.high - found.low) / 2 == pytest.approx(3.84 * error, rel=0.01)


def test_what_an_individual_adds_to_both_sides_falls_out() -> None:
    """Individuals differ widely, yet each gains 0.1: the difference is sure."""
    strict = {f"w{place}": [place / 20] * 2 for place in range(18)}
    twin = {name: [value + 0.1 for value in values] for name, values in strict.items()}
    found = leak_inflation({0: {0: queries(twin)}}, {0: {0: queries(strict)}})
    assert found is not None
    assert found.low == pytest.approx(0.1) == found.high


def test_seeds_that_differ_widen_the_interval_and_only_shared_folds_count() -> None:
    strict = {f"w{place}": [place / 40] * 2 for place in range(18)}
    lucky = {name: [value + 0.2 for value in values] for name, values in strict.items()}
    one = leak_inflation({0: {0: queries(lucky)}}, {0: {0: queries(strict)}, 1: {0: queries(lucky)}})
    assert one is not None and one.value == pytest.approx(0.2)
    both = {0: {0: queries(strict), 1: queries(lucky)}}
    several = leak_inflation(both, both)
    assert several is not None and several.value == 0
    assert several.high > 0.1
    pooled = leak_inflation({0: {0: queries(lucky)}}, {0: {0: queries(strict)}}, SeedSpread(0.1, 6, 0.0))
    assert pooled is not None and pooled.high > one.high + 0.1
    assert leak_inflation({0: {0: queries(strict)}}, {1: {0: queries(strict)}}) is None


@pytest.fixture
def runs(tmp_path):
    """Two methods on a split, one of them on its twin, too, where it does better."""
    for name, skill, change in (
        ("arcface", 0.0, {}),
        ("triplet", 0.0, {}),
        ("arcface", 2.0, {"benchmark": "flukes@twin", "split_digest": "t" * 64, "twin_of": "s" * 64}),
    ):
        drawn = ranks(skill, 0, 0, queries=300, individuals=60)
        of = record(f"{name}-{change.get('benchmark', 'flukes')}", name, **change)
        put(tmp_path / "runs", of, queries_of(drawn, 0, 60))
    return tmp_path / "runs"


def test_a_board_says_what_leaks_are_worth_where_the_twin_was_run(runs) -> None:
    board = leaderboard(runs, "flukes")
    strict, twin = board.tables
    assert (strict.title.split(" ")[0], twin.title.split(" ")[0]) == ("flukes", "flukes@twin")
    by_name = {one.name: one for one in strict.contestants}
    found = by_name["arcface"].inflation
    other = next(iter(twin.contestants))
    assert found is not None and other.standing and by_name["arcface"].standing
    assert found.value == pytest.approx(other.standing.value - by_name["arcface"].standing.value)
    assert found.low > 0
    assert by_name["triplet"].inflation is None is other.inflation
    rows = {row["run"]: row for row in json.loads(to_json(board))}
    assert rows["arcface-flukes"]["leak_inflation"]["map_at_5"] == pytest.approx(found.value)
    assert not rows["triplet-flukes"].get("leak_inflation")
    assert "leak_inflation_low" in to_csv(board).splitlines()[0]
    text = to_markdown(board)
    assert "leak inflation" in text and f"{found.value:.3f} " in text


def test_a_board_without_twins_has_no_such_column(runs) -> None:
    assert "inflation" not in to_markdown(leaderboard(runs, runs={"arcface-flukes", "triplet-flukes"}))
    (twin,) = leaderboard(runs, "flukes@twin").tables
    assert [one.name for one in twin.contestants] == ["arcface"]


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"epochs": 9}},
        {"code_digest": "other"},
        {"twin_of": "u" * 64},
        {"catalog_digest": "d" * 64},
    ],
)
def test_only_the_same_method_on_the_twin_of_the_same_split_counts(runs, change) -> None:
    from whalebench.benchmarks.core.record import read_record

    of = read_record(runs / "arcface-flukes@twin").model_copy(update=change | {"run": "changed"})
    drawn = ranks(2.0, 0, 0, queries=300, individuals=60)
    put(runs, of, queries_of(drawn, 0, 60))
    board = leaderboard(runs, runs={"arcface-flukes", "changed"})
    assert all(one.inflation is None for table in board.tables for one in table.contestants)


def test_a_benchmark_has_splits_beside_the_first_and_each_its_twin(tiny, cli) -> None:
    place = ("--workspace", tiny.root)
    first = make_split("tiny", tiny, folds=3, valid_share=0.3)
    made = cli("split", "make", "tiny@open", "--protocol", "open", "--new-share", "0.4", "--json", *place)
    assert made.code == 0 and json.loads(made.out)["protocol"] == "open"
    twin = load_benchmark("tiny@twin", tiny, propose=True)
    assert (twin.name, twin.catalog.name) == ("tiny@twin", "tiny")
    assert twin.split.twin_of == first.digest
    opened = load_benchmark("tiny@open", tiny)
    assert opened.split.digest != first.digest == load_benchmark("tiny", tiny).split.digest
    with pytest.raises(WhalebenchError, match=r"split make tiny@closed`"):
        load_benchmark("tiny@closed", tiny, propose=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny@Open",), "'Open' cannot name a split"),
        (("tiny@../x",), "cannot name a split"),
        (("tiny@",), "cannot name a split"),
        (("tiny@twin", "--folds", "4"), "so folds cannot be chosen"),
        (("flukes",), "make another one beside it, such as flukes@open"),
        (("tiny@open-twin",), "There is no split at"),
        (("other@open",), "There is no benchmark 'other'"),
    ],
)
def test_a_split_that_cannot_be_is_one_sentence(tiny, cli, arguments, said) -> None:
    answer = cli("split", "make", *arguments, "--workspace", tiny.root)
    assert answer.code == 2
    assert said in " ".join(answer.err.split())


def test_a_run_on_a_twin_says_whose_it_is(tiny, cli, tiny_settings) -> None:
    from whalebench.benchmarks.running.runner import RunRequest, run

    found = [
        run(RunRequest("softmax", name, settings=tiny_settings, device="cpu"), tiny)
        for name in ("tiny", "tiny@twin")
    ]
    strict, twin = found
    assert (strict.twin_of, twin.twin_of) == ("", strict.split_digest)
    assert twin.counts == strict.counts
    assert any("random twin of split" in warning for warning in twin.warnings)
    answer = cli("report", "--benchmark", "tiny", "--json", "--workspace", tiny.root)
    rows = {row["benchmark"]: row for row in json.loads(answer.out)}
    assert set(rows) == {"tiny", "tiny@twin"}
    assert "map_at_5" in rows["tiny"]["leak_inflation"]
