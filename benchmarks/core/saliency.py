"""Where a run looks: a map of each photo that `whalebench explain` was asked for, kept and drawn.

They stand beside the diagnosis in one file, which has a digest of itself in its header, so that no crash
between two files makes a whole one look damaged. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import DIFFERS, read_arrays, write_arrays
from whalebench.benchmarks.core.workspace import atomic_path

SALIENCY = "saliency.safetensors"
HEAT_SIZE = (60, 90)
"""Height and width of each map, over the whole photo; where a photo is a part of its file, over that part."""
FALLS, RISES = (214, 40, 24), (32, 92, 200)
"""Red where hiding costs, blue where it helps."""
HEADER, HEAT = "saliency", "heat"


class Saliency(NamedTuple):
    """Where a run looks in one photo."""

    followed: str
    """The individual whose log probability was followed: the truth, of a *new* photo the best candidate."""
    heat: NDArray[np.float16]
    """HEAT_SIZE, as it is drawn: from -1 to 1, above 0 where hiding the place costs, below where it helps."""


def write_saliency(folder: Path, maps: Mapping[str, Saliency]) -> None:
    """Writes the maps by photo into the folder of their run, in place of those that are there, whole or not
    at all."""
    photos = sorted(maps)
    followed = [maps[image].followed for image in photos]
    heats = np.zeros((len(photos), *HEAT_SIZE), np.float16)
    for place, image in enumerate(photos):
        heats[place] = maps[image].heat
    header = {"photos": photos, "followed": followed, "digest": [_digest(photos, followed, heats)]}
    with atomic_path(folder / SALIENCY) as temporary:
        write_arrays(temporary, {HEAT: heats}, HEADER, header)


def read_saliency(folder: Path) -> dict[str, Saliency]:
    """The maps of a run by photo, as far as it was explained; none for one that was not.

    Raises WhalebenchError for a file that cannot be read, or is not what was written.
    """
    file = folder / SALIENCY
    if not file.exists():
        return {}
    remedy = f"make it again with `whalebench explain {folder.name} --force`"
    arrays, header = read_arrays(file, [HEAT], HEADER, remedy)
    try:
        photos, followed, heats = header["photos"], header["followed"], arrays[HEAT]
        whole = header["digest"] == [_digest(photos, followed, heats)]
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise WhalebenchError(f"{file} {DIFFERS}: {remedy}.")
    maps = map(Saliency, followed, heats)
    return dict(zip(photos, maps, strict=True))


def _digest(photos: list[str], followed: list[str], heats: NDArray[np.float16]) -> str:
    said = json.dumps([photos, followed, heats.shape, str(heats.dtype)])
    return hashlib.sha256(said.encode() + heats.tobytes()).hexdigest()


def heated(pixels: NDArray[np.uint8], heat: NDArray[Any]) -> NDArray[np.uint8]:
    """The photo (height, width, 3) in grey under its heat: the stronger the colour, the more hiding does.

    The heat is of any one size, over the whole photo; the farthest from zero of its values is full colour.
    """
    high, wide = pixels.shape[:2]
    smooth = Image.fromarray(strength(heat)).resize((wide, high), Image.Resampling.BILINEAR)
    strong = np.asarray(smooth)[:, :, None]
    grey = pixels.mean(axis=2, keepdims=True)
    colour = np.where(strong > 0, FALLS, RISES)
    mixed = grey + (colour - grey) * 0.8 * np.abs(strong)
    return np.broadcast_to(mixed, pixels.shape).round().astype(np.uint8)


def strength(heat: NDArray[Any]) -> NDArray[np.float32]:
    """The heat as it is drawn: from -1 to 1, the farthest from zero of its values 1 or -1.

    >>> strength(np.array([[0.5, -2.0]])).tolist()
    [[0.25, -1.0]]
    """
    values = np.asarray(heat, np.float32)
    drawn: NDArray[np.float32] = values / max(float(np.abs(values).max()), 1e-9)
    return drawn
