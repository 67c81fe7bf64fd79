"""Diagrams of notebooks 07 and 08: the VAE and the VQ-VAE, with their losses where they attach."""

from typing import Any

import numpy as np
import torch
from matplotlib.patches import FancyBboxPatch

from helpers.autoencoders.kl import KLAutoencoder
from helpers.autoencoders.vq import VQAutoencoder, codes_to_rgb
from helpers.show.diagrams import LINE, SOFT, Canvas
from helpers.show.figures import INK, to_rgb_array
from pages.pictures.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    PALE,
    PURPLE,
    WIDTH,
    frame_image,
    synthetic_face,
    tinted_box,
    trapezoid,
    write,
)

SIDE = 84  # of the images, in page pixels
HIGH = 92  # side of an encoder or a decoder where the image is
LOW = 68  # and where the latent is


def _face(size: int) -> np.ndarray:
    return synthetic_face(size, 11, species="cat", fur="orange", background="blue", eyes="green")


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).float()[None] / 127.5 - 1


def _to_bytes(image: torch.Tensor) -> np.ndarray:
    return to_rgb_array(image.clamp(-1, 1))[0].transpose(2, 0, 1)


def _image(canvas: Canvas, x: float, y: float, image: np.ndarray, label: str) -> None:
    canvas.image(x, y, SIDE, SIDE, image)
    frame_image(canvas, x, y, SIDE, SIDE, SOFT, 1)
    write(canvas, x + SIDE / 2, y - 13, label, 9.5)


VAE_ALT = (
    "A variational autoencoder, from left to right: the image x enters the encoder, which outputs a mean and a "
    "standard deviation. Noise is multiplied by the standard deviation and added to the mean, which gives the latent "
    "z. The decoder turns z into the reconstruction. Two losses attach: the rate compares mean and standard deviation "
    "with the prior, the reconstruction error compares the image with its reconstruction."
)


def vae(autoencoder: KLAutoencoder) -> Canvas:
    """A VAE with the reparameterisation trick and the two terms of its loss."""
    canvas = Canvas(WIDTH, 328, VAE_ALT)
    canvas.axes.set_xlim(-18, WIDTH - 18)  # in the middle
    image = _face(64)
    with torch.no_grad():
        decoded = autoencoder.decode(autoencoder.encode(_to_tensor(image)).mean)
    middle = 150
    _image(canvas, 16, middle - SIDE / 2, image, "image  $x$")
    canvas.arrow((101, middle), (118, middle))
    trapezoid(canvas, 120, middle, 74, HIGH, LOW, "encoder", ground=PALE[BLUE], edge=BLUE, size=10)
    _sampling(canvas, middle)
    canvas.arrow((468, middle), (488, middle))
    trapezoid(canvas, 490, middle, 74, LOW, HIGH, "decoder", ground=PALE[BLUE], edge=BLUE, size=10)
    canvas.arrow((564, middle), (582, middle))
    _image(canvas, 584, middle - SIDE / 2, _to_bytes(decoded), r"reconstruction  $\hat x$")
    _vae_losses(canvas, middle)
    return canvas


def _sampling(canvas: Canvas, middle: float) -> None:
    """From mean and standard deviation to the latent: z = mu + sigma * epsilon."""
    for y, symbol in ((middle - 30, r"$\mu$"), (middle + 30, r"$\sigma$")):
        canvas.arrow((194, y), (222, y))
        tinted_box(canvas, 224, y - 17, 46, 34, symbol, ground=PALE[PURPLE], edge=PURPLE, size=13)
    times = 318
    plus = 374
    canvas.arrow((270, middle + 30), (times - 9, middle + 30))
    tinted_box(canvas, times - 58, middle + 74, 116, 30, r"noise  $\varepsilon \sim N(0, I)$", size=9.5)
    canvas.arrow((times, middle + 73), (times, middle + 40))
    canvas.dot(times, middle + 30, "×")
    canvas.arrow((times + 9, middle + 30), (plus, middle + 30), (plus, middle + 10))
    canvas.arrow((270, middle - 30), (plus, middle - 30), (plus, middle - 10))
    canvas.dot(plus, middle, "+")
    canvas.arrow((plus + 9, middle), (418, middle))
    tinted_box(canvas, 420, middle - 20, 48, 40, "$z$", ground=PALE[GREEN], edge=GREEN, size=13)
    write(canvas, 444, middle + 34, "latent", 9, LINE)
    write(canvas, plus + 36, middle - 42, r"$z = \mu + \sigma \odot \varepsilon$", 10.5)


def _vae_losses(canvas: Canvas, middle: float) -> None:
    outline = FancyBboxPatch(
        (214, middle - 56),
        66,
        112,
        boxstyle="round,pad=0,rounding_size=8",
        facecolor="none",
        edgecolor=ORANGE,
        linewidth=1.4,
        linestyle=(0, (4, 3)),
        zorder=3,
    )
    canvas.axes.add_patch(outline)
    canvas.arrow((247, middle - 57), (247, 52), colour=ORANGE)
    rate = r"rate:  $KL\,(\,q(z\,|\,x)\;\Vert\;N(0, I)\,)$"
    tinted_box(canvas, 130, 16, 234, 34, rate, ground=PALE[ORANGE], edge=ORANGE, size=10.5)
    low = 294
    for x in (16 + SIDE / 2, 584 + SIDE / 2):
        into = 190 if x < WIDTH / 2 else 494
        canvas.arrow((x, middle + SIDE / 2 + 4), (x, low), (into, low), colour=ORANGE)
    error = r"reconstruction error:  $-\log p(x\,|\,z)$"
    tinted_box(canvas, 192, low - 17, 300, 34, error, ground=PALE[ORANGE], edge=ORANGE, size=10.5)
    write(canvas, 548, 26, "loss = reconstruction error + rate", 10.5, ORANGE, bold=True)
    write(canvas, 548, 46, "the negative ELBO", 9.5, ORANGE)


VQ_ALT = (
    "A VQ-VAE, from left to right: image, encoder, a grid of vectors z, the choice of the nearest entry of the "
    "codebook, a grid of codes e, decoder, reconstruction. A dashed arrow leads from e back to z, past the choice: the "
    "straight-through gradient. Below, two arrows between a vector z and its code e: the codebook loss moves the code "
    "towards z with weight 1, the commitment loss moves z towards the code with weight 0.25."
)
BETA = 0.25  # the weight of the commitment loss


class Quantised:
    """One image on its way through a VQ-VAE, as images in bytes."""

    def __init__(self, autoencoder: VQAutoencoder, image: np.ndarray) -> None:
        with torch.no_grad():
            vectors = autoencoder.encode(_to_tensor(image))
            reconstruction, quantised = autoencoder(_to_tensor(image))
        self.vectors = _to_bytes(vectors_to_rgb(autoencoder, vectors))
        self.codes = _to_bytes(codes_to_rgb(autoencoder, quantised.indices))
        entries = torch.arange(autoencoder.config.K).reshape(1, -1, 32)
        self.codebook = _to_bytes(codes_to_rgb(autoencoder, entries))
        self.reconstruction = _to_bytes(reconstruction)


def vectors_to_rgb(autoencoder: VQAutoencoder, vectors: torch.Tensor) -> torch.Tensor:
    """Show an encoder's output (N, D, h, w) in the colours that `codes_to_rgb` gives to the codes."""
    codebook = autoencoder.quantizer.codebook.detach()
    centred = codebook - codebook.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:3].T
    scale = 2 * (centred @ directions).std(0)
    colours = (vectors.permute(0, 2, 3, 1) - codebook.mean(0)) @ directions / scale
    return colours.clamp(-1, 1).permute(0, 3, 1, 2)


def vq_vae(autoencoder: VQAutoencoder) -> Canvas:
    """A VQ-VAE with the straight-through gradient, and the two losses that move vectors and codes together."""
    canvas = Canvas(WIDTH, 376, VQ_ALT)
    canvas.axes.set_xlim(-18, WIDTH - 18)  # in the middle
    image = _face(64)
    shown = Quantised(autoencoder, image)
    middle = 116
    top = middle - SIDE / 2
    _image(canvas, 14, top, image, "image  $x$")
    canvas.arrow((98, middle), (112, middle))
    trapezoid(canvas, 114, middle, 62, HIGH, LOW, "encoder", ground=PALE[BLUE], edge=BLUE)
    canvas.arrow((176, middle), (190, middle))
    _image(canvas, 192, top, shown.vectors, "")
    write(canvas, 234, top + SIDE + 13, "vectors  $z$", 9.5)
    canvas.arrow((276, middle), (296, middle))
    tinted_box(canvas, 298, middle - 24, 78, 48, "nearest\ncode", ground=PALE[PURPLE], edge=PURPLE, size=9.5)
    canvas.arrow((376, middle), (396, middle))
    _image(canvas, 398, top, shown.codes, "")
    write(canvas, 440, top + SIDE + 13, "codes  $e$", 9.5)
    canvas.arrow((482, middle), (496, middle))
    trapezoid(canvas, 498, middle, 62, LOW, HIGH, "decoder", ground=PALE[BLUE], edge=BLUE)
    canvas.arrow((560, middle), (574, middle))
    _image(canvas, 576, top, shown.reconstruction, r"reconstruction  $\hat x$")
    canvas.arrow((440, top - 3), (440, 44), (234, 44), (234, top - 3), dashed=True, colour=ORANGE)
    write(canvas, 337, 20, "straight-through gradient:", 9.5, ORANGE, bold=True)
    write(canvas, 337, 34, "copied past the choice, which has none", 8.5, ORANGE)
    _codebook(canvas, shown.codebook, autoencoder.config.K, middle)
    _vq_losses(canvas)
    return canvas


def _codebook(canvas: Canvas, colours: np.ndarray, count: int, middle: float) -> None:
    y = 196
    canvas.image(289, y, 96, 96, colours)
    frame_image(canvas, 289, y, 96, 96, PURPLE, 1.4)
    canvas.arrow((337, y - 2), (337, middle + 26))
    write(canvas, 337, y + 108, f"codebook: {count:,} codes", 9.5)


def _vq_losses(canvas: Canvas) -> None:
    """Two arrows between a vector and its code, their lengths as the weights of the losses."""
    y = 334
    code = 505
    vector = 215
    length = 130
    canvas.axes.plot([vector, code], [y, y], color="#c5ccd3", lw=1, ls=(0, (2, 3)), zorder=1)
    canvas.axes.plot([vector], [y], "o", ms=11, color=BLUE, zorder=5)
    canvas.axes.plot([code], [y], "s", ms=11, color=PURPLE, zorder=5)
    write(canvas, vector - 18, y, "$z$", 13, BLUE)
    write(canvas, code + 18, y, "$e$", 13, PURPLE)
    for start, end, colour in ((code, code - length, PURPLE), (vector, vector + BETA * length, BLUE)):
        shift = 9 if end > start else -9
        style: dict[str, Any] = {
            "arrowstyle": "-|>",
            "lw": 2.6,
            "color": colour,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 15,
        }
        canvas.axes.annotate("", xy=(end + shift, y), xytext=(start + shift, y), arrowprops=style, zorder=4)
    write(canvas, code + 36, y - 8, "codebook loss: moves", 9, PURPLE, align="left")
    write(canvas, code + 36, y + 8, "the code, weight 1", 9, PURPLE, align="left")
    write(canvas, vector - 36, y - 8, "commitment loss: moves", 9, BLUE, align="right")
    write(canvas, vector - 36, y + 8, rf"the vector, weight $\beta = {BETA}$", 9, BLUE, align="right")
    write(canvas, 0, y - 36, "two losses, each moves one end", 9.5, INK, align="left", bold=True)
