"""Numbers as texts, the same on the terminal, in Markdown and on the page."""

from collections.abc import Iterable, Mapping
from math import isnan
from typing import Any

METRICS = {
    "map_at_5": "MAP@5",
    "top_1": "top-1",
    "top_5": "top-5",
    "log_loss": "log loss",
    "auroc_new": "AUROC new",
}
CANDIDATE_SET = "candidate set"
"""Title of what `candidate_set` gives."""
UNDEFINED = "–"


def number(value: float | None, digits: int = 3) -> str:
    """The number as a cell shows it, a dash where it is undefined.

    >>> number(0.71234), number(float("nan")), number(None)
    ('0.712', '–', '–')
    """
    return UNDEFINED if value is None or isnan(value) else f"{value:.{digits}f}"


def between(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """The value with its 95 % interval, as far as they are defined.

    >>> between(0.712, 0.655, 0.764), between(0.712, None, None), between(None, None, None)
    ('0.712 [0.66, 0.76]', '0.712', '–')
    """
    ends = "" if low is None or isnan(low) else f" [{number(low, digits)}, {number(high, digits)}]"
    return f"{number(value)}{ends}"


def with_interval(metrics: Mapping[str, Any], key: str) -> str:
    """The metric of that key with its 95 % interval, as far as they are defined.

    >>> with_interval({"top_1": 0.712, "top_1_low": 0.655, "top_1_high": 0.764}, "top_1")
    '0.712 [0.66, 0.76]'
    """
    value, low, high = (metrics.get(f"{key}{end}") for end in ("", "_low", "_high"))
    return between(value, low, high)


def percent(value: float | None) -> str:
    """A share in percent, with a digit behind the point below 10; a dash where it is undefined.

    >>> percent(0.0512), percent(0.113), percent(None)
    ('5.1 %', '11 %', '–')
    """
    if value is None or isnan(value):
        return UNDEFINED
    return f"{100 * value:.{1 if value < 0.0995 else 0}f} %"


def probability(value: float | None) -> str:
    """A probability, never as a certainty.

    >>> probability(0.512), probability(1.0), probability(0.001), probability(None)
    ('0.51', 'above 0.99', 'below 0.01', '–')
    """
    if value is None or isnan(value):
        return UNDEFINED
    return "above 0.99" if value > 0.995 else "below 0.01" if value < 0.005 else f"{value:.2f}"


def candidate_set(metrics: Mapping[str, Any]) -> str:
    """Mean size of the sets that hold the true individual with 95 % certainty, and how many really do.

    >>> candidate_set({"set_size_95": 3.21, "coverage_95": 0.962}), candidate_set({})
    ('3.2 (96 %)', '–')
    """
    size, coverage = metrics.get("set_size_95"), percent(metrics.get("coverage_95"))
    if size is None or isnan(size) or coverage == UNDEFINED:
        return UNDEFINED
    return f"{number(size, 1 if size < 9.95 else 0)} ({coverage})"


def typed(value: Any) -> str:
    """A value of a configuration as it is typed on the command line.

    >>> [typed(value) for value in ([80, 128], True, 0.5, None)]
    ['80x128', 'true', '0.5', 'none']
    """
    if isinstance(value, list):
        return "x".join(map(typed, value))
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def times(number: int) -> str:
    """How often.

    >>> times(1), times(3)
    ('once', '3 times')
    """
    return "once" if number == 1 else f"{number} times"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(42.4), duration(150), duration(8000)
    ('42 s', '2.5 min', '2.2 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers in rising order, those in a row as a span.

    >>> spans([0, 1, 2, 4, 6, 7])
    '0–2, 4, 6, 7'
    """
    runs: list[list[int]] = []
    for one in sorted(numbers):
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts)


def listed(names: Iterable[str], most: int = 4) -> str:
    """The names with commas, and how many more there are than are named.

    >>> listed("abc"), listed("abcdef", most=2)
    ('a, b, c', 'a, b and 4 more')
    """
    names = list(names)
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def span(least: float | None, most: float | None) -> str:
    """From the least to the most, or one of them where they are equal.

    >>> span(1, 3), span(2, 2), span(None, None)
    ('1–3', '2', '–')
    """
    if least is None or most is None:
        return UNDEFINED
    return str(least) if least == most else f"{least}–{most}"


def thousands(value: float | None) -> str:
    """A count in thousands where it is large.

    >>> thousands(640), thousands(36_480), thousands(1_204_000), thousands(None)
    ('640', '36.5k', '1,204k', '–')
    """
    if value is None or isnan(value):
        return UNDEFINED
    if value < 9_999.5:
        return f"{value:.0f}"
    return f"{value / 1000:,.{1 if value < 99_950 else 0}f}k"
