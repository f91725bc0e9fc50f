"""What an ensemble came to beside its members, on the same photos."""

from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from whalebench.benchmarks.record import RunRecord, read_predictions, read_record
from whalebench.reports.listing import facts_table, table_of
from whalebench.reports.resampling import Distributions, distributions
from whalebench.reports.statistics import Difference, difference, interval
from whalebench.reports.steps import plain, step_blocks, step_rows
from whalebench.reports.wording import between, duration, number

Document = dict[str, Any]
LEADS = {"map_at_5": "MAP@5", "log_loss": "log loss"}
"""The metrics in which the ensemble is held against its best member; of log loss, the lower is the better."""


def ensemble_document(record: RunRecord, folder: Path, members: Sequence[Path]) -> Document:
    """The record, a row for each member, the ensemble, and each step, and leads over the best member.

    The best member is that with the highest MAP@5 on test, which favours the member: the ensemble did not
    know. The leads are paired, on the same draws of individuals.
    """
    folders = [*members, folder]
    drawn = distributions([read_predictions(place) for place in folders])
    records = [*(read_record(place) for place in members), record]
    rows = [_row(one, values) for one, values in zip(records, drawn, strict=True)]
    best = max(range(len(members)), key=lambda place: _merit(drawn[place]))
    leads = {key: plain(difference(drawn[-1][key], drawn[best][key])._asdict()) for key in LEADS}
    found = {"rows": rows, "best_member": records[best].run, "leads": leads}
    return record.model_dump(mode="json") | found | {"steps": step_rows(record, folder)}


def ensemble_report(document: Document, folder: str) -> Group:
    """What `rich` prints of the document."""
    chosen, calibration = document["chosen"], document["calibration"]
    trained, aside = (calibration.get(f"{key}_log_loss") for key in ("train", "out_of_fold"))
    losses = f"{number(trained)} of photos learned from, {number(aside)} of photos set aside"
    facts = {
        "rule": document["config"]["rule"],
        "chosen on valid": " ".join(f"{key}={_said(chosen[key])}" for key in chosen),
        "log loss on valid": "" if trained is None else losses,
        "time": duration(sum(document["seconds"].values())),
        "record": folder,
    }
    title = "ensemble on {benchmark}, fold {fold}, seed {seed}".format_map(document)
    notes = [Text(f"! {warning}", style="yellow") for warning in document["warnings"]]
    rows = [_shown(row) for row in document["rows"]]
    verdict = map(Text, verdicts(document))
    return Group(facts_table(facts, title), *notes, table_of(rows), *verdict, *step_blocks(document["steps"]))


def verdicts(document: Document) -> list[str]:
    """Whether the ensemble is better than its best member, a sentence each metric, no more than is sure."""
    said = []
    for key, name in LEADS.items():
        found = {end: nan if value is None else value for end, value in document["leads"][key].items()}
        lead = Difference(**found)
        if key == "log_loss":
            lead = Difference(-lead.value, -lead.high, -lead.low)
        if isnan(lead.value):
            continue
        shown = between(lead.value, lead.low, lead.high)
        if lead.differs:
            word = "better" if lead.value > 0 else "worse"
            said.append(f"{name}: {word} than its best member by {shown} on the same photos.")
        else:
            said.append(f"{name}: not to be told apart from its best member, better by {shown}.")
    return said


def _row(record: RunRecord, values: Distributions) -> Document:
    low, high = interval(values["map_at_5"])
    own = {key: values[key][0] for key in ("map_at_5", "top_1", "log_loss")}
    numbers = own | {"map_at_5_low": low, "map_at_5_high": high}
    return {"run": record.run, "method": record.method, "track": record.track} | plain(numbers)


def _shown(row: Document) -> dict[str, str]:
    value, low, high = (nan if row[key] is None else row[key] for key in _ENDS)
    return {
        "": row["method"],
        "MAP@5": between(value, low, high),
        "top-1": number(row["top_1"]),
        "log loss": number(row["log_loss"]),
        "run": row["run"],
    }


_ENDS = ("map_at_5", "map_at_5_low", "map_at_5_high")


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(f"{one:.3g}" for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def _merit(values: Distributions) -> tuple[float, float]:
    """MAP@5, and of equally good runs the log loss."""
    return float(values["map_at_5"][0]), -float(np.nan_to_num(values["log_loss"][0]))
