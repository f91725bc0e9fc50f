"""Aliases: names that are the same animal, made one when photos are imported."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.importing.tables import Row, TextTable, read_table

COLUMNS = ("alias", "identity")
SPECIES = "species"
GROUP = ("Id", "SubId")
"""A group's name and, with spaces between them, the names that become it, as in Humpback 2019."""
DUPLICATES = "duplicates"
"""The column with groups of names that are one animal."""


class Alias(NamedTuple):
    """A name, and the one that is meant by it."""

    alias: str
    identity: str
    species: str = ""
    """Of which it is one; "" where whatever the species."""

    def may_meet(self, other: Alias) -> bool:
        """Whether both may be of one species."""
        return "" in (self.species, other.species) or self.species == other.species


@dataclass(frozen=True)
class Aliases:
    """A table of aliases, of which none leads to another."""

    file: Path
    entries: tuple[Alias, ...]
    notes: tuple[str, ...] = ()
    """What the table was read as, where that had to be guessed."""

    def apply(self, table: TextTable) -> tuple[TextTable, list[str], dict[str, Any]]:
        """The table with each identity that is an alias replaced, sentences on that, and what was done.

        The names that were there are kept in the last only, each with its number of rows.
        """
        used: Counter[Alias] = Counter()
        meant = {(entry.alias, entry.species): entry for entry in self.entries}
        rows = list(table.rows)
        for index, row in enumerate(rows):
            name, species = row.get("identity", ""), row.get(SPECIES, "")
            if entry := meant.get((name, species)) or meant.get((name, "")):
                used[entry] += 1
                rows[index] = row | {"identity": entry.identity}
        facts = {
            "file": self.file.name,
            "digest": digest_file(self.file),
            "names": [[*entry, used[entry]] for entry in self.entries if used[entry]],
        }
        return replace(table, rows=tuple(_without_settled(rows))), self._notes(used), facts

    def _notes(self, used: Counter[Alias]) -> list[str]:
        notes = [f"{self.file.name}: {note}" for note in self.notes]
        if not used:
            notes.append("No row has an alias as its identity: none was changed.")
        else:
            first = next(entry for entry in self.entries if entry in used)
            notes.append(
                f"Aliases changed the identity of {used.total():,} rows, {len(used):,} names in all: first "
                f"{one_line(first.alias, 40)!r}, which is now {one_line(first.identity, 40)!r}."
            )
        if unknown := [entry for entry in self.entries if entry not in used]:
            of = f" of {one_line(unknown[0].species, 40)}" if unknown[0].species else ""
            notes.append(
                f"{len(unknown):,} of {len(self.entries):,} aliases are no identity of the table, first "
                f"{one_line(unknown[0].alias, 40)!r}{of}."
            )
        return notes


def _without_settled(rows: Sequence[Row]) -> list[Row]:
    """The rows without the groups of duplicates that have one name by now: no split need keep it together."""
    named: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        named[row.get(DUPLICATES, "")].add(row.get("identity", ""))
    settled = {group for group, names in named.items() if group and len(names) == 1}
    return [row | {DUPLICATES: ""} if row.get(DUPLICATES) in settled else row for row in rows]


def read_aliases(file: Path) -> Aliases:
    """The aliases of a table with the columns alias, identity and, where names are per species, species.

    Or with Id and SubId, a group of names in each row, as published for humpbacks. An empty species is all.
    Raises WhalebenchError for a table without these columns, an empty cell, an alias of two animals, and an
    alias of an alias.
    """
    table = _an_alias_a_row(read_table(file, (*COLUMNS, SPECIES, *GROUP)))
    for column in COLUMNS:
        if column not in table.columns:
            raise WhalebenchError(
                f"{file} has no column {column!r}, only {one_line(', '.join(table.columns), 80)}; aliases "
                f"are read from alias,identity and, where names are per species, species."
            )
    places: dict[Alias, str] = {}
    for row, place in zip(table.rows, table.places, strict=True):
        entry = _alias(row, f"{file}, {place}")
        if entry.alias != entry.identity:  # a name may be listed as its own
            places.setdefault(entry, place)
    by_alias: dict[str, list[Alias]] = defaultdict(list)
    for entry in places:
        by_alias[entry.alias].append(entry)
    for entry, place in places.items():
        _refuse_doubt(entry, by_alias, f"{file}, {place}")
    return Aliases(file, tuple(places), table.notes)


def _an_alias_a_row(table: TextTable) -> TextTable:
    """The table, or where it has a group in each row, one with an alias in each."""
    if not set(GROUP) <= set(table.columns) or set(COLUMNS) <= set(table.columns):
        return table
    placed = [
        ({"alias": name, "identity": row["Id"]}, place)
        for row, place in zip(table.rows, table.places, strict=True)
        for name in row["SubId"].split()
    ]
    rows, places = zip(*placed, strict=True) if placed else ((), ())
    return replace(table, columns=COLUMNS, rows=rows, places=places)


def _alias(row: Row, where: str) -> Alias:
    for column in COLUMNS:
        if not row[column]:
            raise WhalebenchError(f"{where}: the cell {column} is empty; fill it or remove the row.")
    return Alias(row["alias"], row["identity"], row.get(SPECIES, ""))


def _refuse_doubt(entry: Alias, by_alias: Mapping[str, Sequence[Alias]], where: str) -> None:
    """Raises WhalebenchError where the alias is said to be two animals, or its animal to be another one."""
    alias, identity = one_line(entry.alias, 40), one_line(entry.identity, 40)
    for other in by_alias.get(entry.alias, ()):
        if other != entry and other.may_meet(entry):
            raise WhalebenchError(
                f"{where}: {alias!r} is {identity!r} here and {one_line(other.identity, 40)!r} elsewhere; "
                f"keep one of them, or say of which species each is."
            )
    for other in by_alias.get(entry.identity, ()):
        if other.may_meet(entry):
            last = one_line(other.identity, 40)
            what = "each an alias of the other" if last == alias else f"a chain that goes on to {last!r}"
            raise WhalebenchError(
                f"{where}: {alias!r} and {identity!r} are {what}; give every alias the one name that stays."
            )
