"""The photo store: each photo decoded once, keyed by its content, whole or not there at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core import files
from whalebench.benchmarks.core import store as store_module
from whalebench.benchmarks.core.catalog import Region
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.store import PhotoFacts, PhotoStore, Pixels, decode, inspect_photos

Make = Callable[..., PhotoStore]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A store over three photos and two masks; called again, a fresh one over the files as they are now."""
    rng = np.random.default_rng(1)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{index}.png")
        mask = np.zeros((20, 30), np.uint8)
        mask[:, : 10 * (index + 1)] = 255
        Image.fromarray(mask).save(tmp_path / f"mask{index}.png")

    def fresh() -> PhotoStore:
        files = [tmp_path / f"{index}.png" for index in range(3)]
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        masks = (str(tmp_path / "mask0.png"), "", str(tmp_path / "mask2.png"))
        return PhotoStore(tmp_path / "cache", tuple(map(str, files)), tuple(digests), masks)

    return fresh


def arrays(store: PhotoStore) -> list[str]:
    return sorted(file.name for file in store.cache.glob("**/*") if file.suffix != ".json")


def test_photos_are_decoded_once_and_mapped_afterwards(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make().pixels((20, 30))
    assert first.shape == (3, 20, 30, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first[1], np.asarray(Image.open(make().paths[1])))

    def refuse(path: str, shape: tuple[int, ...], region: None) -> None:
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(store_module, "decode", refuse)
    again = make().pixels((20, 30))
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert np.array_equal(again, first)
    with pytest.raises(AssertionError, match="again"):
        make().pixels((10, 15))


def test_one_store_maps_an_array_once(make: Make) -> None:
    store = make()
    assert store.pixels((20, 30)) is store.pixels((20, 30))
    assert store.pixels((20, 30)) is not store.pixels((30, 20))


def test_a_changed_photo_has_another_array(make: Make) -> None:
    before = make()
    old = np.array(before.pixels((20, 30)))
    Image.new("RGB", (30, 20), (9, 9, 9)).save(before.paths[0])
    new = make().pixels((20, 30))
    assert (new[0] == 9).all()
    assert np.array_equal(new[1:], old[1:])
    assert len(arrays(before)) == 2


def test_a_changed_mask_has_another_array(make: Make) -> None:
    before = make()
    assert before.masks((20, 30))[0].any()
    Image.new("L", (30, 20)).save(before.mask_paths[0])
    assert not make().masks((20, 30))[0].any()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded from now on."""
    names: list[str] = []

    def noted(path: str, shape: tuple[int, ...], region: Region | None = None) -> Pixels:
        names.append(Path(path).name)
        return decode(path, shape, region)

    monkeypatch.setattr(store_module, "decode", noted)
    return names


def grown(store: PhotoStore, rows: list[int]) -> PhotoStore:
    """A store of these photos and masks of the first one, in this order."""
    columns = (store.paths, store.digests, store.mask_paths)
    paths, digests, masks = (tuple(column[row] for row in rows) for column in columns)
    return replace(store, paths=paths, digests=digests, mask_paths=masks, _open={})


def test_a_grown_catalog_decodes_only_what_is_new(make: Make, decoded: list[str]) -> None:
    whole, size = make(), (20, 30)
    grown(whole, [2, 0]).pixels(size)
    grown(whole, [2, 0]).masks(size)
    decoded.clear()
    pixels, masks = whole.pixels(size), whole.masks(size)
    assert decoded == ["1.png", ""]  # and a mask that is not there
    for row, (path, mask) in enumerate(zip(whole.paths, whole.mask_paths, strict=True)):
        assert np.array_equal(pixels[row], decode(path, (*size, 3)))
        assert np.array_equal(masks[row], decode(mask, size))
    whole.pixels((10, 15))  # of another size nothing is there
    assert decoded[2:] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("spoil", ["array", "key", "absent"])
def test_nothing_is_taken_from_an_array_that_is_not_what_it_was(
    make: Make, decoded: list[str], spoil: str
) -> None:
    few, size = grown(make(), [2, 0]), (20, 30)
    few.pixels(size)
    (array,), (key,) = few.cache.glob("*.npy"), few.cache.glob("*.json")
    if spoil == "array":
        spoilt(array)
    elif spoil == "key":
        key.write_text(key.read_text().replace(few.digests[0], make().digests[1]))
    else:
        array.unlink()
    decoded.clear()
    pixels = make().pixels(size)
    assert sorted(decoded) == ["0.png", "1.png", "2.png"]
    assert np.array_equal(pixels[1], decode(make().paths[1], (*size, 3)))


def test_a_part_of_a_photo_is_another_than_the_whole(make: Make, decoded: list[str]) -> None:
    whole, size = make(), (20, 30)
    whole.pixels(size)
    decoded.clear()
    parts = replace(whole, regions=(None, (0, 0, 10, 10), None), _open={})
    assert np.array_equal(parts.pixels(size)[1], decode(whole.paths[1], (*size, 3), (0, 0, 10, 10)))
    assert decoded == ["1.png"]


def test_masks_are_digested_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = make(), []
    monkeypatch.setattr(files, "digest_file", lambda path: read.append(path) or digest_file(path))
    for size in ((20, 30), (10, 15), (5, 8)):
        store.masks(size)
    assert sorted(path.name for path in read) == ["mask0.png", "mask2.png"]


def test_masks_are_white_on_the_animal_and_empty_where_there_is_none(make: Make) -> None:
    masks = make().masks((20, 30))
    assert masks.shape == (3, 20, 30)
    assert (masks[0][:, :10] == 255).all()
    assert not masks[0][:, 10:].any()
    assert not masks[1].any()
    assert (masks[2] == 255).all()


def spoilt(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def without_digest(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: -store_module.DIGEST_SIZE])


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("kind", ["pixels", "masks"])
@pytest.mark.parametrize("damage", [spoilt, without_digest, torn, lambda file: file.write_bytes(b"")])
def test_an_array_that_differs_from_its_digest_is_decoded_again_with_a_word(
    make: Make, kind: str, damage: Callable[[Path], None]
) -> None:
    first = np.array(getattr(make(), kind)((20, 30)))
    (file,) = make().cache.glob("*.npy")
    whole, told = file.read_bytes(), list[str]()
    damage(file)
    again = getattr(replace(make(), tell=told.append), kind)((20, 30))
    assert np.array_equal(again, first)
    assert file.read_bytes() == whole
    assert told == [f"decode, {file.name} differs from its digest, or has none, and is decoded again"]
    told.clear()
    getattr(replace(make(), tell=told.append), kind)((20, 30))
    assert not told


def test_an_array_is_digested_in_blocks_and_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BLOCK", 1000)
    make().pixels((20, 30))
    (file,) = make().cache.glob("*.npy")
    content, asked = file.read_bytes(), list[Path]()
    before, digest = content[: -store_module.DIGEST_SIZE], content[-store_module.DIGEST_SIZE :]
    parts = [hashlib.sha256(before[start : start + 1000]).digest() for start in range(0, len(before), 1000)]
    assert digest == hashlib.sha256(b"".join(parts)).digest() and len(parts) > 5

    def spy(file: Path, length: int) -> bytes:
        asked.append(file)
        return digest_blocks(file, length)

    digest_blocks = store_module._digest_blocks
    monkeypatch.setattr(store_module, "_digest_blocks", spy)
    for _ in range(3):
        make().pixels((20, 30))
    assert asked == [file]


def test_progress_is_told_of_every_photo(make: Make) -> None:
    told: list[tuple[int, int]] = []
    make().pixels((8, 8), lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_crash_in_the_middle_leaves_no_array(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pixels((8, 8), stop)
    assert arrays(store) == []
    assert store.pixels((8, 8)).any(axis=(1, 2, 3)).all()


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right of the file
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = decode(str(tmp_path / "turned.png"), (30, 20, 3))
    assert np.array_equal(upright, np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_kind_of_photo_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "photo.tif"
    Image.new("RGB", (12, 10), (255, 255, 255)).convert(mode).save(file)
    decoded = decode(str(file), (10, 12, 3))
    assert decoded.shape == (10, 12, 3)
    assert decoded.min() >= 254


def test_a_large_jpeg_is_decoded_small_and_right(tmp_path: Path) -> None:
    across = np.linspace(0, 255, 640)[None, :, None].repeat(480, 0).repeat(3, 2)
    Image.fromarray(across.astype(np.uint8)).save(tmp_path / "large.jpg", quality=95)
    small = decode(str(tmp_path / "large.jpg"), (24, 32, 3)).astype(float)
    wanted = across.reshape(24, 20, 32, 20, 3).mean(axis=(1, 3))
    assert np.abs(small - wanted)[:, 1:-1].max() < 4


@pytest.mark.parametrize("content", [b"", b"no photo", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_an_unreadable_photo_is_named(make: Make, content: bytes) -> None:
    store = make()
    Path(store.paths[1]).write_bytes(content)
    with pytest.raises(WhalebenchError, match=r"photo '.*1\.png' cannot be decoded .*restore the file"):
        store.pixels((8, 8))
    assert arrays(store) == []


def test_a_photo_that_import_accepts_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow's own limit is a third of the import's: what passed there must not fail, or warn, here.
    Image.new("RGB", (40, 30), (7, 7, 7)).save(tmp_path / "vast.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    store = PhotoStore(tmp_path / "cache", (str(tmp_path / "vast.png"),), ("digest",), ("",))
    assert (store.pixels((6, 8)) == 7).all()
    assert Image.MAX_IMAGE_PIXELS == 100


def content_of(*files: Path) -> list[str]:
    facts = [fact for fact in inspect_photos(files) if isinstance(fact, PhotoFacts)]
    assert len(facts) == len(files)
    return [fact.content for fact in facts]


def test_the_content_is_the_pixels_in_whatever_file(tmp_path: Path) -> None:
    """Other compression, container or kind of pixels, EXIF stripped or applied: the same photo."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (700, 31, 3), np.uint8)
    photo = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(tmp_path / "a.png", compress_level=1)
    photo.save(tmp_path / "b.png", compress_level=9)
    photo.save(tmp_path / "c.bmp")
    photo.save(tmp_path / "d.tiff")
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "e.png", exif=turned)
    photo.convert("RGBA").save(tmp_path / "f.png")
    same = content_of(*sorted(tmp_path.iterdir()))
    assert len(same) == 6
    assert len(set(same)) == 1
    assert same[0] == hashlib.sha256(b"31x700\n" + pixels.tobytes()).hexdigest()


def test_another_pixel_shape_or_turn_is_another_photo(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (300, 20, 3), np.uint8)
    last = pixels.copy()
    last[-1, -1, -1] ^= 1
    every = [pixels, last, pixels[::-1], pixels[:, ::-1], pixels[:-1], pixels.reshape(150, 40, 3)]
    for place, values in enumerate(every):
        Image.fromarray(np.ascontiguousarray(values)).save(tmp_path / f"{place}.png")
    assert len(set(content_of(*sorted(tmp_path.iterdir())))) == len(every)


def test_a_jpeg_is_what_it_decodes_to(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as photo:
        photo.save(tmp_path / "b.png")
    grey = Image.fromarray(np.random.default_rng(5).integers(0, 256, (9, 9), np.uint8))
    grey.save(tmp_path / "c.png")
    grey.convert("RGB").save(tmp_path / "d.png")
    first, second, third, fourth = content_of(*sorted(tmp_path.iterdir()))
    assert first == second != third == fourth
