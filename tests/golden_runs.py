"""Proves that a change of the code changes no result: runs everything in miniature and compares every byte.

    python tests/golden_runs.py FILE.json            # records where there is no FILE.json, else compares
    python tests/golden_runs.py FILE.json --only crops steps
    python tests/golden_runs.py --list

Record in a checkout of the older commit, then compare in one of the newer, on the same machine with the same
packages (extra `dev`; nothing is downloaded): other processors and libraries round otherwise. To use one
environment for several checkouts, put a link named `whalebench` to the checkout into a folder elsewhere, and
that folder into PYTHONPATH.

Only the command line is called, in this process, so that what is inside may change at will. Each group of
commands has a copy of a workspace with four finished runs (`base`), so groups do not depend on each other. Of
each command are kept: exit code, what it printed, and every file it wrote outside the workspace's cache. A
line is printed for each difference, with what was and what is; the exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(
    # One thread and no accelerator, so that sums are in one order; one width of tables, and no terminal.
    {"OMP_NUM_THREADS": "1", "WHALEBENCH_CORES": "1", "CUDA_VISIBLE_DEVICES": ""}
    | {"COLUMNS": "200", "NO_COLOR": "1", "FORCE_COLOR": "", "TTY_COMPATIBLE": "0"}
)
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

VOLATILE = ("created", "environment", "hardware", "seconds", "photos_per_second", "peak_memory_mb")
VOLATILE += ("code_digest", "when", "files", "digest", "facts_digest")
"""Keys of JSON and columns of curves that say when, where and how fast: two runs differ there."""
TIMES = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+(\+00:00|Z)|\b\d+(\.\d)? (s|min|h)\b")
"""The same in what is printed, as 2026-01-31T12:00:00+00:00 and 2.5 min."""
RUN_NAME = re.compile(r"[\w.-]+-fold\d+-seed\d+-[0-9a-f]{8}")
PADDING = re.compile(r"([ ─━])\1+")
"""Columns of printed tables are as wide as the times and paths in them."""

TINY = "backbone=test_resnet size=32 batch_size=8"
FINDERS = {"BOX": "localizer", "MASK": "segmenter", "ALIGNED": "aligner", "WINDOW": "transformer"}
SHORT = {"TINY": TINY, "WITHIN": f"{TINY} epochs=2".replace(" ", ",")} | {
    short: " ".join(f"{part}.{each}" for each in f"{TINY} epochs=6 learning_rate=0.01 ema=0".split())
    for short, part in FINDERS.items()
}
"""What stands for the settings that make a method quick, or what finds its crop."""

BASE = {
    "softmax": "run softmax TINY epochs=2",
    "arcface": "run arcface TINY epochs=2",
    "triplet": "run triplet TINY epochs=2 dimensions=16",
    "bbox": "run bbox TINY epochs=1 BOX",
}
"""Runs that each group begins with; their names stand for those of their folders."""
GROUPS = {
    "data": """
    data import csv source/table.csv --name again --json; data import csv source/table.csv --name text
    data import csv source/published.csv --name public --dataset NOAARightWhale --json; split make public
    data import csv source/broken.csv --name broken --missing quarantine --json; benchmarks; data show tiny
    split make again --folds 3 --singles new --json; split make text --seed 1 --json; split verify tiny
    split make broken --valid-share 0.2 --protocol stratified-encounters; data check tiny; split show tiny
    data show tiny --json; data check tiny --json; split show tiny --json; split verify tiny --json
    data show broken --json; data check broken --json; split show public --json; split verify public
    benchmarks --json; benchmarks tiny; benchmarks tiny --sheet sheet.png --json; benchmarks again --json
    """,
    "describe": """
    methods; methods --json; methods softmax; methods --markdown methods.md; --version; --help; run --help
    report --help; explain --help; methods --help; check --help; benchmarks --help; doctor --help
    sweep --help; tune --help; ensemble --help; data --help; data import --help; data show --help
    data check --help; split --help; split make --help; split show --help; split verify --help
    """,
    "softmax": """
    run softmax TINY epochs=2 pooling=gem grid=1x1 label_smoothing=0.1 dropout=0 augment=turned
    run softmax TINY epochs=3 average=checkpoints checkpoints=2 weight_decay=0.1 --seed 3
    run softmax TINY epochs=2 ema=0 augment=none warm_up=0 head_rate=5 --fold 1 --json
    run softmax TINY epochs=2 small_size=24 small_epochs=1 augment=light
    run softmax TINY epochs=2 new_rule=second new_share=0.3; run softmax TINY epochs=2 schedule.tail=1
    run softmax TINY epochs=3 schedule.cycles=2; run softmax TINY epochs=1 precision=bf16
    run softmax TINY epochs=4 schedule.cycles=2 schedule.joined=votes schedule.tail=1
    run softmax TINY epochs=4 schedule.cycles=2 average=checkpoints checkpoints=2
    run softmax size=32x48 batch_size=8 epochs=1; run softmax TINY epochs=1 pretrained=start.safetensors
    run softmax TINY epochs=2; run softmax TINY epochs=2 --json; run softmax TINY epochs=2 --force
    run softmax backbone=tf_efficientnet_lite0 pretrained=efficientnet-lite0 size=32 epochs=1
    """,
    "arcface": """
    run arcface TINY epochs=2 loss=cosface margin=0.2 label_smoothing=0.1 photo_weight=0.5
    run arcface TINY epochs=2 scale=0 subcentres=2 margin_by_size=true margin_warm_up=0
    run arcface TINY epochs=2 flip_identities=true mirror=down photo_weight=0
    run arcface TINY epochs=2 second_size=48 gallery.flip=true mirror=down
    run arcface TINY epochs=2 pooling=flatten gallery.rule=mean; run arcface TINY epochs=2 species_weight=0.3
    run arcface TINY epochs=2 stages=2 pooling=average gallery.rule=robust_centre dropout=0.2
    run arcface TINY epochs=2 gallery.rule=knn_max gallery.neighbours=5
    run arcface TINY epochs=2 gallery.rule=knn_sum gallery.neighbours=5
    run arcface TINY epochs=4 schedule.cycles=2 schedule.joined=embeddings
    run arcface TINY epochs=4 schedule.cycles=2 flip_identities=true
    """,
    "metric": """
    run triplet TINY epochs=2 loss=contrastive miner=hard memory=16
    run triplet TINY epochs=2 loss=multi_similarity miner=distance_weighted
    run triplet TINY epochs=2 loss=circle miner=semihard margin=0.3 singles=leave_out
    run triplet TINY epochs=2 loss=supcon temperature=0.2 fill=true photos_per_identity=2
    run triplet TINY epochs=2 loss=n_pair singles=repeat; run triplet TINY epochs=2 loss=proxy_anchor
    run triplet TINY epochs=2 soft_margin=true miner=batch_hard validate_every=1 schedule.cycles=2
    run siamese TINY epochs=2; run siamese TINY epochs=2 form=pair_head score_every=1
    run siamese TINY epochs=3 negatives=assigned block=16 score_every=1 views=2 margin=0.7
    run siamese TINY epochs=2 form=pair_head negatives=random gallery.flip=true
    run siamese TINY epochs=4 schedule.cycles=2 schedule.joined=embeddings
    """,
    "crops": """
    run bbox TINY epochs=2 BOX localizer.loss=giou localizer.augment=turned crop_source=48
    run mask TINY epochs=2 MASK; run mask TINY epochs=1 oracle=true; run bbox TINY epochs=1 oracle=true
    run mask TINY epochs=1 MASK segmenter.background=blurred segmenter.lovasz_from=0
    run mask TINY epochs=1 MASK segmenter.students=test_resnet segmenter.cycles=2
    run mask TINY epochs=1 MASK segmenter.background=removed segmenter.channel=true
    run aligned TINY epochs=2 ALIGNED; run aligned TINY epochs=1 oracle=true aligner.inside=0.9
    run aligned TINY epochs=1 ALIGNED aligner.fit=similarity aligner.aspect=1.5 aligner.inside=0
    run arcface TINY epochs=1 crop=window window=0.1,0.2,0.9,0.8; run triplet TINY epochs=1 crop=mask MASK
    run arcface TINY epochs=2 crop=box BOX schedule.cycles=2; run stn TINY epochs=2 WINDOW
    run siamese TINY epochs=1 crop=aligned ALIGNED aligner.augment=turned aligner.shears=2 aligner.inside=0
    run aligned TINY epochs=1 ALIGNED aligner.head=anchors aligner.inside=0
    run stn TINY epochs=2 start=landmarks WINDOW; run stn TINY epochs=2 start=boxes schedule.cycles=2 WINDOW
    """,
    "untrained": """
    run frozen TINY pretrained=none; run frozen TINY pretrained=none pooling=average crop=box BOX
    run frozen TINY pretrained=none pooling=gem gallery.rule=knn_max gallery.flip=true
    run frozen backbone=tf_efficientnet_lite0 pretrained=efficientnet-lite0 size=32
    run sift size=64 keypoints=60; run sift size=64 keypoints=60 crop=box BOX
    run sift size=64 keypoints=60 motion=homography mutual=false ratio=0.9 tolerance=4
    run sift size=64 keypoints=60 by=arcface shortlist=3 by_settings=WITHIN
    """,
    "joined": """
    run ensemble members=softmax+arcface member_settings=WITHIN
    run ensemble members=softmax+arcface rule=vote member_settings=WITHIN,arcface:dimensions=16
    run ensemble rule=knn members=arcface+triplet member_settings=WITHIN,dimensions=16
    run ensemble members=softmax+softmax+bbox member_settings=WITHIN,localizer.epochs=1,localizer.size=32
    run pseudo confidence=0.01 of_settings=WITHIN; run pseudo confidence=0.999 of_settings=WITHIN
    run pseudo of=arcface confidence=0.01 share=0.3 of_settings=WITHIN,new_rule=second
    run pseudo confidence=0.01 of_settings=WITHIN,schedule.cycles=2
    run pseudo of=ensemble confidence=0.01 of_settings=members=softmax+arcface,member_settings=epochs=1
    """,
    "recipes": """
    run right-whale-2nd scale=small TINY epochs=2 ALIGNED
    run right-whale-2nd scale=small size=32 batch_size=8 epochs=1 oracle=true
    run right-whale-2nd scale=small TINY epochs=1 final=mean oracle=true
    run right-whale-2nd scale=small TINY epochs=1 components=4 oracle=true
    run humpback-3rd scale=small TINY dimensions=16 epochs=3 checkpoints=2 versions=2 ALIGNED
    run happywhale-26th scale=small size=32 batch_size=8 dimensions=16 epochs=1 BOX
    run happywhale-26th scale=small TINY dimensions=16 epochs=4 oracle=true schedule.cycles=2
    run playground-resnet18 scale=small TINY epochs=2 first_epochs=1 first_photos=5 at_least=5
    run playground-resnet18 scale=small TINY epochs=2 first_photos=99 new_class=false
    run playground-resnet18 scale=small TINY epochs=1 first_epochs=1 first_photos=5 frozen=false at_least=1
    run salt-4th scale=small confidence=0.01 of_settings=WITHIN,schedule.cycles=2,schedule.joined=votes,\
segmenter.backbone=test_resnet,segmenter.size=32,segmenter.epochs=2,segmenter.background=removed
    """,
    "rules": """
    ensemble {softmax} {arcface} {triplet}; ensemble {softmax} {arcface} {triplet} --force --json
    ensemble {softmax} {arcface} --weights 1,2 --json; ensemble {softmax} {bbox} --json
    ensemble {softmax} {arcface} --rule product; ensemble {arcface} {bbox} --rule product --weights 1,0.5
    ensemble {softmax} {triplet} --rule vote --json; ensemble {softmax} {arcface} --rule vote --weights 2,1
    ensemble {arcface} {triplet} --rule knn --json; ensemble {arcface} {triplet} --rule knn --weights 2,1
    ensemble {softmax} {arcface} --rule logistic --json; ensemble {softmax} {arcface} --rule lightgbm --json
    ensemble {softmax} {arcface} --rule pairs --json; ensemble {softmax} {arcface} --rule logistic-features
    ensemble {softmax} {triplet} --rule pairs --local-matches --hours 1 --json
    ensemble {softmax} {arcface} --rule logistic-features --pca 4 --json
    ensemble {softmax} {arcface} --rule lightgbm-features --pca 3 --json
    """,
    "steps": """
    ensemble {softmax} {arcface} --then reciprocal; ensemble {arcface} --then reciprocal --json
    ensemble {softmax} {arcface} --then expansion; ensemble {arcface} --then expansion --json
    ensemble {softmax} {arcface} --then reciprocal-together --json; ensemble {bbox} --then reciprocal-together
    ensemble {softmax} {arcface} --then expansion-together --json; ensemble {bbox} --then expansion-together
    ensemble {softmax} {arcface} --then duplicates --duplicates duplicates.csv --json
    ensemble {softmax} {arcface} --then sizes --json; ensemble {triplet} --then sizes
    ensemble {softmax} {arcface} --then bursts --json; ensemble {triplet} --then bursts
    ensemble {softmax} {arcface} --then balance --json; ensemble {triplet} --then balance
    ensemble {softmax} {arcface} --then reciprocal --then balance --json
    ensemble {bbox} {triplet} --rule vote --then bursts --then expansion --json
    """,
    "sweep": """
    sweep softmax arcface --folds 0-1 --seeds 0-1 --jobs 2 TINY epochs=2 --dry-run --json
    sweep softmax arcface --folds 0-1 --seeds 0-1 --jobs 2 TINY epochs=2 --json
    sweep softmax arcface --folds 0-1 --seeds 0-1 --jobs 2 TINY epochs=2 --svg sweep.svg
    """,
    "tune": "tune softmax --trials 3 TINY epochs=2 --json; tune softmax --trials 3 TINY epochs=2; report",
    "explain": """
    explain {softmax} --photos 2 --box 0.3 --out picture.png --json; explain {softmax} --photos 1 --box 0.5
    explain {bbox} --image {photo} --box 0.3 --out picture.jpg --force --json
    """,
    "report": """
    run softmax TINY epochs=2 --seed 1; run softmax TINY epochs=2 --fold 1; run arcface TINY epochs=2 --fold 1
    run triplet TINY epochs=2 --fold 1; run bbox TINY epochs=1 oracle=true; run mask TINY epochs=1 MASK
    run aligned TINY epochs=1 ALIGNED; run softmax TINY epochs=1 dropout=0.1; run softmax TINY epochs=1 ema=0
    run pseudo confidence=0.01 of_settings=WITHIN; data import csv source/published.csv --name public --json
    run mask TINY epochs=1 --benchmark public; run softmax TINY epochs=1 --benchmark public --json
    ensemble {softmax} {arcface} --then bursts; explain {softmax} --photos 1 --box 0.5 --json
    report --html asked.html --csv asked.csv --svg asked.svg --json; report; report --benchmark public
    """,
    "check": "check softmax --json; check sift --json; check softmax size=48",
    "wrong": """
    run softmaxx; run softmax dropuot=0.1; run softmax dropout=2; run softmax oracle=true; runn
    run softmax --benchmark flokes; run softmax --fold 9; run softmax --seed -1; run softmax --device tpu
    run softmax TINY epochs=2 learning_rate=1e30; run ensemble members=softmax; run pseudo of=pseudo
    ensemble {softmax}; ensemble {softmax} {softmax}; ensemble {softmax} softmax-tiny; sweep nobody
    ensemble {softmax} {arcface} --weights 1; ensemble {softmax} {arcface} --pca 3
    ensemble {softmax} {triplet} --rule knn; ensemble {softmax} --then balanse; sweep softmax --folds 4-1
    ensemble {softmax} --then duplicates; report --benchmark flokes; tune softmax --budget soon
    explain softmax-tiny; explain {softmax} --out picture.gif; explain {softmax} --box 2; split make tiny
    data import coco source/table.csv --name again; data import csv source/bare.csv --name tiny
    data import csv source/broken.csv --name broken; benchmarks --sheet sheet.png
    """,
}
"""By name of a group its commands, one a line or with a semicolon between; `key=value` follows --set."""


@dataclass
class Recorder:
    """A workspace within the folder everything happens in, and what its commands left behind."""

    root: Path
    name: str
    known: dict[str, str]
    """What stands in braces in a command, and what for."""
    found: dict[str, Any] = field(default_factory=dict)
    """By command: its exit code, what it printed, and by name the files that it wrote."""
    aliases: dict[str, str] = field(default_factory=dict)
    """By name of a run, which ends in a digest of the code, what it is called in what is compared."""

    def call(self, command: str) -> None:
        """Runs the command and keeps what came of it."""
        sys.stderr.write(f"  {self.name}: {command}\n")
        if command.startswith("report"):
            self.settle()
        before = self.files()
        code, out, err = run_command(self.words(command))
        self.name_runs()
        said: dict[str, Any] = {"exit": code}
        if "--json" in command and out:
            said["json"] = steady(json.loads(self.steady_text(out)))
        else:
            said["text"] = self.lines(out)
        if code:  # before it stands how far it got, with times
            said["error"] = self.lines(re.sub(r".*?(?=^(Usage|Error|Missing): )", "", err, flags=re.S | re.M))
        written = [file for file, stamp in self.files().items() if before.get(file) != stamp]
        said["files"] = {
            self.steady_text(str(file.relative_to(self.root))): self.content(file) for file in sorted(written)
        }
        self.found[command] = said

    def words(self, command: str) -> list[str]:
        """What stands after `whalebench`: all written out, settings behind --set, and where it runs."""
        expanded = re.sub(r"\b[A-Z]{3,}\b", lambda short: SHORT[short[0]], command.format_map(self.known))
        words = [part for word in expanded.split() for part in (["--set", word] if "=" in word else [word])]
        if words[0] in ("run", "sweep", "tune") and "--help" not in words:
            defaults = {"--benchmark": "tiny", "--device": "cpu"}
            words += [part for pair in defaults.items() if pair[0] not in words for part in pair]
        placeless = words[0] in ("methods", "check", "runn", "--version") or "--help" in words
        return words if placeless else [*words, "--workspace", str(self.root / self.name)]

    def files(self) -> dict[Path, tuple[int, int]]:
        """By path of each file that a command may leave behind, when and where it was written."""
        workspace = self.root / self.name
        kept = ("benchmarks/*/*.*", "runs/*/*", "reports/*")
        files = [*self.root.glob("*.*"), *(file for each in kept for file in workspace.glob(each))]
        return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files if file.is_file()}

    def content(self, file: Path) -> Any:
        """What is compared of a file: JSON and texts as they are, the digest of any other."""
        if file.name == "catalog.parquet":  # the paths in it are absolute
            return self.steady_text(pd.read_parquet(file).to_csv(index=False)).splitlines()
        if file.name == "curve.csv":
            rows = list(csv.DictReader(file.read_text("utf-8").splitlines()))
            return [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
        if file.suffix == ".parquet":  # column by column, as a table may gain one
            table = pd.read_parquet(file)
            return {name: digest(table[name].to_csv(index=False).encode()) for name in table}
        if file.suffix == ".safetensors":  # tensor by tensor, and what stands in the header
            with safe_open(file, "np") as opened:
                tensors = {name: digest(opened.get_tensor(name).tobytes()) for name in sorted(opened.keys())}
                header = {name: json.loads(text) for name, text in (opened.metadata() or {}).items()}
            return tensors | header
        if file.suffix not in (".json", ".csv", ".md", ".html", ".svg"):
            return digest(file.read_bytes())
        text = self.steady_text(file.read_text("utf-8"))
        if file.name == "photos.stat.json":  # when each photo was written
            return sorted(json.loads(text))
        return steady(json.loads(text)) if file.suffix == ".json" else text.splitlines()

    def steady_text(self, text: str) -> str:
        """The text with one name for the temporary folder, also as Markdown escapes it, and for each run."""
        text = text.replace(str(self.root).replace("_", r"\_"), "<root>").replace(str(self.root), "<root>")
        return RUN_NAME.sub(lambda name: self.aliases.get(name[0], name[0]), text)

    def name_runs(self) -> None:
        """Names new runs by method, fold, seed and turn; several at once in the order of their settings."""
        new: list[tuple[str, str]] = []
        for file in (self.root / self.name / "runs").glob("*-*/record.json"):
            if file.parent.name not in self.aliases:
                record = json.loads(file.read_text("utf-8"))
                new.append((json.dumps([record["config"], record["members"]]), file.parent.name))
        for _, name in sorted(new):
            self.aliases[name] = f"{name[:-9]}-run{len(self.aliases)}"

    def lines(self, text: str) -> list[str]:
        """The lines of what a person reads, without times, and so without the padding round them."""
        timeless = TIMES.sub("<time>", self.steady_text(text))
        return [PADDING.sub(r"\1", line).rstrip() for line in timeless.splitlines()]

    def settle(self) -> None:
        """Gives all records times by their place alone, so that reports are the same."""
        files = (self.root / self.name / "runs").glob("*-*/record.json")
        for place, file in enumerate(sorted(files, key=lambda file: self.aliases[file.parent.name])):
            record = json.loads(file.read_text("utf-8"))
            for digests in ("files", "digest"):  # of what was written, of which the times are part
                record.pop(digests, None)
            record |= {"created": f"2026-01-01T00:00:{place:02d}+00:00", "photos_per_second": 100.0 + place}
            record["seconds"] = dict.fromkeys(record["seconds"], 40.0 + place)
            file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


def run_command(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `whalebench WORD...`."""
    from whalebench.cli import main as whalebench

    sys.argv, code = ["whalebench", *words], None
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            whalebench()
        except SystemExit as end:
            code = end.code
    return (code if isinstance(code, int) else int(bool(code))), out.getvalue(), err.getvalue()


def digest(content: bytes) -> str:
    """What is compared of a file, or of a column of a table, that nobody reads."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def steady(value: Any, key: str = "") -> Any:
    """The JSON with what is volatile masked: whether it is there is compared, and the names within it are."""
    volatile = key in VOLATILE
    if isinstance(value, dict):
        return {name: steady(each, key if volatile else name) for name, each in value.items()}
    if isinstance(value, list):
        return [steady(each, key) for each in value]
    return "volatile" if volatile and value is not None else value


def draw_source(folder: Path) -> None:
    """Tables, photos and masks in the folder: six individuals met six times, and eight others."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for individual in range(14):
        pattern = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
        for number in range(9 if individual < 6 else 1):
            met, name = number * 2 // 3, f"whale{individual}" if individual < 6 else ""
            facts = {"identity": name, "encounter": f"{individual}-{met}"}
            facts |= {"species": ("humpback", "fin", "")[individual % 3], "date": f"2020-0{1 + met}-01"}
            facts |= {"viewpoint": ("left", "right")[number % 2], "image": f"{len(rows):02d}"}
            rows.append(facts | draw_photo(folder, len(rows), pattern, rng))
    bare = [{key: row[key] for key in ("image", "path", "identity")} for row in rows]
    tables = {"table": rows, "bare": bare, "broken": [*bare, bare[0] | {"image": "gone", "path": "gone.png"}]}
    parts = ("test", "valid", "train", "valid", "train")
    tables["published"] = [row | {"split": parts[place % 5]} for place, row in enumerate(bare)]
    for name, table in tables.items():
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)


def draw_photo(
    folder: Path, number: int, pattern: NDArray[np.uint8], rng: np.random.Generator
) -> dict[str, Any]:
    """A photo's part of its row: an ellipse with the pattern on noise. Some annotations are missing."""
    height, width = ((48, 64), (64, 48), (56, 56))[number % 3]
    high, wide = (int(side * rng.uniform(0.5, 0.75)) for side in (height, width))
    top, left = int(rng.integers(0, height - high)), int(rng.integers(0, width - wide))
    down, across = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : wide * 1j]
    pixels, mask = rng.normal(90, 20, (height, width, 3)), np.zeros((height, width), np.uint8)
    mask[top : top + high, left : left + wide] = 255 * (down**2 + across**2 <= 1)
    animal = np.zeros_like(pixels)
    animal[top : top + high, left : left + wide] = Image.fromarray(pattern).resize((wide, high), 0)
    pixels[mask > 0] = (animal + rng.normal(0, 15, pixels.shape))[mask > 0]
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
    Image.fromarray(mask).save(folder / f"{number:02d}-mask.png")
    row: dict[str, Any] = {
        "path": f"{number:02d}.png",
        "mask": "" if number % 7 == 1 else f"{number:02d}-mask.png",
    }
    box = {"x0": left, "y0": top, "x1": left + wide, "y1": top + high}
    row |= {"tip_x": left + wide - 2, "tip_y": top + high // 2, "notch_x": left + wide // 2, "notch_y": top}
    fin = {"fin_x": left + 2, "fin_y": top + high // 2}
    lacking = [part for part, every in ((box, 6), (fin, 5)) if number % every == 1]
    return row | box | fin | {key: None for part in lacking for key in part}


def draw_start(file: Path) -> None:
    """Weights to start from, of the smallest network."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(11)
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), file)


def prepare(root: Path) -> Recorder:
    """The workspace that all others begin as: a benchmark, its split and four runs."""
    draw_source(root / "source")
    draw_start(root / "start.safetensors")
    (root / "duplicates.csv").write_text("SubId\nwhale0 whale1\nwhale2 whale3\n", "utf-8")
    recorder = Recorder(root, "base", {})
    recorder.call("data import csv source/table.csv --name tiny --json")
    recorder.call("split make tiny --valid-share 0.4 --json")
    for name, command in BASE.items():
        recorder.call(command)
        folder = next((root / "base" / "runs").glob(f"{name}-*"))
        recorder.known[name] = folder.name
    recorder.known["photo"] = str(pd.read_parquet(folder / "predictions.parquet")["image"].iloc[0])
    (root / "base" / "runs" / "damaged").mkdir()
    (root / "base" / "runs" / "damaged" / "record.json").write_text("{}", "utf-8")
    return recorder


def run_groups(names: list[str]) -> dict[str, Any]:
    """By group and command what the groups of these names left behind; `base` is among them."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder, contextlib.chdir(folder):
        base = prepare(Path.cwd())
        found = {"base": base.found}
        for name in names:
            shutil.copytree(base.root / "base", base.root / name)
            recorder = Recorder(base.root, name, base.known, aliases=dict(base.aliases))
            for command in re.split(r"\n|;", GROUPS[name]):
                if command.strip():
                    recorder.call(" ".join(command.split()))
            found[name] = recorder.found
    return found


def differences(was: Any, now: Any, where: str) -> Iterator[str]:
    """A line for each value that differs, with its path, what it was and what it is."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*was, *now]):
            yield from differences(was.get(key, "absent"), now.get(key, "absent"), f"{where} > {key}")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for place, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from differences(old, new, f"{where}[{place}]")
    elif was != now:
        yield f"{where}: {json.dumps(was)[:300]} -> {json.dumps(now)[:300]}"


def main() -> int:
    """Records or compares, as the module says; the exit code."""
    parser = argparse.ArgumentParser(description="Runs everything in miniature and compares every byte.")
    parser.add_argument("file", type=Path, nargs="?", default="golden.json", help="golden.json by default")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="NAME", help="these groups alone")
    parser.add_argument("--list", action="store_true", help="the names of the groups")
    asked = parser.parse_args()
    if asked.list:
        sys.stdout.write("\n".join(GROUPS) + "\n")
        return 0
    found = run_groups(asked.only or list(GROUPS))
    if not asked.file.exists():
        asked.file.parent.mkdir(parents=True, exist_ok=True)
        asked.file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
        return 0
    was = json.loads(asked.file.read_text("utf-8"))
    lines = [line for name in found for line in differences(was.get(name), found[name], name)]
    sys.stdout.write("\n".join([*lines, f"{len(lines)} differences"]) + "\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
