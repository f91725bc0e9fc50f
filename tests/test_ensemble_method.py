"""`ensemble` as a method: members in one run, joined by what valid says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.methods.ensemble import EnsembleConfig, Ensembled
from whalebench.methods.parts.fusion import (
    SCORE_RULES,
    ScoreFusion,
    fit_temperature,
    mean_scores,
    ranked_right,
    share_choices,
)
from whalebench.methods.parts.networks.weights import pretraining
from whalebench.tests.notes import Notes

SMALL = "backbone=test_resnet,size=32,epochs=1,batch_size=8,dimensions=8"


@dataclass
class Likes(Notes):
    """Likes scores the more the nearer they are to those that it is told to like."""

    liked: NDArray[np.float32] | None = None

    def valid_map_at_5(self, scores: Any) -> float:
        self.asked.append(scores)
        return 0.0 if self.liked is None else -100 * float(np.abs(scores - self.liked).max())


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(views: Views, notes: Notes | None = None, **settings: Any) -> tuple[Ensembled, Notes]:
    method, notes = (
        Ensembled(EnsembleConfig(**{"members": "softmax+arcface", "member_settings": SMALL} | settings)),
        notes or Notes(),
    )
    torch.manual_seed(0)
    method.learn(views.train, views.valid, notes)
    return method, notes


def test_settings_go_to_the_members_that_have_them() -> None:
    config = EnsembleConfig(
        members="softmax+arcface+softmax", member_settings="epochs=3,dimensions=16,softmax:dropout=0.5"
    )
    members: Any = config.within()
    assert [member.epochs for member in members] == [3, 3, 3]
    assert members[1].dimensions == 16
    assert [member.dropout for member in members] == [0.5, 0.0, 0.5]
    assert EnsembleConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"members": "softmax"}, ValueError, "two members or more"),
        ({"members": "softmax+"}, ValueError, "two members or more"),
        ({"members": "softmax+ensemble"}, ValueError, "no member of another"),
        ({"members": "softmax+arcfase"}, WhalebenchError, "did you mean 'arcface'"),
        ({"member_settings": "epoch=3"}, WhalebenchError, "epoch=3 is of no member"),
        ({"member_settings": "triplet:epochs=3"}, WhalebenchError, "is of no member"),
        (
            {"members": "softmax+arcface", "member_settings": "softmax:dimensions=3"},
            WhalebenchError,
            "has no field 'dimensions'",
        ),
        ({"member_settings": "epochs=x"}, WhalebenchError, "cannot take epochs='x'"),
        ({"rule": "median"}, ValueError, "'mean', 'product', 'vote' or 'knn'"),
    ],
)
def test_what_cannot_be_is_a_sentence(settings: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        EnsembleConfig(**settings)


def test_an_oracle_or_seen_checkpoint_among_the_members_is_one_of_the_whole() -> None:
    assert not EnsembleConfig().sees_annotations()
    assert EnsembleConfig(member_settings="arcface:crop=box,arcface:oracle=true").sees_annotations()
    config = EnsembleConfig(members="softmax+frozen", member_settings="frozen:backbone=miewid-msv2")
    assert list(pretraining(config, "flukes")) == ["miewid-msv2"]


def test_the_mean_is_that_of_the_command(views: Views) -> None:
    notes = Likes()
    method, _ = learn(views, notes)
    photos = (views.valid.bare(), views.test)
    valid, test = ([member.score(each) for member in method.members] for each in photos)
    assert views.valid.labels is not None
    assert method.temperatures == tuple(fit_temperature(one, views.valid.labels) for one in valid)
    # Nothing is better than anything, so the simplest stays, one alone; asked: 11 mixes of arcface, 5 shares.
    assert (method.shares, len(notes.asked)) == ((0.0, 1.0), 11 + 5)
    method.shares = (0.5, 0.5)
    fusion = ScoreFusion.of_valid(mean_scores, valid, method.temperatures)
    for each, scores in zip(photos, (valid, test), strict=True):
        np.testing.assert_array_equal(method.score(each), fusion.fuse(scores, np.array([0.5, 0.5])))
    assert {"share_0_softmax", "share_1_arcface", "arcface.photo_weight"} <= set(notes.chosen)
    assert [notes.chosen[f"temperature_{place}"] for place in ("0_softmax", "1_arcface")] == list(
        method.temperatures
    )
    assert {"softmax.network", "arcface.network", "arcface.gallery"} == set(notes.lineage)
    assert {"softmax.train", "arcface.train", "join"} <= set(notes.stages)


@pytest.mark.parametrize("rule", ["mean", "product", "vote"])
def test_shares_are_those_that_valid_likes_best(rule: str, views: Views) -> None:
    settings: Any = {"members": "softmax+softmax", "member_settings": SMALL.rpartition(",")[0], "rule": rule}
    plain, notes = learn(views, Likes(), **settings)
    wanted = dict(zip(share_choices(2), notes.asked, strict=True))[0.25, 0.75]
    method, notes = learn(views, Likes(liked=wanted), **settings)
    assert method.shares == (0.25, 0.75)
    assert notes.chosen["share_1_softmax"] == 0.75
    np.testing.assert_array_equal(method.score(views.valid.bare()), wanted)
    each = [member.score(views.test) for member in plain.members]
    fused, scores = (
        SCORE_RULES[rule](each, plain.temperatures, np.array([0.25, 0.75])),
        method.score(views.test),
    )
    np.testing.assert_array_equal(scores.argmax(axis=1), fused.argmax(axis=1))
    assert (rule == "vote") == np.array_equal(scores, fused)  # the others add energies


def test_embeddings_side_by_side_are_the_mean_of_cosines(views: Views) -> None:
    method, notes = learn(views, rule="knn")
    known = views.train.known()
    cosines = sum(
        share * normalise(member.embed(views.test)) @ normalise(member.embed(known)).T  # type: ignore[arg-type]
        for share, member in zip(method.shares, method.members, strict=True)
    )
    labels = known.labels
    slow = [cosines[:, labels == label].max(axis=1) for label in range(len(known.identities))]  # type: ignore[index]
    np.testing.assert_allclose(method.score(views.test), np.stack(slow, axis=1), atol=1e-5)
    assert notes.lineage["gallery"] == known.digests
    own, gallery = method.embed(views.test), method.weights()["gallery"].numpy()
    assert own is not None
    np.testing.assert_allclose((own @ gallery.T).max(axis=1), method.score(views.test).max(axis=1), atol=1e-5)


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "knn"])
def test_a_restored_one_scores_the_same(rule: str, views: Views) -> None:
    method, _ = learn(views, rule=rule)
    method.shares = (0.25, 0.75)  # not those it starts from
    weights = load(save({name: value.contiguous().clone() for name, value in method.weights().items()}))
    again = Ensembled(method.config)
    again.restore(weights, views.train.identities, torch.device("cpu"))
    np.testing.assert_array_equal(again.score(views.test), method.score(views.test))


def test_members_without_embeddings_have_no_gallery(views: Views) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: the extra sift")
    settings = "softmax:epochs=1,softmax:backbone=test_resnet,size=64,keypoints=20,batch_size=8"
    with pytest.raises(RunFailedError, match="rule=knn needs embeddings and sift has none: use rule=mean"):
        learn(views, members="softmax+sift", member_settings=settings, rule="knn")
    method, _ = learn(views, members="sift+sift", member_settings=settings.split(",", 2)[2], rule="vote")
    assert method.embed(views.test) is None


def test_what_a_member_lacks_the_whole_lacks(views: Views) -> None:
    method = Ensembled(EnsembleConfig(members="softmax+arcface", member_settings="species_weight=0.5"))
    assert method.missing_requirement(views.train, views.test) == "species"
    both = EnsembleConfig(members="softmax+arcface")
    assert Ensembled(both).missing_requirement(views.train, views.test) == ""


def test_members_work_behind_crops_and_twice(tiny: Workspace) -> None:
    settings = (
        f"{SMALL.rpartition(',')[0]},localizer.epochs=1,localizer.size=32,localizer.backbone=test_resnet"
    )
    request = ("members=bbox+softmax+softmax", f"member_settings={settings}")
    record = run(RunRequest("ensemble", "tiny", settings=request, device="cpu"), tiny)
    parts = {"bbox.localizer", "bbox.network", "softmax.network", "softmax-2.network"}
    assert set(record.lineage) == parts | {"calibration"}
    assert record.chosen["share_0_bbox"] is not None
    assert (record.oracle, record.transductive) == (False, False)
    assert record.metrics["map_at_5"] is not None


@pytest.mark.parametrize("rule", ["mean", "knn"])
def test_an_oracle_beside_members_that_see_no_annotations(rule: str, tiny: Workspace) -> None:
    """Valid is scored as test is: with its annotations, where a member asks for them."""
    settings = f"{SMALL.rpartition(',')[0]},bbox:oracle=true"
    request = ("members=softmax+bbox", f"member_settings={settings}", f"rule={rule}")
    record = run(RunRequest("ensemble", "tiny", settings=request, device="cpu"), tiny)
    assert record.oracle
    assert {"softmax.network", "bbox.network"} <= set(record.lineage)
    assert "bbox.localizer" not in record.lineage
    assert record.metrics["map_at_5"] is not None


def test_a_member_that_learns_from_test_photos_is_refused() -> None:
    with pytest.raises(ValueError, match="pseudo learns from test photos"):
        EnsembleConfig(members="softmax+pseudo")


class Choosing(Notes):
    """Likes scores by the MAP@5 of known photos, as the harness does where none are new."""

    labels: NDArray[np.int64]

    def valid_map_at_5(self, scores: Any) -> float:
        return float(ranked_right(scores, self.labels).mean())


@pytest.mark.parametrize("seed", range(5))
def test_a_member_that_is_noise_gets_no_share_and_two_good_ones_are_mixed(seed: int) -> None:
    """On valid the choice is never below the best member, nor a mixture that is better by luck alone."""
    rng = np.random.default_rng(seed)
    labels, notes = rng.integers(0, 20, 400), Choosing()
    notes.labels = labels
    truth = np.eye(20)[labels]

    def shares_of(*noise: float) -> tuple[float, ...]:
        each = [(truth + sigma * rng.normal(size=truth.shape)).astype(np.float32) for sigma in noise]
        method = Ensembled(EnsembleConfig(members="softmax+softmax"))
        mixed = {
            shares: np.tensordot(shares, np.stack(each), 1).astype(np.float32) for shares in share_choices(2)
        }
        method._choose(mixed, labels, notes)
        best = max(notes.valid_map_at_5(one) for one in each)
        assert notes.valid_map_at_5(mixed[method.shares]) >= best
        return method.shares

    assert shares_of(0.5, 50.0) == (1.0, 0.0)
    assert shares_of(50.0, 0.5) == (0.0, 1.0)
    assert min(shares_of(0.7, 0.7)) > 0
