"""A run that was stopped goes on, to the very same numbers; what it keeps is whole and leaves with it."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.conformance.checks import resumes
from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import ToyBenchmarks, Trial, draw_toy_benchmarks
from whalebench.benchmarks.core import checkpoint as unfinished
from whalebench.benchmarks.core.checkpoint import CheckpointStore, read_state, write_state
from whalebench.benchmarks.core.progress import EpochSummary, Silent
from whalebench.benchmarks.core.workspace import Workspace, is_run_locked, run_lock
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.methods.parts.training import trainer as loop
from whalebench.methods.parts.training.trainer import restore_layout
from whalebench.methods.registry import configure, find_method

PREDICTIONS = ("predictions.parquet", "scores.safetensors", "weights.safetensors")
METHODS = {
    "the average of all steps": ("softmax",),
    "no average": ("softmax", "ema=0", "dropout=0.5"),
    "the average of checkpoints": ("arcface", "average=checkpoints", "checkpoints=2"),
    "smaller photos first": ("softmax", "small_size=24", "small_epochs=1"),
    "a scale that follows": ("arcface", "scale=0", "flip_identities=true"),
    "a memory": ("triplet", "batch_size=8", "memory=16", "warm_up=0.1", "validate_every=2"),
    "pairs in queues": ("siamese", "form=pair_head", "score_every=1", "block=16"),
    "the best epoch of two stages": ("playground-resnet18", "first_epochs=2", "first_photos=2"),
    "a finder first": ("aligned", "aligner.epochs=2"),
    "a transformer": ("stn", "start=landmarks"),
    "two networks": ("right-whale-2nd", "epochs=2"),
    "two bags": ("arcface", "bags=2"),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> ToyBenchmarks:
    return draw_toy_benchmarks(Workspace.open(tmp_path_factory.mktemp("trial")))


@pytest.mark.parametrize("which", METHODS)
def test_stopped_in_every_epoch_and_taken_up_it_learns_the_same(which: str, ground: ToyBenchmarks) -> None:
    name, *settings = METHODS[which]
    kind = find_method(name)
    if not any(setting.startswith("epochs=") for setting in settings):
        settings.append("epochs=3")
    config = configure(kind, smallest_settings(kind, settings))
    trial = Trial(name, kind, config, ground)
    trial.learned = trial.learn(trial.views)
    assert resumes(trial).startswith("Stopped")


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "tensors": [shared, shared.T, torch.zeros(0), torch.tensor(2, dtype=torch.bfloat16)],
        ("any", 1): {3: None, "nan": math.inf, "exact": 0.1 + 0.2, "flag": True},
        "array": np.array([[True, False]]),
        "count": np.int64(7),
        "nested": (1, (2.5, "word"), []),
    }
    write_state(tmp_path / "state.safetensors", state)
    again = read_state(tmp_path / "state.safetensors")
    assert again.keys() == state.keys()
    for one, other in zip(again["tensors"], state["tensors"], strict=True):  # type: ignore[call-overload]
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert again[("any", 1)] == state[("any", 1)]
    assert np.array_equal(again["array"], state["array"])  # type: ignore[arg-type]
    assert (again["count"], again["nested"]) == (7, (1, (2.5, "word"), []))


def test_what_cannot_be_kept_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object cannot be kept"):
        write_state(tmp_path / "state.safetensors", {"odd": object()})
    assert not any(tmp_path.iterdir())


def test_an_optimizer_comes_back_in_the_layout_of_its_weights() -> None:
    def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        layer(torch.ones(1, 3, 5, 5)).sum().backward()
        optimizer.step()
        return layer, optimizer

    torch.manual_seed(0)
    (_, first), (layer, second) = trained(), trained()
    kept = first.state_dict()
    for values in kept["state"].values():
        values["exp_avg"] = values["exp_avg"].contiguous()
    second.register_load_state_dict_post_hook(restore_layout)
    second.load_state_dict(kept)
    state = second.state[layer.weight]  # type: ignore[index]
    assert torch.equal(state["exp_avg"], kept["state"][0]["exp_avg"])
    assert state["exp_avg"].stride() == layer.weight.stride()  # type: ignore[operator, union-attr]


class StopsAt(Silent):
    """Stops a run as Ctrl-C would, before the epoch of that number is kept."""

    def __init__(self, number: int) -> None:
        self.number, self.stages = number, list[str]()

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def epoch(self, summary: EpochSummary) -> None:
        if summary.number == self.number:
            raise KeyboardInterrupt


@pytest.fixture
def asked(tiny_settings: tuple[str, ...]) -> RunRequest:
    return RunRequest("softmax", "tiny", settings=(*tiny_settings, "epochs=4"), device="cpu")


def kept_in(workspace: Workspace) -> list[Path]:
    return list((workspace.cache / runner.UNFINISHED).rglob("*.*"))


def contents(workspace: Workspace, run: str) -> list[bytes]:
    return [(workspace.runs / run / name).read_bytes() for name in PREDICTIONS]


def test_a_stopped_run_is_no_run_and_goes_on(tiny: Workspace, asked: RunRequest) -> None:
    whole = runner.run(asked, tiny)
    first, curve = contents(tiny, whole.run), (tiny.runs / whole.run / "curve.csv").read_text()
    with pytest.raises(KeyboardInterrupt):
        runner.run(asked, tiny, StopsAt(3), force=True)
    assert [path.suffix for path in kept_in(tiny)] == [".safetensors"]
    assert contents(tiny, whole.run) == first  # the finished run stands until another is whole
    (tiny.runs / whole.run).rename(tiny.root / "before")
    watched = StopsAt(0)
    again = runner.run(asked, tiny, watched)
    assert any("taken up after epoch" in stage for stage in watched.stages)
    assert contents(tiny, again.run) == first
    timeless = [line.split(",")[:6] for line in curve.splitlines()]
    later = (tiny.runs / again.run / "curve.csv").read_text()
    assert [line.split(",")[:6] for line in later.splitlines()] == timeless
    assert kept_in(tiny) == []


def test_force_begins_anew(tiny: Workspace, asked: RunRequest) -> None:
    with pytest.raises(KeyboardInterrupt):
        runner.run(asked, tiny, StopsAt(3))
    watched = StopsAt(0)
    runner.run(asked, tiny, watched, force=True)
    assert not any("taken up" in stage for stage in watched.stages)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def one_bit_else(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


def one_digit_else(path: Path) -> None:
    content = path.read_bytes()
    digits = re.search(rb"seconds[^,]*, [0-9.]*?([1-9])", content)
    assert digits
    start = digits.start(1)
    path.write_bytes(content[:start] + (b"8" if digits[1] == b"9" else b"9") + content[start + 1 :])


def of_another_torch(path: Path) -> None:
    state = read_state(path)
    write_state(path, state | {"of": state["of"].replace(torch.__version__, "1.0")})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (torn, "not to be used (training-1.safetensors is no whole checkpoint)"),
        (one_bit_else, "not to be used (training-1.safetensors differs from its digest)"),
        (one_digit_else, "not to be used (training-1.safetensors differs from its digest)"),
        (of_another_torch, "kept with torch 1.0"),
    ],
)
def test_what_cannot_be_taken_up_is_named_and_not_used(
    spoil: Callable[[Path], None], words: str, tiny: Workspace, asked: RunRequest
) -> None:
    with pytest.raises(KeyboardInterrupt):
        runner.run(asked, tiny, StopsAt(3))
    (path,) = kept_in(tiny)
    spoil(path)
    watched = StopsAt(0)
    runner.run(asked, tiny, watched)
    assert not any("taken up" in stage for stage in watched.stages)
    (told,) = [stage for stage in watched.stages if "begun anew" in stage]
    assert words in told


def test_what_does_not_fit_is_named(tiny: Workspace, asked: RunRequest) -> None:
    with pytest.raises(KeyboardInterrupt):
        runner.run(asked, tiny, StopsAt(3))
    (path,) = kept_in(tiny)
    state = read_state(path)
    state["parts"]["network_and_loss"].popitem()
    write_state(path, state)
    with pytest.raises(WhalebenchError, match=r"does not fit .*begin anew with --force"):
        runner.run(asked, tiny)


def test_a_loss_that_is_no_number_leaves_the_epochs_before(
    tiny: Workspace, asked: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = loop._Trainer._step

    def spoilt(*given: Any) -> torch.Tensor:
        calls.append(1)
        return sound(*given) * (math.nan if len(calls) > 8 else 1)

    calls: list[int] = []
    monkeypatch.setattr(loop._Trainer, "_step", spoilt)
    with pytest.raises(RunFailedError, match=r"became nan in step .*kept in .*curve\.csv"):
        runner.run(asked, tiny)
    named = {path.name: path for path in kept_in(tiny)}
    assert named.keys() == {"curve.csv", "training-1.safetensors"}
    assert len(named["curve.csv"].read_text().splitlines()) > 1
    assert not any(tiny.runs.iterdir())


def test_without_room_to_keep_anything_a_run_goes_on(
    tiny: Workspace, asked: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, state: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished, "write_state", full)
    watched = StopsAt(0)
    record = runner.run(asked, tiny, watched)
    assert (tiny.runs / record.run / "record.json").is_file()
    told = [stage for stage in watched.stages if "No space left" in stage]
    assert len(told) == 1


def test_keeping_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])

    def slow_write(path: Path, state: object) -> None:
        now[0] += 1.0
        written.append(now[0])

    written: list[float] = []
    monkeypatch.setattr(unfinished, "write_state", slow_write)
    kept = CheckpointStore(tmp_path / "run", max_share=0.1)
    kept.begin({"network": nn.Linear(1, 1)})
    for epoch in range(100):
        now[0] += 1.0
        kept.save({}, last=epoch == 99)
    assert len(written) == pytest.approx(100 / 11, abs=2)
    assert written[-1] == now[0]


def test_epochs_of_another_number_of_threads_are_left_and_that_is_said(
    asked: RunRequest, tiny: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        runner.run(asked, tiny, StopsAt(3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    watched = StopsAt(0)
    runner.run(asked, tiny, watched)
    (told,) = [stage for stage in watched.stages if "begun anew" in stage]
    assert ", not torch" in told
    assert "64 threads, cpu" in told


def test_a_run_that_another_process_is_at_is_waited_for(asked: RunRequest, tiny: Workspace) -> None:
    with pytest.raises(KeyboardInterrupt):
        runner.run(asked, tiny, StopsAt(3))
    (name,) = (folder.name for folder in (tiny.cache / "unfinished").iterdir())
    watched = StopsAt(0)
    records: list[str] = []
    with run_lock(tiny, name, lambda: None):
        assert is_run_locked(tiny, name)
        waiting = threading.Thread(target=lambda: records.append(runner.run(asked, tiny, watched).run))
        waiting.start()
        while "wait" not in watched.stages:
            time.sleep(0.01)
        assert not records
    waiting.join()
    assert records == [name]
    assert not is_run_locked(tiny, name)


def test_what_is_kept_may_be_read_by_whoever_may_read_its_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    write_state(tmp_path / "state.safetensors", {"one": torch.ones(1)})
    assert (tmp_path / "state.safetensors").stat().st_mode & 0o777 == 0o640
