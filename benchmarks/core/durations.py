"""Durations as they are typed and as they are read."""

import re

from whalebench import WhalebenchError, one_line

HOUR = 3600.0
UNITS = {"d": 24 * HOUR, "h": HOUR, "min": 60.0, "m": 60.0, "s": 1.0}
"""Seconds by what stands behind a number."""


def read_duration(text: str, option: str) -> float:
    """The seconds of a text as 1d, 2h, 90m or 45s; raises WhalebenchError, naming the option, for any other.

    >>> read_duration("1.5h", "--time-limit")
    5400.0
    """
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(d|h|min|m|s)", text.strip(), re.ASCII)
    if parts is None or not float(parts[1]):
        raise WhalebenchError(f"{option} {one_line(text, 40)} is no duration: write it as 2h, 30m or 45s.")
    return float(parts[1]) * UNITS[parts[2]]


def duration_words(seconds: float) -> str:
    """A duration as a person reads it.

    >>> duration_words(7200), duration_words(90)
    ('2 h', '1.5 min')
    """
    if seconds >= HOUR:
        return f"{seconds / HOUR:g} h"
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
