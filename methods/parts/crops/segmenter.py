"""The segmenter: a U-Net that finds the animal's mask, and the box that the mask fills.

It learns by cross-entropy and Dice at first, then by the Lovász hinge: intersection over union as a loss. Of
several encoders, inner folds and cycles each leaves a network, and these vote on every pixel. Their masks of
bare test photos may teach others, the students, in two halves, so that none answers what it was taught.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from whalebench.benchmarks.core.arrays import blocks
from whalebench.benchmarks.core.masks import mask_precision
from whalebench.benchmarks.core.photos import Batch, LabelledPhotos, Photos
from whalebench.methods.method import Harness, Located, tensor_text, text_tensor
from whalebench.methods.parts.augment import Augmentation, Strength
from whalebench.methods.parts.crops.finder import Background, Finder, unshuffled
from whalebench.methods.parts.crops.mask_network import MaskLoss, MaskNetwork
from whalebench.methods.parts.networks.backbones import build_encoder
from whalebench.methods.parts.training.config import PhotoSize, ScheduleConfig, TrainingConfig
from whalebench.methods.parts.training.pseudo_labels import PseudoMasks
from whalebench.methods.parts.training.trainer import CarryOver, Ended, predict, train_network

BLOCK = 256
"""Annotated masks read at a time."""
GRID = np.linspace(-0.5, 0.5, 81).round(4)
"""Thresholds of logits that are tried, those of the fourth place of TGS salt."""
THRESHOLDS = "thresholds"
"""The name of the chosen ones beside the weights of the networks that vote."""
STUDENTS = ("students_a", "students_b")
"""The names of the two sets of students in the record, and beside their weights of what taught each."""
SHARE = 0.5
"""The probability that a photo in a student's step is one of test, that of the fourth place of TGS Salt."""


class SegmenterConfig(TrainingConfig):
    """Fields of the segmenter."""

    size: PhotoSize = (80, 128)
    """Height x width in pixels at which it looks at whole photos, and of the masks it gives."""
    epochs: Annotated[int, Field(ge=0)] = 8
    """Passes over the training photos that have a mask."""
    cycles: Annotated[int, Field(ge=1)] = 1
    """Cosines with restarts that share the epochs out; each goes on where the one before ended and leaves a
    network, and all vote on every pixel."""
    bags: Annotated[int, Field(ge=1, le=50)] = 1
    """Inner folds of train: as many networks, each taught without one, by which its threshold is chosen, vote
    on every pixel."""
    students: str = ""
    """Backbones, joined by +, that are taught anew by train and by the masks found on bare test photos, in
    two halves: those taught by one half answer the other, all of them any other photo. Transductive."""
    width: Annotated[int, Field(ge=1)] = 16
    """Channels of every level of the decoder."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the hypercolumn's channels left out in training."""
    lovasz_from: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the training, by cross-entropy and Dice, after which the Lovász hinge takes over."""
    margin: Annotated[float, Field(ge=0, le=2)] = 0.1
    """Widens the mask's box before it is cut out, on each side by this share of it."""
    smallest: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """A box narrower or lower than this share of the photo makes no sense: the whole photo is used."""
    background: Background = "kept"
    """What stands where the mask is not: the photo, the photo blurred, or its mean colour."""
    channel: bool = False
    """Whether the mask is shown to the network as a fourth channel (first of Humpback 2019)."""
    mirrored: bool = False
    """Look at every photo mirrored left to right as well, and take the mean of both."""
    tidy: bool = False
    """Keep the largest connected part of a mask alone, and fill its holes."""

    @field_validator("augment")
    @classmethod
    def _quarters_stay(cls, augment: Strength) -> Strength:
        return unshuffled(augment)

    @model_validator(mode="after")
    def _epochs_for_every_cycle(self) -> Self:
        if self.cycles > 1 and self.shares()[-1] < (
            least := self.checkpoints if self.average == "checkpoints" else 1
        ):
            raise ValueError(
                f"epochs={self.epochs} do not give each of cycles={self.cycles} the {least} it needs; set "
                f"fewer cycles"
            )
        return self

    def shares(self) -> list[int]:
        """The epochs of each cycle."""
        return ScheduleConfig(cycles=self.cycles).shares(self.epochs)

    def encoders(self) -> list[str]:
        """The backbones that + joins."""
        return self.backbone.split("+")

    def students_encoders(self) -> list[str]:
        """Those of the students of one half, none where there are none."""
        return self.students.split("+") if self.students else []

    def networks(self) -> int:
        """How many networks vote, and teach the students."""
        return len(self.encoders()) * self.bags * self.cycles

    def augmentation(self) -> Augmentation:
        """The augmentation in training: as configured, mirrored left to right, nothing erased or shuffled."""
        by = replace(super().augmentation(), erase=0.0, grid_shuffle=0.0, outside="zeros")
        return by if self.augment == "none" else replace(by, hflip=0.5)


class Segmenter(Finder):
    """Finds the animal's mask by a U-Net that tells for every pixel whether it shows the animal."""

    artefact, needs = "segmenter", "masks"

    config: SegmenterConfig

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self.background, self.mask_channel = config.background, config.channel
        self.margin, self.smallest = config.margin, config.smallest

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Whether each photo has a mask; raises ValueError where annotations are hidden."""
        if photos.annotations is None:
            raise ValueError("masks of these photos are hidden")
        return photos.annotations.has_mask[photos.rows]

    def build(self) -> nn.Module:
        """The network, untrained but for the weights its encoder starts from; of those that vote a list."""
        config = self.config
        taught = STUDENTS[0] in self.constants
        names = 2 * config.students_encoders() if taught else config.encoders()
        each = config.bags * config.cycles
        if len(names) * each == 1:
            return self._network(config.backbone)
        return nn.ModuleList(self._network(name) for name in names for _ in range(each))

    def _network(self, backbone: str) -> MaskNetwork:
        config = self.config
        encoder = build_encoder(backbone, config.pretrained, *config.sizes())
        return MaskNetwork(encoder, config.width, config.dropout)

    def loss(self) -> MaskLoss:
        """That of masks."""
        return MaskLoss()

    def target(self, batch: Batch) -> Tensor:
        """The annotated masks (photos, 1, height, width) of a batch that has them."""
        assert batch.masks is not None
        return batch.masks

    def before_step(self, loss: MaskLoss, done: float) -> None:
        """Ends the warm-up at its share of the training."""
        loss.warming_up = done < self.config.lovasz_from

    def learn(self, train: LabelledPhotos, harness: Harness, valid: LabelledPhotos | None = None) -> None:
        """Trains one network, or those that vote: of each its threshold is chosen.

        It is chosen by the network's own inner fold, and where there are none by valid.
        """
        self.constants = {}
        for name in self.config.students_encoders():
            self._network(name)  # a name that cannot be is better told now than when the others have learned
        if self.config.networks() == 1:
            super().learn(train, harness)
            return
        self.device = harness.device
        self._keep(self._learn_each(self.config.encoders(), train, harness, valid))

    def adapt(
        self, unlabelled: Photos, train: LabelledPhotos, harness: Harness, valid: LabelledPhotos
    ) -> None:
        """Trains the students, each with train and the masks found on one half of the bare test photos.

        Photos on which nothing is found are in neither half.
        """
        if not (self.config.students and len(unlabelled)):
            return
        harness.stage("pseudo-masks")
        located = self.locate(unlabelled)
        assert located.boxes is not None
        assert located.masks is not None
        found = np.flatnonzero(np.isfinite(located.boxes).all(axis=1))
        harness.choose("pseudo_masks", len(found))
        if not len(found):
            harness.warn("No mask was found on any test photo, so segmenter.students were not taught.")
            return
        guessed = PseudoMasks(unlabelled.select(found), located.masks[found] >= 0.5, SHARE)
        learned, taught_by = [], {}
        for name, half in zip(STUDENTS, guessed.halves(harness.seed), strict=True):
            with harness.scope(name):
                learned += self._learn_each(self.config.students_encoders(), train, harness, valid, half)
            taught_by[name] = text_tensor(half.photos.digests)
        self._keep(learned)
        self.constants |= taught_by

    def _keep(self, learned: list[tuple[nn.Module, float]]) -> None:
        """Has these networks vote, each by its threshold."""
        self.network = nn.ModuleList(network for network, _ in learned).eval()
        self.constants[THRESHOLDS] = torch.tensor([threshold for _, threshold in learned])

    def _learn_each(
        self,
        encoders: list[str],
        train: LabelledPhotos,
        harness: Harness,
        valid: LabelledPhotos | None,
        guessed: PseudoMasks | None = None,
    ) -> list[tuple[nn.Module, float]]:
        """The networks that each encoder, inner fold and cycle leaves, with their thresholds."""
        config = self.config
        held = harness.inner_folds(config.bags) if config.bags > 1 else {}
        inner = np.array([held.get(image, -1) for image in train.images], np.int64)
        learned: list[tuple[nn.Module, float]] = []
        for place, name in enumerate(encoders, 1):
            for bag in range(config.bags):
                with ExitStack() as scopes:
                    if len(encoders) > 1:
                        scopes.enter_context(harness.scope(f"network_{place}"))
                    kept, own = train, valid
                    if config.bags > 1:
                        scopes.enter_context(harness.scope(f"bag_{bag + 1}"))
                        kept = train.select(np.flatnonzero(inner != bag))
                        own = train.select(np.flatnonzero(inner == bag))
                        scopes.enter_context(harness.held_back(own))
                    self.refuse_few(kept)
                    taught_by = kept if guessed is None else guessed.beside(kept)
                    learned += self._learn_in_cycles(name, taught_by, own, harness)
        return learned

    def _learn_in_cycles(
        self, backbone: str, train: Photos, own: LabelledPhotos | None, harness: Harness
    ) -> list[tuple[nn.Module, float]]:
        """The network that each cycle leaves, and its threshold."""
        config, before = self.config, 0
        ended: Ended = {}
        learned, shares = [], config.shares()
        for number, epochs in enumerate(shares):
            part = config.in_share(shares, number)
            part = part.model_copy(update={"warm_up": 0.0} if number else {})
            cycle = CarryOver(ended)
            with harness.scope(f"cycle_{number + 1}", cycle) if len(shares) > 1 else nullcontext():
                harness.stage(self.artefact)
                network = self._taught(self._network(backbone), train, part, before, harness)
                threshold = self._threshold(network, own)
                harness.choose(f"{self.artefact}_threshold", threshold)
                learned.append((network, threshold))
            ended, before = cycle.ended, before + epochs
        return learned

    def _taught(
        self, network: nn.Module, train: Photos, part: SegmenterConfig, before: int, harness: Harness
    ) -> nn.Module:
        """The network after its part of the training, so many epochs of which came before."""

        def before_step(loss: MaskLoss, done: float) -> None:
            self.before_step(loss, (before + done * part.epochs) / max(1, self.config.epochs))

        learned, _ = train_network(
            network,
            self.loss(),
            train,
            part,
            harness,
            lambda network, loss: None,
            before_step,
            target=self.target,
            artefact=self.artefact,
        )
        return learned

    def _threshold(self, network: nn.Module, own: LabelledPhotos | None) -> float:
        """The logit from which a pixel is the animal's, by which the masks of own photos are best."""
        if own is None or own.annotations is None or not self.annotated(own).any():
            return 0.0
        own = own.select(np.flatnonzero(self.annotated(own)))
        logits = predict(lambda pixels: self._logits(network, pixels), own.bare(), self.config, self.device)
        truth = self.read(own).masks
        assert truth is not None
        return best_threshold(logits, truth >= 0.5)

    def locate(self, photos: Photos) -> Located:
        """Masks (photos, height, width) at the segmenter's size, and their boxes; NaN where none is found.

        Masks are probabilities of one network, and of several the share of their votes: half is animal.
        """
        masks = self._looked(photos)
        if self.config.tidy:
            masks = np.stack([tidied(mask) for mask in masks]) if len(masks) else masks
        return Located(boxes=mask_boxes(masks), masks=masks)

    def read(self, photos: Photos) -> Located:
        """The annotated masks at the segmenter's size, and their boxes."""
        masks = np.full((len(photos), *self.config.size), np.nan, np.float32)
        annotated = np.flatnonzero(self.annotated(photos))
        for block in blocks(len(annotated), BLOCK):
            rows = annotated[block]
            with torch.inference_mode():  # nothing is learned from these pixels
                masks[rows] = self.target(photos.batch(rows, self.config.size))[:, 0].numpy()
        return Located(boxes=mask_boxes(masks), masks=masks)

    def _looked(self, photos: Photos) -> NDArray[np.float32]:
        """The masks (photos, height, width) of all networks, but of students that a photo has taught."""
        if STUDENTS[0] not in self.constants:
            return predict(self._masks, photos, self.config, self.device)
        count = len(self.constants[THRESHOLDS]) // len(STUDENTS)
        masks = np.zeros((len(photos), *self.config.size), np.float32)
        sets = np.zeros(len(photos), np.float32)
        for number, name in enumerate(STUDENTS):
            taught_by = set(tensor_text(self.constants[name]))
            others = [place for place, digest in enumerate(photos.digests) if digest not in taught_by]
            if others:
                votes = partial(self._masks, among=slice(number * count, (number + 1) * count))
                masks[others] += predict(votes, photos.select(others), self.config, self.device)
                sets[others] += 1
        return masks / sets[:, None, None]

    def _masks(self, pixels: Tensor, among: slice = slice(None)) -> Tensor:
        if not isinstance(self.network, nn.ModuleList):
            return self._logits(self.network, pixels).sigmoid()
        thresholds = self.constants[THRESHOLDS].tolist()
        each = zip(list(self.network)[among], thresholds[among], strict=True)
        votes = [(self._logits(network, pixels).float() >= threshold).float() for network, threshold in each]
        return torch.stack(votes).mean(dim=0)

    def _logits(self, network: nn.Module, pixels: Tensor) -> Tensor:
        logits: Tensor = network(pixels)[0][:, 0]
        if self.config.mirrored:
            logits = (logits + network(pixels.flip(-1))[0][:, 0].flip(-1)) / 2
        return logits


def best_threshold(logits: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """The threshold of GRID at which masks have the highest mean precision; of equal ones that nearest to 0.

    logits and truth are (photos, height, width).

    >>> best_threshold(np.array([[[0.3, 0.2, 0.1, -1.0]]], np.float32), np.array([[[1, 1, 0, 0]]]) > 0)
    0.1125
    """
    worth = [mask_precision(logits >= threshold, truth).mean() for threshold in GRID]
    best = GRID[np.flatnonzero(worth == np.max(worth))]
    return float(best[np.abs(best).argmin()])


def tidied(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mask (height, width) with its largest connected part alone, 0.5 and more, and no hole in that."""
    from scipy.ndimage import binary_fill_holes, label

    parts, count = label(mask >= 0.5)
    if not count:
        return mask
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    filled = binary_fill_holes(largest)
    alone = np.where((parts > 0) & ~filled, np.float32(0), mask)
    return np.where(filled & ~largest, np.float32(1), alone)


def mask_boxes(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """The box (photos, 4) round the largest connected part of each mask (photos, height, width).

    In shares of the frame; NaN where nothing reaches 0.5. What is not connected is a splash or a neighbour.
    """
    from scipy.ndimage import find_objects, label

    boxes = np.full((len(masks), 4), np.nan, np.float32)
    height, width = masks.shape[1:]
    for row, mask in enumerate(masks):
        parts, count = label(mask >= 0.5)
        if count:
            largest = int(np.bincount(parts.ravel())[1:].argmax())
            down, across = find_objects(parts)[largest]
            boxes[row] = (
                across.start / width, down.start / height, across.stop / width, down.stop / height
            )  # fmt: skip
    return boxes
