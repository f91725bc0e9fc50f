"""No cell of any CSV that is written is a formula, and no name acts in a page, whatever photos are called."""

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from whalebench import cell_text
from whalebench.benchmarks.core.audits import Pair
from whalebench.benchmarks.core.catalog import build_catalog
from whalebench.benchmarks.core.files import digest_text, with_digest
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.running.outcome import curve_text
from whalebench.reports import writers
from whalebench.reports.audit_page import audit_page
from whalebench.reports.leaderboard import leaderboard
from whalebench.splits.protocols import propose_split
from whalebench.splits.split import Split, read_split, write_split
from whalebench.splits.table import kept_text, make_table, table_digest, table_text
from whalebench.tests.pages import page_of
from whalebench.tests.synthetic_runs import fill_workspace

ROOT = Path(__file__).parent.parent
NAMES = ["=1+1", "+1", "-1.jpg", "@SUM(A1)", "\t=1", "\r=1", "'=1", '=HYPERLINK("x")', "plain", "o'clock"]
SCRIPT = "<script>alert(1)</script>"
NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?")


def cells_of(text: str) -> list[list[str]]:
    """The rows of a CSV, none of whose cells is computed by a spreadsheet."""
    rows = list(csv.reader(io.StringIO(text, newline="")))
    computed = [
        cell for row in rows for cell in row if re.match(r"[=+@\t\r-]", cell) and not NUMBER.fullmatch(cell)
    ]
    assert not computed
    return rows


def audit_document(first: str, identity: str) -> dict[str, Any]:
    pair = asdict(Pair(first, "b.jpg", "twin", 0.9, identity, "bob"))
    pair |= {"two_names": True, "two_labels": False, "verdict": "", "leaks_in": []}
    counts = dict.fromkeys(("two_names", "two_labels", "rejected", "unseen"), 1) | {"kinds": {"twin": 1}}
    return {"audit_digest": "d", "name": "mine", "pairs": [pair], "credits": {}} | counts


def test_these_are_all_files_that_write_csv() -> None:
    """One more needs a test here."""
    writes = re.compile(r"\bto_csv\(|csv\.writer\(|DictWriter|text/csv")
    inside = (file for room in ROOMS for end in ("py", "js") for file in (ROOT / room).rglob(f"*.{end}"))
    rooms = [*ROOT.glob("*.py"), *inside]
    found = {str(file.relative_to(ROOT)) for file in rooms if writes.search(file.read_text(encoding="utf-8"))}
    assert found == {
        "benchmarks/conformance/trial.py",  # drawn names, read by the importer at once
        "benchmarks/core/files.py",  # what was read, to be compared
        "benchmarks/ensembles/ensemble.py",  # a header without rows
        "benchmarks/importing/importer.py",
        "benchmarks/predicting/predict.py",  # read back in tests/test_predict.py
        "benchmarks/running/outcome.py",
        "reports/page/doubts.py",  # read back in tests/test_doubts.py
        "reports/page/templates/audit.js",  # read back in tests/test_audit_page.py
        "reports/writers.py",
        "splits/table.py",
    }


ROOMS = ("benchmarks", "splits", "methods", "reports")


def test_a_split() -> None:
    names = [name for name in NAMES if name.isprintable()]  # others are no names
    table = make_table({name: (place % 2, name, -1) for place, name in enumerate(names)})
    rows = cells_of(kept_text(table))
    read = [[cell_text(cell) for cell in row] for row in rows[1:]]
    assert {(row[0], row[2]) for row in read} == {(name, name) for name in names}
    assert table_digest(table) == digest_text(table_text(table))


@pytest.mark.parametrize("by", ["this version", "an older version"])
def test_a_split_is_read_as_it_was_made(tmp_path: Path, by: str) -> None:
    names = [name for name in NAMES if name.isprintable()]
    rows = [(f"{name}{copy}", f"w{place % 3}") for place, name in enumerate(names) for copy in "abc"]
    frame = pd.DataFrame(rows, columns=["image", "identity"]).assign(path="x", width=1, height=1)
    frame["content_digest"] = frame["file_digest"] = [f"{place:064}" for place in range(len(frame))]
    catalog = build_catalog(frame, "mine")
    split: Split = propose_split(catalog, folds=2)
    write_split(split, tmp_path / "split")
    file = tmp_path / "split.csv"
    cells_of(file.read_text(encoding="utf-8"))
    if by == "an older version":
        file.write_text(table_text(split.table), encoding="utf-8", newline="")
    there = read_split(tmp_path / "split", catalog)
    pd.testing.assert_frame_equal(there.table, split.table)
    assert there.digest == split.digest
    before = file.read_bytes()
    write_split(split, tmp_path / "split")
    assert file.read_bytes() == before
    file.write_text(kept_text(split.table).replace("plaina", "plainz"), encoding="utf-8", newline="")
    with pytest.raises(Exception, match="was edited after the split was made"):
        read_split(tmp_path / "split", catalog)


def test_the_quarantine(tmp_path: Path) -> None:
    for place in range(3):
        Image.new("RGB", (9, 9), (place, 0, 0)).save(tmp_path / f"{place}.png")
    (tmp_path / "=bad").write_text("no photo")
    names = [name for name in NAMES if name.isprintable()]
    good = [[f"g{place}", f"{place}.png", f"w{place}"] for place in range(3)]
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "path", "identity"], *good])
        csv.writer(file).writerows([name, "=bad", "w0"] for name in names)
    workspace = Workspace.open(tmp_path / "workspace")
    import_csv(tmp_path / "t.csv", "mine", workspace)
    rows = cells_of((workspace.benchmarks / "mine" / "quarantine.csv").read_text(encoding="utf-8"))
    assert [cell_text(row[0]) for row in rows[1:]] == names


def test_a_curve() -> None:
    curve = pd.DataFrame({"stage": NAMES, "epoch": 1, "loss": -0.5})
    rows = cells_of(curve_text(curve))
    assert rows[1] == ["'=1+1", "1", "-0.5"]


def test_a_leaderboard_and_its_page(tmp_path: Path) -> None:
    fill_workspace(tmp_path, methods=2, seeds=(0,), folds=(0,), queries=40, individuals=5)
    for file, method in zip(sorted(tmp_path.glob("runs/*/record.json")), ("=1+1", SCRIPT), strict=True):
        record = json.loads(file.read_text(encoding="utf-8")) | {"method": method, "warnings": [method]}
        file.write_text(json.dumps(with_digest(record)), encoding="utf-8")
    board = leaderboard(tmp_path / "runs", None)
    head, *rows = cells_of(writers.to_csv(board))
    assert {row[head.index("method")] for row in rows} == {"'=1+1", SCRIPT}
    page = page_of(board)
    assert page.count("<script") == page.count("</script") == 1  # its own
    assert "<script" not in writers.to_svg(board)


def test_no_name_acts_in_the_page_of_an_audit() -> None:
    page = audit_page(audit_document(SCRIPT, f"{SCRIPT}\" onload='x'"), {SCRIPT: "data:", "b.jpg": "data:"})
    assert page.count("<script") == 2
    assert page.count("</script") == 2
    assert "onload='x'" not in page.partition('id="audit"')[0]
