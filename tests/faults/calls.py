"""Commands called in processes forked from one that has loaded everything, and what is wrong with their end.

A fork costs a twentieth of a second where a fresh interpreter takes some, so thousands can be tried.
All happens in a `Place`, which is watched: what a command leaves there, and may not, is a fault.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

LIMIT = 10.0
"""Seconds after which a command hangs."""
MEMORY, ROOM = 2048, 4 << 30
"""Megabytes that a command on small inputs may take, and bytes of addresses that it gets."""
MARK = "WHALEBENCH_FAULT_CASE"
"""The variable by which the processes are known that a case began, in whatever group they are."""
LONGEST = 300
"""Characters of a sentence."""
MESSAGE = re.compile(r"^(Error|Missing): ", re.MULTILINE)
CONTROLS = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor, or turns the direction of what is read."""
FORBIDDEN = {
    "a traceback": re.compile(r"^Traceback \(most recent call last\)", re.MULTILINE),
    "an error that is nobody's": re.compile("please report it"),
    "a warning of Python's": re.compile(r"\.py:\d+: \w*Warning"),
    "a warning of C's": re.compile(r"^(\w+: )?libpng|^TIFF\w*: |Corrupt JPEG", re.MULTILINE),
}
UNFINISHED = re.compile(r"(^|/)(\.|.*\.(partial|old|tmp)$)")
"""Names of what is not whole, which no ended command leaves."""


@dataclass(frozen=True)
class Place:
    """A folder in which all of a case happens; whatever changes in it is seen."""

    root: Path

    @property
    def workspace(self) -> Path:
        """The workspace of its commands."""
        return self.root / "workspace"

    @property
    def source(self) -> Path:
        """The user's tables and photos."""
        return self.root / "source"

    def copy(self, root: Path) -> Place:
        """The same in another folder, which is replaced."""
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root, symlinks=True)
        return Place(root)

    def state(self) -> dict[str, tuple[int, ...]]:
        """By path within it, what would change with a file's content or place; of folders that they are."""
        found: dict[str, tuple[int, ...]] = {}
        for folder, folders, files in os.walk(self.root):
            within = os.path.relpath(folder, self.root)
            found |= {os.path.normpath(f"{within}/{name}/") + "/": () for name in folders}
            for name in files:
                facts = os.lstat(f"{folder}/{name}")
                stamp = (facts.st_mode, facts.st_ino, facts.st_size, facts.st_mtime_ns)
                found[os.path.normpath(f"{within}/{name}")] = stamp
        return found


class Copies:
    """Copies of a place in a folder `case` beside it, each as new; what a case left alone stays there."""

    def __init__(self, base: Place) -> None:
        self._base, self._place = base, base.copy(base.root.with_name("case"))
        self._state = self._place.state()

    def fresh(self) -> Place:
        """The place as it was at first, whatever was done to it since."""
        now, root = self._place.state(), self._place.root
        changed = sorted(path for path in {*now, *self._state} if now.get(path) != self._state.get(path))
        for path in reversed(changed):
            target = root / path
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        for path in (path for path in changed if path in self._state):
            source = self._base.root / path
            if source.is_dir() and not source.is_symlink():
                (root / path).mkdir(exist_ok=True)
            else:
                shutil.copy2(source, root / path, follow_symlinks=False)
        self._state = self._place.state()
        return self._place


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    words: tuple[str, ...]
    code: int | None
    """None where it had to be stopped; minus a signal's number."""
    out: str
    err: str
    seconds: float
    memory: int
    """Megabytes beyond those of the process it was forked from."""


class Running:
    """A process forked to do something in a place; nothing comes back of it but what `Ended` says."""

    def __init__(self, place: Place, work: Sequence[str] | Callable[[], object], patch: Any = None) -> None:
        """The words of a command, or a function; `patch` is called before it, with everything loaded."""
        self.words = () if callable(work) else tuple(map(str, work))
        self._files = [
            place.root.parent / f"{place.root.name}.{time.monotonic_ns()}.{end}" for end in ("out", "err")
        ]
        for file in self._files:
            file.touch()  # it may be killed before it can
        self._begun, self._before, self._delayed = time.monotonic(), _memory(), 0.0
        with warnings.catch_warnings():  # of threads that are idle here, those that tables are read by
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            _become(place, work, patch, self._files)
        self.ended: Ended | None = None

    def wait(self, limit: float = LIMIT) -> Ended | None:
        """How it ended, or None if it has not after so many seconds in which there was a core for it."""
        begun, delayed = time.monotonic(), self._delay()
        while self.ended is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._end(os.waitstatus_to_exitcode(status), usage.ru_maxrss // 1024)
            elif (waited := time.monotonic() - begun) > limit and waited - self._delay() + delayed > limit:
                return None
            else:
                time.sleep(0.002)
        return self.ended

    def kill(self) -> Ended:
        """Ends it as `kill -9` does; the processes that it began are left to themselves."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        ended = self.wait()
        assert ended
        return ended

    def finish(self, limit: float = LIMIT) -> Ended:
        """How it ended, of its own or stopped after so many seconds with all that it began."""
        if ended := self.wait(limit):
            return ended
        for number in self.children():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        stopped = self.kill()
        return Ended(stopped.words, None, stopped.out, stopped.err, stopped.seconds, stopped.memory)

    def children(self) -> list[int]:
        """The processes that it began and that are still there, and itself while it runs."""
        found, mark = [], f"{MARK}={self.pid}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                marked = mark in (folder / "environ").read_bytes().split(b"\0")
                if fields[0] != "Z" and (marked or int(fields[3]) == self.pid):
                    found.append(int(folder.name))
        return found

    def _delay(self) -> float:
        """Seconds that it was ready and no core was free, as on a machine that is about other things, too.

        Those of its main thread, which sleeps while others work, and the most of any other.
        """
        delays = {0: 0}
        for file in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with suppress(OSError, IndexError):
                delays[int(file.parent.name)] = int(file.read_text().split()[1])
        main = delays.pop(self.pid, 0)
        self._delayed = max(self._delayed, (main + max(delays.values())) / 1e9)
        return self._delayed

    def _end(self, code: int, memory: int) -> None:
        out, err = (file.read_text("utf-8", errors="backslashreplace") for file in self._files)
        for file in self._files:
            file.unlink()
        seconds = time.monotonic() - self._begun
        self.ended = Ended(self.words, code, out, err, seconds, max(0, memory - self._before))


def call(
    place: Place, *words: object, patch: Callable[[], object] | None = None, limit: float = LIMIT
) -> Ended:
    """How `whalebench WORD...` ends in the place's workspace."""
    return Running(place, in_workspace(place, *words), patch).finish(limit)


def in_workspace(place: Place, *words: object) -> list[str]:
    """The words of a command, and which workspace it is about."""
    known = [str(word) for word in words]
    placeless = known[0] in ("methods", "check") or "--workspace" in known
    return known if placeless else [*known, "--workspace", str(place.workspace)]


def _memory() -> int:
    """Megabytes of this process now."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
    return 0


def _become(
    place: Place, work: Sequence[str] | Callable[[], object], patch: Any, files: list[Path]
) -> NoReturn:
    """Turns a forked process into one that does the work, and ends it."""
    code: object = 99
    try:
        os.setsid()
        for number, file in ((1, files[0]), (2, files[1])):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        home = place.root / "home"
        os.environ |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "COLUMNS": "200", "NO_COLOR": "1"}
        os.environ |= {"WHALEBENCH_CORES": "1", "OMP_NUM_THREADS": "1", MARK: str(os.getpid())}
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        os.chdir(home)
        _limit_memory()
        warnings.resetwarnings()
        if patch:
            patch()
        code = _do(work)
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(bool(code)))


def _do(work: Sequence[str] | Callable[[], object]) -> object:
    if callable(work):
        work()
        return 0
    from whalebench.cli import main

    sys.argv = ["whalebench", *map(str, work)]
    return main()


def _limit_memory() -> None:
    """So that a case that takes all memory fails, and not the machine."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM,) * 2)


def complaints(ended: Ended) -> Iterator[str]:
    """What is wrong with how a command ended and with what it said.

    A message is what stands on stderr from `Error:` on: one line of at most 300 characters. What stands
    before it (progress, warnings behind a `!`) may be long, but is free of controls and of other packages'
    words, as is stdout.
    """
    if ended.code is None:
        yield f"it hangs: {ended.seconds:.0f} s"
        return
    if ended.code not in (0, 1, 2):
        yield f"exit {ended.code}"
    if ended.memory > MEMORY:
        yield f"it took {ended.memory} MB"
    for name, text in (("stdout", ended.out), ("stderr", ended.err)):
        yield from (f"{what} on {name}" for what, pattern in FORBIDDEN.items() if pattern.search(text))
        if found := CONTROLS.search(text):
            yield f"{found[0]!r} on {name}"
    yield from _message_complaints(ended)
    if ended.code == 0 and "--json" in ended.words and "--help" not in ended.words:
        try:
            json.loads(ended.out, parse_constant=_refuse_constant)
        except ValueError as error:
            yield f"stdout is not JSON ({error})"


def _message_complaints(ended: Ended) -> Iterator[str]:
    begins = MESSAGE.search(ended.err)
    if not begins:
        if ended.code in (1, 2) and not ended.out:
            yield "it failed without a word"
        return
    if ended.code == 0:
        yield "exit 0 with an error"
    first, *others = ended.err[begins.start() :].rstrip("\n").split("\n")
    if others:
        yield f"a message of {1 + len(others)} lines"
    if len(first) > LONGEST + len("Missing: "):
        yield f"a message of {len(first)} characters"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is none of JSON's")


def changes(before: dict[str, Any], after: dict[str, Any], may_write: Iterable[str]) -> Iterator[str]:
    """What a command did to files that it had no business with, and what it left unfinished.

    `may_write` are patterns of paths within the place that it may make or replace.
    """
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path) and (path in before) == (path in after):
            continue
        allowed = any(fnmatch.fnmatch(path, pattern) for pattern in may_write)
        what = "gone" if path not in after else "changed" if path in before else "left"
        if not allowed or (what == "left" and UNFINISHED.search(path)):
            yield f"{path} is {what}"
