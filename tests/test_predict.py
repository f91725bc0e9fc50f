"""New photos in, individuals out: by the path that test takes, and by what valid chose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from scipy.special import expit

from whalebench import WhalebenchError, cell_text
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.record import (
    SCORES,
    WEIGHTS,
    read_arrays,
    read_matches,
    read_predictions,
    read_record,
    write_record,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.ensemble import EnsembleRequest, ensemble
from whalebench.benchmarks.predicting import judge as judging
from whalebench.benchmarks.predicting.judge import Judge
from whalebench.benchmarks.predicting.photos import read_new_photos
from whalebench.benchmarks.predicting.predict import predict
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.calibration import fit_new_chance
from whalebench.benchmarks.running.restored import restore_run
from whalebench.reports.metrics.calibration import Calibration
from whalebench.tests.conftest import TINY_NETWORK
from whalebench.tests.ensembling import split_tiny

Cli = Callable[..., Any]
NEAREST = [f"nearest_{place}" for place in range(1, 6)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Workspace) -> Workspace:
    """`tiny` with a valid of known and new photos, a run that compares photos and one that classifies."""
    workspace = split_tiny(tmp_path_factory.mktemp("predict"), shared_tiny)
    for method in ("arcface", "softmax"):
        settings = (*TINY_NETWORK, *(["dimensions=16"] if method == "arcface" else []))
        runner.run(runner.RunRequest(method, "tiny", settings=settings, device="cpu"), workspace)
    return workspace


@pytest.fixture
def source(shared_tiny: Workspace) -> Path:
    """The folder of the photos, all of the benchmark."""
    return shared_tiny.root.parent / "source" / "photos"


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder of photos that are in no benchmark, one of them in a folder below."""
    rng = np.random.default_rng(3)
    (tmp_path / "fresh" / "below").mkdir(parents=True)
    for name in ("a.png", "b.png", "below/c.png"):
        pixels = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "fresh" / name)
    return tmp_path / "fresh"


def test_photos_of(workspace: Workspace, file: Path) -> Path:
    """A table of the run's test photos, called by their images."""
    benchmark = load_benchmark("tiny", workspace)
    table = benchmark.catalog.table.set_index("image", drop=False).loc[list(benchmark.split.parts(0).test)]
    table[["image", "path", "encounter"]].to_csv(file, index=False)
    return file


def table_of(folder: Path, **columns: list[Any]) -> Path:
    file = folder / "table.csv"
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


def stored(workspace: Workspace, run: str, name: str = "test_scores") -> NDArray[Any]:
    return read_arrays(workspace.runs / run / SCORES, (name,), "names")[0][name]


def run_of(workspace: Workspace, method: str) -> str:
    return next(folder.name for folder in workspace.runs.iterdir() if folder.name.startswith(method))


test_photos_of.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["arcface", "softmax"])
def test_the_test_photos_get_the_scores_and_candidates_of_the_record(
    method: str, place: Workspace, tmp_path: Path
) -> None:
    made = predict(method, [test_photos_of(place, tmp_path / "test.csv")], place)
    run = run_of(place, method)
    assert np.array_equal(made.scores, stored(place, run))
    queries = read_predictions(place.runs / run)
    assert made.photos["photo"].tolist() == queries["image"].tolist()
    table = made.table()
    by_place = table.pivot_table(index="photo", columns="place", values="candidate", aggfunc="first")
    for number in range(1, 6):
        assert by_place[number].tolist() == queries[f"candidate_{number}"].tolist()
    first = table[table["place"] == 1].set_index("photo").loc[queries["image"]]
    assert first["score"].tolist() == queries["score_1"].tolist()
    matches = read_matches(place.runs / run, made.record)
    if method == "arcface":
        assert matches is not None
        assert made.nearest[NEAREST].to_numpy().tolist() == matches[NEAREST].to_numpy().tolist()
        # A table's nearest photos are those, row by row.
        assert first["nearest"].tolist() == matches["nearest_1"].tolist()
    else:
        assert made.gallery_embeddings is None and not table["nearest"].any()


def test_probabilities_and_lists_are_those_that_the_run_chose(place: Workspace, tmp_path: Path) -> None:
    made = predict("arcface", [test_photos_of(place, tmp_path / "test.csv")], place)
    queries, chosen = read_predictions(place.runs / run_of(place, "arcface")), made.record.chosen
    assert np.allclose(made.probabilities.sum(axis=1), 1)
    assert np.allclose(made.probabilities.max(axis=1), queries["confidence"])
    known = (queries["truth"] != "new").to_numpy()
    column = [made.identities.index(name) for name in queries["truth"][known]]
    assert np.allclose(made.probabilities[known, column], queries["probability"][known])
    # So few photos of valid are known that there is no list that holds the right one.
    assert chosen["set_threshold_95"] is None and made.table()["in_set"].isna().all()
    assert any("95 %" in note for note in made.notes)


def test_lists_hold_all_at_the_threshold() -> None:
    judge = Judge(Calibration(), "column", None, 0.2, None)
    sets = judge.sets(np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]))
    assert sets is not None and sets.tolist() == [[True, True, True], [False, True, False]]


def test_the_chance_of_new_is_higher_where_nobody_is_near(place: Workspace, tmp_path: Path) -> None:
    made = predict("arcface", [test_photos_of(place, tmp_path / "test.csv")], place)
    assert ((made.new > 0) & (made.new < 1)).all()
    order = np.argsort(made.scores.max(axis=1))
    assert (np.diff(made.new[order]) <= 0).all() and made.new[order[0]] > made.new[order[-1]]
    table = made.table()
    of_new = table[table["candidate"] == "new"]
    assert (
        len(of_new) and (of_new["probability"] == of_new["new"]).all() and not of_new["in_set"].eq(True).any()
    )


def test_without_new_photos_in_valid_there_is_no_chance_of_new(
    place: Workspace, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_known(record: Any, folder: Path, benchmark: Any) -> Any:
        valid = valid_of(record, folder, benchmark)
        return valid._replace(truth=tuple(valid.identities[0] for _ in valid.truth))

    valid_of = judging._valid_of
    monkeypatch.setattr(judging, "_valid_of", only_known)
    made = predict("softmax", [fresh], place)
    assert np.isnan(made.new).all()
    assert any("cannot be told" in note for note in made.notes)
    assert made.document()["answers"][0]["new"] is None


@pytest.mark.parametrize("share", [None, 0.5])
def test_the_chance_of_new_is_a_logistic_regression(share: float | None) -> None:
    rng = np.random.default_rng(0)
    best = np.concatenate([rng.normal(0.8, 0.1, 60), rng.normal(0.6, 0.1, 15)]).astype(np.float32)
    is_new = np.arange(75) >= 60
    chance = fit_new_chance(best, is_new, share)
    targets = np.where(is_new, 16 / 17, 1 / 62)

    def loss(line: Any) -> float:
        logits = line[0] * best + line[1]
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    slow = minimize(
        loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 9999}
    )
    shift = 0.0 if share is None else np.log(60 / 15)
    assert chance is not None
    assert np.allclose(chance.of(best), expit(slow.x[0] * best + slow.x[1] + shift), atol=1e-4)
    assert chance.of(best).mean() == pytest.approx(targets.mean() if share is None else 0.5, abs=0.15)


def test_a_handful_makes_nobody_sure_and_a_higher_score_never_makes_new_likelier() -> None:
    apart = fit_new_chance(np.array([0.1, 0.9, 0.95], np.float32), np.array([True, False, False]))
    assert apart is not None and 0.6 < apart.of(np.array([0.1], np.float32))[0] < 0.99
    turned = fit_new_chance(np.array([0.9, 0.1, 0.2], np.float32), np.array([True, False, False]))
    assert turned is not None and turned.slope == 0
    equal = fit_new_chance(np.array([0.5, 0.5], np.float32), np.array([True, False]))
    assert equal is not None and equal.of(np.array([0.5], np.float32))[0] == pytest.approx(0.5)
    for kinds in ([True, True], [False, False]):
        assert fit_new_chance(np.zeros(2, np.float32), np.array(kinds)) is None


def test_files_folders_and_tables_are_read_together(fresh: Path, place: Workspace) -> None:
    table = table_of(fresh, image=["x"], path=["b.png"], encounter=["e1"], side=["left"], date=["2024-05-01"])
    read = read_new_photos([fresh / "a.png", fresh, table])
    a, b, c = (str(fresh / name) for name in ("a.png", "b.png", "below/c.png"))
    assert sorted(read.table["image"]) == sorted([a, b, c, "x"]) and not read.problems
    row = read.table.set_index("image").loc["x"]
    assert (row["path"], row["encounter"], row["viewpoint"]) == (b, "e1", "left")
    assert (row["width"], row["height"]) == (48, 40)
    made = predict("arcface", [fresh, table], place)
    assert made.photos["photo"].tolist() == read.table["image"].tolist()
    same = made.scores[[made.photos["photo"].tolist().index(name) for name in (b, "x")]]
    assert np.array_equal(same[0], same[1])


def test_boxes_say_which_animal_is_asked_about(fresh: Path) -> None:
    """Where the run's photos were parts within boxes, or where one file has several."""
    boxes = {"x0": [0, 8, None], "y0": [0, 4, None], "x1": [20, 40, None], "y1": [16, 36, None]}
    one_each = table_of(fresh, image=["1", "2", "3"], path=["a.png", "b.png", "below/c.png"], **boxes)
    assert "region_x0" not in read_new_photos([one_each]).table
    read = read_new_photos([one_each], in_boxes=True).table
    assert read["region_x1"].tolist()[:2] == [20, 40] and np.isnan(read["region_x1"][2])
    assert (read["width"].tolist(), read["height"].tolist()) == ([20, 32, 48], [16, 32, 40])
    same_file = table_of(fresh, image=["1", "2", "3"], path=["a.png", "a.png", "b.png"], **boxes)
    assert read_new_photos([same_file]).table["region_x0"].tolist()[:2] == [0, 8]
    assert "region_x0" not in read_new_photos([fresh / "a.png"], in_boxes=True).table


def test_photos_that_cannot_be_used_are_told_and_the_others_answered(fresh: Path, place: Workspace) -> None:
    whole = (fresh / "a.png").read_bytes()
    (fresh / "cut.png").write_bytes(whole[: len(whole) // 2])  # whose header is in order
    (fresh / "text.jpg").write_text("no photo")
    made = predict("arcface", [fresh, fresh / "absent.png"], place)
    assert [Path(name).name for name in made.photos["photo"]] == ["a.png", "b.png", "c.png"]
    told = " ".join(made.problems)
    assert len(made.problems) == 3 and all(name in told for name in ("cut.png", "text.jpg", "absent.png"))
    others = [fresh / "a.png", fresh / "b.png", fresh / "below"]
    assert np.allclose(made.scores, predict("arcface", others, place).scores, atol=1e-5)
    for wrong in (fresh / "text.jpg", fresh / "cut.png"):
        with pytest.raises(WhalebenchError, match=r"None of the photos"):
            predict("arcface", [wrong], place)


def test_nothing_is_left_and_no_label_opened(fresh: Path, place: Workspace) -> None:
    def state() -> list[tuple[str, int]]:
        files = [file for file in place.root.rglob("*") if file.is_file() and "locks" not in file.parts]
        return sorted((str(file), file.stat().st_mtime_ns) for file in files)

    predict("arcface", [fresh], place)  # which decodes what the run is tried on
    before = state()
    predict("arcface", [fresh], place)
    assert state() == before


def test_photos_of_the_benchmark_are_told(place: Workspace, source: Path, fresh: Path) -> None:
    parts = load_benchmark("tiny", place).split.parts(0)
    made = predict(
        "arcface", [source / parts.test[0], source / parts.train[0], source / parts.train[1]], place
    )
    told = " ".join(made.notes)
    assert "1 photo(s) are test photos" in told and "2 photo(s) are train photos" in told
    assert "photos of arcface" not in " ".join(predict("arcface", [fresh], place).notes)


def test_a_photo_is_looked_at_once(place: Workspace, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    batch = Photos.batch

    def counted(self: Photos, indices: Any, *further: Any) -> Any:
        seen.extend(self.images[index] for index in indices)
        return batch(self, indices, *further)

    monkeypatch.setattr(Photos, "batch", counted)
    for method in ("arcface", "softmax"):
        seen.clear()
        predict(method, [fresh], place)
        assert sorted(image for image in seen if image.startswith("new-")) == [
            "new-00001",
            "new-00002",
            "new-00003",
        ]
        assert len(seen) <= 3 + 8  # and some of test, by which the run is tried


def test_photos_of_one_encounter_answer_together(place: Workspace, fresh: Path) -> None:
    paths = ["a.png", "b.png", "below/c.png"]
    table = table_of(fresh, image=["1", "2", "3"], path=paths, encounter=["e", "e", ""])
    made = predict("arcface", [table], place, by="encounter")
    answers = made.answers("encounter")
    assert answers.names == ["e", "3"] and [rows.tolist() for rows in answers.rows] == [[0, 1], [2]]
    logs = np.log(made.probabilities[:2]).mean(axis=0)
    assert np.allclose(answers.probabilities[0], np.exp(logs) / np.exp(logs).sum(), atol=1e-5)
    assert np.allclose(answers.probabilities[1], made.probabilities[2])
    shown = made.table()
    assert shown.groupby("encounter", sort=False).size().tolist() == [5, 5] or len(shown) == 10
    best = shown[(shown["encounter"] == "e") & (shown["place"] == 1)].iloc[0]
    if best["candidate"] != "new":
        column = made.identities.index(best["candidate"])
        assert best["photo"] == ["1", "2"][int(made.scores[:2, column].argmax())]
    assert any("answer by the mean of log probabilities" in note for note in made.notes)
    with pytest.raises(WhalebenchError, match="column encounter"):
        predict("arcface", [fresh], place, by="encounter")


def test_how_an_encounter_answers_is_chosen_on_valid() -> None:
    """One photo of three tells who it is, the others are sure of somebody else: the best photo is best."""
    rng = np.random.default_rng(1)
    names, scores, truth, encounters = ("ann", "bob", "cas"), [], [], []
    for number in range(judging.LEAST):
        name = number % 3
        right = np.zeros(3)
        right[name] = 9
        scores += [right, *rng.normal(0, 0.1, (2, 3))]
        truth += [names[name]] * 3
        encounters += [f"e{number}"] * 3
    valid = judging._Valid(np.array(scores, np.float32), tuple(truth), tuple(encounters), names)
    best, said = judging._choose_joining(valid, Calibration())
    assert best == "best photo" and f"{judging.LEAST} encounters" in said
    few = judging._Valid(valid.scores[:12], valid.truth[:12], valid.encounters[:12], names)
    assert judging._choose_joining(few, Calibration())[0] == "mean of log probabilities"


@pytest.mark.parametrize("joining", ["mean of log probabilities", "mean of probabilities", "best photo"])
def test_photos_alike_answer_as_one(joining: Any) -> None:
    judge = Judge(Calibration(0.5), "column", None, None, None, joining)
    row = np.array([0.3, -0.2, 0.9], np.float32)
    assert np.allclose(judge.join(np.stack([row, row]), [np.array([0, 1])])[0], row, atol=1e-6)
    two = np.array([[1.0, 0.0, 0.2], [0.1, 0.8, 0.3]], np.float32)
    shares = judge.calibration.probabilities(judge.join(two, [np.array([0, 1])]))[0]
    each = judge.calibration.probabilities(two)
    due = {
        "mean of log probabilities": np.exp(np.log(each).mean(axis=0)),
        "mean of probabilities": each.mean(axis=0),
        "best photo": np.exp(two.max(axis=0) / 0.5),
    }[joining]
    assert np.allclose(shares, due / due.sum(), atol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "product", "knn"])
def test_an_ensemble_is_fused_again_by_what_valid_says(rule: Any, tmp_path: Path, place: Workspace) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    shutil.copytree(place.root, workspace.root, dirs_exist_ok=True)
    second = "arcface" if rule == "knn" else "softmax"
    if rule == "knn":
        settings = (*TINY_NETWORK, "dimensions=8")
        runner.run(runner.RunRequest("arcface", "tiny", settings=settings, device="cpu"), workspace)
    runs = [
        folder.name
        for folder in sorted(workspace.runs.iterdir())
        if folder.name.startswith(("arcface", second))
    ]
    made = ensemble(EnsembleRequest(tuple(runs), rule), workspace)
    table = test_photos_of(workspace, tmp_path / "test.csv")
    answered = predict(made.record.run, [table], workspace)
    assert np.allclose(answered.scores, stored(workspace, made.record.run), atol=1e-5)
    assert answered.record.run == made.record.run and answered.judge.calibration.temperature > 0
    # Members that were made anew are no longer what the ensemble was made of.
    weights = next(workspace.runs.glob(f"{runs[0]}/{SCORES}"))
    changed = _arrays(weights)
    changed["valid_scores"] = changed["valid_scores"].flip(0)
    _rewrite(weights, changed)
    if rule != "knn":  # which learns nothing of valid
        with pytest.raises(WhalebenchError, match="combine them again"):
            predict(made.record.run, [table], workspace)


def _arrays(file: Path) -> dict[str, Any]:
    return dict(load_file(file))


def _rewrite(file: Path, tensors: dict[str, Any]) -> None:
    """The file with other arrays, and the record's digests as if it had always been so."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    save_file(
        {
            name: value.contiguous() if hasattr(value, "contiguous") else value
            for name, value in tensors.items()
        },
        file,
        header,
    )
    record = read_record(file.parent)
    write_record(
        file.parent, record.model_copy(update={"files": record.files | {file.name: digest_file(file)}})
    )


def test_weights_that_do_not_score_as_they_did_are_refused(
    tmp_path: Path, place: Workspace, fresh: Path
) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    shutil.copytree(place.root, workspace.root, dirs_exist_ok=True)
    file = workspace.runs / run_of(workspace, "softmax") / WEIGHTS
    _rewrite(
        file,
        {name: value * 2 if value.is_floating_point() else value for name, value in _arrays(file).items()},
    )
    with pytest.raises(WhalebenchError, match="does not score as it did"):
        predict("softmax", [fresh], workspace)


def test_what_a_run_needs_is_told(tmp_path: Path, place: Workspace, fresh: Path) -> None:
    settings = (*TINY_NETWORK, "crop=box", "oracle=true", "epochs=1")
    record = runner.run(runner.RunRequest("softmax", "tiny", settings=settings, device="cpu"), place)
    try:
        with pytest.raises(WhalebenchError, match="needs boxes"):
            predict(record.run, [fresh], place)
        boxes = {"x0": [4, 4], "y0": [4, 4], "x1": [30, 40], "y1": [30, 36]}
        table = table_of(fresh, image=["1", "2"], path=["a.png", "b.png"], **boxes)
        made = predict(record.run, [table], place)
        assert {"window_a", "window_height"} <= set(made.photos) and len(made.photos) == 2
        other = table_of(fresh, image=["1", "2"], path=["a.png", "b.png"], **boxes | {"x1": [20, 20]})
        assert not np.array_equal(predict(record.run, [other], place).scores, made.scores)
    finally:
        shutil.rmtree(place.runs / record.run)


def test_runs_that_cannot_be_asked_say_why(tmp_path: Path, place: Workspace, fresh: Path) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    shutil.copytree(place.root, workspace.root, dirs_exist_ok=True)
    folder = workspace.runs / run_of(workspace, "softmax")
    record = read_record(folder)
    for change, sentence in (
        ({"transductive": True}, "choose a run that is not transductive"),
        ({"unfit": "boxes are missing"}, "learned nothing"),
    ):
        write_record(folder, record.model_copy(update=change))
        with pytest.raises(WhalebenchError, match=sentence):
            predict(folder.name, [fresh], workspace)
    write_record(folder, record)
    members = run_of(workspace, "arcface"), folder.name
    made = ensemble(EnsembleRequest(members, "mean", then=("sizes",)), workspace)
    with pytest.raises(WhalebenchError, match="--then sizes, which looks at more"):
        predict(made.record.run, [fresh], workspace)
    with pytest.raises(WhalebenchError, match="There is no run"):
        predict("nobody", [fresh], workspace)


def test_answers_are_written_whole_and_compute_nothing(
    place: Workspace, fresh: Path, tmp_path: Path, cli: Cli
) -> None:
    table = table_of(fresh, image=["=1+1", "b"], path=["a.png", "b.png"])
    for name in ("out.csv", "out.parquet"):
        said = cli("predict", "arcface", table, "--out", tmp_path / name, "--workspace", place.root)
        assert said.code == 0 and "=1+1" in said.out and name in said.out
    made = pd.read_parquet(tmp_path / "out.parquet")
    text = pd.read_csv(tmp_path / "out.csv")
    assert list(text) == list(made) and set(text["photo"]) == {"'=1+1", "b"}
    assert text["photo"].map(cell_text).tolist() == made["photo"].tolist()
    assert np.allclose(text["probability"], made["probability"])
    refused = cli("predict", "arcface", table, "--out", tmp_path / "out.txt", "--workspace", place.root)
    assert refused.code == 2 and ".parquet" in refused.err


def test_json_is_one_document(place: Workspace, fresh: Path, cli: Cli) -> None:
    said = cli("predict", "arcface", fresh, "--json", "--workspace", place.root)
    document = json.loads(said.out)
    assert said.code == 0 and len(document["answers"]) == 3
    answer = document["answers"][0]
    assert [each["place"] for each in answer["candidates"]] == [1, 2, 3, 4, 5]
    assert answer["photo"].endswith("a.png") and 0 <= answer["new"] <= 1
    shown = cli("predict", "arcface", fresh, "--workspace", place.root)
    assert answer["candidates"][0]["candidate"] in shown.out


def test_a_restored_run_is_tried_on_some_of_its_photos(place: Workspace) -> None:
    run = run_of(place, "softmax")
    whole, some = (restore_run(run, place, photos=photos).scores for photos in (None, 3))
    rows = np.linspace(0, len(whole) - 1, 3).astype(int)
    assert some.shape == (3, whole.shape[1]) and np.allclose(some, whole[rows], atol=1e-5)
