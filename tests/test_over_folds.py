"""Over folds and seeds: means a reader can check by hand, and intervals that a slow twin finds too."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from whalebench.benchmarks.core.record import RunRecord
from whalebench.reports.board import Row
from whalebench.reports.leaderboard import summaries
from whalebench.reports.metrics import resampling

KEY = "average_precision_at_5"
FOLDS = {0: 30, 1: 50, 2: 41}
"""Photos by fold: not equally many."""


def scored(name, fold, seed, values, clusters=None, created="2026-11-23T12:00:00+00:00"):
    """A run whose photos have these average precisions, in another row order for each run."""
    individuals = np.random.default_rng(fold).integers(8, size=len(values))
    table = pd.DataFrame(
        {
            "image": [f"{fold}-{row:02d}" for row in range(len(values))],
            "cluster": [f"whale {one}" for one in individuals] if clusters is None else clusters,
            KEY: values,
            "top_1": np.asarray(values) > 0.5,
            "log_loss": np.where(np.arange(len(values)) % 3 == 0, np.nan, 2 - np.asarray(values)),
        }
    )
    facts = {"method": name, "config": {}, "benchmark": "flukes", "track": "small network"}
    facts |= {"catalog_digest": "c", "split_digest": "s", "environment": {}, "hardware": {}}
    facts |= {"seconds": {}, "counts": {}, "metrics": {}, "valid_metrics": {}, "cmc": []}
    run = f"{name}-{fold}-{seed}-{created}"
    record = RunRecord.model_validate(facts | {"run": run, "fold": fold, "seed": seed, "created": created})
    return Row(record, name, table.sample(frac=1, random_state=len(name) + seed))


def several(names=("aligned", "bbox"), seeds=(0, 1, 2), folds=FOLDS):
    rng = np.random.default_rng(3)
    return [
        scored(name, fold, seed, rng.beta(2 + place, 3, size=FOLDS[fold]))
        for place, name in enumerate(names)
        for fold in folds
        for seed in seeds
    ]


def over(runs, resamples=200):
    return summaries(runs, resamples)


def of(runs, name, fold):
    return [run.queries for run in runs if (run.record.method, run.record.fold) == (name, fold)]


def test_the_mean_is_that_of_the_folds_and_the_spread_that_of_the_seeds():
    runs = several()
    (summary,) = over(runs)
    assert summary.folds == (0, 1, 2) and summary.queries == sum(FOLDS.values())
    assert [one.contestant for one in summary.standings] == ["bbox", "aligned"]
    for one in summary.standings:
        scores = [[table[KEY].mean() for table in of(runs, one.contestant, fold)] for fold in FOLDS]
        assert one.map_at_5 == pytest.approx(np.mean(scores)) and one.seeds == (3, 3)
        assert one.seed_spread == pytest.approx(np.sqrt(np.mean(np.var(scores, axis=1, ddof=1))))
        for key in ("top_1", "log_loss"):
            tables = [of(runs, one.contestant, fold) for fold in FOLDS]
            means = [np.mean([table[key].mean() for table in seeds]) for seeds in tables]
            assert getattr(one, key) == pytest.approx(np.mean(means))


def twin(runs, name, counts):
    """The mean over folds on one draw, photo by photo: each as often as its individual is drawn."""
    total = weight = 0.0
    for fold, photos in FOLDS.items():
        tables = [table.set_index("image").to_dict("index") for table in of(runs, name, fold)]
        for image, row in tables[0].items():
            times = counts[row["cluster"]] / photos
            total += times * sum(table[image][KEY] for table in tables) / len(tables)
            weight += times
    return total / weight


def test_intervals_and_leads_are_those_of_a_slow_twin():
    runs = several(seeds=(0, 1))
    (summary,) = over(runs, 6)
    names = sorted(set(pd.concat([run.queries for run in runs])["cluster"]))
    _, drawn = next(resampling.cluster_counts(6, len(names)))
    counts = [dict(zip(names, row, strict=True)) for row in drawn[1:]]
    values = {name: np.array([twin(runs, name, row) for row in counts]) for name in ("aligned", "bbox")}
    for one in summary.standings:
        ends = np.quantile(values[one.contestant], [0.025, 0.975])
        assert (one.low, one.high) == pytest.approx(tuple(ends))
    lead = summary.standings[0].lead
    gap = np.quantile(values["bbox"] - values["aligned"], [0.025, 0.975])
    assert (lead.low, lead.high) == pytest.approx(tuple(gap))
    first, second = (one.map_at_5 for one in summary.standings)
    assert lead.value == pytest.approx(first - second)


def test_the_pairing_finds_a_small_lead_and_no_lead_shares_a_rank():
    values = {fold: np.random.default_rng(fold).random(photos) for fold, photos in FOLDS.items()}
    runs = [scored("aligned", fold, 0, values[fold]) for fold in FOLDS]
    runs += [scored("bbox", fold, 0, values[fold] - 0.01) for fold in FOLDS]
    runs += [scored("mask", fold, 0, values[fold][::-1] - 0.011) for fold in FOLDS]
    aligned, bbox, mask = over(runs)[0].standings
    assert (aligned.rank, bbox.rank, mask.rank) in {(1, 2, 2), (1, 2, 1)}
    assert (aligned.lead.value, aligned.lead.low, aligned.lead.high) == pytest.approx((0.01, 0.01, 0.01))
    assert bbox.high > aligned.low and not bbox.lead.differs and mask.lead is None
    assert np.isnan(aligned.seed_spread)


def test_an_individual_in_several_folds_is_drawn_in_all_of_them():
    rng = np.random.default_rng(0)
    shared = [f"whale {row % 10}" for row in range(30)]
    values = rng.random(10)[np.arange(30) % 10]  # photos of one individual: the same

    def width(clusters):
        one = over([scored("a", fold, 0, values, clusters[fold]) for fold in (0, 1)], 1000)[0].standings[0]
        return one.high - one.low

    together, apart = width([shared, shared]), width([shared, [f"{name} again" for name in shared]])
    assert together == pytest.approx(2**0.5 * apart, rel=0.15)


def test_contestants_of_other_folds_are_summed_up_apart_and_single_runs_not_at_all():
    runs = [*several(), *several(("mask",), folds=(0, 1)), *several(("stn",), (4,), (0,))]
    found = over(runs, 20)
    assert [(one.folds, [row.contestant for row in one.standings]) for one in found] == [
        ((0, 1, 2), ["bbox", "aligned"]),
        ((0, 1), ["mask"]),
    ]
    (seeds,) = over([run for run in runs if run.record.fold == 0], 20)
    assert {row.contestant: row.seeds for row in seeds.standings}["stn"] == (1, 1) and seeds.folds == (0,)
    assert over(several(seeds=(0,), folds=(1,)), 20) == ()


def test_the_newer_of_two_equal_runs_counts_and_one_without_a_table_does_not():
    old, new = np.full(30, 0.2), np.full(30, 0.6)
    later = scored("a", 0, 0, new, created="2026-11-24T12:00:00+00:00")
    runs = [later, scored("a", 0, 0, old), scored("a", 1, 0, np.full(50, 0.5))]
    (one,) = over(runs)[0].standings
    assert one.map_at_5 == pytest.approx(0.55) and one.seeds == (1, 1)
    assert over([*runs[:2], replace(runs[2], queries=None)]) == ()


def test_one_individual_says_nothing_about_others():
    runs = [scored("a", fold, 0, np.linspace(0, 1, 20), ["whale"] * 20) for fold in (0, 1)]
    (one,) = over(runs)[0].standings
    assert one.map_at_5 == pytest.approx(0.5) and np.isnan(one.low) and np.isnan(one.high)
