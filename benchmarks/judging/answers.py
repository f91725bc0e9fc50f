"""What the photos of one part really show; kept by the harness, never handed to a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

NEW = "new"
"""The truth of a photo whose individual is not known in train."""


@dataclass(frozen=True)
class Answers:
    """What the photos of one part really show; never handed to a method."""

    images: tuple[str, ...]
    identities: tuple[str, ...]
    """As in the catalog, "" where it has none."""
    truth: tuple[str, ...]
    """The identity where it is known in train, else NEW."""
    clusters: tuple[str, ...]
    """What is resampled as one: the individual, or the encounter group of a photo that names none."""


def answers_of(part: pd.DataFrame, identities: Sequence[str], groups: Mapping[str, str]) -> Answers:
    """The answers to some rows of a catalog, given the individuals known in train and each image's group."""
    known = set(identities)
    truth = tuple(identity if identity in known else NEW for identity in part["identity"])
    clusters = tuple(
        f"individual {identity}" if identity else f"group {groups[image]}"
        for image, identity in zip(part["image"], part["identity"], strict=True)
    )
    return Answers(tuple(part["image"]), tuple(part["identity"]), truth, clusters)
