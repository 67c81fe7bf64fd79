"""Sampling: an image depends on its own seed alone, and an image of NaN is never returned without a word."""

import pytest
import torch

from helpers.diffusion import Denoised, FlowPath, Step, initial_noise, run_sampler, time_grid
from helpers.diffusion.samplers import SAMPLERS, ddim, finite_steps
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd3.pipeline import StableDiffusion3
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.unet import UNetConfig

STOCHASTIC = ["ddpm", "euler_ancestral"]
SYSTEMS = {"Stable Diffusion 1": StableDiffusion1, "Stable Diffusion 3": StableDiffusion3}


@pytest.fixture(scope="module", params=SYSTEMS.values(), ids=SYSTEMS)
def model(request):
    return request.param.from_weights()


@pytest.fixture
def half() -> StableDiffusion1:
    """In float16, to be spoilt by its test."""
    return StableDiffusion1.from_weights().half()


@pytest.fixture(scope="module")
def tiny_sd() -> TinySD:
    """Untrained, with its zero-initialised layers filled, so that the output depends on every input."""
    config = UNetConfig(widths=(8, 16), attention=(False, True), head_width=8, text_width=16, condition_width=16)
    torch.manual_seed(0)
    model = TinySD(config, "flow", ("cat", "dog", "wild"), 16, PixelCodec())
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("seeds")
@pytest.mark.parametrize("sampler", ["ddim", *STOCHASTIC])
def test_image_of_a_batch_is_the_image_of_its_seed(model, sampler):
    options = {"steps": 3, "sampler": sampler, "progress": False}
    batch = model.generate("a striped orange cat", num_images=3, seed=5, **options)
    for i in (0, 1, 2):
        alone = model.generate("a striped orange cat", seed=5 + i, **options)
        torch.testing.assert_close(batch[i], alone[0], atol=1e-3, rtol=0)
    assert (batch[1] - batch[0]).abs().max() > 0.1


@pytest.mark.fault("seeds")
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_other_prompts_in_the_batch_change_nothing(model, sampler):
    options = {"steps": 2, "sampler": sampler, "progress": False}
    batch = model.generate(["a dog", "a striped orange cat"], seed=5, **options)
    alone = model.generate("a striped orange cat", seed=6, **options)
    torch.testing.assert_close(batch[1], alone[0], atol=1e-3, rtol=0)


@pytest.mark.fault("seeds")
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_image_to_image_depends_on_its_own_seed(model, sampler):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    options = {"init_image": image, "steps": 3, "strength": 0.7, "sampler": sampler, "progress": False}
    batch = model.generate("a cat", num_images=2, seed=1, **options)
    torch.testing.assert_close(batch[1], model.generate("a cat", seed=2, **options)[0], atol=1e-3, rtol=0)


@pytest.mark.fault("seeds")
@pytest.mark.parametrize("sampler", ["ddim", *STOCHASTIC])
def test_tiny_sd_image_of_a_batch_is_the_image_of_its_seed(tiny_sd, sampler):
    batch = tiny_sd.generate(["cat", "dog", "wild"], steps=4, seed=5, sampler=sampler)
    alone = tiny_sd.generate(["dog"], steps=4, seed=6, sampler=sampler)
    torch.testing.assert_close(batch[1], alone[0], atol=1e-3, rtol=0)


@pytest.mark.fault("seeds")
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("sampler", ["ddim", *STOCHASTIC])
def test_tiny_sd_images_do_not_depend_on_the_batch_size(tiny_sd, sampler, batch_size):
    labels = ["cat", "dog", "wild"]
    together = tiny_sd.generate(labels, steps=4, seed=5, sampler=sampler)
    in_parts = tiny_sd.generate(labels, steps=4, seed=5, sampler=sampler, batch_size=batch_size)
    torch.testing.assert_close(together, in_parts, atol=1e-3, rtol=0)


def halve(x, t):
    """A denoiser that depends on its input."""
    return Denoised(x / 2, x / 2)


@pytest.mark.fault("seeds")
def test_ddim_with_fresh_noise_takes_it_from_each_samples_generator():
    noise, generators = initial_noise([4, 5], (3, 4, 4))
    *_, both = ddim(halve, noise, time_grid(4), FlowPath(), generator=generators, eta=1.0)
    noise, generators = initial_noise([5], (3, 4, 4))
    *_, alone = ddim(halve, noise, time_grid(4), FlowPath(), generator=generators, eta=1.0)
    assert torch.equal(both.x[1:], alone.x)


@pytest.mark.fault("seeds")
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_for_a_single_sample_a_list_of_one_generator_is_that_generator(sampler):
    noise, generators = initial_noise([4], (3, 4, 4))
    ends = [
        list(run_sampler(sampler, halve, noise, time_grid(4), FlowPath(), generator=generator))[-1].x
        for generator in (generators, torch.Generator().manual_seed(4))
    ]
    repeated = torch.Generator().manual_seed(4)
    torch.randn(3, 4, 4, generator=repeated)
    again = list(run_sampler(sampler, halve, noise, time_grid(4), FlowPath(), generator=repeated))[-1]
    assert torch.equal(ends[0], again.x) and not torch.equal(ends[0], ends[1])


@pytest.mark.fault("seeds", refused=True)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_number_of_generators_is_refused(sampler):
    noise, generators = initial_noise([4, 5], (3, 4, 4))
    with pytest.raises(ValueError, match="one generator for the batch or one per sample: got 1 for 2 samples"):
        run_sampler(sampler, halve, noise, time_grid(4), FlowPath(), generator=generators[:1])


# --- numbers that are none --------------------------------------------------------------------------------------------


def with_large_activations(model):
    """Scale the decoder's first layer up until float16, whose largest number is 65504, overflows."""
    with torch.no_grad():
        for parameter in model.autoencoder.decoder.stem.parameters():
            parameter.mul_(3e4)
    return model


@pytest.mark.fault("numbers", refused=True)
@pytest.mark.parametrize("count", [1, 2])
def test_where_the_decoder_overflows_in_float16_it_decodes_in_float32(half, count):
    model = with_large_activations(half)
    *_, last = model.sample_steps("a cat", steps=1, num_images=count)
    assert last.x.isfinite().all()
    with pytest.warns(UserWarning, match=r"decoder overflows in torch.float16, so a float32 copy") as caught:
        images = model.decode(last.x)
    assert len(caught) == 1, "the copy serves all images"
    assert next(model.autoencoder.parameters()).dtype == torch.float16, "the model stays as it was loaded"
    torch.testing.assert_close(images, model.float().decode(last.x), atol=1e-5, rtol=0)


@pytest.mark.fault("numbers", refused=True)
def test_where_the_encoder_overflows_in_float16_it_encodes_in_float32(half):
    with torch.no_grad():
        for parameter in half.autoencoder.encoder.stem.parameters():
            parameter.mul_(1e6).clamp_(-6e4, 6e4)
    with pytest.warns(UserWarning, match="encoder overflows in torch.float16"):
        latents = half.encode(torch.ones(1, 3, 64, 64))
    assert latents.isfinite().all() and latents.dtype == torch.float32


@pytest.mark.fault("numbers", refused=True)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_latents_that_are_no_numbers_are_not_decoded(model, value):
    latents = torch.zeros(3, model.autoencoder.config.latent_channels, 4, 4)
    latents[1, 0, 2, 2] = value
    with pytest.raises(ValueError, match="the latents of image 1 hold NaN or infinity"):
        model.decode(latents)


@pytest.mark.fault("numbers", refused=True)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_decoder_that_is_broken_says_so(value):
    model = StableDiffusion1.from_weights()
    with torch.no_grad():
        model.autoencoder.decoder.stem.weight[0, 0, 0, 0] = value
    with pytest.raises(FloatingPointError, match="decoder gives NaN or infinity even in float32"):
        model.generate("a cat", steps=1, progress=False)


@pytest.mark.fault("numbers", refused=True)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_text_states_that_are_no_numbers_stop_before_the_first_step(system, value):
    model = system.from_weights()
    tower = model.text if system is StableDiffusion1 else model.encoders.clip_g
    with torch.no_grad():
        next(iter(tower.parameters())).fill_(value)
    with pytest.raises(FloatingPointError, match="of the prompt hold NaN or infinity: the text encoder overflows"):
        model.generate("a cat", steps=2, progress=False)


@pytest.mark.fault("numbers", refused=True)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_network_that_gives_no_numbers_stops_at_its_first_step(value):
    model = StableDiffusion1.from_weights()
    with torch.no_grad():
        next(iter(model.unet.parameters())).view(-1)[0] = value
    steps = []
    with pytest.raises(FloatingPointError, match=r"state at time .* holds NaN or infinity in sample 0, 1"):
        model.generate("a cat", steps=5, num_images=2, progress=False, callback=lambda step, _: steps.append(step))
    assert not steps


@pytest.mark.fault("numbers", refused=True)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_tiny_sd_that_gives_no_numbers_stops_at_its_first_step(tiny_sd, value):
    parameter = next(iter(tiny_sd.unet.parameters()))
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.fill_(value)
        with pytest.raises(FloatingPointError, match="state at time 0.750 holds NaN or infinity in sample 0"):
            tiny_sd.generate(["cat"], steps=4, guidance_scale=1)
    finally:
        with torch.no_grad():
            parameter.copy_(before)


@pytest.mark.fault("numbers")
def test_finite_steps_are_passed_on():
    steps = [Step(0.5, torch.ones(2, 3), torch.ones(2, 3))]
    assert list(finite_steps(iter(steps))) == steps
