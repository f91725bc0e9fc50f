"""whalebench: which approach identifies individual animals best, by how much, and how sure that is."""

from collections.abc import Iterable
from difflib import get_close_matches

__version__ = "0.1.0"

__all__ = ["MissingError", "RunFailedError", "WhalebenchError", "__version__", "did_you_mean"]


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
