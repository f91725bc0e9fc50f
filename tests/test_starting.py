"""Where a network starts: a finished run's weights, grown, or photos without labels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.record import CURVE, WEIGHTS, RunRecord, read_scores
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import contents, fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.runner import RunRequest, resolved, run
from whalebench.benchmarks.sweeping.plan import make_plan
from whalebench.methods.frozen import FrozenConfig
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.networks.backbones import OWN
from whalebench.methods.parts.networks.own import NarrowResNet, Trunk
from whalebench.methods.parts.networks.weights import grow, widened
from whalebench.methods.parts.training.starting import TwoViews, Vicreg, beside, pretrain
from whalebench.methods.parts.training.trainer import train_network
from whalebench.methods.registry import configure, find_method, method_names
from whalebench.methods.right_whale_2nd import RightWhale2nd, RightWhale2ndConfig
from whalebench.methods.softmax import Softmax, SoftmaxConfig
from whalebench.reports.drawings.runs import learning

ROOT = Path(__file__).parent.parent
PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def lived_in(network: nn.Module) -> nn.Module:
    """The network with statistics, scales and offsets such as training leaves, in evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5)):
                value.data = low + (high - low) * torch.rand(value.shape, generator=generator)
    network.train()
    for _ in range(20):  # statistics of what comes by
        network.forward_features(torch.rand(4, 3, 32, 32, generator=generator))  # type: ignore[operator]
    return network.eval()


def features(network: nn.Module, pixels: Tensor = PIXELS) -> Tensor:
    with torch.no_grad():
        return network.forward_features(pixels)  # type: ignore[operator, no-any-return]


def grown(old: nn.Module, new: nn.Module) -> bool:
    return grow(new.eval(), old.state_dict(), torch.Generator().manual_seed(0))


def thin(counts: tuple[int, ...], widths: tuple[int, ...], **rest: object) -> Trunk:
    return Trunk(3, counts, widths, **rest)  # type: ignore[arg-type]


LATE = {"late_norm": True}
PLAIN = {"convolutions": ()}
PAIRS = [
    ("wider", thin((2, 2), (6, 8), **PLAIN), thin((2, 2), (9, 16), **PLAIN)),
    ("deeper", thin((1, 2), (6, 8), **PLAIN), thin((3, 4), (6, 8), **PLAIN)),
    ("wider and deeper", thin((1, 2), (6, 8), **PLAIN), thin((2, 4), (7, 20), **PLAIN)),
    ("wider blocks", thin((2, 2), (6, 8)), thin((2, 2), (10, 13))),
    ("more blocks", thin((1, 2), (6, 8)), thin((3, 3), (6, 8))),
    ("more blocks, late", thin((1, 2), (6, 8), **LATE), thin((3, 4), (9, 8), **LATE)),
    ("pooled", thin((1, 2), (6, 8), pooled=True), thin((2, 3), (6, 11), pooled=True)),
    ("deeper blocks", thin((2, 2), (6, 8)), thin((2, 3), (6, 8), convolutions=(2, 3))),
    ("deeper blocks, late", thin((2, 2), (6, 8), **LATE), thin((2, 3), (6, 9), convolutions=(3, 3), **LATE)),
    ("narrow ResNet", NarrowResNet(3, 4), NarrowResNet(3, 6)),
    ("named", OWN["lau_vgg19_thin"](3), OWN["lau_vgg25_thin"](3)),
    ("of the author", OWN["lau_resnet37"](3), OWN["lau_resnet49"](3)),
]


@pytest.mark.parametrize(("old", "new"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_a_grown_network_does_what_the_one_before_did(old: nn.Module, new: nn.Module) -> None:
    lived_in(old)
    grown(old, new)
    before, after = features(old), features(new)
    copies = torch.arange(after.shape[1]) % before.shape[1]
    assert after.shape[1] >= before.shape[1]
    torch.testing.assert_close(after, before[:, copies], atol=1e-4, rtol=1e-4)


def test_added_blocks_do_so_in_training_as_well() -> None:
    pixels = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for rest in (PLAIN, LATE, {}):
        old, new = lived_in(thin((1, 2), (6, 8), **rest)), thin((3, 3), (6, 8), **rest)
        grown(old, new)
        old.train(), new.train()
        torch.testing.assert_close(features(new, pixels), features(old, pixels), atol=0.05, rtol=0.05)


def test_an_added_block_does_not_see_the_border_of_what_is_raised() -> None:
    old, new = lived_in(thin((1,), (6,))), thin((2,), (6,))
    grown(old, new)
    kernel = new.get_submodule("stages.0.1.residual.0").weight
    assert isinstance(kernel, Tensor)
    assert kernel[:, :, 1, 1].all()
    assert torch.count_nonzero(kernel) == kernel[:, :, 1, 1].numel()


def test_copies_do_not_stay_the_same() -> None:
    old, new = lived_in(thin((1, 1), (4, 4), **PLAIN)), thin((1, 1), (8, 4), **PLAIN)
    grown(old, new)
    features_of = new.forward_features(PIXELS)
    (features_of**2).sum().backward()  # type: ignore[no-untyped-call]
    first, copy = new.get_submodule("stages.0.0").weight.grad.split(4)  # type: ignore[union-attr]
    ratio = (first / copy).flatten(1)
    assert float(ratio.std(dim=1).min()) > 1e-3, "copies with proportional gradients stay copies under Adam"


def test_weights_of_another_kind_of_network_are_refused() -> None:
    plain = thin((2, 2), (6, 8), **PLAIN)
    for old, reason in (
        (thin((2, 2), (6, 9), **PLAIN), "do not grow"),
        (thin((2, 3), (6, 8), **PLAIN), "no part"),
        (thin((2, 2), (6, 8)), "no part"),
        (thin((2,), (6,), **PLAIN), "cannot be added"),
    ):
        with pytest.raises(ValueError, match=reason):
            grown(old, plain)


def test_columns_are_shared_out_among_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.rand(2, 3, generator=generator)
    wide = widened(value, torch.zeros(4, 7), generator)
    summed = torch.zeros(4, 3).index_add_(1, torch.arange(7) % 3, wide)
    torch.testing.assert_close(summed, value.repeat(2, 1))
    assert torch.equal(widened(value[0], torch.zeros(5), None), value[0][torch.arange(5) % 3])
    with pytest.raises(ValueError, match="do not grow"):
        widened(value, torch.zeros(4, 7), None)


SMALL = ("size=32", "epochs=1", "batch_size=8", "grid=1", "backbone=lau_vgg19_thin")


def learned(place: Workspace, *more: str, fold: int = 0, method: str = "softmax") -> RunRecord:
    return run(RunRequest(method, fold=fold, settings=(*SMALL, *more), benchmark="tiny"), place)


@pytest.fixture(scope="module")
def start(shared_tiny: Workspace) -> RunRecord:
    """A run to start from."""
    return learned(shared_tiny, "epochs=2")


def test_a_run_starts_from_another(shared_tiny: Workspace, start: RunRecord) -> None:
    for more in (("backbone=lau_vgg19",), ("backbone=lau_vgg25_thin",)):
        begun = learned(shared_tiny, *more, f"start_from={start.run}", "epochs=0")
        before, after = (
            read_scores(shared_tiny.runs / each.run, ("test_scores",))[0]["test_scores"]
            for each in (start, begun)
        )
        np.testing.assert_allclose(after, before, atol=1e-4)
        assert begun.config["start_from"] == start.run and f"start_from={start.run}" in begun.settings
        assert begun == learned(
            shared_tiny, *more, f"start_from={shared_tiny.runs / start.run / WEIGHTS}", "epochs=0"
        )
        assert begun.run != start.run
        assert [*begun.usage.weights] == [start.run]  # type: ignore[union-attr]
        assert begun.lineage["start"]["photos"] == start.lineage["network"]["photos"]


def test_a_member_starts_from_a_run_by_its_name(shared_tiny: Workspace, start: RunRecord) -> None:
    own = ",".join(SMALL)
    settings = (
        "members=softmax+arcface",
        f"member_settings={own},arcface:dimensions=8,softmax:start_from={start.run[:-1]}",
    )
    made = run(RunRequest("ensemble", settings=settings, benchmark="tiny"), shared_tiny)
    assert made.config["member_settings"].endswith(f"softmax:start_from={start.run}")
    assert made.lineage["start"]["photos"] == start.lineage["network"]["photos"]


def test_a_workspace_may_have_a_comma_in_its_path(
    shared_tiny: Workspace, start: RunRecord, tmp_path: Path
) -> None:
    place = Workspace(tmp_path / "one, two")
    shutil.copytree(shared_tiny.benchmarks / "tiny", place.benchmarks / "tiny", dirs_exist_ok=True)
    shutil.copytree(shared_tiny.runs / start.run, place.runs / start.run)
    request = RunRequest(
        "softmax", settings=(*SMALL, "epochs=0", f"start_from={start.run}"), benchmark="tiny"
    )
    again = resolved(resolved(request, place, SILENT), place, SILENT)
    assert again.settings[-1] == f"start_from={place.runs / start.run / WEIGHTS}"
    within = "member_settings=softmax:start_from=" + start.run + ",arcface:dimensions=8"
    (said,) = resolved(replace(request, method="ensemble", settings=(within,)), place, SILENT).settings
    assert said.endswith(f"{WEIGHTS},arcface:dimensions=8")
    assert run(again, place).config["start_from"] == start.run


def test_the_start_is_known_by_how_its_name_begins(shared_tiny: Workspace, start: RunRecord) -> None:
    arc = learned(shared_tiny, "dimensions=8", method="arcface")
    begins = f"start_from={arc.run[:-1]}"
    again = learned(shared_tiny, "dimensions=8", "epochs=0", "photo_weight=0", begins, method="arcface")
    old, new = (load_file(shared_tiny.runs / each.run / WEIGHTS) for each in (arc, again))
    torch.testing.assert_close(new["prototypes"], old["prototypes"])
    assert torch.equal(new["network.linear.weight"], old["network.linear.weight"])
    with pytest.raises(WhalebenchError, match="no run"):
        learned(shared_tiny, "start_from=nobody")


@pytest.mark.parametrize("more", [("grid=2x1",), ("dimensions=12",), ("backbone=mobilenetv3_small_100",)])
def test_what_cannot_grow_without_answering_otherwise_is_refused(
    more: tuple[str, ...], shared_tiny: Workspace
) -> None:
    small = ("backbone=mobilenetv3_small_050",) if "backbone" in more[0] else ()
    arc = learned(shared_tiny, "dimensions=8", "epochs=0", *small, method="arcface")
    settings = ("dimensions=8", "epochs=0", *small, *more, f"start_from={arc.run}")
    with pytest.raises(
        WhalebenchError, match=r"would not do what that one does, but miss it by .* take its grid"
    ):
        learned(shared_tiny, *settings, method="arcface")
    twice = learned(
        shared_tiny, *small, "dimensions=16", "epochs=0", f"start_from={arc.run}", method="arcface"
    )
    old, new = (
        read_scores(shared_tiny.runs / run.run, ("test_scores",))[0]["test_scores"] for run in (arc, twice)
    )
    np.testing.assert_allclose(new, old, atol=1e-4)


def test_a_start_that_has_seen_test_photos_is_refused(shared_tiny: Workspace, start: RunRecord) -> None:
    with pytest.raises(RunFailedError, match=r"learned from .* outside train of this fold"):
        learned(shared_tiny, f"start_from={start.run}", fold=1)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("backbone=lau_vgg19_thin+lau_vgg19",), "several"),
        (("bags=2",), "chosen by"),
        (("backbone=lau_resnet31",), "no wider or deeper"),
        (("pretrained=timm",), "two starts"),
    ],
)
def test_starts_that_make_no_sense_are_refused(
    settings: tuple[str, ...], reason: str, shared_tiny: Workspace, start: RunRecord
) -> None:
    with pytest.raises(WhalebenchError, match=reason):
        learned(shared_tiny, *settings, f"start_from={start.run}")


def test_members_of_a_bag_do_not_start_from_its_inner_fold(shared_tiny: Workspace, start: RunRecord) -> None:
    file = shared_tiny.runs / start.run / WEIGHTS
    own = ",".join(SMALL)
    settings = (
        "members=softmax+arcface",
        f"member_settings={own},arcface:dimensions=8,softmax:start_from={file}",
    )
    kind = find_method("ensemble")
    with pytest.raises(
        WhalebenchError, match="of softmax has learned from photos that each of bags=2 is chosen"
    ):
        configure(kind, (*settings, "bags=2"))
    config = configure(kind, settings).model_copy(update={"bags": 2})
    benchmark = load_benchmark("tiny", shared_tiny)
    views, content = fold_views(benchmark, 0), contents(benchmark, 0)
    harness = RunHarness(0, torch.device("cpu"), views, SILENT, config)
    harness.started(start.run, {content[digest] for digest in views.train.digests}, set(), content)
    with pytest.raises(
        RunFailedError, match=f"start_from={start.run} has learned from, .* of the inner fold that is"
    ):
        harness.fit(build_method(kind, config))


@pytest.mark.parametrize("setting", [{"start_from": "x"}, {"pretrain": "train"}, {"watch_train": True}])
def test_methods_without_a_training_have_no_start(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="for a network that is trained"):
        FrozenConfig.model_validate(setting)


def test_photos_without_labels_teach_first(shared_tiny: Workspace) -> None:
    inductive = learned(shared_tiny, "pretrain=train", "pretrain_epochs=1", "backbone=narrow_resnet10")
    curve = pd.read_csv(shared_tiny.runs / inductive.run / CURVE)
    assert [*curve["stage"]] == ["pretrain.train", "train"]
    assert not inductive.transductive
    counts = inductive.counts
    assert inductive.lineage["pretrain.backbone"]["photos"] == counts["train_photos"]
    assert inductive.usage.photos_by_stage["pretrain.train"] == 2 * counts["train_photos"]  # type: ignore[union-attr]


def test_what_learns_without_labels_is_not_watched(shared_tiny: Workspace) -> None:
    pretrained = ("pretrain=train", "pretrain_epochs=1", "backbone=narrow_resnet10")
    record = learned(shared_tiny, *pretrained, "watch_train=true")
    losses = pd.read_csv(shared_tiny.runs / record.run / CURVE).set_index("stage")["train_loss"]
    assert np.isnan(losses["pretrain.train"]) and np.isfinite(losses["train"])


def test_test_photos_make_it_transductive(shared_tiny: Workspace) -> None:
    more = "crop=window", "window=0.1,0.1,0.9,0.9", "backbone=narrow_resnet10"
    record = learned(shared_tiny, "pretrain=test", "pretrain_epochs=1", *more)
    assert record.transductive
    counts = record.counts
    both = counts["train_photos"] + counts["test_photos"]
    assert record.lineage["pretrain.backbone"]["photos"] == both
    assert record.lineage["network"]["photos"] == counts["train_known_photos"]
    with pytest.raises(RunFailedError, match="outside train"):
        learned(shared_tiny, f"start_from={record.run}")
    with pytest.raises(WhalebenchError, match="test photos"):
        run(
            RunRequest("ensemble", benchmark="tiny", settings=("member_settings=arcface:pretrain=test",)),
            shared_tiny,
        )


def test_a_method_within_that_learns_from_test_photos_is_seen() -> None:
    within: Any = configure(find_method("sift"), ("by=arcface", "by_settings=pretrain=test", "shortlist=5"))
    assert within.adapts_by() == "pretrain=test"
    with pytest.raises(WhalebenchError, match="sift learns from test photos, which members are not shown"):
        configure(
            find_method("ensemble"),
            (
                "members=arcface+sift",
                "member_settings=sift:by=arcface,sift:shortlist=5,sift:by_settings=pretrain=test",
            ),
        )


def test_epochs_of_a_pre_training_that_there_is_not_are_refused() -> None:
    with pytest.raises(ValueError, match="pretrain_epochs=7 is of a pre-training, and there is none; set"):
        SoftmaxConfig(pretrain_epochs=7)


def test_an_inductive_run_cannot_pretrain_on_test(shared_tiny: Workspace) -> None:
    views = fold_views(load_benchmark("tiny", shared_tiny), 0)
    config = SoftmaxConfig(pretrain="train", size=(32, 32), batch_size=8)
    harness = RunHarness(0, torch.device("cpu"), views, progress=Quiet())  # type: ignore[arg-type]
    network = Softmax(config)._network(config)
    with pytest.raises(RunFailedError, match="outside train"):
        pretrain(network, beside(views.train, views.test), config, harness, train_network)


class Quiet:
    def stage(self, name: str) -> None:
        """Tells nobody."""


def test_photos_beside_each_other_are_seen_as_alone(shared_tiny: Workspace) -> None:
    views = fold_views(load_benchmark("tiny", shared_tiny), 0)
    both, count = beside(views.train, views.test), len(views.train)
    order = np.array([count, 0, count + 1, 2])
    seen = both.batch(order, (24, 24)).pixels
    train, test = views.train.batch([0, 2], (24, 24)).pixels, views.test.batch([0, 1], (24, 24)).pixels
    assert torch.equal(seen, torch.stack([test[0], train[0], test[1], train[1]]))
    assert both.labels is None
    assert both.select(order).digests[0] == views.test.digests[0]


def test_two_views_of_each_photo_are_in_a_step() -> None:
    steps = TwoViews(7, 4).epoch(torch.Generator().manual_seed(0))
    assert all(np.array_equal(*np.split(step, 2)) for step in steps)
    assert sorted(np.concatenate(steps)) == sorted([*range(7), *range(7)])


def test_the_loss_is_vicregs() -> None:
    """Against its three terms, written out."""
    torch.manual_seed(0)
    loss = Vicreg(5).eval()
    made = torch.rand(8, 5)
    with torch.no_grad():
        one, two = (loss.expander(each).double().numpy() for each in made.chunk(2))
        value = float(loss(made, None))
    alike = ((one - two) ** 2).mean()
    apart = different = 0.0
    for view in (one, two):
        apart += np.maximum(0, 1 - np.sqrt(view.var(axis=0, ddof=1) + 1e-4)).mean() / 2
        covariance = np.cov(view.T)
        different += ((covariance**2).sum() - (np.diag(covariance) ** 2).sum()) / len(covariance)
    assert value == pytest.approx(25 * alike + 25 * apart + different, rel=1e-4)


FINDER = ("localizer.epochs=1", "localizer.size=32")


@pytest.mark.parametrize("finder", [(), FINDER], ids=["triplet", "bbox"])
def test_watching_changes_nothing(finder: tuple[str, ...], shared_tiny: Workspace) -> None:
    watch = ("watch_train=true", *(["localizer.watch_train=true"] if finder else []))
    settings = ("epochs=2", "backbone=narrow_resnet10", *finder)
    method = "bbox" if finder else "triplet"
    plain, watched = (learned(shared_tiny, *settings, *more, method=method) for more in ((), watch))
    old, new = (load_file(shared_tiny.runs / each.run / WEIGHTS) for each in (plain, watched))
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert plain.usage.photos_by_stage == watched.usage.photos_by_stage  # type: ignore[union-attr]
    before, after = (pd.read_csv(shared_tiny.runs / each.run / CURVE) for each in (plain, watched))
    assert "train_loss" not in before
    assert len(after) == 2 + bool(finder)
    assert np.isfinite(after[["train_loss", "valid_loss"]].to_numpy()).all()


def test_what_is_watched_is_the_loss_without_dropout(shared_tiny: Workspace) -> None:
    """With a learning rate of next to nothing both are the loss of one network, but for dropout."""
    record = learned(
        shared_tiny, "dropout=0.9", "learning_rate=1e-9", "ema=0", "augment=none", "watch_train=true"
    )
    curve = pd.read_csv(shared_tiny.runs / record.run / CURVE)
    assert (curve["train_loss"] < curve["loss"]).all()


def test_the_picture_has_all_three_losses() -> None:
    rows = {"stage": ["train"] * 3, "epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.5]}
    curve = pd.DataFrame(rows | {"valid_map_at_5": [0.1, 0.2, 0.3]})
    plain = learning(curve, "a run")
    full = learning(curve.assign(train_loss=[2.0, 1.0, 0.25], valid_loss=[3.0, 2.5, 2.75]), "a run")
    assert plain is not None
    assert full is not None
    assert "evaluated" not in plain.svg
    assert "train as evaluated 2 to 0.25, valid 3 to 2.75" in full.text


def test_every_step_of_the_ladder_can_be_typed() -> None:
    typed = [rung.settings.split() for rung in RightWhale2nd.ladder]
    commands = [words for words in typed if words[0] in method_names()]
    assert len(typed) - len(commands) == 2, "the sweeps"
    for method, *rest in commands:
        assert set(rest[::2]) <= {"--set"}
        configure(find_method(method), rest[1::2])
    plan = make_plan([], ROOT / "benchmarks" / "plans" / "right-whale-networks.toml")
    planned = [configure(find_method(one.method), one.settings) for one in plan.contestants]
    full = RightWhale2ndConfig()
    for member, config in zip(full.of_each_network(), planned, strict=True):
        for name in ("backbone", "size", "epochs", "learning_rate", "dropout", "grid", "aligner"):
            assert getattr(config, name) == getattr(member, name), name
