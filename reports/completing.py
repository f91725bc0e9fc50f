"""What a shell offers when a word of a command is half typed: names that are there, read by no library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typer import Context

DRAWN = "flukes"
"""The benchmark that is there before it is drawn."""


def methods(incomplete: str) -> Iterator[str]:
    """Methods that begin so; where a path is begun, folders and Python files."""
    from importlib.metadata import entry_points

    from whalebench.benchmarks.core.code import GROUP

    names = {point.name for point in entry_points(group=GROUP)}
    yield from sorted(name for name in names if name.startswith(incomplete))
    yield from _paths(incomplete, ".py")


def benchmarks(ctx: Context, incomplete: str) -> Iterator[str]:
    """Benchmarks of the workspace that begin so, and the one that is drawn."""
    names = {path.parent.name for path in (_workspace(ctx) / "benchmarks").glob("*/catalog.json")}
    yield from sorted(name for name in names | {DRAWN} if name.startswith(incomplete))


def plans(incomplete: str) -> Iterator[str]:
    """Plans that come with the program and begin so; folders and TOML files where a path is begun."""
    ours = (Path(__file__).parent.parent / "benchmarks" / "plans").glob("*.toml")
    yield from sorted(file.stem for file in ours if file.stem.startswith(incomplete))
    yield from _paths(incomplete, ".toml")


def runs(ctx: Context, incomplete: str) -> Iterator[str]:
    """Finished runs of the workspace that begin so, the newest first."""
    records = (_workspace(ctx) / "runs").glob("*/record.json")
    newest = sorted(records, key=lambda file: file.stat().st_mtime, reverse=True)
    names = (*(file.parent.name for file in newest), "@last")
    yield from (name for name in names if name.startswith(incomplete))


def _paths(incomplete: str, suffix: str) -> Iterator[str]:
    """Where a path is begun, the folders and the files of this kind that it can become."""
    head, slash, _ = incomplete.rpartition("/")
    if slash or incomplete.startswith("."):
        for path in sorted(Path(head + slash).glob("*")):
            shown = f"{head}{slash}{path.name}" + "/" * path.is_dir()
            if shown.startswith(incomplete) and (path.is_dir() or path.suffix == suffix):
                yield shown


def _workspace(ctx: Context) -> Path:
    """The workspace of the command that is being typed."""
    return Path(ctx.params["workspace"])
