"""Train a prior over the codes of faces: `python -m helpers.autoencoders.train_prior --help`.

The quantised autoencoder stays as it is; all faces, and their mirror images, become maps of codes once. Alphabet: B
batch, N faces, h w of a map, K codes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.autoencoders.code_prior import CodePrior, PriorConfig
from helpers.autoencoders.vq import VQAutoencoder
from helpers.data import Faces, load_faces
from helpers.data.animal_faces import weights_metadata
from helpers.training.arguments import add_face_arguments, add_run_arguments
from helpers.training.run import Task, train_command
from helpers.weights import read_metadata

ANY = 0.1  # share of the faces whose species the prior is not told


class Guessing(nn.Module):
    """A prior as a training sees it."""

    def __init__(self, prior: CodePrior):
        super().__init__()
        self.prior = prior

    def forward(self, indices: Tensor, labels: Tensor) -> Tensor:
        """Maps (B, h, w), labels (B,) -> (B,) nats a code."""
        return self.prior.losses(indices, labels)


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    autoencoder = VQAutoencoder.from_weights(options.autoencoder)
    if options.size % autoencoder.config.downsampling_factor:
        raise SystemExit(f"--size must be a multiple of {autoencoder.config.downsampling_factor}, got {options.size}")
    faces = load_faces(options.source, "train", options.size, limit=options.limit, progress=accelerator.is_main_process)
    maps = face_maps(autoencoder.to(accelerator.device), faces)  # (2, N, h, w)
    book = read_metadata(options.autoencoder)["sha256"]  # a prior says nothing about other codes
    labels = torch.from_numpy(faces.labels).long()
    config = PriorConfig(autoencoder.config.K, maps.shape[-1], int(labels.max()) + 1)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = Guessing(CodePrior(config))

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        chosen = torch.randint(len(faces), (options.batch_size,), generator=generator)[mine]
        mirrored = torch.randint(2, (options.batch_size,), generator=generator)[mine]
        told = torch.rand(options.batch_size, generator=generator)[mine] > ANY
        species = torch.where(told, labels[chosen], config.classes)
        return model(maps[mirrored, chosen].to(accelerator.device), species.to(accelerator.device)), None

    def sample(average: Guessing, path: Path) -> None:
        from helpers.show.figures import grid, save_png

        species = torch.arange(24, device=accelerator.device) % config.classes
        drawn = average.prior.generate(species, torch.Generator().manual_seed(0)).cpu()
        with torch.no_grad():
            save_png(grid(autoencoder.decode_indices(drawn.to(accelerator.device)).clamp(-1, 1), columns=12), path)

    def save(average: Guessing, path: Path, told: dict[str, str]) -> None:
        average.prior.save(path, told | {"autoencoder_sha256": book})

    return Task(
        f"vq-prior-{options.source}-{options.size}",
        model,
        losses,
        save,
        sample,
        asdict(config) | {"autoencoder_sha256": book},
        extra_metadata=weights_metadata(faces),
    )


@torch.no_grad()
def face_maps(autoencoder: VQAutoencoder, faces: Faces, batch_size: int = 100) -> Tensor:
    """Indices (2, N, h, w), on the CPU, of N faces and of their mirror images."""
    device = next(autoencoder.parameters()).device
    found = []
    for start in range(0, len(faces), batch_size):
        pictures = faces.tensor(slice(start, start + batch_size), device)
        both = autoencoder.quantize(autoencoder.encode(torch.cat([pictures, pictures.flip(-1)]))).indices
        found.append(both.unflatten(0, (2, -1)).cpu())
    return torch.cat(found, dim=1)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.autoencoders.train_prior",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "--autoencoder", default="vq", help="quantised autoencoder whose codes are learned: a file, or a course name"
    )
    add_face_arguments(made)
    add_run_arguments(made, steps=2000, batch_size=32, learning_rate=2e-3)
    made.set_defaults(precision="bf16", ema=0.998)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
