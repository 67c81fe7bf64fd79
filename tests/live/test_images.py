"""Whole images: every model of the page generates what PyTorch generates, with every sampler."""

from functools import cache, partial
from pathlib import Path

import pytest
import torch

from benchmarks.live import parity
from helpers.data.captions import tokenize
from helpers.diffusion import guided_denoiser
from helpers.diffusion.samplers import initial_noise, run_sampler, time_grid
from helpers.sd1.pipeline import StableDiffusion1
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.unet import UNetConfig
from pages.live import models
from pages.live.models import MODELS, shipped_models
from pages.live.node import Engine

PROMPTS = 20  # and seeds, per model; every sampler gets a quarter of them, and its own guidance scale
STEPS = 2  # `python -m benchmarks check live` gives every sampler all of them, and more steps
TOLERANCE = 1e-4


@cache
def load(name: str) -> TinySD | StableDiffusion1:
    return parity.load(MODELS[name])


@pytest.mark.parametrize(("i", "sampler"), list(enumerate(parity.SAMPLERS)))
@pytest.mark.parametrize("name", shipped_models())
def test_images_equal_pytorchs(name: str, i: int, sampler: str, engine: Engine) -> None:
    share = PROMPTS // len(parity.SAMPLERS)
    captions = parity.prompts(PROMPTS)[i * share : (i + 1) * share]
    scale = parity.SCALES[i]
    assert parity.difference(engine, name, load(name), captions, sampler, STEPS, scale, i * share) <= TOLERANCE


def test_another_seed_is_another_image(engine: Engine) -> None:
    """The comparison above would notice: it is not the same image whatever is requested."""
    request = {"prompt": "a cat", "label": -1, "scale": 2, "steps": 1, "sampler": "euler"}
    assert (engine.generate("own", seed=1, **request) - engine.generate("own", seed=2, **request)).abs().max() > 0.1


def test_without_simd_the_image_is_the_same(engine: Engine) -> None:
    request = {"prompt": "a cat", "label": -1, "scale": 2, "seed": 5, "steps": 1, "sampler": "euler"}
    images = [engine.generate("own", method, **request) for method in ("", "javascript")]
    assert (images[0] - images[1]).abs().max() <= TOLERANCE


def test_negative_prompt_replaces_the_empty_caption(engine: Engine) -> None:
    """TinySD has no negative prompt: in the page it stands where the empty caption stands in PyTorch."""
    model = load("own")
    assert isinstance(model, TinySD)
    noise, _ = initial_noise([9], (model.codec.channels, 16, 16))
    labels = torch.tensor([-1])
    conditional, unconditional = (
        partial(model._denoise, labels=labels, captions=tokenize([text])) for text in ("a cat", "green eyes")
    )
    denoise = guided_denoiser(conditional, unconditional, 3.0)
    *_, last = run_sampler("euler", denoise, noise, time_grid(2), model.objective.path)
    request = {"prompt": "a cat", "negativePrompt": "green eyes", "scale": 3, "seed": 9, "steps": 2, "sampler": "euler"}
    ours = engine.generate("own", **request)
    assert (ours - model.codec.decode(last.x)[0]).abs().max() <= TOLERANCE
    assert (ours - engine.generate("own", **request | {"negativePrompt": ""})).abs().max() > 0.1


@pytest.mark.parametrize("name", ["own", "animals"])
def test_previews_of_latents_resemble_their_images(name: str, engine: Engine) -> None:
    pipeline = engine.load(name)
    code = f"""
        let last;
        for (const step of sampleSteps({pipeline}, request)) last = step;
        const [preview, image] = [{pipeline}.preview(last.x0), {pipeline}.decode(last.x0)];
        return Float32Array.from([...preview, ...image]);"""
    request = {"prompt": "a cat", "label": 0, "scale": 2, "steps": 4, "seed": 1, "sampler": "ddim"}
    both = engine(code, request=request)
    preview, image = both.split([both.numel() - 3 * 64 * 64, 3 * 64 * 64])
    side = round((preview.numel() / 3) ** 0.5)
    small = torch.nn.functional.adaptive_avg_pool2d(image.view(1, 3, 64, 64), side).flatten()
    assert torch.corrcoef(torch.stack([preview, small]))[0, 1] > 0.8


def test_negative_prompt_of_stable_diffusion(engine: Engine) -> None:
    model = load("sd1")
    assert isinstance(model, StableDiffusion1)
    options = {"steps": 2, "guidance_scale": 4.0, "seed": 3, "sampler": "ddim", "progress": False}
    expected = model.generate("a cat", "a blue background", **options)[0]
    request = {"prompt": "a cat", "negativePrompt": "a blue background", "scale": 4, "seed": 3, "steps": 2}
    assert (engine.generate("sd1", sampler="ddim", **request) - expected).abs().max() <= TOLERANCE


def test_a_network_of_classes_and_another_size(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the models of photographs will be: no captions, two blocks per level, no narrow level, another size."""
    torch.manual_seed(0)
    config = UNetConfig(
        widths=(16, 32), attention=(True, True), head_width=8, blocks=2, condition_width=24, detail_channels=0
    )
    model = TinySD(config, "flow", ("cat", "dog", "wild"), 32, PixelCodec())
    for parameter in model.unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save(tmp_path / "classes.safetensors", {})
    monkeypatch.setattr(models, "weights_path", lambda name: tmp_path / f"{name}.safetensors")
    monkeypatch.setitem(models.MODELS, "classes", models.LiveModel("By class", "classes", 2.0))
    for label in (1, -1):
        ours = engine.generate("classes", label=label, scale=2, seed=3, steps=3, sampler="heun")
        expected = TinySD.from_weights(tmp_path / "classes.safetensors").generate(
            labels=[label], steps=3, guidance_scale=2.0, seed=3, sampler="heun"
        )[0]
        assert ours.shape == expected.shape == (3, 32, 32)
        assert (ours - expected).abs().max() <= TOLERANCE
