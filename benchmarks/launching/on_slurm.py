"""Runs by Slurm: each is a job that submitit submits; what it says is read from its log.

Nodes see the workspace and this Python as this machine does, as Slurm's do by custom. Of submitit the batch
files and the submission are used, and not its pickles: a job leaves its exit code in a file.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from whalebench import MissingError, RunFailedError, WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.durations import read_duration
from whalebench.benchmarks.launching.launcher import TRIES, Job, RemoteLauncher, Resources, Task
from whalebench.benchmarks.running import workers

OPTIONS = (
    "account",
    "comment",
    "constraint",
    "dependency",
    "exclude",
    "gres",
    "nodelist",
    "partition",
    "qos",
    "setup",
    "time",
    "wckey",
)
"""What --slurm may say; the rest follows from --cpus, --gpus and --memory."""
LOOK = 5.0
"""Seconds from one look at the queue to the next: it is everybody's."""
PAUSE = 1.0
"""Seconds from one look at the files of a job to the next."""
GRACE = 30.0
"""Seconds that the files of a job that has left the queue may take to be seen here."""
WRAPPED = 'trap : INT TERM; "$@"; echo $? > "$0.new" && mv "$0.new" "$0"'
"""Runs a command and leaves its exit code in a file."""
LOST = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED")
"""States of jobs that ended through no fault of theirs."""
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
OVER = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", *LOST)
HINTS = {
    "TIMEOUT": "give it longer by --slurm time=; asked for again it goes on from its last checkpoint",
    "OUT_OF_MEMORY": "declare more by --memory",
    "CANCELLED": "somebody has cancelled it",
}


class SlurmLauncher(RemoteLauncher):
    """Tasks in the queue of this machine's Slurm."""

    def __init__(self, jobs: int, device: str, resources: Resources, options: Sequence[str]) -> None:
        """Raises WhalebenchError for an option that Slurm is not told."""
        super().__init__(jobs, device, resources)
        self._options = dict(map(read_option, options))
        self._states: dict[str, str] = {}
        self._looked = 0.0

    def _open(self) -> None:
        try:
            import submitit
        except ImportError as error:
            raise MissingError(
                f"--launcher slurm needs submitit, which cannot be imported ({one_line(error, 80)}): "
                f"pip install 'whalebench[slurm]'."
            ) from error
        if absent := [each for each in ("sbatch", "srun", "squeue", "scancel") if not shutil.which(each)]:
            raise MissingError(
                f"--launcher slurm needs Slurm's {', '.join(absent)} on PATH: give the command on a machine "
                f"that submits jobs, or take --launcher ray or local."
            )
        self._executor_of = submitit.SlurmExecutor

    def _close(self) -> None:
        """Leaves nothing: each task has removed its files."""

    def launch(self, job: Job) -> Task:
        """The job, in the queue."""
        task = SlurmTask(self, job)
        self._tasks.append(task)
        return task

    def submit(self, command: str, folder: Path) -> Any:
        """What submitit says of a job that was submitted, whose files are in the folder."""
        resources, executor = self.resources, self._executor_of(folder)
        memory = {"mem": f"{resources.memory // 2**20}M"} if resources.memory else {}
        executor.update_parameters(
            job_name="whalebench",
            cpus_per_task=resources.cpus,
            # submitit's own are 5 minutes, and a signal that would kill what knows nothing of it.
            **{"time": None, "additional_parameters": {"signal": "INT@60"} | memory} | self._options,
            **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
            srun_args=["--cpus-per-task", str(resources.cpus)],
        )
        try:
            return executor._submit_command(command)  # else a pickle is written and run
        except Exception as error:  # of sbatch, and of submitit about its answer
            raise RunFailedError(f"Slurm does not take the job: {one_line(error, 200)}") from error

    def state(self, job_id: str) -> str:
        """What the queue says of a job, in Slurm's words; empty for one that is not in it any more."""
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            words = ["squeue", "--me", "--noheader", "--states=all", "--format=%i %T"]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
            if answer.returncode == 0:  # else the controller is busy: what it said last is believed
                self._states = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line)
        return self._states.get(job_id, "")


class SlurmTask(Task):
    """A job in Slurm's queue, or on a node; it is looked at whenever it is asked."""

    def __init__(self, launcher: SlurmLauncher, job: Job) -> None:
        super().__init__()
        self._launcher, self._job = launcher, job
        self._folder = job.workspace.cache / "slurm" / secrets.token_hex(6)
        self._folder.mkdir(parents=True)
        self._code: int | None = None
        self._failure, self._tries, self._looked = "", 0, 0.0
        self._submit()

    def is_running(self) -> bool:
        """Whether it has not ended, on a node or in the queue."""
        if self._code is None and time.monotonic() - self._looked > PAUSE:
            self._looked = time.monotonic()
            self._look()
        return self._code is None

    def exit_code(self) -> int | None:
        """The exit code of the command; 1 where Slurm ended it; None while it runs."""
        self.is_running()
        return self._code

    def reason(self) -> str:
        """Why it failed, in a sentence."""
        return self._failure or super().reason()

    def end(self, reason: str) -> None:
        """Cancels the job, in the queue or on its node."""
        self._ended_by = reason
        subprocess.run(["scancel", self._id], capture_output=True, check=False)  # noqa: S603, S607
        self._finish(1)

    def _submit(self) -> None:
        self._tries += 1
        self._started = None
        self._left = 0.0
        self._heard = 0
        self.activity = "waiting for a node"
        self._exit = self._folder / f"exit-{self._tries}"
        words = ["bash", "-c", WRAPPED, str(self._exit), *workers.PROGRAM, *self._job.arguments()]
        try:
            with _environment(
                workers.Share(self._launcher.resources.cpus).environment() | dict(self._job.secrets)
            ):
                submitted = self._launcher.submit(shlex.join(words), self._folder)
        except WhalebenchError as error:
            self._failure = str(error)
            self._finish(1)
            return
        self._id, self._log = submitted.job_id, Path(submitted.paths.stderr)

    def _look(self) -> None:
        """Hears what is new in its log, and sees whether it has ended, and how."""
        self._hear_log()
        with suppress(OSError, ValueError):
            code = int(self._exit.read_text(encoding="utf-8"))
            self._hear_log()  # what it said last
            return self._finish(code)
        state = self._launcher.state(self._id)
        if state == "RUNNING" and self._started is None:
            self._started, self.activity = time.monotonic(), "starting"
        elif state in WAITING and self._started is not None:  # its node was lost, and Slurm has put it back
            self._started, self.activity = None, "its node was lost, waiting for another"
        if state and state not in OVER:
            self._left = 0.0
            return None
        if state or self._started is not None:  # a job that was just submitted is in the queue in a moment
            self._left = self._left or time.monotonic()
        if self._left and time.monotonic() - self._left > (LOOK if state else GRACE):
            self._lose(state)
        return None

    def _lose(self, state: str) -> None:
        """Submits a job anew whose node was lost, a few times at most; else it has failed for that."""
        if state in LOST and self._tries < TRIES:
            self._submit()
            return
        hint = HINTS.get(state, f"see that nodes see {self._job.workspace.root} and this Python")
        self._failure = f"job {self._id} ended as {state or 'unknown'} without an exit code: {hint}."
        self._finish(1)

    def _hear_log(self) -> None:
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(self._heard)
            for line in file.read().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    self._heard += len(line)
                    self.hear(line.decode("utf-8", "replace"))
                    self._started = self._started or time.monotonic()

    def _finish(self, code: int) -> None:
        self._code = code
        shutil.rmtree(self._folder, ignore_errors=True)


def read_option(text: str) -> tuple[str, Any]:
    """Name and value of what --slurm says; raises WhalebenchError for what it cannot say.

    >>> read_option("time=2h"), read_option("partition=gpu")
    (('time', 120), ('partition', 'gpu'))
    """
    key, equals, value = text.partition("=")
    if not equals or not value or re.search(r"[\r\n]", text):
        raise WhalebenchError(f"--slurm {one_line(text, 60)} cannot be: write key=value, as partition=gpu.")
    if key not in OPTIONS:
        hint = did_you_mean(key, OPTIONS, f"there are {', '.join(OPTIONS)}.")
        raise WhalebenchError(f"--slurm {one_line(key, 40)} is not known: {hint}")
    if key == "time":
        return key, max(1, round(read_duration(value, "--slurm time") / 60))
    return key, [value] if key == "setup" else value


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """A block in which this process's environment is another one: jobs take it with them."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
