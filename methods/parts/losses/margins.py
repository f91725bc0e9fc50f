"""The margin softmax: prototypes on the sphere, and a margin between an embedding and its own.

ArcFace, CosFace, sub-centres, margins by the number of photos, AdaCos and blanked twins each exist somewhere,
and in pytorch-metric-learning some of them, but never together. Here they are steps of one forward pass, held
against the library's ArcFaceLoss and CosFaceLoss and against a plain loop in the tests.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Margin = Literal["arcface", "cosface"]

SMALLEST_SCALE = 1.0
"""Of AdaCos, whose formula says 0 for two identities."""


class MarginLoss(nn.Module):
    """Cross-entropy over scaled cosines to the prototypes of the identities, the own one with a margin."""

    def __init__(
        self,
        identities: int,
        dimensions: int,
        *,
        kind: Margin,
        scale: float,
        margins: float | Tensor,
        subcentres: int = 1,
        twins: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        """As described beside the fields of `arcface`; margins is one for all, or one each (identities,).

        scale 0 is AdaCos. twins: identity i and identity i + identities / 2 are each other's mirror image.
        """
        super().__init__()
        self.kind, self.adaptive, self.twins = kind, scale == 0, twins
        self.label_smoothing = label_smoothing
        drawn = nn.init.xavier_normal_(torch.empty(dimensions, identities * subcentres)).T
        self.centres = nn.Parameter(drawn.reshape(identities, subcentres, dimensions).contiguous())
        start = fixed_adacos(identities) if self.adaptive else scale
        self.register_buffer("scale", torch.tensor(float(start)))
        self.register_buffer(
            "margins", torch.as_tensor(margins, dtype=torch.float32).expand(identities).clone()
        )
        self.register_buffer("share", torch.ones(()))

    def set_share(self, share: float) -> None:
        """Uses this share of the margins from now on."""
        self.get_buffer("share").fill_(share)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of embeddings (photos, dimensions), normalised inside, under labels (photos,)."""
        cosines = self.cosines(embeddings)
        if self.twins:
            cosines = self._blank_twins(cosines, labels)
        if self.adaptive and self.training:
            self.get_buffer("scale").copy_(adacos(cosines.detach(), labels, self.get_buffer("scale")))
        own = cosines.gather(1, labels[:, None])
        with_margin = self._with_margin(own, self.get_buffer("margins")[labels][:, None])
        logits = self.get_buffer("scale") * cosines.scatter(1, labels[:, None], with_margin)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines (photos, identities) to the nearest centre of each identity (Deng et al., 2020)."""
        normal = F.normalize(embeddings.to(self.centres.dtype), dim=1)
        cosines: Tensor = normal @ F.normalize(self.centres, dim=2).flatten(0, 1).T
        return cosines.reshape(-1, *self.centres.shape[:2]).amax(dim=2)

    def prototypes(self) -> Tensor:
        """(identities, subcentres, dimensions), of length 1."""
        return F.normalize(self.centres.detach(), dim=2)

    def set_prototypes(self, prototypes: Tensor) -> None:
        """Takes prototypes (identities, subcentres, dimensions) as its own."""
        with torch.no_grad():
            self.centres.copy_(prototypes.reshape(self.centres.shape))

    def _with_margin(self, cosines: Tensor, margins: Tensor) -> Tensor:
        """Cosines less the margins (Wang et al., 2018), or of angles plus the margins (Deng et al., 2019)."""
        margins = margins * self.get_buffer("share")
        if self.kind == "cosface":
            return cosines - margins
        # Beyond 180 degrees minus the margin the cosine would rise again: there the margin is a constant.
        past = cosines < -margins.cos()
        # cos(a + m) without acos, whose gradient is infinite where an embedding meets a centre.
        sines = (1 - cosines**2).clamp(min=1e-12).sqrt()
        turned = cosines * margins.cos() - sines * margins.sin()
        return torch.where(past, cosines - margins * margins.sin(), turned)

    def _blank_twins(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """The cosines with that to the own mirror image at 0: it may be alike, nothing is learned of it."""
        twins = (labels + cosines.shape[1] // 2) % cosines.shape[1]
        return cosines.scatter(1, twins[:, None], 0.0)


def fixed_adacos(identities: int) -> float:
    """The scale of AdaCos before anything is learned: sqrt(2) log(identities - 1) (Zhang et al., 2019)."""
    return max(SMALLEST_SCALE, math.sqrt(2) * math.log(max(1, identities - 1)))


def adacos(cosines: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """The scale of AdaCos after a batch of cosines (photos, identities) without margins (Zhang et al., 2019).

    It is log B / cos(min(45 degrees, a)): B the mean over photos of the sum of exp(scale cosine) over the
    other identities, a the median angle to the own prototype, the lower of two middle ones.
    """
    own = cosines.gather(1, labels[:, None])
    others = (scale * cosines).exp().scatter(1, labels[:, None], 0.0).sum(dim=1)
    angle = own.clamp(-1, 1).acos().median().clamp(max=math.pi / 4)
    return (others.mean().log() / angle.cos()).clamp(min=SMALLEST_SCALE)


def margins_by_size(photos: Tensor, a: float, b: float, c: float) -> Tensor:
    """Margins a n^b + c of identities with n photos (identities,), as Happywhale's winner had them."""
    return a * photos.clamp(min=1).double() ** b + c
