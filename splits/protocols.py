"""Protocols that propose a split.

`stratified-encounters` assigns whole groups to folds and allocates a valid part to each; `published` keeps
the parts that the source fixed as fold 0, and takes a valid part out of train where there is none.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.splits.assignment import (
    LEFT_OUT,
    NEVER,
    Group,
    allocate_valid,
    assign_folds,
    group_photos,
    make_groups,
    single_encounter_identities,
)
from whalebench.splits.split import (
    Rows,
    Split,
    check_split,
    column_digests,
    count_split,
    make_table,
    table_digest,
)

PROTOCOLS = ("auto", "stratified-encounters", "published")
SINGLES = ("train", "new")
DUPLICATES = ("refuse", "drop")
DROPPED = "dropped"
"""The part of a published photo that is in none."""


def propose_split(
    catalog: Catalog,
    *,
    protocol: str = "auto",
    folds: int = 5,
    singles: str = "train",
    valid_share: float = 0.12,
    seed: int = 0,
    duplicates: str = "refuse",
    together: Sequence[tuple[str, str]] = (),
) -> Split:
    """A checked split of the catalog, the same for the same photos in any order on any machine.

    `auto` is published where the catalog has a split column (one fold, numbered 0), else
    stratified-encounters. `singles` says what happens to individuals of one encounter: always in train, or
    spread like others and *new* where they are tested. `valid_share` is taken of all photos outside the test.
    `duplicates` says what happens to photos that a published split has in several parts: refused, or dropped
    from train where valid or test has them, and from valid where test has. `together` are pairs of images
    that are never in two parts, as an audit's that were confirmed.
    """
    _check_word("protocol", protocol, PROTOCOLS)
    _check_word("singles", singles, SINGLES)
    _check_word("duplicates", duplicates, DUPLICATES)
    if not 2 <= folds <= 1000:
        raise WhalebenchError(f"A split cannot have {folds} folds; choose at least 2, such as 5.")
    if not 0 < valid_share <= 0.5:
        raise WhalebenchError(
            f"A valid share of {valid_share} cannot be; choose one up to 0.5, such as 0.12."
        )
    if protocol == "auto":
        protocol = "published" if "split" in catalog.table else "stratified-encounters"
    groups = group_photos(catalog.table, together)
    parameters: dict[str, Any] = {"singles": singles, "valid_share": valid_share, "seed": seed}
    if protocol == "published":
        parameters["duplicates"] = duplicates
        rows, warnings = _published_rows(catalog, groups, **parameters)
        folds = 1
    elif duplicates != "refuse":
        raise WhalebenchError(
            f"duplicates={duplicates} is for a published split: by {protocol} a photo and its duplicates are "
            f"always in one part; leave it out."
        )
    else:
        rows, warnings = _stratified_rows(groups, folds=folds, **parameters)
    parameters["folds"] = folds
    if together:  # absent otherwise, so that splits are written as they were
        parameters["together"] = [list(pair) for pair in together]
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


def _stratified_rows(
    groups: tuple[Group, ...], *, folds: int, singles: str, valid_share: float, seed: int
) -> tuple[Rows, tuple[str, ...]]:
    """Fold, group and valid of each image, with a warning when groups had to stay out of the folds."""
    single = single_encounter_identities(groups)
    train_only = frozenset[str]()
    if singles == "train":
        train_only = frozenset(group.name for group in groups if single.intersection(group.identities))
        single = frozenset()
    fold_of = assign_folds(groups, folds, seed, train_only=train_only, single_encounter=single)
    valid_of = allocate_valid(
        groups,
        fold_of,
        folds,
        candidates={name for name, fold in fold_of.items() if fold != NEVER},
        single_encounter=single,
        share=valid_share,
        seed=seed,
    )
    rows = {
        image: (fold_of[group.name], group.name, valid_of.get(group.name, NEVER))
        for group in groups
        for image in group.images
    }
    kept = sum(fold == NEVER for fold in fold_of.values()) - len(train_only)
    warning = f"{kept} groups of several individuals fit no fold and are always in train."
    return rows, (warning,) * (kept > 0)


def _published_rows(
    catalog: Catalog,
    groups: tuple[Group, ...],
    *,
    singles: str,
    valid_share: float,
    seed: int,
    duplicates: str,
) -> tuple[Rows, tuple[str, ...]]:
    """Fold, group and valid of each image, with warnings about what its source did not care for."""
    if "split" not in catalog.table:
        raise WhalebenchError(
            f"{catalog.name} has no published split; add a column split, or use stratified-encounters."
        )
    images = catalog.table["image"].tolist()
    part_of = dict(zip(images, catalog.table["split"].tolist(), strict=True))
    dropped = _in_several_parts(catalog, part_of)
    if dropped and duplicates == "refuse":
        image, other = next(iter(dropped.items()))
        raise WhalebenchError(
            f"The published parts of {catalog.name} share photos: {len(dropped)} of train or valid are in "
            f"valid or test, too, first {image}, which is {other} of {part_of[other]}: who learned a photo "
            f"knows it by heart; leave them out with `whalebench split make {catalog.name} --protocol "
            f"published --duplicates drop`, or correct the column split."
        )
    part_of |= dict.fromkeys(dropped, DROPPED)
    valid = {image for image, part in part_of.items() if part == "valid"}
    if not valid:
        valid = _valid_of_train(catalog, groups, part_of, singles=singles, share=valid_share, seed=seed)
    fold_of = {"test": 0, DROPPED: LEFT_OUT}
    rows = {
        image: (fold_of.get(part_of[image], NEVER), group.name, 0 if image in valid else NEVER)
        for group in groups
        for image in group.images
    }
    return rows, tuple(_warnings(groups, part_of))


def _in_several_parts(catalog: Catalog, part_of: dict[str, str]) -> dict[str, str]:
    """The photos of train that are in valid or test, too, and those of valid in test: each with the other."""
    digest_of = dict(zip(catalog.table["image"], catalog.table["content_digest"], strict=True))
    kept: dict[str, str] = {}
    several: dict[str, str] = {}
    for part in ("test", "valid", "train", ""):
        own = [image for image, its in part_of.items() if its == part and digest_of[image]]
        several |= {image: kept[digest_of[image]] for image in own if digest_of[image] in kept}
        if part in ("test", "valid"):
            kept |= {digest_of[image]: image for image in own if digest_of[image] not in kept}
    return several


def _valid_of_train(
    catalog: Catalog,
    groups: tuple[Group, ...],
    part_of: dict[str, str],
    *,
    singles: str,
    share: float,
    seed: int,
) -> set[str]:
    """The photos of a valid part taken out of train in whole groups, none of which reaches into the test."""
    identities = catalog.table["identity"].tolist()
    identity_of = dict(zip(catalog.table["image"].tolist(), identities, strict=True))
    in_test = [[image for image in group.images if part_of[image] == "test"] for group in groups]
    in_train = [[image for image in group.images if part_of[image] in ("train", "")] for group in groups]
    whole = {train[0] for train, test in zip(in_train, in_test, strict=True) if train and not test}
    pieces = make_groups(
        [(image, identity_of[image]) for image in images] for images in (*in_train, *in_test) if images
    )
    valid_of = allocate_valid(
        pieces,
        {piece.name: 0 if part_of[piece.name] == "test" else NEVER for piece in pieces},
        1,
        candidates=whole,
        single_encounter=single_encounter_identities(groups) if singles == "new" else frozenset(),
        share=share,
        seed=seed,
    )
    return {image for piece in pieces if piece.name in valid_of for image in piece.images}


def _warnings(groups: tuple[Group, ...], part_of: dict[str, str]) -> list[str]:
    warnings = []
    parts_of = {group.name: {part_of[image] or "train" for image in group.images} for group in groups}
    cut = [name for name, parts in parts_of.items() if len(parts - {DROPPED}) > 1]
    if cut:
        more = " and others" if len(cut) > 5 else ""
        warnings.append(
            f"{len(cut)} groups of one encounter or content straddle the published parts "
            f"({', '.join(cut[:5])}{more}): scores on this split flatter."
        )
    if dropped := Counter(part_of.values())[DROPPED]:
        warnings.append(
            f"{dropped} photos of the published train or valid part are in none, because valid or test holds "
            f"the same photos."
        )
    unassigned = Counter(part_of.values())[""]
    if unassigned:
        warnings.append(f"{unassigned} photos have no published part and are in train.")
    return warnings


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
        hint = did_you_mean(word, words, "")
        meant = f" ({hint})" if hint else ""
        raise WhalebenchError(f"There is no {what} {word!r}{meant}; choose one of {', '.join(words)}.")
