"""Stable Diffusion 3 and 3.5 beside diffusers and transformers, on the same random weights."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity import difference, randomised
from benchmarks.sd3.reference import SMALL, transformer_reference
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.sd3 import checkpoint
from helpers.sd3.encoders import clip_g, clip_l
from helpers.sd3.mmdit import MMDiT, MMDiTConfig
from helpers.sd3.pipeline import StableDiffusion3
from helpers.text.clip import TextTower
from helpers.text.t5 import T5Config, T5Encoder
from helpers.weights.pretrained import load_pretrained

PROMPTS = ["a striped orange cat", "a grey dog with blue eyes"]


def inputs(config, tokens: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A latent that is not square, times, hidden states, pooled embedding."""
    generator = torch.Generator().manual_seed(4)
    sizes = config.transformer
    shapes = (2, sizes.latent_channels, 8, 12), (2, tokens, sizes.text_width), (2, sizes.pooled_width)
    x, text, pooled = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, torch.tensor([0.7, 0.1]), text, pooled


@torch.no_grad()
def reference_output(peer_transformer, x, t, text, pooled, **options) -> Tensor:
    return peer_transformer(x, encoder_hidden_states=text, pooled_projections=pooled, timestep=1000 * t, **options)[0]


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (lambda: MMDiT(MMDiTConfig.sd3_medium()), 2_028_328_000),
        (lambda: MMDiT(MMDiTConfig.sd3_5_medium()), 2_243_171_520),
        (lambda: MMDiT(MMDiTConfig.sd3_5_large()), 8_056_627_520),
        (lambda: T5Encoder(T5Config.xxl()), 4_762_310_656),
        (lambda: KLAutoencoder(KLConfig.sd3()), 83_819_683),
        (lambda: TextTower(clip_l()), 123_650_304),
        (lambda: TextTower(clip_g()), 694_659_840),
    ],
    ids=["sd3_medium", "sd3_5_medium", "sd3_5_large", "t5_xxl", "autoencoder", "clip_l", "clip_g"],
)
def test_published_sizes(module, size):
    with torch.device("meta"):
        assert sum(p.numel() for p in module().parameters()) == size


@torch.no_grad()
def test_transformer(either):
    arguments = inputs(either.config)
    assert (
        difference(either.ours.transformer(*arguments), reference_output(either.peer.transformer, *arguments)) <= 1e-5
    )
    skipped = reference_output(either.peer.transformer, *arguments, skip_layers=[1])
    assert difference(either.ours.transformer(*arguments, skip_layers=[1]), skipped) <= 1e-5


def test_diffusers_reads_our_names_as_stability_wrote_them(either):
    """The oracle for the single file's names is not ours: diffusers' converter must find every tensor in its place."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    prefix = checkpoint.PREFIXES["transformer"]
    stored = load_file(either.layouts["single"])
    converted = convert_sd3_transformer_checkpoint_to_diffusers(
        {name: tensor for name, tensor in stored.items() if name.startswith(prefix)}
    )
    theirs = either.peer.transformer.state_dict()
    assert converted.keys() == theirs.keys()
    assert all(torch.allclose(converted[name], theirs[name], atol=1e-6) for name in theirs)  # the table is computed


@torch.no_grad()
def test_text_encoders(either):
    length = either.config.t5_length
    states, _, pooled, _ = either.peer.encode_prompt(
        PROMPTS, None, None, max_sequence_length=length, do_classifier_free_guidance=False
    )
    ours = either.ours.encoders(PROMPTS)
    assert difference(ours.text, states) <= 1e-5 and difference(ours.pooled, pooled) <= 1e-5
    states, _, pooled, _ = either.peer.encode_prompt(
        PROMPTS,
        PROMPTS[::-1],
        ["a cat", "a dog"],
        max_sequence_length=length,
        do_classifier_free_guidance=False,
        clip_skip=1,
    )
    ours = either.ours.encoders(PROMPTS, PROMPTS[::-1], ["a cat", "a dog"], clip_skip=1)
    assert difference(ours.text, states) <= 1e-5 and difference(ours.pooled, pooled) <= 1e-5


@torch.no_grad()
def test_without_t5(sd3):
    ours = sd3.ours.encoders(PROMPTS, use_t5=False)
    peer = sd3.peer
    encoder = sd3.peer.text_encoder_3
    peer.text_encoder_3 = None
    try:
        states, *_ = peer.encode_prompt(
            PROMPTS, None, None, max_sequence_length=sd3.config.t5_length, do_classifier_free_guidance=False
        )
    finally:
        peer.text_encoder_3 = encoder
    assert difference(ours.text, states) <= 1e-5
    left_out = StableDiffusion3.from_checkpoint(sd3.layouts["diffusers"], config=sd3.config, t5=False)
    torch.testing.assert_close(left_out.encoders(PROMPTS).text, ours.text)


@torch.no_grad()
def test_autoencoder(sd3):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 64, 32, generator=generator)
    latent = torch.randn(2, 16, 4, 6, generator=generator)
    theirs = sd3.peer.vae
    ours = sd3.ours.autoencoder
    assert difference(ours.encode(images).mean, theirs.encode(images).latent_dist.mean) <= 1e-5
    assert difference(ours.decode(latent), theirs.decode(latent).sample) <= 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 10, 28])
def test_times(sd3, shift, steps):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(sd3.ours.times(steps, shift), scheduler.sigmas, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", ["diffusers", "single"])
@pytest.mark.parametrize("skip_layers", [[], [1]], ids=["plain", "skip-layer guidance"])
def test_image(either, layout, skip_layers):
    ours = StableDiffusion3.from_checkpoint(either.layouts[layout], config=either.config, tokenizers=either.tokenizers)
    noise = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(3))[None]
    theirs = (
        either.peer(
            PROMPTS[0],
            negative_prompt=PROMPTS[1],
            num_inference_steps=10,
            guidance_scale=5.0,
            latents=noise,
            height=64,
            width=64,
            output_type="pt",
            max_sequence_length=either.config.t5_length,
            skip_guidance_layers=skip_layers or None,
            skip_layer_guidance_stop=0.5,
        ).images
        * 2
        - 1
    )
    image = ours.generate(
        PROMPTS[0],
        PROMPTS[1],
        steps=10,
        guidance_scale=5.0,
        seed=3,
        skip_layers=skip_layers,
        skip_until=0.5,
        progress=False,
    )
    assert difference(image, theirs) <= 1e-4


def test_image_with_clip_skip(sd3):
    """Which counts for the prompt, not for the negative one."""
    noise = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(3))[None]
    theirs = (
        sd3.peer(
            PROMPTS[0],
            negative_prompt=PROMPTS[1],
            num_inference_steps=4,
            guidance_scale=5.0,
            latents=noise,
            height=64,
            width=64,
            output_type="pt",
            max_sequence_length=sd3.config.t5_length,
            clip_skip=1,
        ).images
        * 2
        - 1
    )
    image = sd3.ours.generate(PROMPTS[0], PROMPTS[1], steps=4, guidance_scale=5.0, seed=3, clip_skip=1, progress=False)
    assert difference(image, theirs) <= 1e-4


def swapped(either, end: str) -> MMDiT:
    """A transformer for which diffusers' order of one modulation was taken over as it is."""
    tensors = either.peer.transformer.state_dict()
    right = checkpoint.normalize_transformer(tensors, either.config.transformer, "diffusers")
    wrong = {name: tensors[name] if end in name else tensor for name, tensor in right.items()}
    assert sum(not torch.equal(wrong[name], right[name]) for name in right) == 2  # weight and bias
    model = MMDiT(either.config.transformer)
    load_pretrained(model, wrong, checkpoint.transformer_names("diffusers"), what="a transformer")
    return model.eval()


@torch.no_grad()
def test_the_final_layers_shift_and_scale_are_distinguished(either):
    arguments = inputs(either.config)
    theirs = reference_output(either.peer.transformer, *arguments)
    assert difference(either.ours.transformer(*arguments), theirs) <= 1e-5
    assert difference(swapped(either, "norm_out.linear")(*arguments), theirs) > 1e-2


@torch.no_grad()
def test_the_last_texts_shift_and_scale_are_distinguished(either):
    arguments = inputs(either.config)
    theirs = reference_output(either.peer.transformer, *arguments)
    assert difference(either.ours.transformer(*arguments), theirs) <= 1e-5
    assert difference(swapped(either, "2.norm1_context.linear")(*arguments), theirs) > 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_blocks_of_the_published_width():
    sizes = MMDiTConfig(layers=2)
    torch.manual_seed(0)
    theirs = randomised(transformer_reference(sizes))
    with torch.device("meta"):
        ours = MMDiT(sizes)
    load_pretrained(
        ours,
        checkpoint.normalize_transformer(theirs.state_dict(), sizes, "diffusers"),
        checkpoint.transformer_names("diffusers"),
        what="two blocks",
    )
    arguments = inputs(type(SMALL)(transformer=sizes), tokens=12)
    assert difference(ours.eval()(*arguments), reference_output(theirs, *arguments)) <= 1e-5
