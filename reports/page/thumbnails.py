"""Thumbnails of the photos on a page: made once, kept by content, each carried once, all of them under a cap.

They are WebP, as good as a JPEG of half as many bytes again (on `flukes` 1.8 and 2.6 KB for 36.4 dB).
They hold pixels in sRGB and nothing else of the file: not when, nor where it was taken.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.arrays import blocks
from whalebench.benchmarks.core.catalog import Region
from whalebench.benchmarks.core.files import digest_file, digest_text, regular_file
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.saliency import heated
from whalebench.benchmarks.core.store import MAX_PIXELS, pixel_limit, read_photo, why_unread
from whalebench.benchmarks.core.workspace import atomic_path

RULE = 1
"""Part of every key: raise it when pictures are made otherwise, and old ones are never read again."""
SIDE = 160
"""The longest side of a thumbnail, in pixels."""
MOST_BYTES = 6_000
"""Of a thumbnail; its quality is lowered until it fits."""
QUALITIES = (75, 60, 45, 30, 15, 5)
LIMIT = 15_000_000
"""Characters of all pictures of a page, as it holds them: base64, four for three bytes."""
BATCH = 256
"""Thumbnails that are kept together in one file, which is called by its digest."""
KEPT = ".parquet"
CHANGED = "its file is no longer the one that was catalogued"


class Window(NamedTuple):
    """Through which a method saw a photo."""

    matrix: tuple[float, ...]
    """Six numbers, row by row: from the unit square of what it saw to shares of the photo's sides."""
    size: tuple[int, int]
    """Height and width of what it saw, in pixels."""


@dataclass(frozen=True, eq=False)
class View:
    """What a picture shows: a photo as it is, through a window, or under a heat."""

    image: str
    path: str
    content: str
    """Digest of the photo's pixels."""
    file_digest: str
    region: Region | None = None
    """The part of its file that it is, where it is no whole one."""
    window: Window | None = None
    heat: NDArray[np.float16] | None = None
    """(height, width) of any one size, over the whole photo, -1 to 1: what hiding a place costs."""

    @cached_property
    def key(self) -> str:
        """What it shows, and how pictures are made: the same for the same picture."""
        heat = None if self.heat is None else hashlib.sha256(np.ascontiguousarray(self.heat)).hexdigest()
        shown = [self.content or self.file_digest, self.region, self.window, heat]
        return "p" + digest_text(json.dumps([RULE, SIDE, MOST_BYTES, *shown]))[:15]


class Thumbnail(NamedTuple):
    """A small picture."""

    data: bytes
    """WebP."""
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The picture as the source of an image on a page."""
        return "data:image/webp;base64," + base64.b64encode(self.data).decode("ascii")

    @property
    def size(self) -> int:
        """How many characters it takes on a page."""
        return -(-len(self.data) // 3) * 4


@dataclass
class Album:
    """The pictures of one page: asked for by what they show, then made all at once, then looked up by key."""

    cache: Path
    """The workspace's folder of what can be made again; nothing is kept where it cannot be written."""
    limit: int = LIMIT
    progress: Progress = SILENT
    pictures: dict[str, Thumbnail] = field(default_factory=dict)
    """By key, those that the page carries."""
    unread: dict[str, str] = field(default_factory=dict)
    """By key of those that cannot be shown, why: a part of a sentence."""
    left_out: int = 0
    """Pictures that the cap leaves out."""
    _asked: dict[str, tuple[int, View]] = field(default_factory=dict)

    def ask(self, view: View, place: int = 0) -> str:
        """The key of a picture that is wanted; where the cap leaves some out, those of the last places."""
        first = min(place, self._asked.get(view.key, (place, view))[0])
        self._asked[view.key] = first, view
        return view.key

    def get(self, key: str) -> Thumbnail | None:
        """The picture; None where it cannot be shown, or the cap leaves it out."""
        return self.pictures.get(key)

    def reason(self, key: str) -> str:
        """Why there is no picture, a part of a sentence; empty where there is one, or none was asked for."""
        is_left_out = key in self._asked and key not in self.pictures
        return self.unread.get(key, "the page carries no more pictures" if is_left_out else "")

    @property
    def bytes(self) -> int:
        """How many characters all pictures take on the page."""
        return sum(picture.size for picture in self.pictures.values())

    def make(self) -> None:
        """Reads the pictures that are kept and makes the others, as many as the page may carry."""
        order = [view for _, view in sorted(self._asked.values(), key=lambda asked: asked[0])]
        folder, used = self.cache / "thumbnails", 0
        kept = _read_kept(folder, set(self._asked))
        self.progress.stage("thumbnails")
        for part in blocks(len(order), BATCH):
            views = order[part]
            kept |= _make(folder, [view for view in views if view.key not in kept])
            for view in views:
                one = kept[view.key]
                if isinstance(one, str):
                    self.unread[view.key] = one
                elif (used := used + one.size) <= self.limit:
                    self.pictures[view.key] = one
            self.progress.advance(min(part.stop, len(order)), len(order))
            if used > self.limit:  # the rest need not even be made
                break
        self.left_out = len(order) - len(self.pictures) - len(self.unread)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a page has to say of pictures that it lacks."""
        said = []
        if self.left_out:
            said.append(
                f"{self.left_out} pictures are left out, since a page carries no more than "
                f"{self.limit / 1e6:.3g} MB of them: ask for fewer, or for the page of one run."
            )
        for key, reason in list(self.unread.items())[:1]:
            photos = "1 picture" if len(self.unread) == 1 else f"{len(self.unread)} pictures"
            said.append(
                f"{photos} cannot be shown, the first of photo {one_line(self._asked[key][1].image, 60)}: "
                f"{reason}."
            )
        return tuple(said)


COLUMNS = ("key", *Thumbnail._fields)
"""Of a file of kept pictures."""
Made = dict[str, Thumbnail | str]
"""By key a picture, or why there is none."""


def _read_kept(folder: Path, wanted: Container[str]) -> Made:
    """Those of the wanted pictures that are kept; a file that is not what was written is removed."""
    kept: Made = {}
    for file in sorted(folder.glob(f"*{KEPT}")):
        try:
            content = regular_file(file).read_bytes()
            if hashlib.sha256(content).hexdigest() != file.name.removesuffix(KEPT):
                file.unlink()
                continue
            table = pd.read_parquet(io.BytesIO(content))
            for key, *one in zip(*(table[name].tolist() for name in COLUMNS), strict=True):
                if key in wanted:
                    kept[key] = Thumbnail(*one)
        except (OSError, WhalebenchError):  # as where another process removes it: they are made again
            continue
    return kept


def _make(folder: Path, views: Sequence[View]) -> Made:
    """The pictures, which are then kept together, or reasons why there are none."""
    # Pillow lets go of the interpreter lock while it decodes, so threads are enough.
    with pixel_limit(MAX_PIXELS), ThreadPoolExecutor(cores()) as pool:
        made: Made = dict(zip((view.key for view in views), pool.map(_thumbnail, views), strict=True))
    rows = [(key, *one) for key, one in made.items() if isinstance(one, Thumbnail)]
    if rows:
        written = io.BytesIO()
        pd.DataFrame(rows, columns=COLUMNS).to_parquet(written, index=False)
        content = written.getvalue()
        name = hashlib.sha256(content).hexdigest() + KEPT  # by which a damaged file is known
        with suppress(WhalebenchError), atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    return made


def _thumbnail(view: View) -> Thumbnail | str:
    try:
        if view.file_digest and digest_file(regular_file(Path(view.path))) != view.file_digest:
            return CHANGED
        picture = _seen(view)
    except Exception as error:  # a decoder fed with broken bytes may raise anything
        return why_unread(error)
    return _written(picture)


def _seen(view: View) -> Image.Image:
    """What the view shows, its longest side at most SIDE; raises what a decoder raises."""
    window = view.window
    if window is None:
        photo = read_photo(Path(view.path), "RGB", (2 * SIDE, 2 * SIDE), view.region)
        photo.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return photo if view.heat is None else Image.fromarray(heated(np.asarray(photo), view.heat))
    a, b, _, d, e, _ = window.matrix
    share = max(
        0.05, min(np.hypot(a, d), np.hypot(b, e))
    )  # of the photo, to be decoded no larger than needed
    least = math.ceil(2 * SIDE / share)
    return through(read_photo(Path(view.path), "RGB", (least, least), view.region), window)


def through(photo: Image.Image, window: Window) -> Image.Image:
    """What a method saw of a photo, at most as large as it saw it; where that has ended its mirror image."""
    high, wide = window.size
    scale = min(1.0, SIDE / max(high, wide))
    high, wide = max(1, round(high * scale)), max(1, round(wide * scale))
    to_shares = np.array(window.matrix).reshape(2, 3) / [wide, high, 1]
    steps = np.hypot(*to_shares[:, :2].T) * photo.size  # pixels of the photo for one of the picture
    small = np.maximum(1, np.round(photo.size / np.maximum(1, steps))).astype(int)
    photo = photo.resize(tuple(small.tolist()), Image.Resampling.BICUBIC, reducing_gap=3.0)
    to_pixels = to_shares * small[:, None]
    corners = to_pixels @ np.array([[0, wide, 0, wide], [0, 0, high, high], [1, 1, 1, 1]])
    beyond = np.maximum(-corners.min(axis=1), corners.max(axis=1) - small)
    margin = np.clip(np.ceil(beyond) + 2, 0, 2 * small).astype(int)  # a window far outside sees black
    padded = np.pad(np.asarray(photo), [(margin[1],) * 2, (margin[0],) * 2, (0, 0)], "symmetric")
    to_pixels[:, 2] += margin
    return Image.fromarray(padded).transform(
        (wide, high), Image.Transform.AFFINE, tuple(to_pixels.ravel().tolist()), Image.Resampling.BICUBIC
    )


def _written(picture: Image.Image) -> Thumbnail:
    """The picture as WebP of at most MOST_BYTES, as good as fits, with nothing else that its file held."""
    picture.info.clear()  # older Pillows write a profile that stands there along
    for quality in QUALITIES:
        written = io.BytesIO()
        picture.save(written, "WEBP", quality=quality)
        if written.tell() <= MOST_BYTES:
            return Thumbnail(written.getvalue(), *picture.size)
    return _written(picture.reduce(2))
