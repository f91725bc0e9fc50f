"""What the predictions of runs come to: metrics with their intervals, and a closer look; each computed once.

What was computed is kept in the workspace's cache by the digest of the predictions, as long as the code and
the libraries that computed it are these. Where the cache cannot be written, or is not whole, nothing is lost
but time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from whalebench import WhalebenchError
from whalebench.benchmarks.core.code import read_code
from whalebench.benchmarks.core.files import digest_text, regular_file
from whalebench.benchmarks.core.record import PREDICTIONS, RunRecord
from whalebench.benchmarks.core.workspace import atomic_path
from whalebench.reports.metrics import breakdown, jackknife, ranking, summary
from whalebench.reports.metrics.breakdown import Breakdown
from whalebench.reports.metrics.ranking import Photos

FOLDER = "judged"
"""The folder of the cache with a file for each fold of a split of a benchmark."""
MOST = 5_000
"""How many runs a file has room for: those that were judged last."""


class Judged(NamedTuple):
    """What the predictions of one run come to."""

    metrics: dict[str, float]
    """Each with `<key>_low` and `<key>_high`, NaN where undefined."""
    doubts: dict[str, str]
    """By metric what is to be doubted of its interval, a sentence; those without are left out."""
    breakdown: Breakdown | None = None
    """None unless asked for."""


def judge(queries: pd.DataFrame, photos: Photos | None = None, *, closely: bool = False) -> Judged:
    """What a per-query table comes to; with `closely` it is broken down, too.

    `photos` are those of the table, where they are known from another run.
    """
    photos = photos or Photos(queries)
    metrics, ends = summary.summarize(queries, photos), jackknife.intervals(queries, photos)
    for key in tuple(metrics):
        metrics[f"{key}_low"], metrics[f"{key}_high"] = ends[key].low, ends[key].high
    doubts = {key: found.warning for key, found in ends.items() if found.warning}
    return Judged(metrics, doubts, breakdown.break_down(queries, photos) if closely else None)


class _Kept(BaseModel):
    """The file of a fold."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    code: str
    """What computed it, see `_code`."""
    runs: dict[str, Judged]
    """By the digest of the predictions."""


class Judgements:
    """What runs of one fold came to, as far as the cache beside their folder knows; `keep` adds what is new.

    A run without a digest of its predictions is not kept: of it nothing tells whether they are the same.
    """

    def __init__(self, runs_folder: Path, records: Iterable[RunRecord]) -> None:
        names = {(of.benchmark, of.catalog_digest, of.split_digest, of.fold) for of in records}
        self.file = runs_folder.parent / "cache" / FOLDER / f"{digest_text(repr(sorted(names)))[:32]}.json"
        self._kept, self._new = _read(self.file), dict[str, Judged]()

    def get(self, record: RunRecord, *, closely: bool) -> Judged | None:
        """What the run with these predictions came to; None where that is not known."""
        judged = self._kept.get(record.files.get(PREDICTIONS, ""))
        if judged is None or (closely and judged.breakdown is None):
            return None
        return judged if closely else judged._replace(breakdown=None)

    def put(self, record: RunRecord, judged: Judged) -> Judged:
        """The same, which will be kept."""
        if digest := record.files.get(PREDICTIONS):
            self._new[digest] = judged
        return judged

    def keep(self) -> None:
        """Writes what was put, where the workspace can be written."""
        if self._new and self.file.parent.parent.is_dir():
            others = {digest: one for digest, one in self._kept.items() if digest not in self._new}
            runs = dict([*others.items(), *self._new.items()][-MOST:])
            with suppress(WhalebenchError):
                _write(self.file, _Kept(code=_code(), runs=runs))


def _write(file: Path, kept: _Kept) -> None:
    text = kept.model_dump_json().encode()
    with atomic_path(file) as temporary:
        temporary.write_bytes(sha256(text).hexdigest().encode() + b"\n" + text)


def _read(file: Path) -> Mapping[str, Judged]:
    """What a file keeps; nothing where it is not whole, or of other code."""
    try:
        digest, _, text = regular_file(file).read_bytes().partition(b"\n")
        if digest == sha256(text).hexdigest().encode():
            kept = _Kept.model_validate_json(text)
            return kept.runs if kept.code == _code() else {}
    except (OSError, WhalebenchError, ValidationError):
        pass
    return {}


@cache
def _code() -> str:
    """The digest of the code that judges, and the versions of the libraries that it computes with."""
    code = read_code([__name__, *(module.__name__ for module in (breakdown, jackknife, ranking, summary))])
    return f"{code.digest}, numpy {np.__version__}, pandas {pd.__version__}"
