"""The cost of an update and of an image of each method, and whether a cache of latents keeps its promises.

python -m benchmarks.tiny_sd.cost    # two minutes; writes 00_assets/results/tiny_sd_cost.json
"""

import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import hardware, write_record
from benchmarks.report import Row, at_most, claim
from helpers.course import repository_root
from helpers.weights import weights_path

SHIPPED = ("tiny_sd_pixels", "tiny_sd_pretrained", "tiny_sd_own")
ROUNDS = 5
STEPS = 6
BATCH = 32
IMAGES = 16
RECORD = repository_root() / "00_assets" / "results" / "tiny_sd_cost.json"


def check() -> list[Row]:
    """The cost of methods 2 and 3 over that of method 1, and the cache."""
    return [*_compute(), *_cache()]


def ratios() -> dict[str, list[float]]:
    """Processor time of a training image, over that of Method 1 in the same round; rounds alternate."""
    updates = {name.removeprefix("tiny_sd_"): _updates(name) for name in SHIPPED}
    for update in updates.values():
        next(update)
    spent: dict[str, list[float]] = {method: [] for method in updates}
    for _ in range(ROUNDS):
        for method, update in updates.items():
            start = time.process_time()
            for _ in range(STEPS):
                next(update)
            spent[method].append((time.process_time() - start) / (STEPS * BATCH))
    return {method: [a / b for a, b in zip(times, spent["pixels"], strict=True)] for method, times in spent.items()}


def _updates(name: str):
    """A training of the shipped network's sizes, batch by batch; latents are looked up, as in a real training."""
    from helpers.autoencoders.latents import cache_latents
    from helpers.data import load_faces
    from helpers.tiny_sd.batches import Batches
    from helpers.tiny_sd.codecs import LatentCodec
    from helpers.tiny_sd.model import TinySD
    from helpers.training import TrainConfig, train

    faces = load_faces("toy-faces", "train", 64)[:600]
    model = TinySD.from_weights(name)
    latents = None
    if isinstance(model.codec, LatentCodec):
        with tempfile.TemporaryDirectory() as folder:
            latents = cache_latents(model.codec.autoencoder, faces, cache_dir=folder)
            latents = replace(latents, values=np.array(latents.values))
    return train(model, Batches(faces, BATCH, latents=latents).losses, TrainConfig(steps=10**6, warmup=10**6))


def _compute() -> list[Row]:
    absent = [name for name in SHIPPED if not weights_path(name).exists()]
    if absent:
        return [Row("compute of a training image", f"no weights {', '.join(absent)}", "<= 0.5 x", False)]
    rows = []
    for method, values in ratios().items():
        if method != "pixels":
            name = f"{method}: compute of a training image, of Method 1's ({min(values):.2f} to {max(values):.2f})"
            rows.append(at_most(name, statistics.median(values), 0.5, "x"))
    return rows


def _cache() -> list[Row]:
    """A cache of latents: a flipped bit, an interruption, another autoencoder and other images."""
    from helpers.autoencoders import latents as module
    from helpers.autoencoders.kl import KLAutoencoder, KLConfig
    from helpers.data import load_faces

    faces = load_faces("toy-faces", "train", 64)[:256]
    torch.manual_seed(0)
    config = KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, latent_channels=4, patch=4)
    first = KLAutoencoder(config).eval()
    second = KLAutoencoder(config).eval()
    encoded: list[int] = []
    real = module._encode_images
    with tempfile.TemporaryDirectory() as folder:

        def encoded_values(autoencoder, faces_):
            encoded.clear()
            return np.array(module.cache_latents(autoencoder, faces_, cache_dir=folder, progress=False).values)

        def noted(autoencoder, faces, part):
            encoded.append(part.start)
            return real(autoencoder, faces, part)

        def interrupted(autoencoder, faces_, part):
            if part.start >= 128:
                raise KeyboardInterrupt
            return real(autoencoder, faces_, part)

        try:
            module._encode_images = interrupted
            try:
                encoded_values(first, faces)
            except KeyboardInterrupt:
                pass
            module._encode_images = noted
            whole = encoded_values(first, faces)
            resumed = list(encoded)
            path = next(Path(folder).glob("*.bin"))
            data = bytearray(path.read_bytes())
            data[999] ^= 1
            path.write_bytes(data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mended = np.array_equal(encoded_values(first, faces), whole) and encoded == [0]
            encoded_values(second, faces)
            strangers = len(encoded)
            encoded_values(first, faces[::-1])
            strangers += len(encoded)
        finally:
            module._encode_images = real
    return [
        claim(
            "latent cache, interrupted half-way: batches encoded afterwards",
            resumed,
            "[128, 192]",
            resumed == [128, 192],
        ),
        claim("latent cache, a flipped bit: noticed, its batch alone encoded anew", mended, "True", mended),
        claim(
            "latent cache, another autoencoder, other images: encoded anew",
            f"{strangers} batches",
            "8 batches",
            strangers == 8,
        ),
    ]


def sampling() -> dict[str, dict[str, list[float]]]:
    """Core seconds per image of each method, in every round: a generation in all, and its decoding alone."""
    from helpers.tiny_sd.model import TinySD

    systems = {name.removeprefix("tiny_sd_"): TinySD.from_weights(name) for name in SHIPPED}
    labels = ["cat"] * IMAGES
    spent: dict[str, dict[str, list[float]]] = {method: {"in all": [], "decoding": []} for method in systems}
    for turn in range(ROUNDS + 1):  # the first is a warm-up
        for method, system in systems.items():
            *_, last = system.sample_steps(labels, steps=1)
            works = {
                "in all": partial(system.generate, labels, steps=12),
                "decoding": partial(system.codec.decode, last.x),
            }
            for part, work in works.items():
                start = time.process_time()
                work()
                if turn:
                    spent[method][part].append(round((time.process_time() - start) / IMAGES, 4))
    return spent


def run() -> None:
    """Print the ratios of training; record what an image costs, which notebook 13 draws."""
    for method, values in ratios().items():
        print(
            f"{method}: {statistics.median(values):.2f} of Method 1's compute ({min(values):.2f} to {max(values):.2f})"
        )
    write_record(RECORD, {"hardware": hardware(), "sampling": sampling()})


if __name__ == "__main__":
    run()
