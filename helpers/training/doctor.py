"""Name what is wrong with a training, from what its folder holds: `python -m helpers.training.doctor RUN`.

"My samples are noise, what is wrong?" Most answers can be read from a few numbers that a training measures anyway: what
the network was fed, its loss on fixed images and noise, the size of its gradients, the colours of its samples. Each
illness here is one look at these numbers. All of them show within the first tenth of a training.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers.training.folder import RunFolder
from helpers.training.log import read_log


class Evidence(NamedTuple):
    """What a folder says of its training."""

    options: dict[str, Any]  # settings, and facts about the images
    log: list[dict[str, Any]]
    measurements: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """The options of the command."""
        return self.options["settings"]

    def validations(self) -> list[dict[str, Any]]:
        """The validations, the first one first."""
        return [row["validation"] for row in self.measurements if "validation" in row]

    def samples(self) -> dict[str, Any] | None:
        """The newest measurement of samples."""
        return next((row for row in reversed(self.measurements) if "samples" in row), None)

    def values(self, name: str) -> list[float]:
        """A column of the log, without the rows that lack it."""
        return [row[name] for row in self.log if name in row]

    def mean(self, name: str) -> float | None:
        """The mean of a column of the log; None where it has no values."""
        values = self.values(name)
        return statistics.fmean(values) if values else None


class Illness(NamedTuple):
    """Something that goes wrong in trainings of diffusion models."""

    name: str
    look: Callable[[Evidence], str | None]  # what the numbers say, if they speak for it
    advice: str


class Finding(NamedTuple):
    """An illness of one training."""

    name: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}\n    {self.advice}"


# --- what the numbers say ---------------------------------------------------------------------------------------------


def _not_a_number(run: Evidence) -> str | None:
    stops = [row["stopped"] for row in run.measurements if "stopped" in row]
    return stops[-1] if stops else None


def _batches_repeat(run: Evidence) -> str | None:
    batches = [(row["input_mean"], row["input_std"]) for row in run.log if "input_mean" in row]
    if len(batches) < MANY_ROWS or len(set(batches)) > 1:
        return None
    return f"mean and standard deviation of the batch are the same in {len(batches)} rows of the log"


def _images_alike(run: Evidence) -> str | None:
    images = run.options.get("images", 0)
    distinct = run.options.get("distinct_images", images)
    return f"{distinct:,} of {images:,} images are distinct" if distinct < images / 2 else None


def _too_few_images(run: Evidence) -> str | None:
    images = run.options.get("distinct_images", FEW_IMAGES)
    if images >= FEW_IMAGES or _from_trained_weights(run) or _images_alike(run):
        return None
    seen = run.settings["steps"] * run.settings["batch_size"] / images
    return f"{images} images, each of which will be seen {seen:,.0f} times"


def _classes_say_nothing(run: Evidence) -> str | None:
    agreement = run.options.get("label_agreement")
    if agreement is None or _images_alike(run):
        return None
    measured = agreement["nearest"]
    limit = agreement["chance"] + 2 * agreement["standard_error"]
    if measured > limit:
        return None
    return (
        f"the most similar image has the same class in {measured:.0%} of the images, by chance it would in "
        f"{agreement['chance']:.0%}"
    )


def _value_range(run: Evidence) -> str | None:
    lowest = run.values("input_min")
    if not _in_pixels(run) or not lowest:
        return None
    low = min(lowest)
    high = max(run.values("input_max"))
    fed = f"the network is fed values from {low:.2f} to {high:.2f}"
    if low < -1.01 or high > 1.01:
        return f"{fed}, and samples are clipped to [-1, 1]"
    return f"{fed}: nothing is negative, as in images in [0, 1]" if low > -0.05 and high > 0.5 else None


def _scaling_factor(run: Evidence) -> str | None:
    std = run.mean("input_std")
    mean = run.mean("input_mean")
    if _in_pixels(run) or std is None or mean is None or (0.5 < std < 1.6 and abs(mean) < 0.5):
        return None
    return f"the latents have mean {mean:.2f} and standard deviation {std:.2f}, and the noise 0 and 1"


def _condition_not_used(run: Evidence) -> str | None:
    classes = len(run.options.get("classes", ()))
    share = run.mean("conditioned")
    if classes < 2 or share is None or run.settings["batch_size"] < SMALL_BATCH:
        return None
    if share < 0.5:
        return f"the class is dropped from {1 - share:.0%} of the images, where a tenth is usual"
    dropped = int(share < 1)
    seen = max(run.values("classes")) - dropped
    return f"no batch holds more than one of the {classes} classes" if seen <= 1 else None


def _noise_levels(run: Evidence) -> str | None:
    std = run.mean("time_std")
    mean = run.mean("time_mean")
    if std is None or mean is None or run.settings["batch_size"] < SMALL_BATCH:
        return None
    if not 0 <= mean <= 1:
        return f"the mean time is {mean:.3g}, and times lie between 0 and 1"
    return f"all times are near {mean:.2f}: every other noise level stays unlearned" if std < 0.02 else None


def _small_batch(run: Evidence) -> str | None:
    size = run.settings["batch_size"]
    return f"{size} images in a batch: the gradient is mostly chance" if size < SMALL_BATCH else None


def _no_change(run: Evidence) -> str | None:
    norms = run.values("gradient_norm")
    if len(norms) >= MANY_ROWS and max(norms) == 0:
        return "the gradient is 0 in every row of the log"
    losses = [validation["current_loss"] for validation in run.validations()]
    if len(losses) > 1 and len(set(losses)) == 1 and run.values("learning_rate")[-1] > 0:
        return f"{len(losses)} validations of the current weights give the very same loss, {losses[0]:.4f}"
    return None


def _rate_too_high(run: Evidence) -> str | None:
    losses = run.values("loss")
    other = _not_a_number(run) or _no_change(run) or _noise_levels(run) or _small_batch(run)
    if len(losses) < 2 * MANY_ROWS or max(run.values("learning_rate")) < LOW_RATE or other:
        return None
    last_third = len(losses) // 3
    now = statistics.median(losses[-last_third:])
    best = min(losses[:-last_third])
    if now > 1.6 * best:
        return f"the training loss is {now:.3g} by now, after it has been {best:.3g}"
    validations = run.validations()
    if validations and validations[-1]["current_loss"] > 1.5 * validations[-1]["loss"]:
        current = validations[-1]["current_loss"]
        return f"the validation loss of the current weights, {current:.3g}, is far above their average's"
    return None


def _rate_too_low(run: Evidence) -> str | None:
    thirds = _thirds(run.values("loss"))
    if thirds is None or _from_trained_weights(run) or _no_change(run):
        return None
    rate = max(run.values("learning_rate"))
    fallen = 1 - thirds[-1] / run.values("loss")[0]
    if rate > LOW_RATE or fallen > 0.5:
        return None
    return f"with a learning rate of {rate:.1g} the training loss has fallen by {max(0.0, fallen):.0%}"


def _average_lags(run: Evidence) -> str | None:
    validations = run.validations()
    if not validations or validations[-1]["loss"] < 1.3 * validations[-1]["current_loss"]:
        return None
    last = validations[-1]
    return (
        f"the validation loss of the averaged weights is {last['loss']:.3g}, of the current ones "
        f"{last['current_loss']:.3g}"
    )


def _used_differently(run: Evidence) -> str | None:
    thirds = _thirds(run.values("loss"))
    validations = run.validations()
    cause = _batches_repeat(run) or _noise_levels(run) or _no_change(run) or _rate_too_high(run)
    other = _value_range(run) or _scaling_factor(run) or _small_batch(run)
    if thirds is None or not validations or run.settings.get("perceptual") or cause or other:
        return None
    validated = min(validations[-1]["training_loss"], validations[-1]["current_loss"])
    if 0.3 < validated / thirds[-1] < 1.5:  # early losses have a long tail: their mean is often above the validation's
        return None
    return (
        f"the loss is {thirds[-1]:.3g} in training and {validated:.3g} when it is measured at fixed noise on images "
        "of the training"
    )


def _samples_are_noise(run: Evidence) -> str | None:
    measured = run.samples()
    if measured is None or _value_range(run) or _too_early(run, measured["step"]):
        return None
    rough = measured["samples"]["roughness"]
    usual = measured["training_images"]["roughness"]
    if rough < max(0.3, 3 * usual):
        return None
    return f"neighbouring pixels of the samples differ like noise (roughness {rough:.2f}, training images {usual:.2f})"


def _samples_overexposed(run: Evidence) -> str | None:
    measured = run.samples()
    if measured is None or _samples_are_noise(run) or _too_early(run, measured["step"]):
        return None
    clipped = measured["samples"]["saturated"]
    usual = measured["training_images"]["saturated"]
    if clipped < usual + 0.4:
        return None
    return f"{clipped:.0%} of the values of the samples lie at an end of their range, of training images {usual:.0%}"


def _copies(run: Evidence) -> str | None:
    measured = run.samples()
    share = (measured or {}).get("copied") or 0
    return f"{share:.0%} of the samples repeat a training image" if share >= 0.1 else None


def _overfitting(run: Evidence) -> str | None:
    validations = run.validations()
    if len(validations) < MANY_ROWS:
        return None
    best = min(validation["loss"] for validation in validations)
    last = validations[-1]
    if last["loss"] < 1.1 * best or last["training_loss"] > 0.9 * last["loss"]:
        return None
    return (
        f"the loss on held-out images has risen from {best:.4f} to {last['loss']:.4f}, on training images it is "
        f"{last['training_loss']:.4f}"
    )


# --- helpers ----------------------------------------------------------------------------------------------------------

MANY_ROWS = 4  # of the log, below which nothing is said
FEW_IMAGES = 100
SMALL_BATCH = 4
EARLY = 1000  # steps
LOW_RATE = 3e-5


def _too_early(run: Evidence, step: int) -> bool:
    """Whether samples say nothing yet: a network that predicts the noise draws noise until it has learned a little."""
    return run.settings.get("objective") == "epsilon" and step < EARLY


def _in_pixels(run: Evidence) -> bool:
    return run.settings.get("method", "pixels") == "pixels"


def _from_trained_weights(run: Evidence) -> bool:
    return bool(run.settings.get("start"))


def _thirds(losses: Sequence[float]) -> list[float] | None:
    """The mean losses of the first, second and last third; None for too short a log."""
    if len(losses) < 2 * MANY_ROWS:
        return None
    count = len(losses)
    return [statistics.fmean(losses[index * count // 3 : (index + 1) * count // 3]) for index in range(3)]


ILLNESSES = (
    Illness(
        "not a number",
        _not_a_number,
        "Try a smaller --learning-rate; where the first steps fail, look for a NaN in the images or the weights.",
    ),
    Illness(
        "wrong value range",
        _value_range,
        "Convert images to [-1, 1] before training: x / 127.5 - 1 for bytes.",
    ),
    Illness(
        "wrong scaling factor",
        _scaling_factor,
        "Normalise the latents by their own mean and standard deviation, once, and undo it before decoding.",
    ),
    Illness(
        "every batch the same",
        _batches_repeat,
        "Give every step its own random numbers, and choose the images anew for every batch.",
    ),
    Illness("images all alike", _images_alike, "Look at the images: python -m helpers.data check FOLDER."),
    Illness(
        "too few images",
        _too_few_images,
        "A network from scratch repeats so few. Fine-tune: --start tiny_sd_animals; or collect more.",
    ),
    Illness(
        "classes say nothing",
        _classes_say_nothing,
        "Look whether the folders hold what their names say. Fine distinctions cannot be told from colours alone: then "
        "this may be nothing.",
    ),
    Illness(
        "condition not used",
        _condition_not_used,
        "Look at the labels that reach the network, and at the probability of dropping them.",
    ),
    Illness(
        "wrong noise levels",
        _noise_levels,
        "Sample a time of its own for every image, between 0 and 1.",
    ),
    Illness("batch too small", _small_batch, "Take a --batch-size of 8 or more."),
    Illness(
        "network does not change",
        _no_change,
        "Look whether the loss depends on the weights, no detach in between, and whether the optimiser has the weights "
        "of this very network.",
    ),
    Illness(
        "learning rate too high",
        _rate_too_high,
        "Begin anew with a tenth of the --learning-rate.",
    ),
    Illness("learning rate too low", _rate_too_low, "Begin anew with ten times the --learning-rate."),
    Illness(
        "average lags behind",
        _average_lags,
        "Samples come from the average: take a smaller --ema, or let the average ramp up as helpers.training.EMA does.",
    ),
    Illness(
        "trained and used differently",
        _used_differently,
        "Noise, times and conditions must mean the same in training and afterwards: compare the two calls.",
    ),
    Illness(
        "samples are noise",
        _samples_are_noise,
        "If the validation loss falls, the sampler misreads the network: what does it predict, and what are its times?",
    ),
    Illness(
        "samples overexposed",
        _samples_overexposed,
        "Sample with less guidance; clip the predicted image; look at the value range.",
    ),
    Illness("samples repeat training images", _copies, "Train on more images, or stop earlier."),
    Illness(
        "overfitting",
        _overfitting,
        "best.safetensors holds the weights of the lowest validation loss; more images, or --dropout, help.",
    ),
)


# --- the command ------------------------------------------------------------------------------------------------------


def read_evidence(folder: Path) -> Evidence:
    """Read what a training has written into its folder.

    Raises:
        FileNotFoundError: if no training was begun there, or by a version that did not write `options.json`.
    """
    files = RunFolder.existing(folder)
    options = json.loads(files.options.read_text())
    log = read_log(files.log) if files.log.exists() else []
    measurements = read_log(files.measurements) if files.measurements.exists() else []
    return Evidence(options, log, measurements)


def diagnose(folder: str | Path) -> list[Finding]:
    """Name what is wrong with the training in this folder; an empty list where nothing is found.

    Raises:
        FileNotFoundError: if no training was begun there.
    """
    evidence = read_evidence(Path(folder))
    seen = [(illness, illness.look(evidence)) for illness in ILLNESSES]
    return [Finding(illness.name, numbers, illness.advice) for illness, numbers in seen if numbers]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; returns the exit status: 0 nothing found, 1 something, 2 no training there."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.training.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a training, also while it runs")
    folder = parser.parse_args(argv).run
    try:
        findings = diagnose(folder)
    except FileNotFoundError as error:
        parser.exit(2, f"{error}\n")
    for finding in findings:
        print(finding)
    if not findings:
        print(f"nothing found in {folder}: {len(ILLNESSES)} illnesses were looked for")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
