"""Files that competitions take: their formats, read as they are, held against rules and sample."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.files import regular_file
from whalebench.benchmarks.core.record import SCORES, find_run, read_arrays
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.layouts import happywhale, humpback
from whalebench.benchmarks.importing.tables import MANY, Problem, TextTable, is_number, problem, refuse
from whalebench.reports.metrics.ranking import CANDIDATES


@dataclass(frozen=True)
class Format:
    """The columns of a competition's file."""

    image: str
    """The column of photos, by the names of their files."""
    candidates: str
    """The column of up to five individuals, best first, with a blank between them; "" where each individual
    has a column of probabilities instead."""
    new: str
    """What stands among candidates for an individual that train does not name; "" where there is none."""


FORMATS = {
    "humpback": Format("Image", "Id", humpback.NEW),
    "happywhale": Format("image", "predictions", happywhale.NEW),
    "right-whale": Format("Image", "", ""),
}
"""By layout, as `data import` calls it."""


@dataclass(frozen=True)
class Sheet:
    """A CSV cell by cell, with nothing stripped or guessed."""

    columns: tuple[str, ...]
    rows: list[list[str]]
    places: tuple[str, ...] = ()
    """Where each row stands in the file, as "line 2"; empty for what is not written yet."""

    def lines(self) -> Sequence[str]:
        """Where each row stands, or will."""
        return self.places or tuple(f"line {number}" for number in range(2, len(self.rows) + 2))

    def whole_rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows with as many cells as there are columns, each with its index."""
        return ((index, cells) for index, cells in enumerate(self.rows) if len(cells) == len(self.columns))

    def text(self) -> str:
        """As it is written."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()


def read_sheet(file: Path) -> Sheet:
    """The sheet in a file of UTF-8; raises WhalebenchError for what is none."""
    rows, places, start = [], [], 1
    try:
        with regular_file(file).open(encoding="utf-8", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            for cells in reader:
                if cells:
                    rows.append(cells)
                    places.append(f"line {start}")
                start = reader.line_num + 1
    except FileNotFoundError as error:
        raise WhalebenchError(f"{file} does not exist; check its path.") from error
    except OSError as error:
        raise WhalebenchError(f"{file} cannot be read: {error.strerror}; give another file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        why = one_line(error, 80)
        raise WhalebenchError(
            f"{file} is no CSV in UTF-8 from line {start} on ({why}); write it again."
        ) from error
    if len(rows) < 2:
        raise WhalebenchError(f"{file} has no rows; give a header line and one line for each photo.")
    return Sheet(tuple(rows[0]), rows[1:], tuple(places[1:]))


def check_sheet(
    file: Path, sheet: Sheet, form: Format, sample: Sheet | None = None, known: Collection[str] = ()
) -> None:
    """Raises WhalebenchError where a sheet is not as the competition's rules and its sample have it.

    Photos are those of the sample, each once, in any order; columns are as in the sample, or else the known
    individuals in order; candidates are known, up to five and no one twice; probabilities are from 0 to 1 and
    of some sum in each row. Every sentence has line, column, value and remedy.
    """
    _check_columns(file, sheet.columns, _expected_columns(file, sheet, form, sample, known))
    images = {cells[0] for cells in sample.rows} if sample else None
    answers = (
        _candidate_problems(sheet, form, frozenset(known))
        if form.candidates
        else _probability_problems(sheet)
    )
    _refuse(file, sheet, chain(_photo_problems(sheet, form, images), answers))
    if absent := sorted((images or set()) - {cells[0] for cells in sheet.rows}):
        raise WhalebenchError(
            f"{file}, column {form.image}: {len(absent):,} of the {len(images or ()):,} photos of the sample "
            f"have no row, first {one_line(repr(absent[0]), 60)}; add one for each."
        )


def _expected_columns(
    file: Path, sheet: Sheet, form: Format, sample: Sheet | None, known: Collection[str]
) -> Sequence[str]:
    if form.candidates:
        return form.image, form.candidates
    if sample or known:
        return sample.columns if sample else (form.image, *sorted(known))
    twice = [name for name, times in Counter(sheet.columns).items() if times > 1]
    if twice or len(sheet.columns) < 2:
        what = f"the column {twice[0]!r} twice" if twice else "no column of an individual"
        raise WhalebenchError(f"{file}, line 1 has {what}; give each individual one column.")
    return form.image, *sheet.columns[1:]


def _check_columns(file: Path, columns: Sequence[str], expected: Sequence[str]) -> None:
    for place, (given, wanted) in enumerate(zip_longest(columns, expected), start=1):
        if given != wanted:
            said = "nothing" if given is None else repr(given)
            remedy = "take it out" if wanted is None else f"write {wanted!r}"
            raise WhalebenchError(
                f"{file}, line 1, column {place}, value {one_line(said, 60)}: the columns are not those "
                f"of the competition, in their order; {one_line(remedy, 70)}."
            )


def _refuse(file: Path, sheet: Sheet, problems: Iterable[Problem]) -> None:
    """Raises WhalebenchError where there are problems; of very many the first are enough."""
    refuse(file, TextTable(sheet.columns, (), tuple(sheet.lines())), list(islice(problems, MANY)))


def _photo_problems(sheet: Sheet, form: Format, images: set[str] | None = None) -> Iterator[Problem]:
    """Of rows that are too short or long, and of photos that are there twice or not in the sample."""
    first, lines = dict[str, int](), sheet.lines()
    for index, cells in enumerate(sheet.rows):
        if len(cells) != len(sheet.columns):
            number = f"{len(cells)} cells where the header has {len(sheet.columns)}"
            yield index, f"{number}; give each column one cell, in quotes where it holds a comma"
        elif cells[0] in first:
            text = f"{lines[first[cells[0]]]} has this photo, too; keep one row of it"
            yield index, problem(form.image, cells[0], text)
        elif images is not None and cells[0] not in images:
            yield index, problem(form.image, cells[0], "the sample has no such photo; take the row out")
        first.setdefault(cells[0], index)


def _candidate_problems(sheet: Sheet, form: Format, known: frozenset[str]) -> Iterator[Problem]:
    """Of names that are no list of up to five, each known or the word for *new*, none twice."""
    for index, (_, cell) in sheet.whole_rows():
        names, said = cell.split(" "), []
        if "" in names:
            said.append("a name is empty; write one to five names with one blank between two")
        elif len(names) > CANDIDATES:
            said.append(f"it has {len(names)} names, and {CANDIDATES} are the most; leave out the last")
        for name, times in Counter(filter(None, names)).items():
            shown = one_line(name, 40)
            if times > 1:
                said.append(f"{shown} is there {times} times; name each individual once")
            if known and name != form.new and name not in known:
                said.append(f"{shown} is no individual of the run; write one that it knows, or {form.new}")
        yield from ((index, problem(form.candidates, cell, text)) for text in said)


def _probability_problems(sheet: Sheet) -> Iterator[Problem]:
    """Of cells that are no probabilities, the first in a row, and of rows without a sum."""
    image, *columns = sheet.columns
    for index, (photo, *cells) in sheet.whole_rows():
        wrong = (place for place, cell in enumerate(cells) if not (is_number(cell) and 0 <= float(cell) <= 1))
        if (place := next(wrong, None)) is not None:
            text = "it is no probability; write a number from 0 to 1"
            yield index, problem(one_line(columns[place], 40), cells[place], text)
        elif not sum(map(float, cells)) > 0:
            text = "its probabilities are all 0, and the row is divided by their sum; write one above 0"
            yield index, problem(image, photo, text)


@dataclass(frozen=True)
class Submission:
    """A file that was written, or looked at, and found to be as the competition wants it."""

    layout: str
    file: str
    photos: int
    run: str = ""
    """Whose answers they are, or whose individuals its names were held against."""
    sample: str = ""
    """What it was held against; empty without a sample."""
    new_first: float | None = None
    """The share of photos whose first candidate is *new*; None where there is no such candidate."""
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON prints it."""
        return asdict(self)

    def sentences(self) -> str:
        """As a terminal shows it."""
        against = f" and its sample, {self.sample}" if self.sample else ""
        lines = [f"{self.file} is as {self.layout} wants it: {self.photos:,} photos, held against its rules"]
        lines[0] += f"{against}."
        if self.new_first is not None:
            lines.append(f"New comes first on {self.new_first:.1%} of them.")
        return "\n".join([*lines, *self.notes])


def submission_of(
    layout: str,
    file: Path,
    sheet: Sheet,
    *,
    run: str = "",
    sample: Path | None = None,
    notes: Sequence[str] = (),
) -> Submission:
    """What is to be said of a sheet that was found as it should be."""
    first, form = None, FORMATS[layout]
    if form.candidates:
        names = [cells[1].split(" ")[0] for cells in sheet.rows]
        first = names.count(form.new) / len(names)
    return Submission(layout, str(file), len(sheet.rows), run, str(sample or ""), first, list(notes))


def check_submission(
    file: Path, layout: str, workspace: Workspace, *, sample: Path | None = None, run: str = ""
) -> Submission:
    """A file that was written before; raises WhalebenchError where it is not as the competition wants it.

    Where a run is named, its individuals are those that may be named.
    """
    form = FORMATS[layout]
    known: Sequence[str] = ()
    if run:
        folder = find_run(run, workspace)
        run, known = folder.name, read_arrays(folder / SCORES, (), "names")[1]["identities"]
    template, sheet = read_sample(sample, form), read_sheet(file)
    check_sheet(file, sheet, form, template, known)
    return submission_of(layout, file, sheet, run=run, sample=sample)


def read_sample(file: Path | None, form: Format) -> Sheet | None:
    """The sample submission of a competition, which is one itself; None without a file."""
    if file is None:
        return None
    sample = read_sheet(file)
    _check_columns(file, sample.columns, _expected_columns(file, sample, form, None, ()))
    _refuse(file, sample, _photo_problems(sample, form))  # what it answers does not matter
    return sample
