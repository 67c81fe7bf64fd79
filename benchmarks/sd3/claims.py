"""Stable Diffusion 3: parity with the reference libraries, speed and memory, what the tiny weights generate.

python -m benchmarks check sd3    # parity, refusals and generation recomputed, the timings read: minutes
python -m benchmarks sd3          # times the transformer beside diffusers'
"""

import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Comparison, compared, compared_rows, network_comparisons, with_earlier
from benchmarks.parity import difference
from benchmarks.record import hardware, parameter_count, write_record
from benchmarks.report import Row, at_least, at_most, claim
from benchmarks.sd1.claims import filled
from benchmarks.sd3.reference import (
    SMALL,
    SMALL_3_5,
    reference,
    stability_tensors,
    transformer_reference,
    write_layouts,
)
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.course import repository_root
from helpers.sd3 import checkpoint
from helpers.sd3.encoders import clip_g, clip_l
from helpers.sd3.export import to_diffusers
from helpers.sd3.mmdit import MMDiT, MMDiTConfig
from helpers.sd3.pipeline import StableDiffusion3
from helpers.text.clip import TextTower
from helpers.text.t5 import T5Config, T5Encoder
from helpers.training.precision import computes_bf16
from helpers.weights import TRAINING_COMMANDS, weights_path
from helpers.weights.pretrained import load_pretrained

RESULTS = "00_assets/results/sd3.json"
SYSTEM = "Stable Diffusion 3"
NAME = "sd3"
PROMPTS = 200
STEPS = 20
FILES = ("autoencoder_16", NAME)  # what the tiny system is made of, beside Stable Diffusion 1's tiny CLIP
PROMPT = "a striped orange cat"
NEGATIVE = "a grey dog"
NETWORKS = {
    "tiny": (
        MMDiTConfig(
            width=144, layers=6, heads=6, text_width=224, pooled_width=128, pos_embed_max_size=24, pos_embed_base_size=8
        ),
        8,
        16,
        48,
    ),
    "4 blocks at full width": (MMDiTConfig(layers=4), 1, 64, 154),
}  # name -> sizes, batch, side of the latent, tokens of the text


def check() -> list[Row]:
    """Recompute the claims about Stable Diffusion 3."""
    return [*_sizes(), *_parity(), *_generated(), *compared_rows(RESULTS, SYSTEM)]


# --- sizes, parity, refusals ----------------------------------------------------------------------------------------


def _sizes() -> list[Row]:
    expected = {
        "SD3 medium": (lambda: MMDiT(MMDiTConfig.sd3_medium()), 2_028_328_000),
        "SD3.5 medium": (lambda: MMDiT(MMDiTConfig.sd3_5_medium()), 2_243_171_520),
        "SD3.5 large": (lambda: MMDiT(MMDiTConfig.sd3_5_large()), 8_056_627_520),
        "T5-XXL": (lambda: T5Encoder(T5Config.xxl()), 4_762_310_656),
        "CLIP-L": (lambda: TextTower(clip_l()), 123_650_304),
        "CLIP-G": (lambda: TextTower(clip_g()), 694_659_840),
        "autoencoder": (lambda: KLAutoencoder(KLConfig.sd3()), 83_819_683),
    }
    rows = []
    for name, (make, size) in expected.items():
        with torch.device("meta"):
            counted = parameter_count(make())
        rows.append(claim(f"parameters, {name}", f"{counted:,}", f"{size:,}", counted == size))
    return rows


def _parity() -> list[Row]:
    rows = []
    for edition, config in (("SD3", SMALL), ("SD3.5", SMALL_3_5)):
        with tempfile.TemporaryDirectory() as folder:
            peer = reference(config, Path(folder) / "t5")
            layouts = write_layouts(peer, config, Path(folder))
            tokenizers = layouts["tokenizer"], layouts["tokenizer_3"]
            for layout in ("diffusers", "single"):
                model = StableDiffusion3.from_checkpoint(layouts[layout], config=config, tokenizers=tokenizers)
                worst = torch.tensor(list(differences(model, peer).values())).max().item()  # nan counts
                rows.append(at_most(f"parity of parts, small {edition}, {layout}", worst, 1e-5))
                rows.append(
                    at_most(
                        f"parity of an image in 10 steps, small {edition}, {layout}",
                        image_difference(model, peer),
                        1e-4,
                    )
                )
            if edition == "SD3":
                faults = _faults(model, layouts, tokenizers, Path(folder) / "faults")
    with tempfile.TemporaryDirectory() as folder:
        tiny = StableDiffusion3.from_weights()
        to_diffusers(tiny, folder)
        rows.append(
            at_most("exported to diffusers, an image in 10 steps", exported_difference(tiny, Path(folder)), 1e-3)
        )
    rows.append(at_most("parity of blocks of the published width", full_width_difference(), 1e-5))
    rows.append(at_most("parity of the times, 28 steps, shift 3", times_difference(model), 1e-6))
    return [*rows, faults]


@torch.no_grad()
def differences(model: StableDiffusion3, peer: Any) -> dict[str, float]:
    """Largest relative difference of every part, on the same inputs."""
    generator = torch.Generator().manual_seed(1)
    sizes = model.config.transformer
    latent = torch.randn(2, 16, 8, 12, generator=generator)
    images = torch.rand(2, 3, 64, 32, generator=generator)
    prompts = [PROMPT, NEGATIVE]
    t = torch.tensor([0.7, 0.1])
    text, _, pooled, _ = peer.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=model.config.t5_length
    )
    read = model.encoders(prompts)
    velocity = peer.transformer(latent, encoder_hidden_states=text, pooled_projections=pooled, timestep=1000 * t)[0]
    assert text.shape[2] == sizes.text_width
    return {
        "text": difference(read.text, text),
        "summary": difference(read.pooled, pooled),
        "transformer": difference(model.transformer(latent, t, text, pooled), velocity),
        "encoder": difference(model.autoencoder.encode(images).mean, peer.vae.encode(images).latent_dist.mean),
        "decoder": difference(model.autoencoder.decode(latent), peer.vae.decode(latent).sample),
    }


def image_difference(model: StableDiffusion3, peer: Any) -> float:
    """Relative difference of an image in ten steps, from the same noise."""
    config = model.config
    side = config.size // config.autoencoder.downsampling_factor
    noise = torch.randn(16, side, side, generator=torch.Generator().manual_seed(3))[None]
    theirs = (
        peer(
            PROMPT,
            negative_prompt=NEGATIVE,
            num_inference_steps=10,
            guidance_scale=5.0,
            latents=noise,
            height=config.size,
            width=config.size,
            output_type="pt",
            max_sequence_length=config.t5_length,
        ).images
        * 2
        - 1
    )
    return difference(model.generate(PROMPT, NEGATIVE, steps=10, guidance_scale=5.0, seed=3, progress=False), theirs)


def exported_difference(model: StableDiffusion3, folder: Path) -> float:
    """Relative difference between ours and diffusers' image in ten steps, from a folder that `to_diffusers` wrote."""
    from diffusers import StableDiffusion3Pipeline

    peer = StableDiffusion3Pipeline.from_pretrained(folder)
    peer.set_progress_bar_config(disable=True)
    return image_difference(model, peer)


@torch.no_grad()
def full_width_difference() -> float:
    """Relative difference of two blocks of the published width; the last block is built differently."""
    ours, theirs = pair(MMDiTConfig(layers=2))
    inputs = network_input(ours.config, 1, 16, 12)
    return difference(ours(*inputs), run_reference(theirs, inputs))


def times_difference(model: StableDiffusion3) -> float:
    """Relative difference of the times of 28 steps at shift 3."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(28)
    return difference(model.times(28, shift=3.0), scheduler.sigmas)


def _faults(model: StableDiffusion3, layouts: dict[str, Path], tokenizers: tuple[Path, Path], into: Path) -> Row:
    from benchmarks.refusals import refused
    from benchmarks.sd3.refusals import argument_faults, file_faults

    into.mkdir()
    faults = argument_faults(model) | file_faults(layouts, tokenizers, stability_tensors(model), into)
    wrong = [name for name, fault in faults.items() if not refused(fault)]
    return claim(
        "bad inputs refused, each with its message",
        f"{len(faults) - len(wrong)} of {len(faults)}",
        "all, at least 30",
        not wrong and len(faults) >= 30,
    )


# --- what the tiny weights generate ---------------------------------------------------------------------------------


def _generated() -> list[Row]:
    from helpers.data.captions import caption
    from helpers.data.toy_faces import toy_attributes
    from helpers.scoring.attributes import held_out_accuracy, load_classifier

    if not weights_path(NAME).exists():
        return [Row("shipped weights of the tiny SD3", "none yet", TRAINING_COMMANDS[NAME], False)]
    classifier = load_classifier()
    model = StableDiffusion3.from_weights(NAME)
    attributes = toy_attributes(PROMPTS, seed=78)  # the captions that Stable Diffusion 1 is asked for too
    images = model.generate(
        [caption(face) for face in attributes], seed=30_000, steps=STEPS, guidance_scale=4.0, progress=False
    )
    agreement = classifier.agreement(images, attributes)
    accuracy = held_out_accuracy(classifier)
    least = {"species": 97, "fur": 90, "eyes": 80, "pattern": 85, "background": 90}
    description = f"as asked, {PROMPTS} captions, {STEPS} steps (the classifier is right on"
    rows = [
        at_least(f"{name} {description} {100 * accuracy[name]:.1f} %)", 100 * agreement[name], least_share, "%")
        for name, least_share in least.items()
    ]
    megabytes = sum(weights_path(name).stat().st_size for name in FILES) / 1e6
    return [*rows, at_most(f"weights, {' and '.join(FILES)}", megabytes, 12, "MB")]


# --- speed and memory -----------------------------------------------------------------------------------------------


def comparisons() -> list[Comparison]:
    """Speed and memory beside diffusers, from the record."""
    return network_comparisons(RESULTS, SYSTEM)


def run() -> None:
    """Time and weigh the transformer in two sizes; write the record."""
    dtypes = (torch.float32, torch.bfloat16) if computes_bf16() else (torch.float32,)
    networks = [measured(name, dtype) for name, dtype in product(NETWORKS, dtypes)]
    record = {"hardware": hardware(), "networks": with_earlier(networks, RESULTS)}
    write_record(repository_root() / RESULTS, record)
    print(json.dumps(record, indent=1))


@torch.no_grad()
def measured(name: str, dtype: torch.dtype) -> dict:
    """Both implementations, alternating, on the same weights and input: seconds and peak memory."""
    sizes, *shape = NETWORKS[name]
    ours, theirs = (module.to(dtype) for module in pair(sizes))
    x, t, text, pooled = network_input(sizes, *shape)
    inputs = x.to(dtype), t, text.to(dtype), pooled.to(dtype)
    entry = {
        "network": f"transformer, {name}",
        "dtype": str(dtype).removeprefix("torch."),
        **compared(lambda: ours(*inputs), lambda: run_reference(theirs, inputs), 5 if name == "tiny" else 1),
    }
    print(entry, flush=True)
    return entry


def pair(sizes: MMDiTConfig) -> tuple[MMDiT, nn.Module]:
    """Ours and diffusers' transformer with the same random weights."""
    with torch.device("meta"):
        ours = MMDiT(sizes)
    theirs = filled(transformer_reference(sizes, sizes.width // sizes.heads)).eval()
    tensors = checkpoint.normalize_transformer(theirs.state_dict(), sizes, "diffusers")
    load_pretrained(ours, tensors, checkpoint.transformer_names("diffusers"), what="a transformer")
    return ours.eval(), theirs


def network_input(sizes: MMDiTConfig, batch: int, side: int, tokens: int) -> tuple:
    """Random latents, times, text states and pooled text states of these sizes."""
    generator = torch.Generator().manual_seed(2)
    shapes = (sizes.latent_channels, side, side), (tokens, sizes.text_width), (sizes.pooled_width,)
    x, text, pooled = (torch.randn(batch, *shape, generator=generator) for shape in shapes)
    return x, torch.full((batch,), 0.6), text, pooled


def run_reference(theirs: nn.Module, inputs: tuple) -> torch.Tensor:
    """The output of diffusers' transformer for the inputs of ours."""
    x, t, text, pooled = inputs
    return theirs(x, encoder_hidden_states=text, pooled_projections=pooled, timestep=1000 * t, return_dict=False)[0]
