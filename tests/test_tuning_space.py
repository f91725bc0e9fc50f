"""Where tuning looks, what it may cost, and who is at work on a trial."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from whalebench import WhalebenchError
from whalebench.benchmarks.overview import field_rows
from whalebench.benchmarks.tuning import study
from whalebench.benchmarks.tuning.space import Budget, Spent, read_budget, search_space
from whalebench.methods.registry import configure, find_method, method_names

SCALED = {"playground-resnet18", "happywhale-26th", "humpback-3rd", "right-whale-2nd"}


OF_OTHERS = ("ensemble", "pseudo", "salt-4th")
"""Made of other methods, which are tuned by themselves."""


@pytest.mark.parametrize("name", [name for name in method_names() if name not in (*OF_OTHERS, "frozen")])
def test_every_method_starts_from_its_defaults_inside_its_space(name: str) -> None:
    kind = find_method(name)
    fixed = ("scale=small",) if name in SCALED else ()
    space = search_space(kind, fixed)
    assert space.start.keys() == space.distributions.keys()
    for field, start in space.start.items():
        found = space.distributions[field]
        assert found._contains(found.to_internal_repr(start)), field
    assert space.settings(space.start) == ()
    shown = {row["field"] for row in field_rows(name) if row["search"]}
    assert set(space.start) <= shown


@pytest.mark.parametrize(
    ("name", "settings", "inside", "outside"),
    [
        ("arcface", (), {"scale", "margin", "head_rate"}, {"margin_a", "localizer.learning_rate"}),
        ("arcface", ("margin_by_size=true",), {"margin_a", "margin_b"}, {"margin"}),
        ("arcface", ("scale=0",), {"margin"}, {"scale"}),
        ("softmax", ("crop=box",), {"localizer.learning_rate"}, {"aligner.learning_rate"}),
        ("softmax", ("crop=box", "oracle=true"), {"dropout"}, {"localizer.learning_rate"}),
        ("triplet", (), {"miner", "margin", "photos_per_identity"}, {"temperature"}),
        ("triplet", ("loss=n_pair",), {"temperature"}, {"miner", "margin"}),
        ("siamese", ("form=pair_head",), {"dropout"}, {"margin"}),
        ("sift", (), {"ratio"}, {"learning_rate"}),
        ("frozen", ("crop=aligned",), {"aligner.learning_rate"}, {"learning_rate"}),
        ("stn", ("start=boxes",), {"transformer.learning_rate"}, {"localizer.learning_rate"}),
        ("stn", (), {"transformer_rate"}, {"transformer.learning_rate"}),
        ("triplet", ("miner=all", "margin=0.3"), {"dropout"}, {"miner", "margin"}),
    ],
)
def test_what_has_no_effect_or_is_set_is_not_tuned(
    name: str, settings: tuple[str, ...], inside: set[str], outside: set[str]
) -> None:
    found = set(search_space(find_method(name), settings).start)
    assert inside <= found
    assert not outside & found


def test_fields_are_tuned_as_their_types() -> None:
    space = search_space(find_method("triplet"), ())
    assert space.distributions["photos_per_identity"] == IntDistribution(2, 8)
    assert space.distributions["learning_rate"] == FloatDistribution(1e-4, 1e-2, log=True)
    miners = ("all", "semihard", "distance_weighted", "batch_hard")
    assert space.distributions["miner"] == CategoricalDistribution(miners)
    assert space.start["margin"] == 0.2  # what None stands for
    settings = space.settings(dict(space.start) | {"photos_per_identity": 2, "margin": 0.123456789})
    assert settings == ("margin=0.1235", "photos_per_identity=2")
    assert configure(find_method("triplet"), settings).model_dump()["margin"] == 0.1235


def test_a_range_is_widened_to_hold_the_default_and_nothing_to_tune_is_refused() -> None:
    space = search_space(find_method("softmax"), ("crop=box", "localizer.learning_rate=0.05"))
    assert "localizer.learning_rate" not in space.start
    recipe = search_space(find_method("humpback-3rd"), ("scale=full",))
    assert recipe.distributions["head.scale"] == FloatDistribution(8, 65, log=True)
    with pytest.raises(WhalebenchError, match="'frozen' has nothing to tune: no field has a search range"):
        search_space(find_method("frozen"), ())


@pytest.mark.parametrize(
    ("trials", "text", "budget"),
    [
        (None, None, Budget(trials=20)),
        (7, None, Budget(trials=7)),
        (None, "2h", Budget(seconds=7200)),
        (7, "90m", Budget(trials=7, seconds=5400)),
        (None, "45min", Budget(seconds=2700)),
        (None, "500k", Budget(photos=500_000)),
        (None, "1.5M photos", Budget(photos=1_500_000)),
        (None, "5000", Budget(photos=5000)),
        (None, "12.5s", Budget(seconds=12.5)),
    ],
)
def test_budgets_are_read(trials: int | None, text: str | None, budget: Budget) -> None:
    assert read_budget(trials, text) == budget


@pytest.mark.parametrize(
    ("trials", "text"), [(0, None), (None, "soon"), (None, "0h"), (None, "2 h photos"), (None, "-3")]
)
def test_other_budgets_are_refused(trials: int | None, text: str | None) -> None:
    with pytest.raises(WhalebenchError, match="budget"):
        read_budget(trials, text)


def test_the_limit_that_is_reached_first_ends_a_study() -> None:
    budget = Budget(trials=10, seconds=100.0, photos=None)
    assert not budget.is_spent(Spent(9, 99.0, 10**9))
    assert budget.is_spent(Spent(10, 1.0))
    assert budget.is_spent(Spent(1, 100.0))
    assert budget.share(Spent(2, 70.0)) == 0.7
    assert Budget(photos=100).is_spent(Spent(1, 0.0, 100))


def test_a_lease_ends_with_its_process_and_elsewhere_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, own = time.time(), study.new_lease()
    assert own["pid"] == os.getpid()
    assert not study.is_stale(own | {"until": 0}, now)  # slow, but alive
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    assert study.is_stale(own | {"pid": child.pid}, now)
    assert study.is_stale(own | {"born": "1"}, now)  # another process has its number now
    far = own | {"place": "another machine"}
    assert not study.is_stale(far, now)
    monkeypatch.setattr(time, "time", lambda: now + study.LEASE_SECONDS + 1)
    assert study.is_stale(far, now)
    assert not study.is_stale(None, now + 5)
    assert study.is_stale(None, now)


def test_a_lease_is_renewed_until_the_block_ends() -> None:
    told: list[dict[str, object]] = []
    with study.heartbeat(told.append, interval=0.01):
        until = time.monotonic() + 5
        while len(told) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    renewed = len(told)
    time.sleep(0.05)
    assert len(told) == renewed >= 3
