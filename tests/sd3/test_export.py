"""The tiny Stable Diffusion 3 in diffusers: the same image from the exported folder, with and without T5."""

from dataclasses import replace

import pytest
import torch

from benchmarks.sd3.claims import exported_difference
from helpers.sd3.export import to_diffusers
from helpers.sd3.pipeline import StableDiffusion3


@pytest.fixture(scope="module")
def model() -> StableDiffusion3:
    return StableDiffusion3.from_weights()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    to_diffusers(model, folder)
    return folder


def test_diffusers_generates_the_same_image(model, folder):
    assert exported_difference(model, folder) <= 1e-3


def test_what_was_exported_is_read_back(model, folder):
    options = {"prompt": "a striped orange cat with green eyes", "steps": 2, "seed": 3}
    wider = replace(model.config, t5=replace(model.config.t5, width=model.encoders.width))
    restored = StableDiffusion3.from_checkpoint(folder, config=wider)
    torch.testing.assert_close(restored.generate(**options), model.generate(**options), atol=1e-3, rtol=0)


def test_a_wider_t5_says_the_same(model, folder):
    """diffusers pads CLIP's states to T5's width, so ours is written wider: its new channels must stay zero."""
    from transformers import T5EncoderModel

    theirs = T5EncoderModel.from_pretrained(folder / "text_encoder_3").eval()
    ids = model.encoders.t5_tokenizer(["a striped orange cat", "a dog"])
    with torch.no_grad():
        states = theirs(ids).last_hidden_state
        ours = model.encoders.t5(ids)
    assert states.shape[2] == model.encoders.width > ours.shape[2]
    torch.testing.assert_close(states[..., : ours.shape[2]], ours, atol=1e-4, rtol=0)
    assert not states[..., ours.shape[2] :].any()


def test_every_tokenizer_agrees(model, folder):
    from transformers import AutoTokenizer, CLIPTokenizer

    prompts = ["a striped orange cat with green eyes", "a dog"]
    ours = {
        "tokenizer": (CLIPTokenizer, model.encoders.tokenizer),
        "tokenizer_2": (CLIPTokenizer, model.encoders.tokenizer_g),
        "tokenizer_3": (AutoTokenizer, model.encoders.t5_tokenizer),
    }
    for name, (loader, tokenizer) in ours.items():
        loaded = loader.from_pretrained(folder / name)
        ids = loaded(prompts, padding="max_length", max_length=tokenizer.length, return_tensors="pt").input_ids
        assert torch.equal(ids, tokenizer(prompts)), name


def test_without_t5_the_folder_has_none(model, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    encoders = model.encoders
    t5 = encoders.t5
    tokenizer = encoders.t5_tokenizer
    encoders.t5 = None
    encoders.t5_tokenizer = None
    try:
        to_diffusers(model, tmp_path)
    finally:
        encoders.t5 = t5
        encoders.t5_tokenizer = tokenizer
    assert not (tmp_path / "text_encoder_3").exists()
    loaded = StableDiffusion3Pipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    assert loaded.text_encoder_3 is None and loaded.transformer.config.num_layers == model.config.transformer.layers
