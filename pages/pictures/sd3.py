"""The architecture of Stable Diffusion 3 in one diagram: shapes and sizes are read off the published sizes' modules.

The images in it are the tiny system's, which has the same architecture.
"""

import torch
from torch import Tensor

from helpers.autoencoders.kl import KLAutoencoder
from helpers.sd3.mmdit import JointBlock, MMDiT
from helpers.sd3.pipeline import SD3Config, StableDiffusion3
from helpers.show.diagrams import LINE, Canvas, shape_text, trace
from helpers.text.clip import TextTower
from helpers.text.t5 import T5Encoder
from pages.pictures.sd1 import PROMPT

WIDTH = 1100
HEIGHT = 1010
ALT = (
    "How Stable Diffusion 3 turns a prompt into an image: three text encoders encode the prompt, their hidden states "
    "form one sequence and their pooled embeddings one vector; a transformer of joint blocks, one stream for text and "
    "one for the image, predicts the velocity of the noisy latent; a decoder turns the clean latent into an image. "
    "Below, a joint block in detail, and where its parameters are."
)


class Shapes:
    """Shapes and parameter counts of the published networks for an image of 1024x1024, traced on the meta device."""

    def __init__(self) -> None:
        self.config = config = SD3Config()
        sizes = config.transformer
        side = config.size // config.autoencoder.downsampling_factor
        with torch.device("meta"):
            transformer = MMDiT(sizes)
            networks = {
                "CLIP-L": TextTower(config.clip_l),
                "CLIP-G": TextTower(config.clip_g),
                "T5-XXL": T5Encoder(config.t5),
                "transformer": transformer,
            }
            autoencoder = KLAutoencoder(config.autoencoder)
            latent = torch.zeros(1, sizes.latent_channels, side, side)
        self.latent = latent.shape
        self.tokens = (side // sizes.patch) ** 2
        self.text_tokens = config.clip_l.length + config.t5_length
        self.decoder = trace(autoencoder.decoder, latent, parts=r"stem|middle|up\.\d+|head")
        self.parameters = {name: _count(network) for name, network in networks.items()}
        self.decoder_parameters = _count(autoencoder.decoder)
        block = transformer.blocks[0]
        assert isinstance(block, JointBlock)
        self.block = block
        parts = {
            "modulation": (block.text.modulation, block.image.modulation),
            "attention": (block.text.attention, block.image.attention),
            "MLP": (block.text.mlp, block.image.mlp),
        }
        self.shares = {name: sum(map(_count, pair)) / _count(block) for name, pair in parts.items()}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _size_text(count: int) -> str:
    return f"{count / 1e9:.2f} billion parameters" if count >= 1e9 else f"{count / 1e6:.0f} M parameters"


def draw(system: StableDiffusion3, seed: int = 3) -> Canvas:
    """The whole diagram."""
    shapes = Shapes()
    canvas = Canvas(WIDTH, HEIGHT, ALT)
    read = system.encoders([PROMPT])
    (*_, last) = list(system.sample_steps(PROMPT, steps=20, seed=seed, guidance_scale=4.0))
    _prompt(canvas, shapes, read.text[0])
    _latents(canvas, shapes, system, seed, last.x)
    _joint_block(canvas, shapes)
    _shares(canvas, shapes)
    return canvas


def _prompt(canvas: Canvas, shapes: Shapes, states: Tensor) -> None:
    config = shapes.config
    canvas.frame(15, 12, 1070, 236, "1  Three text encoders encode the prompt")
    prompt_words = PROMPT.split()
    canvas.box(35, 104, 150, 70, "“" + "\n".join(" ".join(prompt_words[i : i + 4]) for i in (0, 4, 8)) + "”", "text", 8)
    encoders = {
        "CLIP-L": (config.clip_l.layers, config.clip_l.length, config.clip_l.width),
        "CLIP-G": (config.clip_g.layers, config.clip_g.length, config.clip_g.width),
        "T5-XXL": (config.t5.layers, config.t5_length, config.t5.width),
    }
    for i, (name, (layers, length, width)) in enumerate(encoders.items()):
        y = 50 + 66 * i
        canvas.arrow((185, 139), (205, 139), (205, y + 20), (222, y + 20))
        canvas.text(
            224,
            y - 8,
            f"{name}: {layers} layers, {_size_text(shapes.parameters[name])}",
            8,
            align="left",
            colour=LINE,
        )
        for j in range(layers):
            canvas.box(224 + 9 * j, y + 2, 7, 36, fill="attention")
        canvas.arrow((224 + 9 * layers + 2, y + 20), (548, y + 20))
        canvas.text(552, y + 20, f"{length} × {width:,}", 8, align="left")
    _matrix(canvas, shapes)
    canvas.heatmap(944, 60, 118, 118, states.clamp(-2, 2).numpy())
    canvas.text(1003, 192, "the tiny model's:", 7.5, colour=LINE)
    canvas.text(1003, 206, f"{len(states)} × {states.shape[1]}", 7.5, colour=LINE)
    summary = f"pooled: {config.clip_l.projection} + {config.clip_g.projection:,} channels"
    canvas.box(640, 212, 230, 24, summary, "text", 8)
    canvas.text(880, 224, "to every block, with the time", 7.5, align="left", colour=LINE)


def _matrix(canvas: Canvas, shapes: Shapes) -> None:
    """The states of all three to scale, in the matrix that the transformer reads."""
    config = shapes.config
    x = 640
    y = 60
    w = 280
    h = 118
    total = config.transformer.text_width
    rows = shapes.text_tokens
    across = w / total
    down = h / rows
    first = config.clip_l.width * across
    second = config.clip_g.width * across
    top = config.clip_l.length * down
    canvas.box(x, y, w, h, fill="other")
    canvas.box(x, y, first, top, "CLIP-L", "convolution", 6.5)
    canvas.box(x + first, y, second, top, "CLIP-G", "attention", 6.5)
    canvas.text(x + first + second + 70, y + top / 2, "zeros", 7, colour=LINE)
    canvas.box(x, y + top, w, h - top, "T5-XXL", "resample", 8)
    canvas.text(x + w / 2, y + h + 12, f"text: {rows} tokens of {total:,} channels", 8)
    canvas.arrow((610, 119), (636, 119))


def _latents(canvas: Canvas, shapes: Shapes, system: StableDiffusion3, seed: int, latent: Tensor) -> None:
    sizes = shapes.config.transformer
    canvas.frame(
        15,
        260,
        1070,
        330,
        "2  The transformer predicts the velocity at every step; the decoder turns the latent into an image",
    )
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    _channels(canvas, 38, 440, noise, "noise", shapes)
    canvas.box(38, 318, 112, 40, f"text\n{shapes.text_tokens} × {sizes.text_width:,}", "text")
    canvas.arrow((150, 338), (172, 338))
    canvas.box(174, 318, 74, 40, f"linear\n→ {sizes.width:,}", "data")
    canvas.arrow((118, 478), (172, 478))
    canvas.box(174, 456, 74, 44, f"patches\n{sizes.patch} × {sizes.patch}", "data")
    canvas.text(211, 512, f"{shapes.tokens:,} tokens", 7.5, colour=LINE)
    canvas.text(211, 525, "+ positions", 7.5, colour=LINE)
    _blocks(canvas, shapes, 272, 306)
    canvas.arrow((700, 478), (722, 478))
    canvas.box(724, 452, 74, 52, "norm, linear,\nunpatchify", "data", 7.5)
    canvas.arrow((761, 452), (761, 418))
    canvas.box(716, 366, 92, 50, "velocity,\nguidance", "other")
    canvas.arrow((761, 366), (761, 350))
    canvas.box(716, 308, 92, 40, "sampler: one\nEuler step", "other", 7.5)
    canvas.arrow((808, 338), (832, 338), (832, 572), (26, 572), (26, 478), (36, 478), dashed=True)
    canvas.text(430, 564, "28 steps, each with less noise", 8, colour=LINE)
    canvas.arrow((808, 318), (862, 318))
    canvas.text(836, 309, "last step", 7.5, colour=LINE)
    _channels(canvas, 864, 306, latent, "clean latent", shapes)
    _decoder(canvas, shapes, system, 960, 306, latent)


def _blocks(canvas: Canvas, shapes: Shapes, x: float, y: float) -> None:
    """Every joint block as a pair of bars, text above and image below, with the attention that joins them."""
    sizes = shapes.config.transformer
    step = 426 / shapes.config.transformer.layers
    for i in range(sizes.layers):
        left = x + step * i
        last = i == sizes.layers - 1
        canvas.box(left, y, step - 5, 64 if not last else 30, fill="text")
        canvas.box(left, y + 140, step - 5, 64, fill="convolution")
        canvas.box(left, y + 78, step - 5, 48, fill="attention")
        for a, b in (((y + 64) if not last else y + 30, y + 78), (y + 140, y + 126)):
            canvas.arrow((left + step / 2 - 2.5, a), (left + step / 2 - 2.5, b), head=False)
    canvas.arrow((248, 338), (x - 2, 338))
    canvas.arrow((248, 478), (x - 2, 478))
    canvas.text(
        x,
        y - 9,
        f"transformer: {sizes.layers} joint blocks, {_size_text(shapes.parameters['transformer'])}",
        8.5,
        align="left",
        bold=True,
    )
    description = "violet: text   ·   orange: one attention over both   ·   blue: image"
    canvas.text(x + 213, y + 218, description, 8, colour=LINE)
    canvas.box(x + 82, y + 226, 266, 22, "time and pooled text: one vector, to every block", "text", 7.5)


def _channels(canvas: Canvas, x: float, y: float, latent: Tensor, text: str, shapes: Shapes) -> None:
    """The channels of a latent as small grey images."""
    for i, channel in enumerate(latent[0]):
        canvas.image(x + 19 * (i % 4), y + 19 * (i // 4), 17, 17, (channel / 2.5).clamp(-1, 1)[None])
    canvas.text(x + 37, y + 86, text, 7.5)
    canvas.text(x + 37, y + 99, shape_text(shapes.latent), 7.5)


def _decoder(canvas: Canvas, shapes: Shapes, system: StableDiffusion3, x: float, y: float, latent: Tensor) -> None:
    canvas.arrow((x - 12, y + 37), (x, y + 37))
    canvas.text(x + 58, y - 8, f"decoder: {shapes.decoder_parameters / 1e6:.0f} M", 7.5, bold=True)
    for i, call in enumerate(shapes.decoder):
        canvas.box(x + 2, y + 4 + 18 * i, 112, 15, shape_text(call.output), "convolution", 6.5)
    low = y + 4 + 18 * len(shapes.decoder)
    canvas.arrow((x + 58, low), (x + 58, low + 12))
    canvas.image(x + 12, low + 14, 92, 92, system.decode(latent)[0])
    canvas.text(x + 58, low + 118, "the tiny model's image", 7, colour=LINE)


def _joint_block(canvas: Canvas, shapes: Shapes) -> None:
    sizes = shapes.config.transformer
    canvas.frame(15, 602, 720, 396, "Joint block")
    streams = (70, "text", shapes.text_tokens, "text"), (430, "image", shapes.tokens, "convolution")
    for x, name, tokens, role in streams:
        canvas.text(x + 80, 634, f"{name}: {tokens:,} × {sizes.width:,}", 8)
        canvas.arrow((x + 80, 642), (x + 80, 656))
        canvas.box(x, 656, 160, 24, "norm, scale, shift", role)
        canvas.arrow((x + 80, 680), (x + 80, 694))
        canvas.box(x, 694, 160, 24, f"q, k, v: → 3 × {sizes.width:,}", role)
        canvas.arrow((x + 80, 718), (x + 80, 734))
        canvas.arrow((x + 80, 766), (x + 80, 782))
        canvas.box(x, 782, 160, 24, "linear, × gate", role)
        canvas.arrow((x + 80, 806), (x + 80, 822))
        canvas.dot(x + 80, 832, "+")
        canvas.arrow((x + 80, 648), (x - 22, 648), (x - 22, 832), (x + 70, 832), dashed=True)
        canvas.arrow((x + 80, 842), (x + 80, 858))
        canvas.box(x, 858, 160, 24, "norm, scale, shift", role)
        canvas.arrow((x + 80, 882), (x + 80, 896))
        canvas.box(x, 896, 160, 24, f"MLP: → {4 * sizes.width:,} →, × gate", role)
        canvas.arrow((x + 80, 920), (x + 80, 938))
        canvas.dot(x + 80, 948, "+")
        canvas.arrow((x + 80, 849), (x - 22, 849), (x - 22, 948), (x + 70, 948), dashed=True)
        canvas.arrow((x + 80, 958), (x + 80, 976))
    both = shapes.text_tokens + shapes.tokens
    canvas.box(
        70,
        734,
        520,
        32,
        f"attention over all {both:,} tokens, {sizes.heads} heads of {sizes.width // sizes.heads}",
        "attention",
    )
    canvas.box(248, 868, 144, 40, "time + pooled text:\nSiLU, linear", "other", 7.5)
    canvas.arrow((248, 876), (232, 870))
    canvas.arrow((392, 876), (404, 870), (428, 870))
    canvas.text(320, 920, "6 vectors for each stream: two", 7, colour=LINE)
    canvas.text(320, 932, "scales, two shifts, two gates", 7, colour=LINE)
    description = (
        "Each stream has\nweights of its own;\nonly the attention\nis common.\n\n"
        "After the last block\nthe text is not used\nany more: it ends\nat q, k, v."
    )
    canvas.text(612, 870, description, 7.5, align="left", colour=LINE)


def _shares(canvas: Canvas, shapes: Shapes) -> None:
    canvas.frame(750, 602, 335, 396, "Where a block's parameters are")
    top = 650.0
    roles = {"modulation": "other", "attention": "attention", "MLP": "convolution"}
    for name, share in shapes.shares.items():
        tall = 280 * share
        canvas.box(790, top, 110, tall, f"{share:.0%}", roles[name], 9)
        canvas.text(915, top + tall / 2, name, 9, align="left")
        top += tall
    canvas.text(
        790, 952, f"{_size_text(_count(shapes.block))} in all: a third of them only", 8, align="left", colour=LINE
    )
    canvas.text(790, 968, "turns time and pooled text into scales and shifts", 8, align="left", colour=LINE)
