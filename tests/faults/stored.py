"""What whalebench wrote itself, spoilt: records and arrays of runs, checkpoints, benchmarks, notes."""

from __future__ import annotations

import json
import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tests.faults.base import RUNS, STOPPED, run_words
from tests.faults.calls import Ended, Place
from tests.faults.inputs import NASTY, Case, flipped
from tests.faults.options import words_of

# fmt: off
NASTY_JSON: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**30, -(10**400), 1.5, 1e300, -1e-300, float("nan"), float("inf"), [], {},
    [None], [[[]]], {"": {}}, {"a": 1}, ["a", 1], "2026-01-01", "2026-13-45T99:99:99+00:00", *NASTY,
)
# fmt: on
READING = """
report; report --json; report --full; report --latex; report --html OUT.html
report --csv OUT.csv --svg OUT.svg; runs; runs --json; show RUN; show RUN --json; show RUN --svg OUT.svg
compare RUN OTHER; rescore; bundle OUT.zip; compare RUN OTHER --json; rescore RUN --write
ensemble RUN OTHER; ensemble RUN OTHER --rule logistic-features; explain RUN --photos 1 --box 0.5
"""
"""Commands that read finished runs."""
OF_BENCHMARK = """
data check tiny; data show tiny --json; split show tiny; split verify tiny; benchmarks; benchmarks --json
benchmarks tiny --sheet OUT.png; explain RUN --photos 1 --box 0.5 --force; split make tiny; AGAIN
data import csv TABLE --name tiny
"""
"""Commands that read a benchmark, its split and its photos; one asks again for a finished run."""


def record_case(rng: random.Random, place: Place) -> Case:
    """A file of a finished run, or of the whole workspace, spoilt, and a command that reads it."""
    runs = sorted((place.workspace / "runs").iterdir())
    run, other = rng.sample(runs, 2)
    file = rng.choice(
        [*([run / "record.json"] * 4), *sorted(run.iterdir()), place.workspace / "ledger.jsonl"]
    )
    return _case(rng, place, file, READING, run, other)


def benchmark_case(rng: random.Random, place: Place) -> Case:
    """A file of a benchmark or of the cache, spoilt, and a command that reads it."""
    workspace = place.workspace
    files = sorted(path for path in (workspace / "benchmarks" / "tiny").iterdir() if path.is_file())
    files += sorted(
        path for path in (workspace / "cache").rglob("*") if path.is_file() and path.stat().st_size
    )
    run, other = rng.sample(sorted((workspace / "runs").iterdir()), 2)
    return _case(rng, place, rng.choice(files), OF_BENCHMARK, run, other)


def _case(rng: random.Random, place: Place, file: Path, commands: str, run: Path, other: Path) -> Case:
    done = spoil(rng, file)
    known = {"RUN": run.name, "OTHER": other.name, "OUT": str(place.root / "out")}
    known |= {"TABLE": str(place.source / "table.csv"), "AGAIN": ""}
    command = rng.choice([each for each in re.split(r"\n|;", commands) if each.strip()])
    words = tuple(run_words(RUNS[0])) if command.strip() == "AGAIN" else words_of(command, known)
    told = f"{file.relative_to(place.workspace)}: {done}"
    return Case(told, words, may_write=("out*", "workspace/benchmarks/*" if words[0] == "data" else ""))


def spoil(rng: random.Random, file: Path) -> str:
    """Spoils the file in a way that fits its kind, and says how."""
    content = file.read_bytes()
    ways: list[Callable[[random.Random, Path], str]] = [_spoil_bytes, _take_away]
    ways += {".json": [_spoil_json] * 8, ".parquet": [_spoil_table] * 6, ".csv": [_spoil_lines] * 4}.get(
        file.suffix, []
    )
    ways += {".safetensors": [_spoil_header] * 4, ".jsonl": [_spoil_lines] * 4}.get(file.suffix, [])
    done = rng.choice(ways)(rng, file)
    return done if not file.is_file() or file.read_bytes() != content else f"{done}, as it was"


def _spoil_bytes(rng: random.Random, file: Path) -> str:
    content = file.read_bytes()
    cut = content[: rng.randrange(len(content) + 1)]
    file.write_bytes(
        rng.choice(
            (flipped(rng, content), flipped(rng, content, 1), cut, b"", rng.randbytes(200), content * 2)
        )
    )
    return f"its bytes ({len(content)} -> {file.stat().st_size})"


def _take_away(rng: random.Random, file: Path) -> str:
    file.unlink()
    kind = rng.choice(("nothing", "folder", "pipe", "link", "loop"))
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/nowhere/at/all")
    elif kind == "loop":
        file.symlink_to(file)
    return f"{kind} stands there"


def _spoil_json(rng: random.Random, file: Path) -> str:
    text = file.read_text("utf-8")
    if rng.random() < 0.1:
        deep = rng.choice((500, 5_000, 200_000))
        begin, end = rng.choice((("[", "]"), ('{"a":', "}")))
        bomb = begin * deep + "1" + end * deep
        file.write_text(rng.choice((bomb, text.replace("{", '{"x": ' + bomb + ",", 1))), "utf-8")
        return f"nested {deep} deep"
    value = json.loads(text)
    if isinstance(value, dict):  # so that more than a digest is seen to be wrong
        value |= {
            key: type(value[key])() for key in ("digest", "files") if key in value and rng.random() < 0.5
        }
    done = [spoil_value(rng, value) for _ in range(rng.choice((1, 1, 1, 3)))]
    file.write_text(json.dumps(value, ensure_ascii=rng.random() < 0.5), "utf-8", errors="surrogatepass")
    return ", ".join(done)


def spoil_value(rng: random.Random, value: Any) -> str:
    """Changes something somewhere in what JSON holds, and says what."""
    places = list(_places(value))
    if not places:
        return "nothing"
    holder, key = rng.choice(places)
    kind = rng.choice(("replace", "replace", "replace", "remove", "rename", "add", "grow"))
    if kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[str(rng.choice(NASTY))] = holder.pop(key)
    elif kind == "add" and isinstance(holder, dict):
        holder[str(rng.choice(NASTY))] = rng.choice(NASTY_JSON)
    elif kind == "grow":
        holder[key] = [holder[key]] * rng.choice((2, 5000))
    else:
        holder[key] = rng.choice(NASTY_JSON)
    return f"{kind} {key!r:.60}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in what JSON holds, as what it is in and its key or index there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def _spoil_table(rng: random.Random, file: Path) -> str:
    import pyarrow.parquet as pq

    table = pq.read_table(file, use_threads=False).to_pandas()
    column, kind = (
        rng.choice(table.columns.to_list()),
        rng.choice(("drop", "fill", "cell", "less", "double", "none", "mix")),
    )
    if kind == "drop":
        table = table.drop(columns=column)
    elif kind == "fill":
        table[column] = rng.choice((None, float("nan"), -1, 10**15, "x", True, 1e308, "\x1b[31m"))
    elif kind == "cell":
        value = rng.choice((float("nan"), float("inf"))) if table[column].dtype.kind == "f" else None
        table[column] = table[column].astype(object)
        table.loc[rng.randrange(len(table)), column] = value
    elif kind == "less":
        table = table.sample(frac=rng.random(), random_state=rng.randrange(99))
    elif kind == "double":
        table = pd.concat([table, table])
    elif kind == "none":
        table = table.head(0)
    else:
        table[column] = table[column].sample(frac=1, random_state=rng.randrange(99)).to_numpy()
    table.to_parquet(file, index=False)
    return f"{kind} {column}"


def _spoil_lines(rng: random.Random, file: Path) -> str:
    lines = file.read_text("utf-8").split("\n")
    line = rng.randrange(len(lines))
    cells = lines[line].split(",")
    cells[rng.randrange(len(cells))] = rng.choice(NASTY)
    lines[line] = rng.choice(
        (",".join(cells), rng.choice(NASTY), lines[line] * 2, '"' + lines[line], "[" * 100_000)
    )
    file.write_text("\n".join(lines), "utf-8", errors="surrogatepass", newline="")
    return f"line {line}: {lines[line][:60]!r}"


def _spoil_header(rng: random.Random, file: Path) -> str:
    """The header of safetensors, which says where what lies, of which type and shape."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.get("__metadata__", {})
    within = rng.choice(sorted(metadata)) if metadata and rng.random() < 0.5 else ""
    if within:
        inner = json.loads(metadata[within])
        done = spoil_value(rng, inner)
        metadata[within] = rng.choice((json.dumps(inner), json.dumps(inner), "[" * 100_000, "{", "null"))
    else:
        done = spoil_value(rng, header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return f"header {within} {done}"


def checkpoint_case(rng: random.Random, place: Place) -> Case:
    """The checkpoint of a stopped run, spoilt: it goes on or begins anew, and ends as if never stopped."""
    (begun,) = (place.workspace / "cache" / "unfinished").iterdir()
    whole = {file.name: file.read_bytes() for file in (place.root / "whole").iterdir()}
    done = spoil(rng, begun / "training-1.safetensors")
    run = place.workspace / "runs" / begun.name

    def check(ended: Ended) -> Iterator[str]:
        other = [
            name
            for name, content in whole.items()
            if ended.code == 0 and (run / name).read_bytes() != content
        ]
        if other:
            yield f"{', '.join(other)} would be other ones if the checkpoint were whole"

    return Case(done, tuple(STOPPED), check=check)
