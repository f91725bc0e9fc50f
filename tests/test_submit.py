"""A run's answers as competitions take them: each file is held against the rules by a second path, too."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import find_runs, read_predictions, read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.submitting import submit as submitting
from whalebench.benchmarks.submitting.formats import FORMATS, check_sheet, read_sheet
from whalebench.benchmarks.submitting.submit import (
    Answered,
    SubmitRequest,
    make_sheet,
    stored_answers,
    submit,
    threshold_of_share,
)
from whalebench.cli import Competition
from whalebench.tests.synthetic_runs import record

Cli = Callable[..., Any]
RULES = {
    "humpback": (["Image", "Id"], "new_whale"),
    "happywhale": (["image", "predictions"], "new_individual"),
    "right-whale": (["Image"], ""),
}
"""Header and word for *new* as the competitions published them, written down anew."""


# --- the second path: the rules as the competitions state them, on plain cells


def cells_of(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.reader(opened))


def obeys(layout: str, file: Path, images: Sequence[str], whales: Sequence[str]) -> bool:
    """Whether a file is one that Kaggle scores: a row a photo, up to five labels or a probability a whale."""
    header, *rows = cells_of(file)
    fixed, new = RULES[layout]
    if header != (fixed if new else fixed + sorted(whales)):
        return False
    if sorted(row[0] for row in rows) != sorted(images) or any(len(row) != len(header) for row in rows):
        return False
    if new:
        labels = [row[1].split(" ") for row in rows]
        allowed = {*whales, new}
        return all(
            1 <= len(each) <= 5 and len({*each}) == len(each) and {*each} <= allowed for each in labels
        )
    try:
        numbers = [[float(cell) for cell in row[1:]] for row in rows]
    except ValueError:
        return False
    return all(all(0 <= number <= 1 for number in row) and sum(row) > 0 for row in numbers)


def kaggle_map_at_5(file: Path, truth: dict[str, str]) -> float:
    """1 / rank of the label among the first five, 0 where it is not there, over all photos."""
    worth = []
    for image, labels in cells_of(file)[1:]:
        names = labels.split(" ")[:5]
        worth.append(1 / (names.index(truth[image]) + 1) if truth[image] in names else 0.0)
    return sum(worth) / len(worth)


def kaggle_log_loss(file: Path, truth: dict[str, str]) -> float:
    """Rows are divided by their sum, then clipped to [1e-15, 1 - 1e-15]."""
    header, *rows = cells_of(file)
    losses = []
    for row in rows:
        if truth[row[0]] in header:
            numbers = [float(cell) for cell in row[1:]]
            share = numbers[header.index(truth[row[0]]) - 1] / sum(numbers)
            losses.append(-math.log(min(max(share, 1e-15), 1 - 1e-15)))
    return sum(losses) / len(losses)


# --- a real run


@pytest.fixture(scope="module")
def run(shared_tiny: Workspace) -> Path:
    runs = find_runs("softmax", shared_tiny)  # other tests may have made some
    return min(runs, key=lambda folder: read_record(folder).created)


@pytest.fixture
def answered(run: Path) -> Answered:
    return stored_answers(run)


def sample_of(file: Path, layout: str, images: Sequence[str], whales: Sequence[str] = ()) -> Path:
    header, new = RULES[layout]
    rows = [[image, new] if new else [image, *["0.1"] * len(whales)] for image in images]
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([header if new else header + list(whales), *rows])
    return file


@pytest.mark.parametrize("layout", FORMATS)
def test_a_real_run_s_submission_is_what_the_rules_ask_and_scores_what_the_record_says(
    layout: str, run: Path, shared_tiny: Workspace, tmp_path: Path, cli: Cli
) -> None:
    queries, of = read_predictions(run), read_record(run)
    images, whales = queries["image"].tolist(), stored_answers(run).identities
    sample = sample_of(tmp_path / "sample.csv", layout, images[::-1], sorted(whales))
    out = tmp_path / "out.csv"
    done = cli("submit", run.name, "--layout", layout, "--out", out, "--sample", sample, "--json",
               "--workspace", shared_tiny.root)  # fmt: skip
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["run"], said["photos"], said["sample"]) == (run.name, len(images), str(sample))
    assert obeys(layout, out, images, whales)
    assert [cells[0] for cells in cells_of(out)[1:]] == images[::-1]
    new = RULES[layout][1]
    named = queries["truth"].replace("new", new)
    truth = dict(zip(images, named.tolist(), strict=True))
    if new:
        assert kaggle_map_at_5(out, truth) == pytest.approx(of.metrics["map_at_5"], abs=1e-12)
        assert said["new_first"] == (queries["candidate_1"] == "new").mean()
    else:
        assert kaggle_log_loss(out, truth) == pytest.approx(of.metrics["log_loss"], abs=1e-6)
        assert said["new_first"] is None
    checked = cli("submit", run.name, "--layout", layout, "--check", out, "--sample", sample,
                  "--workspace", shared_tiny.root)  # fmt: skip
    assert checked.code == 0, checked.err


def test_layouts_are_those_of_the_command_line_and_of_published_rules() -> None:
    assert tuple(FORMATS) == get_args(Competition)
    for layout, (header, new) in RULES.items():
        form = FORMATS[layout]
        assert ([form.image, form.candidates] if form.candidates else [form.image], form.new) == (header, new)


def test_it_needs_no_torch(run: Path, shared_tiny: Workspace, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom whalebench.cli import main\ntry:\n    main()\nfinally:\n"
        "    print('torch' in sys.modules, 'whalebench.benchmarks.submitting.submit' in sys.modules)"
    )
    words = [
        "submit",
        run.name,
        "--layout",
        "humpback",
        "--out",
        "o.csv",
        "--workspace",
        str(shared_tiny.root),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False True"


# --- mutated files are refused, by both paths

WHALES = ("w_a", "w_b", "w_c", "w_d", "w_e", "w_f")
IMAGES = ("1.jpg", "2.jpg", "3.jpg")
LIST = ["Image,Id", "1.jpg,w_a new_whale w_b w_c w_d", "2.jpg,w_a w_b w_c w_d w_e", "3.jpg,new_whale"]
WIDE = ["Image,w_a,w_b,w_c,w_d,w_e,w_f", *(f"{image},0.5,0,1e-3,0.1,0.1,0.3" for image in IMAGES)]


def checked(layout: str, lines: Sequence[str], tmp_path: Path, *, images: Sequence[str] = IMAGES) -> bool:
    """Whether both paths say that a file is right; the first one raises otherwise, after they agreed."""
    file = tmp_path / "file.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sample = read_sheet(sample_of(tmp_path / "sample.csv", layout, images, WHALES))
    second = obeys(layout, file, images, WHALES)
    try:
        check_sheet(file, read_sheet(file), FORMATS[layout], sample, WHALES)
    except WhalebenchError:
        assert not second
        raise
    assert second
    return True


def test_right_files_are_taken(tmp_path: Path) -> None:
    assert checked("humpback", LIST, tmp_path)
    assert checked("right-whale", WIDE, tmp_path)
    assert checked("right-whale", [WIDE[0], *WIDE[:0:-1]], tmp_path)  # the order of rows does not matter


@pytest.mark.parametrize(
    ("row", "line", "said"),
    [
        (0, "image,Id", "line 1, column 1, value 'image': .* write 'Image'"),
        (0, "Id,Image", "line 1, column 1, value 'Id'"),
        (0, "Image,Id,More", "line 1, column 3, value 'More': .* take it out"),
        (0, "Image", "line 1, column 2, value nothing: .* write 'Id'"),
        (1, "2.jpg,w_a", "line 3, column Image, value '2.jpg': line 2 has this photo, too; keep one"),
        (1, "4.jpg,w_a", "line 2, column Image, value '4.jpg': the sample has no such photo; take"),
        (3, "", "column Image: 1 of the 3 photos of the sample have no row, first '3.jpg'; add one"),
        (2, "2.jpg,w_a w_b w_c w_d w_e w_f", "line 3, column Id, value 'w_a .*': it has 6 names, and 5 are"),
        (2, "2.jpg,w_a w_b w_a", "line 3, column Id, value 'w_a w_b w_a': w_a is there 2 times; name each"),
        (2, "2.jpg,w_a w_z", "line 3, column Id, value 'w_a w_z': w_z is no individual of the run; write"),
        (2, "2.jpg,new_individual", "new_individual is no individual of the run; write .* or new_whale"),
        (2, "2.jpg,w_a  w_b", "line 3, column Id, value 'w_a  w_b': a name is empty; write one to five"),
        (2, "2.jpg,", "line 3, column Id, value '': a name is empty"),
        (2, "2.jpg", "line 3, 1 cells where the header has 2; give each column one cell"),
        (2, "2.jpg,w_a,w_b", "line 3, 3 cells where the header has 2"),
    ],
)  # fmt: skip
def test_a_mutated_list_is_refused(row: int, line: str, said: str, tmp_path: Path) -> None:
    lines = [line if place == row else there for place, there in enumerate(LIST)]
    with pytest.raises(WhalebenchError, match=said):
        checked("humpback", [line for line in lines if line], tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1e-3", "1.5", "line 3, column w_c, value '1.5': it is no probability; write a number from 0 to 1"),
        ("1e-3", "-0.1", "line 3, column w_c, value '-0.1': it is no probability"),
        ("1e-3", "nan", "line 3, column w_c, value 'nan': it is no probability"),
        ("1e-3", "", "line 3, column w_c, value '': it is no probability"),
        (
            "0.5,0,1e-3,0.1,0.1,0.3",
            "0,0,0,0,0,0.0",
            "value '2.jpg': its probabilities are all 0, and the row",
        ),
        (",0.3", "", "line 3, 6 cells where the header has 7"),
    ],
)
def test_mutated_probabilities_are_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    lines = [*WIDE[:2], WIDE[2].replace(old, new), *WIDE[3:]]
    with pytest.raises(WhalebenchError, match=said):
        checked("right-whale", lines, tmp_path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Image,w_b,w_a,w_c,w_d,w_e,w_f", "line 1, column 2, value 'w_b': .*, in their order; write 'w_a'"),
        ("Image,w_a,w_b,w_c,w_d,w_e,w_z", "line 1, column 7, value 'w_z': .* write 'w_f'"),
    ],
)
def test_whales_stand_in_the_order_of_the_sample(header: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match=said):
        checked("right-whale", [header, *WIDE[1:]], tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Image,Id\n1.jpg,\xff\n", "is no CSV in UTF-8 from line 1 on"),
        (b'Image,Id\n1.jpg,"w_a"x\n', "is no CSV in UTF-8 from line 2 on"),
        (b"Image,Id\n", "has no rows"),
        (b"\xef\xbb\xbfImage,Id\n1.jpg,w_a\n", r"value '\\ufeffImage'"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, said: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file.csv").write_bytes(content)
    done = cli("submit", "--layout", "humpback", "--check", tmp_path / "file.csv")
    assert done.code == 2
    assert said.replace("\\\\", "\\") in done.err
    assert not (Path.cwd() / "workspace").exists()


def test_a_file_is_looked_at_without_a_run_or_a_sample(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "file.csv"
    file.write_text("\n".join(LIST), encoding="utf-8")
    done = cli("submit", "--layout", "humpback", "--check", file)
    assert done.code == 0, done.err
    assert "3 photos, held against its rules." in done.out
    assert "New comes first on 33.3% of them." in done.out


def test_all_that_is_wrong_is_listed(tmp_path: Path) -> None:
    lines = [LIST[0], "1.jpg,w_a w_a", "2.jpg,w_z", "2.jpg,w_a"]
    with pytest.raises(WhalebenchError, match="has 3 problems, the first in line 2") as caught:
        checked("humpback", lines, tmp_path)
    assert [note.split(",")[0] for note in caught.value.__notes__] == ["line 2", "line 3", "line 4"]


# --- what is written


def asked(layout: str = "humpback", **others: Any) -> SubmitRequest:
    return SubmitRequest(layout, "softmax", Path("out.csv"), **others)


def drawn(images: Sequence[str] = IMAGES, whales: Sequence[str] = WHALES, **chosen: float | None) -> Answered:
    """Answers to some photos, which nobody gave."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(len(images), len(whales))).astype(np.float32)
    of = record("drawn", chosen={"new_threshold": 0.5, "temperature": 0.5} | chosen)
    return Answered(of, tuple(images), tuple(whales), scores)


def test_whales_that_train_lacks_get_a_share_and_others_are_left_out(tmp_path: Path) -> None:
    answers = drawn()
    whales = ["w_a", "w_b", "w_c", "w_x", "w_d"]  # the sample's order; w_e and w_f it does not have
    sample = read_sheet(sample_of(tmp_path / "s.csv", "right-whale", IMAGES[:2], whales))
    sheet, notes = make_sheet(asked("right-whale"), answers, sample)
    assert sheet.columns == ("Image", *whales)
    numbers = np.array([row[1:] for row in sheet.rows], np.float64)
    share = 1 / (1000 + 5)  # of a thousand photos in train, and of five whales
    np.testing.assert_allclose(numbers.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(numbers[:, 3], share, rtol=1e-6)
    kept = np.exp(answers.scores[:2, [0, 1, 2, 3]].astype(np.float64) / 0.5)
    expected = kept / kept.sum(axis=1, keepdims=True) * (1 - share)
    np.testing.assert_allclose(numbers[:, [0, 1, 2, 4]], expected, rtol=1e-6)
    assert [note.split(":")[0] for note in notes] == [
        "1 more answers are left out",
        "1 of the 5 individuals are not in the run's train, as w_x",
        "2 individuals of the run are left out",
    ]


def test_what_is_left_of_a_row_may_be_nothing(tmp_path: Path) -> None:
    answers = drawn()
    answers.scores[0, 5] = 1e6
    sample = read_sheet(sample_of(tmp_path / "s.csv", "right-whale", IMAGES[:1], WHALES[:4]))
    assert make_sheet(asked("right-whale"), answers, sample)[0].rows == [["1.jpg", *["0.25"] * 4]]


def test_a_run_of_other_whales_is_refused(tmp_path: Path) -> None:
    sample = read_sheet(sample_of(tmp_path / "s.csv", "right-whale", IMAGES, ["whale_00195"]))
    with pytest.raises(WhalebenchError, match="knows none of the sample's 1 individuals: name a run"):
        make_sheet(asked("right-whale"), drawn(), sample)


def test_nothing_is_written_where_an_answer_is_missing(
    run: Path, shared_tiny: Workspace, tmp_path: Path, cli: Cli
) -> None:
    images = [*read_predictions(run)["image"], "unseen.jpg"]
    sample = sample_of(tmp_path / "sample.csv", "happywhale", images)
    out = tmp_path / "out.csv"
    out.write_text("before", encoding="utf-8")
    done = cli("submit", run.name, "--layout", "happywhale", "--out", out, "--sample", sample,
               "--workspace", shared_tiny.root)  # fmt: skip
    assert done.code == 2
    assert (
        f"no answer to 1 of the sample's {len(images)} photos, first 'unseen.jpg': give the folder"
        in done.err
    )
    assert out.read_text(encoding="utf-8") == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.csv", "sample.csv"]


def test_a_sample_of_another_competition_is_refused(
    run: Path, shared_tiny: Workspace, tmp_path: Path
) -> None:
    sample = sample_of(tmp_path / "sample.csv", "happywhale", ["1.jpg"])
    request = SubmitRequest("humpback", run.name, tmp_path / "out.csv", sample=sample)
    with pytest.raises(WhalebenchError, match=r"sample.csv, line 1, column 1, value 'image'"):
        submit(request, shared_tiny)


def test_photos_are_called_as_their_files_are() -> None:
    sheet, _ = make_sheet(asked(), drawn(["a/1.jpg", "b/2.jpg"]), None)
    assert [row[0] for row in sheet.rows] == ["1.jpg", "2.jpg"]
    with pytest.raises(WhalebenchError, match=r"a/1.jpg and b/1.jpg have one file name.*rename one"):
        make_sheet(asked(), drawn(["a/1.jpg", "b/1.jpg"]), None)


@pytest.mark.parametrize("name", ["Old Ben", "new_whale", " w_a"])
def test_names_that_a_list_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(WhalebenchError, match=f"The individual '{name}' cannot be named in humpback.*rename"):
        make_sheet(asked(), drawn(whales=("w_a", name)), None)
    if " " in name:
        make_sheet(asked("right-whale"), drawn(whales=("w_a", name)), None)


def test_names_that_a_spreadsheet_would_compute_stand_as_they_are(tmp_path: Path) -> None:
    """An apostrophe would make them other names than the competition's."""
    sheet, notes = make_sheet(asked(), drawn(["=1.jpg", "2,2.jpg"], ["w_a", "-b"]), None)
    (tmp_path / "out.csv").write_text(sheet.text(), encoding="utf-8")
    assert [row[0] for row in cells_of(tmp_path / "out.csv")[1:]] == ["=1.jpg", "2,2.jpg"]
    begin = 1 + sum(row[1].startswith("-b") for row in sheet.rows)
    assert notes == (
        f"{begin} names begin as formulas do and stand as they are: mind that in a spreadsheet.",
    )


def test_there_are_fewer_candidates_where_fewer_are_known() -> None:
    sheet, _ = make_sheet(asked(), drawn(whales=("w_a", "w_b")), None)
    assert {tuple(sorted(row[1].split(" "))) for row in sheet.rows} == {("new_whale", "w_a", "w_b")}


# --- rules for new


def test_the_threshold_of_new_may_be_given_or_left_to_a_share() -> None:
    answers = drawn([f"{number}.jpg" for number in range(40)])

    def first(**others: Any) -> int:
        rows = make_sheet(asked(**others), answers, None)[0].rows
        return sum(row[1].startswith("new_whale ") for row in rows)

    best = answers.scores.max(axis=1)
    assert first() == (best < 0.5).sum()  # as chosen on valid
    assert first(new_threshold=1.0) == (best < 1.0).sum() != first()
    assert [first(new_first=share) for share in (0, 0.276, 0.5, 1)] == [0, 11, 20, 40]


def test_equal_scores_are_new_together() -> None:
    best = np.array([0.5, 0.5, 0.5, 0.75])
    for share, new in ((0.0, 0), (0.5, 0), (0.75, 3), (0.9, 3), (1.0, 4)):
        assert (best < threshold_of_share(best, share)).sum() == new


def test_new_may_be_put_second() -> None:
    answers = drawn()
    by_score = make_sheet(asked(new_threshold=-9), answers, None)[0].rows
    second = make_sheet(asked(new_threshold=-9, new_rule="second"), answers, None)[0].rows
    assert all("new_whale" not in row[1] for row in by_score)
    assert all(row[1].split(" ")[1] == "new_whale" for row in second)


def test_that_new_has_no_threshold_is_said() -> None:
    sheet, notes = make_sheet(asked(), drawn(new_threshold=None), None)
    assert all("new_whale" not in row[1] for row in sheet.rows)
    assert notes == (
        "new_whale is nowhere: valid had no new photo to choose a threshold by; --new-first SHARE sets one.",
    )
    sheet, notes = make_sheet(asked(new_first=1), drawn(new_threshold=None), None)
    assert notes == ()
    assert all(row[1].startswith("new_whale ") for row in sheet.rows)


@pytest.mark.parametrize(
    ("layout", "others", "said"),
    [
        ("right-whale", {"new_first": 0.1}, "--new-first means nothing to right-whale"),
        ("right-whale", {"new_rule": "second"}, "--new-rule means nothing to right-whale"),
        ("humpbacks", {}, "There is no layout 'humpbacks': choose one of humpback, happywhale, right-whale"),
        (
            "humpback",
            {"photos": (Path("test"),), "then": ("sizes",)},
            "--then and --duplicates take the scores",
        ),
        ("humpback", {"device": "cpu"}, "--device means nothing where no photos are looked at"),
        ("humpback", {"new_first": 1.5}, "--new-first 1.5 is no share: give 0 to 1"),
        ("humpback", {"new_threshold": math.nan}, "--new-threshold nan is no score"),
        ("humpback", {"new_first": 0.1, "new_threshold": 0.1}, "set the same threshold: give one of them"),
    ],
)
def test_options_that_do_nothing_or_contradict_are_refused(
    layout: str, others: dict[str, Any], said: str
) -> None:
    with pytest.raises(WhalebenchError, match=said):
        asked(layout, **others)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check", "o.csv", "--out", "p.csv"], "is only looked at"),
        (["--check", "o.csv", "--new-first", "0.1"], "is only looked at"),
        (["--check", "o.csv", "--then", "balance"], "is only looked at"),
        (["softmax"], "Name a run and --out FILE"),
        (["--out", "o.csv"], "Name a run and --out FILE"),
        (["softmax", "--out", "o.csv", "--then", "nothing"], "There is no step 'nothing'"),
    ],
)
def test_wrong_use_is_answered_with_a_sentence(
    words: list[str], said: str, shared_tiny: Workspace, cli: Cli
) -> None:
    done = cli("submit", "--layout", "humpback", *words, "--workspace", shared_tiny.root)
    assert done.code == 2
    assert said in done.err


def test_steps_are_those_of_ensembles(run: Path, shared_tiny: Workspace, tmp_path: Path, cli: Cli) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("Id,SubId\ng,whale0 whale1\n", encoding="utf-8")
    out = tmp_path / "out.csv"
    done = cli("submit", run.name, "--layout", "humpback", "--out", out, "--then", "duplicates",
               "--duplicates", groups, "--json", "--workspace", shared_tiny.root)  # fmt: skip
    assert done.code == 0, done.err
    made = shared_tiny.runs / json.loads(done.out)["run"]
    assert read_record(made).members == [run.name]
    rows = [row[1].split(" ") for row in cells_of(out)[1:]]
    expected = read_predictions(made)[[f"candidate_{place}" for place in range(1, 6)]]
    assert rows == expected.replace("new", "new_whale").to_numpy().tolist()


# --- photos that are in no benchmark


def test_photos_may_be_given(run: Path, shared_tiny: Workspace, tmp_path: Path, cli: Cli) -> None:
    queries = read_predictions(run).set_index("image")
    folder, named = tmp_path / "test", queries.index[:4].tolist()
    folder.mkdir()
    for image in named:
        shutil.copy(shared_tiny.root.parent / "source" / "photos" / image, folder)
    (folder / "broken.png").write_bytes(b"no photo")
    sample, out = sample_of(tmp_path / "sample.csv", "happywhale", named[::-1]), tmp_path / "out.csv"
    done = cli("submit", run.name, folder, "--layout", "happywhale", "--out", out, "--sample", sample,
               "--json", "--workspace", shared_tiny.root)  # fmt: skip
    assert done.code == 0, done.err
    assert obeys("happywhale", out, named, stored_answers(run).identities)
    said = queries.loc[named[::-1], [f"candidate_{place}" for place in range(1, 6)]]
    labels = said.replace("new", "new_individual").to_numpy().tolist()
    assert [cells[1].split(" ") for cells in cells_of(out)[1:]] == labels
    assert any("broken.png is left out" in note for note in json.loads(done.out)["notes"])


def test_what_comes_of_answers_is_checked_before_it_is_written(
    run: Path, shared_tiny: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = drawn()
    answers.scores[1, 2] = np.nan
    monkeypatch.setattr(submitting, "_answers", lambda *_: answers)
    request = SubmitRequest("right-whale", run.name, tmp_path / "out.csv")
    with pytest.raises(WhalebenchError, match=r"line 3, column w_a, value 'nan': it is no probability"):
        submit(request, shared_tiny)
    assert not (tmp_path / "out.csv").exists()
