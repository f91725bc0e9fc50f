"""`right-whale-2nd`: the system that came second in the Right Whale competition of 2015, as one command.

An aligner finds bonnet and blowhead and averages what it finds in many views of the photo; thin networks
see a window of 2d x d, turned so that the bonnet lies to the right; the pooled features of all of them go
into one logistic regression (`final=mean`: their probabilities are averaged, the author's simpler way).
What each step is worth is in docs/systems.md.

What is done differently, and why: one fold for every stage, where the author had a random split for each
and wrote that it misled him; windows that do not fit are counted; the aligner leaves out the views that were
seen twice (0 and 360 degrees); AdamW with one cosine and averaged weights instead of early stopping; the
aligner's cells vote for the points instead of one dense layer over all of them. The strength of the
regression is chosen on valid, from which neither it nor a network has learned; the author set it. Individuals
whom no photo teaches have no column, where his had probability 0 and cost 0.15 of his log loss.

His section 7 is what he could not finish: pairs (7.1) are `siamese` and `triplet`; aligner and classifier in
one (7.2), taught by the points first, is `stn --set start=landmarks`; Net2Net (7.3) is `start_from` and
learning from photos without labels (7.4) `pretrain`, fields of every method that trains one network. He
wished for the training loss without dropout (6), which `watch_train=true` writes and draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from whalebench.benchmarks.core.photos import UNKNOWN, LabelledPhotos, Photos
from whalebench.methods.aligned import AlignedConfig
from whalebench.methods.method import Components, Harness, Rung
from whalebench.methods.parts.ensemble import Ensemble
from whalebench.methods.parts.recipe import RecipeConfig, typed
from whalebench.methods.softmax import Softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C among which valid chooses, the strongest regularisation first; the author's was 10."""
PUBLISHED = 10.0
"""C where valid has no known photo to choose by."""
MAX_ITERATIONS = 1_000
"""Of the solver, which may not converge where regularisation is weak."""


@dataclass
class FeatureRegression:
    """Logits of individuals, linear in features; without any before it has learned."""

    slopes: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """(individuals, features), of raw features: standardisation and principal axes are folded in."""
    offsets: Floats = field(default_factory=lambda: np.zeros(0))
    """(individuals,)"""

    def log_probabilities(self, features: NDArray[np.float32]) -> Floats:
        """Log probabilities (photos, individuals) of features (photos, features)."""
        logits = features.astype(np.float64) @ self.slopes.T + self.offsets
        return np.asarray(log_softmax(logits, axis=1))

    def state_dict(self) -> dict[str, Tensor]:
        """Slopes and offsets, by name."""
        return {"slopes": torch.from_numpy(self.slopes), "offsets": torch.from_numpy(self.offsets)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave."""
        self.slopes, self.offsets = state["slopes"].numpy(), state["offsets"].numpy()


class Chosen(NamedTuple):
    """The regression that was chosen, and the log losses by which it was."""

    regression: FeatureRegression
    strength: float
    """C."""
    train_log_loss: float
    """Of the photos that it learned from, so close to 0 as to mean nothing."""
    valid_log_loss: float
    """Of known photos that it did not learn from; NaN where there are none."""


def choose_regression(
    train: tuple[NDArray[np.float32], Labels],
    valid: tuple[NDArray[np.float32], Labels],
    individuals: int,
    components: int | None,
) -> Chosen:
    """The regression that learned from train, C by the log loss of known valid photos.

    train and valid are features (photos, features) and labels (photos,), UNKNOWN for *new* in valid. Every
    individual is a class, those with one photo, too. Features are standardised and, with components, reduced
    to that many principal components.
    """
    known = np.flatnonzero(valid[1] != UNKNOWN)
    strengths = STRENGTHS if len(known) else (PUBLISHED,)
    regressions = {c: _learn(*train, individuals, c, components) for c in strengths}
    losses = {c: _log_loss(each, valid[0][known], valid[1][known]) for c, each in regressions.items()}
    best = min(losses, key=losses.__getitem__)
    return Chosen(regressions[best], best, _log_loss(regressions[best], *train), losses[best])


def _learn(
    features: NDArray[np.float32], labels: Labels, individuals: int, strength: float, components: int | None
) -> FeatureRegression:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    scaled = scaler.transform(features.astype(np.float64))
    axes = np.eye(scaled.shape[1])
    if components is not None:
        axes = PCA(min(components, *scaled.shape), svd_solver="full").fit(scaled).components_
    slopes, offsets = _fit(scaled @ axes.T, labels, individuals, strength)
    slopes = slopes @ axes / scaler.scale_
    return FeatureRegression(slopes, offsets - slopes @ scaler.mean_)


def _fit(scaled: Floats, labels: Labels, individuals: int, strength: float) -> tuple[Floats, Floats]:
    """Slopes (individuals, features) and offsets (individuals,); there are two or more, each with a photo."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    line = LogisticRegression(C=strength, solver="lbfgs", max_iter=MAX_ITERATIONS, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # valid decides how good it is where it stops
        line.fit(scaled, labels)
    if individuals > 2:
        return line.coef_, line.intercept_
    # Of two classes scikit-learn keeps the second one's only; the first one's are 0.
    return np.vstack([0 * line.coef_, line.coef_]), np.append(0.0, line.intercept_)


def _log_loss(regression: FeatureRegression, features: NDArray[np.float32], labels: Labels) -> float:
    if not len(labels):
        return float("nan")
    return float(-regression.log_probabilities(features)[np.arange(len(labels)), labels].mean())


ONE = "--set backbone=lau_vgg19_thin --set size=256 --set dropout=0.8 --set grid=1"
"""A single network as the author had it."""
SIX = "lau_vgg19+lau_vgg19_thin+lau_vgg19_wide+lau_resnet31+lau_resnet37+lau_resnet67"
"""The networks of the author's last ensemble."""


class RightWhale2ndConfig(RecipeConfig, AlignedConfig):
    """Fields of `right-whale-2nd`: those of `aligned`, with several networks at two scales."""

    scales: ClassVar = {
        "full": typed(
            "size=256 epochs=300 learning_rate=0.001 dropout=0.8 grid=1 augment=heavy aligner.size=256 "
            "aligner.epochs=150 aligner.augment=turned aligner.learning_rate=0.001 aligner.turns=8 "
            "aligner.zooms=3 aligner.shears=3 aligner.shifts=3"
        ),
        "small": typed(
            "backbone=lau_vgg19_thin+lau_resnet19 size=64 epochs=30 learning_rate=0.003 dropout=0.2 grid=1 "
            "augment=heavy"
        ),
    }

    backbone: str = SIX
    """Networks that answer together, their names joined by +; each as for `softmax`."""
    final: Literal["logistic", "mean"] = "logistic"
    """The last step: a logistic regression on the pooled features of all networks, standardised and side by
    side, beside which the record has the mean, too; or mean, that of the networks' probabilities."""
    components: Annotated[int, Field(ge=1)] | None = None
    """To how many principal components the features are turned first, for final=logistic; unless given, to
    none, as it did not help the author."""

    @model_validator(mode="after")
    def _components_of_features(self) -> Self:
        if self.components is not None and self.final == "mean":
            raise ValueError(f"components={self.components} are of features, which final=mean has none of")
        return self

    def members(self) -> list[Self]:
        """The configuration of each network."""
        return self.of_each_network()


class RightWhale2nd(Ensemble):
    """Several classifiers of the aligned animal, their features put into one logistic regression."""

    name = "right-whale-2nd"
    summary = "recipe: aligned by two points, six thin networks, logistic regression on their features"
    source = "Lau 2016, Right Whale Recognition, 2nd place"
    published = "validation log loss 0.976, top-1 0.819 with a logistic regression on all features"
    ladder = (
        Rung("whole photos, one network", "validation log loss 5.8 (by chance 6.10)", f"softmax {ONE}"),
        Rung("the animal's box", "validation log loss 5.0", f"bbox {ONE}"),
        Rung("the aligned head", "", f"aligned {ONE}"),
        Rung("six networks, their mean", "", "right-whale-2nd --set final=mean"),
        Rung(
            "logistic regression on the features of six",
            "validation log loss 0.976, top-1 0.819",
            "right-whale-2nd",
        ),
        Rung(
            "six networks on six machines (5.3)",
            "",
            "a sweep instead: whalebench sweep --plan right-whale-networks --launcher slurm, then whalebench "
            "ensemble RUNS --rule logistic-features",
        ),
        Rung(
            "training loss without dropout (6, a wish)",
            "",
            "right-whale-2nd --set watch_train=true --set aligner.watch_train=true",
        ),
        Rung("pairs instead of classes (7.1, did not converge)", "", "siamese --set crop=aligned"),
        Rung("aligner and classifier in one (7.2, a wish)", "", "stn --set start=landmarks"),
        Rung(
            "Net2Net, from a run of lau_vgg19_thin (7.3, a wish)",
            "",
            "aligned --set backbone=lau_vgg19 --set start_from=RUN",
        ),
        Rung("pre-training on test photos (7.4, a wish)", "", "aligned --set pretrain=test"),
        Rung(
            "steps like these on two cores",
            "",
            "whalebench sweep --plan right-whale-small; whalebench compare --plan right-whale-small",
        ),
    )
    Config = RightWhale2ndConfig
    config: RightWhale2ndConfig

    members: list[Softmax]

    def __init__(self, config: RightWhale2ndConfig) -> None:
        super().__init__(config)
        self.final = FeatureRegression()
        self.members = [Softmax(member) for member in config.members()]

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Trains one network after the other, then the regression, its strength chosen on valid."""
        super().learn(train, valid, harness)
        if self.config.final == "mean":
            return
        harness.stage("final")
        known = train.known()
        harness.fitted("final", known)
        chosen = choose_regression(
            (self.features(known), known.labels),
            (self.features(valid), valid.labels),
            len(train.identities),
            self.config.components,
        )
        self.final = chosen.regression
        harness.choose("final_C", chosen.strength)
        harness.choose("final_train_log_loss", chosen.train_log_loss)
        harness.choose("final_valid_log_loss", chosen.valid_log_loss)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Log probabilities (photos, identities) by the last step."""
        if self.config.final == "mean":
            return self.mean_of_networks(photos)
        return self.final.log_probabilities(self.features(photos)).astype(np.float32)

    def variants(self, photos: Photos) -> dict[str, NDArray[np.float32]]:
        """The networks' mean, where the regression scores."""
        return {} if self.config.final == "mean" else {"mean of the networks": self.mean_of_networks(photos)}

    def features(self, photos: Photos) -> NDArray[np.float32]:
        """Pooled features (photos, features) of all networks side by side."""
        return np.concatenate([member.features(photos) for member in self.members], axis=1)

    def mean_of_networks(self, photos: Photos) -> NDArray[np.float32]:
        """Logarithms (photos, identities) of the mean probability."""
        each = np.stack([member.score(photos) for member in self.members]).astype(np.float64)
        mean: NDArray[np.float32] = (logsumexp(each, axis=0) - np.log(len(each))).astype(np.float32)
        return mean

    def components(self) -> Components:
        """Each network by its number, and the regression."""
        return {**super().components(), **({} if self.config.final == "mean" else {"final": self.final})}
