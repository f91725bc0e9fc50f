"""The conformance suite: whether a method keeps what every method promises, tried in miniature.

It is tried under the smallest settings it takes: for being quick, not for its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.conformance.checks import CHECKS
from whalebench.benchmarks.conformance.trial import (
    CheckFailed,
    NotApplicable,
    ToyBenchmarks,
    Trial,
    draw_toy_benchmarks,
)
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.methods.guests import named
from whalebench.methods.method import Method
from whalebench.methods.registry import configure, fields_of, find_method, name_of

MOST_LETTERS = 1000
"""Of what a check says, which may quote the method."""
Result = Literal["passed", "failed", "not applicable"]
SMALLEST_VALUES = {
    "pretrained": "none",  # nothing is downloaded
    "backbone": "test_resnet",
    "size": "32",
    "crop_source": "64",
    "small_epochs": "0",  # before epochs, which may not be fewer
    "checkpoints": "1",  # the same
    "epochs": "1",
    "batch_size": "8",
    "dimensions": "16",
    "member_settings": "pretrained=none,backbone=test_resnet,size=32,epochs=1,batch_size=8,dimensions=16,"
    "aligner.backbone=test_resnet,aligner.size=32,aligner.epochs=1,aligner.batch_size=8",
    "confidence": "0.01",  # so that some test photos are learned from, of which hardly anything is known yet
}
"""By the name of a field, or of a part's field after the dot: what it is set to where that can be."""
NEXT_VALUES = {"epochs": tuple(map(str, range(2, 9)))}
"""What is tried next where that cannot be: every cycle of a schedule has an epoch."""


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
        """The findings as plain values, for JSON."""
        checks = [dict(vars(finding)) for finding in self.findings]
        return {
            "method": self.method, "passed": self.passed, "settings": list(self.settings), "checks": checks
        }  # fmt: skip


def check_method(name: str, settings: Sequence[str], progress: Progress = SILENT) -> Conformance:
    """What came of all checks of the method of that name, or in that file, under the smallest settings.

    What is set wins over what makes it quick. Raises WhalebenchError for an unknown name or setting.
    """
    name = name_of(name)
    kind = find_method(name)
    configure(kind, settings)
    with TemporaryDirectory(prefix="whalebench-check-", ignore_cleanup_errors=True) as folder:
        progress.stage("check")
        toys = draw_toy_benchmarks(Workspace.open(Path(folder)))
        return conform(name, kind, settings, toys, progress)


def conform(
    name: str,
    kind: type[Method],
    settings: Sequence[str],
    toys: ToyBenchmarks,
    progress: Progress = SILENT,
) -> Conformance:
    """What came of all checks of a method, on the processor, where a seed settles all."""
    chosen = smallest_settings(kind, settings)
    trial = Trial(name, kind, configure(kind, chosen), toys)
    findings = []
    for what, check in CHECKS.items():
        findings.append(_find(what, check, trial))
        progress.advance(len(findings), len(CHECKS))
    return Conformance(name, chosen, tuple(findings))


def _find(what: str, check: Callable[[Trial], str], trial: Trial) -> Finding:
    try:
        return Finding(what, "passed", one_line(check(trial), MOST_LETTERS))
    except NotApplicable as reason:
        return Finding(what, "not applicable", one_line(reason, MOST_LETTERS))
    except CheckFailed as reason:
        return Finding(what, "failed", one_line(reason, MOST_LETTERS))
    except Exception as error:  # a method may raise anything
        return Finding(what, "failed", f"It stopped with {named(error)}.")


def smallest_settings(method: type[Method], settings: Sequence[str] = ()) -> tuple[str, ...]:
    """The settings given, and beside them those that make the method quick, as `key=value`.

    A field of one of these names that cannot be set so (`scale` is a factor elsewhere) keeps its default.
    Those of a method within are made quick, too. Raises WhalebenchError where the settings given cannot be.
    """
    given = {setting.partition("=")[0] for setting in settings}
    names = [name for name, _ in fields_of(method.Config)]
    chosen = list(settings)
    if "scale" in names and "scale" not in given and _is_possible(method, [*chosen, "scale=small"]):
        chosen.append("scale=small")  # before all else, because it says what is set within
    config = configure(method, chosen)
    for name in names:
        if f"{name}_settings" in names and (within := getattr(config, name)):
            inner = [each for each in getattr(config, f"{name}_settings").split(",") if each]
            if f"{name}_settings" not in given:
                inner = [
                    each for each in inner if each.partition("=")[0].rpartition(".")[2] not in SMALLEST_VALUES
                ]
            chosen.append(f"{name}_settings={','.join(smallest_settings(find_method(within), inner))}")
    fields = [name for name in names if name not in given]
    for leaf, value in SMALLEST_VALUES.items():
        for name in fields:
            if name.rpartition(".")[2] == leaf:
                tried = (f"{name}={each}" for each in (value, *NEXT_VALUES.get(leaf, ())))
                chosen += islice((each for each in tried if _is_possible(method, [*chosen, each])), 1)
    return tuple(chosen)


def _is_possible(method: type[Method], settings: Sequence[str]) -> bool:
    try:
        configure(method, settings)
    except WhalebenchError:
        return False
    return True
