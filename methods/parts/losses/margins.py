"""Softmax losses: over a linear classifier, or over prototypes on the sphere with a margin.

ArcFace, CosFace, sub-centres, margins by the number of photos, AdaCos and blanked twins each exist somewhere,
but never together: here they are steps of one forward pass. `arcface` has one head over individuals and, if
configured, one over species.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.benchmarks.core.machine import refuse_small_memory
from whalebench.benchmarks.core.photos import UNKNOWN, LabelledPhotos, Photos
from whalebench.methods.method import FieldValue, PartConfig, Search

LabelSmoothing = Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.2)]
"""Share of the target that is spread over all identities."""


class SoftmaxLoss(nn.Module):
    """Cross-entropy with label smoothing over the logits of a linear layer."""

    def __init__(self, identities: int, dimensions: int, *, dropout: float, label_smoothing: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dimensions, identities)
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of features (photos, dimensions) under labels (photos,)."""
        logits = self.classifier(self.dropout(features.float()))
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Log probabilities (photos, identities) of features (photos, dimensions), in float32 as in the loss.

        With the digits of bf16 many identities would tie.
        """
        with torch.autocast(features.device.type, enabled=False):
            return torch.log_softmax(self.classifier(features.float()), dim=1)


Margin = Literal["arcface", "cosface"]

SMALLEST_SCALE = 1.0
"""Of AdaCos, whose formula gives 0 for two identities."""


class MarginLoss(nn.Module):
    """Cross-entropy over scaled cosines to the identities' prototypes, with a margin on the target's.

    Prototypes are the rows of the weight matrix, which are learned, and no means of embeddings.
    """

    def __init__(self, config: HeadConfig, photos: NDArray[np.int64], dimensions: int) -> None:
        """Over identities of so many photos (identities,) and, with flip_identities, as many mirror twins.

        Identity i and identity i + identities / 2 are then each other's mirror image.
        """
        super().__init__()
        self.restored: Tensor | None = None
        self.config, self.adaptive = config, config.scale == 0
        counts = torch.from_numpy(np.tile(photos, 1 + config.flip_identities))
        identities, subcentres = len(counts), config.subcentres
        drawn = nn.init.xavier_normal_(torch.empty(dimensions, identities * subcentres)).T
        self.centres = nn.Parameter(drawn.reshape(identities, subcentres, dimensions).contiguous())
        start = fixed_adacos(identities) if self.adaptive else config.scale
        self.register_buffer("scale", torch.tensor(float(start)))
        margins = torch.full((identities,), config.margin)
        if config.margin_by_size:
            margins = margins_by_size(counts, config.margin_a, config.margin_b, config.margin_c).float()
        self.register_buffer("margins", margins)
        self.register_buffer("share", torch.ones(()))
        if config.class_share < 1:
            # State of the loss, and so of a checkpoint: the seed, and how often others were drawn by it.
            self.register_buffer("drawn", torch.stack([torch.randint(2**31, ()), torch.tensor(0)]))

    def set_margin_factor(self, share: float) -> None:
        """Multiplies every margin by that share from now on: the warm-up."""
        self.get_buffer("share").fill_(share)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of embeddings (photos, dimensions), normalised inside, under labels (photos,).

        In training over the identities of these photos and a share of the others, where one is configured
        (Partial FC; An et al., 2022).
        """
        identities, margins = len(self.centres), self.get_buffer("margins")[labels][:, None]
        twins = (labels + identities // 2) % identities
        centres: Tensor = self.centres
        if self.config.class_share < 1 and self.training:
            seen = self._draw(labels)
            centres, labels = centres[seen], torch.searchsorted(seen, labels)
            twins = torch.where(torch.isin(twins, seen), torch.searchsorted(seen, twins), -1)
        cosines = self.cosines(embeddings, centres)
        if self.config.flip_identities:
            # The target's mirror image may look alike: nothing is learned of it.
            cosines = torch.where(
                twins[:, None] == torch.arange(cosines.shape[1], device=twins.device), 0.0, cosines
            )
        if self.adaptive and self.training:
            self.get_buffer("scale").copy_(adacos(cosines.detach(), labels, self.get_buffer("scale")))
        target = cosines.gather(1, labels[:, None])
        with_margin = self._with_margin(target, margins)
        logits = self.get_buffer("scale") * cosines.scatter(1, labels[:, None], with_margin)
        return F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    def cosines(self, embeddings: Tensor, centres: Tensor | None = None) -> Tensor:
        """Cosines (photos, identities) to the nearest centre of each identity (Deng et al., 2020).

        Of all identities, or of the centres (identities, subcentres, dimensions) that are given.
        """
        centres = self.centres if centres is None else centres
        normal = F.normalize(embeddings.to(centres.dtype), dim=1)
        cosines: Tensor = normal @ F.normalize(centres, dim=2).flatten(0, 1).T
        return cosines.reshape(-1, *centres.shape[:2]).amax(dim=2)

    def _draw(self, labels: Tensor) -> Tensor:
        """Identities, rising: those of the labels, and as many others as make up the share."""
        drawn, identities = self.get_buffer("drawn"), len(self.centres)
        generator = torch.Generator()
        generator.manual_seed(int(drawn.sum()))
        drawn[1] += 1
        # Drawn by the processor, so that every device learns from the same ones.
        order = torch.rand(identities, generator=generator).to(labels.device)
        order[labels] = 2.0
        count = max(round(self.config.class_share * identities), len(set(labels.tolist())))
        return order.topk(count).indices.sort().values

    def prototypes(self) -> Tensor:
        """The prototypes (identities, subcentres, dimensions), of length 1."""
        return F.normalize(self.centres.detach(), dim=2) if self.restored is None else self.restored

    def set_prototypes(self, prototypes: Tensor) -> None:
        """Replaces the prototypes by these (identities, subcentres, dimensions), of length 1, to the bit.

        Brought to length 1 once more they would score otherwise in the last place. No training follows.
        """
        self.restored = prototypes.reshape(self.centres.shape)

    def _with_margin(self, cosines: Tensor, margins: Tensor) -> Tensor:
        """Cosines less the margins (Wang et al., 2018), or of angles plus the margins (Deng et al., 2019)."""
        margins = margins * self.get_buffer("share")
        if self.config.loss == "cosface":
            return cosines - margins
        # Beyond 180 degrees minus the margin the cosine would rise again: there the margin is a constant.
        past = cosines < -margins.cos()
        # cos(a + m) without acos, whose gradient is infinite where an embedding meets a centre.
        sines = (1 - cosines**2).clamp(min=1e-12).sqrt()
        turned = cosines * margins.cos() - sines * margins.sin()
        return torch.where(past, cosines - margins * margins.sin(), turned)


def fixed_adacos(identities: int) -> float:
    """The scale of AdaCos before anything is learned: sqrt(2) log(identities - 1) (Zhang et al., 2019)."""
    return max(SMALLEST_SCALE, math.sqrt(2) * math.log(max(1, identities - 1)))


def adacos(cosines: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """The scale of AdaCos after a batch of cosines (photos, identities) without margins (Zhang et al., 2019).

    It is log B / cos(min(45 degrees, a)): B the mean over photos of the sum of exp(scale cosine) over the
    other identities, a the median angle to the target's prototype, the lower of two middle ones.
    """
    target = cosines.gather(1, labels[:, None])
    others = (scale * cosines).exp().scatter(1, labels[:, None], 0.0).sum(dim=1)
    angle = target.clamp(-1, 1).acos().median().clamp(max=math.pi / 4)
    return (others.mean().log() / angle.cos()).clamp(min=SMALLEST_SCALE)


def margins_by_size(photos: Tensor, a: float, b: float, c: float) -> Tensor:
    """Margins a n^b + c of identities with n photos (identities,), as Happywhale's winner had them."""
    return a * photos.clamp(min=1).double() ** b + c


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
    class_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the identities that a batch is told apart from, besides its own: drawn anew for every one,
    against memory and time where there are 100,000 and more (Partial FC)."""
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
        if self.scale == 0 and self.class_share < 1:
            raise ValueError(
                f"scale=0 (AdaCos) is made of all identities, and class_share={self.class_share:g} shows it "
                f"some; set a scale, or class_share=1"
            )
        return self

    def tunable(self) -> dict[str, FieldValue]:
        """The fields worth tuning, without the margins that are not used."""
        unused = {"margin"} if self.margin_by_size else {"margin_a", "margin_b"}
        return {name: start for name, start in super().tunable().items() if name not in unused}


class Heads(nn.Module):
    """A margin softmax over identities, and perhaps one over species that shares the embedding."""

    def __init__(self, identity: MarginLoss, species: MarginLoss | None = None, weight: float = 0.0) -> None:
        """weight is the species' share of the loss."""
        super().__init__()
        self.identity, self.species, self.weight = identity, species, weight

    def set_margin_factor(self, share: float) -> None:
        """Multiplies the margins of all heads by that share from now on."""
        self.identity.set_margin_factor(share)
        if self.species is not None:
            self.species.set_margin_factor(share)

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


def build_heads(config: HeadConfig, known: LabelledPhotos, dimensions: int) -> Heads:
    """The heads over the identities of labelled photos and, if configured, over their species."""
    photos = np.bincount(known.labels, minlength=len(known.identities))
    size = 4 * len(photos) * (1 + config.flip_identities) * config.subcentres * dimensions
    remedy = "lower dimensions or subcentres, or take a machine with more"
    # As drawn, in its final order, and once more as the average.
    refuse_small_memory(3 * size, f"A head over {len(photos):,} individuals", remedy)
    identity = MarginLoss(config, photos, dimensions)
    if not config.species_weight:
        return Heads(identity)
    a, b, c = SPECIES_MARGIN
    by_size = config.model_copy(
        update={"margin_a": a, "margin_b": b, "margin_c": c, "flip_identities": False, "class_share": 1.0}
    )
    species = MarginLoss(by_size, photos_by_species(known), dimensions)
    return Heads(identity, species, config.species_weight)


def photos_by_species(photos: Photos) -> NDArray[np.int64]:
    """The number of photos of each species (species,); empty where none is named."""
    named = np.zeros(0, np.int64) if photos.species is None else photos.species
    return np.bincount(named[named != UNKNOWN]).astype(np.int64)
