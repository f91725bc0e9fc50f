"""Embeddings that members keep: of valid and test, and of the known photos of train in their galleries.

A bagged member has a gallery in each of its networks, and all of them are taken side by side.
"""

from __future__ import annotations

import numpy as np

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.record import SCORES, WEIGHTS, read_arrays
from whalebench.benchmarks.ensembles.members import FoldData, Member
from whalebench.methods.parts.fusion import BAG, INNER_GALLERY, Embeddings, Rows, side_by_side

GALLERY = "gallery"
"""The array of a run's weights that holds its gallery, and the part of its lineage that says whose it is."""
LABELS = "labels"
"""The array beside it of the columns of its photos."""


def read_embeddings(member: Member, fold: FoldData) -> dict[str, Embeddings]:
    """The member's embeddings (photos, dimensions) at length 1 by `gallery`, `valid` and `test`.

    Those of the gallery are as `FoldData.gallery_images` has them. Empty where the member keeps none of one
    part. Raises WhalebenchError for a gallery that is not one embedding a known train photo.
    """
    valid, test = (read_features(member, part) for part in ("valid", "test"))
    gallery = _read_bagged(member, fold) if member.bags > 1 else _read_gallery(member, fold)
    if gallery is None or valid is None or test is None:
        return {}
    every = {GALLERY: gallery, "valid": valid, "test": test}
    alike = len({each.shape[1:] for each in every.values()}) == 1
    return {part: normalise(each) for part, each in every.items()} if alike else {}


def _read_gallery(
    member: Member, fold: FoldData, bag: int | None = None, order: Rows | None = None
) -> Embeddings | None:
    """(known photos of train, dimensions) the gallery of the member, or of one of its bags; None for none.

    It holds these photos in `order`.
    """
    order = np.arange(len(fold.gallery)) if order is None else order
    gallery, labels = (name if bag is None else f"{bag}.{name}" for name in (GALLERY, LABELS))
    arrays, _ = read_arrays(member.run.folder / WEIGHTS, (gallery, labels), "lineage")
    if set(arrays) != {gallery, labels}:
        return None
    parts = [GALLERY]
    if bag is not None:
        parts = [f"{BAG.format(bag + 1)}.{part}" for part in (GALLERY, INNER_GALLERY)]
    filled = {digest for part in parts for digest in member.lineage.get(part, ())}
    if not np.array_equal(arrays[labels], fold.gallery_labels[order]) or filled != set(fold.gallery_digests):
        raise WhalebenchError(
            f"The gallery of {member.name} is not, or does not say that it is, one embedding a known train "
            f"photo, so it cannot be put beside another: leave that run out, or use --rule mean."
        )
    found: Embeddings = arrays[gallery][np.argsort(order)]
    return found


def _read_bagged(member: Member, fold: FoldData) -> Embeddings | None:
    """(known photos of train, dimensions) the galleries of all bags side by side; None where one has none."""
    inner = member.inner_folds(fold)[fold.train["identity"].to_numpy() != ""]
    found = []
    for bag in range(member.bags):
        # What it learned from came first, then its inner fold.
        order = np.concatenate([np.flatnonzero(inner != bag), np.flatnonzero(inner == bag)])
        found.append(_read_gallery(member, fold, bag, order))
    every = [each for each in found if each is not None]
    return side_by_side(every) if len(every) == len(found) else None


def read_features(member: Member, part: str) -> Embeddings | None:
    """Embeddings (photos, dimensions) of valid or test, as the member gave them; None where it gave none."""
    name = f"{part}_embeddings"
    features = member.features if part == "test" else None
    if features is None:
        features = read_arrays(member.run.folder / SCORES, (name,), "names")[0].get(name)
    photos = len(member.valid if part == "valid" else member.test)
    if features is not None and len(features) != photos:
        raise WhalebenchError(
            f"{member.name} keeps {len(features)} embeddings of {photos} {part} photos: repeat the run "
            f"with --force."
        )
    return features


def in_own_space(embeddings: Embeddings, bags: Rows, count: int) -> Embeddings:
    """Out-of-fold embeddings (photos, d) at their places among those of all bags (photos, count * d).

    So long that their cosines with embeddings side by side are those within the one network's space.
    """
    placed = np.zeros((len(embeddings), count, embeddings.shape[1]), np.float32)
    placed[np.arange(len(bags)), bags] = normalise(embeddings) * np.float32(np.sqrt(count))
    return placed.reshape(len(embeddings), -1)
