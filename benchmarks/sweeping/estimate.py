"""How long a sweep will still take, by what its finished cells took."""

from __future__ import annotations

from collections.abc import Sequence

from whalebench.benchmarks.progress import CellNews


def seconds_left(cells: Sequence[CellNews], jobs: int) -> float | None:
    """Seconds until the last cell ends with so many at a time; None where none has finished to go by.

    A cell is taken to need the mean of the finished ones of its contestant, else of all.
    """
    finished = [cell for cell in cells if cell.status == "finished" and cell.seconds is not None]
    open_cells = [cell for cell in cells if cell.status in ("waiting", "running")]
    if not open_cells:
        return 0.0
    if not finished:
        return None
    left = [_left(cell, finished) for cell in open_cells]
    longest = max(left)
    return max(longest, sum(left) / jobs)


def _left(cell: CellNews, finished: Sequence[CellNews]) -> float:
    own = [one for one in finished if one.contestant == cell.contestant] or finished
    needed = sum(one.seconds or 0.0 for one in own) / len(own)
    return max(needed - (cell.seconds or 0.0), 0.0) if cell.status == "running" else needed
