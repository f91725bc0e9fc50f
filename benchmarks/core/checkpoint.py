"""Checkpoints of unfinished runs: the state of each training after its epochs, so that a stopped run goes on.

A state is nested dicts and lists of tensors and numbers, kept as safetensors with JSON in its header: reading
one runs no code, whoever wrote it. Digests of all of it are there, too, and one that differs is not used.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.files import differs_from_digest, regular_file, with_digest
from whalebench.benchmarks.core.machine import refuse_full_disk, refuse_small_memory
from whalebench.benchmarks.core.photos import CPU
from whalebench.benchmarks.core.workspace import atomic_path, atomic_text, inherit_permissions

STATE = "state"
"""What stands in the file's header: the description, and digests of it and of the tensors."""
ADDED = 4
"""How often training adds the size of the weights to memory."""
MAX_SHARE = 0.05
"""Most of the time that may be spent on saving; the last epoch of a training is always saved."""
GENERATORS: Mapping[str, tuple[Callable[..., Any], Callable[..., None]]] = MappingProxyType(
    {
        "cuda": (torch.cuda.get_rng_state, torch.cuda.set_rng_state),
        "mps": (lambda _: torch.mps.get_rng_state(), lambda state, _: torch.mps.set_rng_state(state)),
    }
)
"""By type of device: what gives the state of a device's generator, and what puts it back."""


@runtime_checkable
class Stateful(Protocol):
    """Something that changes while a method learns: networks, optimizers, and samplers that remember."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes, in dicts and lists of tensors, arrays, numbers and words."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Takes up what `state_dict` gave."""


class CheckpointStore:
    """The checkpoints of one unfinished run: a file for each of its trainings, whole or absent.

    It is deleted when the run is written; states of another version of torch, or of other processor
    threads, would not lead to the same numbers and are left alone.
    """

    def __init__(
        self,
        folder: Path | None,
        device: torch.device = CPU,
        max_share: float = MAX_SHARE,
        *,
        writes: bool = True,
    ) -> None:
        """Without a folder nothing is saved, nor where another process does it; device: of the trainings."""
        self.folder, self.device, self.max_share = folder, device, max_share
        self.writes = writes
        self._training, self._next_save = 0, 0.0
        self._parts: dict[str, Stateful] = {}
        self.mismatch = ""
        """Why the training that was begun before cannot go on from its checkpoint; else empty."""

    def begin(self, parts: Mapping[str, Stateful]) -> dict[str, Any] | None:
        """The facts saved with the latest epoch of the next training, its parts and random states restored.

        None, and nothing is changed, where there is no checkpoint, or one that cannot be used: `mismatch`
        says why. Raises WhalebenchError where it does not fit the parts, and RunFailedError where there is no
        room for those that the training will keep.
        """
        self._training += 1
        self._parts, self._next_save, self.mismatch = dict(parts), 0.0, ""
        self._refuse_small_memory()
        self._refuse_full_disk()
        path = self._path()
        if path is None or not path.exists():
            return None
        try:
            kept = read_state(path)
        except (OSError, ValueError, WhalebenchError) as error:
            self.mismatch = f"not to be used ({one_line(error)})"
            return None
        if kept["of"] != self._conditions():
            self.mismatch = f"kept with {kept['of']}, not {self._conditions()}"
            return None
        if kept["parts"].keys() != self._parts.keys():
            return None
        try:
            for name, part in self._parts.items():
                part.load_state_dict(kept["parts"][name])
            self._restore_random_states(kept["random"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            cause = " ".join(str(error).split())
            raise WhalebenchError(
                f"What was kept of this run in {self.folder} does not fit ({cause}): begin anew with --force."
            ) from error
        return dict(kept["facts"])

    def save(self, facts: dict[str, Any], *, last: bool) -> str:
        """Saves the parts as they are now with these facts, unless that was done a short while ago.

        Returns why they cannot be saved, as on a full disk, else "": a run goes on without.
        """
        path, started = self._path(), time.monotonic()
        due = last or started >= self._next_save
        if path is None or not self.writes or not due or math.isinf(self._next_save):
            return ""
        states = {name: dict(part.state_dict()) for name, part in self._parts.items()}
        state = {"of": self._conditions(), "facts": facts, "random": self._random_states(), "parts": states}
        try:
            write_state(path, state)
        except OSError as error:
            self._next_save = math.inf
            return f"{path} cannot be written ({error.strerror or error})"
        ended = time.monotonic()
        self._next_save = ended + (ended - started) / self.max_share
        return ""

    def write_note(self, name: str, text: str) -> Path | None:
        """Writes a text beside the checkpoints, to look into a run that failed.

        Returns its path, or None where there is no folder, or no room in it.
        """
        if self.folder is None or not self.writes:
            return None
        try:
            atomic_text(self.folder / name, text)
        except WhalebenchError:
            return None
        return self.folder / name

    def discard(self) -> None:
        """Deletes all checkpoints of the run."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)  # another process may be about the same run

    def _refuse_small_memory(self) -> None:
        """Raises RunFailedError where there is no room for what the first steps add to the weights.

        That is a gradient, two moments of the optimizer, and the weights of the best epoch.
        """
        weights = max((_count_bytes(part.state_dict()) for part in self._parts.values()), default=0)
        remedy = "lower dimensions, choose a smaller backbone, or a machine with more"
        free = None
        if self.device.type == "cuda":
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = torch.cuda.mem_get_info(self.device)[0] + unused
        refuse_small_memory(ADDED * weights, "What training adds to the weights", remedy, free)

    def _refuse_full_disk(self) -> None:
        """Raises RunFailedError where a training that begins has no room for what is kept of it.

        That is its parts, with two moments that an optimizer adds to every weight, twice, since a checkpoint
        is written before the one before it goes; and the weights, which the run keeps.
        """
        if self.folder is not None and self.writes:
            sizes = [_count_bytes(part.state_dict()) for part in self._parts.values()]
            weights = max(sizes, default=0)
            refuse_full_disk(self.folder, 2 * (sum(sizes) + 2 * weights) + weights, "What a training keeps")

    def _path(self) -> Path | None:
        if self.folder is None or not self._training:
            return None
        return self.folder / f"training-{self._training}.safetensors"

    def _conditions(self) -> str:
        """What a training has to go on under to give the same numbers."""
        if self.device.type == "cuda":
            return f"torch {torch.__version__}, {torch.cuda.get_device_name(self.device)}"
        return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {self.device.type}"

    def _random_states(self) -> dict[str, Any]:
        generator = GENERATORS.get(self.device.type)
        return {
            "torch": torch.get_rng_state(),
            "device": generator[0](self.device) if generator else None,
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  (plug-ins may draw from it)
            "python": random.getstate(),
        }

    def _restore_random_states(self, states: dict[str, Any]) -> None:
        torch.set_rng_state(states["torch"])
        if generator := GENERATORS.get(self.device.type):
            generator[1](states["device"], self.device)
        np.random.set_state(states["numpy"])  # noqa: NPY002
        random.setstate(states["python"])


def write_state(path: Path, state: object) -> None:
    """Writes a state to a file, whole or not at all.

    It may have dicts with any keys that may be values too, lists, tuples, tensors, numpy arrays,
    numbers, words and None; TypeError for anything else, OSError where there is no room.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    described = _describe(state, tensors)
    header = with_digest({"described": described, "tensors": _digest_tensors(tensors)})
    try:
        with atomic_path(path) as temporary:
            # Digests in the file itself, so that a kill leaves both or neither.
            save_file(tensors, temporary, metadata={STATE: json.dumps(header)})
            inherit_permissions(temporary)
    except (SafetensorError, WhalebenchError) as error:
        raise OSError(str(error)) from error


def read_state(path: Path) -> Any:
    """What `write_state` wrote, tensors on the CPU; OSError or ValueError for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(regular_file(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            header = json.loads(file.metadata()[STATE])
            written = not differs_from_digest(header) and header["tensors"] == _digest_tensors(tensors)
    except (SafetensorError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} is no whole checkpoint") from error
    if not written:
        raise ValueError(f"{path.name} differs from its digest")
    return _rebuild(header["described"], tensors)


def _digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, types, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _count_bytes(state: object) -> int:
    """Bytes of the tensors and arrays in a state."""
    if isinstance(state, Tensor | np.ndarray):
        return int(state.nbytes)
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(_count_bytes, inner))


def _describe(value: object, tensors: dict[str, Tensor]) -> Any:
    """The value in JSON; what is large goes to the tensors, and its number there stands for it."""
    described: Any = None
    match value:
        case None | bool() | int() | float() | str():
            described = value
        case np.generic():
            described = value.item()
        case Tensor():
            described = {"tensor": _store(value, tensors)}
        case np.ndarray():
            described = {"array": _store(torch.from_numpy(np.ascontiguousarray(value)), tensors)}
        case dict():
            described = {"dict": [[_describe(part, tensors) for part in pair] for pair in value.items()]}
        case list():
            described = [_describe(part, tensors) for part in value]
        case tuple():
            described = {"tuple": [_describe(part, tensors) for part in value]}
        case _:
            raise TypeError(f"{type(value).__name__} cannot be kept: give tensors, arrays, numbers or words.")
    return described


def _store(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    # A copy: tensors of one state may share memory, which safetensors refuses.
    name = str(len(tensors))
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def _rebuild(described: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(described, list):
        return [_rebuild(part, tensors) for part in described]
    if not isinstance(described, dict):
        return described
    ((kind, content),) = described.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "tuple":
        return tuple(_rebuild(part, tensors) for part in content)
    return {_rebuild(key, tensors): _rebuild(value, tensors) for key, value in content}
