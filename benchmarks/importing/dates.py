"""When photos were taken: by the table and by their EXIF, and the encounters that these times make."""

from __future__ import annotations

import calendar
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from whalebench import one_line
from whalebench.benchmarks.core.durations import UNITS, read_duration
from whalebench.benchmarks.core.store import PhotoFacts
from whalebench.benchmarks.importing.tables import Row, TextTable

DAY = len("2024-05-31")
"""How long a date is that says the day; a longer one says the time, too."""
WITHOUT_DAY = re.compile(r"|\d{4}(-\d\d)?", re.ASCII)
ONE_DAY = UNITS["d"]
PROPOSED = "2h"
"""The gap for which an import says what encounters it would make."""


class Dated(NamedTuple):
    """A table with the dates that were found, and what is to be known of them."""

    table: TextTable
    found: tuple[int, ...]
    """Which rows have theirs from EXIF."""
    notes: tuple[str, ...]


def with_dates(table: TextTable, kept: Mapping[int, PhotoFacts]) -> Dated:
    """The table with the date that EXIF says for each photo without one; its own are as they were.

    `kept` are the photos by row. A note counts the dates that were found, another one those of the table from
    which EXIF differs by more than a day.
    """
    taken = {index: fact.taken for index, fact in kept.items() if fact.taken}
    found = tuple(index for index in taken if not table.rows[index].get("date"))
    notes = []
    if found:
        rows = list(table.rows)
        for index in found:
            rows[index] = rows[index] | {"date": taken[index]}
        rows = [{"date": ""} | row for row in rows]
        table = replace(table, columns=tuple(dict.fromkeys((*table.columns, "date"))), rows=tuple(rows))
        notes.append(f"Dates that are from EXIF, where the table has none: {len(found):,} of {len(kept):,}.")
    others = [index for index in taken if _are_days_apart(table.rows[index]["date"], taken[index])]
    if others:
        row, said = table.rows[others[0]], taken[others[0]]
        notes.append(
            f"EXIF differs by more than a day from {len(others):,} dates of the table, which count: first "
            f"{one_line(row['image'], 60)}, {row['date']} and {said} by EXIF. See which clock was wrong."
        )
    return Dated(table, found, tuple(notes))


def _are_days_apart(date: str, taken: str) -> bool:
    """Whether a time is more than a day before or after all that a date of whatever length may mean.

    >>> _are_days_apart("2024-05", "2024-06-01T20:00:00"), _are_days_apart("2024-05-31", "2024-06-02T00:01")
    (False, True)
    """
    first, last = _span(date)
    return not first - ONE_DAY <= _seconds(taken) <= last + ONE_DAY


def _span(date: str) -> tuple[float, float]:
    """The first and the last moment of a date, in seconds; those of a time are one."""
    if not WITHOUT_DAY.fullmatch(date):
        return _seconds(date), _seconds(date) + (0 if len(date) > DAY else ONE_DAY)
    year, month = int(date[:4]), date[5:]
    last = calendar.monthrange(year, int(month or 12))[1]
    return _seconds(f"{year:04}-{month or '01'}-01"), _seconds(f"{year:04}-{month or '12'}-{last}") + ONE_DAY


def _seconds(text: str, *, zoned: bool = False) -> float:
    """The seconds of a time or of a day's midnight, as a clock at the place shows them, or of UTC."""
    moment = datetime.fromisoformat(text)
    offset = moment.utcoffset() if zoned else None
    # Not as a time of UTC, which may be before the first year.
    return (moment.replace(tzinfo=None) - datetime.min - (offset or timedelta())).total_seconds()


@dataclass(frozen=True)
class EncounterRule:
    """Photos of one place are one encounter while none is taken longer after the one before than the gap."""

    text: str
    """As it was typed: 2h."""
    gap: float
    """The most seconds between two photos."""

    def words(self) -> str:
        """The rule as `data show` says it."""
        return f"photos of one place, else camera, at most {self.text} apart; days alone by day"


def read_rule(text: str) -> EncounterRule:
    """The rule of a gap as 2h, 30min, 1d or 90s; raises WhalebenchError for another one."""
    return EncounterRule("".join(text.split()), read_duration(text, "--encounters"))


def with_encounters(
    table: TextTable, kept: Iterable[int], rule: EncounterRule
) -> tuple[TextTable, list[str]]:
    """The table with an encounter for each photo whose day is known and whose row names none; and notes.

    `kept` are the rows whose photos can be used.
    """
    made = encounters(table.rows, kept, rule)
    if not made:
        return table, [
            f"--encounters {rule.text} made none: no photo without an encounter has a day, by date or EXIF."
        ]
    sizes = Counter(made.values())
    rows = tuple(
        {"encounter": ""} | row | ({"encounter": made[index]} if index in made else {})
        for index, row in enumerate(table.rows)
    )
    left = sum(not rows[index]["encounter"] for index in kept)
    notes = [f"--encounters {rule.text} made {_counted(sizes)}."]
    if left:
        notes.append(f"Photos without a day are in no encounter: {left:,}.")
    return replace(table, columns=tuple(dict.fromkeys((*table.columns, "encounter"))), rows=rows), notes


def proposal(rows: Sequence[Row], kept: Iterable[int]) -> Iterator[str]:
    """A sentence on the encounters that could be made, where that would join photos."""
    sizes = Counter(encounters(rows, kept, read_rule(PROPOSED)).values())
    if sizes and max(sizes.values()) > 1:
        yield (
            f"Dates are known: --encounters {PROPOSED} would make {_counted(sizes)}, none of which a fold "
            f"would cut."
        )


def _counted(sizes: Mapping[str, int]) -> str:
    """As "312 encounters of 1,204 photos, the largest of 41"."""
    largest = max(sizes.values(), default=0)
    return f"{len(sizes):,} encounters of {sum(sizes.values()):,} photos, the largest of {largest:,}"


def encounters(rows: Sequence[Row], kept: Iterable[int], rule: EncounterRule) -> dict[int, str]:
    """The encounter of each row that names none and whose day is known: a name of its first moment and place.

    A row without a place counts as of its camera, and one without either as of all others. Days without a
    time are at their midnight, and apart from times.
    """
    chains: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for index in kept:
        row = rows[index]
        if not WITHOUT_DAY.fullmatch(row.get("date", "")) and not row.get("encounter"):
            place = row.get("place", "") or (f"camera {row['camera']}" if row.get("camera") else "")
            chains[place, len(row["date"]) > DAY].append(index)
    taken = {row.get("encounter", "") for row in rows}
    found: dict[int, str] = {}
    for (place, has_time), indices in sorted(chains.items()):
        for chain in _chains(_moments({index: rows[index]["date"] for index in indices}), rule.gap):
            start = rows[chain[0]]["date"]
            name = " ".join(filter(None, (start if has_time else start[:DAY], place)))
            while name in taken:  # of a table that names some of them, or of two places with one name
                name += "'"
            taken.add(name)
            found |= dict.fromkeys(chain, name)
    return found


def _moments(dates: Mapping[int, str]) -> dict[int, float]:
    """The dates in seconds: by what clocks at the place showed, unless each of them names its zone."""
    zoned = all(datetime.fromisoformat(date).tzinfo for date in dates.values())
    return {index: _seconds(date, zoned=zoned) for index, date in dates.items()}


def _chains(moments: Mapping[int, float], gap: float) -> list[list[int]]:
    """The rows in their order in time, cut where more than the gap is between two that follow each other."""
    order = sorted(moments, key=lambda index: (moments[index], index))
    chains = [order[:1]]
    for before, after in pairwise(order):
        if moments[after] - moments[before] > gap:
            chains.append([])
        chains[-1].append(after)
    return chains
