"""Predictions on new photos as a run would have them, for tests of the page on which people decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.record import RunRecord, write_record, write_run
from whalebench.reports.page.answers import MATRIX
from whalebench.tests.answered import Drawn, evidence
from whalebench.tests.synthetic_runs import record

RUN = "arcface-seals-fold0-seed0"
By = Literal["photo", "encounter"]


@dataclass(frozen=True)
class Stub:
    """What `whalebench predict` says, as far as the page reads it."""

    record: RunRecord
    photos: pd.DataFrame
    gallery: pd.DataFrame
    identities: tuple[str, ...]
    scores: NDArray[np.float64]
    """(photos, identities), from which probabilities follow that are right."""
    skill: float
    share_new: float
    problems: list[str] = field(default_factory=list)

    def table(self, by: By | None = None) -> pd.DataFrame:
        """Five candidates of each photo or encounter, by the sum of its evidence."""
        nearest = self.gallery.groupby("identity")["image"].first()
        names, groups = self.photos["photo"].tolist(), self.photos[by or "photo"]
        groups = groups.where(groups != "", self.photos["photo"]).tolist()
        rows = []
        for group in dict.fromkeys(groups):
            own = [row for row, each in enumerate(groups) if each == group]
            total = self.scores[own].sum(axis=0) - len(own) * self.skill**2 / 2  # log likelihood ratios
            odds = np.exp(total) * (1 - self.share_new) / len(total)
            for place, column in enumerate(np.argsort(-total)[:5], 1):
                who = self.identities[column]
                row = {"photo": names[own[0]], "encounter": self.photos["encounter"].iloc[own[0]]}
                row |= {"place": place, "candidate": who, "probability": odds[column] / odds.sum()}
                row |= {"new": self.share_new / (self.share_new + odds.sum()), "score": total[column]}
                rows.append(row | {"in_set": place < 3, "nearest": nearest[who]})
        return pd.DataFrame(rows)


def predicted(drawn: Drawn, skill: float = 2.0) -> Stub:
    """Of the drawn workspace's test photos, which are taken for new; those of an individual were met once."""
    names = drawn.tested["identity"]
    photos = drawn.tested.rename(columns={"image": "photo"}).assign(encounter="met " + names)
    numbers = dict(zip(MATRIX, (0.5, 0.02, 0.2, 0.0, 0.6, 0.2), strict=True))
    photos = photos.assign(**numbers, window_height=80, window_width=128).drop(columns="identity")
    gallery = drawn.catalog.table[drawn.catalog.table["image"].str.startswith("train")]
    of = record(RUN, benchmark="seals", catalog_digest=drawn.catalog.digest)
    write_run(drawn.workspace.runs / RUN, lambda folder: write_record(folder, of))
    share_new = 1 - float(np.isin(names, drawn.identities).mean())
    scores = evidence(drawn, skill, 0)
    return Stub(of, photos, gallery, drawn.identities, scores, skill, share_new)
