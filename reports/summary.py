"""What one run came to, in a few lines."""

from pathlib import Path

from rich.console import Group
from rich.text import Text

from whalebench.benchmarks.record import RunRecord, read_predictions
from whalebench.reports.listing import facts_table
from whalebench.reports.statistics import intervals
from whalebench.reports.wording import METRICS, duration, number, with_interval


def run_summary(record: RunRecord, runs_folder: Path) -> Group:
    """What `rich` prints after a run: the scores with their intervals, and where everything is."""
    ends = intervals(read_predictions(runs_folder / record.run))
    metrics = {key: float("nan") if value is None else value for key, value in record.metrics.items()}
    for key, (low, high) in ends.items():
        metrics |= {f"{key}_low": low, f"{key}_high": high}
    facts = {name: with_interval(metrics, key) for key, name in METRICS.items()}
    facts["valid MAP@5"] = number(_defined(record.valid_metrics["map_at_5"]))
    facts["time"] = duration(sum(record.seconds.values()))
    facts["finished"] = record.created
    facts["record"] = str(runs_folder / record.run)
    title = f"{record.method} on {record.benchmark}, fold {record.fold}, seed {record.seed}"
    notes = [Text(f"! {warning}", style="yellow") for warning in record.warnings]
    hint = Text("Compare runs: whalebench report. Repeat this one: add --force.", style="dim")
    return Group(facts_table(facts, title), *notes, hint)


def _defined(value: float | None) -> float:
    return float("nan") if value is None else value
