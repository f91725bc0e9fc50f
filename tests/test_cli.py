"""The front door: exit codes, one JSON document, one sentence for every mistake, and a quick answer."""

from __future__ import annotations

import importlib.metadata
import io
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import whalebench
from whalebench import __version__
from whalebench.benchmarks import overview, presets
from whalebench.benchmarks.core.machine import is_program
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.runner import RunRequest, code_of, run_name
from whalebench.cli import app, commands_of
from whalebench.methods.registry import configure, find_method

Cli = Callable[..., Any]
CALL = "import sys; sys.argv[0] = 'whalebench'; from whalebench.cli import main; "


def sentence(answer: Any, code: int = 2) -> str:
    """What a refused command says: one line on stderr, nothing on stdout, no traceback."""
    assert answer.code == code, answer
    assert answer.out == ""
    lines = [line for line in answer.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1, answer.err
    assert lines[-1] == errors[0]
    assert "Traceback" not in answer.err
    return errors[0]


def python(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photos of two individuals beside a table of them."""
    for index in range(4):
        Image.new("RGB", (40, 30), (60 * index, 9, 9)).save(tmp_path / f"{index}.jpg")
    write(tmp_path, "image,path,identity", ["a,0.jpg,ann", "b,1.jpg,ann", "c,2.jpg,bob", "d,3.jpg,bob"])
    return tmp_path


def write(folder: Path, header: str, rows: list[str]) -> Path:
    (folder / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "table.csv"


def bring(cli: Cli, folder: Path, *more: str) -> Any:
    place = folder / "workspace"
    return cli("data", "import", "csv", folder / "table.csv", "--name", "mine", "--workspace", place, *more)


# --- quick, and without torch


def test_help_is_quick(tmp_path: Path) -> None:
    """Processor time, not time on the clock: the machine may be busy."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = python(CALL + "main()", "--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert answer.returncode == 0
        assert "report" in answer.stdout
    assert min(seconds) < 0.6, "the front door imports something heavy"


IN_TURN = (
    CALL
    + """
import json, io, contextlib
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:], said = arguments, io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            main()
    except SystemExit as end:
        code = end.code or 0
    print(json.dumps([code, said.getvalue(), [*sys.modules]]))
"""
)
"""Calls commands one after the other in a process, and says of each how it ended and what is loaded then."""


def in_turn(commands: list[list[str]], cwd: Path) -> list[tuple[int, str, set[str]]]:
    """Code, stdout and modules loaded so far of each of the commands, called in one process."""
    answer = python(IN_TURN, json.dumps(commands), cwd=cwd)
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(found) == len(commands), answer.stderr
    return [(code, said, set(modules)) for code, said, modules in found]


def test_torch_is_not_imported(tmp_path: Path) -> None:
    commands = [["--help"], ["run", "--help"], ["show", "--help"], ["benchmarks"]]
    for arguments, (code, said, modules) in zip(commands, in_turn(commands, tmp_path), strict=True):
        assert code == 0 and said
        assert "whalebench.cli" in modules
        assert not {"torch", "timm", "torchvision", "lightgbm", "optuna"} & modules
        assert "pandas" not in modules or "--help" not in arguments


DETERMINISTIC = """
import sys
import torch
from whalebench.benchmarks.core.machine import choose_device
def settled():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
def failed():
    try:
        torch.zeros(1).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    except RuntimeError as error:
        return str(error)
choose_device("cpu")
compiler = [name for name in sys.modules if name.startswith(("torch._inductor", "torch._dynamo"))]
found = settled(), failed()
torch.use_deterministic_algorithms(True)
assert found == (settled(), failed()) and "deterministic" in found[1], found
assert not compiler, compiler
"""
"""What torch's own switch does to its kernels, ours has done before, without torch's compiler."""


def test_kernels_are_deterministic_as_by_torchs_own_switch_without_its_compiler(tmp_path: Path) -> None:
    answer = python(DETERMINISTIC, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr


def test_reading_real_runs_is_without_torch(shared_tiny: Workspace, cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "run", "softmax", "--benchmark", "tiny", "--set", "backbone=test_resnet", "--set", "size=32",
        "--set", "epochs=1", "--device", "cpu", "--workspace", shared_tiny.root,
    )  # fmt: skip
    assert done.code == 0, done.err
    commands = ("report", "runs", "show @last", "compare @last softmax", "rescore @last")
    words = [[*each.split(), "--json", "--workspace", str(shared_tiny.root)] for each in commands]
    found = in_turn(words, tmp_path)
    assert {code for code, _, _ in found} <= {0, 2}  # compare: softmax has runs of two settings
    _, _, loaded = found[-1]
    assert "whalebench.benchmarks.core.record" in loaded
    assert "torch" not in loaded
    rows = json.loads(found[0][1])
    assert {"method", "benchmark", "track", "fold", "seed", "run", "metrics"} <= set(rows[0])
    assert {"map_at_5", "map_at_5_low", "map_at_5_high"} <= set(rows[0]["metrics"])


# --- what works


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out.strip() == f"whalebench {__version__}"
    shown = cli("--help")
    assert shown.code == 0
    panels = {
        "Measure": ("run", "sweep", "tune", "lr-find", "ensemble"),
        "Read what came of it": ("report", "runs", "show", "compare", "explain"),
        "Verify and pass on": ("rescore", "bundle", "check", "doctor", "submit"),
        "Ask it of new photos": ("predict", "cluster", "gallery"),
        "Look around": ("methods", "benchmarks", "data", "split"),
    }
    blocks = {block.split(" ─")[0]: block for block in shown.out.split("╭─ ")}
    for title, commands in panels.items():
        lines = [line.split() for line in blocks[title].splitlines() if line.startswith("│")]
        assert [words[1] for words in lines] == [*commands]


def test_a_run_from_end_to_end(tiny: Workspace, cli: Cli) -> None:
    run = ["run", "arcface", "--benchmark", "tiny", "--set", "backbone=test_resnet", "--set", "size=32",
           "--set", "epochs=1", "--device", "cpu", "--workspace", tiny.root]  # fmt: skip
    said = cli(*run)
    assert said.code == 0, said.err
    assert "MAP@5" in said.out
    assert "epoch 1/1" in said.err
    as_json = cli(*run, "--json")
    record = json.loads(as_json.out)
    assert as_json.err.startswith("! tiny was never audited") and as_json.err.count("\n") == 1
    assert record["method"] == "arcface"
    assert {"map_at_5", "top_1", "top_5", "log_loss", "auroc_new", "map_at_r"} <= set(record["metrics"])
    assert set(record["metrics"]) == set(record["valid_metrics"])
    assert (tiny.runs / record["run"] / "record.json").is_file()


def test_photos_come_in_and_are_shown(folder: Path, cli: Cli) -> None:
    first = bring(cli, folder)
    assert first.code == 0, first.err
    assert "whalebench run" in first.out
    document = json.loads(bring(cli, folder, "--json").out)
    assert (document["photos"], document["individuals"], document["quarantined"]) == (4, 2, [])
    place = ("--workspace", folder / "workspace")
    listed = json.loads(cli("benchmarks", "--json", *place).out)
    assert [row["name"] for row in listed] == ["flukes", "mine"]
    assert json.loads(cli("data", "show", "mine", "--json", *place).out)["photos"] == 4
    assert cli("benchmarks", "mine", "--sheet", folder / "sheet.png", *place).code == 0
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.size[0] > 100


def test_folds_are_made_shown_and_verified(tiny: Workspace, cli: Cli) -> None:
    place = ("--workspace", tiny.root)
    made = json.loads(cli("split", "make", "tiny", "--folds", 3, "--json", *place).out)
    shown = json.loads(cli("split", "show", "tiny", "--json", *place).out)
    assert made == shown
    assert {part["fold"] for part in shown["parts"]} == {0, 1, 2}
    verified = json.loads(cli("split", "verify", "tiny", "--json", *place).out)
    assert verified["split_digest"] == shown["digest"]
    assert json.loads(cli("data", "check", "tiny", "--json", *place).out)["split_digest"] == shown["digest"]
    again = sentence(cli("split", "make", "tiny", "--folds", 4, *place))
    assert "a split is made once" in again


JSON_COMMANDS = [
    ["methods"],
    ["methods", "arcface"],
    ["benchmarks"],
    ["benchmarks", "tiny"],
    ["data", "show", "tiny"],
    ["data", "check", "tiny"],
    ["split", "show", "tiny"],
    ["split", "verify", "tiny"],
    ["report"],
    ["runs"],
    ["rescore"],
    ["doctor"],
]


@pytest.mark.parametrize("arguments", JSON_COMMANDS, ids=" ".join)
def test_json_is_one_document_and_nothing_else(
    arguments: list[str], shared_tiny: Workspace, cli: Cli
) -> None:
    place = () if arguments[0] == "methods" else ("--workspace", shared_tiny.root)
    answer = cli(*arguments, "--json", *place)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert answer.err == ""
    shown = cli(*arguments, *place)
    assert shown.code == 0
    assert len(shown.out) > 40


def test_fields_of_a_method_are_explained(cli: Cli) -> None:
    rows = {row["field"]: row for row in json.loads(cli("methods", "arcface", "--json").out)}
    assert rows["margin"]["default"] == 0.3
    assert rows["margin"]["search"] == "0.05 to 0.6"
    assert rows["scale"]["search"].endswith("(log)")
    assert rows["augment"]["type"] == "auto | none | light | steady | heavy | turned | shuffled"
    assert all(row["meaning"] for row in rows.values())


def test_the_workspace_may_come_from_the_environment(
    tiny: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALEBENCH_WORKSPACE", str(tiny.root))
    assert [row["name"] for row in json.loads(cli("benchmarks", "--json").out)] == ["flukes", "tiny"]


def test_a_terminal_sees_a_bar_that_moves() -> None:
    from rich.console import Console

    from whalebench.benchmarks.core.progress import EpochSummary
    from whalebench.reports.console import progress_shown

    screen = io.StringIO()
    with progress_shown(Console(file=screen, force_terminal=True, width=150)) as progress:
        progress.stage("decode")
        progress.advance(3, 7)
        progress.stage("train")
        progress.epoch(EpochSummary(2, 5, 1.25, 0.5, 321.0, 60.0))
    assert all(
        part in screen.getvalue() for part in ("Training", "2/5", "loss 1.250", "MAP@5 0.500", "321 photos/s")
    )


def test_a_file_gets_plain_lines() -> None:
    from rich.console import Console

    from whalebench.benchmarks.core.progress import EpochSummary
    from whalebench.reports.console import progress_shown

    file = io.StringIO()
    with progress_shown(Console(file=file, width=150)) as progress:
        progress.stage("train")
        progress.advance(1, 9)
        progress.epoch(EpochSummary(2, 5, 1.25, float("nan"), 321.0, 60.0))
    assert file.getvalue().splitlines()[0] == "Training"
    assert len(file.getvalue().splitlines()) == 2
    assert "epoch 2/5  loss 1.250" in file.getvalue()


def test_a_missing_library_makes_doctor_fail(
    shared_tiny: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "timm":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    answer = cli("doctor", "--json", "--workspace", shared_tiny.root)
    assert answer.code == 1
    assert [row["what"] for row in json.loads(answer.out) if not row["ok"]] == ["timm"]


# --- what is refused

RUN = ["run", "arcface", "--benchmark", "tiny", "--device", "cpu"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "arcfase"], "There is no method 'arcfase': did you mean 'arcface'?"),
        ([*RUN, "--set", "epoch=3"], "'arcface' has no field 'epoch': did you mean 'epochs'?"),
        (
            [*RUN, "--set", "epochs=many"],
            "'arcface' cannot take epochs='many': input should be a valid integer",
        ),
        ([*RUN, "--set", "epochs"], "--set epochs has no value: write key=value"),
        ([*RUN, "--fold", "9"], "There is no fold 9 in this split; choose one of 0, 1, 2, 3, 4"),
        (["run", "arcface", "--benchmark", "tinny"], "did you mean 'tiny'?"),
        ([*RUN, "--device", "cuda:42"], "device 'cuda:42' is not on this machine: choose one of"),
        ([*RUN, "--seed", "-1"], "seed -1 cannot be"),
        ([*RUN, "--set", "backbone=resnet5O", "--set", "size=32"], "'resnet5O' is not a network of timm"),
        (["methods", "nobody"], "There is no method 'nobody'"),
        (["data", "show", "tinny"], "There is no benchmark 'tinny'"),
        (["split", "make", "tiny", "--protocol", "random"], "There is no protocol 'random'"),
        (["data", "import", "cvs", "table", "--name", "x"], "There is no layout 'cvs'"),
        (["benchmarks", "--sheet", "x.png"], "--sheet needs the name of a benchmark"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_answered_with_a_sentence(
    arguments: list[str], expected: str, shared_tiny: Workspace, cli: Cli
) -> None:
    place = () if arguments[0] == "methods" else ("--workspace", shared_tiny.root)
    assert expected in sentence(cli(*arguments, *place))


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["runn"], "whalebench"),
        (["run"], "whalebench run"),
        (["run", "arcface", "--fold", "x"], "whalebench run"),
        (["report", "--what"], "whalebench report"),
    ],
)
def test_wrong_use_ends_with_2_and_says_where_help_is(arguments: list[str], command: str, cli: Cli) -> None:
    assert sentence(cli(*arguments)).endswith(f" See `{command} --help`.")


def test_nothing_typed_shows_the_help(cli: Cli) -> None:
    for arguments, word in (([], "sweep"), (["data"], "import")):
        answer = cli(*arguments)
        assert answer.code == 2
        assert word in answer.out
        assert answer.err == ""


def test_a_workspace_that_is_no_folder_is_refused(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").write_text("in the way")
    for command in (["run", "arcface"], ["report"], ["benchmarks"], ["doctor"], ["data", "show", "tiny"]):
        said = sentence(cli(*command, "--workspace", tmp_path / "file"))
        assert f"The workspace {tmp_path / 'file'} is no folder" in said
        assert "--workspace" in said


GOOD = ["a,0.jpg,ann", "b,1.jpg,ann", "c,2.jpg,bob", "d,3.jpg,bob"]
BOX = "image,path,identity,x0,y0,x1,y1"
TIP = "image,path,identity,tip_x,tip_y"


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("image,path", ["a,0.jpg"], ["identity"]),
        ("image,path,identity", [*GOOD, "a,3.jpg,bob"], ["image", "'a'", "line 6"]),
        ("image,path,identity", [*GOOD, "e,absent.jpg,bob"], ["path", "absent.jpg", "no such file"]),
        (BOX, ["a,0.jpg,ann,1,1,9,9", "b,1.jpg,bob,1,1,99,9"], ["line 3", "x1", "99"]),
        (BOX, ["a,0.jpg,ann,1,1,9,9", "b,1.jpg,bob,1,1,nine,9"], ["line 3", "x1", "nine"]),
        (TIP, ["a,0.jpg,ann,1,1", "b,1.jpg,bob,NaN,1"], ["line 3", "tip_x", "NaN"]),
        ("image,path,identity", [row.replace("bob", "ann") for row in GOOD], ["one individual", "ann"]),
    ],
    ids=["column", "duplicate", "absent", "outside", "no number", "nan", "one individual"],
)  # fmt: skip
def test_a_bad_table_is_refused(
    folder: Path, cli: Cli, header: str, rows: list[str], words: list[str]
) -> None:
    write(folder, header, rows)
    said = sentence(bring(cli, folder)).lower()
    assert all(word.lower() in said for word in words), said
    assert not list((folder / "workspace" / "benchmarks").glob("*/catalog.json"))


def test_unreadable_photos_are_set_aside_and_named(folder: Path, cli: Cli) -> None:
    (folder / "text.jpg").write_text("not a photo")
    Image.effect_noise((200, 200), 90).convert("RGB").save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:3000])
    write(folder, "image,path,identity", [*GOOD, "t,text.jpg,bob", "u,cut.jpg,ann"])
    document = json.loads(bring(cli, folder, "--json").out)
    assert [photo["image"] for photo in document["quarantined"]] == ["t", "u"]
    assert "not an image" in document["quarantined"][0]["reason"]
    assert "truncated" in document["quarantined"][1]["reason"]
    assert document["photos"] == 4
    shown = bring(cli, folder)
    assert shown.code == 0
    assert "quarantined t" in shown.out


def test_a_table_that_is_not_there_is_refused(tmp_path: Path, cli: Cli) -> None:
    assert "table.csv" in sentence(bring(cli, tmp_path))


def test_debug_shows_where_it_comes_from(shared_tiny: Workspace, cli: Cli) -> None:
    answer = cli("run", "arcfase", "--debug", "--workspace", shared_tiny.root)
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "find_method" in answer.err
    assert "Error: There is no method 'arcfase'" in answer.err


def test_what_nobody_thought_of_is_a_sentence_and_ends_with_1(
    shared_tiny: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whalebench.benchmarks import overview

    def breaks(*args: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(overview, "benchmark_rows", breaks)
    said = sentence(cli("benchmarks", "--workspace", shared_tiny.root), code=1)
    assert "ZeroDivisionError: division by zero" in said
    assert "--debug" in said
    assert "Traceback" in cli("--debug", "benchmarks", "--workspace", shared_tiny.root).err


def test_the_split_that_comes_with_the_package_is_not_made_anew(
    shared_tiny: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whalebench.benchmarks import registry

    monkeypatch.setattr(registry, "committed_stem", Path)
    said = sentence(cli("split", "make", "flukes", "--workspace", shared_tiny.root))
    assert "The split of 'flukes' comes with whalebench" in said
    assert not (shared_tiny.benchmarks / "flukes").exists()


def test_looking_at_a_benchmark_does_not_freeze_its_folds(tiny: Workspace, cli: Cli) -> None:
    for command in (("split", "show"), ("split", "verify"), ("data", "check")):
        assert "split make" in sentence(cli(*command, "tiny", "--workspace", tiny.root))
    made = cli("split", "make", "tiny", "--folds", "3", "--json", "--workspace", tiny.root)
    assert {part["fold"] for part in json.loads(made.out)["parts"]} == {0, 1, 2}
    assert cli("data", "check", "tiny", "--workspace", tiny.root).code == 0


def test_a_published_split_has_no_other_folds(tiny: Workspace, cli: Cli) -> None:
    (source,) = (tiny.root.parent / "source").glob("*.csv")
    rows = source.read_text(encoding="utf-8").splitlines()
    parts = ["split"] + ["test" if number % 6 == 0 else "train" for number in range(len(rows) - 1)]
    source.write_text(
        "\n".join(f"{row},{part}" for row, part in zip(rows, parts, strict=True)), encoding="utf-8"
    )
    place = ("--workspace", tiny.root)
    assert cli("data", "import", "csv", source, "--name", "mine", *place).code == 0
    assert "3 folds cannot be made" in sentence(cli("split", "make", "mine", "--folds", "3", *place))


def test_photos_that_a_published_split_has_twice_are_dropped_on_request(folder: Path, cli: Cli) -> None:
    """The photo of train was saved anew, so that no byte of it is that of test."""
    rng = np.random.default_rng(6)
    for name in "abcde":
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{name}.png")
    with Image.open(folder / "a.png") as photo:
        photo.save(folder / "f.bmp")
    names = {"a.png": "ann,train", "b.png": "ann,train", "c.png": "bob,train", "d.png": "bob,valid"}
    names |= {"e.png": "bob,test", "f.bmp": "ann,test"}
    write(folder, "image,path,identity,split", [f"{name},{name},{rest}" for name, rest in names.items()])
    assert bring(cli, folder).code == 0
    place = ("--workspace", folder / "workspace")
    said = sentence(cli("run", "softmax", "--benchmark", "mine", *place))
    assert "share photos: 1 of train or valid are in valid or test, too, first a.png, which is f.bmp" in said
    command = ("split", "make", "mine", "--protocol", "published")
    assert sentence(cli(*command, *place)) == said
    assert " ".join(command) + " --duplicates drop" in said
    made = cli(*command, "--duplicates", "drop", *place)
    assert made.code == 0
    assert "1 photos of the published train or valid part are in none" in " ".join(made.out.split())


def test_work_that_went_wrong_is_not_wrong_use(
    tiny: Workspace, cli: Cli, tiny_settings: tuple[str, ...]
) -> None:
    settings = [word for setting in (*tiny_settings, "learning_rate=1e30") for word in ("--set", setting)]
    answer = cli(
        "run", "softmax", "--benchmark", "tiny", "--device", "cpu", *settings, "--workspace", tiny.root
    )
    assert answer.code == 1
    assert "Error: " in answer.err
    assert "Traceback" not in answer.err
    assert not list(tiny.runs.iterdir())


# --- small doors


def commands(app: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command, groups included."""
    inner = getattr(app, "commands", {})
    return [words, *(found for name, each in inner.items() for found in commands(each, (*words, name)))]


def test_h_is_help_everywhere(cli: Cli) -> None:
    every = commands(commands_of(app))
    assert len(every) > 20
    for words in every:
        answer = cli(*words, "-h")
        assert answer.code == 0 and "Usage: whalebench" in answer.out, words


def test_python_m_is_the_command(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "whalebench", "methods", "nobody"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (2, "") and said.stderr.startswith("Error: There is no method")
    assert is_program(str(Path(whalebench.__file__).with_name("__main__.py")))
    assert not is_program("/somewhere/pytest/__main__.py") and not is_program(None)


@pytest.fixture
def complete(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What a shell is offered for the last of these words."""

    def offered(*words: str) -> list[str]:
        monkeypatch.setenv("_WHALEBENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["whalebench", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return cli().out.split()

    return offered


def test_a_shell_completes_methods_benchmarks_and_runs(
    shared_tiny: Workspace,
    complete: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    names = sorted(folder.name for folder in shared_tiny.runs.glob("softmax-*"))
    assert complete("run", "arcf") == complete("check", "arcf") == complete("methods", "arcf") == ["arcface"]
    assert complete("sweep", "arcface", "sof") == ["softmax"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for file in ("my_method.py", "mine/other.py", "my.txt", "zebra.py"):
        (tmp_path / file).write_text("")
    assert complete("run", "./m") == ["./mine/", "./my_method.py"]
    assert complete("run", "mine/") == ["mine/other.py"]
    (tmp_path / "mine" / "plan.toml").write_text("")
    assert complete("sweep", "--plan", "mine/") == ["mine/plan.toml"]
    assert complete("compare", "--plan", "s") == ["salt-small"]
    assert complete("show", "soft") == []  # there is no workspace here
    monkeypatch.setenv("WHALEBENCH_WORKSPACE", str(shared_tiny.root))
    assert sorted(complete("show", "soft")) == sorted(complete("compare", names[0], "soft")) == names
    assert complete("explain", "@") == ["@last"]
    assert complete("run", "arcface", "--benchmark", "t") == ["tiny"]
    assert complete("report", "--benchmark", "") == ["flukes", "tiny"]
    assert complete("show", "--workspace", str(tmp_path), "soft") == []


def test_completion_is_quick_and_without_libraries(tmp_path: Path) -> None:
    code = (
        "import os; os.environ |= {'_WHALEBENCH_COMPLETE': 'complete_bash', 'COMP_CWORD': '2',"
        " 'COMP_WORDS': 'whalebench run arc'}\n" + CALL + "\ntry:\n    main()\n"
        "except SystemExit:\n    print(*sys.modules)"
    )
    names, loaded = python(code, cwd=tmp_path).stdout.splitlines()
    assert names == "arcface"
    assert not {"torch", "pandas"} & set(loaded.split())


def test_the_fields_of_a_method_are_a_readable_list(cli: Cli) -> None:
    rows = json.loads(cli("methods", "arcface", "--json").out)
    said = cli("methods", "arcface").out
    shown = [row["field"] for row in rows if f"\n  {row['field']} " in said]
    assert len(shown) == overview.FIRST == 15
    assert {"margin", "loss", "backbone", "size", "epochs", "learning_rate"} <= set(shown)
    assert "localizer.* (" in said and "crop" in said  # what is not shown is named
    assert max(map(len, said.splitlines())) <= 200  # the width of the window
    whole = cli("methods", "arcface", "--all").out
    assert all(f"\n  {row['field']} " in whole for row in rows) and "more, by" not in whole
    some = cli("methods", "arcface", "restart").out
    assert "schedule.cycles" in some and "margin" not in some
    assert [row["field"] for row in json.loads(cli("methods", "arcface", "restart", "--json").out)] == [
        "segmenter.cycles",
        "schedule.cycles",
    ]
    assert "did you mean 'margin'" in sentence(cli("methods", "arcface", "margiin"))
    assert "--all needs the name of a method" in sentence(cli("methods", "--all"))


@pytest.mark.parametrize("method", ["arcface", "humpback-3rd", "frozen", "sift"])
def test_what_presets_choose_is_shown_first(method: str) -> None:
    rows = overview.field_rows(method)
    first = {row["field"] for row in overview.first_fields(method, rows)}
    assert {row["field"] for row in rows} & set(presets.CHOSEN) <= first


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Also where the tests run in the background, where an interrupt is no signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_says_how_the_work_is_taken_up(
    shared_tiny: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "benchmark_rows", interrupt)
    said = cli("benchmarks", "--workspace", shared_tiny.root)
    assert (said.code, said.err) == (
        130,
        "Stopped. Nothing is left half done: give the same command again.\n",
    )
    run = ("run", "softmax", "--benchmark", "tiny", "--device", "cpu", "--seed", "7", "--set", "size=32",
           "--set", "backbone=test_resnet", "--workspace", shared_tiny.root)  # fmt: skip
    kept = []

    def learn(self: Any, train: Any, valid: Any, harness: Any) -> None:
        for file in kept:
            file.parent.mkdir(parents=True)
            file.write_bytes(b"")
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("whalebench.methods.softmax.Softmax.learn", learn)
    said = cli(*run)
    assert (said.code, last_line(said)) == (
        130,
        "Stopped. The same command had kept nothing yet, and begins anew.",
    )
    config = configure(find_method("softmax"), ("size=32", "backbone=test_resnet"))
    request, code = RunRequest("softmax", "tiny", seed=7), code_of(find_method("softmax"), config).digest
    folder = run_name(request, config, load_benchmark("tiny", shared_tiny), "cpu", code)
    kept.append(shared_tiny.cache / "unfinished" / folder / "training-1.pt")
    said = cli(*run)
    assert (said.code, last_line(said)) == (
        130,
        "Stopped. The same command goes on from its last checkpoint.",
    )


def last_line(answer: Any) -> str:
    return str(answer.err.splitlines()[-1])


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("    def sizes(self):\n        return {}['fin']\n",
         "Error: plug failed with KeyError: 'fin' (line 6 of plug.py); --debug shows where."),
        ("    class Config(Softmax.Config):\n        def within(self):\n            raise TypeError('dry')\n",
         "TypeError: dry (line 7 of plug.py). Add --debug to see where, which is the plug-in's own error."),
        ("    def sizes(self):\n        from whalebench import one_line\n        one_line('xx', '1')\n",
         "not supported between instances of 'int' and 'str'; --debug shows where."),
    ],
)  # fmt: skip
def test_a_plug_in_s_own_error_is_told_as_its_own(
    shared_tiny: Workspace, cli: Cli, tmp_path: Path, hook: str, said: str
) -> None:
    text = "from whalebench.methods.softmax import Softmax\n\nclass Plug(Softmax):\n    name = 'plug'\n"
    file = tmp_path / "plug.py"
    file.write_text(text + hook)
    answer = cli("run", file, "--benchmark", "tiny", "--workspace", shared_tiny.root)
    assert answer.code == 1 and said in answer.err and "report it" not in answer.err
    file.unlink()  # else no other method may have its name


@pytest.mark.parametrize(
    ("name", "value", "spins"),
    [("SOME", "", "3000"), ("GOMP_SPINCOUNT", "7", "7"), ("OMP_WAIT_POLICY", "ACTIVE", "None")],
)
def test_threads_that_wait_leave_the_processor_soon_unless_told_how_to_wait(
    name: str, value: str, spins: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(name, value)
    code = CALL + "\nimport os\ntry:\n    main()\nfinally:\n    print(os.environ.get('GOMP_SPINCOUNT'))"
    assert python(code, "--version", cwd=tmp_path).stdout.split()[-1] == spins
