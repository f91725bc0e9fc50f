"""whalebench: which approach identifies individual animals best, by how much, and how sure that is."""

from collections.abc import Iterable
from difflib import get_close_matches

__version__ = "0.1.0"

__all__ = ["MissingError", "RunFailedError", "WhalebenchError", "__version__", "did_you_mean", "one_line"]


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
    close = get_close_matches(name, list(names), n=1)
    return f"did you mean '{close[0]}'?" if close else otherwise


def one_line(text: object, limit: int = 200) -> str:
    """A text that is not ours, made fit for a sentence: blanks for line ends, escapes for other controls.

    >>> one_line("a\\r\\nb\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(str(text).split()))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."
