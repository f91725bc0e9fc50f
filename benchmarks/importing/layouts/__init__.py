"""Layouts: how people keep their photos, each brought into the form of the catalog's table."""

from whalebench import WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.importing.layouts import (
    camtrap,
    coco,
    folder,
    happywhale,
    humpback,
    right_whale,
    table,
    wildlife,
)
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions

__all__ = [
    "LAYOUTS",
    "LaidOut",
    "Layout",
    "LayoutOptions",
    "find_layout",
]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        folder.LAYOUT,
        table.CSV,
        table.TSV,
        table.PARQUET,
        coco.LAYOUT,
        wildlife.LAYOUT,
        camtrap.LAYOUT,
        humpback.LAYOUT,
        happywhale.LAYOUT,
        right_whale.LAYOUT,
    )
}
"""All layouts by name, in the order of `whalebench data import --help`."""


def find_layout(name: str) -> Layout:
    """The layout of that name; raises WhalebenchError where there is none."""
    if name not in LAYOUTS:
        hint = did_you_mean(name, LAYOUTS, f"there are {', '.join(LAYOUTS)}.")
        raise WhalebenchError(f"There is no layout '{one_line(name, 60)}': {hint}")
    return LAYOUTS[name]
