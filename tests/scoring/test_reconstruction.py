"""Reconstruction scores of known errors."""

import pytest
import torch

from helpers.scoring.reconstruction import active_units, neighbour_correlation, psnr, ssim


def test_psnr_of_a_known_error():
    """An error of a tenth of the range is 20 decibels."""
    x = torch.full((2, 3, 8, 8), 0.5)
    assert psnr(x, x - 0.2) == pytest.approx(20, abs=1e-4)
    assert psnr(torch.ones(1, 3, 8, 8), torch.full((1, 3, 8, 8), 9.0)) == float(
        "inf"
    )  # values out of range are clamped


def test_ssim_of_a_copy_and_of_noise():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert ssim(x, x) == pytest.approx(1) and ssim(x, x.flip(0)) < 0.1


def test_active_units_are_those_that_vary():
    latents = torch.randn(500, 4) * torch.tensor([1.0, 0.5, 0.01, 0.0])
    assert active_units(latents) == 2


def test_neighbours_of_noise_have_nothing_in_common_and_those_of_its_running_means_half():
    noise = torch.randn(200, 2, 16, 17, generator=torch.Generator().manual_seed(0))
    assert neighbour_correlation(noise) == pytest.approx(0, abs=0.02)
    assert neighbour_correlation(noise[..., 1:] + noise[..., :-1]) == pytest.approx(0.5, abs=0.04)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="of one shape"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4, 4))
