"""The plan of a sweep, typed or from a file, and how the machine is dealt out to it."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from whalebench import WhalebenchError
from whalebench.benchmarks.core.progress import CellState, SweepState
from whalebench.benchmarks.running.workers import divide, share_machine
from whalebench.benchmarks.sweeping.plan import (
    PLANS,
    Contestant,
    Plan,
    contestants_of,
    make_plan,
    whole_numbers,
)
from whalebench.benchmarks.sweeping.sweep import seconds_left
from whalebench.methods.registry import configure, find_method, method_names
from whalebench.reports.console import progress_line, watch_sweep

PAPER = """
benchmark = "whales"
folds = "0-2,4"
seeds = [0, 3]
settings = { epochs = 24, pretrained = "none" }

[[methods]]
name = "arcface"
settings = { margin = 0.4, network = { flip = true } }

[[methods]]
name = "softmax"
"""


def file_of(folder: Path, text: str) -> Path:
    (folder / "plan.toml").write_text(text, encoding="utf-8")
    return folder / "plan.toml"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-4", (0, 1, 2, 3, 4)), ("0,2", (0, 2)), ("3", (3,)), ("4, 0 - 1,1", (4, 0, 1)), ("2-2", (2,))],
)
def test_numbers_and_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert whole_numbers(text, "--folds") == numbers


@pytest.mark.parametrize("text", ["", "4-0", "a", "-1", "0-", "1,,2", "0..4", "1.5", "0-99999", "²"])
def test_what_is_no_number_is_refused_with_its_option(text: str) -> None:
    with pytest.raises(WhalebenchError, match=r"^--seeds '"):
        whole_numbers(text, "--seeds")


def test_an_empty_option_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    assert make_plan((), file_of(tmp_path, PAPER), benchmark="").benchmark == ""  # and then not found
    for option in ("folds", "seeds"):
        with pytest.raises(WhalebenchError, match=f"^--{option} '' cannot be"):
            make_plan((), file_of(tmp_path, PAPER), **{option: ""})  # type: ignore[arg-type]


def test_a_line_that_would_take_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomllib.loads", lambda text: pytest.fail("it was read"))
    with pytest.raises(WhalebenchError, match="is nested more than 10 deep"):
        make_plan((), file_of(tmp_path, f"{'a.' * 1001}a = 1\n"))


def test_a_plan_may_begin_with_the_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_text(PAPER, encoding="utf-8-sig")
    assert make_plan((), tmp_path / "marked.toml") == make_plan((), file_of(tmp_path, PAPER))


def test_a_plan_is_read_from_a_file(tmp_path: Path) -> None:
    found = make_plan((), file_of(tmp_path, PAPER))
    common = ("epochs=24", "pretrained=none")
    assert found == Plan(
        (Contestant("arcface", (*common, "margin=0.4", "network.flip=true")), Contestant("softmax", common)),
        "whales",
        (0, 1, 2, 4),
        (0, 3),
    )


def test_what_is_typed_beside_a_file_wins(tmp_path: Path) -> None:
    file = file_of(tmp_path, PAPER)
    found = make_plan((), file, benchmark="tiny", folds="1", seeds="5-6", settings=("epochs=1",))
    assert (found.benchmark, found.folds, found.seeds) == ("tiny", (1,), (5, 6))
    assert all(one.settings[-1] == "epochs=1" for one in found.contestants)


def test_a_plan_of_ours_is_found_by_its_name_and_one_of_the_users_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for plan in PLANS.glob("*.toml"):
        found = make_plan((), Path(plan.stem), settings=("epochs=4",))
        for one in found.contestants:
            configure(find_method(one.method), one.settings)
    ladder = make_plan((), Path("happywhale-ladder"))
    configs: list[Any] = [configure(find_method(one.method), one.settings) for one in ladder.contestants]
    assert [(c.size[0], c.new_rule, c.bags, c.best) for c in configs[:3]] == [
        (512, "column", 1, 9), (512, "second", 1, 9), (768, "second", 1, 9)
    ]  # fmt: skip
    assert [len(config.members()) for config in configs] == [1, 1, 1, 1, 1, 1, 3]
    assert (ladder.benchmark, configs[-1].bags) == ("happywhale", 5)
    (tmp_path / "happywhale-ladder").write_text(PAPER, encoding="utf-8")
    assert make_plan((), Path("happywhale-ladder")).benchmark == "whales"
    with pytest.raises(WhalebenchError, match=r"no plan 'salt-smal': did you mean 'salt-small'\?"):
        make_plan((), Path("salt-smal"))
    with pytest.raises(
        WhalebenchError, match=r"no plan 'x': there are happywhale-ladder, .*or give a TOML file"
    ):
        make_plan((), Path("x"))


STEPS = """
[[methods]]
name = "arcface"
settings = { epochs = 1 }

[[methods]]
name = "arcface"
settings = { epochs = 2 }

[[methods]]
name = "arcface"
settings = { epochs = 2, margin = 0.2 }
"""
SAME_RUN = "{} for the same run as another"


def test_of_several_settings_of_a_field_only_the_last_is_kept(tmp_path: Path) -> None:
    text = 'settings = { epochs = 9, size = 64 }\n[[methods]]\nname = "arcface"\nsettings = { epochs = 8 }'
    assert make_plan((), file_of(tmp_path, text)).contestants == (
        Contestant("arcface", ("size=64", "epochs=8")),
    )
    typed = ("epochs=7", "margin=0.2", "epochs=6")
    (one,) = make_plan((), file_of(tmp_path, text), settings=typed).contestants
    assert one.settings == ("size=64", "margin=0.2", "epochs=6")
    assert make_plan(["arcface"], settings=typed).contestants[0].settings == one.settings[1:]
    every = ("epochs=9", "size=64", "epochs=8", *typed)
    assert configure(find_method("arcface"), one.settings) == configure(find_method("arcface"), every)
    (wrong,) = contestants_of(["arcface"], ["epochs", "epochs=3"])
    with pytest.raises(WhalebenchError, match="--set epochs has no value"):
        configure(find_method("arcface"), wrong.settings)


def test_steps_that_what_is_typed_makes_the_same_run_are_told_once(tmp_path: Path) -> None:
    file = file_of(tmp_path, STEPS)
    assert make_plan((), file).left_out == make_plan((), file, settings=("size=64",)).left_out == ()
    because = ", because --set gives them the same fields: "
    assert make_plan((), file, settings=("epochs=4", "epochs=3")).left_out == (
        f"{SAME_RUN.format('1 step of the plan asks')}{because}epochs=3.",
    )
    assert make_plan((), file, settings=("epochs=3", "margin=0.1")).left_out == (
        f"{SAME_RUN.format('2 steps of the plan ask')}{because}epochs=3 margin=0.1.",
    )


def test_steps_that_are_the_same_run_as_written_are_not_blamed_on_what_is_typed(tmp_path: Path) -> None:
    bare, default = '[[methods]]\nname = "arcface"\n', configure(find_method("arcface"), ()).model_dump()
    file = file_of(tmp_path, f"{bare}{bare}settings = {{ epochs = {default['epochs']} }}\n")
    for typed in ((), ("size=64",), ("epochs=1",)):
        assert make_plan((), file, settings=typed).left_out == (
            f"{SAME_RUN.format('1 step of the plan asks')}.",
        )
    assert make_plan(["arcface", "arcface"]).left_out == ()


def test_a_preset_may_tell_steps_apart_or_make_them_the_same_run(tmp_path: Path) -> None:
    bare, default = '[[methods]]\nname = "arcface"\n', configure(find_method("arcface"), ()).model_dump()
    file = file_of(tmp_path, f"{bare}{bare}settings = {{ epochs = {default['epochs']} }}\n")
    assert make_plan((), file, preset="small").left_out == ()  # the other has as many as suit the photos
    bare = '[[methods]]\nname = "happywhale-26th"\n'
    file = file_of(tmp_path, f"{bare}{bare}settings = {{ bags = 1 }}\n")
    assert make_plan((), file).left_out == ()
    assert make_plan((), file, preset="small").left_out == (f"{SAME_RUN.format('1 step of the plan asks')}.",)


def test_a_step_that_cannot_be_configured_is_left_to_the_sweep_to_refuse(tmp_path: Path) -> None:
    plan = make_plan(
        (), file_of(tmp_path, f'{PAPER}\n[[methods]]\nname = "softmax"\nsettings = {{ epoch = 1 }}')
    )
    assert (len(plan.contestants), plan.left_out) == (3, ())


def test_the_rehearsal_of_happywhales_ladder_keeps_its_steps_apart() -> None:
    text = (PLANS / "happywhale-ladder.toml").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("# --benchmark flukes"))
    typed = tuple(re.findall(r"--set (\S+)", line))
    plan = make_plan((), Path("happywhale-ladder"), settings=typed)
    configs = {configure(find_method(one.method), one.settings) for one in plan.contestants}
    assert (len(typed), len(configs), plan.left_out) == (3, 7, ())
    (narrow,) = re.findall(r"With --set (\S+) as well the last five are one run", text)
    plan = make_plan((), Path("happywhale-ladder"), settings=(*typed, narrow))
    merged = [configure(find_method(one.method), one.settings) for one in plan.contestants]
    assert [merged.index(config) for config in merged] == [0, 1, 2, 2, 2, 2, 2]
    assert plan.left_out[0].startswith(SAME_RUN.format("4 steps of the plan ask")) and len(plan.left_out) == 1


def test_a_plan_of_methods_has_defaults() -> None:
    assert make_plan(["softmax"]) == Plan((Contestant("softmax"),), "flukes", (0,), (0,))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fold = 1", r"unknown key 'fold': did you mean 'folds'\?"),
        ("zzz = 1", r"unknown key 'zzz': there are benchmark, folds"),
        ('[[methods]]\nname = "softmax"\nset = 3', r"method 1 has an unknown key 'set'"),
        ("folds = ", r"is not TOML"),
        ("folds = 0", r"names no methods"),
        ("methods = []", r"names no methods"),
        ('methods = ["softmax"]', r"names no methods"),
        ("[[methods]]\nsettings = {}", r"method 1: name cannot be ''"),
        ("[[methods]]\nname = 3", r"method 1: name cannot be 3"),
        ('benchmark = 3\n[[methods]]\nname = "softmax"', r"benchmark cannot be 3"),
        ('folds = [true]\n[[methods]]\nname = "softmax"', r"folds cannot be \[True\]"),
        ('folds = []\n[[methods]]\nname = "softmax"', r"folds cannot be \[\]"),
        ('folds = "4-0"\n[[methods]]\nname = "softmax"', r"folds '4-0' cannot be"),
        ('settings = 3\n[[methods]]\nname = "softmax"', r"settings cannot be 3"),
        ('[[methods]]\nname = "softmax"\nsettings = { size = [64, 96] }', r"size cannot be \[64, 96\]"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(WhalebenchError, match=sentence):
        make_plan((), file_of(tmp_path, text))


def test_methods_and_a_file_are_refused_and_so_is_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match="cannot both be"):
        make_plan(["softmax"], file_of(tmp_path, PAPER))
    with pytest.raises(WhalebenchError, match="cannot be read"):
        make_plan((), tmp_path / "absent.toml")


def test_all_is_every_method_with_recipes_at_the_small_scale() -> None:
    found = contestants_of(["all"])
    assert [one.method for one in found] == list(method_names())
    small = {one.method for one in found if one.settings == ("scale=small",)}
    assert {"happywhale-26th", "right-whale-2nd"} <= small
    assert not {"arcface", "softmax"} & small
    (recipe,) = (one for one in contestants_of(["all"], ["scale=full"]) if one.method == "humpback-3rd")
    assert configure(find_method("humpback-3rd"), recipe.settings).model_dump()["scale"] == "full"


@pytest.mark.parametrize(
    ("jobs", "count", "cores", "threads"),
    [
        (1, 2, [(0, 1)], 2),
        (2, 2, [(0,), (1,)], 1),
        (3, 2, [(0,), (1,), (0,)], 1),
        (3, 16, [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9), (10, 11, 12, 13, 14)], 5),
    ],
)
def test_cores_are_dealt_out_evenly(
    jobs: int, count: int, cores: list[tuple[int, ...]], threads: int
) -> None:
    dealt = divide(jobs, count, range(count), ())
    assert [share.cores for share in dealt] == cores
    for share in dealt:
        environment = share.environment()
        assert environment["OMP_NUM_THREADS"] == environment["WHALEBENCH_CORES"] == str(threads)
        assert environment.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_no_more_cores_are_dealt_out_than_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given = os.sched_getaffinity(0)
    for limit, jobs, threads in (
        (1, None, 1),
        (1, 2, 1),
        (len(given), 1, len(given)),
        (10**6, 1, len(given)),
    ):
        monkeypatch.setenv("WHALEBENCH_CORES", str(limit))
        dealt = share_machine(jobs, torch.device("cpu"), "auto")
        assert {share.threads for share in dealt} == {threads} and len(dealt) == (
            jobs or max(1, threads // 2)
        )
        numbered = {core for share in dealt for core in share.cores}
        assert numbered == (given if limit >= len(given) else set())


def test_accelerators_are_dealt_out_one_by_one() -> None:
    dealt = divide(3, 8, (), ("2", "GPU-5f"))
    assert [share.environment()["CUDA_VISIBLE_DEVICES"] for share in dealt] == ["2", "GPU-5f", "2"]
    assert [share.cores for share in dealt] == [()] * 3


def cell(name: str, status: str, seconds: float | None = None, seed: int = 0, **more: object) -> CellState:
    return CellState(name, 0, seed, f"{name}-{seed}", status, seconds=seconds, **more)  # type: ignore[arg-type]


def test_the_time_left_goes_by_finished_cells_of_the_same_method() -> None:
    finished = [cell("a", "finished", 10.0), cell("a", "finished", 14.0, 1), cell("b", "finished", 100.0)]
    waiting = [cell("a", "waiting", seed=2), cell("b", "running", 30.0, 1)]
    assert seconds_left([*finished, *waiting], 1) == pytest.approx(12 + 70)
    assert seconds_left([*finished, *waiting], 2) == pytest.approx(70)  # one of them takes as long
    assert seconds_left([*finished, cell("c", "waiting")], 1) == pytest.approx((10 + 14 + 100) / 3)
    assert seconds_left(waiting, 1) is None
    assert seconds_left(finished, 1) == 0


STATE = SweepState(
    (
        cell("arcface", "finished", 61.0),
        cell("arcface", "running", 5.0, 1, activity="Training, epoch 3/24"),
        cell("sift", "unfit", 1.0, reason="tiny has no masks"),
        cell("sift", "failed", 1.0, 1, reason="no [bold]luck[/bold]."),
        cell("stn", "waiting"),
    ),
    150.0,
)


def test_the_live_table_says_how_many_and_what_is_done_now() -> None:
    text = io.StringIO()
    with watch_sweep(Console(file=text, force_terminal=True, width=100, color_system=None)) as show:
        show(STATE)
    shown = text.getvalue()
    assert "fold 0 seed 1: Training, epoch 3/24" in shown
    assert "2 of 5 done, 1 running, 1 waiting, 1 failed, time left about 2.5 min" in shown
    assert progress_line(STATE) in shown


def test_plain_lines_tell_each_change_once() -> None:
    text = io.StringIO()
    with watch_sweep(Console(file=text, width=60)) as show:
        show(STATE)
        show(STATE)
    lines = text.getvalue().splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "arcface, fold 0 seed 0: finished in 61 s",
        "arcface, fold 0 seed 1: starts",
        "sift, fold 0 seed 0: does not fit: tiny has no masks",
        "sift, fold 0 seed 1: failed: no [bold]luck[/bold].",
    ]
    quiet = io.StringIO()
    with watch_sweep(Console(file=quiet), quiet=True) as show:
        show(STATE)
    assert not quiet.getvalue()


def test_the_plan_that_the_page_shows_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "reproducing.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", page, flags=re.S | re.M)
    found = make_plan((), file_of(tmp_path, shown))
    assert len(found.folds) == 5 and len(found.seeds) == 3 and len(found.contestants) == 2
    for one in found.contestants:
        configure(find_method(one.method), one.settings)


def test_each_recipe_names_the_plan_of_its_steps_and_compares_at_least_four() -> None:
    for name in ("humpback-3rd", "happywhale-26th", "right-whale-2nd", "playground-resnet18", "salt-4th"):
        said = " ".join(rung.settings for rung in find_method(name).ladder)
        plans = set(re.findall(r"--plan ([\w-]+)", said))
        small = {plan for plan in plans if plan.endswith("-small")}
        assert len(small) == 1 and f"compare --plan {small.copy().pop()}" in said
        for plan in plans:
            found = make_plan([], Path(plan))
            assert len(found.contestants) >= 4 and (plan not in small or len(found.seeds) == 2)


def test_the_ladder_of_salt_is_one_plan_of_rungs_that_can_be_run() -> None:
    plan = make_plan([], Path(__file__).parents[1] / "benchmarks" / "plans" / "salt-small.toml")
    rungs = [configure(find_method(one.method), one.settings) for one in plan.contestants]
    assert [rung.segmenter.networks() for rung in rungs] == [1, 1, 3, 9, 18, 18, 18]  # type: ignore[attr-defined]
    taught = [len(rung.segmenter.students_encoders()) for rung in rungs]  # type: ignore[attr-defined]
    assert taught == [0, 0, 0, 0, 0, 1, 3]
