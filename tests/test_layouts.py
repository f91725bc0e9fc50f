"""Layouts of photos: folders of individuals, and tables as people and programs write them."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import read_catalog
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import ImportResult, import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS, LayoutOptions, find_layout
from whalebench.benchmarks.importing.layouts.columns import COLUMNS, layouts_help, read_column_names
from whalebench.benchmarks.importing.sources import open_source
from whalebench.cli import app


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def draw(folder: Path, *names: str) -> Path:
    """The folder with a photo of its own pixels for each name."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


def laid_out(place: Path, layout: str = "folder", **columns: str) -> dict[str, str]:
    """The individual of each image, as a layout reads them."""
    with open_source(place) as source:
        table = LAYOUTS[layout].read(source, LayoutOptions(columns)).table
    return {row["image"]: row["identity"] for row in table.rows}


def imported(place: Path, workspace: Workspace, layout: str = "csv", **columns: str) -> ImportResult:
    options = LayoutOptions(columns)
    return import_photos(LAYOUTS[layout], place, "mine", workspace, options=options)


# --- folders


def test_one_folder_an_individual_with_repeated_file_names(tmp_path: Path, workspace: Workspace) -> None:
    photos = draw(tmp_path / "p", "Ada/1.jpg", "Ada/2024/1.jpg", "Ben/1.jpg", "new_whale/1.JPG", "loose.png")
    (photos / "Ben" / "notes.txt").write_text("no photo")
    result = imported(photos, workspace, "folder")
    rows = result.catalog.table
    assert dict(zip(rows["image"], rows["identity"], strict=True)) == {
        "Ada/1.jpg": "Ada",
        "Ada/2024/1.jpg": "Ada",
        "Ben/1.jpg": "Ben",
        "new_whale/1.JPG": "",
    }
    said = "\n".join(result.notes)
    assert "stand in no individual's folder are left out: 1, first loose.png." in said
    assert "1 row(s) have a word for a *new* animal, 'new_whale' (1)" in said
    assert "count as its own (1 photos, first Ada/2024 as 'Ada')" in said


@pytest.mark.parametrize(("word", "identity"), [("unknown", "?"), ("New_Whale", ""), ("-", "?")])
def test_folders_with_words_for_nobody_are_no_individual(
    tmp_path: Path, workspace: Workspace, word: str, identity: str
) -> None:
    photos = draw(tmp_path / "p", "Ada/1.jpg", "Ben/1.jpg", f"{word}/1.jpg")
    rows = imported(photos, workspace, "folder").catalog.table.set_index("image")
    assert rows.loc[f"{word}/1.jpg", "identity"] == identity


def test_folders_around_all_others_are_passed_over(tmp_path: Path) -> None:
    photos = draw(tmp_path / "p", "a/b/Ada/1.jpg", "a/b/Ben/1.jpg", "a/b/Ben/deep/2.jpg")
    assert list(laid_out(photos).values()) == ["Ada", "Ben", "Ben"]
    draw(photos, "a/loose.jpg")
    assert set(laid_out(photos).values()) == {"a"}


def test_folders_of_a_published_split_are_read(tmp_path: Path, workspace: Workspace) -> None:
    names = ("Train/Ada/1.jpg", "Train/Ben/1.jpg", "val/Ada/2.jpg", "test/Ben/2.jpg")
    rows = imported(draw(tmp_path / "p", *names), workspace, "folder").catalog.table.set_index("image")
    assert rows.loc[list(names), "split"].tolist() == ["train", "train", "valid", "test"]
    assert rows.loc[list(names), "identity"].tolist() == ["Ada", "Ben", "Ada", "Ben"]


def test_a_folder_without_folders_of_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match="has no photo in a folder; put the photos"):
        laid_out(draw(tmp_path / "p", "1.jpg", "2.jpg"))


@pytest.mark.parametrize("layout", ["folder", "wildlife", "camtrap-dp"])
def test_some_layouts_take_no_columns(layout: str, tmp_path: Path, workspace: Workspace) -> None:
    photos = draw(tmp_path / "p", "Ada/1.jpg", "Ben/1.jpg")
    with pytest.raises(WhalebenchError, match=f"{layout} has no columns to be named; leave out --column"):
        imported(photos, workspace, layout, identity="Id")


@pytest.mark.skipif(os.name != "posix", reason="names of files are text elsewhere")
@pytest.mark.parametrize("layout", ["folder", "csv"])
def test_a_name_in_latin_1_is_refused_in_a_sentence(
    tmp_path: Path, workspace: Workspace, layout: str
) -> None:
    folder = tmp_path / os.fsdecode("Grönland".encode("latin-1"))
    draw(folder, "Ada/1.jpg", "Ben/1.jpg")
    (folder / "t.csv").write_text("image,path,identity\n1,Ada/1.jpg,Ada\n2,Ben/1.jpg,Ben\n")
    with pytest.raises(
        WhalebenchError, match=r"The name of Gr\\xf6nland is not UTF-8, .*; rename it"
    ) as caught:
        imported(folder / "t.csv" if layout == "csv" else folder, workspace, layout)
    str(caught.value).encode()
    (tmp_path / "link").symlink_to(folder)
    link = tmp_path / "link"
    made = imported(link / "t.csv" if layout == "csv" else link, workspace, layout)
    assert set(made.catalog.identities) == {"Ada", "Ben"}


def test_an_individual_in_latin_1_is_refused_in_a_sentence(tmp_path: Path, workspace: Workspace) -> None:
    name = os.fsdecode("Zoë".encode("latin-1"))
    photos = draw(tmp_path / "p", "Ada/1.jpg", f"{name}/1.jpg")
    with pytest.raises(WhalebenchError, match=r"The name of Zo\\xeb is not UTF-8"):
        imported(photos, workspace, "folder")


# --- tables


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with photos of three individuals, and a table of them with the catalog's columns."""
    names = [f"photos/{name}_{number}.jpg" for name in ("1", "2", "3") for number in range(2)]
    folder = draw(tmp_path / "p", *names)
    rows = [f"{Path(name).name},{name},{Path(name).name[0]}" for name in names]
    (folder / "t.csv").write_text("image,path,identity\n" + "\n".join(rows) + "\n")
    return folder


def test_columns_may_have_other_names_and_capitals(photos: Path, workspace: Workspace) -> None:
    expected = import_photos(LAYOUTS["csv"], photos / "t.csv", "first", workspace).catalog.digest
    text = (photos / "t.csv").read_text()
    for number, (header, columns) in enumerate(
        {
            "IMAGE,Path,Identity": {},
            "File,PATH,Id": {"image": "File", "identity": "ID"},
            "image,path,whale": {"identity": "whale"},
        }.items()
    ):
        (photos / "u.csv").write_text(text.replace("image,path,identity", header))
        pd.read_csv(photos / "u.csv", dtype="str").to_parquet(photos / "u.parquet")
        for suffix in ("csv", "parquet"):
            made = import_photos(
                LAYOUTS[suffix],
                photos / f"u.{suffix}",
                f"b{number}-{suffix}",
                workspace,
                options=LayoutOptions(columns),
            )
            assert made.catalog.digest == expected


def test_a_table_of_image_and_identity_finds_the_files_by_name(photos: Path, workspace: Workspace) -> None:
    (photos / "train.csv").write_text("Image,Id\n1_0.jpg,w_1\n1_1,w_1\n2_0.jpg,new_whale\n3_0.jpg,w_3\n")
    (photos / "t.csv").unlink()
    for number, place in enumerate((photos / "train.csv", photos)):
        result = import_photos(
            LAYOUTS["csv"],
            place,
            f"b{number}",
            workspace,
            options=LayoutOptions({"image": "Image", "identity": "Id"}),
        )
        assert [Path(path).name for path in result.catalog.table["path"]] == [
            "1_0.jpg",
            "1_1.jpg",
            "2_0.jpg",
            "3_0.jpg",
        ]
        assert "There is no column path: it is taken from the column image." in result.notes


def test_an_image_that_fits_several_files_is_refused(photos: Path, workspace: Workspace) -> None:
    draw(photos, "other/1_0.jpg")
    (photos / "t.csv").write_text("image,identity\n1_0.jpg,a\n2_0.jpg,b\n")
    with pytest.raises(
        WhalebenchError, match=r"several files for the image '1_0.jpg', other/1_0.jpg and photos"
    ):
        imported(photos / "t.csv", workspace)


def test_a_table_within_a_folder_sees_from_where_it_stands(photos: Path, workspace: Workspace) -> None:
    expected = import_photos(LAYOUTS["csv"], photos / "t.csv", "first", workspace).catalog
    (photos.parent / "around").mkdir()
    photos.rename(photos.parent / "around" / "p")
    made = imported(photos.parent / "around", workspace).catalog
    assert made.digest == expected.digest


WRONG = {
    "nothing": ({"image": "Nothing"}, "has no column 'Nothing'; there are image, path, identity"),
    "near": ({"identity": "identty"}, "has no column 'identty'; did you mean 'identity'"),
    "ours": ({"whale": "identity"}, "--column whale: the catalog has no such column; there are image"),
    "both": ({"image": "path", "path": "path"}, "'path' cannot be image and path; give it once"),
}


@pytest.mark.parametrize("case", WRONG)
def test_columns_that_are_not_there_are_refused(photos: Path, workspace: Workspace, case: str) -> None:
    columns, expected = WRONG[case]
    with pytest.raises(WhalebenchError, match=expected):
        imported(photos / "t.csv", workspace, **columns)


def test_a_column_whose_name_goes_to_another_is_said_not_to_be_read(
    photos: Path, workspace: Workspace
) -> None:
    lines = (photos / "t.csv").read_text().splitlines()
    lines = [f"{lines[0]},nick", *(f"{line},n{line[0]}" for line in lines[1:])]
    (photos / "t.csv").write_text("\n".join(lines))
    result = imported(photos / "t.csv", workspace, identity="nick")
    assert result.catalog.identities == ("n1", "n2", "n3")
    assert "The column 'identity (as it was)' is not read." in " ".join(result.notes)


def rewritten(text: str, kind: str) -> bytes:
    match kind:
        case "UTF-16":
            return text.encode("utf-16")
        case "big-endian UTF-16":
            return b"\xfe\xff" + text.encode("utf-16-be")
        case "with a mark":
            return text.encode("utf-8-sig")
        case "names that are no numbers":
            head, *rows = text.splitlines()
            cells = [row.split(",") for row in rows]
            return "\n".join([head, *(f'{a},{b},"=""{c}"""' for a, b, c in cells)]).encode()
        case "the same without quotes":
            head, *rows = text.splitlines()
            return "\n".join([head, *(f'{row[:-1]}="{row[-1]}"' for row in rows)]).encode()
        case "numbers with a gap":
            head, *rows = text.splitlines()
            return "\n".join([head, *(f"{row}.0" for row in rows)]).encode()
        case _:
            head, *rows = text.splitlines()
            frame = pd.DataFrame([row.split(",") for row in rows], columns=head.split(","))
            return frame.to_csv().encode()


@pytest.mark.parametrize(
    "kind",
    [
        "UTF-16",
        "big-endian UTF-16",
        "with a mark",
        "names that are no numbers",
        "the same without quotes",
        "numbers with a gap",
        "an index",
    ],
)
def test_tables_as_programs_write_them(photos: Path, workspace: Workspace, kind: str) -> None:
    expected = import_photos(LAYOUTS["csv"], photos / "t.csv", "first", workspace)
    (photos / "u.csv").write_bytes(rewritten((photos / "t.csv").read_text(), kind))
    made = imported(photos / "u.csv", workspace)
    assert made.catalog.digest == expected.catalog.digest
    changed = {
        "numbers with a gap": "Column identity has whole numbers written as 1.0: read as 1.",
        "names that are no numbers": 'Column identity has texts as formulas, in 6 row(s): ="1" is read as 1.',
        "the same without quotes": 'Column identity has texts as formulas, in 6 row(s): ="1" is read as 1.',
        "an index": "The first column has no name and is not read.",
    }
    assert set(made.notes) - set(expected.notes) == ({changed[kind]} if kind in changed else set())


def test_names_that_are_not_all_numbers_stay(photos: Path, workspace: Workspace) -> None:
    text = (photos / "t.csv").read_text().replace("jpg,1\n", "jpg,1.0\n").replace("jpg,2\n", "jpg,A2\n")
    (photos / "t.csv").write_text(text)
    assert imported(photos / "t.csv", workspace).catalog.identities == ("1.0", "3", "A2")


def test_latin_1_is_read_where_nothing_speaks_against_it(photos: Path, workspace: Workspace) -> None:
    text = (photos / "t.csv").read_text().replace("jpg,1\n", "jpg,Zoë\n")
    (photos / "t.csv").write_bytes(text.encode("latin-1"))
    result = imported(photos / "t.csv", workspace)
    assert result.catalog.identities == ("2", "3", "Zoë")
    assert "The table is not UTF-8 and is read as Latin-1, as 'Zoë'" in result.notes[0]
    (photos / "u.csv").write_bytes(text.replace("Zoë", "Zo\x93").encode("latin-1"))
    with pytest.raises(WhalebenchError, match="and which encoding it has cannot be told; save it"):
        imported(photos / "u.csv", workspace)


def test_a_decimal_comma_is_one_where_semicolons_separate(photos: Path, workspace: Workspace) -> None:
    lines = (photos / "t.csv").read_text().replace(",", ";").splitlines()
    rows = [f"{lines[0]};x0;y0;x1;y1;Tip_X;Tip_Y", *(f"{line};1,5;0;10,25;9;2,5;3" for line in lines[1:])]
    (photos / "t.csv").write_text("\n".join(rows))
    table = imported(photos / "t.csv", workspace).catalog.table
    assert table.loc[0, ["x0", "x1", "Tip_x"]].tolist() == [1.5, 10.25, 2.5]


def test_a_species_is_given_where_none_is_named(photos: Path, workspace: Workspace) -> None:
    lines = (photos / "t.csv").read_text().splitlines()
    lines = [f"{lines[0]},species", f"{lines[1]},right whale", *(f"{line}," for line in lines[2:])]
    (photos / "t.csv").write_text("\n".join(lines))
    options = LayoutOptions(species="humpback")
    table = import_photos(LAYOUTS["csv"], photos / "t.csv", "mine", workspace, options=options).catalog.table
    assert table["species"].tolist() == ["right whale", *["humpback"] * 5]


def test_several_tables_are_named(photos: Path, workspace: Workspace) -> None:
    (photos / "u.csv").write_text("image,path,identity\n")
    with pytest.raises(WhalebenchError, match=r"is a folder with the tables t\.csv, u\.csv; give the path"):
        imported(photos, workspace)
    for name in ("t.csv", "u.csv"):
        (photos / name).unlink()
    with pytest.raises(WhalebenchError, match=r"is a folder with no \.csv, \.tsv or \.parquet; add one"):
        imported(photos, workspace)


# --- what a stranger reads


def test_an_unknown_layout_is_refused_with_the_nearest() -> None:
    with pytest.raises(WhalebenchError, match="no layout 'foldr': did you mean 'folder'"):
        find_layout("foldr")


def test_the_help_and_the_page_show_each_layout_and_column() -> None:
    page = (Path(__file__).parent.parent / "docs" / "your-photos.md").read_text(encoding="utf-8")
    shown = layouts_help()
    for layout in LAYOUTS.values():
        assert f"{layout.name}: {layout.summary}" in shown
        assert f"`{layout.name}`" in page
        for line in layout.example.splitlines():
            assert line.strip() in shown
            assert line.strip() in page
    for column, meaning in COLUMNS.items():
        assert meaning in shown
        assert f"`{column}`" in page


def test_the_command_takes_layouts_and_columns(photos: Path, workspace: Workspace) -> None:
    (photos / "t.csv").write_text((photos / "t.csv").read_text().replace("identity", "Id"))
    place = ["--workspace", str(workspace.root)]
    given = ["data", "import", "csv", str(photos / "t.csv"), "--name", "mine", "--column", "identity=Id"]
    made = CliRunner().invoke(app, [*given, "--species", "humpback", "--json", *place])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["individuals"] == 3
    table = read_catalog(workspace.benchmarks / "mine").table
    assert set(table["species"]) == {"humpback"}
    shown = CliRunner().invoke(app, ["data", "import", "--help"])
    assert layouts_help() in shown.stdout


@pytest.mark.parametrize("text", ["image", "=Id", "image=", "image=a,image=b", ""])
def test_columns_are_given_in_pairs(text: str) -> None:
    with pytest.raises(WhalebenchError, match="write ours and yours as image=Image,identity=Id"):
        read_column_names([text])
