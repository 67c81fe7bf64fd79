"""Thirty-six faults of diffusion trainings, each with the illness that it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.doctor.trainings import LATENTS, LONGER, USUAL, Training
from helpers.data.toy_faces import draw_face, toy_attributes
from helpers.diffusion import Objective
from helpers.tiny_sd.batches import Batches
from helpers.training.run import Run

# --- images -----------------------------------------------------------------------------------------------------------


def write_faces(folder: Path, count: int, *, by_class: bool = True) -> None:
    """Write synthetic faces, in a folder for each class, or in two folders by chance."""
    for index, face in enumerate(toy_attributes(count, seed=5)):
        name = face.species if by_class else f"class {index % 7 % 2}"
        path = folder / name / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_face(face, 32).transpose(1, 2, 0)).save(path)


def write_alike(folder: Path, pixels: np.ndarray, count: int = 300) -> None:
    """Write one image (32, 32, 3) many times."""
    for index in range(count):
        path = folder / f"class {index % 2}" / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


# --- faults -----------------------------------------------------------------------------------------------------------


def batches_of(run: Run) -> Batches:
    """The batches that this run trains on."""
    batches = getattr(run.task.loss_fn, "__self__", None)
    assert isinstance(batches, Batches), "a training of tiny Stable Diffusion"
    return batches


def change_inputs(change: Callable[[Tensor], Tensor], run: Run) -> None:
    """Feed the network something else than its codec gives."""
    batches = batches_of(run)
    original = batches.latents_of

    def latents_of(*args: Any) -> Tensor:
        return change(original(*args))

    batches.latents_of = latents_of  # type: ignore[method-assign,assignment]


def imagenet(x: Tensor) -> Tensor:
    """Images in [-1, 1] as networks of ImageNet take them."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return ((x + 1) / 2 - mean) / std


def one_nan(x: Tensor) -> Tensor:
    """A batch of which one value is no number."""
    x = x.clone()
    x[0, 0, 0, 0] = torch.nan
    return x


def change_labels(change: Callable[[Tensor], Tensor], run: Run) -> None:
    """Condition on other classes."""
    batches = batches_of(run)
    original = batches.sample_conditions

    def sample_conditions(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        labels, captions = original(indices, generator)
        return change(labels), captions

    batches.sample_conditions = sample_conditions  # type: ignore[method-assign]


def always_drop(run: Run) -> None:
    """Drop every condition, as for classifier-free guidance."""
    batches_of(run).p_uncond = 1.0


def repeat_images(run: Run) -> None:
    """Train on the first batch for ever."""
    batches = batches_of(run)
    first = torch.arange(batches.batch_size)
    batches.sample_indices = lambda generator: first  # type: ignore[method-assign]


def repeat_randomness(run: Run) -> None:
    """Begin every step with the same seed."""
    original = run.task.loss_fn
    run.task.loss_fn = lambda model, generator: original(model, torch.Generator().manual_seed(0))


def average_with(decay: float, run: Run) -> None:
    """Average the weights without a ramp at the beginning."""

    @torch.no_grad()
    def update(module: nn.Module, step: int) -> None:
        for average, weight in zip(run.ema.module.parameters(), module.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    run.ema.update = update  # type: ignore[method-assign]


def without_updates(run: Run) -> None:
    """Forget the optimiser's step."""
    run.optimizer.step = lambda closure=None: None  # type: ignore[method-assign,assignment]


def without_gradients(run: Run) -> None:
    """Cut the network off from the loss: a detach in the wrong place."""
    for parameter in run.model.parameters():
        parameter.register_hook(torch.zeros_like)


def infinite_weight(run: Run) -> None:
    """Begin with a weight that has overflown."""
    with torch.no_grad():
        next(run.model.parameters()).view(-1)[0] = torch.inf


def change_times(change: Callable[[Tensor], Tensor], run: Run) -> None:
    """Train at other times."""
    objective = run.model.objective
    assert isinstance(objective, Objective)
    original = objective.sample_times
    object.__setattr__(objective, "sample_times", lambda *args: change(original(*args)))


def change_forward(run: Run, *, time: Callable[[Tensor], Tensor] = lambda t: t, noise: float = 1.0) -> None:
    """Train on other noise, or tell the network other times, than in validation and sampling."""
    model: Any = run.model

    def forward(latents: Tensor, eps: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        eps = eps * noise
        x_t = model.objective.path.add_noise(latents, eps, t)
        return model.objective.losses(model.unet(x_t, time(t), *conditions).float(), latents, eps, t, x_t)

    model.forward = forward


def misread(run: Run, **fields: Any) -> None:
    """Sample with another meaning of the network's output than the one that is trained."""
    task = run.task
    original = task.sample
    assert original is not None

    def sample(average: Any, path: Path) -> Any:
        trained = average.objective
        average.objective = dataclasses.replace(trained, **fields)
        measured = original(average, path)
        average.objective = trained
        return measured

    task.sample = sample


# --- the list ---------------------------------------------------------------------------------------------------------

USED_DIFFERENTLY = "trained and used differently"
BLACK = np.zeros((32, 32, 3), np.uint8)
FACE = draw_face(toy_attributes(1, seed=3)[0], 32).transpose(1, 2, 0)


def _with(option: str) -> str:
    return f"{USUAL} {option}"


FAULTS = (
    Training("learning rate 0.05", _with("--learning-rate 0.05"), "learning rate too high"),
    Training("learning rate 0.3", _with("--learning-rate 0.3"), "learning rate too high"),
    Training("learning rate 2", _with("--learning-rate 2"), "learning rate too high"),
    Training("learning rate 1e-7", _with("--learning-rate 1e-7"), "learning rate too low"),
    Training("learning rate 1e-6", _with("--learning-rate 1e-6"), "learning rate too low"),
    Training("learning rate 4e-6", _with("--learning-rate 4e-6"), "learning rate too low"),
    Training("average of 1,000 steps without a ramp", USUAL, "average lags behind", partial(average_with, 0.999)),
    Training("average of 10,000 steps without a ramp", USUAL, "average lags behind", partial(average_with, 0.9999)),
    Training("average that is never updated", USUAL, "average lags behind", partial(average_with, 1.0)),
    Training("images in [0, 1]", USUAL, "wrong value range", partial(change_inputs, lambda x: (x + 1) / 2)),
    Training("images in [0, 255]", USUAL, "wrong value range", partial(change_inputs, lambda x: (x + 1) * 127.5)),
    Training("images as for ImageNet", USUAL, "wrong value range", partial(change_inputs, imagenet)),
    Training("latents scaled twice", LATENTS, "wrong scaling factor", partial(change_inputs, lambda z: 0.18215 * z)),
    Training("latents not scaled", LATENTS, "wrong scaling factor", partial(change_inputs, lambda z: z / 0.18215)),
    Training("latents not centred", LATENTS, "wrong scaling factor", partial(change_inputs, lambda z: z + 2)),
    Training("conditions always dropped", USUAL, "condition not used", always_drop),
    Training("one class for all", USUAL, "condition not used", partial(change_labels, torch.zeros_like)),
    Training("classes by chance", USUAL, "classes say nothing", images=partial(write_faces, count=400, by_class=False)),
    Training("10 images", USUAL, "too few images", images=partial(write_faces, count=10)),
    Training("60 images", USUAL, "too few images", images=partial(write_faces, count=60)),
    Training("the same images in every batch", USUAL, "every batch the same", repeat_images),
    Training("the same seed in every step", USUAL, "every batch the same", repeat_randomness),
    Training("a value that is no number", USUAL, "not a number", partial(change_inputs, one_nan)),
    Training("an infinite weight", USUAL, "not a number", infinite_weight),
    Training("no step of the optimiser", USUAL, "network does not change", without_updates),
    Training("a detached loss", USUAL, "network does not change", without_gradients),
    Training("black images", USUAL, "images all alike", images=partial(write_alike, pixels=BLACK)),
    Training("one image, 300 copies", USUAL, "images all alike", images=partial(write_alike, pixels=FACE)),
    Training("one time", USUAL, "wrong noise levels", partial(change_times, lambda t: torch.full_like(t, 0.5))),
    Training("times up to 1,000", USUAL, "wrong noise levels", partial(change_times, lambda t: 1000 * t)),
    Training("times told in reverse", LONGER, USED_DIFFERENTLY, partial(change_forward, time=lambda t: 1 - t)),
    Training("less noise than is told", LONGER, USED_DIFFERENTLY, partial(change_forward, noise=0.4)),
    Training("more noise than is told", LONGER, USED_DIFFERENTLY, partial(change_forward, noise=2.5)),
    Training("batches of one image", _with("--batch-size 1"), "batch too small"),
    Training("x0 sampled as velocity", USUAL, "samples are noise", partial(misread, prediction="velocity")),
    Training("x0 sampled as noise", USUAL, "samples are noise", partial(misread, prediction="epsilon")),
)
