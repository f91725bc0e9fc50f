"""whalebench: which approach identifies individual animals best, by how much, and how sure that is.

What stands in `__all__` is for programs of others (docs/from-python.md); all else is for whalebench itself.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whalebench.api import Run, leaderboard, load, predictions, run, runs
else:

    def __getattr__(name: str) -> object:
        """What programs of others ask for, imported when they do: an import is to cost nothing."""
        if name in __all__:
            return getattr(import_module("whalebench.api"), name)
        raise AttributeError(f"module 'whalebench' has no attribute '{name}'")


__version__ = "0.1.0"

__all__ = [
    "MissingError",
    "Run",
    "RunFailedError",
    "WhalebenchError",
    "__version__",
    "cell_text",
    "leaderboard",
    "load",
    "predictions",
    "run",
    "runs",
]


def __dir__() -> list[str]:
    """What is offered after `whalebench.`: what is for others."""
    return __all__


CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
"""Characters that no name needs and no file format or terminal can be given: controls (C0, C1), line ends of
Unicode, what turns the direction of a text, marks of byte order, halves of a character. Joiners are none."""
FORMULA = re.compile(r"'*[=+@\t\r-]")
"""How a text begins that a spreadsheet computes, or would be taken for one that is marked as a text."""
WORD = 80
"""Letters of a word that is too long for its line, of those that are left of it."""


class WhalebenchError(Exception):
    """A sentence for the user: the value, why it cannot be, and what to do. Exit code 2."""


class RunFailedError(WhalebenchError):
    """The request was good and its work went wrong. Exit code 1."""


class MissingError(RunFailedError):
    """The request was good and this machine lacks a package or a download for it. Exit code 1."""


def did_you_mean(name: str, names: Iterable[str], otherwise: str) -> str:
    """The end of a sentence about an unknown name: the nearest of the names there are, or something else.

    >>> did_you_mean("arcfase", ["arcface", "triplet"], "there are arcface, triplet.")
    "did you mean 'arcface'?"
    >>> did_you_mean("x", ["arcface", "triplet"], "there are arcface, triplet.")
    'there are arcface, triplet.'
    """
    close = get_close_matches(name[:WORD], list(names), n=1)
    return f"did you mean '{close[0]}'?" if close else otherwise


def visible(text: str) -> str:
    """The text with what is among CONTROLS as escapes, so that it neither acts nor hides where it is shown.

    >>> visible("\\x1b[31mann"), visible("Zoë")
    ('\\\\x1b[31mann', 'Zoë')
    """
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: object, limit: int = 200) -> str:
    """A text that is not ours, made fit for a sentence: blanks for line ends, escapes for other controls.

    Of a text that is longer than the limit first words are shortened that are very long, then its end is cut.
    Empty for what raises an error where it is to say what it is.

    >>> one_line("a\\r\\nb\\x1b[31m"), one_line("x" * 300 + " is too long", 300)[-21:]
    ('a b\\\\x1b[31m', 'xxxxxxxxx is too long')
    """
    try:
        said = str(text)
    except Exception:  # an error of others, which cannot even say what it is
        said = ""
    words = visible(" ".join(said.split())).split(" ")
    if sum(map(len, words)) + len(words) - 1 > limit:
        half = WORD // 2
        words = [word if len(word) <= WORD else f"{word[:half]}...{word[-half:]}" for word in words]
    shown = " ".join(words)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def table_cell(value: object) -> object:
    """A value as a cell of a CSV: a text that a spreadsheet would compute gets an apostrophe, numbers none.

    >>> table_cell("=1+1"), table_cell("-3.jpg"), table_cell(-3.5), table_cell("'=1+1"), table_cell("ann")
    ("'=1+1", "'-3.jpg", -3.5, "''=1+1", 'ann')
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def cell_text(cell: str) -> str:
    """The text that `table_cell` made the cell of.

    >>> [cell_text(cell) for cell in ("'=1+1", "''=1+1", "'ann", "ann")]
    ['=1+1', "'=1+1", "'ann", 'ann']
    """
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell[1:]) else cell
