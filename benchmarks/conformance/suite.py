"""The conformance suite: whether a method keeps what every method promises, tried in miniature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from whalebench.benchmarks.conformance.declaration import DECLARATION_CHECKS
from whalebench.benchmarks.conformance.ground import Ground, draw_ground
from whalebench.benchmarks.conformance.learning import LEARNING_CHECKS, learns
from whalebench.benchmarks.conformance.on_trial import Broken, DoesNotApply, OnTrial
from whalebench.benchmarks.conformance.repetition import REPEAT_CHECKS
from whalebench.benchmarks.conformance.scoring import SCORING_CHECKS
from whalebench.benchmarks.conformance.smallest import smallest_settings
from whalebench.benchmarks.judging.selection import Judge
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.workspace import Workspace
from whalebench.methods.method import Method
from whalebench.methods.registry import configure, find_method

Result = Literal["passed", "failed", "not applicable"]
Check = Callable[[OnTrial], str]
"""The sentence of a check that is passed; Broken for one that is not, DoesNotApply for one that cannot be."""
CHECKS: dict[str, Check] = {
    **DECLARATION_CHECKS,
    "learns": learns,
    **SCORING_CHECKS,
    **LEARNING_CHECKS,
    **REPEAT_CHECKS,
}
"""In this order, because most need what `learns` leaves behind."""


@dataclass(frozen=True)
class Finding:
    """What came of one check."""

    check: str
    result: Result
    said: str
    """One sentence."""


@dataclass(frozen=True)
class Conformance:
    """What came of all checks of a method."""

    method: str
    settings: tuple[str, ...]
    """Under which it was tried."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(finding.result != "failed" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """The same as plain values."""
        checks = [dict(vars(finding)) for finding in self.findings]
        return {
            "method": self.method, "passed": self.passed, "settings": list(self.settings), "checks": checks
        }  # fmt: skip


def check_method(
    name: str, settings: Sequence[str], judge: Judge, progress: Progress = SILENT
) -> Conformance:
    """What came of all checks of the installed method of that name, under the smallest settings it takes.

    What is set wins over what makes it quick. Raises WhalebenchError for an unknown name or setting.
    """
    kind = find_method(name)
    configure(kind, settings)
    with TemporaryDirectory(prefix="whalebench-check-", ignore_cleanup_errors=True) as folder:
        progress.stage("check")
        ground = draw_ground(Workspace.open(Path(folder)))
        return conform(name, kind, settings, ground, judge, progress)


def conform(
    name: str,
    kind: type[Method],
    settings: Sequence[str],
    ground: Ground,
    judge: Judge,
    progress: Progress = SILENT,
) -> Conformance:
    """What came of all checks of a method on the ground; on the processor, where a seed settles all."""
    chosen = smallest_settings(kind, settings)
    trial = OnTrial(name, kind, configure(kind, chosen), ground, judge)
    findings = []
    for what, check in CHECKS.items():
        findings.append(_find(what, check, trial))
        progress.advance(len(findings), len(CHECKS))
    return Conformance(name, chosen, tuple(findings))


def _find(what: str, check: Check, trial: OnTrial) -> Finding:
    try:
        return Finding(what, "passed", check(trial))
    except DoesNotApply as reason:
        return Finding(what, "not applicable", str(reason))
    except Broken as reason:
        return Finding(what, "failed", str(reason))
    except Exception as error:  # a method may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(what, "failed", f"It stopped with {said}.")
