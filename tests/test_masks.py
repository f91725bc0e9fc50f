"""Masks as programs write them are read as what they mean, or refused where nobody can tell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from whalebench import WhalebenchError
from whalebench.benchmarks.core.store import PhotoFacts, decode, inspect_photos
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import ImportResult, import_csv

ANIMAL = np.zeros((48, 64), bool)
ANIMAL[10:40, 12:52] = True
SHAPE = ANIMAL.shape


def palette(
    off: tuple[int, int, int], on: tuple[int, int, int], index: tuple[int, int] = (0, 1)
) -> Image.Image:
    picture = Image.fromarray(np.where(ANIMAL, index[1], index[0]).astype(np.uint8))
    colours = [0] * 768
    colours[3 * index[0] : 3 * index[0] + 3] = off
    colours[3 * index[1] : 3 * index[1] + 3] = on
    picture.putpalette(colours)
    return picture


def grey(off: float, on: float, kind: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(ANIMAL, on, off).astype(kind))


def coloured(off: tuple[int, int, int], on: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(np.where(ANIMAL[..., None], on, off).astype(np.uint8))


def opaque(under: Image.Image, alpha: NDArray[np.bool_] = ANIMAL) -> Image.Image:
    picture = under.copy()
    picture.putalpha(Image.fromarray(np.where(alpha, 255, 0).astype(np.uint8)))
    return picture


def half_opaque(picture: Image.Image) -> Image.Image:
    picture.putalpha(128)
    return picture


def scenery() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), np.uint8))


TOLD: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "0 and 255": (lambda: grey(0, 255), ""),
    "one bit": (lambda: grey(0, 255).convert("1"), ""),
    "0 and 255 in colour": (lambda: grey(0, 255).convert("RGB"), ""),
    "opaque 0 and 255": (lambda: grey(0, 255).convert("RGBA"), ""),
    "0 and 1": (lambda: grey(0, 1), "values"),
    "0 and 1 in colour": (lambda: grey(0, 1).convert("RGB"), "values"),
    "0 and 38": (lambda: grey(0, 38), "values"),
    "16 bits, 0 and 1": (lambda: grey(0, 1, np.uint16), "values"),
    "16 bits, 0 and 255": (lambda: grey(0, 255, np.uint16), "values"),
    "16 bits, 0 and 65535": (lambda: grey(0, 65535, np.uint16), "values"),
    "whole numbers of 32 bits": (lambda: grey(0, 1, np.int32), "values"),
    "fractions": (lambda: grey(0, 1.0, np.float32), "values"),
    "palette, index 1 dark red": (lambda: palette((0, 0, 0), (128, 0, 0)), "palette"),
    "palette, both colours black": (lambda: palette((0, 0, 0), (0, 0, 0)), "palette"),
    "palette of a map": (lambda: palette((68, 1, 84), (253, 231, 36)), "palette"),
    "palette, white before black": (lambda: palette((0, 0, 0), (255, 255, 255), (1, 0)), "palette"),
    "red on black": (lambda: coloured((0, 0, 0), (255, 0, 0)), "colours"),
    "blue on black": (lambda: coloured((0, 0, 0), (0, 0, 255)), "colours"),
    "alpha over black": (lambda: opaque(Image.new("RGB", SHAPE[::-1])), "alpha"),
    "alpha over a photo": (lambda: opaque(scenery()), "alpha"),
    "alpha over a grey photo": (lambda: opaque(scenery().convert("L")), "alpha"),
    "alpha and colours alike": (lambda: opaque(grey(0, 255).convert("RGB")), "alpha"),
    "alpha over white": (lambda: opaque(Image.new("RGB", SHAPE[::-1], "white")), "alpha"),
}
TOLD["half opaque everywhere"] = (lambda: half_opaque(grey(0, 255).convert("RGB")), "")
UNTOLD: dict[str, Callable[[], Image.Image]] = {
    "labels 0, 1, 2": lambda: Image.fromarray((ANIMAL + np.eye(*SHAPE) * ~ANIMAL * 2).astype(np.uint8)),
    "labels 1 and 2": lambda: grey(1, 2),
    "dark shades": lambda: Image.fromarray((np.arange(48 * 64) % 100).astype(np.uint8).reshape(SHAPE)),
    "dark shades of 16 bits": lambda: Image.fromarray(
        (np.arange(48 * 64) % 9000).astype(np.uint16).reshape(SHAPE)
    ),
    "below zero": lambda: grey(-1, 1, np.float32),
    "not a number": lambda: grey(float("nan"), 1, np.float32),
    "two colours, none black": lambda: coloured((0, 0, 255), (255, 0, 0)),
    "a photo": scenery,
    "palette without 0": lambda: palette((68, 1, 84), (253, 231, 36), (1, 2)),
    "a palette of a photo": lambda: scenery().quantize(16),
    "colours against alpha": lambda: opaque(grey(0, 255).convert("RGB"), ~ANIMAL),
}


def write(picture: Image.Image, folder: Path) -> Path:
    """The mask as a file, losslessly, in a format that has its kind of pixels."""
    file = folder / ("mask.tif" if picture.mode in ("F", "I") else "mask.png")
    picture.save(file)
    return file


def facts(file: Path) -> PhotoFacts:
    (found,) = inspect_photos([file], masks=1)
    assert isinstance(found, PhotoFacts), found
    return found


@pytest.mark.parametrize("kind", TOLD)
def test_a_mask_is_read_as_what_it_means(tmp_path: Path, kind: str) -> None:
    draw, how = TOLD[kind]
    file = write(draw(), tmp_path)
    assert np.array_equal(decode(str(file), SHAPE), np.where(ANIMAL, 255, 0))
    found = facts(file)
    assert found.remarks == ({how} if how else set())
    grey(0, 255).save(tmp_path / "plain.png")
    assert found.content == facts(tmp_path / "plain.png").content
    before = np.asarray(draw().convert("RGB"), np.uint8).tobytes()
    if draw().mode not in ("I", "I;16", "F"):  # which were refused
        assert found.older == hashlib.sha256(b"64x48\n" + before).hexdigest()


@pytest.mark.parametrize("kind", UNTOLD)
def test_a_mask_that_cannot_be_told_is_found(tmp_path: Path, kind: str) -> None:
    file = write(UNTOLD[kind](), tmp_path)
    assert facts(file).remarks == {"unclear"}
    assert decode(str(file), SHAPE).shape == SHAPE  # a catalog from before is still read, as it was


def test_shades_stay_shades(tmp_path: Path) -> None:
    soft = grey(0, 255).filter(ImageFilter.GaussianBlur(2))
    soft.save(tmp_path / "soft.png")
    soft.convert("RGB").save(tmp_path / "colour.png")
    soft.convert("P").save(tmp_path / "palette.png")
    grey(0, 255).save(tmp_path / "noisy.jpg", quality=60)
    for name in ("soft", "colour", "palette"):
        assert np.array_equal(decode(str(tmp_path / f"{name}.png"), SHAPE), np.asarray(soft))
        assert not facts(tmp_path / f"{name}.png").remarks
    assert not facts(tmp_path / "noisy.jpg").remarks
    deep = np.asarray(soft).astype(np.uint16) * 257
    for name, values in {"deep": deep, "shares": (deep / 65535).astype(np.float32)}.items():
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
        assert np.array_equal(decode(str(tmp_path / f"{name}.tif"), SHAPE), np.asarray(soft))
        assert facts(tmp_path / f"{name}.tif").remarks == {"scaled"}


def test_a_mask_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.asarray(grey(0, 1))
    turned = turned * (np.arange(64) < 30).astype(np.uint8)
    Image.fromarray(turned).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(str(tmp_path / "a.png"), (64, 48)), np.rot90(turned, -1) * 255)
    assert (facts(tmp_path / "a.png").width, facts(tmp_path / "a.png").height) == (48, 64)


@pytest.mark.parametrize(
    ("animal", "oddity"),
    [
        (np.zeros(SHAPE, bool), "empty"),
        (np.ones(SHAPE, bool), "full"),
        (~ANIMAL, "inside out"),
        (np.indices(SHAPE)[0] < 12, ""),
        (np.roll(~ANIMAL, (10, 12), (0, 1)), "inside out"),
        (np.indices(SHAPE)[1] > 4, ""),
    ],
)
def test_what_is_odd_about_a_mask_is_found(tmp_path: Path, animal: NDArray[np.bool_], oddity: str) -> None:
    Image.fromarray(np.where(animal, 255, 0).astype(np.uint8)).save(tmp_path / "a.png")
    assert facts(tmp_path / "a.png").remarks == ({oddity} if oddity else set())


# ---- at import


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def imported(folder: Path, workspace: Workspace, masks: dict[str, Image.Image]) -> ImportResult:
    """A benchmark of a photo for each mask."""
    lines = ["image,path,identity,mask"]
    for place, (name, mask) in enumerate(masks.items()):
        photo = np.random.default_rng(place).integers(0, 256, (*SHAPE, 3), np.uint8)
        Image.fromarray(photo).save(folder / f"{name}.jpg")
        mask.save(folder / f"{name}.png")
        lines.append(f"{name},{name}.jpg,{'ab'[place % 2]},{name}.png")
    (folder / "table.csv").write_text("\n".join(lines))
    return import_csv(folder / "table.csv", "mine", workspace)


def test_readings_are_counted_in_one_sentence(tmp_path: Path, workspace: Workspace) -> None:
    masks = {f"a{i}": grey(0, 1) for i in range(3)} | {"b": palette((0, 0, 0), (128, 0, 0))}
    result = imported(tmp_path, workspace, masks | {"c": grey(0, 255)})
    assert result.notes[-1] == (
        "Masks are read as what they mean: 3 by two other values than 0 and 255, 1 by a palette."
    )
    assert result.catalog.table["mask_content_digest"].nunique() == 1


def test_usual_masks_are_not_spoken_of(tmp_path: Path, workspace: Workspace) -> None:
    result = imported(tmp_path, workspace, {name: grey(0, 255) for name in "abcd"})
    assert not [note for note in result.notes if "mask" in note]


def test_empty_and_full_masks_are_named(tmp_path: Path, workspace: Workspace) -> None:
    masks = {f"e{i}": grey(0, 0) for i in range(4)} | {"f": grey(1, 1), "g": grey(0, 255)}
    note = imported(tmp_path, workspace, masks).notes[-1]
    assert "that show no animal: 4 (first e0, e1, e2), that cover their whole photo: 1 (f); correct" in note


def test_inverted_masks_are_named_where_most_are(tmp_path: Path, workspace: Workspace) -> None:
    masks = {name: grey(255, 0) for name in "abc"} | {"d": grey(0, 255), "e": grey(0, 0)}
    assert (
        "3 of 4 masks cover the border of their photo more than its centre, first a, as if they were of"
        in (imported(tmp_path, workspace, masks).notes[-1])
    )
    (tmp_path / "few").mkdir()
    few = {name: grey(0, 255) for name in "abc"} | {"d": grey(255, 0)}
    others = Workspace.open(tmp_path / "other")
    assert not [note for note in imported(tmp_path / "few", others, few).notes if "border" in note]


def test_a_mask_that_cannot_be_told_is_refused_by_name(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(
        WhalebenchError, match=r"line 3, column mask, value 'b\.png': it does not say"
    ) as error:
        imported(tmp_path, workspace, {"a": grey(0, 255), "b": grey(1, 2)})
    assert len(str(error.value).removeprefix(str(tmp_path))) <= 300
    assert not (workspace.benchmarks / "mine" / "catalog.json").exists()
