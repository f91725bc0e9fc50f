"""Affine maps: there and back, one after the other, and those that bring points to their places."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whalebench.benchmarks.core.photos import Batch
from whalebench.methods.parts.geometry import (
    affine_maps,
    box_windows,
    compose,
    fit_affine,
    fit_similarity,
    identity_maps,
    invert,
    is_degenerate,
    move,
    warp,
)

HEIGHT, WIDTH = 40, 60

amounts = st.tuples(
    st.floats(-math.pi, math.pi),
    st.floats(-0.4, 0.4),
    st.floats(0.6, 1.6),
    st.floats(0.6, 1.6),
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
)


def random_map(values: tuple[float, ...]) -> torch.Tensor:
    angle, shear, across, down, x, y = (torch.tensor([value], dtype=torch.float64) for value in values)
    return affine_maps(angle, shear, across, down, torch.stack([x, y], dim=1), WIDTH / HEIGHT)


def blob(x: float, y: float) -> torch.Tensor:
    """(1, 1, height, width): a soft dot at x, y in pixels."""
    down, across = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    return torch.exp(-((across[None] - x) ** 2 + (down[:, None] - y) ** 2) / 10)[None, None]


@settings(max_examples=60, deadline=None)
@given(amounts, st.floats(-1, 1), st.floats(-1, 1))
def test_a_map_and_its_inverse_return_every_point(values: tuple[float, ...], x: float, y: float) -> None:
    forward = random_map(values)
    point = torch.tensor([[[x, y]]], dtype=torch.float64)
    assert torch.allclose(move(move(point, forward), invert(forward)), point, atol=1e-9)
    assert torch.allclose(compose(forward, invert(forward)), identity_maps(1), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(amounts, amounts)
def test_one_map_after_the_other(first: tuple[float, ...], then: tuple[float, ...]) -> None:
    point = torch.tensor([[[0.3, -0.7], [0.1, 0.2]]], dtype=torch.float64)
    one, other = random_map(first), random_map(then)
    assert torch.allclose(move(point, compose(one, other)), move(move(point, one), other), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(amounts)
def test_photo_mask_and_landmark_come_back_together(values: tuple[float, ...]) -> None:
    """What is still in the frame after a warp is where it was after the inverse."""
    dot = blob(33.0, 18.0)
    batch = Batch(dot.repeat(1, 3, 1, 1), landmarks=torch.tensor([[[33.0, 18.0]]]), masks=dot)
    forward = random_map(values).float()
    moved = warp(batch, forward, outside="zeros")
    back = warp(moved, invert(forward), outside="zeros")
    assert moved.landmarks is not None
    assert back.landmarks is not None
    assert back.masks is not None
    assert torch.allclose(back.landmarks, batch.landmarks, atol=1e-3)
    x, y = moved.landmarks[0, 0].tolist()
    if 9 < x < WIDTH - 9 and 9 < y < HEIGHT - 9:
        assert float((back.pixels - batch.pixels).abs().max()) < 0.3
        assert float((back.masks - dot).abs().max()) < 0.3


@settings(max_examples=40, deadline=None)
@given(st.floats(0.6, 1.6), st.floats(0.6, 1.6), st.floats(-0.1, 0.1), st.booleans(), st.booleans())
def test_a_box_without_turning_comes_back(a: float, b: float, c: float, flip: bool, upset: bool) -> None:
    boxes = torch.tensor([[25.0, 15.0, 40.0, 25.0]])
    forward = random_map((0.0, 0.0, -a if flip else a, -b if upset else b, c, c)).float()
    batch = Batch(torch.zeros(1, 3, HEIGHT, WIDTH), boxes=boxes)
    back = warp(warp(batch, forward), invert(forward)).boxes
    assert back is not None
    assert torch.allclose(back, boxes, atol=1e-3)


def test_a_warp_into_another_size_keeps_shares() -> None:
    batch = Batch(
        blob(30.0, 20.0).repeat(1, 3, 1, 1),
        boxes=torch.tensor([[15.0, 10.0, 45.0, 30.0]]),
        landmarks=torch.tensor([[[30.0, 10.0]]]),
    )
    seen = warp(batch, identity_maps(1).float(), (80, 30))
    assert seen.pixels.shape == (1, 3, 80, 30)
    assert seen.boxes is not None
    assert seen.landmarks is not None
    assert seen.boxes.tolist() == [[7.5, 20.0, 22.5, 60.0]]
    assert seen.landmarks.tolist() == [[[15.0, 20.0]]]


def test_the_window_of_a_box_is_the_box() -> None:
    boxes = torch.tensor([[-0.5, 0.0, 0.25, 1.0], [-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    maps = box_windows(boxes)
    corners = move(boxes.reshape(2, 2, 2), maps)
    assert corners.tolist() == [[[-1, -1], [1, 1]]] * 2
    assert torch.equal(maps[1:], identity_maps(1))


@settings(max_examples=40, deadline=None)
@given(amounts)
def test_least_squares_finds_an_affine_map_again(values: tuple[float, ...]) -> None:
    points = torch.tensor([[[-0.6, -0.4], [0.5, -0.5], [0.1, 0.7], [0.0, 0.1]]], dtype=torch.float64)
    forward = random_map(values)
    assert torch.allclose(fit_affine(points, move(points, forward)[0]), forward, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(0.3, 3.0), st.floats(-2, 2), st.floats(-2, 2))
def test_two_points_are_met_by_turn_zoom_and_shift(angle: float, zoom: float, x: float, y: float) -> None:
    points = torch.tensor([[[0.2, -0.3], [-0.4, 0.6]]], dtype=torch.float64)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    targets = points[0] @ (zoom * turn).mT + torch.tensor([x, y])
    maps = fit_similarity(points, targets)
    assert torch.allclose(move(points, maps)[0], targets, atol=1e-9)
    linear = maps[0, :, :2]
    assert torch.allclose(linear @ linear.mT, zoom**2 * torch.eye(2, dtype=torch.float64), atol=1e-8)
    assert float(torch.linalg.det(linear)) > 0


@pytest.mark.parametrize(
    ("linear", "useless"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], False),
        ([[3.0, 1.0], [-1.0, 0.5]], False),
        ([[-1.0, 0.0], [0.0, 1.0]], True),
        ([[1.0, 1.0], [1.0, 1.0]], True),
        ([[1000.0, 0.0], [0.0, 1.0]], True),
        ([[math.nan, 0.0], [0.0, 1.0]], True),
    ],
)
def test_maps_that_are_of_no_use(linear: list[list[float]], useless: bool) -> None:
    forward = torch.cat([torch.tensor(linear), torch.zeros(2, 1)], dim=1)[None]
    assert is_degenerate(forward).tolist() == [useless]


def test_points_in_one_place_give_a_map_of_no_use() -> None:
    points = torch.full((1, 2, 2), 0.3, dtype=torch.float64)
    assert is_degenerate(fit_similarity(points, torch.tensor([[0.1, 0.0], [0.5, 0.0]]))).tolist() == [True]
