"""Train a KL autoencoder on faces: `python -m helpers.autoencoders.train --help`.

The weight of the KL term is so small that it hardly limits the reconstruction; it only keeps the latents from growing
without bound (Rombach et al. 2022, section 3.1). Alphabet: B batch, H W of the image, C latent channels, h w of the
latent, N images.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.kl import DiagonalGaussian, KLAutoencoder, KLConfig
from helpers.autoencoders.losses import ReconstructionLoss, add_loss_arguments, reconstruction_loss
from helpers.data import Faces
from helpers.data.animal_faces import weights_metadata
from helpers.data.own_images import source_name
from helpers.data.patterns import load_patterns
from helpers.data.sizes import height_and_width, size_text, square_side
from helpers.training.arguments import (
    add_face_arguments,
    check_multiple,
    naming_option,
    non_negative_float,
    positive_int,
    training_images,
    training_parser,
)
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command

if TYPE_CHECKING:
    from accelerate import Accelerator

AnyAutoencoder = TypeVar("AnyAutoencoder", bound=Autoencoder)
KL_WEIGHT = 1e-3  # default weight of the KL in nats, beside the error summed over the values of an image


def tiny_config(latent_channels: int = 4, patch: int = 1, width: int | None = None) -> KLConfig:
    """Sizes that a laptop trains: 64x64 pixels become 16x16, and most channels are at low resolution.

    With 4 channels the architecture is Stable Diffusion 1's, with 16 Stable Diffusion 3's. With a patch of 4 no layer
    works at more than 16x16 positions, where channels are cheap: it takes a third of the time. `width`: channels of the
    first resolution; None: 64 with patches, 16 without.
    """
    if patch > 1:
        return KLConfig(
            width=width or 64,
            multipliers=(1,),
            blocks=1,
            groups=8,
            latent_channels=latent_channels,
            quant_convs=False,
            patch=patch,
            scale=1.0,
        )
    return KLConfig(
        width=width or 16,
        multipliers=(1, 2, 4),
        blocks=1,
        groups=8,
        latent_channels=latent_channels,
        quant_convs=latent_channels == 4,
        scale=1.0,
    )


class Reconstruction(nn.Module):
    """An autoencoder with its loss: the module that is trained.

    Args:
        kl_weight: of the KL in nats, beside the error summed over the values of an image.
        equivariance: weight of the error of a half-size image decoded from half-size latents. It smooths the latents,
            which makes them easier to diffuse (Kouzelis et al. 2025, EQ-VAE; Skorokhodov et al. 2025).
    """

    def __init__(
        self,
        autoencoder: KLAutoencoder,
        loss: ReconstructionLoss,
        kl_weight: float = KL_WEIGHT,
        equivariance: float = 0.0,
    ):
        super().__init__()
        self.autoencoder = autoencoder
        self.loss = loss
        self.kl_weight = kl_weight
        self.equivariance = equivariance

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], noise (B, C, h, w) -> (B,) all terms of the loss, per value of an image."""
        posterior = self.autoencoder.encode(images)
        z = posterior.mean + (0.5 * posterior.logvar).exp() * noise
        reconstruction = self.autoencoder.decode(z)
        error = self.loss(images, reconstruction, self.autoencoder.decoder.head.weight)
        if self.equivariance:
            error = error + self.equivariance * self._half_size_error(images, z)
        return error + self.kl_weight * posterior.kl() / images[0].numel()

    def _half_size_error(self, images: Tensor, z: Tensor) -> Tensor:
        """(B,) mean absolute error of half-size latents, decoded, beside half-size images."""
        reconstruction = self.autoencoder.decode(F.avg_pool2d(z, 2))
        return (reconstruction - F.avg_pool2d(images, 2)).abs().flatten(1).mean(1)


def task(options: argparse.Namespace, accelerator: "Accelerator") -> Task:
    """Build the training that the options describe: data, model, and how to save and sample."""
    config = tiny_config(options.latent_channels, options.patch, options.width)
    check_multiple(options.size, config.downsampling_factor)
    if config.width % config.groups:
        raise SystemExit(f"--width must be a multiple of {config.groups}, got {options.width}")
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        autoencoder = KLAutoencoder(config)
        loss = reconstruction_loss(options)
        model = Reconstruction(autoencoder, loss, options.kl, options.equivariance)
        model = model.to(memory_format=torch.channels_last)
    faces = _patterns_or_faces(options, accelerator.is_main_process)
    height, width = (side // config.downsampling_factor for side in height_and_width(options.size))

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        images = process_share(accelerator, sample_batch(faces, options.batch_size, generator)).to(accelerator.device)
        noise = process_share(
            accelerator, torch.randn(options.batch_size, config.latent_channels, height, width, generator=generator)
        )
        return model(images.contiguous(memory_format=torch.channels_last), noise.to(accelerator.device)), None

    def save(average: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        assert isinstance(average, Reconstruction)
        scaled = with_measured_scale(average.autoencoder, faces)
        scaled.save(path, metadata | {"compared_by": model.loss.perceptual_name})

    def sample(average: nn.Module, path: Path) -> None:
        assert isinstance(average, Reconstruction)
        from helpers.show.figures import compare, save_png

        images = faces.tensor(slice(0, 8), accelerator.device)
        with torch.no_grad():
            reconstruction = average.autoencoder.decode(average.autoencoder.encode(images).mean)
        save_png(compare({"image": images, "decoded": reconstruction}), path)

    patch = f"-patch-{options.patch}" if options.patch > 1 else ""
    name = f"autoencoder-{options.latent_channels}{patch}-{source_name(options.source)}-{size_text(options.size)}"
    description = asdict(config) | {"compared_by": model.loss.perceptual_name}
    return Task(
        name,
        model,
        losses,
        save,
        sample,
        description,
        extra_metadata=weights_metadata(faces),
        adversary=model.loss.discriminator,
    )


def _patterns_or_faces(options: argparse.Namespace, progress: bool) -> Faces:
    """Draw or load the training images. Raises SystemExit where they cannot be had."""
    if options.source != "patterns":
        return training_images(options, progress)
    with naming_option("--size"):
        return load_patterns("train", square_side(options.size), limit=options.limit, progress=progress)


def sample_batch(faces: Faces, batch_size: int, generator: torch.Generator) -> Tensor:
    """Sample images with replacement, mirror each with probability 1/2: (B, 3, H, W) in [-1, 1]."""
    indices = torch.randint(len(faces), (batch_size,), generator=generator)
    mirrored = torch.rand(batch_size, generator=generator) < 0.5
    images = faces.tensor(indices.numpy())
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


@torch.no_grad()
def encode_all(
    autoencoder: KLAutoencoder, images: Tensor, batch_size: int = 100, progress: bool = False
) -> DiagonalGaussian:
    """Encode many images (N, 3, H, W) in batches on the autoencoder's device; the posteriors are kept on the CPU."""
    from tqdm.auto import tqdm

    device = next(autoencoder.parameters()).device
    means = []
    logvars = []
    for batch in tqdm(images.split(batch_size), desc="encoding", disable=not progress, leave=False):
        posterior = autoencoder.encode(batch.to(device))
        means.append(posterior.mean.cpu())
        logvars.append(posterior.logvar.cpu())
    return DiagonalGaussian(torch.cat(means), torch.cat(logvars))


@torch.no_grad()
def with_measured_scale(autoencoder: AnyAutoencoder, faces: Faces, count: int = 500) -> AnyAutoencoder:
    """Copy a KL or quantised autoencoder with the scale that gives its latents of these faces unit variance.

    `count`: how many of the faces are encoded to measure it.
    """
    device = next(autoencoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    parts = faces.tensor(slice(0, count), device).split(100)
    latents = torch.cat([autoencoder.to_latents(part, generator) for part in parts])
    scale = autoencoder.config.scale / latents.std().item()
    scaled = type(autoencoder)(replace(autoencoder.config, scale=round(scale, 4)))
    scaled.load_state_dict(autoencoder.state_dict())
    return scaled.eval()


def fit_latent_rgb(latents: Tensor, images: Tensor) -> Tensor:
    """The linear map (C, 3) from latent channels to RGB with the least squared error: a fast preview of latents.

    Latents (N, C, h, w), and the images (N, 3, H, W) that they encode.
    """
    height, width = latents.shape[2:]
    small = F.adaptive_avg_pool2d(images, (height, width))
    channels = latents.permute(0, 2, 3, 1).flatten(0, 2)  # (N h w, C)
    colours = small.permute(0, 2, 3, 1).flatten(0, 2)  # (N h w, 3)
    return torch.linalg.lstsq(channels, colours).solution


def parser() -> argparse.ArgumentParser:
    """The command's options; `--help` prints them."""
    return training_parser(
        "helpers.autoencoders.train", __doc__, _add_arguments, steps=2500, batch_size=32, learning_rate=2e-3
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_face_arguments(parser, more=["patterns"])
    parser.add_argument(
        "--patch",
        type=positive_int,
        default=1,
        help="pixels per side rearranged into channels first; 4 is three times as fast",
    )
    parser.add_argument(
        "--width", type=positive_int, help="channels of the first resolution; None: 64 with patches, else 16"
    )
    parser.add_argument(
        "--latent-channels", type=positive_int, default=4, help="4 as in Stable Diffusion 1, 16 as in 3"
    )
    parser.add_argument(
        "--kl", type=non_negative_float, default=KL_WEIGHT, metavar="WEIGHT", help="weight of the KL divergence"
    )
    parser.add_argument(
        "--equivariance",
        type=non_negative_float,
        default=0.0,
        metavar="WEIGHT",
        help="weight of the error of half-size images decoded from half-size latents: smooth latents are easier to "
        "diffuse; 0.25 is usual",
    )
    add_loss_arguments(parser, pixel_loss="l1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 finished, 130 interrupted."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
