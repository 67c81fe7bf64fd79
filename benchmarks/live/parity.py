"""The page's engine beside PyTorch: the largest difference of any pixel, over prompts, seeds and samplers."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.data.captions import drop_details
from helpers.data.toy_faces import sample_attributes
from helpers.sd1.pipeline import StableDiffusion1
from helpers.tiny_sd.model import TinySD
from pages.live.models import MODELS, LiveModel, shipped_models
from pages.live.node import Engine, node_engine

SAMPLERS = ("ddim", "euler", "heun", "dpm_solver_pp_2m")
SCALES = (0.0, 1.0, 2.0, 4.0)  # of the guidance, in turn


def prompts(count: int) -> list[str]:
    """Captions of random synthetic faces, some of which leave details out."""
    rng = np.random.default_rng(0)
    return [drop_details(sample_attributes(rng), rng) for _ in range(count)]


def load(model: LiveModel) -> TinySD | StableDiffusion1:
    """A model of the page in PyTorch."""
    if model.pipeline == "sd1":
        return StableDiffusion1.from_weights(model.weights, model.clip, model.autoencoder)
    return TinySD.from_weights(model.weights)


def takes_captions(model: TinySD | StableDiffusion1) -> bool:
    """Whether a model is conditioned on captions; otherwise it is on classes."""
    return isinstance(model, StableDiffusion1) or bool(model.unet.config.vocab_size)


def reference_images(
    model: TinySD | StableDiffusion1, captions: Sequence[str], sampler: str, steps: int, scale: float, seed: int
) -> torch.Tensor:
    """PyTorch's images, (B, 3, H, W); image i starts from the noise of seed + i."""
    if isinstance(model, StableDiffusion1):
        return model.generate(
            captions, steps=steps, guidance_scale=scale, seed=seed, sampler=sampler, progress=False
        )  # fmt: skip
    conditions: dict = {"prompts": captions}
    if not takes_captions(model):
        conditions = {"labels": [i % len(model.class_names) for i in range(len(captions))]}
    return model.generate(**conditions, steps=steps, guidance_scale=scale, seed=seed, sampler=sampler)


def difference(
    engine: Engine,
    name: str,
    model: TinySD | StableDiffusion1,
    captions: Sequence[str],
    sampler: str,
    steps: int,
    scale: float,
    seed: int,
) -> float:
    """The largest difference of any pixel between the page's images and PyTorch's."""
    expected = reference_images(model, captions, sampler, steps, scale, seed)
    largest = 0.0
    for i, caption in enumerate(captions):
        request: dict = {"prompt": caption}
        if not takes_captions(model) and isinstance(model, TinySD):
            request = {"label": i % len(model.class_names)}
        image = engine.generate(name, **request, seed=seed + i, scale=scale, steps=steps, sampler=sampler)
        largest = max(largest, (image - expected[i]).abs().max().item())
    return largest


def sweep(count: int, steps: int) -> dict[str, dict[str, float]]:
    """For every model and sampler the largest difference over `count` prompts and seeds, with all guidance scales."""
    share = count // len(SCALES)
    captions = prompts(count)
    differences: dict[str, dict[str, float]] = {}
    with node_engine() as engine, tqdm(total=len(shipped_models()) * len(SAMPLERS), leave=False) as bar:
        for name in shipped_models():
            model = load(MODELS[name])
            differences[name] = {}
            for sampler in SAMPLERS:
                parts = [
                    difference(
                        engine, name, model, captions[i * share : (i + 1) * share], sampler, steps, scale, i * share
                    )
                    for i, scale in enumerate(SCALES)
                ]
                differences[name][sampler] = max(parts)
                bar.update()
    return differences
