"""What members keep of photos besides scores: embeddings of valid and test, and of the gallery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.record import WEIGHTS
from whalebench.benchmarks.runs.scores_file import SCORES, read_arrays

Embeddings = NDArray[np.float32]
GALLERY = "gallery"
"""The array of a run's weights that holds its gallery, and the part of its lineage that says whose it is."""


@dataclass(frozen=True)
class Side:
    """One member's embeddings (photos, dimensions), each of length 1."""

    valid: Embeddings
    test: Embeddings
    gallery: Embeddings
    """Of the known photos of train, as `Ground.gallery_images` has them."""


def side_of(member: Member, ground: Ground) -> Side | None:
    """The member's embeddings; None where it keeps none of its gallery, or none of valid and test.

    Raises WhalebenchError for a gallery that is not one embedding a known train photo.
    """
    arrays, _ = read_arrays(member.named.folder / WEIGHTS, (GALLERY, "labels"), "lineage")
    valid, test = (embeddings_of(member, part) for part in ("valid", "test"))
    if set(arrays) != {GALLERY, "labels"} or valid is None or test is None:
        return None
    _refuse_other_gallery(member, arrays["labels"], ground)
    gallery = arrays[GALLERY]
    if not valid.shape[1:] == test.shape[1:] == gallery.shape[1:]:
        return None
    return Side(*(normalised(each) for each in (valid, test, gallery)))


def embeddings_of(member: Member, part: str) -> Embeddings | None:
    """Embeddings (photos, dimensions) of valid or test, as the member gave them; None where it gave none."""
    name = f"{part}_embeddings"
    arrays, _ = read_arrays(member.named.folder / SCORES, (name,), "names")
    found = arrays.get(name)
    scores = member.valid if part == "valid" else member.test
    if found is not None and len(found) != len(scores):
        raise WhalebenchError(
            f"{member.name} keeps {len(found)} embeddings of {len(scores)} {part} photos: repeat the run "
            f"with --force."
        )
    return found


def _refuse_other_gallery(member: Member, labels: NDArray[np.int64], ground: Ground) -> None:
    """Nothing; raises WhalebenchError unless the gallery is of the known train photos, one after another."""
    filled = set(member.lineage.get(GALLERY, ()))
    if not np.array_equal(labels, ground.gallery_labels) or filled != set(ground.gallery_digests):
        raise WhalebenchError(
            f"The gallery of {member.name} is not, or does not say that it is, one embedding a known train "
            f"photo, so it cannot be put beside another: leave that run out, or use --rule mean."
        )


def normalised(embeddings: Embeddings) -> Embeddings:
    """The embeddings (photos, dimensions) at length 1; one of length 0 stays."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    found: Embeddings = (embeddings / np.maximum(lengths, 1e-12)).astype(np.float32)
    return found
