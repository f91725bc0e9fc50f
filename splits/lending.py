"""Valid parts: for each fold, whole groups from outside it that tune and choose, and do not train."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from whalebench.splits.groups import Group
from whalebench.splits.shuffling import shuffle_key

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
            for group in _take(_order(pool, fold, seed), target, fold, remaining):
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


def _order(pool: Sequence[Group], fold: int, seed: int) -> list[Group]:
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
