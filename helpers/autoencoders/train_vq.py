"""Train a quantised autoencoder on faces: `python -m helpers.autoencoders.train_vq --help`.

64x64 pixels become a map of 16x16 codes (van den Oord et al. 2017). Patches of 4x4 pixels are rearranged into channels
first, and most of the work is done in bfloat16: ten minutes on two CPU cores. Alphabet: B batch, H W of the image,
h w of the map, N images, K codes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from helpers.autoencoders.losses import ReconstructionLoss, add_loss_arguments, reconstruction_loss
from helpers.autoencoders.quantizers import usage
from helpers.autoencoders.train import sample_batch, with_measured_scale
from helpers.autoencoders.vq import VQAutoencoder, VQConfig
from helpers.data.animal_faces import weights_metadata
from helpers.data.own_images import source_name
from helpers.data.sizes import size_text
from helpers.training.arguments import (
    add_face_arguments,
    check_multiple,
    positive_int,
    training_images,
    training_parser,
)
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command

if TYPE_CHECKING:
    from accelerate import Accelerator


def tiny_config(K: int = 1024) -> VQConfig:
    """Sizes that a laptop trains: 64x64 pixels become 16x16 codes of 4 dimensions; all layers work at 16x16."""
    return VQConfig(
        width=64, multipliers=(1,), blocks=1, latent_channels=4, groups=8, patch=4, K=K, code_width=4, ema=True
    )


class Reconstruction(nn.Module):
    """A quantised autoencoder with its loss: the module that is trained."""

    def __init__(self, autoencoder: VQAutoencoder, loss: ReconstructionLoss):
        super().__init__()
        self.autoencoder = autoencoder
        self.loss = loss

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B,) reconstruction loss plus the quantiser's loss."""
        reconstruction, quantized = self.autoencoder(images)
        error = self.loss(images, reconstruction, self.autoencoder.decoder.head.weight)
        return error + quantized.loss.flatten(1).mean(1)


def task(options: argparse.Namespace, accelerator: "Accelerator") -> Task:
    """Build the training that the options describe: data, model, and how to save and sample."""
    config = tiny_config(options.codes)
    check_multiple(options.size, config.downsampling_factor)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = Reconstruction(VQAutoencoder(config), reconstruction_loss(options))
    faces = training_images(options, progress=accelerator.is_main_process)

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        images = process_share(accelerator, sample_batch(faces, options.batch_size, generator))
        return model(images.to(accelerator.device)), None

    def save(average: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        assert isinstance(average, Reconstruction)
        scaled = with_measured_scale(average.autoencoder, faces)
        scaled.save(path, metadata | {"compared_by": model.loss.perceptual_name})

    def sample(average: nn.Module, path: Path) -> None:
        assert isinstance(average, Reconstruction)
        from helpers.show.figures import compare, save_png

        images = faces.tensor(slice(0, 8), accelerator.device)
        with torch.no_grad():
            reconstruction, quantized = average.autoencoder(images)
        print(usage(quantized.indices, config.K), flush=True)
        save_png(compare({"image": images, "decoded": reconstruction}), path)

    return Task(
        f"vq-{source_name(options.source)}-{size_text(options.size)}",
        model,
        losses,
        save,
        sample,
        asdict(config) | {"compared_by": model.loss.perceptual_name},
        extra_metadata=weights_metadata(faces),
        adversary=model.loss.discriminator,
    )


def parser() -> argparse.ArgumentParser:
    """The command's options; `--help` prints them."""
    return training_parser(
        "helpers.autoencoders.train_vq",
        __doc__,
        _add_arguments,
        steps=6000,
        batch_size=16,
        learning_rate=4e-3,
        precision="bf16",
        ema=0.998,
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_face_arguments(parser)
    parser.add_argument("--codes", type=positive_int, default=1024, help="codebook size")
    add_loss_arguments(parser, pixel_loss="mse")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 finished, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
