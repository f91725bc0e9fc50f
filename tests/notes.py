"""The harness of tests that teach a method by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from whalebench.benchmarks.core.checkpoint import Stateful
from whalebench.benchmarks.core.photos import Photos
from whalebench.methods.method import Cycle, Epoch, RateSearch


@dataclass
class Notes:
    """Writes down what it is told, likes scores the more the larger their sum, and keeps nothing."""

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    epochs: list[Epoch] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    chosen: dict[str, float | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    lineage: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Part -> digests of the photos it was fitted on."""
    fitted_on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Part -> their images."""

    cycle: Cycle | None = None
    rate_search: RateSearch | None = None
    unlabelled: Photos | None = None
    scopes: tuple[str, ...] = ()
    part_scopes: tuple[str, ...] = ()

    @contextmanager
    def scope(self, name: str, cycle: Cycle | None = None, *, same_photos: bool = False) -> Iterator[None]:
        before = self.scopes, self.part_scopes, self.cycle
        self.scopes, self.cycle = (*self.scopes, name), cycle
        self.part_scopes += () if cycle or same_photos else (name,)
        yield
        self.scopes, self.part_scopes, self.cycle = before

    def stage(self, name: str) -> None:
        self.stages.append(".".join((*self.scopes, name)))

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        del parts
        return 0

    def inner_folds(self, count: int) -> Mapping[str, int]:
        raise NotImplementedError(count)

    def starting(self, run: str) -> None:
        del run

    @contextmanager
    def held_back(self, photos: Photos) -> Iterator[None]:
        del photos
        yield

    def kept(self, network: torch.nn.Module) -> torch.nn.Module:
        return network

    def valid_map_at_5(self, scores: Any) -> float:
        self.asked.append(scores)
        return float(scores.sum())

    def valid_log_loss(self, scores: Any) -> float:
        return -self.valid_map_at_5(scores)

    def confidence(self, valid_scores: Any, scores: Any) -> Any:
        self.asked.append(valid_scores)
        return torch.from_numpy(scores).double().softmax(dim=1).amax(dim=1).numpy()

    def warn(self, sentence: str) -> None:
        self.warnings.append(": ".join((*self.scopes, sentence)))

    def choose(self, name: str, value: float | None) -> None:
        self.chosen[".".join((*self.scopes, name))] = value

    def fitted(self, artefact: str, photos: Photos) -> None:
        name = ".".join((*self.part_scopes, artefact))
        self.lineage[name], self.fitted_on[name] = photos.digests, photos.images
