"""Hostile images and tables, laid out for the command that imports them."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tests.faults.calls import Ended, Place

# fmt: off
NASTY = (
    "", " ", "\t", "-", "--", ".", "..", "/", "~", "@last", "new", "None", "null", "true", "{}", "[]",
    "nan", "-inf", "1e999", "-1", "0", "-0.0", "1e-320", "0x10", "1_000", "+5", "１２", "٣", "1e5", "0.5",
    "1,2", "9" * 20, "9" * 400, "1" * 5000, "x" * 5000, "0-9999", "0-3", "64x96", "1x1", "99999x99999",
    "2h", "1e9h", "a\rb", "a\nb", "a\tb", "\x1b[31mred", "\x1b]0;title\x07", "\x7f", "\x85", "\u2028",
    "\u202etxet", "\x00", "\ufeff", "[red]x", "[/]", "[whales]", "<script>alert(1)</script>", "=1+1",
    "@SUM(A1)", "%s%n", "{0}", "`id`", "$HOME", "\\", "*", "?", "'", '"', '""', ",", ";", "a,b", 'a"b',
    "../../etc/passwd", "/etc/hostname", "/dev/null", "/dev/zero", "a/b",
    "http://u:SECRET@host/db?password=SECRET", "é", "e\u0301", "ß", "🐋", "I\u0307", "\u200b",
    "a" + "\u0301" * 300,
)
# fmt: on
"""What a cell, a value or a name may be, to somebody's surprise."""
HARMLESS = tuple(value for value in NASTY if not value.startswith(("/", "..")) and "\x00" not in value)
"""Those that may be where something is written, by whoever may write everywhere."""


@dataclass(frozen=True)
class Case:
    """An input that was laid out in a place, and the commands that read it."""

    done: str
    """What is hostile about it."""
    words: tuple[str, ...]
    then: tuple[tuple[str, ...], ...] = ()
    """Commands after it, as long as they succeed."""
    may_write: tuple[str, ...] = ()
    """Patterns of paths in the place that it was asked to write."""
    inputs: int = 1
    check: Callable[[Ended], Iterator[str]] = field(default=lambda ended: iter(()))
    """What else is wrong with how the first command ended."""


# --- images


def image_case(rng: random.Random, place: Place) -> Case:
    """Ten hostile photos and ten good ones: the good ones are imported, of the others each has its reason."""
    rows, done = [], []
    folder = place.source / "fuzzed"
    folder.mkdir()
    for number in range(20):
        name = rng.choice(sorted(SPOILT)) if number % 2 else "good"
        file = folder / f"{number}.{rng.choice(('png', 'jpg', 'tif', 'gif', 'webp', 'bmp', 'jpeg', 'PNG'))}"
        if name == "good":
            file.write_bytes(encoded(rng, drawn(rng), "PNG"))
        else:
            done.append(name)
            made = SPOILT[name](rng)
            made(file) if callable(made) else file.write_bytes(made)
        rows.append(
            {"image": f"{name} {number}", "path": f"fuzzed/{file.name}", "identity": f"whale{number % 4}"}
        )
    pd.DataFrame(rows).to_csv(place.source / "fuzzed.csv", index=False)
    table = str(place.source / "fuzzed.csv")

    def check(ended: Ended) -> Iterator[str]:
        lost = [
            row["image"]
            for row in rows
            if row["image"].startswith("good") and f'"{row["image"]}"' in ended.out
        ]
        if ended.code or lost:
            yield f"good photos are not imported beside them (exit {ended.code}, {lost})"

    words = ("data", "import", "csv", table, "--name", "fuzzed", "--missing", "quarantine", "--json")
    sheet = ("benchmarks", "fuzzed", "--sheet", str(place.source / "sheet.png"))
    then = (("data", "check", "fuzzed"), sheet)
    return Case(" ".join(done), words, then, ("source/sheet.png",), len(done), check)


def drawn(rng: random.Random, mode: str = "RGB") -> Image.Image:
    """A small photo of noise, of any shape."""
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(
        0, 256, (rng.randint(8, 60), rng.randint(8, 60), 3)
    )
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(rng: random.Random, image: Image.Image, kind: str = "", **options: Any) -> bytes:
    """The bytes of its file, of any format unless one is said."""
    kind = kind or rng.choice(("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"))
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def _truncated(rng: random.Random) -> bytes:
    content = encoded(rng, drawn(rng))
    return content[: rng.randrange(len(content))]


def flipped(rng: random.Random, content: bytes, most: int = 8) -> bytes:
    """The bytes with some of their bits turned round, rather at the beginning than at the end."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, most)):
        place = int(rng.random() ** rng.choice((1, 4)) * len(changed))
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _wrong_header(rng: random.Random) -> bytes:
    ours, other = encoded(rng, drawn(rng)), encoded(rng, drawn(rng))
    cut = rng.randint(4, 40)
    return other[:cut] + ours[cut:]


def _huge(rng: random.Random) -> bytes:
    """A PNG, GIF, BMP or JPEG whose header says that it is far larger than it is."""
    kind = rng.choice(("PNG", "GIF", "BMP", "JPEG"))
    content = bytearray(encoded(rng, drawn(rng), kind))
    side = rng.choice((0, 1, 5000, 17_000, 65_000, 2**31 - 1, 2**32 - 1))
    if kind == "PNG":
        content[16:24] = struct.pack(">II", side, rng.choice((side, 1)))
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif kind == "GIF":
        content[6:10] = struct.pack("<HH", side % 2**16, side % 2**16)
    elif kind == "BMP":
        content[18:26] = struct.pack("<II", side, side)
    else:
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", side % 2**16, side % 2**16)
    return bytes(content)


def _turned(rng: random.Random) -> bytes:
    """EXIF that says nonsense about which way is up, or is cut off or spoilt itself."""
    exif = Image.Exif()
    exif[0x0112] = rng.choice((0, 3, 6, 9, 255, 65535))
    with_tags = exif.tobytes()
    if rng.random() < 0.7:
        with_tags = flipped(rng, with_tags[: rng.randint(8, len(with_tags))])
    return encoded(rng, drawn(rng), rng.choice(("JPEG", "PNG", "WEBP")), exif=with_tags)


def _animated(rng: random.Random) -> bytes:
    kind = rng.choice(("GIF", "WEBP", "PNG", "TIFF"))
    first, *others = (drawn(rng).resize((24, 24)) for _ in range(3))
    content = encoded(rng, first, kind, save_all=True, append_images=others)
    return content if rng.random() < 0.5 else flipped(rng, content)


def _mode(rng: random.Random) -> bytes:
    """Pixels of another kind: four colours, sixteen bits, palettes, transparency, floats."""
    mode, kind = rng.choice(
        [
            ("CMYK", "JPEG"),
            ("P", "PNG"),
            ("P", "GIF"),
            ("RGBA", "PNG"),
            ("LA", "PNG"),
            ("1", "PNG"),
            ("I;16", "PNG"),
        ]
        if rng.random() < 0.6
        else [(mode, "TIFF") for mode in ("CMYK", "I;16", "F", "I", "LAB", "YCbCr")]
    )
    image = drawn(rng, "L" if mode in ("I;16", "LA", "F", "I") else "RGB").convert(mode)
    return encoded(rng, image, kind, **({"transparency": rng.randrange(256)} if mode == "P" else {}))


def _other(rng: random.Random) -> bytes:
    """No image at all."""
    page = b"<html><body>404 Not Found</body></html>"
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n"
    return rng.choice(
        (b"", b"\0" * 100, page, svg, postscript, rng.randbytes(300), b"PK\3\4" + rng.randbytes(50))
    )


def _thin(rng: random.Random) -> bytes:
    return encoded(rng, drawn(rng).resize(rng.choice(((1, 1), (1, 5000), (5000, 1), (2, 1)))), "PNG")


def _vast(rng: random.Random) -> bytes:
    """A small file that really is large."""
    return encoded(rng, Image.new("1", rng.choice(((20_000, 20_000), (40_000, 300), (3_000, 3_000)))), "PNG")


def _no_file(rng: random.Random) -> Callable[[Path], object]:
    """A pipe, a folder, links that lead nowhere or to a device, and a file that nobody may read."""
    kinds: tuple[Callable[[Path], object], ...] = (
        os.mkfifo,
        Path.mkdir,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/nowhere/at/all"),
        lambda path: None,
    )
    return rng.choice(kinds)


SPOILT: dict[str, Callable[[random.Random], Any]] = {
    "truncated": _truncated,
    "flipped": lambda rng: flipped(rng, encoded(rng, drawn(rng))),
    "wrong-header": _wrong_header,
    "huge": _huge,
    "turned": _turned,
    "animated": _animated,
    "mode": _mode,
    "other": _other,
    "thin": _thin,
    "vast": _vast,
    "no-file": _no_file,
}
"""What may be wrong with an image: by name, its bytes, or what makes something else of its path."""


# --- tables


def table_case(rng: random.Random, place: Place) -> Case:
    """A table of photos with something wrong; if it is imported, its folds are made and read again."""
    rows = pd.read_csv(place.source / "table.csv", dtype="str", keep_default_na=False)
    name = rng.choice(sorted(WRONG))
    suffix = ".parquet" if name in PARQUET else rng.choice((".csv", ".csv", ".tsv"))
    file = place.source / f"fuzzed{suffix}"
    done = WRONG[name](rng, rows, file)
    words = (
        "data",
        "import",
        "csv",
        str(file),
        "--name",
        "fuzzed",
        *rng.choice(((), ("--missing", "quarantine"))),
    )
    then = (
        ("split", "make", "fuzzed", "--valid-share", "0.4"),
        ("split", "show", "fuzzed"),
        ("data", "show", "fuzzed"),
    )
    return Case(f"{name}: {done!r:.100}", (*words, *rng.choice(((), ("--json",)))), then)


def _write(
    rows: pd.DataFrame, file: Path, change: Callable[[str], str] = str, encoding: str = "utf-8"
) -> None:
    text = rows.to_csv(index=False, sep="\t" if file.suffix == ".tsv" else ",")
    file.write_bytes(change(text).encode(encoding, errors="surrogatepass"))


def _cell(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    column, value = rng.choice(rows.columns.to_list()), rng.choice(NASTY)
    for _ in range(rng.choice((1, 1, 3, len(rows)))):
        rows.loc[rng.randrange(len(rows)), column] = value
    _write(rows, file)
    return f"{column}={value[:60]!r}"


def _column(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    column, kind = (
        rng.choice(rows.columns.to_list()),
        rng.choice(("drop", "rename", "double", "swap", "fill")),
    )
    other = rng.choice((*NASTY, *rows.columns))
    if kind == "drop":
        rows = rows.drop(columns=column)
    elif kind == "rename":
        rows = rows.rename(columns={column: other})
    elif kind == "double":
        rows = pd.concat([rows, rows[[column]].rename(columns={column: rng.choice((column, other))})], axis=1)
    elif kind == "swap":
        rows[column] = rows[rng.choice(rows.columns.to_list())].to_numpy()
    else:
        rows[column] = other
    _write(rows, file)
    return f"{kind} {column} {other[:60]!r}"


def _rows(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    kind = rng.choice(("double", "none", "one", "many", "nobody", "long", "wide"))
    if kind == "double":
        rows = pd.concat([rows, rows.sample(3, random_state=rng.randrange(99))])
    elif kind in ("none", "one"):
        rows = rows.head(int(kind == "one"))
    elif kind == "many":
        rows = pd.concat(
            [rows.assign(image=[f"{turn} {image}" for image in rows["image"]]) for turn in range(40)]
        )
    elif kind == "nobody":
        rows["identity"] = ""
    elif kind == "wide":
        rows = pd.concat(
            [rows, pd.DataFrame({f"c{number}": rows["image"] for number in range(3000)})], axis=1
        )
    else:
        digits = "1" * 200_000 + rng.choice(("", "x", ".", "e", "e5"))
        rows.loc[0, rng.choice(("x0", "tip_x", "image", "identity", "path", "date"))] = digits
    _write(rows, file)
    return kind


def _text(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    """The text round the cells: quotes, separators, line ends, its encoding."""
    changes: dict[str, Callable[[str], str]] = {
        "an open quote": lambda text: text.replace("whale1", '"whale1', 1),
        "a quote within": lambda text: text.replace("whale1", 'wh"ale1', 1),
        "another separator": lambda text: text.replace(",", rng.choice(";\t|:"), rng.randint(1, 400)),
        "a cell more": lambda text: text.replace("\n", rng.choice(",\t") + "x\n", rng.randint(1, 3)),
        "other line ends": lambda text: text.replace(
            "\n", rng.choice(("\r", "\r\n", "\n\n", "\u2028", "\x0b")), 9
        ),
        "a line in a cell": lambda text: text.replace("whale1", '"whale\n1"').replace("fin", '"f\rin"'),
        "no header": lambda text: text.partition("\n")[2],
        "no end": lambda text: text[: rng.randrange(len(text))],
        "a control": lambda text: text.replace("whale1", f"whale{chr(rng.randrange(32))}1"),
    }
    name = rng.choice(sorted(changes))
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32", "utf-7"))
    try:
        _write(rows, file, changes[name], encoding)
    except UnicodeEncodeError:
        _write(rows, file, changes[name])
    return f"{name} in {encoding}"


def _bytes(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    _write(rows, file)
    content = file.read_bytes()
    file.write_bytes(
        rng.choice((flipped(rng, content, 30), rng.randbytes(500), content[: rng.randrange(99)], b""))
    )
    return "its bytes"


def _parquet_cells(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    """Columns of other types than a table of text can have."""
    count, kind = (
        len(rows),
        rng.choice(("image", "identity", "path", "x0", "encounter", "mask", "date", "other")),
    )
    values: dict[str, Callable[[], Any]] = {
        "lists": lambda: [[number, None] for number in range(count)],
        "dicts": lambda: [{"a": {"b": number}} for number in range(count)],
        "bytes": lambda: [rng.randbytes(5) for _ in range(count)],
        "times": lambda: pd.date_range("2020", periods=count, tz="Asia/Tokyo"),
        "durations": lambda: pd.to_timedelta(range(count), unit="h"),
        "categories": lambda: pd.Categorical(rows["identity"]),
        "integers": lambda: np.arange(count) + 2**62,
        "floats": lambda: np.where(np.arange(count) % 3, np.arange(count) * 1e300, np.nan),
        "truths": lambda: np.arange(count) % 2 == 0,
        "nothing": lambda: [None] * count,
        "texts": lambda: [rng.choice(NASTY) for _ in range(count)],
    }
    name = rng.choice(sorted(values))
    rows.assign(**{kind: values[name]()}).to_parquet(file, index=rng.random() < 0.2)
    return f"{kind} are {name}"


def _parquet_bytes(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    rows.to_parquet(file, index=False)
    content = file.read_bytes()
    cut = content[: rng.randrange(len(content))]
    file.write_bytes(
        rng.choice((flipped(rng, content), flipped(rng, content), cut, b"PAR1PAR1", rng.randbytes(99)))
    )
    return "its bytes"


def _parquet_bomb(rng: random.Random, rows: pd.DataFrame, file: Path) -> str:
    """Few bytes, many rows: one value, said once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = rng.choice((2_000_000, 20_000_000, 200_000_000))
    value = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int8)), pa.array(["x" * rng.choice((1, 200))])
    )
    pq.write_table(pa.table(dict.fromkeys(("image", "path", "identity"), value)), file, compression="zstd")
    return f"{count} rows"


PARQUET: dict[str, Callable[[random.Random, pd.DataFrame, Path], str]] = {
    "parquet-cells": _parquet_cells, "parquet-bytes": _parquet_bytes, "parquet-bomb": _parquet_bomb,
}  # fmt: skip
WRONG = PARQUET | {
    "cell": _cell, "cell-again": _cell, "column": _column, "rows": _rows, "text": _text, "bytes": _bytes,
}  # fmt: skip
"""What may be wrong with a table: by name, what writes it and says what was done."""
