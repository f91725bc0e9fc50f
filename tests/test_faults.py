"""A little of the fault suite (`make faults`) with all tests, and its judges, which have to see faults."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.calls import Copies, Ended, Place, changes, complaints
from tests.faults.stored import spoil_value

ROOT = Path(__file__).parents[1]
GOOD = Ended(("runs",), 0, "nothing", "Checking photos\n", 0.1, 10)


def ended(
    code: int | None = 2, err: str = "Error: so it is.\n", out: str = "", words: tuple[str, ...] = ("runs",)
) -> Ended:
    return Ended(words, code, out, err, 0.1, 10)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "base" / "workspace" / "runs").mkdir(parents=True)
    (tmp_path / "base" / "workspace" / "runs" / "a.json").write_text("{}")
    return Place(tmp_path / "base")


def test_a_little_of_every_part_finds_no_fault() -> None:
    words = [sys.executable, "-m", "tests.faults", "little"]
    found = subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True)
    faults = [line for line in found.stdout.splitlines() if not line.startswith("#")]
    assert (faults, found.returncode) == ([], 0), found.stderr
    assert found.stdout.count("# ") >= 7


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (ended(None), "hangs"),
        (ended(-11), "exit -11"),
        (ended(99), "exit 99"),
        (ended(1, "Traceback (most recent call last):\n"), "traceback"),
        (ended(1, "Error: x. Add --debug to see where, and please report it.\n"), "nobody's"),
        (ended(1, ""), "without a word"),
        (
            ended(2, "Usage: whalebench [OPTIONS]\n╭─ Error ──╮\n│ No such  │\n╰──────────╯\n"),
            "without a word",
        ),
        (ended(2, "Error: one\ntwo\n"), "2 lines"),
        (ended(2, f"Error: {'x' * 400}\n"), "characters"),
        (ended(2, "Error: \x1b[31mred\n"), "stderr"),
        (ended(0, "", "a\u202eb"), "stdout"),
        (ended(0, "Error: x\n", "done"), "exit 0 with an error"),
        (ended(0, "/a/b.py:3: UserWarning: x\n"), "warning"),
        (ended(0, "", "print\n{}", ("runs", "--json")), "not JSON"),
        (ended(0, "", '{"a": NaN}', ("runs", "--json")), "not JSON"),
        (Ended(("runs",), 0, "done", "", 0.1, 5000), "5000 MB"),
    ],
)
def test_what_is_wrong_with_an_end_is_seen(fault: Ended, what: str) -> None:
    assert any(what in each for each in complaints(fault))


@pytest.mark.parametrize(
    "good",
    [
        ended(0, "Checking photos\n! a warning\n", "done"),
        ended(2),
        ended(1, "", "a table that says why"),
        ended(2, "! line 1, x.\n! line 2, y.\nError: t.csv has 2 problems, the first in line 1, x.\n"),
        ended(0, "", '{"a": null}', ("runs", "--json")),
    ],
)
def test_a_good_end_is_no_fault(good: Ended) -> None:
    assert list(complaints(good)) == []


def test_what_changes_is_seen_and_made_good(place: Place) -> None:
    copies = Copies(place)
    copy = copies.fresh()
    before, runs = copy.state(), copy.workspace / "runs"
    (runs / "a.json").write_text("[]")
    (runs / "b.json").write_text("{}")
    (runs / ".tmp-c").mkdir()
    assert list(changes(before, copy.state(), ())) == [
        "workspace/runs/.tmp-c/ is left", "workspace/runs/a.json is changed", "workspace/runs/b.json is left"
    ]  # fmt: skip
    assert list(changes(before, copy.state(), ("workspace/runs/*",))) == ["workspace/runs/.tmp-c/ is left"]
    copy = copies.fresh()
    assert [path.name for path in runs.iterdir()] == ["a.json"]
    assert (runs / "a.json").read_text() == "{}"


def test_json_is_spoilt_somewhere() -> None:
    value = {"a": [1, {"b": 2}], "c": "d"}
    spoilt = []
    for seed in range(40):
        copy = json.loads(json.dumps(value))
        spoil_value(random.Random(seed), copy)
        spoilt.append(copy)
    assert sum(each != value for each in spoilt) >= 38
