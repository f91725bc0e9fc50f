"""Training in cycles: what is carried over, what is kept of each, and how they answer together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.conformance.checks import is_evaluated, is_restored, resumes
from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import Learned, ToyBenchmarks, Trial, draw_toy_benchmarks
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import CPU, Photos
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.methods.method import Harness, Restorable
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.fusion import voted
from whalebench.methods.parts.retrieval import nearest_photo_scores
from whalebench.methods.parts.training.config import ScheduleConfig
from whalebench.methods.parts.training.trainer import CarryOver, KeptGenerator
from whalebench.methods.registry import configure, find_method
from whalebench.methods.softmax import Softmax
from whalebench.tests.notes import Notes


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> ToyBenchmarks:
    return draw_toy_benchmarks(Workspace.open(tmp_path_factory.mktemp("cycles") / "workspace"))


def on_trial(ground: ToyBenchmarks, name: str, *settings: str) -> Trial:
    kind = find_method(name)
    return Trial(name, kind, configure(kind, smallest_settings(kind, settings)), ground)


def learn(ground: ToyBenchmarks, name: str, *settings: str) -> Learned:
    trial = on_trial(ground, name, *settings)
    return trial.learn(trial.views)


@pytest.fixture(scope="module")
def learned(ground: ToyBenchmarks) -> Learned:
    return learn(ground, "arcface", "schedule.cycles=3", "epochs=7", "ema=0")


def config_of(name: str, *settings: str) -> Any:
    return configure(find_method(name), settings)


@pytest.mark.parametrize("cycles", range(1, 8))
def test_no_epoch_is_lost_between_cycles(cycles: int) -> None:
    shares = ScheduleConfig(cycles=cycles).shares(23)
    assert sum(shares) == 23
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def test_the_tail_is_the_last_share_of_a_cycle() -> None:
    tail = ScheduleConfig(cycles=7).of_one_cycle()
    assert [tail.first_kept(epochs) for epochs in (50, 10, 5, 4, 1)] == [21, 5, 3, 2, 1]
    assert ScheduleConfig(tail=1.0).first_kept(9) == 1
    assert ScheduleConfig(tail=0.01).first_kept(9) == 9
    assert ScheduleConfig().first_kept(9) is None
    assert ScheduleConfig(cycles=2, tail=0.25).of_one_cycle().tail == 0.25


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("softmax", "schedule.cycles=4 epochs=3", "epochs=3 cannot be shared out to schedule.cycles=4"),
        ("frozen", "schedule.cycles=2", "epochs=0 cannot be shared out"),
        ("frozen", "schedule.tail=0.5", "schedule is that of a network that is trained"),
        ("sift", "schedule.cycles=2", "schedule is that of a network that is trained, and key points"),
        ("softmax", "schedule.best_by=log_loss", "chooses among epochs, and the last one is kept"),
        ("softmax", "schedule.joined=votes", "joins several cycles and there is one"),
        ("softmax", "schedule.cycles=2 schedule.joined=embeddings", "needs a gallery to compare them with"),
        ("siamese", "schedule.cycles=2 schedule.joined=embeddings form=pair_head", "needs a gallery"),
        ("softmax", "schedule.cycles=4 average=checkpoints epochs=38", "checkpoints=10 of a cycle of 9"),
    ],
)  # fmt: skip
def test_what_cannot_be_cycled_is_refused(name: str, settings: str, said: str) -> None:
    with pytest.raises(WhalebenchError, match=said):
        config_of(name, *settings.split())


def test_each_cycle_has_its_share_and_only_the_first_warms_up() -> None:
    whole = config_of("arcface", "schedule.cycles=3", "epochs=8", "small_epochs=4")
    cycles = [whole.in_cycle(number) for number in range(3)]
    assert [each.epochs for each in cycles] == [3, 3, 2]
    assert [each.small_epochs for each in cycles] == [3, 1, 0]
    assert [each.warm_up for each in cycles] == [whole.warm_up, 0, 0]
    assert [each.margin_warm_up for each in cycles] == [whole.margin_warm_up, 0, 0]
    assert {each.schedule for each in cycles} == {ScheduleConfig(tail=0.6)}
    for each in cycles:
        type(each).model_validate(each.model_dump())


def test_what_is_done_once_is_not_done_in_every_cycle() -> None:
    humpback = config_of("humpback-3rd", "scale=small", "schedule.cycles=3")
    assert [humpback.in_cycle(number).members()[0].margin_warm_up for number in range(3)] == [0.4, 0, 0]
    stn = config_of("stn", "schedule.cycles=2", "start=boxes")
    assert [stn.in_cycle(number).transformer.epochs for number in range(2)] == [30, 0]
    playground = config_of("playground-resnet18", "schedule.cycles=2")
    assert [playground.in_cycle(number).first_epochs for number in range(2)] == [40, 0]
    assert playground.in_cycle(1).schedule.tail == 1


def test_the_margin_is_there_at_once_where_it_does_not_grow(
    ground: ToyBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whalebench.methods.parts.losses.margins import Heads

    shares: list[float] = []
    monkeypatch.setattr(Heads, "set_margin_factor", lambda self, share: shares.append(share))
    steps = len(learn_shares(ground, shares, "margin_warm_up=0.5", "epochs=4", "schedule.cycles=2"))
    assert shares[0] == 0
    assert sorted(shares[: steps // 2]) == shares[: steps // 2]
    assert shares[steps // 2 :] == [1.0] * (steps - steps // 2)


def learn_shares(ground: ToyBenchmarks, shares: list[float], *settings: str) -> list[float]:
    learn(ground, "arcface", *settings)
    return shares


class Scripted(Notes):
    """Says of each cycle's epochs what they are worth, whatever their scores are."""

    def __init__(self, worth: dict[int, float]) -> None:
        super().__init__()
        self.worth = worth

    def valid_map_at_5(self, scores: Any) -> float:
        super().valid_map_at_5(scores)
        return self.worth.get(len(self.asked), 0.0)


class ScriptedLosses(Notes):
    """Says what each epoch's loss is, and that each epoch's MAP@5 is better than the one before."""

    def valid_map_at_5(self, scores: Any) -> float:
        self.asked.append(scores)
        return float(len(self.asked))

    def valid_log_loss(self, scores: Any) -> float:
        self.asked.append(scores)
        return (3.0, 1.0, 2.0)[len(self.asked) - 1]


@pytest.mark.parametrize(("by", "best"), [("log_loss", 2), ("map_at_5", 3)])
def test_the_epoch_of_the_least_loss_is_kept_where_it_is_asked_for(
    by: str, best: int, ground: ToyBenchmarks
) -> None:
    trial = on_trial(ground, "softmax", "epochs=3", "schedule.tail=1", f"schedule.best_by={by}")
    notes = ScriptedLosses()
    trial.build().learn(trial.views.train, trial.views.valid, notes)
    assert notes.chosen["network_epoch"] == best
    cycles = ScheduleConfig(cycles=2, best_by="log_loss")
    assert cycles.of_one_cycle().best_by == "log_loss"


def test_the_learning_rate_starts_anew_and_rises_once(ground: ToyBenchmarks) -> None:
    trial = on_trial(ground, "softmax", "schedule.cycles=2", "epochs=6", "warm_up=0.5")
    notes = Notes()
    trial.build().learn(trial.views.train, trial.views.valid, notes)
    assert [(epoch.number, epoch.of) for epoch in notes.epochs] == [(1, 3), (2, 3), (3, 3)] * 2
    assert notes.stages == ["cycle_1.train", "cycle_2.train"]
    steps = math.ceil(18 / 8)
    rates = [epoch.learning_rate for epoch in notes.epochs]

    def cosine(epoch: int, rising: int) -> float:
        step = epoch * steps - 1
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (3 * steps - rising)))

    peak = trial.config.learning_rate  # type: ignore[attr-defined]
    assert rates[3:] == pytest.approx([peak * cosine(epoch, 1) for epoch in (1, 2, 3)])
    assert rates[0] == pytest.approx(peak * steps / round(1.5 * steps))
    assert rates[2] == pytest.approx(peak * cosine(3, round(1.5 * steps)))


def test_networks_go_on_from_the_end_of_the_cycle_before(ground: ToyBenchmarks) -> None:
    """Where nothing is learned any more, all cycles have the weights that the first one drew."""
    method: Any = learn(ground, "softmax", "schedule.cycles=3", "epochs=3", "learning_rate=1e-12").method
    first, *rest = (member.weights() for member in method.cycles)
    learnable = [name for name, _ in method.cycles[0].network.named_parameters()]
    assert len(learnable) > 10
    for other in rest:
        for name in learnable:
            assert torch.allclose(other[f"network.{name}"], first[f"network.{name}"], atol=1e-8)


class Trained:
    """The parts of a training of a line, which may be trained for an epoch."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.line = nn.Linear(2, 1)
        self.optimizer = torch.optim.AdamW(self.line.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)
        self.generator = KeptGenerator()
        self.generator.manual_seed(0)
        self.parts: dict[str, Any] = {
            "network_and_loss": self.line,
            "average": nn.Linear(1, 1),
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "generator": self.generator,
        }

    def epoch(self) -> None:
        self.line(torch.randn(4, 2, generator=self.generator)).sum().backward()
        self.optimizer.step()
        self.schedule.step()

    def moments(self) -> torch.Tensor:
        found: torch.Tensor = self.optimizer.state[self.line.weight]["exp_avg"]
        return found


def test_what_is_carried_over_and_what_begins_anew() -> None:
    first, second = Trained(1), Trained(2)
    cycle = CarryOver({})
    cycle.begin(first.parts, 0)
    first.epoch()
    cycle.end(first.parts)
    weight, moments = first.line.weight.detach().clone(), first.moments().clone()
    nn.init.zeros_(first.line.weight)  # as when an earlier epoch is put back
    first.moments().zero_()
    CarryOver(cycle.ended).begin(second.parts, 0)
    assert torch.equal(second.line.weight, weight)
    assert torch.equal(second.moments(), moments)
    assert torch.equal(first.generator.get_state(), second.generator.get_state())
    assert second.optimizer.param_groups[0]["lr"] == 0.1  # not that of the end
    assert second.schedule.last_epoch == 0
    assert not torch.equal(first.parts["average"].weight, second.parts["average"].weight)


def test_a_second_training_of_a_cycle_goes_on_from_its_own() -> None:
    cycle = CarryOver({})
    one, other = Trained(1), Trained(2)
    for training in (one, other):
        cycle.begin(training.parts, 0)
        cycle.end(training.parts)
    again = CarryOver(cycle.ended)
    later = [Trained(3), Trained(4), Trained(5)]
    for training in later:
        again.begin(training.parts, 0)
    assert torch.equal(later[0].line.weight, one.line.weight)
    assert torch.equal(later[1].line.weight, other.line.weight)
    assert again.ended.keys() == {1, 2}  # of what was not trained again, as it was


def test_a_training_that_was_resumed_is_left_as_it_was_kept() -> None:
    cycle, resumed = CarryOver({1: {"network_and_loss": Trained(1).line.state_dict()}}), Trained(2)
    weight = resumed.line.weight.detach().clone()
    cycle.begin(resumed.parts, 1)
    assert torch.equal(resumed.line.weight, weight)


def test_the_best_epoch_of_the_tail_is_kept_and_the_next_cycle_begins_at_the_end(
    ground: ToyBenchmarks,
) -> None:
    """Of five epochs the first is too early; of the others the third is said to be the best."""
    trial = on_trial(ground, "softmax", "schedule.cycles=2", "schedule.tail=0.8", "epochs=10", "ema=0")
    method, notes = trial.build(), Scripted({2: 0.9, 5: 0.5, 7: 0.7})
    method.learn(trial.views.train, trial.views.valid, notes)
    assert len(notes.asked) == 2 * (4 + 1)  # epochs 2 to 5 of each cycle, and the cycle as it stands
    assert notes.chosen["cycle_1.network_epoch"] == 3
    assert notes.chosen["cycle_2.network_epoch"] == 3
    valid = trial.views.valid
    for member, kept, last in zip(method.cycles, notes.epochs[2::5], notes.epochs[4::5], strict=True):
        assert np.allclose(member.score(valid), kept.valid_scores, atol=1e-5)  # type: ignore[arg-type]
        assert not np.allclose(kept.valid_scores, last.valid_scores, atol=1e-3)  # type: ignore[arg-type]
    assert notes.chosen["best_cycle"] == 1  # worth .5, the second 0


def test_a_single_training_has_a_tail_where_it_is_asked_for(ground: ToyBenchmarks) -> None:
    trial = on_trial(ground, "softmax", "schedule.tail=1", "epochs=3")
    method, notes = trial.build(), Scripted({2: 1.0})
    method.learn(trial.views.train, trial.views.valid, notes)
    assert notes.chosen == {"network_epoch": 2}
    kept: Any = notes.epochs[1].valid_scores
    assert np.allclose(method.score(trial.views.valid), kept, atol=1e-5)


def test_cycles_answer_by_their_mean_and_are_shown_alone(learned: Learned) -> None:
    method, test = learned.method, learned.views.queries()["test"]
    each = [member.score(test) for member in method.cycles]
    assert np.ptp(np.stack(each), axis=0).max() > 1e-3
    assert np.allclose(method.score(test), np.mean(each, axis=0), atol=1e-6)
    chosen = learned.harness.chosen
    worth = [learned.harness.valid_map_at_5(each.score(learned.views.valid)) for each in method.cycles]
    assert chosen["best_cycle"] == 1 + int(np.argmax(worth))
    assert {f"cycle_{number}.photo_weight" for number in (1, 2, 3)} < chosen.keys()
    variants = method.variants(test)
    assert list(variants) == ["best cycle", "last cycle"]
    assert np.array_equal(variants["best cycle"], each[method.best])
    assert np.array_equal(variants["last cycle"], each[-1])
    assert list(learned.harness.curve()["stage"].unique()) == [f"cycle_{n}.train" for n in (1, 2, 3)]


def test_embeddings_of_cycles_are_averaged_and_compared_by_the_gallery(learned: Learned) -> None:
    given, views = learned.method, learned.views
    config = given.config.model_copy(update={"schedule": ScheduleConfig(cycles=3, joined="embeddings")})
    method: Any = build_method("arcface", config)
    method.cycles = [LearnedBefore(member) for member in given.cycles]
    method.learn(views.train, views.valid, learned.harness)
    known, test = views.train.known(), views.queries()["test"]

    def mean(photos: Photos) -> NDArray[np.float32]:
        return normalise(np.sum([member.embed(photos) for member in given.cycles], axis=0))

    near = nearest_photo_scores(mean(test), mean(known), known.labels, len(known.identities))
    assert np.allclose(method.score(test), near, atol=1e-5)
    assert np.allclose(method.embed(test), mean(test), atol=1e-6)
    assert {"gallery", "labels", "best_cycle"} < method.weights().keys()


def test_what_is_written_down_within_a_scope_has_its_name(ground: ToyBenchmarks) -> None:
    views = on_trial(ground, "softmax").views
    harness = RunHarness(0, CPU, views, SILENT)
    with harness.scope("half_a"), harness.scope("cycle_1", CarryOver({})):
        assert harness.cycle is not None
        harness.choose("epoch", 2.0)
        harness.warn("Few photos.")
        harness.fitted("network", views.train)
    assert harness.cycle is None
    harness.choose("epoch", 1.0)
    assert harness.chosen == {"half_a.cycle_1.epoch": 2.0, "epoch": 1.0}
    assert harness.warnings == ["half_a: cycle_1: Few photos."]
    assert harness.lineage.keys() == {"half_a.network"}  # all cycles learn from the same photos


class LearnedBefore(Restorable):
    """A method that has learned already: what it is asked to learn leaves nothing new behind."""

    def __init__(self, method: Any) -> None:
        self.score, self.embed, self.components = method.score, method.embed, method.components

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        assert harness.cycle is not None
        harness.cycle.begin({}, 0)
        harness.cycle.end({})


def test_votes_put_individuals_in_order_and_the_mean_says_how_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    scores = [rng.normal(size=(9, 40)).round(1).astype(np.float32) for _ in range(3)]
    found, mean = voted(scores), np.mean(scores, axis=0)
    for row in range(9):
        slow = np.zeros(40)
        for one in scores:
            ranked = sorted(range(40), key=lambda column: (-one[row, column], column))
            for rank, column in enumerate(ranked[:20], start=1):
                slow[column] += 1 / rank
        for column in range(40):
            better = slow > slow[column] + 0.01
            assert (found[row, better] > found[row, column]).all()
            tied = np.abs(slow - slow[column]) < 1e-9
            assert (found[row, tied & (mean[row] > mean[row, column] + 0.01)] > found[row, column]).all()
    assert np.allclose(found.max(axis=1), mean.max(axis=1), atol=1e-5)
    assert np.array_equal(voted([one[[3]] for one in scores]), found[[3]])


def test_a_finder_learns_once(ground: ToyBenchmarks) -> None:
    settings = ("crop=box", "schedule.cycles=2", "localizer.epochs=2")
    was = learn(ground, "softmax", *settings)
    assert list(was.harness.curve()["stage"]) == ["localizer"] * 2 + ["cycle_1.train", "cycle_2.train"]
    assert was.harness.lineage.keys() == {"localizer", "network"}
    assert was.method.variants(was.views.queries()["test"]).keys() == {"best cycle", "last cycle"}


TRAINED = {
    "votes": ("softmax", "epochs=3", "schedule.joined=votes"),
    "checkpoints": ("arcface", "epochs=4", "average=checkpoints", "checkpoints=2"),
    "a memory": ("triplet", "epochs=3", "memory=16", "batch_size=8", "schedule.joined=embeddings"),
    "pairs in queues": ("siamese", "epochs=3", "form=pair_head", "score_every=1", "block=16"),
    "two stages": ("playground-resnet18", "epochs=3", "first_epochs=1", "first_photos=2"),
    "a transformer": ("stn", "epochs=3", "start=landmarks", "transformer.epochs=1"),
    "two networks": ("right-whale-2nd", "epochs=3", "backbone=test_resnet+test_resnet", "crop=none"),
}


EVALUATED = ("votes", "checkpoints", "a memory")
"""One for each way in which cycles are joined: the judge sees nothing else of them."""


@pytest.mark.parametrize("which", TRAINED)
def test_stopped_in_every_epoch_of_every_cycle_it_learns_the_same(which: str, ground: ToyBenchmarks) -> None:
    trial = on_trial(ground, *TRAINED[which], "schedule.cycles=2")
    trial.learned = trial.learn(trial.views)
    assert resumes(trial).startswith("Stopped")
    assert is_restored(trial)
    if which in EVALUATED:
        assert is_evaluated(trial)


def test_a_method_that_leaves_nothing_to_go_on_from_is_refused(
    ground: ToyBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Softmax, "learn", lambda self, train, valid, harness: None)
    with pytest.raises(RunFailedError, match=r"softmax leaves nothing for the next cycle .* train_network"):
        learn(ground, "softmax", "schedule.cycles=2")


def test_the_best_cycle_is_told_by_valid_alone(
    ground: ToyBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    worth = iter([0.1, 0.1, 0.9, 0.1, 0.3, 0.2])
    monkeypatch.setattr(RunHarness, "valid_map_at_5", lambda self, scores: next(worth))
    monkeypatch.setattr(RunHarness, "epoch", lambda self, epoch: None)
    was = learn(ground, "softmax", "schedule.cycles=3", "epochs=3")
    assert was.harness.chosen["best_cycle"] == 3  # of .1, .1 and .2; the others are epochs of the tail
