"""The architecture diagrams: every number in them is a shape in the published networks, or a parameter count."""

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from helpers.autoencoders.kl import KLAutoencoder
from helpers.sd1.pipeline import SD1Config, StableDiffusion1
from helpers.sd1.unet import UNet
from helpers.sd3.mmdit import MMDiT
from helpers.sd3.pipeline import SD3Config, StableDiffusion3
from helpers.show.diagrams import Canvas
from helpers.text.clip import TextTower
from helpers.text.t5 import T5Encoder
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.pipeline import PaliGemma
from helpers.vlm.processor import LOCATIONS, SEGMENTS
from pages.pictures import paligemma, sd1, sd3

NUMBER = re.compile(r"(?<![\w.])(\d+(?:,\d{3})*(?:\.\d+)?)( M| billion)?")
COUNTED = 12  # numbers of sections, and counts of things that the diagram shows one by one


def sizes(module: nn.Module, *inputs: torch.Tensor) -> set[int]:
    """Every side of every tensor that goes in or out of any part or is its weight, and the lengths of its lists."""
    sizes_seen = {side for weight in module.parameters() for side in weight.shape}

    def record(part: nn.Module, args: tuple, output: object) -> None:
        for tensor in (*args, output):
            sizes_seen.update(tensor.shape if isinstance(tensor, torch.Tensor) else ())

    hooks = [part.register_forward_hook(record) for part in module.modules()]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return sizes_seen | {len(part) for part in module.modules() if isinstance(part, nn.ModuleList | nn.Sequential)}


def counts(*modules: nn.Module) -> set[int]:
    """Parameters of every part."""
    return {sum(p.numel() for p in part.parameters()) for module in modules for part in module.modules()}


def unexplained(canvas: Canvas, known: set[int], parameters: set[int]) -> list[str]:
    """The numbers in a diagram's text that are neither a size nor a rounded count of parameters."""
    wrong = []
    for text in (artist.get_text() for artist in canvas.axes.texts):
        for number, unit in NUMBER.findall(text):
            value = float(number.replace(",", ""))
            digits = len(number.partition(".")[2])
            scale = {" M": 1e6, " billion": 1e9}.get(unit)
            near = any(abs(count / scale - value) <= 0.5 * 10**-digits for count in parameters) if scale else False
            if not (near or value in known or (value <= COUNTED and not scale)):
                wrong.append(f"{number}{unit} in {text!r}")
    return wrong


def size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def default(function: Callable, name: str) -> int:
    return inspect.signature(function).parameters[name].default


def test_stable_diffusion_1() -> None:
    config = SD1Config.v1()
    with torch.device("meta"):
        text = TextTower(config.text)
        unet = UNet(config.unet)
        autoencoder = KLAutoencoder(config.autoencoder)
        latent = torch.zeros(1, 4, 64, 64)
        ids = torch.zeros(1, 77, dtype=torch.long)
        known = sizes(text, ids) | sizes(unet, latent, torch.zeros(1), torch.zeros(1, 77, 768))
        known |= sizes(autoencoder.decoder, latent)
    ways = list(zip(unet.down, reversed(unet.up), strict=True))  # a level of the U-Net: down, and up again
    levels = {size(*ways[0], unet.stem, unet.head), *(size(down, up) for down, up in ways[1:])}
    known |= {14, 640 // config.unet.heads, default(StableDiffusion1.generate, "steps")}  # CLIP ViT-L/14, a name
    canvas = sd1.draw(StableDiffusion1.from_weights())
    assert unexplained(canvas, known, counts(text, unet, autoencoder) | levels) == []


def test_stable_diffusion_3() -> None:
    config = SD3Config()
    tiny = StableDiffusion3.from_weights()
    with torch.device("meta"):
        clip_l = TextTower(config.clip_l)
        clip_g = TextTower(config.clip_g)
        t5 = T5Encoder(config.t5)
        transformer = MMDiT(config.transformer)
        autoencoder = KLAutoencoder(config.autoencoder)
        latent = torch.zeros(1, 16, 128, 128)
        ids = torch.zeros(1, 77, dtype=torch.long)
        known = sizes(clip_l, ids) | sizes(clip_g, ids) | sizes(t5, torch.zeros(1, 256, dtype=torch.long))
        known |= sizes(autoencoder.decoder, latent)
        known |= sizes(transformer, latent, torch.zeros(1), torch.zeros(1, 77 + 256, 4096), torch.zeros(1, 2048))
    known |= {77 + 256 + (128 // 2) ** 2, config.steps}  # tokens of text and image
    known |= set(tiny.encoders(["a cat"]).text.shape)  # the shape of the heat map
    block = transformer.blocks[0]
    for parts in zip(*((half.modulation, half.attention, half.mlp) for half in (block.text, block.image))):
        known.add(round(100 * size(*parts) / size(block)))  # per cent of a block
    assert unexplained(sd3.draw(tiny), known, counts(clip_l, clip_g, t5, transformer, autoencoder)) == []


def test_paligemma() -> None:
    with torch.device("meta"):
        model = PaliGemmaModel(PaliGemmaConfig.paligemma_3b_224())
        known = sizes(model.vision, torch.zeros(1, 3, 224, 224)) | sizes(model.projector, torch.zeros(1, 256, 1152))
        known |= sizes(model.language, torch.zeros(1, 256 + 8, 2048), torch.arange(256 + 8)[None])
    known |= {len(LOCATIONS), len(SEGMENTS)}
    canvas = paligemma.draw(PaliGemma.from_weights())
    assert unexplained(canvas, known, counts(model)) == []


@pytest.mark.parametrize(("text", "wrong"), [("64 × 65", ["65 in '64 × 65'"]), ("3.5 M", ["3.5 M in '3.5 M'"])])
def test_a_wrong_number_is_noticed(text: str, wrong: list[str]) -> None:
    canvas = Canvas(100, 100, "a number")
    canvas.text(0, 0, text)
    assert unexplained(canvas, {64}, {3_600_000}) == wrong
