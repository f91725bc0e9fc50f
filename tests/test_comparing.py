"""Two runs or contestants side by side: one sentence no surer than it may be, and where they disagree."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import (
    RunRecord,
    read_predictions,
    write_predictions,
    write_record,
    write_run,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.methods.registry import configure, find_method
from whalebench.reports.comparing import compare_runs, compare_steps, steps_report
from whalebench.reports.metrics.comparison import compare, seed_spread
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.jackknife import column_deletions, difference, paired_difference
from whalebench.reports.metrics.summary import summarize
from whalebench.tests.ensembling import change_predictions

NAMES = [f"whale_{number:02d}" for number in range(40)]


def put(place, name, method, skill, *, fold=0, seed=0, photos=160, better=None, **change):
    """A finished run, better with more `skill`; `better` photos are right whatever it is."""
    fixed, rng = np.random.default_rng(fold), np.random.default_rng(sum(name.encode()))
    columns = fixed.integers(40, size=photos)
    scores = rng.normal(size=(photos, 40))
    scores[np.arange(photos), columns] += skill
    if better is not None:
        scores[better, columns[better]] += 100
    table = evaluate_queries(
        images=[f"photo_{fold}_{row:03d}" for row in range(photos)],
        truth=[NAMES[column] for column in columns],
        clusters=[f"individual {NAMES[column]}" for column in columns],
        identities=NAMES,
        scores=scores,
        probabilities=np.exp(scores),
        new_scores=-scores.max(axis=1),
        new_threshold=None,
    )
    facts = {"run": name, "method": method, "config": {}, "benchmark": "flukes", "fold": fold, "seed": seed}
    facts |= {"catalog_digest": "c" * 64, "split_digest": "s" * 64, "track": "small network"}
    facts |= {"created": "2026-11-23T12:00:00+00:00", "environment": {}, "hardware": {}, "seconds": {}}
    facts |= {"counts": {}, "metrics": summarize(table), "valid_metrics": {}, "cmc": []}

    def fill(folder):
        write_predictions(folder, table.sample(frac=1, random_state=seed))
        write_record(folder, RunRecord.model_validate(facts | change))

    write_run(place.runs / name, fill)
    return table


@pytest.fixture
def place(tmp_path):
    return Workspace.open(tmp_path)


def several(place, method, skill, folds=(0, 1), seeds=(0, 1, 2), **change):
    """A run for each fold and seed; by both its table in the order of images."""
    return {
        fold: {
            seed: put(
                place, f"{method}-flukes-fold{fold}-seed{seed}", method, skill, fold=fold, seed=seed, **change
            )
            for seed in seeds
        }
        for fold in folds
    }


def test_the_better_contestant_is_named_with_its_lead_over_folds_and_seeds(place):
    grids = {"good": several(place, "good", 3.0), "bad": several(place, "bad", 1.5)}
    said = compare_runs("bad", "good", place)
    lead = compare(grids, (0, 1), pooled=seed_spread(grids)).leads["good", "bad"]
    assert lead.told_apart
    assert (said["better"], said["told_apart"], said["folds"]) == ("good", True, [0, 1])
    assert [said[key] for key in ("lead", "lead_low", "lead_high")] == pytest.approx(lead[:3])
    start = (
        f"good is better than bad by {lead.value:.3f} [{lead.low:.2f}, {lead.high:.2f}] MAP@5 (better with"
    )
    assert said["verdict"].startswith(start)
    assert len(said["first"]["runs"]) == 6 and said["first"]["seeds"] == [3, 3]
    assert said["second"]["map_at_5"] == pytest.approx(
        np.mean(
            [
                np.mean([table["average_precision_at_5"].mean() for table in seeds.values()])
                for seeds in grids["good"].values()
            ]
        )
    )


def test_of_equal_contestants_none_is_better(place):
    several(place, "one", 2.0)
    several(place, "other", 2.0)
    said = compare_runs("one", "other", place)
    assert not said["told_apart"]
    assert "is ahead of" in said["verdict"] and "another seed may turn round" in said["verdict"]


def test_one_seed_each_cannot_tell(place):
    first, second = put(place, "good-0", "good", 5.0), put(place, "bad-0", "bad", 1.0)
    said = compare_runs("good", "bad", place)
    difference = paired_difference(first, second)
    assert difference.low > 0
    assert not said["told_apart"] and said["seed_spread"] is None and said["probability"] is None
    assert [said["lead_low"], said["lead_high"]] == pytest.approx(list(difference[1:]))
    assert "good-0 is ahead of bad-0" in said["verdict"] and "one seed each cannot tell" in said["verdict"]


def test_the_luck_of_a_seed_is_taken_from_other_runs_of_the_benchmark(place):
    put(place, "good-0", "good", 5.0)
    put(place, "bad-0", "bad", 1.0)
    other = several(place, "other", 2.0, folds=(0,))
    several(place, "elsewhere", 2.0, folds=(0,), split_digest="t" * 64)
    put(place, "unfit-0", "unfit", 1.0, unfit="no boxes", metrics={})
    said = compare_runs("good", "bad", place)
    assert said["seed_spread"] == pytest.approx(seed_spread({"other": other}).spread)
    assert said["told_apart"] and "good-0 is better than bad-0" in said["verdict"]


def test_a_run_of_other_code_or_settings_is_no_seed(place):
    put(place, "good-0", "good", 5.0, code_digest="a")
    put(place, "good-1", "good", 5.0, seed=1, code_digest="b")
    put(place, "bad-0", "bad", 1.0)
    assert compare_runs("good-0", "bad", place)["seed_spread"] is None
    kinds = r"'good' fits 2 runs that differ .*: name one of 'good \(code a\)', 'good \(code b\)', or"
    with pytest.raises(WhalebenchError, match=kinds):
        compare_runs("good", "bad", place)
    said = compare_runs("good (code a)", "good (code b)", place)
    assert (said["first"]["runs"], said["second"]["runs"]) == (["good-0"], ["good-1"])
    assert said["differences"] == [{"what": "code", "first": "a", "second": "b"}]


def test_folds_that_only_one_has_are_left_aside(place):
    several(place, "good", 3.0, folds=(0, 1, 2), seeds=(0, 1))
    several(place, "bad", 1.0, folds=(1, 2, 3), seeds=(0, 1))
    said = compare_runs("good", "bad", place)
    assert said["folds"] == [1, 2]
    assert len(said["first"]["runs"]) == len(said["second"]["runs"]) == 4
    assert {row["fold"] for row in said["photos"]} <= {1, 2}


def test_of_two_runs_of_a_seed_the_newer_one_counts(place):
    put(place, "good-a", "good", 5.0, created="2026-11-24T12:00:00+00:00")
    put(place, "good-b", "good", 5.0, created="2026-11-23T12:00:00+00:00")
    put(place, "bad-0", "bad", 1.0)
    assert compare_runs("good", "bad", place)["first"]["name"] == "good-a"


def test_the_photos_shown_are_those_of_the_largest_gap(place):
    first = put(place, "one", "one", 1.0, better=[3]).set_index("image")
    second = put(place, "two", "two", 1.0, better=[7]).set_index("image")
    said = compare_runs("one", "two", place, photos=1000)["photos"]
    gaps = (first["average_precision_at_5"] - second["average_precision_at_5"]).abs()
    shown = [row["image"] for row in said]
    assert gaps[shown].is_monotonic_decreasing
    assert set(shown) == set(first.index[first["rank"] != second["rank"]])
    for row in said:
        image = row["image"]
        assert row["truth"] == first["truth"][image]
        assert (row["rank_first"], row["rank_second"]) == (first["rank"][image], second["rank"][image])
        assert (row["says_first"], row["says_second"]) == (
            first["candidate_1"][image],
            second["candidate_1"][image],
        )
    assert compare_runs("one", "two", place, photos=2)["photos"] == said[:2]
    assert compare_runs("one", "two", place, photos=0)["photos"] == []


def test_over_seeds_a_photo_has_its_median_rank_and_most_frequent_candidate(place):
    tables = several(place, "one", 1.0, folds=(0,))[0]
    several(place, "two", 4.0, folds=(0,))
    for row in compare_runs("one", "two", place)["photos"]:
        of_photo = [table.set_index("image").loc[row["image"]] for table in tables.values()]
        assert row["rank_first"] == np.median([photo["rank"] for photo in of_photo])
        assert row["says_first"] in pd.Series([photo["candidate_1"] for photo in of_photo]).mode().tolist()


def test_what_differs_is_said_in_the_sentence_and_in_a_table(place, cli, monkeypatch):
    rows = [("pixels", "80x128", "96x96"), ("looks", "1", "2"), ("photos seen", "100", "200")]
    put(place, "one", "one", 1.0)
    put(place, "two", "two", 4.0)
    for number, words in enumerate(
        ["their tracks are equal", "in pixels.", "in pixels and looks.", "in pixels, looks and photos seen."]
    ):
        monkeypatch.setattr("whalebench.reports.comparing.differences", lambda *_, shown=rows[:number]: shown)
        assert compare_runs("one", "two", place)["verdict"].endswith(words.rstrip(".") + ".")
    answer = cli("compare", "one", "two", "--photos", "3", "--workspace", place.root)
    assert answer.code == 0
    first = answer.out.splitlines()[0]
    assert first.startswith("two is ahead of one by ")
    for words in ("96x96", "photo_0_", "first: rank", "95 % intervals"):
        assert words in answer.out
    document = json.loads(cli("compare", "one", "two", "--json", "--workspace", place.root).out)
    assert document["differences"][0] == {"what": "pixels", "first": "80x128", "second": "96x96"}
    assert len(document["photos"]) == 10


def test_the_same_score_has_no_better_one(place):
    put(place, "one", "one", 1.0, better=list(range(160)))
    put(place, "two", "two", 1.0, better=list(range(160)))
    said = compare_runs("one", "two", place)
    assert said["better"] is None and said["verdict"].startswith("one and two have the same MAP@5; ")
    assert said["photos"] == []


def test_photos_without_a_rank_are_compared_too(place):
    """New individuals where new is no candidate."""
    for name, skill in (("one", 1.0), ("two", 2.0)):
        table = put(place, name, name, skill)
        table.loc[:3, ["truth", "rank", "average_precision_at_5", "top_1"]] = ["new", math.nan, 0.0, 0.0]
        change_predictions(place.runs / name, table)
    assert not {"photo_0_000", "photo_0_001"} & {
        row["image"] for row in compare_runs("one", "two", place, 1000)["photos"]
    }


def test_each_step_of_a_ladder_is_what_the_two_alone_say(place, cli):
    skills = {"low": 1.0, "high": 4.0, "middle": 2.0, "same": 2.0}
    tables = {name: several(place, name, skill) for name, skill in skills.items()}
    said = compare_steps(list(skills), place)
    assert [step["name"] for step in said["steps"]] == list(skills) and said["folds"] == [0, 1]
    assert "gain" not in said["steps"][0]
    for before, step in pairwise(said["steps"]):
        alone = compare_runs(before["name"], step["name"], place)
        up = alone["better"] == step["name"]
        ends = [step["gain_low"], step["gain_high"]] if up else [-step["gain_high"], -step["gain_low"]]
        leads = [alone[key] for key in ("lead", "lead_low", "lead_high")]
        assert [abs(step["gain"]), *ends] == pytest.approx(leads) and (step["gain"] > 0) == up
        sure = alone["probability"] if up else 1 - alone["probability"]
        assert (step["told_apart"], step["probability"]) == (alone["told_apart"], pytest.approx(sure))
        assert step["differences"] == alone["differences"] == []
        assert {key: step[key] for key in alone["second"]} == alone["second"]
    assert [(step["told_apart"], step["gain"] > 0) for step in said["steps"][1:3]] == [
        (True, True),
        (True, False),
    ]
    high = [[table["top_1"].mean() for table in seeds.values()] for seeds in tables["high"].values()]
    assert said["steps"][1]["top_1"] == pytest.approx(np.mean(high))
    losses = [[summarize(table)["log_loss"] for table in seeds.values()] for seeds in tables["high"].values()]
    assert said["steps"][1]["log_loss"] == pytest.approx(np.mean(losses))
    in_all = compare_steps(["low", "same"], place)
    assert said["in_all"] == in_all["in_all"] == {key: in_all["steps"][1][key] for key in said["in_all"]}
    assert said["in_all"]["told_apart"] and said["in_all"]["gain"] > 0
    answer = cli("compare", *skills, "--workspace", place.root)
    assert "From the first step to the last: " in answer.out
    lines = {line.split()[0]: line for line in answer.out.splitlines() if line.split()}
    assert "better" in lines["high"] and "worse" in lines["middle"] and "not told apart" in lines["same"]
    document = json.loads(cli("compare", *skills, "--json", "--workspace", place.root).out)
    assert document == said


def test_a_step_says_in_what_the_two_were_not_given_the_same(place, capsys):
    put(place, "one-0", "one", 1.0, code_digest="a")
    put(place, "one-1", "one", 2.0, code_digest="b", transductive=True)
    put(place, "two-0", "two", 5.0, code_digest="b")
    said = compare_steps(["one-0", "one-1", "two"], place)
    assert [[row["what"] for row in step["differences"]] for step in said["steps"][1:]] == [
        [row["what"] for row in compare_runs(first, second, place)["differences"]]
        for first, second in (("one-0", "one-1"), ("one-1", "two"))
    ]
    assert [row["what"] for row in said["steps"][1]["differences"]] == ["other test photos", "code"]
    Console(width=200).print(steps_report(said))
    printed = capsys.readouterr().out
    assert "not equal in" in printed and "other test photos, code" in printed


def test_a_ladder_of_one_seed_each_is_over_individuals_alone(place):
    first = put(place, "one-0", "one", 1.0)
    second = put(place, "two-0", "two", 5.0)
    put(place, "three-0", "three", 1.0)
    said = compare_steps(["one", "two", "three"], place)
    assert "with one seed" in said["unranked"] and not any(step["told_apart"] for step in said["steps"][1:])
    difference = paired_difference(second, first)
    assert [said["steps"][1][key] for key in ("gain", "gain_low", "gain_high")] == pytest.approx(
        list(difference)
    )
    assert said["steps"][2]["gain_high"] < 0


def test_a_ladder_can_be_judged_by_masks_and_says_where_there_are_none(place, capsys):
    def masks(name, method, share, **change):
        table = put(place, name, method, 1.0, **change)
        precision = np.where(np.arange(len(table)) < 100, np.arange(len(table)) % 10 < share, np.nan)
        table = table.assign(mask_precision=precision)
        change_predictions(place.runs / name, table)
        return table

    few = masks("few-0", "few", 2)
    many = masks("many-0", "many", 9)
    # Others of the benchmark, who find no masks, say nothing of what a seed changes.
    several(place, "none", 5.0, folds=(0,), seeds=(0, 1))
    masks("unseen-0", "unseen", 0)
    said = compare_steps(["few", "many"], place, "mask_precision")
    assert said["seed_spread"] is None
    assert [step["mask_precision"] for step in said["steps"]] == pytest.approx([0.2, 0.9])
    step = said["steps"][1]
    gap = difference(*(column_deletions(table, "mask_precision") for table in (many, few)))
    ends = [step[key] for key in ("gain", "gain_low", "gain_high")]
    assert ends == pytest.approx(list(gap)) and "map_at_5" not in step
    Console(width=200).print(steps_report(said))
    assert "mask precision" in capsys.readouterr().out
    # With a second seed another training counts, too, and it does not by what is told of names.
    masks("few-1", "few", 3, seed=1)
    masks("many-1", "many", 8, seed=1)
    said = compare_steps(["few", "many"], place, "mask_precision")
    grids = {one: {0: {seed: table_of(place, f"{one}-{seed}") for seed in (0, 1)}} for one in ("few", "many")}
    spread = seed_spread(grids, "mask_precision")
    assert said["seed_spread"] == pytest.approx(spread.spread) and said["steps"][1]["told_apart"]
    lead = compare(grids, [0], "mask_precision", spread).leads["many", "few"]
    assert said["steps"][1]["gain_low"] == pytest.approx(lead.low)
    with pytest.raises(
        WhalebenchError,
        match="none-flukes-fold0-seed0 has no mask precision, as it finds nothing of that kind",
    ):
        compare_steps(["few", "none"], place, "mask_precision")
    with pytest.raises(WhalebenchError, match="--by 'mask' cannot be: did you mean 'mask_"):
        compare_steps(["few", "many"], place, "mask")


def test_the_ladder_of_a_plan_has_its_finished_runs(place, cli, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'folds = "0-1"\nseeds = "0-1"\nsettings = { epochs = 3 }\n[[methods]]\nname = "softmax"\n'
        '[[methods]]\nname = "softmax"\nsettings = { dropout = 0.4 }\n[[methods]]\nname = "arcface"\n'
    )
    kinds = {"softmax": (), "softmax dropout=0.4": ("dropout=0.4",), "arcface": ()}

    def config(name, *settings):
        kind = find_method(name.split()[0])
        return configure(kind, ["epochs=3", *kinds[name], *settings]).model_dump(mode="json")

    def fill(name, skill, **change):
        for fold, seed in ((0, 0), (0, 1), (1, 0)):
            facts = {"config": config(name), "fold": fold, "seed": seed} | change
            put(place, f"{name}-{fold}-{seed}{''.join(change)}", name.split()[0], skill, **facts)

    for name, skill in zip(kinds, (1.0, 3.0, 5.0), strict=True):
        fill(name, skill)
    # What is not of the plan, and what older code came to, stay out.
    put(place, "other", "softmax", 9.0, config=config("softmax", "epochs=9"))
    put(place, "later", "softmax", 9.0, config=config("softmax"), seed=7)
    put(place, "lost", "softmax", 9.0, config=config("softmax"), fold=1, seed=1, unfit="no", metrics={})
    old = {"code_digest": "old", "created": "2026-01-01T00:00:00+00:00"}
    put(place, "older", "softmax", 9.0, config=config("softmax"), fold=1, seed=1, **old)
    answer = cli("compare", "--plan", plan, "--json", "--workspace", place.root)
    document = json.loads(answer.out)
    assert [step["name"] for step in document["steps"]] == list(kinds) and document["folds"] == [0, 1]
    assert [len(step["runs"]) for step in document["steps"]] == [3, 3, 3]
    assert f"3 of 12 runs are not there: whalebench sweep --plan {plan}" in answer.err.replace("\n", " ")
    assert [step["gain"] > 0 for step in document["steps"][1:]] == [True, True]
    one = json.loads(cli("compare", "--plan", plan, "--folds", "1", "--json", "--workspace", place.root).out)
    assert one["folds"] == [1] and [len(step["runs"]) for step in one["steps"]] == [1, 1, 1]
    names = [[f"{name}-{fold}-{seed}" for fold, seed in ((0, 0), (0, 1), (1, 0))] for name in kinds]
    assert [sorted(step["runs"]) for step in document["steps"]] == names
    assert document["steps"][1]["map_at_5"] == pytest.approx(
        np.mean([np.mean([read(place, f"softmax dropout=0.4-0-{seed}") for seed in (0, 1)]),
                 read(place, "softmax dropout=0.4-1-0")])
    )  # fmt: skip
    text = plan.read_text()
    for change, words in (
        (
            text + '[[methods]]\nname = "triplet"\n',
            "No run of triplet on flukes is finished: sweep the plan first",
        ),
        ('preset = "laptop"\n' + text, "A plan with the preset laptop cannot be compared as a ladder"),
        ('[[methods]]\nname = "softmax"\nsettings = { epochs = 3 }\n', "softmax alone is no ladder"),
    ):
        plan.write_text(change)
        answer = cli("compare", "--plan", plan, "--workspace", place.root)
        assert (answer.code, answer.out) == (2, "")
        assert words in answer.err.replace("\n", " ")


def read(place, name):
    return read_predictions(place.runs / name)["average_precision_at_5"].mean()


def table_of(place, name):
    return read_predictions(place.runs / name).sort_values("image", ignore_index=True)


def test_of_a_single_individual_the_ends_of_a_gain_stay_undefined(place):
    for name, skill in (("one", 1.0), ("two", 5.0)):
        table = put(place, name, name, skill)
        change_predictions(place.runs / name, table[table["truth"] == table["truth"].iloc[0]])
    step = compare_steps(["one", "two"], place)["steps"][1]
    assert (step["gain_low"], step["gain_high"], step["told_apart"]) == (None, None, False)


def test_a_ladder_has_the_folds_of_all(place):
    several(place, "one", 1.0, folds=(0, 1), seeds=(0,))
    several(place, "two", 2.0, folds=(0, 1, 2), seeds=(0,))
    several(place, "three", 3.0, folds=(1, 2), seeds=(0,))
    several(place, "four", 3.0, folds=(2,), seeds=(0,))
    assert compare_steps(["one", "two", "three"], place)["folds"] == [1]
    words = "one has fold 0, 1 and two has fold 0, 1, 2 and .*fold 2, so no fold is that of all"
    with pytest.raises(WhalebenchError, match=words):
        compare_steps(["one", "two", "three", "four"], place)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"benchmark": "seals"},
            "one is of benchmark flukes and two of seals, so they were not tested on the same",
        ),
        ({"split_digest": "t" * 64}, "one is of split digest ssssssssssssssss and two of tttt"),
        ({"fold": 1}, "one has fold 0 and two has fold 1: run one of them on a fold of the other"),
        ({"photos": 150}, "10 photos .* were tested by one of two runs only"),
        ({"unfit": "flukes has no boxes", "metrics": {}}, "two has no scores, because flukes has no boxes"),
    ],
)
def test_what_cannot_be_compared_is_told(place, other, words):
    put(place, "one", "one", 1.0)
    put(place, "two", "two", 1.0, **other)
    with pytest.raises(WhalebenchError, match=words):
        compare_runs("one", "two", place)


def test_wrong_use_is_told(place, cli):
    put(place, "one", "one", 1.0)
    for arguments, words in (
        (("one", "one"), "one cannot be compared with itself"),
        (("one", "onne"), "There is no run 'onne'"),
        (("one", "one", "--photos", "-1"), "--photos -1 cannot be: give 0 or more"),
        (
            ("one", "one", "one", "--photos", "3"),
            "--photos 3 is for two by MAP@5, not for 3 runs: leave it out",
        ),
        (
            ("one", "two", "--by", "top_1", "--photos", "3"),
            "--photos 3 is for two by MAP@5, not for --by top_1",
        ),
        ((), "Compare what? Name two runs, or more for a ladder"),
        (("one",), "Compare what? Name two runs, or more for a ladder"),
        (("one", "two", "--plan", "salt-small"), "Compare what? Name two runs"),
        (("--plan", "salt-smal"), "salt-smal"),
        (("one", "two", "--seeds", "0-1"), "--seeds 0-1 is for a plan, and runs are named: leave it out"),
        (("one", "one", "one"), "one cannot be compared with itself"),
    ):
        answer = cli("compare", *arguments, "--workspace", place.root)
        assert (answer.code, answer.out) == (2, "")
        assert words in answer.err
