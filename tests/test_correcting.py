"""Decisions on photos make a new version of a benchmark; the old one stays, and nothing is half taken."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import build_catalog, read_catalog, read_facts
from whalebench.benchmarks.core.record import write_record, write_run
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.correcting import CORRECTED, correct
from whalebench.benchmarks.decisions import COLUMNS, on_photos, read_decisions, settle
from whalebench.benchmarks.registry import check_content, load_benchmark
from whalebench.tests.conftest import Answer
from whalebench.tests.synthetic_runs import record

LABELS = {
    "a1": "ada",
    "a2": "ada",
    "a3": "ada",
    "b1": "ben",
    "b2": "ben",
    "c1": "cat",
    "q1": "?",
    "q2": "?",
    "n1": "",
}
ENCOUNTERS = {"q1": "e1", "q2": "e1", "a1": "mixed", "b1": "mixed"}
Row = tuple[str, str, str]
"""Photo (an encounter behind @), decision, individual."""


def written(file: Path, *rows: Row, run: str = "") -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened)
        table.writerow(COLUMNS)
        for photo, decision, individual in rows:
            where = ("", photo[1:]) if photo.startswith("@") else (photo, "")
            table.writerow([*where, decision, individual, "0.5", run, "2024-05-31T10:00:00Z"])
    return file


def table() -> pd.DataFrame:
    rows = [{"image": image, "path": "x", "identity": name} for image, name in LABELS.items()]
    rows = [row | {"encounter": ENCOUNTERS.get(row["image"], "")} for row in rows]
    return build_catalog(pd.DataFrame(rows), "ten").table


@pytest.fixture
def labels(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """A function that gives the labels that these decisions change."""

    def change(*rows: Row) -> dict[str, str]:
        file, catalog = written(tmp_path / "decisions.csv", *rows), table()
        settled = settle(file, on_photos(file, read_decisions(file), catalog), catalog)
        names = {image: settled.name_of(image, label) for image, label in LABELS.items()}
        return {image: name for image, name in names.items() if name != LABELS[image]}

    return change


@pytest.mark.parametrize(
    ("rows", "changed"),
    [
        ([("q1", "same", "ada")], {"q1": "ada"}),
        ([("n1", "same", "ada")], {"n1": "ada"}),
        ([("@e1", "same", "ben")], {"q1": "ben", "q2": "ben"}),
        ([("a1", "different", "ada")], {"a1": "?"}),
        ([("a1", "different", "ada"), ("a1", "same", "ben")], {"a1": "ben"}),
        ([("a1", "same", "ben")], {"b1": "ada", "b2": "ada"}),  # the name of more photos stays
        ([("q1", "same", "ben"), ("q1", "same", "cat")], {"q1": "ben", "c1": "ben"}),
        ([("q1", "new", "")], {"q1": "new-1"}),
        ([("q1", "new", ""), ("q2", "new", "")], {"q1": "new-1", "q2": "new-2"}),
        ([("@e1", "new", "")], {"q1": "new-1", "q2": "new-1"}),
        ([("q1", "new", "zoe"), ("q2", "same", "zoe")], {"q1": "zoe", "q2": "zoe"}),
        ([("q1", "new", ""), ("q2", "new", "zoe"), ("q1", "same", "zoe")], {"q1": "zoe", "q2": "zoe"}),
        ([("a1", "new", "zoe")], {"a1": "zoe"}),
        ([("q1", "unsure", "ada"), ("q2", "different", "ben"), ("a1", "same", "ada")], {}),
        ([("a1", "unsure", "ben"), ("b1", "same", "ada")], {"b1": "ada", "b2": "ada"}),
    ],
)  # fmt: skip
def test_what_decisions_come_to(
    labels: Callable[..., dict[str, str]], rows: list[Row], changed: dict[str, str]
) -> None:
    assert labels(*rows) == changed
    assert labels(*reversed(rows)) == changed or "new-2" in changed.values()
    assert labels(*rows, *rows) == changed  # the same said twice


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("q1", "maybe", "ada")], "line 2, column decision, value 'maybe'"),
        ([("", "same", "ada")], "line 2, column photo"),
        ([("q1", "same", "")], "line 2, column individual"),
        ([("q1", "new", "new whale")], "line 2, column individual, value 'new whale'"),
        ([("q1", "same", "ada"), ("q1", "different", "ada")], "line 3, .*line 2 says same ada"),
        ([("q1", "new", "x"), ("q1", "new", "y")], "line 3, .*line 2 says new x"),
        ([("q9", "same", "ada")], "line 2, column photo, value 'q9': .*--photos"),
        ([("@e9", "same", "ada")], "line 2, column encounter, value 'e9'"),
        ([("@mixed", "same", "cat")], "line 2, .*ada and ben"),
        ([("q1", "same", "adda")], "line 2, .*did you mean 'ada'"),
        ([("q1", "new", "ada")], "line 2, .*there is one of that name"),
        # a is b, b is c, and c is not a
        (
            [("q1", "same", "ada"), ("q1", "same", "ben"), ("q2", "same", "ben"), ("q2", "different", "ada")],
            "line 5, q2 is not ada here, but line 4, line 3 and line 2 say that it is ada",
        ),
        ([("a1", "same", "ben"), ("b1", "different", "ada")], "line 3, b1 is not ada here, but line 2 says"),
        ([("q1", "new", ""), ("q1", "same", "ada")], "line 2, q1 is new here, but line 3 says"),
        ([("@e1", "same", "ada"), ("q2", "different", "ada")], "line 3, .*line 2 says"),
        ([("q1", "nope", "a"), ("", "same", "b")], "2 problems, the first in line 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_by_line(
    labels: Callable[..., dict[str, str]], rows: list[Row], said: str
) -> None:
    with pytest.raises(WhalebenchError, match=said) as caught:
        labels(*rows)
    assert len(str(caught.value)) <= 300 + len("decisions.csv") + 100


def test_a_new_version_beside_the_old_one(tiny: Workspace, tmp_path: Path) -> None:
    before = load_benchmark("tiny", tiny, propose=True)
    files = {path: path.read_bytes() for path in (tiny.benchmarks / "tiny").rglob("*") if path.is_file()}
    rows = [
        ("w06e0.png", "same", "whale0"),
        ("w07e0.png", "new", "zoe"),
        ("w01e0.png", "different", "whale1"),
    ]
    decisions = written(tmp_path / "decisions.csv", *rows)
    made = correct("tiny", decisions, tiny, by="Ann")
    assert made.catalog.name == "tiny-2"
    after = load_benchmark("tiny-2", tiny, propose=True)
    check_content(after.catalog)
    changed = after.catalog.table["identity"] != before.catalog.table["identity"]
    assert after.catalog.table[changed].set_index("image")["identity"].to_dict() == {
        "w06e0.png": "whale0", "w07e0.png": "zoe", "w01e0.png": "?",
    }  # fmt: skip
    (said,) = read_facts(tiny.benchmarks / "tiny-2")["derived"][CORRECTED]
    assert (said["from"], said["digest"], said["by"]) == ("tiny", before.catalog.digest, "Ann")
    assert said["decisions"] == "decisions.csv" and len(said["decisions_digest"]) == 64
    assert said["words"] == {"same": 1, "new": 1, "different": 1}
    assert (said["named"], said["unnamed"], said["renamed"], said["new"]) == (2, 1, 0, ["zoe"])
    assert {path: path.read_bytes() for path in files} == files
    assert load_benchmark("tiny", tiny).split.digest == before.split.digest
    again = correct("tiny", decisions, tiny, by="Bob")  # what is there is found
    assert (again.catalog.name, again.change["by"]) == ("tiny-2", "Ann")
    third = correct("tiny-2", written(tmp_path / "more.csv", ("w01e0.png", "same", "whale2")), tiny)
    assert third.catalog.name == "tiny-3"
    assert [one["from"] for one in third.catalog.derived[CORRECTED]] == ["tiny", "tiny-2"]


def test_nothing_is_half_taken(tiny: Workspace, tmp_path: Path) -> None:
    rows = [
        ("w06e0.png", "same", "whale0"),
        ("w07e0.png", "same", "whale1"),
        ("absent.png", "same", "whale0"),
    ]
    with pytest.raises(WhalebenchError, match="line 4"):
        correct("tiny", written(tmp_path / "decisions.csv", *rows), tiny)
    with pytest.raises(WhalebenchError, match="changes nothing"):
        correct("tiny", written(tmp_path / "decisions.csv", ("w00e0.png", "same", "whale0")), tiny)
    one = [(f"w0{n}e0.png", "same", "whale0") for n in range(1, 6)]
    with pytest.raises(WhalebenchError, match="fewer than two individuals"):
        correct("tiny", written(tmp_path / "decisions.csv", *one), tiny)
    with pytest.raises(WhalebenchError, match="no column decision"):
        (tmp_path / "other.csv").write_text("photo,individual\na,b\n")
        correct("tiny", tmp_path / "other.csv", tiny)
    with pytest.raises(WhalebenchError, match="are drawn"):
        correct("flukes", tmp_path / "other.csv", tiny)
    assert [folder.name for folder in tiny.benchmarks.iterdir()] == ["tiny"]


def test_decisions_on_another_benchmark_are_refused(tiny: Workspace, tmp_path: Path) -> None:
    digest = read_facts(tiny.benchmarks / "tiny")["digest"]
    for run, of in (("mine", digest), ("other", "0" * 64)):
        made = record(run, benchmark="tiny", catalog_digest=of)
        write_run(tiny.runs / run, lambda folder, made=made: write_record(folder, made))
    row = ("w06e0.png", "same", "whale0")
    for run, said in (("other", "line 2, column run, value 'other': .*is not tiny as it is now"),
                      ("gone", "line 2, column run, value 'gone': it is not in this workspace")):  # fmt: skip
        with pytest.raises(WhalebenchError, match=said):
            correct("tiny", written(tmp_path / "decisions.csv", row, run=run), tiny)
    assert correct("tiny", written(tmp_path / "decisions.csv", row, run="mine"), tiny).change["runs"] == [
        "mine"
    ]


def test_photos_that_an_archive_brought_are_found_from_the_new_version(
    tiny: Workspace, tmp_path: Path
) -> None:
    import shutil

    from whalebench.benchmarks.importing.importer import import_photos
    from whalebench.benchmarks.importing.layouts import LAYOUTS

    source = tmp_path / "source"
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", source))
    import_photos(LAYOUTS["csv"], packed, "packed", tiny)
    correct("packed", written(tmp_path / "decisions.csv", ("w06e0.png", "same", "whale0")), tiny)
    moved = tmp_path / "elsewhere"
    shutil.move(tiny.root, moved)
    shutil.rmtree(source)
    check_content(read_catalog(moved / "benchmarks" / "packed-2"))


def test_new_photos_join(tiny: Workspace, tmp_path: Path) -> None:
    def more_of(photo: str) -> Path:
        return written(tmp_path / "more.csv", (photo, "same", "whale0"))

    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(inbox / f"{number}.png")
    (inbox / "broken.png").write_bytes(b"no picture")
    names = [(inbox / f"{number}.png").as_posix() for number in range(3)]
    rows = [(names[0], "same", "whale0"), (names[1], "new", "zoe"), ("w06e0.png", "same", "zoe")]
    decisions = written(tmp_path / "decisions.csv", *rows)
    with pytest.raises(WhalebenchError, match=r"2 problems, the first in line 2, column photo, .*--photos"):
        correct("tiny", decisions, tiny)
    made = correct("tiny", decisions, tiny, photos=[inbox])
    assert any("broken.png" in note for note in made.notes)
    named = made.catalog.table.set_index("image")["identity"]
    assert [named[name] for name in (*names, "w06e0.png")] == ["whale0", "zoe", "?", "zoe"]
    assert (made.change["added"], made.change["new"]) == (3, ["zoe"])
    check_content(read_catalog(tiny.benchmarks / "tiny-2"))
    assert load_benchmark("tiny-2", tiny, propose=True).split.counts["not_identified_photos"] == 1
    # The same photos once more are no others; another one by the same name is.
    assert correct("tiny-2", more_of(names[2]), tiny, photos=[inbox]).change["added"] == 0
    listed = f"image,path,identity\nc.png,{names[2]},whale1\nd.png,{names[1]},\n"
    (tmp_path / "listed.csv").write_text(listed)  # a table may name animals itself
    named = correct("tiny", more_of("w06e0.png"), tiny, photos=[tmp_path / "listed.csv"]).catalog.table
    (tmp_path / "again.csv").write_text(f"image,path\nagain.png,{made.catalog.table['path'].iloc[-1]}\n")
    (note,) = correct("tiny", more_of("w06e0.png"), tiny, photos=[tmp_path / "again.csv"]).notes
    assert note.startswith("1 of the new photos have the very pixels of one that tiny has, first again.png")
    assert named.set_index("image")["identity"][["c.png", "d.png"]].tolist() == ["whale1", "?"]
    (tmp_path / "other.csv").write_text(f"image,path\n{names[0]},{names[1]}\n")
    with pytest.raises(WhalebenchError, match="has another photo called"):
        correct("tiny-3", more_of(names[0]), tiny, photos=[tmp_path / "other.csv"])


def test_the_command_says_what_has_changed(
    tiny: Workspace, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    decisions = written(tmp_path / "decisions.csv", ("w06e0.png", "same", "whale0"), ("w07e0.png", "new", ""))
    answer = cli("data", "correct", "tiny", decisions, "--by", "Ann", "--json", "--workspace", tiny.root)
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert (document["name"], document["correction"]["new"]) == ("tiny-2", ["new-1"])
    shown = cli("benchmarks", "tiny-2", "--workspace", tiny.root).out
    for words in ("correction 1", "by Ann", "decisions.csv", "1 same, 1 new", "2 photos named", "new: new-1"):
        assert words in " ".join(shown.split()), words
    refused = cli("data", "correct", "tiny", decisions, "--photos", tmp_path / "no", "--workspace", tiny.root)
    assert refused.code == 2
