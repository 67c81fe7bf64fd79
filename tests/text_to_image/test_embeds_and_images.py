"""Embeddings in place of prompts, an initial image for each prompt, and what a publisher recommends."""

import pytest
import torch
from PIL import Image

from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd3 import checkpoint
from helpers.sd3.encoders import Condition
from helpers.sd3.mmdit import MMDiTConfig
from helpers.sd3.pipeline import StableDiffusion3

FAST = {"steps": 2, "progress": False}


@pytest.fixture(scope="module", params=[StableDiffusion1, StableDiffusion3], ids=["sd1", "sd3"])
def model(request):
    return request.param.from_weights()


def change(embeds, factor: float):
    if isinstance(embeds, Condition):
        return Condition(embeds.text * factor, embeds.pooled * factor)
    return embeds * factor


def plain(colour: str, size: tuple[int, int] = (100, 80)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_embeddings_give_the_image_of_their_prompt(model):
    embeds = model.encode_text(["a cat", "a dog"])
    negative = model.encode_text(["a dog"])
    expected = model.generate(["a cat", "a dog"], "a dog", seed=3, **FAST)
    with_both = model.generate(None, prompt_embeds=embeds, negative_prompt_embeds=negative, seed=3, **FAST)
    torch.testing.assert_close(with_both, expected, atol=1e-4, rtol=0)
    half = model.generate(None, "a dog", prompt_embeds=embeds, seed=3, **FAST)
    torch.testing.assert_close(half, expected, atol=1e-4, rtol=0)
    other = model.generate(None, "a dog", prompt_embeds=change(embeds, 0.5), seed=3, **FAST)
    assert (other - expected).abs().max() > 0.01


def test_several_images_for_each_row_of_embeddings(model):
    embeds = model.encode_text(["a cat", "a dog"])
    images = model.generate(None, prompt_embeds=embeds, num_images=2, seed=3, **FAST)
    expected = model.generate(["a cat", "a dog"], num_images=2, seed=3, **FAST)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def test_a_batch_with_embeddings_keeps_the_seeds_of_its_images(model):
    embeds = model.encode_text(["a cat"])
    second = model.generate(None, prompt_embeds=embeds, num_images=2, seed=3, **FAST)[1:]
    alone = model.generate(None, prompt_embeds=embeds, seed=4, **FAST)
    torch.testing.assert_close(second, alone, atol=1e-4, rtol=0)


def test_embeddings_that_do_not_fit_are_refused(model):
    embeds = model.encode_text(["a cat"])
    states = embeds.text if isinstance(embeds, Condition) else embeds

    def like(states):
        return Condition(states, embeds.pooled) if isinstance(embeds, Condition) else states

    cases = [
        ("pass prompt=None", ValueError, {"prompt": "a cat", "prompt_embeds": embeds}),
        ("neither a prompt nor prompt_embeds", ValueError, {}),
        ("must be", TypeError, {"prompt_embeds": "a cat"}),
        ("must be", ValueError, {"prompt_embeds": like(states[..., :-1])}),
        ("finite", ValueError, {"prompt_embeds": like(states * torch.inf)}),
        ("finite", ValueError, {"prompt_embeds": like(states.long())}),
        ("one row for all", ValueError, {"prompt": "a cat", "negative_prompt_embeds": model.encode_text(["a"] * 3)}),
        ("pass negative_prompt_embeds", ValueError, {"prompt_embeds": like(states[:, :-1])}),
    ]
    for message, error, options in cases:
        options = {"prompt": None} | options
        with pytest.raises(error, match=message):
            model.generate(**options, **FAST)


def test_each_prompt_has_its_own_initial_image(model):
    colours = ["red", "blue"]
    images = model.generate(
        ["a cat"] * 2,
        init_image=[plain(c, (64, 64)) for c in colours],
        strength=0.01,
        steps=20,
        num_images=2,
        progress=False,
    )
    red, blue = images.unflatten(0, (2, 2)).mean((1, 3, 4))  # (3,) each
    assert red[0] > 0 > red[2] and blue[2] > 0 > blue[0]
    alone = model.generate("a cat", init_image=plain("blue", (64, 64)), strength=0.01, steps=20, seed=2, progress=False)
    torch.testing.assert_close(images[2:3], alone, atol=2e-3, rtol=0)


def test_one_prompt_serves_all_initial_images(model):
    images = model.generate("a cat", init_image=[plain(c, (64, 64)) for c in ("red", "blue")], strength=0.5, **FAST)
    assert len(images) == 2


def test_images_are_cropped_and_resized_on_request(model):
    photo = plain("white", (128, 90))
    photo.paste("black", (0, 0, 30, 90))  # what the crop takes away
    images = model.generate("a cat", init_image=photo, resize=True, height=64, width=64, strength=0, **FAST)
    assert images.shape[2:] == (64, 64) and images.mean() > 0.6
    multiple = model.config.limits.multiple
    near = model.generate("a cat", init_image=plain("white", (61, 67)), resize=True, strength=0, **FAST)
    assert near.shape[2:] == (67 // multiple * multiple, 61 // multiple * multiple)
    with pytest.raises(ValueError, match="multiple of"):
        model.generate("a cat", init_image=plain("white", (61, 67)), **FAST)


def test_every_prompt_keeps_what_its_own_mask_protects(model):
    masks = [Image.new("L", (64, 64)) for _ in range(2)]
    masks[0].paste(255, (0, 0, 64, 32))
    masks[1].paste(255, (0, 32, 64, 64))
    known = [plain(c, (64, 64)) for c in ("red", "blue")]
    images = model.generate(["a cat", "a dog"], init_image=known, mask_image=masks, strength=1.0, **FAST)
    red = torch.tensor([1.0, -1, -1])[:, None, None]
    blue = torch.tensor([-1.0, -1, 1])[:, None, None]
    assert ((images[0, :, 32:] - red).abs() < 1e-5).all() and ((images[1, :, :32] - blue).abs() < 1e-5).all()
    assert (images[0, :, :32] - red).abs().mean() > 0.1 and (images[1, :, 32:] - blue).abs().mean() > 0.1


def test_numbers_of_images_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match="one init_image for all or one per prompt: got 3, prompts 2"):
        model.generate(["a cat", "a dog"], init_image=[plain("red")] * 3, **FAST)
    with pytest.raises(ValueError, match="one batch has one size, got 100x80, 64x64"):
        model.generate("a cat", init_image=[plain("red"), plain("red", (64, 64))], **FAST)
    with pytest.raises(ValueError, match="init_image is an empty list"):
        model.generate("a cat", init_image=[], **FAST)
    with pytest.raises(ValueError, match="height must be a whole number"):
        model.generate("a cat", init_image=plain("red"), resize=True, height=-64, **FAST)
    with pytest.raises(TypeError, match="resize=True is for PIL images"):
        model.generate("a cat", init_image=torch.zeros(3, 64, 64), resize=True, **FAST)


def test_negative_prompts_of_the_other_encoders():
    model = StableDiffusion3.from_weights()
    same = model.generate("a cat", "a dog", **FAST)
    spelled = model.generate("a cat", "a dog", negative_prompt_2="a dog", negative_prompt_3="a dog", **FAST)
    assert torch.equal(same, spelled)
    for name in ("negative_prompt_2", "negative_prompt_3"):
        other = model.generate("a cat", "a dog", **{name: "a wild animal"}, **FAST)
        assert (other - same).abs().max() > 0.01, name
    with pytest.raises(ValueError, match="negative_prompt_3 is for T5"):
        model.generate("a cat", negative_prompt_3="a dog", use_t5=False, **FAST)


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        (MMDiTConfig.sd3_medium(), "stable-diffusion-3-medium-diffusers", (28, 7.0)),
        (MMDiTConfig.sd3_5_medium(), "sd3.5_medium.safetensors", (50, 5.0)),
        (MMDiTConfig.sd3_5_large(), "stable-diffusion-3.5-large", (40, 4.5)),
        (MMDiTConfig.sd3_5_large(), "sd3.5_large_turbo.safetensors", (4, 1.0)),
    ],
)
def test_version_3_5_samples_as_its_publisher_recommends(config, name, expected):
    from dataclasses import replace

    from helpers.sd3.request import SD3Config, SD3Request

    sizes = replace(SD3Config(transformer=config), **checkpoint.recommended_sampling(config, name))
    request = SD3Request(sizes, True, "a cat")
    assert (request.steps, request.guidance_scale) == expected
    assert SD3Request(sizes, True, "a cat", steps=7).steps == 7
