"""A node's side of a launcher: it is told where to work, starts one command, and says how that goes.

Where the workspace is not the same folder here, the node works in one of its own among its temporary files:
benchmarks stay there for the runs that follow, a finished run is fetched and removed.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # nothing else is imported before it is known what this node lacks
    from whalebench.benchmarks.core.workspace import Workspace
    from whalebench.benchmarks.running.workers import Worker, WorkerPool


class Sight(NamedTuple):
    """What a node is."""

    host: str
    versions: dict[str, str]
    """By package; empty for one that is absent."""
    is_shared: bool
    """Whether the workspace is the same folder here."""


class State(NamedTuple):
    """How the command of a node stands."""

    activity: str
    code: int | None
    """None while it runs."""
    reason: str
    is_missing: bool
    ledger: tuple[str, ...]
    """Lines that the ledger of a workspace of the node's own has had since."""


class Node:
    """One command on a machine of a cluster."""

    def __init__(self) -> None:
        self._pool: WorkerPool | None = None
        self._worker: Worker | None = None
        self._place: Workspace | None = None
        self._told, self._own = 0, False
        self._runs: frozenset[str] = frozenset()
        self._tar: IO[bytes] | None = None
        """What is sent, in a file without a name, which is gone with this process."""

    def look(self, packages: Sequence[str], token: tuple[str, str]) -> Sight:
        """What this node is; the token is a file of the workspace and what it says."""
        versions = installed(packages)
        with suppress(OSError):
            if Path(token[0]).read_text(encoding="utf-8") == token[1]:
                return Sight(platform.node(), versions, True)
        return Sight(platform.node(), versions, False)

    def open_shared(self, root: str) -> None:
        """Works in the workspace itself."""
        from whalebench.benchmarks.core.workspace import Workspace

        self._place = Workspace.open(Path(root))

    def open_own(self, key: str, benchmark: str) -> tuple[str, bool]:
        """Works in a workspace of this node's own; its root, and whether it has the benchmark of that key."""
        from whalebench.benchmarks.core.workspace import Workspace

        base = Path(tempfile.gettempdir()) / f"whalebench-{os.getuid()}"
        base.mkdir(mode=0o700, exist_ok=True)
        if base.is_symlink() or base.stat().st_uid != os.getuid():
            raise PermissionError(f"{base} is somebody else's: remove it on {platform.node()}")
        self._place, self._own = Workspace.open(base / key), True
        return str(self._place.root), (self._place.benchmarks / benchmark / "catalog.json").is_file()

    def receive(self, chunk: bytes) -> None:
        """Takes the next piece of a tar."""
        if self._tar is None:
            self._tar = self._temporary()
        self._tar.write(chunk)

    def keep_benchmark(self, name: str, digest: str) -> None:
        """Puts the benchmark that was received in its place."""
        from whalebench.benchmarks.core.workspace import ExistsError, atomic_path
        from whalebench.benchmarks.launching.shipping import unpack

        assert self._place is not None and self._tar is not None
        with (
            suppress(ExistsError),  # another run was quicker
            atomic_path(self._place.benchmarks / name, exclusive=True) as folder,
        ):
            unpack(self._tar, digest, folder)
        self._tar = None

    def keep_method(self, path: str, text: bytes) -> str:
        """Where a method's file is here: under its own path, if the same is there, else in the cache."""
        from whalebench.benchmarks.core.files import digest_text

        with suppress(OSError):
            if Path(path).read_bytes() == text:
                return path
        assert self._place is not None
        folder = self._place.cache / "methods" / digest_text(text.decode("utf-8", "replace"))[:16]
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / Path(path).name
        file.write_bytes(text)
        return str(file)

    def start(
        self, arguments: Sequence[str], threads: int, told: Mapping[str, str], runs: Sequence[str]
    ) -> None:
        """Starts the command, which leaves these runs, with so many threads; its secrets are no arguments."""
        from whalebench.benchmarks.running.workers import Share, WorkerPool

        self._runs = frozenset(runs)
        self._told = len(self._ledger())  # what is there was told before
        self._pool = WorkerPool([Share(threads)]).__enter__()  # ends the command when this process ends
        self._worker = self._pool.start(arguments, told)

    def poll(self) -> State:
        """How the command stands now."""
        assert self._worker is not None
        code = self._worker.exit_code()
        reason = self._worker.reason() if code else ""
        lines = self._ledger()
        new, self._told = lines[self._told :], len(lines)
        return State(self._worker.activity, code, reason, self._worker.is_missing(), tuple(new))

    def pack_run(self, run: str) -> str | None:
        """The digest of a tar of the finished run, for `send` to give; None where it is not finished."""
        from whalebench.benchmarks.launching.shipping import pack_folder

        assert self._place is not None
        folder = self._place.runs / run
        if not (folder / "record.json").is_file():
            return None
        self._tar = self._temporary()
        return pack_folder(folder, self._tar)

    def send(self, offset: int, size: int) -> bytes:
        """So many bytes of the tar; fewer at its end."""
        assert self._tar is not None
        self._tar.seek(offset)
        return self._tar.read(size)

    def forget_run(self, run: str) -> None:
        """Removes the run that was fetched."""
        import shutil

        assert self._place is not None
        self._tar = None
        shutil.rmtree(self._place.runs / run, ignore_errors=True)

    def _temporary(self) -> IO[bytes]:
        assert self._place is not None
        return tempfile.TemporaryFile(dir=self._place.cache)

    def _ledger(self) -> list[str]:
        """The lines of a ledger of this node's own; the shared one needs no telling."""
        from whalebench.benchmarks.core.ledger import LEDGER

        assert self._place is not None
        file = self._place.root / LEDGER
        if not self._own or not file.exists():
            return []
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        return [line for line in lines if json.loads(line or "{}").get("run") in self._runs]


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The version of each package; empty for one that is absent."""
    return {name: _version(name) for name in packages}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
