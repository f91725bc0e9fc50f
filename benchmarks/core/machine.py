"""The machine a run is on: device, cores, versions, memory, and whether it is enough."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import RunFailedError, WhalebenchError, __version__

if TYPE_CHECKING:
    import torch

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "pytorch-metric-learning",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "lightgbm",
    "optuna",
    "pillow",
)
"""Whose versions a number may depend on."""

PROGRAMS = ("whalebench", "whalebench.exe")
"""Names of the file that is run when a command is typed."""
CORES = "WHALEBENCH_CORES"
"""The environment variable that keeps a process to so many cores."""
SPINS = "GOMP_SPINCOUNT"
"""The one that tells a thread of GNU's OpenMP, as torch's, how often to look for work before it rests."""
FEW_SPINS = 3000
"""A hundredth of the usual: two runs at a time on two cores are 1.6 times as fast, one alone 1 % slower."""
PARENT = "WHALEBENCH_PARENT"
"""The one that tells a worker which process started it."""
MEMBER = "WHALEBENCH_MEMBER"
"""The one that tells a process of a run on several devices which one it is, and where they meet."""
STORAGE = "WHALEBENCH_STORAGE"
"""The one that holds the URL of a study's storage, and its password: others see the words of a command."""
CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
"""What a container may use and does use."""

DEVICES = ("nvidia[0-9]*", "dxg", "kfd")
"""Files in /dev of graphics processors: of NVIDIA, of such within Windows, of AMD."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def is_program(file: str | None) -> bool:
    """Whether what is run by that file is our command, by its name or as `python -m whalebench`."""
    path = Path(file or "")
    return path.name in PROGRAMS or path == Path(__file__).parents[2] / "__main__.py"


def cores() -> int:
    """How many processor cores this process may use: all it is given, or fewer if WHALEBENCH_CORES says."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A sweep shares the machine between its runs, also where a process cannot be kept to some cores.
    limit = os.environ.get(CORES, "")
    return min(given, int(limit)) if limit.isdecimal() and int(limit) else given


def let_others_work() -> None:
    """Has threads that wait for work soon leave the processor to others, unless the user says how they wait.

    To be called before torch is imported, which reads it then.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPINS, str(FEW_SPINS))


def is_orphan() -> bool:
    """Whether this process is a worker whose parent is gone; asked once, when it starts.

    From then on the parent's watcher knows it. What this process starts itself is no worker.
    """
    # The parent's number comes with the environment: it may be gone before a worker can look who it is.
    return os.environ.pop(PARENT, "") not in ("", str(os.getppid()))


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is the first accelerator there is, else the processor.

    Also settles how many threads torch takes and that its answers repeat: on a processor always, elsewhere
    where the library has a way that does. Raises WhalebenchError for a device that is not here.
    """
    import torch

    here = ["cpu"]
    if torch.cuda.is_available():
        here = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + ["cuda", *here]
    elif torch.backends.mps.is_available():
        here = ["mps", *here]
    if name != "auto" and name not in here:
        raise WhalebenchError(
            f"device '{name}' is not on this machine: choose one of {', '.join(sorted(here))}, or auto."
        )
    device = torch.device(here[0] if name == "auto" else name)
    torch.set_num_threads(cores())
    # As use_deterministic_algorithms, which would import torch's compiler, too: that takes seconds.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # With it torch fills tensors with NaN before they are computed: a sixth of a step, and nobody reads them.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    return device


def accelerator_signs() -> list[str]:
    """What tells, without torch, whether it would find the accelerators it found before.

    Its version, the variables that hide devices from it, and the devices that the system shows.
    """
    devices = [str(path) for pattern in DEVICES for path in sorted(Path("/dev").glob(pattern))]
    return [_version("torch"), *(os.environ.get(name, "") for name in VISIBLE), *devices]


def has_accelerator() -> bool:
    """Whether there seems to be an accelerator that torch would find; asked without torch."""
    hidden = any(os.environ.get(name) in ("", "-1") for name in VISIBLE)
    is_apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return is_apple or (not hidden and any(any(Path("/dev").glob(pattern)) for pattern in DEVICES))


def versions() -> dict[str, str]:
    """Version by name of this tool, Python and the libraries; "absent" for one that is not installed."""
    return {"whalebench": __version__, "python": platform.python_version()} | {
        name: _version(name) for name in LIBRARIES
    }


def hardware(device: str) -> dict[str, str | int]:
    """The machine in words: system, processor, cores and the device in use."""
    facts: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _proc_value(CPUINFO, "model name") or platform.processor() or "unknown",
        "cores": cores(),
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        facts["accelerator"] = torch.cuda.get_device_name(device)
        facts["accelerator_peak_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return facts


def peak_memory_mb() -> float | None:
    """The most memory this process has held so far, in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)


def free_memory() -> int | None:
    """Bytes that can be had without swapping, of the machine or the container; None where nobody says."""
    available = _proc_value(MEMINFO, "MemAvailable").removesuffix(" kB")
    of_machine = int(available) * 1024 if available.isdecimal() else None
    return min((size for size in (of_machine, _free_of_container()) if size is not None), default=None)


def _free_of_container() -> int | None:
    try:
        # "max" where there is no limit, which is no number either.
        return int(LIMIT.read_text(encoding="utf-8")) - int(USED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def end_with_parent() -> None:
    """Has this process end when the one that started it is gone, however that went.

    As the initializer of a pool of processes: they wait for work on a pipe that they keep open themselves.
    """
    import multiprocessing
    import threading

    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def refuse_full_disk(folder: Path, needed: int, what: str) -> None:
    """Raises RunFailedError where fewer bytes are free on the folder's disk than something needs."""
    free = free_disk(folder)
    if needed > free:
        raise RunFailedError(
            f"{what} needs {_size(needed)} in {folder}, {_size(free)} are free: free some space, then give "
            f"the same command again, or give it a --workspace on another disk."
        )


def refuse_small_memory(needed: int, what: str, remedy: str, free: int | None = None) -> None:
    """Raises RunFailedError where fewer bytes of memory are free than something needs, unless nobody says.

    Those that are free are this machine's, unless given, as for a GPU.
    """
    free = free_memory() if free is None else free
    if free is not None and needed > free:
        raise RunFailedError(f"{what} needs {_size(needed)} of memory, {_size(free)} are free: {remedy}.")


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk that the folder is on, or would be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _size(number: int) -> str:
    """Bytes in words.

    >>> _size(1_234_000_000), _size(5_600_000)
    ('1.2 GB', '5.6 MB')
    """
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


@cache
def place_of_processes() -> str:
    """This machine, its start, and the space its process numbers are from: what makes those comparable."""
    parts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        with suppress(OSError):
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text().strip())
    return " ".join(parts)


def start_time(pid: int) -> str:
    """When the process of that number began, in ticks; empty where there is none, or no telling."""
    try:
        # The name in brackets may hold anything, so count from behind it; the 20th word from there (proc(5)).
        words = Path(f"/proc/{pid}/stat").read_bytes().decode("latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in ("Z", "X") else words[19]


def doctor_rows(workspace: Path) -> list[dict[str, Any]]:
    """What this machine has for work in the workspace, and what to do where it is not enough."""
    facts: dict[str, Any] = {**versions(), **hardware("auto"), "workspace": str(workspace)}
    del facts["device"]
    rows = [_doctor_row(what, value, value != "absent", "pip install it") for what, value in facts.items()]
    free = free_disk(workspace) / 2**30
    rows.append(_doctor_row("free disk", f"{free:.1f} GiB", free > 1, "free at least 1 GiB"))
    return [*rows, _torch_row(), _torchvision_row()]


def _doctor_row(what: str, value: object, is_enough: bool, remedy: str) -> dict[str, Any]:
    return {"what": what, "found": value, "ok": is_enough, "remedy": "" if is_enough else remedy}


def _torch_row() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return _doctor_row("torch", f"does not start: {error}", False, "pip install --force-reinstall torch")
    accelerator = "none: runs on the processor"
    if torch.cuda.is_available():
        accelerator = torch.cuda.get_device_name(0)
    elif torch.backends.mps.is_available():
        accelerator = "Apple MPS"
    return _doctor_row("accelerator", accelerator, True, "")


def _torchvision_row() -> dict[str, Any]:
    try:
        from torchvision.transforms.v2 import functional  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        # The usual reason: a torch and a torchvision that were not made for each other.
        remedy = "install both with one pip command and no version"
        return _doctor_row("torchvision with torch", str(error), False, remedy)
    return _doctor_row("torchvision with torch", "works", True, "")


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _proc_value(file: Path, key: str) -> str:
    """What a file of /proc says first of a key, "" where it says nothing."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
