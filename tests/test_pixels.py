"""What photos show: upright, in sRGB, of 8 bits, on white; and what is said of those that were otherwise."""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFilter

from whalebench import WhalebenchError
from whalebench.benchmarks.auditing.twins import small_pictures
from whalebench.benchmarks.core import store as store_module
from whalebench.benchmarks.core.catalog import Catalog, read_catalog, write_catalog
from whalebench.benchmarks.core.pixels import as_seen
from whalebench.benchmarks.core.store import (
    PhotoFacts,
    PhotoStore,
    decode,
    inspect_photos,
    open_photo,
    photo_sizes,
    read_photo,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.earlier import Quarantined
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.pictures import contact_sheet
from whalebench.benchmarks.registry import check_content, load_catalog

Array = NDArray[np.uint8]
ORIENTATION, SHORT = 274, 3
D50 = (0.9642, 1.0, 0.8249)
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
"""The primaries of two spaces, as a profile has them."""


def facts(file: Path) -> PhotoFacts:
    (found,) = inspect_photos([file])
    assert isinstance(found, PhotoFacts), found
    return found


# ---- upright


def tiff_entries(entries: list[tuple[int, int, int, bytes]], pixels: bytes = b"") -> bytes:
    """A TIFF directory by hand, as no library would write it: tag, type, count and value of each entry.

    With pixels, tag 273 says where they stand, behind the directory.
    """
    start = 8 + 2 + 12 * len(entries) + 4
    ends = start + sum(len(value) for *_, value in entries if len(value) > 4)
    body, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in sorted(entries):
        short = struct.pack("<I", ends) if tag == 273 else value.ljust(4, b"\0")
        stands = short if len(value) <= 4 else struct.pack("<I", start + len(tail))
        tail += value if len(value) > 4 else b""
        body += struct.pack("<HHI", tag, kind, count) + stands
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(4) + tail + pixels


def save_with_exif(pixels: Array, file: Path, exif: list[tuple[int, int, int, bytes]]) -> None:
    height, width = pixels.shape[:2]
    if file.suffix != ".tif":
        lossless = {"lossless": True} if file.suffix == ".webp" else {"quality": 100}
        mark = b"Exif\0\0" if file.suffix == ".jpg" else b""
        Image.fromarray(pixels).save(file, exif=mark + tiff_entries(exif), **lossless)
        return
    numbers = {256: width, 257: height, 259: 1, 262: 2, 273: 0, 277: 3, 278: height, 279: pixels.size}
    entries = [(tag, 4, 1, struct.pack("<I", value)) for tag, value in numbers.items()]
    entries += [(258, SHORT, 3, struct.pack("<HHH", 8, 8, 8)), *(e for e in exif if e[0] not in numbers)]
    file.write_bytes(tiff_entries(entries, pixels.tobytes()))


TURNED: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}
"""What a photo with each orientation shows, by its definition."""
MISTYPED = {
    "none": [],
    "a resolution in letters": [(282, 2, 3, b"72\0")],
    "a resolution of -1/0": [(282, 10, 1, struct.pack("<ii", -1, 0))],
    "a width in letters": [(256, 2, 5, b"4000\0")],
    "positions that are nowhere": [(34853, 4, 1, struct.pack("<I", 9999))],
    "positions in letters": [(34853, 2, 4, b"abc\0")],
    "a kind that does not exist": [(305, 99, 1, b"abcd")],
    "longer than the file": [(305, 2, 2**31, b"\0\0\0\x7f")],
    "letters in XMP": [(700, 2, 4, b"abc\0")],
    "a number for XMP": [(700, 3, 1, struct.pack("<H", 3))],
}


@pytest.fixture
def corner() -> Array:
    """A photo of 20x30 pixels whose upper left quarter is white, and its lower right grey."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15], pixels[10:, 15:] = 255, 100
    return pixels


def shows(file: Path, wanted: Array) -> None:
    """Every way in which the photo is read has it upright."""
    height, width = wanted.shape[:2]
    assert photo_sizes([file]) == [(width, height)]
    assert (facts(file).width, facts(file).height) == (width, height)
    for seen in (decode(str(file), wanted.shape), np.asarray(read_photo(file))):
        assert seen.shape == wanted.shape
        assert np.abs(seen.astype(int) - wanted).mean() < 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_a_photo_of_every_format_is_upright(tmp_path: Path, corner: Array, suffix: str) -> None:
    for orientation, turned in TURNED.items():
        file = tmp_path / f"{orientation}.{suffix}"
        save_with_exif(corner, file, [(ORIENTATION, SHORT, 1, struct.pack("<H", orientation))])
        shows(file, turned(corner))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tags", MISTYPED)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, which says so where a tag is damaged
def test_only_the_orientation_counts_among_tags(
    tmp_path: Path, corner: Array, suffix: str, tags: str
) -> None:
    file = tmp_path / f"photo.{suffix}"
    save_with_exif(corner, file, [(ORIENTATION, SHORT, 1, struct.pack("<H", 6)), *MISTYPED[tags]])
    shows(file, np.rot90(corner, -1))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_orientation_of_another_type_counts_and_nonsense_does_not(
    tmp_path: Path, corner: Array, suffix: str
) -> None:
    for place, value in enumerate([(4, 1, struct.pack("<I", 6)), (1, 1, b"\6"), (2, 2, b"6\0")]):
        save_with_exif(corner, tmp_path / f"{place}.{suffix}", [(ORIENTATION, *value)])
        shows(tmp_path / f"{place}.{suffix}", np.rot90(corner, -1))
    for place, value in enumerate([(3, 1, b"\0\0"), (3, 1, b"\x09\0"), (2, 4, b"top\0"), (5, 1, bytes(8))]):
        save_with_exif(corner, tmp_path / f"none{place}.{suffix}", [(ORIENTATION, *value)])
        shows(tmp_path / f"none{place}.{suffix}", corner)


# ---- transparent parts


def cut_out(mode: str) -> Image.Image:
    """A photo of 8x8 pixels, red in its left half and transparent over green, or grey, in its right."""
    picture = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    picture.paste((200, 60, 60, 255), (0, 0, 4, 8))
    return picture if mode == "RGBA" else picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tif")]
)
def test_what_hides_where_a_photo_is_transparent_is_not_seen(tmp_path: Path, mode: str, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    cut_out(mode).save(file, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    seen = decode(str(file), (8, 8, 3))
    assert (seen[:, 4:] == 255).all() and (seen[:, :4] < 255).any(2).all()
    found = facts(file)
    assert found.remarks == {"transparent"}
    assert found.content != found.older


def test_a_palette_and_a_colour_may_be_transparent(tmp_path: Path) -> None:
    indices = Image.fromarray(np.repeat([[0] * 4 + [1] * 4], 8, 0).astype(np.uint8))
    indices.putpalette([200, 60, 60, 0, 255, 0])
    indices.save(tmp_path / "palette.png", transparency=1)
    indices.save(tmp_path / "palette.gif", transparency=1)
    indices.convert("RGB").save(tmp_path / "colour.png", transparency=(0, 255, 0))
    for file in tmp_path.iterdir():
        assert np.unique(decode(str(file), (8, 8, 3))[:, 4:]).tolist() == [255], file
        assert "transparent" in facts(file).remarks


def test_shades_of_opacity_let_white_through(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert abs(int(decode(str(tmp_path / "a.png"), (4, 4, 3))[0, 0, 0]) - 127) <= 1


def test_an_opaque_photo_with_alpha_is_what_it_was(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "b.png")
    one, other = facts(tmp_path / "a.png"), facts(tmp_path / "b.png")
    assert one.content == other.content == one.older == other.older
    assert not other.remarks


# ---- 16 bits


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a colour; Pillow writes grey ones only."""
    height, width = values.shape[:2]
    colour = 2 if values.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    (tmp_path / "grey.png").write_bytes(deep_png(values))
    (tmp_path / "colour.png").write_bytes(deep_png(np.repeat(values[..., None], 3, 2)))
    Image.fromarray(values).save(tmp_path / "grey.tif")
    Image.fromarray(values).save(tmp_path / "packed.tif", compression="tiff_lzw")
    (tmp_path / "grey.pgm").write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    files = sorted(tmp_path.iterdir())
    for file in files:
        assert np.array_equal(decode(str(file), (8, 8, 3))[..., 1], values >> 8), file
        assert facts(file).remarks == {"deep"}
    assert len({facts(file).content for file in files}) == 1


# ---- profiles


def profile(space: str, tags: dict[str, bytes], pcs: str = "XYZ ", kind: str = "mntr") -> bytes:
    """An ICC profile of these tags."""
    tags = {"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)} | tags
    tags |= {"cprt": b"text" + bytes(4) + b"x\0", "wtpt": xyz(D50)}
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, body in tags.items():
        table += name.encode() + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI", start + len(data), b"", 0x02400000) + (kind + space + pcs).encode()
    head = (head + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp").ljust(68, b"\0")
    head = (head + struct.pack(">3i", *(round(v * 65536) for v in D50))).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + data


def xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float = 2.2) -> bytes:
    colours = zip("rgb", primaries, strict=True)
    tags = {f"{name}XYZ": xyz(primary) for name, primary in colours}
    return profile("RGB ", tags | {f"{name}TRC": curve(gamma) for name in "rgb"})


def cmyk_profile() -> bytes:
    """Of a press whose inks are paler than Pillow takes them for."""
    grid = b""
    for cyan, magenta, yellow, black in itertools.product((0, 1), repeat=4):
        light = 255 * (1 - 0.9 * black) * (1 - 0.3 * cyan - 0.3 * magenta - 0.1 * yellow)
        grid += bytes([round(light), 128 + 40 * magenta - 30 * cyan, 128 + 50 * yellow - 30 * cyan])
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + grid + 3 * ramp
    return profile("CMYK", {"A2B0": table}, pcs="Lab ", kind="prtr")


GREY = profile("GRAY", {"kTRC": curve(1.0)})


@pytest.fixture
def colours() -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8))


def by_hand(pixels: Array, primaries: tuple[tuple[float, float, float], ...], gamma: float) -> Array:
    """The colours by sRGB, from the definitions of the two."""
    light = (pixels / 255.0) ** gamma @ np.array(primaries) @ np.linalg.inv(np.array(SRGB))
    light = np.clip(light, 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * coded).astype(np.uint8)


def test_a_foreign_profile_is_converted(tmp_path: Path, colours: Image.Image) -> None:
    colours.save(tmp_path / "a.png", icc_profile=rgb_profile(ADOBE, 2.19921875))
    seen = decode(str(tmp_path / "a.png"), (16, 16, 3)).astype(int)
    wanted = by_hand(np.asarray(colours), ADOBE, 2.19921875).astype(int)
    assert np.abs(seen - wanted).max() <= 3
    assert np.abs(seen - np.asarray(colours).astype(int)).max() > 20
    assert facts(tmp_path / "a.png").remarks == {"profile"}


def test_grey_cmyk_and_turned_photos_have_profiles_too(tmp_path: Path, colours: Image.Image) -> None:
    exif = b"Exif\0\0" + tiff_entries([(ORIENTATION, SHORT, 1, struct.pack("<H", 6))])
    colours.convert("L").save(tmp_path / "grey.png", icc_profile=GREY)
    colours.convert("CMYK").save(tmp_path / "cmyk.tif", icc_profile=cmyk_profile())
    colours.save(tmp_path / "turned.jpg", icc_profile=rgb_profile(ADOBE), exif=exif)
    colours.quantize(8).save(tmp_path / "palette.png", icc_profile=rgb_profile(ADOBE))
    for file in tmp_path.iterdir():
        with Image.open(file) as opened:
            plain = np.asarray(opened.convert("RGB"), np.int64)
        plain = np.rot90(plain, -1) if file.stem == "turned" else plain
        assert facts(file).remarks == {"profile"}, file
        assert facts(file).content != facts(file).older
        assert np.abs(decode(str(file), (16, 16, 3)) - plain).max() > 8, file


def test_a_cut_out_with_a_profile_has_both(tmp_path: Path) -> None:
    cut_out("RGBA").save(tmp_path / "a.png", icc_profile=rgb_profile(ADOBE))
    seen = decode(str(tmp_path / "a.png"), (8, 8, 3))
    assert (seen[:, 4:] == 255).all() and seen[0, 0, 0] > 210
    assert facts(tmp_path / "a.png").remarks == {"transparent", "profile"}


@pytest.mark.parametrize("primaries", [SRGB, None])
def test_editions_of_srgb_change_nothing(tmp_path: Path, colours: Image.Image, primaries: object) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colours.save(tmp_path / "a.png", icc_profile=rgb_profile(SRGB) if primaries else own)
    assert np.array_equal(decode(str(tmp_path / "a.png"), (16, 16, 3)), np.asarray(colours))
    assert not facts(tmp_path / "a.png").remarks


@pytest.mark.parametrize("damaged", [b"no profile", rgb_profile(ADOBE)[:200], GREY, cmyk_profile()])
def test_a_profile_that_cannot_be_is_passed_over(
    tmp_path: Path, colours: Image.Image, damaged: bytes
) -> None:
    colours.save(tmp_path / "a.png", icc_profile=damaged)
    assert np.array_equal(decode(str(tmp_path / "a.png"), (16, 16, 3)), np.asarray(colours))
    assert facts(tmp_path / "a.png").remarks == {"odd profile"}


def test_a_small_and_a_grey_copy_are_of_the_same_colours(tmp_path: Path) -> None:
    """A JPEG that is decoded at a fraction of its size, and as grey, as the audit does."""
    Image.new("RGB", (640, 480), (200, 60, 60)).save(tmp_path / "a.jpg", icc_profile=rgb_profile(ADOBE))
    whole = read_photo(tmp_path / "a.jpg")
    small = read_photo(tmp_path / "a.jpg", "RGB", (80, 60))
    grey = read_photo(tmp_path / "a.jpg", "L", (80, 60))
    assert small.size == grey.size == (80, 60)
    assert np.abs(np.subtract(whole.getpixel((9, 9)), small.getpixel((9, 9)))).max() <= 1
    assert abs(grey.getpixel((9, 9)) - whole.convert("L").getpixel((9, 9))) <= 1


# ---- lost data


def scene(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (120, 160, 3), np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))


@pytest.mark.parametrize("seed", range(4))
def test_a_jpeg_that_ends_too_early_is_found(tmp_path: Path, seed: int) -> None:
    whole = io.BytesIO()
    scene(seed).save(whole, "JPEG", quality=60 + 10 * seed, subsampling=seed % 3)
    content = whole.getvalue()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    (tmp_path / "whole.jpg").write_bytes(content)
    assert facts(tmp_path / "cut.jpg").remarks == {"lost"}
    assert not facts(tmp_path / "whole.jpg").remarks


def test_plain_sea_sky_and_frames_are_not_lost_data(tmp_path: Path) -> None:
    plain = [(0, 0, 0), (255, 255, 255), (127, 127, 127), (128, 128, 128), (90, 120, 160)]
    for place, colour in enumerate(plain):
        sea = scene(place)
        sea.paste(colour, (0, 60, 160, 120))
        sea.save(tmp_path / f"{place}.jpg", quality=95)
    framed = Image.new("RGB", (160, 160), (128, 128, 128))
    framed.paste(scene(9), (0, 20))
    framed.save(tmp_path / "framed.jpg")
    found = inspect_photos(sorted(tmp_path.iterdir()))
    assert [fact.remarks for fact in found if isinstance(fact, PhotoFacts)] == [frozenset()] * 6


def test_a_jpeg_that_was_not_written_to_its_end_is_found(tmp_path: Path) -> None:
    """Its decoder reads zeros as blocks of a pattern, and says nothing."""
    whole = io.BytesIO()
    noise = np.random.default_rng(7).integers(0, 256, (120, 160, 3), np.uint8)
    Image.fromarray(noise).save(whole, "JPEG", quality=95)
    content = whole.getvalue()
    half = len(content) // 2
    (tmp_path / "half.jpg").write_bytes(content[:half] + bytes(len(content) - half))
    (tmp_path / "padded.jpg").write_bytes(content + bytes(512))
    assert facts(tmp_path / "half.jpg").remarks == {"lost"}
    assert not facts(tmp_path / "padded.jpg").remarks


def test_a_plain_photo_is_not_copied(tmp_path: Path) -> None:
    scene(3).save(tmp_path / "a.png")
    with open_photo(tmp_path / "a.png") as photo:
        assert as_seen(photo) == (photo, frozenset())


# ---- at import


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def table_of(folder: Path, names: list[str]) -> Path:
    lines = [f"{name},{name},{'ab'[place % 2]}" for place, name in enumerate(names)]
    (folder / "table.csv").write_text("\n".join(["image,path,identity", *lines]))
    return folder / "table.csv"


def odd_photos(folder: Path) -> list[str]:
    """Two usual photos, and one of each kind that is spoken of."""
    for place in range(2):
        scene(place).save(folder / f"usual{place}.png")
    for place in range(4):
        cut_out("RGBA").resize((9 + place, 8)).save(folder / f"cut{place}.png")
    scene(2).save(folder / "adobe.png", icc_profile=rgb_profile(ADOBE))
    scene(3).save(folder / "odd.png", icc_profile=b"no profile")
    (folder / "deep.png").write_bytes(deep_png(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999))
    whole = io.BytesIO()
    scene(4).save(whole, "JPEG")
    (folder / "lost.jpg").write_bytes(whole.getvalue()[:1500] + b"\xff\xd9")
    return [file.name for file in sorted(folder.glob("*.*g"))]


def test_what_photos_have_is_said_with_counts_and_names(tmp_path: Path, workspace: Workspace) -> None:
    result = import_csv(table_of(tmp_path, odd_photos(tmp_path)), "mine", workspace)
    assert not result.quarantined
    assert result.notes[-5:] == (
        "4 photos have transparent parts, shown in white: first cut0.png, cut1.png, cut2.png.",
        "1 photo has 16 bits a colour, of which the upper 8 are read: deep.png.",
        "1 photo has another colour profile than sRGB, and what is read is converted to it: adobe.png.",
        "1 photo has a colour profile that cannot be used, and which is passed over: odd.png.",
        "1 photo has an end without data, grey or garbled, for which the file should be replaced: lost.jpg.",
    )


def as_made_before(folder: Path, workspace: Workspace, names: list[str], set_aside: list[str]) -> Catalog:
    """The catalog that a whalebench made which read cut-outs and profiles as bytes, and no 16 bits."""
    made = import_csv(table_of(folder, names), "mine", workspace).catalog
    table = made.table[~made.table["image"].isin(set_aside)].reset_index(drop=True)
    older = [facts(Path(path)).older for path in table["path"]]
    place = workspace.benchmarks / "mine"
    (place / "catalog.json").unlink()
    rows = [Quarantined(name, str(folder / name), "it cannot be decoded") for name in set_aside]
    pd.DataFrame(rows, columns=Quarantined._fields).to_csv(place / "quarantine.csv", index=False)
    return write_catalog(
        table.assign(content_digest=older), place, "mine", "before", quarantined=len(set_aside)
    )


@pytest.mark.parametrize("set_aside", [[], ["deep.png"]])
def test_a_catalog_of_an_older_decoding_holds(
    tmp_path: Path, workspace: Workspace, set_aside: list[str]
) -> None:
    names = odd_photos(tmp_path)
    before = as_made_before(tmp_path, workspace, names, set_aside)
    check_content(load_catalog("mine", workspace))
    import_csv(table_of(tmp_path, names), "mine", workspace)
    again = import_csv(table_of(tmp_path, names), "mine", workspace)
    assert [photo.image for photo in again.quarantined] == set_aside
    assert again.catalog.digest == before.digest == read_catalog(workspace.benchmarks / "mine").digest
    assert "by an older whalebench that does not tell photos apart by transparency" in again.notes[-1]
    assert ("without 1 photo(s) that could not be used then" in again.notes[-1]) == bool(set_aside)
    assert len(again.notes[-1]) <= 300
    new = import_csv(table_of(tmp_path, names), "new", workspace).catalog
    assert new.digest != before.digest
    check_content(new)
    with pytest.raises(WhalebenchError, match="exists with other content"):
        import_csv(table_of(tmp_path, [name for name in names if name != "cut0.png"]), "mine", workspace)


def test_usual_photos_keep_the_digest_that_they_had(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr"):
        scene(1).convert(mode).save(tmp_path / f"{mode}.tif")
        with Image.open(tmp_path / f"{mode}.tif") as opened:
            pixels = opened.convert("RGB").tobytes()
        found = facts(tmp_path / f"{mode}.tif")
        assert found.content == found.older == hashlib.sha256(b"160x120\n" + pixels).hexdigest()


def test_what_an_older_decoding_kept_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_out("RGBA").save(tmp_path / "a.png")
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    store = PhotoStore(tmp_path / "cache", (str(tmp_path / "a.png"),), (digest,), ("",))
    with monkeypatch.context() as before:
        before.setattr(store_module, "STORE_VERSION", 1)
        before.setattr(store_module, "decode", lambda path, shape, region: np.zeros(shape, np.uint8))
        assert not store.pixels((8, 8)).any()
    assert (replace(store, _open={}).pixels((8, 8))[0, :, 4:] == 255).all()


def test_other_readers_of_photos_see_the_same(tmp_path: Path) -> None:
    """The contact sheet and the pages of the audit and the twins that it looks for."""
    cut_out("RGBA").resize((80, 50)).save(tmp_path / "a.png")
    sheet = contact_sheet_of(tmp_path / "a.png", tmp_path / "sheet.png")
    assert not (np.abs(sheet.astype(int) - (0, 255, 0)).sum(2) < 90).any()
    (grey,) = small_pictures([str(tmp_path / "a.png")])
    assert grey[:, -3:].min() > grey[:, :3].max()  # white, where green would be as dark as the red


def test_photos_are_opened_and_turned_in_one_place() -> None:
    """A second way would be upright, plain or safe in another manner."""
    package = Path(store_module.__file__).parents[2]
    ways = {"Image.open(", "exif_transpose"}
    rooms = [package / room for room in ("benchmarks", "methods", "reports", "splits")]
    found = {
        file.relative_to(package).as_posix()
        for room in rooms
        for file in room.rglob("*.py")
        if any(way in file.read_text(encoding="utf-8") for way in ways)
    }
    assert found == {"benchmarks/core/store.py", "benchmarks/core/pixels.py"}


def contact_sheet_of(photo: Path, file: Path) -> Array:
    table = pd.DataFrame({"image": ["a"], "path": [str(photo)], "identity": ["x"]})
    contact_sheet(table, file, rows=1, columns=1)
    return np.asarray(Image.open(file).convert("RGB"))
