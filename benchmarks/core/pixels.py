"""What an opened photo shows: upright, with 8 bits a colour, in sRGB, its transparent parts on white."""

from __future__ import annotations

import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageCms
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

__all__ = ["Remark", "alpha_of", "as_seen", "lacks_data", "upright", "upright_size"]

Remark = Literal["transparent", "deep", "profile", "odd profile", "lost"]
"""What was found in a photo that one would not see of its pixels."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
WHITE = (255, 255, 255)
"""Stands where a photo is transparent, as on the page of a browser; what hides there is not to be learned."""
ALIKE = 4
"""Levels by which a profile may move a colour and still be sRGB: its many editions differ by one or two."""
LOST_ROWS, LOST = 8, 128
"""The height of a JPEG's blocks, and the value of all pixels of those whose data are missing."""
END, MORE = b"\xff\xd9", b"\x55\xaa" * 32
"""The mark at the end of a JPEG, and what may stand before it where all of the photo is there."""
ZEROS = bytes(32)
"""What a file ends in that was not written to its end."""


def orientation(image: Image.Image) -> int:
    """The EXIF orientation (1 to 8) that is still to be applied; 1 where none can be read.

    No other tag is looked at, so a photo whose other tags are damaged is turned like any other.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
        number = int(value[0] if isinstance(value, tuple | bytes) else value)
    except Exception:  # tags of any kind may stand there, and their reader may raise anything
        return 1
    return number if number in TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF orientation of a photo that need not be decoded yet."""
    width, height = image.size
    swapped = isinstance(image, TiffImageFile) and image.tag_v2.get(ORIENTATION) in SIDEWAYS  # by its reader
    return (height, width) if (orientation(image) in SIDEWAYS) != swapped else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """The photo decoded and turned by its EXIF orientation, which is not written back."""
    image.load()  # a TIFF is turned by this, and says so
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def _bits_of(image: ImageFile) -> int:
    """How many bits a colour has in the file of a photo that is not decoded yet: 8 or fewer, 12 or 16."""
    raw = [str(tile.args) for tile in image.tile]
    if any("I;12" in args for args in raw):
        return 12
    return 16 if image.mode.startswith("I") or any(";16" in args for args in raw) else 8


def as_seen(image: ImageFile) -> tuple[Image.Image, frozenset[Remark]]:
    """The photo as a viewer shows it, which `convert` makes RGB or grey, and what was found in it.

    A profile that cannot be used is passed over, as viewers do. Raises whatever its decoder raises.
    """
    found: set[Remark] = set()
    bits = _bits_of(image)
    picture = _straight(upright(image))
    if bits > 8:
        found.add("deep")
        picture = _in_eight_bits(picture, bits)
    alpha = alpha_of(picture)
    picture, remark = _in_srgb(picture)
    if remark:
        found.add(remark)
    if alpha is not None:
        found.add("transparent")
        page = Image.new("RGB", picture.size, WHITE)
        page.paste(picture.convert("RGB"), mask=alpha)
        picture = page
    return picture, frozenset(found)


def alpha_of(image: Image.Image) -> Image.Image | None:
    """How opaque the pixels are, from 0 to 255, where not all are wholly so."""
    if not image.has_transparency_data:
        return None
    alpha = _straight(image).convert("RGBA").getchannel("A")
    return None if alpha.getextrema()[0] == 255 else alpha


def _straight(image: Image.Image) -> Image.Image:
    """The picture with colours that are not multiplied by their opacity."""
    return image.convert(image.mode.upper()) if image.mode in ("La", "RGBa") else image


def lacks_data(image: Image.Image, file: Path) -> bool:
    """Whether the file of a JPEG, which is decoded but not turned, ends before the photo does.

    Its decoder says nothing where the data, or what is read as them, end with a mark or in zeros.
    """
    return _ends_in_zeros(file) or (_ends_in_grey(image) and _ends_too_early(file))


def _ends_in_zeros(file: Path) -> bool:
    """Whether a file was never written to its end, as by a copy that was cut off."""
    with file.open("rb") as opened:
        opened.seek(-len(ZEROS), os.SEEK_END)
        if opened.read() != ZEROS:
            return False
    return not file.read_bytes().rstrip(b"\0").endswith(END)  # which zeros may also follow


def _ends_in_grey(image: Image.Image) -> bool:
    """Whether the last blocks of a JPEG are the grey that lost data decode to, which may also be a wall."""
    width, height = image.size
    if image.getpixel((width - 1, height - 1)) not in (LOST, (LOST,) * 3):
        return False
    last = image.crop((0, max(0, height - LOST_ROWS), width, height))
    return all(band.getextrema() == (LOST, LOST) for band in last.split())


def _ends_too_early(file: Path) -> bool:
    """Whether a JPEG becomes another photo with more data before its end: it ended too early."""
    content = file.read_bytes()
    end = content.rfind(END)
    try:
        with (
            Image.open(io.BytesIO(content), formats=["JPEG"]) as photo,
            Image.open(io.BytesIO(content[:end] + MORE + content[end:]), formats=["JPEG"]) as longer,
        ):
            for each in (photo, longer):  # an eighth of the size tells as well, and takes no memory
                each.draft(each.mode, (each.width // 8, each.height // 8))
            return ImageChops.difference(photo, longer).getbbox() is not None
    except (OSError, SyntaxError):  # data of the wrong kind were read as the photo's
        return True


def _in_eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """The upper 8 of the bits of a grey photo, as Pillow reads them of coloured ones; it would clip grey."""
    if not image.mode.startswith("I"):
        return image
    scaled = np.asarray(image) >> (bits - 8)
    picture = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    picture.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return picture


def _in_srgb(image: Image.Image) -> tuple[Image.Image, Remark | None]:
    """The colours of the picture by sRGB, and what is to be said of its profile."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image, None
    mode = "CMYK" if image.mode == "CMYK" else "L" if image.mode in ("1", "L", "LA") else "RGB"
    transform, remark = _to_srgb(profile, mode)
    if transform is None:
        return image, remark
    return transform.apply(image.convert(mode)), remark


@lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, Remark | None]:
    """What turns pixels of the mode, by that profile, into sRGB; None where they are it, or it cannot."""
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB")
        probe = _probe(mode)
        if mode != "CMYK":
            moved = np.asarray(transform.apply(probe), np.int64) - np.asarray(probe.convert("RGB"), np.int64)
            if np.abs(moved).max() <= ALIKE:
                return None, None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "odd profile"
    return transform, "profile"


def _probe(mode: str) -> Image.Image:
    """A picture of colours from all over the mode's range."""
    levels = np.linspace(0, 255, 6).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))
