"""Frozen folds: what must hold of every split, what never changes, and what is refused."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import Catalog, build_catalog
from whalebench.benchmarks.core.files import differs_from_digest
from whalebench.splits.assignment import group_photos
from whalebench.splits.protocols import propose_split
from whalebench.splits.rules import check_split
from whalebench.splits.split import Split, committed_stem, read_split, write_split
from whalebench.splits.table import make_table, table_text

GOLDEN = Path(__file__).parent / "golden" / "split.csv"


def rows(individuals: int = 12, encounters: int = 4) -> pd.DataFrame:
    """Individuals with 1 to `encounters` encounters of 1 to 3 photos, every fifth *new*; one duplicate."""
    found = []
    for individual in range(individuals):
        for encounter in range(1 + individual % encounters):
            for photo in range(1 + (individual + encounter) % 3):
                found.append(
                    {
                        "image": f"{(individual * 7919 + encounter * 104729 + photo * 31) % 99991:05d}.jpg",
                        "identity": "" if individual % 5 == 4 else f"w{individual}",
                        "encounter": f"e{individual}-{encounter}" if individual % 3 else "",
                        "content_digest": "twin"
                        if individual in (0, 11) and (encounter, photo) == (0, 0)
                        else "",
                    }
                )
    table = pd.DataFrame(found)
    return table.assign(path=table["image"])


def small() -> Catalog:
    return build_catalog(rows(), "small")


def assert_fair(split: Split, catalog: Catalog, singles: str) -> None:
    """The post-conditions again, slowly and photo by photo."""
    table = catalog.table
    facts = {row.image: row for row in table.itertuples()}
    assert split.table["image"].tolist() == sorted(facts)
    met: dict[str, set[str]] = defaultdict(set)
    group_of = dict(zip(split.table["image"], split.table["group"], strict=True))
    for image, row in facts.items():
        met[str(row.identity)].add(group_of[image])
    for fold in split.folds:
        parts = split.parts(fold)
        assert all(parts)
        assert sorted([*parts.train, *parts.valid, *parts.test]) == sorted(facts)
        part_of = {image: name for name in parts._fields for image in getattr(parts, name)}
        for key in ("encounter", "content_digest"):
            together: dict[str, set[str]] = defaultdict(set)
            for image, row in facts.items():
                if getattr(row, key):
                    together[getattr(row, key)].add(part_of[image])
            assert all(len(places) == 1 for places in together.values())
        known = {facts[image].identity for image in parts.train}
        for image in (*parts.valid, *parts.test):
            identity = str(facts[image].identity)
            by_rule = singles == "new" and len(met[identity]) == 1
            assert identity == "" or identity in known or by_rule
    tested = [image for fold in split.folds for image in split.parts(fold).test]
    assert len(tested) == len(set(tested))
    if singles == "train":
        alone = {name for name, groups in met.items() if len(groups) == 1} - {""}
        assert not alone & {facts[image].identity for image in tested}


photos = st.tuples(
    st.sampled_from(["", "a", "b", "c", "d", "e", "f"]),
    st.sampled_from(["", *"0123456789"]),
    st.sampled_from(["", "", "", "x", "y", "z"]),
)


# Without shrinking: a proposal that is wrong would else be tried for five minutes before it is told.
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.lists(photos, min_size=1, max_size=60),
    st.integers(2, 5),
    st.sampled_from(["train", "new"]),
    st.randoms(use_true_random=False),
)
def test_every_proposal_is_fair_or_refused(
    drawn: list[tuple[str, str, str]], folds: int, singles: str, random: object
) -> None:
    table = pd.DataFrame(drawn, columns=["identity", "encounter", "content_digest"])
    table["image"] = table["path"] = [f"p{index}" for index in range(len(table))]
    catalog = build_catalog(table, "drawn")
    try:
        split = propose_split(catalog, folds=folds, singles=singles)
    except WhalebenchError as error:
        # Too few photos is the only excuse; any other broken rule would be a fault of the proposal.
        assert re.search(r"part of fold \d is empty|holds fewer than two individuals", str(error)), error
        return
    assert_fair(split, catalog, singles)
    turned = table.iloc[sorted(range(len(table)), key=lambda _: random.random())]  # type: ignore[attr-defined]
    again = propose_split(build_catalog(turned, "turned"), folds=folds, singles=singles)
    assert again.digest == split.digest


@pytest.mark.parametrize("singles", ["train", "new"])
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_a_rich_catalog_is_split_fairly(folds: int, singles: str) -> None:
    catalog = build_catalog(rows(120, 7), "rich")
    split = propose_split(catalog, folds=folds, singles=singles)
    assert split.folds == tuple(range(folds))
    assert_fair(split, catalog, singles)


def test_folds_and_valid_parts_are_even() -> None:
    catalog = build_catalog(rows(200, 8), "rich")
    split = propose_split(catalog)
    assert split.warnings == ()
    identity_of = dict(zip(catalog.table["image"], catalog.table["identity"], strict=True))
    sizes, new = [], []
    for fold in split.folds:
        parts = split.parts(fold)
        sizes.append(len(parts.test))
        new.append(sum(identity_of[image] == "" for image in parts.test))
        outside = len(parts.train) + len(parts.valid)
        assert 0.10 < len(parts.valid) / outside < 0.14
        outside_new = sum(identity_of[image] == "" for image in (*parts.train, *parts.valid))
        assert 0.09 < sum(identity_of[image] == "" for image in parts.valid) / outside_new < 0.15
    assert max(sizes) - min(sizes) <= 3
    assert max(new) - min(new) <= 3
    dealt = split.table[split.table["fold"] >= 0].assign(
        identity=lambda table: table["image"].map(identity_of)
    )
    biggest = dealt[dealt["identity"] == "w7"].groupby("fold").size()
    assert biggest.max() - biggest.min() <= 3


def test_the_split_of_a_known_catalog_never_changes() -> None:
    assert table_text(propose_split(small(), folds=3).table) == GOLDEN.read_text(encoding="utf-8")
    shuffled = rows().sample(frac=1, random_state=1)
    assert table_text(propose_split(build_catalog(shuffled, "x"), folds=3).table) == GOLDEN.read_text()


def test_neither_the_hash_seed_nor_the_process_counts(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    rows().to_parquet(file)
    code = (
        "import sys, pandas; from whalebench.benchmarks.core.catalog import build_catalog;"
        "from whalebench.splits.protocols import propose_split;"
        "print(propose_split(build_catalog(pandas.read_parquet(sys.argv[1]), 'x'), folds=3).digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == propose_split(small(), folds=3).digest


def test_the_seed_and_the_parameters_count() -> None:
    catalog = build_catalog(rows(60, 6), "rich")
    digests = {propose_split(catalog, seed=seed).digest for seed in range(3)}
    digests.add(propose_split(catalog, valid_share=0.2).digest)
    digests.add(propose_split(catalog, singles="new").digest)
    assert len(digests) == 5


def test_groups_join_through_chains() -> None:
    table = pd.DataFrame(
        {
            "image": ["d", "c", "b", "a", "e"],
            "identity": ["x", "", "y", "x", "y"],
            "encounter": ["1", "1", "2", "", ""],
            "content_digest": ["", "p", "p", "q", "r"],
        }
    )
    groups = group_photos(table)
    assert [(group.name, group.images, group.identities) for group in groups] == [
        ("a", ("a",), ("x",)),
        ("b", ("b", "c", "d"), ("x", "y")),
        ("e", ("e",), ("y",)),
    ]


def test_the_rule_for_individuals_of_one_encounter() -> None:
    catalog = build_catalog(rows(120, 7), "rich")
    train, new = (propose_split(catalog, singles=singles).counts for singles in ("train", "new"))
    alone = train["one_encounter_individuals"]
    assert alone == new["one_encounter_individuals"] > 5
    assert train["single_photo_individuals"] > 0
    assert train["one_encounter_individuals_always_in_train"] == alone
    assert train["never_tested_photos"] >= train["one_encounter_photos"]
    assert new["one_encounter_individuals_tested_as_new"] == alone
    assert new["never_tested_photos"] == 0
    nameless = int((catalog.table["identity"] == "").sum())
    assert sum(fold["test"]["new"] for fold in train["folds"]) == nameless
    assert sum(fold["test"]["new"] for fold in new["folds"]) == nameless + new["one_encounter_photos"]


def published(valid: bool) -> Catalog:
    """Ten individuals with ten photos, the last three of each in test, by request two more in valid."""
    table = pd.DataFrame({"image": [f"{index:03d}" for index in range(100)]})
    table["path"], table["identity"] = table["image"], [f"w{index // 10}" for index in range(100)]
    parts = ["train"] * 5 + ["valid" if valid else "train"] * 2 + ["test"] * 3
    table["split"] = parts * 10
    table["encounter"] = ["cut" if index in (6, 7) else f"e{index // 2}" for index in range(100)]
    return build_catalog(table, "published")


def test_a_published_split_is_kept() -> None:
    catalog = published(valid=True)
    split = propose_split(catalog)
    assert (split.protocol, split.folds) == ("published", (0,))
    part_of = dict(zip(catalog.table["image"], catalog.table["split"], strict=True))
    for name, images in zip(("train", "valid", "test"), split.parts(0), strict=True):
        assert {part_of[image] for image in images} == {name}
    assert len(split.warnings) == 1
    assert "straddle the published parts (004, 006, 014" in split.warnings[0]


def test_a_valid_part_is_carved_out_of_a_published_train() -> None:
    catalog = published(valid=False)
    split = propose_split(catalog)
    parts = split.parts(0)
    assert list(parts.test) == catalog.table.loc[catalog.table["split"] == "test", "image"].tolist()
    assert 6 <= len(parts.valid) <= 11
    identity_of = dict(zip(catalog.table["image"], catalog.table["identity"], strict=True))
    assert {identity_of[image] for image in parts.valid} <= {identity_of[image] for image in parts.train}
    encounter_of = dict(zip(catalog.table["image"], catalog.table["encounter"], strict=True))
    elsewhere = {encounter_of[image] for image in (*parts.train, *parts.test)}
    assert not {encounter_of[image] for image in parts.valid} & elsewhere


def with_twins(valid: bool) -> Catalog:
    """The same, in which 000 of train is 009 of test, and 001 of train, 015 and 016 are 018 of test."""
    table = published(valid).table
    digests = {"000": "one", "009": "one", "001": "two", "015": "two", "018": "two", "016": "two"}
    table["content_digest"] = [digests.get(image, image) for image in table["image"]]
    table["encounter"] = ""
    return build_catalog(table, "published")


@pytest.mark.parametrize("valid", [True, False])
def test_a_published_split_with_test_photos_in_train_is_refused(valid: bool) -> None:
    with pytest.raises(WhalebenchError) as caught:
        propose_split(with_twins(valid))
    said = str(caught.value)
    assert "share photos: 4 of train or valid are in valid or test, too, first" in said
    assert "`whalebench split make published --protocol published --duplicates drop`" in said


@pytest.mark.parametrize("valid", [True, False])
def test_photos_of_several_parts_are_left_out_on_request(tmp_path: Path, valid: bool) -> None:
    """Test keeps all it had, valid all that is not in test; the rest says so and is in no part."""
    catalog = with_twins(valid)
    split = propose_split(catalog, duplicates="drop")
    parts = split.parts(0)
    gone = {"000", "001", "015", "016"}
    assert {image for part in parts for image in part} == set(catalog.table["image"]) - gone
    assert list(parts.test) == catalog.table.loc[catalog.table["split"] == "test", "image"].tolist()
    digest_of = dict(zip(catalog.table["image"], catalog.table["content_digest"], strict=True))
    train, held, test = ({digest_of[image] for image in part} for part in parts)
    assert not (train & held or train & test or held & test)
    assert split.counts["folds"][0]["train"]["photos"] == len(parts.train)
    (said,) = [warning for warning in split.warnings if "are in none" in warning]
    assert said.startswith("4 photos of the published train or valid part are in none, because")
    write_split(split, tmp_path / "split")
    again = read_split(tmp_path / "split", catalog)
    assert (again.folds, again.parts(0), again.warnings) == ((0,), parts, split.warnings)
    assert again.parameters["duplicates"] == "drop"


def test_a_photo_of_train_that_is_in_valid_is_left_out() -> None:
    table = published(valid=True).table.assign(encounter="")
    table["content_digest"] = ["twin" if image in ("000", "015") else image for image in table["image"]]
    parts = propose_split(build_catalog(table, "published"), duplicates="drop").parts(0)
    assert "015" in parts.valid
    assert not any("000" in part for part in parts)


def test_parts_of_an_unknown_fold_are_refused() -> None:
    with pytest.raises(WhalebenchError, match="no fold 7 in this split; choose one of 0, 1, 2"):
        propose_split(small(), folds=3).parts(7)


BAD = {
    "protocol": ({"protocol": "publishd"}, r"no protocol 'publishd' \(did you mean 'published'\?\)"),
    "singles": ({"singles": "drop"}, "no singles 'drop'; choose one of train, new"),
    "one fold": ({"folds": 1}, "cannot have 1 folds"),
    "share": ({"valid_share": 0.9}, r"valid share of 0\.9"),
    "no column": ({"protocol": "published"}, "small has no published split; add a column split"),
    "duplicates": ({"duplicates": "keep"}, "no duplicates 'keep'; choose one of refuse, drop"),
    "nothing to drop": ({"duplicates": "drop"}, "duplicates=drop is for a published split"),
    "too many folds": ({"folds": 40}, r"the \w+ part of fold \d+ is empty; take fewer folds"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused(case: str) -> None:
    arguments, expected = BAD[case]
    with pytest.raises(WhalebenchError, match=expected):
        propose_split(small(), **arguments)  # type: ignore[arg-type]


def test_each_broken_rule_is_found() -> None:
    catalog = small()
    split = propose_split(catalog, folds=3)
    good = {row.image: (row.fold, row.group, row.valid) for row in split.table.itertuples()}
    parts = split.parts(0)
    grouped = split.table.groupby("group")["image"].transform("size")
    twin = next(image for image in split.table.loc[grouped > 1, "image"] if good[image][0] >= 0)
    rare = "w8"  # of one encounter
    broken = {
        "exactly once": {image: good[image] for image in parts.train},
        "its groups are not": good | {parts.test[0]: (0, "other", -1)},
        "is cut in two": good | {twin: ((good[twin][0] + 1) % 3, *good[twin][1:])},
        "test and the valid part of one": {
            image: (fold, group, fold) for image, (fold, group, _) in good.items()
        },
        "other folds than 0, 1, 2": {image: (9, group, -1) for image, (_, group, _) in good.items()},
        "valid part of fold 0 is empty": {
            image: (fold, group, -1) for image, (fold, group, _) in good.items()
        },
        f"{rare} is in the test part": {
            image: (0, group, -1) if rare in identities(catalog, group) else (fold, group, valid)
            for image, (fold, group, valid) in good.items()
        },
    }
    check_split(split.table, catalog, split.protocol, split.parameters)
    for expected, table in broken.items():
        with pytest.raises(WhalebenchError, match=expected):
            check_split(make_table(table), catalog, split.protocol, split.parameters)


def identities(catalog: Catalog, name: str) -> tuple[str, ...]:
    return next(group.identities for group in group_photos(catalog.table) if group.name == name)


def test_a_written_split_is_read_back_and_never_overwritten(tmp_path: Path) -> None:
    catalog, stem = small(), tmp_path / "v1.2" / "split.five"
    split = propose_split(catalog, folds=3)
    write_split(split, stem)
    write_split(split, stem)
    assert sorted(path.name for path in stem.parent.iterdir()) == ["split.five.csv", "split.five.json"]
    read = read_split(stem, catalog)
    pd.testing.assert_frame_equal(read.table, split.table)
    for name in (
        "protocol",
        "parameters",
        "catalog_digest",
        "digest",
        "counts",
        "warnings",
        "catalog_columns",
    ):
        assert getattr(read, name) == getattr(split, name)
    with pytest.raises(WhalebenchError, match="is another split, and a split is made once"):
        write_split(propose_split(catalog, folds=3, seed=1), stem)
    assert read_split(stem, catalog).digest == split.digest


def test_an_edited_split_is_refused(tmp_path: Path) -> None:
    catalog, stem = small(), tmp_path / "split"
    write_split(propose_split(catalog, folds=3), stem)
    file = tmp_path / "split.csv"
    file.write_text(file.read_text().replace(",0,", ",1,", 1))
    with pytest.raises(WhalebenchError, match=r"split\.csv was edited after the split was made"):
        read_split(stem, catalog)
    file.unlink()
    with pytest.raises(WhalebenchError, match=r"split\.csv cannot be read"):
        read_split(stem, catalog)
    (tmp_path / "split.json").write_text(json.dumps({"protocol": "published"}))
    with pytest.raises(WhalebenchError, match="does not say catalog_columns, catalog_digest"):
        read_split(stem, catalog)
    with pytest.raises(WhalebenchError, match="There is no split at"):
        read_split(tmp_path / "none", catalog)


def test_a_changed_catalog_is_refused_with_what_changed(tmp_path: Path) -> None:
    stem = tmp_path / "split"
    write_split(propose_split(small(), folds=3), stem)
    table = rows()
    image = min(table["image"])
    added = pd.concat([table, pd.DataFrame({"image": ["new.jpg"], "path": [""], "identity": ["w1"]})])
    moved = table.assign(encounter="").assign(x0=1.0)
    cases = {
        rf"1 photo removed \({image}\)": table[table["image"] != image],
        r"1 photo added \(new\.jpg\)": added,
        "the same photos with other values of encounter, x0": moved,
    }
    for expected, changed in cases.items():
        with pytest.raises(WhalebenchError, match=expected):
            read_split(stem, build_catalog(changed, "small"))


def test_a_committed_split_lies_beside_the_module() -> None:
    assert committed_stem("no-such-benchmark") is None


def test_a_sidecar_that_was_edited_is_refused_and_an_older_one_without_digest_is_read(tmp_path: Path) -> None:
    catalog = build_catalog(rows(), "small")
    split = propose_split(catalog)
    write_split(split, tmp_path / "split")
    file = tmp_path / "split.json"
    written = json.loads(file.read_text())
    assert written["split_digest"] == split.digest
    for key, value in (
        ("protocol", "published"),
        ("warnings", ["none"]),
        ("counts", {}),
        ("catalog_columns", {}),
        ("tool_version", "9"),
    ):
        file.write_text(json.dumps(written | {key: value}))
        with pytest.raises(WhalebenchError, match=r"split\.json differs from its digest.*restore it"):
            read_split(tmp_path / "split", catalog)
    file.write_text(json.dumps({key: written[key] for key in written if key != "sidecar_digest"}))
    assert read_split(tmp_path / "split", catalog).digest == split.digest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("parameters", {"folds": "many", "singles": "train"}),
        ("parameters", {"folds": 10**15, "singles": "train"}),
        ("parameters", {"folds": 5}),
        ("warnings", "none"),
        ("catalog_columns", {"image": 3}),
    ],
)
def test_a_sidecar_of_other_types_is_damaged(tmp_path: Path, key: str, value: object) -> None:
    catalog = build_catalog(rows(), "small")
    write_split(propose_split(catalog), tmp_path / "split")
    file = tmp_path / "split.json"
    older = json.loads(file.read_text()) | {key: value}
    del older["sidecar_digest"]
    file.write_text(json.dumps(older))
    with pytest.raises(WhalebenchError, match=rf"split\.json is damaged at {key}.*restore it"):
        read_split(tmp_path / "split", catalog)


def test_the_committed_sidecar_has_its_digest() -> None:
    stem = committed_stem("flukes")
    assert stem is not None
    sidecar = json.loads(stem.with_suffix(".json").read_text())
    assert sidecar["sidecar_digest"] and not differs_from_digest(sidecar, "sidecar_digest")
    assert (sidecar["split_digest"][:8], sidecar["catalog_digest"][:8]) == ("e2232d72", "3a3a33d1")


def test_a_sidecar_that_leads_nowhere_is_told_and_its_table_left_alone(tmp_path: Path) -> None:
    split, stem = propose_split(small(), folds=3), tmp_path / "split"
    write_split(split, stem)
    stem.with_suffix(".json").unlink()
    stem.with_suffix(".json").symlink_to("split.json")
    before = stem.with_suffix(".csv").stat()
    with pytest.raises(WhalebenchError, match=r"split\.json"):
        write_split(split, stem)
    assert stem.with_suffix(".csv").stat() == before
