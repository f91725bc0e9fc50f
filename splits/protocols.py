"""Protocols that propose a split: a published one kept as it is, or stratified folds of whole encounters.

The published protocol: the parts that the source fixed are fold 0, and a valid part is added if absent.

The protocol stratified-encounters: whole groups dealt to folds, and a valid part lent to each fold.
"""

from collections import Counter
from difflib import get_close_matches
from typing import Any

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.splits.dealing import NEVER, Group, deal, group_photos, lend, lone_identities, make_groups
from whalebench.splits.split import (
    Rows,
    Split,
    check_split,
    column_digests,
    count_split,
    make_table,
    table_digest,
)


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


def stratified_rows(
    groups: tuple[Group, ...], *, folds: int, singles: str, valid_share: float, seed: int
) -> tuple[Rows, tuple[str, ...]]:
    """Fold, group and valid of each image, with a warning when groups had to stay out of the folds."""
    lone = lone_identities(groups)
    pinned = frozenset[str]()
    if singles == "train":
        pinned = frozenset(group.name for group in groups if lone.intersection(group.identities))
        lone = frozenset()
    fold_of = deal(groups, folds, seed, pinned=pinned, lone=lone)
    valid_of = lend(
        groups,
        fold_of,
        folds,
        lendable={name for name, fold in fold_of.items() if fold != NEVER},
        lone=lone,
        share=valid_share,
        seed=seed,
    )
    rows = {
        image: (fold_of[group.name], group.name, valid_of.get(group.name, NEVER))
        for group in groups
        for image in group.images
    }
    kept = sum(fold == NEVER for fold in fold_of.values()) - len(pinned)
    warning = f"{kept} groups of several individuals fit no fold and are always in train."
    return rows, (warning,) * (kept > 0)


PROTOCOLS = ("auto", "stratified-encounters", "published")
SINGLES = ("train", "new")


def propose_split(
    catalog: Catalog,
    *,
    protocol: str = "auto",
    folds: int = 5,
    singles: str = "train",
    valid_share: float = 0.12,
    seed: int = 0,
) -> Split:
    """A checked split of the catalog, the same for the same photos in any order on any machine.

    `auto` is published where the catalog has a split column (one fold, numbered 0), else
    stratified-encounters. `singles` says what happens to individuals of one encounter: always in train, or
    dealt like others and *new* where they are tested. `valid_share` is taken of all photos outside the test.
    """
    _check_word("protocol", protocol, PROTOCOLS)
    _check_word("singles", singles, SINGLES)
    if not 2 <= folds <= 1000:
        raise WhalebenchError(f"A split cannot have {folds} folds; choose at least 2, such as 5.")
    if not 0 < valid_share <= 0.5:
        raise WhalebenchError(
            f"A valid share of {valid_share} cannot be; choose one up to 0.5, such as 0.12."
        )
    if protocol == "auto":
        protocol = "published" if "split" in catalog.table else "stratified-encounters"
    groups = group_photos(catalog.table)
    parameters: dict[str, Any] = {"singles": singles, "valid_share": valid_share, "seed": seed}
    if protocol == "published":
        rows, warnings = published_rows(catalog, groups, **parameters)
        folds = 1
    else:
        rows, warnings = stratified_rows(groups, folds=folds, **parameters)
    parameters["folds"] = folds
    table = make_table(rows)
    check_split(table, catalog, protocol, parameters)
    counts = count_split(table, catalog, groups, singles)
    return Split(
        table=table,
        protocol=protocol,
        parameters=parameters,
        catalog_digest=catalog.digest,
        digest=table_digest(table),
        counts=counts,
        warnings=(*warnings, *_small_parts(counts, valid_share)),
        catalog_columns=column_digests(catalog.table),
    )


def _small_parts(counts: dict[str, Any], valid_share: float) -> list[str]:
    """A warning for each fold whose valid part is less than half of what was asked for."""
    warnings = []
    for fold in counts["folds"]:
        valid, outside = fold["valid"]["photos"], fold["train"]["photos"] + fold["valid"]["photos"]
        if 2 * valid < valid_share * outside:
            warnings.append(
                f"The valid part of fold {fold['fold']} has only {valid} of the {outside} photos outside the "
                "test: too few others can be spared from train."
            )
    return warnings


def _check_word(what: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        close = get_close_matches(word, words, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise WhalebenchError(f"There is no {what} {word!r}{meant}; choose one of {', '.join(words)}.")
