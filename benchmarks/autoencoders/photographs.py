"""The shipped autoencoders on photographs: what each keeps, and the best that a denoiser of its latents could score.

python -m benchmarks.autoencoders.photographs               # needs the photographs and the classifier of photographs
python -m benchmarks.autoencoders.photographs --tried FILE  # beside them another one, which was not shipped
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import hardware, read_record, write_record
from benchmarks.report import Row, at_least
from benchmarks.tiny_sd.animals_scores import PER_CLASS, REPEATS, Judge, Photographs, balanced, load_photographs
from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.load import load_autoencoder
from helpers.course import repository_root
from helpers.scoring.frechet import kernel_distance
from helpers.scoring.reconstruction import neighbour_correlation, psnr
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path

ANIMALS = "animals_autoencoder"
NAMES = ("general_autoencoder", "faces_autoencoder", "distilled_autoencoder", ANIMALS)
RECORD = "00_assets/results/photograph_autoencoders.json"
SIZE = 64
BATCH = 32
AHEAD = 0.5  # dB that training on photographs gains on the general autoencoder, with half as many latent values
COMMAND = "python -m benchmarks.autoencoders.photographs"


def check() -> list[Row]:
    """Rows from the record: the photographs do not ship."""
    if not weights_path(ANIMALS).is_file():
        return [Row(f"{ANIMALS}: shipped weights", "none yet", TRAINING_COMMANDS[ANIMALS], False)]
    record = read_record(repository_root() / RECORD)
    scores = record.get("autoencoders", {})
    if any(scores.get(name, {}).get("weights") != read_metadata(name)["sha256"] for name in NAMES):
        return [Row("autoencoders on photographs", "never measured with these weights", COMMAND, False)]
    ahead = scores[ANIMALS]["psnr"] - scores["general_autoencoder"]["psnr"]
    label = f"{ANIMALS}: PSNR ahead of general_autoencoder, {record['n']} held-out photographs (from the record)"
    return [at_least(label, ahead, AHEAD, "dB"), *(_floor(name, scores[name]["kid"]) for name in NAMES)]


def _floor(name: str, kid: dict[str, float]) -> Row:
    value = f"{kid['value']:.3f} ± {kid['standard_error']:.3f}"
    return Row(f"{name}: KID of {3 * PER_CLASS} reconstructed photographs (from the record)", value, "printed", True)


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> the same shape, encoded and decoded."""
    return torch.cat([autoencoder.to_images(autoencoder.to_latents(batch)) for batch in images.split(BATCH)])


@torch.no_grad()
def measure(autoencoder: Autoencoder, judge: Judge, photographs: Photographs) -> dict[str, Any]:
    """Reconstruct photographs.

    Returns:
        the PSNR of all held-out photographs in dB, and the KID of reconstructed training photographs to the held-out
        ones: what a denoiser would reach whose latents are perfect; and the correlation of neighbouring latents.
    """
    held_out = photographs.held_out.tensor(slice(None))
    training = photographs.training.tensor(balanced(photographs.training, PER_CLASS))
    reference = photographs.held_out.tensor(balanced(photographs.held_out, min(photographs.held_out.counts.values())))
    _, features = judge.predict(reconstruct(autoencoder, training))
    _, real = judge.predict(reference)
    kid = kernel_distance(features, real, repeats=REPEATS)
    return {
        "psnr": psnr(held_out, reconstruct(autoencoder, held_out)),
        "neighbour_correlation": neighbour_correlation(autoencoder.to_latents(reference)),
        "kid": {"value": kid.value, "standard_error": kid.stderr},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the record; the exit status."""
    from helpers.scoring.photographs import PhotographClassifier

    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--tried", type=Path, help="weights of an autoencoder that was tried and not shipped")
    options = parser.parse_args(argv)
    judge = PhotographClassifier()
    photographs = load_photographs(SIZE)
    scores = {}
    for name in NAMES:
        autoencoder = load_autoencoder(name)
        scores[name] = {"weights": read_metadata(name)["sha256"], **measure(autoencoder, judge, photographs)}
        print(name, json.dumps(scores[name]), flush=True)
    record = {"hardware": hardware(), "n": len(photographs.held_out), "size": SIZE, "autoencoders": scores}
    if options.tried:
        command = read_metadata(options.tried)["command"]
        record["tried"] = {"command": command, **measure(load_autoencoder(options.tried), judge, photographs)}
    write_record(repository_root() / RECORD, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
