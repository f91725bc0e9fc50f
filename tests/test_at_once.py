"""Two processes that make the same thing at once: the first one's stays, and the other is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whalebench.benchmarks.core.catalog import read_catalog
from whalebench.benchmarks.core.workspace import Workspace, benchmark_lock
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark, make_split

TRIES = 8
TOGETHER = """
import sys, time
from pathlib import Path
from whalebench import WhalebenchError
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import make_split
what, me, place = sys.argv[1], sys.argv[2], Workspace(Path(sys.argv[3]))
for number in range(int(sys.argv[4])):
    (place.cache / f"ready-{me}-{number}").touch()
    while len(list(place.cache.glob(f"ready-?-{number}"))) < 2:
        time.sleep(0.0005)
    try:
        if what == "split":
            how = dict(protocol="auto", folds=3, singles="train", valid_share=0.2)
            made = make_split(f"b{number}", place, seed=int(me), **how).digest
        else:
            made = import_csv(place.root.parent / f"{me}.csv", f"b{number}", place).catalog.digest
        print("made", made, flush=True)
    except WhalebenchError as error:
        print(error, flush=True)
"""


def both(what: str, place: Workspace) -> list[tuple[str, str]]:
    """What each of two processes said in each try."""
    command = [sys.executable, "-c", TOGETHER, what]
    pair = [
        subprocess.Popen([*command, me, str(place.root), str(TRIES)], stdout=subprocess.PIPE, text=True)
        for me in "01"
    ]
    said = [process.communicate(timeout=600)[0].splitlines() for process in pair]
    assert [len(lines) for lines in said] == [TRIES, TRIES]
    return list(zip(*said, strict=True))


def test_of_two_splits_made_at_once_one_is_kept_and_the_other_told(tiny: Workspace) -> None:
    for number in range(TRIES):
        shutil.copytree(tiny.benchmarks / "tiny", tiny.benchmarks / f"b{number}")
    for number, said in enumerate(both("split", tiny)):
        made = [words.split()[1] for words in said if words.startswith("made ")]
        told = [words for words in said if "is another split, and a split is made once" in words]
        assert (len(made), len(told)) == (1, 1), said
        assert load_benchmark(f"b{number}", tiny).split.digest == made[0]


def test_of_two_imports_under_one_name_one_is_kept_and_the_other_told(tmp_path: Path) -> None:
    from whalebench.tests.conftest import draw_source

    place = Workspace.open(tmp_path / "workspace")
    header, *rows = draw_source(tmp_path).read_text().splitlines()
    for me in range(2):
        (tmp_path / f"{me}.csv").write_text("\n".join([header, *rows[me:8]]) + "\n")
    for number, said in enumerate(both("import", place)):
        made = [words.split()[1] for words in said if words.startswith("made ")]
        told = [words for words in said if "exists with other content" in words]
        assert (len(made), len(told)) == (1, 1), said
        assert read_catalog(place.benchmarks / f"b{number}").digest == made[0]


@pytest.mark.parametrize("what", ["split", "import"])
def test_one_that_is_waited_for_is_told(tiny: Workspace, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The other process is in the block when this one comes, and leaves it when it is told to wait."""
    other = benchmark_lock(tiny, "tiny", lambda: None)
    other.__enter__()
    told: list[str] = []

    class Told:
        def stage(self, name: str) -> None:
            told.append(name)
            if name == "wait for benchmark":
                other.__exit__(None, None, None)

        def advance(self, done: int, total: int) -> None: ...

        def epoch(self, summary: object) -> None: ...

    if what == "split":
        how = {"protocol": "auto", "folds": 3, "singles": "train", "valid_share": 0.2, "seed": 0}
        make_split("tiny", tiny, progress=Told(), **how)  # type: ignore[arg-type]
    else:
        table = tiny.root.parent / "source" / "table.csv"
        import_csv(table, "tiny", tiny, progress=Told())
    assert told[-1] == "wait for benchmark"


def test_a_split_that_was_stopped_half_way_is_made_by_the_next_run(tiny: Workspace) -> None:
    made = load_benchmark("tiny", tiny, propose=True).split
    sidecar = tiny.benchmarks / "tiny" / "split.json"
    facts = json.loads(sidecar.read_text())
    sidecar.unlink()
    assert load_benchmark("tiny", tiny, propose=True).split.digest == made.digest
    assert json.loads(sidecar.read_text()) == facts
