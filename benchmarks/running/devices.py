"""One run on several devices of this machine: a process on each, which learn as one.

They are the command that was typed, started once for each device and told which of them it is. The first has
the terminal and keeps the record; the others learn and score with it. Where one is lost, all are ended.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.machine import MEMBER, choose_device, cores
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.launching.launcher import PATIENCE, Job
from whalebench.benchmarks.running.runner import TRAININGS, UNFINISHED, RunRequest, goes_on
from whalebench.benchmarks.running.workers import (
    INTERRUPTED,
    PAUSE,
    Share,
    Worker,
    WorkerPool,
    share_machine,
)
from whalebench.methods.registry import name_of


def run_on_devices(request: RunRequest, workspace: Workspace, flags: Sequence[str]) -> int:
    """The exit code of `whalebench run` on so many devices as are requested; after Ctrl-C 130.

    Raises WhalebenchError for devices that are not here, and RunFailedError where a process is lost.
    """
    shares = share_devices(request.device, request.devices)
    request = replace(request, method=name_of(request.method))
    words = Job("run", request, workspace, tuple(flags)).arguments()
    with (
        tempfile.TemporaryDirectory(prefix="whalebench-") as folder,
        WorkerPool([None, *shares[1:]]) as pool,
    ):
        members = []
        for rank, share in enumerate(shares):
            told = f"{rank}/{len(shares)}/{Path(folder) / 'meeting'}"
            with share.pinned():
                members.append(pool.start(words, share.variables() | {MEMBER: told}))
        _watch(members, pool, f"{request.method}-{request.benchmark}-*", workspace)
    return INTERRUPTED if pool.interrupts else members[0].exit_code() or 0


def share_devices(device: str, devices: int) -> tuple[Share, ...]:
    """A share of this machine for each process: a GPU of its own, or as many cores as the others have.

    Raises WhalebenchError for more than there are.
    """
    chosen = choose_device(device)
    here, what = (cores(), "processor core(s)") if chosen.type == "cpu" else (1, "of it")
    if chosen.type == "cuda" and device in ("auto", "cuda"):
        import torch

        here, what = torch.cuda.device_count(), "GPU(s)"
    if not 1 <= devices <= here:
        raise WhalebenchError(
            f"--devices {devices} cannot be with --device {device}: this machine has {here} {what}; give as "
            f"many at most."
        )
    most = max(1, cores() // devices)  # this process may be kept to fewer cores than there are
    shares = share_machine(devices, chosen, device)
    return tuple(replace(share, threads=min(share.threads, most)) for share in shares)


def _watch(members: Sequence[Worker], pool: WorkerPool, runs: str, workspace: Workspace) -> None:
    """Returns when the first member has ended, having said why, or after Ctrl-C.

    Raises RunFailedError where one is lost without a word of the first; then all are ended.
    """
    first = members[0]
    while not pool.interrupts and all(each.is_running() or each.exit_code() == 0 for each in members):
        if not first.is_running():
            return
        time.sleep(PAUSE)
    # What goes wrong in all of them, the first one says, who has the terminal.
    until = time.monotonic() + PATIENCE
    while first.is_running() and not pool.interrupts and time.monotonic() < until:
        time.sleep(PAUSE)
    if pool.interrupts or (not first.is_running() and (first.exit_code() or 0) > 0):
        return
    lost = next(each for each in members if not each.is_running() and each.exit_code())
    kept = (workspace.cache / UNFINISHED).glob(f"{runs}/{TRAININGS}")
    raise RunFailedError(
        f"Process {members.index(lost) + 1} of the {len(members)} of this run is lost ({lost.reason()}). "
        f"Asked for again it {goes_on(kept)}."
    )
