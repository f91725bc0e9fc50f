"""Finished runs become one: by every rule, on one ground, and never from what they have learned from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.core.code import Code
from whalebench.benchmarks.core.record import (
    SCORES,
    WEIGHTS,
    read_arrays,
    read_predictions,
    read_record,
    write_arrays,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles import ensemble as ensembles
from whalebench.benchmarks.ensembles import rules, stacking, step
from whalebench.benchmarks.ensembles.ensemble import EnsembleRequest
from whalebench.benchmarks.ensembles.members import (
    FusionResult,
    FusionTask,
    finished_runs,
    load_fold,
)
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.evaluation import constant_answer
from whalebench.benchmarks.running.restored import restore_run
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics import summary as metrics
from whalebench.reports.run_report import ensemble_document, verdicts
from whalebench.tests.ensembling import (
    change_lineage,
    change_record,
    combine,
    fold_of,
    make_run,
    split_tiny,
)

Cli = Callable[..., Any]
ARCFACE = ("backbone=test_resnet", "size=32", "epochs=1", "batch_size=8", "dimensions=8")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Workspace) -> Workspace:
    """A workspace with two runs that are often right, and one that never learned."""
    workspace = split_tiny(tmp_path_factory.mktemp("ensembles"), shared_tiny)
    make_run(workspace, "arcface", 1.0, 1)
    make_run(workspace, "softmax", 1.0, 2)
    make_run(workspace, "noise", 0.0, 3)
    return workspace


@pytest.fixture
def place(template: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to write into."""
    shutil.copytree(template.root, tmp_path / "workspace")
    return Workspace.open(tmp_path / "workspace")


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "logistic", "lightgbm"])
def test_every_rule_leaves_a_whole_run(place: Workspace, rule: str) -> None:
    made = combine(place, "arcface", "softmax", rule=rule)
    record = made.record
    assert (record.method, record.config["rule"], record.fold) == ("ensemble", rule, 0)
    assert record.run.startswith("ensemble-tiny-fold0-seed0-")
    assert record.members == ["arcface", "softmax"]
    assert record.track == "ensemble of arcface + softmax; each: plain"
    queries = read_predictions(made.folder)
    assert record.metrics["map_at_5"] == pytest.approx(metrics.summarize(queries)["map_at_5"])
    assert queries["image"].tolist() == read_predictions(place.runs / "arcface")["image"].tolist()
    arrays, names = read_arrays(made.folder / SCORES, ("valid_scores", "test_scores"), "names")
    assert arrays["test_scores"].shape == (len(names["test"]), len(names["identities"]))
    assert all(np.isfinite(array).all() for array in arrays.values())
    learned, lineage = read_arrays(made.folder / WEIGHTS, ("weights", "powers", "line", "trees"), "lineage")
    assert ("stacker" in lineage) == (rule != "vote") == bool(learned)
    for loss in ("train_log_loss", "out_of_fold_log_loss"):
        assert (loss in record.calibration) == (rule != "vote")
    assert any("valid photos" in warning for warning in record.warnings) == (rule != "vote")


def test_unless_runs_are_named_all_of_the_newest_ones_fold_and_seed_are_members(place: Workspace) -> None:
    assert {read_record(place.runs / name).method for name in finished_runs(place)} == {
        "arcface", "softmax", "noise"
    }  # fmt: skip
    oracle, other, *_ = finished_runs(place)
    change_record(place.runs / oracle, oracle=True)
    assert oracle not in finished_runs(place)
    change_record(place.runs / other, transductive=True)
    with pytest.raises(WhalebenchError, match="1 finished run"):
        finished_runs(place)


def test_two_good_members_are_better_than_either(place: Workspace) -> None:
    for seed in range(4, 10):
        make_run(place, f"fair{seed}", 0.6, seed)
    members = [f"fair{seed}" for seed in range(4, 10)]
    together = combine(place, *members).record.metrics
    best = max(
        (read_record(place.runs / name).metrics for name in members), key=lambda one: one["map_at_5"] or 0
    )
    assert (together["map_at_5"] or 0) > (best["map_at_5"] or 0)
    assert (together["log_loss"] or 9) < (best["log_loss"] or 9)


def test_a_mean_of_equal_members_changes_nothing(place: Workspace) -> None:
    shutil.copytree(place.runs / "softmax", place.runs / "twin")
    made = combine(place, "softmax", "twin")
    alone, twice = (read_predictions(folder) for folder in (place.runs / "softmax", made.folder))
    for column in ("candidate_1", "candidate_2", "candidate_5", "rank", "average_precision_at_5"):
        pd.testing.assert_series_equal(alone[column], twice[column])
    np.testing.assert_allclose(alone["log_loss"], twice["log_loss"], rtol=1e-3)
    assert made.record.chosen["weights"] == [0.5, 0.5]
    # Not only the order of individuals, also how unlike anyone a photo is.
    assert made.record.metrics["auroc_new"] == pytest.approx(metrics.summarize(alone)["auroc_new"])


def test_noise_gets_a_low_weight_and_costs_little(place: Workspace) -> None:
    make_run(place, "strong", 3.0, 4)
    made = combine(place, "strong", "noise")
    weights = dict(zip(made.record.members, made.record.chosen["weights"], strict=True))
    assert weights["noise"] < 0.25 < 0.75 < weights["strong"]
    assert sum(weights.values()) == pytest.approx(1)
    assert made.record.chosen["equal_weights"] is False
    assert made.record.metrics["map_at_5"] >= read_record(place.runs / "strong").metrics["map_at_5"] - 0.05


@pytest.mark.parametrize(("rule", "what"), [("mean", "weights"), ("product", "powers")])
def test_a_member_is_taken_alone_where_the_others_cost_more_than_chance(
    place: Workspace, rule: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"mean": "fitted_mean", "product": "log_opinion_pool"}[rule]
    make_run(place, "best", 6.0, 4)

    def mixed(by: int) -> Callable[[FusionTask], FusionResult]:
        return lambda task: FusionResult(task.valid[by], task.test[by], {what: [0.6, 0.4]})

    for by, alone in ((1, True), (0, False)):  # as bad as noise, then as good as the best
        monkeypatch.setattr(rules, name, mixed(by))
        made = combine(place, "best", "noise", rule=rule, force=True)
        assert made.record.members == ["best", "noise"]
        if alone:
            assert (made.record.chosen[what], made.record.chosen["best_alone"]) == ([1, 0], True)
            assert any("together lose to best by more than" in said for said in made.record.warnings)
            best = read_record(place.runs / "best").metrics
            assert made.record.metrics["map_at_5"] == best["map_at_5"] == 1
        else:
            assert made.record.chosen[what] == [0.6, 0.4] and "best_alone" not in made.record.chosen


@pytest.mark.parametrize("what", ["weights", "powers"])
def test_steps_look_through_the_member_alone_where_it_was_taken_alone(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[float]] = []
    monkeypatch.setattr(
        step, "build_inputs", lambda fold, members, weights, *rest, **more: shown.append(weights)
    )
    nothing: Any = SimpleNamespace(then=("reciprocal",), groups=())
    scores = np.zeros((1, 2), np.float32)
    for alone in ({"best_alone": True}, {}):
        fused = FusionResult(scores, scores, {what: [0.0, 1.0], **alone})
        ensembles._shown_to_steps(nothing, [nothing, nothing], nothing, fused)
    assert shown == [[0.0, 1.0], [0.0, 1.0] if what == "weights" else [0.5, 0.5]]


def test_given_weights_are_kept_and_follow_their_runs(place: Workspace) -> None:
    one = combine(place, "noise", "arcface", weights="1,3")
    other = combine(place, "arcface", "noise", weights="0.75,0.25")
    assert one.record == other.record
    assert one.record.members == ["arcface", "noise"]
    assert one.record.chosen["weights"] == one.record.config["weights"] == [0.75, 0.25]
    alone = combine(place, "noise", "arcface", weights="0,1")
    assert alone.record.metrics["map_at_5"] == read_record(place.runs / "arcface").metrics["map_at_5"]


def test_a_finished_ensemble_is_found_in_any_order(place: Workspace) -> None:
    first = combine(place, "arcface", "softmax")
    stamp = (first.folder / SCORES).stat().st_mtime_ns
    again = combine(place, str(place.runs / "softmax"), "arcface")
    assert again.folder == first.folder
    assert (again.folder / SCORES).stat().st_mtime_ns == stamp
    before = {name: (first.folder / name).read_bytes() for name in (SCORES, WEIGHTS, "predictions.parquet")}
    repeated = combine(place, "arcface", "softmax", force=True)
    assert (repeated.folder / SCORES).stat().st_mtime_ns > stamp
    assert before == {name: (repeated.folder / name).read_bytes() for name in before}
    assert combine(place, "arcface", "softmax", rule="vote").folder != first.folder


def test_a_member_repeated_with_other_scores_is_another_ensemble(place: Workspace) -> None:
    first = combine(place, "arcface", "softmax")
    shutil.rmtree(place.runs / "softmax")
    make_run(place, "softmax", 1.0, 99)
    assert combine(place, "arcface", "softmax").folder != first.folder


def test_members_or_rules_of_other_code_are_another_ensemble(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = combine(place, "arcface", "softmax")
    change_record(place.runs / "softmax", code_digest="of an edited method")
    second = combine(place, "arcface", "softmax")
    assert second.record.config == first.record.config
    monkeypatch.setattr(ensembles, "read_code", lambda modules: Code("of an edited rule", ()))
    third = combine(place, "arcface", "softmax")
    made = [first, second, third]
    assert len({each.folder for each in made}) == len({each.record.code_digest for each in made}) == 3


def test_an_ensemble_says_what_its_fold_and_benchmark_say(place: Workspace) -> None:
    change_record(place.runs / "softmax", warnings=["Valid is small."])
    fold = fold_of(place)
    made = combine(place, "arcface", "softmax", rule="vote").record
    assert made.warnings == [*fold.benchmark.catalog.warnings, "Valid is small."] == ["Valid is small."]
    assert made.constant_answer == constant_answer(Counter(fold.gallery), fold.valid.truth) != []


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("benchmark", "flukes", "the benchmark (tiny, flukes)"),
        ("catalog_digest", "0" * 64, "the catalog"),
        ("split_digest", "0" * 64, "the split"),
        ("fold", 1, "the fold (0, 1)"),
    ],
)
def test_members_of_other_ground_are_refused(place: Workspace, field: str, value: Any, what: str) -> None:
    change_record(place.runs / "softmax", **{field: value})
    with pytest.raises(WhalebenchError) as caught:
        combine(place, "arcface", "softmax")
    assert f"arcface and softmax differ in {what}" in str(caught.value)


def test_a_changed_catalog_is_refused(place: Workspace) -> None:
    for name in ("arcface", "softmax"):
        change_record(place.runs / name, split_digest="0" * 64)
    with pytest.raises(WhalebenchError, match="The split of tiny is not the one that arcface was made with"):
        combine(place, "arcface", "softmax")


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_member_that_learned_from_what_it_is_asked_about_is_refused(place: Workspace, part: str) -> None:
    fold = fold_of(place)
    stolen = fold.valid_digests if part == "valid" else fold.test_digests
    make_run(place, "leak", 3.0, 5, fitted=tuple(sorted(stolen[:2])))
    for rule in ("mean", "logistic"):
        with pytest.raises(WhalebenchError, match=f"network of leak was fitted on 2 of the {part} photo"):
            combine(place, "arcface", "leak", rule=rule)


def test_a_member_may_be_calibrated_on_valid_but_not_on_test(place: Workspace) -> None:
    fold = fold_of(place)
    for name, digests in (("valid", fold.valid_digests), ("test", fold.test_digests)):
        own = {"network": ["0" * 64], "0.calibration": sorted(set(digests))}
        change_lineage(place.runs / "softmax", own)
        if name == "valid":
            made = combine(place, "arcface", "softmax", rule="vote")
            assert {"calibration", "1.0.calibration"} <= set(made.record.lineage)
            assert combine(place, made.record.run, "noise", rule="vote").record.members
            continue
        with pytest.raises(WhalebenchError, match=r"0\.calibration of softmax was fitted on \d+ of the test"):
            combine(place, "arcface", "softmax", force=True)


def test_the_epsilon_of_a_member_moves_no_score(place: Workspace) -> None:
    """It would make equal what the member still tells apart; the ensemble has one of its own."""
    before = combine(place, "arcface", "softmax", rule="vote")
    scores = read_arrays(before.folder / SCORES, ("test_scores",), "names")[0]["test_scores"]
    chosen = read_record(place.runs / "softmax").chosen
    change_record(place.runs / "softmax", chosen={**chosen, "epsilon": 0.4})
    after = combine(place, "arcface", "softmax", rule="vote", force=True)
    again = read_arrays(after.folder / SCORES, ("test_scores",), "names")[0]["test_scores"]
    assert np.array_equal(scores, again)
    assert set(after.record.chosen) >= {"temperature", "epsilon", "new_threshold", "set_threshold_95"}


def test_a_transductive_member_may_have_learned_from_bare_test_photos(place: Workspace) -> None:
    """Not from valid, which it would be weighed by."""
    fold = fold_of(place)
    make_run(place, "pseudo", 3.0, 5, fitted=tuple(sorted(fold.test_digests[:2])), transductive=True)
    record = combine(place, "arcface", "pseudo", rule="logistic").record
    assert record.transductive
    assert any("pseudo used other test photos" in warning for warning in record.warnings)
    make_run(place, "leak", 3.0, 5, fitted=tuple(sorted(fold.valid_digests[:2])), transductive=True)
    with pytest.raises(WhalebenchError, match="network of leak was fitted on 2 of the valid photo"):
        combine(place, "arcface", "leak")


def test_a_lineage_that_was_taken_out_is_refused(place: Workspace) -> None:
    change_lineage(place.runs / "softmax", {"calibration": ["0" * 64]})
    with pytest.raises(WhalebenchError, match="softmax does not say"):
        combine(place, "arcface", "softmax")
    for header in ({}, {"network": ["0" * 64]}):
        write_arrays(place.runs / "softmax" / WEIGHTS, {}, "lineage", header)
        with pytest.raises(WhalebenchError, match="softmax does not say, or says in two ways"):
            combine(place, "arcface", "softmax")


def test_a_stacker_is_no_member_of_another(place: Workspace) -> None:
    made = combine(place, "arcface", "softmax", rule="logistic")
    with pytest.raises(
        WhalebenchError, match=r"The stacker of ensemble-tiny-.* was fitted on 10 of the valid"
    ):
        combine(place, made.record.run, "noise")


def test_a_stacker_that_learns_noise_by_heart_is_not_believed(place: Workspace) -> None:
    """The seed's "train log loss 0": what is chosen and said rests on photos set aside."""
    make_run(place, "noise2", 0.0, 11)
    record = combine(place, "noise", "noise2", rule="logistic").record
    trained, aside = (record.calibration[f"{key}_log_loss"] for key in ("train", "out_of_fold"))
    assert trained < aside
    assert record.valid_metrics["log_loss"] > 1.2  # of six individuals; by chance 1.79


def test_valid_is_scored_by_what_was_learned_without_it(place: Workspace) -> None:
    """Photos of an individual are never in the part they are tried in and in one that is learned from."""
    fold = fold_of(place)
    clusters = np.array(fold.valid.clusters)
    for fit, rest in fold.cross_validation(0):
        assert not set(clusters[fit]) & set(clusters[rest])
        assert sorted([*fit, *rest]) == list(range(len(clusters)))
    tried = np.concatenate([rest for _, rest in fold.cross_validation(0)])
    assert sorted(tried) == list(range(len(clusters)))


def test_the_memory_of_a_stacker_is_estimated_first(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacking, "free_memory", lambda: 1000)
    for rule in ("logistic", "lightgbm"):
        with pytest.raises(
            WhalebenchError, match=r"Stacking 2 runs of 10 photos takes about 0\.0 GiB, 60 cand"
        ):
            combine(place, "arcface", "softmax", rule=rule)
    assert combine(place, "arcface", "softmax").record.metrics["map_at_5"] is not None


def test_other_bad_requests_are_sentences(place: Workspace, cli: Cli) -> None:
    shutil.copytree(place.runs / "noise", place.runs / "unfit")
    change_record(place.runs / "unfit", unfit="tiny has no masks")
    for arguments, said in (
        (("arcface",), "1 run(s) are no ensemble"),
        (("arcface", "arcface"), "given twice"),
        (("arcface", place.runs / "arcface"), "given twice"),
        (("arcface", "softmex"), "did you mean 'softmax'?"),
        (("arcface", "unfit"), "no scores, because tiny has no masks"),
        (("arcface", "softmax", "--weights", "1"), "1 for 2 runs"),
        (("arcface", "softmax", "--weights", "1,x"), "no numbers"),
        (("arcface", "softmax", "--weights", "-1,2"), "none may be below 0"),
        (("arcface", "softmax", "--weights", "nan,2"), "none may be below 0"),
        (("arcface", "softmax", "--weights", "0,0"), "one must be above"),
        (("arcface", "softmax", "--weights", "1,1", "--rule", "logistic"), "leave --weights out"),
        (("arcface", "softmax", "--rule", "knn"), "keeps no embeddings"),
    ):
        answer = cli("ensemble", *arguments, "--workspace", place.root)
        assert (answer.code, said in answer.err) == (2, True), answer.err
    assert not list(place.runs.glob("ensemble-*"))
    with pytest.raises(WhalebenchError, match="no rule 'median': choose one of mean, product"):
        EnsembleRequest(("arcface", "softmax"), "median")


def test_an_oracle_among_the_members_marks_the_whole(place: Workspace) -> None:
    change_record(place.runs / "softmax", oracle=True)
    record = combine(place, "arcface", "softmax").record
    assert record.oracle
    assert not record.transductive
    assert any("softmax used annotations" in warning for warning in record.warnings)


def test_the_command_shows_members_and_leads_and_report_lists_it(place: Workspace, cli: Cli) -> None:
    answer = cli("ensemble", "arcface", "softmax", "--json", "--workspace", place.root)
    assert answer.code == 0
    document = json.loads(answer.out)
    assert [row["run"] for row in document["rows"]] == ["arcface", "softmax", document["run"]]
    own = {row["run"]: row["map_at_5"] for row in document["rows"]}
    lead = document["leads"]["map_at_5"]
    assert document["best_member"] == max(("arcface", "softmax"), key=own.__getitem__)
    assert lead["value"] == pytest.approx(own[document["run"]] - own[document["best_member"]])
    assert lead["low"] <= lead["value"] <= lead["high"]
    shown = cli("ensemble", "arcface", "softmax", "--workspace", place.root).out
    assert "MAP@5" in shown
    assert document["run"] in "".join(shown.split())  # a narrow window breaks the path of the record
    board = leaderboard(place.runs)
    tracks: dict[str, list[str]] = {}
    for row in board.rows:
        tracks.setdefault(row.track, []).append(row.record.method)
    assert tracks[document["track"]] == ["ensemble"]
    assert "ensemble" not in tracks["plain"]
    assert cli("report", "--workspace", place.root).code == 0


@pytest.mark.parametrize(
    ("key", "lead", "sentence"),
    [
        ("map_at_5", (0.1, -0.1, 0.3), "not to be told apart from {}, better by 0.100 [-0.10, 0.30]."),
        ("map_at_5", (-0.1, -0.3, 0.1), "not to be told apart from {}, worse by 0.100 [-0.10, 0.30]."),
        ("map_at_5", (-0.2, -0.3, -0.1), "worse than {} by 0.200 [0.10, 0.30] on the same photos."),
        ("log_loss", (-0.5, -0.6, -0.3), "better than {} by 0.500 [0.30, 0.60] on the same photos."),
        ("log_loss", (0.5, 0.3, 0.6), "worse than {} by 0.500 [0.30, 0.60] on the same photos."),
        ("log_loss", (0.1, -0.1, 0.3), "not to be told apart from {}, worse by 0.100 [-0.10, 0.30]."),
    ],
)
def test_a_verdict_is_a_word_and_a_size_and_no_more_than_is_sure(
    key: str, lead: tuple[float, ...], sentence: str
) -> None:
    leads: dict[str, Any] = {
        name: dict.fromkeys(("value", "low", "high")) for name in ("map_at_5", "log_loss")
    }
    leads[key] = dict(zip(("value", "low", "high"), lead, strict=True))
    name = {"map_at_5": "MAP@5", "log_loss": "log loss"}[key]
    assert verdicts({"leads": leads}) == [f"{name}: {sentence.format('its best member')}"]


def test_members_of_one_method_have_names_of_their_own(place: Workspace) -> None:
    for name, epochs, seed in (("long", 9, 0), ("longer", 9, 1), ("short", 3, 0)):
        make_run(place, name, 1.0, 30 + seed, method="arcface", config={"epochs": epochs})
        change_record(place.runs / name, seed=seed)
    made = combine(place, "long", "longer", "short", "softmax")
    document = ensemble_document(made.record, made.folder, made.members)
    names = {row["run"]: row["method"] for row in document["rows"]}
    assert names["short"] == "arcface epochs=3"
    assert (names["long"], names["longer"]) == ("arcface epochs=9 seed=0", "arcface epochs=9 seed=1")
    assert (names["softmax"], names[made.record.run]) == ("softmax", "ensemble")


def test_what_members_were_given_is_added_up(place: Workspace) -> None:
    """As far as all of it was counted; else their tracks stand side by side."""
    given = {"photos_by_stage": {"train": 60}, "photos_seen": 60, "looks": 1.0, "parameters": 1_500_000}
    given |= {"annotations": {}, "pixels": ["32x32"], "weights": {}, "by_hand": {}, "tuning_budget": ""}
    change_record(place.runs / "arcface", usage=given, counts={"train_known_photos": 20})
    assert combine(place, "arcface", "softmax").record.usage is None
    change_record(place.runs / "softmax", usage=given, counts={"train_known_photos": 20})
    record = combine(place, "arcface", "softmax", rule="vote").record
    assert record.usage is not None
    assert record.usage.photos_by_stage == {"0.arcface.train": 60, "1.softmax.train": 60}
    assert record.track == "from scratch, 32x32 px, 6 passes over train, 2 looks a photo, 3 M parameters"


def test_a_member_with_damaged_predictions_is_refused_before_there_is_a_run(place: Workspace) -> None:
    change_record(place.runs / "softmax", files={"predictions.parquet": "0" * 64})
    before = sorted(place.runs.iterdir())
    with pytest.raises(WhalebenchError, match=r"predictions.parquet differs from its digest"):
        combine(place, "softmax", "arcface")
    assert sorted(place.runs.iterdir()) == before


def test_explain_refuses_an_ensemble(place: Workspace) -> None:
    made = combine(place, "arcface", "softmax")
    with pytest.raises(WhalebenchError, match=r"is an ensemble of finished runs .* arcface, softmax"):
        restore_run(made.record.run, place)


def test_folds_of_one_ensemble_are_one_contestant(place: Workspace) -> None:
    for fold in (0, 1):
        names = [f"{method}{fold}" for method in ("a", "b")]
        for name, seed in zip(names, (21, 22), strict=True):
            make_run(place, name, 1.0, seed + fold, fold=fold, method=name[0])
        combine(place, *names)
    (table,) = leaderboard(place.runs).tables
    assert [one.folds for one in table.contestants if one.name.startswith("ensemble")] == [(0, 1)]


def test_torch_is_not_needed(template: Workspace, tmp_path: Path) -> None:
    shutil.copytree(template.root, tmp_path / "workspace")
    code = (
        "import sys\nfrom whalebench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "ensemble", "arcface", "softmax", "--rule", "logistic"]
    answer = subprocess.run(
        [*command, "--workspace", str(tmp_path / "workspace")], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] in ("0 False", "None False")


def test_real_runs_are_put_side_by_side(shared_tiny: Workspace, tmp_path: Path) -> None:
    """What a real embedding method keeps is enough for knn; the weights are those of the members' cosines."""
    for seed in (0, 1):
        request = runner.RunRequest("arcface", "tiny", seed=seed, settings=ARCFACE, device="cpu")
        runner.run(request, shared_tiny)
    runs = [folder.name for folder in shared_tiny.runs.glob("arcface-tiny-*")]
    runs = [name for name in runs if read_record(shared_tiny.runs / name).config["dimensions"] == 8]
    made = combine(shared_tiny, *runs, rule="knn", weights="1,3")
    arrays, _ = read_arrays(made.folder / SCORES, ("test_scores",), "names")
    fold = load_fold(made.record, shared_tiny)
    labels = np.array([fold.identities.index(name) for name in fold.gallery])
    cosines = 0.0
    weights = dict(zip(runs, (0.25, 0.75), strict=True))
    for folder in made.members:
        gallery = read_arrays(folder / WEIGHTS, ("gallery",), "lineage")[0]["gallery"]
        embeddings = read_arrays(folder / SCORES, ("test_embeddings",), "names")[0]["test_embeddings"]
        cosines = cosines + weights[folder.name] * (embeddings @ gallery.T)
    slow = np.stack(
        [cosines[:, labels == place].max(axis=1) for place in range(len(fold.identities))], axis=1
    )
    np.testing.assert_allclose(arrays["test_scores"], slow, atol=1e-5)
    document = ensemble_document(made.record, made.folder, made.members)
    assert len(document["rows"]) == 3
