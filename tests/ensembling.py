"""Finished runs made without learning, and ensembles of them, for the tests of `benchmarks/ensembles`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.files import with_digest
from whalebench.benchmarks.core.record import (
    RECORD,
    WEIGHTS,
    RunRecord,
    write_arrays,
    write_predictions,
    write_record,
    write_scores,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.ensemble import Ensemble, EnsembleRequest, ensemble
from whalebench.benchmarks.ensembles.members import (
    FoldData,
    Member,
    find_members,
    lineage_facts,
    load_fold,
    read_members,
)
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark, make_split
from whalebench.benchmarks.running.evaluation import PLAIN, evaluate_scores

Embeddings = dict[str, NDArray[np.float32]]
"""By `valid`, `test` and perhaps `gallery`."""


def split_tiny(root: Path, shared_tiny: Workspace, valid_share: float = 0.4) -> Workspace:
    """A workspace with `tiny` and a split whose valid is large, and has known and new photos."""
    workspace = Workspace.open(root / "workspace")
    import_csv(shared_tiny.root.parent / "source" / "table.csv", "tiny", workspace)
    make_split("tiny", workspace, protocol="auto", folds=3, singles="new", valid_share=valid_share, seed=0)
    return workspace


def fold_of(workspace: Workspace, number: int = 0) -> FoldData:
    """A fold of `tiny`."""
    benchmark = load_benchmark("tiny", workspace)
    digests = {"catalog_digest": benchmark.catalog.digest, "split_digest": benchmark.split.digest}
    return load_fold(_record(run="none", fold=number, **digests), workspace)


def _record(**facts: Any) -> RunRecord:
    none: dict[str, Any] = {"environment": {}, "hardware": {}, "counts": {}, "config": {}, "cmc": []}
    none |= {"metrics": {}, "valid_metrics": {}, "seconds": {"learn": 1.0}, "created": "2026-01-01"}
    said = {"benchmark": "tiny", "method": facts["run"], "fold": 0, "seed": 0, "track": "plain"}
    return RunRecord(**none | said | facts)


def make_run(
    workspace: Workspace,
    name: str,
    quality: float,
    seed: int,
    *,
    fold: int = 0,
    fitted: tuple[str, ...] | None = None,
    embeddings: Mapping[str, NDArray[np.float32]] | None = None,
    **facts: Any,
) -> Path:
    """The folder of a run that scores the truth `quality` higher than chance, made without learning."""
    data = fold_of(workspace, fold)
    benchmark = data.benchmark
    digests = benchmark.catalog.table.set_index("image")["content_digest"]
    train = benchmark.split.parts(fold).train
    lineage = {"network": sorted(set(digests.loc[list(train)])) if fitted is None else list(fitted)}
    embedded, weights = dict(embeddings or {}), {}
    if "gallery" in embedded:
        lineage["gallery"] = sorted(set(data.gallery_digests))
        weights = {"gallery": embedded.pop("gallery"), "labels": data.gallery_labels}
    scores = random_scores(data, quality, seed)
    answers = {"valid": data.valid, "test": data.test}
    evaluation = evaluate_scores(data.identities, scores, answers, PLAIN)
    record = _record(
        run=name,
        fold=fold,
        catalog_digest=benchmark.catalog.digest,
        split_digest=benchmark.split.digest,
        metrics=evaluation.metrics,
        valid_metrics=evaluation.valid_metrics,
        cmc=evaluation.cmc,
        chosen=dict(evaluation.chosen),
        lineage=lineage_facts(lineage),
        **facts,
    )
    folder = workspace.runs / name
    folder.mkdir()
    write_predictions(folder, evaluation.queries)
    names = {"identities": data.identities, "valid": data.valid.images, "test": data.test.images}
    arrays = {f"{part}_scores": values for part, values in scores.items()}
    arrays |= {f"{part}_embeddings": values for part, values in embedded.items()}
    write_scores(folder, arrays, names)
    write_arrays(folder / WEIGHTS, weights, "lineage", lineage)
    write_record(folder, record)
    return folder


def random_scores(fold: FoldData, quality: float, seed: int) -> dict[str, NDArray[np.float32]]:
    """Cosine-like scores of valid and test with the truth `quality` above the rest."""
    rng, scores = np.random.default_rng(seed), {}
    for part, answers in (("valid", fold.valid), ("test", fold.test)):
        drawn = rng.normal(0, 0.4, (len(answers.images), len(fold.identities)))
        for row, truth in enumerate(answers.truth):
            if truth in fold.identities:
                drawn[row, fold.identities.index(truth)] += quality
        scores[part] = drawn.astype(np.float32)
    return scores


def embedded(fold: FoldData, seed: int, noise: float = 1.0) -> Embeddings:
    """Embeddings of valid, test and gallery about a centre of each individual, of new photos about 0."""
    rng = np.random.default_rng(seed)
    centres = dict(zip(fold.identities, rng.normal(size=(len(fold.identities), 6)), strict=True))
    truths = {"valid": fold.valid.truth, "test": fold.test.truth, "gallery": fold.gallery}
    return {
        part: np.array(
            [centres.get(truth, np.zeros(6)) + noise * rng.normal(size=6) for truth in named], np.float32
        )
        for part, named in truths.items()
    }


def combine(workspace: Workspace, *runs: str, force: bool = False, **asked: Any) -> Ensemble:
    """The ensemble of those runs."""
    return ensemble(EnsembleRequest(runs, **asked), workspace, force=force)


def members_of(workspace: Workspace, *names: str) -> tuple[FoldData, list[Member]]:
    """The fold of those runs, and the runs with their scores."""
    runs = find_members(names, workspace)
    fold = load_fold(runs[0].record, workspace)
    return fold, list(read_members(runs, fold))


def change_record(folder: Path, **fields: Any) -> None:
    """Makes the record in the folder say other things, as if it had been written so."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    (folder / RECORD).write_text(json.dumps(with_digest(record | fields)), encoding="utf-8")


def change_predictions(folder: Path, queries: pd.DataFrame) -> None:
    """Makes the per-query table of a run another one, as if it had been written so."""
    write_predictions(folder, queries)
    change_record(folder, files={})


def change_lineage(folder: Path, lineage: Mapping[str, list[str]], **arrays: NDArray[Any]) -> None:
    """Makes weights and record both say this lineage; the weights hold those arrays."""
    write_arrays(folder / WEIGHTS, arrays, "lineage", lineage)
    change_record(folder, lineage=lineage_facts(lineage))
