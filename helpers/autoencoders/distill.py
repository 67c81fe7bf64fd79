"""Distil a pretrained autoencoder into a smaller one: `python -m helpers.autoencoders.distill --help`.

A good pretrained autoencoder is large, or may not be shipped. A student can take its place if it has the same latent
space: then a diffusion model that was trained on the teacher's latents can be decoded by the student, and the
other way round. The student learns two regressions: its encoder maps an image to the teacher's latent, its decoder maps
the teacher's latent to the teacher's reconstruction. Both targets are functions of the input, so nothing is uncertain.
Still, a small decoder cannot reproduce every hair, and a plain error makes it blur what it cannot. A second training
from the first one's weights (`--start`), with perceptual and adversarial losses, makes it sharp at a little cost in
accuracy, as the teacher was made.

Alphabet: B batch, H W height and width of the image, C latent channels, h = H / factor, w = W / factor.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import Latents, cache_latents, latent_space
from helpers.autoencoders.load import load_autoencoder
from helpers.autoencoders.losses import ReconstructionLoss, add_loss_arguments, reconstruction_loss
from helpers.data import Faces, load_faces
from helpers.data.animal_faces import weights_metadata
from helpers.data.faces import to_float, to_uint8
from helpers.data.patterns import load_patterns
from helpers.training.arguments import naming_option, positive_int, training_parser
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command
from helpers.weights import find_weights, read_metadata

if TYPE_CHECKING:
    from accelerate import Accelerator

SIZE = 64  # pixels per side of the images in most batches
FACTOR = 8  # how many times smaller a latent is than the image, per side
PATTERNS = 4000  # synthetic images with textures and edges that photographs of faces lack
LARGE = 1200  # photographs of twice the size, so that the student works at more than one; --large
BATCH_SHARES = {"photographs": 0.55, "large photographs": 0.25, "patterns": 0.2}  # fractions of the batches


def student_config(teacher: Autoencoder) -> KLConfig:
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
    """The images of one source with the teacher's latents and reconstructions.

    Latents are cached on disk. Reconstructions are decoded when they are first needed and then kept in memory, one
    byte per value: the teacher's decoder costs nearly as much as the student's training step.
    """

    def __init__(self, images: Faces, latents: Latents, teacher: Autoencoder, share: float):
        """`share`: the fraction of the batches that is made of these images."""
        self.images = images
        self.latents = latents
        self.teacher = teacher
        self.share = share
        self.reconstructions = np.zeros((len(images), 2, 3, images.size, images.size), np.uint8)
        self.decoded = np.zeros((len(images), 2), bool)

    def batch(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample images, each mirrored with probability 1/2, with their latents and reconstructions.

        A batch holds the same number of pixels whatever the size of the images: fewer large ones.

        Returns:
            (B, 3, H, W) in [-1, 1], (B, C, h, w), and (B, 3, H, W) in [-1, 1].
        """
        count = max(1, batch_size * SIZE**2 // self.images.size**2)
        rows = torch.randint(len(self.images), (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = self.images.tensor(rows.numpy())
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        index = (rows.numpy(), mirrored.long().numpy())
        latents = torch.from_numpy(self.latents.values[index]).float()
        self._decode(*index)
        return images, latents, to_float(self.reconstructions[index])

    @torch.no_grad()
    def _decode(self, rows: np.ndarray, mirrored: np.ndarray) -> None:
        """Decode and keep the reconstructions of these latents that are not there yet."""
        missing = ~self.decoded[rows, mirrored]
        if missing.any():
            index = (rows[missing], mirrored[missing])
            latents = torch.from_numpy(self.latents.values[index]).float()
            images = self.teacher.to_images(latents.to(next(self.teacher.parameters()).device))
            self.reconstructions[index] = to_uint8(images).cpu().numpy()
            self.decoded[index] = True


class Distillation(nn.Module):
    """The student with its loss: the module that is trained."""

    def __init__(self, student: KLAutoencoder, latent_variance: float, loss: ReconstructionLoss | None = None):
        """
        Args:
            latent_variance: of the teacher's latents, mean over the channels.
            loss: between the teacher's reconstructions and the student's; None: the absolute error alone.
        """
        super().__init__()
        self.student = student
        self.latent_variance = latent_variance
        self.loss = loss or ReconstructionLoss()

    def forward(self, images: Tensor, latents: Tensor, reconstructions: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], (B, C, h, w) and (B, 3, H, W) -> losses (B,).

        The encoder's squared error is divided by the latents' variance, so that predicting each channel's mean costs
        1. The decoder's loss is a much smaller number and weighs four times as much.
        """
        encoded = self.student.encode(images).mean.float()  # (B, C, h, w)
        decoded = self.student.decode(latents).float()  # (B, 3, H, W)
        encoder_loss = (encoded - latents).square().flatten(1).mean(1) / self.latent_variance
        decoder_loss = self.loss(reconstructions, decoded, self.student.decoder.head.weight)
        return encoder_loss + 4 * decoder_loss


def teacher_data(teacher: Autoencoder, options: argparse.Namespace, progress: bool) -> list[TeacherData]:
    """Load the images that the student learns from, and encode them with the teacher once."""
    images = {"patterns": load_patterns("train", SIZE, limit=PATTERNS, progress=progress)}
    if options.source != "patterns":
        images["photographs"] = load_faces(options.source, "train", SIZE, limit=options.limit, progress=progress)
        large = min(options.large, options.limit or options.large)
        images["large photographs"] = load_faces(options.source, "train", 2 * SIZE, limit=large, progress=progress)
    total = sum(BATCH_SHARES[name] for name in images)
    return [
        TeacherData(faces, cache_latents(teacher, faces, progress=progress), teacher, BATCH_SHARES[name] / total)
        for name, faces in images.items()
    ]


def task(options: argparse.Namespace, accelerator: "Accelerator") -> Task:
    """Build the training that the options describe: data, model, and how to save and sample."""
    device = accelerator.device
    with naming_option("--teacher"):
        teacher = load_autoencoder(options.teacher).to(device).eval()
    teacher.requires_grad_(False)
    student = new_student(options, teacher)
    if options.batch_size < 4 * accelerator.num_processes and options.source != "patterns":
        raise SystemExit(
            f"--batch-size must be at least 4 for each process, {4 * accelerator.num_processes}: "
            "a batch of large photographs holds a quarter as many images"
        )
    sources = teacher_data(teacher, options, progress=accelerator.is_main_process)
    variance = sum(source.share * source.latents.std.square().mean().item() for source in sources)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = Distillation(student, variance, reconstruction_loss(options)).to(memory_format=torch.channels_last)
    shares = torch.tensor([source.share for source in sources])

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        source = sources[int(torch.multinomial(shares, 1, generator=generator))]
        batch = source.batch(options.batch_size, generator)
        images, latents, reconstructions = (process_share(accelerator, x).to(device) for x in batch)
        return model(images.contiguous(memory_format=torch.channels_last), latents, reconstructions), None

    def save(average: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        assert isinstance(average, Distillation)
        average.student.save(path, metadata | {"teacher": Path(options.teacher).name})

    def sample(average: nn.Module, path: Path) -> None:
        """Held-out images, the teacher's reconstructions, the student's, and each decoder on the other's latents."""
        from helpers.show.figures import compare, save_png

        assert isinstance(average, Distillation)
        if options.source == "patterns":
            faces = load_patterns("train", 2 * SIZE, limit=9, progress=False)
        else:
            faces = load_faces(options.source, "val", 2 * SIZE, limit=9, progress=False)
        images = faces.tensor(device=device)
        with torch.no_grad():
            latents = teacher.to_latents(images)
            rows = {
                "image": images,
                "teacher": teacher.to_images(latents),
                "student": average.student.to_images(average.student.to_latents(images)),
                "student's decoder": average.student.to_images(latents),
                "student's encoder": teacher.to_images(average.student.to_latents(images)),
            }
        save_png(compare(rows), path)

    metadata = {} if options.source == "patterns" else weights_metadata(sources[1].images)
    if options.start:
        metadata |= {"start_sha256": read_metadata(find_weights(options.start))["sha256"]}
    return Task(
        f"distilled-{Path(options.teacher).name}",
        model,
        losses,
        save,
        sample,
        asdict(student.config),
        extra_metadata=metadata,
        adversary=model.loss.discriminator,
    )


def new_student(options: argparse.Namespace, teacher: Autoencoder) -> KLAutoencoder:
    """Build the student: untrained, the same for the same seed, or with the weights of --start.

    Raises:
        SystemExit: for a teacher whose latents have another size, and for weights of another teacher or other sizes.
    """
    config = student_config(teacher)
    if options.start:
        with naming_option("--start"):
            started = load_autoencoder(options.start)
        if started.config != config:
            raise SystemExit(f"--start {options.start} is not a student of this teacher and of these sizes")
        assert isinstance(started, KLAutoencoder), "its configuration is one"
        return started.train().requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        return KLAutoencoder(config)


def parser() -> argparse.ArgumentParser:
    """The command's options; `--help` prints them."""
    return training_parser(
        "helpers.autoencoders.distill", __doc__, _add_arguments, steps=6000, batch_size=8, learning_rate=1e-3
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--teacher", default="taef2", help="a name, file, folder or hub repository, see helpers.autoencoders.load")
    add(
        "--source",
        choices=["animal-faces", "patterns"],
        default="animal-faces",
        help=f"images to learn from, beside {PATTERNS:,} patterns; photographs also at {2 * SIZE} pixels",
    )
    add("--limit", type=positive_int, help="use this many training photographs at most")
    add("--large", type=positive_int, default=LARGE, help=f"photographs that are also used at {2 * SIZE} pixels")
    add("--start", metavar="WEIGHTS", help="go on from this student, a name, file or folder: a second training")
    add_loss_arguments(parser, "l1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 finished, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
