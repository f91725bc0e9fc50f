"""The launcher that a command line asks for, with what it says of the machines; nothing is connected yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.launching.launcher import Launcher, Resources, check_jobs
from whalebench.benchmarks.running.workers import local_launcher

Name = Literal["local", "ray", "slurm"]
MOST_AT_ONCE = 100
"""Runs that wait in a cluster's own queue, unless --jobs says how many."""
UNITS = {"GB": 10**9, "MB": 10**6}


def choose_launcher(
    name: Name,
    jobs: int | None,
    device: str,
    *,
    cpus: int | None = None,
    gpus: int | None = None,
    memory: str | None = None,
    slurm: Sequence[str] = (),
) -> Launcher:
    """The launcher of that name; raises WhalebenchError for an option that it could only ignore."""
    given = {"--cpus": cpus, "--gpus": gpus, "--memory": memory, "--slurm": slurm or None}
    typed = [option for option, value in given.items() if value is not None]
    if name == "local" and typed:
        raise WhalebenchError(
            f"{typed[0]} is said of a cluster: add --launcher ray or slurm, or share this machine by --jobs."
        )
    if name == "local":
        return local_launcher(jobs, device)
    if name == "ray" and slurm:
        raise WhalebenchError("--slurm is not for Ray: leave it out, or take --launcher slurm.")
    if jobs is not None:
        check_jobs(jobs)
    resources, jobs = read_resources(cpus, gpus, memory), jobs or MOST_AT_ONCE
    if name == "ray":
        from whalebench.benchmarks.launching.on_ray import RayLauncher

        return RayLauncher(jobs, device, resources)
    from whalebench.benchmarks.launching.on_slurm import SlurmLauncher

    return SlurmLauncher(jobs, device, resources, slurm)


def read_resources(cpus: int | None, gpus: int | None, memory: str | None) -> Resources:
    """What is declared for each run; raises WhalebenchError for what no machine can have.

    >>> read_resources(None, 1, "1.5GB").words()
    '2 CPUs, 1 GPU, 1.5 GB of memory'
    """
    resources = Resources()
    for option, number, least in (("--cpus", cpus, 1), ("--gpus", gpus, 0)):
        if number is not None and not least <= number <= 10_000:
            raise WhalebenchError(f"{option} {number} cannot be: give a whole number from {least}.")
    resources = replace(resources, cpus=cpus or resources.cpus, gpus=gpus or 0)
    if memory is None:
        return resources
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(GB|MB)", memory.strip(), re.ASCII)
    if parts is None or not float(parts[1]):
        raise WhalebenchError(
            f"--memory {one_line(memory, 40)} is no size of memory: write it as 8GB or 500MB."
        )
    return replace(resources, memory=round(float(parts[1]) * UNITS[parts[2]]))
