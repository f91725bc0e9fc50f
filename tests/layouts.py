"""What the tests of layouts share: a folder of drawn photos, and rows by their image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.sources import FolderSource

SIZE = (40, 30)
"""Width and height of a drawn photo."""


def draw(folder: Path, names: Iterable[str], size: tuple[int, int] = SIZE, turned: bool = False) -> None:
    """Photos of those names below the folder; turned ones lie on their side and say so in their EXIF."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if turned:
            exif[0x0112] = 6
        Image.new("RGB", size, (number * 40 % 256, 90, 120)).save(file, exif=exif)


def laid_out(layout: Layout, folder: Path, options: LayoutOptions | None = None) -> LaidOut:
    """What the layout reads in the folder."""
    return layout.read(FolderSource(folder), options or LayoutOptions())


def by_image(found: LaidOut) -> dict[str, dict[str, str]]:
    """The rows by their image, without empty cells; each has a place, and images are told apart."""
    assert len(found.table.rows) == len(found.table.places)
    assert all(set(row) == set(found.table.columns) for row in found.table.rows)
    rows = {row["image"]: {column: cell for column, cell in row.items() if cell} for row in found.table.rows}
    assert len(rows) == len(found.table.rows)
    return rows


def write_example(layout: Layout, folder: Path) -> None:
    """The files of a layout's example: a name at the left margin, its text indented by two blanks."""
    texts: dict[str, list[str]] = {}
    for line in layout.example.splitlines():
        if line.startswith("  "):
            texts[list(texts)[-1]].append(line[2:])
        else:
            texts[line] = []
    for name, lines in texts.items():
        if lines:
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            draw(folder, [name])
