"""Names in old encodings, and outputs that lack letters: a sentence or another sign, never a traceback."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.table import Table

from whalebench import WhalebenchError
from whalebench.benchmarks.core.files import refuse_not_utf8
from whalebench.benchmarks.core.outputs import check_output, write_output
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS
from whalebench.reports import console

Cli = Callable[..., Any]
NAMES = ["Zoë", "Žićć–", "シャチ", "🐋", "×≥…"]
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16", "shift_jis"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="names of files are text elsewhere")
LATIN = os.fsdecode("Grönland".encode("latin-1")) if os.name == "posix" else ""


def printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What is printed from now on, in an encoding that is as strict as Python may be told to be."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding, "strict") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    console.write_in_any_encoding()

    def text() -> str:
        for stream in streams.values():
            stream.flush()
        return "".join(stream.buffer.getvalue().decode(encoding) for stream in streams.values())  # type: ignore[attr-defined]

    return text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_json_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = printed(encoding, monkeypatch)
    document = {"names": NAMES, "odd": "\udcf6\x1b"}
    console.show(document, None, as_json=True)
    assert json.loads(said()) == document


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_and_sentences_are_printed_in_every_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(encoding, monkeypatch)
    table = Table("name", title="Žiga – 1…2")
    for name in [*NAMES, "\udcf6"]:
        table.add_row(name)
    console.show(None, table, as_json=False)
    console.show_problems(NAMES)
    console.show_written(*NAMES)
    said = text()
    if encoding == "ascii":
        assert r"\u017diga - 1...2" in said
        assert {r"Zo\xeb", r"\u017di\u0107\u0107-", r"\U0001f40b", "x>=..."} <= set(
            said.replace("|", " ").split()
        )
    else:
        assert ("Zoë" in said) == (encoding != "shift_jis")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; sys.argv[0] = 'whalebench'; from whalebench.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        env=dict(os.environ) | environment,
    )


OLD = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def test_a_program_in_an_old_locale_prints_its_own_text(tmp_path: Path) -> None:
    done = python("benchmarks", "--workspace", str(tmp_path), **OLD)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"flukes" in done.stdout
    assert done.stdout.isascii()


@POSIX
def test_a_name_that_the_locale_lacks_is_a_sentence(tmp_path: Path) -> None:
    done = python("benchmarks", "--workspace", str(tmp_path / "Grönland"), **OLD)
    assert done.returncode == 2
    said = done.stderr.decode()
    assert "where Python takes names of files to be ascii; set PYTHONUTF8=1 or LC_ALL=C.UTF-8" in said
    assert "Traceback" not in said


@POSIX
@pytest.mark.parametrize(
    "command", [("benchmarks",), ("runs",), ("data", "import", "folder", ".", "--name", "x")]
)
def test_a_workspace_in_latin_1_is_refused_before_anything_is_done(
    tmp_path: Path, cli: Cli, command: tuple[str, ...]
) -> None:
    done = cli(*command, "--workspace", tmp_path / LATIN)
    assert done.code == 2
    assert r"The name of Gr\xf6nland is not UTF-8" in " ".join(done.err.split())
    assert not (tmp_path / LATIN).exists()


@POSIX
def test_a_file_is_written_into_a_folder_in_latin_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LATIN).mkdir()
    file = tmp_path / LATIN / "board.csv"
    write_output(check_output(file), "a")
    assert file.read_text(encoding="utf-8") == "a"
    console.show_written(file)
    console.show({"file": str(file)}, None, as_json=True)
    assert r"Gr\udcf6nland" in capsys.readouterr().out


@POSIX
def test_a_photo_or_a_mask_in_latin_1_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    for name in ("Ada/1.png", f"Ben/{LATIN}.png"):
        (tmp_path / "p" / name).parent.mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "p" / name)
    with pytest.raises(WhalebenchError, match=r"The name of Gr\\xf6nland.png is not UTF-8.*; rename it"):
        import_photos(LAYOUTS["folder"], tmp_path / "p", "mine", Workspace.open(tmp_path / "w"))


def test_names_in_utf_8_are_no_problem() -> None:
    refuse_not_utf8(NAMES)


@pytest.mark.parametrize("encoding", ["cp437", "latin-1"])
def test_names_of_a_zip_in_an_old_encoding_are_found_by_its_table(tmp_path: Path, encoding: str) -> None:
    """As programs write them that say nothing of the encoding, beside a table in UTF-8."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for place, name in enumerate(("Ada", "Gr#nland")):
            buffer.seek(0)
            Image.new("RGB", (9, 9), (place, 0, 0)).save(buffer, "png")
            archive.writestr(f"{name}.png", buffer.getvalue())
        archive.writestr("t.csv", "image,path,identity\n1,Ada.png,Ada\n2,Grönland.png,Ben\n")
    packed = (tmp_path / "a.zip").read_bytes().replace(b"Gr#nland", "Grönland".encode(encoding))
    (tmp_path / "a.zip").write_bytes(packed)
    made = import_photos(LAYOUTS["csv"], tmp_path / "a.zip", "mine", Workspace.open(tmp_path / "w"))
    assert made.catalog.identities == ("Ada", "Ben")
    (note,) = [note for note in made.notes if "do not say their encoding" in note]
    assert note.startswith(
        "1 names of a.zip are not UTF-8 and do not say their encoding, first 'Grönland.png'"
    )
    assert f"read as {encoding}: pack it again" in note
