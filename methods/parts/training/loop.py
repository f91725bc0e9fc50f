"""The training loop every network shares: one seed, one optimizer, averaged weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whalebench import RunFailedError
from whalebench.benchmarks.photos import Batch, Photos
from whalebench.methods.method import Epoch, Harness, Stateful
from whalebench.methods.parts.training.averaging import build_average
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.inference import autocast, ready
from whalebench.methods.parts.training.mixing import mixing
from whalebench.methods.parts.training.optimizer import build_optimizer
from whalebench.methods.parts.training.samplers import Sampler, Shuffled
from whalebench.methods.parts.training.snapshot import Snapshot
from whalebench.methods.parts.training.state import KeptGenerator, KeptOptimizer
from whalebench.methods.parts.transforms.augment import augment

NOTHING: Mapping[str, Stateful] = MappingProxyType({})
OPTIMIZER, GROUPS = "optimizer", "param_groups"
OF_ONE_TRAINING = ("average", "schedule", "snapshot")
"""Parts that begin anew in a training that goes on from where another one ended; so do the groups of the
optimizer, in which the learning rate is."""

CLIP = 10.0
"""Longest gradient of one step."""


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
        self.optimizer, self.schedule = build_optimizer(both, config, self.steps)
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
        with torch.autocast(device.type, enabled=False):  # as in training: photos are cut out exactly
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
