"""Pages of leaderboards for tests, read from run folders: without photos unless a workspace has them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.board import Leaderboard
from whalebench.reports.page.page import board_page


def page_of(board: Leaderboard) -> str:
    """The page of a leaderboard, in a workspace where nothing else is."""
    with tempfile.TemporaryDirectory() as folder:
        return board_page(board, Workspace.open(Path(folder)), "none")
