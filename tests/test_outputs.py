"""What leaves: files go where the user says, and what others wrote is text in them and on a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whalebench import CONTROLS, RunFailedError, WhalebenchError, cell_text, table_cell, visible
from whalebench.benchmarks.core.files import with_digest
from whalebench.benchmarks.core.outputs import check_output, output_path, write_output
from whalebench.reports import console, writers
from whalebench.reports.drawings.contestants import Mark, standings
from whalebench.reports.leaderboard import leaderboard
from whalebench.tests.pages import page_of
from whalebench.tests.synthetic_runs import fill_workspace

Cli = Callable[..., Any]
EVIL = "=1+1|a\\b <b>*[bold]x[/bold] :whale:\x1b[31m\x07\x9b\u202e\u2028\x00\r\n\ud800 & {} $\\LaTeX é \u200d"


# --- where the user says


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    target, link, chain = (tmp_path / name for name in ("far/target.csv", "link.csv", "chain.csv"))
    target.parent.mkdir()
    target.write_text("before")
    target.chmod(0o600)
    link.symlink_to("far/target.csv")
    chain.symlink_to(link)
    write_output(chain, "after\r\n")
    assert link.is_symlink()
    assert chain.is_symlink()
    assert not target.is_symlink()
    assert target.read_bytes() == b"after\r\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.rglob("*")} == {"far", "target.csv", "link.csv", "chain.csv"}


def test_a_link_to_nothing_makes_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new.csv")
    write_output(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new.csv").read_text() == "text"


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), output_path(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_folder_and_a_path_below_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "a.csv", "cannot be written: Not a dir"),
    ):
        with pytest.raises(WhalebenchError, match=said):
            check_output(path)
        with pytest.raises(WhalebenchError, match=said):
            write_output(path, "text")


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(RunFailedError, match="nobody reads from it"):
        write_output(pipe, "text")
    text, got = "é\n" * 100_000, []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text(encoding="utf-8")), daemon=True)
    waiting = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that there is a reader from now on
    reader.start()
    write_output(pipe, text)
    os.close(waiting)
    reader.join(30)
    assert got == [text]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_full_device_is_a_sentence_and_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "full"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        device.open("wb").close()
    except OSError:
        pytest.skip("only root makes devices, and not everywhere")
    with pytest.raises(RunFailedError, match="full cannot be written: No space left"):
        write_output(device, "text")
    assert stat.S_ISCHR(device.stat().st_mode)


PRINTS = """
import sys
from pathlib import Path
from whalebench.benchmarks.core.outputs import write_output
print("before")
write_output(Path(sys.argv[1]), "text\\n")
print("after")
"""


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "link", "itself"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_stdout_gets_it_between_what_is_printed(tmp_path: Path, path: str, kind: str) -> None:
    if path == "itself" and kind == "pipe":
        return
    (tmp_path / "link").symlink_to("/dev/stdout")
    named = {"link": str(tmp_path / "link"), "itself": str(tmp_path / "out")}.get(path, path)
    with (tmp_path / "out").open("wb") as out:
        stdout = out if kind == "file" else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", PRINTS, named], stdout=stdout, check=True, timeout=120)
    said = (tmp_path / "out").read_bytes() if kind == "file" else done.stdout
    assert said == b"before\ntext\nafter\n"
    assert Path("/dev/stdout").is_symlink()
    assert (tmp_path / "link").is_symlink()


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "whalebench", "benchmarks", "--workspace", str(tmp_path / "workspace")],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        timeout=300,
    )
    os.close(write)
    assert done.stderr == b""


@pytest.mark.parametrize("option", ["--html", "--csv", "--svg"])
def test_report_writes_through_a_link(tmp_path: Path, cli: Cli, option: str) -> None:
    place, link = tmp_path / "workspace", tmp_path / "link"
    fill_workspace(place, methods=1, seeds=(0,), folds=(0,), queries=40, individuals=5)
    link.symlink_to(tmp_path / "target")
    assert cli("report", option, link, "--workspace", place).code == 0
    assert link.is_symlink()
    assert (tmp_path / "target").stat().st_size > 100


# --- texts of others


def hostile(tmp_path: Path) -> Path:
    """The folder of a run whose record holds what a method, a file or a user may have put there."""
    place = tmp_path / "workspace"
    fill_workspace(place, methods=1, seeds=(0,), folds=(0,), queries=40, individuals=5)
    (file,) = place.glob("runs/*/record.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    safe = EVIL.replace("\ud800", "")  # no file of UTF-8 holds it
    record |= {"warnings": [safe, "-1 is a text"], "method": safe, "track": safe, "config": {"field": safe}}
    file.write_text(json.dumps(with_digest(record)), encoding="utf-8")
    return place / "runs"


def test_no_control_of_others_is_in_any_file(tmp_path: Path) -> None:
    board = leaderboard(hostile(tmp_path), closely=True)
    for write in (writers.to_markdown, writers.to_csv, page_of, writers.to_svg, writers.to_latex):
        text = write(board)
        assert "\\x1b" in text or "textbackslash{}x1b" in text, write
        left = set(CONTROLS.findall(text)) - {"\n"}
        assert not left, (write, left)
    ET.fromstring(writers.to_svg(board))
    assert "<b>" not in page_of(board).split("<body>")[1]
    assert json.loads(writers.to_json(board))[0]["method"] == EVIL.replace("\ud800", "")
    assert not set(CONTROLS.findall(writers.to_json(board))) - {"\n"}


def test_a_cell_of_markdown_stays_one(tmp_path: Path) -> None:
    table = [
        line for line in writers.to_markdown(leaderboard(hostile(tmp_path))).splitlines() if line[:1] == "|"
    ]
    head, _, row, *_ = (re.sub(r"\\.", "", line).count("|") for line in table)
    assert row == head


def test_numbers_stay_numbers_and_texts_are_no_formula(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(writers.to_csv(leaderboard(hostile(tmp_path))))))
    assert rows[0]["method"].startswith("'=1+1|")
    assert cell_text(rows[0]["method"]) == visible(EVIL.replace("\ud800", ""))
    assert float(rows[0]["map_at_5"]) >= 0
    assert [table_cell(value) for value in (-1, -0.5, None, True)] == [-1, -0.5, None, True]


@pytest.mark.parametrize("text", ["=a", "+a", "-a", "@a", "\ta", "'=a", "''@", "'a", "a", "", "'", "a=b"])
def test_a_cell_is_read_as_the_text_that_was_written(text: str) -> None:
    assert cell_text(str(table_cell(text))) == text
    assert str(table_cell(text))[:1] not in ("=", "+", "-", "@", "\t")


@pytest.mark.parametrize("shown", ["string", "text", "table", "title", "written", "problem", "json"])
def test_a_terminal_is_given_no_command(shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.text import Text

    from whalebench.reports.tables import facts_table, table_of

    match shown:
        case "string":
            console.show(None, EVIL, as_json=False)
        case "text":
            console.show(None, Text(EVIL), as_json=False)
        case "table":
            console.show(None, table_of([{EVIL: EVIL}]), as_json=False)
        case "title":
            console.show(None, facts_table({EVIL: EVIL}, EVIL), as_json=False)
        case "written":
            console.show_written(EVIL)
        case "problem":
            console.show_problems([EVIL])
        case "json":
            console.show({EVIL: EVIL}, None, as_json=True)
    said = "".join(capsys.readouterr())
    assert not set(CONTROLS.findall(said)) - {"\n"}
    assert "x[/bold]" in said
    assert ":whale:" in said
    if shown == "json":
        assert json.loads(said) == {EVIL: EVIL}


def test_the_bar_of_a_stage_is_no_markup() -> None:
    terminal = console.Terminal(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False)
    with console.progress_shown(terminal) as progress:
        progress.stage("[whales] \x1b[5m")
    assert "[whales]" in terminal.file.getvalue()
    assert "\x1b[5m" not in terminal.file.getvalue()


def test_a_picture_holds_what_xml_may_hold() -> None:
    drawn = standings([Mark(EVIL, 0.5, 0.4, 0.6)])
    assert drawn is not None
    ET.fromstring(drawn.svg)
    assert not CONTROLS.search(drawn.svg)
