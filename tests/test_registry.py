"""Methods by name, and their configurations: what is refused, and with which sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import ValidationError

from whalebench import WhalebenchError
from whalebench.benchmarks.core.code import read_code
from whalebench.methods import registry
from whalebench.methods.method import Method, Search
from whalebench.methods.registry import (
    configure,
    declared_class,
    file_of,
    find_method,
    method_names,
    modules_of,
    name_of,
)

NAMES = ("arcface", "softmax")
METHOD = "from whalebench.methods.softmax import Softmax\nclass Mine(Softmax):\n    name = 'mine'\n"


def declare(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Installs packages that declare these entry points."""
    found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])


def test_the_methods_of_this_package_are_there() -> None:
    assert set(NAMES) <= set(method_names())
    assert list(method_names()) == sorted(method_names())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_it_is(name: str) -> None:
    method = find_method(name)
    assert issubclass(method, Method)
    assert method.name == name
    assert method.summary
    assert method.source


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_described_and_configurations_are_frozen(name: str) -> None:
    config = find_method(name).Config
    silent = [field for field, info in config.model_fields.items() if not info.description]
    assert silent == []
    with pytest.raises(ValidationError, match="frozen"):
        config().epochs = 3  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="Extra inputs"):
        config(no_such_field=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NAMES)
def test_search_ranges_lie_inside_what_is_allowed(name: str) -> None:
    kind = find_method(name)
    ranges = {
        field: mark
        for field, info in kind.Config.model_fields.items()
        for mark in info.metadata
        if isinstance(mark, Search)
    }
    assert "learning_rate" in ranges
    for field, mark in ranges.items():
        assert mark.low < mark.high
        assert not mark.log or mark.low > 0
        for value in (mark.low, mark.high):
            assert getattr(configure(kind, [f"{field}={value}"]), field) == value


def test_settings_are_read_as_their_types() -> None:
    config = configure(find_method("arcface"), ["epochs=3", "margin=0.5", "pooling=average", "backbone=x=y"])
    values = config.model_dump()
    assert (values["epochs"], values["margin"], values["pooling"], values["backbone"]) == (
        3,
        0.5,
        "average",
        "x=y",
    )
    assert values["scale"] == find_method("arcface").Config().model_dump()["scale"]


def test_sizes_are_height_and_width_or_one_number() -> None:
    kind = find_method("arcface")
    sizes = [configure(kind, [f"size={text}"]).model_dump()["size"] for text in ("80x128", "96", "64X32")]
    assert sizes == [(80, 128), (96, 96), (64, 32)]
    with pytest.raises(WhalebenchError, match=r"size='80by128': write height x width as 80x128"):
        configure(kind, ["size=80by128"])


def test_an_unknown_method_is_answered_with_a_close_one() -> None:
    with pytest.raises(WhalebenchError, match=r"There is no method 'arcfase': did you mean 'arcface'\?"):
        find_method("arcfase")
    with pytest.raises(WhalebenchError, match=r"no method 'zzzzz': there are .*arcface, .*softmax"):
        find_method("zzzzz")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("epoch=3", r"'arcface' has no field 'epoch': did you mean 'epochs'\?"),
        ("zzzz=3", r"'arcface' has no field 'zzzz': there are .*batch_size"),
        ("epochs", r"--set epochs has no value: write key=value"),
        ("=3", r"'arcface' has no field ''"),
        ("epochs=many", r"'arcface' cannot take epochs='many': input should be a valid integer"),
        ("epochs=-1", r"cannot take epochs='-1': input should be greater than or equal to 0"),
        ("epochs=1.5", r"cannot take epochs='1\.5'"),
        ("learning_rate=0", r"cannot take learning_rate='0': input should be greater than 0"),
        ("learning_rate=nan", r"cannot take learning_rate='nan'"),
        ("learning_rate=inf", r"cannot take learning_rate='inf'"),
        ("scale=inf", r"cannot take scale='inf'"),
        ("size=8", r"'arcface' cannot take size.*8"),
        ("size=96x8", r"'arcface' cannot take size.*8"),
        ("size=9000", r"'arcface' cannot take size.*9000"),
        ("size=large", r"'arcface' cannot take size='large'"),
        ("size=96x", r"'arcface' cannot take size='96x'"),
        ("size=1x2x3", r"'arcface' cannot take size='1x2x3'"),
        ("augment=wild", r"cannot take augment='wild': input should be 'auto', 'none', .* or 'shuffled'"),
        ("batch_size=1", r"cannot take batch_size='1'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(setting: str, sentence: str) -> None:
    with pytest.raises(WhalebenchError, match=sentence):
        configure(find_method("arcface"), [setting])


def test_an_entry_point_of_the_wrong_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(
        monkeypatch,
        ("path", "pathlib:Path"),
        ("word", "whalebench:__version__"),
        ("gone", "no_such_package:Method"),
        ("empty", "pathlib:NoSuchClass"),
    )
    assert method_names() == ("empty", "gone", "path", "word")
    for name in ("path", "word"):
        with pytest.raises(WhalebenchError, match=rf"Method '{name}' is .*, no Method class"):
            find_method(name)
    for name in ("gone", "empty"):
        with pytest.raises(WhalebenchError, match=rf"Method '{name}' cannot be loaded .*reinstall"):
            find_method(name)


def test_two_packages_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, ("same", "pathlib:Path"), ("same", "pathlib:PurePath"))
    with pytest.raises(WhalebenchError, match=r"Two installed packages declare a method 'same'"):
        find_method("same")
    declare(monkeypatch, ("same", "pathlib:Path"), ("same", "pathlib:Path"))
    assert method_names() == ("same",)
    with pytest.raises(WhalebenchError, match="no Method class"):
        find_method("same")


def test_another_package_adds_a_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(
        "from whalebench.methods.softmax import Softmax\nclass Mine(Softmax):\n    name = 'mine'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    declare(monkeypatch, ("mine", "addon:Mine"))
    assert find_method("mine").name == "mine"


def test_what_packages_declare_is_read_once_and_again_when_one_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    there = registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda group: (asked.append(group), there(group=group))[1])
    monkeypatch.syspath_prepend(tmp_path)
    before = method_names()
    assert method_names() == before and len(asked) == 1
    declared = tmp_path / "late-1.0.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (declared / "entry_points.txt").write_text(f"[{registry.GROUP}]\nlate = late:Late\n")
    os.utime(tmp_path, ns=(tmp_path.stat().st_mtime_ns + 10**9,) * 2)  # where the clock of the disk is slow
    assert set(method_names()) - set(before) == {"late"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A place for a method's file, which is forgotten afterwards."""
    before = dict(registry._files)
    yield tmp_path / "my_method.py"
    registry._files.clear()
    registry._files.update(before)


def test_a_file_is_a_method_under_its_own_name(own: Path) -> None:
    own.write_text(METHOD)
    assert name_of("arcface") == "arcface" and file_of("arcface") is None
    assert name_of(str(own)) == "mine"
    kind = find_method("mine")
    assert name_of(str(own)) == "mine" and find_method("mine") is kind  # loaded once
    assert file_of("mine") == own and "mine" not in method_names()
    assert declared_class("mine") == f"{kind.__module__}:Mine"
    assert "my_method" not in sys.modules  # what it hides is nothing
    own.write_text(METHOD.replace("'mine'", "'ours'"))
    assert name_of(str(own)) == "ours"
    with pytest.raises(WhalebenchError, match="no method 'mine'"):
        find_method("mine")


def test_its_code_is_that_of_the_file_and_of_modules_beside_it(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(own.parent)
    (own.parent / "beside_my_method.py").write_text("MARGIN = 1\n")
    own.write_text(f"import beside_my_method\n{METHOD}")
    kind = find_method(name_of(str(own)))
    config = configure(kind, ())
    assert kind.__module__ in modules_of(find_method("pseudo"), configure(find_method("pseudo"), ["of=mine"]))
    before = read_code(modules_of(kind, config))
    assert {own, own.parent / "beside_my_method.py"} <= set(before.files)
    (own.parent / "beside_my_method.py").write_text("MARGIN = 22\n")
    assert read_code(modules_of(kind, config)).digest != before.digest


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\n1 / 0\n", r"my_method.py cannot be loaded, .* own: ZeroDivisionError: .* \(line 2 of"),
        ("x = (\n", r"cannot be loaded, by an error of its own: SyntaxError: .*line 1\)"),
        ("raise SystemExit(0)\n", r"by an error of its own: SystemExit: 0 \(line 1 of my_method.py\)"),
        ("import no_such_module\n", r"of its own: ModuleNotFoundError: No module named 'no_such"),
        ("from whalebench.methods.softmax import Softmax\n", r"my_method.py defines no Method class"),
        (f"{METHOD}class Other(Mine):\n    name = 'other'\n", r"several methods \(Mine, Other\): leave one"),
        (METHOD.replace("name = 'mine'", "pass"), r"called 'softmax', as an installed one \(whalebench.m"),
        (METHOD.replace("'mine'", "'../mine'"), r"cannot be called '\.\./mine': use letters"),
        (METHOD.replace("'mine'", "None"), r"Mine in .*my_method.py has no name: give the class one"),
        (METHOD + "    summary = 3\n", r"Mine in .*my_method.py has no summary"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_method_is_refused_with_its_reason(own: Path, text: str, sentence: str) -> None:
    own.write_text(text)
    with pytest.raises(WhalebenchError, match=sentence) as refused:
        name_of(str(own))
    assert len(str(refused.value).replace(str(own.parent), "")) <= 300
    assert file_of("mine") is None


def test_two_files_of_one_name_or_method_are_refused(own: Path) -> None:
    own.write_text(METHOD)
    name_of(str(own))
    again = own.parent / "again" / "my_method.py"
    again.parent.mkdir()
    again.write_text(METHOD.replace("'mine'", "'ours'"))
    with pytest.raises(WhalebenchError, match=r"are files of one name: rename one"):
        name_of(str(again))
    twin = own.with_name("twin.py")
    twin.write_text(METHOD)
    with pytest.raises(
        WhalebenchError, match=r"is called 'mine', as .*my_method.py is: give it another name"
    ):
        name_of(str(twin))
    own.unlink()  # it was moved
    assert name_of(str(twin)) == "mine" and file_of("mine") == twin


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match=r"The method .*gone.py cannot be read \(No such file"):
        name_of(str(tmp_path / "gone.py"))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(WhalebenchError, match="is a folder and is not read"):
        name_of(str(tmp_path / "folder.py"))
