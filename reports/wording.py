"""What a table says, the same words on the terminal, in Markdown and on the page."""

from math import isnan

from whalebench.reports.board import Row, Section, Table
from whalebench.reports.metrics.resampling import RESAMPLES

METRICS = {
    "map_at_5": "MAP@5",
    "top_1": "top-1",
    "top_5": "top-5",
    "log_loss": "log loss",
    "auroc_new": "AUROC new",
}
CANDIDATES = "list for 95 %"
"""Title of the column on candidate sets."""
UNDEFINED = "–"
SEEN = "seen in pretraining"


def number(value: float | None, digits: int = 3) -> str:
    """The number as a cell shows it, a dash where it is undefined.

    >>> number(0.71234), number(float("nan")), number(None)
    ('0.712', '–', '–')
    """
    return UNDEFINED if value is None or isnan(value) else f"{value:.{digits}f}"


def between(value: float, low: float, high: float, digits: int = 2) -> str:
    """The value with its 95 % interval, as far as they are defined.

    >>> between(0.712, 0.655, 0.764), between(0.712, float("nan"), float("nan"))
    ('0.712 [0.66, 0.76]', '0.712')
    """
    ends = "" if isnan(low) else f" [{number(low, digits)}, {number(high, digits)}]"
    return f"{number(value)}{ends}"


def with_interval(metrics: dict[str, float], key: str) -> str:
    """The metric with its 95 % interval, as far as they are defined.

    >>> with_interval({"top_1": 0.712, "top_1_low": 0.655, "top_1_high": 0.764}, "top_1")
    '0.712 [0.66, 0.76]'
    """
    value, low, high = (metrics.get(name, float("nan")) for name in (key, f"{key}_low", f"{key}_high"))
    return between(value, low, high)


def percent(value: float | None) -> str:
    """A share in percent, with a digit behind the point below 10; a dash where it is undefined.

    >>> percent(0.0512), percent(0.113), percent(None)
    ('5.1 %', '11 %', '–')
    """
    if value is None or isnan(value):
        return UNDEFINED
    return f"{100 * value:.{1 if value < 0.0995 else 0}f} %"


def candidates(metrics: dict[str, float]) -> str:
    """Mean length of the lists that hold the right individual with 95 % certainty, and how many really do.

    >>> candidates({"set_size_95": 3.21, "coverage_95": 0.962}), candidates({})
    ('3.2 (96 %)', '–')
    """
    size, coverage = (metrics.get(key, float("nan")) for key in ("set_size_95", "coverage_95"))
    if isnan(size) or isnan(coverage):
        return UNDEFINED
    return f"{number(size, 1 if size < 9.95 else 0)} ({percent(coverage)})"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(42.4), duration(150), duration(8000)
    ('42 s', '2.5 min', '2.2 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def title(table: Table) -> str:
    """Benchmark, track, and what sets a table apart from those with honest boxes and single photos."""
    marks = [name for name in ("oracle", "transductive") if getattr(table, name)]
    return " · ".join([table.benchmark, table.track, *marks])


def subtitle(section: Section, table: Table) -> str:
    """The fold, its size, and the split where the table has several."""
    head = f"fold {section.fold}{split_mark(section.split_digest, table)}"
    return f"{head}: {section.queries} test photos, {section.new} of them new individuals"


def split_mark(digest: str, table: Table) -> str:
    """ ", split 0123abcd" where the table has several splits, else nothing."""
    several = len({section.split_digest for section in table.sections}) > 1
    return f", split {digest[:8]}" if several else ""


def name_header(section: Section) -> list[str]:
    """Titles of the columns that name a row; the run is among them where contestant and seed do not."""
    pairs = [(row.contestant, row.seed) for row in section.rows]
    return ["method", "seed", *(["run"] if len(set(pairs)) < len(pairs) else [])]


def name_cells(row: Row, section: Section) -> list[str]:
    """The texts that name a row, one for each title of `name_header`."""
    method = f"{row.contestant} ({SEEN})" if row.seen else row.contestant
    texts = {"method": method, "seed": str(row.seed), "run": row.run}
    return [texts[name] for name in name_header(section)]


def header(section: Section) -> list[str]:
    """Column titles of a section."""
    return ["rank", *name_header(section), *METRICS.values(), "time"]


def cells(row: Row, section: Section) -> list[str]:
    """The texts of one row, one for each column title; only MAP@5, which ranks, shows its interval."""
    first = [UNDEFINED if row.rank is None else str(row.rank), *name_cells(row, section)]
    best = "does not fit" if row.unfit else with_interval(row.metrics, "map_at_5")
    rest = [number(row.metrics.get(key)) for key in METRICS if key != "map_at_5"]
    return [*first, best, *rest, UNDEFINED if row.unfit else duration(row.seconds)]


def explanation() -> str:
    """What the brackets and a shared rank mean, one sentence each."""
    return (
        f"In brackets: the 95 % interval of MAP@5 over {RESAMPLES:,} resamples of the test individuals (of "
        "the encounters, for new ones). Rows share a rank when the interval of their difference to the first "
        "of them, on the same photos, holds zero, so that they cannot be told apart. "
        "Of log loss, the lower is the better."
    )


def remarks(table: Table) -> list[str]:
    """What is missing or wrong in a table, one sentence each: marks, gaps, what does not fit, damages."""
    rows = [row for section in table.sections for row in section.rows]
    unfit = [f"{row.contestant} does not fit: {row.unfit}." for row in rows if row.unfit]
    marks = []
    if table.oracle:
        marks.append("Oracle: these runs used annotated boxes, landmarks or masks of test photos.")
    if table.transductive:
        marks.append("Transductive: these runs scored test photos with the help of other test photos.")
    seen = [f"{SEEN.capitalize()}: {row.seen}" for row in rows if row.seen]
    broken = [row.problem for row in rows if row.problem]
    return [*marks, *dict.fromkeys(seen), *dict.fromkeys(unfit), *table.notes, *broken]
