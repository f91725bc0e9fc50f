"""What killed processes left: gone after a day, a replaced run back in its place, nothing else touched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from whalebench.benchmarks import leftovers
from whalebench.benchmarks.workspace import Workspace


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
    left = {"cache/photos/.tmp-12-pixels.npy", "runs/.one.ab.partial/curve.csv", "benchmarks/.tmp-flukes-1/a"}
    for name in kept | left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    later.by = 3600.0
    Workspace.open(tmp_path)
    assert names(tmp_path) == kept | left
    later.by = 2 * 86_400.0
    Workspace.open(tmp_path)
    assert names(tmp_path) == kept
    assert not (place.runs / ".one.ab.partial").exists()


def test_a_run_whose_replacement_never_came_is_back(tmp_path: Path, later: SimpleNamespace) -> None:
    place = Workspace.open(tmp_path)
    for name in (".lost.12ab.old", ".new.34cd.old", "new"):
        (place.runs / name).mkdir()
        (place.runs / name / "record.json").write_text(name)
    Workspace.open(tmp_path)
    assert not (place.runs / "lost").exists()
    later.by = 120.0
    Workspace.open(tmp_path)
    assert (place.runs / "lost" / "record.json").read_text() == ".lost.12ab.old"
    assert (place.runs / "new" / "record.json").read_text() == "new"
    later.by = 2 * 86_400.0
    Workspace.open(tmp_path)
    assert {path.name for path in place.runs.iterdir()} == {"lost", "new"}
