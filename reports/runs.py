"""Finished runs: listed, scored again from what they keep, and packed for another person."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isclose, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.text import Text

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.core.audits import audit_files, no_audit, read_leaks
from whalebench.benchmarks.core.files import with_digest
from whalebench.benchmarks.core.ledger import LEDGER, read_ledger
from whalebench.benchmarks.core.outputs import check_output, output_path
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import (
    BY_PHOTO,
    DIAGNOSIS,
    PREDICTIONS,
    RECORD,
    SCORES,
    RunRecord,
    find_runs,
    kept_columns,
    plain,
    read_diagnosis,
    read_matches,
    read_predictions,
    read_record,
    read_scores,
    verified,
    verify_files,
    write_matches,
    write_predictions,
    write_record,
    write_run,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.board import Row
from whalebench.reports.leaderboard import runs_of
from whalebench.reports.metrics.calibration import (
    UNCALIBRATED,
    Calibration,
    calibration_error,
    calibration_of,
    reliability,
)
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import CANDIDATES
from whalebench.reports.metrics.summary import cmc, summarize
from whalebench.reports.tables import FittedTable, warning_lines
from whalebench.reports.tracks import contestants
from whalebench.reports.wording import number, typed

Document = dict[str, Any]
DROPPED = ("seed", "fold", "benchmark", "minutes", "when", "method and settings")
"""Columns of the list that a narrow window does without, the first one first; a run's name has the first
three."""
SAME = 1e-9
"""By how much a number may differ and be the same: other processors round otherwise."""


def list_runs(runs_folder: Path, benchmark: str | None = None) -> tuple[list[Document], list[str]]:
    """A row a finished run, the newest first, and a sentence for each that could not be read."""
    records, problems = runs_of(runs_folder, benchmark)
    names = contestants(records)
    records.sort(key=lambda record: (record.created, record.run), reverse=True)
    return [
        {
            "run": record.run,
            "method": record.method,
            "contestant": names[record.run],
            "by_hand": record.usage.by_hand if record.usage else {},
            "benchmark": record.benchmark,
            "fold": record.fold,
            "seed": record.seed,
            "map_at_5": record.metrics.get("map_at_5"),
            "minutes": Row(record, "").seconds / 60,
            "created": record.created,
            "unfit": record.unfit,
        }
        for record in records
    ], problems


def runs_report(rows: Sequence[Document], problems: Sequence[str]) -> Group:
    """What `rich` prints of a list of runs."""
    cells = [
        {
            "run": row["run"],
            "method and settings": _with_settings(row["contestant"], row["by_hand"]),
            "benchmark": row["benchmark"],
            "fold": row["fold"],
            "seed": row["seed"],
            "MAP@5": "does not fit" if row["unfit"] else number(row["map_at_5"]),
            "minutes": number(row["minutes"], 1),
            "when": row["created"][:16].replace("T", " "),
        }
        for row in rows
    ]
    return Group(FittedTable(cells, DROPPED, "method and settings"), *warning_lines(problems))


def _with_settings(contestant: str, by_hand: Mapping[str, Any]) -> str:
    """The name of a contestant with what was set by hand, also where all of its method's runs have it.

    >>> _with_settings("arcface epochs=10", {"epochs": 10, "size": [48, 80]})
    'arcface epochs=10 size=48x80'
    """
    said = {word.partition("=")[0] for word in contestant.split()}
    more = [f"{key}={typed(value)}" for key, value in by_hand.items() if key not in said]
    return " ".join([contestant, *more])


# --- scored again


@dataclass(frozen=True)
class Rescored:
    """What comes of a run's stored scores, and in what it differs from what is recorded."""

    run: str
    moved: list[Document] = field(default_factory=list)
    """By `metric` what is `recorded`, what the `predictions` say (None for what is not a mean of theirs), and
    what the `scores` say."""
    photos: list[str] = field(default_factory=list)
    """Test photos of which the predictions say something else."""
    problem: str = ""
    """Why nothing could be computed; empty where it could."""
    note: str = ""
    """What there is to say else: of a run that does not fit, or that was written anew."""

    def document(self) -> Document:
        """As JSON prints it."""
        return dict(plain(asdict(self)))


def rescore_runs(
    names: Sequence[str], workspace: Workspace, progress: Progress = SILENT, *, write: bool = False
) -> list[Rescored]:
    """Every run that the names fit, all without names, with its metrics computed from its stored scores.

    With `write` a run's record and predictions say afterwards what its scores say. Raises WhalebenchError
    for a name that fits none.
    """
    folders = [folder for name in names for folder in find_runs(name, workspace)]
    if not names:
        folders = [workspace.runs / record.run for record in runs_of(workspace.runs).records]
    progress.stage("rescore")
    rescored = []
    for done, folder in enumerate(dict.fromkeys(folders), start=1):
        rescored.append(_rescore(folder, write=write))
        progress.advance(done, len(folders))
    return rescored


def _rescore(folder: Path, *, write: bool) -> Rescored:
    try:
        record = read_record(folder)
        if record.unfit:
            return Rescored(folder.name, note=f"has no scores, because {record.unfit}")
        verify_files(folder, record)
        said = read_predictions(folder, record=record)
        again, before = _scored_again(folder, record, said)
    except WhalebenchError as error:
        return Rescored(folder.name, problem=str(error))
    recorded = _numbers(record.metrics, record.cmc, record.calibration)
    scored = _numbers(summarize(again), cmc(again), _calibration(before, again))
    predicted = summarize(said)
    moved = [
        {"metric": key, "recorded": was, "predictions": predicted.get(key), "scores": scored[key]}
        for key, was in recorded.items()
        if key in scored
        and not (_same(was, scored[key]) and _same(predicted.get(key, scored[key]), scored[key]))
    ]
    photos = said["image"][_differs(said, again)].tolist()
    note = ""
    if write and (moved or photos):
        note = "written anew"
        _write(folder, record, said, again, before)
    return Rescored(folder.name, moved, photos, note=note)


def _scored_again(folder: Path, record: RunRecord, said: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The per-query tables of the stored scores as calibrated and as they are, rows as in the predictions.

    Truth, clusters and the precision of embeddings are taken from the predictions. Raises WhalebenchError
    where the scores are of other photos, or the record does not say what was chosen on valid.
    """
    if (kept := kept_columns(folder, "test_scores")) is not None:
        raise WhalebenchError(
            f"{record.run} keeps the {kept.shape[1]} best scores of each test photo alone, by which its "
            f"metrics cannot be computed again: repeat it with --force where they are in doubt."
        )
    arrays, names = read_scores(folder, ("test_scores",))
    scores = arrays.get("test_scores", np.zeros((0, 0)))
    if names.get("test") != said["image"].tolist() or scores.shape != (len(said), len(names["identities"])):
        raise WhalebenchError(f"{folder / SCORES} is of other photos than {PREDICTIONS}: repeat the run.")
    calibration = calibration_of(record.chosen)
    if calibration is None or "new_threshold" not in record.chosen:
        raise WhalebenchError(
            f"The record of {record.run} does not say what was chosen on valid: repeat it with --force."
        )

    def queries(by: Calibration) -> pd.DataFrame:
        chosen: Any = record.chosen
        rule: Any = record.config.get("new_rule", "column")
        return evaluate_queries(
            images=names["test"],
            truth=said["truth"].tolist(),
            clusters=said["cluster"].tolist(),
            identities=names["identities"],
            scores=scores,
            probabilities=by,
            new_scores=-scores.max(axis=1),
            new_threshold=chosen["new_threshold"],
            new_rule=rule,
            set_threshold=chosen.get("set_threshold_95"),
            embeddings_precision=said["average_precision_at_r"].to_numpy(),
        )

    return queries(calibration), queries(UNCALIBRATED)


def _calibration(before: pd.DataFrame, after: pd.DataFrame) -> Document:
    """What of a record's `calibration` follows from test."""
    numbers = {}
    for when, table in (("before", before), ("after", after)):
        numbers[f"test_log_loss_{when}"] = summarize(table)["log_loss"]
        numbers[f"test_ece_{when}"] = calibration_error(reliability(table))
    return numbers


def _numbers(
    metrics: Mapping[str, float | None], found: Sequence[float], calibration: Mapping[str, Any]
) -> dict[str, float | None]:
    """All numbers of one run by name; None for what is none in an older record, which has no digest."""
    numbers = dict(metrics) | {f"cmc {place}": share for place, share in enumerate(found, start=1)}
    return numbers | {
        f"calibration {key}": value if isinstance(value, int | float) else None
        for key, value in calibration.items()
        if not isinstance(value, list)
    }


def _same(one: float | None, other: float | None) -> bool:
    one, other = (nan if value is None else float(value) for value in (one, other))
    return isclose(one, other, rel_tol=0, abs_tol=SAME) or (isnan(one) and isnan(other))


def _differs(said: pd.DataFrame, again: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """In which rows the predictions say something else than the scores, of the columns that both have.

    One that is NaN throughout was read from a file of before there was such a column.
    """
    differs = np.zeros(len(said), bool)
    for name in again.columns.intersection(said.columns[said.notna().any()]):
        one, other = said[name], again[name]
        if pd.api.types.is_numeric_dtype(other):
            differs |= ~np.isclose(one, other, rtol=0, atol=SAME, equal_nan=True)
        else:
            differs |= (one != other).to_numpy()
    return differs


def _write(
    folder: Path, record: RunRecord, said: pd.DataFrame, again: pd.DataFrame, before: pd.DataFrame
) -> None:
    """Puts the numbers of the scores, `again`, into the run's predictions and record, which says so.

    Record, predictions and their digests change together, or not at all; matches follow their candidates.
    """
    queries, matches = said.assign(**again), read_matches(folder, record)
    warning = f"Its metrics were computed again from its stored scores, by whalebench {__version__}."
    numbers = {
        "metrics": summarize(queries),
        "cmc": cmc(queries),
        "calibration": record.calibration | _calibration(before, queries),
        "warnings": [*dict.fromkeys([*record.warnings, warning])],
    }
    changed = RunRecord.model_validate(record.model_dump() | numbers)

    def fill(into: Path) -> None:
        shutil.copytree(folder, into, ignore=shutil.ignore_patterns(RECORD, *BY_PHOTO), dirs_exist_ok=True)
        write_predictions(into, queries)
        if matches is not None:
            write_matches(into, _rematched(matches, said, queries))
        write_record(into, changed)

    write_run(folder, fill, force=True)


def _rematched(matches: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The matches with each candidate's photo where the candidate stands now; "" for who was none before."""
    candidates, nearest = (
        [f"{kind}_{place}" for place in range(1, CANDIDATES + 1)] for kind in ("candidate", "nearest")
    )
    if nearest[0] not in matches:
        return matches
    tables = (before[candidates], matches[nearest], after[candidates])
    rows = zip(*(table.to_numpy().tolist() for table in tables), strict=True)
    photos = [
        [dict(zip(names, found, strict=True)).get(name, "") for name in now] for names, found, now in rows
    ]
    return matches.assign(**pd.DataFrame(photos, columns=nearest, dtype="str"))


TAKEN = (
    "Computed from the scores of test and from what was chosen on valid. Taken as they are: the truth, "
    "MAP@R, which needs the embeddings of train, and all that is of valid."
)


def rescore_report(rescored: Sequence[Rescored]) -> Group:
    """What `rich` prints of runs that were scored again: a line each, and one for each number that moved."""
    lines = []
    for one in rescored:
        if one.problem:
            lines.append(Text(f"! {one.run}: {one.problem}", style="yellow"))
        elif one.moved or one.photos:
            end = f" ({one.note})" if one.note else ""
            what = f"{len(one.moved)} numbers and the predictions of {len(one.photos)} photos moved{end}:"
            lines.append(Text(f"{one.run}: {what}", style="bold"))
            lines += [Text(f"  {_moved_words(move)}") for move in one.moved]
        else:
            lines.append(Text(f"{one.run}: {one.note or 'nothing moved'}."))
    return Group(*lines, Text(TAKEN, style="dim"))


def _moved_words(move: Mapping[str, Any]) -> str:
    """What became of one number.

    >>> _moved_words({"metric": "top_1", "recorded": 0.75, "predictions": 0.5, "scores": 0.5})
    'top_1: recorded 0.750000, by its predictions 0.500000, by its scores 0.500000'
    """
    said = {"recorded": "recorded", "predictions": "by its predictions", "scores": "by its scores"}
    words = [f"{name} {number(move[key], 6)}" for key, name in said.items() if key in move]
    return f"{move['metric']}: {', '.join(words)}"


# --- packed for another person

WHEN = (1980, 1, 1, 0, 0, 0)
"""The date of every file in a bundle, so that equal bundles are equal bytes."""
ABSOLUTE = re.compile(r"(?<![\w./\\])(?:~|[A-Za-z]:)?(?!//[^/])(?:[/\\]+[^\s/\\\"'<>|;,]+){2,}")
"""An absolute path of two parts or more in a text; not the end of a URL or of a relative path."""
README = """# Runs of whalebench, packed

What `whalebench report` needs, without photos, scores and weights. Unpack it into a folder and print it:

    unzip FILE.zip -d FOLDER
    whalebench report --workspace FOLDER

`benchmarks/NAME/` holds of a benchmark that was audited the pairs found, the verdicts, and the splits.
`runs/NAME/` holds of each run its record, a row for each test photo (image, truth, candidates, metrics),
another of its matches (the nearest gallery photo of each candidate), and its diagnosis where it was
explained; `{ledger}`, where there is one, each time that test labels were opened.
docs/record.md of whalebench says what columns and keys mean. Of paths of the machine it was made on only the
end is kept. Made by whalebench {version}; {runs} runs of {benchmarks}.
"""


def write_bundle(file: Path, workspace: Workspace, benchmark: str | None = None) -> list[str]:
    """Writes the .zip, whole or not at all, the same bytes for the same runs; a sentence for each left out.

    Raises WhalebenchError for another ending, where there are no runs, and where it cannot be written.
    """
    if file.suffix.lower() != ".zip":
        raise WhalebenchError(f"{file} is no .zip: call the bundle {file.stem or 'runs'}.zip.")
    check_output(file)
    records, problems = runs_of(workspace.runs, benchmark)
    ledger = read_ledger(workspace.runs)
    for record in tuple(records):
        try:
            _files_to_pack(record, workspace)  # to be left out before anything is counted, and not kept: many
        except WhalebenchError as error:
            records.remove(record)
            problems.append(str(error))
    about = {"runs": len(records), "benchmarks": ", ".join(sorted({record.benchmark for record in records}))}
    with output_path(file) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        _pack(packed, "README.md", README.format(ledger=LEDGER, version=__version__, **about).encode())
        opened = [one.model_dump() for one in ledger.entries if benchmark in (None, one.benchmark)]
        if opened:
            _pack(packed, LEDGER, b"".join(_json(entry, workspace) for entry in opened))
        for record in records:
            for name, content in _files_to_pack(record, workspace).items():
                _pack(packed, f"runs/{record.run}/{name}", content)
        for name, content in _audits(records, workspace.benchmarks).items():
            _pack(packed, f"benchmarks/{name}", content)
    return [f"Left out: {problem}" for problem in (*problems, *ledger.problems)]


def _audits(records: Sequence[RunRecord], benchmarks: Path) -> dict[str, bytes]:
    """What tells of leaks, or that nobody looked for them, by name."""
    packed: dict[str, bytes] = {}
    for record in records:
        audit, *others = audit_files(record.benchmark)
        if (benchmarks / audit).is_file():
            there = [name for name in (audit, *others) if (benchmarks / name).is_file()]
            packed |= {name: (benchmarks / name).read_bytes() for name in there}
        elif read_leaks(benchmarks, record.benchmark, record.catalog_digest, record.split_digest):
            packed[audit] = no_audit(record.catalog_digest)
    return dict(sorted(packed.items()))


def _files_to_pack(record: RunRecord, workspace: Workspace) -> dict[str, bytes]:
    """What a bundle holds of a run, by name; raises WhalebenchError where a file is not what was written.

    Of the files that the record lists it keeps those that are packed.
    """
    folder = workspace.runs / record.run
    listed = {name: digest for name, digest in record.files.items() if name in BY_PHOTO}
    files = {RECORD: _json(record.model_dump(mode="json") | {"files": listed}, workspace, indent=2)}
    if diagnosis := read_diagnosis(folder):
        files[DIAGNOSIS] = _json(diagnosis.model_dump(mode="json"), workspace, indent=2)
    older = [PREDICTIONS] if (folder / PREDICTIONS).exists() else []  # of before files were listed
    for name in listed or older:
        files[name] = verified(folder / name, record).read_bytes()
    return files


def _json(document: Any, workspace: Workspace, indent: int | None = None) -> bytes:
    """The document as a record is written, without paths of this machine, and with the digest of that."""
    here = [f"{folder}{os.sep}" for folder in (workspace.root, Path.home())]
    packed = with_digest(without_paths(document, here))
    return (json.dumps(packed, indent=indent, allow_nan=False, ensure_ascii=False) + "\n").encode()


def without_paths(document: Any, here: Sequence[str] = ()) -> Any:
    """A document of JSON with the last part only of each absolute path, and without the folders `here`.

    >>> without_paths(["/home/ann/bin/run --now", "a/b, https://x.org/y/z", "/my data/c/d"], ["/my data/"])
    ['run --now', 'a/b, https://x.org/y/z', 'c/d']
    """
    if isinstance(document, dict):
        return {without_paths(key, here): without_paths(value, here) for key, value in document.items()}
    if isinstance(document, list):
        return [without_paths(value, here) for value in document]
    if not isinstance(document, str):
        return document
    for folder in here:
        document = document.replace(folder, "")
    return ABSOLUTE.sub(lambda found: re.split(r"[/\\]", found[0])[-1], document)


def _pack(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a file as it is: what packs it smaller does so in other bytes from version to version."""
    entry = zipfile.ZipInfo(name, WHEN)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # else it says on which system it was made
    packed.writestr(entry, content)
