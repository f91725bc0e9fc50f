"""Thumbnails: small, without anything else of their files, made once, verified, and under a cap."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.page import thumbnails
from whalebench.reports.page.thumbnails import (
    CHANGED,
    MOST_BYTES,
    SIDE,
    Album,
    Thumbnail,
    View,
    Window,
    through,
)

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return Workspace.open(tmp_path / "ws").cache


def view_of(file: Path, **facts: object) -> View:
    return View(file.name, str(file), digest_file(file), digest_file(file), **facts)  # type: ignore[arg-type]


def save(folder: Path, pixels: np.ndarray, name: str = "one.png", **options: object) -> Path:
    file = folder / name
    Image.fromarray(pixels.astype(np.uint8)).save(file, **options)  # type: ignore[arg-type]
    return file


def noise(high: int, wide: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (high, wide, 3))


def make(cache: Path, *views: View, **options: int) -> Album:
    album = Album(cache, **options)
    for place, view in enumerate(views):
        album.ask(view, place)
    album.make()
    return album


def decode(one: Thumbnail | None) -> Image.Image:
    assert one
    return Image.open(io.BytesIO(one.data))


def test_large_photos_become_small_ones_and_small_ones_stay(tmp_path: Path, cache: Path) -> None:
    large, small = save(tmp_path, noise(300, 400)), save(tmp_path, noise(20, 30), "two.png")
    album = make(cache, view_of(large), view_of(small))
    sizes = [decode(one).size for one in album.pictures.values()]
    assert sizes == [(SIDE, 120), (30, 20)]
    assert all(len(one.data) <= MOST_BYTES for one in album.pictures.values())  # though it is noise
    assert album.bytes == sum(len(one.uri.partition(",")[2]) for one in album.pictures.values())


def test_nothing_of_the_file_is_in_it_but_its_pixels(tmp_path: Path, cache: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "secret place"
    exif.get_ifd(0x8825)[1] = "N"
    file = save(tmp_path, noise(40, 60), "one.jpg", exif=exif, comment=b"secret", icc_profile=PROFILE)
    picture = decode(make(cache, view_of(file)).get(view_of(file).key))
    assert picture.size == (40, 60)  # upright
    assert not set(picture.info) & {"exif", "icc_profile", "xmp", "comment"}
    assert not picture.getexif()


def test_it_is_made_once_and_again_only_for_another_content(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(tmp_path, noise(20, 30))
    first = make(cache, view_of(file))
    with monkeypatch.context() as patched:
        patched.setattr(thumbnails, "read_photo", None)
        assert make(cache, view_of(file)).pictures == first.pictures
        moved = file.rename(tmp_path / "moved.png")
        assert make(cache, view_of(moved)).pictures == first.pictures
    save(tmp_path, 255 - noise(20, 30), "moved.png")
    assert make(cache, view_of(moved)).pictures.keys().isdisjoint(first.pictures)
    assert len(list((cache / "thumbnails").iterdir())) == 2
    monkeypatch.setattr(thumbnails, "RULE", 99)
    assert make(cache, view_of(moved)).pictures.keys().isdisjoint(first.pictures)
    assert len(list((cache / "thumbnails").iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_of_thumbnails_is_made_again(
    tmp_path: Path, cache: Path, damage: bytes | None
) -> None:
    view = view_of(save(tmp_path, noise(20, 30)))
    first = make(cache, view)
    (kept,) = (cache / "thumbnails").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole.replace(b"WEBP", b"WEBQ") if damage is None else damage)
    assert kept.read_bytes() != whole
    assert make(cache, view).pictures == first.pictures
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, cache: Path) -> None:
    (cache / "thumbnails").write_text("a file, where a folder should be")
    view = view_of(save(tmp_path, noise(20, 30)))
    assert make(cache, view).get(view.key)


def test_a_photo_that_is_absent_damaged_or_another_has_a_reason_and_no_picture(
    tmp_path: Path, cache: Path
) -> None:
    good = save(tmp_path, noise(20, 30))
    absent = View("absent.png", str(tmp_path / "absent.png"), "a", "a")
    torn = tmp_path / "torn.png"
    torn.write_bytes(good.read_bytes()[:300])
    other = View("other.png", str(good), "o", "o")
    folder = View("folder", str(tmp_path), "f", "")
    album = make(cache, absent, view_of(torn), other, folder, view_of(good))
    assert list(album.pictures) == [view_of(good).key]
    assert album.reason(absent.key) == "the file is absent"
    assert "cannot be decoded" in album.reason(view_of(torn).key)
    assert album.reason(other.key) == CHANGED
    assert "is a folder" in album.reason(folder.key)
    assert (album.reason(view_of(good).key), album.reason("p"), album.get(absent.key)) == ("", "", None)
    (sentence,) = album.sentences
    assert sentence.startswith(
        "4 pictures cannot be shown, the first of photo absent.png: the file is absent"
    )


def test_what_is_over_the_cap_is_left_out_counted_and_the_first_places_stay(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [view_of(save(tmp_path, 20 * place + noise(20, 30) // 3, f"{place}.png")) for place in range(6)]
    full = make(cache, *views)
    size = sum(one.size for one in full.pictures.values())
    album = Album(cache, limit=size // 2)
    for place, view in enumerate(views):
        album.ask(view, 10 - place)
        album.ask(view, 20 + place)  # of several places the first counts
    album.make()
    assert 0 < len(album.pictures) < 6 and album.bytes <= size // 2
    assert list(album.pictures) == [view.key for view in views[::-1]][: len(album.pictures)]
    assert album.left_out == 6 - len(album.pictures)
    assert album.reason(views[0].key) == "the page carries no more pictures"
    assert album.sentences[0].startswith(f"{album.left_out} pictures are left out")
    monkeypatch.setattr(thumbnails, "BATCH", 2)
    assert make(cache, *views, limit=size // 2).left_out > 0


def test_a_window_shows_the_part_that_the_method_saw() -> None:
    y, x = np.mgrid[:100, :200]
    photo = Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))
    seen = np.asarray(through(photo, Window((0.5, 0.0, 0.25, 0.0, 0.4, 0.3), (40, 100))), float)
    assert seen.shape == (40, 100, 3)
    assert seen[:, :, 0].mean(axis=0) == pytest.approx(np.arange(50, 150), abs=1)
    assert seen[:, :, 1].mean(axis=1) == pytest.approx(np.arange(30, 70), abs=1)
    mirrored = np.asarray(through(photo, Window((-0.5, 0.0, 0.75, 0.0, 0.4, 0.3), (40, 100))), float)
    assert np.abs(mirrored[:, ::-1] - seen).max() <= 2


def test_a_turned_window_and_one_beyond_the_edge() -> None:
    y, x = np.mgrid[:100, :200]
    photo = Image.fromarray(np.stack([x, 2 * y, 0 * x], axis=2).astype(np.uint8))
    turned = np.asarray(through(photo, Window((0.0, 1.0, 0.0, 1.0, 0.0, 0.0), (200, 100))), float)
    assert turned[:, :, 0].shape == (SIDE, SIDE // 2)  # larger than that is not shown
    assert turned[:, 40, 0] == pytest.approx(np.linspace(0.1, 198.9, SIDE), abs=2)
    beyond = np.asarray(through(photo, Window((1.0, 0.0, -0.5, 0.0, 1.0, 0.0), (100, 200))), float)
    left = beyond[50, :80, 0]
    assert left[:75] == pytest.approx(np.linspace(100, 5, 75), abs=5)  # its mirror image
    far = np.asarray(through(photo, Window((1.0, 0.0, 50.0, 0.0, 1.0, 0.0), (10, 20))))
    assert not far.any()


def test_a_small_window_of_a_large_photo_is_sharp_and_no_larger_than_it_was_seen(
    tmp_path: Path, cache: Path
) -> None:
    stripes = np.zeros((600, 900, 3))
    stripes[:, ::2] = 255
    file = save(tmp_path, stripes.repeat(1, axis=0))
    window = Window((1 / 30, 0.0, 0.5, 0.0, 1 / 30, 0.5), (20, 30))
    view = view_of(file, window=window)
    picture = decode(make(cache, view).get(view.key))
    assert picture.size == (30, 20)
    assert np.asarray(picture.convert("L"), float).std() > 60  # one pixel for each of the photo's
    assert view.key != view_of(file, window=window._replace(size=(40, 30))).key != view_of(file).key


def test_saliency_is_drawn_over_a_grey_photo(tmp_path: Path, cache: Path) -> None:
    file = save(tmp_path, np.full((20, 30, 3), [200, 100, 0]))
    heat = np.zeros((4, 6), np.float16)
    heat[:, :2], heat[:, 4:] = 1, -1
    view = view_of(file, heat=heat)
    pixels = np.asarray(decode(make(cache, view).get(view.key)), float)
    left, middle, right = (
        pixels[:, :5].mean((0, 1)),
        pixels[:, 14:16].mean((0, 1)),
        pixels[:, -5:].mean((0, 1)),
    )
    assert left[0] > left[2] + 80 and right[2] > right[0] + 80
    assert np.ptp(middle) < 25
    assert view.key != view_of(file, heat=-heat).key


def test_a_photo_that_is_a_part_of_its_file_is_that_part(tmp_path: Path, cache: Path) -> None:
    pixels = np.zeros((40, 60, 3))
    pixels[10:30, 20:50] = 255
    view = view_of(save(tmp_path, pixels), region=(20, 10, 50, 30))
    picture = decode(make(cache, view).get(view.key))
    assert picture.size == (30, 20) and np.asarray(picture).min() > 250
