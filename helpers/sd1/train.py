"""Train the tiny Stable Diffusion 1 on drawn faces: `python -m helpers.sd1.train --help`.

As in the original, text encoder and autoencoder are trained before and stay as they are: the shipped tiny CLIP and
an autoencoder that `python -m helpers.autoencoders.train` wrote. This command trains the U-Net between them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import DiagonalGaussian, KLAutoencoder
from helpers.autoencoders.train import encode_all, fitted_preview
from helpers.data import load_faces
from helpers.data.captions import caption_variants
from helpers.diffusion import DDPMPath, Objective
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd1.unet import UNet, UNetConfig
from helpers.text.contrastive import CLIP
from helpers.training.arguments import add_run_arguments
from helpers.training.run import Task, train_command
from helpers.weights import read_metadata

WORDINGS = 4  # captions per face: the full one, and three that leave details out
DROPPED = 0.1  # share of examples that lose their caption, so that guidance has something to lead away from
# Stable Diffusion 1's schedule and target; the weight spares the network the easiest noise levels
OBJECTIVE = Objective(DDPMPath.scaled_linear(), "epsilon", "epsilon", times="uniform", min_snr_gamma=5.0)


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


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    main = accelerator.is_main_process
    device = accelerator.device
    faces = load_faces("toy-faces", "train", options.size, limit=options.limit, progress=main)
    (pair, tokenizer) = CLIP.from_weights(options.clip)
    autoencoder = KLAutoencoder.from_weights(options.autoencoder)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        unet = UNet(tiny_config(pair.text.config.width))
    system = StableDiffusion1(tokenizer, pair.text, unet, autoencoder, options.size).to(device)
    files = {"clip": options.clip, "autoencoder": options.autoencoder}
    parts = {part: read_metadata(file)["sha256"] for part, file in files.items()}
    config = autoencoder.config
    pictures = faces.tensor()
    codes = encode_all(autoencoder, torch.cat([pictures, pictures.flip(-1)]), progress=main)  # mirrored: same captions
    system.preview = fitted_preview((codes.mean[: len(faces)] - config.shift) * config.scale, pictures)
    ids = tokenizer([*caption_variants(faces.attributes, WORDINGS), ""])  # (N * WORDINGS + 1, L): the last is empty

    def losses(unet: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        B = options.batch_size
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        chosen = torch.randint(len(codes.mean), (B,), generator=generator)
        caption = chosen % len(faces) * WORDINGS + torch.randint(WORDINGS, (B,), generator=generator)
        caption = torch.where(torch.rand(B, generator=generator) < DROPPED, len(ids) - 1, caption)
        timestep = torch.randint(len(OBJECTIVE.path), (B,), generator=generator)
        z = DiagonalGaussian(codes.mean[chosen], codes.logvar[chosen]).sample(generator)
        x0 = (z - config.shift) * config.scale
        eps = torch.randn(z.shape, generator=generator)
        x0, eps, timestep, tokens = (x[mine].to(device) for x in (x0, eps, timestep, ids[caption]))
        t = (timestep + 1) / len(OBJECTIVE.path)
        with torch.no_grad():
            text = pair.text(tokens)
        noisy = OBJECTIVE.path.add_noise(x0, eps, t).contiguous(memory_format=torch.channels_last)
        return OBJECTIVE.losses(unet(noisy, timestep, text).float(), x0, eps, t), None

    def averaged(average: UNet) -> StableDiffusion1:
        return StableDiffusion1(tokenizer, pair.text, average, autoencoder, options.size, preview=system.preview).eval()

    def save(average: UNet, path: Path, told: dict[str, str]) -> None:
        averaged(average).save(path, told, parts)

    def sample(average: UNet, path: Path) -> None:
        from helpers.show.figures import grid, save_png

        save_png(grid(averaged(average).generate(list(faces.captions[:24]), steps=25, progress=False)), path)

    return Task("sd1-toy-faces", unet.to(memory_format=torch.channels_last), losses, save, sample, parts)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.sd1.train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = made.add_argument
    add("--size", type=int, default=64, help="pixels a side")
    add("--limit", type=int, help="use this many training pictures at most")
    add("--clip", default="clip", help="weights of the text encoder: a name of the course, or a file")
    add("--autoencoder", default="autoencoder", help="weights of the autoencoder: a name of the course, or a file")
    add_run_arguments(made, steps=9000, batch_size=32, learning_rate=1.5e-3)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
