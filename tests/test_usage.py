"""What the harness counts of a run, and the tracks that follow from it; no method says anything of itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules import module as torch_modules

from whalebench import RunFailedError
from whalebench.benchmarks.conformance.checks import Stopped, StopsInEpoch
from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import ToyBenchmarks, Trial, draw_toy_benchmarks
from whalebench.benchmarks.core.checkpoint import CheckpointStore
from whalebench.benchmarks.core.photos import CPU, LabelledPhotos, Photos
from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.usage import Usage, UsageCounter, add_up
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running.outcome import ask
from whalebench.methods.arcface import ArcFaceConfig
from whalebench.methods.method import Epoch, Harness, Method, MethodConfig
from whalebench.methods.parts.crops.localizer import Localizer, LocalizerConfig
from whalebench.methods.parts.embedder import Embedder
from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.recipe import set_by_hand
from whalebench.methods.registry import configure, find_method
from whalebench.methods.softmax import PooledBackbone, SoftmaxConfig
from whalebench.reports.tracks import differences, tracks

FINDER = (
    "localizer.epochs=2",
    "localizer.backbone=test_resnet",
    "localizer.size=32",
    "localizer.batch_size=8",
)
ALIGNER = tuple(setting.replace("localizer", "aligner") for setting in FINDER)
ONE_VIEW = ("aligner.turns=1", "aligner.zooms=1")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> ToyBenchmarks:
    return draw_toy_benchmarks(Workspace.open(tmp_path_factory.mktemp("usage") / "workspace"))


def used_in(trial: Trial) -> tuple[Usage, dict[str, int]]:
    """What is counted of the method that learns and is evaluated, and the photos there are."""
    learned = trial.learn(trial.views)
    ask(learned.method, learned.views, learned.harness)
    usage = learned.harness.usage.usage(set_by_hand(trial.config), "")
    return usage, trial.opened().counts(learned.views)


def trial_of(ground: ToyBenchmarks, kind: str | type[Method], *settings: str) -> Trial:
    kind = find_method(kind) if isinstance(kind, str) else kind
    return Trial(kind.name, kind, configure(kind, smallest_settings(kind, settings)), ground)


def record_of(run: str, usage: Usage | None, photos: int = 100, **facts: Any) -> RunRecord:
    known = {"run": run, "method": run, "config": {}, "benchmark": "b", "catalog_digest": "c"}
    known |= {"split_digest": "s", "fold": 0, "seed": 0, "track": "said", "created": "", "environment": {}}
    known |= {"hardware": {}, "seconds": {}, "counts": {"train_known_photos": photos}, "metrics": {}}
    return RunRecord(**known | {"usage": usage, "valid_metrics": {}, "cmc": []} | facts)


PLAIN = Usage(
    photos_seen=3000,
    photos_by_stage={"train": 3000},
    looks=1,
    annotations={},
    pixels=["80x128"],
    parameters=1_000_000,
    weights={},
    by_hand={},
    tuning_budget="",
)


def one_track(*usages: Usage) -> bool:
    return len(set(tracks([record_of(f"run{i}", usage) for i, usage in enumerate(usages)]).values())) == 1


@pytest.fixture(scope="module")
def used(ground: ToyBenchmarks) -> Callable[..., Usage]:
    """What is counted of a method with these settings, learned once."""
    kept: dict[tuple[str, ...], Usage] = {}

    def usage(*words: str) -> Usage:
        if words not in kept:
            kept[words] = used_in(trial_of(ground, *words))[0]
        return kept[words]

    return usage


# The pairs of settings that shared a table, or did not, when methods declared their tracks


def test_two_looks_at_a_photo_are_another_track(used: Callable[..., Usage]) -> None:
    plain, flipped = used("arcface"), used("arcface", "gallery.flip=true")
    assert (plain.looks, flipped.looks) == (1, 2)
    assert not one_track(plain, flipped)
    second = used("arcface", "second_size=48")
    assert second.looks == 2
    assert second.pixels == ["32x32", "48x48"]
    assert not one_track(plain, second)


def test_many_views_by_the_finder_are_another_track(used: Callable[..., Usage]) -> None:
    one = used("aligned", *ALIGNER, *ONE_VIEW)
    four_ways = ("aligner.turns=2", "aligner.zooms=2", "aligner.shears=2", "aligner.shifts=2")
    many = used("aligned", *ALIGNER, *four_ways)
    assert one.looks == 2  # the aligner's, and the network's
    assert many.looks == 1 + 2**4  # so that six each way are 1,297
    assert many.photos_seen == one.photos_seen
    assert not one_track(one, many)
    assert "1,297 looks a photo" in tracks([record_of("a", PLAIN.model_copy(update={"looks": 1297}))])["a"]


def test_a_finder_is_trained_too(used: Callable[..., Usage], ground: ToyBenchmarks) -> None:
    plain, cropped = used("softmax"), used("bbox", *FINDER)
    longer = used("bbox", *FINDER[1:], "localizer.epochs=8")
    boxes = int(np.isfinite(trial_of(ground, "bbox").views.train.annotations.boxes).all(1).sum())
    assert plain.annotations == {}
    assert list(cropped.annotations) == ["box"]
    assert 0 < cropped.annotations["box"]["train"] <= boxes
    assert cropped.photos_by_stage["localizer"] == 2 * cropped.annotations["box"]["train"]
    assert cropped.photos_by_stage["train"] == plain.photos_seen
    assert longer.photos_by_stage["localizer"] == 4 * cropped.photos_by_stage["localizer"]
    assert not one_track(plain, cropped)
    assert not one_track(cropped, longer)


def test_a_larger_finder_is_another_track() -> None:
    def parameters(**fields: Any) -> int:
        network = Localizer(LocalizerConfig(**fields)).build()
        return sum(each.numel() for each in network.parameters())

    cropped = PLAIN.model_copy(update={"annotations": {"box": {"train": 100}}})
    usual, large = (
        cropped.model_copy(update={"parameters": cropped.parameters + parameters(**fields)})
        for fields in ({}, {"backbone": "resnet50"})
    )
    assert not one_track(usual, large)


def test_an_embedding_of_4096_is_another_track() -> None:
    def usage(**fields: Any) -> Usage:
        network = Embedder(ArcFaceConfig(**fields))
        return PLAIN.model_copy(update={"parameters": sum(each.numel() for each in network.parameters())})

    assert not one_track(usage(), usage(dimensions=4096))
    assert one_track(usage(), usage(dimensions=128))
    classifier = PooledBackbone(SoftmaxConfig())
    parameters = sum(each.numel() for each in classifier.parameters())
    assert one_track(usage(), PLAIN.model_copy(update={"parameters": parameters}))


def test_photos_seen_twice_in_half_the_epochs_are_the_same_photos_seen(used: Callable[..., Usage]) -> None:
    twins = used("arcface", "epochs=1", "flip_identities=true")
    plain = used("arcface", "epochs=2")
    assert twins.photos_seen == plain.photos_seen
    # Both sides are embedded where a photo is scored, which is what gallery.flip does.
    assert one_track(twins, used("arcface", "epochs=2", "gallery.flip=true"))
    assert twins.looks == 2
    assert not one_track(used("arcface"), plain)


def test_classifier_margin_and_metric_loss_are_one_track(used: Callable[..., Usage]) -> None:
    usages = [used("softmax", "epochs=2"), used("arcface", "epochs=2"), used("triplet", "epochs=2")]
    seen = [usage.photos_seen for usage in usages]
    assert max(seen) <= min(seen) + 1  # a photo is not learned from alone in a step
    assert one_track(*usages)


# What is counted of any method


class Plugin(Method):
    """A method that says nothing of itself; what it does with train photos is `does`."""

    name, summary, source, Config = "plugin", "any", "this test", MethodConfig
    does: Callable[[Any, LabelledPhotos], None] = lambda self, train: None

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        harness.fitted("all", train)
        self.does(train)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        pixels = photos.batch(range(len(photos)), (16, 24)).pixels
        mean = pixels.mean(dim=(1, 2, 3)).numpy()
        places = np.linspace(0, 1, len(photos.identities), dtype=np.float32)
        return -np.abs(mean[:, None] - places).astype(np.float32)


def used_by(ground: ToyBenchmarks, does: Callable[[Any, LabelledPhotos], None]) -> tuple[Usage, int]:
    """What is counted of a method that does this in its learning, and the train photos there are."""
    usage, counts = used_in(trial_of(ground, type("Doing", (Plugin,), {"does": does})))
    return usage, counts["train_photos"]


def test_a_method_without_networks_is_counted(ground: ToyBenchmarks) -> None:
    usage, photos = used_by(ground, lambda self, train: train.batch(range(len(train)), (16, 24)))
    assert usage.photos_by_stage == {"learn": photos}
    assert (usage.looks, usage.parameters, usage.pixels) == (1, 0, ["16x24"])
    assert usage.annotations == {}
    assert tracks([record_of("a", usage, photos)])["a"].startswith("no network, 16x24 px, 1 pass over train")


def test_photos_read_once_and_learned_from_often_are_counted_as_often(ground: ToyBenchmarks) -> None:
    """Neither `harness.epoch` nor the reading of photos tells, but the network does."""
    epochs = 5

    def does(self: Any, train: LabelledPhotos) -> None:
        pixels = train.batch(range(len(train)), (16, 24)).pixels
        network, normalise = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()), nn.Identity()
        for _ in range(epochs):
            network(normalise(pixels)).mean().backward()
        with torch.no_grad():
            network(pixels)

    usage, photos = used_by(ground, does)
    assert usage.photos_seen == epochs * photos
    assert usage.looks == 1  # by the method: no network scores


def test_what_a_method_tells_counts_where_nothing_else_is_seen(ground: ToyBenchmarks) -> None:
    class Telling(Plugin):
        def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
            super().learn(train, valid, harness)
            harness.stage("trees")
            for number in (1, 2):
                harness.epoch(Epoch(number, 2, 0.0, 0.0, 500, 1.0))

    usage, _ = used_in(trial_of(ground, Telling))
    assert usage.photos_by_stage == {"trees": 1000}


def test_what_nothing_is_learned_from_is_not_seen(ground: ToyBenchmarks) -> None:
    def does(self: Any, train: LabelledPhotos) -> None:
        with torch.inference_mode():
            train.batch(range(len(train)), (32, 32))

    usage, _ = used_by(ground, does)
    assert usage.photos_seen == 0
    assert usage.pixels == ["16x24"]


@pytest.mark.parametrize(
    ("does", "kinds"),
    [
        (lambda self, train: train.batch([0, 1], (16, 24)).pixels, []),
        (lambda self, train: replace(train.batch([0, 1], (16, 24)), labels=None).to(CPU), []),
        (lambda self, train: train.labelled().batch([0, 1], (16, 24)).boxes, []),
        (lambda self, train: train.batch(range(len(train)), (16, 24)).boxes, ["box"]),
        (lambda self, train: train.batch(range(len(train)), (16, 24)).masks, ["mask"]),
        (lambda self, train: train.annotations.landmarks, ["landmarks"]),
        (lambda self, train: train.select([0]).select([]).annotations.boxes, []),
    ],
)  # fmt: skip
def test_annotations_count_when_they_are_read(
    ground: ToyBenchmarks, does: Callable[..., Any], kinds: list[str]
) -> None:
    """To be within reach is not enough: a method need not call `labelled()`."""
    usage, photos = used_by(ground, does)
    assert list(usage.annotations) == kinds
    for parts in usage.annotations.values():
        assert parts.keys() == {"train"}
        assert 0 < parts["train"] <= photos


def test_annotations_that_only_move_along_are_not_read(ground: ToyBenchmarks) -> None:
    """A network behind no crop, whose photos are turned with all that is annotated on them."""

    class Whole(find_method("softmax")):  # type: ignore[misc]
        def learn(self, train: Any, valid: Any, harness: Any) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(LabelledPhotos, "labelled", lambda self: self)
                super().learn(train, valid, harness)

    usage, _ = used_in(trial_of(ground, Whole))
    assert usage.annotations == {}
    assert usage.photos_seen > 0


def test_an_oracle_reads_what_is_annotated_on_test(used: Callable[..., Usage]) -> None:
    usage = used("bbox", "oracle=true")
    assert usage.annotations["box"].keys() == {"train", "valid", "test"}
    assert usage.looks == 1
    assert used("mask", "oracle=true").annotations["mask"].keys() == {"train", "valid", "test"}
    for start, kind in {"boxes": "box", "landmarks": "landmarks"}.items():
        # The windows made of boxes are landmarks in name only.
        taught = used("stn", f"start={start}", "transformer.epochs=1")
        assert taught.annotations.keys() == {kind}


def test_weights_to_start_from_are_known_by_their_digest(ground: ToyBenchmarks, tmp_path: Path) -> None:
    usages = []
    for seed in range(2):
        torch.manual_seed(seed)
        state = build_backbone("test_resnet", "none", (32, 32)).network.state_dict()
        save_file(state, tmp_path / "own.safetensors")
        trial = trial_of(ground, "softmax", f"pretrained={tmp_path / 'own.safetensors'}")
        usages.append(used_in(trial)[0])
    assert [list(usage.weights) for usage in usages] == [["own.safetensors"]] * 2
    assert usages[0].weights != usages[1].weights
    assert not one_track(*usages)
    assert str(tmp_path) not in "".join(tracks([record_of("a", usages[0])]).values())


def test_a_stopped_run_ends_with_the_count_of_one_that_was_not(ground: ToyBenchmarks, tmp_path: Path) -> None:
    trial = trial_of(ground, "bbox", *FINDER, "epochs=3")
    whole, _ = used_in(trial)
    for _ in range(9):
        trial = trial_of(ground, "bbox", *FINDER, "epochs=3")
        checkpoints = CheckpointStore(tmp_path / "kept", max_share=math.inf)
        try:
            learned = trial.learn(trial.views, StopsInEpoch(2), checkpoints)
            break
        except Stopped:
            assert checkpoints.folder is not None
    ask(learned.method, learned.views, learned.harness)
    assert learned.harness.usage.usage(set_by_hand(trial.config), "") == whole


def hooks() -> int:
    return len(torch_modules._global_forward_pre_hooks) + len(torch_modules._global_forward_hooks)


def test_no_hook_is_left_behind(ground: ToyBenchmarks) -> None:
    seen = []

    def does(self: Any, train: LabelledPhotos) -> None:
        seen.append(hooks())
        raise RunFailedError("it does not learn")

    before = hooks()
    with pytest.raises(RunFailedError, match="does not learn"):
        used_by(ground, does)
    assert hooks() == before < seen[0]


def test_a_network_that_fails_is_left_again() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) == 3:
                raise ValueError("three are too few")
            return pixels * self.weight

    counter, network = UsageCounter(), Fails()
    with counter.learning():
        with pytest.raises(ValueError, match="three are too few"):
            network(torch.zeros(3, 3, 4, 4))
        network(torch.zeros(5, 3, 4, 4))
        network(torch.zeros(2, 7, 4, 3, 4, 4))  # views side by side: 2 x 7 x 4
        network(torch.zeros(9, 8, 4, 4))  # a feature map
    network(torch.zeros(9, 3, 4, 4))
    assert counter.usage({}, "").photos_seen == 3 + 5 + 2 * 7 * 4


def test_networks_within_a_network_are_not_counted_again() -> None:
    class Named(nn.Module):
        """Photos come in by name, as in some libraries; the network within is handed them by place."""

        def __init__(self) -> None:
            super().__init__()
            self.within = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1))

        def forward(self, *, pixels: torch.Tensor) -> torch.Tensor:
            return self.within(pixels)  # type: ignore[no-any-return]

    counter, network = UsageCounter(), Named()
    with counter.scoring(4):
        network(pixels=torch.zeros(4, 3, 8, 8))
        network(pixels=torch.zeros(4, 3, 8, 8))
    usage = counter.usage({}, "")
    assert (usage.looks, usage.parameters) == (2, 24)


def test_fields_with_a_range_that_stand_off_their_defaults_are_set_by_hand() -> None:
    def by_hand(name: str, *settings: str) -> dict[str, Any]:
        return set_by_hand(configure(find_method(name), settings))

    assert by_hand("softmax") == {}
    assert by_hand("softmax", "epochs=3", "dropout=0.2") == {}  # not tuned; the default
    assert by_hand("softmax", "dropout=0.3", "learning_rate=0.001") == {
        "learning_rate": 0.001,
        "dropout": 0.3,
    }
    assert by_hand("bbox", "localizer.learning_rate=0.01") == {"localizer.learning_rate": 0.01}
    assert by_hand("softmax", "localizer.learning_rate=0.01") == {}  # has no effect
    assert by_hand("playground-resnet18", "scale=small") == by_hand("playground-resnet18") == {}
    assert by_hand("playground-resnet18", "scale=small", "head_rate=3") == {"head_rate": 3}
    assert by_hand("ensemble", "member_settings=arcface:learning_rate=0.001") == {"0.learning_rate": 0.001}


# Tracks


def test_a_track_is_what_was_counted() -> None:
    def other(**change: Any) -> Usage:
        return PLAIN.model_copy(update=change)

    assert one_track(PLAIN, other(photos_seen=3290, looks=1.09, parameters=1_990_000, by_hand={"margin": 1}))
    assert not one_track(PLAIN, other(photos_seen=3310))
    assert not one_track(PLAIN, other(looks=1.11))
    assert not one_track(PLAIN, other(parameters=2_010_000))
    assert not one_track(PLAIN, other(pixels=["96x96"]))
    assert not one_track(PLAIN, other(weights={"imagenet": "abc"}))
    assert not one_track(PLAIN, other(tuning_budget="20 trials"))
    assert not one_track(PLAIN, other(annotations={"box": {"train": 5}}))
    assert one_track(other(annotations={"box": {"train": 5}}), other(annotations={"box": {"train": 9}}))
    assert not one_track(
        other(annotations={"box": {"train": 5}}), other(annotations={"box": {"train": 5, "test": 5}})
    )
    for mark in ("oracle", "transductive"):
        words = tracks([record_of("a", PLAIN), record_of("b", PLAIN, **{mark: True})])
        assert words["b"] == f"{words['a']}, {mark}"


def test_the_smallest_to_the_largest_of_a_track_is_within_its_limits() -> None:
    """Whatever the order of the runs: 3,000 and 3,200 are near, so are 3,200 and 3,400, but not the ends."""
    runs = [
        record_of(str(seen), PLAIN.model_copy(update={"photos_seen": seen})) for seen in (3000, 3200, 3400)
    ]
    words = tracks(runs)
    assert words == tracks(runs[::-1])
    assert words["3000"] == words["3200"] != words["3400"]
    assert "30 to 32 passes over train" in words["3000"]


def test_folds_of_one_contestant_are_on_one_track() -> None:
    """Another one near the limit takes all of them along or none, as their mean is."""
    first = record_of("first", PLAIN)
    folds = [
        record_of(f"fold{fold}", PLAIN.model_copy(update={"photos_seen": seen}), method="m", fold=fold)
        for fold, seen in enumerate((3260, 3290, 3320))
    ]
    assert len(set(tracks([first, *folds]).values())) == 1
    assert tracks([first, *folds])["fold2"] != tracks(folds)["fold2"]


def test_a_photo_seen_is_counted_by_train_photo() -> None:
    twice = PLAIN.model_copy(update={"photos_seen": 6000})
    words = tracks([record_of("a", PLAIN, fold=0), record_of("b", twice, 200, fold=1)])
    assert words["a"] == words["b"]


def test_older_runs_keep_what_their_method_said() -> None:
    words = tracks([record_of("old", None), record_of("new", PLAIN)])
    assert words["old"] == "said"
    assert words["new"].startswith("from scratch, 80x128 px, 30 passes over train, 1 look a photo, 1 M param")
    rows = differences(record_of("old", None), record_of("new", PLAIN))
    assert ("parameters", "not counted", "1,000,000") in rows


def test_differences_name_what_differs_and_nothing_else() -> None:
    first, second = record_of("a", PLAIN), record_of("b", PLAIN, oracle=True)
    assert differences(first, record_of("b", PLAIN)) == []
    assert differences(first, second) == [("oracle", "no", "yes")]
    tuned = PLAIN.model_copy(
        update={
            "tuning_budget": "20 trials",
            "annotations": {"box": {"train": 1200}},
            "by_hand": {"margin": 0.2},
            "looks": 1297,
            "weights": {"imagenet": "0123456789"},
        }
    )
    assert differences(first, record_of("c", tuned)) == [
        ("looks at a test photo", "1", "1,297"),
        ("annotations", "none", "box of train 1,200"),
        ("starting weights", "none", "imagenet 01234567"),
        ("tuning budget", "none", "20 trials"),
        ("set by hand", "none", "margin=0.2"),
    ]


def test_members_of_an_ensemble_add_up() -> None:
    second = PLAIN.model_copy(
        update={"annotations": {"box": {"train": 7}}, "pixels": ["32x32"], "by_hand": {"dropout": 0.1}}
    )
    both = add_up({"0.softmax": PLAIN, "1.bbox": second})
    assert (both.photos_seen, both.looks, both.parameters) == (6000, 2, 2_000_000)
    assert both.photos_by_stage == {"0.softmax.train": 3000, "1.bbox.train": 3000}
    assert both.pixels == ["32x32", "80x128"]
    assert both.annotations == {"box": {"train": 7}}
    assert both.by_hand == {"1.bbox.dropout": 0.1}
