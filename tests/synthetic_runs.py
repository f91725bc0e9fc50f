"""Makes a workspace of many finished runs in a moment, to see how a leaderboard does with them.

    python tests/synthetic_runs.py FOLDER --methods 50 --seeds 10 --queries 5000
    whalebench report --workspace FOLDER

The ranks of the true individuals are drawn, nothing is trained. Photos and individuals of a fold are the same
for all runs, and each method has its own skill, each individual its own ease, each seed its own luck.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whalebench.benchmarks.core.record import RunRecord, plain, write_predictions, write_record, write_run
from whalebench.benchmarks.core.usage import Usage
from whalebench.reports.metrics.ranking import CANDIDATES, NEW
from whalebench.reports.metrics.summary import summarize

SHARE_NEW = 0.15
FAR = 10_000
"""A rank at which nobody is found."""


def usage(**change: Any) -> Usage:
    """What a run was given that learned for thirty passes over a thousand photos, or as the changes say."""
    facts: dict[str, Any] = {"photos_seen": 30_000, "photos_by_stage": {"train": 30_000}, "looks": 1.0}
    facts |= {"annotations": {}, "pixels": ["80x128"], "parameters": 1_000_000, "weights": {}}
    return Usage.model_validate(facts | {"by_hand": {}, "tuning_budget": ""} | change)


def record(run: str, method: str = "arcface", **change: Any) -> RunRecord:
    """The record of a run on fold 0 with seed 0, without metrics, or as the changes say."""
    facts = {"run": run, "method": method, "config": {}, "benchmark": "flukes", "fold": 0, "seed": 0}
    facts |= {"catalog_digest": "c" * 64, "split_digest": "s" * 64, "track": "small network"}
    facts |= {"created": "2026-11-23T12:00:00+00:00", "environment": {}, "hardware": {}}
    facts |= {"seconds": {"total": 120.0}, "counts": {"identities": 20, "train_known_photos": 1000}}
    facts |= {"metrics": {}, "valid_metrics": {}, "cmc": [], "usage": usage(), "code_digest": "c0de" * 16}
    return RunRecord.model_validate(facts | {"constant_answer": [NEW, "whale_000"]} | change)


def queries_of(ranks: np.ndarray, fold: int, individuals: int) -> pd.DataFrame:
    """A per-query table with these ranks of the truth (queries,); what is photographed is drawn by fold."""
    fixed, number = np.random.default_rng(fold), len(ranks)
    names = fixed.integers(individuals, size=number)
    new = fixed.random(number) < SHARE_NEW
    truth = np.where(new, NEW, [f"whale_{name:03d}" for name in names])
    confidence = 1 / (1 + ranks)
    table = pd.DataFrame(
        {
            "image": [f"photo_{fold}_{row:05d}" for row in range(number)],
            "truth": truth,
            "cluster": np.where(new, [f"encounter_{name}" for name in names], truth),
            "candidate_1": np.where(ranks == 1, truth, "somebody else"),
        },
        dtype="str",
    )
    numbers = {f"score_{place}": confidence / place for place in range(1, CANDIDATES + 1)}
    numbers |= {"rank": ranks.astype(np.float64)}
    numbers |= {"average_precision_at_5": np.where(ranks <= CANDIDATES, 1 / ranks, 0.0)}
    numbers |= {"top_1": (ranks == 1) * 1.0, "top_5": (ranks <= CANDIDATES) * 1.0}
    numbers |= {"log_loss": np.where(new, np.nan, np.log1p(ranks)), "new_score": -confidence + new * 0.3}
    numbers |= {"probability": np.where(new, np.nan, confidence), "confidence": confidence}
    numbers |= dict.fromkeys(("set_size_95", "covered_95", "average_precision_at_r"), np.full(number, np.nan))
    return table.assign(**numbers)


def ranks(skill: float, fold: int, seed: int, *, queries: int, individuals: int) -> np.ndarray:
    """Ranks of the truth (queries,), by skill, by how easy the individual is, and by the luck of the seed."""
    fixed, luck = np.random.default_rng(fold), np.random.default_rng([seed, round(1e6 * (skill + 10)), fold])
    names = fixed.integers(individuals, size=queries)
    ease = np.random.default_rng(7).normal(0, 0.8, individuals)[names]
    logit = skill + ease + luck.normal(0, 0.15) + luck.normal(0, 0.5, queries)
    right = 1 / (1 + np.exp(-logit))
    return np.minimum(luck.geometric(np.clip(right, 1e-3, 1)), FAR)


def put(runs: Path, of: RunRecord, queries: pd.DataFrame) -> None:
    """Writes a finished run with the metrics of its per-query table."""
    complete = of.model_copy(update={"metrics": plain(summarize(queries))})

    def fill(folder: Path) -> None:
        write_predictions(folder, queries)
        write_record(folder, complete)

    write_run(runs / of.run, fill)


def fill_workspace(
    folder: Path, methods: int, seeds: Iterable[int], folds: Iterable[int], *, queries: int, individuals: int
) -> None:
    """Writes a run for each method, seed and fold into the runs of the workspace."""
    folds = tuple(folds)
    for seed in seeds:
        for fold in folds:
            for place in range(methods):
                drawn = ranks(place / methods - 0.5, fold, seed, queries=queries, individuals=individuals)
                name = f"method-{place:03d}"
                counts = {"identities": individuals, "train_known_photos": 1000}
                of = record(f"{name}-{fold}-{seed}", name, fold=fold, seed=seed, counts=counts)
                put(folder / "runs", of, queries_of(drawn, fold, individuals))


def main() -> None:
    """Parses the command line and fills the workspace."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for name, default in (
        ("methods", 50),
        ("seeds", 10),
        ("folds", 1),
        ("queries", 5000),
        ("individuals", 1000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    sizes = {"queries": asked.queries, "individuals": asked.individuals}
    fill_workspace(asked.folder, asked.methods, range(asked.seeds), range(asked.folds), **sizes)


if __name__ == "__main__":
    main()
