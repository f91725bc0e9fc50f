"""What looks like a slip but is taken as it is: a sentence on each, for the one who imports the photos."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from whalebench import one_line
from whalebench.benchmarks.core.catalog import NAMELESS, NO_ENCOUNTER, NOT_IDENTIFIED
from whalebench.benchmarks.core.store import AnyRemark, PhotoFacts
from whalebench.benchmarks.importing.given import told_apart
from whalebench.benchmarks.importing.names import (
    one_name_for_two_species,
    shortened_numbers,
    written_in_two_ways,
)
from whalebench.benchmarks.importing.tables import Row

LARGE, LARGE_SHARE = 10, 0.1
"""Photos of an encounter, and their share of all, from which on its name is likely that of no encounter."""
PHOTO_NOTES: Mapping[AnyRemark, str] = {
    "transparent": "transparent parts, shown in white",
    "deep": "16 bits a colour, of which the upper 8 are read",
    "profile": "another colour profile than sRGB, and what is read is converted to it",
    "odd profile": "a colour profile that cannot be used, and which is passed over",
    "lost": "an end without data, grey or garbled, for which the file should be replaced",
}
"""What photos have, by what was found in them."""
READINGS: Mapping[AnyRemark, str] = {
    "values": "by two other values than 0 and 255",
    "scaled": "by shades of another range",
    "palette": "by a palette",
    "colours": "by colour",
    "alpha": "by opacity",
}
"""How masks were read that are not of 0 to 255."""


def notes_on(
    rows: Sequence[Row], kept: Mapping[int, PhotoFacts], masks: Mapping[int, PhotoFacts]
) -> list[str]:
    """A sentence on each thing that looks like a slip; the rows in `kept` have usable photos."""
    return [
        *_duplicates(rows, kept),
        *written_in_two_ways(rows),
        *shortened_numbers(rows),
        *one_name_for_two_species(rows),
        *_encounters(rows),
        *_pictures(rows, kept),
        *_masks(rows, {index: mask for index, mask in masks.items() if index in kept}),
    ]


def _found(rows: Sequence[Row], facts: Mapping[int, PhotoFacts], remark: AnyRemark) -> list[str]:
    """The photos in which, or in whose masks, it was found."""
    return [rows[index]["image"] for index, fact in facts.items() if remark in fact.remarks]


def _named(images: Sequence[str]) -> str:
    """The first few of some photos."""
    first = ", ".join(one_line(image, 40) for image in images[:3])
    return f"first {first}" if len(images) > 3 else first


def _pictures(rows: Sequence[Row], kept: Mapping[int, PhotoFacts]) -> list[str]:
    notes = []
    for remark, what in PHOTO_NOTES.items():
        if images := _found(rows, kept, remark):
            have = "1 photo has" if len(images) == 1 else f"{len(images)} photos have"
            notes.append(f"{have} {what}: {_named(images)}.")
    return notes


def _masks(rows: Sequence[Row], masks: Mapping[int, PhotoFacts]) -> list[str]:
    notes = []
    counts = Counter(remark for mask in masks.values() for remark in mask.remarks)
    if read := [f"{counts[remark]} {how}" for remark, how in READINGS.items() if counts[remark]]:
        notes.append(f"Masks are read as what they mean: {', '.join(read)}.")
    blank: list[tuple[AnyRemark, str]] = [("empty", "show no animal"), ("full", "cover their whole photo")]
    found = [(what, _found(rows, masks, remark)) for remark, what in blank]
    if odd := [f"that {what}: {len(images)} ({_named(images)})" for what, images in found if images]:
        notes.append(f"Masks {', '.join(odd)}; correct them if that is not so.")
    telling = len(masks) - counts["empty"] - counts["full"]
    if counts["inside out"] > telling / 2:
        inverted = _found(rows, masks, "inside out")
        notes.append(
            f"{len(inverted)} of {telling} masks cover the border of their photo more than its centre, first "
            f"{_named(inverted[:1])}, as if they were of the background: invert them if they are."
        )
    return notes


def _duplicates(rows: Sequence[Row], kept: Mapping[int, PhotoFacts]) -> list[str]:
    by_digest: dict[str, list[Row]] = defaultdict(list)
    for index, fact in kept.items():
        by_digest[fact.content].append(rows[index])
    notes = []
    if spare := sum(len(same) - 1 for same in by_digest.values()):
        notes.append(f"Photos with the very pixels of another: {spare}; they share a group in every split.")
    several = [same for same in by_digest.values() if len(same) > 1 and not told_apart(same)]
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
