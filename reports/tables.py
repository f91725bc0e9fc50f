"""Tables of texts for the terminal, how they fit a window of any width, and what is told of photos there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from whalebench.reports.console import UNLIMITED
from whalebench.reports.wording import typed

WIDEST = 26
"""Letters of a column beside that of the meaning, before it takes several lines."""
NAME_COLUMNS = ("method", "run")
"""Columns of names, which stand to the left; all others are numbers."""


class Cell(str):
    """A text of a table with the number that rows are sorted by where the text does not begin with it."""

    __slots__ = ("number",)
    number: float | None

    @classmethod
    def of(cls, words: Callable[[Any], str], number: float | None) -> Cell:
        """What the words say of the number, which may be undefined."""
        cell = cls(words(number))
        cell.number = number
        return cell


class RowFacts(NamedTuple):
    """What a page does with a row: where it leads, what repeats it, and what it is filtered by."""

    anchor: str = ""
    """The name of what it stands for, a run or a contestant."""
    command: str = ""
    """What repeats it, to copy."""
    track: str = ""
    """Its letter, or its track in words."""
    marks: tuple[str, ...] = ()
    """As `oracle`, `transductive`, `seen in pretraining`, `floor`."""
    interval: tuple[float, float, float] | None = None
    """MAP@5 with the ends of its interval, NaN where undefined."""
    ranks: tuple[int, int] | None = None
    """The best and the last rank that it may have."""


class Grid(NamedTuple):
    """A table of texts below a title."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[str, ...] = ()
    """What its columns mean, a sentence or two each."""
    best: frozenset[int] = frozenset()
    """Places of the rows that may be the best, shown in bold."""
    facts: tuple[RowFacts, ...] = ()
    """Of each row, for the page; empty for none."""
    optional: tuple[str, ...] = ()
    """Columns that a narrow window may do without, the first one first."""

    def without(self, names: Collection[str]) -> Grid:
        """The grid without the columns of these names."""
        kept = [place for place, name in enumerate(self.header) if name not in names]
        header, *rows = (tuple(texts[place] for place in kept) for texts in (self.header, *self.rows))
        return self._replace(header=header, rows=tuple(rows))


@dataclass(frozen=True)
class FittedGrid:
    """A grid that fits the window: a narrow one does without the columns that are optional.

    Where that is not enough names are broken between words, then intervals go below their numbers, the last
    column's first. So words stay whole as long as may be, and numbers never lose a digit.
    """

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=UNLIMITED)

        def fits(table: Table) -> bool:
            return table.__rich_measure__(console, unlimited).minimum <= options.max_width

        *others, last = self._tables()
        table, without = next((one for one in others if fits(one[0])), last)
        if self.grid.title:
            yield Text(self.grid.title, style="bold")
        yield table
        if without:
            yield Text(f"In a wider window: {', '.join(without)}.", style="dim")

    def _tables(self) -> Iterator[tuple[Table, tuple[str, ...]]]:
        """The tables to try, the best first, each with the columns that it does without."""
        optional = self.grid.optional
        for names in ("line", "words"):
            for number in range(len(optional) + 1) if optional or names == "words" else ():
                without = optional[:number]
                yield FittedGrid(self.grid.without(without)).table(names=names), without
        narrow = FittedGrid(self.grid.without(optional))
        for whole in range(len(narrow.grid.header), -1, -1):
            yield narrow.table(whole, names="words"), optional
        yield narrow.table(0, names="letters"), optional

    def table(self, whole: int = UNLIMITED, *, names: Literal["line", "words", "letters"] = "line") -> Table:
        """The table, intervals on the line of their numbers in that many columns from the left.

        Names may be broken nowhere, between words, or between letters.
        """
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        rows = [
            [*texts[:whole], *(text.replace(" [", "\n[") for text in texts[whole:])]
            for texts in self.grid.rows
        ]
        for name, *texts in zip(self.grid.header, *rows, strict=True):
            if name in NAME_COLUMNS:
                pieces = {"line": [name, *texts], "words": " ".join([name, *texts]).split(), "letters": ["."]}
                table.add_column(name, vertical="bottom", overflow="fold", min_width=_longest(pieces[names]))
            else:
                head = name.replace(" (" if " (" in name else " ", "\n(" if " (" in name else "\n", 1)
                least = _longest("\n".join([head, *texts]).splitlines())
                table.add_column(head, justify="right", vertical="bottom", no_wrap=True, min_width=least)
        for place, row in enumerate(rows):
            table.add_row(*map(Text, row), style="bold" if place in self.grid.best else "")
        return table


def _longest(pieces: Sequence[str]) -> int:
    return max(map(len, pieces), default=0)


# --- of plain rows

FEW = 4
"""Photos of a group that are named."""
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


def fields_report(
    title: str,
    fields: Sequence[dict[str, Any]],
    left: Sequence[str],
    ladder: Sequence[dict[str, Any]] = (),
) -> Group:
    """The fields of a method in their groups, a line or more each, then what they are that are left out.

    `ladder` are the steps of the system that a recipe repeats.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in fields:
        groups.setdefault(row["group"], []).append(row)
    shown = {name: [*map(_field_cells, rows)] for name, rows in groups.items()}
    wide = [max(len(cells[place]) for rows in shown.values() for cells in rows) for place in range(3)]
    blocks: list[Any] = [Text(title, style="bold")]
    for name, rows in shown.items():
        grid = Table.grid(padding=(0, 2))
        for place, style in enumerate(("cyan", "", "dim")):
            grid.add_column(style=style, min_width=min(wide[place], WIDEST), overflow="fold")
        grid.add_column(overflow="fold")
        for cells in rows:
            grid.add_row(*map(Text, cells))
        blocks += [Text(f"\n{name}"), Padding(grid, (0, 0, 0, 2), expand=False)]
    blocks += [Text(f"\n{line}") for line in left]
    blocks += [Text(), table_of(ladder, "The system that it repeats, step by step")] if ladder else []
    return Group(*blocks)


def _field_cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """The name of a field, its default as it is typed, what may be given instead, and what it means."""
    words = row["type"] if " | " in row["type"] else row["search"]
    return row["field"], typed(row["default"]), words, row["meaning"]


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


def import_report(
    facts: dict[str, Any], left_out: list[dict[str, str]], notes: list[str], following: str
) -> Group:
    """What `rich` prints after an import: what came in, what was left out and why, what to do next."""
    end = Text(f"Next: {following} (or first: whalebench split make {facts['name']})", style="dim")
    return Group(facts_table(facts, "Imported"), _quarantine(left_out), *warning_lines(notes), end)


def correction_report(facts: dict[str, Any], notes: list[str]) -> Group:
    """What `rich` prints of a new version of a benchmark: what it holds, and what to know of its photos."""
    end = Text(f"Next: whalebench run METHOD --benchmark {facts['name']}", style="dim")
    return Group(facts_table(facts, "Corrected"), *warning_lines(notes), end)


def cluster_report(document: dict[str, Any]) -> Group:
    """What `rich` prints of photos in groups: how many there are, the largest of them, what was not read."""
    members: dict[int, list[str]] = {}
    for row in document["table"]:
        members.setdefault(row["group"], []).append(row["photo"])
    rows = [
        {"group": group, "photos": len(of), "of them": ", ".join(of[:FEW]) + ", ..." * (len(of) > FEW)}
        for group, of in sorted(members.items())[:SHOWN]
    ]
    facts = {name: document[name] for name in ("run", "photos", "groups")}
    facts["individuals"] = _counted(**document["individuals"])
    facts["joined from"] = f"a mean probability of {document['threshold']:.2f} on, chosen on valid"
    more = [f"And {len(members) - SHOWN} more groups: --out FILE.csv has all."] * (len(members) > SHOWN)
    notes = [Text(line, style="dim") for line in more]
    return Group(facts_table(facts, "Grouped"), table_of(rows), *notes, *warning_lines(document["problems"]))


def _counted(value: float, low: float | None, high: float | None, photos: int) -> str:
    """How many individuals there are, and how sure that is."""
    if low is None or high is None:
        return f"{value:.0f}, the groups; for an interval decide on the pairs of --pairs FILE.csv"
    return f"{value:.0f}, with 95 % certainty {low:.0f} to {high:.0f}, by {photos} photos that were drawn"


def plan_report(plan: dict[str, Any]) -> Group:
    """What `rich` prints of a run that is not started: who, on what, and the same without its preset."""
    seconds = plan["estimated_seconds"]
    told = {name: plan[name] for name in ("method", "benchmark", "fold", "seed", "device", "preset")}
    told |= {"settings": " ".join(plan["settings"]), "the same as": plan["command"]}
    told["about"] = "not known" if seconds is None else f"{max(1, round(seconds / 60))} min"
    return Group(facts_table(told, "Not started"))


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
