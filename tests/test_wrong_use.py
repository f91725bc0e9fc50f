"""Every command given what it cannot use: one sentence, an exit code that says whose fault it is."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from whalebench.benchmarks.core.record import METRIC_KEYS
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import make_split
from whalebench.tests.conftest import draw_source
from whalebench.tests.synthetic_runs import put, queries_of, record

Cli = Callable[..., Any]
LONG = "x" * 5000
"""What stands for {long} in a command."""
HUGE = "9" * 5000
"""What stands for {huge}."""
HEAD = "image,path,identity"


def files(folder: Path, photo: str) -> Path:
    """A folder of tables, plans, photos and other files, most of which are something else than they seem."""
    folder.mkdir()
    rows = [f"a{n},{photo},w{n % 2}" for n in range(4)]
    good = "\n".join([HEAD, *rows, ""])
    texts = {
        "empty.csv": "",
        "blank.csv": "\n\n \n",
        "header.csv": HEAD + "\n",
        "quote.csv": good + f'z,"{photo},w1\n' + "a,b,c\n" * 30_000,
        "short.csv": good + "z,y\n",
        "twice.csv": good.replace("identity", "identity,identity").replace(",w", ",w,w"),
        "columns.csv": ",".join([HEAD, *map(str, range(100_000))]) + "\n" + ",".join(rows[:1]) + "\n",
        "digits.csv": f"{HEAD},x0,y0,x1,y1\n{rows[0]},{'1' * 100_000}x,0,1,1\n",
        "wide.csv": good + f"{'z' * 1_000_000},{photo},w1\n",
        "named.csv": good + f"{'z' * 5000},{photo},w1\n",
        "nul.csv": good + f"z\0,{photo},w1\n",
        "return.csv": good + f'"z\ry",{photo},w1\n',
        "newline.csv": good + f'"z\ny",{photo},w1\n',
        "escape.csv": good + f"z,{photo},w\x1b[31m1\n",
        "override.csv": good + f"z\u202e,{photo},w1\n",
        "separator.csv": good + f"z\u2028y,{photo},w1\n",
        "landmark.csv": f"{HEAD},t\x1b_x,t\x1b_y\n{rows[0]},1,2\n",
        "nan.csv": f"{HEAD},x0,y0,x1,y1\n{rows[0]},nan,inf,-inf,1e999\n",
        "missing.csv": f"{HEAD}\nz,[whales]/\x1b[31m.jpg,w1\n",
        "number.toml": "folds = 1e400\n[[methods]]\nname = 'softmax'\n",
        "nested.toml": f"folds = {'[' * 20_000}{']' * 20_000}\n",
        "dotted.toml": f"{'a.' * 20_000}a = 1\n",
        "huge.toml": f"folds = {'9' * 20_000}\n[[methods]]\nname = 'softmax'\n",
        "large.toml": "# nothing\n" * 200_000,
        "unknown.toml": "[[methods]]\nname = 'nobody'\n",
        "key.toml": '"\\u001b[31m" = 1\n',
        "date.toml": "[[methods]]\nname = 'softmax'\nsettings = {epochs = 2026-01-01}\n",
        "empty.toml": "",
        "groups.csv": "identity,group\nwhale0,1\nwhale0,2\n",
        "columns-of-none.csv": "a,b\n1,2\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    (folder / "good.csv").write_text(good, encoding="utf-8")
    (folder / "latin.csv").write_bytes(good.replace("w1", "Zoë\x93").encode("latin-1"))
    (folder / "wide16.csv").write_bytes(good.encode("utf-16-le"))
    (folder / "latin.toml").write_bytes("# Zoë".encode("latin-1"))
    binary = np.random.default_rng(0).bytes(5000)
    for name in ("noise.csv", "noise.tsv", "noise.parquet", "noise.toml", "noise.xlsx"):
        (folder / name).write_bytes(binary)
    for name in ("pipe", "pipe.csv", "pipe.parquet", "pipe.toml", "pipe.safetensors", "pipe.jpg"):
        os.mkfifo(folder / name)
    for name in ("folder", "folder.csv", "folder.parquet", "folder.toml", "folder.zip", "folder.png"):
        (folder / name).mkdir()
    (folder / "pipes.csv").write_text(f"{HEAD},mask\n{rows[0]},\nb,pipe.jpg,w1,\n{rows[2]},pipe.jpg\n")
    many = pa.table({name: pa.repeat("a", 3_000_000) for name in HEAD.split(",")})
    parquet.write_table(many, folder / "rows.parquet")
    pd.DataFrame({"image": ["a"], "path": ["x" * 10_000_000], "identity": ["c"]}).to_parquet(
        folder / "cell.parquet", compression="zstd"
    )
    pd.DataFrame({"image": [["a"]], "path": [{"b": 1}], "identity": [None]}).to_parquet(
        folder / "nested.parquet"
    )
    try:
        os.mknod(folder / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    except OSError:  # only root may, and not everywhere
        (folder / "full").mkdir()
    return folder


IMPORT = "data import csv {bad}/%s --name mine"
TABLES = [
    "empty.csv",
    "blank.csv",
    "header.csv",
    "quote.csv",
    "short.csv",
    "twice.csv",
    "columns.csv",
    "digits.csv",
    "wide.csv",
    "named.csv",
    "nul.csv",
    "return.csv",
    "newline.csv",
    "escape.csv",
    "override.csv",
    "separator.csv",
    "landmark.csv",
    "nan.csv",
    "missing.csv",
    "latin.csv",
    "wide16.csv",
    "noise.csv",
    "noise.tsv",
    "noise.parquet",
    "noise.xlsx",
    "pipe",
    "pipe.csv",
    "pipe.parquet",
    "folder",
    "folder.csv",
    "folder.parquet",
    "rows.parquet",
    "cell.parquet",
    "nested.parquet",
    "none.csv",
    "none.parquet",
    "groups.csv",
    "columns-of-none.csv",
    "latin.toml",
]
PLANS = [
    "number.toml",
    "nested.toml",
    "dotted.toml",
    "huge.toml",
    "large.toml",
    "unknown.toml",
    "key.toml",
    "date.toml",
    "empty.toml",
    "latin.toml",
    "noise.toml",
    "pipe.toml",
    "pipe",
    "folder",
    "folder.toml",
    "none.toml",
    "good.csv",
]
RUN = "run softmax --benchmark tiny --device cpu --set backbone=test_resnet --set size=32"
TUNE = "tune softmax --benchmark tiny --device cpu --trials 1"
WORDS = ("''", "{long}", "'[whales]'", "'\x1b[31m\u202e'", "'a\nb'", "../..", "é")
NUMBERS = ("''", "nan", "-1", "{huge}", "²")
GROUPS = [
    "groups.csv",
    "columns-of-none.csv",
    "empty.csv",
    "latin.csv",
    "noise.csv",
    "quote.csv",
    "columns.csv",
]
LIGHT = [
    # Nothing, too much, and what there is not.
    *("nothing", "'' ", "report --none", "report --csv", "report extra words", "{long}", "sweep", "ensemble"),
    *("run", "tune", "compare", "compare @last", "show", "explain", "check", "bundle", "rescore @"),
    *("data show", "data check", "data import", "data import csv", "split make", "split show"),
    *("report --workspace {bad}/good.csv", "runs --workspace {bad}/pipe", "report --workspace {bad}/{long}"),
    *(
        "data import cvs {bad}/good.csv --name mine",
        "data import csv {bad}/good.csv --missing never --name x",
    ),
    # Tables, groups, names, numbers.
    *(IMPORT % name for name in TABLES),
    *(f"data import csv {{bad}}/good.csv --name {word}" for word in (*WORDS, "flukes", "A", "tiny", "-")),
    *(f"ensemble @last @last --duplicates {{bad}}/{name}" for name in (*GROUPS, "pipe", "folder", "none")),
    *(f"show {word}" for word in WORDS),
    *(f"data show {word}" for word in WORDS),
    *(f"split show {word}" for word in WORDS[:2]),
    *(f"compare @last {word}" for word in WORDS[:4]),
    *(f"report --benchmark {word}" for word in WORDS[:4]),
    *(f"benchmarks {word} --sheet x.png" for word in WORDS[1:4]),
    *(f"split make tiny --protocol {word}" for word in WORDS[:4]),
    *(f"ensemble @last @last --rule {word}" for word in WORDS[:4]),
    *(f"split make tiny --folds {number}" for number in (*NUMBERS, "1", "1000")),
    *(f"split make tiny --valid-share {number}" for number in ("0", "1", "nan", "inf", "''")),
    *(f"split make tiny --seed {number}" for number in ("-1", "{huge}")),
    *(f"compare @last @last --photos {number}" for number in ("a", "{huge}")),
    # Where to write.
    *(f"report {option} {{bad}}/folder" for option in ("--html", "--csv", "--svg")),
    *(f"report {option} {{bad}}/good.csv/file" for option in ("--html", "--csv", "--svg")),
    *(f"report --csv {path}" for path in ("''", "{bad}/pipe", "{bad}/full", "{long}", "{bad}/{long}/a", "/")),
    *(f"show @last --svg {path}" for path in ("{bad}/folder", "{bad}/pipe", "{bad}/full")),
    *(
        f"benchmarks tiny --sheet {path}"
        for path in ("{bad}/folder.png", "{bad}/x.gif", "x", "{bad}/good.csv/x.png")
    ),
    *(f"bundle {path}" for path in ("{bad}/folder.zip", "{bad}/x.rar", "''", "{bad}/good.csv/x.zip")),
]
HEAVY = [
    *(f"sweep --plan {{bad}}/{name} --dry-run" for name in PLANS),
    *(f"run {word} --benchmark tiny" for word in WORDS),
    *(f"methods {word}" for word in WORDS[1:4]),
    *(f"run softmax --benchmark {word}" for word in WORDS),
    *(f"explain @last --image {word}" for word in WORDS[:4]),
    *(f"ensemble @last @last --then {word}" for word in WORDS[:4]),
    *(f"check {word}" for word in WORDS[:3]),
    *(f"{RUN} --device {word}" for word in WORDS[:4]),
    *(f"{RUN} --fold {number}" for number in NUMBERS),
    *(f"{RUN} --seed {number}" for number in NUMBERS),
    *(f"{RUN} --set epochs={number}" for number in NUMBERS),
    *(f"{RUN} --set learning_rate={number}" for number in ("''", "nan", "inf", "-1", "{huge}")),
    *(f"{RUN} --set size={number}" for number in ("0", "-1", "1x", "nan", "{huge}", "32x32x32")),
    *(f"{RUN} --set {setting}" for setting in ("''", "=", "=1", "epochs", "{long}=1", "'[a]=1'", "'\x1b=1'")),
    *(f"{RUN} --set backbone={word}" for word in WORDS),
    *(
        f"{RUN} --set pretrained={{bad}}/{name}"
        for name in ("pipe.safetensors", "folder", "good.csv", "{long}")
    ),
    *(f"sweep softmax --folds {number}" for number in (*NUMBERS, "0-999999999", "4-0", "{many}")),
    *(
        f"sweep softmax --dry-run {option}"
        for option in ("--jobs 0", "--jobs 1001", "--seeds {many}", "--svg {bad}/folder")
    ),
    *(f"{TUNE} --budget {number}" for number in ("''", "0h", "nan", "-1h", "{huge}h", "²h", "'1{blank}x'")),
    *(f"tune softmax --benchmark tiny --trials {number}" for number in NUMBERS),
    *(
        f"{TUNE} --storage {word}"
        for word in ("journal:{bad}/folder", "journal:{bad}/pipe", "sqlite:", "{long}")
    ),
    *(f"{TUNE} --storage {word}" for word in ("sqlite:///{bad}/good.csv", "a://b")),
    *(f"{TUNE} --study {word}" for word in ("{long}", "../x", ".x", "'\x1b[31m'", "'a\nb'")),
    *(f"explain @last --photos {number}" for number in NUMBERS),
    *(f"explain @last --box {number}" for number in ("0", "nan", "2")),
    *(f"explain @last --out {path}" for path in ("{bad}/folder.png", "{bad}/x.gif")),
    *(
        f"ensemble @last @last --weights {word}"
        for word in ("''", "nan,nan", "1,{huge}", "1", "a,b", "-1,-1")
    ),
    *(f"methods --markdown {path}" for path in ("{bad}/folder", "{bad}/pipe", "{bad}/full")),
]
BAD = [*LIGHT, *HEAVY]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workspace with a finished run, and the folder of what is wrong."""
    root = tmp_path_factory.mktemp("wrong")
    table = draw_source(root / "source")
    workspace = Workspace.open(root / "workspace")
    catalog = import_csv(table, "tiny", workspace).catalog
    split = make_split("tiny", workspace, protocol="auto", folds=3, singles="train", valid_share=0.12, seed=0)
    digests = {"catalog_digest": catalog.digest, "split_digest": split.digest}
    put(
        workspace.runs,
        record(
            "softmax-tiny-1", "softmax", benchmark="tiny", valid_metrics=dict.fromkeys(METRIC_KEYS), **digests
        ),
        queries_of(np.arange(1, 40), 0, 5),
    )
    return workspace.root, files(root / "bad", str(root / "source" / "photos" / "w00e0.png"))


def listing(root: Path) -> set[str]:
    """What stands in a workspace, but for caches of what was read."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if "cache" not in path.parts}


@pytest.mark.parametrize(
    "command", BAD, ids=[f"{n} {ascii(command)[1:-1][:60]}" for n, command in enumerate(BAD)]
)
def test_what_cannot_be_is_one_sentence(
    command: str, place: tuple[Path, Path], cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace, bad = place
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHALEBENCH_WORKSPACE", str(workspace))
    many = ",".join(f"{n}0000-{n}9999" for n in range(1000))
    before = listing(workspace)
    texts = {"bad": bad, "long": LONG, "huge": HUGE, "many": many, "blank": " " * 100_000}
    words = [word.format_map(texts) for word in shlex.split(command)]
    answer = cli(*words)
    lines = [line for line in answer.err.splitlines() if line.startswith("Error: ")]
    assert answer.code in (1, 2), answer
    assert len(lines) == 1, answer.err[:2000]
    assert len(lines[0]) <= 300, lines[0][:1000]
    assert answer.err.rstrip().endswith(lines[0])
    assert max(map(len, answer.err.splitlines())) <= 310
    assert "Traceback" not in answer.err
    assert "please report" not in answer.err
    assert all(letter.isprintable() or letter == "\n" for letter in answer.err)
    assert listing(workspace) == before
