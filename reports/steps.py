"""What each step of an ensemble is worth: its scores with it and without it, on the same photos."""

from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from whalebench.benchmarks.record import VARIANTS, RunRecord, read_predictions
from whalebench.reports.listing import table_of
from whalebench.reports.resampling import Distributions, distributions
from whalebench.reports.statistics import difference, interval
from whalebench.reports.wording import between, number

Row = dict[str, Any]
KEYS = ("map_at_5", "log_loss")
"""The metrics in which a step is held against the state before it."""


def step_rows(record: RunRecord, folder: Path) -> list[Row]:
    """A row for the scores without any step and one after each, empty where the run has no steps.

    A row has `step`, `transductive`, `chosen`, `unfit`, `valid_map_at_5`, `map_at_5` with `_low` and `_high`,
    `log_loss`, and `leads` over the row before it: by metric `value`, `low`, `high`, paired.
    """
    if not record.variants:
        return []
    tables = dict(iter(read_predictions(folder, VARIANTS).groupby("variant", sort=False)))
    drawn = dict(zip(tables, distributions([*tables.values()]), strict=True))
    rows, before = [], None
    for name, said in record.variants.items():
        assert isinstance(said, dict)
        now = drawn.get(name)
        rows.append({"step": name} | said | _numbers(now, before))
        before = now or before
    return rows


def step_blocks(rows: Sequence[Row]) -> list[Table | Text]:
    """What `rich` prints of the rows; nothing where there are none."""
    if not rows:
        return []
    legend = "Gained: in MAP@5 over the row above, on the same photos. Settings were chosen on valid."
    return [table_of([_shown(row) for row in rows], "Step by step"), Text(legend, style="dim")]


def _numbers(now: Distributions | None, before: Distributions | None) -> Row:
    if now is None:
        return dict.fromkeys(("map_at_5", "map_at_5_low", "map_at_5_high", "log_loss")) | {"leads": {}}
    low, high = interval(now["map_at_5"])
    own = {key: float(now[key][0]) for key in KEYS} | {"map_at_5_low": low, "map_at_5_high": high}
    leads = {key: difference(now[key], before[key])._asdict() for key in KEYS} if before else {}
    return plain(own) | {"leads": {key: plain(lead) for key, lead in leads.items()}}


def _shown(row: Row) -> dict[str, str]:
    kind = "transductive" if row["transductive"] else "inductive"
    return {
        "step": row["step"],
        "": "does not fit" if row["unfit"] else kind if row["leads"] else "",
        "valid MAP@5": number(row["valid_metrics"]["map_at_5"]),
        "MAP@5": number(row["map_at_5"]),
        "gained": _lead(**row["leads"]["map_at_5"]) if row["leads"] else "",
        "log loss": number(row["log_loss"]),
    }


def _lead(value: float | None, low: float | None, high: float | None) -> str:
    value, low, high = (nan if one is None else one for one in (value, low, high))
    return between(value, low, high)


def plain(numbers: dict[str, float]) -> dict[str, float | None]:
    """The numbers as JSON can hold them: None where they are undefined."""
    return {key: None if isnan(value) else float(value) for key, value in numbers.items()}
