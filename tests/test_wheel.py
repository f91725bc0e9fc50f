"""The built wheel works where there is no checkout, and holds what it should and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import whalebench

ROOT = Path(whalebench.__file__).parent


def call(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    answer = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=180
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files that are tracked, or would be, so that nothing lands in the checkout."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs a git checkout to know which files belong to the project")
    copy = tmp_path_factory.mktemp("copy") / "checkout-of-another-name"
    for name in call("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0"):
        if name and os.path.lexists(ROOT / name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    call(sys.executable, "-m", "pip", "wheel", ".", *options, "-w", copy.parent / "wheels", cwd=copy)
    (built,) = (copy.parent / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder the wheel was installed into, and an environment in which only it provides whalebench."""
    target = tmp_path_factory.mktemp("target")
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--target", target)
    call(sys.executable, "-m", "pip", "install", *options, wheel, cwd=target)
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    paths = os.pathsep.join([str(target), *libraries])
    return target, {**os.environ, "PYTHONPATH": paths, "COLUMNS": "120"}


def python(code: str, cwd: Path, installed: tuple[Path, dict[str, str]], *arguments: str) -> str:
    # -S: .pth files are not read, so an editable installation of the checkout is not there.
    return call(sys.executable, "-S", "-c", code, *arguments, cwd=cwd, env=installed[1])


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    tops = {name.split("/")[0] for name in names}
    assert tops == {"whalebench", f"whalebench-{whalebench.__version__}.dist-info"}
    rooms = {name.split("/")[1] for name in names if name.startswith("whalebench/")}
    doors = {"__init__.py", "__main__.py", "api.py", "cli.py", "py.typed"}
    assert rooms == doors | {"benchmarks", "methods", "reports", "splits"}
    assert not [name for name in names if name.endswith((".jpg", ".png", ".pyc"))]
    files = {f"whalebench/{file.relative_to(ROOT)}" for room in ("benchmarks", "methods", "reports", "splits")
             for file in (ROOT / room).rglob("*.py")}  # fmt: skip
    assert files <= set(names)


def test_the_plans_are_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.rsplit("/", 1)[1] for name in archive.namelist() if "/benchmarks/plans/" in name}
    assert inside == {file.name for file in (ROOT / "benchmarks" / "plans").iterdir()} != set()


def test_the_committed_split_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.rsplit("/", 1)[1] for name in archive.namelist() if "/splits/committed/" in name}
    assert inside >= {"flukes.csv", "flukes.json"}
    assert inside == {file.name for file in (ROOT / "splits" / "committed").iterdir()}


def test_the_command_line_runs_from_the_wheel(installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    code = "import sys; sys.argv[0] = 'whalebench'; from whalebench.cli import main; main()"
    assert "leaderboard" in python(code, tmp_path, installed, "--help")
    assert whalebench.__version__ in python(code, tmp_path, installed, "--version")
    assert "flukes" in python(code, tmp_path, installed, "benchmarks", "--json")
    script = installed[0] / "bin" / "whalebench"
    assert script.is_file() or (installed[0] / "Scripts" / "whalebench.exe").is_file()


def test_it_is_the_wheel_that_runs(installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    code = (
        "import whalebench, whalebench.cli, whalebench.splits.split as store\n"
        "from importlib.metadata import entry_points\n"
        "print(whalebench.__file__, whalebench.cli.__file__, store.__file__, sep='\\n')\n"
        "print(*sorted(point.name for point in entry_points(group='whalebench.methods')))"
    )
    *files, names = python(code, tmp_path, installed).splitlines()
    assert all(Path(file).is_relative_to(installed[0]) for file in files)
    assert {"arcface", "softmax"} <= set(names.split())


def test_nothing_generic_lands_beside_the_package(
    installed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    code = (
        "import importlib.util as util, sys\n"
        f"sys.path = [{str(installed[0])!r}]\n"
        "print(*[name for name in ('cli', 'methods', 'benchmarks', 'reports', 'splits', 'tests', 'docs')"
        " if util.find_spec(name)])"
    )
    assert python(code, tmp_path, installed).split() == []


def test_the_package_of_the_page_installs_and_its_method_is_there(
    installed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """docs/add-a-method.md, followed to the letter, beside the installed wheel."""
    page = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    toml, code = (
        re.search(rf"^```{kind}\n(.*?)^```$", page, flags=re.S | re.M) for kind in ("toml", "python")
    )
    assert toml and code
    (tmp_path / "pyproject.toml").write_text(toml[1], encoding="utf-8")
    (tmp_path / "mean_colour.py").write_text(code[1], encoding="utf-8")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    call(sys.executable, "-m", "pip", "install", *options, "--target", installed[0], tmp_path, cwd=tmp_path)
    command = "import sys; sys.argv[0] = 'whalebench'; from whalebench.cli import main; main()"
    fields = json.loads(python(command, tmp_path, installed, "methods", "mean-colour", "--json"))
    assert "bins" in {row["field"] for row in fields}
