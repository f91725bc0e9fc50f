"""What killed processes left: gone after a day, a replaced run back in its place, nothing else touched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from whalebench.benchmarks.core import workspace as leftovers
from whalebench.benchmarks.core.workspace import Workspace


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock for what is left over: `later.by` seconds after now."""
    real = leftovers.time.time
    clock = SimpleNamespace(by=0.0)
    monkeypatch.setattr(leftovers.time, "time", lambda: real() + clock.by)
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
