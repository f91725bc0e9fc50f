"""Whether a file is a photo that can be used: it is really decoded, once, before anything depends on it."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from whalebench.benchmarks.verification import Stamp, take_stamp
from whalebench.benchmarks.workspace import digest_file

MAX_PIXELS = 300_000_000
"""A photo with more pixels is taken for a decompression bomb."""

# Named, since some other formats that Pillow opens start a helper program.
FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
REASONS: dict[type[Exception], str] = {
    FileNotFoundError: "the file is absent",
    UnidentifiedImageError: "it is not an image of a known format (HEIC and raw files: export them as JPEG)",
    Image.DecompressionBombError: "it has more pixels than the limit (a decompression bomb)",
    MemoryError: "it does not fit into memory",
}
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class PhotoFacts:
    """What the catalog holds of a photo's file; width and height are those after its EXIF orientation."""

    stamp: Stamp
    width: int
    height: int

    @property
    def digest(self) -> str:
        """The SHA-256 of the file's bytes."""
        return self.stamp[0]


def inspect_photos(
    paths: Sequence[Path],
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> list[PhotoFacts | str]:
    """For each path the facts of the decoded photo, or the reason why it cannot be used.

    The photos are decoded by a thread for each core; `progress` is told how many are done, of how many.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    found: list[PhotoFacts | str] = []
    try:
        with pixel_limit(max_pixels):
            for facts in pool.map(_inspect, paths):
                found.append(facts)
                if progress is not None:
                    progress(len(found), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for thousands of photos
    return found


def photo_sizes(paths: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> list[tuple[int, int] | None]:
    """For each path width and height after EXIF orientation, from the header only; None where unreadable."""
    with pixel_limit(max_pixels), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_header_size, paths))


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        with open_photo(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION) in SIDEWAYS else (width, height)
    except Exception:  # what is wrong with it is for `_inspect` to say
        return None


def _inspect(path: Path) -> PhotoFacts | str:
    try:
        stamp = take_stamp(path)  # before reading, so that a later change cannot go unnoticed
        if not stamp[1]:
            return "the file is empty"
        with open_photo(path) as image:
            if image.mode not in MODES:
                return f"its pixels are of the kind {image.mode}, not of 8 bits; convert it to an 8-bit photo"
            image.load()
            width, height = ImageOps.exif_transpose(image).size
        return PhotoFacts((digest_file(path), *stamp[1:]), width, height)
    except Exception as error:  # a decoder fed with broken bytes may raise anything
        known = [reason for kind, reason in REASONS.items() if isinstance(error, kind)]
        detail = " ".join(str(error).split()) or type(error).__name__
        return known[0] if known else f"it cannot be decoded ({detail})"


def open_photo(path: Path) -> Image.Image:
    """The photo, opened and not yet decoded, by Pillow's decoders for photos and no others."""
    Image.init()
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Pillow refuses more than `max_pixels` inside the block, without its warnings below that."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)  # Pillow warns above this and refuses above twice this
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
