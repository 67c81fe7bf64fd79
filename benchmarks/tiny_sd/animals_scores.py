"""Scores of a network that generates animals: what a judge sees in its images, and how far they are from photographs.

Images are taken as their seeds give them; none is left out. The judge is a classifier of photographs that no training
here has used (`helpers.scoring.photographs`), so its features compare with one another and with no published KID.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from helpers.data import Faces
from helpers.scoring.frechet import kernel_distance
from helpers.scoring.neighbours import nearest
from helpers.scoring.photographs import agreement
from helpers.scoring.precision_recall import precision_recall
from helpers.tiny_sd.model import TinySD

PER_CLASS = 100  # images of every class
SEED = 1000  # of the noise that is judged: image i has seed SEED + i
MOST_EVALUATIONS = 50  # of the network, for one image: a guided step costs two
CHOICE_SEED = 500_000  # other noise, for choosing how to sample
CHOICE_PER_CLASS = 40
CLOSE = 0.02  # agreements that differ by less are alike: with 120 images one standard error is 0.01 to 0.02
CLOSE_KID = 0.003  # the same of KIDs
REPEATS = 20  # half-samples behind a standard error
TAILS = (0.005, 0.995)  # quantiles between which a colour's range is taken: a single odd pixel is no range
SUSPICIOUS = 0.01  # share of the held-out photographs that lie as near to a training photograph as a suspect


class Judge(Protocol):
    """What `PhotographClassifier` does."""

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, H) in [-1, 1] -> probabilities (N, 1000) and features (N, D)."""
        ...


class Sampling(NamedTuple):
    """How images are sampled; records keep the fields under these names."""

    guidance_scale: float
    interval: tuple[float, float] = (0.0, 1.0)  # times between which guidance is used
    steps: int = 25
    sampler: str = "dpm_solver_pp_2m"

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `TinySD.generate`."""
        return {
            "guidance_scale": self.guidance_scale,
            "guidance_interval": self.interval,
            "steps": self.steps,
            "sampler": self.sampler,
        }


CANDIDATES = (
    *(Sampling(scale) for scale in (1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)),
    # guidance where it decides most costs less variety (Kynkäänniemi et al. 2024), and evaluations for more steps
    *(Sampling(scale, (0.2, 0.8), steps=30) for scale in (5.0, 7.0, 10.0)),
)


class Photographs(NamedTuple):
    """What a network was trained on, and what it has never seen, both of its size."""

    training: Faces
    held_out: Faces


def load_photographs(size: int) -> Photographs:
    """Both splits at `size` pixels. Raises what `load_faces` raises."""
    from helpers.data import load_faces

    return Photographs(load_faces("animal-faces", "train", size), load_faces("animal-faces", "val", size))


def balanced(faces: Faces, per_class: int) -> np.ndarray:
    """Positions of `per_class` images of every class, evenly spaced over the set.

    Raises:
        ValueError: where a class has fewer.
    """
    members = [np.flatnonzero(faces.labels == label) for label in range(len(faces.class_names))]
    fewest = min(map(len, members))
    if per_class > fewest:
        raise ValueError(f"{per_class} images of every class are needed, and one class has {fewest}")
    return np.concatenate([m[np.linspace(0, len(m) - 1, per_class).astype(int)] for m in members])


def labels_of(model: TinySD, per_class: int) -> list[str]:
    """The classes of all images, one class after the other."""
    return np.repeat(model.class_names, per_class).tolist()


def generate(
    model: TinySD, labels: Sequence[str], sampling: Sampling, seed: int, progress: bool = False
) -> tuple[Tensor, float]:
    """Images (N, 3, H, W) in [-1, 1], and how often the network was evaluated for each of them.

    Raises:
        ValueError: before the work is done, for more than MOST_EVALUATIONS; and what `TinySD.generate` raises.
    """
    _, evaluations = _counted(model, labels[:1], sampling, seed)
    if evaluations > MOST_EVALUATIONS:
        raise ValueError(
            f"{sampling.steps} steps at guidance scale {sampling.guidance_scale:g} evaluate the network "
            f"{evaluations:g} times for an image; at most {MOST_EVALUATIONS} are allowed"
        )
    return _counted(model, labels, sampling, seed, progress)


def _counted(
    model: TinySD, labels: Sequence[str], sampling: Sampling, seed: int, progress: bool = False
) -> tuple[Tensor, float]:
    evaluated = 0

    def count(module: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal evaluated
        evaluated += len(output)

    hook = model.unet.register_forward_hook(count)
    try:
        images = model.generate(list(labels), seed=seed, progress=progress, **sampling.arguments())
    finally:
        hook.remove()
    return images, evaluated / len(labels)


def evaluate(
    model: TinySD,
    judge: Judge,
    photographs: Photographs | None,
    sampling: Sampling,
    *,
    seed: int = SEED,
    per_class: int = PER_CLASS,
    progress: bool = False,
) -> tuple[dict[str, Any], Tensor]:
    """Generate `per_class` images of every class and score them.

    Args:
        model: generates the classes that the judge knows.
        judge: see `Judge`.
        photographs: of the model's size; None: only what needs no photographs.
        sampling: at most MOST_EVALUATIONS evaluations for an image.
        seed: image i is made from noise of seed + i.
        per_class: images of every class.
        progress: a bar while images are generated.

    Returns:
        the scores as plain JSON values, and the images.

    Raises:
        ValueError: for a sampling that costs too much.
    """
    labels = labels_of(model, per_class)
    start = time.perf_counter()
    images, evaluations = generate(model, labels, sampling, seed, progress)
    seconds = time.perf_counter() - start
    probabilities, features = judge.predict(images)
    scores: dict[str, Any] = {
        "n": len(images),
        "per_class": per_class,
        "seed": seed,
        "sampling": sampling._asdict(),
        "evaluations": evaluations,
        "images_per_second": round(len(images) / seconds, 3),
        "agreement": judged(probabilities, labels, model.class_names),
    }
    if photographs is not None:
        scores |= compare(images, features, judge, photographs)
    return scores, images


def judged(probabilities: Tensor, labels: Sequence[str], class_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """How often the judge sees what was asked for: overall and of each class."""
    rows = {name: [i for i, label in enumerate(labels) if label == name] for name in class_names}
    by_class = {name: agreement(probabilities[some], [name] * len(some)) for name, some in rows.items()}
    return {"overall": agreement(probabilities, labels), **by_class}


def compare(images: Tensor, features: Tensor, judge: Judge, photographs: Photographs) -> dict[str, Any]:
    """KID, precision, recall, nearest training photographs and range of colours, as plain JSON values.

    The held-out photographs are as many of each class as the rarest one has.

    Args:
        images: (N, 3, H, W) in [-1, 1], and their features (N, D) by the judge.
    """
    chosen = balanced(photographs.held_out, min(photographs.held_out.counts.values()))
    held_out = photographs.held_out.tensor(chosen)
    _, real = judge.predict(held_out)
    kid = kernel_distance(features, real, repeats=REPEATS)
    share = precision_recall(real, features)
    return {
        "held_out": len(held_out),
        "kid": {"value": kid.value, "standard_error": kid.stderr},
        "precision": share.precision,
        "recall": share.recall,
        "nearest_training": nearest_training(images, held_out, photographs.training.images),
        "colour_range": colour_range(images, held_out),
    }


def colour_range(images: Tensor, photographs: Tensor) -> dict[str, float]:
    """The share of the photographs' range of red, green and blue that generated images reach.

    A wrong value range in training shows here: clipped samples cannot be bright or dark enough.

    Args:
        images, photographs: (N, 3, H, W) in [-1, 1].
    """
    low, high = _range(images)
    real_low, real_high = _range(photographs)
    common = torch.minimum(high, real_high) - torch.maximum(low, real_low)
    shares = common.clamp(min=0) / (real_high - real_low)
    return dict(zip(("red", "green", "blue"), shares.tolist(), strict=True))


def _range(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (2, 3), a low and a high quantile of each channel."""
    values = images.transpose(0, 1).flatten(1).numpy()  # torch.quantile takes 16 million values at most
    return torch.from_numpy(np.quantile(values, TAILS, axis=1))


def nearest_training(images: Tensor, held_out: Tensor, training: np.ndarray) -> dict[str, float]:
    """How near images are to the training photographs, beside how near held-out photographs are.

    The mirror images of the training photographs count too, because trainings see them. Distances are root mean
    square differences of colours in [-1, 1].

    Returns:
        the ratio of the two median distances (1: as far as new photographs are; towards 0: copies), the number of
        suspects, which are nearer than 99 % of the held-out photographs, the number that chance alone would give,
        and the smallest distances.
    """
    ours = _nearest_distances(images, training)
    usual = _nearest_distances(held_out, training)
    return {
        "ratio": (ours.median() / usual.median()).item(),
        "suspects": int((ours < usual.quantile(SUSPICIOUS)).sum()),
        "suspects_by_chance": SUSPICIOUS * len(images),
        "smallest": ours.min().item(),
        "smallest_held_out": usual.min().item(),
    }


def _nearest_distances(images: Tensor, training: np.ndarray) -> Tensor:
    """(N,) to the nearest photograph or mirror image: mirroring the image instead gives the same distance."""
    plain, mirrored = (nearest(some, training).distances[:, 0] for some in (images, images.flip(-1)))
    return torch.minimum(plain, mirrored)


class Trial(NamedTuple):
    """One candidate and what it scored on the noise for choosing."""

    sampling: Sampling
    agreement: float
    kid: float
    recall: float


def choose_sampling(
    model: TinySD,
    judge: Judge,
    training: Faces,
    candidates: Sequence[Sampling] = CANDIDATES,
    *,
    per_class: int = CHOICE_PER_CLASS,
    seed: int = CHOICE_SEED,
    progress: bool = False,
) -> tuple[Sampling, list[Trial]]:
    """The candidate to sample with, found on noise and photographs that the scores do not use.

    Guidance makes classes clearer and images more alike. So: among the candidates whose agreement is within CLOSE of
    the best, those whose KID to training photographs is within CLOSE_KID of the lowest; of these the most varied one,
    whose recall is highest.
    """
    labels = labels_of(model, per_class)
    _, real = judge.predict(training.tensor(balanced(training, min(PER_CLASS, *training.counts.values()))))
    trials = []
    for sampling in candidates:
        images, _ = generate(model, labels, sampling, seed, progress)
        probabilities, features = judge.predict(images)
        seen = agreement(probabilities, labels)["of three"]
        recall = precision_recall(real, features).recall
        trials.append(Trial(sampling, seen, kernel_distance(features, real).value, recall))
    return best(trials), trials


def best(trials: Sequence[Trial]) -> Sampling:
    """The rule of `choose_sampling`."""
    most = max(trial.agreement for trial in trials)
    close = [trial for trial in trials if trial.agreement >= most - CLOSE]
    lowest = min(trial.kid for trial in close)
    return max((trial for trial in close if trial.kid <= lowest + CLOSE_KID), key=lambda trial: trial.recall).sampling
