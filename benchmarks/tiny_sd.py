"""The three methods of tiny Stable Diffusion beside each other, on drawn faces.

    python -m benchmarks check tiny_sd    # the shipped weights, the cost of an update, the records: some minutes
    python -m benchmarks tiny_sd          # nine trainings, three seeds each: about an hour on two CPU cores

The same seeds, network family, optimiser and number of pictures in a batch; every method gets about the same processor
time, and what it has to pay for comes out of it: Method 2 the encoding, Method 3 its autoencoder's training as well.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks import tiny_sd_cost, tiny_sd_real
from benchmarks.report import Row, at_least, at_most, true
from helpers.course import repository_root
from helpers.weights import TRAINED_BY, read_metadata, weights_path

RECORD = "00_assets/results/tiny_sd.json"
SHIPPED = {"pixels": "tiny_sd_pixels", "pretrained": "tiny_sd_pretrained", "own": "tiny_sd_own"}
SEEDS, BATCH, SAMPLES = 3, 32, 300
STEPS = {"pixels": 900, "pretrained": 1850, "own": 1250}  # of the network; about the same processor time in all
AUTOENCODER_STEPS = 700  # of method 3, out of that time
CHANNELS, CHANNEL_STEPS = (1, 2, 4, 8), 400  # how many channels does an autoencoder of faces need, and a general one?
MARKS = (150, 450, 900, 1250, 1850)  # steps after which the average is judged; a step is 32 pictures
SAMPLING_STEPS = 12  # notebook 07 could see no gain from more
NOTEBOOKS = ("08_tiny_sd_pretrained_vae", "09_tiny_sd_own_vae", "10_three_methods_compared")


def check() -> list[Row]:
    """Recompute the claims about the three methods; some minutes."""
    return [*_notebooks(), *_shipped(), *tiny_sd_cost.check(), *_comparison(), *tiny_sd_real.check()]


def _notebooks() -> list[Row]:
    times = json.loads((repository_root() / "00_assets/results/course.json").read_text())["seconds"]
    return [at_most(f"notebook {name}", times[name], 120, "s") if name in times
            else Row(f"notebook {name}", "not measured", "<= 120 s", False) for name in NOTEBOOKS]  # fmt: skip


def _shipped() -> list[Row]:
    from helpers.data.toy_faces import toy_attributes
    from helpers.scoring.attributes import load_reader
    from helpers.tiny_sd.model import TinySD

    rows, reader = [], load_reader()
    wanted = [face.species for face in toy_attributes(SAMPLES, seed=77)]  # of faces nobody trained on
    for method, name in SHIPPED.items():
        if not weights_path(name).exists():
            rows.append(Row(f"shipped weights, {method}", "none yet", TRAINED_BY[name], False))
            continue
        pictures = TinySD.from_weights(name).generate(wanted, seed=10_000)
        species = reader.agreement(pictures, {"species": wanted})["species"]
        rows.append(at_least(f"{method}: species as asked by class ({SAMPLES} samples)", 100 * species, 97, "%"))
    general = weights_path("general_autoencoder")
    if general.exists():
        rows.append(at_most("general-purpose autoencoder", general.stat().st_size / 1e6, 8, "MB"))
        source = read_metadata("general_autoencoder")["source"]
        rows.append(true("it was trained on", source, "patterns, never a face", source == "patterns"))
        special, unspecial = (_psnr(name) for name in ("faces_autoencoder", "general_autoencoder"))
        rows.append(at_least("autoencoder of faces, half the channels: PSNR on unseen faces", special, unspecial, "dB"))
    return rows


@torch.no_grad()
def _psnr(name: str) -> float:
    """On 300 unseen drawn faces, dB."""
    from helpers.autoencoders.published import load_autoencoder
    from helpers.data import load_faces
    from helpers.scoring.reconstruction import psnr

    autoencoder, pictures = load_autoencoder(name), load_faces(split="val").tensor(slice(0, 300))
    again = [autoencoder.to_pictures(autoencoder.to_latents(part)) for part in pictures.split(50)]
    return psnr(pictures, torch.cat(again))


def _comparison() -> list[Row]:
    path = repository_root() / RECORD
    if not path.exists():
        return [Row("comparison, three seeds", "never run", "python -m benchmarks tiny_sd", False)]
    record = json.loads(path.read_text())
    seeds = {name: len(runs) for name, runs in record["runs"].items()}
    if set(seeds.values()) != {SEEDS}:
        return [Row("comparison, seeds of each method", str(seeds), f"{SEEDS} each", False)]
    rows = [true("comparison, seeds of each method", seeds, f"{SEEDS} each", set(seeds.values()) == {SEEDS}),
            at_most("comparison, all of it", record["minutes"], 90, "min"),
            true("comparison, settings", "as in the code" if record["settings"] == settings() else "others",
                 "as in the code", record["settings"] == settings())]  # fmt: skip
    for name, runs in record["runs"].items():
        for score in ("frechet", "kernel"):
            values = [run["marks"][-1][score] for run in runs]
            told = f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g} over {len(values)} seeds"
            rows.append(true(f"comparison, {name}, {score} distance", told, "printed", True))
    return rows


# --- the nine trainings ---------------------------------------------------------------------------------------------


class Judge:
    """What every sample set is judged with: the same wishes, the same unseen faces."""

    def __init__(self):
        from helpers.data import load_faces
        from helpers.scoring.attributes import load_reader

        self.reader, self.unseen = load_reader(), load_faces(split="val")
        self.train = load_faces(split="train")
        self.features = self.reader.features(self.unseen.tensor())  # (900, 128)

    def __call__(self, system, last: bool) -> dict:
        """Scores of SAMPLES pictures drawn to unseen captions; nearest neighbours and recall at the end only."""
        from helpers.scoring.coverage import coverage
        from helpers.scoring.frechet import frechet_distance, kernel_distance
        from helpers.scoring.neighbours import copied

        start = time.process_time()
        pictures = system.generate(prompts=self.unseen.captions[:SAMPLES], seed=50_000, steps=SAMPLING_STEPS)
        seconds = (time.process_time() - start) / SAMPLES
        features = self.reader.features(pictures)
        told = self.reader.agreement(pictures, self.unseen.attributes[:SAMPLES])
        species = told.pop("species")
        found = {
            "species": species, "caption": statistics.mean(told.values()), "attributes": told,
            "frechet": frechet_distance(features, self.features).value,
            "kernel": kernel_distance(features, self.features).value, "core_seconds_per_sample": seconds,
        }  # fmt: skip
        if last:
            within = coverage(self.features[:SAMPLES], features)
            found |= {"precision": within.precision, "recall": within.recall,
                      "copying": copied(pictures[:100], self.train.images, self.unseen.images[:100]).ratio}  # fmt: skip
        return found


def prepared(method: str, seed: int, faces) -> tuple[object, object]:
    """The codec and the latents of one run; for method 3 its autoencoder is trained here."""
    import tempfile

    from helpers.autoencoders.latents import encode_once
    from helpers.autoencoders.published import load_autoencoder
    from helpers.tiny_sd.codecs import CODECS, PixelCodec

    if method == "pixels":
        return PixelCodec(), None
    autoencoder = own_autoencoder(seed, faces) if method == "own" else load_autoencoder("general_autoencoder")
    with tempfile.TemporaryDirectory() as folder:  # not from a cache: the encoding is part of the price
        latents = encode_once(autoencoder, faces, cache_dir=folder)
        latents = replace(latents, values=np.array(latents.values))
    return CODECS[method](autoencoder, latents.mean, latents.std), latents


def own_autoencoder(seed: int, faces, channels: int = 4, steps: int = AUTOENCODER_STEPS):
    """Method 3's autoencoder, in the same way as `helpers.tiny_sd.train --method own` makes it."""
    from helpers.autoencoders.kl import KLAutoencoder
    from helpers.autoencoders.losses import PictureLoss
    from helpers.autoencoders.train import Reconstruction, drawn_batch, tiny_config, with_measured_scale
    from helpers.tiny_sd.train import OWN_AUTOENCODER as OWN
    from helpers.training import EMA, TrainConfig, train
    from helpers.training.precision import computes_bf16

    torch.manual_seed(seed)
    model = Reconstruction(KLAutoencoder(tiny_config(channels, OWN["patch"])), PictureLoss())
    model = model.to(memory_format=torch.channels_last)

    def losses(model, generator):
        pictures = drawn_batch(faces, OWN["batch-size"], generator)
        noise = torch.randn(len(pictures), channels, 16, 16, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16()):
            return model(pictures, noise), None

    config = TrainConfig(steps=steps, learning_rate=OWN["learning-rate"], seed=seed, ema=0.99)
    average = EMA(model, config.ema)
    for _ in _with_bar(train(model, losses, config, ema=average)):
        pass
    return with_measured_scale(average.module.autoencoder, faces)


def channel_table(judge: Judge) -> dict[str, dict[str, float]]:
    """PSNR on unseen faces of autoencoders trained equally long, on faces and on patterns: {trained on: {C: dB}}."""
    from helpers.data.patterns import load_patterns
    from helpers.scoring.reconstruction import psnr

    found: dict[str, dict[str, float]] = {}
    pictures = judge.unseen.tensor(slice(0, 300))
    for name, some in {"faces": judge.train, "patterns": load_patterns()}.items():
        for channels in CHANNELS:
            autoencoder = own_autoencoder(0, some, channels, CHANNEL_STEPS)
            with torch.no_grad():
                parts = [autoencoder.to_pictures(autoencoder.to_latents(part)) for part in pictures.split(50)]
            found.setdefault(name, {})[str(channels)] = round(psnr(pictures, torch.cat(parts)), 2)
            print("channels", name, found[name], flush=True)
    return found


def one_run(method: str, seed: int, judge: Judge) -> dict:
    """Train one method with one seed, and judge its average at every mark."""
    from helpers.tiny_sd import train as command
    from helpers.tiny_sd.batches import Batches
    from helpers.training import EMA, TrainConfig, train

    start, faces = time.process_time(), judge.train
    codec, latents = prepared(method, seed, faces)
    spent = time.process_time() - start
    before = spent
    model = command.new_model(command.parser().parse_args(["--method", method, "--seed", str(seed)]), faces, codec)
    config = TrainConfig(steps=STEPS[method], learning_rate=1.5e-3, seed=seed)
    average, marks = EMA(model, config.ema), []
    start = time.process_time()
    for state in _with_bar(train(model, Batches(faces, BATCH, latents=latents).losses, config, ema=average)):
        if state.step in MARKS:
            spent += time.process_time() - start
            scores = judge(average.module, last=state.step == config.steps)
            marks.append({"step": state.step, "pictures": state.step * BATCH, "core_seconds": round(spent, 1)} | scores)
            print(method, seed, {k: v for k, v in marks[-1].items() if k != "attributes"}, flush=True)
            start = time.process_time()
    return {"seed": seed, "parameters": sum(p.numel() for p in model.unet.parameters()),
            "core_seconds_before": round(before, 1), "marks": marks}  # fmt: skip


def _with_bar(states: Iterator) -> Iterator:
    from tqdm.auto import tqdm

    return tqdm(states, unit="step", leave=False)


def settings() -> dict:
    """What decides the numbers."""
    return {"batch": BATCH, "samples": SAMPLES, "steps": STEPS, "autoencoder_steps": AUTOENCODER_STEPS,
            "channel_steps": CHANNEL_STEPS, "sampling_steps": SAMPLING_STEPS}  # fmt: skip


def begun() -> dict:
    """A new record; with BENCH_RESUME=1 the one on disk, if it was made with the same settings."""
    path = repository_root() / RECORD
    if os.environ.get("BENCH_RESUME") and path.exists():
        record = json.loads(path.read_text())
        if record["settings"] == settings():
            return record
    hardware = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return {"hardware": hardware, "settings": settings(), "minutes": 0.0, "runs": {method: [] for method in STEPS}}


def run() -> None:
    """Train every method with every seed; the record is written after each, so that BENCH_RESUME=1 can go on."""
    record, judge = begun(), Judge()
    start = time.perf_counter() - 60 * record["minutes"]

    def keep() -> None:
        record["minutes"] = round((time.perf_counter() - start) / 60, 1)
        (repository_root() / RECORD).write_text(json.dumps(record, indent=1) + "\n")

    if "channels" not in record:
        record["channels"] = channel_table(judge)
        keep()
    for seed in range(SEEDS):
        for method, runs in record["runs"].items():
            if len(runs) <= seed:
                runs.append(one_run(method, seed, judge))
                keep()
    tiny_sd_cost.run()
