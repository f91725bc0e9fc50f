"""A real PostgreSQL server for the tests of studies: Debian's, on a Unix socket in a temporary folder.

It refuses to run as root, so root starts it as the user `postgres` of Debian's package, or as `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

PASSWORD = "s@cret/PASSWORD"
USER = "whale"


def programs() -> Path | None:
    """The folder of the newest server that is installed; None without one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def someone_else() -> str | None:
    """Whom root starts a server as; None for others, who start it themselves."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("there is no user but root to start a server as")


@dataclass(frozen=True)
class Server:
    """A server that can be stopped and started."""

    bin: Path
    folder: Path
    user: str | None

    @property
    def url(self) -> str:
        """Of its database, with its password."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@/postgres?host={self.folder}"

    def call(self, program: str, *arguments: object) -> None:
        """Runs one of its programs to the end."""
        subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=self.folder,
            env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
            check=True,
            stdout=subprocess.DEVNULL,
            user=self.user,
            group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
            extra_groups=None if self.user is None else [],
        )

    def start(self) -> None:
        """Returns when it answers; it cannot be reached from outside, and waits for no disk."""
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c shared_buffers=4MB"
        self.call(
            "pg_ctl",
            "start",
            "-w",
            "-s",
            "-D",
            self.folder / "data",
            "-l",
            self.folder / "log",
            "-o",
            options,
        )

    def stop(self) -> None:
        """Ends it, and all connections to it, at once."""
        self.call("pg_ctl", "stop", "-w", "-s", "-D", self.folder / "data", "-m", "fast")


@contextmanager
def started() -> Iterator[Server]:
    """A server for a block; skips the test where none is installed."""
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    # Short, as the path of a socket has 107 letters at most, and where its user may go.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pg") as name:
        server = Server(found, Path(name), someone_else())
        words = server.folder / "password"
        words.write_text(PASSWORD)
        if server.user:
            for path in (server.folder, words):
                shutil.chown(path, server.user)
        how = ("--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", f"--pwfile={words}")
        server.call("initdb", "-D", server.folder / "data", "-U", USER, *how)
        server.start()
        try:
            yield server
        finally:
            server.stop()
