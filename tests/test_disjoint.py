"""The disjoint protocol: a gallery of individuals that train never shows, from the split to the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.test_protocols import catalog
from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark, make_split
from whalebench.benchmarks.running.folds import DISJOINT, fold_views, open_fold
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.outcome import ask, evaluate_parts
from whalebench.benchmarks.running.restored import restore_run
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.methods.method import Method
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.registry import configure, find_method
from whalebench.splits.protocols import propose_split
from whalebench.splits.rules import check_split
from whalebench.splits.split import Split, read_split, write_split
from whalebench.splits.table import fold_gallery, table_text
from whalebench.splits.twin import random_twin


def shown(split: Split, fold: int, identity: pd.Series) -> dict[str, set[str]]:
    """The individuals of each part of a fold, and of its gallery."""
    parts = split.parts(fold)._asdict() | {"gallery": split.gallery(fold)}
    return {part: set(identity[list(images)]) for part, images in parts.items()}


@pytest.mark.parametrize("folds", [2, 5])
def test_who_is_tested_is_in_the_gallery_and_never_learned(folds: int) -> None:
    of = catalog()
    identity, split = (
        of.table.set_index("image")["identity"],
        propose_split(of, protocol="disjoint", folds=folds),
    )
    tested: list[str] = []
    for fold in split.folds:
        individuals = shown(split, fold, identity)
        assert individuals["test"] <= individuals["gallery"]
        assert not individuals["gallery"] & (individuals["train"] | individuals["valid"])
        assert individuals["valid"] <= individuals["train"] and "" not in individuals["gallery"]
        images = [*split.gallery(fold), *(image for part in split.parts(fold) for image in part)]
        assert sorted(images) == sorted(of.table["image"])
        tested += individuals["test"]
    # All that were met twice, but for one whose photo is said to show nobody, too.
    several = {f"w{number:02d}" for number in range(16) if number % 5}
    assert len(tested) == len(set(tested)) and set(tested) == several - {"w01"}
    counted = split.counts["folds"][0]
    assert counted["gallery"]["photos"] == len(split.gallery(split.folds[0])) and counted["test"]["new"] == 0


def test_no_encounter_is_in_the_gallery_and_among_the_queries_but_in_the_twin() -> None:
    of = catalog()
    encounter = of.table.set_index("image")["encounter"]
    split = propose_split(of, protocol="disjoint")
    twin = random_twin(split, of)

    def shared(one: Split) -> int:
        pairs = [(one.parts(fold).test, one.gallery(fold)) for fold in one.folds]
        return sum(len(set(encounter[list(a)]) & set(encounter[list(b)])) for a, b in pairs)

    assert shared(split) == 0 < shared(twin)
    assert [len(twin.gallery(fold)) for fold in twin.folds] == [len(split.gallery(f)) for f in split.folds]


def test_days_are_kept_together_where_no_encounter_is_known() -> None:
    of = catalog(encounter="")
    day = (of.table["identity"] + of.table["date"]).set_axis(of.table["image"])
    split = propose_split(of, protocol="disjoint")
    for fold in split.folds:
        assert set(day[list(split.gallery(fold))]).isdisjoint(day[list(split.parts(fold).test)])
    assert not any("same day" in warning for warning in split.warnings)


def test_the_gallery_is_kept_and_digested(tmp_path: Path) -> None:
    of = catalog()
    split = propose_split(of, protocol="disjoint")
    write_split(split, tmp_path / "split@disjoint")
    again = read_split(tmp_path / "split@disjoint", of)
    assert again.digest == split.digest and again.gallery(1) == split.gallery(1) != ()
    file = tmp_path / "split@disjoint.csv"
    assert file.read_text().startswith("image,fold,group,valid,gallery\n")
    assert propose_split(of, protocol="closed").gallery(0) == ()
    assert "gallery" not in table_text(propose_split(of, protocol="closed").table)


def only_one(table: pd.DataFrame) -> pd.DataFrame:
    """The table with all individuals but one of the test of fold 0 in its train part."""
    of_fold = (table["fold"] == 0) | (table["gallery"] == 0)
    other = of_fold & (table["image"].str[:2] != table["image"][of_fold].min()[:2])
    return table.assign(fold=table["fold"].mask(other, -1), gallery=table["gallery"].mask(other, -1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (only_one, "holds fewer than two individuals"),
        (lambda table: table.drop(columns="gallery"), "a gallery is that of a disjoint split"),
        (
            lambda table: table.assign(gallery=table["gallery"].replace({0: -1})),
            "in the test of fold 0 and in its",
        ),
        (
            lambda table: table.assign(fold=table["fold"].where(table["gallery"] != 0, 0)),
            "and in another part",
        ),
    ],
)
def test_a_table_that_is_not_disjoint_is_refused(change: Any, sentence: str) -> None:
    of = catalog()
    split = propose_split(of, protocol="disjoint")
    with pytest.raises(WhalebenchError, match=sentence):
        check_split(change(split.table), of, "disjoint", split.parameters)


def test_individuals_met_once_cannot_be_tested() -> None:
    of = catalog(encounter=catalog().table["identity"].tolist(), content_digest="")
    with pytest.raises(WhalebenchError, match="No individual of drawn was met twice") as caught:
        propose_split(of, protocol="disjoint")
    assert len(str(caught.value)) <= 300
    with pytest.raises(WhalebenchError, match="singles=new cannot be by disjoint"):
        propose_split(of, protocol="disjoint", singles="new")


@pytest.fixture
def apart(tiny: Workspace) -> Workspace:
    """The benchmark tiny with a disjoint split: three individuals are tested in each of two folds."""
    make_split("tiny@disjoint", tiny, protocol="disjoint", folds=2)
    return tiny


def test_queries_are_scored_by_the_nearest_photo_of_the_gallery(
    apart: Workspace, tiny_settings: tuple[str, ...]
) -> None:
    """Against a plain loop over its photos; the method is shown none of their names."""
    benchmark = load_benchmark("tiny@disjoint", apart)
    config = configure(find_method("softmax"), tiny_settings)
    views, method = fold_views(benchmark, 0), build_method("softmax", config)
    assert views.gallery is not None and type(views.gallery) is type(views.test)
    assert views.gallery.labels is views.gallery.annotations is None
    harness = RunHarness(0, torch.device("cpu"), views, SILENT, config)
    harness.fit(method)
    with pytest.raises(RunFailedError, match="outside train of this fold"):
        harness.fitted("gallery", views.gallery)
    opened = open_fold(benchmark, 0)
    submission = ask(method, views, harness)
    outcome = evaluate_parts(submission, views, opened, harness)
    scores, found = outcome.arrays["test_scores"], submission.embeddings
    assert opened.candidates[: len(views.train.identities)] == views.train.identities
    for row, query in enumerate(found["test"]):
        for column, name in enumerate(opened.candidates):
            own = [photo for photo, who in zip(found["gallery"], opened.gallery, strict=True) if who == name]
            cosines = [photo @ query / np.linalg.norm(photo) / np.linalg.norm(query) for photo in own]
            assert scores[row, column] == pytest.approx(max(cosines, default=-1.0), abs=1e-5)
    known = np.array(opened.answers["test"].truth)
    best = np.array(opened.candidates)[scores.argmax(axis=1)]
    assert outcome.metrics["top_1"] == pytest.approx((known == best).mean(), abs=0.05)
    assert set(opened.answers["test"].truth) <= set(opened.gallery)
    valid = outcome.arrays["valid_scores"][:, len(views.train.identities) :]
    assert valid.size and (valid == -1).all()


def test_a_run_and_its_twin_are_kept_and_reported(apart: Workspace, tiny_settings: Any, cli: Any) -> None:
    record = run(RunRequest("softmax", "tiny@disjoint", settings=tiny_settings, device="cpu"), apart)
    twin = run(RunRequest("softmax", "tiny@disjoint-twin", settings=tiny_settings, device="cpu"), apart)
    assert record.counts["gallery_photos"] == 9 and record.counts["gallery_identities"] == 3
    assert record.counts["test_new_photos"] == 0 and DISJOINT in record.warnings
    assert record.metrics["top_1"] is not None and record.metrics["map_at_r"] is not None
    assert record.usage is not None and record.usage.looks == 1
    assert twin.twin_of == record.split_digest and twin.counts["test_photos"] == record.counts["test_photos"]
    folder = ("--workspace", apart.root)
    rows = json.loads(cli("report", "--benchmark", "tiny@disjoint", "--json", *folder).out)
    assert len(rows) == 1
    assert cli("show", record.run, *folder).code == cli("rescore", *folder).code == 0
    assert "gallery" in cli("split", "show", "tiny@disjoint", *folder).out
    with pytest.raises(WhalebenchError, match="choose a run on a split that is not disjoint"):
        restore_run(record.run, apart)
    fused = cli("ensemble", record.run, record.run, *folder)
    assert fused.code == 2
    fused = cli("ensemble", record.run, "--then", "balance", *folder)
    assert fused.code == 2 and "ensembles do not know of" in fused.err


def test_a_method_that_cannot_answer_is_told_so(
    apart: Workspace, tiny_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = f"of_settings={','.join(tiny_settings)}"
    record = run(RunRequest("pseudo", "tiny@disjoint", settings=(inner,), device="cpu"), apart)
    assert record.unfit == (
        "tiny@disjoint has no individual of test in train, for which pseudo takes its photos"
    )
    monkeypatch.setattr(find_method("softmax"), "embed", Method.embed)
    record = run(RunRequest("softmax", "tiny@disjoint", settings=tiny_settings, device="cpu"), apart)
    assert record.unfit.endswith("and softmax embeds no photos to compare with its gallery")
    with pytest.raises(RunFailedError, match="sift embeds no photos, so none can be compared with a gallery"):
        run(RunRequest("sift", "tiny@disjoint", device="cpu"), apart)


def test_the_gallery_of_no_fold_is_empty_elsewhere(tiny: Workspace) -> None:
    make_split("tiny", tiny, folds=2)
    benchmark = load_benchmark("tiny", tiny)
    assert fold_views(benchmark, 0).gallery is None and open_fold(benchmark, 0).gallery == ()
    assert fold_gallery(benchmark.split.table, 0) == ()
