"""Words for nobody where an individual's name belongs: not identified yet, or known to be none of the others.

The two differ. A *new* animal is compared with all others, and a method can be right about it; of one that
nobody has identified no answer is known, so it is in no part of a split.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from whalebench import one_line
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED
from whalebench.benchmarks.importing.tables import TextTable

NEW = ""
"""The identity of an animal that is none of the others."""
ANIMAL = r"( (animal|dolphin|id|identity|individual|name|person|seal|shark|turtle|whale|zebra))?"
NEW_WORDS = re.compile(f"new{ANIMAL}")
NOT_IDENTIFIED_WORDS = re.compile(
    r"((animal|id|identity|individual|name|whale) )?"
    f"(unk|unkn|unknown|unid|unidentified|unidentifiable|undetermined|unassigned|unlabell?ed|unnamed){ANIMAL}"
    r"|un id|(not|non)( yet)? (identified|known|determined|assigned|available)|no (id|name|match)|noid"
    r"|n a|na|nan|nat|none|null|nil|missing|pending|nobody|anonymous|to be determined|tba|tbc|tbd"
    r"|unsure|uncertain|not sure"
    r"|unbekannt|nicht identifiziert|inconnue?|non identifiee?|desconhecid[ao]|desconocid[ao]"
    r"|no identificad[ao]|sconosciut[ao]|onbekend|niet geidentificeerd|ukjent|ukendt|okand|tuntematon"
    r"|nieznan[ay]|неизвестн(о|ыи|ая)|不明|未知"
)
"""As `plain` writes them."""
CODES = re.compile(r"-(1|9+)(\.0)?")
"""Numbers that programs write where there is no label."""
SHOWN = 3
"""Words that a note names."""


def identity_of(name: str) -> str:
    """The individual that a cell names: NEW for a word for new, NOT_IDENTIFIED for one for nobody, or itself.

    What has no letter and no digit is a word for nobody, too, and so are -1 and -999.

    >>> [identity_of(name) for name in ("New_Whale", "", "N/A", "<unknown>", "--", "-1", "Nanuq")]
    ['', '', '?', '?', '?', '?', 'Nanuq']
    """
    word = plain(name)
    if not name or NEW_WORDS.fullmatch(word):
        return NEW
    is_nobody = not word or NOT_IDENTIFIED_WORDS.fullmatch(word) or CODES.fullmatch(name)
    return NOT_IDENTIFIED if is_nobody else name


def plain(name: str) -> str:
    """Its words in small letters, without accents and signs, a blank between them.

    >>> plain("#N/A"), plain(" Non-Identifié "), plain("new_whale")
    ('n a', 'non identifie', 'new whale')
    """
    letters = unicodedata.normalize("NFKD", name.casefold())
    return re.sub(
        r"[\W_]+", " ", "".join(each for each in letters if not unicodedata.combining(each))
    ).strip()


def name_nobody(table: TextTable) -> tuple[TextTable, list[str]]:
    """The table with words for nobody folded to NEW and NOT_IDENTIFIED, and a note on each of the two."""
    names = Counter(row.get("identity", "") for row in table.rows)
    folded = {name: identity for name in names if (identity := identity_of(name)) != name}
    if folded:
        rows = (row | {"identity": folded.get(row["identity"], row["identity"])} for row in table.rows)
        table = replace(table, rows=tuple(rows))
    return table, list(
        _notes({name: names[name] for name in names if name in folded or name == NOT_IDENTIFIED})
    )


def _notes(counts: dict[str, int]) -> Iterator[str]:
    """What became of the words, each with the number of its rows."""
    new = {word: count for word, count in counts.items() if identity_of(word) == NEW}
    nobody = {word: count for word, count in counts.items() if word not in new}
    if new:
        yield (
            f"{sum(new.values()):,} row(s) have a word for a *new* animal, {_shown(new)}, and count like "
            f"those with an empty cell: none of the others."
        )
    if nobody:
        yield (
            f"{sum(nobody.values()):,} row(s) have a word for nobody, {_shown(nobody)}: their photos are not "
            f"yet identified, and in no part of any split; where the animal is known to be none of the "
            f"others leave its name empty, or write new."
        )


def _shown(counts: dict[str, int]) -> str:
    most = sorted(counts, key=lambda word: (-counts[word], word))
    more = f" and {len(most) - SHOWN} more" if len(most) > SHOWN else ""
    return ", ".join(f"{one_line(repr(word), 30)} ({counts[word]:,})" for word in most[:SHOWN]) + more
