"""Hostile plans and values of options, for the commands that take them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from functools import partial

from tests.faults.calls import Ended, Place
from tests.faults.inputs import HARMLESS, NASTY, Case, flipped

SECRET = "SECRET"
"""Part of a password in a URL, which is never shown."""


def plan_case(rng: random.Random, place: Place) -> Case:
    """A plan for a sweep, which is not begun."""
    value = partial(_toml_value, rng)
    lines = [
        'benchmark = "tiny"',
        'folds = "0-1"',
        "seeds = [0, 1]",
        "[settings]",
        "epochs = 1",
        "[[methods]]",
    ]
    lines += [
        'name = "softmax"',
        'settings = { size = "32", dropout = 0.1 }',
        "[[methods]]",
        'name = "arcface"',
    ]
    for _ in range(rng.randint(1, 3)):
        line = rng.randrange(len(lines))
        key = lines[line].partition(" = ")[0]
        lines[line] = rng.choice(
            (f"{key} = {value()}", f"{rng.choice(NASTY)!r} = {value()}", "", lines[line] * 2, value())
        )
    text = "\n".join(lines)
    deep = rng.choice((200, 100_000))
    bombs = (
        f"folds = {'[' * deep}",
        "a." * deep + "a = 1",
        "[" + "a." * deep + "a]\nb = 1",
        f"seeds = {'9' * 5000}",
    )
    content = text.encode("utf-8", errors="surrogatepass")
    spoilt = (
        content,
        content,
        content,
        flipped(rng, content),
        rng.choice(bombs).encode(),
        content[: rng.randrange(99)],
    )
    file = place.source / "plan.toml"
    file.write_bytes(rng.choice(spoilt))
    words = ("sweep", "--plan", str(file), "--dry-run", "--device", "cpu", "--jobs", "1")
    # One that names no benchmark asks for `flukes`, which are drawn for half a minute.
    named = () if b"benchmark" in file.read_bytes() else ("--benchmark", "tiny")
    return Case(
        f"{file.read_bytes()[:150]!r}",
        (*words, *named, *rng.choice(((), ("--json",), ("--folds", rng.choice(NASTY))))),
    )


def _toml_value(rng: random.Random) -> str:
    text = rng.choice(NASTY)
    quoted = (
        '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in text) + '"'
    )
    plain = (
        "1",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        "9" * 30,
        "1979-05-27T07:32:00Z",
        "07:32:00",
        "[]",
        "{}",
        "[[[]]]",
    )
    return rng.choice(
        (quoted, quoted, rng.choice(plain), f"[{quoted}, 1, true]", f"{{ {quoted} = {quoted} }}")
    )


def option_case(rng: random.Random, place: Place) -> Case:
    """A value of an option or an argument of one of the commands, none of which trains anything."""
    from whalebench.methods.registry import fields_of, find_method, method_names

    runs = sorted(folder.name for folder in (place.workspace / "runs").iterdir())
    method, nasty = rng.choice(method_names()), rng.choice([value for value in NASTY if "\x00" not in value])
    field = rng.choice([name for name, _ in fields_of(find_method(method).Config)])
    table, groups = place.source / "table.csv", place.source / "groups.csv"
    groups.write_text(f"SubId\n{nasty}\nwhale0 {nasty}\nwhale1 whale2\n", "utf-8", newline="")
    ends = ("", ".csv", ".html", ".svg", ".zip", ".png", "/a/b.csv", "/" + "x" * 300)
    out = rng.choice((f"{place.root}/out{rng.choice(ends)}", rng.choice(HARMLESS)))
    known = {"METHOD": method, "FIELD": field, "NASTY": nasty, "HARMLESS": rng.choice(HARMLESS), "OUT": out}
    known |= {"RUN": runs[0], "OTHER": runs[1], "TABLE": str(table), "GROUPS": str(groups)}
    command = rng.choice([each for each in re.split(r"\n|;", OPTIONS) if each.strip()])
    words = words_of(command.replace("NOWHERE", "--fold 99 --benchmark tiny --device cpu"), known)

    def check(ended: Ended) -> Iterator[str]:
        if "--storage" in words and SECRET in ended.out + ended.err:
            yield "a password is shown"

    return Case(f"{nasty[:60]!r}", words, may_write=("out*", "home/*"), check=check)


def words_of(command: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """The words of a command, with what is known of those in capitals in their place."""
    return tuple(
        re.sub(r"[A-Z]{3,}", lambda short: known.get(short[0], short[0]), word) for word in command.split()
    )


OPTIONS = """
run METHOD --set FIELD=NASTY NOWHERE; run METHOD --set FIELD=NASTY NOWHERE
run METHOD --set FIELD=NASTY NOWHERE; run METHOD --set NASTY NOWHERE; run NASTY NOWHERE
run softmax --seed NASTY NOWHERE; run softmax --benchmark NASTY
run softmax --fold NASTY --benchmark tiny --set learning_rate=-1; run softmax NOWHERE --device NASTY
sweep METHOD --dry-run --benchmark tiny --folds NASTY; sweep METHOD --dry-run --benchmark tiny --seeds NASTY
sweep METHOD --dry-run --benchmark tiny --jobs NASTY; sweep METHOD --dry-run --benchmark NASTY
sweep METHOD --dry-run --time-limit NASTY --benchmark tiny
tune softmax --budget NASTY NOWHERE; tune softmax --storage NASTY --trials 1 NOWHERE
tune softmax --trials NASTY NOWHERE; tune softmax --study NASTY --trials 1 NOWHERE; show NASTY
methods NASTY; benchmarks NASTY; rescore NASTY; data show NASTY; data check NASTY; compare RUN NASTY
compare RUN OTHER NASTY
split make NASTY; split show NASTY; split verify NASTY; report --benchmark NASTY
report --workspace HARMLESS; split make again --folds NASTY; split make again --seed NASTY
split make again --protocol NASTY; split make again --singles NASTY; split make again --valid-share NASTY
split make again --protocol open --new-share NASTY; split make again --protocol time-aware --cutoff NASTY
split make again --protocol time-aware --test-share NASTY
compare RUN OTHER --photos NASTY; report --csv OUT; report --html OUT; report --svg OUT; show RUN --svg OUT
bundle OUT; methods --markdown OUT; benchmarks tiny --sheet OUT; explain RUN --out OUT --photos 1 --box 0.5
explain RUN --photos NASTY; explain RUN --image NASTY; explain RUN --box NASTY; ensemble RUN NASTY
ensemble RUN OTHER --rule NASTY; ensemble RUN OTHER --weights NASTY; ensemble RUN OTHER --pca NASTY
ensemble RUN OTHER --then NASTY; ensemble RUN OTHER --then duplicates --duplicates GROUPS
ensemble RUN OTHER --then duplicates --duplicates NASTY
ensemble RUN OTHER --local-matches --hours NASTY --rule pairs; data import NASTY NASTY --name x
data import csv NASTY --name x; data import csv TABLE --name NASTY
data import csv TABLE --name x --dataset NASTY
"""
"""Commands with a value that surprises; NOWHERE is a fold that no run can be of."""
