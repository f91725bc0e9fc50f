"""The harness of one run: seeds, clocks, the curve, and the only way for a method to ask how good it is."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.core.checkpoint import CheckpointStore, Stateful
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.progress import EpochSummary, Progress
from whalebench.benchmarks.running.calibration import choose_calibration
from whalebench.benchmarks.running.evaluation import PLAIN, choose_new_threshold
from whalebench.benchmarks.running.folds import Views, answers_shown
from whalebench.methods.method import Cycle, Epoch, MethodConfig
from whalebench.methods.parts.pipeline import Pipeline


class RunHarness:
    """What `methods.method.Harness` promises, for one run; see there."""

    def __init__(
        self,
        seed: int,
        device: torch.device,
        views: Views,
        progress: Progress,
        config: MethodConfig = PLAIN,
        unfinished: CheckpointStore | None = None,
    ) -> None:
        """Without `unfinished` nothing is kept of it while it learns."""
        self.seed, self.device = seed, device
        self.cycle: Cycle | None = None
        self._scopes: tuple[str, ...] = ()
        """The names that stand before those of stages, choices and warnings."""
        self._part_scopes: tuple[str, ...] = ()
        """Those that stand before the names of parts."""
        self.chosen: dict[str, float | None] = {}
        self.lineage: dict[str, tuple[str, ...]] = {}
        """Part -> digests of the photos it was fitted on, as a method sees them."""
        self.warnings: list[str] = []
        """What the method says that a reader of its scores should know."""
        self._adaptation_photos: frozenset[str] = frozenset()
        """Digests of the test photos that the method was handed to adapt to."""
        self.usage = views.usage
        """Counts what the method is given."""
        self._views, self._progress, self._config = views, progress, config
        self._valid = answers_shown(views.valid)
        self._unfinished = unfinished or CheckpointStore(None)
        self._epochs: list[dict[str, Any]] = []
        self._first = 0
        """Rows of the curve before the present training."""
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._stage, self._since = "", time.perf_counter()

    def fit(self, method: Pipeline) -> None:
        """The method learns; one that says it is transductive is then handed the bare test photos, too.

        Those that valid holds as well are kept back: nothing is ever fitted on what it is chosen by.
        """
        views = self._views
        with self.usage.learning():
            method.learn(views.train, views.valid, self)
        if method.transductive:
            chosen_by = set(views.valid.digests)
            test = views.queries()["test"]
            photos = test.select([i for i, digest in enumerate(test.digests) if digest not in chosen_by])
            self._adaptation_photos = frozenset(photos.digests)
            with self.usage.learning():
                method.adapt(photos, self)

    @contextmanager
    def scope(self, name: str, cycle: Cycle | None = None) -> Iterator[None]:
        """Puts the name before those of stages, choices, warnings and, outside cycles, of parts."""
        before = self._scopes, self._part_scopes, self.cycle
        self._scopes, self.cycle = (*self._scopes, name), cycle
        if cycle is None:
            self._part_scopes = (*self._part_scopes, name)
        try:
            yield
        finally:
            self._scopes, self._part_scopes, self.cycle = before

    def fitted(self, artefact: str, photos: Photos) -> None:
        """Leakage guard: writes down the photos a part was fitted on, refuses any it may not learn from."""
        part = ".".join((*self._part_scopes, artefact))
        unexpected = set(photos.digests) - set(self._views.train.digests) - self._adaptation_photos
        if unexpected:
            others = ", or on the test photos that adapt() is handed" if self._adaptation_photos else ""
            raise RunFailedError(
                f"{part} was fitted on {len(unexpected)} photo(s) outside train of this fold, first "
                f"{_first(photos, unexpected)}: fit every part on train only{others}."
            )
        self.lineage[part] = tuple(sorted(set(photos.digests)))

    def calibrated(self, part: str, photos: Photos) -> None:
        """Leakage guard: writes down the photos something is chosen on, refuses any of train or test."""
        self.refuse_shared(part, photos)
        self.lineage[part] = tuple(sorted(set(photos.digests)))

    def refuse_shared(self, part: str, photos: Photos) -> None:
        """Raises RunFailedError where photos to choose something on are of train or of test."""
        for name, view in (("train", self._views.train), ("test", self._views.test)):
            if shared := set(photos.digests) & set(view.digests):
                raise RunFailedError(
                    f"The {part} would be chosen on {len(shared)} photo(s) of {name}, first "
                    f"{_first(photos, shared)}: choose on photos of valid only. Where a published split "
                    f"has a photo in several parts, leave it in one of them."
                )

    def adapted_to(self) -> dict[str, int]:
        """By part, how many test photos it was fitted on; only parts that were fitted on some."""
        test = set(self._views.test.digests) - set(self._views.train.digests)
        counts = {part: len(test.intersection(digests)) for part, digests in self.lineage.items()}
        return {part: count for part, count in counts.items() if count}

    def seed_everything(self) -> None:
        """Seeds the generators that layers draw their first weights and their dropout from."""
        torch.manual_seed(self.seed)
        random.seed(self.seed)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Puts back what was kept of the next training of the run; its epochs are in the curve, too."""
        self._began, self._first = time.perf_counter(), len(self._epochs)
        kept = self._unfinished.begin(parts)
        if self._unfinished.mismatch:
            self._progress.stage(
                f"{self._stage}, begun anew: the epochs before were {self._unfinished.mismatch}"
            )
        self.usage.begin(kept and kept["usage"])
        if kept is None:
            return 0
        self._epochs += kept["epochs"]
        self.chosen |= kept["chosen"]
        # As if the training had begun that much earlier, so that its seconds are those of all its epochs.
        self._began -= kept["seconds"]
        self._since -= kept["seconds"]
        done = int(kept["epochs"][-1]["epoch"])
        self._progress.stage(f"{self._stage}, taken up after epoch {done}")
        return done

    def stage(self, name: str) -> None:
        """Ends the phase before and begins the next."""
        name = ".".join((*self._scopes, name)) if name else ""
        now = time.perf_counter()
        if self._stage:
            self._seconds[self._stage] += now - self._since
        self._stage = self.usage.stage = name
        self._since = now
        if name:
            self._progress.stage(name)

    def epoch(self, epoch: Epoch) -> None:
        """Judges the epoch on valid, adds it to the curve and tells whoever watches."""
        score = np.nan if epoch.valid_scores is None else self.valid_map_at_5(epoch.valid_scores)
        speed = epoch.photos / max(epoch.seconds, 1e-9)
        row: dict[str, float | str] = {
            "stage": self._stage,
            "epoch": epoch.number,
            "loss": epoch.loss,
            "learning_rate": epoch.learning_rate,
            "valid_map_at_5": score,
            "photos": epoch.photos,
            "photos_per_second": round(speed, 1),
            "seconds": round(epoch.seconds, 3),
        }
        self._epochs.append(row)
        self.usage.told(epoch.photos)
        spent = time.perf_counter() - self._began
        left = (epoch.of - epoch.number) * spent / epoch.number
        self._progress.epoch(EpochSummary(epoch.number, epoch.of, epoch.loss, score, speed, left))
        facts = {"epochs": self._epochs[self._first :], "chosen": self.chosen, "seconds": spent}
        facts["usage"] = self.usage.state()
        if reason := self._unfinished.save(facts, last=epoch.number == epoch.of):
            self._progress.stage(f"{self._stage}, which could not go on after a stop: {reason}")

    def valid_map_at_5(self, scores: NDArray[np.float32]) -> float:
        """MAP@5 on valid at its own best threshold of *new*, so to choose by and not to report."""
        answers, identities = self._valid, self._views.train.identities
        return choose_new_threshold(scores, answers, identities, self._config)[1]

    def confidence(
        self, valid_scores: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """How probable each best candidate is, 0 where it is called *new*: both as test would be."""
        answers, identities = self._valid, self._views.train.identities
        calibration = choose_calibration(valid_scores, answers, identities)
        threshold = choose_new_threshold(valid_scores, answers, identities, self._config)[0]
        called_new = np.zeros(len(scores), np.bool_) if threshold is None else scores.max(axis=1) < threshold
        return np.where(called_new, 0.0, calibration.probabilities(scores).max(axis=1))

    def choose(self, name: str, value: float | None) -> None:
        """Writes down what was chosen on valid."""
        self.chosen[".".join((*self._scopes, name))] = value

    def warn(self, sentence: str) -> None:
        """Writes down what a reader of the scores should know."""
        self.warnings.append(": ".join((*self._scopes, sentence)))

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by phase so far."""
        self.stage("")
        return {name: round(value, 2) for name, value in self._seconds.items()}

    def curve(self) -> pd.DataFrame:
        """One row an epoch."""
        names = ["stage", "epoch", "loss", "learning_rate", "valid_map_at_5", "photos", "photos_per_second"]
        return pd.DataFrame(self._epochs, columns=[*names, "seconds"])

    def photos_per_second(self) -> float | None:
        """Training photos a second in the last stage that trained, or None where none did."""
        last = [row for row in self._epochs if row["stage"] == self._epochs[-1]["stage"]]
        seconds = sum(row["seconds"] for row in last)
        return round(sum(row["photos"] for row in last) / seconds, 1) if seconds else None


def _first(photos: Photos, digests: set[str]) -> str:
    """The first of the photos that is one of those, as `valid-00003`: the third of valid by its id."""
    return next(
        image for image, digest in zip(photos.images, photos.digests, strict=True) if digest in digests
    )
