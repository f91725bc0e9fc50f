"""How every network is trained and asked: one loop, one optimizer, averaged weights; and `predict`.

AdamW, or SGD, with a linear warm-up and a cosine to zero, or a floor, which may begin anew. What changes
during a training is named, so that one that was stopped goes on as if it had not been, and so that a cycle
goes on where the one before ended.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whalebench import RunFailedError
from whalebench.benchmarks.core.checkpoint import Stateful
from whalebench.benchmarks.core.photos import Batch, Photos, Size
from whalebench.methods.method import Epoch, Harness, RateSearch
from whalebench.methods.parts.augment import augment
from whalebench.methods.parts.training.averaging import CheckpointAverage, LastWeights, RunningAverage
from whalebench.methods.parts.training.config import Precision, TrainingConfig
from whalebench.methods.parts.training.devices import WORLD
from whalebench.methods.parts.training.pseudo_labels import pseudo_label_sampler
from whalebench.methods.parts.training.samplers import Sampler, Shuffled
from whalebench.methods.parts.training.starting import StartConfig, begin


def build_optimizer(
    both: nn.ModuleList, config: TrainingConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer, each parameter at its rate, and its schedule of so many steps: a rise, then cosines."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in both.named_parameters():
        # Biases, normalisation and pooling exponents are not decayed: it would pull them to zero for nothing.
        groups.setdefault((config.rate_of(name), parameter.ndim > 1), []).append(parameter)
    apart = [
        {
            "params": parameters,
            "lr": config.learning_rate * rate,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (rate, decayed), parameters in groups.items()
    ]
    fused = next(both.parameters()).device.type in ("cpu", "cuda")
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(apart, momentum=0.9, fused=fused)
    else:
        optimizer = torch.optim.AdamW(apart, betas=(0.9, 0.999), eps=1e-8, fused=fused)
    optimizer.register_load_state_dict_post_hook(restore_layout)
    restart = round(config.restart_epochs() * steps / config.epochs) if config.epochs else steps
    first = min(restart, steps) or steps
    rising = max(1, round(config.rising(first) * first))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        begins = min(step, steps - 1) // restart * restart if restart else 0
        # The first cosine follows the rise; the last one is as long as there are steps left.
        begins, ends = max(rising, begins), min(steps, begins + restart if restart else steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - begins) / max(1, ends - begins))))
        return config.floor + (1 - config.floor) * cosine

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def build_average(both: nn.ModuleList, config: TrainingConfig) -> LastWeights:
    """The configured average over network and loss; none where nothing is trained or the decay is 0."""
    if config.average == "checkpoints":
        return CheckpointAverage(both, config.epochs, config.checkpoints)
    return RunningAverage(both, config.ema) if config.epochs and config.ema else LastWeights(both)


class BestEpoch:
    """The weights of the best epoch so far by valid, of equally good ones the first."""

    def __init__(self, first: int | None = 1) -> None:
        """Only epochs from the first on are looked at, none where there is no first one."""
        self.first = first
        self.best = 0
        """The best epoch, from 1; 0 where none was offered."""
        self._value = float("-inf")
        self.weights: dict[str, Tensor] = {}
        """After the best epoch."""

    def takes(self, epoch: int) -> bool:
        """Whether the epoch of that number, from 1, may be the best."""
        return self.first is not None and epoch >= self.first

    def offer(self, epoch: int, value: float, module: nn.Module) -> None:
        """Takes note of the module as it is after the epoch, which is worth so much on valid."""
        if value > self._value:
            self.best, self._value = epoch, value
            self.weights = {name: each.detach().clone() for name, each in module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """The best weights so far, and how good they are."""
        return {"best": self.best, "value": self._value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.best, self._value, self.weights = state["best"], state["value"], state["weights"]


def restore_layout(optimizer: torch.optim.Optimizer) -> None:
    """Puts the state of an optimizer in the memory layout of its parameters, for after it was loaded.

    By itself torch leaves it in the layout it was stored in, which fused steps do not check.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


class KeptGenerator(torch.Generator):
    """A generator of random numbers whose state is kept after every epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {"state": self.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.set_state(state["state"])


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
    """What module makes of photos (photos, ...), in order, at the size given or configured, on the CPU."""
    at = size or config.size_at(config.epochs)
    together = max(config.batch_size, min(MOST, ROOM // (at[0] * at[1])))

    def of_batches(part: slice) -> Tensor:
        outputs = []
        # Photos are read, and cut out, at full precision: a window's corners need more than bf16 has.
        for batch in photos.batches(at, together, device, part):
            pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
            with autocast(config.precision, device):
                made = module(pixels)
            outputs.append(made.float().cpu())
        return torch.cat(outputs)

    with torch.inference_mode():
        return WORLD.predicted(photos, together, of_batches).numpy()


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


OPTIMIZER, GROUPS = "optimizer", "param_groups"
OF_ONE_TRAINING = ("average", "schedule", "snapshot")
"""Parts that begin anew in every cycle; so do the groups of the optimizer, in which the learning rate is."""

WATCHED = 256
"""Photos of a part, evenly taken, on which the loss is watched."""

CLIP = 10.0
"""Longest gradient of one step."""

Ended = dict[int, dict[str, dict[str, Any]]]
"""By the turn of a training in its cycle: the states of its parts when it ended."""


class CarryOver:
    """The trainings of one cycle, each of which goes on where the same one of the cycle before ended."""

    def __init__(self, before: Ended) -> None:
        """before is what the last cycle left in `ended`."""
        self.ended: Ended = dict(before)
        """How the trainings ended; those that were not trained again, as in the cycle before."""
        self._before, self._turn = before, 0

    def begin(self, parts: Mapping[str, Stateful], done: int) -> None:
        """Puts the parts of the next training where it goes on from, unless so many epochs of it are done."""
        self._turn += 1
        if done:
            return
        for name, state in self._before.get(self._turn, {}).items():
            # What is not carried over stays as it is.
            parts[name].load_state_dict({**parts[name].state_dict(), **state})

    def end(self, parts: Mapping[str, Stateful]) -> None:
        """Keeps a copy of the parts as they are after the last epoch, from which the next cycle goes on."""
        kept = {name: part for name, part in parts.items() if name not in OF_ONE_TRAINING}
        states = {name: copy.deepcopy(dict(part.state_dict())) for name, part in kept.items()}
        states.get(OPTIMIZER, {}).pop(GROUPS, None)
        self.ended[self._turn] = states


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
    also: Mapping[str, Stateful] | None = None,
    valid: Photos | None = None,
) -> tuple[Network, Loss]:
    """Trains network and loss, a head with weights of its own; both averaged as configured, to be evaluated.

    Where the configuration keeps the best epoch they stand as after that one, whose number is written down.
    network maps pixels (photos, 3, h, w) to what loss takes together with the target, which is the labels
    (photos,) unless something else is read from the batch; both are trained. validate gives the scores
    (valid photos, identities), once after every epoch, or after every so many and the last, or None;
    before_step may change the loss by the share of training that is done, from 0 to 1. The photos go to
    the harness as the lineage of the artefact; the sampler says which are seen together, every photo once an
    epoch unless given; those with guessed labels are drawn at their share. A run that was stopped goes on
    after its last kept epoch; what validate changes between epochs, besides the sampler, is named by `also`;
    valid are photos on which the loss is watched, too, where the configuration asks for that. Raises
    RunFailedError when the loss is no longer finite, and for no photos.
    """
    if not len(train) and config.epochs:
        raise RunFailedError(
            f"{artefact} would learn from no photo: name or annotate more of train, or take fewer bags."
        )
    if isinstance(config, StartConfig):
        begin(network, loss, train, config, harness, train_network)
    order = pseudo_label_sampler(sampler or Shuffled(len(train), config.batch_size), train)
    trainer = _Trainer(nn.ModuleList([network, loss]), order, config, harness)
    snapshot = BestEpoch(config.first_kept())
    harness.fitted(artefact, train)
    if harness.rate_search is not None:
        trainer.try_rates(harness.rate_search, artefact, train, before_step, target)
        if harness.cycle:
            harness.cycle.end(trainer.parts())
        return cast(Network, trainer.both[0].eval()), cast(Loss, trainer.both[1].eval())
    parts = trainer.parts() | {"snapshot": snapshot} | dict(also or {})
    done, cycle = harness.resume(parts), harness.cycle
    if cycle:
        cycle.begin(parts, done)
    for number in range(done + 1, config.epochs + 1):
        started = time.perf_counter()
        mean, rate, photos = trainer.epoch(number, train, before_step, target)
        seconds = time.perf_counter() - started
        kept = trainer.average.kept.eval()
        watched = number % validate_every == 0 or number == config.epochs
        scores = validate(cast(Network, kept[0]), cast(Loss, kept[1])) if watched else None
        if scores is not None and snapshot.takes(number):
            by_loss = config.best_by() == "log_loss"
            worth = -harness.valid_log_loss(scores) if by_loss else harness.valid_map_at_5(scores)
            snapshot.offer(number, worth, kept)
        losses = trainer.watched({"train_loss": train, "valid_loss": valid}, target)
        harness.epoch(Epoch(number, config.epochs, mean, rate, photos, seconds, scores, losses))
    if cycle and config.epochs:
        cycle.end(parts)
    kept = trainer.average.kept.eval()
    if snapshot.best:
        kept.load_state_dict(snapshot.weights)
        harness.choose(f"{artefact}_epoch", snapshot.best)
    return cast(Network, kept[0]), cast(Loss, kept[1])


class _Trainer:
    """Everything that changes while a network is trained."""

    def __init__(self, both: nn.ModuleList, order: Sampler, config: TrainingConfig, harness: Harness) -> None:
        self.both, self.order, self.config = ready(both, harness.device), order, config
        self.average = build_average(both, config)
        self.steps = order.steps * config.epochs
        self.optimizer, self.schedule = build_optimizer(both, config, self.steps)
        self.generator = KeptGenerator()
        self.generator.manual_seed(harness.seed)
        self.device = harness.device
        WORLD.trainings += 1

    def parts(self) -> dict[str, Stateful]:
        """What is kept after an epoch, by name."""
        parts: dict[str, Stateful] = {
            "network_and_loss": self.both,
            "average": self.average,
            OPTIMIZER: self.optimizer,
            "schedule": self.schedule,
            "generator": self.generator,
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
        done = (number - 1) * self.order.steps
        self.both.train()
        values, photos = [], 0
        for step, indices in enumerate(self.order.epoch(self.generator), done):
            if before_step:
                before_step(self.both[1], step / self.steps)
            rate = float(self.schedule.get_last_lr()[0])
            value = self._learn(indices, number, train, target)
            self.average.after_step(step + 1)
            values.append(value * len(indices))
            photos += len(indices)
        mean = _mean_loss(values, photos, number, rate)
        with autocast(self.config.precision, self.device):
            self.average.after_epoch(number, self._plain(train))
        WORLD.refuse_different(self.both)
        return mean, rate, photos

    def try_rates(
        self,
        search: RateSearch,
        artefact: str,
        train: Photos,
        before_step: Callable[[Any, float], None] | None,
        target: Callable[[Batch], object],
    ) -> None:
        """Learns a step at each rate of the search, until it has seen enough; the weights are as before.

        The loss is what it is when a training begins, so that nothing grows but the rate.
        """
        goes_on = search.begin(artefact, self.config) if self.steps else None
        if goes_on is None:
            return
        before = copy.deepcopy(self.both.state_dict())
        peak, rates = self.config.learning_rate, search.rates
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rates[min(step, len(rates) - 1)] / peak
        )
        if before_step:
            before_step(self.both[1], 0.0)
        self.both.train()
        epochs = ((number, indices) for number in count(1) for indices in self.order.epoch(self.generator))
        for _, (number, indices) in zip(rates, epochs, strict=False):
            if not goes_on(float(self._learn(indices, number, train, target))):
                break
        self.both.load_state_dict(before)

    def _learn(
        self, indices: NDArray[np.int64], number: int, train: Photos, target: Callable[[Batch], object]
    ) -> Tensor:
        """The loss of a step on these photos, changed as configured, in the epoch of that number."""
        config, together, part = self.config, len(indices), WORLD.part(len(indices))
        batch = train.part_of_batch(indices, part, config.size_at(number - 1), self.device)
        changed = augment(batch, config.augmentation(), self.generator, together, part)
        return self._step(changed.pixels, target(changed), together)

    def watched(
        self, parts: Mapping[str, Photos | None], target: Callable[[Batch], object]
    ) -> dict[str, float]:
        """The loss of a sample of each part in evaluation mode; nothing unless it is asked for."""
        if not self.config.watch_train:
            return {}
        devices = [self.device] if self.device.type == "cuda" else []
        # What a loss draws must not change what the next epoch draws.
        with torch.no_grad(), torch.random.fork_rng(devices):
            return {name: self._mean_of_sample(photos, target) for name, photos in parts.items() if photos}

    def _mean_of_sample(self, photos: Photos, target: Callable[[Batch], object]) -> float:
        network, loss = self.average.kept.eval()
        sample = np.unique(np.linspace(0, len(photos) - 1, WATCHED).astype(np.int64))
        losses = []
        for places in np.array_split(sample, math.ceil(len(sample) / self.config.batch_size)):
            batch = photos.batch(places, self.config.size_at(self.config.epochs), self.device)
            with autocast(self.config.precision, self.device):
                output = network(batch.pixels.contiguous(memory_format=torch.channels_last))
            losses.append(float(loss(output, target(batch))) * len(places))
        return sum(losses) / len(sample)

    def _step(self, pixels: Tensor, target: object, together: int) -> Tensor:
        """The loss of a step of so many photos, of which this process has the pixels of its part."""
        network, loss = self.both
        with autocast(self.config.precision, self.device), WORLD.as_one(together):
            output = network(pixels.contiguous(memory_format=torch.channels_last))
        value: Tensor = loss(WORLD.gather(output, together), WORLD.gather(target, together))
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        WORLD.average(self.both.parameters())
        _clip([each.grad for each in self.both.parameters() if each.grad is not None])
        self.optimizer.step()
        self.schedule.step()
        return value.detach()

    def _plain(self, train: Photos) -> Iterator[Tensor]:
        """One pass over the photos as they are, shuffled: those of one individual would vary too little."""
        for indices in Shuffled(len(train), self.config.batch_size).epoch(self.generator):
            with torch.autocast(
                self.device.type, enabled=False
            ):  # as in training: photos are cut out exactly
                batch = train.batch(indices, self.config.size_at(self.config.epochs), self.device)
            yield batch.pixels.contiguous(memory_format=torch.channels_last)


def _clip(gradients: list[Tensor]) -> None:
    """Shortens all gradients together to CLIP: torch's clip_grad_norm_ for those of one device and type."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (CLIP / (norm + 1e-6)).clamp(max=1.0))


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
