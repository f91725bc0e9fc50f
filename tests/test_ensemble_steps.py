"""Steps taken with an ensemble's scores: against slow twins and hand-made cases, and blind to the answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.record import (
    SCORES,
    WEIGHTS,
    read_arrays,
    read_predictions,
    read_record,
    write_scores,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles import reranking
from whalebench.benchmarks.ensembles.heuristics import Balance, Bursts, Duplicates, Sizes
from whalebench.benchmarks.ensembles.members import FoldData, find_members, read_members
from whalebench.benchmarks.ensembles.options import read_groups
from whalebench.benchmarks.ensembles.reranking import Expansion, ExpansionTogether, one_by_one, together
from whalebench.benchmarks.ensembles.step import Gallery, Queries, Step, StepInputs, build_inputs
from whalebench.benchmarks.ensembles.steps import STEPS, WITHOUT, choose_setting, run_steps
from whalebench.benchmarks.running.evaluation import PLAIN, evaluate_scores
from whalebench.benchmarks.running.folds import NEW
from whalebench.reports.metrics.jackknife import paired_difference
from whalebench.reports.run_report import ensemble_document
from whalebench.tests.ensembling import change_lineage, combine, fold_of, make_run, split_tiny

Cli = Callable[..., Any]
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4])


def at_length_1(rows: int, seed: int, dimensions: int = 4) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(rows, dimensions))
    found: NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return found


def some_queries(photos: int = 9, **facts: Any) -> Queries:
    """Photos with random scores of five individuals, and embeddings."""
    scores = np.random.default_rng(3).normal(size=(photos, 5)).astype(np.float32)
    sizes = np.random.default_rng(4).choice([30, 40], (photos, 2))
    encounters = tuple(f"e{place // 2}" for place in range(photos))
    base = Queries(scores, 0.5, 2.0, sizes, encounters, at_length_1(photos, 1))
    return replace(base, **facts)


def some_gallery(**facts: Any) -> Gallery:
    sizes = np.random.default_rng(5).choice([30, 40], (len(LABELS), 2))
    return replace(Gallery(LABELS, sizes, at_length_1(len(LABELS), 2), ((1, 3),)), **facts)


def logits(*rows: list[float]) -> NDArray[np.float32]:
    """Scores whose softmax at temperature 1 are these probabilities."""
    return np.log(np.array(rows)).astype(np.float32)


def published_jaccard(embeddings: NDArray[np.float32], queries: int, k1: int, k2: int) -> NDArray[np.float64]:
    """1 - Jaccard distance (queries, rest) as in the code of Zhong et al. 2017, in loops."""
    distance = 2 - 2 * embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    np.fill_diagonal(distance, 0)
    distance /= distance.max(axis=1, keepdims=True)
    ranked = np.argsort(distance, axis=1)

    def reciprocal_of(photo: int, k: int) -> set[int]:
        return {other for other in ranked[photo, : k + 1] if photo in ranked[other, : k + 1]}

    codes = np.zeros_like(distance)
    for photo in range(len(distance)):
        whole = reciprocal_of(photo, k1)
        joined = set(whole)
        for member in whole:
            half = reciprocal_of(member, round(k1 / 2))
            if len(half & whole) > 2 / 3 * len(half):
                joined |= half
        for member in joined:
            codes[photo, member] = np.exp(-distance[photo, member])
        codes[photo] /= codes[photo].sum()
    codes = np.stack([codes[ranked[photo, :k2]].mean(axis=0) for photo in range(len(codes))])
    return np.array(
        [
            [np.minimum(one, other).sum() / np.maximum(one, other).sum() for other in codes[queries:]]
            for one in codes[:queries]
        ]
    )


@pytest.mark.parametrize(("k1", "k2"), [(5, 2), (7, 1), (4, 3)])
def test_k_reciprocal_together_is_the_published_one(k1: int, k2: int) -> None:
    query, gallery = at_length_1(15, 6), at_length_1(25, 7)
    slow = published_jaccard(np.concatenate([query, gallery]), len(query), k1, k2)
    found = np.concatenate([*reranking.jaccard(*together(query, gallery, k1, k2))])
    np.testing.assert_allclose(found, slow, atol=1e-5)
    assert (slow > 0).mean() > 0.1


@pytest.mark.parametrize(("k1", "k2"), [(5, 2), (7, 1), (4, 3)])
def test_k_reciprocal_one_by_one_is_what_it_says(k1: int, k2: int) -> None:
    """Neighbourhoods of the gallery alone; a query is in those that it is near enough to."""
    query, gallery = at_length_1(15, 6).astype(np.float64), at_length_1(25, 7).astype(np.float64)
    inner = gallery @ gallery.T
    np.fill_diagonal(inner, 2)
    ranked = np.argsort(-inner, axis=1)

    def mutual(photo: int, k: int) -> set[int]:
        return {other for other in ranked[photo, : k + 1] if photo in ranked[other, : k + 1]}

    def code_of(whole: set[int], cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        joined = set(whole)
        for member in whole:
            half = mutual(member, round(k1 / 2))
            if len(half & whole) > 2 / 3 * len(half):
                joined |= half
        code = np.zeros(len(gallery))
        for member in joined:
            code[member] = np.exp(-(1 - cosines[member]) / (1 - cosines.min()))
        return code / max(code.sum(), 1e-12)

    raw = [code_of(mutual(photo, k1), gallery @ gallery[photo]) for photo in range(len(gallery))]
    theirs = [np.mean([raw[other] for other in ranked[photo, :k2]], axis=0) for photo in range(len(gallery))]
    slow = np.zeros((len(query), len(gallery)))
    for row, one in enumerate(query):
        cosines = gallery @ one
        near = np.argsort(-cosines)[:k1]
        own = code_of({photo for photo in near if cosines[photo] >= inner[photo, ranked[photo, k1]]}, cosines)
        own = np.mean([own, *(raw[photo] for photo in near[: k2 - 1])], axis=0)
        slow[row] = [np.minimum(own, each).sum() / np.maximum(own, each).sum() for each in theirs]
    codes = one_by_one(query.astype(np.float32), gallery.astype(np.float32), k1, k2)
    found = np.concatenate([*reranking.jaccard(*codes)])
    np.testing.assert_allclose(found, slow, atol=1e-5)
    assert (slow > 0).mean() > 0.1


@pytest.mark.parametrize("step", [Expansion, ExpansionTogether])
def test_expansion_is_a_sum_over_neighbours(step: type[Expansion]) -> None:
    queries, gallery = some_queries(), some_gallery()
    assert queries.embeddings is not None
    assert gallery.embeddings is not None
    setting = {"neighbours": 3.0, "alpha": 3.0, "own": 0.25}
    for row, one in enumerate(queries.embeddings.astype(np.float64)):
        others = np.delete(queries.embeddings, row, axis=0)
        pool = np.concatenate([gallery.embeddings, others]) if step.transductive else gallery.embeddings
        near = sorted(pool, key=lambda other, one=one: -float(one @ other))[:3]  # type: ignore[misc]
        added = one + sum(max(float(one @ other), 0) ** 3 * other for other in near)
        cosines = gallery.embeddings @ (added / np.linalg.norm(added))
        nearest = [cosines[label == LABELS].max() for label in range(5)]
        slow = 0.25 * queries.scores[row] / 2.0 + 0.75 * np.array(nearest)
        np.testing.assert_allclose(step(gallery).scores(queries, setting)[row], slow, atol=1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = STEPS[name].settings[-1]
    at_once = STEPS[name](some_gallery()).scores(some_queries(), setting)
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", 25)
    for constant, size in (("CELLS", 500), ("PAIRS", 7), ("ROWS", 2)):
        monkeypatch.setattr(reranking, constant, size)
    np.testing.assert_allclose(
        STEPS[name](some_gallery()).scores(some_queries(), setting), at_once, atol=1e-6
    )


@pytest.mark.parametrize("name", STEPS)
def test_only_transductive_steps_look_at_the_photos_beside(name: str) -> None:
    whole = some_queries()
    scores = np.repeat(logits([0.2, 0.4, 0.39, 0.005, 0.005]), 9, axis=0)
    scores[5] = logits([0.9, 0.04, 0.03, 0.02, 0.01])
    whole = replace(whole, scores=scores, temperature=1.0, encounters=tuple("aabbccccd"))
    setting = STEPS[name].settings[-1]
    among, alone = STEPS[name](some_gallery()).scores(whole, setting), []
    for row in range(9):
        assert whole.embeddings is not None
        one = replace(
            whole,
            scores=scores[row : row + 1],
            sizes=whole.sizes[row : row + 1],
            encounters=whole.encounters[row : row + 1],
            embeddings=whole.embeddings[row : row + 1],
        )
        alone.append(STEPS[name](some_gallery()).scores(one, setting)[0])
    assert np.allclose(among, alone, atol=1e-6) != STEPS[name].transductive


@pytest.mark.parametrize("name", STEPS)
def test_what_a_step_remembers_changes_nothing(name: str) -> None:
    step, others = (
        STEPS[name](some_gallery()),
        [some_queries(), some_queries(9, scores=some_queries().scores[::-1])],
    )
    for queries in others:
        for setting in (*STEPS[name].settings, STEPS[name].settings[0]):
            fresh = STEPS[name](some_gallery()).scores(queries, setting)
            np.testing.assert_array_equal(step.scores(queries, setting), fresh)


def test_no_step_changes_what_it_is_given() -> None:
    for name, kind in STEPS.items():
        queries = some_queries()
        before = queries.scores.copy()
        found = kind(some_gallery()).scores(queries, kind.settings[0])
        np.testing.assert_array_equal(queries.scores, before, err_msg=name)
        assert found is not queries.scores
        assert (found.dtype, found.shape) == (np.float32, before.shape)


def test_a_step_is_shown_no_answers() -> None:
    shown = {"scores", "temperature", "unit", "sizes", "encounters", "embeddings"}
    assert {field.name for field in fields(Queries)} == shown
    assert {field.name for field in fields(Gallery)} == {"labels", "sizes", "embeddings", "groups"}


def test_balance_swaps_close_seconds_nobody_is_called() -> None:
    scores = logits(
        [0.50, 0.30, 0.15, 0.05],  # gap 0.20 to 1, who is nobody's first
        [0.50, 0.05, 0.35, 0.10],  # gap 0.15 to 2: nearer, so before the one above
        [0.90, 0.05, 0.03, 0.02],  # too far apart
        [0.45, 0.05, 0.10, 0.40],  # 3 is somebody's first
        [0.05, 0.05, 0.10, 0.80],
        [0.50, 0.04, 0.33, 0.13],  # gap 0.17 to 2, who by then is somebody's first
    )
    queries = some_queries(6, scores=scores, temperature=1.0)
    found = Balance(some_gallery()).scores(queries, {"gap": 0.3, "many": 1.0})
    # 0 is the first of five photos; on average two named individuals are that of three. After one swap it is
    # that of four, and three that of two.
    assert found.argmax(axis=1).tolist() == [1, 2, 0, 0, 3, 0]
    assert found[1].tolist() == scores[1, [2, 1, 0, 3]].tolist()
    strict = Balance(some_gallery()).scores(queries, {"gap": 0.3, "many": 1.7})
    assert strict.argmax(axis=1).tolist() == [0, 0, 0, 0, 3, 0]
    near = Balance(some_gallery()).scores(queries, {"gap": 0.16, "many": 1.0})
    assert near.argmax(axis=1).tolist() == [0, 2, 0, 0, 3, 0]


def test_duplicates_stand_right_after_the_first() -> None:
    scores = np.array(
        [
            [0.9, 0.8, 0.1, 0.7, 0.2],  # 0 is in a group of three: 2, 4
            [0.3, 0.9, 0.1, 0.2, 0.1],  # 1 is in none
            [0.1, 0.2, 0.3, 0.6, 0.5],  # 3 is in none
            [0.1, 0.9, 0.9, 0.2, 0.3],  # 1 before 2 by its column only, and in none
            [0.9, 0.9, 0.2, 0.2, 0.1],  # 0 and 1 have one score
        ],
        np.float32,
    )
    step = Duplicates(some_gallery(groups=((0, 2, 4),)))
    found = step.scores(some_queries(5, scores=scores), {})
    order = np.argsort(-found, axis=1, kind="stable").tolist()
    assert order[0] == [0, 4, 2, 1, 3]
    assert order[4] == [0, 2, 4, 1, 3]
    np.testing.assert_array_equal(found[1:4], scores[1:4])
    # As likely as the first, and no photo is more or less like anyone for it.
    assert found[0, [0, 4, 2]].tolist() == pytest.approx([0.9] * 3, abs=1e-6)


def test_groups_are_read_as_published_and_as_a_table(tmp_path: Path) -> None:
    published, table, bad = (tmp_path / name for name in ("a.csv", "b.csv", "c.csv"))
    published.write_text("Id,SubId\ngroup_0,w_2 w_1\ngroup_1,w_9 w_8 w_7\n")
    table.write_text("identity,group\nw_1,x\nw_9,y\nw_2,x\nw_8,y\nw_7,y\n")
    assert read_groups(published) == read_groups(table) == (("w_1", "w_2"), ("w_7", "w_8", "w_9"))
    whole = tmp_path / "whole.csv"
    whole.write_text(table.read_text().rstrip() + "\nw_3,\nw_4, \nw_5,\n")
    assert read_groups(whole) == read_groups(table)
    for text, said in (
        ("name,group\nw_1,x\n", "has the columns name, group: give `SubId`"),
        ("Id,SubId\na,w_1 w_2\nb,w_2 w_3\n", "puts w_2 into several groups"),
    ):
        bad.write_text(text)
        with pytest.raises(WhalebenchError, match=said):
            read_groups(bad)
    with pytest.raises(WhalebenchError, match="does not exist"):
        read_groups(tmp_path / "absent.csv")


def test_a_size_that_one_rival_has_decides() -> None:
    sizes = np.array(
        [[10, 5]] * 3 + [[20, 5]] * 2 + [[10, 5], [20, 5], [30, 5], [30, 5], [40, 5], [50, 5], [50, 5]]
    )
    gallery = some_gallery(sizes=sizes)  # 0: 10; 1: 20; 2: 10, 20, 30; 3: 40; 4: 50
    close = [0.45, 0.40, 0.05, 0.06, 0.04]
    scores = logits(close, close, close, [0.80, 0.10, 0.04, 0.03, 0.03], [0.4, 0.35, 0.2, 0.03, 0.02])
    shown = np.array([[20, 5], [10, 5], [40, 5], [20, 5], [20, 5]])
    queries = some_queries(5, scores=scores, temperature=1.0, sizes=shown)
    found = Sizes(gallery).scores(queries, {"gap": 0.3})
    # 1 alone has 20; 0 alone has 10; 3, who has 40, is no rival; 1 is too far; 1 and 2 both have 20.
    assert found.argmax(axis=1).tolist() == [1, 0, 0, 0, 0]
    assert found[0].tolist() == scores[0, [1, 0, 2, 3, 4]].tolist()
    assert Sizes(gallery).scores(queries, {"gap": 0.1}).argmax(axis=1).tolist() == [1, 0, 0, 0, 1]


def test_the_size_rule_after_duplicates_is_that_of_seed_000() -> None:
    sizes = np.array([[10, 5]] * 3 + [[20, 5]] * 9)
    gallery = some_gallery(sizes=sizes, groups=((0, 4),))
    queries = some_queries(
        1, scores=logits([0.8, 0.1, 0.05, 0.04, 0.01]), temperature=1.0, sizes=np.array([[20, 5]])
    )
    after = replace(queries, scores=Duplicates(gallery).scores(queries, {}))
    found = Sizes(gallery).scores(after, {"gap": 0.05})
    assert np.argsort(-found[0]).tolist()[:2] == [4, 0]


def test_photos_of_an_encounter_answer_together() -> None:
    scores = np.array([[1, 0], [0, 2], [5, 6], [3, 4], [7, 8]], np.float32)
    queries = some_queries(5, scores=scores, encounters=("a", "", "a", "", "b"))
    found = Bursts(some_gallery()).scores(queries, {})
    assert found.tolist() == [[3, 3], [0, 2], [3, 3], [3, 4], [7, 8]]


def test_what_does_not_fit_says_why() -> None:
    queries, gallery = some_queries(), some_gallery()
    for kind, view, others, said in (
        (Sizes, {}, {"sizes": np.zeros((12, 2), np.int64)}, "does not have the size of every photo"),
        (Bursts, {"encounters": ("",) * 9}, {}, "names no encounters of test photos"),
        (Bursts, {"encounters": tuple("abcdefghi")}, {}, "no two test photos are of one encounter"),
        (Duplicates, {}, {"groups": ()}, "no group of duplicates has two individuals"),
        (Expansion, {}, {"embeddings": None}, "no member keeps embeddings of its gallery"),
        (Balance, {"scores": queries.scores[:, :1]}, {}, "one individual only"),
    ):
        shown = replace(queries, **view)
        assert said in kind(replace(gallery, **others)).missing_requirement(shown, shown)
        assert kind(gallery).missing_requirement(queries, queries) == ""
    same = np.full((9, 2), 30)
    assert "one size, 30 x 30" in Sizes(some_gallery(sizes=np.full((12, 2), 30))).missing_requirement(
        *[replace(queries, sizes=same)] * 2
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Workspace) -> Workspace:
    """A workspace with a run that keeps embeddings of its gallery, and one that does not."""
    workspace = split_tiny(tmp_path_factory.mktemp("steps"), shared_tiny)
    make_run(workspace, "softmax", 1.0, 2)
    add_embeddings(make_run(workspace, "arcface", 0.4, 5), workspace)
    return workspace


def add_embeddings(folder: Path, workspace: Workspace) -> None:
    """Makes the run keep embeddings, those of one individual near each other."""
    fold = fold_of(workspace)
    column, labels = columns_of(fold.identities), fold.gallery_labels
    centres, rng = np.eye(len(column) + 2), np.random.default_rng(8)

    def near(places: list[int]) -> NDArray[np.float32]:
        drawn = centres[places] + rng.normal(0, 0.6, (len(places), len(centres)))
        return drawn.astype(np.float32)

    arrays, names = read_arrays(folder / SCORES, ("valid_scores", "test_scores"), "names")
    for part, answers in (("valid", fold.valid), ("test", fold.test)):
        arrays[f"{part}_embeddings"] = near([column.get(truth, len(column)) for truth in answers.truth])
    write_scores(folder, arrays, names)
    _, lineage = read_arrays(folder / WEIGHTS, (), "lineage")
    lineage |= {"gallery": sorted(set(fold.gallery_digests))}
    change_lineage(folder, lineage, gallery=near(labels.tolist()), labels=labels)


@pytest.fixture
def place(template: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to write into."""
    shutil.copytree(template.root, tmp_path / "workspace")
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def inputs(template: Workspace) -> tuple[FoldData, StepInputs, dict[str, NDArray[np.float32]]]:
    """What steps are shown of the run with embeddings, and its scores by part."""
    runs, fold = find_members(("arcface",), template, alone=True), fold_of(template)
    groups = ((fold.identities[0], fold.identities[3]),)
    arrays, _ = read_arrays(runs[0].folder / SCORES, ("valid_scores", "test_scores"), "names")
    scores = {part: arrays[f"{part}_scores"] for part in ("valid", "test")}
    return fold, build_inputs(fold, list(read_members(runs, fold)), [1.0], groups, embedded=True), scores


def test_a_gallery_that_lacks_a_photo_is_shown_to_no_step(place: Workspace) -> None:
    runs, fold = find_members(("arcface",), place, alone=True), fold_of(place)
    arrays, lineage = read_arrays(runs[0].folder / WEIGHTS, ("gallery", "labels"), "lineage")
    change_lineage(runs[0].folder, lineage | {"gallery": lineage["gallery"][1:]}, **arrays)
    runs = find_members(("arcface",), place, alone=True)
    assert build_inputs(fold, list(read_members(runs, fold)), [1.0], (), embedded=True).embeddings == {}


@pytest.mark.parametrize("name", STEPS)
def test_the_answers_to_test_change_nothing_but_its_metrics(
    name: str, inputs: tuple[FoldData, StepInputs, dict[str, NDArray[np.float32]]]
) -> None:
    fold, seen, scores = inputs
    photos = {
        part: table.assign(
            encounter=[f"e{row // 2}" for row in range(len(table))], width=np.arange(len(table)) % 2 + 1
        )
        for part, table in seen.photos.items()
    }
    gallery = replace(seen.gallery, sizes=photos["gallery"][["width", "height"]].to_numpy())
    seen = replace(seen, photos=photos, gallery=gallery)
    other = replace(fold.test, truth=fold.test.truth[::-1], identities=fold.test.identities[::-1])
    first, second = (
        run_steps((name,), dict(scores), seen, one, PLAIN) for one in (fold, replace(fold, test=other))
    )
    assert first.states[-1].unfit == ""
    assert first.states[-1].chosen == second.states[-1].chosen
    for part in ("valid", "test"):
        np.testing.assert_array_equal(first.scores[part], second.scores[part])
    assert first.evaluation.valid_metrics == pytest.approx(second.evaluation.valid_metrics, nan_ok=True)
    assert first.evaluation.metrics["map_at_5"] != second.evaluation.metrics["map_at_5"]


class Shift(Step):
    """Says that the individual `at` it is, of every photo."""

    name = "shift"
    transductive = False
    settings: ClassVar[tuple[Mapping[str, float], ...]] = ({"at": 0}, {"at": 1}, {"at": 1.5}, {"at": 2})

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        return ""

    def scores(self, queries: Queries, setting: Any) -> NDArray[np.float32]:
        found = np.zeros_like(queries.scores)
        found[:, int(setting["at"])] = 1
        return found


def test_settings_are_those_that_are_best_on_valid(
    inputs: tuple[FoldData, StepInputs, dict[str, NDArray[np.float32]]],
) -> None:
    fold, seen, scores = inputs
    truth = (*(fold.identities[1],) * 3, *(NEW,) * (len(fold.valid.truth) - 3))
    changed = replace(fold, valid=replace(fold.valid, truth=truth))
    valid = seen.queries("valid", scores["valid"], 1.0, 1.0)
    chosen = choose_setting(Shift(seen.gallery), valid, changed, PLAIN)
    assert chosen == {"at": 1}  # 1.5 is as good, and later


def test_one_run_with_a_step_is_an_ensemble_that_shows_both(place: Workspace) -> None:
    made = combine(place, "arcface", then=("reciprocal", "expansion-together"))
    record, alone = made.record, read_record(place.runs / "arcface")
    assert list(record.variants) == [WITHOUT, "reciprocal", "expansion-together"]
    variants: Any = record.variants
    for part in ("metrics", "valid_metrics"):
        found = variants[WITHOUT][part]
        own = {key: value for key, value in getattr(alone, part).items() if key != "map_at_r"}
        there = {key: value for key, value in own.items() if value is not None}
        assert {key: found[key] for key in there} == pytest.approx(there, rel=1e-3)
        assert all(found[key] is None for key in own.keys() - there.keys())
        assert variants["expansion-together"][part] == getattr(record, part)
    assert record.transductive
    assert not variants["reciprocal"]["transductive"]
    assert record.chosen["reciprocal.k1"] == variants["reciprocal"]["chosen"]["k1"]
    own = {f"0.{part}": said for part, said in alone.lineage.items()}
    assert {part: said for part, said in record.lineage.items() if part != "calibration"} == own
    tables = dict(iter(read_predictions(made.folder, "variants.parquet").groupby("variant")))
    arrays, _ = read_arrays(made.folder / SCORES, ("valid_scores", "test_scores"), "names")
    fold = fold_of(place)
    judged = evaluate_scores(
        fold.identities,
        {part: arrays[f"{part}_scores"] for part in ("valid", "test")},
        {"valid": fold.valid, "test": fold.test},
        PLAIN,
    )
    for key in ("map_at_5", "log_loss", "auroc_new"):
        assert record.metrics[key] == pytest.approx(judged.metrics[key])
    last = tables["expansion-together"].drop(columns="variant").reset_index(drop=True)
    pd.testing.assert_frame_equal(last, read_predictions(made.folder))
    rows = ensemble_document(record, made.folder, made.members)["steps"]
    assert [row["step"] for row in rows] == [WITHOUT, "reciprocal", "expansion-together"]
    for row, before in zip(rows[1:], rows, strict=False):
        for key in ("map_at_5", "log_loss"):
            lead = paired_difference(tables[row["step"]], tables[before["step"]], key)
            assert row["leads"][key] == pytest.approx(lead._asdict())
    assert rows[2]["log_loss"] != rows[1]["log_loss"] != rows[0]["log_loss"]
    assert rows[1]["map_at_5"] == pytest.approx(variants["reciprocal"]["metrics"]["map_at_5"])
    assert rows[0]["leads"] == {}


def test_inductive_steps_leave_a_run_as_it_was_marked(place: Workspace) -> None:
    assert not combine(place, "arcface", then=("expansion",)).record.transductive
    assert combine(place, "arcface", then=("expansion-together",)).record.transductive


def test_a_step_that_does_not_fit_is_an_answer(place: Workspace) -> None:
    made = combine(place, "softmax", then=("bursts", "reciprocal", "sizes"))
    variants: Any = made.record.variants
    assert variants["sizes"]["unfit"] == "all photos are of one size, 48 x 40"
    assert "no member keeps embeddings" in variants["reciprocal"]["unfit"]
    assert set(variants["bursts"]["metrics"].values()) == {None}
    assert made.record.metrics == variants[WITHOUT]["metrics"]
    assert not made.record.transductive  # bursts was not taken
    assert any("The step bursts does not fit: no two test" in said for said in made.record.warnings)
    rows = ensemble_document(made.record, made.folder, made.members)["steps"]
    assert [row["map_at_5"] is None for row in rows] == [False, True, True, True]


def test_embeddings_are_those_of_members_that_keep_a_gallery(place: Workspace) -> None:
    record = combine(place, "arcface", "softmax", then=("reciprocal",)).record
    variants: Any = record.variants
    assert variants["reciprocal"]["unfit"] == ""
    assert record.members == ["arcface", "softmax"]


def test_other_steps_are_another_ensemble(place: Workspace) -> None:
    names = ("balance", "expansion")
    runs = [combine(place, "arcface", then=then).record.run for then in (names, names[::-1], names[:1])]
    for groups in ((("whale0", "whale1"),), (("whale0", "whale2"),)):
        made = combine(place, "arcface", then=("duplicates",), groups=groups)
        runs.append(made.record.run)
        assert made.record.config["then"] == ["duplicates"]
    runs.append(combine(place, "arcface", "softmax").record.run)
    assert len(set(runs)) == len(runs)
    again = combine(place, "arcface", then=names)
    assert again.record.run == runs[0]
    assert "then" not in read_record(place.runs / runs[-1]).config


def test_the_command_takes_steps_and_says_what_is_wrong_with_them(place: Workspace, cli: Cli) -> None:
    groups = place.root / "groups.csv"
    groups.write_text("Id,SubId\ng,whale0 whale1\n")
    asked = ("--then", "duplicates", "--then", "balance", "--duplicates", groups)
    answer = cli("ensemble", "arcface", *asked, "--json", "--workspace", place.root)
    assert answer.code == 0
    document = json.loads(answer.out)
    assert [row["step"] for row in document["steps"]] == [WITHOUT, "duplicates", "balance"]
    shown = cli("ensemble", "arcface", *asked, "--workspace", place.root).out
    for word in ("Step by step", "inductive", "transductive", "gained"):
        assert word in shown
    for arguments, said in (
        (("arcface",), "or one with a step, --then reciprocal"),
        (("arcface", "--then", "balanse"), "did you mean 'balance'?"),
        (("arcface", "--then", "balance", "--then", "balance"), "balance is given twice"),
        (("arcface", "--then", "duplicates"), "give both, or leave both out"),
        (("arcface", "softmax", "--duplicates", groups), "give both, or leave both out"),
    ):
        answer = cli("ensemble", *arguments, "--workspace", place.root)
        assert (answer.code, said in answer.err) == (2, True), answer.err
