"""What stays together and what is spread, by protocol: the groups that a split deals to its folds.

Encounters and copies are always whole (`assignment`); a stricter protocol joins more of them, or has a name
mean more than the individual. Protocols are those of open-set and closed-set re-identification, see the
splits of wildlife-datasets (Cermak et al. 2024).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED, Catalog
from whalebench.splits.assignment import (
    LEFT_OUT,
    Group,
    group_photos,
    groups_by_identity,
    make_groups,
    shuffle_key,
    single_encounter_identities,
)

BY_DAY = "encounter-grouped"
"""The protocol that keeps the photos of one individual on one day together."""
DAY = len("2024-05-31")
"""How long a date is that says the day; a shorter one is a year or a month."""


def protocol_groups(
    table: pd.DataFrame, protocol: str, together: Iterable[Sequence[str]] = ()
) -> tuple[Group, ...]:
    """The groups of a catalog's table that a split of the protocol never cuts, sorted by name.

    By `encounter-grouped` and `disjoint` the photos of one individual on one day are one, too, and so are
    those of nobody: who they show is not known, but it may well be the same animal. `together` are pairs of
    images.
    """
    joined = [*together]
    if protocol in (BY_DAY, "disjoint"):
        first: dict[tuple[str, str], str] = {}
        met = zip(table["image"], table["identity"], days_of(table), strict=True)
        dated = ((image, who, day) for image, who, day in met if day and who != NOT_IDENTIFIED)
        joined += [(image, first.setdefault((who, day), image)) for image, who, day in dated]
    return group_photos(table, joined)


def _names(groups: Iterable[Group]) -> dict[str, str]:
    """The group of each image."""
    return {image: group.name for group in groups for image in group.images}


def days_of(table: pd.DataFrame) -> list[str]:
    """The day of each photo of a catalog's table as ISO 8601, "" where none is known."""
    return [date[:DAY] if len(date) >= DAY else "" for date in table["date"]]


def same_days(rows: pd.DataFrame, catalog: Catalog) -> list[str]:
    """A warning where train shows a tested individual on the same day, perhaps in the same encounter.

    `rows` are those of a split: image, fold, and the fold in whose valid part it is.
    """
    table = catalog.table
    met = dict(zip(table["image"], zip(table["identity"], days_of(table), strict=True), strict=True))
    places: dict[tuple[str, str], Counter[tuple[int, int]]] = defaultdict(Counter)
    for image, fold, valid in zip(rows["image"], rows["fold"], rows["valid"], strict=True):
        if all(met[image]):
            places[met[image]][fold, valid] += 1
    shared = sum(
        count
        for there in places.values()
        for (fold, _), count in there.items()
        if fold >= 0 and any(fold not in place and place[0] != LEFT_OUT for place in there)
    )
    if not shared:
        return []
    tested = sum(rows["fold"] >= 0)
    return [
        f"{shared:,} of {tested:,} tested photos have a photo of the same individual from the same day in "
        f"train, which flatters scores; make the split by encounters: `whalebench split make "
        f"{catalog.name}@{BY_DAY} --protocol {BY_DAY}`."
    ]


def has_days_to_group(table: pd.DataFrame) -> bool:
    """Whether days are known of photos of which no encounter is."""
    return any(
        day and not encounter for day, encounter in zip(days_of(table), table["encounter"], strict=True)
    )


def held_out(
    catalog: Catalog, groups: tuple[Group, ...], share: float, seed: int
) -> tuple[tuple[Group, ...], int]:
    """The groups with all those of some individuals joined to one, which is *new* wherever it is; how many.

    The individuals are this share of those that have several groups, drawn by the seed, at least one.
    """
    groups_of = groups_by_identity(groups)
    several = sorted(
        groups_of.keys() - single_encounter_identities(groups),
        key=lambda identity: shuffle_key(seed, "open", identity),
    )
    if not several:
        raise WhalebenchError(
            f"No individual of {catalog.name} was met twice, so none can be known and none held out: an open "
            f"split needs individuals of several encounters."
        )
    chosen = set(several[: max(1, round(share * len(several)))])
    table = catalog.table
    encounter, joined = (
        table["image"].map(_names(groups)),
        table["identity"].where(table["identity"].isin(chosen), ""),
    )
    return group_photos(table.assign(encounter=encounter, content_digest=joined)), len(chosen)


def side_of(table: pd.DataFrame) -> dict[str, str]:
    """By image the individual with the side it shows, "" for a photo of nobody."""
    columns = (table[name].tolist() for name in ("image", "identity", "viewpoint"))
    return {image: identity and f"{identity}\0{side}" for image, identity, side in zip(*columns, strict=True)}


def sided(catalog: Catalog, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The groups with each side of an individual as one of its own."""
    if not (catalog.table["viewpoint"] != "").any():
        raise WhalebenchError(
            f"{catalog.name} says of no photo which side it shows, so no split can be side-aware: fill the "
            f"column viewpoint and import it again."
        )
    sides = side_of(catalog.table)
    return make_groups([(image, sides[image]) for image in group.images] for group in groups)


def of_nobody(catalog: Catalog, groups: Iterable[Group]) -> frozenset[str]:
    """The names of the groups that hold a photo of no known individual."""
    nobody = set(catalog.table["image"][catalog.table["identity"] == ""])
    return frozenset(group.name for group in groups if not nobody.isdisjoint(group.images))
