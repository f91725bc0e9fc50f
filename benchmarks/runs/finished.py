"""Finished runs by name; without torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from whalebench import WhalebenchError
from whalebench.benchmarks.record import RECORD
from whalebench.benchmarks.workspace import Workspace


def find_run(name: str, workspace: Workspace) -> Path:
    """The folder of the run of that name in the workspace, or the folder itself where its path is given."""
    if name and (workspace.runs / name).is_dir():
        return workspace.runs / name
    if (Path(name) / RECORD).is_file():
        return Path(name).absolute()
    names = sorted(file.parent.name for file in workspace.runs.glob(f"*/{RECORD}"))
    names = [known for known in names if not known.startswith(".")]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "`whalebench report --json` lists the runs."
    if not names:
        hint = "there are no runs; begin with `whalebench run METHOD`."
    raise WhalebenchError(f"There is no run '{name}' in {workspace.runs}: {hint}")
