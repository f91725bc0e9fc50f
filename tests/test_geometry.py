"""Affine matrices: what they move moves together, there and back, and points come to their places."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from whalebench.benchmarks.core.photos import Batch
from whalebench.methods.parts.geometry import (
    _sampled_at,
    affine_matrices,
    compose,
    crop_matrices,
    fit_affine,
    fit_similarity,
    invert,
    is_degenerate,
    transform_corners,
    transform_points,
    warp,
)

HEIGHT, WIDTH = 40, 60
EYE = torch.eye(2, 3, dtype=torch.float64)[None]

amounts = st.tuples(
    st.floats(-math.pi, math.pi),
    st.floats(-0.4, 0.4),
    st.floats(0.6, 1.6),
    st.floats(0.6, 1.6),
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
)
Amounts = tuple[float, ...]


def matrix(values: Amounts) -> torch.Tensor:
    angle, shear, across, down, x, y = (torch.tensor([value], dtype=torch.float64) for value in values)
    return affine_matrices(angle, shear, across, down, torch.stack([x, y], dim=1), WIDTH / HEIGHT)


def dotted(x: float, y: float) -> Batch:
    """One photo with a soft dot at x, y in pixels, its landmark, and the dot as its own mask."""
    down, across = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    dot = torch.exp(-((across[None] - x) ** 2 + (down[:, None] - y) ** 2) / 10)[None, None]
    return Batch(dot.repeat(1, 3, 1, 1), landmarks=torch.tensor([[[x, y]]]), masks=dot)


def centre_of_mass(image: torch.Tensor) -> torch.Tensor:
    """x and y of an image (height, width)."""
    down, across = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    return torch.stack([(image * across).sum(), (image * down[:, None]).sum()]) / image.sum()


@settings(max_examples=60, deadline=None)
@given(amounts, st.floats(-1, 1), st.floats(-1, 1))
def test_a_matrix_and_its_inverse_return_every_point(values: Amounts, x: float, y: float) -> None:
    forward = matrix(values)
    point = torch.tensor([[[x, y]]], dtype=torch.float64)
    back = transform_points(transform_points(point, forward), invert(forward))
    assert torch.allclose(back, point, atol=1e-9)
    assert torch.allclose(compose(forward, invert(forward)), EYE, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(amounts, amounts)
def test_one_matrix_after_the_other(first: Amounts, then: Amounts) -> None:
    points = torch.tensor([[[0.3, -0.7], [0.1, 0.2]]], dtype=torch.float64)
    one, other = matrix(first), matrix(then)
    apart = transform_points(transform_points(points, one), other)
    assert torch.allclose(transform_points(points, compose(one, other)), apart, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(amounts)
def test_photo_mask_and_landmark_go_and_come_back_together(values: Amounts) -> None:
    """What is still in the frame after a warp is at its landmark, and where it was after the inverse."""
    batch, forward = dotted(33.0, 18.0), matrix(values).float()
    moved = warp(batch, forward, outside="zeros")
    back = warp(moved, invert(forward), outside="zeros")
    assert moved.landmarks is not None and back.landmarks is not None
    assert moved.masks is not None and back.masks is not None and batch.masks is not None
    assert torch.allclose(back.landmarks, batch.landmarks, atol=1e-3)
    x, y = moved.landmarks[0, 0].tolist()
    if 9 < x < WIDTH - 9 and 9 < y < HEIGHT - 9:
        for image in (moved.pixels[0, 0], moved.masks[0, 0]):
            assert (centre_of_mass(image) - moved.landmarks[0, 0]).norm() < 0.6
        assert float((back.pixels - batch.pixels).abs().max()) < 0.3
        assert float((back.masks - batch.masks).abs().max()) < 0.3


@settings(max_examples=40, deadline=None)
@given(st.floats(0.6, 1.6), st.floats(0.6, 1.6), st.floats(-0.1, 0.1), st.booleans(), st.booleans())
def test_a_box_without_turning_comes_back(a: float, b: float, c: float, hflip: bool, vflip: bool) -> None:
    boxes = torch.tensor([[25.0, 15.0, 40.0, 25.0]])
    forward = matrix((0.0, 0.0, -a if hflip else a, -b if vflip else b, c, c)).float()
    batch = Batch(torch.zeros(1, 3, HEIGHT, WIDTH), boxes=boxes)
    back = warp(warp(batch, forward), invert(forward)).boxes
    assert back is not None
    assert torch.allclose(back, boxes, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(amounts)
def test_a_box_is_the_smallest_upright_one_round_its_turned_corners_in_the_frame(values: Amounts) -> None:
    x0, y0, x1, y1 = 25.0, 15.0, 40.0, 25.0
    corners = torch.tensor([[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]])
    batch = Batch(torch.zeros(1, 3, HEIGHT, WIDTH), boxes=torch.tensor([[x0, y0, x1, y1]]), landmarks=corners)
    moved = warp(batch, matrix(values).float())
    assert moved.boxes is not None
    assert moved.landmarks is not None
    inside = moved.landmarks.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT]))
    assert torch.allclose(moved.boxes[:, :2], inside.amin(dim=1), atol=1e-3)
    assert torch.allclose(moved.boxes[:, 2:], inside.amax(dim=1), atol=1e-3)


def test_outside_the_photo_is_its_mirror_image_and_no_animal() -> None:
    batch = Batch(torch.ones(1, 3, HEIGHT, WIDTH), masks=torch.ones(1, 1, HEIGHT, WIDTH))
    moved = warp(batch, torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]))
    assert moved.masks is not None
    assert torch.allclose(moved.pixels, batch.pixels)
    assert not moved.masks[..., : WIDTH // 4 - 1].any()
    assert float(moved.masks[..., WIDTH // 4 + 1 :].min()) > 0.999


def test_a_warp_that_moves_nothing_keeps_pixels_and_shares_of_another_size() -> None:
    batch = replace(dotted(30.0, 10.0), boxes=torch.tensor([[15.0, 10.0, 45.0, 30.0]]))
    assert torch.allclose(warp(batch, EYE.float()).pixels, batch.pixels, atol=1e-5)
    seen = warp(batch, EYE.float(), (80, 30))
    assert seen.pixels.shape == (1, 3, 80, 30)
    assert seen.boxes is not None
    assert seen.landmarks is not None
    assert seen.boxes.tolist() == [[7.5, 20.0, 22.5, 60.0]]
    assert seen.landmarks.tolist() == [[[15.0, 20.0]]]


@settings(max_examples=20, deadline=None)
@given(amounts)
def test_photos_are_sampled_where_torch_samples_them(values: Amounts) -> None:
    two = torch.cat([matrix(values), EYE])
    by_torch = F.affine_grid(two, [2, 1, HEIGHT, WIDTH], align_corners=False)
    assert torch.allclose(_sampled_at(two, (HEIGHT, WIDTH)), by_torch, atol=1e-12)


def test_the_crop_of_a_box_is_the_box() -> None:
    boxes = torch.tensor([[-0.5, 0.0, 0.25, 1.0], [-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    matrices = crop_matrices(boxes)
    assert transform_points(boxes.reshape(2, 2, 2), matrices).tolist() == [[[-1, -1], [1, 1]]] * 2
    assert torch.equal(matrices[1:], EYE)
    corners = transform_corners(invert(matrices))
    assert torch.allclose(corners[:, [0, 2]].flatten(1), boxes)


@settings(max_examples=40, deadline=None)
@given(amounts)
def test_least_squares_finds_an_affine_matrix_again(values: Amounts) -> None:
    points = torch.tensor([[[-0.6, -0.4], [0.5, -0.5], [0.1, 0.7], [0.0, 0.1]]], dtype=torch.float64)
    forward = matrix(values)
    assert torch.allclose(fit_affine(points, transform_points(points, forward)[0]), forward, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(0.3, 3.0), st.floats(-2, 2), st.floats(-2, 2))
def test_two_points_are_met_by_turn_zoom_and_shift(angle: float, zoom: float, x: float, y: float) -> None:
    points = torch.tensor([[[0.2, -0.3], [-0.4, 0.6]]], dtype=torch.float64)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    targets = points[0] @ (zoom * turn).mT + torch.tensor([x, y])
    matrices = fit_similarity(points, targets)
    assert torch.allclose(transform_points(points, matrices)[0], targets, atol=1e-9)
    linear = matrices[0, :, :2]
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
def test_matrices_that_are_of_no_use(linear: list[list[float]], useless: bool) -> None:
    forward = torch.cat([torch.tensor(linear), torch.zeros(2, 1)], dim=1)[None]
    assert is_degenerate(forward).tolist() == [useless]


def test_points_in_one_place_give_a_matrix_of_no_use() -> None:
    points = torch.full((1, 2, 2), 0.3, dtype=torch.float64)
    assert is_degenerate(fit_similarity(points, torch.tensor([[0.1, 0.0], [0.5, 0.0]]))).tolist() == [True]
