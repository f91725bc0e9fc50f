"""Runs on an existing Ray cluster: each is an actor that starts the command on its node.

The package that runs here is shipped to the nodes, which need what it depends on. Where the workspace is the
same folder on a node, the run is written there, and one whose node is lost goes on from its checkpoint on
another. Elsewhere the benchmark is sent, the finished run fetched, and a lost one begins anew.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from whalebench import MissingError, RunFailedError, WhalebenchError, one_line
from whalebench.benchmarks.core import ledger
from whalebench.benchmarks.core.code import OWN
from whalebench.benchmarks.core.files import parse_json
from whalebench.benchmarks.core.machine import LIBRARIES
from whalebench.benchmarks.core.record import read_record, write_record, write_run
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.launching.launcher import PATIENCE, TRIES, Job, RemoteLauncher, Task
from whalebench.benchmarks.launching.node import Node, Sight, State, installed
from whalebench.benchmarks.launching.shipping import (
    CHUNK,
    benchmark_key,
    copy_package,
    pack_benchmark,
    unpack,
)
from whalebench.benchmarks.registry import photos_name
from whalebench.methods.registry import file_of, find_method

POLL = 0.5
"""Seconds from one question to a node to the next."""


class RayLauncher(RemoteLauncher):
    """Tasks on the cluster that RAY_ADDRESS names, else on the one that this machine is of."""

    def _open(self) -> None:
        try:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
            import ray
        except ImportError as error:
            raise MissingError(
                f"--launcher ray needs Ray, which cannot be imported ({one_line(error, 80)}): "
                f"pip install 'whalebench[ray]'."
            ) from error
        self.ray: Any = ray
        self._shipped = Path(tempfile.mkdtemp(prefix="whalebench-"))
        folders = [str(folder) for folder in copy_package(self._shipped)]
        try:
            _refuse_silent(os.environ.get("RAY_ADDRESS", ""))
            ray.init(
                "auto",
                runtime_env={"py_modules": folders},
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except Exception as error:  # of every kind: no cluster, another Ray, another Python
            self._close()
            raise RunFailedError(
                f"no Ray cluster can be joined at {os.environ.get('RAY_ADDRESS', 'this machine')} "
                f"({one_line(error, 100)}): begin one with `ray start --head`, or set RAY_ADDRESS."
            ) from error
        # On stdout, where JSON may be, Ray says what befalls its nodes; the tasks say it themselves.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        self.shipping: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """By host: a benchmark is sent to it once."""
        self._refuse_small()

    def _refuse_small(self) -> None:
        """Raises WhalebenchError where no node has what each run is declared to need."""
        wanted = {"CPU": self.resources.cpus, "GPU": self.resources.gpus}
        wanted |= {"memory": self.resources.memory or 0}
        for node in self.ray.nodes():
            if node["Alive"] and all(node["Resources"].get(what, 0) >= much for what, much in wanted.items()):
                return
        self._close()
        raise WhalebenchError(
            f"No node of the Ray cluster has {self.resources.words()}: lower --cpus, --gpus or --memory, or "
            f"add such a node."
        )

    def _close(self) -> None:
        self.ray.shutdown()
        shutil.rmtree(self._shipped, ignore_errors=True)

    def launch(self, job: Job) -> Task:
        """The job, waiting for a node."""
        task = RayTask(self, job)
        self._tasks.append(task)
        return task

    def actor(self) -> Any:
        """An actor that waits for a node with what is declared."""
        resources = self.resources
        return self.ray.remote(Node).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            memory=resources.memory,
            max_restarts=0,
            max_concurrency=2,  # so that its methods are in no main thread: signals are left to Ray
        ).remote()  # fmt: skip


class RayTask(Task):
    """A job on a node, or waiting for one; a thread of its own asks how it goes."""

    def __init__(self, launcher: RayLauncher, job: Job) -> None:
        super().__init__()
        self._started = None
        self._launcher, self._job, self._ray = launcher, job, launcher.ray
        self._actor: Any = None
        self._state: State | None = None
        self._failure, self._missing, self._shared = "", False, True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ray {job.runs}", daemon=True)
        self._thread.start()

    def is_running(self) -> bool:
        """Whether it has not ended; one that waits for a node has not."""
        return self._thread.is_alive()

    def exit_code(self) -> int | None:
        """The exit code of the command; 1 where it came to none; None while it runs."""
        if self.is_running():
            return None
        return 1 if self._failure or self._ended_by or self._state is None else self._state.code

    def reason(self) -> str:
        """Why it failed, in a sentence."""
        return self._ended_by or self._failure or (self._state.reason if self._state else "")

    def is_missing(self) -> bool:
        """Whether it failed because its node lacks a package or a download."""
        return self._missing or bool(self._state and self._state.is_missing)

    def end(self, reason: str) -> None:
        """Ends it at once; what its node has started ends with the actor."""
        self._ended_by = reason
        self._ended.set()
        self._kill()
        self._thread.join(PATIENCE)

    def _kill(self) -> None:
        if self._actor is not None and self._ray.is_initialized():  # else Ray would join a cluster again
            with suppress(Exception):  # gone with its node, or never there
                self._ray.kill(self._actor)

    def _run(self) -> None:
        """Has the command run on a node, and on another where that is lost, a few times at most."""
        again = ""
        for _ in range(TRIES):
            self.activity = f"{again}waiting for a node with {self._launcher.resources.words()}"
            try:
                self._actor = self._launcher.actor()
                return self._work()
            except self._ray.exceptions.RayActorError:
                if self._ended.is_set():
                    return None
                self._started = None
            except MissingError as error:
                self._missing, self._failure = True, str(error)
                return None
            except Exception as error:  # of Ray, of a node, of what was sent
                cause = getattr(error, "cause", error)
                self._failure = one_line(cause, 300)
                return None
            finally:
                self._kill()
            again = "its node was lost, it goes on from its last checkpoint: "
            again = again if self._shared else "its node was lost, it begins anew: "
        self._failure = f"{TRIES} nodes were lost that it was on: see that they have memory enough."
        return None

    def _ask(self, method: str, *arguments: object) -> Any:
        """What a method of the actor answers."""
        if self._ended.is_set():
            raise RunFailedError(self._ended_by)
        return self._ray.get(getattr(self._actor, method).remote(*arguments))

    def _work(self) -> None:
        """Has the node do the job, from what it is to what it leaves."""
        job = self._job
        packages = _packages(job)
        with _token(job.workspace) as token:
            sight: Sight = self._ask("look", packages, token)
        _refuse_other(sight, packages)
        self._started, self._shared = time.monotonic(), sight.is_shared
        self.activity = f"starting on {sight.host}"
        root = self._open(sight)
        file = file_of(job.request.method)
        path = self._ask("keep_method", str(file), file.read_bytes()) if file else ""
        words, threads = job.arguments(root, path), self._launcher.resources.cpus
        self._ask("start", words, threads, dict(job.secrets), job.runs)
        state: State = self._ask("poll")
        while state.code is None:
            self.activity = f"{state.activity} ({sight.host})"
            self._ended.wait(POLL)
            state = self._poll()
        if not sight.is_shared:
            for run in job.runs:
                self._fetch(run)
        self._state = state

    def _poll(self) -> State:
        """How the command stands; what opened test labels on the node is written down here."""
        state: State = self._ask("poll")
        for line in state.ledger:
            opening = ledger.Opening.model_validate(parse_json(line.encode()))
            ledger.append(self._job.workspace, opening)
        return state

    def _open(self, sight: Sight) -> Path:
        """The workspace on the node, which has the benchmark when this returns."""
        place = self._job.workspace
        if sight.is_shared:
            self._ask("open_shared", str(place.root))
            return place.root
        name = photos_name(self._job.request.benchmark)
        folder = place.benchmarks / name
        with self._launcher.shipping[sight.host]:
            root, has_it = self._ask("open_own", benchmark_key(folder), name)
            if not has_it:
                self.activity = f"sending {name} to {sight.host}"
                self._send(folder)
        return Path(root)

    def _send(self, folder: Path) -> None:
        """Sends a benchmark, piece by piece."""
        with tempfile.TemporaryFile(dir=self._job.workspace.cache) as tar:
            digest = pack_benchmark(folder, tar)
            while chunk := tar.read(CHUNK):
                self._ask("receive", chunk)
            self._ask("keep_benchmark", folder.name, digest)

    def _fetch(self, run: str) -> None:
        """Brings a finished run to the workspace, whole or not at all; the method's file is the one here."""
        if (digest := self._ask("pack_run", run)) is None:
            return
        workspace, file = self._job.workspace, file_of(self._job.request.method)
        with tempfile.TemporaryFile(dir=workspace.cache) as tar:
            while chunk := self._ask("send", tar.tell(), CHUNK):
                tar.write(chunk)

            def fill(into: Path) -> None:
                unpack(tar, digest, into)
                if file:
                    record = read_record(into).model_copy(update={"run": run, "method_file": str(file)})
                    write_record(into, record)

            write_run(workspace.runs / run, fill, force="--force" in self._job.options)
        self._ask("forget_run", run)


@contextmanager
def _token(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """A file in the workspace, and what it says, by which a node knows whether it has the same folder."""
    said = secrets.token_hex(16)
    file = workspace.cache / f"token-{said[:8]}"
    file.write_text(said, encoding="utf-8")
    try:
        yield str(file), said
    finally:
        file.unlink(missing_ok=True)


def _refuse_silent(address: str) -> None:
    """Raises OSError for the address of a cluster where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _packages(job: Job) -> list[str]:
    """What a node must have: all that this package needs, and the one that the method is of."""
    needed = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in _required()]
    package = find_method(job.request.method).__module__.partition(".")[0]
    others = packages_distributions().get(package, []) if package != OWN else []
    return list(dict.fromkeys([*needed, *LIBRARIES, *others]))


def _required() -> list[str]:
    lines = importlib.metadata.requires(OWN) or []
    return [line for line in lines if "extra ==" not in line]


def _refuse_other(sight: Sight, packages: list[str]) -> None:
    """Raises where numbers would depend on the node: packages that it lacks, or has in another version."""
    here = installed(packages)
    absent = [name for name in packages if here[name] and not sight.versions[name]]
    if absent:
        raise MissingError(
            f"node {sight.host} lacks {one_line(', '.join(absent), 120)}: pip install it there, in the "
            f"versions of this machine."
        )
    for name in LIBRARIES:
        if here[name] != sight.versions[name]:
            raise RunFailedError(
                f"node {sight.host} has {name} {sight.versions[name]} and this machine "
                f"{here[name] or 'none'}, by which numbers may differ: install the same version on both."
            )
