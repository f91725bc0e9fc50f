"""What a run's score is owed to, in a few lines."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from whalebench.benchmarks.record import Diagnosis
from whalebench.reports.listing import facts_table, table_of
from whalebench.reports.wording import UNDEFINED, number

NAMES = {
    "test": "as they are",
    "annotated": "those with an annotated animal",
    "without_background": "without background",
    "without_animal": "without the animal",
    "mirrored": "mirrored",
}


def explain_report(run: str, diagnosis: Diagnosis, shown: Sequence[dict[str, Any]], picture: str) -> Group:
    """What `rich` prints of an explanation: the score on altered photos, the photos shown, the picture."""
    rows = [
        {"test photos": name, "MAP@5": _cell(diagnosis.map_at_5, key), "chance": _cell(diagnosis.chance, key)}
        for key, name in NAMES.items()
        if key != "annotated" or diagnosis.photos.get("none")  # else they are all the test photos
    ]
    photos = [
        {
            "photo": row["image"],
            "truth": row["truth"],
            "rank": row["rank"],
            "largest drop": number(row["largest_drop"], 2),
            "on the animal": _percent(row["on_animal"]),
            "animal": _percent(row["animal"]),
        }
        for row in shown
    ]
    counts = ", ".join(f"{kind} {count}" for kind, count in diagnosis.photos.items() if count)
    notes = [Text(f"! {diagnosis.reason}", style="yellow")] if diagnosis.reason else []
    hint = "Without the animal the score should be at chance, or the background gives the individual away."
    return Group(
        table_of(rows, f"{run}: MAP@5 on altered test photos"),
        facts_table({"photos": counts, "picture": picture}),
        *notes,
        table_of(photos, "Where it looks: what hiding a part costs, in nats"),
        Text(hint, style="dim"),
    )


def _cell(values: dict[str, float | None], key: str) -> str:
    value = values.get(key)
    return UNDEFINED if value is None else number(value)


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.0%}"
