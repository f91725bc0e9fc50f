"""Names that are written in several ways, and those that mean several animals."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from whalebench import one_line
from whalebench.benchmarks.core.catalog import NAMELESS
from whalebench.benchmarks.importing.tables import Row, TextTable

NAMED = ("identity", "encounter", "viewpoint", "species", "camera", "place")
"""Columns in which one name may have been written in two ways."""
UNSEEN = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u2060-\u2064]")
"""Characters that no reader sees, as they come with what is copied from pages. None of them are the joiners
U+200C and U+200D, which change how letters of some scripts look, and marks of direction and byte order, which
are refused."""
MARKS = re.compile("[\u0300-\u036f\u00ad\u180e\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f]")
"""Accents, when they are letters of their own, and what is not seen."""
BLANKS = re.compile("[\\s_\u058a\u2010-\u2015\u2043\u2212\ufe58\ufe63\uff0d-]+")
"""Blanks, underscores and dashes."""
SHORTENED = re.compile(r"\d([.,]\d+)?E\+\d+", re.ASCII)
WHOLE = re.compile(r"(?<=\d)\.0+$")
ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
LATIN = str.maketrans(
    "авекмнорстухіјѕԁһԛԝαβεζηικμνορτυχ’‘ʼ`´",
    "abekmhopctyxijsdhqwabezhikmvoptux'''''",
)
"""Small letters of Cyrillic and Greek that look like Latin ones, as capitals or as such, and apostrophes
(a part of https://www.unicode.org/Public/security/latest/confusables.txt)."""


def without_unseen(table: TextTable) -> tuple[TextTable, list[str]]:
    """The table with names without characters that nobody sees, and a note on each column that had some."""
    notes: list[str] = []
    new: dict[str, dict[str, str]] = {}
    for column in NAMED:
        counts = Counter(row.get(column, "") for row in table.rows)
        odd = (name for name in counts if not name.isprintable())
        changed = {name: plain for name in odd if (plain := UNSEEN.sub("", name).strip()) != name}
        if changed:
            new[column] = changed
            first, number = min(changed), sum(counts[name] for name in changed)
            notes.append(
                f"Column {column} has characters that nobody sees in {number} row(s): "
                f"{one_line(ascii(first), 60)} is read as {one_line(repr(changed[first]), 60)}."
            )
    rows = table.rows
    for column, names in new.items():
        rows = tuple(row | {column: names.get(row[column], row[column])} for row in rows)
    return replace(table, rows=rows), notes


def spelling(name: str) -> str:
    """What is left of a name without what is easily mistyped or looks alike.

    Without capitals, accents, blanks, underscores and dashes, which are one; leading zeros; `.0`; letters of
    other scripts that look the same; and characters that nobody sees.

    >>> [spelling(name) for name in ("Old_Scar  007", "old-scar 7.0", "А\u20139", "A-9")]
    ['old scar 7', 'old scar 7', 'a 9', 'a 9']
    """
    plain = name.casefold()
    if not name.isascii():
        plain = MARKS.sub("", unicodedata.normalize("NFKD", plain)).casefold().translate(LATIN)
    plain = BLANKS.sub(" ", plain).strip(" '")
    return ZEROS.sub("", WHOLE.sub("", plain)) or name


def written_in_two_ways(rows: Sequence[Row]) -> Iterator[str]:
    """A note on each column with names that differ in their spelling only."""
    for column in NAMED:
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted({row.get(column, "") for row in rows} - {""}):
            alike[spelling(name)].append(name)
        twice = [names for names in alike.values() if len(names) > 1]
        if twice:
            yield (
                f"Column {column} has {len(twice)} name(s) that are written in several ways, first "
                f"{_told_apart(twice[0])}, which count as different ones: write them alike if they are not."
            )


def _told_apart(names: Sequence[str]) -> str:
    """The names in quotes; those that look the same with codes for their letters."""
    look = {unicodedata.normalize("NFKC", name).casefold().translate(LATIN) for name in names}
    shown = (repr(name) if len(look) == len(names) else ascii(name) for name in names[:3])
    return " and ".join(one_line(name, 60) for name in shown)


def shortened_numbers(rows: Sequence[Row]) -> Iterator[str]:
    """A note on each column of names with numbers as spreadsheets shorten long ones."""
    for column in NAMED:
        short = sorted(name for name in {row.get(column, "") for row in rows} if SHORTENED.fullmatch(name))
        if short:
            yield (
                f"Column {column} has {len(short)} name(s) as spreadsheets shorten long numbers, first "
                f"{short[0]!r}, and several may have become one: save the column as text."
            )


def one_name_for_two_species(rows: Sequence[Row]) -> Iterator[str]:
    """A note on individuals that are said to be of several species, as two catalogs count from 1."""
    said: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row.get("species") and row["identity"] not in NAMELESS:
            said[row["identity"]].setdefault(row["species"], "")
    of = {name: {spelling(each): each for each in species} for name, species in said.items()}
    several = {name: sorted(species.values()) for name, species in of.items() if len(species) > 1}
    if several:
        name, species = min(several.items())
        number = "two species each" if all(len(each) == 2 for each in several.values()) else "several species"
        yield (
            f"{len(several)} individual(s) are of {number}, first {one_line(repr(name), 40)} "
            f"({one_line(', '.join(species), 80)}): write the species into the identity if these are "
            "different animals."
        )
