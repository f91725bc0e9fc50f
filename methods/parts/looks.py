"""Looks at photos that need no repeating: of a run in memory, of networks that never learn in the cache.

What is remembered is what the network made, to the last bit, and counts as if it had looked again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whalebench import WhalebenchError
from whalebench.benchmarks.core.files import digest_text, regular_file
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.workspace import atomic_path

MOST_BYTES = 1 << 30
"""Of the cache when a run begins to use it: what was not used for longest is removed until it has no more."""
DIGEST_SIZE = 32


class Looks:
    """What a network made of photos since it was done learning, so that a run has it look at none twice."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] | None = None
        self._made: dict[tuple[Hashable, ...], tuple[Photos, NDArray[np.float32]]] = {}

    def begin(self, network: nn.Module) -> None:
        """The network is done learning: from now on what it makes is remembered, until it is changed."""
        self._of, self._made = _state(network), {}

    def of(
        self, network: nn.Module, photos: Photos, how: Hashable, look: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """What `look` gives (photos, ...), or gave for the same photos in the same order, seen as `how` says.

        While test is scored every look is taken, since looks are counted; outside a run all are.
        """
        if self._of is None or photos.usage is None or self._of != _state(network):
            return look()
        key = _asked(photos, how)
        if photos.usage.scored or key not in self._made:
            self._made[key] = photos, look()
        return self._made[key][1]


def _asked(photos: Photos, how: Hashable) -> tuple[Hashable, ...]:
    """What tells photos and how they are seen; they are kept beside it, so no other has their ids."""
    return id(photos.store), photos.rows.tobytes(), id(photos.lens), how


def _state(network: nn.Module) -> tuple[object, ...]:
    """Which tensors the network has, and how often each was written to."""
    tensors = (*network.parameters(), *network.buffers())
    return tuple((id(each), 0 if each.is_inference() else each._version) for each in tensors)


@dataclass(frozen=True)
class LooksOnDisk:
    """A folder of what networks that never learn made of batches of pixels, by the content of all of it.

    A file is a digest and, behind it, an array as numpy writes it; one that differs from its digest is made
    again. Safe to delete at any time.
    """

    folder: Path
    computed_by: Mapping[str, Any]
    """The code, libraries and machine on which each bit may depend."""

    def of(self, network: nn.Module, spared: Callable[[nn.Module, int], None]) -> Callable[[Tensor], Tensor]:
        """The network, but what it made before of the same batch is taken from there; `spared` is told."""
        self._make_room()
        about = json.dumps([self.computed_by, torch.get_num_threads(), str(network)], sort_keys=True)
        whole = hashlib.sha256(about.encode())
        for name, value in network.state_dict().items():
            whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            whole.update(_bytes(value))
        of_network = whole.hexdigest()

        def look(pixels: Tensor) -> Tensor:
            file = self.folder / f"{_key(of_network, pixels)}.npy"
            made = _read(file)
            if made is not None:
                spared(network, len(pixels))
                return torch.from_numpy(made)
            output: Tensor = network(pixels)
            _write(file, output.float().cpu().numpy())
            return output

        return look

    def _make_room(self) -> None:
        """Removes what was not used for longest, so that no more than MOST_BYTES are left."""
        files = [(file.stat(), file) for file in self.folder.glob("*.npy")]
        size = sum(status.st_size for status, _ in files)
        for status, file in sorted(files, key=lambda each: each[0].st_mtime_ns):
            if size <= MOST_BYTES:
                return
            file.unlink(missing_ok=True)
            size -= status.st_size


def _key(of_network: str, pixels: Tensor) -> str:
    kind = pixels.device.type
    precision = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else ""
    shown = hashlib.sha256(_bytes(pixels)).hexdigest()
    layout = [str(pixels.dtype), pixels.shape, pixels.stride()]  # by which sums are put together otherwise
    return digest_text(json.dumps([of_network, precision, layout, shown]))


def _bytes(tensor: Tensor) -> memoryview:
    """All of a tensor, its numbers in the order of its axes, whichever it is kept in."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _read(file: Path) -> NDArray[np.float32] | None:
    """What is kept in the file; None where there is none, or it differs from its digest."""
    try:
        content = regular_file(file).read_bytes()
        if hashlib.sha256(content[DIGEST_SIZE:]).digest() != content[:DIGEST_SIZE]:
            return None
        os.utime(file)  # it has been used
        made: NDArray[np.float32] = np.load(io.BytesIO(content[DIGEST_SIZE:]), allow_pickle=False)
    except (OSError, ValueError, WhalebenchError):
        return None
    return made


def _write(file: Path, made: NDArray[np.float32]) -> None:
    content = io.BytesIO()
    np.save(content, made, allow_pickle=False)
    with suppress(WhalebenchError), atomic_path(file) as temporary:  # without it the next run looks again
        temporary.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())
