"""Why a cell failed, kept beside the runs until it succeeds: a failed run itself leaves nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from whalebench.benchmarks.progress import CellStatus
from whalebench.benchmarks.runner import RunRequest
from whalebench.benchmarks.workspace import Workspace, atomic_text


def read_failure(workspace: Workspace, run: str) -> tuple[CellStatus, str] | None:
    """What the last try of this run came to, failed or missing, and why; None where it left no word."""
    try:
        facts = json.loads(_file(workspace, run).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or one that cannot be read: then the run is simply tried again
        return None
    if not isinstance(facts, dict) or not facts.get("reason"):
        return None
    return "missing" if facts.get("status") == "missing" else "failed", str(facts["reason"])


def write_failure(
    workspace: Workspace,
    run: str,
    request: RunRequest,
    reason: str,
    code: int | None,
    status: CellStatus = "failed",
) -> None:
    """Nothing; `cache/failed/RUN.json` says what was asked for, why it failed, and with which exit code."""
    facts = {
        "run": run,
        "status": status,
        "method": request.method,
        "settings": list(request.settings),
        "benchmark": request.benchmark,
        "fold": request.fold,
        "seed": request.seed,
        "reason": reason,
        "exit_code": code,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    atomic_text(_file(workspace, run), json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def forget_failure(workspace: Workspace, run: str) -> None:
    """Nothing; there is no word of a failure any more."""
    _file(workspace, run).unlink(missing_ok=True)


def _file(workspace: Workspace, run: str) -> Path:
    return workspace.cache / "failed" / f"{run}.json"
