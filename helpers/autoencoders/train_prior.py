"""Train a prior over the codes of faces: `python -m helpers.autoencoders.train_prior --help`.

The quantised autoencoder is frozen: all faces and their mirror images are encoded as maps of codes once. Alphabet: B
batch, N faces, h w of a map, K codes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from helpers.autoencoders.code_prior import CodePrior, PriorConfig
from helpers.autoencoders.vq import VQAutoencoder
from helpers.data import Faces
from helpers.data.animal_faces import weights_metadata
from helpers.data.own_images import source_name
from helpers.data.sizes import square_side
from helpers.training.arguments import (
    add_face_arguments,
    check_multiple,
    naming_option,
    training_images,
    training_parser,
)
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command
from helpers.weights import read_metadata

if TYPE_CHECKING:
    from accelerate import Accelerator

P_UNCOND = 0.1  # probability of replacing a face's species by "any", for samples without a class


class PriorTraining(nn.Module):
    """A prior with its loss: the module that is trained."""

    def __init__(self, prior: CodePrior):
        super().__init__()
        self.prior = prior

    def forward(self, indices: Tensor, labels: Tensor) -> Tensor:
        """Maps (B, h, w), labels (B,) -> (B,) nats per code."""
        return self.prior.losses(indices, labels)


def task(options: argparse.Namespace, accelerator: "Accelerator") -> Task:
    """Build the training that the options describe: data, model, and how to save and sample."""
    with naming_option("--autoencoder"):
        autoencoder = VQAutoencoder.from_weights(options.autoencoder)
    check_multiple(options.size, autoencoder.config.downsampling_factor)
    with naming_option("--size"):
        square_side(options.size)  # a prior takes maps with as many rows as columns
    faces = training_images(options, progress=accelerator.is_main_process)
    maps = face_maps(autoencoder.to(accelerator.device), faces)  # (2, N, h, w)
    codebook_sha256 = read_metadata(options.autoencoder)["sha256"]  # a prior is of no use with another codebook
    labels = torch.from_numpy(faces.labels).long()
    config = PriorConfig(autoencoder.config.K, maps.shape[-1], int(labels.max()) + 1)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = PriorTraining(CodePrior(config))

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        indices = process_share(accelerator, torch.randint(len(faces), (options.batch_size,), generator=generator))
        mirrored = process_share(accelerator, torch.randint(2, (options.batch_size,), generator=generator))
        conditional = process_share(accelerator, torch.rand(options.batch_size, generator=generator)) > P_UNCOND
        species = torch.where(conditional, labels[indices], config.classes)
        return model(maps[mirrored, indices].to(accelerator.device), species.to(accelerator.device)), None

    def sample(average: nn.Module, path: Path) -> None:
        assert isinstance(average, PriorTraining)
        from helpers.show.figures import grid, save_png

        species = torch.arange(24, device=accelerator.device) % config.classes
        generated = average.prior.generate(species, torch.Generator().manual_seed(0))
        with torch.no_grad():
            images = autoencoder.decode_indices(generated.to(accelerator.device)).clamp(-1, 1)
        save_png(grid(images, columns=12), path)

    def save(average: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        assert isinstance(average, PriorTraining)
        average.prior.save(path, metadata | {"autoencoder_sha256": codebook_sha256})

    return Task(
        f"vq-prior-{source_name(options.source)}-{options.size}",
        model,
        losses,
        save,
        sample,
        asdict(config) | {"autoencoder_sha256": codebook_sha256},
        extra_metadata=weights_metadata(faces),
    )


@torch.no_grad()
def face_maps(autoencoder: VQAutoencoder, faces: Faces, batch_size: int = 100) -> Tensor:
    """Encode N faces and their mirror images as codebook indices (2, N, h, w), on the CPU."""
    device = next(autoencoder.parameters()).device
    maps = []
    for start in range(0, len(faces), batch_size):
        images = faces.tensor(slice(start, start + batch_size), device)
        both = autoencoder.quantize(autoencoder.encode(torch.cat([images, images.flip(-1)]))).indices
        maps.append(both.unflatten(0, (2, -1)).cpu())
    return torch.cat(maps, dim=1)


def parser() -> argparse.ArgumentParser:
    """The command's options; `--help` prints them."""
    return training_parser(
        "helpers.autoencoders.train_prior",
        __doc__,
        _add_arguments,
        steps=2000,
        batch_size=32,
        learning_rate=2e-3,
        precision="bf16",
        ema=0.998,
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--autoencoder", default="vq", help="quantised autoencoder whose codes are learned: a file, or a course name"
    )
    add_face_arguments(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 finished, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
