"""Plain rows as tables for the terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from whalebench.reports.console import UNLIMITED

SHOWN = 20
"""How many quarantined photos are listed."""


def table_of(rows: Sequence[dict[str, Any]], title: str = "") -> Table:
    """A rich table with a column for each key; numbers stand to the right, None is a dash."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for key in rows[0] if rows else ():
        numeric = all(isinstance(row[key], int | float | None) for row in rows)
        numeric = numeric and not any(isinstance(row[key], bool) for row in rows)
        table.add_column(key.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[key])) for key in rows[0]))
    return table


def facts_table(facts: dict[str, Any], title: str = "") -> Table:
    """A rich table of two columns, a fact a row; empty facts are left out."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        if value not in ("", None):
            table.add_row(key, Text(_cell(value)))
    return table


@dataclass(frozen=True)
class FittedTable:
    """Rows as a table whose names stay whole: in a narrow window columns are left out, in an order.

    What is still too wide then goes beyond the edge, as a broken name is none.
    """

    rows: Sequence[dict[str, Any]]
    dropped: Sequence[str]
    """The columns that may be left out, the first one first."""
    folded: str = ""
    """The one column that may take several lines, between its words."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=UNLIMITED)
        for number in range(len(self.dropped) + 1):
            left_out = self.dropped[:number]
            rows = [{key: row[key] for key in row if key not in left_out} for row in self.rows]
            table = table_of(rows)
            for column in table.columns:
                column.no_wrap = column.header != self.folded
                texts = [str(cell) for cell in column.cells]
                pieces = texts if column.no_wrap else " ".join(texts).split()
                column.min_width = max(map(len, [str(column.header), *pieces]))
            if table.__rich_measure__(console, unlimited).minimum <= options.max_width:
                yield table
                return
        yield from console.render(table, unlimited)


def warning_lines(warnings: Iterable[str]) -> list[Text]:
    """A line for each warning."""
    return [Text(f"! {warning}", style="yellow") for warning in warnings]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,}" if isinstance(value, int) else str(value)


def import_report(facts: dict[str, Any], left_out: list[dict[str, str]], notes: list[str]) -> Group:
    """What `rich` prints after an import: what came in, what was left out and why, what to do next."""
    hint = "Next: whalebench run arcface --benchmark {name} --fold 0 (or first: whalebench split make {name})"
    end = Text(hint.format_map(facts), style="dim")
    return Group(facts_table(facts, "Imported"), _quarantine(left_out), *warning_lines(notes), end)


def check_report(document: dict[str, Any]) -> Group:
    """What `rich` prints after a check that found everything in place."""
    sentence = "{name}: {photos:,} photos, the catalog and the split are as they were.".format_map(document)
    return Group(Text(sentence), _quarantine(document["quarantined"]))


def split_report(name: str, facts: dict[str, Any], rows: list[dict[str, Any]], warnings: list[str]) -> Group:
    """What `rich` prints of a split: how it was made, what is in each part, what to know."""
    return Group(facts_table(facts, f"Split of {name}"), table_of(rows), *warning_lines(warnings))


def _quarantine(left_out: list[dict[str, str]]) -> Text:
    lines = ["! quarantined {image}: {reason} ({path})".format_map(photo) for photo in left_out[:SHOWN]]
    if len(left_out) > SHOWN:
        lines.append(f"! and {len(left_out) - SHOWN} more, in quarantine.csv beside the benchmark's catalog")
    return Text("\n".join(lines) or "No photo had to be quarantined.")
