"""The architecture of Stable Diffusion 1 in one diagram: shapes and sizes are read off the published sizes' modules.

The images in it are the tiny system's, which has the same architecture.
"""

import torch
from torch import Tensor

from helpers.autoencoders.kl import KLAutoencoder
from helpers.sd1.pipeline import SD1Config, StableDiffusion1
from helpers.sd1.unet import UNet
from helpers.show.diagrams import LINE, Canvas, draw_unet, shape_text, trace, unet_trace
from helpers.text.clip import TextTower

WIDTH = 1100
HEIGHT = 872
PROMPT = "a striped orange cat with green eyes on a blue background"
ALT = (
    "How Stable Diffusion 1 turns a prompt into an image: the prompt becomes 77 tokens and, in the text encoder, "
    "77 hidden states; a U-Net with skip connections takes the noisy latent, the timestep and the hidden states, and "
    "predicts the noise, fifty times; a decoder turns the clean latent into an image. Below, residual block and "
    "transformer block in detail."
)


class Shapes:
    """Shapes and parameter counts of the published networks for an image of 512x512, traced on the meta device."""

    def __init__(self) -> None:
        config = SD1Config.v1()
        side = config.size // config.autoencoder.downsampling_factor
        with torch.device("meta"):
            text = TextTower(config.text)
            unet = UNet(config.unet)
            autoencoder = KLAutoencoder(config.autoencoder)
            ids = torch.zeros(1, config.text.length, dtype=torch.long)
            latent = torch.zeros(1, 4, side, side)
            states = torch.zeros(1, config.text.length, config.text.width)
        self.config = config
        self.text = trace(text, ids, parts=r"layers\.\d+|norm")
        self.unet = unet_trace(unet, latent, torch.zeros(1, device="meta"), states)
        self.decoder = trace(autoencoder.decoder, latent, parts=r"stem|middle|up\.\d+|head")
        self.parameters = {
            name: sum(p.numel() for p in part.parameters()) for name, part in (("text", text), ("unet", unet))
        }
        self.decoder_parameters = sum(p.numel() for p in autoencoder.decoder.parameters())


def draw(system: StableDiffusion1, seed: int = 3) -> Canvas:
    """The whole diagram."""
    shapes = Shapes()
    canvas = Canvas(WIDTH, HEIGHT, ALT)
    states = system.encode_text([PROMPT])[0]
    (*_, last) = list(system.sample_steps(PROMPT, steps=25, seed=seed))
    _prompt(canvas, shapes, states)
    _latents(canvas, shapes, system, seed, last.x)
    _residual_block(canvas, shapes)
    _transformer_block(canvas, shapes)
    return canvas


def _millions(count: int) -> str:
    return f"{count / 1e6:.0f} M parameters"


def _prompt(canvas: Canvas, shapes: Shapes, states: Tensor) -> None:
    canvas.frame(15, 12, 1070, 112, "1  The prompt becomes hidden states")
    prompt_words = PROMPT.split()
    canvas.box(35, 45, 195, 52, f"“{' '.join(prompt_words[:6])}\n{' '.join(prompt_words[6:])}”", "text", 8)
    canvas.arrow((230, 71), (252, 71))
    count = shapes.config.text.length
    canvas.box(254, 45, 158, 52, f"{count} tokens\nstart, words, end, padding", "text", 8)
    canvas.arrow((412, 71), (436, 71))
    layers = [call for call in shapes.text if call.name.startswith("layers")]
    canvas.text(560, 36, f"text encoder, CLIP ViT-L/14: {_millions(shapes.parameters['text'])}", 8, colour=LINE)
    for i, _ in enumerate(layers):
        canvas.box(438 + 20 * i, 47, 16, 48, fill="attention")
    end = 438 + 20 * len(layers)
    canvas.text((438 + end) / 2, 106, f"{len(layers)} layers of causal attention and MLP", 7.5, colour=LINE)
    canvas.arrow((end, 71), (end + 28, 71))
    canvas.box(end + 30, 47, 62, 48, "final\nnorm", "other", 8)
    canvas.arrow((end + 92, 71), (end + 120, 71))
    canvas.heatmap(end + 122, 42, 150, 56, states.clamp(-2, 2).numpy())
    canvas.text(end + 197, 106, f"hidden states: {shape_text(shapes.text[-1].output)}", 8)


def _latents(canvas: Canvas, shapes: Shapes, system: StableDiffusion1, seed: int, latent: Tensor) -> None:
    canvas.frame(
        15, 136, 1070, 400, "2  The U-Net predicts the noise in fifty steps; the decoder turns the latent into an image"
    )
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    side = shapes.unet.stem.inputs[0]
    _channels(canvas, 38, 206, noise, f"noise: {shape_text(side)}")
    _, _, entry, leave = draw_unet(canvas, shapes.unet, 176, 188)
    canvas.arrow((114, entry[1]), (entry[0] - 46, entry[1]))
    canvas.text(190, 508, f"U-Net: {_millions(shapes.parameters['unet'])}", 9, bold=True, align="left")
    _conditions(canvas, shapes)
    _legend(canvas, 560, 418)
    out = leave[0] + 16
    canvas.arrow(leave, (out, leave[1]))
    canvas.box(
        out,
        leave[1] - 34,
        124,
        68,
        "guidance\n\n" + r"$\varepsilon_\varnothing + s\,(\varepsilon_c - "
        r"\varepsilon_\varnothing)$",
        "other",
        8,
    )
    canvas.arrow((out + 62, leave[1] + 34), (out + 62, leave[1] + 62))
    canvas.box(out, leave[1] + 64, 124, 50, "sampler: removes\nsome noise", "other", 8)
    canvas.arrow((out + 62, leave[1] + 114), (out + 62, 524), (24, 524), (24, 243), (36, 243), dashed=True)
    canvas.text(480, 516, "50 steps, each with less noise", 8, colour=LINE)
    _channels(canvas, 934, 206, latent, f"clean latent: {shape_text(side)}")
    canvas.arrow((out + 124, leave[1] + 89), (970, leave[1] + 89), (970, 304))
    canvas.text(930, leave[1] + 80, "last step", 7.5, colour=LINE)
    _decoder(canvas, shapes, system, 908, 306, latent)


def _conditions(canvas: Canvas, shapes: Shapes) -> None:
    """The two conditions, time and text, and the blocks that they reach."""
    low = shapes.unet.down[0][0].inputs[1][1]
    text = shapes.config.text
    canvas.box(36, 350, 118, 42, f"time: sinusoids,\nMLP → {low:,}", "text")
    canvas.text(36, 402, "to every residual block", 7.5, align="left", colour=LINE)
    canvas.box(36, 424, 118, 42, f"hidden states\n{text.length} × {text.width}", "text")
    canvas.text(36, 476, "to every transformer block", 7.5, align="left", colour=LINE)
    canvas.arrow((154, 371), (225, 371), (225, 300), dashed=True)
    canvas.arrow((154, 445), (275, 445), (275, 370), dashed=True)


def _channels(canvas: Canvas, x: float, y: float, latent: Tensor, text: str) -> None:
    """The channels of a latent as four small grey images."""
    for i, channel in enumerate(latent[0]):
        canvas.image(x + 38 * (i % 2), y + 38 * (i // 2), 34, 34, (channel / 2.5).clamp(-1, 1)[None])
    canvas.text(x + 36, y - 12, text, 7.5)


def _legend(canvas: Canvas, x: float, y: float) -> None:
    entries = {
        "convolution": "residual block",
        "attention": "transformer block",
        "resample": "down- or upsampling",
        "data": "convolution in, out",
    }
    for i, (role, text) in enumerate(entries.items()):
        canvas.box(x, y + 18 * i, 12, 13, fill=role)
        canvas.text(x + 18, y + 7 + 18 * i, text, 7.5, align="left")
    canvas.text(x, y + 80, "millions: parameters of a level", 7.5, align="left", colour=LINE)


def _decoder(canvas: Canvas, shapes: Shapes, system: StableDiffusion1, x: float, y: float, latent: Tensor) -> None:
    canvas.text(x + 62, y + 6, f"decoder: {_millions(shapes.decoder_parameters)}", 7.5, bold=True)
    for i, call in enumerate(shapes.decoder):
        canvas.box(x + 6, y + 16 + 15 * i, 112, 13, shape_text(call.output), "convolution", 6.5)
    low = y + 16 + 15 * len(shapes.decoder)
    canvas.arrow((x + 62, low), (x + 62, low + 10))
    canvas.image(x + 21, low + 12, 82, 82, system.decode(latent)[0])
    canvas.text(x + 109, low + 55, "the tiny\nmodel's\nimage", 7, align="left", colour=LINE)


def _residual_block(canvas: Canvas, shapes: Shapes) -> None:
    canvas.frame(15, 548, 420, 312, "Residual block")
    call = next(call for call in shapes.unet.up[2] if "residual" in call.name)
    canvas.text(120, 577, shape_text(call.inputs[0]), 8)
    steps = ["group norm", "SiLU", "convolution 3 × 3", "group norm", "SiLU", "convolution 3 × 3"]
    for i, step in enumerate(steps):
        y = 594 + 36 * i + (18 if i > 2 else 0)
        canvas.arrow((120, y - 12 - (18 if i == 3 else 0)), (120, y))
        canvas.box(50, y, 140, 24, step, "convolution" if "conv" in step else "other")
    time = call.inputs[1][1]
    canvas.dot(120, 705, "+")
    canvas.box(262, 693, 150, 24, f"linear {time:,} → {call.output[1]}", "text")
    canvas.arrow((262, 705), (130, 705))
    canvas.text(337, 680, f"timestep: {time:,} channels", 8)
    canvas.arrow((120, 816), (120, 850), head=False)
    canvas.dot(120, 838, "+")
    canvas.arrow((170, 577), (225, 577), (225, 838), (130, 838), dashed=True)
    canvas.text(232, 770, "skip, through a 1 × 1 convolution\nwhere channels change", 7.5, align="left", colour=LINE)
    canvas.text(290, 838, shape_text(call.output), 8)


def _transformer_block(canvas: Canvas, shapes: Shapes) -> None:
    canvas.frame(450, 548, 635, 312, "Transformer block")
    call = next(call for call in shapes.unet.up[2] if "transformer" in call.name)
    channels, height, width = call.output[1:]
    tokens = height * width
    text = shapes.config.text
    description = f"{shape_text(call.inputs[0])} as {tokens:,} positions of {channels} channels"
    canvas.text(660, 604, description, 8, align="left")
    steps = {
        "group norm, linear": "other",
        "norm, self-attention": "attention",
        "norm, cross-attention": "attention",
        "norm, gated MLP": "convolution",
        "linear": "other",
    }
    for i, (step, role) in enumerate(steps.items()):
        y = 592 + 52 * i
        canvas.box(490, y, 150, 25, step, role)
        if i < 4:
            canvas.arrow((565, y + 25), (565, y + 52))
        if role != "other":
            canvas.arrow((565, y - 8), (472, y - 8), (472, y + 35), (557, y + 35), dashed=True)
            canvas.dot(565, y + 35, "+")
    heads = shapes.config.unet.heads
    description = (
        f"every position attends to every other: {tokens:,} × {tokens:,} weights,\n{heads} heads of {channels // heads}"
    )
    canvas.text(660, 656, description, 8, align="left")
    canvas.box(900, 696, 165, 25, f"hidden states {text.length} × {text.width}", "text")
    canvas.arrow((900, 708), (640, 708))
    canvas.text(770, 699, "keys, values", 7.5, colour=LINE)
    canvas.text(660, 730, f"every position attends to the prompt: {tokens:,} × {text.length} weights", 8, align="left")
    description = f"{channels} → 2 × {4 * channels:,}, one half gates the other, → {channels}"
    canvas.text(660, 760, description, 8, align="left")
    canvas.text(660, 812, "and the input is added", 8, align="left")
