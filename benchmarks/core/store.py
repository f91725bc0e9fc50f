"""Photos read from their files: checked once before anything depends on them, decoded once for each size.

The decoded photos of a size are one memory-mapped uint8 array, keyed by the content of the photos. Its file
ends in a digest of all before it; one that differs from its digest is decoded again. Beside it stands what it
is keyed by, so that a photo that another array has already, as when a catalog grows, is taken from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import Region, Stamp, take_stamp
from whalebench.benchmarks.core.exif import date_taken
from whalebench.benchmarks.core.files import digest_file, digest_once, digest_text, file_state, regular_file
from whalebench.benchmarks.core.machine import refuse_full_disk
from whalebench.benchmarks.core.masks import MaskRemark, read_mask
from whalebench.benchmarks.core.pixels import Remark, as_seen, lacks_data, upright, upright_size
from whalebench.benchmarks.core.workspace import atomic_path, atomic_text

MAX_PIXELS = 300_000_000
"""A photo with more pixels is taken for a decompression bomb."""

# Named, since some other formats that Pillow opens start a helper program.
FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
JPEGS = ("JPEG", "MPO")
LATER_MODES = frozenset({"I;16", "I;16B", "I;16L", "La"})
"""Modes that are read since STORE_VERSION 2: grey of 16 bits, and grey that is multiplied by its opacity."""
REASONS: dict[type[Exception], str] = {
    FileNotFoundError: "the file is absent",
    UnidentifiedImageError: "it is not an image of a known format (HEIC and raw files: export them as JPEG)",
    Image.DecompressionBombError: "it has more pixels than the limit (a decompression bomb)",
    MemoryError: "it does not fit into memory",
}
STRIPE = 256
"""Rows of a photo that are digested at a time."""
BLOCK = 1 << 24
"""Bytes of an array that are digested at a time, each by one of several threads."""
DIGEST_SIZE = 32
STORE_VERSION = 2
"""Part of every key: raise it when the decoding changes, and old arrays are never read again."""

Size = tuple[int, int]
"""Height and width in pixels."""
Content = tuple[str, Region | None]
"""SHA-256 of the file of a photo or mask, "" for none, and the part of the file that it is."""
Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Advance = Callable[[int, int], None]
"""Called with how many photos are done, of how many."""
AnyRemark = Remark | MaskRemark
REREAD: frozenset[AnyRemark] = frozenset(("transparent", "profile", "values", "colours", "palette", "alpha"))
"""What has other pixels than before STORE_VERSION 2, when it was taken as its bytes are."""


@dataclass(frozen=True)
class PhotoStore:
    """The photos of one catalog, in its order, at any size; rows are photos."""

    cache: Path
    """Folder of the arrays; safe to delete at any time."""
    paths: tuple[str, ...]
    """The photos' files."""
    digests: tuple[str, ...]
    """SHA-256 of each photo's file: what the arrays are keyed by."""
    mask_paths: tuple[str, ...]
    """The masks' files, "" where a photo has none."""
    regions: tuple[Region | None, ...] = ()
    """The part of its file that each photo is, and of its mask; None for a whole one, () where all are."""
    tell: Callable[[str], None] = field(default=lambda _: None, compare=False, repr=False)
    """Is told where an array that was kept cannot be used, as the stage of a `Progress`."""
    failed: Callable[[int, str], None] | None = field(default=None, compare=False, repr=False)
    """Is told the row of a photo that cannot be decoded, and why; the photo is black then. None: an error."""
    _open: dict[tuple[str, tuple[int, ...]], NDArray[np.uint8]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Arrays mapped so far."""

    def pixels(self, size: Size, progress: Advance | None = None, workers: int = 2) -> NDArray[np.uint8]:
        """Array (photos, height, width, 3), RGB, memory-mapped and read-only; decoded on the first call."""
        return self._array("photos", (*size, 3), progress, workers)

    def masks(self, size: Size, progress: Advance | None = None, workers: int = 2) -> NDArray[np.uint8]:
        """Array (photos, height, width), 255 on the animal, 0 elsewhere and where a photo has no mask."""
        return self._array("masks", size, progress, workers)

    def read(self, rows: Rows, size: Size) -> Pixels:
        """The photos at some rows (photos, height, width, 3), a copy."""
        return self.pixels(size)[rows]

    def read_masks(self, rows: Rows, size: Size) -> Pixels:
        """Their masks (photos, height, width), a copy."""
        return self.masks(size)[rows]

    def undecoded(self, size: Size) -> int:
        """How many bytes `pixels` of that size will add to the cache."""
        return 0 if self._file("photos", (*size, 3)).exists() else len(self.paths) * 3 * math.prod(size)

    def without_masks_of(self, rows: Rows) -> PhotoStore:
        """The same photos, those of some rows without masks."""
        hidden = set(rows.tolist())
        masks = tuple("" if row in hidden else path for row, path in enumerate(self.mask_paths))
        return replace(self, mask_paths=masks, _open={})

    def _array(
        self, kind: str, shape: tuple[int, ...], progress: Advance | None, workers: int
    ) -> NDArray[np.uint8]:
        if (kind, shape) in self._open:
            return self._open[kind, shape]
        file = self._file(kind, shape)
        kept = file.exists()
        if kept and not _is_as_written(file, *file_state(file)):
            self.tell(f"decode, {file.name} differs from its digest, or has none, and is decoded again")
            kept = False
        if not kept:
            self.cache.mkdir(parents=True, exist_ok=True)
            # Renamed when the last photo is in, so an array that exists was written to its end.
            with atomic_path(file) as temporary:
                paths = self.mask_paths if kind == "masks" else self.paths
                kept_rows = self._kept_rows(kind, shape)
                _decode_all(temporary, paths, self._regions, shape, progress, workers, self.failed, kept_rows)
                _append_digest(temporary)
            if self.failed is None:  # else a photo may be black because its file could not be read
                atomic_text(file.with_suffix(".json"), self._key(kind, shape))
        array: NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
        self._open[kind, shape] = array
        return array

    @property
    def _regions(self) -> Sequence[Region | None]:
        return self.regions or [None] * len(self.paths)

    def _file(self, kind: str, shape: tuple[int, ...]) -> Path:
        """Where the array is, or will be."""
        key = digest_text(self._key(kind, shape))[:24]
        return self.cache / f"{kind}-{shape[0]}x{shape[1]}-{key}.npy"

    def _key(self, kind: str, shape: tuple[int, ...]) -> str:
        """All that the array is made of, as JSON."""
        masks = [digest_once(Path(path)) if path else "" for path in self.mask_paths if kind == "masks"]
        parts = [self.regions] if any(self.regions) else []
        return json.dumps([STORE_VERSION, kind, shape, self.digests, masks, *parts])

    def _kept_rows(self, kind: str, shape: tuple[int, ...]) -> dict[int, NDArray[np.uint8]]:
        """By row what other arrays of that kind and shape have of its photo or mask."""
        rows: dict[Content, list[int]] = defaultdict(list)
        for row, content in enumerate(_contents(json.loads(self._key(kind, shape)))):
            rows[content].append(row)
        found: dict[int, NDArray[np.uint8]] = {}
        for file in sorted(self.cache.glob(f"{kind}-{shape[0]}x{shape[1]}-*.json")):
            there = _contents_of(file)
            array = file.with_suffix(".npy")
            if rows.keys().isdisjoint(there) or not array.exists():
                continue
            if not _is_as_written(array, *file_state(array)):
                continue
            pixels: NDArray[np.uint8] = np.load(array, mmap_mode="r", allow_pickle=False)
            for place, content in enumerate(there):
                found |= dict.fromkeys(rows.pop(content, ()), pixels[place])
        return found


@dataclass(frozen=True)
class StoreView:
    """Some photos of a store by rows of their own: no attribute of it leads to a file or to another photo."""

    read: Callable[[Rows, Size], Pixels]
    """As `PhotoStore.read`."""
    read_masks: Callable[[Rows, Size], Pixels]
    """As `PhotoStore.read_masks`."""

    @classmethod
    def of(cls, rows: Rows, reopen: Callable[[], PhotoStore]) -> StoreView:
        """The photos at these rows of the store, which is asked for once for each size and not kept."""
        arrays: dict[tuple[str, Size], Pixels] = {}

        def whole(kind: str, size: Size) -> Pixels:
            if (kind, size) not in arrays:
                arrays[kind, size] = getattr(reopen(), kind)(size)
            return arrays[kind, size]

        return cls(
            lambda chosen, size: whole("pixels", size)[rows[chosen]],
            lambda chosen, size: whole("masks", size)[rows[chosen]],
        )


def _contents(key: Sequence[Any]) -> list[Content]:
    """By row of an array with that key, what it is made of: the digest of a file, and the part of it."""
    _, kind, _, digests, masks, *parts = key
    regions = parts[0] if parts else [None] * len(digests)
    made_of = masks if kind == "masks" else digests
    return [(digest, region and tuple(region)) for digest, region in zip(made_of, regions, strict=True)]


def _contents_of(file: Path) -> list[Content]:
    """The same of the array beside which the key stands; nothing of one that was decoded otherwise."""
    try:
        text = regular_file(file).read_text(encoding="utf-8")
        if digest_text(text)[:24] != file.stem.rpartition("-")[2]:
            return []
        key = json.loads(text)
        return _contents(key) if key[0] == STORE_VERSION else []
    except (OSError, ValueError, WhalebenchError):
        return []


def _decode_all(
    file: Path,
    paths: Sequence[str],
    regions: Sequence[Region | None],
    shape: tuple[int, ...],
    progress: Advance | None,
    workers: int,
    failed: Callable[[int, str], None] | None = None,
    kept: Mapping[int, NDArray[np.uint8]] = MappingProxyType({}),
) -> None:
    def decoded(row: int, path: str, region: Region | None) -> NDArray[np.uint8]:
        if row in kept:
            return kept[row]
        try:
            return decode(path, shape, region)
        except WhalebenchError as error:
            if failed is None:
                raise
            failed(row, why_unread(error.__cause__ if isinstance(error.__cause__, Exception) else error))
            return np.zeros(shape, np.uint8)

    size = len(paths) * math.prod(shape)
    refuse_full_disk(file.parent, size, f"Decoding {len(paths)} photos")
    # Written and not mapped: a disk that is full after all is then an error, and not the end of the process.
    with file.open("wb") as opened:
        header = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": (len(paths), *shape)}
        np.lib.format.write_array_header_1_0(opened, header)
        allocate(opened.fileno(), opened.tell() + size)
        # Pillow lets go of the interpreter lock while it decodes, so threads are enough.
        with pixel_limit(MAX_PIXELS), ThreadPoolExecutor(max_workers=workers) as pool:
            for row, pixels in enumerate(pool.map(decoded, count(), paths, regions)):
                opened.write(pixels.tobytes())
                if progress:
                    progress(row + 1, len(paths))


def allocate(descriptor: int, size: int) -> None:
    """Gives an open file so many bytes on the disk itself; OSError where there is no room for them."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def _append_digest(file: Path) -> None:
    digest = _digest_blocks(file, file.stat().st_size)
    with file.open("ab") as opened:
        opened.write(digest)


@cache
def _is_as_written(file: Path, size: int, *_: int) -> bool:
    """Whether a file ends in the digest of all before it; read once a process while it is left alone."""
    with regular_file(file).open("rb") as opened:
        opened.seek(max(size - DIGEST_SIZE, 0))
        return opened.read() == _digest_blocks(file, size - DIGEST_SIZE)


def _digest_blocks(file: Path, length: int) -> bytes:
    """A SHA-256 of those of the blocks of a file, up to a length in bytes."""

    def digest(start: int) -> bytes:
        return hashlib.sha256(os.pread(descriptor, min(BLOCK, length - start), start)).digest()

    descriptor = os.open(file, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter lock
            return hashlib.sha256(b"".join(pool.map(digest, range(0, length, BLOCK)))).digest()
    finally:
        os.close(descriptor)


def decode(path: str, shape: tuple[int, ...], region: Region | None = None) -> NDArray[np.uint8]:
    """One photo as uint8 (height, width, 3), or one mask as (height, width); the aspect is not preserved.

    Of one that is a part of its file only that part is there. A photo is as `as_seen`, a mask as `read_mask`
    gives it, resized with an antialiased bicubic filter. An empty path gives zeros. Raises WhalebenchError
    naming a file that cannot be decoded.
    """
    if not path:
        return np.zeros(shape, np.uint8)
    height, width = shape[:2]
    try:
        if len(shape) == 3:
            picture = read_photo(Path(path), "RGB", (2 * width, 2 * height), region)
        else:
            with open_photo(Path(path)) as image:
                picture = part_of(read_mask(image)[0], region)
        small = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise WhalebenchError(
            f"photo '{path}' cannot be decoded ({error}): restore the file, or import the catalog again, "
            f"which sets unreadable photos aside."
        ) from error
    return np.asarray(small, np.uint8)


def read_photo(
    path: Path,
    mode: Literal["RGB", "L"] = "RGB",
    least: tuple[int, int] | None = None,
    region: Region | None = None,
) -> Image.Image:
    """The photo, or a part of its file, as it is seen, upright, in colours or in grey.

    Raises what its decoder raises.

    Where `least`, a width and height, is given, it need only be larger than that: a JPEG can be decoded at a
    fraction of its size, so that a photo of 20 megapixels costs little more than a small one.
    """
    with open_photo(path) as image:
        if least is not None and region is None:  # whose pixels are those of the whole size
            image.draft(None if "icc_profile" in image.info else mode, least)  # a profile is of all colours
        picture, _ = as_seen(image)
    return part_of(picture, region).convert(mode)


def open_photo(path: Path) -> ImageFile:
    """The photo, opened and not yet decoded, by Pillow's decoders for photos and no others.

    Raises WhalebenchError for what is no regular file, as a named pipe that would be read for ever.
    """
    Image.init()
    image = Image.open(regular_file(path), formats=[name for name in FORMATS if name in Image.OPEN])
    xmp = image.info.get("xmp", b"")
    if not isinstance(xmp, bytes):  # of a TIFF; Pillow's search for an orientation there would fail
        image.info["xmp"] = xmp.encode() if isinstance(xmp, str) else b""
    return image


def part_of(upright: Image.Image, region: Region | None) -> Image.Image:
    """The part of an upright picture within a region, as far as it is there; the picture where it is None.

    Raises WhalebenchError where nothing of it is there.
    """
    if region is None:
        return upright
    left, top = region[:2]
    right, bottom = map(min, region[2:], upright.size)
    if left >= right or top >= bottom:
        raise WhalebenchError(
            f"its box has no pixel within the photo of {upright.width}x{upright.height} pixels"
        )
    return upright.crop((left, top, right, bottom))


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


@dataclass(frozen=True)
class PhotoFacts:
    """What the catalog holds of a photo's file, or of a part of it; width and height are those upright."""

    stamp: Stamp
    width: int
    height: int
    content: str
    """SHA-256 of what it shows: of the pixels as they are decoded here, upright and in RGB."""
    older: str
    """The same as it was before transparent parts, profiles and masks were read as what they mean; often
    `content`."""
    remarks: frozenset[AnyRemark] = frozenset()
    """What was found in it."""
    taken: str = ""
    """When it was taken, by its EXIF, see `date_taken`; "" where that does not say it."""

    @property
    def digest(self) -> str:
        """The SHA-256 of the file's bytes."""
        return self.stamp[0]


def inspect_photos(
    paths: Sequence[Path],
    regions: Sequence[Region | None] = (),
    *,
    masks: int = 0,
    max_pixels: int = MAX_PIXELS,
    progress: Advance | None = None,
    headers: bool = False,
) -> list[PhotoFacts | str]:
    """For each path the facts of the decoded photo, or the reason why it cannot be used.

    Where there are regions the photos are these parts of their files. The last `masks` paths are of masks.
    The photos are decoded by a thread for each core; of `headers` alone nothing is decoded but masks, the
    file stands for what it shows, and what is broken further on in it is not seen.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    inspected: list[PhotoFacts | str] = []
    try:
        with pixel_limit(max_pixels):
            kinds = [False] * (len(paths) - masks) + [True] * masks
            parts = regions or [None] * len(paths)
            for facts in pool.map(_inspect, paths, parts, kinds, repeat(headers)):
                inspected.append(facts)
                if progress is not None:
                    progress(len(inspected), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for thousands of photos
    return inspected


def photo_sizes(paths: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> list[tuple[int, int] | None]:
    """For each path width and height after EXIF orientation, from the header only; None where unreadable."""
    with pixel_limit(max_pixels), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_header_size, paths))


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        with open_photo(path) as image:
            return upright_size(image)
    except Exception:  # what is wrong with it is for `_inspect` to say
        return None


def _content_digest(image: Image.Image) -> str:
    """SHA-256 of size and pixels, the same for every file that shows the same photo."""
    width, height = image.size
    digest = hashlib.sha256(f"{width}x{height}\n".encode())
    for top in range(0, height, STRIPE):  # no second copy of a large photo in memory
        stripe = image.crop((0, top, width, min(top + STRIPE, height)))
        digest.update(stripe.convert("RGB").tobytes())
    return digest.hexdigest()


def _is_read(image: Image.Image, is_mask: bool) -> bool:
    """Whether pixels of the image's kind have a known range; in masks any numbers do."""
    numbers = image.mode == "F" or (image.mode == "I" and image.format != "PPM")  # which has 16 bits
    return is_mask if numbers else image.mode in MODES | LATER_MODES | {"I"}


def _inspect(path: Path, region: Region | None, is_mask: bool, headers: bool) -> PhotoFacts | str:
    try:
        stamp = take_stamp(regular_file(path))  # before reading, so that a later change cannot go unnoticed
        if not stamp[1]:
            return "the file is empty"
        with open_photo(path) as image:
            if not _is_read(image, is_mask):
                return f"its pixels are of the kind {image.mode}, not of 8 or 16 bits; convert it to 8 bits"
            if headers and not is_mask:
                return _from_header(image, region, (digest_file(path), *stamp[1:]))
            remarks: frozenset[AnyRemark]
            picture, remarks = read_mask(image) if is_mask else as_seen(image)
            if not is_mask and image.format in JPEGS and lacks_data(image, path):
                remarks |= {"lost"}
            taken = "" if is_mask else date_taken(image)
            picture = part_of(picture, region)
            content = older = _content_digest(picture)
            if image.mode in MODES and remarks & REREAD:
                older = _content_digest(part_of(upright(image), region))
        return PhotoFacts((digest_file(path), *stamp[1:]), *picture.size, content, older, remarks, taken)
    except Exception as error:  # a decoder fed with broken bytes may raise anything
        return why_unread(error)


def _from_header(image: ImageFile, region: Region | None, stamp: Stamp) -> PhotoFacts:
    """The facts of a photo of which nothing is decoded."""
    width, height = upright_size(image)
    left, top, right, bottom = region or (0, 0, width, height)
    width, height = min(right, width) - left, min(bottom, height) - top
    if width <= 0 or height <= 0:
        raise WhalebenchError(f"its box has no pixel within the photo of {image.width}x{image.height} pixels")
    return PhotoFacts(stamp, width, height, stamp[0], stamp[0], taken=date_taken(image))


def why_unread(error: Exception) -> str:
    """Why a photo cannot be read, by what its decoder raised: a part of a sentence."""
    if isinstance(error, WhalebenchError):
        return one_line(error)
    known = [reason for kind, reason in REASONS.items() if isinstance(error, kind)]
    return known[0] if known else f"it cannot be decoded ({one_line(error) or type(error).__name__})"
