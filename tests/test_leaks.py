"""What runs and boards say of leaks, by the audit and its verdicts as they are; the score without them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.synthetic_runs import put, queries_of, record
from whalebench import WhalebenchError
from whalebench.benchmarks.core.audits import (
    NO_PART,
    Audit,
    Pair,
    keep_verdicts,
    read_leaks,
    read_verdicts,
    write_audit,
)
from whalebench.benchmarks.core.catalog import write_catalog
from whalebench.benchmarks.core.record import read_predictions
from whalebench.cli import app
from whalebench.reports.document import WITHOUT
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.writers import to_csv, to_markdown, to_rows
from whalebench.splits.assignment import LEFT_OUT
from whalebench.splits.table import kept_text, make_table, table_digest
from whalebench.tests.pages import page_of

PHOTOS = 200


class Place:
    """A workspace with runs on fold 0 of `seals`; its test photos 0, 1 and 2 are like photos of train."""

    def __init__(self, root: Path, source: str = "tables") -> None:
        self.root, self.runs, self.folder = root, root / "runs", root / "benchmarks" / "seals"
        self.tested = [f"photo_0_{row:05d}" for row in range(PHOTOS)]
        self.learned = [f"=train_{row}" for row in range(20)]  # which the file of a split keeps otherwise
        fold_of = dict.fromkeys(self.tested, 0) | dict.fromkeys(self.learned, -1) | {"away": LEFT_OUT}
        rows = [{"image": image, "path": "x", "identity": "a", "file_digest": "0"} for image in fold_of]
        self.catalog = write_catalog(pd.DataFrame(rows), self.folder, "seals", source)
        table = make_table({image: (fold, image, -1) for image, fold in fold_of.items()})
        (self.folder / "split.csv").write_text(kept_text(table))
        self.digests = {"catalog_digest": self.catalog.digest, "split_digest": table_digest(table)}
        # Leaking photos are easy: 1 where the others have 1/2 or 1/4.
        ranks = np.where(np.arange(PHOTOS) < 3, 1, 2 + 2 * (np.arange(PHOTOS) % 2))
        for name in ("arcface", "triplet"):
            of = record(name, name, benchmark="seals", **self.digests)
            put(self.runs, of, queries_of(ranks, 0, 40))

    def audit(self, *more: Pair) -> Audit:
        """Writes an audit with three pairs on both sides, and some that are not."""
        ends = [*zip(self.tested[:3], self.learned, strict=False), (self.learned[5], self.learned[6])]
        ends += [(self.tested[10], self.tested[11]), (self.tested[12], "away")]
        pairs = [Pair(one, other, "twin", 0.9, "a", "a") for one, other in ends]
        pairs[0] = replace(pairs[0], kind="exact")
        made = Audit("seals", self.catalog.digest, len(self.catalog.table), (*pairs, *more))
        write_audit(made, self.folder)
        return made

    def verdicts(self, **verdict_of: Any) -> None:
        """Keeps verdicts on the pair of the test photo of that place, as _1='no'."""
        held = {
            (self.learned[place], self.tested[place]): verdict
            for name, verdict in verdict_of.items()
            for place in [int(name[1:])]
        }
        keep_verdicts(held, self.folder, self.catalog.digest)

    def call(self, *arguments: str) -> str:
        """What a command prints."""
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(self.root)])
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_photos_in_no_part_are_known_by_the_same_number_as_in_splits() -> None:
    assert NO_PART == LEFT_OUT


def test_boards_and_runs_tell_that_nobody_audited(place: Place) -> None:
    said = "seals was never audited, so photos of one picture"
    (table,) = leaderboard(place.runs).tables
    assert table.warnings[0].startswith(said) and "whalebench data audit seals" in table.warnings[0]
    assert said in place.call("report") and said in place.call("show", "arcface")
    assert said in to_markdown(leaderboard(place.runs)) and said in page_of(leaderboard(place.runs))
    assert table.contestants[0].without_leaks is None and WITHOUT not in place.call("report")
    assert {row.leaks["audited"] for row in leaderboard(place.runs).rows} == {0}


def test_drawn_photos_and_those_that_are_not_here_need_no_audit(tmp_path: Path) -> None:
    drawn = Place(tmp_path / "drawn", source="drawn by whalebench, drawing version 3")
    assert leaderboard(drawn.runs).tables[0].warnings == ()
    away = Place(tmp_path / "away")
    (away.folder / "catalog.json").unlink()
    assert leaderboard(away.runs).tables[0].warnings == ()


def test_boards_and_runs_count_leaks_and_score_without_them(place: Place) -> None:
    place.audit()
    (table,) = board = leaderboard(place.runs).tables
    assert board and table.warnings[0].startswith(
        "Fold 0 tests on 3 photos of which train or valid has the same picture or moment (3 pairs, 2 of them "
        "not looked at)"
    )
    assert any("found 6 pairs" in note and "5 of them not looked at" in note for note in table.notes)
    kept = read_predictions(place.runs / "arcface").query("image not in @place.tested[:3]")
    value = kept["average_precision_at_5"].mean()
    for row in to_rows(leaderboard(place.runs)):
        less = row["without_leaks"]
        assert row["leaks"] == {"audited": 1, "photos": 3, "pairs": 3, "unseen": 2}
        assert less["map_at_5"] == pytest.approx(value) and less["photos"] == PHOTOS - 3
        assert less["low"] < value < less["high"] and row["metrics"]["map_at_5"] > value
    assert table.contestants[0].without_leaks is not None
    assert table.contestants[0].without_leaks.value == pytest.approx(value)
    number = f"{value:.3f} ["
    assert WITHOUT in to_markdown(leaderboard(place.runs)) and "without_leaks_low" in to_csv(
        leaderboard(place.runs)
    )
    shown = place.call("show", "arcface")
    assert "Fold 0 tests on 3 photos" in shown and f"{number}" in shown and "197 photos, 3 leak" in shown
    document = json.loads(place.call("show", "arcface", "--json"))
    assert document["without_leaks"]["map_at_5"] == pytest.approx(value)
    assert document["leak_warnings"][0].startswith("Fold 0 tests on 3 photos")


def test_verdicts_count_from_then_on(place: Place) -> None:
    place.audit()
    place.verdicts(_1="no", _2="yes")
    (table,) = leaderboard(place.runs).tables
    assert "Fold 0 tests on 2 photos" in table.warnings[0] and "0 of them not looked" in table.warnings[0]
    place.verdicts(_1="unsure")
    assert "1 of them not looked at" in leaderboard(place.runs).tables[0].warnings[0]
    place.verdicts(_1="no", _2="no", _0="no")
    (table,) = leaderboard(place.runs).tables
    assert table.warnings == () and table.contestants[0].without_leaks is None


def test_an_audit_of_other_photos_is_none_and_a_damaged_one_is_told(place: Place) -> None:
    made = place.audit()
    write_audit(replace(made, catalog_digest="0" * 64), place.folder)
    assert "never audited" in leaderboard(place.runs).tables[0].warnings[0]
    place.audit()
    place.verdicts(_1="no")
    assert read_verdicts(place.folder, "0" * 64) == {}
    for name in ("audit.json", "verdicts.json"):
        kept = (place.folder / name).read_text()
        (place.folder / name).write_text(kept.replace("train_1", "train_2"))
        with pytest.raises(WhalebenchError, match="differs from its digest"):
            read_leaks(place.folder.parent, "seals", **place.digests)
        assert f"{name} differs from its digest" in leaderboard(place.runs).tables[0].warnings[0]
        (place.folder / name).write_text(kept)
    assert read_leaks(place.folder.parent, "seals", place.catalog.digest, "0" * 64) is None


def test_all_photos_leak(place: Place) -> None:
    place.audit(*(Pair(image, "=train_9", "burst", 0, "a", "a") for image in place.tested[3:]))
    (table,) = leaderboard(place.runs).tables
    assert table.contestants[0].without_leaks is None
    assert table.contestants[0].rows[0].without_leaks["photos"] == 0
    assert "– of 0 photos, 200 leak" in place.call("show", "arcface")


def test_a_bundle_tells_of_leaks_too(place: Place, tmp_path: Path) -> None:
    place.audit()
    place.verdicts(_1="no")
    place.call("bundle", str(tmp_path / "runs.zip"))
    with zipfile.ZipFile(tmp_path / "runs.zip") as packed:
        packed.extractall(tmp_path / "other")
    (there,), (here,) = (leaderboard(root / "runs").tables for root in (tmp_path / "other", place.root))
    assert there.warnings == here.warnings and "2 photos" in there.warnings[0]
