"""A run's answers as the file that a competition takes, written after it was held against the rules.

Of its test photos nothing but the scores is read: no photo, no label, no torch. Others it is asked of anew.
Formats are exact, so names are written as they are, also those that a spreadsheet would compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError, one_line, table_cell
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.outputs import check_output, write_output
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import SCORES, RunRecord, find_run, read_record, read_scores
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.options import Groups
from whalebench.benchmarks.predicting.judge import Judge
from whalebench.benchmarks.submitting.formats import (
    FORMATS,
    Format,
    Sheet,
    Submission,
    check_sheet,
    read_sample,
    submission_of,
)
from whalebench.reports.metrics.calibration import UNCALIBRATED, calibration_of
from whalebench.reports.metrics.ranking import NEW, Floats, NewRule

DIGITS = 9
"""Significant digits of a probability: a row adds up to one within 1e-6, and files stay small."""
OF_NEW = {"new_threshold": "--new-threshold", "new_first": "--new-first", "new_rule": "--new-rule"}
"""Options that place *new*."""


@dataclass(frozen=True)
class SubmitRequest:
    """What is asked for; raises WhalebenchError for what contradicts itself, or would have no effect."""

    layout: str
    run: str
    """Whose answers they are."""
    out: Path
    """The file to write."""
    sample: Path | None = None
    """The competition's sample submission: its photos, and where it has them its columns."""
    photos: tuple[Path, ...] = ()
    """Photos, folders or tables of them to answer for, instead of the run's test photos."""
    then: tuple[str, ...] = ()
    """Steps taken with the run's scores before, as `ensemble --then` takes them."""
    groups: Groups = ()
    """Known duplicates, for the step of that name."""
    new_threshold: float | None = None
    """The score below which *new* comes first, instead of the one chosen on valid."""
    new_first: float | None = None
    """Or the share of photos on which it is to come first, at most."""
    new_rule: NewRule | None = None
    """Where *new* stands otherwise: by its score, or second; instead of the run's rule."""
    device: str = "auto"
    """What photos are looked at with."""

    def __post_init__(self) -> None:
        if self.layout not in FORMATS:
            raise WhalebenchError(
                f"There is no layout {one_line(self.layout, 40)!r}: choose one of {', '.join(FORMATS)}."
            )
        given = [option for name, option in OF_NEW.items() if getattr(self, name) is not None]
        if given and not self.form.new:
            raise WhalebenchError(
                f"{given[0]} means nothing to {self.layout}, where no whale is new: leave it out."
            )
        if self.device != "auto" and not self.photos:
            raise WhalebenchError("--device means nothing where no photos are looked at: leave it out.")
        if self.photos and (self.then or self.groups):
            raise WhalebenchError(
                "--then and --duplicates take the scores of a run's own test photos, not of photos that are "
                "given: import these as test (column split) and run on that, or leave the steps out."
            )
        if self.new_threshold is not None and self.new_first is not None:
            raise WhalebenchError("--new-threshold and --new-first set the same threshold: give one of them.")
        if self.new_threshold is not None and not math.isfinite(self.new_threshold):
            raise WhalebenchError(f"--new-threshold {self.new_threshold} is no score: give a finite number.")
        if self.new_first is not None and not 0 <= self.new_first <= 1:
            raise WhalebenchError(f"--new-first {self.new_first:g} is no share: give 0 to 1, as 0.165.")

    @property
    def form(self) -> Format:
        """The format of the layout."""
        return FORMATS[self.layout]


@dataclass(frozen=True)
class Answered:
    """What a run says of photos."""

    record: RunRecord
    images: tuple[str, ...]
    """The photos' ids or paths; their files' names are what is submitted."""
    identities: tuple[str, ...]
    scores: NDArray[np.float32]
    """(photos, identities), higher is more likely."""
    notes: tuple[str, ...] = ()
    """Sentences on photos that could not be answered, and on answers."""


def stored_answers(folder: Path) -> Answered:
    """Those to the run's test photos, as it keeps them; raises WhalebenchError where it keeps none."""
    record = read_record(folder)
    if record.unfit:
        raise WhalebenchError(f"The run {record.run} has no answers, because {record.unfit}: name another.")
    arrays, names = read_scores(folder, ("test_scores",))
    scores = arrays.get("test_scores", np.zeros((0, 0), np.float32))
    images, identities = tuple(names.get("test", ())), tuple(names.get("identities", ()))
    chosen_on_valid = calibration_of(record.chosen) and "new_threshold" in record.chosen
    if not chosen_on_valid or not images or scores.shape != (len(images), len(identities)):
        raise WhalebenchError(
            f"{folder / SCORES} or the record beside it lacks scores, names or what was chosen on valid: "
            f"repeat the run with --force."
        )
    return Answered(record, images, identities, scores)


def submit(request: SubmitRequest, workspace: Workspace, progress: Progress = SILENT) -> Submission:
    """Writes the file, whole or not at all, after it was held against the rules and the sample.

    Raises WhalebenchError where the run's answers do not make one.
    """
    out, form = check_output(request.out), request.form
    sample = read_sample(request.sample, form)
    answered = _answers(request, workspace, progress)
    progress.stage("write")
    sheet, notes = make_sheet(request, answered, sample)
    check_sheet(out, sheet, form, sample, answered.identities)
    write_output(out, sheet.text())
    notes = (*answered.notes, *notes)
    run = answered.record.run
    return submission_of(request.layout, out, sheet, run=run, sample=request.sample, notes=notes)


def _answers(request: SubmitRequest, workspace: Workspace, progress: Progress) -> Answered:
    """The run's answers, after the steps that were asked for, which make a run of their own."""
    run = request.run
    if request.then or request.groups:
        from whalebench.benchmarks.ensembles.ensemble import EnsembleRequest, ensemble

        stepped = EnsembleRequest((run,), then=request.then, groups=request.groups)
        run = str(ensemble(stepped, workspace, progress).folder)
    if not request.photos:
        return stored_answers(find_run(run, workspace))
    from whalebench.benchmarks.predicting.predict import predict

    said = predict(run, request.photos, workspace, progress, device=request.device)
    images, notes = tuple(said.photos["photo"]), (*said.problems, *said.notes)
    return Answered(said.record, images, said.identities, said.scores, notes)


def make_sheet(
    request: SubmitRequest, answered: Answered, sample: Sheet | None
) -> tuple[Sheet, tuple[str, ...]]:
    """The sheet with a row for each photo of the sample, or each answered one, and notes."""
    names = _file_names(answered.images)
    wanted, notes = _wanted(names, answered, sample)
    scores = answered.scores[[names[name] for name in wanted]]
    if request.form.candidates:
        columns: Sequence[str] = (request.form.candidates,)
        cells = [[cell] for cell in _candidates(request, answered, scores)]
        notes += _notes_on_new(request, answered)
    else:
        columns = sample.columns[1:] if sample else sorted(answered.identities)
        probabilities = _judge(request, answered, scores).calibration.probabilities(scores)
        probabilities, more = _spread(answered, probabilities, columns)
        cells = [[f"{value:.{DIGITS}g}" for value in row] for row in probabilities.tolist()]
        notes += more
    table = [[name, *row] for name, row in zip(wanted, cells, strict=True)]
    sheet = Sheet((request.form.image, *columns), table)
    return sheet, (*notes, *_formula_notes(sheet))


def _file_names(images: Sequence[str]) -> dict[str, int]:
    """The row of each photo by the name of its file; raises WhalebenchError where two have one."""
    names: dict[str, int] = {}
    for row, image in enumerate(images):
        name = PurePosixPath(image).name
        if name in names:
            both = one_line(f"{images[names[name]]} and {image}", 120)
            raise WhalebenchError(f"{both} have one file name, which is all that is submitted: rename one.")
        names[name] = row
    return names


def _wanted(
    names: dict[str, int], answered: Answered, sample: Sheet | None
) -> tuple[list[str], tuple[str, ...]]:
    """The photos to be submitted, in order; raises WhalebenchError where the sample has others, too."""
    if sample is None:
        return list(names), ()
    wanted = [cells[0] for cells in sample.rows]
    if absent := [name for name in wanted if name not in names]:
        raise WhalebenchError(
            f"{answered.record.run} has no answer to {len(absent):,} of the sample's {len(wanted):,} photos, "
            f"first {one_line(repr(absent[0]), 60)}: give the folder of the competition's test photos behind "
            f"the run."
        )
    if more := len(names) - len(wanted):
        return wanted, (f"{more:,} more answers are left out: the sample does not have their photos.",)
    return wanted, ()


def _candidates(request: SubmitRequest, answered: Answered, scores: NDArray[np.float32]) -> list[str]:
    """Five candidates for each row of scores, *new* among them by threshold and rule, best first."""
    new = request.form.new
    if wrong := [name for name in answered.identities if name.split() != [name] or name == new]:
        raise WhalebenchError(
            f"The individual {one_line(repr(wrong[0]), 60)} cannot be named in {request.layout}, where a "
            f"blank parts names and {new} is none: rename it in the benchmark."
        )
    judge = _judge(request, answered, scores)
    found = judge.candidates(answered.identities, scores).names.tolist()
    return [" ".join(new if name == NEW else name for name in names if name) for names in found]


def _judge(request: SubmitRequest, answered: Answered, scores: NDArray[np.float32]) -> Judge:
    """What valid chose for the run, but for what is asked for of *new*."""
    chosen: Any = answered.record.chosen
    threshold = chosen.get("new_threshold") if request.new_threshold is None else request.new_threshold
    if request.new_first is not None:
        threshold = threshold_of_share(scores.max(axis=1), request.new_first)
    config: Any = answered.record.config
    rule = request.new_rule or config.get("new_rule", "column")
    return Judge(calibration_of(chosen) or UNCALIBRATED, rule, threshold, None, None)


def threshold_of_share(best: NDArray[Any], share: float) -> float:
    """The threshold under which at most that share of photos has a lower best score (photos,).

    Equal scores go together. As 3rd of Humpback 2019 (0.276) and 1st of Happywhale (0.165) set theirs.

    >>> threshold_of_share(np.array([0.5, 0.25, 1.0, 0.75]), 0.5)
    0.75
    """
    rising = np.sort(best.astype(np.float64))
    number = math.floor(share * len(rising) + 1e-9)  # whole but for rounding is whole
    return float(rising[number] if number < len(rising) else np.nextafter(rising[-1], np.inf))


def _spread(
    answered: Answered, probabilities: Floats, columns: Sequence[str]
) -> tuple[Floats, tuple[str, ...]]:
    """Those (photos, columns) of (photos, identities), one in all in each row, and notes.

    Individuals that the run does not know get what Laplace's rule of succession says, as if each had one
    train photo more: where a 0 is wrong it costs 34.5, as whales of valid alone cost the 2nd of 2015.
    """
    column = columns_of(answered.identities)
    known = np.array([name in column for name in columns])
    if not known.any():
        raise WhalebenchError(
            f"{answered.record.run} knows none of the sample's {len(columns):,} individuals: name a run on "
            f"the competition's own photos."
        )
    shares = probabilities[:, [column[name] for name in columns if name in column]]
    total = shares.sum(axis=1, keepdims=True)
    shares = np.where(total == 0, 1 / shares.shape[1], shares / np.where(total == 0, 1, total))
    unknown, photos = int((~known).sum()), answered.record.counts.get("train_known_photos", 0)
    each = 1 / (photos + len(columns))
    spread = np.full((len(shares), len(columns)), each)
    spread[:, known] = shares * (1 - unknown * each)
    notes = []
    if unknown:
        first = next(name for name in columns if name not in column)
        notes.append(
            f"{unknown:,} of the {len(columns):,} individuals are not in the run's train, as {first}: each "
            f"is given {each:.2g} of every row."
        )
    if others := len(column) - int(known.sum()):
        notes.append(f"{others:,} individuals of the run are left out: the sample has no column of theirs.")
    return spread, tuple(notes)


def _notes_on_new(request: SubmitRequest, answered: Answered) -> tuple[str, ...]:
    given = request.new_threshold is not None or request.new_first is not None
    if given or answered.record.chosen.get("new_threshold") is not None:
        return ()
    return (
        f"{request.form.new} is nowhere: valid had no new photo to choose a threshold by; --new-first SHARE "
        f"sets one.",
    )


def _formula_notes(sheet: Sheet) -> tuple[str, ...]:
    computed = sum(table_cell(cell) != cell for row in sheet.rows for cell in row)
    if not computed:
        return ()
    return (f"{computed:,} names begin as formulas do and stand as they are: mind that in a spreadsheet.",)
