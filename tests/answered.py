"""Makes a workspace of drawn photos and of runs that answered them, calibrated by how they are drawn.

    python tests/answered.py FOLDER --methods 30 --queries 1000 --side 320
    whalebench report --workspace FOLDER --html page.html

Each method sees, of each individual, a number drawn round `skill` for the true one and round 0 for others,
partly the same number as all other methods. From such numbers probabilities follow that are right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from whalebench.benchmarks.core.catalog import Catalog, write_catalog
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.record import (
    plain,
    write_matches,
    write_predictions,
    write_record,
    write_run,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.metrics.calibration import UNCALIBRATED
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.summary import summarize
from whalebench.tests.synthetic_runs import record

TEMPERATURE = {"temperature": 1.0, "epsilon": 0.0}
SHARED = 0.5
"""Of the variance of what methods see, that which they have in common."""


@dataclass(frozen=True)
class Drawn:
    """A workspace with a catalog, some photos of which are tested on."""

    workspace: Workspace
    catalog: Catalog
    tested: pd.DataFrame
    """The rows of the catalog that are test photos."""
    identities: tuple[str, ...]
    """Those that train shows."""

    def truth(self, labels: Sequence[str] | None = None) -> list[str]:
        """Of each test photo the individual, or *new*; by its labels, where these are other ones."""
        labels = self.tested["identity"].tolist() if labels is None else labels
        return [label if label in self.identities else NEW for label in labels]


def draw_workspace(
    folder: Path, *, individuals: int = 6, tests: int = 2, new: int = 3, side: int = 30, **columns: str
) -> Drawn:
    """A workspace with the benchmark `seals`: of each individual a train photo from the left and one from the
    right, and test photos; of new ones a test photo each. Further columns are the same for all photos."""
    workspace = Workspace.open(folder)
    place = workspace.benchmarks / "seals"
    (place / "photos").mkdir(parents=True)
    rng, rows = np.random.default_rng(3), []
    for number in range(individuals + new):
        colour = rng.integers(0, 256, (3, 4, 3))
        kinds = ["train", "train", *["test"] * tests] if number < individuals else ["test"]
        for nth, kind in enumerate(kinds):
            image = f"{kind}-{number:03d}-{nth}.png"
            small = (colour + rng.normal(0, 25, colour.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(small).resize((side, side * 2 // 3)).save(place / "photos" / image)
            file = place / "photos" / image
            row = {"image": image, "path": str(file), "identity": f"seal_{number:03d}"}
            row |= {"viewpoint": ("left", "right")[nth % 2], "encounter": f"e{number}-{nth}"}
            rows.append(
                row | {"content_digest": digest_file(file), "file_digest": digest_file(file), **columns}
            )
    catalog = write_catalog(pd.DataFrame(rows), place, "seals", "drawn for a test")
    is_test = catalog.table["image"].str.startswith("test")
    identities = tuple(sorted(set(catalog.table["identity"][~is_test])))
    return Drawn(workspace, catalog, catalog.table[is_test].reset_index(drop=True), identities)


def evidence(drawn: Drawn, skill: float, seed: int, true: Sequence[str] | None = None) -> NDArray[np.float64]:
    """Scores (test photos, individuals) whose softmax is calibrated; by whom photos really show, if given."""
    true = drawn.tested["identity"].tolist() if true is None else list(true)
    is_it = np.array(true)[:, None] == np.array(drawn.identities)
    shared, own = (np.random.default_rng(each).normal(0, 1, is_it.shape) for each in (7, (8, seed)))
    seen = skill * is_it + SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * own
    return skill * seen


def put_answers(
    drawn: Drawn,
    run: str,
    scores: NDArray[np.float64],
    *,
    labels: Sequence[str] | None = None,
    threshold: float | None = None,
    matches: pd.DataFrame | None = None,
    **facts: Any,
) -> None:
    """Writes a finished run that gave these scores (test photos, individuals)."""
    truth, images = drawn.truth(labels), drawn.tested["image"].tolist()
    probabilities = UNCALIBRATED.probabilities(scores.astype(np.float32))
    queries = evaluate_queries(
        images=images,
        truth=truth,
        clusters=[f"individual {name}" for name in truth],
        identities=drawn.identities,
        scores=scores,
        probabilities=probabilities,
        new_scores=-probabilities.max(axis=1),
        new_threshold=threshold,
    )
    named = drawn.tested["identity"] if labels is None else labels
    queries = queries.assign(identity=list(named), viewpoint=drawn.tested["viewpoint"])
    counts = {"identities": len(drawn.identities), "train_known_photos": 100, "test_photos": len(images)}
    known = {"benchmark": "seals", "catalog_digest": drawn.catalog.digest, "chosen": TEMPERATURE}
    known |= {"counts": counts, "metrics": plain(summarize(queries))}
    of = record(run, **(known | facts))

    def fill(folder: Path) -> None:
        write_predictions(folder, queries)
        if matches is not None:
            write_matches(folder, matches)
        write_record(folder, of)

    write_run(drawn.workspace.runs / run, fill)


def main() -> None:
    """Parses the command line and fills the workspace."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for name, default in (("methods", 30), ("queries", 1000), ("side", 320)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    individuals = asked.queries // 5
    new = asked.queries - 4 * individuals
    drawn = draw_workspace(
        asked.folder, individuals=individuals, tests=4, new=new, side=asked.side, rightsholder="somebody"
    )
    for place in range(asked.methods):
        scores, name = evidence(drawn, 2 + 3 * place / asked.methods, place), f"method-{place:03d}"
        first = drawn.catalog.table[drawn.catalog.table["image"].str.startswith("train")]
        nearest = first.groupby("identity")["image"].first()
        best = np.array(drawn.identities)[np.argsort(-scores, axis=1)[:, :5]]
        matches = pd.DataFrame({"image": drawn.tested["image"]})
        for number in range(5):
            matches[f"nearest_{number + 1}"] = nearest.loc[best[:, number]].to_numpy()
        numbers = dict(zip("abcdef", (0.5, 0.02 * (place % 5), 0.2, 0.0, 0.6, 0.2), strict=True))
        matches = matches.assign(**{f"window_{letter}": number for letter, number in numbers.items()})
        matches = matches.assign(window_height=80, window_width=128)
        put_answers(drawn, f"{name}-0", scores, method=name, matches=matches)


if __name__ == "__main__":
    main()
