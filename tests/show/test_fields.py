"""Arrows of a vector field: where they stand, where they point, and how long they are."""

import pytest
import torch
from matplotlib import pyplot as plt

from helpers.show.fields import draw_field


def drawn(field, **options):
    figure, axes = plt.subplots()
    draw_field(axes, field, limit=2.0, **options)
    (arrows,) = axes.collections
    plt.close(figure)
    return arrows


def test_arrows_have_one_length_and_show_strength_by_opacity():
    arrows = drawn(lambda x: -x, count=5)
    u, v = torch.tensor(arrows.U), torch.tensor(arrows.V)
    places = torch.tensor(arrows.get_offsets())
    assert len(places) == 25
    away = places.norm(dim=1) > 0
    pointed = torch.stack([u, v], dim=1)
    cosine = torch.cosine_similarity(pointed[away].double(), -places[away].double())
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    torch.testing.assert_close(pointed[away].norm(dim=1), torch.ones(24))
    strength = places[away].double().norm(dim=1)  # its median on the grid is 2
    opacity = torch.tensor(arrows.get_alpha())[away].double()
    torch.testing.assert_close(opacity, 0.4 + 0.6 * strength / (strength + 2), atol=1e-6, rtol=0)


def test_a_field_of_zeros_has_no_arrows():
    arrows = drawn(torch.zeros_like, count=3)
    assert (arrows.U == 0).all() and (arrows.V == 0).all()


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match="infinite or NaN"):
        drawn(lambda x: x / 0)
    with pytest.raises(ValueError, match="2 arrows per side or more, got 1"):
        drawn(lambda x: x, count=1)
