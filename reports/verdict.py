"""What a comparison comes to in a sentence: who may be the best, whom they beat, and by how much at least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor

from whalebench.reports.board import Group
from whalebench.reports.metrics.comparison import Comparison, Standing
from whalebench.reports.wording import between, listed, number

MOST = 6
"""How many names a sentence has."""


def verdicts(groups: Sequence[Group]) -> Iterator[str]:
    """What the groups of a table come to: a sentence for each that compares somebody, the largest first.

    Those that stand alone on their tracks are in one sentence.
    """
    compared = [group for group in groups if len(group.comparison.standings) > 1]
    for group in sorted(compared, key=lambda group: -len(group.comparison.standings)):
        yield f"{group.letter}: " * (len(groups) > 1) + verdict(group.comparison)
    alone = [group.comparison.standings[0] for group in groups if group not in compared]
    if len(alone) > 1:
        scores = (f"{one.contestant} {between(one.value, one.low, one.high)}" for one in alone)
        yield f"Each alone on its track, so that none can be compared: {listed(scores, MOST)}."
    elif alone:
        yield f"{alone[0].contestant} stands alone with {between(*alone[0][1:4])}."


def verdict(compared: Comparison) -> str:
    """What a comparison of at least two comes to.

    Who is beaten is told apart from all that may be the best; the lead named is below each of theirs, with
    95 % confidence over individuals and seeds for all pairs at once.
    """
    first, second, *_ = compared.standings
    if compared.unranked:
        return (
            f"{first.contestant} is ahead of {second.contestant} by {number(first.value - second.value)}; "
            f"whether that is more than chance is not known. {compared.unranked}"
        )
    best = [one for one in compared.standings if one.rank_low == 1]
    rest = [one for one in compared.standings if one.rank_low != 1]
    beaten = [one for one in rest if all(_lead(compared, top, one) > 0 for top in best)]
    if not rest:
        return f"{_names(best)} cannot be told apart."
    above = _names(best) + (" cannot be told apart" if len(best) > 1 else "")
    if not beaten:
        return f"{above}{';' if len(best) > 1 else ' leads:'} nobody is beaten by all of them."
    least = floor(100 * min(_lead(compared, top, one) for top in best for one in beaten)) / 100
    sure = f" by at least {least:.2f}" if least > 0 else ""
    who = {1: " beats", 2: "; both beat"}.get(len(best), "; all of them beat")
    return f"{above}{who} {_names(beaten)}{sure}{_left(rest, beaten)}."


def _lead(compared: Comparison, first: Standing, second: Standing) -> float:
    """What the lead of the first over the second is at least."""
    return compared.leads[first.contestant, second.contestant].low


def _left(rest: Sequence[Standing], beaten: Sequence[Standing]) -> str:
    """Who is worse than one of the best, but not than all."""
    left = [one for one in rest if one not in beaten]
    return f"; {_names(left)} by some of them only" if left else ""


def _names(standings: Sequence[Standing]) -> str:
    """Their names, the last one behind an "and"."""
    *before, last = (one.contestant for one in standings)
    if len(before) >= MOST:
        return listed([*before, last], MOST)
    return f"{', '.join(before)} and {last}" if before else last
