"""Where photos come from: folders with links, archives, and archives that are made to do harm."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.catalog import read_catalog, verify_photos
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing import archives
from whalebench.benchmarks.importing.earlier import read_quarantine
from whalebench.benchmarks.importing.importer import import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS
from whalebench.benchmarks.importing.sources import open_source


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


FILES = {
    "set/photos/Ada/1.png": photo(0),
    "set/photos/Ada/2.png": photo(1),
    "set/photos/Ben/1.png": photo(2),
    "set/photos/Grönland/1.png": photo(3),
}
TABLE = "image,path,identity\n" + "".join(
    f"{number},{name.removeprefix('set/')},{name.split('/')[2]}\n" for number, name in enumerate(FILES)
)
KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def pack(place: Path, files: dict[str, bytes]) -> Path:
    """The files in an archive of the kind that its name says."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return place
    mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(place.suffix, "w")
    with tarfile.open(place, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return place


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def nothing_outside(tmp_path: Path) -> Iterator[None]:
    """After the test nothing is new but in the workspace, and no benchmark's folder stands in there."""
    yield
    there = {name for name in everything(tmp_path) if not name.startswith("workspace/cache")}
    assert {name.split("/")[0] for name in there} <= {"workspace", "bad.zip", "bad.tar", "bad.tar.gz"}
    assert not any((tmp_path / "workspace" / "benchmarks").iterdir())
    assert not any((tmp_path / "workspace" / "temporary").glob("*/.new*"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["csv", "folder"])
def test_an_archive_is_imported_as_the_folder_is(
    tmp_path: Path, workspace: Workspace, kind: str, layout: str
) -> None:
    files = {"set/table.csv": TABLE.encode()} if layout == "csv" else {}
    for name, content in (files | FILES).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    expected = import_photos(LAYOUTS[layout], tmp_path / "set", "folder", workspace).catalog
    place = pack(tmp_path / f"set.{kind}", {name: FILES.get(name, b"") for name in ()} | files | FILES)
    made = import_photos(LAYOUTS[layout], place, "archive", workspace).catalog
    folder = workspace.benchmarks / "archive"
    columns = ["identity", "content_digest", "file_digest"]
    assert made.table[columns].to_dict() == expected.table[columns].to_dict()
    assert all(Path(path).is_relative_to(folder / "photos") for path in made.table["path"])
    place.unlink()
    verify_photos(read_catalog(folder), folder)


def test_photos_that_no_row_names_are_not_copied(tmp_path: Path, workspace: Workspace) -> None:
    more = {"set/table.csv": TABLE.encode(), "set/photos/other.png": photo(9)}
    made = import_photos(LAYOUTS["csv"], pack(tmp_path / "a.zip", more | FILES), "mine", workspace)
    copies = [path for path in (workspace.benchmarks / "mine" / "photos").rglob("*") if path.is_file()]
    assert sorted(map(str, copies)) == sorted([*made.catalog.table["path"], *map(str, tables_of(copies))])


def tables_of(copies: list[Path]) -> list[Path]:
    return [path for path in copies if path.suffix == ".csv"]


def member(kind: bytes, name: str = "Ada/3.png", target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


LEADS_OUT = ["../out.png", "a/../../out.png", "/tmp/out.png", "..\\out.png", "C:\\out.png", "C:/out.png"]
CONTROLLED = ["Ada/\x1b[31m.png", "Ada/a\nb.png", "Ada/\u202egnp.png", "Ada/\x07.png"]


@pytest.mark.parametrize("name", [*LEADS_OUT, *CONTROLLED], ids=ascii)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.usefixtures("nothing_outside")
def test_a_name_that_leads_out_or_hides_is_refused(
    tmp_path: Path, workspace: Workspace, name: str, kind: str
) -> None:
    place = pack(tmp_path / f"bad.{kind}", FILES | {name: photo(5)})
    with pytest.raises(WhalebenchError, match=r"leads out of it|no name has") as caught:
        import_photos(LAYOUTS["folder"], place, "mine", workspace)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_of_a_tar_are_left_out(tmp_path: Path, workspace: Workspace, kind: bytes) -> None:
    place = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(place, "a") as archive:
        archive.addfile(member(kind, "set/photos/Ada/3.png"))
    result = import_photos(LAYOUTS["folder"], place, "mine", workspace)
    assert len(result.catalog.table) == len(FILES)
    assert "1 links or devices of a.tar are left out: only files are read." in result.notes


def test_a_link_of_a_zip_is_left_out(tmp_path: Path, workspace: Workspace) -> None:
    place = pack(tmp_path / "a.zip", FILES)
    info = zipfile.ZipInfo("set/photos/Ada/3.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    result = import_photos(LAYOUTS["folder"], place, "mine", workspace)
    assert len(result.catalog.table) == len(FILES)
    assert "1 links or devices of a.zip are left out: only files are read." in result.notes


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("again", ["set/photos/Ada/1.png", "./set//photos/Ada/1.png"])
@pytest.mark.usefixtures("nothing_outside")
def test_a_name_that_is_there_twice_is_refused(
    tmp_path: Path, workspace: Workspace, kind: str, again: str
) -> None:
    place = pack(tmp_path / f"bad.{kind}", FILES)
    if kind == "zip":
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr(again, photo(5))
    else:
        with tarfile.open(place, "a") as archive:
            archive.addfile(member(tarfile.REGTYPE, again, ""))
    with pytest.raises(WhalebenchError, match=r"holds 'set/photos/Ada/1.png' twice"):
        import_photos(LAYOUTS["folder"], place, "mine", workspace)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.usefixtures("nothing_outside")
def test_a_bomb_is_refused_unpacked_by_nobody(
    tmp_path: Path, workspace: Workspace, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE", 1 << 20)
    place = pack(tmp_path / f"bad.{kind}", FILES | {"set/photos/Ada/0.png": b"\0" * 20_000_000})
    monkeypatch.setattr(archives.ArchiveSource, "_copy", lambda *_: pytest.fail("a file was copied"))
    with pytest.raises(WhalebenchError, match=r"would unpack to 20,\d\d\d,\d\d\d bytes, which no archive"):
        import_photos(LAYOUTS["folder"], place, "mine", workspace)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.usefixtures("nothing_outside")
def test_too_many_files_are_refused(
    tmp_path: Path, workspace: Workspace, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MEMBERS", 3)
    with pytest.raises(WhalebenchError, match="would unpack to more than 3 files"):
        import_photos(LAYOUTS["folder"], pack(tmp_path / f"bad.{kind}", FILES), "mine", workspace)


@pytest.mark.usefixtures("nothing_outside")
def test_the_head_of_a_file_in_a_tar_is_bounded(tmp_path: Path, workspace: Workspace) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30
    (tmp_path / "bad.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"a" * 10_240)
    with pytest.raises(WhalebenchError, match=r"cannot be read as an archive \(the head of a file has 8,589"):
        import_photos(LAYOUTS["folder"], tmp_path / "bad.tar", "mine", workspace)


@pytest.mark.usefixtures("nothing_outside")
def test_a_tar_that_leads_back_into_itself_has_an_end(tmp_path: Path, workspace: Workspace) -> None:
    info = tarfile.TarInfo("Ada/1.png")
    info.size = -1024
    (tmp_path / "bad.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 2 + bytes(10_240))
    with pytest.raises(WhalebenchError, match="cannot be read as an archive"):
        import_photos(LAYOUTS["folder"], tmp_path / "bad.tar", "mine", workspace)


@pytest.mark.parametrize("name", ["/etc/hostname", "../../source.png", "photos/../../x.png"])
@pytest.mark.usefixtures("nothing_outside")
def test_a_table_in_an_archive_names_nothing_outside_of_it(
    tmp_path: Path, workspace: Workspace, name: str
) -> None:
    table = f"{TABLE}9,{name},Ada\n".encode()
    place = pack(tmp_path / "bad.zip", {"set/table.csv": table} | FILES)
    with pytest.raises(WhalebenchError, match=r"line 6, column path, .*there is no such file at .*bad\.zip/"):
        import_photos(LAYOUTS["csv"], place, "mine", workspace)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_outside")
def test_an_archive_that_ends_too_early_is_refused(tmp_path: Path, workspace: Workspace, kind: str) -> None:
    place = pack(tmp_path / f"whole.{kind}", FILES)
    content = place.read_bytes()
    place.unlink()
    bad = tmp_path / ("bad.zip" if kind == "zip" else "bad.tar")
    bad.write_bytes(content[: len(content) // 2])
    with pytest.raises(WhalebenchError, match="cannot be read as an archive"):
        import_photos(LAYOUTS["folder"], bad, "mine", workspace)


def test_a_damaged_photo_of_a_zip_is_quarantined(tmp_path: Path, workspace: Workspace) -> None:
    place = tmp_path / "a.zip"
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    content = bytearray(place.read_bytes())
    content[content.index(FILES["set/photos/Ada/2.png"]) + 60] ^= 0xFF
    place.write_bytes(content)
    result = import_photos(LAYOUTS["folder"], place, "mine", workspace)
    assert [photo.image for photo in result.quarantined] == ["set/photos/Ada/2.png"]
    assert "1 files of a.zip are damaged, first set/photos/Ada/2.png." in result.notes
    folder = workspace.benchmarks / "mine"
    assert Path(read_quarantine(folder)[0].path).is_relative_to(folder / "photos")


def test_an_encrypted_zip_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    place = pack(tmp_path / "a.zip", FILES)
    content = bytearray(place.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    place.write_bytes(content)
    with pytest.raises(WhalebenchError, match=r"a\.zip is encrypted; unpack it"):
        import_photos(LAYOUTS["folder"], place, "mine", workspace)


@pytest.mark.parametrize("magic", archives.OTHERS)
def test_other_archives_are_named(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(magic + bytes(400))
    with (
        pytest.raises(WhalebenchError, match=f"is a {archives.OTHERS[magic]} archive, which is not read"),
        open_source(tmp_path / "a.bin"),
    ):
        pass


def test_a_full_disk_is_seen_before_it_is_filled(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whalebench.benchmarks.core.machine.free_disk", lambda folder: 10)
    with pytest.raises(RunFailedError, match=r"Copying the photos of a\.zip needs"):
        import_photos(LAYOUTS["folder"], pack(tmp_path / "a.zip", FILES), "mine", workspace)
    assert not any(workspace.benchmarks.iterdir())


def test_what_systems_leave_in_archives_is_no_photo(tmp_path: Path) -> None:
    names = ["__MACOSX/Ada/._1.png", "Ada/.DS_Store", ".hidden/1.png", "Ada/1.png", "Ben\\2.png"]
    with open_source(pack(tmp_path / "a.tar", dict.fromkeys(names, b"x"))) as source:
        assert source.names() == ("Ada/1.png", "Ben/2.png")
        assert source.read("Ben/2.png") == b"x"
        assert source.path("Ben\\2.png").read_bytes() == b"x"
        assert source.spelled("ada/1.PNG") == "Ada/1.png"


def test_names_in_old_encodings_of_archives_are_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("Grönland/1.png"))
    with open_source(tmp_path / "a.tar") as source:
        assert source.names() == ("Grönland/1.png",)


def test_a_second_import_keeps_what_is_there(tmp_path: Path, workspace: Workspace) -> None:
    first = import_photos(LAYOUTS["folder"], pack(tmp_path / "a.zip", FILES), "mine", workspace).catalog
    before = everything(workspace.benchmarks)
    other = dict.fromkeys(list(FILES)[:2], photo(7)) | {"set/photos/Ben/1.png": photo(8)}
    with pytest.raises(WhalebenchError, match="exists with other content"):
        import_photos(LAYOUTS["folder"], pack(tmp_path / "b.zip", other), "mine", workspace)
    assert everything(workspace.benchmarks) == before
    again = import_photos(LAYOUTS["folder"], pack(tmp_path / "c.tar", FILES), "mine", workspace).catalog
    assert again.digest == first.digest
    verify_photos(again, workspace.benchmarks / "mine")


def test_links_in_a_folder_are_followed_and_have_an_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "Ada").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    for file in ("a/Ada/1.png", "far/2.png"):
        (tmp_path / file).write_bytes(b"x")
    (tmp_path / "a" / "Ben").symlink_to(tmp_path / "far")
    (tmp_path / "a" / "Ada" / "3.png").symlink_to(tmp_path / "far" / "2.png")
    (tmp_path / "a" / "Ada" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "Ada" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "a" / "Ada" / "pipe.png")
    with open_source(tmp_path / "a") as source:
        assert source.names() == ("Ada/1.png", "Ada/3.png", "Ben/2.png")
