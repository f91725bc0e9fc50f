"""The words of `whalebench data import --help`: all layouts, and what each column of a table means."""

import re
from collections.abc import Sequence
from textwrap import indent

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.importing.layouts import LAYOUTS

COLUMNS = {
    "image": "the photo's own name; without a path, its file's",
    "path": "its file, seen from the table",
    "identity": "the individual; empty where it is none of the others, ? where nobody knows yet",
    "encounter": "photos taken together: no fold cuts through it",
    "date": "2024, 2024-05, 2024-05-31 or 2024-05-31T10:00; else from EXIF",
    "viewpoint": "what is seen of the animal, as left; or as the column side",
    "species": "its species",
    "mask": "a picture of its size, not black where the animal is",
    "camera": "which camera took it",
    "place": "where it was taken; encounters are of one place",
    "licence": "under which the photo may be used, as CC BY 4.0",
    "rightsholder": "whose photo it is",
    "quality": "how good it is, a word or a number",
    "duplicates": "photos known to be of one animal or picture under several names: never apart",
    "split": "train, valid or test, where the source fixes it",
    "x0, y0, x1, y1": "the animal's box in pixels; x1 and y1 are outside",
    "NAME_x, NAME_y": "a landmark in pixels, as tip_x and tip_y",
}
"""What each column of a table means."""


def read_column_names(texts: Sequence[str]) -> dict[str, str]:
    """Which column is which of the catalog's; raises WhalebenchError for what does not say it.

    >>> read_column_names(["image=Image,identity=Id", "species=Name, latin"])
    {'image': 'Image', 'identity': 'Id', 'species': 'Name, latin'}
    """
    named: dict[str, str] = {}
    for text in texts:
        for pair in re.split(r",(?=\w+=)", text):
            ours, is_pair, theirs = pair.partition("=")
            if not (ours and is_pair and theirs) or ours in named:
                why = (
                    "names it twice"
                    if ours in named
                    else "is no catalog column, =, and a column of the table"
                )
                raise WhalebenchError(
                    f"--column {one_line(text, 80)!r} {why}; write ours and yours as image=Image,identity=Id."
                )
            named[ours] = theirs
    return named


def layouts_help() -> str:
    """All layouts, each with its smallest example, and what each column means."""
    width = max(map(len, COLUMNS))
    parts = [
        f"{layout.name}: {layout.summary}\n\n{indent(layout.example.rstrip(), '    ')}\n"
        for layout in LAYOUTS.values()
    ]
    columns = [f"    {column:{width}}  {meaning}" for column, meaning in COLUMNS.items()]
    return "\n".join(
        ["Layouts\n", *parts, "Columns of a table; identity and image or path are needed\n", *columns, ""]
    )
