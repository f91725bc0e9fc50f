"""Drawing the benchmark: photos and masks into a folder, rows of the catalog out."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from whalebench.benchmarks.flukes.paint import paint
from whalebench.benchmarks.flukes.population import Plan, plan_photos
from whalebench.benchmarks.flukes.view import LANDMARKS, pose

if TYPE_CHECKING:
    import pandas as pd


SPECIES = "Megaptera novaeangliae"

_CHUNK = 24


def draw_flukes(
    folder: Path,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    photos: int | None = None,
) -> pd.DataFrame:
    """The catalog rows of the benchmark, its photos and masks drawn under `folder`.

    `progress(done, total)` is called as photos are drawn; with `photos` the benchmark has that many. Files
    are written where they will stay, so give a temporary folder and move it into place when all is drawn.
    """
    plans = sorted(plan_photos(photos), key=lambda plan: (plan.life, plan.image))
    chunks = [plans[start : start + _CHUNK] for start in range(0, len(plans), _CHUNK)]
    for name in ("photos", "masks"):
        (folder / name).mkdir(exist_ok=True)
    digests: dict[str, str] = {}
    with _drawers(min(workers, len(chunks))) as pool:
        drawn = [pool.submit(_draw_chunk, chunk, folder) for chunk in chunks]
        rows = catalog_rows(plans)  # meanwhile
        for future in as_completed(drawn):
            digests |= future.result()
            if progress:
                progress(len(digests), len(plans))
    rows["file_digest"] = rows["image"].map(digests)
    return rows


def _drawers(workers: int) -> Executor:
    """What draws the chunks: processes, or one thread of this process when there is one worker."""
    if workers <= 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def catalog_rows(plans: list[Plan]) -> pd.DataFrame:
    """The catalog rows of planned photos, sorted by image, without `file_digest`: nothing is drawn."""
    import pandas as pd

    table = pd.DataFrame([_row(plan) for plan in sorted(plans, key=lambda plan: plan.life)])
    return table.sort_values("image", ignore_index=True)


def _row(plan: Plan) -> dict[str, str | int | float]:
    view = pose(plan.scene)
    marks = {
        f"{name}_{axis}": at
        for name, point in zip(LANDMARKS, view.landmarks, strict=True)
        for axis, at in zip("xy", point, strict=True)
    }
    yaw = plan.scene.shot.yaw
    return {
        "image": plan.image,
        "path": f"photos/{plan.image}",
        "identity": plan.identity,
        "encounter": plan.encounter,
        "date": plan.day,
        "viewpoint": "left" if yaw < -150 else "right" if yaw > 150 else "straight",
        "species": SPECIES,
        **dict(zip(("x0", "y0", "x1", "y1"), view.box, strict=True)),
        **marks,
        "mask": f"masks/{Path(plan.image).stem}.png",
        "width": plan.scene.encounter.width,
        "height": plan.scene.encounter.height,
        "content_digest": plan.scene.digest,
    }


def _draw_chunk(plans: list[Plan], folder: Path) -> dict[str, str]:
    """SHA-256 of each photo file written, by image."""
    digests = {}
    for plan in plans:
        photo, mask = paint(plan.scene)
        data = io.BytesIO()
        Image.fromarray(photo).save(data, "JPEG", quality=plan.scene.shot.quality)
        (folder / "photos" / plan.image).write_bytes(data.getvalue())
        digests[plan.image] = hashlib.sha256(data.getvalue()).hexdigest()
        Image.fromarray(mask).save(folder / "masks" / f"{Path(plan.image).stem}.png", compress_level=1)
    return digests
