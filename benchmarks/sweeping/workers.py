"""One run of a sweep in a process of its own, started by the command line that a person would type."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque

from whalebench.benchmarks.runner import RunRequest
from whalebench.benchmarks.sweeping.shares import Share
from whalebench.benchmarks.workspace import Workspace

EPOCH = re.compile(r"epoch \d+/\d+")
ERROR, MISSING = "Error: ", "Missing: "
KEPT = 20
"""Last lines of what the process said, in case it fails."""


class Worker:
    """A process that runs one request; what it says is read as it goes."""

    def __init__(self, request: RunRequest, workspace: Workspace, share: Share, *, force: bool) -> None:
        self.now = self._stage = "starting"
        """What it is doing, for a person to read."""
        self._since = time.monotonic()
        self._lines: deque[str] = deque(maxlen=KEPT)
        with share.pinned():
            self._process = subprocess.Popen(  # noqa: S603  (a list of words, no shell)
                command(request, workspace, force=force),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(share),
                text=True,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C at the terminal is for the sweep alone, which passes it on.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ended(self) -> int | None:
        """The exit code, minus the number of the signal that killed it, or None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(timeout=5)  # what it said last is the reason
        return code

    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return time.monotonic() - self._since

    def reason(self) -> str:
        """Why it failed, in a sentence."""
        code = self._process.returncode
        if code < 0:
            hint = ": out of memory?" if -code == signal.SIGKILL else ""
            return f"killed by signal {-code}{hint}"
        if told := [line for line in self._lines if line.startswith((ERROR, MISSING))]:
            return told[-1].partition(": ")[2]
        last = f", its last words: {self._lines[-1]}" if self._lines else ""
        return f"ended with exit code {code}, without a record or a reason{last}"

    def missing(self) -> bool:
        """Whether it failed because this machine lacks a package or a download."""
        return any(line.startswith(MISSING) for line in self._lines)

    def send(self, number: int) -> None:
        """The signal to the process and to those that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def wait(self) -> None:
        """Nothing; it has ended."""
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None  # it is a pipe, see above
        with self._process.stderr as lines:
            for line in lines:
                if said := line.strip():
                    self._lines.append(said)
                    self.now = self._doing(said)

    def _doing(self, said: str) -> str:
        """What a line of progress says, an epoch after its stage."""
        if found := EPOCH.match(said):
            return f"{self._stage}, {found[0]}"
        self._stage = said.split(":", maxsplit=1)[0]
        return said


def command(request: RunRequest, workspace: Workspace, *, force: bool = False) -> list[str]:
    """The command line of a request, as a list of words."""
    words = [sys.executable, "-m", "whalebench.cli", "run", request.method]
    words += ["--benchmark", request.benchmark, "--fold", str(request.fold), "--seed", str(request.seed)]
    words += [f"--set={setting}" for setting in request.settings]
    words += ["--device", request.device, "--workspace", str(workspace.root), "--json", "--progress"]
    return [*words, "--force"] if force else words


def _environment(share: Share) -> dict[str, str]:
    """The environment with the share, and without what makes plain lines anything else."""
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    return kept | share.environment() | {"COLUMNS": "1000", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
