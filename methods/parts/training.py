"""The training loop every network shares: AdamW, warm-up and cosine, weight averaging, one seed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from whalebench import RunFailedError
from whalebench.benchmarks.photos import Batch, Photos, Size
from whalebench.methods.method import Epoch, Harness, MethodConfig, Search
from whalebench.methods.parts.augment import STRENGTHS, Strength, augment
from whalebench.methods.parts.narrow_resnet import NARROW_RESNET

Precision = Literal["auto", "fp32", "bf16"]

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


class TrainingConfig(MethodConfig):
    """Fields of every method that trains a network on photos."""

    backbone: str = NARROW_RESNET
    """Any timm network by name, or narrow_resnet10: small, and quick to train from scratch on a processor."""
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
    label_smoothing: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.2)] = 0.0
    """Share of the target spread over all identities."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the running average of the weights that is used afterwards; 0 uses the last weights."""
    augment: Strength = "heavy"
    """How much each photo is changed at every step."""
    precision: Precision = "auto"
    """Of the network: bf16 on GPUs and fp32 elsewhere, or as said."""

    @model_validator(mode="after")
    def _small_before_all(self) -> Self:
        if self.small_epochs > self.epochs:
            raise ValueError(f"small_epochs={self.small_epochs} is more than epochs={self.epochs}; lower it")
        return self

    def track(self) -> str:
        """Network, start, pixels and epochs: what rows of one table share."""
        start = {"none": "from scratch", "timm": "timm weights"}.get(self.pretrained, self.pretrained)
        if Path(start).is_file():
            with Path(start).open("rb") as file:
                # Files of one name may hold different weights.
                start = f"{Path(start).name} {hashlib.file_digest(file, 'sha256').hexdigest()[:8]}"
        pixels = _in_words(self.size)
        if self.small_epochs:
            pixels = f"{self.small_epochs} at {_in_words(self.small_size)}, then {pixels}"
        return f"{self.backbone} {start}, {self.epochs} epochs, {pixels}"

    def size_at(self, epoch: int) -> tuple[int, int]:
        """Height and width of the photos in an epoch counted from 0."""
        return self.small_size if epoch < self.small_epochs else self.size

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
    validate: Callable[[Network, Loss], NDArray[np.float32]],
    before_step: Callable[[Loss, float], None] | None = None,
) -> tuple[Network, Loss]:
    """Network and loss as they stand after training (their running average if `ema`), in evaluation mode.

    network maps pixels (photos, 3, h, w) to what loss takes together with labels (photos,); both are trained.
    validate gives the scores of the valid photos, once after every epoch; before_step may change the loss by
    the share of the training that is done. Raises RunFailedError when the loss is no longer finite.
    """
    from timm.utils.model_ema import ModelEmaV3  # noqa: PLC0415  (seconds to import)

    both = nn.ModuleList([network, loss]).to(harness.device)
    both.to(memory_format=torch.channels_last)
    average = ModelEmaV3(both, decay=config.ema, use_warmup=True) if config.ema and config.epochs else None
    kept = average.module if average else both
    # Never more steps than pairs of photos: batch normalisation cannot learn from one alone.
    steps = max(1, min(math.ceil(len(train) / config.batch_size), len(train) // 2))
    optimizer, schedule = _optimizer(both, config, steps * config.epochs)
    generator = torch.Generator().manual_seed(harness.seed)
    for number in range(1, config.epochs + 1):
        started, total = time.perf_counter(), torch.zeros((), device=harness.device)
        both.train()
        for step, indices in enumerate(_shuffled(len(train), steps, generator)):
            if before_step:
                before_step(loss, (number - 1 + step / steps) / config.epochs)
            batch = train.batch(indices, config.size_at(number - 1)).to(harness.device)
            rate = float(schedule.get_last_lr()[0])
            value = _step(both, augment(batch, STRENGTHS[config.augment], generator), config, optimizer)
            schedule.step()
            if average:
                # The count makes the average follow quickly at first and forget where it started.
                average.update(both, step=(number - 1) * steps + step + 1)
            total += value * len(indices)
        mean = float(total) / len(train)
        _refuse_divergence(mean, number, rate)
        seconds = time.perf_counter() - started
        kept.eval()
        scores = validate(cast(Network, kept[0]), cast(Loss, kept[1]))
        harness.epoch(Epoch(number, config.epochs, mean, rate, len(train), seconds, scores))
    kept.eval()
    return cast(Network, kept[0]), cast(Loss, kept[1])


def _step(
    both: nn.ModuleList, batch: Batch, config: TrainingConfig, optimizer: torch.optim.Optimizer
) -> Tensor:
    network, loss = both
    with autocast(config.precision, batch.pixels.device):
        output = network(batch.pixels.contiguous(memory_format=torch.channels_last))
    value: Tensor = loss(output, batch.labels)
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
    with torch.inference_mode(), autocast(config.precision, device):
        for batch in photos.batches(size or config.size, max(64, config.batch_size)):
            pixels = batch.pixels.to(device).contiguous(memory_format=torch.channels_last)
            outputs.append(module(pixels).float().cpu())
    return torch.cat(outputs).numpy()


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a network computes at that precision."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _optimizer(
    both: nn.ModuleList, config: TrainingConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in both.named_parameters():
        # Biases, normalisation and pooling exponents are not decayed: it would pull them to zero for nothing.
        groups.setdefault(("backbone" in name, parameter.ndim > 1), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * (1.0 if in_backbone else config.head_rate),
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (in_backbone, decayed), parameters in groups.items()
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


def _shuffled(photos: int, steps: int, generator: torch.Generator) -> list[NDArray[np.int64]]:
    """All photos in a new order, in batches of nearly equal size: none is dropped, none is left alone."""
    return np.array_split(torch.randperm(photos, generator=generator).numpy(), steps)


def _in_words(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


def _refuse_divergence(loss: float, epoch: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise RunFailedError(
            f"the loss became {loss} in epoch {epoch} at learning rate {rate:.2g}: "
            f"lower learning_rate, raise warm_up, or set precision=fp32."
        )
