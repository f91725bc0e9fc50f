"""Code identity: an edited method is another one, a comment is no edit, a finished run is found at once."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.core import code, machine
from whalebench.benchmarks.core.code import read_code, what_it_says
from whalebench.benchmarks.core.record import RunRecord, read_runs
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.runner import RunRequest, code_of
from whalebench.methods import registry
from whalebench.methods.registry import configure, find_method, modules_of

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "mean_colour.py"
CALL = (
    "import sys; sys.argv[0] = 'whalebench'; from whalebench.cli import main\n"
    "try:\n    main()\nexcept SystemExit as end:\n"
    "    print(end.code, 'torch' in sys.modules, file=sys.stderr)"
)


def package(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A package of these files, by their names without suffix."""
    (folder / name).mkdir(parents=True)
    for file, text in {"__init__": "", **files}.items():
        place = folder / name / f"{file}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    return folder / name


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with the method `mean-colour`, whose bins a module of its own says; another one beside it."""
    text = EXAMPLE.read_text()
    score = "        from . import deeper\n\n        distances: NDArray[np.float32] = deeper.SIGN * "
    text = text.replace("        distances: NDArray[np.float32] = ", score)
    assert "deeper.SIGN" in text
    folder = package(tmp_path, "plug", {"method": text, "deeper": "from plug.inner.most import SIGN\n"})
    package(folder, "inner", {"most": "SIGN = 1.0\n"})
    package(tmp_path, "bystander", {"other": "X = 1\n"})
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint("mean-colour", "plug.method:MeanColour", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    yield folder
    forget()


def forget() -> None:
    """Modules of the plug-in are imported anew the next time, as in another process."""
    for name in [name for name in sys.modules if name.split(".")[0] == "plug"]:
        del sys.modules[name]


def run(workspace: Workspace) -> RunRecord:
    forget()
    return runner.run(RunRequest("mean-colour", "tiny", device="cpu"), workspace)


def rewrite(file: Path, before: str, after: str) -> None:
    """Edits a file, whose times say so even where the clock of the disk is slow."""
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    os.utime(file, ns=(file.stat().st_mtime_ns + 10**9,) * 2)


def test_an_edited_constant_is_another_run_and_a_comment_is_not(tiny: Workspace, plugin: Path) -> None:
    """The constant is two imports away from the method, the first of them in a function and relative."""
    first = run(tiny)
    assert len(first.code_digest) == 64
    rewrite(plugin.parent / "bystander" / "other.py", "X = 1", "X = 2  # of another package")
    assert run(tiny).created == first.created
    rewrite(plugin / "inner" / "most.py", "SIGN = 1.0", "# A remark.\nSIGN = 1.0  # another")
    assert run(tiny) == first
    rewrite(plugin / "inner" / "most.py", "SIGN = 1.0", "SIGN = -1.0")
    other = run(tiny)
    assert other.run != first.run
    assert other.code_digest != first.code_digest
    assert other.metrics["top_1"] < first.metrics["top_1"]  # type: ignore[operator]
    assert read_runs(tiny.runs).records == sorted([first, other], key=lambda record: record.run)
    rewrite(plugin / "inner" / "most.py", "SIGN = -1.0", "SIGN = 1.0")
    assert run(tiny) == first


def test_a_run_moved_to_other_code_by_its_declaration_is_another(
    tiny: Workspace, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tiny)
    (plugin / "again.py").write_text(
        (plugin / "method.py").read_text().replace("mean histogram", "histogram")
    )
    points = [EntryPoint("mean-colour", "plug.again:MeanColour", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert run(tiny).run != first.run


def test_what_code_says_is_neither_comment_nor_docstring_nor_layout() -> None:
    plain = "class A:\n    x = 1\n    def f(self, y):\n        return y * 2\n"
    dressed = (
        '"""Module."""\nclass A:\n    """Class."""\n    x = (1)\n    """Of x."""\n\n    def f(self,\n'
        '          y):  # why\n        """Method."""\n        return y*2\n'
    )
    assert what_it_says(ast.parse(plain)) == what_it_says(ast.parse(dressed))
    assert what_it_says(ast.parse(plain)) != what_it_says(ast.parse(plain.replace("2", "3")))
    assert "'kept'" in what_it_says(ast.parse("def f():\n    'gone'\n    return 'kept'"))
    assert what_it_says(ast.parse("class E(Exception):\n    'One.'")) == "class E(Exception):\n    pass"


def test_texts_and_imports_are_found_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = (
        "if a:", "elif b:", "else:", "for c in d:", "else:", "while e:", "else:", "with f:",
        "try:", "except E:", "else:", "finally:", "match g:\n case h:", "class I:", "async def j():",
    )  # fmt: skip
    said = ["kept" if head in ("else:", "finally:") else "gone" for head in blocks]
    lines = [f"{head}\n  '{said[place]}'\n  from plug import m{place}" for place, head in enumerate(blocks)]
    text = "\n".join([*lines, "k = lambda: 'kept'"])
    assert what_it_says(ast.parse(text)).count("'kept'") == 1 + said.count("kept")
    assert "gone" not in what_it_says(ast.parse(text))
    package(tmp_path, "plug", {"a": text, **{f"m{place}": "" for place in range(len(blocks))}})
    monkeypatch.syspath_prepend(tmp_path)
    files = {file.stem for file in read_code(["plug.a"]).files}
    assert files == {"__init__", "a", *(f"m{place}" for place in range(len(blocks)))}


def test_what_a_run_is_made_of_is_what_its_modules_import() -> None:
    names = {file.stem for file in read_code(["whalebench.methods.arcface", runner.__name__]).files}
    assert {"arcface", "runner", "trainer", "margins", "evaluation", "ranking", "store"} <= names
    assert not {"cli", "document", "leaderboard", "triplet", "tuner", "sweep", "suite", "importer"} & names


def test_a_method_of_others_is_made_of_theirs_too() -> None:
    """Those of methods within methods, and those that only a default names."""
    kind = find_method("pseudo")
    config = configure(kind, ["of=ensemble", "of_settings=members=triplet+siamese"])
    modules = {name.rpartition(".")[2] for name in modules_of(kind, config)}
    assert {"pseudo", "ensemble", "triplet", "siamese"} <= modules
    assert "arcface" not in modules
    defaults = {name.rpartition(".")[2] for name in modules_of(kind, configure(kind, ["of=ensemble"]))}
    assert {"ensemble", "aligned", "arcface"} <= defaults
    plain = configure(find_method("triplet"), [])
    assert code_of(find_method("triplet"), plain).digest != code_of(kind, config).digest


def test_packages_of_one_distribution_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "plug_one", {"a": "import plug_two.b\nimport plug_three.c\n"})
    package(tmp_path, "plug_two", {"b": "X = 1\n"})
    package(tmp_path, "plug_three", {"c": "X = 1\n"})
    monkeypatch.syspath_prepend(tmp_path)
    owners = {"plug_one": ["plugs"], "plug_two": ["plugs"], "plug_three": ["elsewhere"]}
    monkeypatch.setattr(code, "packages_distributions", lambda: owners)
    code._installed_together.cache_clear()
    found = {file.relative_to(tmp_path).as_posix() for file in read_code(["plug_one.a"]).files}
    assert found == {"plug_one/__init__.py", "plug_one/a.py", "plug_two/__init__.py", "plug_two/b.py"}
    code._installed_together.cache_clear()


def test_a_package_without_sources_is_known_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "version", lambda name: "1.2.3")
    digest = read_code(["nowhere_to_be_found.method"]).digest
    assert digest.endswith(" and nowhere_to_be_found 1.2.3 without sources")
    monkeypatch.setattr(code, "version", lambda name: "1.2.4")
    assert read_code(["nowhere_to_be_found.method"]).digest.split()[0] != digest.split()[0]


def test_compiled_modules_count_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "plug_c", {"a": "from plug_c import fast\n"})
    compiled = tmp_path / "plug_c" / "fast.cpython-311-x86_64-linux-gnu.so"
    compiled.write_bytes(b"one")
    monkeypatch.syspath_prepend(tmp_path)
    before = read_code(["plug_c.a"])
    assert compiled in before.files
    compiled.write_bytes(b"other")
    assert read_code(["plug_c.a"]).digest != before.digest


def call(workspace: Workspace, *arguments: str) -> tuple[str, float]:
    """What the command says, with its last line of errors, and the processor's seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", CALL, *arguments, "--workspace", str(workspace.root)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return answer.stderr.splitlines()[-1], seconds


def test_a_finished_run_is_found_without_torch(
    shared_tiny: Workspace, tiny_settings: tuple[str, ...]
) -> None:
    """By the processor's time, as the machine may be busy; photos and split are verified all the same."""
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    command = ("run", "softmax", "--benchmark", "tiny", "--device", "cpu", *settings, "--json")
    ends, seconds = zip(*(call(shared_tiny, *command) for _ in range(2)), strict=True)
    assert set(ends) <= {"0 False", "None False"}
    assert min(seconds) < 2.5
    file = shared_tiny.benchmarks / "tiny" / "split.json"
    text = file.read_text()
    file.write_text(text.replace('"seed": 0', '"seed": 1'))
    try:
        assert "split.json differs from its digest" in call_refused(shared_tiny, *command)
    finally:
        file.write_text(text)


def call_refused(workspace: Workspace, *arguments: str) -> str:
    command = [sys.executable, "-c", CALL, *arguments, "--workspace", str(workspace.root)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert answer.stderr.splitlines()[-1].startswith("2 ")
    return answer.stderr


def test_other_weights_in_the_same_file_are_another_request(tiny: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    request = RunRequest("softmax", "tiny", settings=(f"pretrained={file}",))
    before = runner._note_file(request, tiny)
    assert runner._note_file(request, tiny) == before
    file.write_bytes(b"other")
    assert runner._note_file(request, tiny) != before


def test_a_note_is_of_the_devices_there_were(tiny: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    request = RunRequest("softmax", "tiny")
    before = runner._note_file(request, tiny)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert runner._note_file(request, tiny) != before
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(machine, "DEVICES", ("null",))
    assert "/dev/null" in machine.accelerator_signs()
    assert runner._note_file(request, tiny) != before


@pytest.mark.parametrize("spoil", ["", "{}", "[1]", '{"run": 1}'])
def test_a_note_that_cannot_be_read_is_none(
    tiny: Workspace, plugin: Path, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tiny)
    found: Callable[..., RunRecord | None] = runner._noted
    request = RunRequest("mean-colour", "tiny", device="cpu")
    assert found(request, tiny, runner.SILENT) == first
    runner._note_file(request, tiny).write_text(spoil)
    assert found(request, tiny, runner.SILENT) is None
    assert run(tiny) == first


@pytest.mark.parametrize("spoil", ["catalog.parquet", "catalog.json", "split.csv", "split.json"])
def test_a_note_is_of_the_benchmark_as_it_was(
    tiny: Workspace, plugin: Path, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, request = run(tiny), RunRequest("mean-colour", "tiny", device="cpu")
    monkeypatch.setattr(runner, "load_benchmark", None)  # which takes longer, and is not asked
    assert runner._noted(request, tiny, runner.SILENT) == first
    with (tiny.benchmarks / "tiny" / spoil).open("ab") as file:
        file.write(b" ")
    assert runner._noted(request, tiny, runner.SILENT) is None


def test_a_note_does_not_hide_that_a_photo_has_changed(tiny: Workspace, plugin: Path) -> None:
    run(tiny)
    photo = Path(load_benchmark("tiny", tiny).store.paths[0])
    photo.write_bytes(photo.read_bytes() + b" ")
    with pytest.raises(WhalebenchError, match="1 photo is changed"):
        run(tiny)
    photo.unlink()
    with pytest.raises(WhalebenchError, match="1 photo is gone"):
        run(tiny)
