"""Whole images: every model of the page generates what PyTorch generates, with every sampler."""

from functools import cache, partial

import numpy as np
import pytest
import torch

from helpers.data.captions import drop_details, tokenize
from helpers.data.toy_faces import sample_attributes
from helpers.diffusion import guided_denoiser
from helpers.diffusion.samplers import initial_noise, run_sampler, time_grid
from helpers.sd1.pipeline import StableDiffusion1
from helpers.tiny_sd.model import TinySD
from pages.live.models import MODELS, shipped_models
from pages.live.node import Engine

SAMPLERS = ("ddim", "euler", "heun", "dpm_solver_pp_2m")
PROMPTS = 20  # per model; every sampler gets a quarter of them
STEPS = 3  # `python -m benchmarks check live` takes all of them, and more steps
TOLERANCE = 1e-4


@cache
def prompts() -> list[str]:
    """Captions of random faces, some of which leave details out."""
    rng = np.random.default_rng(0)
    return [drop_details(sample_attributes(rng), rng) for _ in range(PROMPTS)]


@cache
def load(name: str) -> TinySD | StableDiffusion1:
    if MODELS[name].pipeline == "sd1":
        return StableDiffusion1.from_weights(MODELS[name].weights)
    return TinySD.from_weights(MODELS[name].weights)


def generate(name: str, prompts: list[str], sampler: str, steps: int, scale: float, seed: int) -> torch.Tensor:
    """PyTorch's images; that of prompt i starts from seed + i."""
    model = load(name)
    options = {"steps": steps, "guidance_scale": scale, "seed": seed, "sampler": sampler}
    if isinstance(model, StableDiffusion1):
        return model.generate(prompts, progress=False, **options)
    if not model.unet.config.vocab_size:
        return model.generate(labels=[i % len(model.class_names) for i in range(len(prompts))], **options)
    return model.generate(prompts=prompts, **options)


@pytest.mark.parametrize("name", shipped_models())
def test_images_equal_pytorchs(name: str, engine: Engine) -> None:
    share = PROMPTS // len(SAMPLERS)
    for i, sampler in enumerate(SAMPLERS):
        seed = i * share
        scale = (1.0, 2.0, 4.0, 0.0)[i]
        part = prompts()[seed : seed + share]
        expected = generate(name, part, sampler, STEPS, scale, seed)
        for j, prompt in enumerate(part):
            request = {"prompt": prompt, "label": -1, "scale": scale, "seed": seed + j}
            if not _takes_captions(name):
                request |= {"prompt": "", "label": j % 3}
            ours = engine.generate(name, steps=STEPS, sampler=sampler, **request)
            difference = (ours - expected[j]).abs().max().item()
            assert difference <= TOLERANCE, f"{sampler}, {prompt!r}: {difference}"


def _takes_captions(name: str) -> bool:
    model = load(name)
    return isinstance(model, StableDiffusion1) or bool(model.unet.config.vocab_size)


def test_without_simd_the_image_is_the_same(engine: Engine) -> None:
    request = {"prompt": prompts()[0], "label": -1, "scale": 2, "seed": 5, "steps": 1, "sampler": "euler"}
    images = [engine.generate("own", method, **request) for method in ("", "javascript")]
    assert (images[0] - images[1]).abs().max() <= TOLERANCE


def test_negative_prompt_replaces_the_empty_caption(engine: Engine) -> None:
    """TinySD has no negative prompt of its own: it is guided away from the caption that is given instead of nothing."""
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


def test_negative_prompt_of_stable_diffusion(engine: Engine) -> None:
    model = load("sd1")
    assert isinstance(model, StableDiffusion1)
    options = {"steps": 2, "guidance_scale": 4.0, "seed": 3, "sampler": "ddim", "progress": False}
    expected = model.generate("a cat", "a blue background", **options)[0]
    request = {"prompt": "a cat", "negativePrompt": "a blue background", "scale": 4, "seed": 3, "steps": 2}
    assert (engine.generate("sd1", sampler="ddim", **request) - expected).abs().max() <= TOLERANCE
