"""`pseudo`: two halves, each scored by the model that did not learn it, and valid by nobody who did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.conformance.checks import resumes
from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import ToyBenchmarks, Trial, draw_toy_benchmarks
from whalebench.benchmarks.core.photos import CPU, UNKNOWN, Photos
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.record import SCORES, RunRecord, read_arrays
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.explaining.explain import explain
from whalebench.benchmarks.predicting.predict import predict
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import restored, runner
from whalebench.benchmarks.running.folds import Views, fold_views, open_fold
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.restored import restore_run
from whalebench.methods import registry
from whalebench.methods.method import Harness, Method, MethodConfig
from whalebench.methods.parts import bagging
from whalebench.methods.parts.pairs import PairSampler
from whalebench.methods.parts.training.pseudo_labels import (
    PseudoLabelledPhotos,
    PseudoLabelSampler,
    pseudo_label_sampler,
    two_halves,
    with_pseudo_labels,
)
from whalebench.methods.parts.training.samplers import PKSampler, Sampler, Shuffled
from whalebench.methods.pseudo import Pseudo, PseudoConfig
from whalebench.methods.registry import configure

SIZE = (10, 12)
NETWORK = "backbone=test_resnet,size=32,epochs=1,batch_size=8"


class Nearest(Method):
    """The nearest photo it was shown: at no distance from one that it learned."""

    name, summary, source, Config = "nearest", "nearest photo", "this test", MethodConfig

    def sizes(self) -> tuple[tuple[int, int], ...]:
        return (SIZE,)

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        known = train.known()
        harness.stage("gallery")
        harness.fitted("gallery", known)
        harness.choose("gallery_photos", len(known))
        assert known.labels is not None
        self.pixels, self.labels = self._pixels(known), torch.from_numpy(known.labels)

    def score(self, photos: Photos) -> Any:
        assert photos.labels is None and photos.annotations is None
        distances = torch.cdist(
            self._pixels(photos), self.pixels, compute_mode="donot_use_mm_for_euclid_dist"
        )
        each = [distances[:, self.labels == label].amin(dim=1) for label in range(len(photos.identities))]
        return -torch.stack(each, dim=1).numpy()

    def weights(self) -> dict[str, torch.Tensor]:
        return {"pixels": self.pixels, "labels": self.labels}

    def restore(self, weights: Mapping[str, torch.Tensor], identities: Any, device: torch.device) -> None:
        self.pixels, self.labels = weights["pixels"], weights["labels"]

    def _pixels(self, photos: Photos) -> torch.Tensor:
        return torch.cat([batch.pixels.flatten(1) for batch in photos.batches(SIZE, 64)])


class Together(Nearest):
    """Transductive already."""

    name, transductive = "together", True


class LearnsValid(Pseudo):
    """Takes valid photos for pseudo-labelled ones."""

    name = "learns-valid"

    def _guesses(self, unlabelled: Photos, harness: Harness) -> Photos:
        return self.valid.known().labelled()


class Hasty(Pseudo):
    """Hands on what it was shown."""

    name = "hasty"
    shown: Photos

    def adapt(self, unlabelled: Photos, harness: Harness) -> None:
        Hasty.shown = unlabelled
        super().adapt(unlabelled, harness)


KINDS: dict[str, type[Method]] = {kind.name: kind for kind in (Nearest, Together, LearnsValid, Hasty, Pseudo)}


@pytest.fixture(scope="module", autouse=True)
def _methods() -> Iterator[None]:
    found = registry.find_method
    with pytest.MonkeyPatch.context() as patch:
        for module in (runner, restored, registry, bagging):
            patch.setattr(module, "find_method", lambda name: KINDS.get(name) or found(name))
        yield


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> ToyBenchmarks:
    return draw_toy_benchmarks(Workspace.open(tmp_path_factory.mktemp("trial")))


@pytest.fixture(scope="module")
def finished(shared_tiny: Workspace) -> RunRecord:
    return run(shared_tiny)


def run(workspace: Workspace, method: str = "pseudo", *settings: str, **asked: Any) -> RunRecord:
    own = ("of=nearest", *settings) if method != "nearest" else settings
    request = runner.RunRequest(method, "tiny", 0, 0, own, "cpu")
    return runner.run(request, workspace, **asked)


def lineage_of(workspace: Workspace, record: RunRecord) -> dict[str, set[str]]:
    _, lineage = read_arrays(workspace.runs / record.run / "weights.safetensors", (), "lineage")
    assert lineage.pop("calibration")  # chosen on valid, as of every run
    return {part: set(digests) for part, digests in lineage.items()}


def scores_of(workspace: Workspace, record: RunRecord) -> dict[str, Any]:
    arrays, _ = read_arrays(workspace.runs / record.run / SCORES, ("valid_scores", "test_scores"), "names")
    return arrays


def taught(views: Views, *settings: str, seed: int = 0) -> tuple[Pseudo, RunHarness]:
    config = configure(Pseudo, settings)
    method, harness = Pseudo(config), RunHarness(seed, CPU, views, SILENT, config)
    harness.seed_everything()
    harness.fit(method)
    return method, harness


# What is drawn


def mixture(sizes: list[int], guessed: list[int], share: float = 0.5) -> PseudoLabelledPhotos:
    """Photos of which only labels and kinds matter: so many of each individual in train, and guessed."""
    labels = np.concatenate([np.repeat(np.arange(len(n)), n) for n in (sizes, guessed)])
    count, train = len(labels), sum(sizes)
    none: Any = None
    return PseudoLabelledPhotos(
        images=tuple(map(str, range(count))),
        digests=tuple(map(str, range(count))),
        identities=tuple(map(str, range(len(sizes)))),
        store=none,
        rows=np.arange(count),
        shapes=np.ones((count, 2), np.int64),
        labels=labels,
        pseudo=np.arange(count) >= train,
        share=share,
    )


def epochs_of(order: Sampler, count: int) -> list[list[Any]]:
    generator = torch.Generator().manual_seed(3)
    return [order.epoch(generator) for _ in range(count)]


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_each_photo_of_a_step_is_pseudo_labelled_at_the_share(share: float) -> None:
    photos = mixture([1] * 60 + [5] * 20, [0] * 70 + [1] * 6 + [3] * 4, share)
    order = pseudo_label_sampler(Shuffled(len(photos), 16), photos)
    drawn = np.concatenate([np.concatenate(epoch) for epoch in epochs_of(order, 120)])
    assert photos.pseudo[drawn].mean() == pytest.approx(share, abs=0.02)
    # Where photos come alone, all of one kind are as likely as each other.
    seen = np.bincount(drawn, minlength=len(photos))
    assert seen.min() > 0
    guesses = seen[photos.pseudo]
    assert guesses.max() < 1.5 * guesses.min()


def test_an_epoch_is_as_long_as_without_pseudo_labels() -> None:
    photos = mixture([4] * 40, [1] * 40)
    order = pseudo_label_sampler(Shuffled(len(photos), 16), photos)
    assert order.steps == Shuffled(160, 16).steps
    (steps,) = epochs_of(order, 1)
    assert len(steps) == order.steps
    assert sum(map(len, steps)) == pytest.approx(160, abs=16 / 2)


def test_photos_that_come_together_stay_of_one_individual() -> None:
    """P individuals with K photos: half of what is drawn is guessed, and most have K photos still."""
    photos = mixture([8] * 24, [1, 1, 2, 2] + [0] * 20)
    assert photos.labels is not None
    order = pseudo_label_sampler(PKSampler(photos.labels, 4, 4), photos)
    steps = [step for epoch in epochs_of(order, 60) for step in epoch]
    assert photos.pseudo[np.concatenate(steps)].mean() == pytest.approx(0.5, abs=0.02)
    assert all(np.unique(photos.labels[step], return_counts=True)[1].min() >= 2 for step in steps)
    # An individual that is pseudo-labelled itself has both kinds side by side, to be compared.
    own = [photos.pseudo[step[photos.labels[step] == 0]] for step in steps if 0 in photos.labels[step]]
    assert np.mean([0 < kinds.sum() < len(kinds) for kinds in own]) > 0.4


def test_matching_pairs_still_match() -> None:
    photos = mixture([4] * 30, [1] * 6 + [0] * 24)
    assert photos.labels is not None
    order = PairSampler(photos.labels, batch_size=8, epochs=3, block=32)
    mix = pseudo_label_sampler(order, photos)
    steps = [step for epoch in epochs_of(mix, 60) for step in epoch]
    assert photos.pseudo[np.concatenate(steps)].mean() == pytest.approx(0.5, abs=0.02)
    pairs = np.concatenate([photos.labels[step].reshape(2, -1) for step in steps], axis=1)
    assert 0.5 <= (pairs[0] == pairs[1]).mean() < 0.65
    assert isinstance(mix, PseudoLabelSampler)
    assert mix.state_dict().keys() == order.state_dict().keys()
    other = PseudoLabelSampler(PairSampler(photos.labels, batch_size=8, epochs=3, block=32), photos)
    other.load_state_dict(mix.state_dict())
    again = [list(map(list, sampler.epoch(torch.Generator().manual_seed(1)))) for sampler in (mix, other)]
    assert again[0] == again[1]


def test_new_individuals_give_way_one_by_one() -> None:
    photos = mixture([30, 2], [0, 3])
    assert photos.labels is not None
    photos = replace(photos, labels=np.where(photos.labels == 0, UNKNOWN, photos.labels))
    order = pseudo_label_sampler(Shuffled(len(photos), 64), photos)
    shares = [photos.pseudo[step].mean() for epoch in epochs_of(order, 40) for step in epoch]
    assert np.std(shares) < 0.2


def test_photos_without_guesses_are_drawn_as_ever() -> None:
    photos, order = mixture([3] * 5, [1] * 5), Shuffled(15, 4)
    assert pseudo_label_sampler(order, photos.select(range(15))) is order
    assert pseudo_label_sampler(order, photos.select(range(15, 20))) is order
    assert isinstance(pseudo_label_sampler(order, photos.known().select(range(10, 20))), PseudoLabelSampler)


def test_train_and_guesses_are_one_view_of_each_photo_once(views: Views) -> None:
    test = views.test
    guessed = replace(test, labels=np.zeros(len(test), np.int64))
    both = with_pseudo_labels(views.train, guessed, 0.5)
    assert isinstance(both, PseudoLabelledPhotos)
    assert len(set(both.images)) == len(both) == len(views.train) + len(test)
    assert np.array_equal(both.batch(range(len(both)), SIZE).pixels[len(views.train) :],
                          test.batch(range(len(test)), SIZE).pixels)  # fmt: skip
    assert both.annotations is not None
    assert np.isnan(both.annotations.boxes[both.rows[both.pseudo]]).all()
    known = both.known().labelled()
    assert isinstance(known, PseudoLabelledPhotos)
    assert known.pseudo.sum() == len(test)
    assert known.images[-len(test) :] == test.images


# The halves


def guesses(labels: list[int], digests: list[str] | None = None) -> Photos:
    photos = mixture([0] * (max(labels) + 1), [labels.count(label) for label in range(max(labels) + 1)])
    return photos if digests is None else replace(photos, digests=tuple(digests))


def test_halves_are_even_within_each_individual_and_drawn_by_the_seed() -> None:
    photos = guesses(sorted([0] * 5 + [1] * 4 + [2] + [3] + [4] * 7))
    one, other = two_halves(photos, 0)
    assert sorted(one.images + other.images) == sorted(photos.images)
    assert abs(len(one) - len(other)) <= 1
    for label in range(5):
        counts = [int((half.labels == label).sum()) for half in (one, other)]
        assert abs(counts[0] - counts[1]) <= 1
    assert two_halves(photos, 0)[0].images == one.images
    assert len({two_halves(photos, seed)[0].images for seed in range(9)}) > 5


def test_equal_photos_are_in_one_half() -> None:
    photos = guesses([0] * 8, list("aabbccdd"))
    for seed in range(9):
        one, other = two_halves(photos, seed)
        assert not set(one.digests) & set(other.digests)
        assert len(one) == len(other) == 4
    assert [len(half) for half in two_halves(guesses([0]), 0)] == [1, 0]


# The runs


def test_what_is_learned_and_from_what_is_in_the_record(shared_tiny: Workspace, finished: RunRecord) -> None:
    lineage, benchmark = lineage_of(shared_tiny, finished), load_benchmark("tiny", shared_tiny)
    views, opened = fold_views(benchmark, 0), open_fold(benchmark, 0)
    train, valid, test = (
        {opened.digests[digest] for digest in photos.digests}
        for photos in (views.train.known(), views.valid, views.test)
    )
    assert set(lineage) == {"gallery", "half_a.gallery", "half_b.gallery"}
    assert lineage["gallery"] == train
    one, other = (lineage[f"half_{side}.gallery"] - train for side in "ab")
    assert one
    assert other
    assert not one & other
    assert one | other < test
    assert not valid & set().union(*lineage.values())
    chosen = finished.chosen
    assert (chosen["pseudo_labels_half_a"], chosen["pseudo_labels_half_b"]) == (len(one), len(other))
    assert chosen["pseudo_labels"] == len(one | other)
    assert chosen["half_a.gallery_photos"] == len(train | one)
    assert finished.transductive
    assert {"gallery", "half_a.gallery", "half_b.gallery", "pseudo-labels"} <= set(finished.seconds)
    assert finished.usage is not None
    seen = {stage: finished.usage.photos_by_stage[stage] for stage in lineage}
    assert seen == {stage: len(digests) for stage, digests in lineage.items()}


def test_no_photo_is_scored_by_a_model_that_learned_it(shared_tiny: Workspace, finished: RunRecord) -> None:
    views = fold_views(load_benchmark("tiny", shared_tiny), 0)
    scores = scores_of(shared_tiny, finished)
    method, _ = taught(views, "of=nearest")
    learned = set(method.learned["half_a"] + method.learned["half_b"])
    own = np.array([digest in learned for digest in views.test.digests])
    for half in method.models.values():
        assert (half.score(views.test).max(axis=1)[own] > -1e-3).any(), "else nothing would be tested"
    assert (scores["test_scores"].max(axis=1) < -1e-3).all()
    one, other = (method.models[half].score(views.test) for half in ("half_a", "half_b"))
    for row, digest in enumerate(views.test.digests):
        expected = other[row] if digest in method.learned["half_a"] else one[row]
        if digest not in learned:
            expected = (one[row] + other[row]) / 2
        assert scores["test_scores"][row] == pytest.approx(expected)
    both = np.mean([model.score(views.valid.bare()) for model in method.models.values()], axis=0)
    assert scores["valid_scores"] == pytest.approx(both)


def test_only_photos_as_sure_as_asked_for_are_learned_from(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunHarness, "confidence", lambda self, valid, scores: np.linspace(0, 1, len(scores)))
    method, _ = taught(views, "of=nearest", "confidence=0.5")
    learned = {digest for half in method.learned.values() for digest in half}
    digests, labels = np.array(views.test.digests), method.first.score(views.test).argmax(axis=1)
    assert learned == set(digests[np.linspace(0, 1, len(digests)) > 0.5])
    for half, model in method.models.items():
        (nearest,) = model.cycles
        assert isinstance(nearest, Nearest)
        added = nearest.labels[-len(method.learned[half]) :]
        assert added.tolist() == [int(labels[digests == digest][0]) for digest in method.learned[half]]


def test_confidence_is_that_of_test_and_nothing_for_what_is_called_new(
    views: Views, shared_tiny: Workspace
) -> None:
    harness = RunHarness(0, CPU, views, SILENT)
    scores = Nearest(MethodConfig())
    harness.fit(scores)
    valid, test = (scores.score(photos.bare()) for photos in (views.valid, views.test))
    from whalebench.benchmarks.running.evaluation import evaluate_scores

    answers = open_fold(load_benchmark("tiny", shared_tiny), 0).answers
    scored = {"valid": valid, "test": test}
    judged = evaluate_scores(views.train.identities, scored, answers, MethodConfig())
    found = harness.confidence(valid, test)
    first = judged.queries["candidate_1"].to_numpy()
    assert ((first == "new") == (found == 0)).all()
    said = judged.queries["confidence"].to_numpy()
    assert found[found > 0] == pytest.approx(said[found > 0])


def test_where_nothing_is_sure_it_is_the_method_within(
    shared_tiny: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunHarness, "confidence", lambda self, valid, scores: np.full(len(scores), 0.7))
    record, plain = run(shared_tiny, "pseudo", "confidence=0.75"), run(shared_tiny, "nearest")
    assert record.chosen["pseudo_labels"] == 0
    assert record.metrics == plain.metrics
    assert set(lineage_of(shared_tiny, record)) == {"gallery"}
    (said,) = [warning for warning in record.warnings if "pseudo-labels" in warning]
    assert said.startswith("No test photo had a first candidate more probable than confidence=0.75")
    back = restore_run(record.run, shared_tiny)
    assert back.scores == pytest.approx(scores_of(shared_tiny, plain)["test_scores"])
    assert back.method.variants(back.views.test) == {}


def test_a_finished_run_is_restored_and_knows_who_must_not_score_what(
    shared_tiny: Workspace, finished: RunRecord
) -> None:
    back = restore_run(finished.run, shared_tiny)
    assert np.array_equal(back.scores, scores_of(shared_tiny, finished)["test_scores"])
    assert back.method.variants(back.views.test) == {}
    with pytest.raises(WhalebenchError, match="pseudo scores photos with the help of the others"):
        explain(finished.run, shared_tiny)


def test_of_a_test_photo_that_comes_again_the_model_is_asked_that_did_not_learn_it(
    shared_tiny: Workspace, finished: RunRecord
) -> None:
    benchmark = load_benchmark("tiny", shared_tiny)
    table, test = benchmark.catalog.table.set_index("image"), benchmark.split.parts(0).test
    files = [Path(table.loc[image, "path"]) for image in test]
    made = predict(finished.run, files, shared_tiny)
    rows = {photo: row for row, photo in enumerate(made.photos["photo"])}
    scores = made.scores[[rows[file.as_posix()] for file in files]]
    assert np.array_equal(scores, scores_of(shared_tiny, finished)["test_scores"])
    assert any("has learned from the bare test photos" in note for note in made.notes)


def test_the_scores_without_pseudo_labels_are_at_hand(views: Views) -> None:
    method, _ = taught(views, "of=nearest")
    plain, _ = Nearest(MethodConfig()), None
    RunHarness(0, CPU, views, SILENT).fit(plain)
    (name,) = found = method.variants(views.test)
    assert name == "without pseudo-labels"
    assert np.array_equal(found[name], plain.score(views.test))
    assert not np.array_equal(found[name], method.score(views.test))


# What is refused


def test_a_valid_photo_taken_for_a_pseudo_labelled_one_ends_the_run(shared_tiny: Workspace) -> None:
    there = set(shared_tiny.runs.iterdir())
    with pytest.raises(RunFailedError, match=r"half_a.gallery was fitted on \d photo\(s\) outside train"):
        run(shared_tiny, "learns-valid")
    assert set(shared_tiny.runs.iterdir()) == there


def test_test_photos_are_lent_to_nobody_but_a_transductive_method_after_it_learned(views: Views) -> None:
    harness = RunHarness(0, CPU, views, SILENT)
    asked = []

    class Inductive(Nearest):
        def adapt(self, unlabelled: Photos, harness: Harness) -> None:
            asked.append(unlabelled)

    harness.fit(Inductive(MethodConfig()))
    assert asked == []
    with pytest.raises(RunFailedError, match=r"outside train of this fold.*fit every part on train only\."):
        harness.fitted("network", views.test)

    class Early(Inductive):
        transductive = True

        def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
            harness.fitted("network", views.test)

    with pytest.raises(RunFailedError, match="outside train"):
        RunHarness(0, CPU, views, SILENT).fit(Early(MethodConfig()))
    assert asked == []

    class Late(Inductive):
        transductive = True

        def adapt(self, unlabelled: Photos, harness: Harness) -> None:
            harness.fitted("more", unlabelled)
            harness.fitted("worse", views.valid)

    harness = RunHarness(0, CPU, views, SILENT)
    with pytest.raises(RunFailedError, match=r"worse was fitted on .* or on the test photos that adapt\(\)"):
        harness.fit(Late(MethodConfig()))
    assert harness.adapted_to() == {"more": len(set(views.test.digests))}


def test_what_is_lent_is_bare_and_nothing_that_valid_holds(views: Views) -> None:
    twin = views.valid.digests[0]
    doubled = replace(views, test=replace(views.test, digests=(twin, *views.test.digests[1:])))
    config = configure(Pseudo, ["of=nearest", "confidence=0.01"])
    RunHarness(0, CPU, doubled, SILENT, config).fit(Hasty(config))
    shown = Hasty.shown
    assert shown.images == views.test.images[1:]
    assert shown.labels is None
    assert shown.annotations is None
    assert shown.species is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("of=pseudo",), "would guess the guesses"),
        (("of=softmx",), "did you mean 'softmax'"),
        (("of_settings=epoch=3",), "'softmax' has no field 'epoch'"),
        (("new_rule=second",), "of_settings=new_rule=second"),
        (("confidence=1",), "confidence"),
        (("share=0",), "share"),
    ],
)
def test_contradictions_are_refused(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(WhalebenchError, match=words):
        configure(Pseudo, settings)


def test_a_method_that_is_transductive_already_is_refused() -> None:
    with pytest.raises(WhalebenchError, match="of=together scores photos with the help of others"):
        Pseudo(configure(Pseudo, ["of=together"]))


def test_new_is_where_the_method_within_has_it() -> None:
    config = configure(Pseudo, ["of=happywhale-26th", "of_settings=new_share=0.3"])
    inner = config.inner()
    assert inner is not None
    assert (config.new_rule, config.new_share) == (inner.new_rule, inner.new_share)
    assert config.new_share == 0.3
    assert PseudoConfig.model_validate_json(config.model_dump_json()) == config


def test_it_does_not_fit_where_the_method_within_does_not(ground: ToyBenchmarks) -> None:
    views = fold_views(ground.plain, 0)
    method = Pseudo(configure(Pseudo, ["of_settings=crop=box"]))
    assert method.missing_requirement(views.train, views.test) == "boxes"


# Around networks

WITHIN = {
    "arcface": "dimensions=8",
    "siamese": "dimensions=8",
    "triplet": "dimensions=8,batch_size=8,memory=16",
    "frozen": "pretrained=none",
    "playground-resnet18": "first_epochs=1,first_photos=2",
    "humpback-3rd": "scale=small,dimensions=8,small_epochs=0,checkpoints=1",
}


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that have learned for an epoch are taken to be sure of every photo."""
    monkeypatch.setattr(RunHarness, "confidence", lambda self, valid, scores: np.ones(len(scores)))


@pytest.mark.parametrize("name", WITHIN)
def test_any_method_learns_from_the_mixture(name: str, ground: ToyBenchmarks, sure: None) -> None:
    small = smallest_settings(Pseudo, [f"of={name}", f"of_settings={WITHIN[name]}"])
    views = fold_views(ground.annotated, 0)
    method, harness = taught(views, *small)
    assert sum(map(len, method.learned.values())) == len(views.test)
    adapted = harness.adapted_to()
    assert {part.split(".")[0] for part in adapted} == {"half_a", "half_b"}
    assert not any("aligner" in part for part in adapted)
    scores = method.score(views.test)
    assert np.isfinite(scores).all()
    assert not np.array_equal(scores, method.variants(views.test)["without pseudo-labels"])


def test_behind_a_crop_the_finder_learns_from_annotated_train_photos_alone(views: Views, sure: None) -> None:
    finder = "localizer.backbone=test_resnet,localizer.size=32,localizer.epochs=1"
    method, harness = taught(views, f"of_settings=crop=box,{finder},{NETWORK}")
    lineage = {part: set(digests) for part, digests in harness.lineage.items()}
    test = set(views.test.digests)
    for half in ("half_a", "half_b"):
        assert lineage[f"{half}.localizer"] == lineage["localizer"]
        assert lineage[f"{half}.network"] & test == set(method.learned[half])
    assert not lineage["localizer"] & test
    assert harness.adapted_to().keys() == {"half_a.network", "half_b.network"}


def test_stopped_in_any_of_its_trainings_it_ends_the_same(ground: ToyBenchmarks, sure: None) -> None:
    settings = smallest_settings(Pseudo, ("of_settings=epochs=2",))
    trial = Trial("pseudo", Pseudo, configure(Pseudo, settings), ground)
    trial.learned = trial.learn(trial.views)
    assert resumes(trial) == "Stopped 3 time(s) and taken up again, it gives the same scores."
    curve = trial.learned.harness.curve()
    assert curve["stage"].tolist() == ["train"] * 2 + ["half_a.train"] * 2 + ["half_b.train"] * 2
    assert curve["photos"].max() - curve["photos"].min() <= 8 / 2


def test_the_same_bytes_again(tmp_path: Path, shared_tiny: Workspace, finished: RunRecord) -> None:
    before = (shared_tiny.runs / finished.run / SCORES).read_bytes()
    again = run(shared_tiny, force=True)
    assert (shared_tiny.runs / again.run / SCORES).read_bytes() == before
    assert math.isfinite(again.metrics["map_at_5"])
