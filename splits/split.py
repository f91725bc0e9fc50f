"""A split: which photo is tested, validated on or learned from in each fold, and its files.

It is made once and then immutable: a CSV and a JSON sidecar, which has a digest of each. What must be true of
every split is checked when it is proposed and again when it is read; a changed one, or one of a changed
catalog, is refused.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from whalebench import WhalebenchError, __version__, cell_text, one_line, table_cell
from whalebench.benchmarks.core.catalog import NOT_COUNTED, NOT_IDENTIFIED, Catalog
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    digest_text,
    parse_json,
    regular_file,
    with_digest,
)
from whalebench.benchmarks.core.workspace import ExistsError, atomic_text
from whalebench.splits.assignment import LEFT_OUT, NEVER, Group, single_encounter_identities
from whalebench.splits.groupings import protocol_groups, same_days, side_of
from whalebench.splits.timing import LAST, dates_of

COLUMNS = ("image", "fold", "group", "valid")
GALLERY = "gallery"
"""The further column of a disjoint split: the fold in whose gallery a photo is, -1 for none."""
SIDECAR = (
    "protocol",
    "parameters",
    "catalog_digest",
    "split_digest",
    "tool_version",
    "counts",
    "warnings",
    "catalog_columns",
)
"""What the JSON beside a split holds."""
SIDECAR_DIGEST = "sidecar_digest"
"""And the digest of all that, which older ones lack."""
TWIN = "random-twin"
"""The protocol of a split that has the counts of another one and keeps apart nothing that it does."""

Rows = Mapping[str, tuple[int, str, int]]
"""Fold, group and valid of each image."""


class Parts(NamedTuple):
    """The image ids of one fold, each part sorted."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """An assignment of the photos of one catalog to folds; `table` and `digest` never change once written."""

    table: pd.DataFrame
    """image, fold (tested there; -1: never; -2: in no part at all), group, valid (the fold in whose valid
    part it is; -1: none); and gallery, of a disjoint split."""
    protocol: str
    """How it was made: one of `protocols.PROTOCOLS`, or `TWIN`."""
    parameters: dict[str, Any]
    """What the protocol was given."""
    catalog_digest: str
    """The digest of the catalog it was made for."""
    digest: str
    """SHA-256 of the table as CSV."""
    counts: dict[str, Any]
    """Photos and individuals of each fold and part, and what became of individuals of one encounter."""
    warnings: tuple[str, ...] = ()
    """What a reader of scores on this split should know."""
    catalog_columns: dict[str, str] = field(default_factory=dict)
    """A digest of each catalog column, to say later which one changed."""

    @property
    def twin_of(self) -> str:
        """The digest of the split whose random twin it is; empty for one that is none."""
        return str(self.parameters.get("twin_of", ""))

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """The folds there are, sorted."""
        return tuple(sorted(set(self.table["fold"].tolist()) - {NEVER, LEFT_OUT}))

    def parts(self, fold: int) -> Parts:
        """The train, valid and test photos of a fold; the error for an unknown one names those there are."""
        if fold not in self.folds:
            there = ", ".join(map(str, self.folds))
            raise WhalebenchError(f"There is no fold {fold} in this split; choose one of {there}.")
        return fold_parts(self.table, fold)

    def gallery(self, fold: int) -> tuple[str, ...]:
        """The photos that the test of a fold is compared with, sorted; empty where that is its train part."""
        return fold_gallery(self.table, fold)


def fold_gallery(table: pd.DataFrame, fold: int) -> tuple[str, ...]:
    """The photos of one fold's gallery, sorted; empty for any but a disjoint split."""
    return tuple(sorted(table["image"][table[GALLERY] == fold].tolist())) if GALLERY in table else ()


def fold_parts(table: pd.DataFrame, fold: int) -> Parts:
    """The train, valid and test photos of one fold of a split's table; those of a gallery are in none."""
    test, valid = table["fold"] == fold, table["valid"] == fold
    train = ~test & ~valid & (table["fold"] != LEFT_OUT)
    if GALLERY in table:
        train &= table[GALLERY] != fold
    images = table["image"]
    return Parts(*(tuple(sorted(images[each].tolist())) for each in (train, valid & ~test, test)))


def make_table(rows: Rows, gallery: Mapping[str, int] | None = None) -> pd.DataFrame:
    """The split's table from fold, group and valid of each image, and its gallery if any, sorted by image."""
    images = sorted(rows)
    columns = {
        "image": pd.Series(images, dtype="str"),
        "fold": pd.Series([rows[image][0] for image in images], dtype="int64"),
        "group": pd.Series([rows[image][1] for image in images], dtype="str"),
        "valid": pd.Series([rows[image][2] for image in images], dtype="int64"),
    }
    if gallery is not None:
        columns[GALLERY] = pd.Series([gallery.get(image, NEVER) for image in images], dtype="int64")
    return pd.DataFrame(columns)


def table_text(table: pd.DataFrame) -> str:
    """The split's table as the CSV it is kept as."""
    columns = [*COLUMNS, *([GALLERY] if GALLERY in table else [])]
    return table.to_csv(columns=columns, index=False, lineterminator="\n")


def kept_text(table: pd.DataFrame) -> str:
    """The same as it stands in the file: a name that a spreadsheet would compute has an apostrophe before it.

    The digest is of the text without, as it was when files were without.
    """
    return table_text(
        table.assign(image=table["image"].map(table_cell), group=table["group"].map(table_cell))
    )


def table_digest(table: pd.DataFrame) -> str:
    """The SHA-256 of the split's table as CSV."""
    return digest_text(table_text(table))


def column_digests(table: pd.DataFrame) -> dict[str, str]:
    """A short digest of each column that counts in a catalog's table, to tell later which one changed."""
    counted = sorted(set(table.columns) - {"image", "mask", *NOT_COUNTED})
    return {column: digest_text("\n".join(map(repr, table[column].tolist())))[:12] for column in counted}


def count_split(
    table: pd.DataFrame, catalog: Catalog, groups: tuple[Group, ...], singles: str
) -> dict[str, Any]:
    """The counts of a split, as its sidecar keeps them.

    `new` counts the photos of a valid or test part whose individual is not in the train part, or of a test
    that has a gallery, not in that. Individuals of one encounter are those that appear in a single group;
    those of a single photo are among them. Photos of animals that are not identified are counted by
    themselves, where there are some.
    """
    nobody = len(table) - len(catalog.identified.table)
    catalog = catalog.identified
    identities = catalog.table["identity"]
    photos = identities[identities != ""].value_counts()
    single = sorted(single_encounter_identities(groups))
    fold_of = dict(zip(table["image"].tolist(), table["fold"].tolist(), strict=True))
    tested = catalog.table["image"].map(fold_of) >= 0
    single_tested = set(identities[tested & identities.isin(single)].tolist())
    return {
        "photos": len(table),
        **({"not_identified_photos": nobody} if nobody else {}),
        "individuals": len(catalog.identities),
        "new_photos": int((identities == "").sum()),
        "groups": len(groups),
        "singles_rule": singles,
        "single_photo_individuals": int((photos == 1).sum()),
        "one_encounter_individuals": len(single),
        "one_encounter_photos": int(identities.isin(single).sum()),
        "one_encounter_individuals_always_in_train": len(single) - len(single_tested),
        "one_encounter_individuals_tested_as_new": len(single_tested),
        "never_tested_photos": int((~tested).sum()),
        "folds": [
            _count_fold(table, catalog, fold) for fold in sorted(set(fold_of.values()) - {NEVER, LEFT_OUT})
        ],
    }


def _count_fold(table: pd.DataFrame, catalog: Catalog, fold: int) -> dict[str, Any]:
    parts = fold_parts(table, fold)
    identity_of = dict(zip(catalog.table["image"].tolist(), catalog.table["identity"].tolist(), strict=True))
    known = {identity_of[image] for image in parts.train} - {""}
    counts: dict[str, Any] = {"fold": fold}
    for part in Parts._fields:
        names = [identity_of[image] for image in getattr(parts, part)]
        counts[part] = {
            "photos": len(names),
            "individuals": len(set(names) - {""}),
            "new": sum(name not in known for name in names),
        }
    if gallery := [identity_of[image] for image in fold_gallery(table, fold)]:
        counts[GALLERY] = {"photos": len(gallery), "individuals": len(set(gallery) - {""}), "new": 0}
        tested = [identity_of[image] for image in parts.test]
        counts["test"]["new"] = sum(name not in set(gallery) - {""} for name in tested)
    return counts


def check_split(table: pd.DataFrame, catalog: Catalog, protocol: str, parameters: dict[str, Any]) -> None:
    """Refuses a table that is no fair split of the catalog, with the first broken rule.

    A published split is kept as it is: its test may hold unknown individuals and cut through groups. A random
    twin is held to what its strict split is, but for what that keeps apart.
    """
    problem = next(_problems(table, catalog, protocol, parameters), "")
    if problem:
        remedy = REMEDIES.get(protocol, REMEDY)
        raise WhalebenchError(f"The photos of {catalog.name} cannot be split this way: {problem}; {remedy}.")


REMEDY = "take fewer folds, the other rule for individuals of one encounter (singles), or more photos"
REMEDIES = {
    "published": "correct the column split",
    "time-aware": "choose another cutoff, or import more photos",
    "side-aware": "take fewer folds, or import more photos",
    "closed": "take fewer folds, or import more photos",
    "disjoint": "take fewer folds, or import more photos",
    "open": "take fewer folds, another share of new individuals, or more photos",
}


def _problems(
    table: pd.DataFrame, catalog: Catalog, protocol: str, parameters: dict[str, Any]
) -> Iterator[str]:
    if table["image"].tolist() != catalog.table["image"].tolist():
        yield "it does not hold each photo of the catalog exactly once"
        return
    nobody = catalog.table["identity"] == NOT_IDENTIFIED
    if (table["fold"][nobody] != LEFT_OUT).any() or (table["valid"][nobody] != NEVER).any():
        yield "a photo of an animal that is not identified yet is in one of its parts"
    table, facts = table[~nobody], catalog.identified.table
    is_twin, protocol = protocol == TWIN, parameters.get("twin_protocol", protocol)
    groups = protocol_groups(catalog.table, protocol, parameters.get("together", ()))
    group_of = {image: group.name for group in groups for image in group.images}
    if table["group"].tolist() != [group_of[image] for image in table["image"]]:
        yield "its groups are not those of the catalog's encounters and duplicates"
    places = table.groupby("group")[["fold", "valid"]].nunique()
    cut = places.index[(places > 1).any(axis=1)].tolist()
    if cut and protocol != "published" and not is_twin:
        yield f"the group of {min(cut)} is cut in two"
    if ((table["fold"] == table["valid"]) & (table["fold"] >= 0)).any():
        yield "a photo is in the test and the valid part of one fold"
    folds = range(int(parameters["folds"]))
    elsewhere = {NEVER, LEFT_OUT} if protocol in ("published", "time-aware") else {NEVER}
    if not (set(table["fold"]) <= {*elsewhere, *folds} and set(table["valid"]) <= {NEVER, *folds}):
        yield f"it has other folds than {', '.join(map(str, folds))}"
    identity_of = dict(zip(facts["image"].tolist(), facts["identity"].tolist(), strict=True))
    may_be_new = single_encounter_identities(groups) if parameters["singles"] == "new" else frozenset[str]()
    if protocol == "open":
        may_be_new |= _in_one_place(table, identity_of)
    if (protocol == "disjoint") != (GALLERY in table):
        yield "a gallery is that of a disjoint split, which has one"
        return
    only_valid = dict.fromkeys(("time-aware", "disjoint"), ("valid",))
    must_know = ({"published": ()} | only_valid).get(protocol, ("valid", "test"))
    for fold in folds:
        parts = fold_parts(table, fold)
        yield from _fold_problems(parts, fold, identity_of, may_be_new, must_know)
        if protocol == "disjoint":
            yield from _gallery_problems(parts, fold_gallery(table, fold), fold, identity_of)
        if not is_twin:
            yield from _protocol_problems(parts, fold, facts, protocol, parameters)


def _in_one_place(table: pd.DataFrame, identity_of: Mapping[str, str]) -> frozenset[str]:
    """The individuals that are whole in one fold and one valid part, so *new* where those are scored."""
    places = table.groupby(table["image"].map(identity_of))[["fold", "valid"]].nunique()
    return frozenset(places.index[(places == 1).all(axis=1)].tolist())


def _protocol_problems(
    parts: Parts, fold: int, table: pd.DataFrame, protocol: str, parameters: dict[str, Any]
) -> Iterator[str]:
    """What the protocol promises beyond what holds of every split."""
    scored = (*parts.valid, *parts.test)
    if protocol == "closed":
        nobody = set(table["image"][table["identity"] == ""]).intersection(scored)
        if nobody:
            yield f"{min(nobody)} is tested in fold {fold} and shows no known individual"
    if protocol == "side-aware":
        sides = side_of(table)
        known = {sides[image] for image in parts.train} | {""}
        for image in (image for image in scored if sides[image] not in known):
            yield f"the side that {image} shows is in fold {fold} but not in its train part"
    if protocol == "time-aware":
        dates, cutoff = dates_of(table), parameters.get("cutoff", "")
        late = [image for image in (*parts.train, *parts.valid) if dates[image] + LAST >= cutoff]
        early = [image for image in parts.test if dates[image] and dates[image] < cutoff]
        late = [image for image in late if dates[image]]
        if late or early:
            yield f"{min(late + early)} is on the other side of {cutoff}"


def _fold_problems(
    parts: Parts,
    fold: int,
    identity_of: dict[str, str],
    may_be_new: frozenset[str],
    must_know: tuple[str, ...],
) -> Iterator[str]:
    known = {identity_of[image] for image in parts.train}
    for part in Parts._fields:
        images = getattr(parts, part)
        if not images:
            yield f"the {part} part of fold {fold} is empty"
        unknown = sorted({identity_of[image] for image in images} - known - may_be_new - {""})
        if unknown and part in must_know:
            yield f"{unknown[0]} is in the {part} part of fold {fold} but not in its train part"
    if len(known - {""}) < 2:
        yield f"the train part of fold {fold} holds fewer than two individuals"


def _gallery_problems(
    parts: Parts, gallery: tuple[str, ...], fold: int, identity_of: dict[str, str]
) -> Iterator[str]:
    """What is wrong with a disjoint fold: each tested individual is to be in its gallery, none in train."""
    learned = {identity_of[image] for image in (*parts.train, *parts.valid)}
    there = {identity_of[image] for image in gallery}
    if both := sorted(learned & {*there, *(identity_of[image] for image in parts.test)} - {""}):
        yield f"{both[0]} is in the test of fold {fold} and in its train part"
    if "" in there or len(there) < 2:
        yield f"the gallery of fold {fold} holds fewer than two individuals, or a photo of nobody"
    if strange := sorted({identity_of[image] for image in parts.test} - there):
        yield f"{strange[0] or 'nobody'} is in the test part of fold {fold} but not in its gallery"
    if not set(gallery).isdisjoint((*parts.valid, *parts.test)):
        yield f"a photo is in the gallery of fold {fold} and in another part of it"


def committed_stem(name: str) -> Path | None:
    """Where the split of an embedded benchmark lies, without suffix; None when none is committed."""
    stem = Path(__file__).parent / "committed" / name
    return stem if _with(stem, ".json").is_file() else None


def write_split(split: Split, stem: Path) -> None:
    """Writes the split to `stem`.csv and `stem`.json; a different one there is never replaced, but an error.

    Two processes that would do so at once had better exclude each other (`benchmark_lock`).
    """
    text, table = kept_text(split.table), _with(stem, ".csv")
    facts = vars(split) | {"split_digest": split.digest, "tool_version": __version__}
    sidecar = with_digest({name: facts[name] for name in SIDECAR}, SIDECAR_DIGEST)
    if _is_written(split, stem):
        return
    try:
        # A table without a JSON is what a process left that was stopped between the two.
        atomic_text(table, text, exclusive=not table.exists())
        atomic_text(_with(stem, ".json"), json.dumps(sidecar, indent=2) + "\n", exclusive=True)
    except ExistsError as error:
        if not _is_written(split, stem):
            raise WhalebenchError(f"{table} was just made by another process: try again.") from error


def _is_written(split: Split, stem: Path) -> bool:
    """Whether the split is there already; raises WhalebenchError where another one is."""
    if not os.path.lexists(_with(stem, ".json")):  # a link that leads nowhere is read, and told
        return False
    there = _read_sidecar(stem)
    same = (there["split_digest"], there["catalog_digest"]) == (split.digest, split.catalog_digest)
    if not same or not _holds(stem, split):
        raise WhalebenchError(
            f"{_with(stem, '.csv')} is another split, and a split is made once; to make a new one, remove it "
            "and its .json, knowing that runs on it can then no longer be compared."
        )
    return True


def has_split(stem: Path, proposed: Split) -> bool:
    """Whether there is a split, or what is left of another one than the proposed."""
    table = _with(stem, ".csv")
    return os.path.lexists(_with(stem, ".json")) or (table.exists() and not _holds(stem, proposed))


def _holds(stem: Path, split: Split) -> bool:
    """Whether the file is the split's, also as older versions wrote it."""
    return _read_text(stem) in (kept_text(split.table), table_text(split.table))


def read_split(stem: Path, catalog: Catalog) -> Split:
    """The split kept at `stem`, checked again; when it or the catalog was changed, an error says what."""
    sidecar = _read_sidecar(stem)
    text = _read_text(stem)
    if digest_text(text) != sidecar["split_digest"]:
        text = _without_apostrophes(text)
    if digest_text(text) != sidecar["split_digest"]:
        raise WhalebenchError(
            f"{_with(stem, '.csv')} was edited after the split was made; restore it, since scores on a "
            "changed split cannot be compared."
        )
    table = _parse(text, stem)
    if sidecar["catalog_digest"] != catalog.digest:
        raise WhalebenchError(
            f"The split {stem.name} was made for another catalog than {catalog.name} is now: "
            f"{_changes(table, sidecar['catalog_columns'], catalog)}; restore the catalog, or import the "
            "changed one under a new name and make its split."
        )
    check_split(table, catalog, sidecar["protocol"], sidecar["parameters"])
    # Older splits do not say it themselves; a random twin is made to flatter, and says that.
    days = same_days(table, catalog) if sidecar["protocol"] != TWIN else []
    warnings = tuple(dict.fromkeys((*sidecar["warnings"], *days)))
    sidecar |= {"table": table, "digest": sidecar["split_digest"], "warnings": warnings}
    return Split(**{each.name: sidecar[each.name] for each in fields(Split)})


class _Parameters(BaseModel):
    folds: Annotated[int, Field(ge=1, le=1_000_000)]
    singles: str
    together: list[tuple[str, str]] = []


class _Sidecar(BaseModel):
    """The types of what a sidecar must hold."""

    protocol: str
    parameters: _Parameters
    catalog_digest: str
    split_digest: str
    counts: dict[str, Any]
    warnings: list[str]
    catalog_columns: dict[str, str]


def _read_sidecar(stem: Path) -> dict[str, Any]:
    file = _with(stem, ".json")
    try:
        sidecar = parse_json(regular_file(file).read_bytes())
    except FileNotFoundError as error:
        raise WhalebenchError(
            f"There is no split at {file}; make one with `whalebench split make "
            f"{stem.parent.name}{stem.name.removeprefix('split')}`."
        ) from error
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}); restore it.") from error
    absent = set(SIDECAR) - {"tool_version", *(sidecar if isinstance(sidecar, dict) else ())}
    if absent:
        raise WhalebenchError(f"{file} does not say {', '.join(sorted(absent))}; restore it.")
    if differs_from_digest(sidecar, SIDECAR_DIGEST):
        raise WhalebenchError(
            f"{file} differs from its digest, so it was edited after the split was made; restore it."
        )
    try:
        _Sidecar.model_validate(sidecar)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = one_line(".".join(map(str, first["loc"])), 60)
        raise WhalebenchError(f"{file} is damaged at {where} ({first['msg']}); restore it.") from error
    return dict(sidecar)


def _read_text(stem: Path) -> str:
    file = _with(stem, ".csv")
    try:
        with regular_file(file).open(encoding="utf-8", newline="") as opened:
            return opened.read()
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}); restore it.") from error


def _without_apostrophes(text: str) -> str:
    """The text that `kept_text` was made of; the same one where it is no CSV."""
    plain = io.StringIO()
    try:
        rows = ([cell_text(cell) for cell in row] for row in csv.reader(io.StringIO(text)))
        csv.writer(plain, lineterminator="\n").writerows(rows)
    except csv.Error:
        return text
    return plain.getvalue()


def _parse(text: str, stem: Path) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(text))
    try:
        header, *rows = list(reader)
        with_gallery = header == [*COLUMNS, GALLERY]
        table = make_table(
            {row[0]: (int(row[1]), row[2], int(row[3])) for row in rows},
            {row[0]: int(row[4]) for row in rows} if with_gallery else None,
        )
        if any(len(row) != len(header) for row in rows):
            raise ValueError("a row has other columns than its head")
    except (ValueError, IndexError) as error:
        raise WhalebenchError(f"{_with(stem, '.csv')} is no split ({error}); restore it.") from error
    if tuple(header) != COLUMNS and not with_gallery:
        raise WhalebenchError(f"{_with(stem, '.csv')} has not the columns {', '.join(COLUMNS)}; restore it.")
    return table


def _changes(table: pd.DataFrame, columns: dict[str, str], catalog: Catalog) -> str:
    """Which photos or columns differ between the catalog and the one that the split was made for."""
    before, now = set(table["image"]), set(catalog.table["image"])
    parts = []
    for word, images in (("added", sorted(now - before)), ("removed", sorted(before - now))):
        if images:
            more = ", ..." if len(images) > 3 else ""
            photos = "1 photo" if len(images) == 1 else f"{len(images)} photos"
            parts.append(f"{photos} {word} ({', '.join(images[:3])}{more})")
    if not parts:
        current = column_digests(catalog.table)
        names = sorted(name for name in {*columns, *current} if columns.get(name) != current.get(name))
        parts.append(f"the same photos with other values of {', '.join(names) or 'a mask'}")
    return " and ".join(parts)


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
