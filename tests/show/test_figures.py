"""Figures: true colours, honest errors, a description always, equal bytes for equal figures, legible everywhere."""

import base64
import itertools
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import IPython.display
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from PIL import Image

from helpers.show import figures
from helpers.show.figures import (
    PALETTE,
    STYLE,
    bar_table,
    bars,
    compare,
    grid,
    png_bytes,
    save_png,
    show,
    style,
    to_rgb_array,
)
from helpers.show.tables import table

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def test_uint8_survives_the_way_to_floats_and_back() -> None:
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    floats = torch.from_numpy(every_value).float() / 127.5 - 1
    assert (to_rgb_array(floats) == every_value.transpose(0, 2, 3, 1)).all()
    assert (to_rgb_array(every_value) == to_rgb_array(floats.numpy())).all()
    assert to_rgb_array(every_value[0, :1]).shape == (1, 16, 16, 3)  # a grey image becomes a batch of RGB images
    assert to_rgb_array(torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)).max() == 128


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(N, 3, H, W\)"),
        (np.zeros((4, 4), np.uint8), r"\(N, 3, H, W\)"),
        (np.full((1, 3, 2, 2), np.nan), "NaN"),
        (np.full((1, 3, 2, 2), 255.0), r"\[-1, 1\]"),
        (np.zeros((1, 3, 2, 2), np.int64), "int64"),
    ],
)
def test_what_is_not_an_image_is_refused(images: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        to_rgb_array(images)


def test_a_grid_shows_every_pixel_in_its_own_colour() -> None:
    shown = _pixels(png_bytes(grid(COLOURS, columns=3, scale=8)))
    for index, image in enumerate(COLOURS):
        row, column = divmod(index, 3)
        for y, x in itertools.product(range(4), range(5)):
            top = figures.GAP + row * (4 * 8 + figures.GAP) + y * 8 + 4  # the middle of the enlarged pixel
            left = figures.GAP + column * (5 * 8 + figures.GAP) + x * 8 + 4
            assert tuple(shown[2 * top, 2 * left]) == tuple(image[:, y, x])


def test_grids_fit_the_page_and_never_blur() -> None:
    for size in (8, 64, 100, 512):
        figure = grid(np.zeros((8, 1, size, size), np.uint8))
        assert figure.get_figwidth() * 100 <= figures.PAGE_WIDTH
        tile = figure.axes[0].get_position().width * figure.get_figwidth() * 100
        scale = tile / size
        assert min(abs(scale - round(scale)), abs(1 / scale - round(1 / scale))) < 1e-6


def test_grids_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        grid(COLOURS[:0])
    with pytest.raises(ValueError, match="2 titles, 6 images"):
        grid(COLOURS, titles=["a", "b"])
    with pytest.raises(ValueError, match="one size"):
        compare({"small": COLOURS, "large": np.zeros((1, 3, 9, 9), np.uint8)})


def test_rows_are_named() -> None:
    texts = [text.get_text() for text in compare({"linear": COLOURS, "cosine": COLOURS}, titles="abcdef").texts]
    assert {"linear", "cosine", "a", "f"} <= set(texts)


def test_bars_are_as_long_as_their_values_and_show_them() -> None:
    figure = bars({"ours": {"fur": 0.5, "eyes": 0.984}, "theirs": {"fur": 0.25, "eyes": 1.0}}, "share")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.984, 0.25, 1.0]
    assert [text.get_text() for text in axes.texts] == ["50%", "98%", "25%", "100%"]
    tops = [bar.get_y() for bar in axes.patches]
    assert tops[0] < tops[2] < tops[1] < tops[3] and axes.yaxis_inverted(), "in the order of the names, from the top"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "theirs"]
    plt.close(figure)


def test_bars_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="at least one series"):
        bars({}, "share")
    with pytest.raises(ValueError, match="'theirs' has \\['eyes'\\]"):
        bars({"ours": {"fur": 0.5}, "theirs": {"eyes": 0.5}}, "share")


def test_a_table_of_bars_has_every_number_in_its_row() -> None:
    figure = bar_table({"dB": {"VAE": 19.26, "AE": 20.0}, "nats": {"VAE": 57.44, "AE": math.nan}})
    decibels, nats = figure.axes
    assert [bar.get_width() for bar in decibels.patches] == [19.26, 20.0]
    assert [text.get_text() for text in decibels.texts + nats.texts] == ["19.3", "20", "57.4", "none"]
    assert [bar.get_width() for bar in nats.patches] == [57.44, 0] and decibels.yaxis_inverted()
    assert [label.get_text() for label in decibels.get_yticklabels()] == ["VAE", "AE"]
    assert nats.get_xlim()[1] == pytest.approx(1.6 * 57.44)
    assert [axes.get_title() for axes in figure.axes] == ["dB", "nats"]
    plt.close(figure)
    with pytest.raises(ValueError, match="at least one column"):
        bar_table({})
    with pytest.raises(ValueError, match="'nats' has \\['AE'\\]"):
        bar_table({"dB": {"VAE": 1.0}, "nats": {"AE": 1.0}})


def test_grids_warn_of_nothing_in_the_course_style(recwarn: pytest.WarningsRecorder) -> None:
    with plt.rc_context():
        style()
        png_bytes(grid(COLOURS, titles="abcdef"))
    assert not recwarn.list


def test_equal_figures_are_equal_bytes() -> None:
    def draw() -> bytes:
        with plt.rc_context(STYLE):
            figure, axes = plt.subplots()
            axes.plot([0, 1], [1, 0], label="a line")
            axes.legend()
            png = png_bytes(figure)
        plt.close(figure)
        return png

    assert draw() == draw()
    assert b"Software" not in draw() and b"matplotlib" not in draw()


def test_packing_keeps_the_colours_of_lines_and_every_colour_of_images() -> None:
    with plt.rc_context({**STYLE, "lines.antialiased": False}):
        figure, axes = plt.subplots()
        for k in range(len(PALETTE)):
            axes.plot([0, 1], [k, k], linewidth=6)
        shown = _pixels(png_bytes(figure)).reshape(-1, 3)
        plt.close(figure)
        ramp = np.arange(1000).reshape(10, 100)
        figure, axes = plt.subplots()
        axes.imshow(ramp, cmap="viridis")
        heat = _pixels(png_bytes(figure)).reshape(-1, 3)
        plt.close(figure)
    for colour in (*PALETTE, STYLE["savefig.facecolor"]):
        distance = np.abs(shown.astype(int) - np.round(np.multiply(to_rgb(colour), 255))).max(axis=1)
        assert distance.min() <= 2, f"{colour} was lost"
    assert len(np.unique(heat, axis=0)) > 256


def _shown(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> tuple[dict, dict]:
    displayed: list[tuple[dict, dict]] = []
    monkeypatch.setattr(IPython.display, "display", lambda data, metadata, raw: displayed.append((data, metadata)))
    show(*arguments, **options)
    return displayed[0]


def test_show_carries_the_description_and_closes_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    figure, _ = plt.subplots()
    data, metadata = _shown(monkeypatch, figure, alt="An empty\n   square.")
    assert data["text/plain"] == "An empty square."
    assert metadata["image/png"]["alt"] == "An empty square."
    assert Image.open(BytesIO(base64.b64decode(data["image/png"]))).width == 2 * metadata["image/png"]["width"]
    assert not plt.get_fignums()


def test_a_grid_remembers_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shown(monkeypatch, grid(COLOURS, alt="Six tiles."))[0]["text/plain"] == "Six tiles."


@pytest.mark.parametrize("alt", [None, "", "  \n"])
def test_a_figure_without_description_is_refused(alt: str | None) -> None:
    with pytest.raises(ValueError, match="needs a description"):
        show(grid(COLOURS), alt=alt)


def test_save_png_leaves_no_halves(tmp_path: Path) -> None:
    path = save_png(grid(COLOURS), tmp_path / "new" / "grid.png")
    assert _pixels(path.read_bytes()).shape[2] == 3
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def _contrast(first: str, second: str) -> float:
    """WCAG 2.1's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_text_and_lines_contrast_with_the_background() -> None:
    paper = STYLE["savefig.facecolor"]
    text_colours = [
        STYLE[key] for key in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    ]
    assert min(_contrast(colour, paper) for colour in text_colours) >= 7
    assert min(_contrast(colour, paper) for colour in PALETTE) >= 4.5
    assert _pixels(png_bytes(grid(COLOURS)))[0, 0].tolist() == [255, 255, 255]  # opaque, whatever the page


def test_tables_read_alike_everywhere() -> None:
    errors = {"blind": {"error": 0.08123, "n": 12000}, "knows <t>": {"error": torch.tensor(3e-9), "n": 7}}
    shown = table(errors, heading="network")
    assert repr(shown).splitlines() == [
        "network       error       n",
        "blind        0.0812  12,000",
        "knows <t>  3.00e-09       7",
    ]
    assert "knows &lt;t&gt;" in shown._repr_html_() and shown._repr_html_().count("<tr>") == 3
    assert repr(table({"a": 0.5})) == "   value\na    0.5"
    assert repr(table([{"step": 1, "ok": True}])).split() == ["step", "ok", "1", "True"]


def test_tables_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        table({})
    with pytest.raises(ValueError, match="columns"):
        table([{"a": 1}, {"b": 2}])
