"""What many runs asked for at once came to: the leaderboard of a sweep, and whether tuning was worth it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import floor, log10, nan
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from whalebench.benchmarks.core.progress import CellState, SweepState
from whalebench.benchmarks.core.record import plain, read_predictions, read_record
from whalebench.reports.board import Leaderboard
from whalebench.reports.console import cell_name, cell_table, progress_line
from whalebench.reports.document import render
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics.jackknife import Difference, intervals, paired_difference
from whalebench.reports.tables import facts_table, table_of, warning_lines
from whalebench.reports.wording import METRICS, UNDEFINED, between, duration, number, with_interval
from whalebench.reports.writers import to_rows


def board_of(cells: Iterable[CellState], runs_folder: Path) -> Leaderboard | None:
    """The leaderboard of the sweep's own runs, or None where none has finished."""
    runs = {cell.run for cell in cells if cell.status in ("finished", "unfit")}
    return leaderboard(runs_folder, runs=runs) if runs else None


def sweep_report(state: SweepState, board: Leaderboard | None, seconds: float) -> Group:
    """What `rich` prints after a sweep: its leaderboard, failed cells, the wall time."""
    tables: list[RenderableType] = [render(board)] if board else []
    count = sum(cell.ended_before for cell in state.cells)
    before = f" ({count} of them before)" if count else ""
    end = Text(f"{progress_line(state)}{before}. Wall time {duration(seconds)}.")
    return Group(*tables, *_failure_lines(state.cells), end)


def plan_report(state: SweepState, jobs: int) -> Group:
    """What `rich` prints of a plan of which nothing is started: every cell, then counts by contestant.

    The names of the runs would not fit on a line; `--json` has them.
    """
    rows = [
        {"method": cell.contestant, "fold": cell.fold, "seed": cell.seed, "status": cell.status}
        for cell in state.cells
    ]
    noun = "process" if jobs == 1 else "processes"
    end = Text(f"{progress_line(state)}. Nothing was started; there would be {jobs} {noun} at a time.")
    return Group(table_of(rows), cell_table(state.cells), *_failure_lines(state.cells), end)


def board_json(board: Leaderboard | None) -> dict[str, list[dict[str, Any]]]:
    """`summary`, one dictionary a contestant over folds and seeds, best first; and the `rows` of single runs.

    The rows are those of `report --json`; undefined numbers are None.
    """
    if board is None:
        return {"summary": [], "rows": []}
    summary = [
        plain(
            {"benchmark": table.title, "track": one.group.track, "folds": one.group.folds}
            | one.standing._asdict()
            | {key: one.mean(key) for key in METRICS}
        )
        for table in board.tables
        for one in table.contestants
        if one.group and one.standing
    ]
    return {"summary": summary, "rows": to_rows(board)}


def _failure_lines(cells: Iterable[CellState]) -> list[Text]:
    """A line for the cells of a contestant that came to nothing for one reason."""
    alike: dict[tuple[str, str], list[CellState]] = defaultdict(list)
    for cell in cells:
        if cell.status in ("missing", "failed"):
            what = "is missing something here" if cell.status == "missing" else "failed"
            alike[cell.contestant, f"{what}: {cell.reason}"].append(cell)
    lines = []
    for (_, why), group in alike.items():
        more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        lines.append(Text(f"! {cell_name(group[0])}{more} {why}", style="red"))
    if any(cell.ended_before for group in alike.values() for cell in group):
        lines.append(Text("What came to nothing before is tried again with --retry.", style="dim"))
    return lines


# --- tuned

Document = Mapping[str, Any]
"""What `benchmarks.tuning` says of a study, as `tune --json` prints it."""
LEAD = ("map_at_5", "low", "high")
"""Keys of the lead of the tuned configuration over the defaults."""


def with_scores(document: Document, runs_folder: Path) -> dict[str, Any]:
    """The document with `rows`, the defaults' and the tuned one's, and `lead`, tuned over the defaults.

    Each row has MAP@5 on valid, on test with its 95 % interval, and `shrink`, valid minus test. The lead on
    test is paired: on the same individuals. Where the defaults have no run there is no row of
    theirs, and the lead is None.
    """
    rows, tables = [], {}
    for name, run in document["runs"].items():
        if run:
            record, tables[name] = read_record(runs_folder / run), read_predictions(runs_folder / run)
            low, high = plain(intervals(tables[name])["map_at_5"])[:2]
            valid, test = record.valid_metrics.get("map_at_5"), record.metrics.get("map_at_5")
            row = {
                "name": name,
                "settings": list(document["settings"]) if name == "tuned" else [],
                "valid_map_at_5": valid,
                "map_at_5": test,
                "map_at_5_low": low,
                "map_at_5_high": high,
                "shrink": None if valid is None or test is None else valid - test,
                "seconds": sum(record.seconds.values()),
                "run": record.run,
                "track": record.track,
            }
            rows.append(row)
    lead = None
    if "default" in tables:
        drawn = paired_difference(tables["tuned"], tables["default"])
        lead = dict(zip(LEAD, plain(drawn), strict=True))
    return {**document, "rows": rows, "lead": lead}


def tuning_report(document: Document) -> Group:
    """What `rich` prints after tuning, of a document with its scores."""
    spent = document["spent"]
    cost = f"{spent['trials']} trials ({spent['pruned']} pruned, {spent['failed']} failed)"
    facts = {
        "budget": document["budget"],
        "spent": f"{cost}, {duration(spent['seconds'])} of work, {spent['photos']:,} photos",
        "chosen": " ".join(document["settings"]) or "the defaults: no trial scored better on valid",
        "what mattered": ", ".join(
            f"{name} {100 * share:.0f} %" for name, share in document["importance"].items() if share >= 0.01
        ),
        "study": f"{document['study']} in {document['storage']}",
        "picture": document["picture"],
    }
    title = "{method} on {benchmark}, fold {fold}, seed {seed}, tuned".format_map(document)
    failed = [trial for trial in document["trials"] if trial["reason"]]
    notes = warning_lines(f"trial {trial['number']} failed: {trial['reason']}" for trial in failed)
    rows = [
        {
            "": row["name"],
            "valid MAP@5": number(row["valid_map_at_5"]),
            "test MAP@5": with_interval(row, "map_at_5"),
            "valid minus test": number(row["shrink"]),
            "run": row["run"],
        }
        for row in document["rows"]
    ]
    hint = Text(
        "Valid chose among many, so its number flatters the tuned row; test was looked at once. Look closer: "
        f"optuna-dashboard {document['storage'].removeprefix('journal:')}",
        style="dim",
    )
    return Group(facts_table(facts, title), *notes, table_of(rows), Text(verdict(document)), hint)


def verdict(document: Document) -> str:
    """Whether tuning helped on test, in a sentence that does not say more than its interval."""
    if document["lead"] is None:
        return f"The defaults have no row to compare with: {document['default_failed']}"
    if not document["settings"]:
        return "The defaults were the best on valid: both rows are the same configuration."
    lead = Difference(*(nan if end is None else end for end in map(document["lead"].get, LEAD)))
    shown = between(*lead)
    if lead.differs:
        better = "better" if lead.value > 0 else "worse"
        return f"Tuned is {better} on test than the defaults by {shown}, on the same photos."
    return f"On test the two cannot be told apart: tuned leads the defaults by {shown}, on the same photos."


# --- learning rates found


def rates_report(document: Document) -> Group:
    """What `rich` prints of range tests: the mean loss by decade, and at which rates it falls."""
    trainings = document["trainings"]
    title = "{method} on {benchmark}, fold {fold}, seed {seed}: range test".format_map(document)
    decades = sorted({floor(log10(rate)) for one in trainings for rate in one["mean_rates"]})
    rows = [
        {"learning_rate": f"1e{decade}"} | {one["part"]: number(_loss_at(one, decade)) for one in trainings}
        for decade in decades
    ]
    found = [
        {
            "training": one["part"],
            "falls_fastest_at": _rate(one["steepest"]),
            "a_tenth_of_the_least": _rate(one["tenth_of_least"]),
            "as_it_is_set": _rate(one["configured"]),
        }
        for one in trainings
    ]
    picture = Text(f"picture: {document['picture']}", style="dim")
    return Group(table_of(rows, title), table_of(found), Text(rates_sentence(document)), picture)


def rates_sentence(document: Document) -> str:
    """What the range tests suggest, and the command that takes it."""
    rates = {one["part"]: one for one in document["trainings"]}
    falling = [
        f"{part} learns fastest at {_rate(one['steepest'])}, a tenth of where its loss is least is "
        f"{_rate(one['tenth_of_least'])}"
        for part, one in rates.items()
        if one["steepest"] is not None
    ]
    flat = [part for part, one in rates.items() if one["steepest"] is None]
    said = [f"{'; '.join(falling)}."] if falling else []
    said += (
        [f"The loss of {', '.join(flat)} falls at no rate by more than it wavers: raise batch_size."]
        if flat
        else []
    )
    said += [f"Take it: {document['command']}"] if document["command"] else []
    return " ".join(said)


def _loss_at(training: Mapping[str, Any], decade: int) -> float | None:
    """The mean loss at the first rate of the decade, None where the test had ended."""
    at = [
        loss
        for rate, loss in zip(training["mean_rates"], training["mean_losses"], strict=True)
        if floor(log10(rate)) == decade
    ]
    return at[0] if at else None


def _rate(rate: float | None) -> str:
    return UNDEFINED if rate is None else f"{rate:.2g}"
