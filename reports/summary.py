"""What one run came to, in a few lines."""

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from whalebench.benchmarks.record import RunRecord, read_predictions
from whalebench.reports.listing import facts_table, table_of
from whalebench.reports.statistics import intervals
from whalebench.reports.wording import (
    CANDIDATES,
    METRICS,
    candidates,
    duration,
    number,
    percent,
    with_interval,
)


def run_summary(record: RunRecord, runs_folder: Path) -> Group:
    """What `rich` prints after a run: scores with their intervals or why there are none; the record."""
    facts = {"does not fit": record.unfit} if record.unfit else _scores(record, runs_folder)
    facts["finished"] = record.created
    facts["record"] = str(runs_folder / record.run)
    title = f"{record.method} on {record.benchmark}, fold {record.fold}, seed {record.seed}"
    notes = [Text(f"! {warning}", style="yellow") for warning in record.warnings]
    hint = Text("Compare runs: whalebench report. Repeat this one: add --force.", style="dim")
    return Group(facts_table(facts, title), *_variants(record), *notes, hint)


def _scores(record: RunRecord, runs_folder: Path) -> dict[str, str]:
    ends = intervals(read_predictions(runs_folder / record.run))
    metrics = {key: float("nan") if value is None else value for key, value in record.metrics.items()}
    for key, (low, high) in ends.items():
        metrics |= {f"{key}_low": low, f"{key}_high": high}
    facts = {name: with_interval(metrics, key) for key, name in METRICS.items()}
    facts[CANDIDATES] = candidates(metrics)
    facts["valid MAP@5"] = number(record.valid_metrics["map_at_5"])
    facts |= {f"found in {part}": _found(record.location.get(part)) for part in ("test", "valid")}
    facts["time"] = duration(sum(record.seconds.values()))
    return facts


def _variants(record: RunRecord) -> list[Table]:
    """The run and other ways to score what it learned, one below the other; nothing where there are none."""
    if not record.variants:
        return []
    whole = {"metrics": record.metrics, "valid_metrics": record.valid_metrics}
    ways: dict[str, Any] = {"this run": whole, **record.variants}
    rows = []
    for name, said in ways.items():
        test, valid = said["metrics"], said["valid_metrics"]
        on_test = {METRICS[key]: number(test.get(key)) for key in ("map_at_5", "top_1", "log_loss")}
        on_valid = {f"valid {METRICS[key]}": number(valid.get(key)) for key in ("map_at_5", "log_loss")}
        rows.append({"": name} | on_test | on_valid)
    return [table_of(rows)]


def _found(said: Any) -> str:
    """How well the animals of one part were found, on one line; empty where it was not looked for them."""
    if not isinstance(said, dict):
        return ""
    parts = [
        f"{name} {number(said[f'{key}_mean'], 2)} mean"
        for key, name in (("box_iou", "box IoU"), ("mask_iou", "mask IoU"))
        if f"{key}_mean" in said
    ]
    if "landmark_error_median" in said:
        median, most = (percent(said[f"landmark_error_{end}"]) for end in ("median", "p90"))
        pixels = number(said.get("landmark_pixels_median"), 1)
        parts.append(f"landmark error {median} median ({pixels} pixels), {most} p90")
    if "fallback" in said:
        parts.append(f"{said['fallback']} of {said['photos']} photos fell back to the whole photo")
    return "; ".join(parts)
