"""The map of the course: latent diffusion as one strip, with the parts in colour that a notebook is about."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.colors import to_rgb

from helpers.sd1.pipeline import StableDiffusion1
from helpers.show.diagrams import LINE, SOFT, Canvas
from helpers.show.figures import INK, SHARPNESS, to_rgb_array
from pages.pictures.drawing import (
    BLUE,
    GREY,
    WIDTH,
    faded,
    frame_image,
    listed,
    synthetic_face,
    tinted_box,
    trapezoid,
    write,
)

HEIGHT = 196
MIDDLE = 84  # of the strip
THUMB = 48
PROMPT = "a striped orange cat with green eyes on a blue background"
SUBJECTS = {  # notebook -> the parts that it is about
    "00": ("denoiser", "condition", "sampler", "decoder"),
    "01": ("dataset",),
    "02": ("add noise", "denoiser"),
    "03": ("sampler",),
    "04": ("add noise", "condition", "sampler"),
    "05": ("encoder", "latent", "denoiser", "condition", "sampler", "decoder"),
    "06": ("latent", "add noise", "denoiser", "condition", "sampler"),
    "07": ("encoder", "latent", "decoder"),
    "08": ("encoder", "latent", "decoder"),
    "09": ("add noise", "denoiser", "condition"),
    "10": ("condition", "sampler", "evaluation"),
    "11": ("encoder", "latent", "denoiser", "decoder"),
    "12": ("encoder", "latent", "denoiser", "decoder"),
    "13": ("evaluation",),
    "14": ("vision-language",),
    "15": ("vision-language",),
}
PARTS = tuple(dict.fromkeys(part for parts in SUBJECTS.values() for part in parts))
STRIP = (
    "The map of the course: dataset, encoder, latent, add noise, denoiser with time and condition as further inputs, "
    "sampler, decoder, generated image, evaluation. Beside it stand vision-language models, which turn an image into "
    "text."
)


class Thumbnails(NamedTuple):
    """The small images of the strip, uint8 (3, H, W)."""

    data: list[np.ndarray]
    latent: np.ndarray
    noisy: np.ndarray
    generated: np.ndarray


def description(notebook: str) -> str:
    """The alternative text of a notebook's map."""
    subjects = SUBJECTS[notebook]
    verb = "is" if len(subjects) == 1 else "are"
    return f"{STRIP} You are at notebook {notebook}; in colour {verb}: {listed(subjects)}."


def thumbnails(system: StableDiffusion1) -> Thumbnails:
    """Faces of the dataset, the latent of one, the same with noise, and an image generated from a prompt."""
    faces = [synthetic_face(2 * THUMB, seed, species=name) for name, seed in (("wild", 3), ("dog", 5), ("cat", 4))]
    side = system.config.size
    image = torch.from_numpy(synthetic_face(side, 4, species="cat")).float()[None] / 127.5 - 1
    latent = system.encode(image)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    shown = [system.latents_to_rgb(z)[0] for z in (latent, 0.55 * latent + 0.83 * noise)]
    (generated,) = system.generate(PROMPT, steps=12, seed=3)
    latent_rgb, noisy_rgb, generated_rgb = (to_rgb_array(x)[0].transpose(2, 0, 1) for x in (*shown, generated))
    return Thumbnails(faces, latent_rgb, noisy_rgb, generated_rgb)


def draw(notebook: str, images: Thumbnails) -> Canvas:
    """The strip with one notebook's parts in colour."""
    canvas = Canvas(WIDTH, HEIGHT, description(notebook))
    coloured = SUBJECTS[notebook]
    write(canvas, 16, 17, f"You are here: notebook {notebook}", 9.5, BLUE, align="left", bold=True)
    _data_and_encoder(canvas, coloured, images)
    _noise_and_denoiser(canvas, coloured, images)
    _sampler_and_decoder(canvas, coloured, images)
    _second_row(canvas, coloured)
    return canvas


def _paint(name: str, coloured: Collection[str]) -> dict[str, Any]:
    """How a box looks: blue with white letters if it is a subject, else grey."""
    if name in coloured:
        return {"ground": BLUE, "edge": BLUE, "ink": "white", "bold": True}
    return {"ground": GREY, "edge": SOFT, "ink": INK}


def _thumb(canvas: Canvas, x: float, y: float, image: np.ndarray, name: str, coloured: Collection[str]) -> None:
    """A small image: pale unless it is a subject."""
    subject = name in coloured
    canvas.image(x, y, THUMB, THUMB, image if subject else faded(image, 0.45))
    frame_image(canvas, x, y, THUMB, THUMB, BLUE if subject else SOFT, 2.2 if subject else 0.9)


def _label(canvas: Canvas, x: float, text: str, coloured: Collection[str], name: str | None = None) -> None:
    subject = (name or text) in coloured
    write(canvas, x, MIDDLE + 40, text, 8.5, BLUE if subject else INK, bold=subject)


def _stack(canvas: Canvas, x: float, y: float, faces: list[np.ndarray], subject: bool) -> None:
    """Images behind one another, each with a frame that hides a part of those behind it."""
    shift = 14
    side = faces[0].shape[1]
    edge = 5 if subject else 2
    whole = side + shift * (len(faces) - 1) + 2 * edge
    pixels = np.full((3, whole, whole), 255, dtype=np.uint8)
    colour = np.array(to_rgb(BLUE if subject else SOFT)).reshape(3, 1, 1) * 255
    for i, face in enumerate(faces):
        start = shift * i
        pixels[:, start : start + side + 2 * edge, start : start + side + 2 * edge] = colour
        inner = slice(start + edge, start + edge + side)
        pixels[:, inner, inner] = face if subject else faded(face, 0.45)
    extent = (x, x + whole / SHARPNESS, y + whole / SHARPNESS, y)
    canvas.axes.imshow(pixels.transpose(1, 2, 0), extent=extent, interpolation="nearest", aspect="auto", zorder=3)


def _data_and_encoder(canvas: Canvas, coloured: Collection[str], images: Thumbnails) -> None:
    _stack(canvas, 13, MIDDLE - 38, images.data, "dataset" in coloured)
    _label(canvas, 45, "dataset", coloured)
    canvas.arrow((80, MIDDLE), (96, MIDDLE))
    trapezoid(canvas, 98, MIDDLE, 66, 78, 44, "encoder", size=8.5, **_paint("encoder", coloured))
    canvas.arrow((164, MIDDLE), (180, MIDDLE))
    _thumb(canvas, 182, MIDDLE - 24, images.latent, "latent", coloured)
    _label(canvas, 206, "latent", coloured)


def _noise_and_denoiser(canvas: Canvas, coloured: Collection[str], images: Thumbnails) -> None:
    canvas.arrow((231, MIDDLE), (258, MIDDLE))
    _thumb(canvas, 261, MIDDLE - 24, images.noisy, "add noise", coloured)
    _label(canvas, 285, "add noise", coloured)
    canvas.arrow((310, MIDDLE), (334, MIDDLE))
    tinted_box(canvas, 336, MIDDLE - 30, 82, 60, "denoiser", **_paint("denoiser", coloured))


def _sampler_and_decoder(canvas: Canvas, coloured: Collection[str], images: Thumbnails) -> None:
    canvas.arrow((418, MIDDLE), (440, MIDDLE))
    tinted_box(canvas, 442, MIDDLE - 30, 76, 60, "sampler", **_paint("sampler", coloured))
    canvas.arrow((480, MIDDLE - 31), (480, MIDDLE - 46), (377, MIDDLE - 46), (377, MIDDLE - 32), dashed=True)
    write(canvas, 428, MIDDLE - 55, "next step, less noise", 7.5, LINE)
    canvas.arrow((518, MIDDLE), (538, MIDDLE))
    trapezoid(canvas, 540, MIDDLE, 66, 44, 78, "decoder", size=8.5, **_paint("decoder", coloured))
    canvas.arrow((606, MIDDLE), (628, MIDDLE))
    canvas.image(630, MIDDLE - 32, 64, 64, images.generated)
    write(canvas, 662, MIDDLE - 42, "generated", 8.5)


def _second_row(canvas: Canvas, coloured: Collection[str]) -> None:
    """What stands beside the strip: the condition, the evaluation, and vision-language models."""
    y = 152
    tinted_box(canvas, 312, y, 130, 30, "time, condition", size=8.5, **_paint("condition", coloured))
    canvas.arrow((377, y - 1), (377, MIDDLE + 32))
    tinted_box(canvas, 610, y, 96, 30, "evaluation", size=8.5, **_paint("evaluation", coloured))
    canvas.arrow((662, MIDDLE + 33), (662, y - 2))
    tinted_box(canvas, 14, y, 230, 30, "vision-language: image → text", size=8.5, **_paint("vision-language", coloured))
    canvas.arrow((45, MIDDLE + 50), (45, y - 2))
