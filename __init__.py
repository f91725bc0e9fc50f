"""whalebench: which approach identifies individual animals best, by how much, and how sure that is."""

__version__ = "0.1.0"

__all__ = ["MissingError", "RunFailedError", "WhalebenchError", "__version__"]


class WhalebenchError(Exception):
    """A sentence for the user: the value, why it cannot be, and what to do. Exit code 2."""


class RunFailedError(WhalebenchError):
    """The request was good and its work went wrong. Exit code 1."""


class MissingError(RunFailedError):
    """The request was good and this machine lacks a package or a download for it. Exit code 1."""
