"""Bagging over inner folds: how train is cut, who learns from what, what is refused."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.catalog import Catalog, build_catalog
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.embeddings import read_embeddings
from whalebench.benchmarks.ensembles.members import find_members, load_fold, read_members
from whalebench.benchmarks.ensembles.out_of_fold import read_out_of_fold
from whalebench.benchmarks.registry import Benchmark, load_benchmark
from whalebench.benchmarks.running.folds import fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.methods.method import Method, MethodConfig
from whalebench.methods.parts.bagging import Bagged, _take_in, build_method
from whalebench.methods.parts.ensemble import Ensemble
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig
from whalebench.methods.registry import configure, find_method
from whalebench.splits.inner import check_inner_folds, check_nested, keep_inner_folds, propose_inner_folds
from whalebench.splits.protocols import propose_split
from whalebench.splits.split import Split

CPU = torch.device("cpu")
BAGS = 2


class Reciting(Method):
    """Knows by heart what it learned from: 1 for the individual of a photo that it has seen, else 0."""

    name, summary, source, Config = "reciting", "", "", MethodConfig

    def learn(self, train: Any, valid: Any, harness: Any) -> None:
        harness.fitted("memory", train)
        self.memory = dict(zip(train.digests, train.labels.tolist(), strict=True))
        self.identities, self.valid = len(train.identities), valid

    def score(self, photos: Any) -> Any:
        scores = np.zeros((len(photos), self.identities), np.float32)
        for row, digest in enumerate(photos.digests):
            if digest in self.memory:
                scores[row, self.memory[digest]] = 1
        return scores


@pytest.fixture(scope="module")
def benchmark(shared_tiny: Workspace) -> Benchmark:
    return load_benchmark("tiny", shared_tiny, propose=True)


@pytest.fixture(scope="module")
def met_often() -> tuple[Split, Catalog]:
    """Twelve individuals with two photos in each of one to six encounters, and a split of them."""
    rows = [
        {
            "image": f"{who:02d}-{encounter}-{photo}.jpg",
            "identity": f"w{who}",
            "encounter": f"e{who}-{encounter}",
        }
        for who in range(12)
        for encounter in range(1 + who % 6)
        for photo in range(2)
    ]
    table = pd.DataFrame(rows).assign(content_digest="")
    catalog = build_catalog(table.assign(path=table["image"]), "often")
    return propose_split(catalog, folds=3), catalog


def learned(benchmark: Benchmark, kind: type[Method] = Reciting) -> tuple[Bagged, RunHarness, Any]:
    config = MethodConfig(bags=BAGS)
    views, method = fold_views(benchmark, 0), build_method(kind, config)
    harness = RunHarness(0, CPU, views, SILENT, config)
    harness.fit(method)
    assert isinstance(method, Bagged)
    return method, harness, views


def test_inner_folds_cut_no_group_and_leave_everybody_known(met_often: Any) -> None:
    split, catalog = met_often
    inner, train = propose_inner_folds(split, catalog, 0, BAGS), split.parts(0).train
    assert tuple(inner.inner) == train and set(inner.inner.values()) == {-1, *range(BAGS)}
    facts = catalog.table.set_index("image")
    group = dict(zip(split.table["image"], split.table["group"], strict=True))
    places, left = defaultdict(set), defaultdict(set)
    for image in train:
        places[group[image]].add(inner.inner[image])
        left[facts["identity"][image]] |= set(range(BAGS)) - {inner.inner[image]}
    assert all(len(each) == 1 for each in places.values())
    assert all(len(each) == BAGS for each in left.values())
    assert propose_inner_folds(split, catalog, 0, BAGS) == inner


def test_what_an_inner_fold_leaves_is_cut_anew(met_often: Any) -> None:
    split, catalog = met_often
    check_nested(split, catalog, 0, (BAGS, BAGS))
    outer = propose_inner_folds(split, catalog, 0, BAGS).inner
    for number in range(BAGS):
        held = {image for image, place in outer.items() if place == number}
        inner = propose_inner_folds(split, catalog, 0, BAGS, held).inner
        assert tuple(inner) == tuple(image for image in split.parts(0).train if image not in held)
        counts = [list(inner.values()).count(place) for place in range(BAGS)]
        assert min(counts) > 0 and max(counts) <= 2 * min(counts)
    with pytest.raises(
        WhalebenchError, match=r"without \d+ photos that are held back, cannot be cut in 2 inner"
    ):
        check_nested(split, catalog, 0, (BAGS, BAGS, BAGS))


class BaggedWithin(Reciting):
    """Is bagged itself, over as many inner folds of what it is given."""

    name = "bagged-within"

    def learn(self, train: Any, valid: Any, harness: Any) -> None:
        self.inner = build_method(Reciting, MethodConfig(bags=BAGS))
        self.inner.learn(train, valid, harness)

    def score(self, photos: Any) -> Any:
        return self.inner.score(photos)


def test_inner_folds_within_a_bag_are_of_what_it_learns_from(benchmark: Benchmark) -> None:
    method, harness, _ = learned(benchmark, BaggedWithin)
    for number, member in enumerate(method.members, 1):
        within: Any = member.cycles[0]
        assert within.inner.out_of_fold is not None
        each = [inner.cycles[0] for inner in within.inner.members]
        held = [set(inner.valid.digests) for inner in each]
        assert all(held) and not held[0] & held[1]
        outer = set(harness.lineage[f"bag_{number}.bag_1.memory"])
        outer |= set(harness.lineage[f"bag_{number}.bag_2.memory"])
        assert set().union(*held) <= outer
        assert not any(set(inner.memory) & own for inner, own in zip(each, held, strict=True))


def test_photos_are_spread_evenly(met_often: Any) -> None:
    inner = list(propose_inner_folds(*met_often, 0, BAGS).inner.values())
    counts = [inner.count(number) for number in range(BAGS)]
    assert min(counts) > 0 and max(counts) <= 2 * min(counts)


def test_each_learns_without_its_inner_fold_and_is_chosen_by_it(benchmark: Benchmark) -> None:
    method, harness, views = learned(benchmark)
    inner = views.inner_folds(BAGS)
    of = dict(zip(views.train.digests, (inner[image] for image in views.train.images), strict=True))
    for number, member in enumerate(method.members):
        told: Any = member.cycles[0]
        assert set(told.memory) == {digest for digest, place in of.items() if place != number}
        assert {of[digest] for digest in told.valid.digests} == {number}
        assert set(harness.lineage[f"bag_{number + 1}.memory"]) == set(told.memory)
    assert {f"bag_{number + 1}.valid_map_at_5" for number in range(BAGS)} <= set(harness.chosen)


def test_answers_of_train_are_of_who_had_not_learned_it(benchmark: Benchmark) -> None:
    method, _, views = learned(benchmark)
    found = method.out_of_fold
    assert found is not None and found.embeddings is None
    inner = views.inner_folds(BAGS)
    held = [place for place, image in enumerate(views.train.images) if inner[image] >= 0]
    assert found.rows.tolist() == held
    assert not found.scores.any()  # who recites knows nothing of what it was not told
    assert method.members[0].score(views.train.bare()).any()


def test_they_answer_by_their_mean_or_by_votes(benchmark: Benchmark) -> None:
    method, _, views = learned(benchmark)
    photos = views.train.bare()
    each = [member.score(photos) for member in method.members]
    assert np.array_equal(method.score(photos), np.mean(each, axis=0, dtype=np.float32))
    method.config = method.config.model_copy(update={"bags_joined": "votes"})
    assert not np.array_equal(method.score(photos), np.mean(each, axis=0, dtype=np.float32))


class Peeking(Reciting):
    """Is fitted on what it is to be chosen by, too."""

    name = "peeking"

    def learn(self, train: Any, valid: Any, harness: Any) -> None:
        super().learn(train, valid, harness)
        harness.fitted("memory", valid)


def test_a_photo_in_its_own_inner_train_part_is_refused(benchmark: Benchmark) -> None:
    with pytest.raises(RunFailedError, match=r"bag_1.memory was fitted on \d+ photo.* of its own inner fold"):
        learned(benchmark, Peeking)


def test_what_is_held_back_from_a_part_is_held_back_from_all_in_it(benchmark: Benchmark) -> None:
    views = fold_views(benchmark, 0)
    harness, train = RunHarness(0, CPU, views, SILENT), views.train
    outer, inner, left = (train.select(np.array([place])) for place in range(3))
    with harness.held_back(outer):
        with harness.held_back(inner):
            harness.fitted("part", left)
            for photos in (outer, inner):
                with pytest.raises(RunFailedError, match="of its own inner fold"):
                    harness.fitted("part", photos)
        harness.fitted("part", inner)


def test_choosing_by_photos_outside_train_is_refused(benchmark: Benchmark) -> None:
    views = fold_views(benchmark, 0)
    with (
        pytest.raises(RunFailedError, match="not of train"),
        RunHarness(0, CPU, views, SILENT).held_back(views.valid),
    ):
        pass


def test_an_encounter_in_two_inner_folds_is_refused(met_often: Any) -> None:
    split, catalog = met_often
    inner = propose_inner_folds(split, catalog, 0, BAGS)
    cut = next(image for image, place in inner.inner.items() if place >= 0)
    torn = replace(inner, inner={**inner.inner, cut: 1 - inner.inner[cut]})
    with pytest.raises(WhalebenchError, match=f"the group of {cut[:-6]}.* is cut in two; leave bags out"):
        check_inner_folds(torn, split, catalog)


def test_an_individual_that_nobody_would_learn_is_refused(met_often: Any) -> None:
    split, catalog = met_often
    inner = propose_inner_folds(split, catalog, 0, BAGS)
    alone = {image: 0 if place < 0 else place for image, place in inner.inner.items()}
    with pytest.raises(WhalebenchError, match=r"w\d+ is in inner fold 0 alone"):
        check_inner_folds(replace(inner, inner=alone), split, catalog)


def test_too_many_inner_folds_are_refused(benchmark: Benchmark) -> None:
    with pytest.raises(WhalebenchError, match="cut in 40 inner folds: there are too few encounters"):
        propose_inner_folds(benchmark.split, benchmark.catalog, 0, 40)


def test_inner_folds_are_kept_and_others_refused(benchmark: Benchmark, tmp_path: Any) -> None:
    inner = propose_inner_folds(benchmark.split, benchmark.catalog, 0, BAGS)
    keep_inner_folds(inner, tmp_path / "split")
    keep_inner_folds(inner, tmp_path / "split")
    (file,) = tmp_path.iterdir()
    assert file.name == "split.inner-fold0-bags2.json"
    facts = json.loads(file.read_text())
    first = next(iter(facts["inner"]))
    facts["inner"][first] = 1 - facts["inner"][first]
    file.write_text(json.dumps(facts))
    with pytest.raises(WhalebenchError, match="holds other inner folds"):
        keep_inner_folds(inner, tmp_path / "split")


def test_a_bagged_run_is_kept_restored_and_repeated(
    shared_tiny: Workspace, tiny_settings: tuple[str, ...]
) -> None:
    from whalebench.benchmarks.running.restored import restore_run

    settings = (*tiny_settings, "bags=2")
    record = run(RunRequest("arcface", "tiny", settings=settings, device="cpu"), shared_tiny)
    alone = run(RunRequest("arcface", "tiny", settings=tiny_settings, device="cpu"), shared_tiny)
    assert record.config["bags"] == 2 and record.run != alone.run
    given, once = record.usage, alone.usage
    assert given is not None and once is not None
    assert given.parameters == 2 * once.parameters and given.looks == 2 * once.looks
    assert {stage.partition(".")[0] for stage in given.photos_by_stage} == {"bag_1", "bag_2"}
    assert given.photos_seen == sum(given.photos_by_stage.values()) >= once.photos_seen
    assert any(name.startswith("bag_2.") for name in record.lineage)
    assert {"bag_1.gallery_of_inner_fold", "bag_2.gallery_of_inner_fold"} <= set(record.lineage)
    assert (shared_tiny.benchmarks / "tiny" / "split.inner-fold0-bags2.json").is_file()
    restored = restore_run(shared_tiny.runs / record.run, shared_tiny)
    assert isinstance(restored.method, Bagged) and len(restored.method.members) == 2
    runs = find_members((record.run,), shared_tiny, alone=True)
    fold = load_fold(record, shared_tiny)
    (member,) = read_members(runs, fold)
    kept, embedded = read_out_of_fold(member, fold), read_embeddings(member, fold)
    assert kept is not None and kept.embeddings is not None and set(kept.bags) == {0, 1}
    assert embedded["gallery"].shape == (len(fold.gallery), 2 * kept.embeddings.shape[1])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("pseudo", ()),
        ("pseudo", ("of_settings=epochs=3",)),
        ("pseudo", ("of=arcface", "of_settings=pretrain=test")),
        ("salt-4th", ()),
        ("salt-4th", ("scale=small",)),
    ],
)
def test_what_guesses_test_photos_is_bagged_within_only(method: str, settings: tuple[str, ...]) -> None:
    kind = find_method(method)
    with pytest.raises(WhalebenchError, match=r"bags=2 would have .* leave it out, and set") as refused:
        configure(kind, (*settings, "bags=2"))
    advised: Any = configure(kind, (*settings, str(refused.value).rpartition(" ")[2].removesuffix(".")))
    alone: Any = configure(kind, settings)
    assert advised.inner() == alone.inner().model_copy(update={"bags": 2})


class Hoarding(Method):
    """Keeps the photos of its gallery."""

    name, summary, source, Config = "hoarding", "", "", MethodConfig

    def learn(self, train: Any, valid: Any, harness: Any) -> None:
        harness.fitted("memory", train)
        self.gallery, self.identities = Gallery(GalleryConfig()), len(train.identities)
        known = train.known()
        self.gallery.fill(np.ones((len(known), 2), np.float32), known.labels, self.identities)

    def score(self, photos: Any) -> Any:
        return np.zeros((len(photos), self.identities), np.float32)

    def extend(self, photos: Any) -> None:
        assert len(photos)
        self.gallery.add(np.ones((len(photos), 2), np.float32), photos.labels, self.identities)

    def components(self) -> Any:
        return {"": self.gallery}


class Mixed(Ensemble):
    """One that has no gallery and one that has."""

    name, summary, source, Config = "mixed", "", "", MethodConfig

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.members = [Reciting(config), Hoarding(config)]


def test_galleries_take_in_the_inner_fold_whoever_stands_beside_them(benchmark: Benchmark) -> None:
    method, harness, views = learned(benchmark, Mixed)
    known = len(views.train.known())
    for number, member in enumerate(method.members, 1):
        assert f"bag_{number}.gallery_of_inner_fold" in harness.lineage
        assert [len(gallery.labels) for gallery in member.galleries().values()] == [known]


def test_an_inner_fold_of_new_photos_alone_joins_no_gallery(benchmark: Benchmark) -> None:
    _, harness, views = learned(benchmark, Hoarding)
    own = views.train.select(np.flatnonzero(views.train.labels < 0))
    assert len(own)
    member = Pipeline(Hoarding, MethodConfig())
    harness.lineage.clear()
    member.learn(views.train, own, harness)
    _take_in(member, own, harness)
    assert "gallery_of_inner_fold" not in harness.lineage


class Boxed(Reciting):
    """Needs a photo that only one bag has to learn from."""

    name = "boxed"

    def missing_requirement(self, train: Any, queries: Any) -> str:
        return "" if self.wanted in train.digests else "boxes"


def test_a_bag_that_would_lack_what_it_needs_is_refused_before_any_has_learned(benchmark: Benchmark) -> None:
    views = fold_views(benchmark, 0)
    inner = views.inner_folds(BAGS)
    Boxed.wanted = next(
        digest
        for image, digest in zip(views.train.images, views.train.digests, strict=True)
        if inner[image] == 1
    )
    with pytest.raises(RunFailedError, match="what bag 2 of 2 would learn from lacks boxes: take fewer bags"):
        learned(benchmark, Boxed)


def test_too_few_photos_to_learn_from_are_told(benchmark: Benchmark) -> None:
    views = fold_views(benchmark, 0)
    small = ("backbone=test_resnet", "size=32", "epochs=1")
    for method, settings, count, sentence in (
        ("softmax", (), 0, "network would learn from no photo: name or annotate"),
        (
            "bbox",
            ("localizer.size=32",),
            1,
            r"localizer would learn from 1 photo\(s\) with boxes, and 2 are the",
        ),
        (
            "mask",
            ("segmenter.size=32", "segmenter.cycles=2"),
            1,
            r"segmenter would learn from [01] photo\(s\) with masks",
        ),
    ):
        config: Any = configure(find_method(method), (*small, *settings))
        train, harness = views.train.known().select(range(count)), RunHarness(0, CPU, views, SILENT, config)
        with pytest.raises(RunFailedError, match=sentence):
            build_method(method, config).learn(train, views.valid, harness)


def test_votes_of_one_bag_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bags_joined=votes joins bags, and there are none; set bags=5"):
        MethodConfig(bags_joined="votes")


def test_one_bag_is_no_bag() -> None:
    assert type(build_method(Reciting, MethodConfig())) is Pipeline
