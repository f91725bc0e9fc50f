"""How often intervals hold the truth, and how often equal methods are told apart: a seeded simulation.

    python tests/simulation.py              # what docs/leaderboard.md cites, some minutes
    python tests/simulation.py --times 100  # a quick look

Photos are clustered by individual, with photo counts as in a catalog or with a Pareto tail. A method has its
own easy and hard individuals, and each training of it its own, and moves all of them at once, by as much as
seeds of `softmax` do on `flukes` (standard deviation 0.06 of MAP@5 at 0.5), or a third of that. The truth is
the mean over all draws, of individuals and of trainings: what the same experiment gives on average.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from whalebench.reports.metrics.comparison import Comparison, Grid, compare
from whalebench.reports.metrics.jackknife import intervals
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.summary import summarize

KEYS = ("map_at_5", "top_1", "log_loss", "auroc_new", "baks", "baus")
KEYS += ("dir_at_far_1", "dir_at_far_5", "dir_at_far_10")
WANTED = (0.93, 0.97)
"""How often a 95 % interval may hold the truth without a warning."""
PLACES = np.array([0.0, -0.35, -0.6, -0.8, -0.95])
"""How far the truth falls behind the best candidate before it loses a place."""
SOFTMAX, ARCFACE = 0.2, 0.07
"""How much a training moves the margin of every photo at once: 0.055 and 0.02 of MAP@5."""


class Design(NamedTuple):
    """A leaderboard: who is compared on what."""

    methods: int
    seeds: Sequence[int]
    """Of each method in turn, beginning again where there are more methods."""
    folds: int = 1
    individuals: int = 60
    tail: bool = False
    noise: Sequence[float] = (SOFTMAX,)
    """Of each method's trainings, in turn."""
    skill: Sequence[float] = (0.0,)
    """By how much each method is better, in turn."""


DESIGNS = (
    Design(8, (2,)),
    Design(8, (1, 1, 1, 3, 1, 1, 1, 1)),
    Design(8, (3,), noise=(SOFTMAX, ARCFACE)),
    Design(8, (3,), noise=(0.0,)),
    Design(8, (3,), individuals=20),
    Design(8, (3,), tail=True),
    Design(8, (2,), folds=5, noise=(SOFTMAX, ARCFACE)),
    Design(17, (2,)),
    Design(17, (2,), folds=5, individuals=100, noise=(SOFTMAX, ARCFACE)),
)
"""Equal methods: whatever is told apart is told wrongly."""
UNEQUAL = (
    Design(2, (3,), folds=1, skill=(0.0, 0.2)),
    Design(2, (2,), folds=5, skill=(0.0, 0.2)),
    Design(2, (2,), folds=5, individuals=150, tail=True, skill=(0.0, 0.2)),
    Design(6, (2, 3), folds=5, noise=(SOFTMAX, ARCFACE), skill=(0.0, 0.1, 0.3, 0.4, 0.8, 0.8)),
)


def photo_counts(rng: np.random.Generator, individuals: int, tail: bool) -> np.ndarray:
    """Photos of each individual, at least one; with a tail a few have most of them."""
    if tail:
        return np.clip(np.ceil(1.5 * rng.pareto(1.2, individuals)), 1, 400).astype(np.int64)
    return 1 + rng.poisson(3, individuals)


def ranks(margins: np.ndarray) -> np.ndarray:
    return 1.0 + (margins[..., None] < PLACES).sum(axis=-1)


def precisions(rank: np.ndarray) -> np.ndarray:
    return np.where(rank <= len(PLACES), 1 / rank, 0.0)


def run(rng: np.random.Generator, individuals: int, tail: bool) -> pd.DataFrame:
    """The per-query table of one training, a quarter as many new individuals as known ones."""
    number = individuals + max(4, individuals // 4)
    counts = photo_counts(rng, number, tail)
    of = np.repeat(np.arange(number), counts)
    new, clarity = of >= individuals, rng.normal(0, 0.8, number)[of]
    margin = np.where(new, 0, 0.8) + clarity + rng.normal(0, 0.9, len(of))
    best = np.where(new, 0, 1.1) + 0.8 * clarity + rng.normal(0, 0.7, len(of))
    called_new, among_known = best < 0.3, ranks(margin)
    behind = 1.0 + (best[:, None] > [0.3, 0.8, 1.2]).sum(axis=1)
    rank = np.where(new, behind, among_known + called_new)
    names = np.array([f"whale {name}" for name in range(number)], dtype=object)[of]
    undefined = np.where(new, np.nan, 0.0)
    columns = {
        "truth": np.where(new, NEW, names),
        "cluster": names,
        "candidate_1": np.where(called_new, NEW, names),
        "rank": rank,
        "average_precision_at_5": precisions(rank),
        "top_1": rank <= 1,
        "top_5": rank <= len(PLACES),
        "identified": ~new & (among_known == 1),
        "log_loss": np.log1p(np.exp(-margin)) + undefined,
        "new_score": -best,
        "average_precision_at_r": undefined,
        "covered_95": undefined,
        "set_size_95": undefined,
    }
    return pd.DataFrame(columns)


def coverage(individuals: int, tail: bool, times: int) -> dict[str, tuple[float, float, float]]:
    """By metric: the truth, how often the interval holds it, and how wide it is on average."""
    rng = np.random.default_rng(individuals)
    tables = [run(rng, individuals, tail) for _ in range(times)]
    values = pd.DataFrame([summarize(table) for table in tables])
    ends = [intervals(table) for table in tables]
    found = {}
    for key in KEYS:
        low, high = np.array([one[key][:2] for one in ends]).T
        truth = values[key].mean()
        found[key] = (truth, float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean()))
    return found


def leaderboard(rng: np.random.Generator, design: Design) -> dict[str, Grid]:
    """The photos of all individuals dealt to the folds, scored by every training of every method."""
    counts = photo_counts(rng, design.individuals, design.tail)
    of = np.repeat(np.arange(design.individuals), counts)
    clarity = 0.2 + rng.normal(0, 0.8, design.individuals)[of] + rng.normal(0, 0.6, len(of))
    fold_of = rng.permutation(np.arange(len(of)) % design.folds)
    names = np.array([f"whale {name}" for name in range(design.individuals)], dtype=object)[of]
    grids: dict[str, Grid] = {}
    for method in range(design.methods):
        skill, noise, seeds = (
            values[method % len(values)] for values in (design.skill, design.noise, design.seeds)
        )
        liked = skill + clarity + rng.normal(0, 0.4, design.individuals)[of] + rng.normal(0, 0.5, len(of))
        grids[f"method {method}"] = {
            fold: {
                seed: _training(
                    rng, names[fold_of == fold], of[fold_of == fold], liked[fold_of == fold], noise
                )
                for seed in range(seeds)
            }
            for fold in range(design.folds)
        }
    return grids


def _training(
    rng: np.random.Generator, names: np.ndarray, of: np.ndarray, liked: np.ndarray, noise: float
) -> pd.DataFrame:
    margin = (
        liked + rng.normal(0, noise) + rng.normal(0, 0.35, of.max() + 1)[of] + rng.normal(0, 0.5, len(of))
    )
    return pd.DataFrame({"cluster": names, "average_precision_at_5": precisions(ranks(margin))})


def comparisons(design: Design, times: int) -> list[Comparison]:
    """As many leaderboards, individuals and trainings drawn anew for each."""
    rng = np.random.default_rng(design.methods)
    return [compare(leaderboard(rng, design), range(design.folds)) for _ in range(times)]


def false_difference(comparison: Comparison) -> bool:
    """Whether any two are told apart, which of equal methods is false."""
    return any(lead.told_apart for lead in comparison.leads.values())


def untold(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Pairs whose rank intervals are disjoint though they are not told apart; there must be none."""
    for one in comparison.standings:
        for other in comparison.standings:
            disjoint = one.rank_high < other.rank_low
            if disjoint and not comparison.leads[one.contestant, other.contestant].told_apart:
                yield one.contestant, other.contestant


def lead_coverage(found: Sequence[Comparison]) -> tuple[float, float]:
    """How often all leads of a leaderboard hold the truth, and how often pairs are told apart."""
    pairs = [pair for pair in found[0].leads if pair[0] < pair[1]]
    leads = np.array([[one.leads[pair] for pair in pairs] for one in found])
    truth = leads[:, :, 0].mean(axis=0)
    held = (leads[:, :, 1] <= truth) & (truth <= leads[:, :, 2])
    return float(held.all(axis=1).mean()), float(leads[:, :, 3].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=1000, help="draws of each setting")
    times = parser.parse_args().times
    say(f"How often the 95 % interval of a metric holds the truth, {times} runs each, ! where not 93 to 97 %")
    for tail in (False, True):
        for individuals in (20, 60, 150):
            found = coverage(individuals, tail, times)
            shares = "  ".join(f"{key} {share:.3f}{_mark(share)}" for key, (_, share, _) in found.items())
            say(f"{individuals:4d} individuals{', Pareto tail' if tail else ''}: {shares}")
    times = max(2, times // 3)
    say(f"How often a leaderboard of equal methods shows any difference, {times} each, ! above 5 %")
    for design in DESIGNS:
        boards = comparisons(design, times)
        share = np.mean([false_difference(one) for one in boards])
        median = np.median([one.detectable_lead for one in boards])
        say(f"{share:.3f}{'!' if share > 0.05 else ' '} detectable lead {median:.3f}  {design}")
        assert not [pair for one in boards for pair in untold(one)]
    say("How often all leads of unequal methods hold the truth, and how often a pair is told apart")
    for design in UNEQUAL:
        boards = comparisons(design, times)
        held, told = lead_coverage(boards)
        say(f"{held:.3f}{_mark(held)} {told:.2f}  {design}")
        assert not [pair for one in boards for pair in untold(one)]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  (a program, not the library)


def _mark(share: float) -> str:
    return " " if WANTED[0] <= share <= WANTED[1] else "!"


if __name__ == "__main__":
    main()
