"""Inference: what a network makes of photos, at the precision it was trained in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whalebench.benchmarks.photos import Photos, Size
from whalebench.methods.parts.training.config import Precision, TrainingConfig

Network = TypeVar("Network", bound=nn.Module)

MOST, ROOM = 64, 64 * 256 * 256
"""Photos in one batch, and pixels of all of them together, unless more are learned from at once."""


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
    together = max(config.batch_size, min(MOST, ROOM // (size[0] * size[1])))
    with torch.inference_mode():
        # Photos are read, and cut out, at full precision: a window's corners need more than bf16 has.
        for batch in photos.batches(size, together, device):
            pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
            with autocast(config.precision, device):
                made = module(pixels)
            outputs.append(made.float().cpu())
    return torch.cat(outputs).numpy()


def ready(module: Network, device: torch.device) -> Network:
    """The module on the device, as `predict` wants it: in evaluation mode, its convolutions channels last."""
    module.to(device)
    module.to(memory_format=torch.channels_last)
    return module.eval()


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a network computes at that precision."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda" and _computes_in_bf16())
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


@cache
def _computes_in_bf16() -> bool:
    """Whether the GPU has it, and need not make it up, which is slower than fp32."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
