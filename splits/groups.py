"""Groups: photos that must stay together, because one encounter or the very same content joins them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd


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
