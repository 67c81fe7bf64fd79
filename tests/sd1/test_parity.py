"""Ours beside diffusers and transformers: the same weights, the same numbers."""

import pytest
import torch

from benchmarks.parity import difference
from benchmarks.sd1.claims import full_size_differences, image_difference, small_differences
from benchmarks.sd1.reference import SMALL
from helpers.sd1.pipeline import StableDiffusion1

CLOSE = 1e-5
PROMPT = "a striped orange cat"


@pytest.mark.parametrize("layout", ["diffusers", "safetensors", "ckpt"])
def test_every_layout_gives_the_same_system(layout, layouts, peer):
    model = StableDiffusion1.from_checkpoint(layouts[layout], config=SMALL, tokenizer=layouts["tokenizer"])
    assert max(small_differences(model, peer).values()) <= CLOSE
    for scale in (1.0, 7.5):
        assert image_difference(model, peer, scale) <= 1e-4


def test_diffusers_reads_our_names_as_compvis_wrote_them(layouts, peer):
    """The oracle for the single file's names is not ours: diffusers' converter must find every tensor in its place."""
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_single_file(
        layouts["safetensors"], config=str(layouts["diffusers"]), local_files_only=True, safety_checker=None
    )
    for part in ("unet", "vae", "text_encoder"):
        theirs = getattr(peer, part).state_dict()
        mine = getattr(loaded, part).state_dict()
        assert theirs.keys() == mine.keys()
        assert all(torch.equal(theirs[name], mine[name].float()) for name in theirs), part


def test_an_odd_latent(peer, ours):
    """576 x 520 pixels are 72 x 65 latent positions: halves are rounded up, and the way up must come back to them."""
    latent = torch.randn(1, 4, 9, 13)
    text = torch.randn(1, 16, 24)
    with torch.no_grad():
        theirs = peer.unet(latent, torch.tensor(500), encoder_hidden_states=text).sample
        assert difference(ours.unet(latent, torch.tensor([500]), text), theirs) <= CLOSE


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_clip_skip_takes_an_earlier_state_and_norms_it(skip, peer, ours):
    ids = ours.tokenizer([PROMPT])
    with torch.no_grad():
        states = peer.text_encoder(ids, output_hidden_states=True).hidden_states
        norm = getattr(peer.text_encoder, "text_model", peer.text_encoder).final_layer_norm
        assert difference(ours.text(ids, clip_skip=skip), norm(states[-1 - skip])) <= CLOSE
        assert difference(ours.text(ids, clip_skip=skip, norm=False), states[-1 - skip]) <= CLOSE


def test_both_layouts_of_clip_keys(layouts, tensors, tmp_path):
    """Some trainers left out `text_model.`; transformers itself writes it in one version and not in the next."""
    from safetensors.torch import save_file

    bare = {name.replace(".text_model.", "."): tensor for name, tensor in tensors.items()}
    save_file(bare, tmp_path / "bare.safetensors")
    loaded = StableDiffusion1.from_checkpoint(
        tmp_path / "bare.safetensors", config=SMALL, tokenizer=layouts["tokenizer"]
    )
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    assert torch.equal(loaded.text.tokens.weight, tensors[name])


def test_half_precision_files_are_taken_where_there_are_no_others(peer, tmp_path):
    from benchmarks.sd1.reference import write_merges

    peer.save_pretrained(tmp_path, variant="fp16")
    write_merges(tmp_path / "tokenizer")
    for variant in (None, "fp16"):
        model = StableDiffusion1.from_checkpoint(tmp_path, config=SMALL, variant=variant)
        assert model.unet.stem.weight.dtype == torch.float32


def test_averaged_weights_of_a_training_checkpoint(layouts, tensors, tmp_path):
    """CompVis wrote the average under names without dots."""
    from safetensors.torch import save_file

    averaged = {
        "model_ema.diffusion_model" + name.removeprefix("model.diffusion_model").replace(".", ""): tensor * 2
        for name, tensor in tensors.items()
        if name.startswith("model.diffusion_model")
    }
    save_file({**tensors, **averaged, "model_ema.decay": torch.tensor(0.9999)}, tmp_path / "full.safetensors")
    options = {"config": SMALL, "tokenizer": layouts["tokenizer"]}
    plain, smooth = (
        StableDiffusion1.from_checkpoint(tmp_path / "full.safetensors", ema=ema, **options) for ema in (False, True)
    )
    assert torch.equal(smooth.unet.head.weight, 2 * plain.unet.head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text encoder", "U-Net", "autoencoder"])
def test_the_published_sizes(part):
    """Each part once at full size, on a small input."""
    assert max(full_size_differences(part).values()) <= CLOSE
