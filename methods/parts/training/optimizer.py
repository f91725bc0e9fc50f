"""The optimizer: AdamW, a linear warm-up and a cosine to zero."""

from __future__ import annotations

import math

import torch
from torch import nn

from whalebench.methods.parts.training.config import TrainingConfig


def build_optimizer(
    both: nn.ModuleList, config: TrainingConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, each parameter at its rate, and its schedule of so many steps: a rise, then a cosine."""
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
