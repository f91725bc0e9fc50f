"""The final step of `right-whale-2nd`: features side by side, a regression, its strength chosen on valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import Learned, Trial, draw_ground
from whalebench.benchmarks.core.photos import CPU
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.methods.method import MethodConfig
from whalebench.methods.registry import configure, find_method
from whalebench.methods.right_whale_2nd import (
    PUBLISHED,
    STRENGTHS,
    FeatureRegression,
    RightWhale2nd,
    choose_regression,
)

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


def drawn(individuals: int, photos: int, seed: int, spread: float = 1.5) -> Part:
    """Features (photos, 6) of far different scales, and labels; each individual has a photo."""
    centres = np.random.default_rng(0).normal(size=(individuals, 6))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(individuals), rng.integers(0, individuals, photos - individuals)])
    features = centres[labels] + rng.normal(0, spread, (photos, 6))
    return (features * 10.0 ** np.arange(-2, 4) + 7).astype(np.float32), labels


@pytest.mark.parametrize("components", [None, 3, 99])
@pytest.mark.parametrize("individuals", [2, 5])
def test_it_is_the_pipeline_of_the_author(individuals: int, components: int | None) -> None:
    train, valid, test = (drawn(individuals, photos, seed) for seed, photos in enumerate((60, 30, 30)))
    found = choose_regression(train, valid, individuals, components)
    turned = [] if components is None else [PCA(min(components, 6))]
    losses = {}
    for strength in STRENGTHS:
        line = LogisticRegression(C=strength, max_iter=1000)
        slow = make_pipeline(StandardScaler(), *turned, line).fit(train[0].astype(np.float64), train[1])
        for part, (features, labels) in {"train": train, "valid": valid}.items():
            logs = slow.predict_log_proba(features.astype(np.float64))
            losses[part, strength] = -logs[np.arange(len(labels)), labels].mean()
        if strength == found.strength:
            logs = slow.predict_log_proba(test[0].astype(np.float64))
            np.testing.assert_allclose(found.regression.log_probabilities(test[0]), logs, atol=1e-4)
    assert losses["valid", found.strength] == min(losses["valid", each] for each in STRENGTHS)
    assert found.strength not in (STRENGTHS[0], STRENGTHS[-1])  # so that there was something to choose
    assert found.train_log_loss == pytest.approx(losses["train", found.strength], abs=1e-4)
    assert found.valid_log_loss == pytest.approx(losses["valid", found.strength], abs=1e-4)
    assert found.train_log_loss < found.valid_log_loss


def test_photos_of_new_individuals_choose_nothing() -> None:
    train, (features, labels) = drawn(4, 40, 1), drawn(4, 40, 2)
    some = np.where(np.arange(40) % 2, -1, labels)
    alone = choose_regression(train, (features[::2], labels[::2]), 4, None)
    beside = choose_regression(train, (features, some), 4, None)
    assert (beside.strength, beside.valid_log_loss) == (alone.strength, alone.valid_log_loss)
    nobody = choose_regression(train, (features, np.full(40, -1)), 4, None)
    assert nobody.strength == PUBLISHED
    assert np.isnan(nobody.valid_log_loss)


def test_a_regression_comes_back_from_its_weights() -> None:
    train = drawn(4, 40, 1)
    found = choose_regression(train, drawn(4, 40, 2), 4, 2).regression
    again = FeatureRegression()
    again.load_state_dict(found.state_dict())
    assert np.array_equal(again.log_probabilities(train[0]), found.log_probabilities(train[0]))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    settings = ("crop=none", "backbone=test_resnet+narrow_resnet10", "epochs=2")
    ground = draw_ground(Workspace.open(tmp_path_factory.mktemp("final") / "workspace"))
    config = configure(RightWhale2nd, smallest_settings(RightWhale2nd, settings))
    trial = Trial(RightWhale2nd.name, RightWhale2nd, config, ground)
    return trial.learn(trial.views)


def by_mean(was: Learned) -> RightWhale2nd:
    """The same networks without the regression."""
    config: MethodConfig = was.method.config.model_copy(update={"final": "mean"})
    again = RightWhale2nd(config)  # type: ignore[arg-type]
    own = {name: value for name, value in was.method.weights().items() if not name.startswith("final")}
    again.restore(own, was.views.train.identities, CPU)
    return again


def test_features_of_all_networks_are_side_by_side(learned: Learned) -> None:
    (method,), photos = learned.method.cycles, learned.views.queries()["test"]
    assert isinstance(method, RightWhale2nd)
    features = method.features(photos)
    each = [member.features(photos) for member in method.members]
    assert features.shape == (12, sum(one.shape[1] for one in each))
    assert np.array_equal(features[:, : each[0].shape[1]], each[0])
    assert method.final.slopes.shape == (6, features.shape[1])
    assert np.allclose(np.exp(method.score(photos)).sum(axis=1), 1, atol=1e-5)


def test_the_mean_stands_beside_the_regression(learned: Learned) -> None:
    photos, mean = learned.views.queries()["test"], by_mean(learned)
    variants = learned.method.variants(photos)
    assert list(variants) == ["mean of the networks"]
    chances = [np.exp(member.score(photos).astype(np.float64)) for member in mean.members]
    assert np.allclose(np.exp(variants["mean of the networks"]), np.mean(chances, axis=0), atol=1e-6)
    assert np.array_equal(mean.score(photos), variants["mean of the networks"])
    assert not np.allclose(learned.scores("test"), mean.score(photos), atol=1e-2)
    assert mean.variants(photos) == {}
    assert not any(name.startswith("final") for name in mean.weights())


def test_what_it_was_chosen_by_is_written_down(learned: Learned) -> None:
    chosen, method = learned.harness.chosen, learned.method
    assert chosen["final_C"] in STRENGTHS
    valid = learned.views.valid.known()
    own: Any = method.score(valid)[np.arange(len(valid)), valid.labels]
    assert chosen["final_valid_log_loss"] == pytest.approx(-own.mean(), abs=1e-5)
    assert chosen["final_train_log_loss"] < chosen["final_valid_log_loss"]  # type: ignore[operator]
    assert learned.harness.lineage["final"] == tuple(sorted(learned.views.train.known().digests))


def test_components_of_a_mean_are_refused() -> None:
    with pytest.raises(WhalebenchError, match=r"components=3 are of features, which final=mean has none of"):
        configure(find_method("right-whale-2nd"), ["final=mean", "components=3"])
