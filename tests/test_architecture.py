"""Imports between the rooms point one way, and the package is what pyproject.toml says it is."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import whalebench

ROOT = Path(whalebench.__file__).parent
ROOMS = ("benchmarks", "methods", "reports", "splits")
ALLOWED = {
    "cli": ("whalebench.reports", "whalebench.benchmarks"),
    "benchmarks": (
        "whalebench.benchmarks",
        "whalebench.methods",
        "whalebench.splits",
        "whalebench.reports.metrics",
    ),
    "methods": ("whalebench.methods", "whalebench.benchmarks.core"),
    "splits": ("whalebench.splits", "whalebench.benchmarks.core"),
    "reports": ("whalebench.reports", "whalebench.benchmarks.core"),
    "__init__": (),
}
"""Room -> what it may import of this package, besides the package itself."""

FLOORS = ("networks", "losses", "training", "crops")
"""Folders of methods/parts from the ground up: each imports from those of lower floors only."""


def sources() -> list[Path]:
    return [
        ROOT / "cli.py",
        ROOT / "__init__.py",
        *(file for room in ROOMS for file in (ROOT / room).rglob("*.py")),
    ]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(["whalebench", *(part for part in parts if part != "__init__")])


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module by its full name, wherever in the file; a relative import starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from whalebench.benchmarks import runner` imports a module, `from ...photos import X` a name.
            own = module == "whalebench" or (module.startswith("whalebench.") and module.count(".") == 1)
            yield from (f"{module}.{alias.name}" if own else module for alias in node.names)


def complaints(room: str, text: str) -> list[str]:
    """What a file of that room imports and may not."""
    wrong = []
    for name in imports(ast.parse(text)):
        first = name.split(".")[0]
        if name.startswith("."):
            wrong.append(f"{name} is relative")
        elif first in ("pickle", "cloudpickle", "joblib", "dill", "shelve"):
            wrong.append(f"{name} pickles")
        elif first in (*ROOMS, "cli"):
            wrong.append(f"{name} is not whalebench.{name}")
        elif room == "reports" and first in ("torch", "torchvision", "timm"):
            wrong.append(f"{name} in reports")
        elif name in {"whalebench", *(f"whalebench.{word}" for word in whalebench.__all__)}:
            continue
        elif first == "whalebench" and not any(
            name == own or name.startswith(f"{own}.") for own in ALLOWED[room]
        ):
            wrong.append(f"{name} in {room}")
    return wrong


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    room = file.relative_to(ROOT).with_suffix("").parts[0]
    assert complaints(room, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("methods", "from whalebench.benchmarks.registry import Benchmark"),
        ("methods", "from whalebench.benchmarks import registry"),
        ("methods", "import whalebench.splits.split"),
        ("methods", "def f():\n    from whalebench.reports import metrics"),
        ("splits", "from whalebench.benchmarks.registry import load_benchmark"),
        ("splits", "from whalebench.methods.method import Method"),
        ("reports", "from whalebench.benchmarks.running.runner import run"),
        ("reports", "if TYPE_CHECKING:\n    import torch"),
        ("benchmarks", "from whalebench.reports import leaderboard"),
        ("benchmarks", "from whalebench import cli"),
        ("cli", "from whalebench.methods.registry import find_method"),
        ("benchmarks", "from . import photos"),
        ("benchmarks", "from .photos import Photos"),
        ("methods", "from methods.parts import losses"),
        ("splits", "import pickle"),
    ],
)  # fmt: skip
def test_a_wrong_import_is_found(room: str, text: str) -> None:
    assert len(complaints(room, text)) == 1


def test_right_imports_are_not_complained_of() -> None:
    text = "from whalebench import WhalebenchError, __version__\n"
    assert complaints("methods", text + "from whalebench.benchmarks.core.photos import Photos\n") == []
    assert complaints("cli", "def f():\n    from whalebench.benchmarks import runner\nimport json\n") == []


def test_parts_import_downwards() -> None:
    floors = {folder: floor for floor, folder in enumerate(FLOORS)}
    parts = ROOT / "methods" / "parts"
    assert floors.keys() == {file.parent.name for file in parts.glob("*/__init__.py")}
    for file in parts.glob("*/*.py"):
        own = file.parent.name
        for name in imports(ast.parse(file.read_text(encoding="utf-8"))):
            other = name.removeprefix("whalebench.methods.parts.").split(".")[0]
            if name.startswith("whalebench.methods.parts.") and other != own and other in floors:
                assert floors[other] < floors[own], f"{file.name} imports {name}"


def test_the_ground_floor_imports_nothing_above_it() -> None:
    """At once or later, benchmarks.core and the metrics import each other's room at most from themselves."""
    for folder, own in (
        ("benchmarks/core", "whalebench.benchmarks.core"),
        ("reports/metrics", "whalebench.reports.metrics"),
    ):
        files = sorted((ROOT / folder).glob("*.py"))
        assert len(files) > 5
        for file in files:
            names = {
                name
                for name in imports(ast.parse(file.read_text(encoding="utf-8")))
                if name.startswith("whalebench.")
            }
            outside = {
                name for name in names if not name.startswith((own, "whalebench.benchmarks.core.arrays"))
            }
            assert outside <= {f"whalebench.{word}" for word in whalebench.__all__}, f"{file.name}: {outside}"


def test_reports_never_import_torch(tmp_path: Path) -> None:
    modules = sorted(module_name(file) for file in (ROOT / "reports").rglob("*.py"))
    assert len(modules) > 5
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(answer.stdout.split())
    assert set(modules) <= loaded
    assert not {"torch", "torchvision", "timm", "pytorch_metric_learning"} & loaded


def test_only_the_front_door_stands_at_the_top() -> None:
    assert {file.name for file in ROOT.glob("*.py")} == {"cli.py", "__init__.py"}


def test_pyproject_lists_the_packages_there_are() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {file.parent for file in sources()}
    found = {".".join(["whalebench", *folder.relative_to(ROOT).parts]) for folder in folders}
    assert found == set(settings["tool"]["setuptools"]["packages"])
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_method_of_the_package_is_declared() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = {
        value.split(":")[0] for value in settings["project"]["entry-points"]["whalebench.methods"].values()
    }
    files = {
        file
        for file in (ROOT / "methods").glob("*.py")
        if file.stem not in ("__init__", "method", "registry")
    }
    assert declared == {module_name(file) for file in files}
