"""How `python -m benchmarks.tiny_sd.recipes` trains a change for a budget of processor time, generates, and judges.

One thread. The number of updates follows from the time of a few measured ones, and the cosine of the learning rate
ends with it. Processor time also depends on what else the computer does, by a factor of two and more. So a change's
updates are timed alternating with the baseline's, and it gets as many as cost the same as the baseline's training. A
peer's learning rate is constant: it simply stops when its time is over.

All methods are judged alike: by a classifier that has seen none of the photographs, and by the kernel distance (KID) of
its features to held-out ones.
"""

import argparse
import json
import shlex
import statistics
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.record import hardware, parameter_count
from benchmarks.tiny_sd.animals_scores import balanced
from benchmarks.tiny_sd.recipes_budget import Trial, update_seconds, updates
from benchmarks.tiny_sd.recipes_changes import BASELINES, SAMPLING, Change, changes
from benchmarks.tiny_sd.recipes_record import find_row, read_rows
from helpers.autoencoders.latents import Latents
from helpers.course import course_home
from helpers.data import Faces, load_faces
from helpers.tiny_sd import train as command
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.codecs import Codec
from helpers.tiny_sd.model import TinySD
from helpers.training import EMA, TrainConfig, train
from helpers.training.precision import choose_precision

SAMPLE_SEED = 1000  # of the noise
REPEATS = 20  # half-samples that the KID's standard error is estimated from
SAMPLED_AT_ONCE = 50  # by a peer: at 64 px and full resolution, 300 need several GB
SHOWN = 10  # images of each class in the grid that is left beside the weights


class Judge:
    """Generated images against held-out photographs, as many of each class."""

    def __init__(self, size: int, per_class: int):
        from helpers.scoring.photographs import PhotographClassifier

        held_out = load_faces("animal-faces", "val", size, progress=False)
        self.classifier = PhotographClassifier()
        self.names = held_out.class_names
        self.per_class = per_class
        self.features = self.classifier.predict(held_out.tensor(balanced(held_out, per_class)))[1]

    def labels(self) -> Tensor:
        """int64 (N,) what is to be generated."""
        return torch.arange(len(self.names)).repeat_interleave(self.per_class)

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """Scores of images (N, 3, H, W) in [-1, 1] of `labels()`; percentages, and the KID with its standard error."""
        from helpers.scoring.frechet import kernel_distance
        from helpers.scoring.photographs import agreement

        probabilities, features = self.classifier.predict(images)
        kid = kernel_distance(features, self.features, repeats=REPEATS)
        by_class = {
            name: agreement(part, [name] * self.per_class)["of three"]
            for name, part in zip(self.names, probabilities.split(self.per_class), strict=True)
        }
        return {
            "kid": round(kid.value, 5),
            "kid_error": round(kid.stderr, 5),
            "judged": round(100 * statistics.mean(by_class.values()), 2),
            "judged_by_class": {name: round(100 * value, 2) for name, value in by_class.items()},
        }


class Trained(NamedTuple):
    """A training that is over."""

    weights: Path
    facts: dict[str, Any]  # for the record


class Trainings:
    """Everything that the trainings of one command share."""

    def __init__(self, options: argparse.Namespace):
        torch.set_num_threads(1)
        self.options = options
        self.faces = load_faces("animal-faces", "train", options.size, limit=options.limit)
        self.judge = Judge(options.size, options.samples)
        self.codec: Codec | None = None
        self.latents: Latents | None = None
        if options.method != "peers":
            self.codec, self.latents = command.build_codec(
                self._parsed(changes(options.method)["baseline"], 0),
                self.faces,
                SimpleNamespace(device="cpu", is_main_process=True),
            )
        self.setup = {
            "size": options.size,
            "photographs": len(self.faces),
            "samples_per_class": options.samples,
            "sampling": "its own, 50 evaluations" if options.method == "peers" else SAMPLING,
            "baseline": BASELINES.get(options.method),
            "autoencoder": self._autoencoder(),
            "encoding_counted": bool(options.count_encoding and self.latents),
        }

    def _autoencoder(self) -> dict[str, str] | None:
        """What the latents are of, without anybody's folder."""
        if self.latents is None or self.codec is None:
            return None
        described = self.codec.describe()
        return {"name": Path(described["autoencoder"]).name, "fingerprint": described["fingerprint"][:16]}

    def _arguments(self, change: Change) -> list[str]:
        """The options of the training command for this change."""
        method = self.options.method
        common = f"--method {method} --source animal-faces --size {self.options.size}"
        arguments = shlex.split(f"{common} {BASELINES[method]} {change.options}")
        if self.options.limit:
            arguments += ["--limit", str(self.options.limit)]
        if self.options.autoencoder and self.options.method != "pixels":
            arguments += ["--autoencoder", self.options.autoencoder]
        if "--perceptual" in change.options:
            arguments += ["--perceptual-encoder", self.options.perceptual_encoder or self.options.autoencoder]
        return arguments

    def _parsed(self, change: Change, seed: int) -> argparse.Namespace:
        return command.parser().parse_args([*self._arguments(change), "--seed", str(seed)])

    def _folder(self, change: Change, seed: int) -> Path:
        """Where weights and a grid of samples are left: outside the repository."""
        options = self.options
        name = f"{options.method}-{options.size}-{options.minutes:g}-{options.record.stem}"
        return course_home() / "runs" / "recipes" / name / f"{change.name}-{seed}"

    def run(self, change: Change, seed: int) -> dict[str, Any]:
        """Train, or take the baseline's weights; generate; judge: the entry of one seed in the record."""
        started = datetime.now(UTC).date().isoformat()
        if self.options.method == "peers":
            facts, images = self._peer(change, seed)
        else:
            trained = self._train(change, seed) if change.trained else self._of_the_baseline(change, seed)
            system = TinySD.from_weights(trained.weights, autoencoder=self._now())
            facts = trained.facts
            sampling = SAMPLING | (change.sampling or {})
            images = system.generate(self.judge.labels().tolist(), seed=SAMPLE_SEED, **sampling)
            facts["sampling"] = sampling
        folder = self._folder(change, seed)
        self._show(images, folder / "samples.png")  # and all of them, for other scores later
        np.save(folder / "samples.npy", ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())
        return {"seed": seed, **self.judge(images), **facts, "date": started}

    def _now(self) -> str | None:
        return self.options.autoencoder if self.options.method != "pixels" else None

    def _show(self, images: Tensor, path: Path) -> None:
        from helpers.show.figures import grid, save_png, style

        style()
        first = images.unflatten(0, (-1, self.judge.per_class))[:, :SHOWN]
        save_png(grid(first.flatten(0, 1), columns=SHOWN), path)

    def _facts(self, steps: int, batch_size: int, seconds: float, parameters: int) -> dict[str, Any]:
        images = steps * batch_size
        return {
            "steps": steps,
            "images": images,
            "epochs": round(images / len(self.faces), 3),
            "core_minutes_used": round(seconds / 60, 3),
            "parameters": parameters,
            "processor": hardware(),
        }

    # --- ours ---------------------------------------------------------------------------------------------------------

    def _train(self, change: Change, seed: int) -> Trained:
        """Train one change for the budget; the average's weights, and beside them those of the other averages."""
        options = self._parsed(change, seed)
        model = self._new_model(options)
        phases = self._phases(change, options)
        precision = choose_precision("auto", model, phases[-1].losses, seed).name
        encoding = self.latents.core_seconds if self.latents and self.setup["encoding_counted"] else 0.0
        trials = [Trial(model, batches, options, precision) for batches in phases]
        counts = self._counts(change, seed, trials, 60 * self.options.minutes - encoding)
        config = TrainConfig(
            steps=sum(counts),
            learning_rate=options.learning_rate,
            ema_decay=options.ema,
            warmup=min(200, sum(counts) // 10),
            seed=seed,
            schedule=options.schedule,
            optimizer_name=options.optimizer,
        )
        lengths = [other.average for other in changes(self.options.method).values() if other.average]
        averages = {length: RelativeEMA(model, length) for length in lengths if change.name == "baseline"}
        main = EMA(model, options.ema)
        optimizer = config.optimizer(model)
        spent = 0.0
        first = 0
        for batches, count in zip(phases, counts, strict=True):
            loop = train(
                model, batches.losses, config, optimizer=optimizer, ema=main, first_step=first, bf16=precision == "bf16"
            )
            spent += self._updates(change, seed, islice(loop, count), model, averages, config.steps)
            first += count
        folder = self._folder(change, seed)
        metadata = {"steps": str(config.steps)}
        _save(main, folder / weights_name(), metadata)
        for length, average in averages.items():
            _save(average, folder / weights_name(length), metadata)
        facts = self._facts(config.steps, options.batch_size, spent + encoding, parameter_count(model.unet))
        facts |= {
            "precision": precision,
            "phases": counts,
            "options": public(self._arguments(change)) + (" (first half at half the size)" if change.coarse else ""),
            "encoding_core_minutes": round(self.latents.core_seconds / 60, 2) if self.latents else 0.0,
        }
        (folder / "facts.json").write_text(json.dumps(facts))
        return Trained(folder / weights_name(), facts)

    def _new_model(self, options: argparse.Namespace) -> TinySD:
        """An untrained model for these options."""
        assert self.codec is not None, "the peers build their networks themselves"
        return command.new_model(options, self.faces, self.codec)

    def _counts(self, change: Change, seed: int, trials: list[Trial], budget: float) -> list[int]:
        """How many updates of each phase: as recorded for another seed, or what costs as much as the baseline does."""
        method = self.options.method
        minutes = self.options.minutes
        rows = read_rows(self.options.record)
        if row := find_row(rows, method, change.name, minutes):
            return row["runs"][0]["phases"]
        if change.name == "baseline":
            return updates(budget, update_seconds(trials))
        options = self._parsed(changes(method)["baseline"], seed)
        model = self._new_model(options)
        row = find_row(rows, method, "baseline", minutes)
        batches = Batches(self.faces, options.batch_size, latents=self.latents)
        precision = choose_precision("auto", model, batches.losses, seed).name
        *our_seconds, reference = update_seconds([*trials, Trial(model, batches, options, precision)])
        return updates(row["runs"][0]["steps"] * reference if row else budget, our_seconds)

    def _phases(self, change: Change, options: argparse.Namespace) -> list[Batches]:
        """The batches of the training; two kinds where it goes from coarse to fine."""
        fine = Batches(self.faces, options.batch_size, augment=options.augment, latents=self.latents)
        if not change.coarse:
            return [fine]
        small = load_faces("animal-faces", "train", options.size // 2, limit=options.limit)
        return [Batches(small, options.batch_size, augment=options.augment), fine]

    def _updates(self, change: Change, seed: int, loop: Any, model: nn.Module, averages: dict, total: int) -> float:
        """Make the updates of one phase; the seconds of processor time they took, without those of other averages."""
        spent = 0.0
        mark = time.process_time()
        for state in loop:
            spent += time.process_time() - mark
            for average in averages.values():
                average.update(model, state.step)
            if state.step % max(1, total // 10) == 0:
                print(
                    f"  {change.name}, seed {seed}: update {state.step:,} of {total:,}, loss {state.loss:.3f}, "
                    f"{spent / 60:.2f} core-minutes",
                    flush=True,
                )
            mark = time.process_time()
        return spent

    def _of_the_baseline(self, change: Change, seed: int) -> Trained:
        """The weights of the baseline's training, or of another average that was followed in it."""
        folder = self._folder(changes(self.options.method)["baseline"], seed)
        weights = folder / weights_name(change.average)
        if not weights.exists():
            raise SystemExit(
                f"{change.name} needs the baseline's weights, which are not in {folder}: train the "
                "baseline first; if it is recorded, take its row out of the record"
            )
        facts = json.loads((folder / "facts.json").read_text())
        return Trained(weights, facts)

    # --- peers --------------------------------------------------------------------------------------------------------

    def _peer(self, change: Change, seed: int) -> tuple[dict[str, Any], Tensor]:
        """Train a library's network as its documentation shows until the time is over, and generate with it."""
        contender = peer(change.name, with_mirrored(self.faces), seed)
        budget = 60 * self.options.minutes
        spent = 0.0
        steps = 0
        reported = 0
        while spent < budget:
            mark = time.process_time()
            contender.step()
            spent = spent + time.process_time() - mark
            steps = steps + 1
            if (tenths := int(10 * spent / budget)) > reported:
                print(f"  {change.name}, seed {seed}: {steps:,} updates, {spent / 60:.2f} core-minutes", flush=True)
                reported = tenths
        self._folder(change, seed).mkdir(parents=True, exist_ok=True)
        parts = self.judge.labels().split(SAMPLED_AT_ONCE)
        images = torch.cat([contender.sample(part) for part in parts]).float().clamp(-1, 1)
        facts = self._facts(steps, contender.batch_size, spent, contender.parameters)
        return facts | {"options": f"benchmarks.tiny_sd.contenders, batch size {contender.batch_size}"}, images


def peer(name: str, faces: Faces, seed: int) -> Any:
    """One of the four contenders of CHANGES["peers"]."""
    from benchmarks.tiny_sd.contenders import denoising_diffusion_pytorch, diffusers_unet

    library, _, shape = name.partition("-")
    make = {"ddp": denoising_diffusion_pytorch, "diffusers": diffusers_unet}[library]
    if shape == "stem":
        return make(faces, 64, stem=True, seed=seed)
    return make(faces, 16, documented=True, seed=seed)


def with_mirrored(faces: Faces) -> Faces:
    """The images and their mirror images: both libraries' own trainers flip at random."""
    both = np.concatenate([faces.images, faces.images[..., ::-1]])
    return Faces(both, np.concatenate([faces.labels, faces.labels]), faces.class_names, split=faces.split)


class RelativeEMA(EMA):
    """An average whose length grows with the training (EDM2, Karras et al. 2024, section 3.1)."""

    def __init__(self, module: nn.Module, length: float):
        """
        Args:
            length: standard deviation of the time at which the averaged weights were current, as a share of the
                training so far.
        """
        super().__init__(module)
        self.gamma = np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real.max()

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after `step` (1, 2, ...)."""
        share = 1 - (1 - 1 / step) ** (self.gamma + 1)
        for average, weight in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(weight, share)


def _save(average: EMA, path: Path, metadata: dict[str, str]) -> None:
    """Save the averaged model."""
    assert isinstance(average.module, TinySD)
    average.module.save(path, metadata)


def weights_name(average: float | None = None) -> str:
    """The file of the usual average, or of the one with this relative length."""
    return f"weights-{average:g}.safetensors" if average else "weights.safetensors"


def public(arguments: list[str]) -> str:
    """The options as one line, of folders their last name alone."""
    return shlex.join(Path(argument).name if Path(argument).is_absolute() else argument for argument in arguments)
