"""Groups dealt to folds: each individual as evenly as its groups allow, the folds equally large."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from whalebench.splits.groups import Group, groups_by_identity
from whalebench.splits.shuffling import shuffle_key

NEVER = -1
"""The fold of photos that are never tested, and the valid part of photos that are in none."""


def deal(
    groups: Sequence[Group], folds: int, seed: int, *, pinned: Collection[str], lone: Collection[str]
) -> dict[str, int]:
    """The fold of each group by name, such that every individual that is tested is also known elsewhere.

    `pinned` groups are never tested (fold -1); `lone` individuals are spread like *new* ones. A group that
    fits no fold is pinned too, which can only happen when groups hold several individuals.
    """
    held: dict[str, list[int]] = defaultdict(lambda: [0] * folds)
    photos = [0] * folds
    fold_of: dict[str, int] = dict.fromkeys(pinned, NEVER)
    for group in _order([group for group in groups if group.name not in fold_of], seed, lone):
        strata = _strata(group, lone)
        costs = [(sum(held[name][fold] for name in strata), photos[fold], fold) for fold in range(folds)]
        fold = min(costs)[-1]
        fold_of[group.name] = fold
        photos[fold] += group.size
        for name in strata:
            held[name][fold] += group.size
    _repair(groups, fold_of, folds, lone)
    return fold_of


def _strata(group: Group, lone: Collection[str]) -> tuple[str, ...]:
    """What a group is spread by: its individuals, or "" when it is *new* wherever it is tested."""
    return tuple(identity for identity in group.identities if identity not in lone) or ("",)


def _order(groups: Sequence[Group], seed: int, lone: Collection[str]) -> list[Group]:
    """Groups of several individuals first, which fit in fewest places; then large strata before small."""
    photos: dict[tuple[str, ...], int] = defaultdict(int)
    strata = {group.name: _strata(group, lone) for group in groups}
    for group in groups:
        photos[strata[group.name]] += group.size

    def key(group: Group) -> tuple[int, int, int, int, int]:
        own = strata[group.name]
        keys = (
            shuffle_key(seed, "stratum", "\0".join(own)),
            -group.size,
            shuffle_key(seed, "deal", group.name),
        )
        return (-len(own), -photos[own], *keys)

    return sorted(groups, key=key)


def _repair(groups: Sequence[Group], fold_of: dict[str, int], folds: int, lone: Collection[str]) -> None:
    """Individuals whose groups all came to one fold get one moved, or kept out of the folds."""
    by_identity = groups_by_identity(groups)
    for identity in sorted(by_identity):
        own = by_identity[identity]
        if identity in lone or is_spread(own, fold_of):
            continue
        for group in sorted(own, key=lambda group: (group.size, group.name)):
            before = fold_of[group.name]
            for fold in [*((before + step) % folds for step in range(1, folds)), before]:
                fold_of[group.name] = fold
                others = (by_identity[name] for name in group.identities if name not in lone)
                if all(is_spread(other, fold_of) for other in others):
                    break
            if fold_of[group.name] != before:
                break
        else:
            fold_of[min(own, key=lambda group: (group.size, group.name)).name] = NEVER


def is_spread(groups: Sequence[Group], fold_of: Mapping[str, int]) -> bool:
    """Whether, whichever fold is tested, at least one of the groups is outside it."""
    found = {fold_of[group.name] for group in groups}
    return len(found) > 1 or NEVER in found
