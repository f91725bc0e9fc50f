"""Parts of one picture, at another zoom, turned or mirrored, are found, and nothing in plain sea."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.planted import draw_animal, draw_sea
from whalebench.benchmarks.auditing import parts
from whalebench.benchmarks.auditing.audit import audit_catalog
from whalebench.benchmarks.core.catalog import build_catalog
from whalebench.methods.parts.keypoints import match, root_sift

pytest.importorskip("cv2")
TURNS = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.TRANSPOSE,
)


def draw_coat(rng: np.random.Generator, size: tuple[int, int] = (480, 360)) -> Image.Image:
    """A patterned animal that fills the picture: spots and lines of all sizes on a mottled ground."""
    wide, high = size
    mottled = Image.fromarray(rng.integers(60, 200, (high // 12, wide // 12, 3)).astype(np.uint8))
    photo = mottled.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(photo)
    for _ in range(160):
        x, y, r = rng.uniform(0, wide), rng.uniform(0, high), rng.uniform(3, 22)
        pen.polygon(
            [(x + r * a, y + r * b) for a, b in rng.normal(0, 1, (5, 2))],
            tuple(rng.integers(10, 245, 3).tolist()),
        )
    return photo.filter(ImageFilter.GaussianBlur(1))


def saved(photo: Image.Image, quality: int = 80) -> Image.Image:
    """The photo as a JPEG of it shows it."""
    written = io.BytesIO()
    photo.save(written, "JPEG", quality=quality)
    return Image.open(written)


def two_parts(photo: Image.Image, number: int) -> tuple[Image.Image, Image.Image]:
    """Two windows that share 30 to 60 % of the smaller, the other up to 1.6 times as wide, and turned."""
    wide, high = photo.size
    zoom = 1 + 0.15 * (number % 5)
    one = photo.crop((0, 0, wide // 2, high // 2))
    left, top = wide // 4 - 30 * (number % 3), high // 8
    other = photo.crop((left, top, round(left + zoom * wide / 2), round(top + zoom * high / 2)))
    other = other.resize((wide // 2, high // 2), Image.Resampling.BICUBIC)
    turn = TURNS[number % len(TURNS)]
    return saved(one), saved(other.transpose(turn) if turn is not None else other, 65)


def found_in(photos: list[Image.Image]) -> dict[tuple[int, int], parts.Overlap]:
    pictures = [parts.picture_of(photo.convert("L")) for photo in photos]
    return {(each.first, each.second): each for each in parts.find_parts(pictures)}


def test_parts_of_one_picture_are_found_and_plain_sea_is_not() -> None:
    rng = np.random.default_rng(0)
    photos = [photo for number in range(10) for photo in two_parts(draw_coat(rng), number)]
    photos += [draw(rng) for _ in range(8) for draw in (draw_sea, draw_animal, draw_coat)]
    found = found_in(photos)
    planted = {(2 * number, 2 * number + 1) for number in range(10)}
    assert len(planted & found.keys()) >= 9
    assert found.keys() <= planted


def test_an_overlap_tells_turn_and_share() -> None:
    photo = draw_coat(np.random.default_rng(1))
    one = photo.crop((0, 0, 240, 360))
    other = photo.crop((120, 0, 360, 360))
    for turn, transpose in enumerate((None, *TURNS[1:3], Image.Transpose.ROTATE_270)):
        which = {None: 0, Image.Transpose.ROTATE_90: 1, Image.Transpose.ROTATE_180: 2}.get(transpose, 3)
        (each,) = found_in([one, other.transpose(transpose) if transpose is not None else other]).values()
        assert (each.turn, turn) == (which, turn)
        assert each.shared == pytest.approx(0.5, abs=0.03) and each.likeness > 0.6
    (each,) = found_in([one, other.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]).values()
    assert each.turn == 4 and each.shared == pytest.approx(0.5, abs=0.03)


def test_a_mirrored_photo_has_the_descriptors_with_their_numbers_moved() -> None:
    photo = draw_coat(np.random.default_rng(2)).convert("L")
    points, mirrored = (
        parts.picture_of(each).points for each in (photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    )
    moved = root_sift(points.descriptors[:, parts.MIRROR])
    pairs = match(moved, root_sift(mirrored.descriptors), 0.7, mutual=True)
    assert len(pairs) > 0.8 * len(points)
    assert len(match(root_sift(points.descriptors), root_sift(mirrored.descriptors), 0.7, mutual=True)) < 10


def test_photos_without_any_key_point_have_no_parts() -> None:
    plain = [Image.new("L", (64, 48), grey) for grey in (20, 30, 40)]
    assert found_in(plain) == {} and found_in([]) == {}


def test_the_same_points_without_the_same_pixels_are_no_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stamp in the corner of every photo, as camera traps leave it, makes no parts of one picture."""
    rng = np.random.default_rng(3)
    stamp = draw_coat(rng).resize((240, 100))
    photos = [draw_coat(rng) for _ in range(4)]
    for photo in photos:
        photo.paste(stamp, (0, 0))
    pictures = [parts.picture_of(photo.convert("L")) for photo in photos]
    assert list(parts.find_parts(pictures)) == []
    monkeypatch.setattr(parts, "SAME_SCENE", -1.0)
    assert len(list(parts.find_parts(pictures))) > 0


def test_the_audit_tells_a_part_of_a_picture_from_two_parts_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = draw_coat(np.random.default_rng(4))
    cut = {"left": (0, 0, 260, 360), "right": (150, 0, 480, 360), "small": (20, 30, 160, 200)}
    rows = []
    for name, box in cut.items():
        photo.crop(box).save(tmp_path / f"{name}.png")
        rows.append({"image": name, "path": str(tmp_path / f"{name}.png"), "identity": name})
    catalog = build_catalog(pd.DataFrame(rows), "cut")
    made = audit_catalog(catalog)
    assert {pair.images: pair.kind for pair in made.pairs} == {
        ("left", "right"): "overlap",
        ("left", "small"): "crop",
    }
    assert made.parts and all(pair.two_names and not pair.two_labels for pair in made.pairs)
    monkeypatch.setattr("whalebench.benchmarks.auditing.audit.can_find_parts", lambda: False)
    without = audit_catalog(catalog)
    assert not without.parts and without.pairs == ()
