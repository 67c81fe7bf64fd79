"""Train a KL autoencoder on faces: `python -m helpers.autoencoders.train --help`.

Small enough a KL term leaves nearly all the room to the picture; it only keeps the latents from drifting apart
(Rombach et al. 2022, section 3.1). Alphabet: B batch, H W of the picture.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.kl import DiagonalGaussian, KLAutoencoder, KLConfig
from helpers.autoencoders.losses import ReconstructionLoss, add_loss_arguments, reconstruction_loss
from helpers.data import Faces, load_faces
from helpers.data.animal_faces import weights_metadata
from helpers.data.patterns import load_patterns
from helpers.training.arguments import add_face_arguments, add_run_arguments
from helpers.training.run import Task, train_command

Autoencoder = TypeVar("Autoencoder", bound=nn.Module)  # with a config that has a scale, and to_latents
KL_WEIGHT = 1e-3  # of the KL in nats, beside the error summed over the picture's numbers


def tiny_config(latent_channels: int = 4, patch: int = 1) -> KLConfig:
    """64x64 pixels become 16x16; most channels where pixels are few, so that a laptop trains it.

    With 4 channels it is built as Stable Diffusion 1's, with 16 as Stable Diffusion 3's. With a patch of 4 no layer
    works at more than 16x16, where a channel costs little: a third of the time.
    """
    if patch > 1:
        return KLConfig(
            width=64,
            multipliers=(1,),
            blocks=1,
            groups=8,
            latent_channels=latent_channels,
            quant_convs=False,
            patch=patch,
            scale=1.0,
        )
    return KLConfig(
        width=16,
        multipliers=(1, 2, 4),
        blocks=1,
        groups=8,
        latent_channels=latent_channels,
        quant_convs=latent_channels == 4,
        scale=1.0,
    )


class Reconstruction(nn.Module):
    """An autoencoder as a training sees it: pictures in, losses out."""

    def __init__(self, autoencoder: KLAutoencoder, loss: ReconstructionLoss):
        super().__init__()
        self.autoencoder = autoencoder
        self.loss = loss

    def forward(self, pictures: Tensor, noise: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], noise (B, C, h, w) -> (B,) error and weighed KL, per number of the picture."""
        gaussian = self.autoencoder.encode(pictures)
        again = self.autoencoder.decode(gaussian.mean + (0.5 * gaussian.logvar).exp() * noise)
        error = self.loss(pictures, again, self.autoencoder.decoder.head.weight)
        return error + KL_WEIGHT * gaussian.kl() / pictures[0].numel()


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    load = load_patterns if options.source == "patterns" else partial(load_faces, options.source)
    faces = load("train", options.size, limit=options.limit, progress=accelerator.is_main_process)
    config = tiny_config(options.latent_channels, options.patch)
    if options.size % config.downsampling_factor:
        raise SystemExit(f"--size must be a multiple of {config.downsampling_factor}, got {options.size}")
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = Reconstruction(KLAutoencoder(config), reconstruction_loss(options)).to(
            memory_format=torch.channels_last
        )
    side = options.size // config.downsampling_factor

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        pictures = drawn_batch(faces, options.batch_size, generator)[mine].to(accelerator.device)
        noise = torch.randn(options.batch_size, config.latent_channels, side, side, generator=generator)[mine]
        return model(pictures.contiguous(memory_format=torch.channels_last), noise.to(accelerator.device)), None

    def save(average: Reconstruction, path: Path, told: dict[str, str]) -> None:
        with_measured_scale(average.autoencoder, faces).save(path, told | {"compared_by": model.loss.sees})

    def sample(average: Reconstruction, path: Path) -> None:
        from helpers.show.figures import compare, save_png

        pictures = faces.tensor(slice(0, 8), accelerator.device)
        with torch.no_grad():
            again = average.autoencoder.decode(average.autoencoder.encode(pictures).mean)
        save_png(compare({"picture": pictures, "decoded": again}), path)

    folded = f"-patch-{options.patch}" if options.patch > 1 else ""
    name = f"autoencoder-{options.latent_channels}{folded}-{options.source}-{options.size}"
    description = asdict(config) | {"compared_by": model.loss.sees}
    return Task(name, model, losses, save, sample, description, extra_metadata=weights_metadata(faces))


def drawn_batch(faces: Faces, batch_size: int, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) random faces, half of them mirrored."""
    chosen = torch.randint(len(faces), (batch_size,), generator=generator)
    mirrored = torch.rand(batch_size, generator=generator) < 0.5
    pictures = faces.tensor(chosen.numpy())
    return torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)


@torch.no_grad()
def encode_all(
    autoencoder: KLAutoencoder, pictures: Tensor, batch_size: int = 100, progress: bool = False
) -> DiagonalGaussian:
    """The Gaussians of many pictures (N, 3, H, W), in batches on the autoencoder's device; they are kept on the CPU."""
    from tqdm.auto import tqdm

    device = next(autoencoder.parameters()).device
    gaussians = []
    for batch in tqdm(pictures.split(batch_size), desc="encoding", disable=not progress, leave=False):
        gaussians.append(autoencoder.encode(batch.to(device)))
    return DiagonalGaussian(*(torch.cat([getattr(g, part).cpu() for g in gaussians]) for part in ("mean", "logvar")))


@torch.no_grad()
def with_measured_scale(autoencoder: Autoencoder, faces: Faces, count: int = 500) -> Autoencoder:
    """The same KL or quantised autoencoder, with the scale that gives what is diffused unit variance on these faces."""
    device = next(autoencoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    parts = faces.tensor(slice(0, count), device).split(100)
    latents = torch.cat([autoencoder.to_latents(part, generator) for part in parts])
    scale = autoencoder.config.scale / latents.std().item()
    scaled = type(autoencoder)(replace(autoencoder.config, scale=round(scale, 4)))
    scaled.load_state_dict(autoencoder.state_dict())
    return scaled.eval()


def fitted_preview(latents: Tensor, pictures: Tensor) -> Tensor:
    """(C, 3): the linear map from a latent's channels to the colours of its patch with the least squared error."""
    small = F.adaptive_avg_pool2d(pictures, latents.shape[2:])
    columns = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (latents, small))
    return torch.linalg.lstsq(*columns).solution


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.autoencoders.train",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_face_arguments(made, more=["patterns"])
    made.add_argument("--patch", type=int, default=1, help="pixels a side folded first; 4 is three times as fast")
    made.add_argument("--latent-channels", type=int, default=4, help="4 as in Stable Diffusion 1, 16 as in 3")
    add_loss_arguments(made, error="l1")
    add_run_arguments(made, steps=2500, batch_size=32, learning_rate=2e-3)
    return made


def main(argv: Sequence[str] | None = None, more: bool = False) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved; `more` as for `train_command`."""
    return train_command(parser(), argv, task, more)


if __name__ == "__main__":
    raise SystemExit(main())
