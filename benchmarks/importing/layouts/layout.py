"""What a layout is: a name, its smallest example, and a function from the files of a source to a table.

A layout says where things stand, and nothing of whether they are right: the table that it lays out is checked
like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import TextTable

Form = Literal["", "corners", "size", "centre"]
"""What the four numbers of a box are; "" where nobody said so, and they should be corners."""


@dataclass(frozen=True)
class LayoutOptions:
    """What the user says of files that do not say it themselves."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column of a table is which of the catalog's, as {"image": "Image"}."""
    species: str = ""
    """Of all animals, where nothing else names one."""
    boxes: Form = ""
    """How the boxes of a table are written, in pixels or in shares of the photo."""


class Outline(NamedTuple):
    """A mask that a file has as an outline."""

    segmentation: Any
    """COCO's polygons or run lengths."""
    width: int
    height: int
    place: str
    """Where it stands, to name it in sentences."""


@dataclass(frozen=True)
class LaidOut:
    """The rows that a layout found, by the catalog's columns; paths and masks are names in the source."""

    table: TextTable
    notes: tuple[str, ...] = ()
    """Sentences on what was left out, and on counts that differ from the published ones."""
    dataset: str = ""
    """The public set that the photos are, where the files say so, as NOAARightWhale."""
    outlines: Mapping[str, Outline] = field(default_factory=dict)
    """What is to be drawn for the names in column mask that are no files of the source."""


@dataclass(frozen=True)
class Layout:
    """One way to keep photos, as `whalebench data import NAME PATH` takes it."""

    name: str
    summary: str
    """One line for `--help`."""
    example: str
    """The smallest files that are of this layout, as `--help` and docs/your-photos.md show them."""
    read: Callable[[Source, LayoutOptions], LaidOut]
    """Raises WhalebenchError, naming what is looked for, where the source is of another layout."""
    takes_columns: bool = False
    """Whether it reads the columns of the options; they are refused where it does not."""
    takes_boxes: bool = False
    """Whether its boxes may be in any form, as the options say; where not, they come as corners in pixels."""
