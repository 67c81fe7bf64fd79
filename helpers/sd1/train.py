"""Train the tiny Stable Diffusion 1 on synthetic faces: `python -m helpers.sd1.train --help`.

As in the original, text encoder and autoencoder are pretrained and frozen: the shipped tiny CLIP and an autoencoder
that `python -m helpers.autoencoders.train` wrote. This command trains the U-Net between them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import KLAutoencoder
from helpers.diffusion import DDPMPath, Objective
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd1.unet import UNet, UNetConfig
from helpers.text.contrastive import CLIP
from helpers.text_to_image.captioned_latents import CaptionedLatents
from helpers.training.arguments import image_size, naming_option, positive_int, training_parser
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command
from helpers.weights import read_metadata

if TYPE_CHECKING:
    from accelerate import Accelerator

# Stable Diffusion 1's schedule and target; the weight caps the loss of the easiest noise levels
PATH = DDPMPath.scaled_linear()
OBJECTIVE = Objective(PATH, "epsilon", "epsilon", times="uniform", min_snr_gamma=5.0)


def tiny_config(text_width: int) -> UNetConfig:
    """A U-Net for latents of 16x16; its text encoder and autoencoder are tiny too."""
    return UNetConfig(
        width=40,
        multipliers=(1, 2, 3),
        attention=(False, True, True),
        blocks=1,
        heads=4,
        groups=8,
        text_width=text_width,
    )


def task(options: argparse.Namespace, accelerator: "Accelerator") -> Task:
    """Load the data and the frozen parts, build the U-Net, and return what `train_command` needs to train it."""
    device = accelerator.device
    with naming_option("--clip"):
        clip, tokenizer = CLIP.from_weights(options.clip)
    with naming_option("--autoencoder"):
        autoencoder = KLAutoencoder.from_weights(options.autoencoder)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        unet = UNet(tiny_config(clip.text.config.width))
    for network in (clip.text, autoencoder, unet):
        network.to(device)
    files = {"clip": options.clip, "autoencoder": options.autoencoder}
    parts = {part: read_metadata(file)["sha256"] for part, file in files.items()}
    data = CaptionedLatents(autoencoder, options.size, options.limit, progress=accelerator.is_main_process)
    ids = tokenizer(data.texts)  # (number of texts, L)

    def losses(unet: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        B = options.batch_size
        index, caption = data.sample_indices(B, generator)
        timestep = torch.randint(len(PATH), (B,), generator=generator)
        x0 = data.sample_latents(index, generator)
        eps = torch.randn(x0.shape, generator=generator)
        x0, eps, timestep, tokens = (
            process_share(accelerator, x).to(device) for x in (x0, eps, timestep, ids[caption])
        )
        t = (timestep + 1) / len(PATH)
        with torch.no_grad():
            text = clip.text(tokens)
        noisy = PATH.add_noise(x0, eps, t).contiguous(memory_format=torch.channels_last)
        return OBJECTIVE.losses(unet(noisy, timestep, text).float(), x0, eps, t, noisy), None

    def with_unet(average: Any) -> StableDiffusion1:
        """The system around an averaged U-Net."""
        rgb_factors = data.rgb_factors
        return StableDiffusion1(
            tokenizer, clip.text, average, autoencoder, options.size, rgb_factors=rgb_factors
        ).eval()

    def save(average: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        with_unet(average).save(path, metadata, parts)

    def sample(average: nn.Module, path: Path) -> None:
        from helpers.show.figures import grid, save_png

        save_png(grid(with_unet(average).generate(data.prompts, steps=25, progress=False)), path)

    return Task("sd1-toy-faces", unet.to(memory_format=torch.channels_last), losses, save, sample, parts)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    return training_parser(
        "helpers.sd1.train", __doc__, _add_arguments, steps=9000, batch_size=32, learning_rate=1.5e-3
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=image_size, default=64, help="pixels a side")
    parser.add_argument("--limit", type=positive_int, help="use at most this many training images")
    parser.add_argument("--clip", default="clip", help="weights of the text encoder: a name of the course, or a file")
    parser.add_argument(
        "--autoencoder", default="autoencoder", help="weights of the autoencoder: a name of the course, or a file"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
