"""The workspace: its folders, files whole or not at all, locks, and what killed processes left in it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core import workspace as workspace_module
from whalebench.benchmarks.core.record import system_error
from whalebench.benchmarks.core.workspace import (
    ExistsError,
    Workspace,
    atomic_path,
    atomic_text,
    file_lock,
    is_locked,
)

HOLD = """
import sys
from pathlib import Path
from whalebench.benchmarks.core.workspace import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
WRITE = """
import sys
from pathlib import Path
from whalebench.benchmarks.core.workspace import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
    temporary.write_text("half and half")
"""
REPLACE = """
import os, signal, sys
from pathlib import Path
from whalebench.benchmarks.core.workspace import atomic_path
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
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
    with pytest.raises(WhalebenchError, match=r"workspace .*file is no folder: .*--workspace"):
        Workspace.open(tmp_path / "file")

    def read_only(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(workspace_module, "TemporaryFile", read_only)
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
def place(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@contextmanager
def writing_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has written half of what is to stand at the path."""
    command = [sys.executable, "-c", WRITE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        try:
            yield writer
        finally:
            writer.kill()


def test_what_a_killed_process_was_writing_goes_at_once(place: Workspace) -> None:
    with writing_elsewhere(place.cache / "photos" / "pixels.npy") as writer:
        (left,) = (place.root / "temporary").iterdir()
        writer.kill()
    assert len(list(left.iterdir())) == 3
    Workspace.open(place.root, write=False)
    assert left.exists()
    Workspace.open(place.root)
    assert names(place.root) == set()


def test_a_writer_that_was_killed_before_its_lock_leaves_nothing(place: Workspace) -> None:
    (place.root / "temporary" / "0123456789ab").mkdir(parents=True)
    (place.root / "temporary" / "mine").mkdir()
    Workspace.open(place.root)
    assert [path.name for path in (place.root / "temporary").iterdir()] == ["mine"]


def test_a_writer_whose_folder_is_cleared_before_its_lock_takes_another(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, asked = workspace_module._acquire, list[Path]()

    def cleared(lock: Any) -> bool:
        asked.append(Path(lock.lock_file).parent)
        if len(asked) == 1:  # another process clears it before the file of the lock is there
            workspace_module.clear_temporary(place.root)
            assert not asked[0].exists()
            raise FileNotFoundError(errno.ENOENT, "gone")
        return acquire(lock)

    monkeypatch.setattr(workspace_module, "_acquire", cleared)
    atomic_text(place.cache / "note", "whole")
    assert asked[0] != asked[1]
    assert names(place.root) == {"cache/note"}


def test_a_living_process_keeps_its_file_whatever_the_clock_says(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.cache / "pixels.npy"
    with writing_elsewhere(file) as writer:
        writer.send_signal(signal.SIGSTOP)
        (manifest,) = place.root.glob("temporary/*/manifest.json")
        manifest.write_text(manifest.read_text().replace('"started": "', '"started": "1'))
        for path in (place.root / "temporary").rglob("*"):
            os.utime(path, (0, 0))
        monkeypatch.setattr("time.time", lambda: 4e9)
        Workspace.open(place.root)
        writer.send_signal(signal.SIGCONT)
        assert writer.stdin is not None
        writer.stdin.close()
        assert writer.wait() == 0
    assert file.read_text() == "half and half"
    assert names(place.root) == {"cache/pixels.npy"}


@pytest.mark.parametrize("end", ["alive", "ended", "of another machine", "without start", "no manifest"])
def test_without_locks_the_system_is_asked_who_lives(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    with writing_elsewhere(place.cache / "a") as writer:
        (left,) = (place.root / "temporary").iterdir()
        if end != "alive":
            writer.kill()
            writer.wait()
        manifest = json.loads((left / "manifest.json").read_text())
        manifest |= {"of another machine": {"host": "x"}, "without start": {"started": ""}}.get(end, {})
        (left / "manifest.json").write_text(json.dumps(manifest) if end != "no manifest" else "{")
        monkeypatch.setattr(fcntl, "flock", no_lock)
        Workspace.open(place.root)
        assert left.exists() == (end != "ended")


def test_a_run_whose_replacement_never_came_is_back(place: Workspace) -> None:
    run = place.runs / "one"
    for number in range(2):
        with atomic_path(run) as temporary:
            temporary.mkdir()
            (temporary / "record.json").write_text(str(number))
    assert (run / "record.json").read_text() == "1"
    command = [sys.executable, "-c", REPLACE, str(run)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not run.exists()
    Workspace.open(place.root)
    assert (run / "record.json").read_text() == "1"
    assert names(place.root) == {"runs/one/record.json"}


def test_a_folder_that_cannot_be_replaced_stays(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.runs / "one").mkdir()
    (place.runs / "one" / "record.json").write_text("first")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WhalebenchError, match="Permission denied"), atomic_path(place.runs / "one") as made:
        made.mkdir()
    assert names(place.root) == {"runs/one/record.json"}


def test_a_folder_that_cannot_even_be_put_back_waits_for_the_next_clearing(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.runs / "one").mkdir()
    (place.runs / "one" / "record.json").write_text("first")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "old" or ".new-" in self.name:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(WhalebenchError), atomic_path(place.runs / "one") as made:
            made.mkdir()
    assert not (place.runs / "one").exists()
    Workspace.open(place.root)
    assert names(place.root) == {"runs/one/record.json"}


def test_nothing_of_the_users_is_ever_cleared(tmp_path: Path, place: Workspace) -> None:
    """Whatever it is called, behind whatever link, and in the folder of temporary files itself."""
    mine = {
        "photos/.lightroom.old/catalog.db",
        "photos/temporary/0123456789ab/lock",
        "photos/0123456789ab/lock",
        "workspace/runs/.exp1.v2.old/a.txt",
        "workspace/runs/.one.0123abcd.partial/curve.csv",
        "workspace/benchmarks/own/.tmp-0123456789ab-a.jpg",
        "workspace/cache/.new-0123456789ab-a",
        "workspace/cache/temporary/0123456789ab/lock",
        "workspace/temporary/notes.txt",
        "workspace/temporary/mine/lock",
        "workspace/temporary/0123456789ab/a.txt",
        "workspace/temporary/0123456789ac/lock",
        "workspace/temporary/0123456789ac/a.txt",
        "workspace/temporary/0123456789ad/lock",
        "workspace/temporary/0123456789ad/manifest.json",
        "workspace/temporary/0123456789ad/a.txt",
    }
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (place.benchmarks / "mine").symlink_to(tmp_path / "photos")
    (place.root / "temporary" / "0123456789ae").symlink_to(tmp_path / "photos" / "0123456789ab")
    Workspace.open(place.root)
    assert mine <= names(tmp_path)
    assert (place.root / "temporary" / "0123456789ae").is_symlink()


@pytest.mark.parametrize("purpose", ["../outside", "/outside", "", None])
def test_nothing_is_put_back_outside_of_the_workspace(place: Workspace, purpose: str | None) -> None:
    old = place.root / "temporary" / "0123456789ab" / "old"
    old.mkdir(parents=True)
    (old.parent / "lock").touch()
    facts = {"purpose": purpose, "host": "", "process": 1, "started": ""}
    (old.parent / "manifest.json").write_text(json.dumps(facts))
    Workspace.open(place.root)
    assert old.exists()


def test_a_folder_of_temporary_files_that_is_a_link_is_neither_used_nor_cleared(
    tmp_path: Path, place: Workspace
) -> None:
    other = Workspace.open(tmp_path / "other")
    with writing_elsewhere(other.cache / "a") as writer:
        writer.kill()
    left = names(other.root)
    (place.root / "temporary").symlink_to(other.root / "temporary")
    Workspace.open(place.root)
    with atomic_path(place.cache / "b") as temporary:
        assert temporary.parent == place.cache
        temporary.touch()
    assert names(other.root) == left
    assert names(place.root) == {"cache/b"}


def test_what_is_written_may_be_read_by_whoever_may_read_its_folder(place: Workspace) -> None:
    place.runs.chmod(0o750)
    with atomic_path(place.runs / "a") as temporary:
        assert temporary.parent.stat().st_mode & 0o777 == 0o750
        temporary.touch()


def test_what_is_never_replaced_stays(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    for name in ("linked", "not linked"):
        atomic_text(place.root / name, "first", exclusive=True)
        with pytest.raises(ExistsError, match="never replaced"):
            atomic_text(place.root / name, "second", exclusive=True)
        assert (place.root / name).read_text() == "first"
        monkeypatch.setattr(os, "link", no_links)
    for _ in range(2):
        with suppress(ExistsError), atomic_path(place.root / "folder", exclusive=True) as temporary:
            temporary.mkdir()
            (temporary / str(_)).touch()
    assert names(place.root) == {"linked", "not linked", "folder/0"}


def test_another_file_system_within_the_workspace_is_written_whole(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def across(self: Path, target: Path) -> Path:
        if "temporary" in self.parts:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", across)
    atomic_text(place.cache / "a", "text")
    with atomic_path(place.runs / "one") as temporary:
        temporary.mkdir()
        (temporary / "record.json").write_text("{}")
    assert names(place.root) == {"cache/a", "runs/one/record.json"}


@pytest.mark.parametrize("end", [errno.ENOSPC, errno.EROFS])
def test_what_cannot_be_written_is_a_sentence_with_its_exit_code(place: Workspace, end: int) -> None:
    """Also an error of the library that writes, within the block."""
    expected = RunFailedError if end == errno.ENOSPC else WhalebenchError
    with (
        pytest.raises(
            expected, match=rf"cache/a cannot be written \({os.strerror(end)}\): .* try again"
        ) as caught,
        atomic_path(place.cache / "a"),
    ):
        raise system_error(ValueError(f"I/O error: something (os error {end})"))
    assert type(caught.value) is expected
    assert names(place.root) == set()


def test_a_full_disk_is_cleared_before_it_is_tried(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing_elsewhere(place.cache / "a") as writer:
        writer.kill()
    tried: list[set[str]] = []

    def full(**_: object) -> None:
        tried.append(names(place.root))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workspace_module, "TemporaryFile", full)
    with pytest.raises(RunFailedError, match=r"No space left on device.*free some space"):
        Workspace.open(place.root)
    assert tried == [set()]


def test_a_workspace_is_read_without_making_anything(tmp_path: Path) -> None:
    assert Workspace.open(tmp_path / "absent", write=False).runs == tmp_path / "absent" / "runs"
    assert list(tmp_path.iterdir()) == []
