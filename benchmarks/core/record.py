"""The record of a run: one folder, written whole or not at all, which everything in `reports/` reads.

Beside `record.json` stand the table of its queries, the scores and embeddings of valid and test for fusing
runs, and where it was explained its diagnosis. The record has a digest of each file and of itself, and no
file is read that differs from its own. Nothing here needs torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationError

from whalebench import WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.arrays import row_blocks, top_columns
from whalebench.benchmarks.core.copies import copy_of
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    digest_file,
    digest_once,
    parse_json,
    regular_file,
    with_digest,
)
from whalebench.benchmarks.core.usage import Usage
from whalebench.benchmarks.core.workspace import (
    ExistsError,
    Workspace,
    atomic_path,
    atomic_text,
    inherit_permissions,
    sync_to_disk,
)

SCHEMA_VERSION = 1
METRIC_KEYS = ("map_at_5", "top_1", "top_5", "log_loss", "auroc_new", "map_at_r")
"""The metrics that every record has, None where undefined."""
RECORD, PREDICTIONS, CURVE, WEIGHTS = "record.json", "predictions.parquet", "curve.csv", "weights.safetensors"
TRAITS = ("train_photos", "viewpoint", "species", "encounter_seen", "side_seen")
"""Columns of what is known of a test photo: how many photos of its individual are in train (0 for *new*), its
viewpoint and species, empty where not given, and whether a photo of its encounter, and one of its individual
from its viewpoint, is in train (1, 0; NaN where that cannot be told)."""
BY_SIDE = ("precision_same_side", "precision_other_side", "precision_side_guess")
"""Columns of what embeddings alone find by photos of the same side, by those of the others, and what a guess
does: average precision at 5, NaN where train does not show the individual from both."""
LATER = ("identified", "probability", "confidence", "set_size_95", "covered_95", *TRAITS, *BY_SIDE)
"""Columns that older runs lack."""
WATCHED_COLUMNS = ("train_loss", "valid_loss")
"""Of a curve whose run was asked to watch: losses in evaluation mode, of a sample of train and of valid."""
CURVE_COLUMNS = ("stage", "epoch", "loss", "learning_rate", "valid_map_at_5", "photos", "photos_per_second")
"""Of the curve, with `seconds` in newer runs."""
MATCHES = "matches.parquet"
"""A row a test photo: the nearest photo of each candidate, and the window that the method saw."""
SCORES = "scores.safetensors"
"""Scores and embeddings of valid and test, for fusing runs; the names of rows and columns in its header."""
MOST_CELLS, KEPT = 50_000_000, 100
"""Scores of one part, photos times individuals, that are kept all, 200 MB; of more, so many best a photo."""
KEPT_AS = ("columns", "best", "rest")
"""What is kept of those: the columns of the best individuals, their scores, and the mean of the others'."""
BY_PHOTO = (PREDICTIONS, MATCHES)
"""Tables with a row for each test photo."""
VARIANTS = "variants.parquet"
"""The per-query tables of an ensemble before and after each step, one after the other."""
DIAGNOSIS = "diagnosis.json"
"""Written beside the record by `whalebench explain`, and gone when the run is repeated."""
OWN_DIGEST = (RECORD, DIAGNOSIS)
"""Files of a run that hold a digest of themselves."""
REPEAT = "repeat the run with --force"
DIFFERS = "differs from its digest, so it is not what was written"
LAST = "@last"
"""What stands for the newest run wherever a run is named."""
LISTED = 5
"""How many of the runs that a name fits are listed."""


def plain(value: object) -> Any:
    """The value as JSON can hold it: NaN and infinity become None, tuples lists, numpy and paths plain.

    Done when a record is built, so that a record and what is read back from its file are equal.
    """
    if type(value) in (str, int, bool):  # most values, told at once
        return value
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return plain(value.tolist())
    return value if value is None or isinstance(value, bool | int | str) else str(value)


Values = Annotated[dict[str, JsonValue], BeforeValidator(plain)]
Numbers = Annotated[dict[str, float | None], BeforeValidator(plain)]
Number = Annotated[float | None, BeforeValidator(plain)]


class RunRecord(BaseModel):
    """What one run was and what came of it; every undefined number is None, and null in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    run: str
    """Name of the run's folder."""
    method: str
    method_file: str = ""
    """The file that the method was loaded from; empty for an installed one."""
    config: Values
    """The resolved configuration of the method."""
    settings: list[str] = []
    """The fields that were asked for, as typed after --set; empty in older records, too."""
    preset: str = ""
    """What chose some of its fields, where the run was asked for by a preset; they are like any others."""
    benchmark: str
    catalog_digest: str
    split_digest: str
    twin_of: str = ""
    """The digest of the split whose random twin it was measured on; empty where that is none."""
    fold: int
    seed: int
    code_digest: str = ""
    """Of the method's code and whalebench's; empty in older records. A run of other code is another run."""
    track: str
    """What the run was given, in words: `usage`, as rows of one table have it in common."""
    usage: Usage | None = None
    """What the run was given, counted while it learned and scored; None for one of an older version."""
    oracle: bool = False
    """Annotated boxes or landmarks of test photos were used."""
    transductive: bool = False
    """Test photos were scored with the help of other test photos."""
    created: str
    """ISO 8601, UTC."""
    environment: Values
    """Versions of Python and of the libraries."""
    hardware: Values
    seconds: dict[str, float]
    """Wall-clock seconds by phase."""
    photos_per_second: Number = None
    peak_memory_mb: Number = None
    counts: dict[str, int]
    chosen: Values = {}
    """What was chosen on valid: fusion weight, thresholds of *new* and of candidate sets, temperature."""
    calibration: Values = {}
    """Of valid and test, log loss as the scores are given and as calibrated; of test also the expected
    calibration error and what it is made of."""
    new_curve: Values = {}
    """What some fifty thresholds of *new* are worth on valid: lists of numbers, one a threshold."""
    lineage: Values = {}
    """By part of the method: on how many photos it was fitted, and the digest of theirs."""
    pretraining: Values = {}
    """By known checkpoint that the method starts from: licence, data, and whether the benchmark was seen."""
    location: Values = {}
    """By valid and test: how well boxes, landmarks or masks were found, and how many photos fell back."""
    grouping: Values = {}
    """How well test photos are grouped without names, and by what; empty without embeddings and in older
    records."""
    unfit: str = ""
    """What the benchmark lacks for this method; then nothing was learned and there are no metrics."""
    metrics: Numbers
    """On test."""
    valid_metrics: Numbers
    variants: Values = {}
    """Other ways to score with what was learned, by name: each its `metrics` and `valid_metrics`."""
    cmc: list[float]
    """Share of known test photos whose individual is among the first 1, 2, ... 20 candidates."""
    constant_answer: list[str] = []
    """What to answer to every photo without looking: up to five candidates, the individuals with most photos
    in train first, *new* where valid says."""
    warnings: list[str] = []
    tuning: Values = {}
    """How its fields were tuned: the study, its budget, what it spent, and what it chose; empty where not."""
    members: list[str] = []
    """The runs that an ensemble is made of; empty for a run that looked at photos itself."""
    files: dict[str, str] = {}
    """SHA-256 of each file of the run's folder but this one and what `explain` adds; empty in older ones."""
    digest: str = ""
    """SHA-256 of everything else in the record; empty in older ones."""


class Diagnosis(BaseModel):
    """What a run's score is owed to: the animal, what is round it, the side it is seen from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    map_at_5: Numbers
    """test; mirrored; annotated: photos whose animal is annotated; without_background, without_animal: those
    photos, painted over; chance: of the answers without the animal, see `chance`."""
    chance: Numbers
    """By the same keys: MAP@5 of the same answers given to the wrong photos, the mean over all pairings."""
    photos: dict[str, int]
    """test: photos evaluated; mask, box, landmarks: by what their animal is annotated; none: left out."""
    region: str
    """What the animal was painted over by: mask, box, landmarks, several of these, or none."""
    reason: str = ""
    """Why numbers are missing; empty where none are."""
    created: str
    """ISO 8601, UTC."""
    digest: str = ""
    """SHA-256 of everything else in it; empty in older ones."""


Document = TypeVar("Document", RunRecord, Diagnosis)


class Runs(NamedTuple):
    """The finished runs of a folder, and a sentence for each folder that could not be read as one."""

    records: list[RunRecord]
    problems: list[str]


def write_record(folder: Path, record: RunRecord | Diagnosis, name: str = RECORD) -> None:
    """Writes the record, or its DIAGNOSIS, into the folder of its run, as strict JSON with a digest."""
    document = with_digest(record.model_dump(mode="json"))
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    atomic_text(folder / name, text + "\n")


def write_predictions(folder: Path, queries: pd.DataFrame, name: str = PREDICTIONS) -> None:
    """Writes the per-query table into the folder, the same bytes for the same table."""
    queries.to_parquet(folder / name, index=False)


def write_matches(folder: Path, matches: pd.DataFrame) -> None:
    """Writes the table of the photos that the answers rest on into the folder, rows as in the predictions."""
    write_predictions(folder, matches, MATCHES)


def write_run(
    folder: Path,
    fill: Callable[[Path], None],
    *,
    force: bool = False,
    kept: str = "then give the same command again",
) -> None:
    """Makes `folder` hold what `fill` writes, all of it, or leaves it as it is.

    `fill` gets a temporary folder and must leave a record there. A run that is already there, as another
    process may have been quicker, is replaced with `force` only; no half of it is ever seen. `kept` ends the
    sentence on what keeps it from being written.
    """
    if folder.exists() and not force:
        return
    try:
        with atomic_path(folder, exclusive=not force, kept=kept) as temporary:
            temporary.mkdir()
            fill(temporary)
            if not (temporary / RECORD).is_file():
                raise WhalebenchError(f"The run {folder.name} was left without a {RECORD}: write it last.")
            _list_files(temporary)
            for file in temporary.rglob("*"):
                sync_to_disk(file)
    except ExistsError:  # another process was quicker, just now
        return


def _list_files(folder: Path) -> None:
    """Writes the digest of each file that a run leaves into its record."""
    record = _read(folder / RECORD, RunRecord, REPEAT)
    left = (file for file in sorted(folder.iterdir()) if file.is_file() and file.name not in OWN_DIGEST)
    files = {file.name: digest_file(file) for file in left}
    write_record(folder, record.model_copy(update={"files": files}))


def read_record(folder: Path) -> RunRecord:
    """The record of one run, under the name its folder has today (folders get copied and renamed).

    Raises WhalebenchError for one that cannot be read, or differs from its digest.
    """
    record = _read(folder / RECORD, RunRecord, REPEAT)
    return record.model_copy(update={"run": folder.name})


def read_diagnosis(folder: Path) -> Diagnosis | None:
    """The diagnosis of one run, or None where it has not been explained."""
    file = folder / DIAGNOSIS
    if not file.exists():
        return None
    return _read(file, Diagnosis, f"make it again with `whalebench explain {folder.name} --force`")


def _read(file: Path, kind: type[Document], remedy: str) -> Document:
    try:
        text = regular_file(file).read_bytes()
        content = parse_json(text)
        if b"\\ud" in text.lower():  # half a character, which nothing could print
            json.dumps(content, ensure_ascii=False).encode()
        if isinstance(content, dict) and content.get("schema_version") != SCHEMA_VERSION:
            version = one_line(content.get("schema_version"), 40)
            raise WhalebenchError(
                f"{file} has schema version {version}, this whalebench reads {SCHEMA_VERSION}: {remedy}."
            )
        if isinstance(content, dict) and differs_from_digest(content):
            raise WhalebenchError(f"{file} {DIFFERS}: {remedy}, or restore the file.")
        return kind.model_validate(content)
    except OSError as error:
        raise WhalebenchError(f"{file} cannot be read ({error.strerror or error}): {remedy}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = one_line(".".join(str(part) for part in first["loc"]), 60) or "the document"
        raise WhalebenchError(
            f"{file} is damaged at {where} ({one_line(first['msg'], 80)}): {remedy}."
        ) from error
    except ValueError as error:  # not JSON, or not text
        raise WhalebenchError(f"{file} is not JSON ({one_line(error, 80)}): {remedy}.") from error


def verified(file: Path, record: RunRecord | None = None) -> Path:
    """The path of a file of a run, found to be what was written by what the run's record says.

    It is read for this once a process. Of an older record there is nothing to tell by. The record is read
    unless given. Raises WhalebenchError for a file that differs, or is gone.
    """
    record = record or _record_of(file)
    if record and file.name in record.files:
        _bring(file, record)
        try:
            _refuse_other(file, digest_once(regular_file(file)), record)
        except OSError as error:
            reason = error.strerror or error
            raise WhalebenchError(f"{file} cannot be read ({reason}): {REPEAT}, or restore it.") from error
    return file


def _bring(file: Path, record: RunRecord) -> None:
    """Fetches a file of a run that is not here yet, where its workspace is at a URL."""
    if not file.exists() and (copy := copy_of(file.parent)):
        copy.fetch_of_run(file, record.digest)


def verify_files(folder: Path, record: RunRecord) -> None:
    """Raises WhalebenchError for the first of a run's files that is gone or differs from its digest."""
    for name in record.files:
        verified(folder / name, record)


def _record_of(file: Path) -> RunRecord | None:
    """The record of the run that a file is of; None where there is none beside it."""
    return read_record(file.parent) if (file.parent / RECORD).exists() else None


def _refuse_other(file: Path, digest: str, record: RunRecord) -> None:
    if record.files.get(file.name, digest) != digest:
        raise WhalebenchError(f"{file} {DIFFERS}: {REPEAT}, or restore the file.")


def read_runs(runs_folder: Path) -> Runs:
    """The records of all finished runs in name order; a damaged run is a problem of `Runs`, not an error.

    Names with a leading dot are runs being written, or left by a crash: no run stands there.
    """
    records, problems = [], []
    for folder in sorted(runs_folder.glob("[!.]*/")):
        try:
            records.append(read_record(folder))
        except WhalebenchError as error:
            problems.append(str(error))
    return Runs(records, problems)


def read_predictions(
    folder: Path,
    name: str = PREDICTIONS,
    columns: Collection[str] | None = None,
    record: RunRecord | None = None,
) -> pd.DataFrame:
    """The per-query table of one run, one row a test photo; columns that older runs lack are NaN.

    With `columns`, only those of them that are there. The run's record is read unless given. Raises
    WhalebenchError for a table that cannot be read, differs from its digest, or has other than a row for each
    test photo that the record counts.
    """
    file = folder / name
    queries = _read_table(file, record or _record_of(file), columns)
    later = [name for name in LATER if columns is None or name in columns]
    complete: pd.DataFrame = queries.assign(**{name: nan for name in later if name not in queries})
    return complete


def read_matches(folder: Path, record: RunRecord) -> pd.DataFrame | None:
    """The table of the photos that a run's answers rest on, rows as in the predictions; None without one.

    `nearest_1` to `nearest_5` are ids of gallery photos of the candidates, "" for none; `window_a` to
    `window_f`, row by row, lead from the unit square of what the method saw, `window_height` x `window_width`
    pixels, to shares of the photo's width and height. Columns of which there was nothing to say are not
    there. Raises WhalebenchError as `read_predictions` does.
    """
    return _read_table(folder / MATCHES, record) if MATCHES in record.files else None


def _read_table(file: Path, record: RunRecord | None, columns: Collection[str] | None = None) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet

    if record:
        _bring(file, record)
    try:
        content = regular_file(file).read_bytes()  # what is verified is what is parsed
        if record:
            _refuse_other(file, hashlib.sha256(content).hexdigest(), record)
        with pyarrow.parquet.ParquetFile(pa.BufferReader(content)) as opened:
            if record and file.name in BY_PHOTO:
                _refuse_rows(file, opened.metadata.num_rows, record)
            there = opened.schema_arrow.names
            wanted = there if columns is None else [name for name in there if name in columns]
            table: pd.DataFrame = opened.read(wanted, use_threads=False).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise WhalebenchError(
            f"{file} cannot be read ({one_line(error, 80)}): the run is damaged, {REPEAT}."
        ) from error
    return table


def read_curve(folder: Path, record: RunRecord) -> pd.DataFrame | None:
    """The losses of a run by epoch, see docs/record.md; None for one without, as an ensemble of runs.

    Raises WhalebenchError where the file differs from its digest, or is no table.
    """
    file = folder / CURVE
    if CURVE not in record.files and not file.exists():
        return None
    try:
        curve = pd.read_csv(verified(file, record))
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({error}): {REPEAT}.") from error
    if missing := [name for name in CURVE_COLUMNS if name not in curve]:
        raise WhalebenchError(f"{file} lacks the column {missing[0]}: {REPEAT}.")
    return curve


def _refuse_rows(file: Path, rows: int, record: RunRecord) -> None:
    photos = record.counts.get("test_photos", rows)
    if rows != photos:
        raise WhalebenchError(f"{file} has {rows} rows, but the run had {photos} test photos: {REPEAT}.")


def write_scores(
    folder: Path, arrays: Mapping[str, NDArray[np.float32]], names: Mapping[str, Sequence[str]]
) -> None:
    """Writes a run's scores and embeddings into its folder, the names of rows and columns in the header.

    Of very many scores the best of each photo, and the mean of the others.
    """
    kept: dict[str, NDArray[Any]] = {}
    for name, values in arrays.items():
        kept |= _best(name, values) if is_shortened(name, values) else {name: values}
    write_arrays(folder / SCORES, kept, "names", names)


def is_shortened(name: str, values: NDArray[Any]) -> bool:
    """Whether an array of that name is of scores, and of more than are kept."""
    return name.endswith("_scores") and bool(stored_bytes(*values.shape) < values.nbytes)


def stored_bytes(photos: int, identities: int) -> int:
    """What is kept of the scores of so many photos takes."""
    if photos * identities <= MOST_CELLS or identities <= KEPT:
        return 4 * photos * identities
    return photos * (8 * KEPT + 4)


def shortened_warnings(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """A sentence for the record where not all of a run's scores are kept; else none."""
    cells = max((values.size for name, values in arrays.items() if is_shortened(name, values)), default=0)
    if not cells:
        return []
    return [
        f"{cells:,} scores are more than the {MOST_CELLS:,} that are kept: of each photo the {KEPT} best "
        f"are, and the mean of the others, which ensembles, encounters and submissions take them for."
    ]


def _best(name: str, scores: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What is kept of scores (photos, identities), see KEPT_AS."""
    photos, identities = scores.shape
    columns, best = np.empty((photos, KEPT), np.int32), np.empty((photos, KEPT), np.float32)
    rest = np.empty(photos, np.float32)
    for rows in row_blocks(*scores.shape):
        columns[rows] = top_columns(scores[rows], KEPT)
        best[rows] = np.take_along_axis(scores[rows], columns[rows].astype(np.int64), 1)
        others = scores[rows].sum(axis=1, dtype=np.float64) - best[rows].sum(axis=1, dtype=np.float64)
        rest[rows] = np.minimum(others / (identities - KEPT), best[rows, -1])
    return {f"{name}_{what}": values for what, values in zip(KEPT_AS, (columns, best, rest), strict=True)}


def read_scores(
    folder: Path, wanted: Sequence[str]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, list[str]]]:
    """The wanted scores (photos, identities) of a run, as far as it has them, and the names of both.

    Where the best of each photo are kept alone, the others have their mean. Raises WhalebenchError as
    `read_arrays` does.
    """
    parts = [f"{name}_{what}" for name in wanted for what in KEPT_AS]
    arrays, names = read_arrays(folder / SCORES, [*wanted, *parts], "names")
    for name in wanted:
        columns, best, rest = (arrays.pop(f"{name}_{what}", None) for what in KEPT_AS)
        if columns is None or best is None or rest is None:
            continue
        try:
            arrays[name] = np.repeat(np.asarray(rest, np.float32)[:, None], len(names["identities"]), axis=1)
            np.put_along_axis(arrays[name], columns.astype(np.int64), best, axis=1)
        except (IndexError, ValueError, KeyError) as error:
            reason = one_line(error, 80)
            raise WhalebenchError(f"{folder / SCORES} is damaged ({reason}): {REPEAT}.") from error
    return arrays, names


def kept_columns(folder: Path, name: str) -> NDArray[np.int32] | None:
    """The columns (photos, KEPT) of the scores that are kept of each photo; None where all are."""
    return read_arrays(folder / SCORES, (f"{name}_columns",), "names")[0].get(f"{name}_columns")


def write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]], entry: str, header: Any) -> None:
    """Writes the arrays as safetensors, and into the header under that entry the given value as JSON."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    try:
        # One entry only: safetensors writes several in a changing order, and equal runs shall be equal files.
        save_file(tensors, file, {entry: json.dumps(header)})
    except SafetensorError as error:
        raise system_error(error) from error
    inherit_permissions(file)


def system_error(error: Exception) -> OSError:
    """The error of a library that writes files itself, as the system's where its text has the number."""
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, os.strerror(number) if found else str(error))


def read_arrays(
    file: Path, wanted: Sequence[str] | re.Pattern[str], entry: str, remedy: str = REPEAT
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]]]:
    """The wanted arrays by name, and that entry of the header, of a safetensors file of a run.

    They are wanted by their names, or by a pattern of these; those that the file lacks are left out.
    Raises WhalebenchError for a file that cannot be read, differs from its digest, or whose header lacks the
    entry.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(verified(file), "np") as opened:
            names = set(opened.keys())
            if isinstance(wanted, re.Pattern):
                wanted = sorted(filter(wanted.fullmatch, names))
            arrays = {name: opened.get_tensor(name) for name in wanted if name in names}
            return arrays, json.loads(opened.metadata()[entry])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}): {remedy}.") from error


def find_run(name: str, workspace: Workspace) -> Path:
    """The folder of the one run that a name fits, see `find_runs`; raises WhalebenchError for several."""
    folders = find_runs(name, workspace)
    if len(folders) > 1:
        shown = ", ".join(folder.name for folder in folders[:LISTED])
        more = f" and {len(folders) - LISTED} more" if len(folders) > LISTED else ""
        raise WhalebenchError(
            f"'{name}' fits {len(folders)} runs, {shown}{more}: type as much of one's name as no other has, "
            f"or {LAST} for the newest."
        )
    return folders[0]


def find_runs(name: str, workspace: Workspace) -> list[Path]:
    """The folders of the finished runs that a name fits, at least one, in name order.

    It may be the name of a run, the path of one's folder, `@last` for the newest by `created`, the name of a
    method for all of its runs, or how the names of some begin. Raises WhalebenchError where none fits.
    """
    folders = {folder.name: folder for folder in sorted(workspace.runs.glob("[!.]*/"))}
    if name in folders:
        return [folders[name]]
    if name and os.path.isfile(Path(name) / RECORD):  # noqa: PTH113 (no error for what can be no path)
        return [Path(name).absolute()]
    records = read_runs(workspace.runs).records
    if name == LAST and records:
        return [folders[max(records, key=lambda record: (record.created, record.run)).run]]
    of_method = [folders[record.run] for record in records if record.method == name]
    begin_so = [folder for known, folder in folders.items() if name and known.startswith(name)]
    if of_method or begin_so:
        return of_method or begin_so
    methods = sorted({record.method for record in records})
    hint = did_you_mean(name, [*methods, *folders], "`whalebench runs` lists them.")
    if not folders:
        hint = "there are no runs; begin with `whalebench run METHOD`."
    raise WhalebenchError(f"There is no run '{name}' in {workspace.runs}: {hint}")
