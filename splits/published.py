"""The published protocol: the parts that the source fixed are fold 0, and a valid part is added if absent."""

from collections import Counter

from whalebench import WhalebenchError
from whalebench.benchmarks.catalog import Catalog
from whalebench.splits.dealing import NEVER
from whalebench.splits.groups import Group, lone_identities, make_groups
from whalebench.splits.lending import lend
from whalebench.splits.split import Rows


def published_rows(
    catalog: Catalog, groups: tuple[Group, ...], *, singles: str, valid_share: float, seed: int
) -> tuple[Rows, tuple[str, ...]]:
    """Fold, group and valid of each image, with warnings about what the publication did not care for."""
    if "split" not in catalog.table:
        raise WhalebenchError(
            f"{catalog.name} has no published split; add a column split, or use stratified-encounters."
        )
    images = catalog.table["image"].tolist()
    part_of = dict(zip(images, catalog.table["split"].tolist(), strict=True))
    valid = {image for image, part in part_of.items() if part == "valid"}
    if not valid:
        valid = _carve(catalog, groups, part_of, singles=singles, share=valid_share, seed=seed)
    rows = {
        image: (0 if part_of[image] == "test" else NEVER, group.name, 0 if image in valid else NEVER)
        for group in groups
        for image in group.images
    }
    return rows, tuple(_warnings(groups, part_of))


def _carve(
    catalog: Catalog,
    groups: tuple[Group, ...],
    part_of: dict[str, str],
    *,
    singles: str,
    share: float,
    seed: int,
) -> set[str]:
    """The photos of a valid part taken out of train in whole groups, none of them with a side in the test."""
    identities = catalog.table["identity"].tolist()
    identity_of = dict(zip(catalog.table["image"].tolist(), identities, strict=True))
    test_sides = [[image for image in group.images if part_of[image] == "test"] for group in groups]
    train_sides = [[image for image in group.images if part_of[image] != "test"] for group in groups]
    whole = {train[0] for train, test in zip(train_sides, test_sides, strict=True) if train and not test}
    sides = [side for side in (*train_sides, *test_sides) if side]
    pieces = make_groups([(image, identity_of[image]) for image in side] for side in sides)
    lent = lend(
        pieces,
        {piece.name: 0 if part_of[piece.name] == "test" else NEVER for piece in pieces},
        1,
        lendable=whole,
        lone=lone_identities(groups) if singles == "new" else frozenset(),
        share=share,
        seed=seed,
    )
    return {image for piece in pieces if piece.name in lent for image in piece.images}


def _warnings(groups: tuple[Group, ...], part_of: dict[str, str]) -> list[str]:
    warnings = []
    cut = [group.name for group in groups if len({part_of[image] or "train" for image in group.images}) > 1]
    if cut:
        more = " and others" if len(cut) > 5 else ""
        warnings.append(
            f"{len(cut)} groups of one encounter or content straddle the published parts "
            f"({', '.join(cut[:5])}{more}): scores on this split flatter."
        )
    unassigned = Counter(part_of.values())[""]
    if unassigned:
        warnings.append(f"{unassigned} photos have no published part and are in train.")
    return warnings
