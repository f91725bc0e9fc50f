"""The harness of one run: seeds, clocks, the curve, and the only way for a method to ask how good it is.

What a method hands over is checked where it does so: that is its mistake, and not one of hours later.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whalebench import RunFailedError, one_line
from whalebench.benchmarks.core.checkpoint import CheckpointStore, Stateful
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.benchmarks.core.progress import EpochSummary, Progress
from whalebench.benchmarks.core.record import CURVE_COLUMNS, WATCHED_COLUMNS
from whalebench.benchmarks.running.calibration import choose_calibration, least_log_loss
from whalebench.benchmarks.running.evaluation import PLAIN, choose_new_threshold
from whalebench.benchmarks.running.folds import Views, answers_shown
from whalebench.methods.guests import method_at_work, named
from whalebench.methods.method import Cycle, Epoch, Located, MethodConfig, RateSearch
from whalebench.methods.parts.looks import LooksOnDisk
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.methods.parts.training.devices import WORLD

PLACES = {"boxes": (4,), "landmarks": (0, 2), "masks": (0, 0), "fallback": ()}
"""By field of `Located`, the shape of what it says of a photo; 0 for any length."""
WHOLE = ("number", "of", "photos")
"""Fields of an epoch that are counted."""


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
        looks: LooksOnDisk | None = None,
    ) -> None:
        """Without `unfinished` nothing is kept of it while it learns, without `looks` no network's look."""
        self.seed, self.device = seed, device
        self.at_stage = ""
        self.cycle: Cycle | None = None
        self.rate_search: RateSearch | None = None
        self.unlabelled: Photos | None = None
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
        self._valid, self._valid_photos = answers_shown(views.valid), len(views.valid)
        self._held: frozenset[str] = frozenset()
        """Digests of the photos of train that are held back at present."""
        self._starts: dict[str, set[str]] = {}
        """By run that a network may start from, digests of the photos of train that it knows."""
        self._unfinished, self._looks = unfinished or CheckpointStore(None), looks
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
        self._refuse_alone(not WORLD.trainings and (self.usage.has_trained() or not WORLD.predictions))

    @contextmanager
    def scope(self, name: str, cycle: Cycle | None = None, *, same_photos: bool = False) -> Iterator[None]:
        """Puts the name before those of stages, choices, warnings and, unless photos are the same, of parts.

        In cycles they are.
        """
        _refuse_unless(isinstance(name, str), "scope", name, "a name")
        before = self._scopes, self._part_scopes, self.cycle
        self._scopes, self.cycle = (*self._scopes, name), cycle
        if cycle is None and not same_photos:
            self._part_scopes = (*self._part_scopes, name)
        try:
            yield
        finally:
            self._scopes, self._part_scopes, self.cycle = before

    def inner_folds(self, count: int) -> Mapping[str, int]:
        """Where photos of train are held back that are not so yet.

        Raises WhalebenchError where there are too few encounters.
        """
        train = self._views.train
        shown = zip(train.images, train.digests, strict=True)
        return self._views.inner_folds(count, {image for image, digest in shown if digest in self._held})

    @contextmanager
    def held_back(self, photos: LabelledPhotos) -> Iterator[None]:
        """Has everything chosen by these photos of train, and nothing fitted on them."""
        if strange := set(photos.digests) - set(self._views.train.digests):
            raise RunFailedError(
                f"{len(strange)} photo(s) to choose by are not of train, first {_first(photos, strange)}: "
                f"hold back photos of train only."
            )
        before = self._valid, self._valid_photos, self._held
        self._valid, self._valid_photos = answers_shown(photos), len(photos)
        self._held = self._held.union(photos.digests)  # what is held back from a part is so from all in it
        try:
            yield
        finally:
            self._valid, self._valid_photos, self._held = before

    def part(self, artefact: str) -> str:
        """The artefact by its name in the run: after the scopes it is made in."""
        return ".".join((*self._part_scopes, artefact))

    def fitted(self, artefact: str, photos: Photos) -> None:
        """Leakage guard: writes down the photos a part was fitted on, refuses any it may not learn from."""
        _refuse_unless(isinstance(artefact, str), "fitted", artefact, "the name of a part")
        _refuse_unless(isinstance(photos, Photos), "fitted", photos, "photos of train")
        part = self.part(artefact)
        unexpected = set(photos.digests) - set(self._views.train.digests) - self._adaptation_photos
        if unexpected:
            others = ", or on the test photos that adapt() is handed" if self._adaptation_photos else ""
            raise RunFailedError(
                f"{part} was fitted on {len(unexpected)} photo(s) outside train of this fold, first "
                f"{_first(photos, unexpected)}: fit every part on train only{others}."
            )
        if held := set(photos.digests) & self._held:
            raise RunFailedError(
                f"{part} was fitted on {len(held)} photo(s) of its own inner fold, first "
                f"{_first(photos, set(held))}, by which it is chosen: fit it on the others only."
            )
        self.lineage[part] = tuple(sorted(set(photos.digests)))

    def started(
        self, run: str, learned_from: set[str], chosen_by: set[str], content: Mapping[str, str]
    ) -> None:
        """Leakage guard: writes down what the run that a network starts from has learned from.

        Both are content digests; content says what is behind each digest that a method sees. Raises
        RunFailedError for photos outside train, and for a choice made by photos outside train and valid.
        """
        train, valid = (
            {content[each]: each for each in view.digests} for view in (self._views.train, self._views.valid)
        )
        outside = learned_from - set(train), chosen_by - set(train) - set(valid)
        if any(outside):
            what = "learned from" if outside[0] else "was chosen by"
            raise RunFailedError(
                f"{run} {what} {len(outside[0] or outside[1])} photo(s) outside train of this fold, which it "
                f"may be tested on: start from a run of the same fold of the same split."
            )
        known = learned_from | chosen_by
        self._starts[run] = {shown for digest, shown in train.items() if digest in known}
        before = self.lineage.get("start", ())
        self.lineage["start"] = tuple(sorted({*before, *(train[each] for each in learned_from)}))

    def starting(self, run: str) -> None:
        """Leakage guard: refuses to start from a run, one that `started` wrote down, of photos held back."""
        if held := self._starts.get(run, set()) & self._held:
            raise RunFailedError(
                f"start_from={run} has learned from, or was chosen by, {len(held)} photo(s) of the inner "
                f"fold that is to choose, first {_first(self._views.train, held)}: leave start_from or bags "
                f"out."
            )

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
        is_named = isinstance(parts, Mapping) and all(isinstance(name, str) for name in parts)
        _refuse_unless(is_named, "resume", parts, "parts by name")
        for name, part in parts.items():
            _refuse_unless(isinstance(part, Stateful), "resume", part, f"something with a state for '{name}'")
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

    def kept(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """The network, which is not asked again for what it made in an earlier run of the same pixels."""
        return network if self._looks is None else self._looks.of(network, self.usage.spared)

    def stage(self, name: str) -> None:
        """Ends the phase before and begins the next."""
        _refuse_unless(isinstance(name, str) and (name + " ").isprintable(), "stage", name, "a name")
        self.at_stage = name
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
        _check_epoch(epoch)
        self._refuse_alone(not WORLD.steps)
        WORLD.steps = 0
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
            **epoch.watched,
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

    @staticmethod
    def _refuse_alone(is_alone: bool) -> None:
        """Raises RunFailedError where each of several processes would do everything for itself."""
        if is_alone and WORLD.size > 1:
            raise RunFailedError(
                f"{method_at_work()} does nothing that {WORLD.size} devices could share, as it trains no "
                f"network, or not by train_network: leave --devices out."
            )

    def valid_map_at_5(self, scores: NDArray[np.float32]) -> float:
        """MAP@5 on valid at its own best threshold of *new*, so to choose by and not to report."""
        answers, identities = self._valid, self._views.train.identities
        _check_scores("valid_map_at_5", scores, (self._valid_photos, len(identities)))
        return choose_new_threshold(scores, answers, identities, self._config)[1]

    def valid_log_loss(self, scores: NDArray[np.float32]) -> float:
        """The log loss on valid at its own best temperature, so to choose by and not to report."""
        identities = self._views.train.identities
        _check_scores("valid_log_loss", scores, (self._valid_photos, len(identities)))
        return least_log_loss(scores, self._valid, identities)

    def confidence(
        self, valid_scores: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """How probable each best candidate is, 0 where it is called *new*: both as test would be."""
        answers, identities = self._valid, self._views.train.identities
        _check_scores("confidence", valid_scores, (self._valid_photos, len(identities)))
        _check_scores("confidence", scores, (len(scores), len(identities)))
        calibration = choose_calibration(valid_scores, answers, identities)
        threshold = choose_new_threshold(valid_scores, answers, identities, self._config)[0]
        called_new = np.zeros(len(scores), np.bool_) if threshold is None else scores.max(axis=1) < threshold
        return np.where(called_new, 0.0, calibration.probabilities(scores).max(axis=1))

    def choose(self, name: str, value: float | None) -> None:
        """Writes down what was chosen on valid."""
        _refuse_unless(isinstance(name, str), "choose", name, "a name")
        _refuse_unless(value is None or isinstance(value, Real), "choose", value, f"a number for '{name}'")
        self.chosen[".".join((*self._scopes, name))] = value

    def warn(self, sentence: str) -> None:
        """Writes down what a reader of the scores should know."""
        _refuse_unless(isinstance(sentence, str), "warn", sentence, "a sentence")
        self.warnings.append(": ".join((*self._scopes, one_line(sentence, 300))))

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by phase so far."""
        self.stage("")
        return {name: round(value, 2) for name, value in self._seconds.items()}

    def curve(self) -> pd.DataFrame:
        """One row an epoch."""
        watched = [name for name in WATCHED_COLUMNS if any(name in row for row in self._epochs)]
        return pd.DataFrame(self._epochs, columns=[*CURVE_COLUMNS, "seconds", *watched])

    def photos_per_second(self) -> float | None:
        """Training photos a second in the last stage that trained, or None where none did."""
        last = [row for row in self._epochs if row["stage"] == self._epochs[-1]["stage"]]
        seconds = sum(row["seconds"] for row in last)
        return round(sum(row["photos"] for row in last) / seconds, 1) if seconds else None


def _refuse_unless(is_due: bool, call: str, given: object, due: str) -> None:
    """Raises RunFailedError, with the name of the method at work, for what is not what a call is due."""
    if not is_due:
        shown = f"{one_line(repr(given), 60)} ({type(given).__name__})"
        if isinstance(given, np.ndarray):
            shown = f"an array of {given.dtype} of the shape {given.shape}"
        raise RunFailedError(
            f"{method_at_work()} gave harness.{call}() {shown}, where {due} is due: mend the method."
        )


def _check_epoch(epoch: Epoch) -> None:
    """Raises RunFailedError, naming the field, for an epoch whose numbers are none."""
    _refuse_unless(isinstance(epoch, Epoch), "epoch", epoch, "an Epoch")
    for name in (each.name for each in fields(Epoch) if each.name not in ("valid_scores", "watched")):
        value = getattr(epoch, name)
        kind = Integral if name in WHOLE else Real
        is_number = isinstance(value, kind) and not isinstance(value, bool) and isfinite(value)
        due = f"for {name} a {'whole' if name in WHOLE else 'finite'} number from {int(name in WHOLE[:2])} on"
        is_enough = is_number and (name == "loss" or value >= int(name in WHOLE[:2]))
        _refuse_unless(is_enough, "epoch", value, due if name != "loss" else "for loss a finite number")


def _check_scores(call: str, scores: object, wanted: tuple[int, int]) -> None:
    """Raises RunFailedError for scores that are no numbers, of another shape, or not finite."""
    due = f"an array of float32 of the shape {wanted}, a row a photo and a column an individual,"
    values = scores if isinstance(scores, np.ndarray) else np.zeros(0, object)
    _refuse_unless(values.dtype.kind == "f" and values.shape == wanted, call, scores, due)
    if not np.isfinite(values).all():
        raise RunFailedError(
            f"{method_at_work()} gave harness.{call}() scores that are not finite: lower the learning rate."
        )


def as_numbers(name: str, given: object, what: str) -> NDArray[np.float32]:
    """What the method gave as float32; RunFailedError for what is none, as None, or tensors on a GPU."""
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RunFailedError(
            f"{name} gave {what} that are no NumPy array ({named(error)}): give one of float32."
        ) from error
    if values.dtype.kind not in "fiub":
        shown = one_line(repr(given), 40)
        raise RunFailedError(f"{name} gave {shown} as {what}: give a NumPy array of float32.")
    with np.errstate(over="ignore"):  # too large is not finite
        return values.astype(np.float32, copy=False)


def checked_embeddings(
    name: str, embedded: Mapping[str, object], shown: Mapping[str, Photos]
) -> dict[str, NDArray[np.float32]]:
    """Embeddings by part, a row a photo and as many dimensions everywhere, finite; none without any."""
    found = {
        part: as_numbers(name, each, "embeddings") for part, each in embedded.items() if each is not None
    }
    width = next((each.shape[-1] for each in found.values() if each.ndim), 0)
    for part, each in found.items():
        if each.shape != (len(shown[part]), width) or len(found) != len(embedded):
            raise RunFailedError(
                f"{name} gave embeddings of shape {each.shape} for {len(shown[part])} photos of {part}: "
                f"give a row a photo and as many columns for each part, or None for all."
            )
        if not np.isfinite(each).all():
            raise RunFailedError(f"{name} gave embeddings that are not finite: mend its embed().")
    return found


def checked_places(name: str, located: object, photos: int) -> Located:
    """Where the animals are, in arrays with a row a photo."""
    if not isinstance(located, Located):
        raise RunFailedError(f"{name} gave {one_line(repr(located), 60)} by locate(): give Located.")
    for field, shape in PLACES.items():
        values, due = getattr(located, field), (photos, *shape)
        is_array = isinstance(values, np.ndarray) and values.ndim == len(due)
        fits = is_array and all(want in (0, got) for want, got in zip(due, values.shape, strict=True))
        if values is not None and not fits:
            given = one_line(repr(getattr(values, "shape", values)), 60)
            raise RunFailedError(
                f"{name} gave {field} {given} by locate(): give an array of the shape {due}, 0 for any."
            )
    return located


def refuse_other_variants(name: str, given: Mapping[str, object]) -> None:
    """Raises RunFailedError where valid and test have other variants, or what is given is no mapping."""
    names = [set(each) if isinstance(each, dict) else None for each in given.values()]
    if None in names or any(each != names[0] for each in names):
        raise RunFailedError(
            f"{name} gave other variants for valid than for test, or none by name: give a dict of "
            f"scores by name, the same names for all photos."
        )


def checked_weights(name: str, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """What was learned, tensors by name."""
    for part, value in weights.items():
        if not isinstance(part, str) or not isinstance(value, torch.Tensor):
            shown = one_line(f"{value!r} as weights {part!r}", 60)
            raise RunFailedError(f"{name} gave {shown}: give tensors by name.")
    return weights


def _first(photos: Photos, digests: set[str]) -> str:
    """The first of the photos that is one of those, as `valid-00003`: the third of valid by its id."""
    return next(
        image for image, digest in zip(photos.images, photos.digests, strict=True) if digest in digests
    )
