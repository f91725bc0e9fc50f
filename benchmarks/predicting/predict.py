"""A finished run asked of new photos: who they show, how probable that is, and whether it is somebody new.

Everything that turns scores into answers was chosen on valid: temperature, threshold of *new* and of
candidate sets by the run, the chance of *new* and how the photos of one encounter answer together here, from
what the run keeps of valid. No answer to a test photo is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core import record as records
from whalebench.benchmarks.core.catalog import REGION
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.outputs import check_output, csv_text, output_path
from whalebench.benchmarks.core.photos import UNKNOWN
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import RunRecord, plain
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.predicting.gallery import NewGallery, find_gallery
from whalebench.benchmarks.predicting.judge import Judge, Rows, judge_of
from whalebench.benchmarks.predicting.photos import NewPhotos, decoded, read_new_photos
from whalebench.benchmarks.registry import Benchmark, load_benchmark_of
from whalebench.benchmarks.running.folds import show_new_photos
from whalebench.benchmarks.running.harness import checked_embeddings
from whalebench.benchmarks.running.matches import Compared, nearest_photos, window_columns
from whalebench.benchmarks.running.outcome import score_photos
from whalebench.benchmarks.running.restored import Restored, restore_run
from whalebench.methods.guests import blamed
from whalebench.methods.parts.pipeline import SeenWindows
from whalebench.reports.metrics.ranking import CANDIDATES, NEW

TRIED = 8
"""Test photos on which a run that is asked of new ones must score as it did."""
PHOTO = "photo"
By = Literal["photo", "encounter"]
OF_PHOTOS = (
    *("path", "encounter", "viewpoint", "date", "species", "width", "height", "x0", "y0", "x1", "y1"),
    *REGION,
    "file_digest",
)
"""Columns of the catalog that the table of photos has, as far as they are there."""


class Answers(NamedTuple):
    """What is said of photos or encounters, a row each."""

    names: list[str]
    """Of the photo or the encounter."""
    encounters: list[str]
    """"" where none is given."""
    rows: list[Rows]
    """Of its photos."""
    scores: NDArray[np.float32]
    """(rows, identities)"""
    probabilities: NDArray[np.float64]
    """(rows, identities)"""
    new: NDArray[np.float64]
    """(rows,)"""

    def photo_of(self, columns: Rows, scores: NDArray[np.float32]) -> Rows:
        """The row of the photo that speaks most for each candidate (rows, places), given all photos' scores.

        Columns are those of candidates, -1 for *new*: then it is the first photo.
        """
        found = np.empty(columns.shape, np.int64)
        for place, (rows, wanted) in enumerate(zip(self.rows, columns, strict=True)):
            best = scores[np.ix_(rows, np.maximum(wanted, 0))].argmax(axis=0)
            found[place] = np.where(wanted < 0, rows[0], rows[best])
        return found


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run says of new photos."""

    record: RunRecord
    photos: pd.DataFrame
    """One row a photo: `photo`, and of OF_PHOTOS what there is; what the method saw of it as `window_a` to
    `window_f`, `window_height` and `window_width`, as `read_matches` says, where it sees less than all."""
    identities: tuple[str, ...]
    scores: NDArray[np.float32]
    """(photos, identities), higher is more likely."""
    probabilities: NDArray[np.float64]
    """(photos, identities), one in all: of the individuals, given that it is one of them."""
    new: NDArray[np.float64]
    """(photos,) the chance that it is none of them; NaN where valid cannot tell."""
    embeddings: NDArray[np.float32] | None
    """(photos, dimensions); of an ensemble, those of its first member that compares photos."""
    gallery: pd.DataFrame
    """One row a known photo of the run: `image, identity` and of OF_PHOTOS what there is."""
    gallery_embeddings: NDArray[np.float32] | None
    """(gallery photos, dimensions), what embeddings are compared with; None where the run keeps none."""
    judge: Judge
    """What was chosen on valid."""
    problems: list[str]
    """A sentence for each photo that could not be used."""
    notes: list[str]
    """What is to be known of the answers."""
    by: By = "photo"

    @cached_property
    def nearest(self) -> pd.DataFrame:
        """A row a photo: `photo` and `nearest_1` to `nearest_5`, as `read_matches` says; "" for none."""
        names = [f"nearest_{place}" for place in range(1, CANDIDATES + 1)]
        candidates = self.judge.candidates(self.identities, self.scores).names
        rows = np.repeat(np.arange(len(self.photos))[:, None], CANDIDATES, axis=1)
        return pd.DataFrame(self._nearest(candidates, rows), columns=names).assign(photo=self.photos[PHOTO])

    def table(self, by: By | None = None) -> pd.DataFrame:
        """Five rows a photo or encounter, fewer where there are fewer individuals, the best first.

        `photo, encounter, place, candidate, probability, score, in_set, set_size, new, nearest`. The
        candidate `new` stands where the run's rule and threshold put it, and its probability is `new`, the
        chance of it; `in_set` and `set_size` are of the list that holds the right individual in 95 % of known
        photos, NA where valid was too small for one; `nearest` is the id of the candidate's nearest gallery
        photo. By encounter, `photo` is the one of its photos that speaks most for the candidate.
        """
        answers = self.answers(by or self.by)
        found = self.judge.candidates(self.identities, answers.scores)
        best_row = answers.photo_of(found.columns, self.scores)
        nearest = self._nearest(found.names, best_row)
        sets, column = self.judge.sets(answers.probabilities), np.maximum(found.columns, 0)
        there = found.names.ravel() != ""
        rows, places = (
            np.repeat(np.arange(len(answers.names)), CANDIDATES),
            np.tile(np.arange(1, CANDIDATES + 1), len(answers.names)),
        )
        is_new = found.names == NEW
        probability = np.where(
            is_new, answers.new[:, None], np.take_along_axis(answers.probabilities, column, axis=1)
        )
        table = pd.DataFrame(
            {
                PHOTO: self.photos[PHOTO].to_numpy(object)[best_row].ravel(),
                "encounter": np.array(answers.encounters, object)[rows],
                "place": places,
                "candidate": found.names.ravel(),
                "probability": probability.ravel(),
                "score": found.scores.ravel(),
                "in_set": _of_sets(sets, column, is_new),
                "set_size": pd.array(
                    [None] * len(rows) if sets is None else sets.sum(axis=1)[rows], dtype="Int64"
                ),
                "new": answers.new[rows],
                "nearest": nearest.ravel(),
            }
        )
        shown: pd.DataFrame = table[there].reset_index(drop=True)
        return shown

    def answers(self, by: By) -> Answers:
        """Scores, probabilities and chances of *new*, a row a photo or a row an encounter."""
        names = self.photos[PHOTO].tolist()
        encounters = self.photos["encounter"].tolist()
        if by == "photo":
            alone = [np.array([row]) for row in range(len(names))]
            return Answers(names, encounters, alone, self.scores, self.probabilities, self.new)
        # A photo without an encounter is one by itself.
        of = [
            ("encounter", name) if name else ("photo", photo)
            for photo, name in zip(names, encounters, strict=True)
        ]
        groups: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(of):
            groups.setdefault(key, []).append(row)
        rows = [np.array(each) for each in groups.values()]
        scores = self.judge.join(self.scores, rows)
        shown = [name if kind == "encounter" else "" for kind, name in groups]
        titles = [name for _, name in groups]
        return Answers(titles, shown, rows, scores, *self.judge.chances(scores))

    def document(self) -> dict[str, Any]:
        """The answers as one JSON document: an entry a photo or encounter, with candidates and set."""
        answers, table = self.answers(self.by), self.table()
        sets = self.judge.sets(answers.probabilities)
        starts = np.flatnonzero(table["place"] == 1)
        entries = []
        for row, part in enumerate(np.split(np.arange(len(table)), starts[1:])):
            order = np.argsort(-answers.probabilities[row], kind="stable")
            kept = None if sets is None else [self.identities[at] for at in order if sets[row, at]]
            candidates = table.iloc[part].drop(columns=["encounter", "set_size", "new"])
            entries.append(
                {
                    self.by: answers.names[row],
                    "encounter": answers.encounters[row],
                    "photos": self.photos[PHOTO].iloc[answers.rows[row]].tolist(),
                    "new": answers.new[row],
                    "set": kept,
                    "candidates": candidates.astype(object)
                    .where(candidates.notna(), None)
                    .to_dict("records"),
                }
            )
        facts = {"run": self.record.run, "method": self.record.method, "by": self.by}
        document: dict[str, Any] = plain(
            facts | {"answers": entries, "problems": self.problems, "notes": self.notes}
        )
        return document

    def write(self, file: Path) -> None:
        """Writes the table to a .csv or .parquet file, whole or not at all; other endings are refused."""
        check_table(file)
        table = self.table()
        with output_path(file) as temporary:
            if file.suffix.lower() == ".parquet":
                table.to_parquet(temporary, index=False)
            else:
                temporary.write_text(csv_text(table), encoding="utf-8", newline="")

    def _nearest(self, candidates: NDArray[np.object_], rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """The gallery photo of each candidate that is nearest to the photo at each row, of equal shapes."""
        if self.embeddings is None or self.gallery_embeddings is None:
            return np.full(candidates.shape, "", object)
        compared = Compared(
            self.embeddings[rows.ravel()],
            self.gallery_embeddings,
            self.gallery["image"].tolist(),
            self.gallery["identity"].tolist(),
        )
        return nearest_photos(candidates.reshape(-1, 1), compared).reshape(candidates.shape)


def check_table(file: Path) -> Path:
    """The path, whose ending says how a table of answers is written there: .csv or .parquet."""
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise WhalebenchError(f"{file} ends neither in .csv nor in .parquet: name the file so.")
    return check_output(file)


def _of_sets(sets: NDArray[np.bool_] | None, columns: Rows, is_new: NDArray[np.bool_]) -> Any:
    """Whether each candidate is in its row's list; NA where there is none, and False for *new*."""
    if sets is None:
        return pd.array([None] * columns.size, dtype="boolean")
    held = np.take_along_axis(sets, columns, axis=1) & ~is_new
    return pd.array(held.ravel(), dtype="boolean")


@dataclass(frozen=True)
class _Asked:
    """What one run says of new photos."""

    record: RunRecord
    folder: Path
    benchmark: Benchmark
    identities: tuple[str, ...]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None = None
    gallery: NDArray[np.float32] | None = None
    """(known train photos, dimensions)"""
    windows: SeenWindows | None = None
    notes: tuple[str, ...] = ()


def predict(
    run: str,
    paths: Sequence[Path],
    workspace: Workspace,
    progress: Progress = SILENT,
    *,
    by: By = "photo",
    device: str = "auto",
) -> Predictions:
    """What a finished run, an ensemble of such, or a gallery that was extended says of new photos.

    `paths` are as `read_new_photos` takes them; device `auto` is the one that the run was made on. Raises
    WhalebenchError for a run that cannot be asked, and where no photo can be used.
    """
    added = find_gallery(run, workspace)
    folder = records.find_run(added.run if added else run, workspace)
    record = records.read_record(folder)
    if added is not None:
        added.refuse_other(record)
    benchmark = load_benchmark_of(record, workspace, progress)
    new = read_new_photos(paths, progress, in_boxes=benchmark.catalog.has_given_boxes)
    if by == "encounter" and not (new.table["encounter"] != "").any():
        raise WhalebenchError(
            "--by encounter needs to know which photos were taken together: give a table of them with a "
            "column encounter."
        )
    with decoded(new, workspace, progress) as (store, broken):
        asking = _Asking(new, store, workspace, progress, None if device == "auto" else device, benchmark)
        asked = asking.ask(folder, record, added)
    judge = judge_of(record, folder, benchmark)
    kept, problems = _usable(new, broken)
    scores = asked.scores[kept]
    probabilities, chance = judge.chances(scores)
    return Predictions(
        record=record,
        photos=_photos_table(new.table, asked.windows).iloc[kept].reset_index(drop=True),
        identities=asked.identities,
        scores=scores,
        probabilities=probabilities,
        new=chance,
        embeddings=None if asked.embeddings is None else asked.embeddings[kept],
        gallery=_gallery_table(benchmark, record, added),
        gallery_embeddings=asked.gallery,
        judge=judge,
        problems=[*new.problems, *problems],
        notes=[*new.notes, *asked.notes, *_notes(new, benchmark, record, added), *_of_judge(judge, by)],
        by=by,
    )


def _usable(new: NewPhotos, broken: Mapping[int, str]) -> tuple[Rows, list[str]]:
    """The rows of the photos that could be decoded, and a sentence for each of the others."""
    paths = new.table["path"].tolist()
    kept = np.array([row for row in range(len(paths)) if row not in broken], np.int64)
    if not len(kept):
        raise WhalebenchError(f"None of the photos can be used, the first ({paths[0]}) because {broken[0]}.")
    return kept, [f"{paths[row]} is left out: {why}." for row, why in sorted(broken.items())]


def _of_judge(judge: Judge, by: By) -> list[str]:
    """What is to be known of the choices; of encounters only where these were asked for."""
    *always, of_encounters = judge.notes
    return [*always, of_encounters] if by == "encounter" else always


@dataclass(frozen=True)
class _Asking:
    """New photos and how they are shown to runs, one after the other."""

    new: NewPhotos
    store: PhotoStore
    workspace: Workspace
    progress: Progress
    device: str | None
    benchmark: Benchmark
    """That of all these runs."""

    def ask(self, folder: Path, record: RunRecord, added: NewGallery | None = None) -> _Asked:
        """What the run says of the photos; an ensemble's members are asked first."""
        digests = self.benchmark.catalog.digest, self.benchmark.split.digest
        if (record.catalog_digest, record.split_digest) != digests:
            raise WhalebenchError(
                f"{record.run} is of another catalog or split than the ensemble was made of: combine the "
                f"runs again."
            )
        return self._ask_members(folder, record) if record.members else self._ask_method(folder, added)

    def _ask_members(self, folder: Path, record: RunRecord) -> _Asked:
        from whalebench.benchmarks.ensembles import ensemble

        ensemble.refuse_more_than_scores(record)
        folders = [records.find_run(name, self.workspace) for name in record.members]
        asked = [self.ask(each, records.read_record(each)) for each in folders]
        said = [ensemble.NewScores(each.scores, each.embeddings) for each in asked]
        scores = ensemble.fuse_new_photos(folder, said, self.workspace, self.progress)
        first = next((each for each in asked if each.gallery is not None), asked[0])
        return replace(first, record=record, folder=folder, scores=scores)

    def _ask_method(self, folder: Path, added: NewGallery | None) -> _Asked:
        place, progress = self.workspace, self.progress
        restored = restore_run(
            str(folder), place, progress, photos=TRIED, device=self.device, benchmark=self.benchmark
        )
        record, method = restored.record, restored.method
        identities = restored.views.train.identities
        if added is not None:
            added.join(method)
            identities = added.identities
        self.progress.stage("decode")
        for size in method.sizes():
            self.store.pixels(size, self.progress.advance, cores())
        shown = show_new_photos(
            restored.benchmark,
            record.fold,
            self.new.table,
            self.store,
            oracle=record.oracle,
            viewpoints=method.config.sees_viewpoints(),
        )
        shown = replace(shown, identities=identities)
        self.progress.stage("identify")
        with blamed(record.method):
            if missing := method.missing_requirement(restored.views.train, shown):
                raise WhalebenchError(
                    f"{record.run} needs {missing}: give a table of the photos that says them, see "
                    f"docs/your-photos.md."
                )
            scores, embeddings = method.score_and_embed(shown)
            scores = score_photos(method, shown, scores)
            embeddings = checked_embeddings(record.method, {NEW: embeddings}, {NEW: shown}).get(NEW)
            windows = method.windows(shown)
        lacks = () if shown.viewpoints is None else self._lacking(shown.viewpoints)
        gallery = None if embeddings is None else _compared(restored, embeddings.shape[1], added)
        return _Asked(
            record, folder, restored.benchmark, identities, scores, embeddings, gallery, windows, lacks
        )

    def _lacking(self, viewpoints: Rows) -> tuple[str, ...]:
        """What is to be known of photos (photos,) whose viewpoint the run does not know."""
        without = np.flatnonzero(viewpoints == UNKNOWN)
        if not len(without):
            return ()
        named = sorted(set(self.new.table["viewpoint"].iloc[without]) - {""})
        named_so = f" (of {', '.join(named[:3])} it knows none)" if named else ""
        return (
            f"{len(without)} photo(s) name no viewpoint that the run knows{named_so} and are compared with "
            f"photos of all sides: give a table with a column viewpoint.",
        )


def _compared(restored: Restored, width: int, added: NewGallery | None) -> NDArray[np.float32] | None:
    """The embedded photos of the gallery, if the run keeps one embedding of such a width for each."""
    labels = restored.views.train.known().labels
    count = len(labels) + (len(added.table) if added else 0)
    for gallery in restored.method.galleries().values():
        fits = gallery.embeddings.shape == (count, width)
        if fits and np.array_equal(gallery.labels[: len(labels)], labels):
            return gallery.embeddings
    return None


def _photos_table(table: pd.DataFrame, windows: SeenWindows | None) -> pd.DataFrame:
    """The table of photos, see `Predictions`."""
    found = table[[name for name in OF_PHOTOS if name in table]]
    found.insert(0, PHOTO, table["image"])
    return found if windows is None else found.assign(**window_columns(windows))


def _gallery_table(benchmark: Benchmark, record: RunRecord, added: NewGallery | None) -> pd.DataFrame:
    """The known photos of the run, those that joined behind them."""
    table = benchmark.catalog.table.set_index("image", drop=False)
    train = table.loc[list(benchmark.split.parts(record.fold).train)]
    known = train[train["identity"] != ""]
    every = known if added is None else pd.concat([known, added.table])
    columns = ["image", "identity", *(name for name in OF_PHOTOS if name in every)]
    return every[columns].reset_index(drop=True)


def _notes(new: NewPhotos, benchmark: Benchmark, record: RunRecord, added: NewGallery | None) -> list[str]:
    """What is to be known of the answers to these photos."""
    table, parts = new.table, benchmark.split.parts(record.fold)
    files = dict(zip(benchmark.catalog.table["image"], benchmark.catalog.table["file_digest"], strict=True))
    notes = []
    for part, what in (
        ("test", "whose score is in its record; they say nothing new of how good it is"),
        ("train", "which it has learned; what it says of them says nothing of new photos"),
    ):
        of_part = {files[image] for image in getattr(parts, part)}
        seen = [
            image
            for image, digest in zip(table["image"], table["file_digest"], strict=True)
            if digest in of_part
        ]
        if seen:
            notes.append(f"{len(seen)} photo(s) are {part} photos of {record.run}, first {seen[0]}, {what}.")
    if record.transductive:
        notes.append(
            f"{record.run} has learned from the bare test photos that its score is of: others may be "
            f"answered less well."
        )
    whole = len(table) if REGION[0] not in table else int(table[REGION[0]].isna().sum())
    if benchmark.catalog.has_given_boxes and whole:
        notes.append(
            f"{whole} photo(s) have no box and are seen whole, but those of {benchmark.name} are the parts "
            f"within their boxes: give a table with x0, y0, x1 and y1."
        )
    return notes if added is None else [*notes, added.said()]
