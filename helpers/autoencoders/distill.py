"""Distil a pretrained autoencoder into a smaller one: `python -m helpers.autoencoders.distill --help`.

A good pretrained autoencoder is large, or may not be shipped. A student can take its place if it speaks the same
latent space: then a diffusion model that was trained on the teacher's latents can be decoded by the student, and the
other way round. The student learns two regressions: its encoder maps an image to the teacher's latent, its decoder maps
the teacher's latent to the teacher's reconstruction. Both targets are functions of the input, so a plain error makes no
blur where the teacher is sharp, and no adversarial loss is needed.

Alphabet: B batch, H W height and width of the image, C latent channels, h = H / factor, w = W / factor.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import Latents, encode_once, latent_space
from helpers.autoencoders.load import load_autoencoder
from helpers.data import Faces, load_faces
from helpers.data.animal_faces import weights_metadata
from helpers.data.faces import to_float, to_uint8
from helpers.data.patterns import load_patterns
from helpers.training.arguments import add_run_arguments
from helpers.training.run import Task, train_command

SIZE = 64  # pixels per side of the images in most batches
FACTOR = 8  # how many times smaller a latent is than the image, per side
PATTERNS = 4000  # synthetic images with textures and edges that photographs of faces lack
LARGE = 1200  # photographs of twice the size, so that the student works at more than one
SHARES = {"photographs": 0.55, "large photographs": 0.25, "patterns": 0.2}  # of the batches


def student_config(teacher: nn.Module) -> KLConfig:
    """Sizes of the student: 64x64 pixels become 8x8, with as many latent channels as the teacher has.

    Patches of 4x4 pixels are rearranged into channels first, so that no layer works at more than 16x16 positions:
    on a CPU the student then decodes more than three times as fast as TAEF2, which works at full resolution.

    Raises:
        SystemExit: for a teacher whose latents have another size.
    """
    with torch.no_grad():
        latent = teacher.to_latents(torch.zeros(1, 3, SIZE, SIZE, device=next(teacher.parameters()).device))
    if latent.shape[2:] != (SIZE // FACTOR, SIZE // FACTOR):
        raise SystemExit(
            f"--teacher must make images {FACTOR} times smaller per side, this one makes them "
            f"{teacher.config.downsampling_factor} times smaller"
        )
    channels = latent.shape[1]
    latents_of = latent_space(teacher)
    return KLConfig(
        width=96,
        multipliers=(1, 2),
        blocks=1,
        groups=16,
        latent_channels=channels,
        quant_convs=False,
        patch=4,
        scale=1.0,
        latents_of=latents_of,
    )


class TeacherData:
    """Images of one kind, with what the teacher makes of them.

    Latents are cached on disk. Reconstructions are decoded when they are first needed and then kept in memory, one
    byte per value: the teacher's decoder costs nearly as much as the student's training step.
    """

    def __init__(self, images: Faces, latents: Latents, teacher: nn.Module, share: float):
        """`share`: of the batches that are made of these images."""
        self.images = images
        self.latents = latents
        self.teacher = teacher
        self.share = share
        self.reconstructions = np.zeros((len(images), 2, 3, images.size, images.size), np.uint8)
        self.decoded = np.zeros((len(images), 2), bool)

    def batch(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Images, half of them mirrored, their latents and their reconstructions.

        A batch holds the same number of pixels whatever the size of the images: fewer large ones.

        Returns:
            (B, 3, H, W) in [-1, 1], (B, C, h, w), and (B, 3, H, W) in [-1, 1].
        """
        count = max(1, batch_size * SIZE**2 // self.images.size**2)
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = self.images.tensor(chosen.numpy())
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        index = (chosen.numpy(), mirrored.long().numpy())
        latents = torch.from_numpy(self.latents.values[index]).float()
        self._decode(*index)
        return images, latents, to_float(self.reconstructions[index])

    @torch.no_grad()
    def _decode(self, rows: np.ndarray, mirrored: np.ndarray) -> None:
        missing = ~self.decoded[rows, mirrored]
        if missing.any():
            index = (rows[missing], mirrored[missing])
            latents = torch.from_numpy(self.latents.values[index]).float()
            images = self.teacher.to_pictures(latents.to(next(self.teacher.parameters()).device))
            self.reconstructions[index] = to_uint8(images).cpu().numpy()
            self.decoded[index] = True


class Distillation(nn.Module):
    """The student as a training sees it: the teacher's data in, losses out."""

    def __init__(self, student: KLAutoencoder, latent_variance: float):
        """`latent_variance`: of the teacher's latents, mean over the channels."""
        super().__init__()
        self.student = student
        self.latent_variance = latent_variance

    def forward(self, images: Tensor, latents: Tensor, reconstructions: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], (B, C, h, w) and (B, 3, H, W) -> losses (B,).

        The encoder's squared error is divided by the latents' variance, so that predicting each channel's mean costs
        1. The decoder's absolute error is a much smaller number and weighs four times as much.
        """
        encoded = self.student.encode(images).mean.float()  # (B, C, h, w)
        decoded = self.student.decode(latents).float()  # (B, 3, H, W)
        encoder_loss = (encoded - latents).square().flatten(1).mean(1) / self.latent_variance
        decoder_loss = (decoded - reconstructions).abs().flatten(1).mean(1)
        return encoder_loss + 4 * decoder_loss


def teacher_data(teacher: nn.Module, options: argparse.Namespace, progress: bool) -> list[TeacherData]:
    """The images that the student learns from, encoded by the teacher once."""
    images = {"patterns": load_patterns("train", SIZE, limit=PATTERNS, progress=progress)}
    if options.source != "patterns":
        images["photographs"] = load_faces(options.source, "train", SIZE, limit=options.limit, progress=progress)
        large = min(LARGE, options.limit or LARGE)
        images["large photographs"] = load_faces(options.source, "train", 2 * SIZE, limit=large, progress=progress)
    total = sum(SHARES[name] for name in images)
    return [
        TeacherData(faces, encode_once(teacher, faces, progress=progress), teacher, SHARES[name] / total)
        for name, faces in images.items()
    ]


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    device = accelerator.device
    teacher = load_autoencoder(options.teacher).to(device).eval().requires_grad_(False)
    config = student_config(teacher)
    if options.batch_size < 4 * accelerator.num_processes and options.source != "patterns":
        raise SystemExit(
            f"--batch-size must be at least 4 for each process, {4 * accelerator.num_processes}: "
            "a batch of large photographs holds a quarter as many images"
        )
    sources = teacher_data(teacher, options, progress=accelerator.is_main_process)
    variance = sum(source.share * source.latents.std.square().mean().item() for source in sources)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = Distillation(KLAutoencoder(config), variance).to(memory_format=torch.channels_last)
    shares = torch.tensor([source.share for source in sources])

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        source = sources[torch.multinomial(shares, 1, generator=generator).item()]
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        images, latents, reconstructions = (x[mine].to(device) for x in source.batch(options.batch_size, generator))
        return model(images.contiguous(memory_format=torch.channels_last), latents, reconstructions), None

    def save(average: Distillation, path: Path, metadata: dict[str, str]) -> None:
        average.student.save(path, metadata | {"teacher": Path(options.teacher).name})

    def sample(average: Distillation, path: Path) -> None:
        """Held-out images, the teacher's reconstructions, the student's, and each decoder on the other's latents."""
        from helpers.show.figures import compare, save_png

        split = "val" if options.source != "patterns" else "train"
        load = load_patterns if options.source == "patterns" else lambda *a, **k: load_faces(options.source, *a, **k)
        images = load(split, 2 * SIZE, limit=9, progress=False).tensor(device=device)
        with torch.no_grad():
            latents = teacher.to_latents(images)
            rows = {
                "image": images,
                "teacher": teacher.to_pictures(latents),
                "student": average.student.to_pictures(average.student.to_latents(images)),
                "student's decoder": average.student.to_pictures(latents),
                "student's encoder": teacher.to_pictures(average.student.to_latents(images)),
            }
        save_png(compare(rows), path)

    licence = {} if options.source == "patterns" else weights_metadata(sources[1].images)
    return Task(
        f"distilled-{Path(options.teacher).name}", model, losses, save, sample, asdict(config), extra_metadata=licence
    )


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.autoencoders.distill",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--teacher", default="taef2", help="a name, file, folder or hub repository, see helpers.autoencoders.load")
    add(
        "--source",
        choices=["animal-faces", "patterns"],
        default="animal-faces",
        help=f"images to learn from, beside {PATTERNS:,} patterns; photographs also at {2 * SIZE} pixels",
    )
    add("--limit", type=int, help="use this many training photographs at most")
    add_run_arguments(made, steps=6000, batch_size=8, learning_rate=1e-3)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
