"""The training loop every network shares: AdamW, warm-up and cosine, weight averaging, one seed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from whalebench import RunFailedError
from whalebench.benchmarks.photos import Batch, Photos, Size
from whalebench.methods.method import Epoch, Harness, PartConfig, Search, Stateful
from whalebench.methods.parts.augment import STRENGTHS, Augmentation, Strength, augment
from whalebench.methods.parts.averaging import Average, build_average
from whalebench.methods.parts.mixing import mixing
from whalebench.methods.parts.narrow_resnet import NARROW_RESNET
from whalebench.methods.parts.samplers import Sampler, Shuffled
from whalebench.methods.parts.snapshot import Snapshot
from whalebench.methods.parts.training_state import KeptGenerator, KeptOptimizer

Precision = Literal["auto", "fp32", "bf16"]

NOTHING: Mapping[str, Stateful] = MappingProxyType({})
OPTIMIZER, GROUPS = "optimizer", "param_groups"
OF_ONE_TRAINING = ("average", "schedule", "snapshot")
"""Parts that begin anew in a training that goes on from where another one ended; so do the groups of the
optimizer, in which the learning rate is."""

CLIP = 10.0
"""Longest gradient of one step."""


def _read_size(value: object) -> object:
    """Height and width from 80x128 or 96, as it is typed; other types are left to be refused."""
    if not isinstance(value, str | int):
        return value
    parts = str(value).lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError("write height x width as 80x128, or one number for a square")
    return (int(parts[0]), int(parts[-1]))


PhotoSize = Annotated[
    tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]],
    BeforeValidator(_read_size),
]
"""Height and width in pixels; typed as 80x128, or 96 for a square."""

GridSize = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]], BeforeValidator(_read_size)
]
"""Rows and columns; typed as 2x3, or 2 for a square."""


class TrainingConfig(PartConfig):
    """Fields of every method that trains a network on photos."""

    backbone: str = NARROW_RESNET
    """Any timm network by name; narrow_resnet10, small and quick to train from scratch on a processor; or one
    of the Right Whale system's: lau_vgg19, lau_vgg19_thin, lau_vgg19_wide, lau_resnet19, 31, 37, 49 or 67."""
    pretrained: str = "none"
    """Weights to start from: none, timm (downloaded), efficientnet-lite0, or a safetensors file."""
    size: PhotoSize = (80, 128)
    """Height x width in pixels, as 80x128 or 96; photos are resized to it whatever their aspect."""
    epochs: Annotated[int, Field(ge=0)] = 30
    """Passes over the training photos; 0 leaves the network as it starts."""
    small_size: PhotoSize = (64, 96)
    """Size in the first small_epochs: progressive resizing."""
    small_epochs: Annotated[int, Field(ge=0)] = 0
    """How many of the epochs are at small_size; 0 for `size` throughout."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Photos in one step."""
    learning_rate: Annotated[float, Field(gt=0), Search(1e-4, 1e-2, log=True)] = 4e-3
    """Of AdamW at its peak, after warm-up."""
    head_rate: Annotated[float, Field(gt=0), Search(0.5, 20.0, log=True)] = 1.0
    """Factor on the learning rate of everything that is not the backbone."""
    weight_decay: Annotated[float, Field(ge=0), Search(1e-4, 0.3, log=True)] = 0.05
    """Of AdamW, on weight matrices only."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the running average of the weights that is used afterwards; 0 uses the last weights."""
    average: Average = "ema"
    """Of the weights: ema, or checkpoints, the equal average of the last epochs' with batch normalisation
    estimated anew; then ema is not used."""
    checkpoints: Annotated[int, Field(ge=1)] = 10
    """How many of the last epochs average=checkpoints takes."""
    augment: Strength = "auto"
    """How much each photo is changed at every step: steady is heavy, but hardly moved; turned is heavy in any
    direction; auto: steady behind a crop, which has just put the animal in its place, else heavy."""
    precision: Precision = "auto"
    """Of the network: bf16 on GPUs and fp32 elsewhere, or as said."""

    @model_validator(mode="after")
    def _small_before_all(self) -> Self:
        if self.small_epochs > self.epochs:
            raise ValueError(f"small_epochs={self.small_epochs} is more than epochs={self.epochs}; lower it")
        return self

    @model_validator(mode="after")
    def _as_many_epochs_as_checkpoints(self) -> Self:
        if self.average == "checkpoints" and self.checkpoints > self.epochs:
            raise ValueError(
                f"average=checkpoints cannot take checkpoints={self.checkpoints} of epochs={self.epochs}; "
                f"lower checkpoints"
            )
        return self

    def track(self) -> str:
        """Network, start, pixels and epochs: what rows of one table share."""
        pixels = _in_words(self.size)
        if self.small_epochs:
            pixels = f"{self.small_epochs} at {_in_words(self.small_size)}, then {pixels}"
        return f"{self.backbone} {self.starting_weights()}, {self.epochs} epochs, {pixels}"

    def starting_weights(self) -> str:
        """The weights the network starts from, in words."""
        start = {"none": "from scratch", "timm": "timm weights"}.get(self.pretrained, self.pretrained)
        if Path(start).is_file():
            with Path(start).open("rb") as file:
                # Files of one name may hold different weights.
                start = f"{Path(start).name} {hashlib.file_digest(file, 'sha256').hexdigest()[:8]}"
        return start

    def without_download(self) -> Self:
        """The same without weights to start from, for a network whose learned weights are at hand."""
        return self.model_copy(update={"pretrained": "none"})

    def augmentation(self) -> Augmentation:
        """How much each photo is changed at every step."""
        return STRENGTHS["heavy" if self.augment == "auto" else self.augment]

    def first_kept(self) -> int | None:
        """The first epoch, from 1, of those of which the best on valid is kept; None keeps the last one."""
        return None

    def size_at(self, epoch: int) -> tuple[int, int]:
        """Height and width of the photos in an epoch counted from 0."""
        return self.small_size if epoch < self.small_epochs else self.size

    def rate_of(self, parameter: str) -> float:
        """Factor on the learning rate of the parameter of that name."""
        return 1.0 if "backbone" in parameter else self.head_rate

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every size the photos are needed at, that of the scores first."""
        return (self.size, self.small_size) if self.small_epochs else (self.size,)


Network = TypeVar("Network", bound=nn.Module)
Loss = TypeVar("Loss", bound=nn.Module)


def train_network(
    network: Network,
    loss: Loss,
    train: Photos,
    config: TrainingConfig,
    harness: Harness,
    validate: Callable[[Network, Loss], NDArray[np.float32] | None],
    before_step: Callable[[Loss, float], None] | None = None,
    *,
    target: Callable[[Batch], object] = lambda batch: batch.labels,
    artefact: str = "network",
    sampler: Sampler | None = None,
    validate_every: int = 1,
    also: Mapping[str, Stateful] = NOTHING,
) -> tuple[Network, Loss]:
    """Network and loss as they stand after training (their average as configured), in evaluation mode.

    Where the configuration keeps the best epoch they stand as after that one, whose number is written down.
    network maps pixels (photos, 3, h, w) to what loss takes together with the target, which is the labels
    (photos,) unless something else is read from the batch; both are trained. validate gives the scores of the
    valid photos, once after every epoch, or after every so many and the last, or None; before_step may change
    the loss by the share of training that is done. The photos go to the harness as the lineage of the
    artefact; the sampler says which are seen together, every photo once an epoch unless given; those with
    guessed labels are drawn at their share. A run that was stopped goes on after its last kept epoch; what
    validate changes between epochs, besides the sampler, is named by `also`. Raises RunFailedError when the
    loss is no longer finite.
    """
    order = mixing(sampler or Shuffled(len(train), config.batch_size), train)
    trainer = _Trainer(nn.ModuleList([network, loss]), order, config, harness)
    snapshot = Snapshot(config.first_kept())
    harness.fitted(artefact, train)
    done = harness.resume(trainer.parts() | {"snapshot": snapshot} | dict(also))
    for number in range(done + 1, config.epochs + 1):
        started = time.perf_counter()
        mean, rate, photos = trainer.epoch(number, train, before_step, target)
        seconds = time.perf_counter() - started
        kept = trainer.average.kept.eval()
        watched = number % validate_every == 0 or number == config.epochs
        scores = validate(cast(Network, kept[0]), cast(Loss, kept[1])) if watched else None
        if scores is not None and snapshot.takes(number):
            snapshot.offer(number, harness.valid_map_at_5(scores), kept)
        harness.epoch(Epoch(number, config.epochs, mean, rate, photos, seconds, scores))
    kept = trainer.average.kept.eval()
    if snapshot.best:
        snapshot.put_back(kept)
        harness.choose(f"{artefact}_epoch", snapshot.best)
    return cast(Network, kept[0]), cast(Loss, kept[1])


class _Trainer:
    """Everything that changes while a network is trained."""

    def __init__(self, both: nn.ModuleList, order: Sampler, config: TrainingConfig, harness: Harness) -> None:
        self.both, self.order, self.config = ready(both, harness.device), order, config
        self.average = build_average(
            both, config.average, epochs=config.epochs, decay=config.ema, checkpoints=config.checkpoints
        )
        self.steps = order.steps * config.epochs
        self.optimizer, self.schedule = _optimizer(both, config, self.steps)
        self.generator = torch.Generator().manual_seed(harness.seed)
        self.device = harness.device

    def parts(self) -> dict[str, Stateful]:
        """What is kept after an epoch, by name."""
        parts: dict[str, Stateful] = {
            "network_and_loss": self.both,
            "average": self.average,
            OPTIMIZER: KeptOptimizer(self.optimizer),
            "schedule": self.schedule,
            "generator": KeptGenerator(self.generator),
        }
        return parts | ({"sampler": self.order} if isinstance(self.order, Stateful) else {})

    def epoch(
        self,
        number: int,
        train: Photos,
        before_step: Callable[[Any, float], None] | None,
        target: Callable[[Batch], object],
    ) -> tuple[float, float, int]:
        """The mean loss over photos, the last learning rate and the photos of that epoch, from 1."""
        config, done = self.config, (number - 1) * self.order.steps
        self.both.train()
        values, photos = [], 0
        for step, indices in enumerate(self.order.epoch(self.generator), done):
            if before_step:
                before_step(self.both[1], step / self.steps)
            batch = train.batch(indices, config.size_at(number - 1), self.device)
            rate = float(self.schedule.get_last_lr()[0])
            changed = augment(batch, config.augmentation(), self.generator)
            value = _step(self.both, changed.pixels, target(changed), config, self.optimizer)
            self.schedule.step()
            self.average.after_step(step + 1)
            values.append(value * len(indices))
            photos += len(indices)
        mean = _mean_loss(values, photos, number, rate)
        with autocast(config.precision, self.device):
            self.average.after_epoch(number, _plain(train, config, self.device, self.generator))
        return mean, rate, photos


def _plain(
    train: Photos, config: TrainingConfig, device: torch.device, generator: torch.Generator
) -> Iterator[Tensor]:
    """One pass over the photos as they are, shuffled: those of one individual alone would vary too little."""
    for indices in Shuffled(len(train), config.batch_size).epoch(generator):
        batch = train.batch(indices, config.size_at(config.epochs), device)
        yield batch.pixels.contiguous(memory_format=torch.channels_last)


def _step(
    both: nn.ModuleList,
    pixels: Tensor,
    target: object,
    config: TrainingConfig,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    network, loss = both
    with autocast(config.precision, pixels.device):
        output = network(pixels.contiguous(memory_format=torch.channels_last))
    value: Tensor = loss(output, target)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(both.parameters(), CLIP)
    optimizer.step()
    return value.detach()


def predict(
    module: Callable[[Tensor], Tensor],
    photos: Photos,
    config: TrainingConfig,
    device: torch.device,
    size: Size | None = None,
) -> NDArray[np.float32]:
    """What module makes of all photos, in order, at the size given or configured, on the CPU."""
    outputs = []
    size = size or config.size_at(config.epochs)
    with torch.inference_mode(), autocast(config.precision, device):
        for batch in photos.batches(size, max(64, config.batch_size), device):
            pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
            outputs.append(module(pixels).float().cpu())
    return torch.cat(outputs).numpy()


def ready(module: Network, device: torch.device) -> Network:
    """The module on the device, as `predict` wants it: in evaluation mode, its convolutions channels last."""
    module.to(device)
    module.to(memory_format=torch.channels_last)
    return module.eval()


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a network computes at that precision."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _optimizer(
    both: nn.ModuleList, config: TrainingConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in both.named_parameters():
        # Biases, normalisation and pooling exponents are not decayed: it would pull them to zero for nothing.
        groups.setdefault((config.rate_of(name), parameter.ndim > 1), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * rate,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (rate, decayed), parameters in groups.items()
        ],
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=next(both.parameters()).device.type in ("cpu", "cuda"),
    )
    rising = max(1, round(config.warm_up * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _in_words(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


def _mean_loss(values: list[Tensor], photos: int, epoch: int, rate: float) -> float:
    """The mean over photos of the losses of the steps; raises RunFailedError naming a step that has none."""
    each = torch.stack(values)
    broken = torch.nonzero(~each.isfinite())
    if len(broken):
        step = int(broken[0])
        raise RunFailedError(
            f"the loss became {float(each[step])} in step {step + 1} of epoch {epoch}, at learning rate "
            f"{rate:.2g}: lower learning_rate, raise warm_up, or set precision=fp32."
        )
    return float(each.sum()) / photos
