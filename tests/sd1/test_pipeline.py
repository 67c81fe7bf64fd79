"""What the pipeline promises: seeds, batches, image to image, inpainting, previews; on random weights."""

import inspect
import re

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.diffusion import SAMPLERS, Denoised
from helpers.sd1.pipeline import SD1Config, StableDiffusion1

QUICK = {"steps": 3, "progress": False}


@pytest.fixture(scope="module")
def init_image() -> torch.Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_published_sizes():
    with torch.device("meta"):
        from helpers.sd1.unet import UNet, UNetConfig

        unet = UNet(UNetConfig.v1())
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    last = torch.nn.ModuleList([unet.up[3].residual[2], unet.up[3].transformer[2]])
    counted = {unet.stem: 11_840, unet.middle: 97_038_080, unet.time: 2_050_560, last: 5_928_640}
    assert all(sum(p.numel() for p in module.parameters()) == size for module, size in counted.items())
    assert SD1Config.v1().limits.multiple == 8


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_arrives(sampler, ours):
    images = ours.generate("a cat", sampler=sampler, **QUICK)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all() and images.abs().max() <= 1
    assert torch.equal(images, ours.generate("a cat", sampler=sampler, **QUICK)), "a seed fixes the image"


def test_an_image_does_not_depend_on_its_neighbours(ours):
    alone = ours.generate("a dog", seed=5, **QUICK)
    together = ours.generate(["a cat", "a dog"], seed=4, **QUICK)
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)
    three = ours.generate("a dog", seed=5, num_images=3, **QUICK)
    torch.testing.assert_close(three[:1], alone, atol=1e-5, rtol=0)
    assert three.shape[0] == 3 and not torch.allclose(three[0], three[1])


@pytest.mark.parametrize("sampler", ["ddpm", "euler_ancestral"])
def test_fresh_noise_does_not_repeat_the_first_noise(sampler, ours, monkeypatch):
    """If the network predicts noise only, a state keeps the noise level's standard deviation: the noise must be new."""

    def noise_only(text, negative, scale):
        def denoise(x, t):
            alpha, sigma = ours.path.alpha_sigma(t)
            return Denoised(torch.zeros_like(x), x / sigma)

        return denoise

    monkeypatch.setattr(ours, "denoiser", noise_only)
    first = next(ours.sample_steps("a cat", sampler=sampler, steps=10, height=256, width=256))
    _, sigma = ours.path.alpha_sigma(first.t)
    assert first.x.std() / sigma == pytest.approx(1, abs=0.05)


def test_half_precision_is_near_full_precision(layouts, ours, init_image):
    half = StableDiffusion1.from_checkpoint(layouts["diffusers"], config=ours.config, dtype=torch.bfloat16)
    for options in ({}, {"init_image": init_image}):
        images = [model.generate("a cat", guidance_scale=2.0, **options, **QUICK) for model in (half, ours)]
        torch.testing.assert_close(*images, atol=0.15, rtol=0)


def test_numbers_of_numpy_are_numbers(ours):
    options = {"seed": np.int64(5), "height": np.int64(64), "guidance_scale": np.float32(2)}
    plain = ours.generate("a cat", seed=5, guidance_scale=2, **QUICK)
    assert torch.equal(ours.generate("a cat", **options, **QUICK), plain)


def test_a_photograph_of_an_odd_size_is_named(ours):
    with pytest.raises(ValueError, match=r"height must be a multiple of 8 pixels, got 37 \(init_image's\)"):
        ours.generate("a cat", init_image=Image.new("RGB", (64, 37)), **QUICK)


def test_the_prompt_and_the_negative_prompt_count(ours):
    plain = ours.generate("a cat", **QUICK)
    assert not torch.allclose(plain, ours.generate("a grey dog", **QUICK))
    assert not torch.allclose(plain, ours.generate("a cat", "a dog", **QUICK))
    unguided = {"guidance_scale": 1.0, **QUICK}
    assert torch.equal(ours.generate("a cat", **unguided), ours.generate("a cat", "a dog", **unguided))


@pytest.mark.parametrize(("height", "width"), [(64, 72), (104, 40)])
def test_any_multiple_of_eight(height, width, ours):
    assert ours.generate("a cat", height=height, width=width, **QUICK).shape == (1, 3, height, width)


def test_strength(ours, init_image):
    """0 gives the image as the autoencoder keeps it; more strength, more change."""
    kept = ours.autoencoder.to_images(ours.autoencoder.to_latents(init_image[None]))
    results = {
        s: ours.generate("a cat", init_image=init_image, strength=s, steps=10, progress=False) for s in (0, 0.3, 1)
    }
    torch.testing.assert_close(results[0], kept.detach(), atol=1e-5, rtol=0)
    change = [(result - results[0]).abs().mean().item() for result in results.values()]
    assert change[0] < change[1] < change[2]
    steps = list(ours.sample_steps("a cat", init_image=init_image, strength=0.3, steps=10))
    assert len(steps) == 3


def test_a_pil_image_is_accepted(ours):
    image = Image.new("RGBA", (72, 64), (200, 30, 30, 255))
    assert ours.generate("a cat", init_image=image, **QUICK).shape == (1, 3, 64, 72)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpainting_keeps_what_the_mask_protects(sampler, ours, init_image):
    mask = torch.zeros(64, 64)
    mask[16:48, 24:64] = 1
    result = ours.generate("a cat", init_image=init_image, mask_image=mask, strength=1.0, sampler=sampler, **QUICK)[0]
    assert torch.equal(result[:, mask == 0], init_image[:, mask == 0])
    assert (result - init_image)[:, mask == 1].abs().mean() > 0.05
    known = ours.autoencoder.to_latents(init_image[None]).detach()
    *_, last = ours.sample_steps(
        "a cat", init_image=init_image, mask_image=mask, strength=1.0, sampler=sampler, steps=3
    )
    outside = torch.nn.functional.max_pool2d(mask[None, None], 8)[0, 0] == 0
    torch.testing.assert_close(last.x0[0][:, outside], known[0][:, outside], atol=1e-4, rtol=0)


def test_the_callback_sees_every_step_and_a_preview(ours):
    calls = []
    ours.generate("a cat", callback=lambda step, preview: calls.append((step.t, preview.shape)), **QUICK)
    assert [shape for _, shape in calls] == [(1, 3, 8, 8)] * 3
    assert [t for t, _ in calls] == sorted((t for t, _ in calls), reverse=True)


def test_bad_arguments_are_refused_at_once(ours):
    """Before the first step: `sample_steps` is no generator function, whose body would wait for it."""
    with pytest.raises(ValueError, match="steps must be a whole number"):
        ours.sample_steps("a cat", steps=0)


def test_the_way_from_prompt_to_latent_is_one_method():
    """Numbered, from top to bottom, and no longer than a screen; `sample_steps` only checks the arguments first."""
    first = inspect.getsource(StableDiffusion1.sample_steps)
    source = inspect.getsource(StableDiffusion1.sample_latents)
    assert re.findall(r"# (\d)\. ", first + source) == list("123456")
    assert len(source.splitlines()) <= 50


def test_a_hook_on_a_level_of_the_unet_is_called(ours):
    """torchinfo, profilers and FSDP see a level only if it is called as a module."""
    called = []
    levels = [*ours.unet.down, *ours.unet.up]
    handles = [level.register_forward_hook(lambda module, inputs, output: called.append(module)) for level in levels]
    ours.generate("a cat", steps=1, guidance_scale=1.0, progress=False)
    for handle in handles:
        handle.remove()
    assert called == levels


def test_a_long_prompt_warns_and_goes_on(ours):
    with pytest.warns(UserWarning, match="its end was cut off"):
        ours.generate("a cat and a dog " * 9, **QUICK)


def test_sampling_leaves_gradients_as_they_were(ours):
    init_image = torch.zeros(3, 64, 64)
    for options in ({}, {"init_image": init_image, "strength": 0}):
        for _ in ours.sample_steps("a cat", steps=2, **options):
            assert torch.is_grad_enabled()


def test_times_are_the_reference_ones(peer, ours):
    for steps in (10, 30, 50):
        peer.scheduler.set_timesteps(steps)
        trained = (ours.times(steps)[:-1] * 1000 - 1).round().long()
        assert trained.tolist() == peer.scheduler.timesteps.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_image(ours, layouts):
    on_gpu = StableDiffusion1.from_checkpoint(layouts["diffusers"], config=ours.config, device="cuda")
    torch.testing.assert_close(on_gpu.generate("a cat", **QUICK), ours.generate("a cat", **QUICK), atol=1e-2, rtol=0)
