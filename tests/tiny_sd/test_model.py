"""Generating: seeds, conditions, ranges, round trips and bad arguments."""

import pytest
import torch

from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD
from helpers.weights import save_weights


def test_images_are_in_range_and_a_seed_repeats_them(model):
    first, repeated, other = (model.generate(["cat", "dog"], steps=3, seed=seed) for seed in (0, 0, 1))
    assert first.shape == (2, 3, 16, 16) and first.abs().max() <= 1
    assert torch.equal(first, repeated) and not torch.equal(first, other)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_solver_pp_2m", "lms"])
def test_an_image_does_not_depend_on_how_many_are_generated(model, sampler):
    many = model.generate([0, 1, 2], steps=4, seed=7, sampler=sampler, batch_size=2)
    alone = model.generate([1], steps=4, seed=8, sampler=sampler)
    torch.testing.assert_close(many[1:2], alone, atol=1e-4, rtol=1e-3)


def test_sample_steps_yields_every_step_without_gradients(model):
    states = list(model.eval().sample_steps(["cat"], steps=5))
    assert [round(state.t, 6) for state in states] == [0.8, 0.6, 0.4, 0.2, 0.0]
    assert not any(state.x.requires_grad for state in states) and torch.is_grad_enabled()


def test_guidance_and_captions_count(model):
    plain = model.generate(["cat"], steps=3, guidance_scale=1)
    assert not torch.equal(plain, model.generate(["cat"], steps=3, guidance_scale=3))
    prompts = ["a striped orange cat", "a plain black dog"]
    both = model.generate(prompts=prompts, steps=3)
    assert not torch.equal(both[0], model.generate(prompts=prompts[::-1], steps=3)[0])


def test_generating_leaves_dropout_off_for_itself_only(model):
    model.train()
    model.generate(["cat"], steps=2)
    assert not model.training, "generate works in eval mode; the training loop calls train() at every step"


def test_saved_weights_generate_what_was_saved(model, tmp_path):
    model.half().float()  # files are fp16
    model.save(tmp_path / "w.safetensors", {"command": "a test"})
    loaded = TinySD.from_weights(tmp_path / "w.safetensors")
    assert loaded.describe() == model.describe()
    torch.testing.assert_close(loaded.generate([0], steps=3), model.generate([0], steps=3))


def test_a_shift_of_the_times_is_saved_and_changes_the_samples(model, tmp_path):
    shifted = TinySD(model.unet.config, "flow", model.class_names, model.size, model.codec, shift=3.0)
    shifted.unet.load_state_dict(model.unet.half().float().state_dict())
    shifted.save(tmp_path / "w.safetensors", {"command": "a test"})
    loaded = TinySD.from_weights(tmp_path / "w.safetensors")
    assert loaded.shift == 3.0 and "shift" not in model.describe()
    images = loaded.generate([0], steps=3)
    torch.testing.assert_close(images, shifted.eval().generate([0], steps=3))
    assert not torch.allclose(images, model.generate([0], steps=3), atol=1e-3)


def test_weights_of_another_network_are_refused(model, tmp_path):
    state = dict(model.unet.state_dict())
    state.pop("stem.weight")
    import json

    save_weights(state, tmp_path / "w.safetensors", {"model": json.dumps(model.describe())})
    with pytest.raises(ValueError, match="stem.weight: missing"):
        TinySD.from_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({}, "say what to generate"),
        ({"labels": "cat"}, "lists with one entry"),
        ({"labels": ["lion"]}, "unknown class 'lion'.*cat, dog, wild"),
        ({"labels": [3]}, "unknown class 3"),
        ({"prompts": ["a green cat with wings"]}, "'wings'"),
        ({"labels": ["cat"], "prompts": ["a cat", "a dog"]}, "1 labels but 2 prompts"),
        ({"labels": ["cat"], "sampler": "unipc"}, "unknown sampler 'unipc'"),
        ({"labels": ["cat"], "steps": 0}, "steps must be a whole number from 1"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**arguments)


def test_the_pixel_codec_refuses_what_a_sampler_would_clip():
    """The predecessor normalised by ImageNet statistics and clipped samples to [-1, 1]: half the colours were lost."""
    codec = PixelCodec()
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(codec.decode(codec.encode(image)), image)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    white = torch.ones(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"in \[-1, 1\], got \[.*2.64\]"):
        codec.encode(((white + 1) / 2 - mean) / std)
