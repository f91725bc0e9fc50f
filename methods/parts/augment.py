"""Augmentation of whole batches as tensors: one warp and one recolouring, drawn anew for every photo.

Boxes, landmarks and masks go through the same warp. Kornia, too, draws for every photo of a batch; these stay
because other draws would change every result. At the end mirror twins: each photo of an individual, mirrored,
is a photo of another one (Humpback 2019, 3rd).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench.benchmarks.core.photos import Batch, LabelledPhotos, Photos, Size
from whalebench.methods.parts.geometry import Outside, affine_matrices, warp

Strength = Literal["auto", "none", "light", "steady", "heavy", "turned", "shuffled"]


@dataclass(frozen=True)
class Augmentation:
    """How far a photo may be changed; every amount is drawn uniformly from minus to plus its range."""

    rotation: float = 0.0
    """Degrees."""
    shear: float = 0.0
    """Degrees."""
    scale: float = 0.0
    """Natural logarithm of the zoom."""
    stretch: float = 0.0
    """Natural logarithm of the aspect."""
    shift: float = 0.0
    """Share of the photo's size."""
    brightness: float = 0.0
    """Added, on [0, 1]."""
    contrast: float = 0.0
    """Natural logarithm of the factor."""
    saturation: float = 0.0
    """Share by which colours move towards grey or away from it."""
    channel_shift: float = 0.0
    """Added to each colour channel by its own draw."""
    grey: float = 0.0
    """Share of photos that lose their colour."""
    blur: float = 0.0
    """Share of photos that are blurred, by up to a 3 x 3 mean."""
    noise: float = 0.0
    """Largest standard deviation of the noise."""
    erase: float = 0.0
    """Share of photos of which one rectangle, 2 to 20 % of the area, is filled with one colour."""
    hflip: float = 0.0
    """Share of photos mirrored left to right."""
    vflip: float = 0.0
    """Share of photos mirrored upside down."""
    mask_dropout: float = 0.0
    """Share of photos whose fourth channel, the mask, is blanked."""
    grid_shuffle: float = 0.0
    """Share of photos whose quarters change places; positions stay, so it is of no use to learn them by."""
    outside: Outside = "reflection"
    """What is seen where the photo has ended."""


_COLOURS = Augmentation(
    brightness=0.15,
    contrast=0.35,
    saturation=0.5,
    channel_shift=0.05,
    grey=0.15,
    blur=0.3,
    noise=0.04,
    erase=0.4,
    mask_dropout=0.5,
)
_HEAVY = replace(_COLOURS, rotation=15, shear=10, scale=0.2, stretch=0.12, shift=0.1)
STRENGTHS: dict[Strength, Augmentation] = {
    "none": Augmentation(),
    "light": Augmentation(rotation=6, shear=4, scale=0.08, shift=0.04, brightness=0.08, contrast=0.12),
    "steady": replace(_COLOURS, rotation=6, shear=4, scale=0.08, shift=0.04),
    "heavy": _HEAVY,
    "turned": replace(_HEAVY, rotation=180, erase=0.0),
    "shuffled": replace(_HEAVY, grid_shuffle=0.28),
}
"""By the name that is typed; auto is resolved by who asks."""


def augment(
    batch: Batch,
    by: Augmentation,
    generator: torch.Generator,
    among: int | None = None,
    part: slice = slice(None),
) -> Batch:
    """The batch with every photo changed by its own draw; labels stay, positions move with the pixels.

    The generator lives on the CPU whatever the batch's device, so that a seed means the same draw on every
    machine. Where the batch is a part of so many photos among which it is learned from, it is drawn for all.
    """
    if by == Augmentation(outside=by.outside):
        return batch
    draw = _Draw(among or len(batch.pixels), part, generator, batch.pixels.device)
    height, width = batch.pixels.shape[-2:]
    moved = warp(batch, _affine(by, draw, width / height), outside=by.outside)
    moved = replace(moved, pixels=_shuffle(moved.pixels, by, draw))
    colour, mask = moved.pixels[:, :3], moved.pixels[:, 3:]
    colour = _erase(_recolour(colour, by, draw), by, draw)
    if mask.shape[1]:
        hidden = draw.happens(by.mask_dropout)[:, None, None, None]
        colour = torch.cat([colour, mask.masked_fill(hidden, 0.0)], dim=1)
    return replace(moved, pixels=colour)


class _Draw:
    """Uniform draws, one a photo, from a CPU generator: for so many photos, of which a part is kept."""

    def __init__(self, count: int, part: slice, generator: torch.Generator, device: torch.device) -> None:
        self.count, self.part, self.generator, self.device = count, part, generator, device

    def drawn(self, *shape: int) -> Tensor:
        """From 0 to 1, on the CPU."""
        return torch.rand(self.count, *shape, generator=self.generator)[self.part]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * self.drawn(*shape)).to(self.device)

    def normal(self, shape: torch.Size) -> Tensor:
        """Standard normal draws, one a pixel; an accelerator draws so many itself, from a seed drawn here."""
        shape = torch.Size((self.count, *shape[1:]))
        if self.device.type == "cpu":
            return torch.randn(shape, generator=self.generator)[self.part]
        seed = int(torch.randint(2**31, (), generator=self.generator))
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device)[self.part]

    def within(self, amount: float, *shape: int) -> Tensor:
        return self.uniform(-amount, amount, *shape)

    def happens(self, share: float) -> Tensor:
        return self.uniform(0.0, 1.0) < share

    def places(self, share: float) -> Tensor:
        """Places in the batch of the photos that a share is drawn of; no accelerator is waited for."""
        return (self.drawn() < share).nonzero()[:, 0].to(self.device)


def _affine(by: Augmentation, draw: _Draw, aspect: float) -> Tensor:
    """(photos, 2, 3) for a frame of this width to height: scale and stretch, shear, rotation, then shift."""
    angle, shear = draw.within(math.radians(by.rotation)), draw.within(math.radians(by.shear))
    zoom, stretch = draw.within(by.scale), draw.within(by.stretch)
    across, down = torch.exp(zoom + stretch / 2), torch.exp(zoom - stretch / 2)
    if by.hflip:
        across = torch.where(draw.happens(by.hflip), -across, across)
    if by.vflip:
        down = torch.where(draw.happens(by.vflip), -down, down)
    return affine_matrices(angle, shear, across, down, draw.within(2 * by.shift, 2), aspect)


def _shuffle(pixels: Tensor, by: Augmentation, draw: _Draw) -> Tensor:
    """The photos, in place, the quarters of some of them in another order (26th place of Happywhale).

    Where a side is odd its middle stays.
    """
    if not by.grid_shuffle:
        return pixels
    shuffled = draw.places(by.grid_shuffle)
    orders = draw.drawn(4).argsort(dim=1).to(draw.device)[shuffled]
    height, width = pixels.shape[-2:]
    tall, wide = height // 2, width // 2
    corners = [(top, left) for top in (0, height - tall) for left in (0, width - wide)]
    before = pixels.index_select(0, shuffled)
    quarters = torch.stack([before[..., y : y + tall, x : x + wide] for y, x in corners], dim=1)
    rows = torch.arange(len(shuffled), device=draw.device)
    after = before.clone()
    for place, (y, x) in enumerate(corners):
        after[..., y : y + tall, x : x + wide] = quarters[rows, orders[:, place]]
    return pixels.index_copy_(0, shuffled, after)


def _recolour(pixels: Tensor, by: Augmentation, draw: _Draw) -> Tensor:
    """Contrast, saturation, brightness and channel shift as one colour matrix; then blur and noise.

    The contrast is about the photo's mean.
    """
    each = (-1, 1, 1)
    factor = torch.exp(draw.within(by.contrast)).reshape(each)
    keep = ((1 + draw.within(by.saturation)) * ~draw.happens(by.grey)).reshape(each)
    identity, third = torch.eye(3, device=draw.device), torch.full((3, 3), 1 / 3, device=draw.device)
    matrix = factor * (keep * identity + (1 - keep) * third)
    offset = pixels.mean(dim=(1, 2, 3)).reshape(each) * (1 - factor)
    offset = offset + draw.within(by.brightness).reshape(each) + draw.within(by.channel_shift, 3, 1)
    pixels = torch.baddbmm(offset, matrix, pixels.flatten(2)).reshape(pixels.shape)
    if by.blur:
        share, blurred = draw.uniform(0.0, 1.0), draw.places(by.blur)
        sharp = pixels.index_select(0, blurred)
        soft = torch.lerp(sharp, _mean_of_nine(sharp), share[blurred].reshape(-1, 1, 1, 1))
        pixels.index_copy_(0, blurred, soft)
    if by.noise:
        noise = draw.normal(pixels.shape)
        pixels.addcmul_(noise, draw.uniform(0.0, by.noise).reshape(-1, 1, 1, 1))
    return pixels.clamp_(0, 1)


def _mean_of_nine(pixels: Tensor) -> Tensor:
    """Of each pixel and those round it that there are, which is the mean down and then across."""
    for side in (-2, -1):
        length = pixels.shape[side]
        total, each = pixels.clone(), pixels.new_full((length,), 3.0)
        total.narrow(side, 1, length - 1).add_(pixels.narrow(side, 0, length - 1))
        total.narrow(side, 0, length - 1).add_(pixels.narrow(side, 1, length - 1))
        each[[0, -1]] = 2.0
        pixels = total.div_(each.reshape(-1, *[1] * (-1 - side)))
    return pixels


def _erase(pixels: Tensor, by: Augmentation, draw: _Draw) -> Tensor:
    """The photos, in place, in some of them one rectangle filled with one colour."""
    if not by.erase:
        return pixels
    height, width = pixels.shape[-2:]
    area, aspect = draw.uniform(0.02, 0.2), torch.exp(draw.within(math.log(2.5)))
    tall, wide = torch.sqrt(area / aspect), torch.sqrt(area * aspect)
    middle = draw.uniform(0.0, 1.0, 2)
    down = (torch.arange(height, device=pixels.device) + 0.5) / height
    across = (torch.arange(width, device=pixels.device) + 0.5) / width
    rows = (down[None] - middle[:, :1]).abs() < tall[:, None] / 2
    columns = (across[None] - middle[:, 1:]).abs() < wide[:, None] / 2
    erased = draw.places(by.erase)
    colour = draw.uniform(0.0, 1.0, 3)[erased, :, None, None]
    inside = rows[erased, None, :, None] & columns[erased, None, None, :]
    filled = torch.where(inside, colour, pixels.index_select(0, erased))
    return pixels.index_copy_(0, erased, filled)


@dataclass(frozen=True, eq=False)
class MirrorTwins:
    """A lens that mirrors some photos and labels them as the individual's mirror twin; no annotations."""

    mirrored: NDArray[np.bool_]
    """(photos,)"""
    identities: int
    """How many there are without twins: the label of a twin is higher by that."""
    axis: int = -1
    """Of pixels (photos, channels, height, width), along which photos are mirrored."""

    def select(self, indices: NDArray[np.int64]) -> MirrorTwins:
        """The lens for the photos at these indices, in that order."""
        return replace(self, mirrored=self.mirrored[indices])

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The photos at these indices, some of them mirrored."""
        batch = behind.batch(indices, size, device)
        mirrored = torch.from_numpy(self.mirrored[indices]).to(device)
        pixels = torch.where(mirrored[:, None, None, None], batch.pixels.flip(self.axis), batch.pixels)
        labels = None if batch.labels is None else batch.labels + self.identities * mirrored
        return Batch(pixels, labels, species=batch.species)


def with_twins(known: LabelledPhotos, axis: int = -1) -> Photos:
    """Labelled photos, followed by all of them mirrored and labelled as of as many more identities."""
    photos, identities = len(known), len(known.identities)
    twice = known.select(np.tile(np.arange(photos), 2))
    lens = MirrorTwins(np.repeat([False, True], photos), identities, axis)
    return replace(
        twice.labelled().through(lens),
        identities=(*known.identities, *(f"{identity} mirrored" for identity in known.identities)),
        labels=np.concatenate([known.labels, known.labels + identities]),
    )
