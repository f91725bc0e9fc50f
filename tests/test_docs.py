"""The documents say what is true: the commands they give are those that CI runs and the tool has."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whalebench.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> list[str]:
    found = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.S | re.M)
    return [line for block in found for line in block.splitlines()]


def test_ci_runs_the_readme_s_test_command() -> None:
    command = next(line for line in blocks(README) if line.endswith("-m pytest"))
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_first_command_of_the_readme_is_the_main_job() -> None:
    first = blocks(README)[0]
    assert first.startswith("python3 -m venv .venv && ")
    assert first.endswith("whalebench run arcface --fold 0")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_gap_to_be_filled(page: Path) -> None:
    assert "@@" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    absent = [link for link in links if not (page.parent / link).exists()]
    assert not absent


def test_every_command_the_pages_give_is_there() -> None:
    given = {
        tuple(words[1:3])
        for page in PAGES
        for line in blocks(page.read_text(encoding="utf-8"))
        for words in [line.split("#")[0].split()]
        if words[:1] == ["whalebench"]
    }
    groups = ("data", "split", "gallery")
    commands = {words if words[0] in groups else words[:1] for words in given}
    assert len(commands) >= 5
    for command in sorted(commands):
        assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0, command
