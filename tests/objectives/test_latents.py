"""Latents compared before they were decoded, and what breaks a picture whatever its pixels say."""

import math

import pytest
import torch
from paretune.objectives.latents import COSINE, HIGHER_IS_BETTER, RELATIVE_L2, broken_latents, compare_latents
from torch import Tensor


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_equal_latents_get_exactly_the_best_values(latents: Tensor) -> None:
    assert compare_latents(latents, latents.clone()) == {RELATIVE_L2: 0.0, COSINE: 1.0}
    assert compare_latents(latents.half(), latents.half().float()) == {RELATIVE_L2: 0.0, COSINE: 1.0}
    assert compare_latents(latents * 0, latents * 0) == {RELATIVE_L2: 0.0, COSINE: 1.0}
    assert {RELATIVE_L2, COSINE} == set(HIGHER_IS_BETTER)


def test_by_hand() -> None:
    values = compare_latents(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0]))
    assert values == pytest.approx({RELATIVE_L2: math.sqrt(2) / 5, COSINE: 24 / 25})


def test_scaling_changes_no_angle(latents: Tensor) -> None:
    assert compare_latents(latents, 1.5 * latents) == pytest.approx({RELATIVE_L2: 0.5, COSINE: 1.0})
    assert compare_latents(latents, -latents) == pytest.approx({RELATIVE_L2: 2.0, COSINE: -1.0})
    assert compare_latents(latents, 0 * latents) == {RELATIVE_L2: 1.0, COSINE: 0.0}
    assert compare_latents(0 * latents, latents) == {RELATIVE_L2: math.inf, COSINE: 0.0}


def test_more_noise_is_further_away(latents: Tensor) -> None:
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    values = [compare_latents(latents, latents + sigma * noise) for sigma in (0, 0.01, 0.1, 1)]
    for name, rising in HIGHER_IS_BETTER.items():
        each = [value[name] for value in values]
        assert each == sorted(each, reverse=rising)


def test_what_cannot_be_compared(latents: Tensor) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_latents(latents, latents[:2])
    with pytest.raises(ValueError, match="not finite"):
        compare_latents(latents, latents / 0)


def test_latents_that_are_not_finite_are_counted(latents: Tensor) -> None:
    assert broken_latents(latents) is None
    latents[0, 0, :2] = math.nan
    latents[1, 0, 0] = -math.inf
    assert broken_latents(latents) == "latents: 2 of 1024 values are NaN and 1 infinite"
