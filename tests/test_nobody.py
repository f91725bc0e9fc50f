"""Animals that nobody has identified: in the catalog, in no part of any split, and never an individual."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.auditing.audit import audit_catalog
from whalebench.benchmarks.core.catalog import Catalog, build_catalog, read_facts
from whalebench.benchmarks.core.progress import Silent
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.importing.nobody import identity_of
from whalebench.benchmarks.overview import benchmark_rows, catalog_facts
from whalebench.benchmarks.pictures import choose_photos
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import fold_views
from whalebench.splits.assignment import LEFT_OUT, NEVER
from whalebench.splits.groupings import protocol_groups
from whalebench.splits.protocols import PROTOCOLS, propose_split
from whalebench.splits.rules import check_split
from whalebench.splits.twin import random_twin

FOR_NOBODY = (
    "? ?? - -- . _ unknown Unknown UNK unkn unid unid. un-id Unidentified not_identified not-yet-identified "
    "n/a N/A NA #N/A nan NaN NaT none None null NULL tbd TBC <unknown> (unknown) unknown_individual no_id "
    "individual_unknown unsure -1 -999 non-identifié unbekannt Inconnu inconnue desconocido sconosciuta "
    "onbekend okänd неизвестно неизвестный 不明"
)
FOR_NEW = "new New NEW new_whale New-Whale new_individual"
NAMES = "Nanuq Newton Nan-1 Unknown7 unknown_2 Nona 0 1 -12 None-so-fair Infinity inf Tbilisi"


@pytest.mark.parametrize("word", [*FOR_NOBODY.split(), "not identified", " unknown whale ", "not yet known"])
def test_words_for_nobody_are_not_yet_identified(word: str) -> None:
    assert identity_of(word) == "?"


@pytest.mark.parametrize("word", [*FOR_NEW.split(), "new whale", ""])
def test_words_for_new_are_new(word: str) -> None:
    assert identity_of(word) == ""


@pytest.mark.parametrize("name", NAMES.split())
def test_names_that_begin_like_words_for_nobody_stay(name: str) -> None:
    assert identity_of(name) == name


class Told(Silent):
    """A watcher that keeps the stages it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three named individuals in four photos each, two that are new, and four that nobody identified."""
    rng = np.random.default_rng(3)
    names = ["ann", "bob", "cyd"] * 4 + ["", "new_whale", "unknown", "Unknown", "N/A", "?"]
    rows = []
    for number, name in enumerate(names):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
        rows.append({"image": f"{number:02d}", "path": f"{number:02d}.png", "identity": name})
    table = pd.DataFrame(rows).assign(encounter=[f"e{number}" for number in range(len(rows))])
    table.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_they_are_in_the_catalog_and_counted(source: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    made = import_csv(source, "mine", workspace)
    assert made.catalog.table["identity"].tolist()[12:] == ["", "", "?", "?", "?", "?"]
    assert made.catalog.identities == ("ann", "bob", "cyd")
    assert made.notes == (
        "1 row(s) have a word for a *new* animal, 'new_whale' (1), and count like those with an empty cell: "
        "none of the others.",
        "4 row(s) have a word for nobody, '?' (1), 'N/A' (1), 'Unknown' (1) and 1 more: their photos are not "
        "yet identified, and in no part of any split; where the animal is known to be none of the others "
        "leave its name empty, or write new.",
    )
    facts = catalog_facts(made.catalog)
    assert (facts["photos"], facts["individuals"]) == (18, 3)
    assert (facts["photos of new individuals"], facts["photos not yet identified"]) == (2, 4)
    assert read_facts(workspace.benchmarks / "mine")["not_identified_photos"] == 4
    (row,) = (row for row in benchmark_rows(workspace) if row["name"] == "mine")
    assert (row["photos"], row["new_photos"], row["not_identified_photos"]) == (18, 2, 4)


def test_two_individuals_are_needed_whoever_else_is_there(source: Path, tmp_path: Path) -> None:
    table = pd.read_csv(source, dtype="str", keep_default_na=False)
    named = table["identity"].isin(["bob", "cyd"])
    table.assign(identity=table["identity"].mask(named, "tbd")).to_csv(source, index=False)
    told = Told()
    with pytest.raises(WhalebenchError, match=r"one individual only \(ann\)"):
        import_csv(source, "mine", Workspace.open(tmp_path / "workspace"), progress=told)
    assert told.stages[-1] == "find the files"  # no photo is decoded for nothing


def test_no_method_ever_sees_one(source: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    import_csv(source, "mine", workspace)
    benchmark = load_benchmark("mine", workspace, propose=True)
    for fold in benchmark.split.folds:
        views = fold_views(benchmark, fold)
        assert set(views.train.identities) <= {"ann", "bob", "cyd"}
        assert sum(len(each) for each in (views.train, views.valid, views.test)) == 14
    shown = cli("split", "show", "mine", "--workspace", str(workspace.root), "--json")
    assert '"not identified photos": 4' in shown.out
    assert [label for label, _ in choose_photos(benchmark.catalog.table, 9, 2)][-1] == "new"
    assert len(choose_photos(benchmark.catalog.table, 9, 2)) == 4


def test_a_pair_with_one_is_no_pair_of_two_names(source: Path, tmp_path: Path) -> None:
    (source.parent / "14.png").write_bytes((source.parent / "00.png").read_bytes())
    made = import_csv(source, "mine", Workspace.open(tmp_path / "workspace"))
    assert not any("said to show different individuals" in note for note in made.notes)
    (pair,) = audit_catalog(made.catalog).pairs
    assert (pair.images, pair.kind, pair.two_names) == (("00", "14"), "exact", False)


# --- splits


def photos() -> pd.DataFrame:
    """Nine individuals met on four days, three of nobody, and nine that are not identified."""
    rows = [
        {
            "image": f"{who}-{day}-{photo}",
            "identity": f"w{who}",
            "encounter": f"{who}-{day}",
            "date": f"2024-0{1 + day}-1{who}",
            "viewpoint": "left" if day % 2 else "right",
            "split": ("train", "train", "valid", "test")[day],
        }
        for who in range(9)
        for day in range(4)
        for photo in range(2)
    ]
    rows += [{"image": f"x{n}", "date": f"2024-0{1 + n}-28", "encounter": f"x{n}"} for n in range(3)]
    table = pd.DataFrame(rows).fillna("")
    return table.assign(path=table["image"], content_digest=table["image"])


def with_unknown(table: pd.DataFrame) -> Catalog:
    """The table, with photos of nobody in an encounter of each third individual, and by themselves."""
    unknown = table[table["image"].str.match(r"[036]-\d-0")]
    unknown = unknown.assign(image="u" + unknown["image"], content_digest="", identity="?", split="test")
    return build_catalog(pd.concat([table, unknown, unknown.assign(image="v" + unknown["image"])]), "drawn")


@pytest.mark.parametrize("protocol", [each for each in PROTOCOLS if each != "auto"])
def test_they_are_in_no_part_and_change_no_other_photo(protocol: str) -> None:
    table = photos().assign(split=photos()["split"].mask(photos()["identity"] == "", "train"))
    of, bare = with_unknown(table), build_catalog(table, "drawn")
    few = {"folds": 2} if protocol == "disjoint" else {}
    split, without = (propose_split(each, protocol=protocol, **few) for each in (of, bare))
    unknown = of.table["identity"] == "?"
    assert unknown.sum() == 24
    assert (split.table["fold"][unknown] == LEFT_OUT).all()
    assert (split.table["valid"][unknown] == NEVER).all()
    kept = split.table[~unknown].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, without.table)
    assert split.counts == without.counts | {"photos": len(of.table), "not_identified_photos": 24}
    assert split.warnings == without.warnings
    twin = random_twin(split, of)
    pd.testing.assert_frame_equal(
        twin.table[~unknown].reset_index(drop=True), random_twin(without, bare).table
    )
    assert (twin.table["fold"][unknown] == LEFT_OUT).all()


@pytest.mark.parametrize("column", ["fold", "valid"])
def test_a_split_that_has_one_in_a_part_is_refused(column: str) -> None:
    of = with_unknown(photos())
    split = propose_split(of, protocol="stratified-encounters")
    changed = split.table.copy()
    changed.loc[of.table["identity"] == "?", column] = 0
    with pytest.raises(WhalebenchError, match="not identified yet is in one of its parts"):
        check_split(changed, of, split.protocol, split.parameters)


def test_encounters_that_share_a_photo_of_nobody_are_one_group() -> None:
    table = pd.DataFrame(
        [("a", "ann", "e1", "c1"), ("b", "?", "e1", "c2"), ("c", "bob", "e2", "c2"), ("d", "?", "e3", "c3")],
        columns=["image", "identity", "encounter", "content_digest"],
    )
    table = build_catalog(table.assign(path="p"), "drawn").table
    for protocol in ("stratified-encounters", "encounter-grouped"):
        assert [group.images for group in protocol_groups(table, protocol)] == [("a", "c")]
