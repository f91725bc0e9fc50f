"""The Lovász hinge: intersection over union as a loss, and how a segmenter learns by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.methods.parts.networks.pooling import cell_means

LEVELS = 0.5
"""Weight of the decoder's own masks beside the final one."""
CROSS_ENTROPY, DICE = 0.9, 0.5
"""Weights of the two losses of the warm-up."""


def lovasz_hinge(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over photos of the Lovász hinge of logits (photos, ...) against masks of the same shape.

    A logit above 0 says animal; a mask of 0.5 and more is animal. The loss is the Lovász extension of one
    minus the intersection over union, applied to hinge errors: 0 where every logit is right by 1 and more.
    A photo without animal costs its worst error. (Berman, Rannen Triki and Blaschko, 2018.)

    >>> animal = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    >>> lovasz_hinge(torch.tensor([[2.0, 3.0, -2.0, -3.0]]), animal).item()  # everything is right
    0.0
    >>> lovasz_hinge(torch.tensor([[2.0, -1.0, -2.0, -3.0]]), animal).item()  # half the animal is missed
    1.0
    """
    truth = (masks.flatten(1) >= 0.5).float()
    errors = 1 - logits.float().flatten(1) * (2 * truth - 1)
    ordered, order = errors.sort(dim=1, descending=True)
    return (F.relu(ordered) * jaccard_steps(truth.gather(1, order))).sum(dim=1).mean()


def jaccard_steps(truth: Tensor) -> Tensor:
    """What each pixel adds to one minus the IoU when the pixels (photos, pixels) become wrong in this order.

    truth is 1 on the animal and 0 elsewhere.
    """
    animal = truth.sum(dim=1, keepdim=True)
    shared = animal - truth.cumsum(dim=1)
    united = animal + (1 - truth).cumsum(dim=1)
    return torch.diff(1 - shared / united, dim=1, prepend=torch.zeros_like(animal))


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over photos of one minus the Dice coefficient of probabilities and masks, one pixel softer."""
    found, truth = logits.float().sigmoid().flatten(1), masks.flatten(1)
    shared = (found * truth).sum(dim=1)
    return (1 - (2 * shared + 1) / (found.sum(dim=1) + truth.sum(dim=1) + 1)).mean()


class MaskLoss(nn.Module):
    """The loss of the final mask and, at half the weight, of what every level of the decoder says.

    As the fourth of the TGS salt challenge: cross-entropy and Dice to warm up, because the Lovász hinge is
    slow from scratch, then the hinge. There half the weight was on a second mask, learned where a photo is
    not empty, beside a small loss of empty or not. Photos that a segmenter learns from all show the animal:
    that second mask would be the first and the other head would have nothing to learn. So the half goes to
    the levels of the decoder, whose supervision was the point of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warming_up = True

    def forward(self, outputs: Sequence[Tensor], masks: Tensor) -> Tensor:
        """Loss of logits (photos, 1, height, width), the final ones first, under masks in [0, 1]."""
        final, *levels = (self._one(logits, masks) for logits in outputs)
        return final + LEVELS * torch.stack(levels).mean() if levels else final

    def _one(self, logits: Tensor, masks: Tensor) -> Tensor:
        height, width = logits.shape[-2:]
        truth = masks if masks.shape == logits.shape else cell_means(masks, (height, width))
        if not self.warming_up:
            return lovasz_hinge(logits, truth)
        entropy = F.binary_cross_entropy_with_logits(logits.float(), truth.clamp(0, 1))
        return CROSS_ENTROPY * entropy + DICE * dice_loss(logits, truth)
