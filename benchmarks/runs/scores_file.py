"""The file of a run's scores: those of valid and test, and the embeddings, for fusing runs; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.workspace import share

SCORES = "scores.safetensors"
"""Scores and embeddings of valid and test, for fusing runs; the names of rows and columns in its header."""


def write_scores(
    folder: Path, arrays: Mapping[str, NDArray[np.float32]], names: Mapping[str, Sequence[str]]
) -> None:
    """Nothing; the arrays stand in the folder, with what their rows and columns are in the header."""
    write_arrays(folder / SCORES, arrays, "names", names)


def write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]], entry: str, header: Any) -> None:
    """Nothing; the file holds the arrays, and in its header under that entry what can be said as JSON."""
    from safetensors.numpy import save_file  # noqa: PLC0415

    # One entry only: safetensors writes several in a changing order, and equal runs shall be equal files.
    save_file(
        {name: np.ascontiguousarray(v) for name, v in arrays.items()}, file, {entry: json.dumps(header)}
    )
    share(file)


def read_arrays(
    file: Path, wanted: Sequence[str], entry: str
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]]]:
    """Those of the wanted arrays that a safetensors file of a run has, and an entry of its header.

    Raises WhalebenchError for a file that cannot be read, or whose header lacks the entry.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(file, "np") as opened:
            there = set(opened.keys())
            arrays = {name: opened.get_tensor(name) for name in wanted if name in there}
            return arrays, json.loads(opened.metadata()[entry])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({error}): repeat the run with --force.") from error
