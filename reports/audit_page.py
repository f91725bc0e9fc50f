"""The audit of a benchmark as a page of pairs to confirm, reject or leave, and as `rich` prints it.

The page is one file that fetches nothing; verdicts are kept in the browser and downloaded as a CSV, which
`whalebench split make --groups` and `whalebench data audit --verdicts` read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from whalebench.reports.page.render import render
from whalebench.reports.tables import facts_table, table_of

KINDS = {
    "exact": "the same pixels",
    "twin": "one picture, saved in another way",
    "crop": "a part of the other picture",
    "overlap": "parts of one picture",
    "burst": "one moment by the clock",
    "look": "one moment by its look",
}
SAID = {
    "two_names": "one individual under two names",
    "two_labels": "one image with two labels",
    "rejected": "rejected",
    "unseen": "not looked at, or unsure",
}
"""Counts of an audit's document, in words."""
TURNS = ("", "turned by 90°", "turned by 180°", "turned by 270°")
SHOWN = 12
"""Pairs that the terminal shows."""
MOST = 1000
"""Pairs that a page shows: more would be slow to open, and to look at."""


def page_pairs(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The pairs of an audit's document that its page shows: first what leaks, then what bears two names."""

    def order(pair: Mapping[str, Any]) -> tuple[bool, bool]:
        return not pair["leaks_in"], not (pair["two_names"] or pair["two_labels"])

    pairs = sorted(document["pairs"], key=order)
    return pairs[:MOST]


def audit_report(document: Mapping[str, Any]) -> Group:
    """What `rich` prints of an audit: counts, leaks by fold, and the first pairs."""
    facts = {"photos": document["photos"]} | {KINDS[kind]: n for kind, n in document["kinds"].items()}
    facts |= {SAID[key]: document[key] for key in SAID}
    leaks = document["leaks"]
    lines = [Text("No split has been made yet.")] if leaks is None else []
    lines += [
        Text(
            f"! fold {fold} tests on {document['leaking_photos'][fold]} photos whose other half is outside "
            f"the test ({count} pairs)",
            "yellow",
        )
        for fold, count in (leaks or {}).items()
        if count
    ]
    if leaks is not None and not lines:
        lines = [Text("No pair is torn apart by the split.")]
    if not document["parts"]:
        lines.append(Text("! Parts of one picture were not looked for: install whalebench[sift].", "yellow"))
    shown = page_pairs(document)[:SHOWN]
    rows = [{"first": pair["first"], "second": pair["second"], "what": describe(pair)} for pair in shown]
    if left := len(document["pairs"]) - len(rows):
        lines.append(Text(f"and {left:,} more pairs: write them all with --page FILE.html, or --json"))
    return Group(
        facts_table(facts, f"Audit of {document['name']}"), *([table_of(rows)] if rows else []), *lines
    )


def describe(pair: Mapping[str, Any]) -> str:
    """What two photos have in common, in words."""
    words = [KINDS[pair["kind"]]]
    if pair["seconds"] is not None:
        words.append(f"{pair['seconds']:.0f} s apart")
    elif pair["kind"] != "exact":
        words.append(f"{pair['likeness']:.2f} alike")
    if pair["shared"] is not None:
        words.append(f"{pair['shared']:.0%} shared")
    words += [word for word in (TURNS[pair["turn"] % 4], "mirrored" if pair["turn"] >= 4 else "") if word]
    if pair["two_names"] or pair["two_labels"]:
        what = "names" if pair["two_names"] else "labels"
        words.append(f"two {what}: {pair['first_identity']} and {pair['second_identity']}")
    if pair["leaks_in"]:
        words.append(f"leaks in fold {', '.join(map(str, pair['leaks_in']))}")
    return ", ".join(words)


def audit_page(document: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page of an audit's document; `pictures` are data URIs of what `page_pairs` shows, by image."""
    shown = page_pairs(document)
    kept = ("first", "second", "verdict", "kind", "likeness", "first_identity", "second_identity")
    return render(
        "audit.html",
        name=document["name"],
        counts=list(_counts(document)),
        pairs=[_shown_pair(pair, pictures, document["credits"]) for pair in shown],
        left=len(document["pairs"]) - len(shown),
        data={
            "key": document["audit_digest"],
            "name": document["name"],
            "pairs": [{name: pair[name] for name in kept} for pair in shown],
        },
    )


def _counts(document: Mapping[str, Any]) -> Iterator[str]:
    """How many pairs there are of each kind, of those of which there are any."""
    numbers = {KINDS[kind]: count for kind, count in document["kinds"].items()}
    numbers |= {SAID[key]: document[key] for key in SAID}
    yield from (f"{words}: {count:,}" for words, count in numbers.items() if count)


def _shown_pair(
    pair: Mapping[str, Any], pictures: Mapping[str, str], credit_of: Mapping[str, str]
) -> dict[str, Any]:
    """What the page shows of a pair: what is said of it, and both photos."""
    photos = [
        {
            "image": pair[which],
            "identity": pair[f"{which}_identity"],
            "source": pictures[pair[which]],
            "credit": credit_of.get(pair[which], ""),
        }
        for which in ("first", "second")
    ]
    return {"words": describe(pair), "photos": photos}
