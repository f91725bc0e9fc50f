"""What a mask means, whichever program wrote it, 255 on the animal and 0 elsewhere; how well two agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whalebench.benchmarks.core.pixels import alpha_of, upright

__all__ = ["MaskRemark", "mask_iou", "mask_precision", "read_mask"]

MaskRemark = Literal[
    "values", "scaled", "colours", "palette", "alpha", "empty", "full", "inside out", "unclear"
]
"""How a mask was read, where it is not of 0 to 255, and what is odd about it."""

Values = NDArray[Any]
Bytes = NDArray[np.uint8]
BRIGHT = 128
"""From which value on a pixel is the animal's."""
AGREE = 0.5
"""Intersection over union from which the masks in colours and in opacity of one picture are the same."""
SMALL = 16
"""Side of the small picture in which a mask's border and centre are looked at."""


TWENTIETHS = np.arange(10, 20)
"""The thresholds 0.5, 0.55 ... 0.95 of intersection over union, in twentieths, which are exact."""


def mask_iou(found: Values, truth: Values) -> NDArray[np.float64]:
    """Intersection over union (photos,) of masks (photos, height, width), True on the animal.

    NaN where both are empty.

    >>> mask_iou(np.array([[[True, True, False]]]), np.array([[[False, True, True]]])).round(3)
    array([0.333])
    """
    shared, united = _shared_and_united(found, truth)
    return np.asarray(shared / np.where(united, united, np.nan), np.float64)


def mask_precision(found: Values, truth: Values) -> NDArray[np.float64]:
    """The share (photos,) of the thresholds 0.5, 0.55 ... 0.95 that the masks' IoU exceeds.

    Its mean over photos is the mean precision of the TGS Salt challenge of 2018: an empty mask is right where
    there is nothing, and anything else is wrong there. Masks (photos, height, width) are True on the animal.

    >>> mask_precision(np.array([[[True, True, False]]]), np.array([[[True, True, True]]]))  # IoU 0.667
    array([0.4])
    """
    shared, united = _shared_and_united(found, truth)
    exceeded = 20 * shared[:, None] > TWENTIETHS * united[:, None]
    return np.where(united > 0, exceeded.mean(axis=1), 1.0)


def _shared_and_united(found: Values, truth: Values) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pixels (photos,) are animal in both masks, and in one at least."""
    return (found & truth).sum(axis=(1, 2)), (found | truth).sum(axis=(1, 2))


@dataclass(frozen=True)
class _Read:
    """A mask as it was read, and how."""

    values: Bytes
    how: MaskRemark | None = None


def read_mask(image: Image.Image) -> tuple[Image.Image, frozenset[MaskRemark]]:
    """The mask upright in mode L, and what is to be said of it; one that is unclear is its grey.

    Of two values, indices of a palette or colours, 0 or black is the background; shades must reach half of
    their range; where some of it is transparent, what is opaque is the animal. Anything else is unclear.
    """
    picture = upright(image)
    read = _meaning(picture)
    if read is None:
        return picture.convert("L"), frozenset({"unclear"})
    remarks = (read.how, _oddity(read.values))
    return Image.fromarray(read.values), frozenset(remark for remark in remarks if remark)


def _meaning(picture: Image.Image) -> _Read | None:
    """The mask in a picture; None where it cannot be told."""
    opaque = alpha_of(picture)
    coloured = _of_colours(picture)
    if opaque is None:
        return coloured
    alpha = np.asarray(opaque)
    if 0 < alpha.min() == alpha.max():  # which says nothing
        return coloured
    read = _of_shades(alpha)
    if read is None or (coloured is not None and _differ(coloured.values, read.values)):
        return None
    return _Read(read.values, "alpha")


def _of_colours(picture: Image.Image) -> _Read | None:
    if picture.mode in ("P", "PA"):
        return _of_palette(picture)
    if picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I"):
        return _of_shades(np.asarray(picture if len(picture.getbands()) == 1 else picture.getchannel("L")))
    coloured = picture.convert("RGB")
    pixels = np.asarray(coloured)
    if (pixels == pixels[..., :1]).all():
        return _of_shades(pixels[..., 0])
    colours = coloured.getcolors(2) or ()
    if not any(colour == (0, 0, 0) for _, colour in colours) and len(colours) != 1:
        return None  # several colours, of which nobody says which is the animal's
    return _Read(_white(pixels.max(2) > 0), "colours")


def _of_palette(picture: Image.Image) -> _Read | None:
    indices = np.asarray(picture.getchannel(0))
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    palette = np.zeros((256, 3), np.uint8)
    colours = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    palette[: len(colours)] = colours
    shown = palette[used]
    black = palette.max(1) == 0
    if len(used) > 2:
        grey = (shown == shown[:, :1]).all()
        return _of_shades(palette[indices][..., 0]) if grey else None
    if black[used].any() and not black[used].all():  # by the colours, which may be another way round
        return _Read(_white(~black[indices]), "palette")
    return _Read(_white(indices > 0), "palette") if len(used) == 1 or 0 in used else None


def _of_shades(values: Values) -> _Read | None:
    if values.dtype == np.bool_:
        return _Read(_white(values))
    top = values.max()
    if not np.isfinite(values).all() or values.min() < 0:
        return None
    if ((values == 0) | (values == top)).all():
        usual = top in (0, 255) and values.dtype == np.uint8
        return _Read(_white(values > 0), None if usual else "values")
    if values.dtype == np.uint8:
        return _Read(values) if top >= BRIGHT else None
    whole = 1 if values.dtype.kind == "f" and top <= 1 else 255 if top <= 255 else 65535
    scaled = np.rint(values / whole * 255)
    return _Read(scaled.astype(np.uint8), "scaled") if BRIGHT <= scaled.max() <= 255 else None


def _white(animal: NDArray[np.bool_]) -> Bytes:
    return np.where(animal, np.uint8(255), np.uint8(0))


def _differ(coloured: Bytes, opaque: Bytes) -> bool:
    """Whether colours of black and one other are a mask of their own, another than the opacity."""
    if not (coloured % 255 == 0).all() or coloured.min() == coloured.max():
        return False
    one, other = coloured >= BRIGHT, opaque >= BRIGHT
    return bool((one & other).sum() < AGREE * (one | other).sum())


def _oddity(mask: Bytes) -> MaskRemark | None:
    """Whether the mask has no animal, nothing else, or covers the border more than the centre."""
    if mask.max() < BRIGHT:
        return "empty"
    if mask.min() >= BRIGHT:
        return "full"
    animal = Image.fromarray(_white(mask >= BRIGHT))
    small = np.asarray(animal.resize((SMALL, SMALL), Image.Resampling.BOX), np.float64) / 255
    quarter = SMALL // 4
    centre = small[quarter:-quarter, quarter:-quarter].mean()
    border = np.concatenate([small[[0, -1]].ravel(), small[1:-1, [0, -1]].ravel()]).mean()
    return "inside out" if border > max(centre, 0.5) else None
