"""`ensemble` as a method: members in one run, joined by what valid says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from scipy.special import log_softmax

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import UNKNOWN
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.fusion import vote_scores
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.methods.ensemble import EnsembleConfig, Ensembled
from whalebench.methods.parts.fusion import share_choices, temperature_of
from whalebench.methods.parts.networks.weights import pretraining
from whalebench.tests.notes import Notes

SMALL = "backbone=test_resnet,size=32,epochs=1,batch_size=8,dimensions=8"


class Likes(Notes):
    """Likes scores the more the nearer they are to those that it is told to like."""

    liked: NDArray[np.float32] | None = None

    def valid_map_at_5(self, scores: Any) -> float:
        self.asked.append(scores)
        return 0.0 if self.liked is None else -float(np.abs(scores - self.liked).max())


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(views: Views, notes: Notes | None = None, **settings: Any) -> tuple[Ensembled, Notes]:
    method, notes = Ensembled(EnsembleConfig(**{"member_settings": SMALL} | settings)), notes or Notes()
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
    assert config.track().startswith(
        "ensemble of arcface + softmax + softmax; each: narrow_resnet10 from scratch, 3"
    )
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
        ({"member_settings": "softmax:dimensions=3"}, WhalebenchError, "has no field 'dimensions'"),
        ({"member_settings": "epochs=x"}, WhalebenchError, "cannot take epochs='x'"),
        ({"rule": "median"}, ValueError, "'mean', 'vote' or 'knn'"),
    ],
)
def test_what_cannot_be_is_a_sentence(settings: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        EnsembleConfig(**settings)


def test_an_oracle_or_seen_checkpoint_among_the_members_is_one_of_the_whole() -> None:
    assert not EnsembleConfig().sees_annotations()
    assert EnsembleConfig(member_settings="softmax:crop=box,softmax:oracle=true").sees_annotations()
    config = EnsembleConfig(members="softmax+frozen", member_settings="frozen:backbone=miewid-msv2")
    assert list(pretraining(config, "flukes")) == ["miewid-msv2"]


def test_the_mean_is_that_of_scores_over_temperatures(views: Views) -> None:
    notes = Likes()
    method, _ = learn(views, notes)
    each = [member.score(views.valid.bare()) for member in method.members]
    assert views.valid.labels is not None
    heats = [best_heat(one, views.valid.labels) for one in each]
    assert method.temperatures == pytest.approx(heats, rel=1e-2)
    # Nothing is better than anything, so they stay equal; asked about: 11 mixes of arcface, 5 shares.
    assert (method.shares, len(notes.asked)) == ((0.5, 0.5), 11 + 5)
    slow = sum(
        0.5 * one.astype(np.float64) / heat for one, heat in zip(each, method.temperatures, strict=True)
    )
    np.testing.assert_allclose(method.score(views.valid), slow, rtol=1e-4)
    assert {"share_0_softmax", "share_1_arcface", "arcface.photo_weight"} <= set(notes.chosen)
    assert {"softmax.network", "arcface.network", "arcface.gallery"} == set(notes.lineage)
    assert {"softmax.train", "arcface.train", "join"} <= set(notes.stages)


def test_shares_are_those_that_valid_likes_best(views: Views) -> None:
    plain, _ = learn(views)
    notes = Likes()
    each = [member.score(views.valid.bare()) for member in plain.members]
    wanted = 0.25 * each[0].astype(np.float64) / plain.temperatures[0]
    notes.liked = (wanted + 0.75 * each[1].astype(np.float64) / plain.temperatures[1]).astype(np.float32)
    method, _ = learn(views, notes)
    assert method.shares == (0.25, 0.75)
    assert notes.chosen["share_1_arcface"] == 0.75


def test_votes_are_those_of_the_command(views: Views) -> None:
    method, _ = learn(views, rule="vote")
    each = [member.score(views.test) for member in method.members]
    slow = vote_scores(each, method.temperatures, np.array(method.shares))
    np.testing.assert_allclose(method.score(views.test), slow, rtol=1e-5)


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


@pytest.mark.parametrize("rule", ["mean", "vote", "knn"])
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
    assert Ensembled(EnsembleConfig()).missing_requirement(views.train, views.test) == ""


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


def best_heat(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Of many temperatures the one with the least log loss of known photos, each tried."""

    def log_loss(heat: float) -> float:
        logs = log_softmax(scores.astype(np.float64) / heat, axis=1)
        return float(np.mean([-row[label] for row, label in zip(logs, labels, strict=True) if label >= 0]))

    return float(min(np.exp(np.arange(-7, 5, 0.005)), key=log_loss))


def test_temperatures_rest_on_known_photos(views: Views) -> None:
    scores = np.random.default_rng(0).normal(size=(len(views.valid), len(views.train.identities)))
    scores = scores.astype(np.float32)
    labels = views.valid.labels
    assert labels is not None
    found = temperature_of(scores, labels)
    assert found == pytest.approx(best_heat(scores, labels), rel=1e-2)
    altered = np.where((labels == UNKNOWN)[:, None], 99, scores).astype(np.float32)
    assert temperature_of(altered, labels) == found
    none = np.full(len(labels), UNKNOWN)
    assert temperature_of(scores, none) == pytest.approx(float(scores.std()))


def test_shares_to_choose_from() -> None:
    assert share_choices(2) == [(0.5, 0.5), (0.25, 0.75), (0.75, 0.25), (0.0, 1.0), (1.0, 0.0)]
    assert share_choices(3)[0] == (1 / 3,) * 3
    assert len(share_choices(3)) == 16
    assert all(sum(each) == pytest.approx(1) for each in share_choices(5))


def test_a_member_that_learns_from_test_photos_is_refused() -> None:
    with pytest.raises(ValueError, match="pseudo learns from test photos"):
        EnsembleConfig(members="softmax+pseudo")
