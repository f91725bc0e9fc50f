"""`whalebench check`: every method keeps its promises, and each broken one is found and named."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.checks import CHECKS
from whalebench.benchmarks.conformance.suite import (
    Conformance,
    check_method,
    conform,
    smallest_settings,
)
from whalebench.benchmarks.conformance.trial import ToyBenchmarks, draw_toy_benchmarks, relative_distance
from whalebench.benchmarks.core.photos import UNKNOWN, Photos
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running.folds import fold_views, open_fold
from whalebench.methods import registry
from whalebench.methods.method import Harness, Method, MethodConfig
from whalebench.methods.registry import configure, find_method, method_names

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "mean_colour.py"
EXEMPT: dict[tuple[str, str], str] = {}
"""(method, check) that may fail, and why."""


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("mean_colour", EXAMPLE)
    assert spec and spec.loader
    module = sys.modules["mean_colour"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MeanColour: Any = _example().MeanColour


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> ToyBenchmarks:
    return draw_toy_benchmarks(Workspace.open(tmp_path_factory.mktemp("trial")))


@pytest.fixture
def check(toys: ToyBenchmarks) -> Callable[[Any], dict[str, tuple[str, str]]]:
    """What is found of a method class, by check: the result and the sentence."""

    def call(kind: Any) -> dict[str, tuple[str, str]]:
        found = conform(kind.name, kind, (), toys)
        return {finding.check: (finding.result, finding.said) for finding in found.findings}

    return call


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example as another package would bring it, beside all that is installed."""
    point = EntryPoint("mean-colour", "mean_colour:MeanColour", registry.GROUP)
    there = list(registry.entry_points(group=registry.GROUP))
    monkeypatch.setattr(registry, "entry_points", lambda group: [*there, point])
    return


def failures(found: Conformance) -> dict[str, str]:
    return {each.check: each.said for each in found.findings if each.result == "failed"}


TWO_CYCLES = "of_settings=schedule.cycles=2,schedule.joined=votes,segmenter.background=removed"
SETTINGS = {"salt-4th": (TWO_CYCLES,)}
"""By method what is set besides the smallest settings: a cycle less, in each of three trainings."""


@pytest.mark.parametrize("name", method_names())
def test_every_method_keeps_its_promises(name: str, toys: ToyBenchmarks) -> None:
    found = conform(name, find_method(name), SETTINGS.get(name, ()), toys)
    wrong = {check: said for check, said in failures(found).items() if (name, check) not in EXEMPT}
    assert wrong == {}
    # A method that is never tried is no method that is in order.
    assert {each.result for each in found.findings if each.check == "learns"} == {"passed"}


def test_a_method_that_is_told_viewpoints_keeps_its_promises(toys: ToyBenchmarks) -> None:
    settings = ("gallery.side=same", "backbone=test_resnet", "pretrained=none", "size=32")
    found = conform("frozen", find_method("frozen"), settings, toys)
    assert not failures(found)
    said = {finding.check: finding.said for finding in found.findings}
    assert "Fitted on train only" in said["lineage"] and "no viewpoints" in said["no annotations"]


@pytest.mark.parametrize(
    ("crop", "oracle"), [("box", "false"), ("box", "true"), ("mask", "true"), ("aligned", "true")]
)
def test_a_method_behind_a_crop_keeps_them_too(crop: str, oracle: str, toys: ToyBenchmarks) -> None:
    """Those that find masks and landmarks themselves are methods of their own, `mask` and `aligned`."""
    settings = (f"crop={crop}", f"oracle={oracle}")
    found = conform("arcface", find_method("arcface"), settings, toys)
    assert failures(found) == {}
    said = {each.check: each.said for each in found.findings}
    assert "there are no " in said["no annotations"]
    assert ("localizer" in said["lineage"]) == (crop == "box" and oracle == "false")


def test_the_example_keeps_them_all(installed: None) -> None:
    found = check_method("mean-colour", ())
    assert [each.check for each in found.findings] == list(CHECKS)
    # It has no epochs to be stopped between.
    assert {each.check for each in found.findings if each.result != "passed"} == {"goes on"}
    assert found.passed


def test_exemptions_are_of_methods_and_checks_there_are() -> None:
    assert all(name in method_names() and check in CHECKS and why for (name, check), why in EXEMPT.items())


def test_what_is_tried_on_holds_what_methods_stumble_over(toys: ToyBenchmarks) -> None:
    assert len(toys.annotated.catalog.table) < 60
    views = fold_views(toys.annotated, 0)
    labels, annotations = views.train.labels, views.train.annotations
    assert labels is not None
    assert annotations is not None
    assert (labels == UNKNOWN).sum() == 3
    assert sorted(np.bincount(labels[labels != UNKNOWN]))[:2] == [1, 1]
    answers = open_fold(toys.annotated, 0).answers
    assert answers["valid"].truth.count("new") == 2
    assert {"new"} < set(answers["test"].truth)
    shown = {
        "boxes": np.isfinite(annotations.boxes[views.train.rows]).all(axis=1),
        "landmarks": np.isfinite(annotations.landmarks[views.train.rows]).all(axis=(1, 2)),
        "masks": annotations.has_mask[views.train.rows],
    }
    for name, some in shown.items():
        assert 0 < some.sum() < len(some), name
    assert toys.plain.catalog.landmark_names == ()
    assert toys.plain.catalog.table["x0"].isna().all()
    assert toys.plain.catalog.table["image"].tolist() == toys.annotated.catalog.table["image"].tolist()


def test_the_blank_photos_are_those_of_the_test_and_no_others(toys: ToyBenchmarks) -> None:
    one, other = (each.store.pixels((32, 32)) for each in (toys.annotated, toys.blank))
    changed = {
        image
        for image, before, after in zip(toys.annotated.catalog.table["image"], one, other, strict=True)
        if not np.array_equal(before, after)
    }
    assert changed == set(toys.annotated.split.parts(0).test)


def broken(**changes: Any) -> Any:
    """The example with other members."""
    return type("Broken", (MeanColour,), changes)


class Undocumented(MeanColour.Config):  # type: ignore[misc]
    silent: int = 1


class Loose(MeanColour.Config, frozen=False):  # type: ignore[misc]
    """Can be changed."""


def learn_then(after: Callable[[Any, Photos, Photos], None]) -> Callable[..., None]:
    def learn(self: Any, train: Photos, valid: Photos, harness: Harness) -> None:
        MeanColour.learn(self, train, valid, harness)
        after(self, train, valid)

    return learn


def learns_from(choose: Callable[[Photos, Photos], Photos]) -> Callable[..., None]:
    def learn(self: Any, train: Photos, valid: Photos, harness: Harness) -> None:
        MeanColour.learn(self, choose(train, valid), valid, harness)

    return learn


def scores(change: Callable[[Any, Photos, Any], Any]) -> Callable[..., Any]:
    return lambda self, photos: change(self, photos, MeanColour.score(self, photos))


def peek(self: Any, train: Photos, valid: Photos) -> None:
    everything = train.store.read(np.arange(39), (48, 64))
    self.means = self.means + np.float32(everything.mean())
    self.means[0] += self.means[1] * np.float32(everything.std())


def forget_singles(self: Any, photos: Photos, found: Any) -> Any:
    found[:, self.single] = -9
    return found


def note_singles(self: Any, train: Photos, valid: Photos) -> None:
    self.single = np.flatnonzero(np.bincount(train.known().labels) == 1)


def mislabel(self: Any, train: Photos, valid: Photos) -> None:
    assert valid.labels is not None
    valid.labels[0] = UNKNOWN


def only_pairs(self: Any, train: Photos, valid: Photos, harness: Harness) -> None:
    if (np.bincount(train.known().labels) == 1).any():  # type: ignore[arg-type]
        raise ZeroDivisionError("one photo has no partner")
    MeanColour.learn(self, train, valid, harness)


def by_hidden(self: Any, photos: Photos, found: Any) -> Any:
    return found if photos.labels is None else found + np.eye(len(found[0]), dtype=np.float32)[photos.labels]


def needs_boxes(self: Any, train: Photos, valid: Photos, harness: Harness) -> None:
    assert train.annotations is not None
    if not np.isfinite(train.annotations.boxes[train.rows]).any():
        raise IndexError("no box")
    MeanColour.learn(self, train, valid, harness)


def silent_harness(self: Any, train: Photos, valid: Photos, harness: Harness) -> None:
    class Silent:
        def fitted(self, artefact: str, photos: Photos) -> None:
            pass

    MeanColour.learn(self, train, valid, Silent())


BROKEN: dict[str, tuple[Any, str, str]] = {
    "source": (broken(source=""), "name", "source says nothing"),
    "undocumented field": (broken(Config=Undocumented), "fields", "docstring below them: silent"),
    "loose configuration": (broken(Config=Loose), "configuration", "can be changed"),
    "chokes on new photos": (
        broken(learn=learn_then(lambda self, train, valid: np.bincount(train.labels))),  # type: ignore[arg-type]
        "learns",
        "Only without photos of new individuals",
    ),
    "chokes on one photo": (broken(learn=only_pairs), "learns", "Only without individuals with one photo"),
    "learns from valid": (
        broken(learn=learns_from(lambda train, valid: valid)),
        "learns",
        "photo(s) outside train",
    ),
    "float64": (
        broken(score=scores(lambda self, photos, found: found + np.float64(0.1))),
        "scores",
        "float64",
    ),
    "not finite": (
        broken(score=scores(lambda self, photos, found: found + np.float32(np.inf))),
        "scores",
        "not finite",
    ),
    "a column too few": (broken(score=scores(lambda self, photos, found: found[:, 1:])), "scores", "shape"),
    "all the same": (broken(score=scores(lambda self, photos, found: found * 0)), "scores", "same scores"),
    "embeds the batch": (
        broken(embed=lambda self, photos: MeanColour.embed(self, photos) * np.float32(len(photos))),
        "embeddings",
        "embedded alone",
    ),
    "statistics of the batch": (
        broken(score=scores(lambda self, photos, found: found - found.mean(axis=0))),
        "one by one",
        "among fewer",
    ),
    "chance in scores": (
        broken(score=scores(lambda self, photos, found: found + torch.rand(found.shape).numpy())),
        "one by one",
        "in another order",
    ),
    "reads labels": (broken(score=scores(by_hidden)), "bare photos", "labels or annotations"),
    "loses individuals": (
        broken(learn=learn_then(note_singles), score=scores(forget_singles)),
        "one photo",
        "vanish: one, uno",
    ),
    "writes over labels": (broken(learn=learn_then(mislabel)), "unchanged", "labels of valid"),
    "own generator": (
        broken(
            learn=learn_then(
                lambda self, train, valid: self.means.__iadd__(
                    np.random.default_rng().random(self.means.shape, np.float32)
                )
            )
        ),
        "same seed",
        "harness.seed",
    ),
    "peeks at test": (broken(learn=learn_then(peek)), "no peeking", "With other test photos"),
    "no lineage": (broken(learn=silent_harness), "lineage", "harness.fitted"),
    "rounded weights": (
        broken(weights=lambda self: {"means": torch.from_numpy(self.means + np.float32(1e-7))}),
        "new photos",
        "keep every bit",
    ),
    "embeds otherwise": (
        broken(score_and_embed=lambda self, photos: (self.score(photos), 2 * self.embed(photos))),
        "new photos",
        "other embeddings",
    ),
    "half its weights": (
        broken(weights=lambda self: {"means": torch.from_numpy(self.means[::-1].copy())}),
        "restored",
        "scores otherwise",
    ),
    "undeclared size": (broken(sizes=lambda self: ((32, 32),)), "sizes", "48 x 64"),
    "needs boxes": (broken(learn=needs_boxes), "no annotations", "IndexError: no box"),
    "prints": (
        broken(learn=learn_then(lambda self, train, valid: print("12 photos"))),  # noqa: T201
        "guest",
        "prints on stdout, which is for results ('12 photos')",
    ),
    "changes the folder": (
        broken(score=scores(lambda self, photos, found: [os.chdir("/"), found][1])),
        "guest",
        "leaves current folder changed",
    ),
    "ends the process": (
        broken(learn=learn_then(lambda self, train, valid: sys.exit(0))),
        "learns",
        "gave up with SystemExit: 0",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_found_and_named(
    case: str, check: Callable[[Any], dict[str, tuple[str, str]]]
) -> None:
    kind, where, sentence = BROKEN[case]
    found = check(kind)
    result, said = found[where]
    assert result == "failed"
    assert sentence in said
    if where == "learns":
        assert found["scores"] == ("not applicable", "It has not learned.")


def test_what_does_not_apply_says_why(check: Callable[[Any], dict[str, tuple[str, str]]]) -> None:
    kind = broken(
        restore=Method.restore,
        embed_colours=MeanColour.embed,
        embed=lambda self, photos: None,
        learn=_learn_quietly,
        score=_score_together,
        transductive=True,
    )
    found = check(kind)
    assert {name for name, (result, _) in found.items() if result == "failed"} == set()
    assert found["restored"] == (
        "not applicable",
        "It cannot be restored: `whalebench explain` and `predict` will refuse its runs.",
    )
    assert found["embeddings"][0] == found["one by one"][0] == "not applicable"


def _learn_quietly(self: Any, train: Photos, valid: Photos, harness: Harness) -> None:
    known = train.known()
    harness.fitted("means", known)
    colours = self.embed_colours(known)
    labels = range(len(train.identities))
    self.means = np.stack([colours[known.labels == label].mean(axis=0) for label in labels])


def _score_together(self: Any, photos: Photos) -> Any:
    found = -np.abs(self.embed_colours(photos)[:, None] - self.means).sum(axis=2)
    return found - found.mean(axis=0)


def test_a_method_that_lacks_something_is_not_tried(
    check: Callable[[Any], dict[str, tuple[str, str]]],
) -> None:
    found = check(broken(missing_requirement=lambda self, train, queries: "sonograms"))
    assert found["learns"] == (
        "not applicable",
        "It asks for sonograms, which the photos it is tried on lack.",
    )
    assert found["no annotations"][1] == "Where nothing is annotated it says that there are no sonograms."


def test_the_smallest_settings_are_small_and_give_way() -> None:
    kind = find_method("right-whale-2nd")
    small = configure(kind, smallest_settings(kind)).model_dump()
    assert (small["scale"], small["epochs"], small["size"], small["backbone"]) == (
        "small",
        1,
        (32, 32),
        "test_resnet",
    )
    assert (small["aligner"]["epochs"], small["aligner"]["pretrained"]) == (1, "none")
    own = configure(kind, smallest_settings(kind, ("epochs=3", "aligner.size=48"))).model_dump()
    assert (own["epochs"], own["aligner"]["size"], own["localizer"]["size"]) == (3, (48, 48), (32, 32))
    with pytest.raises(WhalebenchError, match="no field 'epoch'"):
        smallest_settings(kind, ("epoch=3",))


class ScaledConfig(MethodConfig):
    """A factor called scale."""

    scale: float = 30.0
    """Not a recipe's."""


def test_a_field_that_only_has_the_name_keeps_its_value() -> None:
    assert smallest_settings(broken(Config=ScaledConfig)) == ()


def test_the_command_says_what_it_found(installed: None, cli: Callable[..., Any]) -> None:
    answer = cli("check", "mean-colour", "--set", "bins=4", "--json")
    document = json.loads(answer.out)
    assert answer.code == 0
    assert (document["method"], document["passed"]) == ("mean-colour", True)
    assert document["settings"] == ["bins=4"]
    assert [set(row) for row in document["checks"]] == [{"check", "result", "said"}] * len(CHECKS)
    shown = cli("check", "mean-colour")
    assert shown.code == 0
    assert all(name in shown.out for name in CHECKS)


def test_the_command_fails_where_a_check_does(
    installed: None, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeanColour, "source", "")
    answer = cli("check", "mean-colour", "--json")
    assert answer.code == 1
    assert [row["check"] for row in json.loads(answer.out)["checks"] if row["result"] == "failed"] == ["name"]


def test_an_unknown_method_or_field_is_wrong_use(cli: Callable[..., Any]) -> None:
    assert cli("check", "sofmax").code == 2
    answer = cli("check", "softmax", "--set", "epoch=3")
    assert answer.code == 2
    assert "did you mean 'epochs'?" in answer.err


def test_tables_of_two_shapes_are_infinitely_far_apart() -> None:
    table = np.zeros((3, 2), np.float32)
    assert relative_distance(table, table) == 0.0
    assert relative_distance(table, table[:2]) == float("inf")
    assert relative_distance(table, np.full_like(table, np.nan)) == float("inf")
