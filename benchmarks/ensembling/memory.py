"""How much memory is free, as far as the system says."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
"""What a container may use and does use."""


def free_memory() -> int | None:
    """Bytes that can be had without swapping, of the machine or the container; None where nobody says."""
    free = [bytes_ for bytes_ in (_of_machine(), _of_container()) if bytes_ is not None]
    return min(free) if free else None


def _of_machine() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _of_container() -> int | None:
    try:
        # "max" where there is no limit, which is no number either.
        return int(LIMIT.read_text(encoding="utf-8")) - int(USED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
