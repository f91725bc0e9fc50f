"""Whole groups of photos assigned to folds and to valid parts, evenly by individual and by number of photos.

A group is the photos that one encounter or the very same content joins. Their order is shuffled by hashes, so
that a split does not depend on a library's random numbers or version.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED, REGION

NEVER = -1
"""The fold of photos that are never tested, and the valid part of photos that are in none."""
LEFT_OUT = -2
"""The fold of photos that are in no part at all."""


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


def group_photos(table: pd.DataFrame, together: Iterable[Sequence[str]] = ()) -> tuple[Group, ...]:
    """The groups of a catalog's table, sorted by name.

    Photos are joined by an equal encounter, content digest or group of duplicates where that is not empty, by
    an equal file where some are parts of theirs, by a pair of `together`, and so on through chains of these.
    Those of animals that are NOT_IDENTIFIED join others, and are in no group.
    """
    images = table["image"].tolist()
    # By hand, as to import the library that has it takes longer than all there is to do.
    group_of = {image: [image] for image in images}
    joined = [(one, other) for one, other in together]
    of_file = ("file_digest",) if REGION[0] in table else ()
    of_duplicates = ("duplicates",) if "duplicates" in table else ()
    for column in ("encounter", "content_digest", *of_duplicates, *of_file):
        first: dict[str, str] = {}
        pairs = zip(images, table[column].tolist(), strict=True)
        joined += [(image, first.setdefault(value, image)) for image, value in pairs if value]
    for one, other in joined:
        large, small = group_of[one], group_of[other]
        if large is not small:
            if len(large) < len(small):
                large, small = small, large
            large += small
            group_of |= dict.fromkeys(small, large)
    identity_of = dict(zip(images, table["identity"].tolist(), strict=True))
    distinct = {id(group): group for group in group_of.values()}
    photos = ([(image, identity_of[image]) for image in group] for group in distinct.values())
    identified = ([photo for photo in group if photo[1] != NOT_IDENTIFIED] for group in photos)
    return make_groups(filter(None, identified))


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
    groups_of: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        for identity in group.identities:
            groups_of[identity].append(group)
    return dict(groups_of)


def single_encounter_identities(groups: Iterable[Group]) -> frozenset[str]:
    """The individuals that appear in one group only: they cannot be both learned and tested."""
    groups_of = groups_by_identity(groups)
    return frozenset(identity for identity, appearances in groups_of.items() if len(appearances) == 1)


def shuffle_key(seed: int, purpose: str, text: str) -> int:
    """A number below 2**64 to sort by: as good as random, yet the same on every machine and for ever.

    >>> sorted("abc", key=lambda text: shuffle_key(0, "example", text))
    ['c', 'b', 'a']
    """
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def assign_folds(
    groups: Sequence[Group],
    folds: int,
    seed: int,
    *,
    train_only: Collection[str],
    single_encounter: Collection[str],
) -> dict[str, int]:
    """The fold of each group by name, such that every individual that is tested is also known elsewhere.

    `train_only` groups are never tested (fold -1); `single_encounter` individuals are spread like *new* ones.
    A group that fits no fold is never tested either, which happens only to groups of several individuals.
    """
    photos_of: dict[str, list[int]] = defaultdict(lambda: [0] * folds)
    photos = [0] * folds
    fold_of: dict[str, int] = dict.fromkeys(train_only, NEVER)
    tested = [group for group in groups if group.name not in fold_of]
    for group in _largest_first(tested, seed, single_encounter):
        strata = _strata(group, single_encounter)
        costs = [(sum(photos_of[name][fold] for name in strata), photos[fold], fold) for fold in range(folds)]
        fold = min(costs)[-1]
        fold_of[group.name] = fold
        photos[fold] += group.size
        for name in strata:
            photos_of[name][fold] += group.size
    _repair(groups, fold_of, folds, single_encounter)
    return fold_of


def _strata(group: Group, single_encounter: Collection[str]) -> tuple[str, ...]:
    """What a group is spread by: its individuals, or "" when it is *new* wherever it is tested."""
    return tuple(identity for identity in group.identities if identity not in single_encounter) or ("",)


def _largest_first(groups: Sequence[Group], seed: int, single_encounter: Collection[str]) -> list[Group]:
    """Groups of several individuals first, which fit in fewest places; then large strata before small."""
    photos: dict[tuple[str, ...], int] = defaultdict(int)
    strata_of = {group.name: _strata(group, single_encounter) for group in groups}
    for group in groups:
        photos[strata_of[group.name]] += group.size

    def key(group: Group) -> tuple[int, int, int, int, int]:
        strata = strata_of[group.name]
        shuffled = shuffle_key(seed, "stratum", "\0".join(strata))
        return (
            -len(strata), -photos[strata], shuffled, -group.size, shuffle_key(seed, "deal", group.name)
        )  # fmt: skip

    return sorted(groups, key=key)


def _repair(
    groups: Sequence[Group], fold_of: dict[str, int], folds: int, single_encounter: Collection[str]
) -> None:
    """Moves a group of each individual whose groups all came to one fold, or takes one out of the folds."""
    groups_of = groups_by_identity(groups)
    for identity, appearances in sorted(groups_of.items()):
        if identity in single_encounter or _is_spread(appearances, fold_of):
            continue
        smallest_first = sorted(appearances, key=lambda group: (group.size, group.name))
        for group in smallest_first:
            before = fold_of[group.name]
            for fold in [*((before + step) % folds for step in range(1, folds)), before]:
                fold_of[group.name] = fold
                others = (groups_of[name] for name in group.identities if name not in single_encounter)
                if all(_is_spread(other, fold_of) for other in others):
                    break
            if fold_of[group.name] != before:
                break
        else:
            fold_of[smallest_first[0].name] = NEVER


def _is_spread(groups: Sequence[Group], fold_of: Mapping[str, int]) -> bool:
    """Whether, whichever fold is tested, at least one of the groups is outside it."""
    folds = {fold_of[group.name] for group in groups}
    return len(folds) > 1 or NEVER in folds


GroupsLeft = dict[str, list[int]]
"""For each individual that must stay known, how many of its groups each fold can still train on."""


def allocate_valid(
    groups: Sequence[Group],
    fold_of: Mapping[str, int],
    folds: int,
    *,
    candidates: Collection[str],
    single_encounter: Collection[str],
    share: float,
    seed: int,
) -> dict[str, int]:
    """The fold in whose valid part a group is, by the name of each group that is in one.

    A group of the `candidates` is in at most one valid part, and only when its individuals stay known in that
    fold's train part; `single_encounter` individuals become *new* there. The share is of all photos outside
    the test, of known and of *new* ones alike.
    """
    left = _groups_left(groups, fold_of, folds, single_encounter)
    valid_of: dict[str, int] = {}
    for fold in range(folds):
        for new in (False, True):
            kind = [
                group
                for group in groups
                if all(identity in single_encounter for identity in group.identities) == new
                and fold_of[group.name] != fold
            ]
            pool = [group for group in kind if group.name in candidates and group.name not in valid_of]
            target = max(1, round(share * _photos(kind)))
            # Later folds want their part too where few groups can be spared.
            target = min(target, -(-_photos(pool) // (folds - fold)))
            for group in _choose(_shuffled(pool, fold, seed), target, fold, left):
                valid_of[group.name] = fold
    return valid_of


def _choose(pool: Sequence[Group], target: int, fold: int, left: GroupsLeft) -> list[Group]:
    """Groups of together about `target` photos, each individual in proportion.

    Every group that is passed adds its share to what is owed; one is chosen when at least half of it is owed
    (error diffusion, in whole numbers). A second round fills up what could not be chosen where it was owed.
    """
    total, owed, photos = _photos(pool), 0, 0
    chosen: dict[str, Group] = {}
    for fill in (False, True):
        for group in pool:
            owed += group.size * target
            due = photos < target if fill else 2 * owed >= group.size * total
            fits = 2 * (photos + group.size) <= 3 * target or (fill and not photos)
            must_stay = [left[identity] for identity in group.identities if identity in left]
            if due and fits and group.name not in chosen and all(each[fold] > 1 for each in must_stay):
                for each in must_stay:
                    each[fold] -= 1
                chosen[group.name] = group
                owed -= group.size * total
                photos += group.size
    return list(chosen.values())


def _groups_left(
    groups: Sequence[Group], fold_of: Mapping[str, int], folds: int, single_encounter: Collection[str]
) -> GroupsLeft:
    left: GroupsLeft = defaultdict(lambda: [0] * folds)
    for group in groups:
        for identity in group.identities:
            if identity not in single_encounter:
                for fold in range(folds):
                    left[identity][fold] += fold_of[group.name] != fold
    return dict(left)


def _shuffled(pool: Sequence[Group], fold: int, seed: int) -> list[Group]:
    """The groups of one individual side by side, else shuffled anew for each fold."""
    purpose = f"valid {fold}"

    def key(group: Group) -> tuple[int, int]:
        stratum = group.identities[0] if group.identities else group.name
        return (shuffle_key(seed, purpose, stratum), shuffle_key(seed, purpose, f"group {group.name}"))

    return sorted(pool, key=key)


def _photos(groups: Sequence[Group]) -> int:
    return sum(group.size for group in groups)
