"""Launchers: the runs of a sweep on a Ray cluster and by Slurm are those of a local one, whatever is lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest

from whalebench import MissingError, RunFailedError, WhalebenchError
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.ledger import read_ledger
from whalebench.benchmarks.core.machine import LIBRARIES, STORAGE
from whalebench.benchmarks.core.progress import SweepState
from whalebench.benchmarks.core.record import read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.launching import on_ray, on_slurm
from whalebench.benchmarks.launching.choose import choose_launcher
from whalebench.benchmarks.launching.launcher import Job, Resources, Task
from whalebench.benchmarks.launching.node import Sight, installed
from whalebench.benchmarks.launching.on_ray import RayLauncher
from whalebench.benchmarks.running import runner, workers
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.benchmarks.sweeping.plan import Contestant, Plan
from whalebench.benchmarks.sweeping.sweep import Sweep, prepare

METHOD = """
import os, time
from pathlib import Path
import numpy as np
import torch
from whalebench.methods.method import Method, MethodConfig

class Waiting(Method):
    name, summary, source = "waiting", "nearest mean of pixels; learning waits for a file", "none"
    Config = MethodConfig

    def sizes(self):
        return ((16, 16),)

    def learn(self, train, valid, harness):
        here = Path({here!r})
        (here / f"seed{{harness.seed}}-{{os.getpid()}}").touch()
        until = time.monotonic() + 90
        while not (here / "go").exists() and time.monotonic() < until:
            time.sleep(0.05)
        known = train.known()
        harness.fitted("means", known)
        pixels = self.embed(known)
        pixels = pixels + np.random.default_rng(harness.seed).normal(0, 0.05, pixels.shape)
        labels = range(len(train.identities))
        self.means = np.stack([pixels[known.labels == label].mean(axis=0) for label in labels])

    def score(self, photos):
        distances = np.abs(self.embed(photos)[:, None] - self.means).mean(axis=2)
        return -distances.astype(np.float32)

    def embed(self, photos):
        pixels = [batch.pixels.flatten(1) for batch in photos.batches((16, 16), 64)]
        return np.concatenate([each.numpy() for each in pixels])

    def weights(self):
        return {{"means": torch.from_numpy(self.means)}}

    def restore(self, weights, identities, device):
        self.means = weights["means"].numpy()
"""
"""A method of a file: what it learns depends on the seed, and it says where and when it does so."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of one node on this machine, which has a folder of its own for temporary files."""
    reason = "Ray is not installed: pip install 'whalebench[ray]'"
    pytest.importorskip("ray", reason=reason)
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        # Who is gone is known soon; who is slow has the time that it has by default.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    # Paths of sockets are short ones, and pytest's folders are not.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as short:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("TMPDIR", short)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.temporary = Path(os.environ["TMPDIR"])
        patch.delenv("TMPDIR")
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()


STORE = 80 * 2**20
"""Bytes of a node's object store: about as few as Ray takes."""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the method."""
    file = tmp_path_factory.mktemp("method") / "waiting.py"
    file.write_text(METHOD.format(here=str(file.parent)), encoding="utf-8")
    return file


def waiting_runs(file: Path, *seeds: int) -> Plan:
    return Plan((Contestant(runner.name_of(str(file))),), "tiny", (0,), seeds)


def local_digests(plan: Plan, workspace: Workspace) -> dict[str, str]:
    """By run, the digest of its predictions where this process makes it."""
    records = [
        runner.run(RunRequest(each.method, plan.benchmark, seed=seed, device="cpu"), workspace)
        for each in plan.contestants
        for seed in plan.seeds
    ]
    return digests(workspace, [record.run for record in records])


def digests(workspace: Workspace, runs: list[str]) -> dict[str, str]:
    return {run: digest_file(workspace.runs / run / "predictions.parquet") for run in runs}


def copy_of(workspace: Workspace, root: Path) -> Workspace:
    """A workspace with the same benchmark and no run."""
    shutil.copytree(workspace.benchmarks, root / "benchmarks")
    return Workspace.open(root)


def test_a_sweep_whose_node_is_killed_ends_with_the_records_of_a_local_one(
    cluster: Any, tiny: Workspace, waiting: Path, tmp_path: Path
) -> None:
    plan = waiting_runs(waiting, 0, 1)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE)]
    launcher = choose_launcher("ray", None, "auto", cpus=1)
    cells = prepare(plan, launcher, tiny)
    said: set[str] = set()
    lost = "its node was lost, it goes on from its last checkpoint"

    def kill(state: SweepState) -> None:
        said.update(cell.activity.split(":")[0] for cell in state.cells)
        if nodes and len(begun()) == 2:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        # A worker outlives its node for a moment, in which it could end its run.
        if lost in said:
            (waiting.parent / "go").touch()

    def begun() -> list[Path]:
        return list(waiting.parent.glob("seed*-*"))

    sweep = Sweep(cells, launcher, tiny, kill)
    sweep.run()
    assert [(cell.status, cell.reason) for cell in cells] == [("finished", "")] * 2
    assert lost in said
    assert len(begun()) == 3
    alone = copy_of(tiny, tmp_path / "alone")
    assert digests(tiny, [cell.run for cell in cells]) == local_digests(plan, alone)


def test_without_shared_storage_benchmark_and_runs_travel(
    cluster: Any, tiny: Workspace, waiting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def unseen(workspace: Workspace) -> Iterator[tuple[str, str]]:
        yield str(tmp_path / "nowhere"), "nothing"

    monkeypatch.setattr(on_ray, "_token", unseen)
    plan = waiting_runs(waiting, 2)
    (waiting.parent / "go").touch()
    launcher = choose_launcher("ray", 1, "auto", cpus=1)
    cells = prepare(plan, launcher, tiny)
    Sweep(cells, launcher, tiny, lambda state: None).run()
    assert [(cell.status, cell.reason) for cell in cells] == [("finished", "")]
    record = read_record(tiny.runs / cells[0].run)
    assert record.method_file == str(waiting)
    assert [opening.run for opening in read_ledger(tiny.runs).entries] == [record.run]
    (own,) = cluster.temporary.glob("whalebench-*/*/benchmarks/tiny")
    assert not list((own.parent.parent / "runs").iterdir())
    alone = copy_of(tiny, tmp_path / "alone")
    assert digests(tiny, [record.run]) == local_digests(plan, alone)


# --- Slurm, played by scripts


SCRIPTS = {
    "sbatch": """
id=$(( $(cat "$QUEUE/last" 2>/dev/null || echo 100) + 1 ))
echo $id > "$QUEUE/last"
cp "$1" "$QUEUE/$id.sh"
SLURM_JOB_ID=$id setsid bash "$1" < /dev/null > /dev/null 2>&1 &
echo $! > "$QUEUE/$id.pid"
echo "Submitted batch job $id"
""",
    "srun": """
while [[ $1 == --* ]]; do
  case $1 in
    --unbuffered) shift ;;
    --error) log=${2//%j/$SLURM_JOB_ID}; shift 2 ;;
    *) shift 2 ;;
  esac
done
exec "$@" 2>> "${log//%t/0}"
""",
    "squeue": """
for file in "$QUEUE"/*.pid; do
  id=$(basename "$file" .pid)
  if [[ -f $QUEUE/$id.state ]]; then state=$(cat "$QUEUE/$id.state")
  elif kill -0 "$(cat "$file")" 2>/dev/null; then state=RUNNING
  else state=COMPLETED; fi
  echo "$id $state"
done
""",
    "scancel": """kill -9 -- "-$(cat "$QUEUE/$1.pid")" """,
}
"""A Slurm whose node is this machine; a file may say what else became of a job."""
STAND_IN = """
import json, os, pathlib, sys, time
place, words = pathlib.Path(sys.argv[1]), sys.argv[2:]
told = [words, os.environ.get("WHALEBENCH_STORAGE"), os.environ["OMP_NUM_THREADS"]]
(place / f"told-{os.getpid()}").write_text(json.dumps(told))
print("Training\\nepoch 1/2  loss 0.5", file=sys.stderr, flush=True)
until = time.monotonic() + 60
while (place / "wait").exists() and time.monotonic() < until:
    time.sleep(0.05)
if "--fail" in words:
    sys.exit("Error: the loss is not a number: lower the learning rate.")
if "--long" in words:
    time.sleep(60)
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the queue of a Slurm that scripts play; its jobs play a part, too."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'whalebench[slurm]'")
    folder, programs = tmp_path / "queue", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    for name, text in SCRIPTS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(folder))
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", STAND_IN, str(tmp_path)))
    for name, seconds in (("LOOK", 0.1), ("PAUSE", 0.05), ("GRACE", 1.0)):
        monkeypatch.setattr(on_slurm, name, seconds)
    return folder


def outcome(task: Task) -> int | None:
    until = time.monotonic() + 30
    while task.is_running():
        assert time.monotonic() < until
        time.sleep(0.05)
    return task.exit_code()


def a_job(tmp_path: Path, *options: str) -> Job:
    place = Workspace.open(tmp_path / "workspace")
    secret = {STORAGE: "journal:SECRET.log"}
    return Job("tune", RunRequest("softmax", "tiny", device="cpu"), place, options, secrets=secret)


def test_slurm_is_told_what_is_declared_and_the_job_its_secrets(queue: Path, tmp_path: Path) -> None:
    words = ["partition=gpu", "account=ann", "time=2h"]
    with choose_launcher("slurm", 2, "auto", cpus=3, gpus=1, memory="2GB", slurm=words) as launcher:
        (tmp_path / "wait").touch()
        done, failed = launcher.launch(a_job(tmp_path)), launcher.launch(a_job(tmp_path, "--fail"))
        assert not launcher.has_room()
        (tmp_path / "wait").unlink()
        assert (outcome(done), outcome(failed)) == (0, 1)
        assert launcher.has_room()
    assert failed.reason() == "the loss is not a number: lower the learning rate."
    batch = (queue / "101.sh").read_text(encoding="utf-8")
    for line in ("partition=gpu", "account=ann", "time=120", "cpus-per-task=3", "gpus-per-node=1"):
        assert f"#SBATCH --{line}" in batch
    assert "#SBATCH --mem=1907M\n" in batch
    assert "SECRET" not in batch
    told = [json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("told-*")]
    assert [(secret, threads) for _, secret, threads in told] == [("journal:SECRET.log", "3")] * 2
    assert STORAGE not in os.environ
    assert not list((tmp_path / "workspace" / "cache" / "slurm").iterdir())


def test_a_job_whose_node_fails_is_submitted_again_but_not_for_ever(queue: Path, tmp_path: Path) -> None:
    with choose_launcher("slurm", 1, "auto", cpus=1) as launcher:
        task = launcher.launch(a_job(tmp_path, "--long"))
        for job in (101, 102, 103):
            wait_for(lambda job=job: task.is_running() and len(list(tmp_path.glob("told-*"))) == job - 100)
            (queue / f"{job}.state").write_text("NODE_FAIL", encoding="utf-8")
        assert outcome(task) == 1
    assert "job 103 ended as NODE_FAIL" in task.reason()
    assert not (queue / "104.pid").exists()


def test_a_job_is_cancelled_when_the_launcher_stops(queue: Path, tmp_path: Path) -> None:
    with choose_launcher("slurm", 1, "auto", cpus=1) as launcher:
        task = launcher.launch(a_job(tmp_path, "--long"))
        wait_for(lambda: task.is_running() and task.activity == "Training, epoch 1/2")
        (told,) = tmp_path.glob("told-*")
    process = int(told.name.partition("-")[2])
    wait_for(lambda: not Path(f"/proc/{process}").exists())
    assert not task.is_running()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


# --- wrong use


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cpus", "2"), "--cpus is said of a cluster"),
        (("--launcher", "ray", "--slurm", "time=2h"), "--slurm is not for Ray"),
        (("--launcher", "ray", "--cpus", "0"), "--cpus 0 cannot be"),
        (("--launcher", "ray", "--memory", "much"), "--memory much is no size"),
        (("--launcher", "ray", "--jobs", "0"), "--jobs 0 cannot be"),
        (("--launcher", "slurm", "--slurm", "partitoin=a"), "did you mean 'partition'"),
        (("--launcher", "slurm", "--slurm", "time=soon"), "--slurm time soon is no duration"),
        (("--launcher", "slurm", "--device", "cuda"), "--device cuda and --gpus 0 cannot both be"),
    ],
)
def test_wrong_use_is_a_sentence(
    tmp_path: Path, cli: Callable[..., Any], words: tuple[str, ...], said: str
) -> None:
    for command in ("sweep", "tune"):
        answer = cli(command, "softmax", "--benchmark", "tiny", *words, "--workspace", tmp_path)
        assert (answer.code, said in answer.err) == (2, True), answer.err


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"torch": ""}, "node far lacks torch: pip install it there"),
        ({"numpy": "1.0"}, "node far has numpy 1.0 and this machine "),
        ({"rich": "1.0"}, ""),  # no number depends on it
    ],
)
def test_a_node_by_which_numbers_would_differ_is_refused(versions: dict[str, str], said: str) -> None:
    packages = ["rich", "none-of-these", *LIBRARIES]
    sight = Sight("far", installed(packages) | versions, True)
    with pytest.raises(RunFailedError, match=f"^{said}") if said else nullcontext():
        on_ray._refuse_other(sight, packages)


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_what_cannot_be_imported_names_its_extra(
    name: Literal["ray", "slurm"], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(MissingError, match=rf"pip install 'whalebench\[{name}\]'\.$"),
        choose_launcher(name, 1, "auto"),
    ):
        pass


def test_a_cluster_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'whalebench[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(
            RunFailedError, match=r"^no Ray cluster can be joined at 127\.0\.0\.1:1 .*RAY_ADDRESS\.$"
        ),
        choose_launcher("ray", 1, "auto"),
    ):
        pass


def test_a_run_on_a_cluster_has_the_device_that_is_declared() -> None:
    made = [RayLauncher(1, "auto", Resources(gpus=gpus)) for gpus in (0, 1)]
    told = [(each.device, each.device_type) for each in made]
    assert told == [("cpu", "cpu"), ("cuda", "cuda")]
    with pytest.raises(WhalebenchError, match="cannot both be"):
        RayLauncher(1, "cpu", Resources(gpus=1))
