"""Protocols that propose a split: a published one kept as it is, or stratified folds of whole encounters."""

from difflib import get_close_matches
from typing import Any

from whalebench import WhalebenchError
from whalebench.benchmarks.catalog import Catalog
from whalebench.splits.checks import check_split
from whalebench.splits.counting import count_split
from whalebench.splits.groups import group_photos
from whalebench.splits.published import published_rows
from whalebench.splits.split import Split, column_digests, make_table, table_digest
from whalebench.splits.stratified import stratified_rows

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
