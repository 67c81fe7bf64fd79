"""The trainings behind `python -m benchmarks tiny_sd`: every method with every seed, on one thread each.

The same seeds, network family, optimiser and number of images in a batch; every method gets about the same processor
time, and what it has to pay for comes out of it: Method 2 the encoding, Method 3 its autoencoder's training as well.
As many trainings as the machine has cores go on at once, on one thread each: that wastes least of a core.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.record import parameter_count

if TYPE_CHECKING:
    from helpers.autoencoders.latents import Latents
    from helpers.data import Faces
    from helpers.tiny_sd.codecs import Codec
    from helpers.tiny_sd.model import TinySD

SEEDS = 3
BATCH = 32
SAMPLES = 300
STEPS = {"pixels": 900, "pretrained": 1850, "own": 900}  # of the network; about the same processor time in all
AUTOENCODER_STEPS = 700  # of method 3, out of that time
CHANNELS = (1, 2, 4, 8)  # how many channels does an autoencoder of faces need, and a general one?
CHANNEL_STEPS = 400
MARKS = (150, 450, 900, 1850)  # steps after which the average is judged; a step is 32 images
SAMPLING_STEPS = 12  # notebook 10 could see no gain from more
Job = tuple[str, ...]  # ("run", method, seed) or ("channels", trained on, channels)


class Judge:
    """Scores sample sets, all by the same classes and captions and the same unseen faces."""

    def __init__(self):
        from helpers.data import load_faces
        from helpers.scoring.attributes import load_classifier

        self.classifier = load_classifier()
        self.unseen = load_faces(split="val")
        self.train = load_faces(split="train")
        self.features = self.classifier.features(self.unseen.tensor())  # (900, 128)

    def __call__(self, system: "TinySD", last: bool) -> dict:
        """Scores of SAMPLES images to the classes and captions of unseen faces."""
        start = time.process_time()
        conditions = self.unseen.labels[:SAMPLES], self.unseen.captions[:SAMPLES]
        images = system.generate(*conditions, seed=50_000, steps=SAMPLING_STEPS)
        seconds = (time.process_time() - start) / SAMPLES
        return self.scores(images, self.unseen.attributes[:SAMPLES], last) | {"core_seconds_per_sample": seconds}

    def baseline(self) -> dict:
        """The scores of as many training faces: what a perfect generator would reach."""
        scores = self.scores(self.train.tensor(slice(0, SAMPLES)), self.train.attributes[:SAMPLES], last=True)
        return {name: value for name, value in scores.items() if name != "copying"}

    def scores(self, images, attributes, last: bool) -> dict:
        """Scores of images that should show these attributes.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            attributes: of every image.
            last: precision, recall and nearest neighbours as well.
        """
        from helpers.scoring.frechet import frechet_distance, kernel_distance
        from helpers.scoring.neighbours import memorization_check
        from helpers.scoring.precision_recall import precision_recall

        features = self.classifier.features(images)
        agreement = self.classifier.agreement(images, attributes)
        species = agreement.pop("species")
        scores = {
            "species": species,
            "caption": statistics.mean(agreement.values()),
            "attributes": agreement,
            "frechet": frechet_distance(features, self.features).value,
            "kernel": kernel_distance(features, self.features).value,
        }
        if last:
            within = precision_recall(self.features[:SAMPLES], features)
            scores |= {
                "precision": within.precision,
                "recall": within.recall,
                "copying": memorization_check(images[:100], self.train.images, self.unseen.images[:100]).ratio,
            }
        return scores


def build_codec(method: str, seed: int, faces: "Faces") -> tuple["Codec", "Latents | None"]:
    """The codec and the latents of one run; for method 3 its autoencoder is trained here."""
    import tempfile

    from helpers.autoencoders.latents import cache_latents
    from helpers.autoencoders.load import load_autoencoder
    from helpers.tiny_sd.codecs import PixelCodec, PretrainedCodec, TrainedCodec

    if method == "pixels":
        return PixelCodec(), None
    autoencoder = train_autoencoder(seed, faces) if method == "own" else load_autoencoder("general_autoencoder")
    with tempfile.TemporaryDirectory() as folder:  # not from a cache: the encoding is part of the price
        latents = cache_latents(autoencoder, faces, cache_dir=folder)
        latents = replace(latents, values=np.array(latents.values))
    codec = TrainedCodec if method == "own" else PretrainedCodec
    return codec(autoencoder, latents.mean, latents.std), latents


def train_autoencoder(seed: int, faces: "Faces", channels: int = 4, steps: int = AUTOENCODER_STEPS):
    """Method 3's autoencoder, in the same way as `helpers.tiny_sd.train --method own` makes it."""
    from helpers.autoencoders.kl import KLAutoencoder
    from helpers.autoencoders.losses import ReconstructionLoss
    from helpers.autoencoders.train import Reconstruction, sample_batch, tiny_config, with_measured_scale
    from helpers.tiny_sd.train import AUTOENCODER_RECIPE as RECIPE
    from helpers.training import EMA, TrainConfig, train
    from helpers.training.precision import computes_bf16

    torch.manual_seed(seed)
    model = Reconstruction(KLAutoencoder(tiny_config(channels, int(RECIPE["patch"]))), ReconstructionLoss())
    model = model.to(memory_format=torch.channels_last)

    def losses(model, generator):
        images = sample_batch(faces, int(RECIPE["batch_size"]), generator)
        noise = torch.randn(len(images), channels, 16, 16, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16()):
            return model(images, noise), None

    config = TrainConfig(steps=steps, learning_rate=RECIPE["learning_rate"], seed=seed, ema_decay=0.99)
    average = EMA(model, config.ema_decay)
    for _ in train(model, losses, config, ema=average):
        pass
    trained = average.module.autoencoder
    assert isinstance(trained, KLAutoencoder)
    return with_measured_scale(trained, faces)


def channel_psnr(trained_on: str, channels: int, judge: Judge) -> float:
    """Train a small autoencoder on "faces" or "patterns"; its PSNR on unseen faces, dB."""
    from helpers.data.patterns import load_patterns
    from helpers.scoring.reconstruction import psnr

    data = judge.train if trained_on == "faces" else load_patterns()
    images = judge.unseen.tensor(slice(0, 300))
    autoencoder = train_autoencoder(0, data, channels, CHANNEL_STEPS)
    with torch.no_grad():
        parts = [autoencoder.to_images(autoencoder.to_latents(part)) for part in images.split(50)]
    return round(psnr(images, torch.cat(parts)), 2)


def one_run(method: str, seed: int, judge: Judge) -> dict:
    """Train one method with one seed, and judge its average at every mark."""
    from helpers.tiny_sd import train as command
    from helpers.tiny_sd.batches import Batches
    from helpers.training import EMA, TrainConfig, train

    start = time.process_time()
    faces = judge.train
    codec, latents = build_codec(method, seed, faces)
    spent = time.process_time() - start
    before = spent
    model = command.new_model(command.parser().parse_args(["--method", method, "--seed", str(seed)]), faces, codec)
    config = TrainConfig(steps=STEPS[method], learning_rate=1.5e-3, seed=seed)
    average = EMA(model, config.ema_decay)
    marks = []
    start = time.process_time()
    for state in train(model, Batches(faces, BATCH, latents=latents).losses, config, ema=average):
        if state.step in MARKS:
            spent += time.process_time() - start
            averaged = average.module
            assert isinstance(averaged, type(model))
            scores = judge(averaged, last=state.step == config.steps)
            marks.append({"step": state.step, "pictures": state.step * BATCH, "core_seconds": round(spent, 1)} | scores)
            print(method, seed, {k: v for k, v in marks[-1].items() if k != "attributes"}, flush=True)
            start = time.process_time()
    return {
        "seed": seed,
        "parameters": parameter_count(model.unet),
        "core_seconds_before": round(before, 1),
        "marks": marks,
    }


# --- side by side ---------------------------------------------------------------------------------------------------


def jobs() -> list[Job]:
    """Everything there is to train, the short trainings last, so that no core waits long at the end."""
    runs: list[Job] = []
    for seed in range(SEEDS):
        runs += [("run", method, str(seed)) for method in STEPS]
    for trained_on in ("faces", "patterns"):
        runs += [("channels", trained_on, str(channels)) for channels in CHANNELS]
    return runs


def side_by_side(jobs_left: list[Job], workers: int) -> Iterator[tuple[Job, dict | float]]:
    """Do the jobs in `workers` processes of one thread; yields each with what it found, in the order they end."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start) as pool:
        going = {pool.submit(_do, job): job for job in jobs_left}
        try:
            for ended in as_completed(going):
                yield going[ended], ended.result()
        finally:
            pool.shutdown(cancel_futures=True)  # where one failed, or Ctrl-C: do not begin the rest


@cache
def _judge() -> Judge:
    """The judge of this process: loaded once."""
    return Judge()


def _start() -> None:
    torch.set_num_threads(1)


def _do(job: Job) -> dict | float:
    task, what, number = job
    work = one_run if task == "run" else channel_psnr
    return work(what, int(number), _judge())


def settings() -> dict:
    """Everything that the results depend on."""
    return {
        "batch": BATCH,
        "samples": SAMPLES,
        "steps": STEPS,
        "autoencoder_steps": AUTOENCODER_STEPS,
        "channel_steps": CHANNEL_STEPS,
        "sampling_steps": SAMPLING_STEPS,
    }


def workers() -> int:
    """How many trainings go on at once: one for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
