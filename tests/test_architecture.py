"""Imports point one way, without circles, and the package is what pyproject.toml says it is."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import whalebench
from whalebench.benchmarks.importing.layouts import LAYOUTS

ROOT = Path(whalebench.__file__).parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("benchmarks", "methods", "reports", "splits")
DOORS = ("__main__", "api", "cli")
SOURCES = (
    *(ROOT / f"{door}.py" for door in DOORS),
    ROOT / "__init__.py",
    *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))),
)
OWN = [name for name, value in vars(whalebench).items() if not isinstance(value, ModuleType)]
NAMES = {"whalebench", *(f"whalebench.{name}" for name in OWN)}
"""What every file may import: what stands in the package's own file, and no door that it leads to."""
ALLOWED = {
    "__main__": ("whalebench.cli.main",),
    "api": ("whalebench.reports", "whalebench.benchmarks"),
    "cli": ("whalebench.reports", "whalebench.benchmarks", "whalebench.splits.split.Split"),
    "benchmarks": (
        "whalebench.benchmarks",
        "whalebench.methods",
        "whalebench.splits",
        "whalebench.reports.metrics",
    ),
    "benchmarks/core": ("whalebench.benchmarks.core",),
    "methods": ("whalebench.methods", "whalebench.benchmarks.core"),
    "splits": ("whalebench.splits", "whalebench.benchmarks.core"),
    "reports": ("whalebench.reports", "whalebench.benchmarks.core"),
    "reports/metrics": (
        "whalebench.reports.metrics",
        "whalebench.benchmarks.core.arrays",
        "whalebench.benchmarks.core.search",
    ),
    "__init__": ("whalebench.api",),
}
"""Room, or the ground floor of one -> what its files may import of this package, at once or later."""
FLOORS = ("networks", "losses", "training", "crops")
"""Folders of methods/parts from the ground up: each imports from those of lower floors only."""
MOST_WITH_ONE_IMPORTER = 1 / 6
"""Of all modules those that a single other one imports: a subject is cut where it ends, not into pieces."""


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(["whalebench", *(part for part in parts if part != "__init__")])


def room_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return "/".join(parts[:2]) if "/".join(parts[:2]) in ALLOWED else parts[0]


def imports(text: str) -> Iterator[str]:
    """Every imported module or name in full, wherever in the file; a relative import starts with a dot."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def complaints(room: str, text: str) -> list[str]:
    """What a file of that room imports and may not."""
    wrong = []
    for name in imports(text):
        first = name.split(".")[0]
        if name.startswith("."):
            wrong.append(f"{name} is relative")
        elif first in ("pickle", "cloudpickle", "joblib", "dill", "shelve"):
            wrong.append(f"{name} pickles")
        elif first in (*ROOMS, *DOORS):
            wrong.append(f"{name} is not whalebench.{name}")
        elif room.startswith("reports") and first in ("torch", "torchvision", "timm"):
            wrong.append(f"{name} in reports")
        elif (
            first == "whalebench"
            and name not in NAMES
            and not any(name == own or name.startswith(f"{own}.") for own in ALLOWED[room])
        ):
            wrong.append(f"{name} in {room}")
    return wrong


def import_graph() -> dict[str, set[str]]:
    """The modules of the package that each of them imports, in a function or for types only, too."""
    modules = {module_name(file): file for file in SOURCES}
    graph: dict[str, set[str]] = {}
    for module, file in modules.items():
        names = set(imports(file.read_text(encoding="utf-8")))
        names = names if module != "whalebench" else set()  # of the door it knows the types alone
        # The last part of what is imported is a module, or a name in one.
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = found & modules.keys() - {module}
    return graph


def entry_points() -> set[str]:
    """The modules of the methods that the package declares."""
    declared = SETTINGS["project"]["entry-points"]["whalebench.methods"]
    return {value.split(":")[0] for value in declared.values()}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    assert complaints(room_of(file), file.read_text(encoding="utf-8")) == []


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
        ("reports/metrics", "from torch import Tensor"),
        ("reports/metrics", "from whalebench.benchmarks.core.record import RunRecord"),
        ("benchmarks", "from whalebench.reports import leaderboard"),
        ("benchmarks", "from whalebench import cli"),
        ("benchmarks/core", "def f():\n    from whalebench.benchmarks.registry import Benchmark"),
        ("cli", "from whalebench.methods.registry import find_method"),
        ("api", "def run():\n    from whalebench.methods.registry import find_method"),
        ("reports", "from whalebench import leaderboard"),
        ("__init__", "from whalebench.benchmarks.running.runner import run"),
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


def test_there_is_no_import_circle() -> None:
    TopologicalSorter(import_graph()).prepare()


def test_few_modules_have_one_importer() -> None:
    """Not counted are packages, methods and layouts, which are listed, and doors of the command line."""
    graph = import_graph()
    packages = {module_name(file) for file in SOURCES if file.name == "__init__.py"}
    layouts = {layout.read.__module__ for layout in LAYOUTS.values()}
    doors = set.union(*(graph[f"whalebench.{name}"] for name in ("api", "cli", "reports.commands")))
    importers = Counter(module for imported in graph.values() for module in imported)
    counted = importers.keys() - packages - entry_points() - layouts - doors
    alone = [module for module in sorted(counted) if importers[module] == 1]
    assert len(alone) <= MOST_WITH_ONE_IMPORTER * len(graph), "\n".join(alone)


def test_parts_import_downwards() -> None:
    floors = {folder: floor for floor, folder in enumerate(FLOORS)}
    parts = ROOT / "methods" / "parts"
    assert floors.keys() == {file.parent.name for file in parts.glob("*/__init__.py")}
    for file in parts.glob("*/*.py"):
        own = file.parent.name
        for name in imports(file.read_text(encoding="utf-8")):
            other = name.removeprefix("whalebench.methods.parts.").split(".")[0]
            if name.startswith("whalebench.methods.parts.") and other != own and other in floors:
                assert floors[other] < floors[own], f"{file.name} imports {name}"


def test_parts_import_no_method() -> None:
    methods = {module_name(file) for file in (ROOT / "methods").glob("*.py")}
    methods -= {f"whalebench.methods{name}" for name in ("", ".method", ".registry")}
    for file in (ROOT / "methods" / "parts").rglob("*.py"):
        assert methods.isdisjoint(imports(ast.parse(file.read_text(encoding="utf-8")))), file.name


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
    assert {file.stem for file in ROOT.glob("*.py")} == {*DOORS, "__init__"}


def test_pyproject_lists_the_packages_there_are() -> None:
    folders = {file.parent for file in SOURCES}
    found = {".".join(["whalebench", *folder.relative_to(ROOT).parts]) for folder in folders}
    assert found == set(SETTINGS["tool"]["setuptools"]["packages"])
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_method_of_the_package_is_declared() -> None:
    files = {
        file
        for file in (ROOT / "methods").glob("*.py")
        if file.stem not in ("__init__", "guests", "method", "registry")
    }
    assert entry_points() == {module_name(file) for file in files}
