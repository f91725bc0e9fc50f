"""Disks that are full, or may only be read: a sentence, nothing lost, and what can be read is read.

They are real ones where this system lets us mount them.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whalebench import RunFailedError
from whalebench.benchmarks.core import ledger, machine
from whalebench.benchmarks.core import store as store_module
from whalebench.benchmarks.core.checkpoint import CheckpointStore
from whalebench.benchmarks.core.machine import refuse_full_disk
from whalebench.benchmarks.core.progress import Silent
from whalebench.benchmarks.core.store import PhotoStore, allocate
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running import outcome, runner
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.benchmarks.tuning.study import open_study
from whalebench.reports.console import exit_with_sentence

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def mount(*arguments: object) -> bool:
    """Whether this system lets us mount that."""
    command = ["mount", *map(str, arguments)]
    return (
        bool(shutil.which("mount"))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", folder):
        pytest.skip("this system does not let us mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A block in which the folder may only be read."""
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
        yield
    elif mount("--bind", folder, folder):
        try:
            assert mount("-o", "remount,bind,ro", folder)
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        pytest.skip("root may write everywhere, and this system does not let us mount")


def fill(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes."""
    file = disk / "ballast"
    with file.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, shutil.disk_usage(disk).free - free)
    return file


def photos(folder: Path, number: int) -> PhotoStore:
    folder.mkdir()
    for index in range(number):
        Image.new("RGB", (30, 20), (index, 0, 0)).save(folder / f"{index}.png")
    paths = tuple(str(folder / f"{index}.png") for index in range(number))
    return PhotoStore(folder.parent / "disk" / "cache", paths, paths, ("",) * number)


def test_photos_on_a_full_disk_are_a_sentence_and_leave_nothing(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is said to be free, by what can be allocated, and by what can be written after all."""
    store = photos(tmp_path / "photos", 8)
    ballast = fill(disk, 600_000)
    free = shutil.disk_usage(disk).free
    with pytest.raises(RunFailedError, match=r"needs 1\.2 MB in .*cache, 0\.6 MB are free: free some space"):
        store.pixels((224, 224))
    monkeypatch.setattr(store_module, "refuse_full_disk", lambda *_: None)
    decoded: list[str] = []
    decode = store_module.decode
    monkeypatch.setattr(
        store_module,
        "decode",
        lambda path, shape, region: decoded.append(path) or decode(path, shape, region),
    )
    with pytest.raises(
        RunFailedError, match=r"photos-224x224-.* cannot be written \(No space left on device\)"
    ):
        store.pixels((224, 224))
    assert decoded == []
    monkeypatch.setattr(store_module, "allocate", lambda *_: None)
    with pytest.raises(RunFailedError, match=r"cannot be written \(No space left on device\)"):
        store.pixels((224, 224))
    assert decoded
    assert list(store.cache.rglob("*")) == []
    assert shutil.disk_usage(disk).free == free
    ballast.unlink()
    assert store.pixels((224, 224))[:, 0, 0, 0].tolist() == list(range(8))


def test_what_is_allocated_is_there(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        allocate(file.fileno(), 1 << 20)
    assert (tmp_path / "file").stat().st_blocks * 512 >= 1 << 20


def test_what_is_needed_is_said_with_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 300_000_000))
    refuse_full_disk(tmp_path / "not" / "there", 300_000_000, "It")
    with pytest.raises(
        RunFailedError, match=r"^It needs 1\.2 GB in .*there, 300\.0 MB are free: .*same command"
    ):
        refuse_full_disk(tmp_path / "not" / "there", 1_200_000_000, "It")


@pytest.fixture
def asked(tiny_settings: tuple[str, ...]) -> RunRequest:
    return RunRequest("softmax", "tiny", settings=tiny_settings, device="cpu")


def test_room_for_photos_and_scores_is_asked_for_before_anything_is_learned(
    tiny: Workspace, asked: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []

    def refuse(folder: Path, needed: int, what: str) -> None:
        asked_for.append(needed)
        raise RunFailedError(f"{what} needs room in {folder}")

    monkeypatch.setattr(runner, "refuse_full_disk", refuse)
    with pytest.raises(RunFailedError, match=r"The run softmax-tiny-.* needs room in .*cache"):
        runner.run(asked, tiny)
    assert asked_for[0] > 44 * 32 * 32 * 3
    assert not (tiny.cache / "photos").exists()
    benchmark = runner.load_benchmark("tiny", tiny)
    benchmark.store.pixels((32, 32))
    assert benchmark.store.undecoded((32, 32)) == 0
    with pytest.raises(RunFailedError):
        runner.run(asked, tiny)
    assert asked_for[0] - asked_for[1] == 44 * 32 * 32 * 3


def test_room_for_a_network_is_asked_for_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Part:
        def state_dict(self) -> dict[str, Any]:
            return {"weights": np.zeros(1000, np.float32), "nested": [np.zeros(1000, np.float32), "word"]}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    free = 8000 * (2 * 3 + 1)
    monkeypatch.setattr(machine, "free_disk", lambda _: free)
    checkpoints = CheckpointStore(tmp_path)
    assert checkpoints.begin({"network": Part()}) is None
    free -= 1
    with pytest.raises(RunFailedError, match=r"What a training keeps needs 0\.1 MB in"):
        checkpoints.begin({"network": Part()})
    CheckpointStore(None).begin({"network": Part()})


@pytest.mark.parametrize("what", ["predictions", "scores", "weights", "record"])
def test_no_room_for_a_run_after_it_was_learned_loses_nothing(
    tiny: Workspace, asked: RunRequest, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whichever library finds out; the same command goes on from what was learned."""
    with monkeypatch.context() as patch:
        _without_room(patch, what)
        with pytest.raises(
            RunFailedError, match=r"runs/softmax-.* cannot be written \(No space left"
        ) as caught:
            runner.run(asked, tiny)
    assert str(caught.value).endswith("what was learned is kept, and it goes on from there.")
    assert len(str(caught.value)) - len(str(tiny.root)) < 300
    assert list(tiny.root.glob("temporary/*")) == []
    assert list(tiny.runs.iterdir()) == []
    stages: list[str] = []
    monkeypatch.setattr(Silent, "stage", lambda _, name: stages.append(name))
    runner.run(asked, tiny)
    assert "train, taken up after epoch 2" in stages


def _without_room(patch: pytest.MonkeyPatch, what: str) -> None:
    import safetensors.numpy
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_: object, **__: object) -> None:
        raise FULL

    save = safetensors.torch.save_file

    def full_too(tensors: Any, file: Path, *rest: Any, **more: Any) -> None:
        if "training-" in file.name:
            return save(tensors, file, *rest, **more)
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    places: dict[str, tuple[Any, str, Any]] = {
        "predictions": (outcome.records, "write_predictions", full),
        "scores": (safetensors.numpy, "save_file", full_too),
        "weights": (safetensors.torch, "save_file", full_too),
        "record": (outcome.records, "write_record", full),
    }
    owner, name, error = places[what]
    patch.setattr(owner, name, error)


def test_a_line_of_the_ledger_is_written_whole_or_not_at_all(disk: Path) -> None:
    place = Workspace.open(disk / "workspace")
    facts = dict.fromkeys(("method", "settings", "benchmark", "catalog_digest", "split_digest"), "x")
    entry = ledger.Opening(**facts, fold=0, seed=0, run="r" * 6000)
    ledger.append(place, entry)
    fill(disk, 0)
    with pytest.raises(RunFailedError, match=r"no test labels are opened unless that is written down"):
        ledger.append(place, entry)
    assert len((place.root / ledger.LEDGER).read_text().splitlines()) == 1
    assert ledger.read_ledger(place.runs).problems == []


def test_a_study_on_a_full_disk_says_so(disk: Path) -> None:
    from optuna.pruners import NopPruner

    handle = open_study(f"sqlite:///{disk}/study.db", "mine", {}, NopPruner())
    fill(disk, 0)
    with (
        pytest.raises(
            RunFailedError, match=r"study mine cannot be written \(.*disk is full.*: free some space"
        ),
        handle.answering(),
    ):
        for number in range(100):
            handle.study.set_user_attr(str(number), "x" * 2000)


def test_an_output_that_takes_no_more_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise FULL

    with pytest.raises(SystemExit) as caught:
        exit_with_sentence(full, debug=False)
    assert caught.value.code == 1
    assert (
        capsys.readouterr().err
        == "Error: The output cannot be used (No space left on device): free some space.\n"
    )


READING = (
    ("report",),
    ("runs",),
    ("show", "@last"),
    ("compare", "one", "two"),
    ("benchmarks",),
    ("benchmarks", "tiny"),
    ("data", "show", "tiny"),
    ("data", "check", "tiny"),
    ("split", "show", "tiny"),
    ("split", "verify", "tiny"),
    ("rescore",),
)


@pytest.fixture(scope="module")
def finished(shared_tiny: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of its own with two runs, that was never opened for reading."""
    place = Workspace(tmp_path_factory.mktemp("finished") / "workspace")
    (run, *others) = sorted(shared_tiny.runs.iterdir())
    shutil.copytree(
        shared_tiny.root, place.root, ignore=shutil.ignore_patterns(*(each.name for each in others))
    )
    shutil.copytree(place.runs / run.name, place.runs / "two")
    (place.runs / run.name).rename(place.runs / "one")
    (place.benchmarks / "tiny" / "photos.stat.json").unlink()
    return place


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_workspace_that_cannot_be_written_is_read(
    finished: Workspace, cli: Callable[..., Any], command: tuple[str, ...]
) -> None:
    before = sorted(finished.root.rglob("*"))
    with read_only(finished.root):
        answer = cli(*command, "--workspace", finished.root)
    assert answer.code == 0, answer.err
    assert answer.out
    assert ("The reports were not written into the workspace" in answer.err) == (command == ("report",))
    assert sorted(finished.root.rglob("*")) == before


@pytest.mark.parametrize("command", [*READING, ("doctor",)], ids=" ".join)
def test_a_workspace_that_is_not_there_is_not_made_to_be_read(
    tmp_path: Path, cli: Callable[..., Any], command: tuple[str, ...]
) -> None:
    answer = cli(*command, "--workspace", tmp_path / "absent")
    assert (answer.code == 2) == (command not in (("benchmarks",), ("doctor",))), answer.err
    assert "report it" not in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("free", [0, 8192, 24_576])
@pytest.mark.parametrize("command", ["import", "split", "report"])
def test_a_command_on_a_full_disk_says_so_and_can_be_given_again(
    disk: Path, finished: Workspace, cli: Callable[..., Any], command: str, free: int
) -> None:
    place = Workspace.open(disk / "workspace")
    shutil.copytree(
        finished.root, place.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors")
    )
    for file in (*place.benchmarks.glob("tiny/split.*"), *place.reports.iterdir()):
        file.unlink()
    table = finished.root.parent / "table.csv"
    if not table.exists():
        from whalebench.tests.conftest import draw_source

        draw_source(table.parent / "source")
        table.symlink_to(table.parent / "source" / "table.csv")
    kept = (path for path in place.root.rglob("*") if path.is_file() and "cache" not in path.parts)
    before = {path: path.read_bytes() for path in kept}
    ballast = fill(disk, free)
    words = {
        "import": ("data", "import", "csv", table.resolve(), "--name", "other"),
        "split": ("split", "make", "tiny"),
    }
    typed = (*words.get(command, (command,)), "--workspace", place.root)
    answer = cli(*typed)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert list(place.root.glob("temporary/*")) == []
    if command == "report":
        told = "were not written into the workspace" in answer.err
        assert (answer.code, told) == (0, not (place.reports / "leaderboard.json").exists())
        assert told or free
    elif answer.code:
        assert (answer.code, answer.err.count("No space left on device")) == (1, 1), answer.err
    else:
        assert free
    ballast.unlink()
    assert cli(*typed).code == 0
