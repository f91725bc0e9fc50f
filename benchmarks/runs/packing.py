"""States in a file: nested dicts and lists of tensors and numbers, as safetensors with JSON in its header.

Reading one runs no code, whoever wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whalebench import WhalebenchError
from whalebench.benchmarks.workspace import atomic_path, share

STATE = "state"
"""What the description stands under in the file's header."""


def write_state(path: Path, state: object) -> None:
    """Nothing; path then holds the state, whole, or is as it was before.

    The state may have dicts with any keys that may be values too, lists, tuples, tensors, numpy arrays,
    numbers, words and None; TypeError for anything else, OSError where there is no room.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    tensors: dict[str, Tensor] = {}
    described = json.dumps(_describe(state, tensors))
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={STATE: described})
            share(temporary)
    except (SafetensorError, WhalebenchError) as error:
        raise OSError(str(error)) from error


def read_state(path: Path) -> Any:
    """What `write_state` wrote, tensors on the CPU; OSError, ValueError or KeyError for any other file."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            described = (file.metadata() or {})[STATE]
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no whole safetensors file") from error
    return _rebuild(json.loads(described), tensors)


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
