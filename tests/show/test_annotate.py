"""Boxes, masks and names on images of any size: all of them visible, none of them outside."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from helpers.show.annotate import COLOURS, Rectangle, _font, _place_label, _shortened, annotate


class Thing(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    mask: object = None


def coloured(drawing: Image.Image, colour: str, tolerance: int = 0) -> np.ndarray:
    """Where a drawing has this colour."""
    return (np.abs(np.array(drawing, int) - ImageColor.getrgb(colour)) <= tolerance).all(2)


@pytest.mark.parametrize("size", [(64, 64), (600, 20), (1, 1), (1200, 900)])
@pytest.mark.parametrize("shade", ["black", "white", COLOURS[0]])
def test_boxes_are_visible_on_every_image(size: tuple[int, int], shade: str) -> None:
    image = Image.new("RGB", size, shade)
    drawing = annotate(image, [Thing("", (0.25, 0.25, 0.75, 0.75)), Thing("", (0.9, 0.9, 1, 1))])
    assert max(drawing.size) >= 512 and drawing.width * size[1] == drawing.height * size[0]
    assert image.getcolors() == [(size[0] * size[1], ImageColor.getrgb(shade))], "the image itself stays as it was"
    frame = coloured(drawing, COLOURS[0]) if shade != COLOURS[0] else coloured(drawing, "black")
    rows, columns = np.nonzero(frame)
    assert abs(columns.min() / drawing.width - 0.25) < 0.02 and abs(rows.min() / drawing.height - 0.25) < 0.1


def test_a_mask_tints_its_inside_and_outlines_it() -> None:
    y, x = np.mgrid[:64, :64]
    disc = torch.tensor((x - 32) ** 2 + (y - 32) ** 2 < 20**2).float()
    drawing = annotate(torch.zeros(3, 64, 64), [Thing("", (0, 0, 1, 1), disc)])
    levels = np.array(drawing).astype(int)
    assert (levels[256, 256] != levels[40, 40]).any() and (levels[40, 40] == levels[40, 470]).all()
    row = coloured(drawing, COLOURS[0], tolerance=60)[256]
    edges = np.nonzero(row[20:490])[0] + 20
    assert abs(edges.min() - (32 - 20) * 8) < 8 and abs(edges.max() - (32 + 20) * 8) < 8


def test_masks_at_the_border_have_closed_outlines() -> None:
    drawing = annotate(Image.new("RGB", (64, 64)), [Thing("", (0.4, 0.4, 0.6, 0.6), np.ones((64, 64)))])
    assert coloured(drawing, COLOURS[0], tolerance=100)[:2].any(0).mean() > 0.9


def test_labels_stay_inside_and_apart() -> None:
    boxes = [Rectangle(*box) for box in ((0, 0, 30, 30), (5, 5, 40, 40), (490, 490, 512, 512), (250, 250, 260, 260))]
    labels: list[Rectangle] = []
    for box in boxes:
        labels.append(_place_label(box, (80, 20), (512, 512), labels, boxes))
    for index, label in enumerate(labels):
        assert label.left >= 0 and label.top >= 0 and label.right <= 512 and label.bottom <= 512
        assert not any(label.overlap(other) for other in labels[:index])


def test_names_are_readable_letters() -> None:
    thing = Thing("кошка", (0.3, 0.5, 0.7, 0.9))
    unnamed = annotate(Image.new("RGB", (64, 64)), [thing._replace(name="")])
    named = annotate(Image.new("RGB", (64, 64)), [thing])
    rows, columns = np.nonzero((np.array(named) != np.array(unnamed)).any(2))
    assert rows.max() - rows.min() >= 15 and columns.max() - columns.min() > 40


def test_long_names_are_cut() -> None:
    font = _font(18)
    assert _shortened("nose", font, 200) == "nose"
    cut = _shortened("an object of many words " * 9, font, 200)
    assert cut.endswith("…") and font.getlength(cut) <= 200 < font.getlength(cut[:-1] + "an…")
