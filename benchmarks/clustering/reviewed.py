"""What a person said of pairs of photos: who is together, who is not, and how many individuals there are.

The number of individuals is the number of photos that are the *first* of theirs, in any order of all photos.
In an order that begins with one photo of each group there are two strata: of those, the ones that are not
first are groups torn apart; of all others, the ones that are first are strangers in a group. Of each stratum
photos are drawn at random, and each is held against the earlier photos that resemble it most, that of its
group first. So reviewed pairs give a number without bias, as far as those lists reach, with an interval by
two proportions (Wilson, 1927; Zou and Donner, 2008). Perez et al. (ECCV 2024) count by reviewed pairs, too,
with one over the number of photos of a drawn one's individual, whose bias falls with the pairs of each photo.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from whalebench import one_line
from whalebench.benchmarks.clustering.groups import Places
from whalebench.benchmarks.core.arrays import columns_of, normalise, rows_by_label, top_columns
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.decisions import Decision, Word, refuse_decisions
from whalebench.benchmarks.importing.tables import problem
from whalebench.reports.metrics.grouping import Count, Stratum, combined

CANDIDATES = 10
"""How many earlier photos a drawn one is held against; a match beyond them makes the count too high."""
MOST_LINES = 6
"""How many lines that contradict each other are named."""


class _Link(NamedTuple):
    """What a decision says of two nodes: the photos come first, then individuals by name."""

    one: int
    other: int
    row: int | None = None
    """Of the decision; None where two names say so by themselves."""


@dataclass(frozen=True)
class Said:
    """Everything that decisions say of photos, none of it in contradiction."""

    component: Places
    """A number for each photo: photos with one number are one individual."""
    apart: frozenset[tuple[int, int]] = frozenset()
    """Pairs of such numbers, rising, that are two individuals."""
    unsure: frozenset[tuple[int, int]] = frozenset()
    """Pairs of photos, rising, that a person could not tell."""

    @classmethod
    def nothing(cls, photos: int) -> Said:
        """Where nobody has decided anything."""
        return cls(np.arange(photos))

    def same(self, one: int, other: int) -> bool | None:
        """Whether two photos show one individual; None where nothing says so."""
        ours, theirs = int(self.component[one]), int(self.component[other])
        if ours == theirs:
            return True
        return False if (min(ours, theirs), max(ours, theirs)) in self.apart else None

    def together(self) -> list[Places]:
        """The photos of each component that has several."""
        return [places for places in rows_by_label(self.component).values() if len(places) > 1]

    def divided(self) -> list[tuple[Places, Places]]:
        """The photos of the two components of each pair that is apart."""
        rows = rows_by_label(self.component)
        return [
            (rows[one], rows[other]) for one, other in sorted(self.apart) if one in rows and other in rows
        ]


def read_said(
    file: Path, decisions: Sequence[Decision], photos: Sequence[str], individuals: Sequence[str] = ()
) -> Said:
    """What the decisions of a file on single ones of these photos say of all of them together.

    Same and different are said of a photo and another photo, or one of `individuals`, whom the run knows and
    of whom no two are one. New is none of those; where it is named, it is the individual of that name. Raises
    WhalebenchError, by line, for unknown individuals, and for decisions that contradict each other.
    """
    _refuse_unknown(file, decisions, {*photos, *individuals})
    nodes = columns_of(dict.fromkeys((*photos, *(one.individual for one in decisions if one.individual))))
    names = list(nodes)
    links: dict[str, list[_Link]] = {word: [] for word in get_args(Word)}
    for row, one in enumerate(decisions):
        if one.individual:
            links[one.decision].append(_Link(nodes[one.photo], nodes[one.individual], row))
    same, apart = links["same"] + links["new"], links["different"]
    apart += [_Link(*pair) for pair in combinations(range(len(photos), len(nodes)), 2)]
    known = [nodes[name] for name in names[len(photos) :] if name in set(individuals)]
    for row, one in enumerate(decisions):
        if one.decision == "new" and not one.individual:
            apart += [_Link(nodes[one.photo], other, row) for other in known]
    component = _components(same, len(nodes))
    denied = [link for link in apart if component[link.one] == component[link.other]]
    refuse_decisions(file, decisions, [_denied(link, same, decisions, names) for link in denied])
    return Said(
        component[: len(photos)],
        frozenset(_rising(int(component[link.one]), int(component[link.other])) for link in apart),
        frozenset(_rising(link.one, link.other) for link in links["unsure"]),
    )


def _refuse_unknown(file: Path, decisions: Sequence[Decision], known: set[str]) -> None:
    known = known | {one.individual for one in decisions if one.decision == "new"} | {""}
    text = "this is no other photo that is grouped, and no individual that the run knows; correct it"
    unknown = [
        (row, problem("individual", one.individual, text))
        for row, one in enumerate(decisions)
        if one.individual not in known or one.individual == one.photo
    ]
    refuse_decisions(file, decisions, unknown)


def _components(links: Sequence[_Link], nodes: int) -> Places:
    """A number for each node, the same where links lead from one to the other."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [link.one for link in links], [link.other for link in links]
    graph = coo_array((np.ones(len(links)), ends), (nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _denied(
    link: _Link, same: Sequence[_Link], decisions: Sequence[Decision], names: Sequence[str]
) -> tuple[int, str]:
    """The row and the sentence of what others deny together."""
    way = _way(same, link.one, link.other)
    row = max(way) if link.row is None else link.row
    places = [decisions[each].place for each in sorted(way) if each != row]
    more = [f"{len(places) - MOST_LINES} more"] if len(places) > MOST_LINES else []
    others = " and ".join([", ".join(places[:MOST_LINES]), *more])
    one, other = (one_line(names[node], 40) for node in link[:2])
    text = f"{others} say that {one} and {other} are one; take one of them out"
    if link.row is None:
        text = f"with {others} it makes {one} and {other} one, which are two; take one of them out"
    return row, problem("decision", decisions[row].decision, text)


def _rising(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _way(links: Sequence[_Link], start: int, end: int) -> list[int]:
    """The rows of the fewest links that lead from one node to another."""
    beside = defaultdict(list)
    for one, other, row in links:
        assert row is not None
        beside[one].append((other, row))
        beside[other].append((one, row))
    ways: dict[int, list[int]] = {start: []}
    waiting = deque([start])
    while end not in ways:
        node = waiting.popleft()
        for other, row in beside[node]:
            if other not in ways:
                ways[other] = [*ways[node], row]
                waiting.append(other)
    return ways[end]


class Look(NamedTuple):
    """A photo that was drawn, and the earlier photos that it is to be held against, the likeliest first."""

    photo: int
    first_of_group: bool
    """Whether it stands for its group; else it is one of the others."""
    earlier: tuple[int, ...]


@dataclass(frozen=True)
class Review:
    """Photos in the order in which their individuals are counted, and in which they are drawn."""

    embeddings: NDArray[np.float32]
    groups: Places
    """Made without any decision, so that a sample stays one whatever is decided."""
    names: tuple[str, ...]
    """Of the photos; they decide which are drawn first, whatever the order of the photos."""

    def looks(self) -> Iterator[Look]:
        """All photos as they are drawn: those that stand for a group in turns with the others."""
        unit, digests = normalise(self.embeddings), [digest_text(name) for name in self.names]
        drawn = np.array(sorted(range(len(unit)), key=digests.__getitem__), np.int64)
        # An order that has nothing to do with who is drawn, nor with how the photos were given.
        counted = np.array(sorted(range(len(unit)), key=lambda row: digests[row][::-1]), np.int64)
        first = np.array(
            [self._middle(unit, counted[self.groups[counted] == group]) for group in np.unique(self.groups)]
        )
        stands_for = np.isin(np.arange(len(unit)), first)
        order = np.concatenate([counted[stands_for[counted]], counted[~stands_for[counted]]])
        rank = np.argsort(order)
        turns = [drawn[stands_for[drawn]].tolist(), drawn[~stands_for[drawn]].tolist()]
        for turn in range(max(map(len, turns))):
            for row in (rows[turn] for rows in turns if turn < len(rows)):
                yield Look(row, bool(stands_for[row]), self._earlier(unit, row, first, order[: rank[row]]))

    def _earlier(
        self, unit: NDArray[np.float32], row: int, first: Places, earlier: Places
    ) -> tuple[int, ...]:
        """The photo that stands for the group of another one, then those most like it: at most CANDIDATES."""
        own = first[self.groups[row]]
        nearest = earlier[top_columns((unit[earlier] @ unit[row])[None], CANDIDATES)[0]].tolist()
        return tuple(dict.fromkeys(([int(own)] if own != row else []) + nearest))[:CANDIDATES]

    @staticmethod
    def _middle(unit: NDArray[np.float32], rows: Places) -> int:
        """The photo of a group that is most like all of it, of equal ones the first."""
        return int(rows[np.argmax((unit[rows] @ unit[rows].sum(axis=0)).round(4))])

    def is_first(self, look: Look, said: Said) -> bool | None:
        """Whether no earlier photo shows the individual of a drawn one; None where that is not decided."""
        answers = [said.same(look.photo, other) for other in look.earlier]
        return False if True in answers else None if None in answers else True

    def is_unsure(self, look: Look, said: Said) -> bool:
        """Whether a person could not tell whom a drawn photo shows."""
        return any(_rising(look.photo, other) in said.unsure for other in look.earlier)

    def open_looks(self, said: Said, most: int) -> list[Look]:
        """The next looks that nobody has decided, each with the photos that are left to hold it against."""
        undecided = (look for look in self.looks() if self.is_first(look, said) is None)
        waiting = (look for look in undecided if not self.is_unsure(look, said))
        return [
            look._replace(earlier=tuple(x for x in look.earlier if said.same(look.photo, x) is None))
            for look, _ in zip(waiting, range(most), strict=False)
        ]


def count_individuals(review: Review, said: Said) -> Count:
    """How many individuals the photos show, by what was said of those that were drawn, with a 95 % interval.

    Taken are the drawn photos of each stratum up to the first that nobody has looked at; those that a person
    could not tell are left out, as if they had not been drawn. Without one of either stratum, or any
    decision, the count is the number of groups, without an interval.
    """
    groups = len(set(review.groups.tolist()))
    if not said.apart and not said.together():
        return Count(float(groups))
    sizes = {True: groups, False: len(review.groups) - groups}
    decided: dict[bool, list[bool]] = {True: [], False: []}
    ended: set[bool] = set()
    for look in review.looks():
        kind, answer = look.first_of_group, review.is_first(look, said)
        if answer is None and not review.is_unsure(look, said):
            ended.add(kind)
        elif answer is not None and kind not in ended:
            decided[kind].append(answer)
        if len(ended) == len(sizes):
            break
    strata = [Stratum(size, len(decided[kind]), sum(decided[kind])) for kind, size in sizes.items()]
    if any(stratum.photos and not stratum.decided for stratum in strata):
        return Count(float(groups))
    return combined(strata)


def reach(review: Review, identities: Sequence[str]) -> float:
    """How often the earlier photos that one is held against show its individual, where any earlier one does.

    Of photos whose individuals are known; NaN where no two of them show one. Below 1 the number of
    individuals comes out too high.
    """
    looks = [(identities[look.photo], {identities[row] for row in look.earlier}) for look in review.looks()]
    found, again = sum(name in earlier for name, earlier in looks), len(looks) - len(set(identities))
    return found / again if again else nan
