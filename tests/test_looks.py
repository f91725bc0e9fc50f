"""No look is taken twice: photos pass a network once in a run, one that never learns once for all runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.record import RunRecord, read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.outcome import Submission, ask
from whalebench.methods.frozen import FrozenNetwork
from whalebench.methods.parts import looks
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.embedder import Embedder
from whalebench.methods.parts.looks import Looks, LooksOnDisk
from whalebench.methods.registry import configure, find_method
from whalebench.methods.softmax import PooledBackbone

CPU = torch.device("cpu")
SMALL = ("epochs=1", "size=16", "batch_size=16")
FROZEN = ("backbone=test_resnet", "pretrained=none", "size=32")


@pytest.fixture
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(method: str, settings: tuple[str, ...], views: Views) -> tuple[Submission, RunHarness]:
    """What the method hands in, and the harness that it learned in."""
    kind = find_method(method)
    config = configure(kind, settings)
    harness, made = RunHarness(0, CPU, views, SILENT, config), build_method(kind, config)
    harness.seed_everything()
    harness.fit(made)
    return ask(made, views, harness), harness


@pytest.fixture
def passed() -> Iterator[list[int]]:
    """How many photos each call of a network saw that does not learn."""
    seen: list[int] = []

    def count(module: nn.Module, arguments: Any) -> None:
        if isinstance(module, Embedder | PooledBackbone | FrozenNetwork) and not module.training:
            seen.append(len(arguments[0]))

    handle = register_module_forward_pre_hook(count)
    yield seen
    handle.remove()


@pytest.mark.parametrize(
    ("method", "settings", "watched"),
    [
        ("arcface", SMALL, ("valid",)),
        ("softmax", SMALL, ("valid",)),
        ("triplet", SMALL, ("train", "valid")),
        ("frozen", FROZEN, ()),
    ],
)
def test_each_photo_passes_once_when_the_network_has_learned(
    method: str, settings: tuple[str, ...], watched: tuple[str, ...], views: Views, passed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    photos = {part: len(each) for part, each in views.queries().items()}
    once, harness = learn(method, settings, views)
    assert sum(passed) == sum(photos.values()) + sum(photos[part] for part in watched)
    passed.clear()
    monkeypatch.setattr(Looks, "begin", lambda *_: None)
    again, other = learn(method, settings, views)
    assert sum(passed) > sum(photos.values()) + sum(photos[part] for part in watched)
    for part in ("valid", "test"):
        assert once.scores[part].tobytes() == again.scores[part].tobytes()
        assert once.embeddings[part].tobytes() == again.embeddings[part].tobytes()
    assert harness.usage.usage({}, "") == other.usage.usage({}, "")


class Counted:
    """A look that counts how often it is taken."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Any:
        self.times += 1
        return np.zeros((1, 1), np.float32)


def test_a_look_is_remembered_until_something_changes(views: Views) -> None:
    network, look, kept = nn.Linear(2, 2), Counted(), Looks()
    valid = views.queries()["valid"]

    def times(photos: Photos, how: str = "", of: nn.Module = network) -> int:
        before = look.times
        for _ in range(2):
            kept.of(of, photos, how, look)
        return look.times - before

    assert times(valid) == 2  # it has not begun
    kept.begin(network)
    assert times(valid) == 1
    assert times(valid.bare()) == 0
    assert times(valid, "mirrored") == 1
    assert times(valid.select([1, 0])) == 1
    assert times(views.queries()["test"].select([1, 0])) == 1
    assert times(valid, of=nn.Linear(2, 2)) == 2
    with torch.no_grad():
        network.weight.add_(1)
    assert times(valid) == 2


def test_while_test_is_scored_every_look_is_taken_and_counted(views: Views) -> None:
    network, look, kept = nn.Linear(2, 2), Counted(), Looks()
    test = views.queries()["test"]
    kept.begin(network)
    kept.of(network, test, "", look)
    with views.usage.scoring(len(test)):
        kept.of(network, test, "", look)
        kept.of(network, test, "", look)
    assert look.times == 3
    kept.of(network, test, "", look)
    assert look.times == 3


class Told(nn.Module):
    """A network that counts what it looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.photos = nn.Linear(3, 2), 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.photos += len(pixels)
        output: Tensor = self.linear(pixels.mean((2, 3)))
        return output


@pytest.fixture
def network() -> Told:
    torch.manual_seed(0)
    return Told()


@torch.inference_mode()
def test_what_a_network_made_is_kept_by_content(network: Told, tmp_path: Path) -> None:
    spared: list[int] = []
    on_disk = LooksOnDisk(tmp_path, {"code": "a"})

    def looks_at(pixels: Tensor, kept: LooksOnDisk = on_disk) -> int:
        """How many photos the network looks at; what is given is what it makes."""
        before = network.photos
        given = kept.of(network, lambda _, photos: spared.append(photos))(pixels)
        made = network.photos - before
        assert given.numpy().tobytes() == network(pixels).numpy().tobytes()
        return made

    pixels = torch.rand(4, 3, 8, 8)
    assert (looks_at(pixels), spared) == (4, [])
    assert (looks_at(pixels.clone()), spared) == (0, [4])
    assert looks_at(pixels.contiguous(memory_format=torch.channels_last)) == 4  # other bits
    assert looks_at(pixels.flip(-1)) == 4
    assert looks_at(pixels[:2]) == 2
    assert looks_at(pixels, LooksOnDisk(tmp_path, {"code": "b"})) == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert on_disk.of(network, lambda *_: None)(pixels).dtype == torch.bfloat16  # looked at anew
    network.linear.weight.add_(1)
    assert looks_at(pixels) == 4
    assert not list(tmp_path.glob(".*"))


@torch.inference_mode()
def test_a_damaged_file_is_made_again(network: Told, tmp_path: Path) -> None:
    look, pixels = LooksOnDisk(tmp_path, {}).of(network, lambda *_: None), torch.rand(4, 3, 8, 8)
    made = look(pixels)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for spoilt in (content[:-1] + b"\0", content[:40], b""):
        file.write_bytes(spoilt)
        assert torch.equal(look(pixels), made)
        assert file.read_bytes() == content
    assert network.photos == 16


@torch.inference_mode()
def test_what_was_not_used_for_longest_makes_room(
    network: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = LooksOnDisk(tmp_path, {}).of(network, lambda *_: None)
    batches = [torch.rand(4, 3, 8, 8) for _ in range(3)]
    for pixels in (*batches, batches[0]):
        look(pixels)
    size = next(tmp_path.iterdir()).stat().st_size
    monkeypatch.setattr(looks, "MOST_BYTES", 2 * size)
    look = LooksOnDisk(tmp_path, {}).of(network, lambda *_: None)
    assert len(list(tmp_path.iterdir())) == 2
    network.photos = 0
    look(batches[0])
    look(batches[2])
    assert network.photos == 0
    look(batches[1])
    assert network.photos == 4


def told(record: RunRecord) -> dict[str, Any]:
    """What a record says, but for what may differ between two equal runs."""
    said = record.model_dump()
    for name in ("created", "seconds", "peak_memory_mb", "files", "digest", "photos_per_second"):
        del said[name]
    return said


def test_another_rule_on_a_frozen_network_costs_no_look_and_changes_no_record(
    tiny: Workspace, passed: list[int]
) -> None:
    def run(rule: str, *, force: bool = False) -> RunRecord:
        passed.clear()
        request = runner.RunRequest(
            "frozen", "tiny", settings=(*FROZEN, f"gallery.rule={rule}"), device="cpu"
        )
        return runner.run(request, tiny, force=force)

    run("nearest")
    photos = sum(passed)
    warm = run("mean")
    files = {name: (tiny.runs / warm.run / name).read_bytes() for name in warm.files}
    assert (sum(passed), warm.counts["looks_from_cache"]) == (0, photos)
    for file in (tiny.cache / runner.EMBEDDED).iterdir():
        file.unlink()
    cold = run("mean", force=True)
    assert sum(passed) == photos
    assert files == {name: (tiny.runs / cold.run / name).read_bytes() for name in cold.files}
    assert "looks_from_cache" not in read_record(tiny.runs / cold.run).counts
    said, of_cold = told(warm), told(cold)
    assert said["counts"].pop("looks_from_cache") == photos
    assert said == of_cold
