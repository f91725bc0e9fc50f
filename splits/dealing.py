"""Groups dealt to folds: each individual as evenly as its groups allow, the folds equally large.

Our own shuffling, so that a split does not depend on a library's random numbers or version.

Groups: photos that must stay together, because one encounter or the very same content joins them.

Valid parts: for each fold, whole groups from outside it that tune and choose, and do not train.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd


def shuffle_key(seed: int, purpose: str, text: str) -> int:
    """A number below 2**64 to sort by: as good as random, yet the same on every machine and for ever.

    >>> sorted("abc", key=lambda text: shuffle_key(0, "example", text))
    ['c', 'b', 'a']
    """
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


@dataclass(frozen=True)
class Group:
    """Photos that never straddle two parts of a fold."""

    name: str
    """The smallest image id in it."""
    images: tuple[str, ...]
    """The image ids, sorted."""
    identities: tuple[str, ...]
    """The individuals in it, sorted, without *new*."""

    @property
    def size(self) -> int:
        """The number of photos."""
        return len(self.images)


def group_photos(table: pd.DataFrame) -> tuple[Group, ...]:
    """The groups of a catalog's table, sorted by name.

    Photos are joined by an equal encounter or an equal content digest where that is not empty, and so on
    through chains of these.
    """
    ordered = table.sort_values("image")
    images, identities = ordered["image"].tolist(), ordered["identity"].tolist()
    roots = _roots(len(images), [ordered["encounter"].tolist(), ordered["content_digest"].tolist()])
    members: dict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(roots):
        members[root].append(index)
    return make_groups([(images[index], identities[index]) for index in group] for group in members.values())


def make_groups(photos: Iterable[Sequence[tuple[str, str]]]) -> tuple[Group, ...]:
    """Groups from the image id and the identity of each of their photos, sorted by name."""
    groups = []
    for group in photos:
        images = tuple(sorted(image for image, _ in group))
        identities = tuple(sorted({identity for _, identity in group} - {""}))
        groups.append(Group(images[0], images, identities))
    return tuple(sorted(groups, key=lambda group: group.name))


def groups_by_identity(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """The groups in which each individual appears."""
    found: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        for identity in group.identities:
            found[identity].append(group)
    return dict(found)


def lone_identities(groups: Iterable[Group]) -> frozenset[str]:
    """The individuals that appear in one group only: they cannot be both learned and tested."""
    return frozenset(identity for identity, own in groups_by_identity(groups).items() if len(own) == 1)


def _roots(number: int, keys: Sequence[Sequence[str]]) -> list[int]:
    """For each photo the first photo it is joined to by an equal non-empty key (union-find)."""
    parents = list(range(number))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for values in keys:
        first: dict[str, int] = {}
        for index, value in enumerate(values):
            if value:
                one, other = root(index), root(first.setdefault(value, index))
                parents[max(one, other)] = min(one, other)
    return [root(index) for index in range(number)]


Remaining = dict[str, list[int]]


def lend(
    groups: Sequence[Group],
    fold_of: Mapping[str, int],
    folds: int,
    *,
    lendable: Collection[str],
    lone: Collection[str],
    share: float,
    seed: int,
) -> dict[str, int]:
    """The fold whose valid part each lent group is, by the group's name.

    A group is lent once, and only when its individuals stay known in that fold's train part; `lone`
    individuals become *new* there. Known and *new* photos are lent in the same share of all outside the test.
    """
    remaining = _remaining(groups, fold_of, folds, lone)
    valid_of: dict[str, int] = {}
    for fold in range(folds):
        for new in (False, True):
            kind = [group for group in groups if _is_new(group, lone) == new and fold_of[group.name] != fold]
            pool = [group for group in kind if group.name in lendable and group.name not in valid_of]
            target = max(1, round(share * _photos(kind)))
            # Later folds want their part too where few groups can be lent.
            target = min(target, -(-_photos(pool) // (folds - fold)))
            for group in _take(_shuffled(pool, fold, seed), target, fold, remaining):
                valid_of[group.name] = fold
    return valid_of


def _take(pool: Sequence[Group], target: int, fold: int, remaining: Remaining) -> list[Group]:
    """Groups of together about `target` photos, each individual in proportion.

    Every group that is passed adds its share to what is owed; one is taken when at least half of it is owed
    (error diffusion, in whole numbers). A second round fills up what could not be taken where it was owed.
    """
    total, owed, photos = _photos(pool), 0, 0
    taken: dict[str, Group] = {}
    for fill in (False, True):
        for group in pool:
            owed += group.size * target
            due = photos < target if fill else 2 * owed >= group.size * total
            fits = 2 * (photos + group.size) <= 3 * target or (fill and not photos)
            if due and fits and group.name not in taken and _stays_known(group, fold, remaining):
                for identity in group.identities:
                    if identity in remaining:
                        remaining[identity][fold] -= 1
                taken[group.name] = group
                owed -= group.size * total
                photos += group.size
    return list(taken.values())


def _remaining(
    groups: Sequence[Group], fold_of: Mapping[str, int], folds: int, lone: Collection[str]
) -> Remaining:
    """For each individual that must stay known, the number of its groups outside each fold."""
    remaining: Remaining = defaultdict(lambda: [0] * folds)
    for group in groups:
        for identity in group.identities:
            if identity not in lone:
                for fold in range(folds):
                    remaining[identity][fold] += fold_of[group.name] != fold
    return dict(remaining)


def _stays_known(group: Group, fold: int, remaining: Remaining) -> bool:
    return all(remaining[identity][fold] > 1 for identity in group.identities if identity in remaining)


def _shuffled(pool: Sequence[Group], fold: int, seed: int) -> list[Group]:
    """The groups of one individual side by side, else shuffled anew for each fold."""
    purpose = f"valid {fold}"

    def key(group: Group) -> tuple[int, int]:
        stratum = group.identities[0] if group.identities else group.name
        return (shuffle_key(seed, purpose, stratum), shuffle_key(seed, purpose, f"group {group.name}"))

    return sorted(pool, key=key)


def _is_new(group: Group, lone: Collection[str]) -> bool:
    return all(identity in lone for identity in group.identities)


def _photos(groups: Sequence[Group]) -> int:
    return sum(group.size for group in groups)


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
    for group in _largest_first([group for group in groups if group.name not in fold_of], seed, lone):
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


def _largest_first(groups: Sequence[Group], seed: int, lone: Collection[str]) -> list[Group]:
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
