"""Embeddings that members keep: of valid and test, and of the known photos of train in their galleries.

A bagged member has a gallery in each of its bags and a recipe one in each of its networks; all of them are
taken side by side, as its embeddings of test are.
"""

from __future__ import annotations

import re

import numpy as np

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.record import SCORES, WEIGHTS, read_arrays
from whalebench.benchmarks.ensembles.members import FoldData, Member
from whalebench.methods.parts.fusion import BAG, INNER_GALLERY, JOINT_GALLERY, Embeddings, Rows, side_by_side

GALLERY = "gallery"
"""The array of a run's weights that holds its gallery, and the part of its lineage that says whose it is."""
LABELS = "labels"
"""The array beside it of the columns of its photos."""
GALLERIES = re.compile(rf"(\d+\.)*({GALLERY}|{LABELS})")
"""The names of both: behind the numbers of bag, cycle, member and network, as far as there are several."""


class OtherGalleryError(WhalebenchError):
    """A member's gallery is not one embedding of each known photo of train."""


def read_embeddings(member: Member, fold: FoldData) -> dict[str, Embeddings]:
    """The member's embeddings (photos, dimensions) at length 1 by `gallery`, `valid` and `test`.

    Those of the gallery are as `FoldData.gallery_images` has them. Empty where the member keeps none of one
    part. Raises OtherGalleryError for a gallery that is not one embedding a known train photo.
    """
    valid, test = (read_features(member, part) for part in ("valid", "test"))
    if valid is None or test is None or valid.shape[1:] != test.shape[1:]:
        return {}
    valid, test = normalise(valid), normalise(test)
    gallery = _read_gallery(member, fold, test)
    return {} if gallery is None else {GALLERY: gallery, "valid": valid, "test": test}


def _read_gallery(member: Member, fold: FoldData, test: Embeddings) -> Embeddings | None:
    """(known photos of train, dimensions) all galleries of the member, side by side as in those of test.

    None where they have not the dimensions of test's (photos, dimensions) together.
    """
    arrays, _ = read_arrays(member.run.folder / WEIGHTS, GALLERIES, "lineage")
    scopes = _outermost([name.removesuffix(GALLERY) for name in arrays if name.endswith(GALLERY)])
    found = []
    for scope in scopes:
        bag = int(scope.partition(".")[0]) if scope and member.bags > 1 else None
        order = _order(member, fold, bag)
        labels = arrays.get(scope + LABELS, np.empty(0))
        if not np.array_equal(labels, fold.gallery_labels[order]) or not _is_whole(member, fold, bag):
            raise OtherGalleryError(
                f"The gallery of {member.name} is not, or does not say that it is, one embedding a known "
                f"train photo, so it cannot be put beside another: leave that run out, or use --rule mean."
            )
        found.append(arrays[scope + GALLERY][np.argsort(order)])
    ends = np.cumsum([each.shape[1] for each in found])
    if not found or ends[-1] != test.shape[1]:
        return None
    # Where a member of an ensemble is several networks, each counts less than a network that is alone.
    shares = [float((one**2).sum(axis=1).mean()) for one in np.split(test, ends[:-1], axis=1)]
    return side_by_side(found, shares)


def _outermost(scopes: list[str]) -> list[str]:
    """The scopes in the order of their numbers, without those in another: its gallery is theirs joined."""
    kept: list[str] = []
    for scope in sorted(scopes, key=lambda scope: [int(number) for number in scope.split(".")[:-1]]):
        if not scope.startswith(tuple(kept)):
            kept.append(scope)
    return kept


def _order(member: Member, fold: FoldData, bag: int | None) -> Rows:
    """(known photos of train,) the place among these of each photo of a bag's galleries."""
    if bag is None or JOINT_GALLERY in member.lineage:
        return np.arange(len(fold.gallery))
    inner = member.inner_folds(fold)[fold.train["identity"].to_numpy() != ""]
    # What it learned from came first, then its inner fold.
    return np.concatenate([np.flatnonzero(inner != bag), np.flatnonzero(inner == bag)])


def _is_whole(member: Member, fold: FoldData, bag: int | None) -> bool:
    """Whether the lineage says of each gallery, of a bag or of all, that it has all known train photos."""
    scope, lineage = "" if bag is None else f"{BAG.format(bag + 1)}.", member.lineage
    joint = [name for name in (JOINT_GALLERY, scope + GALLERY) if name in lineage][:1]
    each = [part for part in lineage if part.startswith(scope) and part.endswith(f".{GALLERY}")]
    inner = lineage.get(scope + INNER_GALLERY, ())
    filled = [{*lineage[part], *inner} for part in joint or each]
    return bool(filled) and all(one == set(fold.gallery_digests) for one in filled)


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
