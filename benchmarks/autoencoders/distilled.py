"""The distilled autoencoder beside its teacher: reconstructions of held-out photographs, and whose latents fit whom.

python -m benchmarks.autoencoders.distilled TEACHER   # TEACHER: TAEF2's folder; needs the photographs
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import hardware, read_record, write_record
from benchmarks.report import Row, at_most
from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.latents import latent_space
from helpers.autoencoders.load import load_autoencoder
from helpers.course import repository_root
from helpers.scoring.reconstruction import psnr
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path

NAME = "distilled_autoencoder"
RECORD = "00_assets/results/distilled_autoencoder.json"
SIZES = (64, 128)
BATCH = 32
MOST_BEHIND = 1.0  # dB
COMMAND = "python -m benchmarks.autoencoders.distilled TEACHER"


def check() -> list[Row]:
    """Rows from the record: the teacher's files and the photographs do not ship."""
    title = "distilled autoencoder"
    if not weights_path(NAME).is_file():
        return [Row(f"{title}: shipped weights", "none yet", TRAINING_COMMANDS[NAME], False)]
    record = read_record(repository_root() / RECORD)
    if record.get("weights") != read_metadata(NAME)["sha256"]:
        return [Row(f"{title}: reconstruction", "never measured with these weights", COMMAND, False)]
    rows = []
    for size, scores in record["sizes"].items():
        behind = scores["teacher"] - scores["student"]
        label = f"{title}: PSNR behind its teacher at {size} px, {scores['n']} held-out photographs (from the record)"
        rows.append(at_most(label, behind, MOST_BEHIND, "dB"))
        crossed = f"{scores['teacher to student']:.1f}, {scores['student to teacher']:.1f} dB"
        label = f"{title}: teacher's latents decoded by the student at {size} px, and the other way round"
        rows.append(Row(label, crossed, "printed", True))
    return rows


@torch.no_grad()
def measure(teacher: Autoencoder, student: Autoencoder, images: Tensor) -> dict[str, Any]:
    """Reconstruct images with every pair of an encoder and a decoder.

    Args:
        images: (N, 3, H, W) in [-1, 1].

    Returns:
        N, the PSNR of teacher, of student and of both mixed pairs (encoder first) in dB, and the mean squared
        difference of the latents, divided by the variance of the teacher's.
    """
    pairs: dict[str, list[Tensor]] = {
        name: [] for name in ("teacher", "student", "teacher to student", "student to teacher")
    }
    teacher_latents, student_latents = [], []
    for batch in images.split(BATCH):
        ours = student.to_latents(batch)
        theirs = teacher.to_latents(batch)
        teacher_latents.append(theirs)
        student_latents.append(ours)
        pairs["teacher"].append(teacher.to_images(theirs))
        pairs["student"].append(student.to_images(ours))
        pairs["teacher to student"].append(student.to_images(theirs))
        pairs["student to teacher"].append(teacher.to_images(ours))
    scores: dict[str, Any] = {name: psnr(images, torch.cat(parts)) for name, parts in pairs.items()}
    reference = torch.cat(teacher_latents)
    error = (torch.cat(student_latents) - reference).square().mean() / reference.var()
    return {"n": len(images), **scores, "latent error": error.item()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the record; the exit status."""
    from helpers.data import load_faces

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.autoencoders.distilled", description=__doc__.splitlines()[0]
    )
    parser.add_argument("teacher", help="as for load_autoencoder")
    options = parser.parse_args(argv)
    teacher = load_autoencoder(options.teacher)
    student = load_autoencoder(NAME)
    if latent_space(student) != latent_space(teacher):
        print(f"{NAME} was not distilled from {options.teacher}: its latents are another one's", file=sys.stderr)
        return 2
    sizes = {}
    for size in SIZES:
        faces = load_faces("animal-faces", "val", size)
        sizes[str(size)] = measure(teacher, student, faces.tensor(slice(None)))
    record = {"weights": read_metadata(NAME)["sha256"], "hardware": hardware(), "sizes": sizes}
    write_record(repository_root() / RECORD, record)
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
