"""Inference: what a network makes of photos, at the precision it was trained in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whalebench.benchmarks.photos import Photos, Size
from whalebench.methods.parts.training.config import Precision, TrainingConfig

Network = TypeVar("Network", bound=nn.Module)


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
