"""Pairs of photos: losses on them, the head that compares two photos, and the sampler that chooses them.

The loss is contrastive, or the binary cross-entropy of the head of the 0.78563 Humpback kernel (Piotte,
2018). As in the kernel, matching pairs are drawn by derangement, others by linear assignment. The first half
of a batch is left, the second half right, in the same order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from whalebench import WhalebenchError
from whalebench.benchmarks.core.search import check_finite, cosines
from whalebench.methods.parts.losses.metric_losses import MetricLossConfig, build_loss
from whalebench.methods.parts.retrieval import known_by_label, raise_to_best
from whalebench.methods.parts.training.samplers import Indices

HIDDEN = 32
"""Units of the small network that is applied to every feature."""
FLOOR = -100.0
"""The lowest logit there is, and that of an identity without a photo in the gallery."""
BLOCK = {"cpu": 2**14}
"""Features of pairs at a time: 2 MiB of hidden units stay in a processor's cache; elsewhere 128 MiB."""


class PairHead(nn.Module):
    """A logit for each pair of photos, the same for both orders (Piotte, 2018)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, HIDDEN)
        self.feature = nn.Linear(HIDDEN, 1)
        self.total = nn.Linear(dimensions, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Logits (pairs,) that features left and right (pairs, dimensions) show one individual.

        Of each feature xy, x + y, |x - y| and (x - y)^2 go through 32 units to one number; a weighted sum of
        the numbers, and a bias, is the logit.
        """
        apart = (left - right).abs()
        # Features last: a product of (32, 4) with (4, pairs x dimensions) is the quickest order of the axes.
        relations = torch.stack([left * right, left + right, apart, apart.square()]).flatten(1)
        hidden = torch.addmm(self.hidden.bias[:, None], self.hidden.weight, relations).relu()
        each = (self.feature.weight @ hidden + self.feature.bias).view(left.shape)
        logits: Tensor = self.total(each).squeeze(1)
        return logits


def pair_logits(
    head: PairHead, query: NDArray[np.float32], gallery: NDArray[np.float32], *, triangle: bool = False
) -> NDArray[np.float32]:
    """Logits (queries, photos) of every query with every gallery photo, from features (., dimensions).

    A row does not depend on the other queries, to the last bit. About 7 microseconds of one core a pair of
    256 features. triangle leaves 0 below the diagonal, where query and gallery are the same photos.
    """
    logits = np.zeros((len(query), len(gallery)), np.float32)
    device = head.total.weight.device
    with torch.inference_mode():
        queries, photos = (
            torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device)
            for features in (query, gallery)
        )
        size = max(1, BLOCK.get(device.type, 2**20) // photos.shape[1])
        for row, one in enumerate(queries):
            first = row if triangle else 0
            parts = [head(one.expand_as(part), part) for part in torch.split(photos[first:], size)]
            logits[row, first:] = torch.cat(parts).cpu().numpy()
    return logits


def best_pair_scores(
    head: PairHead,
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    labels: NDArray[np.int64],
    identities: int,
) -> NDArray[np.float32]:
    """Scores (queries, identities): the largest logit of the query with a gallery photo of each identity.

    labels (photos,) are indices of identities, UNKNOWN photos are passed over; an identity without a photo
    scores FLOOR. Raises RunFailedError for features that are NaN or infinite.
    """
    check_finite(query, gallery)
    order = known_by_label(labels)
    scores = np.full((len(query), identities), FLOOR, np.float32)
    if len(order):
        raise_to_best(scores, pair_logits(head, query, gallery[order]), labels[order])
    return scores


Form = Literal["contrastive", "pair_head"]


class ContrastivePairs(nn.Module):
    """Pulls matching pairs together and others apart up to a margin (Hadsell et al., 2006)."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        config = MetricLossConfig(loss="contrastive", margin=margin)
        self.loss = build_loss(config, identities=0, dimensions=0)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (2 x pairs, dimensions), normalised inside, under labels (2 x pairs,).

        It is the mean L2 distance of matching pairs plus the mean of what the distance of others lacks of the
        margin, both over pairs that are not at 0.
        """
        left, right = torch.arange(len(labels), device=labels.device).chunk(2)
        same = labels[left] == labels[right]
        pairs = (left[same], right[same], left[~same], right[~same])
        value: Tensor = self.loss(normalize(features.float()), labels, pairs)
        return value

    def among(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The similarity in [0, 1] of all photos with each other, from features (photos, dimensions)."""
        return (1 + cosines(features, features)) / 2


class PairHeadLoss(nn.Module):
    """The pair head, and the binary cross-entropy of whether a pair is one individual."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.head = PairHead(dimensions)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of features (2 x pairs, dimensions) as they are, under labels (2 x pairs,)."""
        left, right = features.float().chunk(2)
        same, other = labels.chunk(2)
        return binary_cross_entropy_with_logits(self.head(left, right), (same == other).float())

    def among(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The head's probability that two photos are of one individual, for all photos with each other."""
        logits = pair_logits(self.head, features, features, triangle=True).astype(np.float64)
        logits += np.triu(logits, 1).T
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


PairLoss = ContrastivePairs | PairHeadLoss


class Similarity:
    """The similarity of photos as it was when they were last embedded, while loss and network learn on."""

    def __init__(self, loss: PairLoss) -> None:
        self.loss = copy.deepcopy(loss).eval()
        self.features = np.zeros((0, 0), np.float32)

    def update(self, features: NDArray[np.float32], loss: PairLoss) -> None:
        """Keeps all photos' features (photos, dimensions), and a copy of the loss."""
        self.features = features
        self.loss.load_state_dict(loss.state_dict())

    def __call__(self, photos: NDArray[np.int64]) -> NDArray[np.float64]:
        """The similarity in [0, 1] of those photos with each other (photos, photos)."""
        return self.loss.among(self.features[photos])

    def state_dict(self) -> dict[str, Any]:
        """Features and loss."""
        return {"features": self.features, "loss": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.features = state["features"]
        self.loss.load_state_dict(state["loss"])


PairSimilarity = Callable[[Indices], NDArray[np.float64]]
"""From photos (n,) to their similarity in [0, 1] with each other (n, n)."""
NOISE = ((10, 1000.0), (60, 100.0), (150, 1.0), (200, 0.5), (250, 0.25))
"""The published noise until each of these epochs; in the second interval it falls from 100 towards 1."""


def noise_amplitude(done: float) -> float:
    """K, the largest noise added to similarities in [0, 1], at that share of the training.

    The published schedule up to its 250th epoch, where its learning rate is lowest, stretched over the whole.
    """
    epoch = done * NOISE[-1][0]
    if NOISE[0][0] <= epoch < NOISE[1][0]:
        return float(NOISE[1][1] * 100 ** (-0.1 * ((epoch - NOISE[0][0]) // 5)))
    return next((noise for end, noise in NOISE if epoch < end), NOISE[-1][1])


def matching_pairs(labels: NDArray[np.int64], rng: np.random.Generator) -> Indices:
    """Pairs (pairs, 2) in which every photo is once left and once right, beside another of its identity.

    labels (photos,). The photos of an identity stand in a random ring, each beside the next; an identity with
    one photo has no pair.
    """
    shuffled = rng.permutation(len(labels))
    ring = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[ring], return_index=True, return_counts=True)
    following = np.arange(1, len(ring) + 1)
    following[starts + counts - 1] = starts
    pairs: Indices = np.column_stack([ring, ring[following]])[(counts > 1).repeat(counts)]
    return pairs


def assigned_pairs(values: NDArray[np.float64], labels: NDArray[np.int64], used: Indices) -> Indices:
    """Pairs (pairs, 2) of different identities, each photo once left and once right, of the largest sum.

    values (photos, photos) in [0, 1]; labels (photos,). Pairs in used (., 2), in either order, are assigned
    only where there are no others; where only photos of one identity are left, they stay out. Exact, so in
    O(n^3): 0.01 s of one core for 512 photos of 64 individuals, 0.07 s for 1000 of 125.
    """
    from scipy.optimize import linear_sum_assignment

    cost = -values
    photos = len(labels)
    # One used pair costs more than all values are worth, one pair of an identity more than all used pairs.
    cost[used[:, 0], used[:, 1]] = cost[used[:, 1], used[:, 0]] = 2.0 * photos
    cost[labels[:, None] == labels] = 4.0 * photos**2
    left, right = linear_sum_assignment(cost)
    apart = labels[left] != labels[right]
    return np.column_stack([left[apart], right[apart]]).astype(np.int64)


class NegativePairs:
    """Pairs of different individuals, block by block of photos; all photos in one block is exact.

    Only similarities within a block are computed, so neither time nor memory grows with the square of the
    number of photos, as the author of the kernel proposed for larger data.
    """

    def __init__(
        self, labels: NDArray[np.int64], block: int, similarity: PairSimilarity | None = None
    ) -> None:
        """labels (photos,) are identities; without a similarity pairs are random throughout."""
        self.labels, self.block, self.similarity = labels, block, similarity
        self._blocks: list[Indices] = []
        self._known, self._used = False, np.zeros((0, 2), np.int64)

    def refresh(self) -> None:
        """Chooses pairs by similarity from now on, if there is one; used pairs may be used again."""
        self._known, self._used = self.similarity is not None, np.zeros((0, 2), np.int64)

    def next_pairs(self, amplitude: float, rng: np.random.Generator) -> Indices:
        """The pairs (pairs, 2) of the next block of photos; blocks are drawn anew after the last one.

        The most similar photos make pairs, but for noise up to amplitude, drawn each time; a pair is not used
        twice between two refreshes, where that can be.
        """
        photos = len(self.labels)
        if not self._blocks:
            self._blocks = np.array_split(rng.permutation(photos), -(-photos // self.block))
        block = self._blocks.pop().astype(np.int64)
        values = rng.random((len(block), len(block)))
        if self._known and self.similarity is not None:
            values = (self.similarity(block) + amplitude * values) / (1 + amplitude)
        place = np.full(len(self.labels), -1, np.int64)
        place[block] = np.arange(len(block))
        used = place[self._used]
        within = used[(used >= 0).all(axis=1)]
        pairs = block[assigned_pairs(values, self.labels[block], within)]
        self._used = np.concatenate([self._used, pairs])
        return pairs

    def state_dict(self) -> dict[str, Any]:
        """The blocks to come, the pairs used, and whether pairs are chosen by similarity."""
        return {"blocks": self._blocks, "known": self._known, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._blocks, self._known, self._used = list(state["blocks"]), state["known"], state["used"]


class PairSampler:
    """Batches of photos left, ..., right, ...; each has as many matching pairs as others.

    Pairs wait in two queues, which are filled when they run short: by a derangement of all photos that have
    another of their individual, and by assignments. So every photo is in as many pairs as any other of its
    kind, though not in every epoch; an individual with one photo is only in pairs of two individuals, which
    the matching pairs of others make up for.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        epochs: int,
        block: int,
        views: int = 1,
        similarity: PairSimilarity | None = None,
    ) -> None:
        """labels (photos,) are identities; in an epoch a photo is seen views times, on average.

        Pairs of two individuals are random until the first refresh, then, with a similarity, the most similar
        ones. Raises WhalebenchError where there are no pairs of one kind or the other.
        """
        _, counts = np.unique(labels, return_counts=True)
        self.single_identities = int((counts == 1).sum())
        """Identities with one photo."""
        if len(counts) < 2 or self.single_identities == len(counts):
            raise WhalebenchError(
                f"{len(counts)} individual(s) in train, {len(counts) - self.single_identities} of them with "
                "two photos, cannot make pairs of one and of two individuals: import more photos."
            )
        self.labels, self.epochs, self.done = labels, epochs, 0
        self.half = max(1, len(labels) * views // 4)
        """Pairs of either kind in an epoch."""
        self.steps = min(math.ceil(4 * self.half / batch_size), self.half)
        self._negatives = NegativePairs(labels, block, similarity)
        self._matching_queue = self._negative_queue = np.zeros((0, 2), np.int64)

    def refresh(self) -> None:
        """Chooses pairs of two individuals by the similarity as it now is."""
        self._negatives.refresh()
        if self._negatives.similarity is not None:
            # The queue was chosen by a network that has learned since.
            self._negative_queue = self._negative_queue[:0]

    def state_dict(self) -> dict[str, Any]:
        """The epochs begun, the queues, and the state of the choice of pairs."""
        return {
            "done": self.done,
            "matching_left": self._matching_queue,
            "others_left": self._negative_queue,
            "others": self._negatives.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.done = state["done"]
        self._matching_queue, self._negative_queue = state["matching_left"], state["others_left"]
        self._negatives.load_state_dict(state["others"])

    def epoch(self, generator: torch.Generator) -> list[Indices]:
        """The photos of each step: those on the left of its pairs, then those on the right."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        amplitude = noise_amplitude(self.done / max(self.epochs, 1))
        self.done += 1

        while len(self._matching_queue) < self.half:
            more = rng.permutation(matching_pairs(self.labels, rng))
            self._matching_queue = np.concatenate([self._matching_queue, more])
        while len(self._negative_queue) < self.half:
            more = self._negatives.next_pairs(amplitude, rng)
            self._negative_queue = np.concatenate([self._negative_queue, more])
        matching, self._matching_queue = np.split(self._matching_queue, [self.half])
        negative, self._negative_queue = np.split(self._negative_queue, [self.half])
        halves = (np.array_split(rng.permutation(pairs), self.steps) for pairs in (matching, negative))
        return [np.concatenate(both).T.ravel() for both in zip(*halves, strict=True)]
