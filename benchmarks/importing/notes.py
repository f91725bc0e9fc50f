"""What looks like a slip but is taken as it is: a sentence on each, for the one who imports the photos."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from whalebench.benchmarks.core.catalog import NAMELESS, NO_ENCOUNTER, NOT_IDENTIFIED
from whalebench.benchmarks.core.store import PhotoFacts
from whalebench.benchmarks.importing.given import told_apart
from whalebench.benchmarks.importing.names import (
    one_name_for_two_species,
    shortened_numbers,
    written_in_two_ways,
)
from whalebench.benchmarks.importing.tables import Row

LARGE, LARGE_SHARE = 10, 0.1
"""Photos of an encounter, and their share of all, from which on its name is likely that of no encounter."""


def notes_on(rows: Sequence[Row], kept: Mapping[int, PhotoFacts]) -> list[str]:
    """A sentence on each thing that looks like a slip; the rows in `kept` have usable photos."""
    return [
        *_duplicates(rows, kept),
        *written_in_two_ways(rows),
        *shortened_numbers(rows),
        *one_name_for_two_species(rows),
        *_encounters(rows),
    ]


def _duplicates(rows: Sequence[Row], kept: Mapping[int, PhotoFacts]) -> list[str]:
    by_digest: dict[str, list[Row]] = defaultdict(list)
    for index, fact in kept.items():
        by_digest[fact.content].append(rows[index])
    notes = []
    if spare := sum(len(same) - 1 for same in by_digest.values()):
        notes.append(f"Photos with the very pixels of another: {spare}; they share a group in every split.")
    several = [same for same in by_digest.values() if not told_apart(same)]
    torn = [same for same in several if len({row["identity"] for row in same} - {NOT_IDENTIFIED}) > 1]
    if torn:
        examples = " and ".join(f"{row['image']} of {row['identity'] or 'nobody'}" for row in torn[0][:3])
        notes.append(
            f"The very same photo is said to show different individuals {len(torn)} times, first {examples}: "
            f"correct the column identity, or give each row the box of its animal, and --given box."
        )
    return notes


def _encounters(rows: Sequence[Row]) -> list[str]:
    sizes = Counter(row.get("encounter", "") for row in rows)
    sizes.pop("", None)
    if not sizes:
        return [NO_ENCOUNTER]
    name, size = sizes.most_common(1)[0]
    if size < max(LARGE, LARGE_SHARE * len(rows)):
        return []
    shown = len({row["identity"] for row in rows if row.get("encounter") == name}.difference(NAMELESS))
    return [
        f"The encounter {name!r} has {size} of {len(rows)} photos, of {shown} individual(s), and no fold "
        f"cuts through it: leave the cell empty where nobody knows which photos were taken together."
    ]
