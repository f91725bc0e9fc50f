"""The sealed test: what a method can reach while it is at work, and what `whalebench check` finds of it."""

from __future__ import annotations

import csv
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import torch

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.checks import (
    chooses_on_valid_and_learns_nothing,
    does_not_peek,
    is_evaluated,
    sees_pixels_alone,
)
from whalebench.benchmarks.conformance.trial import (
    CheckFailed,
    NotApplicable,
    ToyBenchmarks,
    Trial,
    draw_toy_benchmarks,
)
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark, reopen_benchmark
from whalebench.benchmarks.running import evaluation, runner
from whalebench.benchmarks.running.folds import OpenFold, fold_views, open_fold
from whalebench.methods.method import Harness, Method, MethodConfig

SIZE = (10, 12)
SECRETS = ("stranger", "photo", "folder")
"""What the names of an individual, the ids and the folder begin with that nobody but the catalog knows."""


class Config(MethodConfig):
    """Fields of `honest`."""


class Honest(Method):
    """The individual with the nearest mean photo."""

    name = "honest"
    summary = "mean photo"
    source = "this test"
    Config = Config

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        known = train.known()
        harness.fitted("means", known)
        photos = self.seen(known)
        labels = range(len(train.identities))
        self.means = np.stack([photos[known.labels == label].mean(axis=0) for label in labels])

    def score(self, photos: Photos) -> Any:
        return -np.linalg.norm(self.seen(photos)[:, None] - self.means, axis=2).astype(np.float32)

    def seen(self, photos: Photos) -> Any:
        return photos.batch(range(len(photos)), SIZE).pixels.reshape(len(photos), -1).numpy()

    def sizes(self) -> tuple[tuple[int, int], ...]:
        return (SIZE,)

    def weights(self) -> dict[str, torch.Tensor]:
        return {"means": torch.from_numpy(self.means)}


# What is in memory


def secret(kind: str, mark: str) -> str:
    return f"{kind}-{mark}"


class IsText(dict[type, bool]):
    """Whether things of a type are texts, asked once of each type."""

    def __missing__(self, kind: type) -> bool:
        self[kind] = issubclass(kind, str | Path)
        return self[kind]


def found_in(start: list[Any], mark: str) -> set[str]:
    """Which secrets can be had from the objects: as texts in tables, arrays, mappings and sequences."""
    found: set[str] = set()
    is_text = IsText()
    for thing in list(start):
        texts: list[Any] = []
        kind = type(thing)  # some things of torch warn when they are asked what they are
        if issubclass(kind, pd.DataFrame):
            texts = [text for column in thing for text in thing[column].tolist()]
        elif issubclass(kind, pd.Series) or (issubclass(kind, np.ndarray) and thing.dtype.kind in "OU"):
            texts = thing.tolist()
        elif issubclass(kind, dict):
            texts = [*thing.keys(), *thing.values()]
        elif issubclass(kind, list | tuple | set | frozenset):
            texts = list(thing)
        # Hardly ever any, and there are millions of texts.
        marked = [str(text) for text in texts if is_text[type(text)] and mark in str(text)]
        found |= {name for name in SECRETS for text in marked if secret(name, mark) in text}
    return found


def reachable(thing: object, seen: set[int]) -> Iterator[object]:
    """Everything that can be had from a thing by attributes, underscores or not, and by looking into it."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    yield thing
    inside = list(vars(thing).values()) if hasattr(thing, "__dict__") and not isinstance(thing, type) else []
    inside += list(thing.values()) if isinstance(thing, dict) else []
    inside += list(thing) if isinstance(thing, tuple | list) else []
    for each in inside:
        yield from reachable(each, seen)


def by_attribute(*things: object) -> list[Any]:
    seen: set[int] = set()
    return [each for thing in things for each in reachable(thing, seen)]


def by_frames() -> list[Any]:
    """What the callers hold, up to the runner's own."""
    frame, held = sys._getframe(1), []
    while frame.f_back is not None and frame.f_code is not runner.run.__code__:
        frame = frame.f_back
        held += list(frame.f_locals.values())
    return by_attribute(*held)


class Spy(Honest):
    """Looks everywhere while it learns and scores, and writes down what it found."""

    name = "spy"
    mark = ""
    found: dict[str, set[str]]

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        Spy.found = {}
        super().learn(train, valid, harness)
        self.look("learn", harness, train, valid)
        self.harness = harness

    def score(self, photos: Photos) -> Any:
        self.look("score", self.harness, photos)
        return super().score(photos)

    def look(self, when: str, *things: object) -> None:
        held = by_attribute(*things)
        Spy.found[f"{when}: attributes"] = found_in(held, self.mark)
        Spy.found[f"{when}: opened"] = {
            type(each).__name__ for each in held if isinstance(each, OpenFold | PhotoStore | pd.DataFrame)
        }
        Spy.found[f"{when}: frames"] = found_in(by_frames(), self.mark)
        Spy.found[f"{when}: gc"] = found_in(gc.get_objects(), self.mark)


@pytest.fixture
def secretive(tiny: Workspace) -> tuple[Workspace, str]:
    """A workspace whose test photos, and an individual that is met there alone, have names drawn for it.

    And these names backwards, so that nothing in memory holds them.
    """
    mark, table = uuid4().hex, tiny.root.parent / "source" / "table.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    (table.parent / secret("folder", mark)).mkdir()
    for place, row in enumerate(rows):
        row["split"] = ("train", "valid", "test")[place % 3]
        if row["split"] == "test":
            moved = f"{secret('folder', mark)}/{place}.png"
            (table.parent / row["path"]).rename(table.parent / moved)
            row |= {"image": f"{secret('photo', mark)}-{place}", "path": moved}
            row["identity"] = row["identity"] or secret("stranger", mark)
    pd.DataFrame(rows).to_csv(table, index=False)
    import_csv(table, "secret", tiny)
    return tiny, mark[::-1]


def run(workspace: Workspace, kind: type[Method], monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setattr(runner, "find_method", {kind.name: kind}.__getitem__)
    return runner.run(runner.RunRequest(kind.name, "secret", device="cpu"), workspace)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what is looked at
def test_while_a_method_is_at_work_nothing_in_memory_tells_of_test(
    secretive: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, backwards = secretive
    Spy.mark = backwards[::-1]
    gc.collect()
    record = run(workspace, Spy, monkeypatch)
    assert Spy.found == {
        f"{when}: {where}": set()
        for when in ("learn", "score")
        for where in ("attributes", "opened", "frames", "gc")
    }
    assert record.counts["test_new_photos"] > 0
    # The spy finds what there is to find: everything, as soon as the fold is opened.
    opened = load_benchmark("secret", workspace)
    assert found_in(gc.get_objects(), Spy.mark) == set(SECRETS)
    assert found_in(by_attribute(open_fold(opened, 0)), Spy.mark) == {"photo", "stranger"}
    Spy.mark = ""


def test_a_benchmark_that_changed_while_a_method_was_at_work_is_refused(
    secretive: tuple[Workspace, str],
) -> None:
    workspace, _ = secretive
    benchmark = load_benchmark("secret", workspace, propose=True)
    digests = benchmark.catalog.digest, benchmark.split.digest
    again = reopen_benchmark("secret", workspace, *digests)
    assert again.catalog.table.equals(benchmark.catalog.table)
    assert again.store.paths == benchmark.store.paths
    with pytest.raises(WhalebenchError, match="The split of secret is not the one that this run was made"):
        reopen_benchmark("secret", workspace, digests[0], "another")


def test_lineage_and_scores_are_kept_under_the_names_of_the_catalog(
    secretive: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, _ = secretive
    record = run(workspace, Honest, monkeypatch)
    table = pd.read_parquet(workspace.runs / record.run / "predictions.parquet")
    benchmark = load_benchmark("secret", workspace)
    assert tuple(table["image"]) == benchmark.split.parts(0).test
    views, opened = fold_views(benchmark, 0), open_fold(benchmark, 0)
    content = dict(
        zip(benchmark.catalog.table["image"], benchmark.catalog.table["content_digest"], strict=True)
    )
    assert [opened.digests[each] for each in views.test.digests] == [content[each] for each in table["image"]]
    known = {content[each] for each in benchmark.split.parts(0).train} & {
        opened.digests[each] for each in views.train.known().digests
    }
    assert record.lineage["means"]["photos"] == len(known)  # type: ignore[index,call-overload]


# What the check finds


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> ToyBenchmarks:
    return draw_toy_benchmarks(Workspace.open(tmp_path_factory.mktemp("trial")))


@pytest.fixture
def tried(toys: ToyBenchmarks) -> Callable[[type[Method]], Trial]:
    """A method that has learned and is about to be checked."""

    def call(kind: type[Method]) -> Trial:
        trial = Trial(kind.name, kind, Config(), toys)
        trial.learned = trial.learn(trial.views)
        return trial

    return call


def behind(photos: Photos, kind: type) -> list[Any]:
    """What of a kind the pixels lead to, through the cells of functions, which no attribute does."""
    seen: set[int] = set()
    left: list[Any] = [photos.store]
    found = []
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, type) or type(thing).__name__ == "module":
            continue
        seen.add(id(thing))
        found += [thing] if isinstance(thing, kind) else []
        # Not into the names that a function's module has, which lead everywhere.
        left += [each for each in gc.get_referents(thing) if each is not getattr(thing, "__globals__", None)]
    return found


def told(scores: Any, photos: Photos, names: list[str]) -> Any:
    """The scores, and on top of them what the names say."""
    column = {name: place for place, name in enumerate(photos.identities)}
    for row, name in enumerate(names):
        if name in column:
            scores[row, column[name]] += 100
    return scores


class ReadsCatalog(Honest):
    """Finds the catalog's file from where the photos are, and the photos by how many there are of them."""

    def score(self, photos: Photos) -> Any:
        scores = super().score(photos)
        store = behind(photos, PhotoStore)[0]
        for file in (store.cache.parent.parent / "benchmarks").glob("*/catalog.parquet"):
            table = pd.read_parquet(file)
            of_test = table[table["split"] == "test"]
            if set(of_test["path"]) <= set(store.paths) and len(of_test) == len(photos):
                return told(scores, photos, of_test["identity"].tolist())
        return scores


class ReadsFolders(Honest):
    """Goes by the names of the folders that photos are in."""

    def score(self, photos: Photos) -> Any:
        paths = behind(photos, PhotoStore)[0].paths
        rows = next(each for each in behind(photos, np.ndarray) if len(each) == len(paths))
        return told(
            super().score(photos), photos, [Path(paths[rows[row]]).parent.name for row in photos.rows]
        )


class PatchesJudge(Honest):
    """Makes everything it scores look right."""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        super().learn(train, valid, harness)
        honest = evaluation.summarize
        evaluation.summarize = lambda queries: honest(queries) | {"map_at_5": 1.0}  # type: ignore[assignment]


class LearnsFromValid(Honest):
    """Takes the photos of valid into its means, and says that it did not."""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        super().learn(train, valid, harness)
        for photo, label in zip(self.seen(valid), valid.labels, strict=True):
            if label >= 0:
                self.means[label] = (self.means[label] + photo) / 2


class ChoosesOnValid(Honest):
    """Chooses a factor by the labels of valid, and writes it down."""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        super().learn(train, valid, harness)
        right = float((super().score(valid).argmax(axis=1) == valid.labels).mean())
        self.means = self.means * np.float32(1 + right)
        harness.choose("factor", 1 + right)


class AsksHarness(Honest):
    """Has the harness choose between two factors."""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        super().learn(train, valid, harness)
        self.means = self.means * np.float32(1 + harness.valid_map_at_5(self.score(valid.bare())))


def failed(check: Callable[[Trial], str], trial: Trial) -> str:
    with pytest.raises(CheckFailed) as caught:
        check(trial)
    return str(caught.value)


def test_an_honest_method_passes(tried: Callable[[type[Method]], Trial]) -> None:
    trial = tried(Honest)
    for check in (is_evaluated, does_not_peek, sees_pixels_alone, chooses_on_valid_and_learns_nothing):
        assert check(trial)


@pytest.mark.parametrize("kind", [ReadsCatalog, ReadsFolders])
def test_who_knows_the_answers_gives_other_scores_where_they_are_others(
    kind: type[Method], tried: Callable[[type[Method]], Trial]
) -> None:
    trial = tried(kind)
    right = trial.opened().answers["test"].truth
    assert trial.learned is not None
    scores = trial.learned.scores("test")
    cheated = [trial.views.train.identities[column] for column in scores.argmax(axis=1)]
    assert all(name == truth for name, truth in zip(cheated, right, strict=True) if truth != "new")
    assert "test photos other answers, it gives other scores, by" in failed(sees_pixels_alone, trial)


def test_who_patches_the_judge_is_judged_elsewhere(
    tried: Callable[[type[Method]], Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "summarize", evaluation.summarize)  # put back afterwards
    said = failed(is_evaluated, tried(PatchesJudge))
    assert "worth a map_at_5 of 1.000 here and of 0." in said


def test_who_learns_from_valid_is_found_and_who_chooses_there_says_so(
    tried: Callable[[type[Method]], Trial],
) -> None:
    assert "does not say what it chose" in failed(chooses_on_valid_and_learns_nothing, tried(LearnsFromValid))
    with pytest.raises(NotApplicable, match="by the labels of valid itself and says so: factor"):
        chooses_on_valid_and_learns_nothing(tried(ChoosesOnValid))
    assert "it learns the same" in chooses_on_valid_and_learns_nothing(tried(AsksHarness))


def test_the_disguised_photos_are_the_same_in_the_same_order_under_other_names(toys: ToyBenchmarks) -> None:
    plain, disguised = (fold_views(each, 0) for each in (toys.annotated, toys.disguised))
    opened, other = (open_fold(each, 0) for each in (toys.annotated, toys.disguised))
    for part in ("train", "valid", "test"):
        one, two = getattr(plain, part), getattr(disguised, part)
        assert torch.equal(one.batch(range(len(one)), SIZE).pixels, two.batch(range(len(two)), SIZE).pixels)
        assert (one.images, one.digests) == (two.images, two.digests)
    assert np.array_equal(plain.train.labels, disguised.train.labels)
    assert opened.answers["valid"].truth == other.answers["valid"].truth
    truths = zip(opened.answers["test"].truth, other.answers["test"].truth, strict=True)
    assert sum(truth == now for truth, now in truths) < 4
    names = [set(each.catalog.table["image"]) for each in (toys.annotated, toys.disguised)]
    paths = [set(each.store.paths) for each in (toys.annotated, toys.disguised)]
    assert not names[0] & names[1] and not paths[0] & paths[1]
    places = [
        [each.catalog.table["image"].tolist().index(image) for image in each.split.parts(0).test]
        for each in (toys.annotated, toys.disguised)
    ]
    assert places[0] != places[1]
