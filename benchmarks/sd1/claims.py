"""Stable Diffusion 1: parity with the reference libraries, speed and memory, what the tiny weights generate.

python -m benchmarks check sd1    # parity, refusals and generation recomputed, the timings read: minutes
python -m benchmarks sd1          # times the full-size networks beside diffusers: about half an hour
"""

import json
import statistics
import tempfile
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import (
    ROUNDS,
    Comparison,
    alternating,
    compared,
    compared_rows,
    network_comparisons,
    peak_memory,
    with_earlier,
)
from benchmarks.parity import difference
from benchmarks.record import hardware, parameter_count, write_record
from benchmarks.report import Row, at_least, at_most, claim, count_statements
from benchmarks.sd1 import samplers
from benchmarks.sd1.reference import SMALL, reference, write_layouts
from helpers.autoencoders import kl
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.course import repository_root
from helpers.layers.attention import attention_with_map
from helpers.sd1 import checkpoint
from helpers.sd1.export import to_diffusers
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd1.unet import UNet, UNetConfig
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig, TextTower
from helpers.training.precision import computes_bf16
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path
from helpers.weights.pretrained import load_pretrained

RESULTS = "00_assets/results/sd1.json"
SYSTEM = "Stable Diffusion 1"
NAME = "sd1"
PROMPTS = 200
FILES = ("clip", "autoencoder", NAME)  # what the tiny system is made of
SIZES = {"text encoder": 123_060_480, "U-Net": 859_520_964, "autoencoder": 83_653_863}
POOL = 999_983  # random numbers that full-size weights are filled from, a prime: a billion draws would take longer
CODE = ("helpers/sd1/*.py", "helpers/text/bpe.py", "helpers/text/clip.py", "helpers/autoencoders/kl.py")


def check() -> list[Row]:
    """Recompute the claims about Stable Diffusion 1."""
    return [
        *_sizes(),
        *_parity(),
        *samplers.rows(),
        *_generated(),
        *compared_rows(RESULTS, SYSTEM),
        *_faults(),
        at_most("statements of code", _statements(), 750),
    ]


# --- sizes and parity -----------------------------------------------------------------------------------------------


def _sizes() -> list[Row]:
    with torch.device("meta"):
        parts = {
            "text encoder": TextTower(CLIPTowerConfig.sd1_text()),
            "U-Net": UNet(UNetConfig.v1()),
            "autoencoder": KLAutoencoder(KLConfig.sd1()),
        }
    counted = {name: parameter_count(part) for name, part in parts.items()}
    return [
        claim(f"parameters, {name}", f"{counted[name]:,}", f"{SIZES[name]:,}", counted[name] == SIZES[name])
        for name in SIZES
    ]


def _parity() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        peer = reference(SMALL)
        layouts = write_layouts(peer, Path(folder))
        for layout in ("diffusers", "safetensors", "ckpt"):
            model = StableDiffusion1.from_checkpoint(layouts[layout], config=SMALL, tokenizer=layouts["tokenizer"])
            worst = torch.tensor(list(small_differences(model, peer).values())).max().item()  # nan counts
            rows.append(at_most(f"parity of parts, small, {layout}", worst, 1e-5))
            rows.append(at_most(f"parity of an image in 10 steps, {layout}", image_difference(model, peer), 1e-4))
        exported = Path(folder) / "exported"
        tiny = StableDiffusion1.from_weights()
        to_diffusers(tiny, exported)
        rows.append(at_most("exported to diffusers, an image in 10 steps", exported_difference(tiny, exported), 1e-3))
    rows += [at_most(f"parity at full size, {part}", max(full_size_differences(part).values()), 1e-5) for part in SIZES]
    return rows


@torch.no_grad()
def small_differences(model: StableDiffusion1, peer: Any) -> dict[str, float]:
    """Largest relative difference of every part, on the same random inputs."""
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 4, 8, 16, generator=generator)
    images = torch.rand(2, 3, 64, 32, generator=generator)
    timestep = torch.tensor([981, 1])
    ids = model.tokenizer(["a striped orange cat", "a grey dog"])
    text = peer.text_encoder(ids)[0]
    encoded = peer.vae.encode(2 * images - 1).latent_dist
    ours = model.autoencoder.encode(2 * images - 1)
    return {
        "text encoder": difference(model.text(ids), text),
        "U-Net": difference(
            model.unet(latent, timestep, text), peer.unet(latent, timestep, encoder_hidden_states=text).sample
        ),
        "encoder, mean": difference(ours.mean, encoded.mean),
        "encoder, log-variance": difference(ours.logvar, encoded.logvar),
        "decoder": difference(model.autoencoder.decode(latent), peer.vae.decode(latent).sample),
    }


def image_difference(model: StableDiffusion1, peer: Any, scale: float = 7.5) -> float:
    """Relative difference of an image in ten steps, from the same noise."""
    config = model.config
    side = config.size // config.autoencoder.downsampling_factor
    noise = torch.randn(4, side, side, generator=torch.Generator().manual_seed(3))[None]
    theirs = (
        peer(
            "a striped orange cat",
            negative_prompt="a grey dog",
            num_inference_steps=10,
            guidance_scale=scale,
            latents=noise,
            height=config.size,
            width=config.size,
            output_type="pt",
        ).images
        * 2
        - 1
    )
    ours = model.generate("a striped orange cat", "a grey dog", steps=10, guidance_scale=scale, seed=3, progress=False)
    return difference(ours, theirs)


def exported_difference(model: StableDiffusion1, folder: Path) -> float:
    """Relative difference between ours and diffusers' image in ten steps, from a folder that `to_diffusers` wrote."""
    from diffusers import StableDiffusionPipeline

    peer = StableDiffusionPipeline.from_pretrained(folder)
    peer.set_progress_bar_config(disable=True)
    return image_difference(model, peer)


@torch.no_grad()
def full_size_differences(part: str) -> dict[str, float]:
    """Relative differences of one part at its published size, on random weights and a small input."""
    theirs, ours = full_size(part)
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, 16, 8, generator=generator)
    if part == "text encoder":
        ids = torch.randint(49_406, (2, 77), generator=generator)
        return {"states": difference(ours(ids), theirs(ids).last_hidden_state)}
    if part == "U-Net":
        text = torch.randn(1, 77, 768, generator=generator)
        timestep = torch.tensor([601])
        return {"noise": difference(ours(latent, timestep, text), theirs(latent, timestep, text).sample)}
    image = 2 * torch.rand(1, 3, 64, 128, generator=generator) - 1
    return {
        "mean": difference(ours.encode(image).mean, theirs.encode(image).latent_dist.mean),
        "decoder": difference(ours.decode(latent), theirs.decode(latent).sample),
    }


def full_size(part: str) -> tuple[Any, Any]:
    """The reference's module with random weights, and ours with the same (most of them shared in memory)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    theirs: Any
    ours: Any
    with torch.device("meta"):
        if part == "U-Net":
            theirs = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
            ours = UNet(UNetConfig.v1())
            names = checkpoint.unet_names(UNetConfig.v1(), "diffusers")
        elif part == "autoencoder":
            theirs = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4,
                layers_per_block=2,
                latent_channels=4,
            )
            ours = KLAutoencoder(KLConfig.sd1())
            names = kl.published_names(KLConfig.sd1(), "diffusers")
    if part == "text encoder":
        theirs = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49_408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
            )
        )
        with torch.device("meta"):
            ours = TextTower(CLIPTowerConfig.sd1_text())
            names = TEXT_NAMES
    filled(theirs)
    tensors = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("position_ids")}
    if part == "text encoder" and not any(name.startswith("text_model.") for name in tensors):
        tensors = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    load_pretrained(ours, tensors, names, what=f"the {part}")
    return theirs.eval(), ours.eval()


@torch.no_grad()
def filled(module: nn.Module) -> nn.Module:
    """Random weights of sensible size, norms and biases too, for a module on the meta device or off it."""
    if next(module.parameters()).is_meta:
        module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    pool = torch.empty(POOL).uniform_(-1, 1, generator=generator).repeat(2)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            start = int(torch.randint(POOL, (), generator=generator))  # no two of one shape are alike
            for piece in parameter.view(-1).split(POOL):
                piece.copy_(pool[start : start + len(piece)])
            parameter.mul_((3 / parameter[0].numel()) ** 0.5)
        else:
            parameter.normal_(0, 0.1, generator=generator).add_(1.0 if "norm" in name and "weight" in name else 0.0)
    return module


# --- what the tiny weights generate ---------------------------------------------------------------------------------


def _generated() -> list[Row]:
    from helpers.data.captions import caption
    from helpers.data.toy_faces import toy_attributes
    from helpers.scoring.attributes import held_out_accuracy, load_classifier

    if not weights_path(NAME).exists():
        return [
            Row("shipped weights of the tiny SD1", "none yet", TRAINING_COMMANDS.get(NAME, "a training command"), False)
        ]
    classifier = load_classifier()
    model = StableDiffusion1.from_weights(NAME)
    attributes = toy_attributes(PROMPTS, seed=78)  # nobody trained on them; only their captions are used
    images = model.generate(
        [caption(face) for face in attributes], seed=30_000, steps=25, guidance_scale=4.0, progress=False
    )
    agreement = classifier.agreement(images, attributes)
    accuracy = held_out_accuracy(classifier)
    least = {"species": 97, "fur": 90, "eyes": 80, "pattern": 85, "background": 90}
    rows = [
        at_least(
            f"{name} as asked, {PROMPTS} captions (the classifier is right on {100 * accuracy[name]:.1f} %)",
            100 * agreement[name],
            least[name],
            "%",
        )
        for name in least
    ]
    megabytes = sum(weights_path(name).stat().st_size for name in FILES) / 1e6
    minutes = {name: float(read_metadata(name)["core_minutes"]) / 2 for name in FILES}
    minutes_text = ", ".join(f"{name} {value:.0f}" for name, value in minutes.items())
    print(f"trained in minutes of two cores: {minutes_text}")
    return [*rows, at_most(f"weights, {' and '.join(FILES)}", megabytes, 16, "MB")]


# --- speed and memory -----------------------------------------------------------------------------------------------


def comparisons() -> list[Comparison]:
    """Speed and memory beside diffusers, from the record."""
    return network_comparisons(RESULTS, SYSTEM)


def run() -> None:
    """Time and weigh the full-size networks at 512x512 pixels, and the variants of attention; write the record."""
    dtypes = (torch.float32, torch.bfloat16) if computes_bf16() else (torch.float32,)
    networks = [measured(part, dtype) for part, dtype in product(("U-Net", "decoder"), dtypes)]
    record = {
        "hardware": hardware(),
        "pixels": 512,
        "rounds": ROUNDS,
        "networks": with_earlier(networks, RESULTS),
        "attention": attention_variants(),
    }
    write_record(repository_root() / RESULTS, record)
    print(json.dumps(record, indent=1))


@torch.no_grad()
def measured(network: str, dtype: torch.dtype) -> dict:
    """Both implementations of a network in turns, on the same weights and input: seconds and peak memory."""
    part = {"decoder": "autoencoder"}.get(network, network)
    theirs, ours = (module.to(dtype) for module in full_size(part))
    ours = ours.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(2)
    latent = torch.randn(1, 4, 64, 64, generator=generator).to(dtype)
    timestep = torch.tensor([601])
    text = torch.randn(1, 77, 768, generator=generator).to(dtype)
    calls = {
        "U-Net": (lambda: ours(latent, timestep, text), lambda: theirs(latent, timestep, text).sample),
        "decoder": (lambda: ours.decode(latent), lambda: theirs.decode(latent).sample),
    }[network]
    entry = {"network": network, "dtype": str(dtype).removeprefix("torch."), **compared(*calls)}
    print(entry, flush=True)
    return entry


@torch.no_grad()
def attention_variants(tokens: int = 4096, heads: int = 8, width: int = 40) -> list[dict]:
    """Self-attention at the U-Net's finest level, four ways: the same numbers, other times and memory."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, tokens, width, generator=generator) for _ in range(3))

    def sliced() -> Tensor:
        parts = (attention_with_map(q[:, h : h + 1], k[:, h : h + 1], v[:, h : h + 1])[0] for h in range(heads))
        return torch.cat(list(parts), dim=1)

    variants = {
        "readable formula": lambda: attention_with_map(q, k, v)[0],
        "readable, head by head": sliced,
        "fused (SDPA)": lambda: nn.functional.scaled_dot_product_attention(q, k, v),
        "fused, bfloat16": lambda: nn.functional.scaled_dot_product_attention(
            q.bfloat16(), k.bfloat16(), v.bfloat16()
        ).float(),
    }
    right = variants["readable formula"]()
    seconds = alternating(tuple(variants.values()))
    return [
        {
            "variant": name,
            "seconds": round(statistics.median(times), 3),
            "spread": [round(min(times), 3), round(max(times), 3)],
            "megabytes": round(peak_memory(call) / 1e6),
            "difference": difference(call(), right),
        }
        for (name, call), times in zip(variants.items(), seconds, strict=True)
    ]


# --- bad input, size of the code ------------------------------------------------------------------------------------


def _faults() -> list[Row]:
    from benchmarks.refusals import refused
    from benchmarks.sd1.reference import compvis_tensors
    from benchmarks.sd1.refusals import argument_faults, file_faults

    with tempfile.TemporaryDirectory() as folder:
        layouts = write_layouts(reference(SMALL), Path(folder))
        model = StableDiffusion1.from_checkpoint(layouts["diffusers"], config=SMALL)
        into = Path(folder) / "faults"
        into.mkdir()
        faults = argument_faults(model) | file_faults(layouts, compvis_tensors(model), into)
        results = {name: refused(fault) for name, fault in faults.items()}
    wrong = [name for name, fine in results.items() if not fine]
    return [
        claim(
            "bad inputs refused, each with its message",
            f"{len(results) - len(wrong)} of {len(results)}",
            "all, at least 25",
            not wrong and len(results) >= 25,
        )
    ]


def _statements() -> int:
    paths = chain.from_iterable(repository_root().glob(pattern) for pattern in CODE)
    return sum(count_statements(path.read_text()) for path in paths)
