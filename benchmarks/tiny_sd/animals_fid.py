"""FID of generated animals with Inception's own features, measured as the nearest public competitor measures it.

That is a latent diffusion model on AFHQ at 128 px, trained on a GPU (https://github.com/tchauffi/diffusion-pytorch).
Its protocol: 500 samples against 500 photographs of every class, five seeds; overall, all 1,500 against all 1,500. FID
falls as the number of images grows, so these figures compare with no others.

Two things to know about its published figures. Its photographs are those it was trained on; ours are held-out ones as
far as there are enough. And its script hands torchmetrics images that are uint8 already, with `normalize=True`, which
multiplies them by 255 once more. They wrap round to 256 - x, so its FID is one of colour negatives. Ours is measured on
the images as they are; at 128 px on negatives as well, to be laid beside it.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks.record import hardware
from benchmarks.tiny_sd.animals_scores import Photographs, Sampling, generate
from helpers.course import course_home
from helpers.data.faces import to_uint8
from helpers.scoring.frechet import frechet_distance
from helpers.tiny_sd.model import TinySD
from helpers.weights import read_tensors, write_tensors

PER_CLASS = 500
SEEDS = 5
FIRST_SEED = 1_000_000  # seed s makes its image i from noise of FIRST_SEED + s * APART + i
APART = 10_000
BATCH = 25  # images that Inception takes at once
COMPETITOR = {"overall": 33.90, "cat": 40.97, "dog": 69.74, "wild": 40.71}  # its benchmarks/fid_latent_diffusion.txt
COMPETITOR_SIZE = 128
RULE = "of each class the held-out photographs, at most per_class, then training photographs; both evenly spaced"
Scores = dict[str, float]


class Reference(NamedTuple):
    """The photographs that generated images are compared with."""

    images: dict[str, np.ndarray]  # uint8 (n, 3, H, W) of every class
    held_out: dict[str, int]  # how many of them no training has seen
    training: dict[str, int]  # how many of them are training photographs

    def described(self) -> dict[str, Any]:
        """What a record says of them: the rule, the counts, and a checksum of all pixels in order."""
        digest = hashlib.sha256()
        for images in self.images.values():
            digest.update(np.ascontiguousarray(images).tobytes())
        return {"rule": RULE, "held_out": self.held_out, "training": self.training, "sha256": digest.hexdigest()}


def reference(photographs: Photographs, per_class: int = PER_CLASS) -> tuple[Reference, Reference]:
    """The photographs of the protocol, and as many others to compare them with.

    The others are training photographs that the first set does not use: their FID is what a perfect generator would
    score with so few images.

    Raises:
        ValueError: where there are too few photographs for the two sets.
    """
    first = Reference({}, {}, {})
    second = Reference({}, {}, {})
    for name in photographs.training.class_names:
        seen = photographs.training.of_class(name).images
        new = photographs.held_out.of_class(name).images
        held_out = new[_spaced(len(new), min(per_class, len(new)))]
        used = _spaced(len(seen), per_class - len(held_out))
        unused = np.setdiff1d(np.arange(len(seen)), used)
        if len(unused) < per_class:
            raise ValueError(
                f"{len(new)} held-out and {len(seen)} training photographs of class {name!r} are too few "
                f"for two sets of {per_class}"
            )
        first.images[name] = np.concatenate([held_out, seen[used]])
        first.held_out[name] = len(held_out)
        first.training[name] = len(used)
        second.images[name] = seen[unused[_spaced(len(unused), per_class)]]
        second.held_out[name] = 0
        second.training[name] = per_class
    return first, second


def _spaced(total: int, count: int) -> np.ndarray:
    """`count` positions out of `total`, evenly spaced and all different."""
    return np.linspace(0, total - 1, count).astype(int)


def negative(images: Tensor) -> Tensor:
    """What multiplying uint8 images by 255 does to them: 256 - x, and 0 stays 0."""
    return images * 255


def kept_features(name: str, images: Callable[[], Tensor], network: nn.Module, folder: Path | None = None) -> Tensor:
    """Features of images (N, D): from the file of this name, or computed with a bar and then kept there.

    Args:
        name: says which images of what; it must change whenever they do.
        images: makes them, uint8 (N, 3, H, W); not called where the features are kept.
        network: uint8 (B, 3, H, W) to (B, D).
        folder: None: `features` in the course's home, outside the repository.
    """
    path = (folder or course_home() / "features") / f"{name}.safetensors"
    if path.exists():
        try:
            return read_tensors(path)[0]["features"]
        except ValueError:
            path.unlink()  # damaged: computed again
    parts = images().split(BATCH)
    features = torch.cat([network(part).cpu() for part in tqdm(parts, desc=name[:40], unit="batch", leave=False)])
    write_tensors(path, {"features": features}, {"name": name})
    return features


def photograph_features(photographs: Reference, network: nn.Module, inverted: bool = False) -> dict[str, Tensor]:
    """Features of every class, computed once for these photographs."""
    digest = photographs.described()["sha256"][:16]
    size = next(iter(photographs.images.values())).shape[-1]
    content = "negatives" if inverted else "photographs"

    def images(name: str) -> Tensor:
        pixels = torch.from_numpy(np.array(photographs.images[name]))
        return negative(pixels) if inverted else pixels

    return {
        name: kept_features(f"inception-{content}-{size}-{name}-{digest}", partial(images, name), network)
        for name in photographs.images
    }


def distances(generated: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Scores:
    """FID overall, all classes pooled, and of each class."""
    overall = frechet_distance(torch.cat(list(generated.values())), torch.cat(list(real.values()))).value
    by_class = {name: frechet_distance(generated[name], real[name]).value for name in real}
    return {name: round(value, 3) for name, value in {"overall": overall, **by_class}.items()}


def measure(
    model: TinySD,
    weights: str,
    sampling: Sampling,
    photographs: Photographs,
    network: nn.Module,
    earlier: Mapping[str, Any] | None,
    save: Callable[[dict[str, Any]], None],
    *,
    per_class: int = PER_CLASS,
    seeds: int = SEEDS,
    inverted: bool | None = None,
) -> dict[str, Any]:
    """FID of every seed that `earlier` lacks; `save` is called after each, so that a killed run can go on.

    Args:
        model: what generates.
        weights: the checksum of its weights, which its features are kept under.
        sampling: how it samples.
        photographs: of the model's size.
        network: Inception, or a stand-in.
        earlier: what `save` was given before; ignored where weights, sampling or photographs were others.
        save: takes the record so far.
        per_class, seeds: of the protocol.
        inverted: whether colour negatives are measured too; None: at the competitor's size.

    Returns:
        the record as plain JSON values.
    """
    inverted = model.size == COMPETITOR_SIZE if inverted is None else inverted
    first, second = reference(photographs, per_class)
    settings = {
        "weights": weights,
        "sampling": _plain(sampling),
        "per_class": per_class,
        "inverted": inverted,
        "photographs": first.described(),
    }
    real = {flag: photograph_features(first, network, flag) for flag in ((False, True) if inverted else (False,))}
    record: dict[str, Any] = {
        **settings,
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "core_minutes": 0.0,
        "other_photographs": distances(photograph_features(second, network), real[False]),
        "seeds": [],
    }
    if earlier and all(earlier.get(key) == value for key, value in settings.items()):
        record = dict(earlier)
    done = {run["seed"] for run in record["seeds"]}
    for seed in tqdm([seed for seed in range(seeds) if seed not in done], desc="FID", unit="seed"):
        start = time.process_time()
        run = {"seed": seed} | _of_seed(model, weights, sampling, seed, network, real, per_class)
        record["seeds"] = sorted([*record["seeds"], run], key=lambda row: row["seed"])
        record["core_minutes"] = round(record["core_minutes"] + (time.process_time() - start) / 60, 1)
        save(record)
    return record


def _plain(sampling: Sampling) -> dict[str, Any]:
    """As JSON gives it back: lists in place of tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in sampling._asdict().items()}


def _of_seed(
    model: TinySD,
    weights: str,
    sampling: Sampling,
    seed: int,
    network: nn.Module,
    real: Mapping[bool, Mapping[str, Tensor]],
    per_class: int,
) -> dict[str, Any]:
    """FID of one seed's samples; features are kept class by class, so that little is lost by a kill."""
    settings = hashlib.sha256(f"{weights} {sampling} {per_class}".encode()).hexdigest()[:16]
    features: dict[bool, dict[str, Tensor]] = {inverted: {} for inverted in real}
    for position, name in enumerate(model.class_names):
        first = FIRST_SEED + seed * APART + position * per_class
        samples = cache(partial(_samples, model, [name] * per_class, sampling, first))
        features[False][name] = kept_features(f"inception-samples-{seed}-{name}-{settings}", samples, network)
        if True in real:
            negatives = partial(_negatives, samples)
            features[True][name] = kept_features(f"inception-negatives-{seed}-{name}-{settings}", negatives, network)
    scores: dict[str, Any] = distances(features[False], real[False])
    return scores | ({"inverted": distances(features[True], real[True])} if True in real else {})


def _samples(model: TinySD, labels: list[str], sampling: Sampling, seed: int) -> Tensor:
    images, _ = generate(model, labels, sampling, seed, progress=True)
    return to_uint8(images)


def _negatives(samples: Callable[[], Tensor]) -> Tensor:
    return negative(samples())


def mean_and_deviation(seeds: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Over the seeds, of "overall" or a class."""
    values = torch.tensor([run[name] for run in seeds], dtype=torch.float64)
    return values.mean().item(), values.std().item() if len(values) > 1 else float("nan")
