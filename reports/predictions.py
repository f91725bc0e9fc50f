"""What the terminal shows of new photos: the candidates of each, how probable they are, and what to know."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from whalebench.reports.tables import FittedGrid, Grid, facts_table, warning_lines

SHOWN = 200
"""Photos or encounters that are shown; all are in --out and --json."""
LEGEND = (
    "new is the chance that it is none of the known individuals, the number behind each of them the "
    "probability, given that it is one of them; the list of so many individuals holds the right one in 95 of "
    "100 photos of known ones."
)


def predictions_report(document: dict[str, Any]) -> Group:
    """What `rich` prints of `Predictions.document`: a row a photo or encounter, its candidates best first."""
    answers, by = document["answers"], document["by"]
    most = max((len(answer["candidates"]) for answer in answers), default=0)
    header = (by, "new", "list of 95 %", *map(str, range(1, most + 1)))
    rows = tuple(_row(answer, by, most) for answer in answers[:SHOWN])
    optional = tuple(map(str, range(most, 2, -1)))
    grid = Grid(f"{document['run']} on {len(answers)} {by}(s)", header, rows, optional=optional)
    more = len(answers) - SHOWN
    hidden = [Text(f"And {more} more: --out FILE.csv has all.", style="dim")] if more > 0 else []
    notes = [Text(note, style="dim") for note in (LEGEND, *document["notes"])]
    return Group(FittedGrid(grid), *hidden, *notes, *warning_lines(document["problems"]))


def _row(answer: dict[str, Any], by: str, most: int) -> tuple[str, ...]:
    size = "–" if answer["set"] is None else str(len(answer["set"]))
    cells = [f"{each['candidate']} {_share(each['probability'])}" for each in answer["candidates"]]
    return answer[by], _share(answer["new"]), size, *cells, *[""] * (most - len(cells))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def gallery_report(document: dict[str, Any]) -> Group:
    """What `rich` prints of a gallery that photos joined."""
    new = document["new_individuals"]
    facts = {name: document[name] for name in ("name", "run", "after", "photos")}
    facts |= {"new individuals": f"{len(new)}: {', '.join(new[:5])}" if new else "none"}
    ask = Text(f"Next: whalebench predict {document['name']} PHOTO...", style="dim")
    return Group(facts_table(facts, "Gallery"), Text(document["said"], style="dim"), ask)
