"""What the tests of layouts share: a folder of drawn photos, and rows by their image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from whalebench import WhalebenchError
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


def refusal(layout: Layout, folder: Path, options: LayoutOptions | None = None) -> str:
    """Why the layout does not read the folder: one sentence."""
    with pytest.raises(WhalebenchError) as raised:
        laid_out(layout, folder, options)
    assert len(str(raised.value)) - len(str(folder)) <= 300
    return str(raised.value)


def read_files(
    layout: Layout, folder: Path, files: Mapping[str, str], columns: Mapping[str, str] | None = None
) -> LaidOut:
    """What the layout makes of text files, and of photos of 100x50 pixels where a name ends like one."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".jpg":
            Image.new("RGB", (100, 50)).save(file)
        else:
            file.write_text(text, encoding="utf-8")
    return laid_out(layout, folder, LayoutOptions(columns or {}))


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
