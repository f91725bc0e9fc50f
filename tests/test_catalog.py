"""The catalog: its digest, its folder, the check of its photos; and the workspace it lies in."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import (
    absolute_paths,
    build_catalog,
    read_catalog,
    read_facts,
    verify_photos,
    write_catalog,
)
from whalebench.benchmarks.core.files import digest_file, with_digest


def rows(folder: Path, photos: int = 6) -> pd.DataFrame:
    """Rows of a small catalog whose photos are files of text, which the catalog does not mind."""
    table = pd.DataFrame({"image": [f"p{index}.jpg" for index in range(photos)]})
    table["path"] = [f"photos/{image}" for image in table["image"]]
    table["identity"] = ["ann", "bob", "", "ann", "bob", "ann"][:photos]
    table["tip_x"], table["tip_y"] = [1.25] * photos, [float("nan")] * photos
    table["width"], table["height"] = 4, 3
    (folder / "photos").mkdir(exist_ok=True)
    for image in table["image"]:
        (folder / "photos" / image).write_text(f"pixels of {image}")
    table["file_digest"] = [digest_file(folder / path) for path in table["path"]]
    table["content_digest"] = table["file_digest"]
    return table


def as_older(folder: Path) -> None:
    """Makes catalog.json one of before it held digests of files and of itself."""
    facts = read_facts(folder)
    older = {name: facts[name] for name in facts if name not in ("rule", "files", "facts_digest")}
    (folder / "catalog.json").write_text(json.dumps(older))


def test_a_written_catalog_is_read_back_equal(tmp_path: Path) -> None:
    written = write_catalog(rows(tmp_path), tmp_path, "small", "by hand", quarantined=2)
    read = read_catalog(tmp_path)
    pd.testing.assert_frame_equal(read.table, written.table)
    assert read.digest == written.digest
    assert (read.name, read.identities, read.landmark_names) == ("small", ("ann", "bob"), ("tip",))
    assert read.table["path"][0] == str(tmp_path / "photos" / "p0.jpg")
    facts = read_facts(tmp_path)
    expected = {"photos": 6, "individuals": 2, "new_photos": 1, "quarantined": 2, "source": "by hand"}
    assert {name: facts[name] for name in expected} == expected


def test_another_catalog_is_never_replaced(tmp_path: Path) -> None:
    table = rows(tmp_path)
    first = write_catalog(table, tmp_path, "small", "by hand")
    with pytest.raises(WhalebenchError, match="a catalog is never replaced"):
        write_catalog(table[1:], tmp_path, "small", "by hand")
    assert read_catalog(tmp_path).digest == first.digest
    assert write_catalog(table, tmp_path, "small", "elsewhere").digest == first.digest
    assert read_facts(tmp_path)["source"] == "elsewhere"


def test_photos_are_verified_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = write_catalog(rows(tmp_path), tmp_path, "small", "by hand")

    def refuse(*_: object) -> None:
        raise WhalebenchError("cannot be written")

    monkeypatch.setattr("whalebench.benchmarks.core.catalog.write_stamps", refuse)
    verify_photos(catalog, tmp_path)
    (tmp_path / "photos" / "p0.jpg").write_text("other pixels")
    with pytest.raises(WhalebenchError, match=r"1 photo is changed"):
        verify_photos(catalog, tmp_path)


def test_a_moved_workspace_keeps_its_photos(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    digest = write_catalog(rows(before), before, "small", "by hand").digest
    before.rename(after)
    moved = read_catalog(after)
    assert moved.digest == digest
    assert moved.table["path"].str.startswith(str(after)).all()
    verify_photos(moved, after)


def test_the_digest_depends_on_content_and_on_nothing_else(tmp_path: Path) -> None:
    table = rows(tmp_path)
    digest = build_catalog(table, "small", tmp_path).digest
    turned = table.sample(frac=1, random_state=3)[list(table.columns[::-1])]
    assert build_catalog(turned, "other name", Path("/elsewhere")).digest == digest
    assert build_catalog(table.assign(file_digest="other", unknown=1, mask=""), "small").digest == digest
    assert build_catalog(table.assign(tip_x=1.25 + 1e-9, tip_y=float("nan")), "small").digest == digest
    for change in (
        {"identity": "ann"},
        {"tip_x": 1.26},
        {"tip_y": 0.0},
        {"content_digest": "x"},
        {"mask": "m.png"},
        {"split": "train"},
        {"date": "2024"},
    ):
        assert build_catalog(table.assign(**change), "small").digest != digest, change


def test_the_digest_of_a_known_table_never_changes() -> None:
    table = pd.DataFrame({"image": ["b", "a"], "path": ["", ""], "identity": ["Ann", ""], "x0": [0.5, -0.0]})
    expected = "5ca2ad68bec9070d3c3b86e667885db136dd809364d058abd138692e1753f5b7"
    assert build_catalog(table, "golden").digest == expected


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    write_catalog(rows(tmp_path), tmp_path, "small", "by hand")
    file = tmp_path / "catalog.parquet"
    pd.read_parquet(file).assign(identity="eve").to_parquet(file)
    with pytest.raises(WhalebenchError, match=r"catalog.parquet is not the table .* as small"):
        read_catalog(tmp_path)
    as_older(tmp_path)
    with pytest.raises(WhalebenchError, match=r"catalog.parquet is not the table .* as small \(digest"):
        read_catalog(tmp_path)
    file.write_bytes(b"no table")
    with pytest.raises(WhalebenchError, match=r"catalog.parquet cannot be read"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{}", "{"])
def test_a_broken_sidecar_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalog.json").write_text(text)
    with pytest.raises(WhalebenchError, match=r"catalog.json .* import the benchmark again"):
        read_catalog(tmp_path)


def test_an_absent_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match=r"There is no catalog in .*nowhere"):
        read_catalog(tmp_path / "nowhere")


def test_a_catalog_needs_its_columns_and_unique_images(tmp_path: Path) -> None:
    table = rows(tmp_path)
    with pytest.raises(WhalebenchError, match="no column 'identity'"):
        build_catalog(table.drop(columns="identity"), "small")
    with pytest.raises(WhalebenchError, match=r"'p1.jpg' 2 times"):
        build_catalog(pd.concat([table, table.iloc[[1]]]), "small")
    with pytest.raises(WhalebenchError, match=r"p0.jpg of small has no file_digest"):
        write_catalog(table.drop(columns="file_digest"), tmp_path, "small", "by hand")


def test_changed_and_absent_photos_are_named(tmp_path: Path) -> None:
    catalog = write_catalog(rows(tmp_path), tmp_path, "small", "by hand")
    verify_photos(catalog, tmp_path)
    photo = tmp_path / "photos" / "p2.jpg"
    status = photo.stat()
    photo.write_text("pixels of p9.jpg")  # the same size, and below the same time
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "photos" / "p4.jpg").unlink()
    with pytest.raises(WhalebenchError, match=r"1 photo is gone \(p4.jpg\); 1 photo is changed \(p2.jpg\)"):
        verify_photos(catalog, tmp_path)


def test_only_touched_photos_are_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = write_catalog(rows(tmp_path), tmp_path, "small", "by hand")
    verify_photos(catalog, tmp_path)
    hashed: list[str] = []

    def spy(path: Path) -> str:
        hashed.append(path.name)
        return digest_file(path)

    monkeypatch.setattr("whalebench.benchmarks.core.catalog.digest_file", spy)
    verify_photos(catalog, tmp_path)
    assert hashed == []
    os.utime(tmp_path / "photos" / "p3.jpg", ns=(1, 1))
    verify_photos(catalog, tmp_path)
    verify_photos(catalog, tmp_path)
    assert hashed == ["p3.jpg"]
    (tmp_path / "photos.stat.json").write_text("{broken")
    verify_photos(catalog, tmp_path)
    assert len(hashed) == 7
    assert len(json.loads((tmp_path / "photos.stat.json").read_text())) == 6


def masked(folder: Path, **change: str) -> pd.DataFrame:
    """The rows with a mask each, and digests of it as an import gives them."""
    table = rows(folder)
    (folder / "masks").mkdir(exist_ok=True)
    table["mask"] = [f"masks/{image}" for image in table["image"]]
    for path in table["mask"]:
        (folder / path).write_text(f"pixels of {path}")
    table["mask_file_digest"] = [digest_file(folder / path) for path in table["mask"]]
    return table.assign(mask_content_digest=table["mask_file_digest"], **change)


def test_what_masks_show_counts_by_rule_2_and_by_rule_1_only_that_there_are_some(tmp_path: Path) -> None:
    table = masked(tmp_path)
    by_rule_2 = write_catalog(table, tmp_path, "small", "by hand")
    assert (by_rule_2.rule, read_facts(tmp_path)["rule"], read_catalog(tmp_path).rule) == (2, 2, 2)
    assert build_catalog(table.assign(mask_content_digest="other"), "small").digest != by_rule_2.digest
    assert build_catalog(table.assign(mask_file_digest="other"), "small").digest == by_rule_2.digest
    by_rule_1 = build_catalog(table.drop(columns="mask_content_digest"), "small")
    plain = build_catalog(table.drop(columns=["mask_content_digest", "mask_file_digest"]), "small")
    assert (by_rule_1.rule, by_rule_1.digest) == (1, plain.digest) and plain.digest != by_rule_2.digest


def test_a_digest_by_a_rule_that_is_not_known_yet_is_refused(tmp_path: Path) -> None:
    write_catalog(rows(tmp_path), tmp_path, "small", "by hand")
    facts = with_digest(read_facts(tmp_path) | {"rule": 3}, "facts_digest")
    (tmp_path / "catalog.json").write_text(json.dumps(facts))
    with pytest.raises(WhalebenchError, match="by rule 3, this whalebench knows rules up to 2; install"):
        read_catalog(tmp_path)


def test_changed_and_absent_masks_are_named(tmp_path: Path) -> None:
    catalog = write_catalog(masked(tmp_path), tmp_path, "small", "by hand")
    verify_photos(catalog, tmp_path)
    (tmp_path / "masks" / "p1.jpg").write_text("pixels of masks/p9.jpg")
    (tmp_path / "masks" / "p3.jpg").unlink()
    words = r"1 photo is gone \(mask of p3.jpg\); 1 photo is changed \(mask of p1.jpg\)"
    with pytest.raises(WhalebenchError, match=words):
        verify_photos(catalog, tmp_path)


@pytest.mark.parametrize("key", ["photos", "source", "dataset", "created", "rule", "files", "facts_digest"])
def test_facts_that_were_changed_are_refused(tmp_path: Path, key: str) -> None:
    write_catalog(rows(tmp_path), tmp_path, "small", "by hand", dataset="NOAARightWhale")
    facts = read_facts(tmp_path)
    changed = {"photos": 7, "files": {}, "rule": 0}.get(key, "other")
    (tmp_path / "catalog.json").write_text(json.dumps(facts | {key: changed}))
    with pytest.raises(WhalebenchError, match=r"catalog\.json differs from its digest.*import"):
        read_facts(tmp_path)


def test_rows_that_exchanged_path_and_digest_are_another_table(tmp_path: Path) -> None:
    """The digest of the catalog leaves both out; that of its file does not."""
    write_catalog(rows(tmp_path), tmp_path, "small", "by hand")
    exchange(tmp_path)
    with pytest.raises(WhalebenchError, match=r"catalog\.parquet is not the table .*differs from its digest"):
        read_catalog(tmp_path)
    as_older(tmp_path)
    verify_photos(read_catalog(tmp_path), tmp_path)  # for `data check` to find, which decodes them


def exchange(folder: Path) -> None:
    """Gives the first two photos of a catalog each other's file."""
    table = pd.read_parquet(folder / "catalog.parquet")
    columns = ["path", "file_digest"]
    table.loc[[0, 1], columns] = table.loc[[1, 0], columns].to_numpy()
    table.to_parquet(folder / "catalog.parquet", index=False)


@pytest.mark.parametrize("folder", ["/a/b", "/", "."])
@pytest.mark.parametrize(
    "path",
    [
        "p.jpg",
        "x/p.jpg",
        "x y/é.JPG",
        "x//p.jpg",
        "./p.jpg",
        "x/./p.jpg",
        "x/",
        "../p.jpg",
        "/p.jpg",
        ".p",
        ".",
    ],
)
def test_paths_are_those_that_pathlib_gives(folder: str, path: str) -> None:
    assert absolute_paths(Path(folder), [path, ""]) == [str(Path(folder) / path), ""]
