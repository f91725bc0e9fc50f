"""The heads of `arcface`: whose photo it is, and beside that, where it is asked for, of which species."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from whalebench.benchmarks.photos import UNKNOWN, Photos
from whalebench.methods.method import FieldValue, PartConfig, Search
from whalebench.methods.parts.losses.margins import Margin, MarginLoss, margins_by_size
from whalebench.methods.parts.losses.softmax_loss import LabelSmoothing

SPECIES_MARGIN = (0.226253, -0.720133, 0.05)
"""a, b and c of the species' margins with margin_by_size (Happywhale 2022, 1st place)."""


class HeadConfig(PartConfig):
    """Fields of a margin softmax."""

    loss: Margin = "arcface"
    """Where the margin is: on the angle (arcface), or on its cosine (cosface)."""
    scale: Annotated[float, Field(ge=0), Search(8.0, 64.0, log=True)] = 20.0
    """Factor on the cosines; 0 is AdaCos, which takes it from the number of identities and each batch."""
    margin: Annotated[float, Field(ge=0, lt=1.57), Search(0.05, 0.6)] = 0.3
    """Between an embedding and its own prototype: radians for arcface, a step of the cosine for cosface."""
    label_smoothing: LabelSmoothing = 0.0
    """Share of the target spread over all identities."""
    margin_by_size: bool = False
    """A margin for each identity instead, a n^b + c by the number n of its train photos."""
    margin_a: Annotated[float, Field(ge=0), Search(0.2, 1.0)] = 0.27126
    """a of margin_by_size."""
    margin_b: Annotated[float, Field(le=0), Search(-0.8, -0.05)] = -0.364399
    """b of margin_by_size, 0 or less: few photos need more room."""
    margin_c: Annotated[float, Field(ge=0)] = 0.05
    """c of margin_by_size."""
    subcentres: Annotated[int, Field(ge=1)] = 1
    """Prototypes of each identity, of which the nearest counts: its sides, its ages, wrong labels."""
    flip_identities: bool = False
    """Learn each photo mirrored, too, as of another individual, from which its own need not differ; scores
    are the mean of both sides."""
    species_weight: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the loss that tells species apart by the same embedding; 0 for none."""

    @model_validator(mode="after")
    def _margins_below_a_right_angle(self) -> Self:
        if self.margin_by_size and self.margin_a + self.margin_c >= 1.57:
            raise ValueError(
                f"margin_a={self.margin_a} and margin_c={self.margin_c} add up to the margin of an identity "
                f"with one photo, which learns nothing from 1.57 on; lower them"
            )
        return self

    def tunable(self) -> dict[str, FieldValue]:
        """As for every part, without the margins that are not used."""
        unused = {"margin"} if self.margin_by_size else {"margin_a", "margin_b"}
        return {name: start for name, start in super().tunable().items() if name not in unused}


class Heads(nn.Module):
    """A margin softmax over identities, and perhaps one over species that shares the embedding."""

    def __init__(self, identity: MarginLoss, species: MarginLoss | None = None, weight: float = 0.0) -> None:
        """weight is the species' share of the loss."""
        super().__init__()
        self.identity, self.species, self.weight = identity, species, weight

    def set_share(self, share: float) -> None:
        """Uses this share of all margins from now on."""
        self.identity.set_share(share)
        if self.species is not None:
            self.species.set_share(share)

    def forward(self, embeddings: Tensor, target: tuple[Tensor, Tensor | None]) -> Tensor:
        """Mean loss of embeddings (photos, dimensions) under labels and species, both (photos,).

        Photos of UNKNOWN species count for the identity alone.
        """
        labels, species = target
        loss: Tensor = self.identity(embeddings, labels)
        if self.species is None or species is None:
            return loss
        loss = (1 - self.weight) * loss
        named = species != UNKNOWN
        if bool(named.any()):
            loss = loss + self.weight * self.species(embeddings[named], species[named])
        return loss


def build_heads(config: HeadConfig, known: Photos, dimensions: int, label_smoothing: float) -> Heads:
    """The heads over the identities of labelled photos, and over their species where that is asked for."""
    assert known.labels is not None
    photos = np.bincount(known.labels, minlength=len(known.identities))
    identity = build_identity_head(config, photos, dimensions, label_smoothing)
    if not config.species_weight:
        return Heads(identity)
    by_size = config.model_copy(
        update=dict(zip(("margin_a", "margin_b", "margin_c"), SPECIES_MARGIN, strict=True))
    )
    species = _head(by_size, photos_by_species(known), dimensions, label_smoothing, twins=False)
    return Heads(identity, species, config.species_weight)


def build_identity_head(
    config: HeadConfig, photos: NDArray[np.int64], dimensions: int, label_smoothing: float
) -> MarginLoss:
    """The head over identities of so many photos (identities,), and over their mirror twins."""
    twins = config.flip_identities
    return _head(config, np.tile(photos, 1 + twins), dimensions, label_smoothing, twins=twins)


def photos_by_species(photos: Photos) -> NDArray[np.int64]:
    """How many photos each species has (species,); empty where none is named."""
    named = np.zeros(0, np.int64) if photos.species is None else photos.species
    return np.bincount(named[named != UNKNOWN]).astype(np.int64)


def _head(
    config: HeadConfig, photos: NDArray[np.int64], dimensions: int, label_smoothing: float, *, twins: bool
) -> MarginLoss:
    counts, by_size = torch.from_numpy(photos), (config.margin_a, config.margin_b, config.margin_c)
    return MarginLoss(
        len(photos),
        dimensions,
        kind=config.loss,
        scale=config.scale,
        margins=margins_by_size(counts, *by_size) if config.margin_by_size else config.margin,
        subcentres=config.subcentres,
        twins=twins,
        label_smoothing=label_smoothing,
    )
