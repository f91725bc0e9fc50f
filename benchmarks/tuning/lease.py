"""Who is at work on a trial, so that one whose worker was killed is known and done by another.

Optuna's own heartbeat takes slow workers for dead ones and the other way round, and is for databases only.
A worker on this machine is looked up; of one elsewhere all there is to go by is how long it has been silent.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

LEASE = "lease"
"""The name of the trial's attribute."""
BEAT, PATIENCE = 30.0, 600.0
"""Seconds from one sign of life to the next, and without any until a worker elsewhere is given up."""


def own_lease() -> dict[str, Any]:
    """What this process leaves on its trial: until when it is to be believed alive, and how to look it up."""
    pid = os.getpid()
    return {"until": time.time() + PATIENCE, "place": _place(), "pid": pid, "born": _born(pid)}


def has_run_out(lease: Mapping[str, Any] | None, began: float, *, in_turns: bool = False) -> bool:
    """Whether the worker is gone that left the lease on a trial begun then (seconds since 1970).

    A trial without a lease was begun just now, or its worker died before it could leave one; where workers
    take turns the lease is left within the turn, so that it can only be the latter.
    """
    if lease is None:
        return in_turns or time.time() - began > PATIENCE
    if lease["place"] == _place() and lease["born"]:
        return bool(_born(lease["pid"]) != lease["born"])
    return bool(time.time() > lease["until"])


@contextmanager
def kept_alive(renew: Callable[[dict[str, Any]], None], beat: float = BEAT) -> Iterator[None]:
    """Gives `renew` a new lease at once and every few seconds until the block ends.

    A renewal that fails later is no reason to stop: the trial itself is told when it was given to another.
    """
    renew(own_lease())
    done = threading.Event()

    def keep() -> None:
        while not done.wait(beat):
            with suppress(Exception):  # the storage may be away, or the trial given to another
                renew(own_lease())

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@cache
def _place() -> str:
    """This machine, its start, and the space its process numbers are from: what makes those comparable."""
    parts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        try:
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text().strip())
        except OSError:
            continue
    return " ".join(parts)


def _born(pid: int) -> str:
    """When the process of that number began, in ticks; empty where there is none, or no telling."""
    try:
        # The name in brackets may hold anything, so count from behind it; the 20th word from there (proc(5)).
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in ("Z", "X") else words[19]
