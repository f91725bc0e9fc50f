"""How the machine is shared between the processes of a sweep: cores and accelerators, one share each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whalebench import WhalebenchError
from whalebench.benchmarks.machine import CORES

if TYPE_CHECKING:
    import torch

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What the numerical libraries take their number of threads from."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Share:
    """What one process may use."""

    threads: int
    cores: tuple[int, ...] = ()
    """The numbers of its own cores; empty where the system does not let us say."""
    accelerator: str = ""
    """The one that it sees, as CUDA_VISIBLE_DEVICES has it; empty: whatever there is."""

    def environment(self) -> dict[str, str]:
        """The environment variables that keep a process to its share."""
        found = dict.fromkeys((*THREADS, CORES), str(self.threads))
        return found | ({VISIBLE: self.accelerator} if self.accelerator else {})

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """A block in which this thread is on the cores of the share, and so is a process that it starts."""
        if not self.cores:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def shares(jobs: int | None, device: torch.device, asked: str) -> tuple[Share, ...]:
    """A share for each of so many jobs: as many threads each, cores and accelerators of their own.

    Unless said, there is a job for each accelerator, or for every two cores. Raises WhalebenchError for none.
    """
    if jobs is not None and jobs < 1:
        raise WhalebenchError(f"--jobs {jobs} cannot be: at least one process has to work.")
    ours = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = len(ours) or os.cpu_count() or 1
    accelerators = _accelerators(device, asked)
    jobs = jobs or (len(accelerators) or 1 if device.type != "cpu" else max(1, count // 2))
    return deal(jobs, count, ours, accelerators)


def deal(jobs: int, count: int, ours: Sequence[int], accelerators: Sequence[str]) -> tuple[Share, ...]:
    """The shares of `jobs` processes on `count` cores, numbered `ours` where known; more jobs share cores.

    >>> [share.cores for share in deal(2, 5, range(5), ())]
    [(0, 1), (2, 3)]
    """
    # As many threads each, so that a run's numbers do not depend on the share it happened to get.
    threads = max(1, count // jobs)
    return tuple(
        Share(
            threads,
            tuple(ours[(job * threads + own) % count] for own in range(threads)) if ours else (),
            accelerators[job % len(accelerators)] if accelerators else "",
        )
        for job in range(jobs)
    )


def _accelerators(device: torch.device, asked: str) -> list[str]:
    """The accelerators to deal out; none where one was named, or where there are none to choose from."""
    if device.type != "cuda" or asked not in ("auto", "cuda"):
        return []
    import torch  # noqa: PLC0415  (loaded already: the device is one of its own)

    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return visible[:count] if visible else [str(index) for index in range(count)]
