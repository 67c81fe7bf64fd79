"""Diagrams of notebooks 11 and 12: the three stages of latent diffusion, and what is trained or frozen in each."""

from typing import Any, NamedTuple

import numpy as np
import torch

from helpers.diffusion.samplers import initial_noise
from helpers.show.diagrams import LINE, SOFT, Canvas
from helpers.show.figures import INK, to_rgb_array
from helpers.tiny_sd.model import TinySD
from pages.pictures.drawing import (
    GREY,
    ORANGE,
    PALE,
    WIDTH,
    frame_image,
    synthetic_face,
    tinted_box,
    trapezoid,
    write,
)

HEIGHT = 430
SIDE = 64  # of the images, in page pixels
STAGE = 122  # height of a stage
PROMPT = "a striped grey cat with green eyes on a pink background"
TRAINED: dict[str, Any] = {"ground": PALE[ORANGE], "edge": ORANGE, "bold": True}
FROZEN: dict[str, Any] = {"ground": GREY, "edge": SOFT}
FIRST_STAGE = {
    "pretrained": "1  The autoencoder: trained earlier, on other images; we load its weights",
    "own": "1  Train the autoencoder on our images; then freeze it",
}
ALT = (
    "Three stages. First the autoencoder: image, encoder, latent, decoder, reconstruction; {first}. Second the "
    "denoiser is trained: image, frozen encoder, latent, add noise, denoiser, predicted latent. Third, images are "
    "generated with everything frozen: noise, denoiser and sampler in a loop, clean latent, decoder, new image."
)
WHO = {
    "pretrained": "encoder and decoder are loaded and frozen",
    "own": "encoder and decoder are trained, then frozen",
}


class Examples(NamedTuple):
    """The small images, uint8 (3, H, W)."""

    image: np.ndarray
    latent: np.ndarray
    reconstruction: np.ndarray
    noisy: np.ndarray
    predicted: np.ndarray
    noise: np.ndarray
    clean: np.ndarray
    generated: np.ndarray


def _latent_image(latents: torch.Tensor) -> np.ndarray:
    """The first three channels of a normalised latent (1, C, h, w) as red, green and blue."""
    return to_rgb_array((latents[:, :3] / 2.5).clamp(-1, 1))[0].transpose(2, 0, 1)


def examples(model: TinySD, seed: int = 3, steps: int = 16) -> Examples:
    """One image through all three stages of a trained model."""
    face = synthetic_face(model.size, 21, species="cat", fur="orange", background="green", eyes="blue")
    codec = model.codec
    latent = codec.encode(torch.from_numpy(face).float()[None] / 127.5 - 1)
    noise, _ = initial_noise([seed], latent.shape[1:])
    walk = list(model.sample_steps(prompts=[PROMPT], steps=steps, seed=seed))
    t = 0.5
    noisy = (1 - t) * latent + t * noise
    with torch.no_grad():
        predicted, _ = model.denoiser(torch.tensor([0]), None, guidance_scale=1)(noisy, t)
    decoded = [to_rgb_array(codec.decode(z).clamp(-1, 1))[0].transpose(2, 0, 1) for z in (latent, walk[-1].x)]
    shown = [_latent_image(z) for z in (latent, noisy, predicted, noise, walk[-1].x)]
    return Examples(face, shown[0], decoded[0], shown[1], shown[2], shown[3], shown[4], decoded[1])


def draw(method: str, images: Examples) -> Canvas:
    """The stages of Method 2 ("pretrained") or of Method 3 ("own")."""
    canvas = Canvas(WIDTH, HEIGHT, ALT.format(first=WHO[method]))
    _legend(canvas)
    _autoencoder(canvas, images, 28, method)
    _training(canvas, images, 28 + STAGE + 12)
    _generation(canvas, images, 28 + 2 * (STAGE + 12))
    return canvas


def _legend(canvas: Canvas) -> None:
    tinted_box(canvas, 486, 6, 22, 13, **TRAINED)
    write(canvas, 514, 13, "trained in this stage", 8.5, align="left")
    tinted_box(canvas, 642, 6, 22, 13, **FROZEN)
    write(canvas, 670, 13, "frozen", 8.5, align="left")


def _labelled(canvas: Canvas, x: float, y: float, image: np.ndarray, label: str) -> None:
    canvas.image(x, y - SIDE / 2, SIDE, SIDE, image)
    frame_image(canvas, x, y - SIDE / 2, SIDE, SIDE, SOFT, 0.9)
    write(canvas, x + SIDE / 2, y + SIDE / 2 + 11, label, 8.5)


def _right(canvas: Canvas, y: float, *pairs: tuple[float, float]) -> None:
    for start, end in pairs:
        canvas.arrow((start, y), (end, y))


def _autoencoder(canvas: Canvas, images: Examples, top: float, method: str) -> None:
    canvas.frame(8, top, WIDTH - 16, STAGE, FIRST_STAGE[method])
    style = TRAINED if method == "own" else FROZEN
    y = top + 68
    _labelled(canvas, 40, y, images.image, "image")
    _right(canvas, y, (106, 128), (206, 228), (296, 318), (396, 418))
    trapezoid(canvas, 130, y, 76, 72, 42, "encoder", **style)
    _labelled(canvas, 230, y, images.latent, "latent")
    trapezoid(canvas, 320, y, 76, 42, 72, "decoder", **style)
    _labelled(canvas, 420, y, images.reconstruction, "reconstruction")
    text = {
        "own": "loss: reconstruction error,\nand a light KL or VQ term",
        "pretrained": "no loss here: check how good\nthe reconstructions are",
    }
    write(canvas, 510, y, text[method], 9, ORANGE if method == "own" else LINE, align="left")


def _training(canvas: Canvas, images: Examples, top: float) -> None:
    canvas.frame(8, top, WIDTH - 16, STAGE, "2  Train the denoiser on latents, which are computed once and stored")
    y = top + 68
    _labelled(canvas, 40, y, images.image, "image")
    _right(canvas, y, (106, 128), (206, 228), (296, 326), (392, 414), (494, 516))
    trapezoid(canvas, 130, y, 76, 72, 42, "encoder", **FROZEN)
    _labelled(canvas, 230, y, images.latent, "latent")
    _labelled(canvas, 328, y, images.noisy, "add noise")
    tinted_box(canvas, 416, y - 24, 78, 48, "denoiser", **TRAINED)
    _labelled(canvas, 518, y, images.predicted, "prediction")
    write(canvas, 594, y, "loss: compare\nwith the latent", 9, ORANGE, align="left")


def _generation(canvas: Canvas, images: Examples, top: float) -> None:
    canvas.frame(8, top, WIDTH - 16, STAGE, "3  Generate: nothing is trained any more, and no encoder is needed")
    y = top + 68
    _labelled(canvas, 40, y, images.noise, "noise")
    _right(canvas, y, (106, 128), (208, 238), (316, 346), (412, 434), (512, 534))
    tinted_box(canvas, 130, y - 24, 78, 48, "denoiser", **FROZEN)
    tinted_box(canvas, 240, y - 24, 76, 48, "sampler", ground="white", edge=SOFT)
    canvas.arrow((278, y + 25), (278, y + 38), (169, y + 38), (169, y + 26), dashed=True)
    write(canvas, 224, y + 46, "many steps", 8, LINE)
    _labelled(canvas, 348, y, images.clean, "clean latent")
    trapezoid(canvas, 436, y, 76, 42, 72, "decoder", **FROZEN)
    _labelled(canvas, 536, y, images.generated, "new image")
    write(canvas, 610, y, "decoded once,\nat the end", 9, INK, align="left")
