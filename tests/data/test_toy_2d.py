"""Points in the plane: their places, their classes, their repeatability, and what is refused."""

import math

import pytest
import torch

from helpers.data.toy_2d import cat_head, clover, two_moons

CLOUDS = [cat_head, clover, two_moons]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_is_centred_and_about_as_large_as_an_image(cloud):
    points = cloud(20_000)
    assert points.xy.shape == (20_000, 2) and points.xy.dtype == torch.float32
    assert points.labels.shape == (20_000,) and points.labels.dtype == torch.int64
    assert points.xy.mean(0).abs().max() < 0.1
    assert (points.xy.abs() < 1.1).float().mean() > 0.99
    assert sorted(points.labels.unique().tolist()) == list(range(len(points.class_names)))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_seed_repeats_the_points_and_another_does_not(cloud):
    assert torch.equal(cloud(100, seed=3).xy, cloud(100, seed=3).xy)
    assert torch.equal(cloud(100, seed=3).labels, cloud(100, seed=3).labels)
    assert not torch.equal(cloud(100, seed=3).xy, cloud(100, seed=4).xy)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_making_points_leaves_the_global_seed_alone(cloud):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    cloud(10)
    assert torch.equal(torch.rand(3), expected)


def test_the_cat_has_two_ears_two_eyes_and_nothing_on_its_forehead():
    x, y = cat_head(20_000, noise=0).xy.T
    for side in (-1, 1):
        assert ((side * x - 0.66).abs() < 0.05).logical_and(y > 0.85).any(), "the tip of an ear"
        assert ((side * x - 0.32).abs() < 0.15).logical_and((y - 0.06).abs() < 0.12).any(), "an eye"
    assert not ((x.abs() < 0.3) & (y > 0.25) & (y < 0.4)).any(), "between eyes and outline there is nothing"
    assert not ((x.abs() < 0.2) & (y > 0.55)).any(), "between the ears there is nothing"


def test_the_cat_is_symmetric():
    x, y = cat_head(50_000).xy.T
    left = y[x < 0]
    right = y[x > 0]
    assert len(left) / 50_000 == pytest.approx(0.5, abs=0.01)
    quantiles = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(left.quantile(quantiles), right.quantile(quantiles), atol=0.06, rtol=0)


def test_lines_without_noise_are_thin_and_the_pen_widens_them():
    thin = cat_head(5_000, noise=0)
    thick = cat_head(5_000, noise=0.05)
    nearest = torch.cdist(thick.xy, cat_head(20_000, noise=0).xy).amin(1)
    assert torch.cdist(thin.xy, cat_head(20_000, noise=0, seed=1).xy).amin(1).mean() < 0.005
    assert nearest.mean() == pytest.approx(0.05 * math.sqrt(2 / math.pi), rel=0.3)


def test_leaves_of_the_clover_are_the_gaussians_they_are_said_to_be():
    points = clover(60_000, noise=0.08)
    for k, name in enumerate(points.class_names):
        xy = points.of_class(name).xy
        angle = torch.tensor(math.pi / 2 + k * 2 * math.pi / 3)
        along = xy @ torch.stack([angle.cos(), angle.sin()])
        across = xy @ torch.stack([-angle.sin(), angle.cos()])
        assert (along.mean().item(), along.std().item()) == pytest.approx((0.35, 0.32), abs=0.01)
        assert (across.mean().item(), across.std().item()) == pytest.approx((0.0, 0.08), abs=0.005)


def test_the_moons_reach_into_one_another_and_do_not_touch():
    moons = two_moons(2_000, noise=0)
    upper = moons.of_class("upper").xy
    lower = moons.of_class("lower").xy
    assert torch.cdist(upper, lower).min() > 0.1
    assert lower[:, 1].max() > upper[:, 1].min()


def test_bad_input_says_what_was_wrong():
    with pytest.raises(ValueError, match="n=0"):
        cat_head(0)
    with pytest.raises(ValueError, match="noise=-1"):
        clover(10, noise=-1)
    with pytest.raises(ValueError, match="unknown class 'tail'.*whiskers"):
        cat_head(10).of_class("tail")
