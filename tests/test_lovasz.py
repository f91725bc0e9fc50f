"""The Lovász hinge against a plain loop, all small sets, and what can be worked out by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from whalebench.methods.parts.crops.segmenter import LEVELS, MaskLoss, dice_loss, jaccard_steps, lovasz_hinge


def jaccard_loss(wrong: set[int], animal: set[int]) -> float:
    """One minus the IoU of an animal and what is found of it when these pixels are wrong."""
    return len(wrong) / len(animal | wrong) if animal | wrong else 0.0


def slow_lovasz_hinge(logits: list[float], truth: list[int]) -> float:
    """The Lovász extension by its definition: pixels become wrong one by one, the worst error first."""
    errors = [1 - logit * (1 if said else -1) for logit, said in zip(logits, truth, strict=True)]
    animal = {place for place, said in enumerate(truth) if said}
    total, wrong = 0.0, set[int]()
    for place in sorted(range(len(errors)), key=lambda place: -errors[place]):
        before = jaccard_loss(wrong, animal)
        wrong.add(place)
        total += max(errors[place], 0.0) * (jaccard_loss(wrong, animal) - before)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_the_mean_of_the_plain_loop_over_photos(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(4, 1, 5, 7, generator=rng)
    masks = (torch.rand(4, 1, 5, 7, generator=rng) < 0.1 * (seed + 1)).float()
    masks[0] = 0  # a photo without animal
    slow = [
        slow_lovasz_hinge(one.flatten().tolist(), truth.flatten().int().tolist())
        for one, truth in zip(logits, masks, strict=True)
    ]
    assert lovasz_hinge(logits, masks).item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)


def test_where_every_error_is_0_or_1_the_loss_is_the_jaccard_loss_of_the_wrong_pixels() -> None:
    for truth, wrong in product(product((0, 1), repeat=4), repeat=2):
        animal = {place for place, said in enumerate(truth) if said}
        mistaken = {place for place, said in enumerate(wrong) if said}
        # A right logit has error 0 at 1 or -1, an undecided one has error 1.
        logits = [0.0 if place in mistaken else 2.0 * said - 1.0 for place, said in enumerate(truth)]
        loss = lovasz_hinge(torch.tensor([logits]), torch.tensor([truth]).float())
        assert loss.item() == pytest.approx(jaccard_loss(mistaken, animal), abs=1e-6)


def test_values_worked_out_by_hand() -> None:
    animal = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    # Errors 0.5 (animal), then -1 and less: half of the Jaccard step of losing one of two pixels.
    assert lovasz_hinge(torch.tensor([[0.5, 2.0, -2.0, -2.0]]), animal).item() == pytest.approx(0.25)
    # Errors 3 (sea; step 1/3) and 2 (animal; from 1/3 to 2/3).
    assert lovasz_hinge(torch.tensor([[-1.0, 2.0, 2.0, -2.0]]), animal).item() == pytest.approx(5 / 3)
    # Without animal one wrong pixel is everything: the worst error counts, the second adds nothing.
    assert lovasz_hinge(torch.tensor([[0.5, 0.2]]), torch.zeros(1, 2)).item() == pytest.approx(1.5)
    assert jaccard_steps(torch.tensor([[0.0, 1.0, 1.0]])).tolist() == [pytest.approx([1 / 3, 1 / 3, 1 / 3])]


def test_a_right_answer_costs_nothing_and_pulls_nowhere() -> None:
    masks = torch.tensor([[1.0, 0.0, 0.6, 0.4]])  # half is the border between animal and not
    logits = torch.tensor([[1.5, -1.5, 3.0, -3.0]], requires_grad=True)
    loss = lovasz_hinge(logits, masks)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_gradient_leads_to_the_mask() -> None:
    masks = (torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    logits = torch.zeros_like(masks, requires_grad=True)
    for _ in range(60):
        (gradient,) = torch.autograd.grad(lovasz_hinge(logits, masks), logits)
        logits.data -= 5 * gradient
    assert torch.equal((logits > 0).float(), masks)


def test_dice_by_hand() -> None:
    logits, masks = torch.tensor([[50.0, 50.0, -50.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    assert dice_loss(logits, masks).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_loss(logits, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(0)


def test_the_levels_count_half_and_see_the_mask_at_their_own_resolution() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2] = 1
    right, wrong = 4 * masks - 2, 2 - 4 * masks
    coarse = torch.tensor([[[[2.0, -2.0], [2.0, -2.0]]]])  # right as well, at half the resolution
    loss = MaskLoss()
    loss.warming_up = False
    assert loss([right, coarse], masks).item() == 0
    assert loss([right, coarse, wrong], masks).item() == pytest.approx(
        LEVELS * lovasz_hinge(wrong, masks).item() / 2
    )
    assert loss([wrong], masks).item() == pytest.approx(lovasz_hinge(wrong, masks).item())


def test_the_warm_up_is_smooth_where_the_hinge_is_flat() -> None:
    masks = torch.ones(1, 1, 2, 2)
    logits = torch.full((1, 1, 2, 2), 2.0, requires_grad=True)
    loss = MaskLoss()
    loss([logits], masks).backward()
    assert logits.grad is not None
    assert bool((logits.grad < 0).all())
