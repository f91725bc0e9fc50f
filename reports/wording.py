"""What a table says, the same words on the terminal, in Markdown and on the page."""

from math import isnan

from whalebench.reports.leaderboard import Row, Section, Table
from whalebench.reports.resampling import RESAMPLES

METRICS = {
    "map_at_5": "MAP@5",
    "top_1": "top-1",
    "top_5": "top-5",
    "log_loss": "log loss",
    "auroc_new": "AUROC new",
}
UNDEFINED = "–"


def number(value: float, digits: int = 3) -> str:
    """The number as a cell shows it, a dash where it is undefined.

    >>> number(0.71234), number(float("nan"))
    ('0.712', '–')
    """
    return UNDEFINED if isnan(value) else f"{value:.{digits}f}"


def with_interval(metrics: dict[str, float], key: str) -> str:
    """The metric with its 95 % interval, as far as they are defined.

    >>> with_interval({"top_1": 0.712, "top_1_low": 0.655, "top_1_high": 0.764}, "top_1")
    '0.712 [0.66, 0.76]'
    """
    value, low, high = (metrics.get(name, float("nan")) for name in (key, f"{key}_low", f"{key}_high"))
    return number(value) if isnan(low) else f"{number(value)} [{number(low, 2)}, {number(high, 2)}]"


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
    several = len({other.split_digest for other in table.sections}) > 1
    split = f", split {section.split_digest[:8]}" if several else ""
    return f"fold {section.fold}{split}: {section.queries} test photos, {section.new} of them new individuals"


def header(section: Section) -> list[str]:
    """Column titles; the run's name is among them where method and seed do not tell the rows apart."""
    run = ["run"] if _needs_run(section) else []
    return ["rank", "method", "seed", *run, *METRICS.values(), "time"]


def cells(row: Row, section: Section) -> list[str]:
    """The texts of one row, one for each column title; only MAP@5, which ranks, shows its interval."""
    first = [UNDEFINED if row.rank is None else str(row.rank), row.method, str(row.seed)]
    run = [row.run] if _needs_run(section) else []
    rest = [number(row.metrics.get(key, float("nan"))) for key in METRICS if key != "map_at_5"]
    return [*first, *run, with_interval(row.metrics, "map_at_5"), *rest, duration(row.seconds)]


def explanation() -> str:
    """What the brackets and a shared rank mean, one sentence each."""
    return (
        f"In brackets: the 95 % interval of MAP@5 over {RESAMPLES:,} resamples of the test individuals (of "
        "the encounters, for new ones). Rows share a rank when the interval of their difference to the first "
        "of them, on the same photos, holds zero, so that they cannot be told apart. "
        "Of log loss, the lower is the better."
    )


def remarks(table: Table) -> list[str]:
    """What is missing or wrong in a table, one sentence each: gaps, damaged runs, marks."""
    broken = [row.problem for section in table.sections for row in section.rows if row.problem]
    marks = []
    if table.oracle:
        marks.append("Oracle: these runs used annotated boxes or landmarks of test photos.")
    if table.transductive:
        marks.append("Transductive: these runs scored test photos with the help of other test photos.")
    return [*marks, *table.notes, *broken]


def _needs_run(section: Section) -> bool:
    pairs = [(row.method, row.seed) for row in section.rows]
    return len(set(pairs)) < len(pairs)
