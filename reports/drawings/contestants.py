"""Contestants in pictures: how they stand, what they cost, where they find the truth, by fold and seed."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import isfinite, isnan, log10, nan
from typing import NamedTuple

from whalebench.reports.drawings.sheets import Sheet, sheet
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    INK,
    LINE,
    MARK,
    PAPER,
    SECOND,
    SMALL,
    WIDTH,
    Picture,
    brief,
    compact,
    drawn_as,
    fitted,
    listed,
    styles,
    tenth_ticks,
    tenths,
    width_of,
)
from whalebench.reports.wording import between, number, span


class Mark(NamedTuple):
    """A score with the ends of its interval, NaN where there is none, and the ranks it may have."""

    name: str
    value: float
    low: float
    high: float
    rank_low: int | None = None
    rank_high: int | None = None
    letter: str = ""
    """Of the group that it is in; empty for none. Who is alone in one has no ranks."""

    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice where there is none."""
        return (self.value, self.value) if isnan(self.low) else (self.low, self.high)

    def said(self) -> str:
        """The score in words."""
        ranks = f", rank {self.letter} {span(self.rank_low, self.rank_high)}" if self.rank_low else ""
        return f"{brief(self.name)} {between(*self[1:4])}{ranks}"


ROW, LANE = 36, 15
"""Height of a contestant's name with its bar below, and where the bar's lane begins."""
RANKS_WIDTH = 72
FLOOR_ROW = 15


def standings(marks: Sequence[Mark], floors: Sequence[tuple[str, float]] = ()) -> Picture | None:
    """MAP@5 as a dot, its interval as a bar, floors as dashed lines; beside them the interval of the rank.

    None where no mark has a value.
    """
    marks = [mark for mark in marks if not isnan(mark.value)]
    floors = sorted((floor for floor in floors if not isnan(floor[1])), key=lambda floor: floor[1])
    if not marks:
        return None
    low, high = tenths([*(end for mark in marks for end in mark.ends()), *(value for _, value in floors)])
    ranked = any(mark.rank_low for mark in marks)
    wide = WIDTH - 2 * EDGE - (RANKS_WIDTH + 32 if ranked else 0)
    top = 22 + FLOOR_ROW * len(floors) + (4 if floors else 0)
    rows = ROW * len(marks)
    with sheet(WIDTH, top + rows + 20) as page:
        limits = (rows, 0)
        axes = page.axes((EDGE + 4, top, wide - 8, rows), (low, high), limits, tenth_ticks(low, high))
        page.text(EDGE, 13, "MAP@5 with its 95 % interval", colour=FAINT, size=SMALL)
        for tick in tenth_ticks(low, high):
            axes.plot(*_lanes(tick, len(marks)), color=LINE, linewidth=1)
        for place, (name, value) in enumerate(floors):
            _floor(page, place, f"{name} {value:.3f}", page.place(axes, value, 0)[0], top)
            axes.plot(*_lanes(value, len(marks)), color=SECOND, linewidth=1.25, dashes=(4, 2))
        for place, mark in enumerate(marks):
            y = ROW * place + LANE + 9
            axes.plot(mark.ends(), (y, y), color=MARK, linewidth=3)
            (dot,) = axes.plot([mark.value], [y], "o", color=MARK, markersize=8, markeredgecolor=PAPER)
            page.hint(dot, mark.said())
            said = between(*mark[1:4])
            room = WIDTH - 3 * EDGE - width_of(said, SMALL)
            page.text(EDGE, top + y - 12, mark.name, room)
            page.text(WIDTH - EDGE, top + y - 12, said, anchor="right", colour=FAINT, size=SMALL)
        if ranked:
            _ranks(page, marks, top)
        text = f"Best first: {listed([mark.said() for mark in marks])}"
        if floors:
            text += f" Floors: {listed([f'{brief(name)} {value:.3f}' for name, value in floors])}"
        return page.picture("MAP@5 with its 95 % interval", text)


def _lanes(x: float, number: int) -> tuple[list[float], list[float]]:
    """A vertical line at x through the lanes of so many rows, past their names."""
    heights = [ROW * place + y for place in range(number) for y in (LANE, ROW, nan)]
    return [x] * len(heights), heights


def _floor(page: Sheet, place: int, said: str, x: float, top: float) -> None:
    """The label of a floor, each in a line of its own, from which its dashes go down."""
    y = 22 + FLOOR_ROW * place
    right = x + 5 + width_of(said, SMALL) <= WIDTH - EDGE
    page.text(x + (5 if right else -5), y + 10, said, anchor="left" if right else "right", size=SMALL)
    page.line((x, x), (y, top - 2), color=SECOND, linewidth=1.25, dashes=(4, 2))


def _ranks(page: Sheet, marks: Sequence[Mark], top: float) -> None:
    """The ranks that each may have among those with its letter."""
    last = max(mark.rank_high or 1 for mark in marks)
    left, rows = WIDTH - EDGE - RANKS_WIDTH, ROW * len(marks)
    ticks = {1.0: "1", float(last): f"{last}"}
    axes = page.axes((left, top, RANKS_WIDTH, rows), (0.5, last + 0.5), (rows, 0), ticks)
    page.text(WIDTH - EDGE, 13, "rank", anchor="right", colour=FAINT, size=SMALL)
    for rank in range(1, last + 1) if last <= 20 else (1, last):
        axes.plot(*_lanes(rank, len(marks)), color=LINE, linewidth=1)
    for place, mark in enumerate(marks):
        y = ROW * place + LANE + 9
        page.text(left - 5, top + y + 4, mark.letter, 20, anchor="right", size=SMALL)
        if mark.rank_low and mark.rank_high:
            ends = (mark.rank_low - 0.3, mark.rank_high + 0.3)
            (bar,) = axes.plot(ends, (y, y), color=MARK, linewidth=7)
            page.hint(bar, f"{brief(mark.name)}: rank {mark.letter} {span(mark.rank_low, mark.rank_high)}")


class Point(NamedTuple):
    """A score with the ends of its interval, and what it cost."""

    name: str
    cost: float
    value: float
    low: float
    high: float

    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice where there is none."""
        return (self.value, self.value) if isnan(self.low) else (self.low, self.high)


COST_HEIGHT = 240
NAME_WIDTH = 120


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those than which none is both as cheap and better or cheaper and as good, by rising cost."""
    ordered = sorted(points, key=lambda point: (point.cost, -point.value))
    best = [-1.0, *accumulate((point.value for point in ordered), max)]
    return [point for point, before in zip(ordered, best, strict=False) if point.value > before]


def cost(points: Sequence[Point], axis: str) -> Picture | None:
    """MAP@5 with its interval over what it cost, on a logarithmic axis that is called as is said.

    Those than which none is cheaper and better are full and joined by the front. A cost of zero has its
    own place. None where no point has both numbers.
    """
    points = [one for one in points if isfinite(one.cost) and one.cost >= 0 and not isnan(one.value)]
    if not points:
        return None
    front = pareto_front(points)
    low, high = tenths([end for point in points for end in point.ends()])
    ticks, zero = log_ticks([point.cost for point in points if point.cost > 0])
    if any(point.cost == 0 for point in points):
        ticks = {zero: "0", **ticks}
    places = {point: log10(point.cost) if point.cost else zero for point in points}
    ends = [*places.values(), *ticks]
    margin = 0.06 * (max(ends) - min(ends)) or 0.5
    with sheet(WIDTH, COST_HEIGHT + 56) as page:
        x_limits = (min(ends) - margin, max(ends) + margin)
        box = (36, 20, WIDTH - 36 - EDGE, COST_HEIGHT)
        axes = page.axes(box, x_limits, (low, high), ticks, tenth_ticks(low, high))
        page.text(EDGE, 12, "MAP@5", colour=FAINT, size=SMALL)
        page.text(WIDTH - EDGE, COST_HEIGHT + 50, axis, anchor="right", colour=FAINT, size=SMALL)
        steps = [*(places[point] for point in front), x_limits[1]]
        heights = [point.value for point in front]
        axes.step(steps, [*heights, heights[-1]], where="post", color=SECOND, linewidth=1.25, dashes=(4, 2))
        taken = []
        for point in points:
            x, inside = places[point], point in front
            axes.plot((x, x), point.ends(), color=MARK, linewidth=1.5)
            fill = MARK if inside else PAPER
            (dot,) = axes.plot([x], [point.value], "o", color=fill, markersize=8, markeredgecolor=MARK)
            page.hint(dot, f"{_costs(point, axis)}{', on the front' if inside else ''}")
            across, down = page.place(axes, x, point.value)
            tops = [page.place(axes, x, end)[1] for end in point.ends()]
            taken += [Box(across - 5, down - 5, 10, 10), Box(across - 1, tops[1], 2, tops[0] - tops[1])]
        for point in [*front, *(one for one in points if one not in front)]:
            _name(page, point, page.place(axes, places[point], point.value), taken, must=point in front)
        text = f"None is cheaper and better than {listed([_costs(point, axis) for point in front])}"
        others = [_costs(point, axis) for point in points if point not in front]
        return page.picture(f"MAP@5 over {axis}", text + (f" Others: {listed(others)}" if others else ""))


def _costs(point: Point, axis: str) -> str:
    return f"{brief(point.name)} {between(*point[2:])} at {compact(float(f'{point.cost:.3g}'))} {axis}"


class Box(NamedTuple):
    """A part of a sheet."""

    x: float
    y: float
    width: float
    height: float

    def shared(self, other: "Box") -> float:
        """The area that both have in common."""
        wide = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        high = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(wide, 0) * max(high, 0)


def _name(page: Sheet, point: Point, at: tuple[float, float], taken: list[Box], *, must: bool) -> None:
    """The name beside its dot where most is free; where nothing is, only if it must."""
    shown = fitted(point.name, NAME_WIDTH, SMALL)
    wide = width_of(shown, SMALL)
    boxes = [
        Box(x, y, wide, 12)
        for y in (at[1] - 16, at[1] + 4, at[1] - 6, at[1] - 28, at[1] + 16)
        for x in (at[0] - wide - 7, at[0] + 7)
        if EDGE <= x <= WIDTH - EDGE - wide + 1 and y >= 4
    ]
    costs = [sum(box.shared(other) for other in taken) for box in boxes]
    if costs and (must or min(costs) == 0):
        best = boxes[costs.index(min(costs))]
        taken.append(best)
        page.text(best.x, best.y + 10, point.name, NAME_WIDTH, size=SMALL, colour=INK if must else FAINT)


def log_ticks(values: Sequence[float]) -> tuple[dict[float, str], float]:
    """The ticks of a logarithmic axis that holds the values, by their logarithm, and where a zero is put."""
    if not values:
        return {}, 0.0
    low, high = log10(min(values)), log10(max(values))
    first, last = int(low // 1), -int(-high // 1)
    powers = range(first, last + 1, max(1, -(-(last - first) // 5)))
    parts = (1,) if last - first > 2 else (1, 3) if last - first == 2 else (1, 2, 5)
    every = [log10(part) + power for power in powers for part in parts]
    below = [tick for tick in every if tick <= low] or every[:1]
    above = [tick for tick in every if tick >= high] or [max(every)]
    kept = [tick for tick in every if below[-1] <= tick <= above[0]]
    return {tick: compact(float(f"{10**tick:.1g}")) for tick in kept}, below[-1] - 0.5


CMC_HEIGHT = 200


def cmc(curves: Sequence[tuple[str, Sequence[float]]]) -> Picture | None:
    """The share of known photos whose individual is among the first candidates, a line a curve.

    None where no curve has a number.
    """
    curves = [(name, shares) for name, shares in curves if len(shares) and not any(map(isnan, shares))]
    if not curves:
        return None
    low, high = tenths([share for _, shares in curves for share in shares])
    last = max(len(shares) for _, shares in curves)
    ticks = {float(place): f"{place}" for place in (1, *range(5, last + 1, 5))}
    said = [(name, f"{shares[0]:.3f} first, {shares[-1]:.3f} of {len(shares)}") for name, shares in curves]
    with sheet(WIDTH, CMC_HEIGHT + 60 + 18 * len(curves)) as page:
        box = (36, 20, WIDTH - 36 - 2 * EDGE, CMC_HEIGHT)
        axes = page.axes(box, (0.5, max(last, 2) + 0.5), (low, high), ticks, tenth_ticks(low, high))
        page.text(EDGE, 12, "share found", colour=FAINT, size=SMALL)
        what = "candidates looked at"
        page.text(WIDTH - EDGE, CMC_HEIGHT + 48, what, anchor="right", colour=FAINT, size=SMALL)
        for (name, shares), style in zip(curves, styles(len(curves)), strict=True):
            (drawn,) = axes.plot(range(1, len(shares) + 1), shares, **drawn_as(style))
            drawn.set_markevery([place for place in (0, 4, 9, 14, 19) if place < len(shares)])
            page.hint(drawn, brief(name))
        page.legend(CMC_HEIGHT + 56, said)
        title = "Share of known photos found among the first candidates"
        return page.picture(title, listed([f"{brief(name)}: {words}" for name, words in said]))


CELL, DEEPEST = 26, 0.45
"""Height of a cell, and how much colour the highest one has: text on more would be hard to read."""
CELLS_LEFT, CELLS_TOP = 60, 24


def seed_grid(values: Mapping[int, Mapping[int, float]], name: str) -> Picture | None:
    """MAP@5 by fold and seed: the higher, the more colour the cell has. None where there is no number.

    What there are more of goes down.
    """
    cells = {(fold, seed): value for fold, row in values.items() for seed, value in row.items()}
    found = [value for value in cells.values() if not isnan(value)]
    if not found:
        return None
    down, across = ("fold", sorted(values)), ("seed", sorted({seed for _, seed in cells}))
    if len(across[1]) > len(down[1]):
        down, across = across, down
        cells = {(seed, fold): value for (fold, seed), value in cells.items()}
    wide, low, high = min(52, (WIDTH - CELLS_LEFT - EDGE) / len(across[1])), min(found), max(found)
    width, tall = wide * len(across[1]), CELL * len(down[1])
    with sheet(CELLS_LEFT + width + EDGE, CELLS_TOP + tall + 6) as page:
        axes = page.axes((CELLS_LEFT, CELLS_TOP, width, tall), (0, len(across[1])), (len(down[1]), 0))
        for column, one in enumerate(across[1]):
            title = f"{across[0]} {one}" if wide > 46 else f"{one}"
            x = CELLS_LEFT + wide * (column + 0.5)
            page.text(x, 16, title, wide, anchor="center", colour=FAINT, size=SMALL)
        for row, one in enumerate(down[1]):
            y = CELLS_TOP + CELL * (row + 0.5) + 4
            page.text(CELLS_LEFT - 8, y, f"{down[0]} {one}", anchor="right", colour=FAINT, size=SMALL)
            for column, other in enumerate(across[1]):
                value = cells.get((one, other), nan)
                if not isnan(value):
                    share = 0.05 + 0.95 * (value - low) / ((high - low) or 1)
                    corners = (column, column + 1, column + 1, column), (row, row, row + 1, row + 1)
                    axes.fill(*corners, facecolor=MARK, alpha=DEEPEST * share)
                x, shown = CELLS_LEFT + wide * (column + 0.5), number(value, 3 if wide >= 38 else 2)
                page.text(x, y, shown, wide, anchor="center", size=SMALL)
        said = [f"fold {fold}: {_least_and_most(row)}" for fold, row in sorted(values.items())]
        return page.picture(f"{brief(name)}: MAP@5 by fold and seed", listed(said, most=10))


def _least_and_most(row: Mapping[int, float]) -> str:
    found = [value for value in row.values() if not isnan(value)]
    ends = sorted({number(min(found)), number(max(found))}) if found else ["no number"]
    return " to ".join(ends)
