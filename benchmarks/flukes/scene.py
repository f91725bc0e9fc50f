"""A scene: one individual at one encounter in one shot, which is all that is drawn in a photo."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

from whalebench.benchmarks.flukes.encounter import Encounter, Shot
from whalebench.benchmarks.flukes.individual import Individual

DRAWING_VERSION = 1
"""Raise it with every change of how scenes are drawn: it is part of each photo's content digest."""


@dataclass(frozen=True)
class Scene:
    """All that is in a photo, in whole numbers."""

    individual: Individual
    encounter: Encounter
    shot: Shot

    @property
    def digest(self) -> str:
        """SHA-256 of what is drawn, the same on every machine whatever its rounding and JPEG encoder."""
        parts = [
            f'{{"version":{DRAWING_VERSION}}}',
            *map(_canonical, (self.individual, self.encounter, self.shot)),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@lru_cache(maxsize=8)
def _canonical(part: Individual | Encounter | Shot) -> str:
    """The numbers of a part of a scene as JSON with sorted keys and no spaces."""
    return json.dumps(vars(part), default=vars, sort_keys=True, separators=(",", ":"))
