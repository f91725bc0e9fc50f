"""Protocols that propose a split.

`stratified-encounters` assigns whole groups to folds and allocates a valid part to each; `published` keeps
the parts that the source fixed as fold 0, and takes a valid part out of train where there is none. Others ask
more: `encounter-grouped` keeps days together, too, `closed` tests known individuals only, `open` holds whole
individuals out, `disjoint` tests by a gallery of individuals that train never shows, `side-aware` tests a
side that train shows, `time-aware` tests what came later.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED, Catalog
from whalebench.splits.assignment import (
    LEFT_OUT,
    NEVER,
    Group,
    allocate_valid,
    assign_folds,
    make_groups,
    single_encounter_identities,
)
from whalebench.splits.disjoint import disjoint_rows
from whalebench.splits.groupings import (
    BY_DAY,
    has_days_to_group,
    held_out,
    of_nobody,
    protocol_groups,
    same_days,
    sided,
)
from whalebench.splits.rules import check_split
from whalebench.splits.split import Split
from whalebench.splits.table import Rows, column_digests, count_split, make_table, table_digest
from whalebench.splits.timing import cutoff_of, folds_by_time

PROTOCOLS = (
    "auto",
    "stratified-encounters",
    "published",
    BY_DAY,
    "closed",
    "open",
    "disjoint",
    "side-aware",
    "time-aware",
)
ONE_FOLD = ("published", "time-aware")
"""Protocols whose only fold is 0."""
SINGLES_NEW = ("open", "time-aware")
"""Protocols by which individuals of one encounter are *new* where they are tested unless said otherwise."""
SINGLES_FIXED = {"open": "new", "closed": "train", "disjoint": "train", "side-aware": "train"}
"""Protocols that leave no choice of what happens to individuals of one encounter."""
SINGLES = ("train", "new")
DUPLICATES = ("refuse", "drop")
DROPPED = "dropped"
"""The part of a published photo that is in none."""


def propose_split(
    catalog: Catalog,
    *,
    protocol: str = "auto",
    folds: int | None = None,
    singles: str | None = None,
    valid_share: float = 0.12,
    seed: int = 0,
    duplicates: str = "refuse",
    new_share: float | None = None,
    cutoff: str | None = None,
    test_share: float | None = None,
    together: Sequence[tuple[str, str]] = (),
) -> Split:
    """A checked split of the catalog, the same for the same photos in any order on any machine.

    `auto` is published where the catalog has a split column (one fold, numbered 0), encounter-grouped where
    it says on which days photos were taken but not in which encounters, else stratified-encounters. There are
    five folds unless said otherwise. `singles` says what happens to individuals of one encounter: always in
    train, or spread like others and *new* where they are tested, as by default in open and time-aware splits.
    `valid_share` is taken of all photos outside the test. `duplicates` says what happens to photos that a
    published split has in several parts: refused, or dropped from train where valid or test has them, and
    from valid where test has; what the catalog calls duplicates is dropped likewise, and only told of else.
    `new_share` (0.2) of the individuals are held out of an open split; one by time tests from the day
    `cutoff` on, or the last `test_share` (0.2) of the photos whose day is known. `together` are pairs of
    images that are never in two parts, as those that an audit confirmed. Photos of animals that are not
    identified yet are in no part.
    """
    given = {"new_share": new_share, "cutoff": cutoff, "test_share": test_share, "folds": folds}
    protocol = _checked(catalog, protocol, given, singles, valid_share, duplicates)
    singles = singles or ("new" if protocol in SINGLES_NEW else "train")
    parameters: dict[str, Any] = {"singles": singles, "valid_share": valid_share, "seed": seed}
    groups = protocol_groups(catalog.table, protocol, together)
    whole, catalog = catalog, catalog.identified
    folds, gallery = 1 if protocol in ONE_FOLD else folds or 5, None
    if protocol == "published":
        parameters["duplicates"] = duplicates
        rows, warnings = _published_rows(catalog, groups, **parameters)
    elif protocol == "time-aware":
        day = cutoff_of(catalog, cutoff or "", 0.2 if test_share is None else test_share)
        rows, warnings = _rows_by_time(catalog, groups, day, **parameters)
        parameters["cutoff"] = day
    elif protocol == "disjoint":
        (rows, gallery), warnings = disjoint_rows(catalog, groups, folds=folds, **parameters), ()
    else:
        rows, warnings, more = _dealt_rows(catalog, groups, protocol, new_share, folds=folds, **parameters)
        parameters |= more
    parameters["folds"] = folds
    if together:  # absent otherwise, so that splits are written as they were
        parameters["together"] = [list(pair) for pair in together]
    table = make_table({**_rows_of_nobody(whole), **rows}, gallery)
    check_split(table, whole, protocol, parameters)
    counts = count_split(table, whole, groups, singles)
    return Split(
        table=table,
        protocol=protocol,
        parameters=parameters,
        catalog_digest=whole.digest,
        digest=table_digest(table),
        counts=counts,
        warnings=(*warnings, *_small_parts(counts, valid_share), *same_days(table, whole)),
        catalog_columns=column_digests(whole.table),
    )


def _rows_of_nobody(catalog: Catalog) -> Rows:
    """Fold, group and valid of the photos of animals that are not identified: in no part, each by itself."""
    images = catalog.table["image"][catalog.table["identity"] == NOT_IDENTIFIED]
    return {image: (LEFT_OUT, image, NEVER) for image in images}


def _checked(
    catalog: Catalog,
    protocol: str,
    given: Mapping[str, Any],
    singles: str | None,
    valid_share: float,
    duplicates: str,
) -> str:
    """The protocol, never auto; refuses what cannot be, and what the protocol has no use for."""
    _check_word("protocol", protocol, PROTOCOLS)
    if singles is not None:
        _check_word("singles", singles, SINGLES)
    _check_word("duplicates", duplicates, DUPLICATES)
    _check_numbers(given["folds"], valid_share, given)
    if protocol == "auto":
        by_day = has_days_to_group(catalog.identified.table)
        protocol = BY_DAY if by_day else "stratified-encounters"
        protocol = "published" if "split" in catalog.table else protocol
    if duplicates != "refuse" and protocol != "published":
        raise WhalebenchError(
            f"duplicates={duplicates} is for a published split: by {protocol} a photo and its duplicates are "
            f"always in one part; leave it out."
        )
    for name, only in (("new_share", "open"), ("cutoff", "time-aware"), ("test_share", "time-aware")):
        if given[name] is not None and protocol != only:
            raise WhalebenchError(
                f"{name}={given[name]} is for a split by {only}, not by {protocol}; leave it out."
            )
    if (fixed := SINGLES_FIXED.get(protocol)) and singles not in (None, fixed):
        raise WhalebenchError(
            f"singles={singles} cannot be by {protocol}, which has individuals of one encounter as {fixed}; "
            f"leave it out."
        )
    if given["folds"] is not None and protocol in ONE_FOLD:
        of = (
            "the published split, which is"
            if protocol == "published"
            else "a time-aware split, which has only"
        )
        raise WhalebenchError(
            f"{given['folds']} folds cannot be made of {of} fold 0: leave out --folds, or add --protocol "
            f"stratified-encounters."
        )
    return protocol


def _check_numbers(folds: int | None, valid_share: float, given: Mapping[str, Any]) -> None:
    if folds is not None and not 2 <= folds <= 1000:
        raise WhalebenchError(f"A split cannot have {folds} folds; choose at least 2, such as 5.")
    if not 0 < valid_share <= 0.5:
        raise WhalebenchError(
            f"A valid share of {valid_share} cannot be; choose one up to 0.5, such as 0.12."
        )
    for name in ("new_share", "test_share"):
        if given[name] is not None and not 0 < given[name] < 1:
            what = name.replace("_", " ")
            raise WhalebenchError(
                f"A {what} of {given[name]} cannot be; choose one between 0 and 1, such as 0.2."
            )
    if given["cutoff"] is not None and given["test_share"] is not None:
        raise WhalebenchError("A cutoff and a test share say the same thing twice: give one of them.")


def _dealt_rows(
    catalog: Catalog, groups: tuple[Group, ...], protocol: str, new_share: float | None, **shuffling: Any
) -> tuple[Rows, tuple[str, ...], dict[str, Any]]:
    """Fold, group and valid of each image, warnings, and what else the protocol was given."""
    dealt, never, more = groups, frozenset[str](), dict[str, Any]()
    if protocol == "open":
        share = 0.2 if new_share is None else new_share
        dealt, number = held_out(catalog, groups, share, shuffling["seed"])
        more = {"new_share": share, "held_out": number}
    elif protocol == "side-aware":
        dealt = sided(catalog, groups)
    elif protocol == "closed":
        never = of_nobody(catalog, groups)
    rows, warnings = _stratified_rows(dealt, never, **shuffling)
    return _in_groups(rows, groups), warnings, more


def _in_groups(rows: Rows, groups: tuple[Group, ...]) -> Rows:
    """The rows with the groups of the catalog for those that were dealt."""
    return {image: (rows[image][0], group.name, rows[image][2]) for group in groups for image in group.images}


def _rows_by_time(
    catalog: Catalog, groups: tuple[Group, ...], cutoff: str, *, singles: str, valid_share: float, seed: int
) -> tuple[Rows, tuple[str, ...]]:
    """Fold, group and valid of each image, with warnings about photos whose time is not known."""
    fold_of, warnings = folds_by_time(catalog.table, groups, cutoff)
    valid_of = allocate_valid(
        [group for group in groups if fold_of[group.name] != LEFT_OUT],
        fold_of,
        1,
        candidates={name for name, fold in fold_of.items() if fold == NEVER},
        single_encounter=single_encounter_identities(groups) if singles == "new" else frozenset(),
        share=valid_share,
        seed=seed,
    )
    rows = {
        image: (fold_of[group.name], group.name, valid_of.get(group.name, NEVER))
        for group in groups
        for image in group.images
    }
    return rows, warnings


def _stratified_rows(
    groups: tuple[Group, ...],
    never: frozenset[str],
    *,
    folds: int,
    singles: str,
    valid_share: float,
    seed: int,
) -> tuple[Rows, tuple[str, ...]]:
    """Fold, group and valid of each image, with a warning when groups had to stay out of the folds.

    Groups of the names `never` are never tested.
    """
    single = single_encounter_identities(groups)
    train_only = never
    if singles == "train":
        train_only |= frozenset(group.name for group in groups if single.intersection(group.identities))
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
    if duplicates == "drop" and "duplicates" in catalog.table:
        part_of |= dict.fromkeys(_in_several_parts(catalog, part_of, "duplicates"), DROPPED)
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


def _in_several_parts(
    catalog: Catalog, part_of: dict[str, str], column: str = "content_digest"
) -> dict[str, str]:
    """The photos of train that are in valid or test, too, and those of valid in test: each with the other.

    The same are those that are equal in the column and not empty there.
    """
    digest_of = dict(zip(catalog.table["image"], catalog.table[column], strict=True))
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
            f"the same photos, or their duplicates."
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
