"""What many tests share: a drawn benchmark in miniature, an imported one, and the command line in-process."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench.benchmarks.core.workspace import Workspace
from whalebench.tests import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Networks this small learn more slowly on several threads than on one, most of all beside other work: threads
# that wait for each other do so at work. Processes that tests start take it on.
os.environ |= {"OMP_NUM_THREADS": "1", "WHALEBENCH_CORES": "1"}

INDIVIDUALS, ENCOUNTERS, NEW = 6, 6, 8
TINY_NETWORK = ("backbone=test_resnet", "size=32", "epochs=2", "batch_size=8")


@dataclass(frozen=True)
class Answer:
    """What a command said, and with which code it ended."""

    code: int
    out: str
    err: str


def draw_source(folder: Path) -> Path:
    """A table beside 44 photos of 48 x 40 pixels: six individuals met six times each, and eight others."""
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows = []
    for individual in range(INDIVIDUALS + NEW):
        pattern = rng.integers(0, 256, (5, 6, 3))
        for encounter in range(ENCOUNTERS if individual < INDIVIDUALS else 1):
            pixels = np.kron(pattern, np.ones((8, 8, 1))) + rng.normal(0, 20, (40, 48, 3))
            image = f"w{individual:02d}e{encounter}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / image)
            name = f"whale{individual}" if individual < INDIVIDUALS else ""
            x, y = rng.integers(2, 20, 2)
            rows.append(
                [
                    image,
                    f"photos/{image}",
                    name,
                    f"{individual}-{encounter}",
                    x,
                    y,
                    x + 20,
                    y + 15,
                    x + 10,
                    y + 5,
                ]
            )
    header = ["image", "path", "identity", "encounter", "x0", "y0", "x1", "y1", "tip_x", "tip_y"]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "table.csv"


@pytest.fixture(autouse=True, scope="session")
def _alone() -> Iterator[None]:
    """No workspace from outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WHALEBENCH_WORKSPACE", raising=False)
        patch.delenv("WHALEBENCH_STORAGE", raising=False)
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> Workspace:
    """A workspace of its own with the imported benchmark `tiny`; its photos are in ../source."""
    from whalebench.benchmarks.importing.importer import import_csv

    workspace = Workspace.open(tmp_path / "workspace")
    import_csv(draw_source(tmp_path / "source"), "tiny", workspace)
    return workspace


@pytest.fixture(scope="session")
def shared_tiny(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same with one finished run, made once, for tests that change nothing in it but runs and caches."""
    from whalebench.benchmarks.importing.importer import import_csv
    from whalebench.benchmarks.running import runner

    folder = tmp_path_factory.mktemp("shared")
    workspace = Workspace.open(folder / "workspace")
    import_csv(draw_source(folder / "source"), "tiny", workspace)
    runner.run(runner.RunRequest("softmax", "tiny", settings=TINY_NETWORK, device="cpu"), workspace)
    return workspace


@pytest.fixture(scope="session")
def small_flukes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Sixty drawn flukes: the folder and the catalog rows."""
    from whalebench.benchmarks.flukes import draw_flukes

    folder = tmp_path_factory.mktemp("drawn")
    return folder, draw_flukes(folder, workers=1, photos=60)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of a file: Playwright's event loop runs in this thread for as long."""
    with browser.started() as running:
        yield running


@pytest.fixture
def tiny_settings() -> tuple[str, ...]:
    """Settings under which a network learns for two epochs in under a second."""
    return TINY_NETWORK


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command line in this process, as `whalebench ARGUMENT...` would run it."""
    from whalebench.cli import main

    def call(*arguments: Any) -> Answer:
        monkeypatch.setattr("sys.argv", ["whalebench", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        code = caught.value.code
        return Answer(code if isinstance(code, int) else int(bool(code)), said.out, said.err)

    return call
