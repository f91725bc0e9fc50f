"""What a sweep is to run: contestants, folds and seeds of one benchmark, as typed or from a plan file.

A plan file is TOML and is kept with a paper; what is typed beside it wins. It has `benchmark`, `folds`,
`seeds`, the `preset` and the `settings` of every method, and a part `[[methods]]` with `name` and `settings`
for each; docs/reproducing.md shows one.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whalebench import WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.files import regular_file
from whalebench.benchmarks.presets import CHOSEN, find_preset, suits
from whalebench.methods.parts.recipe import RecipeConfig
from whalebench.methods.registry import configure, find_method, method_names, name_of, unloadable

PLANS = Path(__file__).parent.parent / "plans"
"""Plans that come with the program: the steps of published systems, each by the name of its file."""
ALL = "all"
"""Stands for every installed method, recipes at the scale of a laptop."""
MAX_NUMBERS = 10_000
"""So many folds or seeds at most: more is a slip of the keyboard."""
MAX_CELLS = 100_000
"""So many runs at most, for the same reason."""
MAX_BYTES, MAX_NESTING, MAX_DOTS = 100_000, 10, 1000
"""Of a plan's file: its size, how deep a table may stand in others, and dots in a line, in which the time to
read it is quadratic."""
KEYS = ("benchmark", "folds", "methods", "preset", "seeds", "settings")
METHOD_KEYS = ("name", "settings")

Asked = tuple[str, str, frozenset[str]]
"""A method, its configuration, and the fields that a preset does not choose."""


@dataclass(frozen=True)
class Contestant:
    """A method with its settings."""

    method: str
    settings: tuple[str, ...] = ()
    """Fields as key=value, each once."""


@dataclass(frozen=True)
class Plan:
    """Every contestant is run on every fold with every seed."""

    contestants: tuple[Contestant, ...]
    benchmark: str = "flukes"
    folds: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)
    preset: str = ""
    """What chooses fields for the photos, for each contestant that has some of them; empty for none."""
    left_out: tuple[str, ...] = ()
    """Why methods that `all` stands for are no contestants, and how many steps of a file have no run of their
    own, a sentence each."""


def make_plan(
    methods: Iterable[str],
    file: Path | None = None,
    *,
    benchmark: str | None = None,
    folds: str | None = None,
    seeds: str | None = None,
    preset: str | None = None,
    settings: tuple[str, ...] = (),
) -> Plan:
    """The plan of a command line: of these methods, or of a file, whatever else is given winning over it.

    Raises WhalebenchError for methods beside a file, for neither, and for a file that is no plan.
    """
    methods, file = tuple(methods), file and _at_hand(file)
    if methods and file:
        raise WhalebenchError(
            f"Methods ({', '.join(methods)}) and the plan {file} cannot both be: the plan names its own; "
            f"leave out one of the two."
        )
    if not methods and not file:
        raise WhalebenchError(
            "There is no method to sweep: name some, as `whalebench sweep arcface softmax`, write all, "
            "or give --plan FILE."
        )
    facts = _read(file) if file else {}
    if preset is None and "preset" in facts:
        preset = _word(facts["preset"], f"{file}: preset")
    contestants = _contestants(facts, settings, file) if file else contestants_of(methods, settings)
    left_out = _left_out(methods or [table["name"] for table in facts["methods"]])
    if file:
        left_out += _repeated(contestants, _contestants(facts, (), file), settings, preset or "")
    plan = Plan(
        contestants,
        _word(facts.get("benchmark", "flukes"), f"{file}: benchmark") if benchmark is None else benchmark,
        _chosen(folds, facts, "folds", file),
        _chosen(seeds, facts, "seeds", file),
        preset or "",
        left_out,
    )
    runs = len(plan.contestants) * len(plan.folds) * len(plan.seeds)
    if runs > MAX_CELLS:
        raise WhalebenchError(
            f"These are {runs:,} runs, and {MAX_CELLS:,} are the most: sweep fewer at once."
        )
    return plan


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of a text such as 0-4 or 0,2,5-7, each once, in its order.

    Raises WhalebenchError, naming the option, for anything else.

    >>> whole_numbers("3,0-2,1", "--folds")
    (3, 0, 1, 2)
    """
    numbers: dict[int, None] = {}
    for part in text.split(","):
        span = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part, re.ASCII)
        low, high = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if low > high:
            raise WhalebenchError(
                f"{option} '{one_line(text, 60)}' cannot be: write numbers and ranges from low to high, as "
                f"0-4 or 0,2."
            )
        if high - low < MAX_NUMBERS:
            numbers |= dict.fromkeys(range(low, high + 1))
        if high - low >= MAX_NUMBERS or len(numbers) > MAX_NUMBERS:
            raise WhalebenchError(
                f"{option} '{one_line(text, 60)}' are more than {MAX_NUMBERS:,}: write fewer."
            )
    return tuple(numbers)


def contestants_of(methods: Iterable[str], settings: Iterable[str] = ()) -> tuple[Contestant, ...]:
    """The contestants of these names with these settings; `all` becomes every installed method.

    Of several settings of one field only the last is kept, which is the one that `configure` takes. Of `all`,
    recipes are at their small scale unless the settings say another, and methods that cannot be loaded are
    left out.
    """
    contestants = []
    for method in methods:
        for name in (
            sorted(set(method_names()) - unloadable().keys()) if method == ALL else (name_of(method),)
        ):
            is_small = method == ALL and issubclass(find_method(name).Config, RecipeConfig)
            typed = (*(["scale=small"] if is_small else ()), *settings)
            contestants.append(Contestant(name, _last_of_each(typed)))
    return tuple(contestants)


def _last_of_each(settings: Iterable[str]) -> tuple[str, ...]:
    """The settings without those of a field that is set again later.

    >>> _last_of_each(["epochs=1", "size=64", "epochs=3"])
    ('size=64', 'epochs=3')
    """
    last: dict[tuple[str, bool], str] = {}
    for setting in settings:
        key = setting.partition("=")[0], "=" in setting  # one without a value stays, and is refused
        last.pop(key, None)
        last[key] = setting
    return tuple(last.values())


def _left_out(methods: Iterable[str]) -> tuple[str, ...]:
    """Why methods that `all` stands for are left out; nothing where it is not among these."""
    reasons = unloadable().values() if ALL in methods else ()
    return tuple(f"{reason} It is left out." for reason in reasons)


def _repeated(
    contestants: Sequence[Contestant], as_written: Sequence[Contestant], typed: Sequence[str], preset: str
) -> tuple[str, ...]:
    """How many steps of a file ask for the same run as an earlier one; nothing where each has its own.

    `as_written` are the contestants without what is typed. Steps that differ there are told as made alike by
    it, in one sentence, and those that do not in another.
    """
    because = f", because --set gives them the same fields: {' '.join(_last_of_each(typed))}"
    seen: dict[Asked, set[Asked]] = {}
    counts: Counter[str] = Counter()
    for each, written in zip(contestants, as_written, strict=True):
        before, earlier = _asked(written, preset), seen.setdefault(_asked(each, preset), set())
        if earlier:
            counts["" if before in earlier else because] += 1
        earlier.add(before)
    return tuple(
        f"{count} {'step of the plan asks' if count == 1 else 'steps of the plan ask'} for the same run as "
        f"another{why}."
        for why, count in counts.items()
    )


def _asked(contestant: Contestant, preset: str) -> Asked:
    """What tells its run on a fold with a seed from those of others; equal for two that ask for the same.

    A field that one leaves to a preset and another sets is taken to be different, as photos decide what the
    preset chooses. What cannot be configured is told by its settings, and refused when the sweep is prepared.
    """
    settings, fixed = contestant.settings, set[str]()
    try:
        kind = find_method(contestant.method)
        if preset and suits(preset, kind):
            if issubclass(kind.Config, RecipeConfig):
                settings = (f"scale={find_preset(preset).scale}", *settings)
            else:
                fixed = {setting.partition("=")[0] for setting in settings} & set(CHOSEN)
        config = configure(kind, settings).model_dump_json()
    except WhalebenchError:
        config = repr(settings)
    return contestant.method, config, frozenset(fixed)


def _chosen(typed: str | None, facts: Mapping[str, Any], key: str, file: Path | None) -> tuple[int, ...]:
    """The folds or seeds that were typed, else those of the file, else 0."""
    if typed is not None:
        return whole_numbers(typed, f"--{key}")
    return _numbers(facts.get(key, 0), f"{file}: {key}")


def _at_hand(file: Path) -> Path:
    """The file, or where a bare name is none the plan of that name which comes with the program."""
    if file.exists() or file.suffix or len(file.parts) != 1:
        return file
    ours = {plan.stem: plan for plan in sorted(PLANS.glob("*.toml"))}
    if str(file) not in ours:
        known = ", ".join(ours)
        remedy = did_you_mean(str(file), ours, f"there are {known}; or give a TOML file.")
        raise WhalebenchError(f"There is no plan '{one_line(file, 60)}': {remedy}")
    return ours[str(file)]


def _read(file: Path) -> dict[str, Any]:
    try:
        size = regular_file(file).stat().st_size
        if size > MAX_BYTES:
            raise WhalebenchError(
                f"The plan {file} has {size:,} bytes, and {MAX_BYTES:,} are the most: give a plan's file."
            )
        text = file.read_text(encoding="utf-8-sig")
        if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
            raise _too_deep(file)
        facts = tomllib.loads(text)
    except OSError as error:
        raise WhalebenchError(f"The plan {file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # not TOML, or not text
        why = one_line(error)
        raise WhalebenchError(f"The plan {file} is not TOML ({why}): mend that line.") from error
    except RecursionError as error:
        raise _too_deep(file) from error
    if _is_deeper(facts, MAX_NESTING):
        raise _too_deep(file)
    _check_keys(facts, KEYS, str(file))
    return facts


def _too_deep(file: Path) -> WhalebenchError:
    return WhalebenchError(
        f"The plan {file} is nested more than {MAX_NESTING} deep: write a list or a table in fewer others."
    )


def _is_deeper(value: object, most: int) -> bool:
    """Whether more lists and tables stand in one another; without recursion, as it may be many more."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _contestants(facts: Mapping[str, Any], typed: tuple[str, ...], file: Path) -> tuple[Contestant, ...]:
    common = settings_of(facts.get("settings", {}), f"{file}: settings")
    tables = facts.get("methods")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise WhalebenchError(
            f'The plan {file} names no methods: write a part [[methods]] with name = "arcface" for each.'
        )
    contestants: list[Contestant] = []
    for number, table in enumerate(tables, start=1):
        where = f"{file}, method {number}"
        _check_keys(table, METHOD_KEYS, where)
        name = _word(table.get("name", ""), f"{where}: name")
        special = settings_of(table.get("settings", {}), f"{where}: settings")
        contestants += contestants_of([name], (*common, *special, *typed))
    return tuple(contestants)


def _check_keys(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            hint = did_you_mean(key, keys, f"there are {', '.join(keys)}.")
            raise WhalebenchError(f"{where} has an unknown key '{key}': {hint}")


def _word(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise WhalebenchError(f'{where} cannot be {value!r}: write a name in quotes, as "flukes".')
    return value


def _numbers(value: object, where: str) -> tuple[int, ...]:
    """The numbers of a number, of a list of them, or of a text such as "0-4"."""
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(each, bool) or not isinstance(each, int | str) for each in values):
        raise WhalebenchError(f'{where} cannot be {value!r}: write "0-4", 3 or [0, 2].')
    return whole_numbers(",".join(map(str, values)), where)


def settings_of(table: object, where: str, prefix: str = "") -> tuple[str, ...]:
    """The fields of a table as key=value, those of a table within it with a dot.

    Raises WhalebenchError, which begins with `where` the table is, for what is no such table.
    """
    if not isinstance(table, Mapping):
        raise WhalebenchError(f"{where} cannot be {table!r}: write {{ key = value, ... }}.")
    settings: list[str] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            settings += settings_of(value, where, f"{prefix}{key}.")
        elif isinstance(value, str | int | float):
            typed = str(value).lower() if isinstance(value, bool) else str(value)
            settings.append(f"{prefix}{key}={typed}")
        else:
            raise WhalebenchError(
                f"{where}: {prefix}{key} cannot be {value!r}: "
                f'write it as it is typed after --set, as "64x96".'
            )
    return tuple(settings)
