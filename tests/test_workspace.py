"""The workspace: its folders, files whole or not at all, locks, and what killed processes left in it."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.core import workspace as workspace_module
from whalebench.benchmarks.core.workspace import Workspace, atomic_path, atomic_text, file_lock, is_locked

HOLD = """
import sys
from pathlib import Path
from whalebench.benchmarks.core.workspace import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_workspace_makes_its_folders(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "deep" / "workspace")
    assert sorted(path.name for path in workspace.root.iterdir()) == [
        "benchmarks",
        "cache",
        "reports",
        "runs",
    ]
    assert not list(workspace.cache.iterdir())


def test_a_workspace_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WhalebenchError, match=r"workspace .*file cannot be written .*--workspace"):
        Workspace.open(tmp_path / "file")

    def read_only(path: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(WhalebenchError, match=r"cannot be written \(Read-only file system\)"):
        Workspace.open(tmp_path / "workspace")


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    atomic_text(file, "one\r\n")
    with pytest.raises(RuntimeError), atomic_path(file) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_bytes() == b"one\r\n"
    with atomic_path(tmp_path / "run") as temporary:
        temporary.mkdir()
        (temporary / "record.json").write_text("{}")
    assert (tmp_path / "run" / "record.json").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "new", "record.json", "run"]
    with pytest.raises(WhalebenchError, match="cannot be written"):
        atomic_text(file / "below a file", "text")


@contextmanager
def held_elsewhere(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


@pytest.mark.parametrize("end", ["left", "killed"])
def test_a_second_process_waits_says_so_once_and_gets_the_lock(tmp_path: Path, end: str) -> None:
    lock, waited = tmp_path / "lock", []
    with held_elsewhere(lock) as holder:
        assert is_locked(lock)

        def waits() -> None:
            waited.append(end)
            assert holder.stdin is not None
            holder.stdin.close() if end == "left" else holder.kill()

        with file_lock(lock, waits):
            assert waited == [end]
            assert is_locked(lock)
    assert not is_locked(lock)
    with file_lock(lock, lambda: pytest.fail("nobody is in it")):
        pass


def test_a_lock_that_nobody_ever_took_is_free_and_not_made(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_of_the_file_system_the_block_is_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(error, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with file_lock(tmp_path / "lock", lambda: pytest.fail("nobody is in it")):
        pass
    assert not is_locked(tmp_path / "lock")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock for what is left over: `later.by` seconds after now."""
    real = workspace_module.time.time
    clock = SimpleNamespace(by=0.0)
    monkeypatch.setattr(workspace_module.time, "time", lambda: real() + clock.by)
    return clock


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_half_written_files_go_after_a_day(tmp_path: Path, later: SimpleNamespace) -> None:
    place = Workspace.open(tmp_path)
    kept = {"runs/one/record.json", "cache/photos/pixels.npy", "runs/.gitkeep"}
    left = {
        "cache/photos/.tmp-0123456789ab-pixels.npy",
        "reports/.tmp-0123456789ab-page.html",
        "runs/.one.0123abcd.partial/curve.csv",
        "benchmarks/.tmp-flukes-abcd_123/a",
    }
    for name in kept | left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    later.by = 3600.0
    Workspace.open(tmp_path)
    assert names(tmp_path) == kept | left
    later.by = 2 * 86_400.0
    Workspace.open(tmp_path)
    assert names(tmp_path) == kept
    assert not (place.runs / ".one.0123abcd.partial").exists()


def test_a_run_whose_replacement_never_came_is_back(tmp_path: Path, later: SimpleNamespace) -> None:
    place = Workspace.open(tmp_path)
    for name in (".lost.0012abcd.old", ".new.0034abcd.old", "new"):
        (place.runs / name).mkdir()
        (place.runs / name / "record.json").write_text(name)
    Workspace.open(tmp_path)
    assert not (place.runs / "lost").exists()
    later.by = 120.0
    Workspace.open(tmp_path)
    assert (place.runs / "lost" / "record.json").read_text() == ".lost.0012abcd.old"
    assert (place.runs / "new" / "record.json").read_text() == "new"
    later.by = 2 * 86_400.0
    Workspace.open(tmp_path)
    assert {path.name for path in place.runs.iterdir()} == {"lost", "new"}


def test_hidden_files_of_the_user_stay(tmp_path: Path, later: SimpleNamespace) -> None:
    """Names that only look like ours, ours behind a link, and a link of such a name."""
    photos, outside = tmp_path / "photos", tmp_path / "outside"
    mine = {
        "photos/.lightroom.old/catalog.db",
        "photos/.tmp-0123456789ab-one.jpg",
        "photos/.exp1.0123abcd.old/record.json",
        "outside/.tmp-0123456789ab-two.jpg",
        "place/runs/.notes.old/a.txt",
        "place/runs/.exp1.v2.old/a.txt",
        "place/runs/.draft.0123abcd.old",
        "place/benchmarks/.tmp-scan/a.jpg",
        "place/benchmarks/.tmp-flukes-1/a.jpg",
        "place/benchmarks/own/.backup.partial/a.jpg",
        "place/benchmarks/.own.0123abcd.old/a.jpg",
        "place/cache/photos/.tmp-mine",
        "place/reports/.page.old",
    }
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    place = Workspace.open(tmp_path / "place")
    (place.benchmarks / "mine").symlink_to(photos)
    (place.cache / "mine").symlink_to(outside)
    (place.cache / ".tmp-0123456789ab-link").symlink_to(outside)
    (place.runs / ".linked.0123abcd.old").symlink_to(photos)
    later.by = 2 * 86_400.0
    Workspace.open(place.root)
    assert names(tmp_path) == mine
    assert (place.cache / ".tmp-0123456789ab-link").is_symlink()
    assert (place.runs / ".linked.0123abcd.old").is_symlink()


def test_a_folder_that_is_a_link_is_not_cleared(tmp_path: Path, later: SimpleNamespace) -> None:
    disk = tmp_path / "disk"
    for name in ("runs/.one.0123abcd.partial", "benchmarks/own", "cache/photos", "reports"):
        (disk / name).mkdir(parents=True)
    kept = {
        "runs/.one.0123abcd.partial/a",
        "benchmarks/own/.tmp-0123456789ab-a",
        "reports/.tmp-0123456789ab-a",
    }
    for name in kept:
        (disk / name).write_text(name)
    place = tmp_path / "place"
    place.mkdir()
    for name in ("runs", "benchmarks", "cache", "reports"):
        (place / name).symlink_to(disk / name)
    later.by = 2 * 86_400.0
    Workspace.open(place)
    assert names(disk) == kept
