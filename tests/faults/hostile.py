"""A method of another package that does what HOSTILE_DEED names, when HOSTILE_WHEN comes; honest otherwise.

`tests/faults/guests.py` copies this file into a package of its own and installs it for one process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from whalebench.methods.method import Epoch, Method, MethodConfig

ESCAPES = "red \x1b[31m and \x1b]0;title\x07\nnext \r[bold]line[/bold] " + "long " * 200


class Unspeakable(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no word")


def fail(error: BaseException) -> Callable[[], object]:
    """What raises the error."""

    def deed() -> object:
        raise error

    return deed


def close_stdout() -> None:
    """Leaves nothing to print on."""
    sys.stdout.close()
    sys.stdout = None  # type: ignore[assignment]


def forever() -> None:
    """Never ends."""
    while True:
        time.sleep(0.1)


def recurse() -> None:
    """Calls itself until that cannot be."""
    recurse()


def change_all() -> None:
    """Changes what belongs to the whole process."""
    os.chdir("/")
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    np.seterr(all="raise")
    np.random.seed(3)  # noqa: NPY002  (that is what is wrong with it)
    torch.manual_seed(3)


DEEDS: dict[str, Callable[[], object]] = {
    "print": lambda: print(ESCAPES, "{"),  # noqa: T201
    "write": lambda: os.write(1, b"not JSON\n"),
    "warn": lambda: warnings.warn(ESCAPES, stacklevel=1),
    "change": change_all,
    "close": close_stdout,
    "thread": lambda: threading.Thread(target=forever).start(),
    "exit": lambda: sys.exit(0),
    "exit with words": lambda: sys.exit(ESCAPES),
    "interrupt": fail(KeyboardInterrupt()),
    "base": fail(BaseException(ESCAPES)),
    "generator": fail(GeneratorExit()),
    "error": fail(RuntimeError(ESCAPES)),
    "unspeakable": fail(Unspeakable()),
    "memory": fail(MemoryError()),
    "recursion": recurse,
    "os": fail(OSError(28, "No space left on device", "/x\x1b[31m")),
    "hang": forever,
}
RETURNED: dict[str, Callable[[Any], Any]] = {
    "nan": lambda value: np.full_like(value, np.nan),
    "infinite": lambda value: np.full_like(value, np.inf),
    "too few": lambda value: value[:-1],
    "flat": lambda value: value.ravel(),
    "none": lambda value: None,
    "texts": lambda value: np.full(value.shape, "x"),
    "objects": lambda value: value.astype(object),
    "complex": lambda value: value * 1j,
    "list": lambda value: [["x"]],
    "number": lambda value: 3,
}
TOLD: dict[str, Callable[[Any, Any], object]] = {
    "stage number": lambda harness, photos: harness.stage(3),
    "stage escapes": lambda harness, photos: harness.stage(ESCAPES),
    "choose text": lambda harness, photos: harness.choose("x", "text"),
    "choose nothing": lambda harness, photos: harness.choose(None, 1.0),
    "warn number": lambda harness, photos: harness.warn(5),
    "fitted number": lambda harness, photos: harness.fitted(7, photos),
    "fitted nothing": lambda harness, photos: harness.fitted("x", None),
    "epoch text": lambda harness, photos: harness.epoch("no"),
    "epoch of texts": lambda harness, photos: harness.epoch(Epoch(*["x"] * 6)),  # type: ignore[arg-type]
    "valid of nothing": lambda harness, photos: harness.valid_map_at_5(None),
    "valid of another shape": lambda harness, photos: harness.valid_map_at_5(np.zeros((1, 1))),
    "confidence of texts": lambda harness, photos: harness.confidence("a", "b"),
    "resume numbers": lambda harness, photos: harness.resume({"a": 3}),
    "scope number": lambda harness, photos: harness.scope(3).__enter__(),
}


def at(when: str) -> str:
    """The deed, if its time has come."""
    deed = os.environ.get("HOSTILE_DEED", "") if os.environ.get("HOSTILE_WHEN") == when else ""
    if deed in DEEDS:
        DEEDS[deed]()
    return deed


at("import")


class HostileConfig(MethodConfig):
    """Fields of `hostile`."""


class Hostile(Method):
    """The individual whose photos are as bright, and whatever else it was told to do."""

    name = "hostile"
    summary = "the individual whose photos are as bright"
    source = "nobody"
    Config = HostileConfig
    config: HostileConfig

    def __init__(self, config: HostileConfig) -> None:
        super().__init__(config)
        at("init")

    def sizes(self) -> tuple[tuple[int, int], ...]:
        at("sizes")
        return ((16, 16),)

    def learn(self, train: Any, valid: Any, harness: Any) -> None:
        deed = at("learn")
        if deed in TOLD:
            TOLD[deed](harness, train)
        known = train.known()
        harness.fitted("means", known)
        levels = self.levels(known)
        self.means = np.array(
            [levels[known.labels == label].mean() for label in range(len(train.identities))]
        )

    def score(self, photos: Any) -> Any:
        return self.given(
            "score", -np.abs(self.levels(photos)[:, None] - self.means[None]).astype(np.float32)
        )

    def embed(self, photos: Any) -> Any:
        return self.given("embed", self.levels(photos)[:, None].astype(np.float32))

    def variants(self, photos: Any) -> Any:
        scores = -np.abs(self.levels(photos)[:, None] - self.means[None]).astype(np.float32)
        return {"other": self.given("variants", scores)}

    def weights(self) -> Any:
        return {"means": self.given("weights", torch.from_numpy(self.means))}

    def levels(self, photos: Any) -> Any:
        """How bright (photos,) they are."""
        return np.concatenate(
            [batch.pixels.mean(dim=(1, 2, 3)).numpy() for batch in photos.batches((16, 16), 64)]
        )

    def given(self, when: str, value: Any) -> Any:
        """What is handed in: the value, or what the deed makes of it."""
        deed = at(when)
        return RETURNED[deed](value) if deed in RETURNED else value
