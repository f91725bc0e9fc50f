"""Pictures are read back as XML: what is drawn stands where its number says, and names are only ever text."""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from whalebench import CONTROLS, visible
from whalebench.reports.drawings import contestants, runs
from whalebench.reports.drawings.contestants import DEEPEST, Mark, Point, cmc, cost, seed_grid, standings
from whalebench.reports.drawings.posters import board, rates, tuning
from whalebench.reports.drawings.runs import (
    SQUARE,
    Reviewed,
    effort,
    histogram,
    learning,
    measures,
    reliability,
    shortcuts,
)
from whalebench.reports.drawings.sheets import sheet
from whalebench.reports.drawings.theme import (
    LIGHT,
    WIDTH,
    Picture,
    standalone,
    styles,
    width_of,
)
from whalebench.reports.metrics.breakdown import Effort
from whalebench.reports.page.render import source

NAN = math.nan
NAMES = {
    "plain": ["arcface", "aligned", "softmax"],
    "hostile": ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&amp;</svg></title>"],
    "long": ["x" * 300, "ザトウクジラの個体識別" * 30, "\u0301" * 300],
    "odd": ["שלום עולם", "$\\frac{1}{2}$ a_b^c %", "a\x00\x1b[31m\u202e\nb\ud800 é \u200d"],
    "empty": ["", " ", "🐋"],
}
FLOORS = [("constant answer", 0.034), ("untrained", 0.182), ("no such", NAN)]
BINS = {"confidence": [0.2, 0.5, 0.9], "accuracy": [0.1, 0.4, 0.6], "count": [9, 9, 9]}
CALIBRATED = {"reliability_before": BINS, "reliability_after": BINS | {"accuracy": [0.2, 0.5, 0.9]}}
CALIBRATED |= {"test_ece_before": 0.2, "test_ece_after": 0.0}
HEADER = ("rank", "method", "MAP@5", "seeds × folds")


def marks(names: list[str]) -> list[Mark]:
    scores = [(0.72, 0.66, 0.78, 1, 2), (0.65, 0.6, 0.7, 1, 2), (0.4, 0.31, 0.47, 3, 3)]
    return [Mark(name, *numbers, "A") for name, numbers in zip(names, scores, strict=True)]


def curve(*stages: tuple[str, list[float], list[float]]) -> pd.DataFrame:
    rows = [
        (stage, epoch, loss, 0.1, score)
        for stage, losses, scores in stages
        for epoch, (loss, score) in enumerate(zip(losses, scores, strict=True), start=1)
    ]
    return pd.DataFrame(rows, columns=["stage", "epoch", "loss", "learning_rate", "valid_map_at_5"])


def reviewed(name: str) -> Reviewed:
    needed = [
        Effort(0.9, 3, 2, 5, 0.9, 0.1),
        Effort(0.95, 10, 6, 18, 0.97, 0),
        Effort(0.99, 40, NAN, NAN, 1, 0),
    ]
    return Reviewed(name, {"candidates": [1, 3, 10, 40], "found": [0.6, 0.9, 0.97, 1.0]}, needed)


def study(names: list[str]) -> dict[str, object]:
    rows = [
        ("complete", 0.5, []),
        ("pruned", 0.3, [names[0]]),
        ("fail", None, [names[1]]),
        ("complete", 0.6, names),
    ]
    trials = [
        {"number": number, "state": state, "valid_map_at_5": value, "settings": settings}
        for number, (state, value, settings) in enumerate(rows)
    ]
    facts = {"method": names[0], "benchmark": names[1], "fold": 0, "seed": 0, "budget": "4 trials"}
    return facts | {"trials": trials, "importance": {names[2]: 0.75, "dropout": 0.25}}


def every(names: list[str]) -> Iterator[tuple[str, Picture | None]]:
    """Each picture there is, with these names in it."""
    first, second, third = names
    scored = marks(names)
    altered = {
        "test": 0.7,
        "without_background": 0.6,
        "without_animal": None,
        "mirrored": 0.4,
        "chance": 0.05,
    }
    rows = [(mark.letter, mark.name, "0.720 [0.66, 0.78]", "2 × 5") for mark in scored]
    yield "standings", standings(scored, [*FLOORS, (first, 0.2)])
    yield "cost", cost([Point(*mark[:1], 10.0**at, *mark[1:4]) for at, mark in enumerate(scored)], "minutes")
    yield "cmc", cmc([(name, [0.5, 0.7, 0.8]) for name in names])
    yield "seed_grid", seed_grid({0: {0: 0.5, 1: 0.7}, 1: {0: 0.6}}, first)
    yield "effort", effort([reviewed(name) for name in names])
    yield "reliability", reliability(CALIBRATED, first)
    yield "histogram", histogram("landmark_error", np.array([0.0, 0.1, 0.4]), second)
    yield "learning", learning(curve((first, [3, 2], [NAN, NAN]), (second, [3, 1], [0.2, 0.4])), third)
    yield "shortcuts", shortcuts([(name, altered) for name in names])
    yield "tuning", tuning(study(names))
    yield "rates", rates(range_tests(names))
    yield "board", board(first, HEADER, rows, scored, [f"A: {third}", second])


def read(picture: Picture | None) -> ET.Element:
    assert picture is not None
    return ET.fromstring(picture.svg)


def hinted(root: ET.Element) -> dict[str, ET.Element]:
    """The groups by their hint."""
    return {group.findtext("title", ""): group for group in root.iter("g") if group.find("title") is not None}


def dot(root: ET.Element, hint: str) -> tuple[float, float]:
    """The place of the circle with a hint that begins so."""
    (circle,) = [group.find("circle") for text, group in hinted(root).items() if text.startswith(hint)]
    assert circle is not None
    return float(circle.get("cx", "")), float(circle.get("cy", ""))


def points(path: ET.Element | None) -> list[tuple[float, float]]:
    """The corners of a path."""
    assert path is not None
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
    return [*zip(numbers[::2], numbers[1::2], strict=True)]


def scale(root: ET.Element, axis: str, low: str, high: str) -> Callable[[float], float]:
    """Where a value stands by two ticks of an axis."""
    at = {text.text: float(text.get(axis, "")) for text in root.iter("text") if text.text in (low, high)}
    slope = (at[high] - at[low]) / (float(high) - float(low))
    shift = 4.18 if axis == "y" else 0  # a text stands on its line, which is so far below its middle
    return lambda value: at[low] - shift + slope * (value - float(low))


@pytest.fixture(scope="module", params=NAMES)
def drawn(request: pytest.FixtureRequest) -> tuple[str, dict[str, Picture]]:
    kind = str(request.param)
    pictures = dict(every(NAMES[kind]))
    assert all(pictures.values())
    return kind, {what: picture for what, picture in pictures.items() if picture}


def test_names_are_only_text_and_pictures_fit_a_page(drawn: tuple[str, dict[str, Picture]]) -> None:
    kind, pictures = drawn
    for what, picture in pictures.items():
        root = ET.fromstring(picture.svg)
        assert picture.svg.startswith("<svg ") and not re.search(
            r"\bid=|https?:|url\(|style=", picture.svg
        ), what
        assert {element.tag for element in root.iter()} <= {"svg", "title", "g", "path", "circle", "text"}, (
            what
        )
        assert root.get("role") == "img" and root.get("aria-label") == f"{picture.title}. {picture.text}"
        assert root.findtext("title") == picture.title
        assert not CONTROLS.search(picture.svg), what
        width, height = float(root.get("width", "")), float(root.get("height", ""))
        assert root.get("viewBox") == f"0 0 {width:g} {height:g}"
        assert 700 <= width <= 1000 if what == "board" else width <= WIDTH
        assert len(picture.svg.encode()) < (16_000 if kind == "long" else 12_000), what
        sizes = {float(element.get("font-size", "12")) for element in root.iter("text")}
        assert sizes <= {11, 12, 13}
        colours = {element.get(key) for element in root.iter() for key in ("fill", "stroke")} - {None, "none"}
        assert all(re.fullmatch(r"var\(--\w+, #[0-9a-f]{6}\)", str(colour)) for colour in colours), what
        for element in root.iter():
            for key, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                assert 0 <= float(element.get(key, "0")) <= most, (what, element.attrib)
    shown = "".join(picture.svg for picture in pictures.values())
    if kind != "long":
        assert all(
            ET.tostring(_text(visible(name)), encoding="unicode")[6:-7] in shown for name in NAMES[kind]
        )
    else:
        assert "x" * 201 not in "".join(ET.fromstring(pictures["standings"].svg).itertext()).replace(
            "x" * 300, ""
        )


def _text(content: str) -> ET.Element:
    element = ET.Element("text")
    element.text = content
    return element


def test_a_picture_is_the_same_each_time_and_alone_it_is_a_file() -> None:
    for (what, picture), (_, again) in zip(every(NAMES["hostile"]), every(NAMES["hostile"]), strict=True):
        assert picture == again, what
        assert picture is not None
        alone = standalone(picture)
        root = ET.fromstring(alone)
        namespace = "{http://www.w3.org/2000/svg}"
        assert root.tag == f"{namespace}svg" and alone.count("http") == 1 and "var(" not in alone
        paper = root.find(f"{namespace}rect")
        assert paper is not None and paper.get("fill") == LIGHT["paper"]
        assert root.findtext(f"{namespace}title") == picture.title
        lines = [text.text or "" for text in root.findall(f"{namespace}text")]
        if what != "seed_grid":  # which is narrower than the name
            assert " ".join(lines) == picture.title, what
        (inner,) = root.findall(f"{namespace}svg")
        assert float(inner.get("y", "")) + float(inner.get("height", "")) == float(root.get("height", ""))


def test_colours_can_be_read_on_light_and_dark_paper() -> None:
    schemes = re.findall(r":root \{(.*?)\}", source("base.css"), flags=re.S)[:2]  # light, then dark
    pages = [dict(re.findall(r"--(\w+): (#\w{6});", scheme)) for scheme in schemes]
    for colours in (LIGHT, *pages):
        for name in LIGHT.keys() - {"paper", "line"}:
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
        cell = [
            round(DEEPEST * mark + (1 - DEEPEST) * paper)
            for mark, paper in zip(_bytes(colours["mark"]), _bytes(colours["paper"]), strict=True)
        ]
        assert contrast(colours["ink"], "#" + bytes(cell).hex()) >= 4.5  # the deepest cell of a grid
    assert len({(style.colour, style.dashes, style.marker) for style in styles(12)}) == 12
    assert len({(style.dashes, style.marker) for style in styles(12)}) == 12  # told apart without colour


def _bytes(colour: str) -> bytes:
    return bytes.fromhex(colour[1:])


def contrast(first: str, second: str) -> float:
    """That of WCAG 2.2."""

    def luminance(colour: str) -> float:
        shares = [one / 255 for one in _bytes(colour)]
        red, green, blue = (
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted([luminance(first), luminance(second)])
    return (light + 0.05) / (dark + 0.05)


def test_drawing_leaves_nothing_behind_and_says_nothing(tmp_path: Path) -> None:
    import matplotlib

    logger, before = logging.getLogger("matplotlib.font_manager"), dict(matplotlib.rcParams)
    with sheet(10, 10):
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.WARNING) and dict(matplotlib.rcParams) == before
    settings = tmp_path / "matplotlibrc"
    settings.write_text("text.usetex: True\nfigure.facecolor: red\nnonsense: 1\nlines.linewidth: 9\n")
    code = (
        "import sys; from whalebench.reports.drawings.contestants import Mark, standings; "
        "assert 'matplotlib' not in sys.modules; print(standings([Mark('a', .5, .4, .6)]).svg, end=''); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MATPLOTLIBRC": str(settings)},
    )
    picture = standings([Mark("a", 0.5, 0.4, 0.6)])
    assert picture is not None and done.stdout == picture.svg
    assert done.stderr == ""


def test_scores_floors_and_ranks_stand_where_their_numbers_say() -> None:
    root = read(standings(marks(["a", "b", "c"]), FLOORS))
    x = scale(root, "x", "0.2", "0.8")
    for mark in marks(["a", "b", "c"]):
        across, y = dot(root, f"{mark.name} ")
        assert across == pytest.approx(x(mark.value), abs=0.02)
        bars = [points(path) for path in root.iter("path") if path.get("stroke-width") == "3"]
        (bar,) = [bar for bar in bars if bar[0][1] == y]
        assert [at for at, _ in bar] == pytest.approx([x(mark.low), x(mark.high)], abs=0.02)
    dashed = {points(path)[0][0] for path in root.iter("path") if path.get("stroke-dasharray")}
    assert sorted(dashed) == pytest.approx([x(0.034), x(0.182)], abs=0.02)
    assert {"constant answer 0.034", "untrained 0.182"} <= {text.text for text in root.iter("text")}
    ranks = [hinted(root)[f"{name}: rank A {span}"].find("path") for name, span in (("a", "1–2"), ("c", "3"))]
    first, last = ([x for x, _ in points(path)] for path in ranks)
    assert first[1] < last[0] and last[1] - last[0] < first[1] - first[0]
    plain = read(standings([Mark("a", 0.5, NAN, NAN), Mark("b", NAN, NAN, NAN)]))
    assert [*hinted(plain)] == ["a 0.500"]
    assert standings([Mark("b", NAN, NAN, NAN)]) is None and standings([]) is None


def test_the_front_is_all_that_nothing_beats() -> None:
    rng = np.random.default_rng(5)
    some = [Point(f"{at}", *rng.integers(0, 8, 2), NAN, NAN) for at in range(60)]

    def beaten(one: Point) -> bool:
        return any(
            (other.cost <= one.cost and other.value > one.value)
            or (other.cost < one.cost and other.value >= one.value)
            for other in some
        )

    slow = {one[1:3] for one in some if not beaten(one)}
    assert {one[1:3] for one in contestants.pareto_front(some)} == slow


def test_costs_stand_on_a_logarithmic_axis() -> None:
    free, cheap, dear = (
        Point("free", 0, 0.2, 0.1, 0.3),
        Point("cheap", 20, 0.6, 0.5, 0.7),
        Point("dear", 2000, 0.7, 0.6, 0.8),
    )
    beaten = Point("beaten", 200, 0.4, NAN, NAN)
    picture = cost([dear, beaten, cheap, free, Point("lost", NAN, 0.5, 0.4, 0.6)], "minutes")
    root = read(picture)
    (at_free, _), (at_cheap, high), (at_beaten, low), (at_dear, _) = (
        dot(root, f"{name} ") for name in ("free", "cheap", "beaten", "dear")
    )
    assert at_free < at_cheap and at_beaten - at_cheap == pytest.approx(at_dear - at_beaten, abs=0.1)
    y = scale(root, "y", "0.1", "0.7")
    assert low - high == pytest.approx(y(0.4) - y(0.6), abs=0.02)
    on = [hint for hint in hinted(root) if hint.endswith("on the front")]
    assert [hint.split()[0] for hint in on] == ["dear", "cheap", "free"]
    texts = {text.text for text in root.iter("text")}
    assert {"free", "cheap", "dear", "0", "minutes"} <= texts
    assert picture is not None and "Others: beaten 0.400 at 200 minutes." in picture.text
    assert cost([Point("a", NAN, 0.5, 0.4, 0.6), Point("b", 1, NAN, NAN, NAN)], "minutes") is None


def test_names_of_the_front_do_not_overprint() -> None:
    names = ["arcface", "aligned", "siamese", "triplet", "ensemble"]
    some = [Point(name, 30 + at / 10, 0.5 + 0.002 * at, NAN, NAN) for at, name in enumerate(names)]
    some.append(Point("dear", 3000, 0.6, NAN, NAN))
    texts = [text for text in read(cost(some, "minutes")).iter("text") if text.text in names]
    places = [(float(text.get("x", "")), float(text.get("y", ""))) for text in texts]
    assert len(places) == 5
    for at, (x, y) in enumerate(places):
        assert all(abs(y - other_y) >= 8 or abs(x - other) >= 40 for other, other_y in places[at + 1 :])


def test_candidates_are_counted_along_the_curve() -> None:
    shares = [0.5, 0.6, 0.65, 0.7, 0.72]
    root = read(cmc([("a", shares), ("b", [0.4] * 5), ("none", []), ("undefined", [NAN] * 5)]))
    x, y = scale(root, "x", "1", "5"), scale(root, "y", "0.4", "0.8")
    assert {"a", "b"} <= {text.text for text in root.iter("text")}
    line = points(hinted(root)["a"].find("path"))
    expected = [(x(place), y(share)) for place, share in enumerate(shares, start=1)]
    assert np.array(line) == pytest.approx(np.array(expected), abs=0.02)
    assert cmc([("none", [])]) is None


def test_the_effort_rises_in_steps_and_has_its_dots_on_them() -> None:
    root = read(effort([reviewed("<run>")]))
    steps = points(hinted(root)["<run>"].find("path"))
    assert steps == sorted(steps, key=lambda point: (point[0], -point[1])) and len(steps) == 8
    heights = [float(text.get("y", "")) for text in root.iter("text") if text.text in ("0 %", "100 %")]
    top, base = min(heights), max(heights)
    x, y = dot(root, "<run>: 90 % of the matches by 3 [2, 5] candidates")
    assert (x, y) in [(pytest.approx(a, abs=0.02), pytest.approx(b, abs=0.02)) for a, b in steps]
    assert y == pytest.approx(steps[0][1] + 0.9 * (top - base), abs=0.1)
    assert "40 candidates" in read(effort([reviewed("a"), reviewed("b")])).get("aria-label", "")
    empty = effort([Reviewed("run", {"candidates": [], "found": []}, [])])
    assert "run: no known photo." in empty.text and "no known photo" in [*read(empty).itertext()]


def test_reliability_stands_on_the_diagonal_where_it_is_right() -> None:
    root = read(reliability(CALIBRATED, "a"))
    pairs = [line for path in root.iter("path") if len(line := points(path)) == 2]
    (diagonal,) = [line for line in pairs if line[0][0] != line[1][0] and line[0][1] != line[1][1]]
    (left, base), (right, top) = diagonal
    assert right - left == base - top == SQUARE
    expected = [(left + SQUARE * share, base - SQUARE * share) for share in (0.2, 0.5, 0.9)]
    lines = [points(path) for path in root.iter("path") if len(points(path)) == 3]
    after = [line for line in lines if np.array(line) == pytest.approx(np.array(expected), abs=0.02)]
    assert len(after) == 1
    assert reliability({}, "a") is None and reliability({"reliability_before": BINS}, "a") is None


def test_a_histogram_has_a_bar_a_bin_and_its_middle() -> None:
    values = np.array([0.1] * 6 + [0.9] * 3 + [1.0000001])
    picture = histogram("box_iou", values, "a")
    bars = [
        points(path)
        for path in read(picture).iter("path")
        if len(points(path)) == 5 or "z" in path.get("d", "")
    ]
    heights = sorted(max(y for _, y in bar) - min(y for _, y in bar) for bar in bars)
    assert heights == pytest.approx([runs.BARS_HEIGHT * share for share in (1 / 6, 0.5, 1)], abs=0.05)
    assert picture.text == "Mean 0.43 of 10 photos."
    far = histogram("landmark_error", np.array([0.1] * 200 + [5.0]), "a")
    assert far.text == "Median 10 % of 201 photos, 1 beyond." and "10 %, 1 beyond" in [*read(far).itertext()]
    assert read(histogram("landmark_error", np.zeros(3), "a")) is not None
    table = pd.DataFrame({"box_iou": [0.5, NAN], "mask_iou": [NAN, NAN]})
    assert [*measures(table)] == ["box_iou"] and measures(None) == {}


def test_a_learning_curve_shows_each_stage_and_the_highest_epoch() -> None:
    stages = ("localizer", [4.0, 2.0], [NAN, NAN]), ("train", [3.0, math.inf, 1.0], [0.2, 0.62, 0.4])
    picture = learning(curve(*stages), "a")
    root = read(picture)
    assert picture is not None and picture.text == (
        "localizer: 2 epochs, loss 4 to 2; train: 3 epochs, loss 3 to 1; "
        "MAP@5 on valid: highest 0.620 at epoch 2, 0.400 at the end."
    )
    assert {"localizer", "train", "4 → 2", "highest 0.620 at epoch 2"} <= {*root.itertext()}
    falling = points(hinted(root)["localizer: 2 epochs, loss 4 to 2"].find("path"))
    assert falling[0][1] < falling[1][1]
    y = scale(root, "y", "0.2", "0.6")
    mark = hinted(root)["train: 0.620 at epoch 2"].find("path")
    assert mark is not None
    assert float(mark.get("transform", "").split()[1][:-1]) == pytest.approx(y(0.62), abs=0.02)
    again = learning(curve(("a", [1.0], [NAN]), ("b", [1.0], [NAN]), ("a", [NAN], [NAN])), "x")
    assert again is not None and again.text.startswith("a: 1 epoch, loss 1 to 1; b: 1 epoch")
    many = learning(curve(*((f"stage {at}", [2.0, 1.0], [0.1, 0.2]) for at in range(10))), "x")
    assert {f"stage {at}" for at in range(10)} <= {*read(many).itertext()}
    assert learning(curve(), "a") is None


def placed(root: ET.Element) -> dict[str, list[tuple[float, float]]]:
    """Where each text begins."""
    found: dict[str, list[tuple[float, float]]] = {}
    for text in root.iter("text"):
        found.setdefault(text.text or "", []).append((float(text.get("x", "")), float(text.get("y", ""))))
    return found


def test_what_the_colours_of_three_losses_mean_stands_above_the_first_stage() -> None:
    names = ("aligner", "network_1.train", "network_2.train")
    table = curve(*((name, [2.0, 1.0], [0.1, 0.2]) for name in names))
    at = placed(read(learning(table.assign(train_loss=table["loss"], valid_loss=table["loss"]), "x")))
    legend = [place for words in ("in training", "train as evaluated", "valid") for place in at[words]]
    assert len(legend) == 3 and len({y for _, y in legend}) == 1
    assert all(at[name][0][1] - legend[0][1] >= 12 for name in names)


NETWORKS = [f"bag_{bag}.network_{network}.train" for bag in (1, 2) for network in (1, 2)]
STAGED = {
    "networks": (["aligner", *(name.partition(".")[2] for name in NETWORKS[:2])], 3),
    "bags": (NETWORKS, 2),
    "cycles": ([name.replace(".", ".cycle_2.", 1) for name in NETWORKS], 2),
    "one part too long": ([f"{name}.{'x' * 20}" for name in NETWORKS], 2),
    "nowhere to cut": (["x" * 300 + end for end in "ab"], 1),
}


@pytest.mark.parametrize(("names", "abreast"), STAGED.values(), ids=STAGED)
def test_the_names_of_stages_differ_and_are_not_cut(names: list[str], abreast: int) -> None:
    picture = learning(curve(*((name, [2.0, 1.0], [0.1, 0.3]) for name in names)), "x")
    at, cut = placed(read(picture)), names[0].startswith("xxx")
    above = {(x, y - 14) for x, y in at["2 → 1"]}
    shown = [text for text, places in at.items() if above & {*places}]
    assert len(shown) == len(names) and all(text.endswith("…") == cut for text in shown)
    assert all(len(at[text]) == 2 for text in shown), "above its losses and below its scores"
    rows = [sorted(x for x, y in above if y == height) for height in {y for _, y in above}]
    assert max(map(len, rows)) == abreast
    for text in shown:
        left, y = at[text][0]
        assert left + width_of(text, 11) <= min(
            x for x, height in [*above, (WIDTH, y)] if height == y and x > left
        )
    assert cut or f"highest 0.300 at epoch 2 of {shown[0]}" in at
    assert picture is not None and f"highest 0.300 at epoch 2 of {names[0][:79]}" in picture.text


def test_what_the_scores_rest_on_has_a_mark_a_way_and_a_line_a_run() -> None:
    root = read(
        shortcuts([("a", {"test": 0.7, "chance": 0.1, "without_animal": None, "annotated": 0.7}), ("b", {})])
    )
    x = scale(root, "x", "0.2", "0.8")
    assert dot(root, "a, as tested: 0.700")[0] == pytest.approx(x(0.7), abs=0.02)
    assert [hint for hint in hinted(root) if hint[:1] in "ab"] == ["a, as tested: 0.700", "a, chance: 0.100"]
    assert shortcuts([("b", {"test": None})]) is None


def test_a_grid_is_deeper_where_scores_are_higher() -> None:
    root = read(seed_grid({0: {0: 0.5, 1: 0.7}, 1: {0: 0.6, 1: NAN}}, "a"))
    cells = [float(path.get("opacity", "1")) for path in root.iter("path") if "z" in path.get("d", "")]
    assert cells[0] < cells[2] < cells[1] == DEEPEST and len(cells) == 3
    assert {"0.500", "0.700", "0.600", "–", "fold 1", "seed 1"} <= {*root.itertext()}
    flat = read(seed_grid({0: dict.fromkeys(range(12), 0.5)}, "a"))
    assert {"seed 11", "fold 0"} <= {*flat.itertext()} and float(flat.get("height", "")) > 300
    assert seed_grid({}, "a") is None and seed_grid({0: {0: NAN}}, "a") is None


def test_a_study_has_a_mark_a_trial_and_a_bar_a_field() -> None:
    picture = tuning(study(["x", "y", "<b>"]))
    root, groups = read(picture), hinted(read(picture))
    assert [hint for hint in groups if hint.startswith("trial")] == [
        "trial 0: the defaults",
        "trial 1: x",
        "trial 2: y",
        "trial 3: x y <b>",
    ]
    best = points(groups["the best so far"].find("path"))
    assert best[0][1] == best[1][1] == best[2][1] > best[3][1]
    y = scale(root, "y", "0.3", "0.6")
    assert dot(root, "trial 1")[1] == pytest.approx(y(0.3), abs=0.02)
    assert dot(root, "trial 3")[1] == pytest.approx(y(0.6), abs=0.02)
    fills = [groups[f"trial {number}"].find("circle") for number in ("0: the defaults", "1: x")]
    assert [fill.get("fill") for fill in fills if fill is not None] == [
        f"var(--{name}, {LIGHT[name]})" for name in ("mark", "paper")
    ]
    bars = [points(path) for path in root.iter("path") if path.get("stroke-width") == "10"]
    wide = [right - left for (left, _), (right, _) in bars]
    assert wide[0] == pytest.approx(3 * wide[1], abs=0.1) and "75 %" in [*root.itertext()]
    assert "the best scores 0.600 on valid, the defaults 0.500." in picture.text
    nothing = tuning(study(["x", "y", "z"]) | {"trials": [], "importance": {}})
    assert "0 trials; no trial is complete." in nothing.text


def range_tests(names: list[str]) -> dict[str, Any]:
    """A document of `lr-find`: each training falls from 5 to 3 at 1e-3, and grows to 50 at 1e-1."""
    training = {
        "rates": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
        "losses": [5.0, 5.0, 3.0, 4.0, 50.0],
        "mean_rates": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
        "mean_losses": [5.0, 5.0, 3.0, 4.0, 50.0],
    } | {"steepest": 1e-3, "tenth_of_least": None, "configured": 1e-2}
    run = {"method": names[0], "benchmark": "flukes", "fold": 0, "seed": 0}
    return run | {"trainings": [training | {"part": name} for name in names]}


def test_a_range_test_has_a_line_at_each_rate_that_says_something() -> None:
    picture = rates(range_tests(["network"]))
    root, groups = read(picture), hinted(read(picture))
    at = {text.text: float(text.get("x", "")) for text in root.iter("text") if text.text}
    lines = {hint: points(group.find("path")) for hint, group in groups.items()}
    assert lines.keys() == {"fastest at 0.001", "set 0.01"}
    assert (
        lines["fastest at 0.001"][0][0]
        == lines["fastest at 0.001"][1][0]
        == pytest.approx(at["1e-3"], abs=0.05)
    )
    assert lines["set 0.01"][0][0] == pytest.approx(at["1e-2"], abs=0.05)
    assert picture.text == "network: fastest at 0.001, set 0.01."
    empty = {"rates": [], "losses": [], "mean_rates": [], "mean_losses": [], "steepest": None}
    nothing = range_tests(["a"])
    nothing["trainings"][0] |= empty
    assert rates(nothing).text == "a: set 0.01."


def test_a_board_has_its_table_as_text_and_its_intervals_drawn() -> None:
    rows = [("A 1", "arcface", "0.720 [0.66, 0.78]", "2 × 5"), ("–", "floor", "0.400", "–")]
    scored = [Mark("arcface", 0.72, 0.66, 0.78), Mark("floor", 0.4, NAN, NAN)]
    sentences = ["A: " + "word " * 80, "† a mark"]
    picture = board("flukes", HEADER, rows, scored, sentences)
    root = read(picture)
    texts = [*root.iter("text")]
    shown = {text.text for text in texts}
    assert {cell for row in rows for cell in row} <= shown and "† a mark" in shown
    assert (
        " ".join(text for text in (one.text or "" for one in texts) if "word" in text) == sentences[0].strip()
    )
    x = scale(root, "x", "0.4", "0.8")
    assert dot(root, "arcface")[0] == pytest.approx(x(0.72), abs=0.02)
    places = {text.text: float(text.get("y", "")) for text in texts}
    anchors = {text.text: text.get("text-anchor") for text in texts}
    assert anchors["arcface"] == anchors["method"] == "start" and anchors["A 1"] == anchors["rank"] == "end"
    assert dot(root, "arcface")[1] == pytest.approx(places["arcface"] - 4, abs=1)
    wide = board(
        "flukes", (*HEADER, *map(str, range(20))), [(*row, *["0.123"] * 20) for row in rows], scored, []
    )
    lefts = sorted({float(text.get("x", "")) for text in read(wide).iter("text") if text.text == "0.123"})
    assert len(lefts) == 20 and all(after - before > 30 for before, after in pairwise(lefts))
