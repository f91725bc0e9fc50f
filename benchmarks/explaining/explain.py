"""Why a run scores as it does: where it looks, and what is left of its score without background or animal.

The diagnosis is MAP@5 on test photos without background, without animal, and mirrored; the picture shows
where the method looks in some of them, and whom it answered with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core import ledger, record
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.outputs import check_output
from whalebench.benchmarks.core.photos import Size
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import Diagnosis
from whalebench.benchmarks.core.saliency import HEAT_SIZE, Saliency, read_saliency, strength, write_saliency
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.explaining.altered import Heat, Occlusion, alterations, find_regions, occlude
from whalebench.benchmarks.explaining.answers import CANDIDATES, Answer, file_of, find_answer
from whalebench.benchmarks.pictures import HeatPhoto, draw_heat, picture_format
from whalebench.benchmarks.running.folds import NEW
from whalebench.benchmarks.running.restored import Restored, restore_run
from whalebench.methods.guests import blamed
from whalebench.reports.metrics.calibration import UNCALIBRATED, Calibration, calibration_of
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.summary import summarize

SMALL: Size = (64, 96)
"""Height and width at which the mean background is taken for a method that names no size."""
KINDS = ("mask", "box", "landmarks")
NOT_ANNOTATED = "no test photo has a mask, a box or two landmarks to say where the animal is"
MOST_PHOTOS = 64
SMALLEST_BOX, LARGEST_BOX = 0.04, 0.5


@dataclass(frozen=True)
class Explanation:
    """The answer of `whalebench explain`."""

    run: str
    diagnosis: Diagnosis
    picture: Path
    shown: list[dict[str, Any]]
    """One row a photo of the picture."""

    def document(self) -> dict[str, Any]:
        """The answer as one JSON document."""
        diagnosis = self.diagnosis.model_dump(mode="json")
        return {"run": self.run, **diagnosis, "picture": str(self.picture), "shown": self.shown}


def explain(
    run: str,
    workspace: Workspace,
    progress: Progress = SILENT,
    *,
    photos: int = 8,
    images: Sequence[str] = (),
    box: float = 0.15,
    out: Path | None = None,
    force: bool = False,
) -> Explanation:
    """The diagnosis of a run, kept beside its record, and a picture of where it looks.

    The picture shows `images`, or so many known test photos from the best to the worst ranked, half of them
    wrong; its box hides `box` of a photo's width and height at a time. A diagnosis that is there is read, not
    repeated, unless force, and its maps are kept with those of other photos, see `read_saliency`. Raises
    WhalebenchError for what cannot be explained.
    """
    _check_options(photos, box)
    folder = record.find_run(run, workspace)
    picture = out or workspace.reports / f"explain-{folder.name}.png"
    picture_format(check_output(picture))
    restored = restore_run(run, workspace, progress)
    if restored.method.transductive:
        raise WhalebenchError(
            f"{restored.record.method} scores photos with the help of the others, so none can be altered "
            f"alone: explain a run that is not transductive."
        )
    ledger.append(workspace, ledger.Opening.of(vars(restored.record), forced=force))
    queries, catalog = record.read_predictions(folder), restored.benchmark.catalog
    if queries["image"].tolist() != list(restored.opened.answers["test"].images):
        raise WhalebenchError(
            f"{folder / record.PREDICTIONS} is of other photos than fold {restored.record.fold} tests on: "
            f"repeat the run with --force."
        )
    chosen = named_photos(images, queries, catalog) if images else choose_photos(queries, photos)
    maps = {} if force else read_saliency(folder)
    diagnosis = None if force else record.read_diagnosis(folder)
    if diagnosis is None:
        with blamed(restored.record.method):
            diagnosis = diagnose(restored, progress)
        record.write_record(folder, diagnosis, record.DIAGNOSIS)
    explained = _explain_photos(restored, queries, chosen, box, progress)
    title = f"{restored.record.run}: red where hiding the photo costs, blue where it helps"
    draw_heat([each.photo for each in explained], picture, title)
    write_saliency(folder, maps | {each.row["image"]: each.map for each in explained})
    return Explanation(restored.record.run, diagnosis, picture, [each.row for each in explained])


class Explained(NamedTuple):
    """One photo: a row of the answer, a row of the picture, and what is kept of it."""

    row: dict[str, Any]
    photo: HeatPhoto
    map: Saliency


def _explain_photos(
    restored: Restored, queries: pd.DataFrame, chosen: Sequence[int], box: float, progress: Progress
) -> list[Explained]:
    """What there is to show of the chosen test photos."""
    progress.stage("occlude")
    matches, explained = record.read_matches(restored.folder, restored.record), []
    for index in chosen:
        query, match = queries.iloc[index], None if matches is None else matches.iloc[index]
        answer = find_answer(query, match, restored.benchmark, restored.record.fold)
        with blamed(restored.record.method):
            explained.append(_explain_photo(restored, query, index, box, answer))
        progress.advance(len(explained), len(chosen))
    return explained


def _explain_photo(
    restored: Restored, query: pd.Series[Any], index: int, box: float, answer: Answer
) -> Explained:
    """One test photo, looked at."""
    views, truth = restored.views, answer.truth
    identities = views.train.identities
    # A new individual has no column: then the best candidate is followed.
    followed = int(restored.scores[index].argmax()) if truth == NEW else identities.index(truth)
    occlusion = occlude(
        restored.method,
        views.queries()["test"].select([index]),
        followed,
        _calibration(restored),
        side=box,
        region=find_regions(restored.opened.annotated["test"].select([index])),
    )
    row = {
        "image": str(query["image"]),
        "truth": truth,
        "rank": None if np.isnan(query["rank"]) else float(query["rank"]),
        **answer.facts(),
        "followed": identities[followed],
        "largest_drop": occlusion.largest,
        "on_animal": occlusion.on_animal,
        "animal": occlusion.animal,
    }
    height, width = (int(side) for side in views.test.shapes[index])
    path, region = file_of(restored.benchmark, row["image"])
    beside, words = answer.photo(restored.benchmark), _in_words(occlusion)
    drawn = HeatPhoto(path, (height, width), occlusion.heat, _title(row), words, region, beside)
    return Explained(row, drawn, Saliency(identities[followed], kept_heat(occlusion.heat)))


def kept_heat(heat: Heat) -> NDArray[np.float16]:
    """A heat map as it is kept: of HEAT_SIZE, from -1 to 1."""
    high, wide = HEAT_SIZE
    means = heat.reshape(high, heat.shape[0] // high, wide, heat.shape[1] // wide).mean(axis=(1, 3))
    return strength(means).astype(np.float16)


def _title(row: dict[str, Any]) -> tuple[str, ...]:
    """The line above a photo, part by part."""
    rank = "unranked" if row["rank"] is None else f"rank {row['rank']:g}"
    followed = (", as ", row["followed"]) if row["truth"] == NEW else ()
    return row["image"], "    ", row["truth"], f", {rank}", *followed


def _in_words(occlusion: Occlusion) -> str:
    """The caption of a photo: what matters in it."""
    text = f"hiding one place costs up to {occlusion.largest:.2f} of log probability"
    if occlusion.on_animal is None or occlusion.animal is None:
        return text
    on_animal = f"{occlusion.on_animal:.0%} of what matters is on the animal"
    return f"{text}; {on_animal}, {occlusion.animal:.0%} of the photo"


def _check_options(photos: int, box: float) -> None:
    if not 1 <= photos <= MOST_PHOTOS:
        raise WhalebenchError(f"--photos {photos} cannot be shown: give a number from 1 to {MOST_PHOTOS}.")
    if not SMALLEST_BOX <= box <= LARGEST_BOX:
        raise WhalebenchError(
            f"--box {box} cannot slide: give a share of a photo's side from {SMALLEST_BOX} to {LARGEST_BOX}."
        )


def choose_photos(queries: pd.DataFrame, count: int) -> list[int]:
    """Rows of so many test photos, half of them wrong if so many are, each half spread over its ranks.

    Photos of known individuals come first; *new* ones only where none is known.
    """
    known = queries[queries["truth"] != NEW]
    ordered = (known if len(known) else queries).sort_values(["rank", "log_loss", "image"], kind="stable")
    right = ordered.index[ordered["rank"] <= 1]
    wrong = ordered.index[~(ordered["rank"] <= 1)]
    of_wrong = min(len(wrong), max(count // 2, count - len(right)))
    halves = [(right, min(len(right), count - of_wrong)), (wrong, of_wrong)]
    places = [
        half[np.linspace(0, len(half) - 1, number).round().astype(int)] for half, number in halves if number
    ]
    return [int(row) for half in places for row in half]


def named_photos(images: Sequence[str], queries: pd.DataFrame, catalog: Catalog) -> list[int]:
    """Rows of the test photos of these names, each once; raises WhalebenchError for any other name."""
    place = columns_of(queries["image"])
    first = next(iter(place))
    for image in images:
        if image in place:
            continue
        if image in set(catalog.table["image"]):
            raise WhalebenchError(
                f"Photo '{image}' is no test photo of this run, so it was not identified: choose one "
                f"that is, such as '{first}'."
            )
        hint = did_you_mean(image, place, f"the test photos begin with '{first}'.")
        raise WhalebenchError(f"There is no photo '{image}' in {catalog.name}: {hint}")
    return [place[image] for image in dict.fromkeys(images)]


def diagnose(restored: Restored, progress: Progress = SILENT) -> Diagnosis:
    """MAP@5 of a run on altered test photos, evaluated by the very code path that evaluated test.

    Photos whose animal is not annotated are left out where it, or what is round it, is painted over.
    """
    test = restored.views.queries()["test"]
    regions = find_regions(restored.opened.annotated["test"])
    shown = np.flatnonzero(regions.kinds != "none")
    if (regions.kinds == "mask").any():  # decoded with progress, before they are needed
        progress.stage("decode")
        for size in restored.method.sizes():
            restored.benchmark.store.masks(size, progress.advance, cores())
    queries = {"test": _evaluate(restored, np.arange(len(test)), restored.scores)}
    if len(shown):
        queries["annotated"] = queries["test"].iloc[shown]
    altered = alterations(test, regions, shown, (*restored.method.sizes(), SMALL)[0])
    for done, (name, (indices, photos)) in enumerate(altered.items()):
        progress.stage(name)
        queries[name] = _evaluate(restored, indices, restored.method.score(photos))
        progress.advance(done + 1, len(altered))
    chance_levels = {name: chance(table) for name, table in queries.items()}
    blind = chance_levels.get("without_animal", chance_levels["test"])
    scores = {name: summarize(table)["map_at_5"] for name, table in queries.items()}
    missing = dict.fromkeys(("annotated", "without_background", "without_animal"))
    counts = {kind: int((regions.kinds == kind).sum()) for kind in (*KINDS, "none")}
    return Diagnosis(
        map_at_5=missing | scores | {"chance": blind},
        chance=missing | chance_levels,
        photos={"test": len(test)} | counts,
        region=" or ".join(kind for kind in KINDS if counts[kind]) or "none",
        reason="" if len(shown) else NOT_ANNOTATED,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def chance(queries: pd.DataFrame) -> float:
    """MAP@5 of the same answers given to the wrong photos: the mean over all pairings of answers and truths.

    What somebody gets who does not look at the photos but knows which answers are worth giving. Where *new*
    is often the answer and often the truth, this is far above one in so many individuals.
    """
    share = queries["truth"].value_counts(normalize=True)
    places = [queries[column].map(share).fillna(0.0) / (rank + 1) for rank, column in enumerate(CANDIDATES)]
    return float(sum(place.mean() for place in places))


def _evaluate(restored: Restored, indices: NDArray[np.int64], scores: Any) -> pd.DataFrame:
    """One row a photo, by what the run chose on valid: its calibration, its threshold of *new*."""
    answers, chosen = restored.opened.answers["test"], restored.record.chosen
    values = np.asarray(scores, np.float32)
    threshold = chosen.get("new_threshold")
    return evaluate_queries(
        images=[answers.images[index] for index in indices],
        truth=[answers.truth[index] for index in indices],
        clusters=[answers.clusters[index] for index in indices],
        identities=restored.views.train.identities,
        scores=values,
        probabilities=_calibration(restored),
        new_scores=-values.max(axis=1),
        new_threshold=None if threshold is None else float(str(threshold)),
        new_rule=restored.method.config.new_rule,
    )


def _calibration(restored: Restored) -> Calibration:
    """What the run chose on valid to make probabilities by."""
    return calibration_of(restored.record.chosen) or UNCALIBRATED
