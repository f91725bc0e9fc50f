"""The door for Python: an import costs nothing, tables are the commands' own, and a method may be a file."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import whalebench
from whalebench import api
from whalebench.benchmarks.core.record import find_run, read_predictions, read_record, write_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.launching.launcher import Job
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.tests.conftest import draw_source

DOCS = Path(__file__).parents[1] / "docs"
METHOD = DOCS / "examples" / "mean_colour.py"
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a method's file, new photos, and a workspace that has the benchmark `my-whales`."""
    folder = tmp_path_factory.mktemp("door")
    table = draw_source(folder / "source")
    import_csv(table, "my-whales", Workspace.open(folder / "workspace"))
    shutil.copy(METHOD, folder)
    (folder / "new-photos").mkdir()
    pixels = np.asarray(Image.open(table.parent / "photos" / "w02e0.png"), np.uint8)
    Image.fromarray(pixels // 2 + 40).save(folder / "new-photos" / "dim.png")
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_an_import_costs_nothing() -> None:
    code = "import sys, whalebench; print(*whalebench.__all__, *dir(whalebench), '|', *sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    names, loaded = said.split("|")
    assert {"run", "runs", "predictions", "leaderboard", "load"} <= set(names.split())
    assert "whalebench" in loaded.split()
    assert not {"torch", "pandas", "numpy", "typer", "rich", "pydantic", "whalebench.api"} & set(
        loaded.split()
    )


def test_what_is_public_is_there_for_type_checkers_and_at_run_time() -> None:
    tree = ast.parse(Path(whalebench.__file__).read_text(encoding="utf-8"))
    (for_types,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name for node in for_types.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    defined = {name for name in vars(whalebench) if name in whalebench.__all__}
    assert typed | defined == set(whalebench.__all__) and typed.isdisjoint(defined)
    for name in typed:
        assert getattr(whalebench, name) is getattr(api, name)
        assert getattr(api, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        whalebench.train  # noqa: B018


def test_the_page_on_python_runs_as_it_stands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "from-python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.S | re.M)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is to be known of three valid photos
        for block in blocks:
            exec(compile(block, "from-python.md", "exec"), names)
    assert "did you mean 'epochs'" in capsys.readouterr().out
    assert sorted(names["table"]["method"]) == ["mean-colour", "mean-colour", "softmax"]
    assert len(names["answers"]) == names["run"].record.counts["test_photos"]
    assert [Path(photo).name for photo in names["candidates"]["photo"]] == ["dim.png"] * 5
    rows = names["board"].set_index("contestant")
    assert rows.loc["mean-colour", ["folds", "runs"]].tolist() == ["0, 1", 2]
    assert (rows["map_at_5"] >= rows["low"]).sum() == 2 and len(rows) > 2  # floors have no interval


def test_tables_are_those_of_the_commands(shared_tiny: Workspace, cli: Cli) -> None:
    where = ("--json", "--workspace", shared_tiny.root)
    rows = json.loads(cli("runs", *where).out)
    table = whalebench.runs(workspace=shared_tiny.root)
    assert table["run"].tolist() == [row["run"] for row in rows]
    run = whalebench.load("@last", workspace=str(shared_tiny.root))
    assert run.name == rows[0]["run"]
    assert run.metrics["map_at_5"] == rows[0]["map_at_5"]
    kept = read_predictions(shared_tiny.runs / run.name)
    pd.testing.assert_frame_equal(whalebench.predictions(run), kept)
    pd.testing.assert_frame_equal(whalebench.predictions(run.name, workspace=shared_tiny.root), kept)


def test_what_cannot_be_read_is_warned_of_and_what_cannot_be_is_refused(
    shared_tiny: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALEBENCH_WORKSPACE", str(shared_tiny.root))
    broken = shared_tiny.runs / "broken"
    broken.mkdir()
    try:
        (broken / "record.json").write_text("{")
        for table_of in (whalebench.runs, whalebench.leaderboard):
            with pytest.warns(UserWarning, match=r"broken.*is not JSON") as told:
                assert len(table_of("tiny"))
            assert {Path(warning.filename) for warning in told} == {Path(__file__)}
    finally:
        shutil.rmtree(broken)
    with pytest.raises(whalebench.WhalebenchError, match=r"settings: size cannot be \(32, 32\): write it as"):
        whalebench.run("softmax", "tiny", settings={"size": (32, 32)})
    with pytest.raises(whalebench.WhalebenchError, match=r"no field 'localizer\.epoch'"):
        whalebench.run("softmax", "tiny", settings={"localizer": {"epoch": 3}})


def test_progress_is_shown_where_it_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (False, True):
        capsys.readouterr()
        whalebench.run("./mean_colour.py", "my-whales", progress=wanted, seed=1)
        said = capsys.readouterr()
        assert (said.out, bool(said.err)) == ("", wanted)


def test_a_file_that_changes_is_another_run_in_the_same_process(here: Path) -> None:
    file = here / "edited.py"
    text = METHOD.read_text().replace('"mean-colour"', '"edited"')
    file.write_text(text)
    first = whalebench.run(file, "my-whales")
    file.write_text(text.replace("return -distances", "return +distances"))
    other = whalebench.run(file, "my-whales")
    assert first.record.code_digest != other.record.code_digest
    assert (first.metrics["top_1"], other.metrics["top_1"]) == (1.0, 0.0)
    file.write_text(text + "# A remark.\n")
    assert whalebench.run(file, "my-whales").record == first.record
    assert not (here / "__pycache__").exists()


def test_a_run_of_a_file_is_restored_from_it_and_says_where_it_is_gone(here: Path, cli: Cli) -> None:
    (here / "moved.py").write_text(METHOD.read_text().replace('"mean-colour"', '"moving"'))
    place = ("--workspace", here / "workspace")
    assert cli("run", "./moved.py", "--benchmark", "my-whales", "--device", "cpu", *place).code == 0
    folder = find_run("moving", Workspace.open(here / "workspace"))
    record = read_record(folder)
    assert (record.method, record.method_file) == ("moving", str(here / "moved.py"))
    explain = ("explain", folder.name, "--photos", 1, *place)
    assert cli(*explain).code == 0
    repeat = json.loads(cli("run", "moved.py", "--benchmark", "my-whales", "--dry-run", "--json", *place).out)
    assert repeat["command"].startswith(f"whalebench run {here / 'moved.py'} --benchmark my-whales")
    (here / "moved.py").rename(here / "elsewhere.py")
    said = cli(*explain, "--force")
    assert said.code == 2 and "moved.py, which is not there any more: put the file back" in said.err
    for place_of_it in ("moved.py", str(folder.parent / "received" / "moved.py")):  # one that came with a run
        received = folder.parent / "received"
        shutil.rmtree(received, ignore_errors=True)
        shutil.copytree(folder, received)
        write_record(received, record.model_copy(update={"method_file": place_of_it}))
        said = cli("explain", "received", *place)
        assert said.code == 2 and "lies among the runs, and no program is run from there" in said.err
    shutil.rmtree(received)
    (here / "moved.py").write_text(METHOD.read_text().replace('"mean-colour"', '"other"'))
    said = cli(*explain, "--force")
    assert said.code == 2 and "moved.py holds other now" in said.err


def test_workers_in_other_processes_are_given_the_file(here: Path, cli: Cli) -> None:
    (here / "swept.py").write_text(METHOD.read_text().replace('"mean-colour"', '"swept"'))
    place = Workspace.open(here / "workspace")
    answer = cli(
        "sweep", "./swept.py", "--benchmark", "my-whales", "--jobs", 1, "--device", "cpu", "--dry-run",
        "--json", "--workspace", place.root,
    )  # fmt: skip
    (cell,) = json.loads(answer.out)["cells"]
    assert cell["run"].startswith("swept-my-whales-fold0-seed0-")
    for command in ("run", "tune"):
        assert Job(command, RunRequest("swept"), place).arguments()[:2] == [command, str(here / "swept.py")]
        assert Job(command, RunRequest("softmax"), place).arguments()[:2] == [command, "softmax"]
