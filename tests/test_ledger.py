"""The ledger: every time test labels are opened is a line of it, whatever becomes of the run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core import ledger
from whalebench.benchmarks.core.ledger import LEDGER, Opening, append, read_ledger
from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import outcome, runner
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.reports.leaderboard import leaderboard

MAIN = str(Path(ledger.__file__).parents[2] / "__main__.py")
MEAN = ("backbone=test_resnet", "size=32", "epochs=1", "batch_size=8")
APPEND = """
import sys
from pathlib import Path
from whalebench.benchmarks.core.ledger import Opening, append
from whalebench.benchmarks.core.workspace import Workspace
facts = dict(method="m", settings="s", benchmark="b", catalog_digest="c", split_digest="d", fold=0)
for number in range(25):
    append(Workspace(Path(sys.argv[1])), Opening(**facts, seed=number, run=sys.argv[2] * 2000))
"""


def opening(**change: Any) -> Opening:
    facts = {"method": "m", "settings": "s", "benchmark": "b", "catalog_digest": "c", "split_digest": "d"}
    return Opening(**facts | {"fold": 0, "seed": 0, "run": "r"} | change)


def run(workspace: Workspace, *settings: str, force: bool = False, method: str = "softmax") -> RunRecord:
    request = RunRequest(method, "tiny", settings=(*MEAN, *settings), device="cpu")
    return runner.run(request, workspace, force=force)


def test_runs_that_are_found_forced_deleted_or_failed_are_told_apart(
    tiny: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tiny)
    assert run(tiny) == first
    run(tiny, force=True)
    shutil.rmtree(tiny.runs / first.run)
    run(tiny)
    (one, two, three), problems = read_ledger(tiny.runs)
    assert problems == []
    assert [entry.forced for entry in (one, two, three)] == [False, True, False]
    assert {entry.run for entry in (one, two, three)} == {first.run}
    assert (one.method, one.seed, one.command) == ("softmax", 0, "from Python")
    assert first.created >= one.when
    fold = ("tiny", first.catalog_digest, first.split_digest, 0)
    assert read_ledger(tiny.runs).openings() == {fold: 3}

    def fails(*args: object) -> None:
        raise RuntimeError("evaluation broke")

    monkeypatch.setattr(outcome, "evaluate_scores", fails)
    with pytest.raises(RuntimeError, match="evaluation broke"):
        run(tiny, "weight_decay=0.1")
    assert read_ledger(tiny.runs).openings() == {fold: 4}
    assert len({entry.settings for entry in read_ledger(tiny.runs).entries}) == 2
    with (tiny.root / LEDGER).open("a") as file:
        file.write('{"method":"softm')
    assert ["1 line(s) of" in problem for problem in leaderboard(tiny.runs).problems] == [True]


def test_what_never_comes_to_test_is_not_in_it(tiny: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("learning broke")

    monkeypatch.setattr("whalebench.benchmarks.running.harness.RunHarness.fit", fails)
    with pytest.raises(RunFailedError, match="softmax failed with RuntimeError: learning broke"):
        run(tiny)
    unfit = run(tiny, "crop=mask", force=True)
    assert unfit.unfit == "tiny has no masks"
    assert read_ledger(tiny.runs).entries == []


def test_nothing_is_scored_where_it_cannot_be_written_down(tiny: Workspace) -> None:
    (tiny.root / LEDGER).mkdir()
    with pytest.raises(
        WhalebenchError, match=rf"{LEDGER} cannot be written .* no test labels are opened unless"
    ):
        run(tiny)
    assert list(tiny.runs.iterdir()) == []


def test_trials_are_not_in_it_but_the_two_runs_at_the_end_are(tiny: Workspace) -> None:
    from whalebench.benchmarks.tuning.space import read_budget
    from whalebench.benchmarks.tuning.tuner import Tuner, TuneRequest

    request = TuneRequest(RunRequest("softmax", "tiny", settings=MEAN, device="cpu"), read_budget(3, None))
    tuned = Tuner(request, tiny).tune()
    assert len(tuned.trials.ended) == 3
    assert isinstance(tuned.default, RunRecord)
    assert [entry.run for entry in read_ledger(tiny.runs).entries] == [tuned.tuned.run, tuned.default.run]


def test_ensembles_and_explanations_are_in_it(
    tiny: Workspace, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run(tiny).run, run(tiny, method="arcface").run]
    for more in ((), (), ("--force",)):
        assert cli("ensemble", *runs, *more, "--workspace", tiny.root).code == 0
    assert cli("explain", runs[0], "--photos", 1, "--box", 0.5, "--workspace", tiny.root).code == 0
    entries = read_ledger(tiny.runs).entries
    assert [entry.method for entry in entries] == ["softmax", "arcface", "ensemble", "ensemble", "softmax"]
    assert [entry.forced for entry in entries] == [False, False, False, True, False]
    assert entries[2].command == f"whalebench ensemble {runs[0]} {runs[1]} --workspace workspace"
    assert entries[-1].command.startswith(f"whalebench explain {runs[0]} --photos 1")
    benchmark = load_benchmark("tiny", tiny)
    assert read_ledger(tiny.runs).openings() == {
        ("tiny", benchmark.catalog.digest, benchmark.split.digest, 0): 5
    }


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["/opt/bin/whalebench", "run", "softmax"], "whalebench run softmax"),
        ([MAIN, "run", "/home/ann/my.py", "--out", "/home/ann/w"], "whalebench run my.py --out w"),
        (["whalebench", "run", "a", "--set", "pretrained=/w/x.pt"], "whalebench run a --set pretrained=x.pt"),
        (["whalebench", "tune", "a", "--storage", "x://ann:secret@host/db"], "whalebench tune a --storage x://..."),
        (["whalebench", "tune", "--storage=x+y://a:s@e/c@h/db?password=s"], "whalebench tune --storage=x+y://..."),
        (["whalebench", "run", "a b", "--workspace", "../w"], "whalebench run 'a b' --workspace ../w"),
        (["/usr/bin/ipython"], "from Python"),
        ([""], "from Python"),
    ],
)  # fmt: skip
def test_a_command_is_what_was_typed_and_not_where(
    typed: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", typed)
    assert ledger.typed_command() == said


def test_a_torn_line_is_told_and_swallows_nothing(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path)
    for seed in range(3):
        append(workspace, opening(seed=seed))
    file = tmp_path / LEDGER
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    entries, (problem,) = read_ledger(workspace.runs)
    assert [entry.seed for entry in entries] == [0, 1]
    assert "1 line(s) of" in problem and "first line 3: they are not counted" in problem
    append(workspace, opening(seed=7))
    assert [entry.seed for entry in read_ledger(workspace.runs).entries] == [0, 1, 7]
    assert file.read_bytes().startswith(whole[:-20] + b"\n")


def test_what_was_written_stays_as_it_was(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path)
    append(workspace, opening())
    before = (tmp_path / LEDGER).read_bytes()
    append(workspace, opening(fold=1))
    assert (tmp_path / LEDGER).read_bytes().startswith(before)
    assert read_ledger(workspace.runs).openings() == {("b", "c", "d", 0): 1, ("b", "c", "d", 1): 1}
    assert read_ledger(tmp_path / "elsewhere" / "runs").openings() == {}


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    """Lines of some kilobytes each, which a buffered writer would cut."""
    workspace = Workspace.open(tmp_path)
    command = [sys.executable, "-c", APPEND, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [writer.wait(timeout=300) for writer in writers] == [0] * 4
    entries, problems = read_ledger(workspace.runs)
    assert problems == []
    written = {(entry.run[0], entry.seed) for entry in entries}
    assert written == {(str(number), seed) for number in range(4) for seed in range(25)}
    assert len(entries) == 100


def test_a_line_that_differs_from_its_digest_is_not_counted(tiny: Workspace) -> None:
    facts = {"method": "softmax", "config": {}, "benchmark": "tiny", "fold": 0, "seed": 0, "run": "one"}
    entry = Opening.of(facts | {"catalog_digest": "c", "split_digest": "s"}, forced=False)
    append(tiny, entry)
    append(tiny, entry)
    file = tiny.root / "ledger.jsonl"
    assert read_ledger(tiny.runs) == ([entry, entry], [])
    file.write_bytes(file.read_bytes().replace(b'"fold": 0', b'"fold": 1', 1))
    entries, (problem,) = read_ledger(tiny.runs)
    assert entries == [entry]
    assert "1 line(s) of" in problem and "first line 1: they are not counted" in problem
    older = {key: value for key, value in json.loads(entry.line()).items() if key != "digest"}
    file.write_text(json.dumps(older) + "\n")
    assert read_ledger(tiny.runs) == ([entry], [])
