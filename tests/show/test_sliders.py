"""Sliders: linked in the browser, described frame by frame, the same text and bytes every time."""

import base64
import re
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from helpers.show.sliders import image_slider, training_slider

FRAMES = [np.full((3, 8, 8), value, np.uint8) for value in (0, 128, 255)]


def _images(slider: widgets.VBox) -> list[np.ndarray]:
    sources = [re.search(r"base64,([^\"]+)", tile.value)[1] for tile in slider.children[1].children]
    return [np.asarray(Image.open(BytesIO(base64.b64decode(source)))) for source in sources]


def test_slider_and_images_are_linked_in_the_browser() -> None:
    shown = image_slider(FRAMES, [0.0, 0.5, 1.0], "t", alt="Black turns white.")
    slider, stack = shown.children
    assert isinstance(stack, widgets.Stack) and len(stack.children) == 3
    assert shown.link.source == (slider, "index") and shown.link.target == (stack, "selected_index")
    assert slider.options == ("0.0", "0.5", "1.0") and slider.index == stack.selected_index == 0
    assert [image.mean() for image in _images(shown)] == [0, 128, 255]


def test_every_frame_is_described() -> None:
    shown = image_slider(FRAMES, "abc", "t", alt='A "grey" square.')
    assert 'alt="A &quot;grey&quot; square. (t b)"' in shown.children[1].children[1].value


def test_text_form_and_still_frame() -> None:
    shown = image_slider(FRAMES, "abc", "t", alt="Black turns white.", start=2)
    data, metadata = shown._repr_mimebundle_()
    assert data["text/plain"] == repr(shown) == "Slider: Black turns white."
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.model_id
    assert np.asarray(Image.open(BytesIO(base64.b64decode(data["image/png"])))).mean() == 255
    assert metadata["image/png"]["alt"] == "Black turns white."


def test_figures_are_frames_and_are_closed_and_equal_each_time() -> None:
    def draw() -> list[str]:
        frames = []
        for k in range(2):
            figure, axes = plt.subplots()
            axes.plot([0, k])
            frames.append(figure)
        shown = image_slider(frames, "ab", "k", alt="A line that tilts.")
        return [tile.value for tile in shown.children[1].children]

    assert draw() == draw() and not plt.get_fignums()


def test_grids_of_a_training_are_shown_in_the_order_of_updates(tmp_path: Path) -> None:
    for update, grey in {1000: 200, 50: 0, 200: 100}.items():
        Image.new("RGB", (600, 20), (grey, grey, grey)).save(tmp_path / f"{update}.webp", lossless=True)
    shown = training_slider(tmp_path, alt="Grey that becomes lighter.")
    slider, stack = shown.children
    assert slider.options == ("50", "200", "1000")
    assert slider.description == "update"
    assert slider.index == stack.selected_index == 2
    images = _images(shown)
    assert [image.mean() for image in images] == [0, 100, 200]
    assert images[0].shape == (40, 1200, 3)


def test_a_training_without_grids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two or more frames"):
        training_slider(tmp_path, alt="words")


@pytest.mark.parametrize(
    ("frames", "labels", "alt", "complaint"),
    [
        (FRAMES[:1], "a", "words", "two or more frames"),
        (FRAMES, "ab", "words", "label for each"),
        (FRAMES, "aab", "words", "different label"),
        (FRAMES, "abc", " ", "needs a description"),
        ([np.zeros((8, 8), np.uint8)] * 2, "ab", "words", r"\(N, 3, H, W\)"),
    ],
)
def test_invalid_arguments_are_refused(frames: list, labels: str, alt: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        image_slider(frames, labels, "t", alt=alt)
