"""Several processes, each on a device of its own, that train one network: N of them learn what one would.

Every process draws the same batches, and reads, changes and passes through the network its part of each.
Outputs are gathered with their gradient, so that losses, miners and memories see the whole batch, as batch
normalisation does; then every process takes the same step. `WORLD` is the processes of this run: one, unless
`join` was called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from whalebench import RunFailedError
from whalebench.benchmarks.core.photos import Photos

Tree = TypeVar("Tree")
"""A tensor with a row a photo; or tuples and lists of such, and of what is no tensor."""
DONE = "done"
"""Stands in the store when the first process needs no other any more."""
LONGEST = timedelta(days=7)
"""How long one process waits for the others, while the first one waits for its turn."""
PATIENCE = 30.0
"""Seconds to be ended in by who started the processes, and knows why one is gone."""


class World:
    """The processes that learn together; of one process alone nothing is asked, and nothing is changed."""

    def __init__(self) -> None:
        self.size, self.rank = 1, 0
        """How many processes, and which of them this is, from 0."""
        self.trainings = self.predictions = self.steps = 0
        """By all of them together: trainings and predictions that were begun, steps in the present epoch."""
        self._store: Any = None

    def join(self, size: int, rank: int, meeting: Path, device: torch.device) -> None:
        """Returns when all of so many processes are here; they meet by a file that none of them has made."""
        self.size, self.rank = size, rank
        self._store = dist.FileStore(str(meeting), size)  # type: ignore[attr-defined]
        self._store.set_timeout(LONGEST)
        # Sums of what is on the processor, too, are taken: scores are.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        os.environ.update(_by_loopback())
        with lost_others():
            dist.init_process_group(backend, store=self._store, world_size=size, rank=rank, timeout=LONGEST)

    def leave(self) -> None:
        """Ends what `join` began: the first process leaves the others, which wait for that."""
        if self._store is None:
            return
        if self.rank == 0:
            self._store.set(DONE, "")
        else:
            self._store.wait([DONE], LONGEST)
        dist.destroy_process_group()
        self.size, self.rank, self._store = 1, 0, None

    def part(self, count: int, rank: int | None = None) -> slice:
        """The places of a process, this one unless said, among so many that are shared out.

        Raises RunFailedError where there are fewer than processes.
        """
        if self.size == 1:
            return slice(None)
        if count < self.size:
            raise RunFailedError(
                f"a step of {count} photos cannot be shared by {self.size} devices: give fewer --devices, or "
                f"raise batch_size."
            )
        each, rest = divmod(count, self.size)
        rank = self.rank if rank is None else rank
        start = rank * each + min(rank, rest)
        return slice(start, start + each + (rank < rest))

    def gather(self, value: Tree, count: int) -> Tree:
        """The rows of all processes in order, of so many photos that each has a part of; with their gradient.

        The gradient of a process is that of its own rows times the number of processes, as each has the whole
        loss: the mean over processes (`average`) is then what one process would have.
        """
        together: Any = value
        if self.size > 1 and isinstance(value, tuple | list):
            together = type(value)(self.gather(each, count) for each in value)
        elif self.size > 1 and isinstance(value, Tensor):
            together = _Gathered.apply(value, count)
        return cast("Tree", together)

    def average(self, parameters: Iterator[nn.Parameter]) -> None:
        """Sets the gradient of each parameter to its mean over the processes, the same bytes in each."""
        if self.size == 1:
            return
        self.steps += 1
        gradients = [each.grad for each in parameters if each.grad is not None]
        for kind in dict.fromkeys(each.dtype for each in gradients):
            these = [each for each in gradients if each.dtype == kind]
            flat = self.sum(torch.cat([each.flatten() for each in these])).div_(self.size)
            for each, mean in zip(these, torch.split(flat, [each.numel() for each in these]), strict=True):
                each.copy_(mean.view_as(each))

    def as_one(self, count: int) -> AbstractContextManager[object]:
        """A block in which a network sees its part of so many photos as it would see them all."""
        return nullcontext() if self.size == 1 else _AsOne(count, self.part(count))

    def sum(self, value: Tensor) -> Tensor:
        """The sum of the tensors of all processes, in place."""
        with lost_others():
            dist.all_reduce(value)
        return value

    def rows(self, mine: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes in order, each of which has so many."""
        padded = mine.new_zeros((max(counts), *mine.shape[1:]))
        padded[: len(mine)] = mine
        each = [torch.empty_like(padded) for _ in counts]
        with lost_others():
            dist.all_gather(each, padded)
        return torch.cat([rows[:count] for rows, count in zip(each, counts, strict=True)])

    def predicted(self, photos: Photos, together: int, predict: Callable[[slice], Tensor]) -> Tensor:
        """What is made of all photos, batch by batch of so many, each batch by one process.

        predict makes the rows of a part of the batches, which are those of one process: so are the rows.
        Where there are fewer batches than processes, each makes all of them.
        """
        self.predictions += 1
        batches = -(-len(photos) // together)
        if self.size == 1 or batches < self.size:
            return predict(slice(None))
        usage = None if photos.usage is None else photos.usage.counter
        before = usage.looks() if usage else (0, 0)
        mine = predict(self.part(batches))
        if usage:
            looked = torch.from_numpy(np.subtract(usage.looks(), before))
            usage.add_looks((self.sum(looked.clone()) - looked).tolist())
        parts = [self.part(batches, rank) for rank in range(self.size)]
        return self.rows(
            mine, [min(part.stop * together, len(photos)) - part.start * together for part in parts]
        )

    def refuse_different(self, module: nn.Module) -> None:
        """Raises RunFailedError where the processes no longer have the same numbers in a module."""
        if self.size == 1:
            return
        sums = [value.detach().double().sum().cpu() for value in module.state_dict().values()]
        mine = torch.stack(sums).sum()[None]
        every = self.rows(mine, [1] * self.size)
        if not bool((every == mine).all()):
            raise RunFailedError(
                f"the {self.size} processes of this run no longer have the same weights, as something was "
                f"drawn or timed by each for itself: leave --devices out."
            )


WORLD = World()
"""The processes of this run."""


@contextmanager
def lost_others() -> Iterator[None]:
    """A block in which processes speak; where one is gone this one waits to be ended, or RunFailedError."""
    try:
        yield
    except RuntimeError as error:
        time.sleep(PATIENCE)
        raise RunFailedError(
            f"the other processes of this run are gone ({str(error)[:80]}): give the same command again."
        ) from error


def _by_loopback() -> dict[str, str]:
    """What has processes of one machine speak by no other network."""
    import socket

    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "")
    return dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback) if loopback else {}


class _Gathered(torch.autograd.Function):
    """The rows of all processes; see `World.gather`."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, count: int) -> Tensor:
        ctx.part = WORLD.part(count)
        parts = [WORLD.part(count, rank) for rank in range(WORLD.size)]
        return WORLD.rows(mine.contiguous(), [part.stop - part.start for part in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.part] * WORLD.size, None


DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


class _AsOne(TorchFunctionMode):
    """Has batch normalisation take its statistics over all processes, and dropout draw for all photos.

    Whatever layer asks for them, and on any device: torch.nn.SyncBatchNorm takes no tensors of a processor.
    """

    def __init__(self, count: int, part: slice) -> None:
        """This process has the part of so many photos."""
        super().__init__()
        self.count, self.part = count, part

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What the function gives, or would give of all photos at once."""
        del types
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs.get("training"):
            return _batch_norm(*args, **kwargs)
        if func in DROPOUTS and kwargs.get("training"):
            return self._dropout(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, func: Any, values: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        """What is left, as drawn for all photos; a photo may have several rows, one after the other."""
        del inplace
        each = len(values) // (self.part.stop - self.part.start)
        like = values.new_ones(()).expand(each * self.count, *values.shape[1:])
        if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
            like = like.contiguous(memory_format=torch.channels_last)
        drawn: Tensor = func(like.clone(), p=p, training=training)
        return values * drawn[each * self.part.start : each * self.part.stop]


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Values (photos, channels, ...) normalised by mean and variance over the photos of all processes."""
    del training
    channels, axes = values.shape[1], [0, *range(2, values.ndim)]
    with torch.no_grad():
        variance, mean = torch.var_mean(values.float(), axes, correction=0)
        count = mean.new_full((1,), values.numel() / channels)
        every = WORLD.rows(torch.cat([mean, variance, count])[None], [1] * WORLD.size)
        means, variances, counts = torch.split(every, [channels, channels, 1], dim=1)
        total = counts.sum()
        # Deviations from the mean of all, not differences of squares, which lose digits.
        mean = (means * counts).sum(dim=0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(dim=0) / total
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
    return cast("Tensor", _BatchNorm.apply(values, weight, bias, mean, variance, total, eps))


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation by given statistics, which are those of the values of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        total: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, (variance + eps).rsqrt(), total)
        return torch.batch_norm(values, weight, bias, mean, variance, False, 0.0, eps, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, scale, total = ctx.saved_tensors
        axes, each = [0, *range(2, values.ndim)], (1, -1, *[1] * (values.ndim - 2))
        gradient = gradient.float()
        normal = (values.float() - mean.view(each)) * scale.view(each)
        of_weight, of_bias = (gradient * normal).sum(axes), gradient.sum(axes)
        of_all = WORLD.sum(torch.stack([of_weight, of_bias])) / total
        inner = gradient - of_all[1].view(each) - normal * of_all[0].view(each)
        scale = scale if weight is None else scale * weight
        of_values = (inner * scale.view(each)).to(values.dtype)
        return of_values, None if weight is None else of_weight, of_bias, None, None, None, None
