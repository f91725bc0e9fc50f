"""The embedded benchmark: the same scenes everywhere, the long tail, encounters, boxes, masks and files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench.benchmarks.flukes import DRAWING_VERSION, draw_flukes
from whalebench.benchmarks.flukes.draw import catalog_rows, paint
from whalebench.benchmarks.flukes.integers import Stream, uniform
from whalebench.benchmarks.flukes.population import LANDMARKS, Plan, plan_photos, pose

SMALL = 60
SCENES = "52909924b14a60a83068f119f8fa37fa885abf140f080cf874a677a9dbe69d61"
"""Digest over all content digests. If it changes, what is drawn has changed: raise DRAWING_VERSION."""
THUMBNAIL = [[94, 94, 95, 93, 87, 96], [90, 63, 74, 66, 75, 92], [92, 99, 105, 105, 90, 89]]
MASKED = 16354


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return plan_photos()


@pytest.fixture(scope="module")
def rows(plans: list[Plan]) -> pd.DataFrame:
    return catalog_rows(plans)


def test_splitmix_is_the_published_one() -> None:
    stream = Stream("any")
    stream.state = 1234567
    assert [stream.word() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_uniform_is_frozen() -> None:
    values = uniform(7, 2, 1000)
    assert values.dtype == np.float32
    assert values.shape == (2, 1000)
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == "f20007a129b610a1"


def test_stream_keeps_its_bounds_and_shuffles_everything() -> None:
    stream = Stream("bounds")
    assert {stream.between(-2, 3) for _ in range(500)} == {-2, -1, 0, 1, 2, 3}
    assert 200 < sum(stream.chance(300) for _ in range(1000)) < 400
    items = list(range(50))
    mixed = stream.shuffled(items)
    assert sorted(mixed) == items != mixed


def test_what_is_drawn_is_frozen(rows: pd.DataFrame) -> None:
    total = hashlib.sha256("\n".join(rows["content_digest"]).encode()).hexdigest()
    assert DRAWING_VERSION == 1
    assert total == SCENES
    assert rows["content_digest"].is_unique


def test_geometry_is_frozen_too(rows: pd.DataFrame) -> None:
    first = rows.iloc[0]
    assert (first["image"], *first[["x0", "y0", "x1", "y1", "notch_x", "notch_y"]]) == (
        "000d801a.jpg",
        27,
        35,
        277,
        165,
        150.0,
        112.0,
    )


def test_the_painting_is_frozen_but_for_rounding(plans: list[Plan]) -> None:
    """The digest is over parameters; this holds the code that paints them: it must raise the version too."""
    photo, mask = paint(plans[0].scene)
    thumbnail = np.asarray(
        Image.fromarray(photo).convert("L").resize((6, 3), Image.Resampling.BOX), dtype=int
    )
    assert np.abs(thumbnail - THUMBNAIL).max() <= 2
    assert abs(int((mask > 0).sum()) - MASKED) <= 20


def test_any_number_of_a_scene_counts_in_its_digest() -> None:
    scene = plan_photos(SMALL)[0].scene
    for part in ("individual", "encounter", "shot"):
        whole = getattr(scene, part)
        field = {"individual": "chord", "encounter": "haze", "shot": "blur"}[part]
        other = replace(scene, **{part: replace(whole, **{field: getattr(whole, field) + 1})})
        assert other.digest != scene.digest


def test_long_tail(rows: pd.DataFrame) -> None:
    photos = rows.loc[rows["identity"] != "", "identity"].value_counts()
    assert (len(rows), len(photos), int((photos == 1).sum()), int(photos.max())) == (1200, 150, 60, 50)
    assert int((rows["identity"] == "").sum()) == 240
    assert rows["image"].is_monotonic_increasing
    assert rows["image"].is_unique


def test_encounters(rows: pd.DataFrame) -> None:
    by_encounter = rows.groupby("encounter")
    assert by_encounter.size().between(1, 4).all()
    assert len(rows[["encounter", "identity", "date"]].drop_duplicates()) == by_encounter.ngroups
    known = rows[rows["identity"] != ""].groupby("identity")
    encounters, photos = known["encounter"].nunique(), known.size()
    assert (encounters[photos > 1] > 1).mean() >= 0.85
    assert rows["date"].str[:4].nunique() >= 5


def test_photos_of_an_encounter_share_sea_light_and_view_and_others_do_not(plans: list[Plan]) -> None:
    meetings = {plan.encounter: plan.scene.encounter for plan in plans}
    assert all(plan.scene.encounter == meetings[plan.encounter] for plan in plans)
    assert len(set(meetings.values())) == len(meetings)
    lives = {plan.life: plan.scene.individual for plan in plans}
    assert all(plan.scene.individual == lives[plan.life] for plan in plans)
    yaw = {
        code: [plan.scene.shot.yaw for plan in plans if plan.encounter == code]
        for code in list(meetings)[:40]
    }
    assert max(max(values) - min(values) for values in yaw.values()) <= 220


def test_names_tell_nothing(rows: pd.DataFrame) -> None:
    assert rows["image"].str.fullmatch(r"[0-9a-f]{8}\.jpg").all()
    order = rows.loc[rows["identity"] != "", "identity"].str[3:].astype(int)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1


def test_boxes_and_landmarks_lie_inside_the_photo(rows: pd.DataFrame) -> None:
    assert (
        (rows["x0"] >= 0) & (rows["y0"] >= 0) & (rows["x0"] < rows["x1"]) & (rows["y0"] < rows["y1"])
    ).all()
    assert ((rows["x1"] <= rows["width"]) & (rows["y1"] <= rows["height"])).all()
    for name in LANDMARKS:
        assert rows[f"{name}_x"].between(rows["x0"], rows["x1"]).all()
        assert rows[f"{name}_y"].between(rows["y0"], rows["y1"]).all()
    assert (rows["left_tip_x"] < rows["notch_x"]).all()
    assert (rows["notch_x"] < rows["right_tip_x"]).all()
    assert (rows["notch_y"] < rows["bottom_y"]).all()


def test_every_pose_can_be_undone(plans: list[Plan]) -> None:
    for plan in plans[::7]:
        assert (np.diff(pose(plan.scene).across) > 0).all()


def test_small_benchmark_is_still_one(small_flukes: tuple[Path, pd.DataFrame]) -> None:
    rows = small_flukes[1]
    encounters = rows[rows["identity"] != ""].groupby("identity")["encounter"].nunique()
    assert len(rows) == SMALL
    assert (encounters > 1).sum() >= 8
    assert (rows["identity"] == "").sum() == SMALL // 5
    of_files = ["file_digest", "mask_file_digest"]
    pd.testing.assert_frame_equal(rows.drop(columns=of_files), catalog_rows(plan_photos(SMALL)))


def test_photos_and_masks_fit_the_catalog(small_flukes: tuple[Path, pd.DataFrame]) -> None:
    folder, rows = small_flukes
    for row in rows.itertuples():
        data = (folder / str(row.path)).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.file_digest
        with Image.open(folder / str(row.path)) as photo, Image.open(folder / str(row.mask)) as mask:
            assert photo.size == mask.size == (row.width, row.height)
            assert np.asarray(photo.convert("RGB")).std() > 5
            left, upper, right, lower = mask.getbbox() or (0, 0, 0, 0)
        assert np.abs(np.subtract((left, upper, right, lower), (row.x0, row.y0, row.x1, row.y1))).max() <= 2


def test_one_worker_and_two_draw_the_same_files(
    small_flukes: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, rows = small_flukes
    seen: list[tuple[int, int]] = []
    again = draw_flukes(
        tmp_path, workers=2, photos=SMALL, progress=lambda done, total: seen.append((done, total))
    )
    pd.testing.assert_frame_equal(rows, again)
    for kind in ("photos", "masks"):
        files = sorted(path.name for path in (tmp_path / kind).iterdir())
        assert files == sorted(path.name for path in (folder / kind).iterdir())
        assert all(
            (tmp_path / kind / name).read_bytes() == (folder / kind / name).read_bytes() for name in files
        )
    assert seen[-1] == (SMALL, SMALL)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_an_individual_looks_the_same_and_its_sea_does_not() -> None:
    plans = [plan for plan in plan_photos(SMALL) if plan.identity]
    scene = plans[0].scene
    photo, mask = paint(scene)
    size = {"width": scene.encounter.width, "height": scene.encounter.height}
    elsewhere = replace(plans[-1].scene.encounter, water=(90, 20, 20), **size)
    other, _ = paint(replace(scene, encounter=elsewhere))
    sea = mask == 0
    assert np.abs(photo[sea].astype(int) - other[sea]).mean() > 10
    plain, _ = paint(replace(scene, individual=plans[-1].scene.individual))
    assert np.abs(photo.astype(int) - plain).mean() > 2
