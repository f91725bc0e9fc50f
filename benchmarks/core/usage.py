"""What a run was given: photos, looks, annotations, pixels, parameters, weights; counted, never declared.

The photos that a method is handed say when they are read, and torch says when they pass through a network,
while the method learns and while it scores test. Torch is imported only then.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from whalebench.benchmarks.core.catalog import PARTS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn
    from torch.utils.hooks import RemovableHandle

STARTING_WEIGHTS = "starting_weights"
"""The attribute of a network that holds the names and digests of the weights it was not drawn with."""
COLOURS = (1, 3, 4)
"""Channels of what is taken for photos: grey, colours, colours and a mask."""
PLURAL = {"box": "boxes", "landmarks": "landmarks", "mask": "masks", "viewpoint": "viewpoints"}


class Usage(BaseModel):
    """What one run was given; by this, and by nothing that a method says of itself, runs are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos_seen: int
    """Photos that all trainings of the run learned from, each as often as it was seen."""
    photos_by_stage: dict[str, int]
    """The same by the stage that saw them."""
    looks: float
    """Images that networks, or the method, looked at for each test photo."""
    annotations: dict[str, dict[str, int]]
    """By box, landmarks, mask, viewpoint, then by train, valid and test: photos on which they were read."""
    pixels: list[str]
    """Height x width, as 80x128, at which photos were read to learn from and to score."""
    parameters: int
    """Of the networks that test photos passed through."""
    weights: dict[str, str]
    """By name the digest of the weights that networks started from; empty for networks from scratch."""
    by_hand: dict[str, JsonValue]
    """The fields with a search range that stand off their defaults, with what they are set to."""
    tuning_budget: str
    """What tuning might spend; empty where nothing was tuned."""


@dataclass
class Tally:
    """Counts that can be added up, and kept with the checkpoint of a training."""

    handed: Counter[str] = field(default_factory=Counter)
    """By stage: train photos read with gradients on,"""
    told: Counter[str] = field(default_factory=Counter)
    """photos that the method said it learned from,"""
    passed: Counter[str] = field(default_factory=Counter)
    """photos that passed through networks with gradients on."""
    annotated: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    """(kind, part) -> rows of the photos on which it was read."""
    pixels: set[str] = field(default_factory=set)
    weights: dict[str, str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Adds what another one counted."""
        for name in ("handed", "told", "passed"):
            getattr(self, name).update(getattr(other, name))
        for key, rows in other.annotated.items():
            self.annotated.setdefault(key, set()).update(rows)
        self.pixels |= other.pixels
        self.weights |= other.weights

    def photos_by_stage(self) -> dict[str, int]:
        """Of each stage the largest of the three counts: a photo read once may be learned from many times."""
        stages = dict.fromkeys((*self.handed, *self.told, *self.passed))
        return {stage: max(self.handed[stage], self.told[stage], self.passed[stage]) for stage in stages}

    def state(self) -> dict[str, Any]:
        """The counts as a checkpoint can hold them."""
        rows = {key: np.array(sorted(each), np.int64) for key, each in self.annotated.items()}
        counts = {name: dict(getattr(self, name)) for name in ("handed", "told", "passed", "weights")}
        return counts | {"annotated": rows, "pixels": sorted(self.pixels)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Tally:
        """The counts that `state` gave."""
        counts = {name: Counter(state[name]) for name in ("handed", "told", "passed")}
        rows = {key: set(each.tolist()) for key, each in state["annotated"].items()}
        return cls(**counts, annotated=rows, pixels=set(state["pixels"]), weights=dict(state["weights"]))


@dataclass(frozen=True)
class PartUsage:
    """What the photos of one part tell the counter of their run."""

    counter: UsageCounter
    part: str
    """train, valid or test."""
    derived: bool = False
    """Whether the photos carry what was made of annotations, which have been counted when they were read."""

    def read(self, photos: int, size: tuple[int, int], *, gradients: bool) -> None:
        """So many photos are read at a size (height, width)."""
        self.counter.read(self.part, photos, size, gradients=gradients)

    def annotated(self, kind: str, rows: NDArray[np.int64]) -> None:
        """Box, landmarks or mask of the photos at some rows are read."""
        if not self.derived:
            self.counter.annotated(kind, self.part, rows)

    @property
    def scored(self) -> bool:
        """Whether each look at these photos counts now."""
        return self.counter.scores(self.part)

    def of_derived(self) -> PartUsage:
        """For the same photos with annotations that were made of theirs."""
        return replace(self, derived=True)


class UsageCounter:
    """Counts while a run learns and while it scores test, and at no other time."""

    def __init__(self) -> None:
        self.stage = ""
        """What the photos that are seen next are counted under."""
        self._phase: Literal["", "learn", "score"] = ""
        self._before, self._present = Tally(), Tally()
        """Until the present training, and since it began."""
        self._test_photos = self._handed = self._passed = 0
        self.photos_spared = 0
        """Photos that a network did not look at, because what it makes of them was kept by an earlier run."""
        self._parameters: dict[int, int] = {}
        """Of networks that scored: parameter's id -> how many numbers it has."""
        self._hook: RemovableHandle | None = None
        """By which torch tells of the next module that is called, or of the end of one that photos pass."""
        self._met: WeakSet[nn.Module] = WeakSet()

    def of(self, part: str) -> PartUsage:
        """What the photos of train, valid or test are to tell."""
        return PartUsage(self, part)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Counts what is learned from."""
        with self._watch("learn"):
            yield

    @contextmanager
    def scoring(self, photos: int) -> Iterator[None]:
        """Counts how the test photos, of which there are so many, are looked at."""
        self._test_photos, self._handed, self._passed, self._parameters = photos, 0, 0, {}
        with self._watch("score"):
            yield

    def begin(self, kept: Mapping[str, Any] | None) -> None:
        """A training begins, or goes on after what was kept of it."""
        self._before.add(self._present)
        self._present = Tally() if kept is None else Tally.of(kept)

    def state(self) -> dict[str, Any]:
        """What was counted since the present training began, to be kept with it."""
        return self._present.state()

    def told(self, photos: int) -> None:
        """The method says that it has learned from so many photos."""
        self._present.told[self.stage] += photos

    def read(self, part: str, photos: int, size: tuple[int, int], *, gradients: bool) -> None:
        """So many photos of a part are read at a size; with gradients on they count as learned from."""
        learned = self._phase == "learn" and gradients and part != "valid"
        if learned:
            self._present.handed[self.stage] += photos
        elif self.scores(part):
            self._handed += photos
        if learned or self._phase == "score":
            self._present.pixels.add(f"{size[0]}x{size[1]}")

    def has_trained(self) -> bool:
        """Whether photos have passed through a network with gradients on."""
        return bool(self._before.passed or self._present.passed)

    def looks(self) -> tuple[int, int]:
        """Test photos that were read to score by, and that passed through networks."""
        return self._handed, self._passed

    def add_looks(self, looks: Sequence[int]) -> None:
        """Adds looks that other processes of the run took, as `looks` gives them."""
        self._handed, self._passed = self._handed + looks[0], self._passed + looks[1]

    def annotated(self, kind: str, part: str, rows: NDArray[np.int64]) -> None:
        """Annotations of a kind are read on photos of a part."""
        if self._phase and len(rows):
            self._present.annotated.setdefault((kind, part), set()).update(rows.tolist())

    def scores(self, part: str) -> bool:
        """Whether looks at photos of a part are counted now."""
        return self._phase == "score" and part == "test"

    def spared(self, network: nn.Module, photos: int) -> None:
        """A network would have looked at so many photos, and what it makes of them was kept: it counts."""
        self.photos_spared += photos
        if self._phase:
            self._meet(network)
            self._passes(network, photos)

    def handed(self, kind: str, part: str, rows: NDArray[np.int64]) -> None:
        """What photos of a part come with counts as read, whether or not the method looks at it."""
        if len(rows):
            self._before.annotated.setdefault((kind, part), set()).update(rows.tolist())

    def usage(self, by_hand: Mapping[str, JsonValue], tuning_budget: str) -> Usage:
        """Everything that was counted, beside what is known of the configuration."""
        whole = Tally()
        for each in (self._before, self._present):
            whole.add(each)
        by_stage = whole.photos_by_stage()
        annotations: dict[str, dict[str, int]] = {}
        for (kind, part), rows in sorted(whole.annotated.items(), key=_place):
            annotations.setdefault(kind, {})[part] = len(rows)
        return Usage(
            photos_seen=sum(by_stage.values()),
            photos_by_stage=by_stage,
            looks=round(max(self._handed, self._passed) / max(1, self._test_photos), 4),
            annotations=annotations,
            pixels=sorted(whole.pixels, key=_pixels),
            parameters=sum(self._parameters.values()),
            weights=dict(sorted(whole.weights.items())),
            by_hand=dict(by_hand),
            tuning_budget=tuning_budget,
        )

    @contextmanager
    def _watch(self, phase: Literal["learn", "score"]) -> Iterator[None]:
        """Has torch tell of every module that is called, for as long as the phase lasts."""
        self._phase = phase
        self._listen()
        try:
            yield
        finally:
            self._phase = ""
            if self._hook is not None:
                self._hook.remove()

    def _listen(self, *_: object) -> None:
        """Has torch tell of the next module that is called, and no longer of what it told of before."""
        from torch.nn.modules.module import register_module_forward_pre_hook

        if self._hook is not None:
            self._hook.remove()
        self._hook = register_module_forward_pre_hook(self._enters)

    def _enters(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """A module is called; what is called within a network that photos pass through is part of it."""
        self._meet(module)
        photos = _photos_in(arguments)
        # What has no parameters, as an augmentation or a normalisation, is no network.
        if not photos or next(module.parameters(), None) is None:
            return
        # Until it is done torch need not tell of any of its modules, which is quicker.
        if self._hook is not None:
            self._hook.remove()
        self._hook = module.register_forward_hook(self._listen, always_call=True)
        self._passes(module, photos)

    def _passes(self, network: nn.Module, photos: int) -> None:
        import torch

        if self._phase == "score":
            self._passed += photos
            self._parameters |= {id(each): each.numel() for each in network.parameters()}
        elif torch.is_grad_enabled():
            self._present.passed[self.stage] += photos

    def _meet(self, module: nn.Module) -> None:
        """Writes down the weights that a module seen for the first time was started from."""
        if module not in self._met:
            self._met.add(module)
            for part in module.modules():
                self._present.weights |= getattr(part, STARTING_WEIGHTS, {})


def _photos_in(arguments: Sequence[object]) -> int:
    """How many photos (..., channels, height, width) there are among the arguments of a module."""
    for each in arguments:
        shape = tuple(getattr(each, "shape", ()))
        if len(shape) > 3 and shape[-3] in COLOURS:
            return math.prod(shape[:-3])
    return 0


def _place(annotated: tuple[tuple[str, str], set[int]]) -> tuple[str, int]:
    """By what (kind, part), rows are sorted: by kind, and train before valid before test."""
    (kind, part), _ = annotated
    return kind, PARTS.index(part)


def _pixels(size: str) -> tuple[int, str]:
    """By what sizes are sorted: from few pixels to many."""
    height, width = size.split("x")
    return int(height) * int(width), size


def add_up(members: Mapping[str, Usage]) -> Usage:
    """What several runs of one fold were given together; stages and fields follow the member's name."""
    every = list(members.values())
    annotations: dict[str, dict[str, int]] = {}
    for usage in every:
        for kind, parts in usage.annotations.items():
            known = annotations.setdefault(kind, {})
            known.update({part: max(photos, known.get(part, 0)) for part, photos in parts.items()})

    def named(field: str) -> dict[str, Any]:
        return {
            f"{name}.{key}": value
            for name, usage in members.items()
            for key, value in getattr(usage, field).items()
        }

    return Usage(
        photos_seen=sum(usage.photos_seen for usage in every),
        photos_by_stage=named("photos_by_stage"),
        looks=round(sum(usage.looks for usage in every), 4),
        annotations=annotations,
        pixels=sorted({size for usage in every for size in usage.pixels}, key=_pixels),
        parameters=sum(usage.parameters for usage in every),
        weights={name: digest for usage in every for name, digest in usage.weights.items()},
        by_hand=named("by_hand"),
        tuning_budget=" and ".join(dict.fromkeys(filter(None, (usage.tuning_budget for usage in every)))),
    )


def track_words(usages: Sequence[Usage], train_photos: Sequence[int]) -> str:
    """What runs of one track have in common, in words; `train_photos` are those of each run's train part.

    Where they differ within the limits of a track, from the least to the most.
    """
    first = usages[0]
    passes = [usage.photos_seen / max(1, photos) for usage, photos in zip(usages, train_photos, strict=True)]
    looks, parameters = [usage.looks for usage in usages], [usage.parameters / 1e6 for usage in usages]
    start = "from scratch" if max(parameters) else "no network"
    if first.weights:
        start = "from " + " + ".join(f"{name} {digest[:8]}" for name, digest in first.weights.items())
    words = [start, f"{' + '.join(first.pixels)} px"]
    words += [f"{PLURAL[kind]} of {' + '.join(parts)}" for kind, parts in sorted(first.annotations.items())]
    words += [
        f"{_counted(passes, 'pass', 'passes')} over train",
        f"{_counted(looks, 'look', 'looks')} a photo",
    ]
    words += [f"{_span(parameters)} M parameters"] if max(parameters) else []
    words += [f"tuned with {first.tuning_budget}"] if first.tuning_budget else []
    return ", ".join(words)


def _counted(values: Sequence[float], one: str, several: str) -> str:
    """As 1 look, 2 looks, 28 to 30 passes."""
    span = _span(values)
    return f"{span} {one if span == '1' else several}"


def _span(values: Sequence[float]) -> str:
    """A value, or the least and the most of several: 30, 28 to 30, 1,297."""
    ends = (f"{each:,.0f}" if each >= 1000 else f"{each:.3g}" for each in (min(values), max(values)))
    return " to ".join(dict.fromkeys(ends))
