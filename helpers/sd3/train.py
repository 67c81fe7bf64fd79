"""Train the tiny Stable Diffusion 3 on drawn faces: `python -m helpers.sd3.train --help`.

The first text encoder is the shipped tiny CLIP, and the autoencoder is trained before. The transformer learns by flow
matching (Esser et al. 2024, section 3), and with it, from nothing, the two other text encoders: tiny stand-ins for
OpenCLIP's and T5's, which in the original learned from billions of other texts first and then stay as they are.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import DiagonalGaussian, KLAutoencoder, KLConfig
from helpers.autoencoders.train import encode_all, fitted_preview
from helpers.data import load_faces
from helpers.data.captions import caption_variants
from helpers.diffusion import FlowPath, Objective
from helpers.layers.attention import zero_module
from helpers.sd3.encoders import TextEncoders, laid_out, read
from helpers.sd3.mmdit import MMDiT, MMDiTConfig
from helpers.sd3.pipeline import SD3Config, StableDiffusion3
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import CLIPTowerConfig, TextTower
from helpers.text.contrastive import CLIP
from helpers.text.t5 import T5Config, T5Encoder, learned_t5_tokenizer
from helpers.training.arguments import add_run_arguments
from helpers.training.run import Task, train_command
from helpers.weights import read_metadata

WORDINGS = 4  # captions per face: the full one, and three that leave details out
DROPPED = 0.1  # share of examples that lose their caption, so that guidance has something to lead away from
WITHOUT_T5 = 0.25  # share of examples for which T5 is silent, so that the system works without it
T5_LENGTH = 24  # tokens
OBJECTIVE = Objective(FlowPath(), "velocity", "velocity", times="logit-normal")  # SD3, section 3.1


def tiny_config(clip: CLIPTowerConfig, words: int, autoencoder: KLConfig, size: int) -> SD3Config:
    """A transformer over 8x8 tokens, and encoders small enough to ship."""
    second = CLIPTowerConfig(
        width=96,
        layers=2,
        heads=4,
        mlp=384,
        activation="gelu",
        projection=64,
        vocabulary=clip.vocabulary,
        length=clip.length,
    )
    third = T5Config(vocabulary=words, width=96, layers=2, heads=4, head_width=24, mlp=256, buckets=16, farthest=24)
    widths = {"text_width": clip.width + second.width, "pooled_width": clip.projection + second.projection}
    side = size // autoencoder.downsampling_factor // 2
    transformer = MMDiTConfig(
        latent_channels=autoencoder.latent_channels, width=144, layers=6, heads=6, table=3 * side, base=side, **widths
    )
    return SD3Config(transformer, autoencoder, clip, second, third, t5_length=T5_LENGTH, size=size, shift=1.0)


class Learner(nn.Module):
    """What is trained: the transformer, and the two text encoders that learn with it."""

    def __init__(self, transformer: MMDiT, clip_g: TextTower, t5: T5Encoder):
        super().__init__()
        self.transformer = transformer
        self.clip_g = clip_g
        self.t5 = t5

    def forward(
        self, x: Tensor, t: Tensor, first: tuple[Tensor, Tensor], ids: tuple[Tensor, Tensor], end: int, with_t5: Tensor
    ) -> Tensor:
        """Velocity (B, C, h, w).

        Args:
            first: states and summary of the first encoder.
            ids: tokens for the second and for the third; `end` closes a text of the second.
            with_t5: bool (B,): for the others the third is silent.
        """
        third = self.t5(ids[1]) * with_t5[:, None, None]
        condition = laid_out(first, read(self.clip_g, ids[0], end), third, self.transformer.config.text_width)
        return self.transformer(x, t, *condition)


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    main = accelerator.is_main_process
    device = accelerator.device
    faces = load_faces("toy-faces", "train", options.size, limit=options.limit, progress=main)
    (pair, words) = CLIP.from_weights(options.clip)
    autoencoder = KLAutoencoder.from_weights(options.autoencoder)
    texts = [*caption_variants(faces.attributes, WORDINGS), ""]
    t5_words = learned_t5_tokenizer(texts, T5_LENGTH)
    config = tiny_config(pair.text.config, len(t5_words), autoencoder.config, options.size)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        learner = Learner(MMDiT(config.transformer), TextTower(config.clip_g), T5Encoder(config.t5))
        for block in learner.transformer.blocks:  # adaLN-zero: every block begins as the identity
            zero_module(block.text.modulation), zero_module(block.picture.modulation)
        zero_module(learner.transformer.modulation), zero_module(learner.transformer.head)
    autoencoder = autoencoder.to(device)
    clip = pair.text.to(device)
    files = {"clip": options.clip, "autoencoder": options.autoencoder}
    parts = {part: read_metadata(file)["sha256"] for part, file in files.items()}
    pictures = faces.tensor()
    codes = encode_all(autoencoder, torch.cat([pictures, pictures.flip(-1)]), progress=main)  # mirrored: same captions
    scale = config.autoencoder.scale
    shift = config.autoencoder.shift
    preview = fitted_preview((codes.mean[: len(faces)] - shift) * scale, pictures)
    second_words = BytePairTokenizer(words.merges, words.length, padding=0)
    ids = words(texts), second_words(texts), t5_words(texts)  # (N * WORDINGS + 1, L) each

    def losses(learner: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        B = options.batch_size
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        chosen = torch.randint(len(codes.mean), (B,), generator=generator)
        caption = chosen % len(faces) * WORDINGS + torch.randint(WORDINGS, (B,), generator=generator)
        caption = torch.where(torch.rand(B, generator=generator) < DROPPED, len(texts) - 1, caption)
        with_t5 = torch.rand(B, generator=generator) >= WITHOUT_T5
        t = OBJECTIVE.sample_times(B, generator)
        x0 = (DiagonalGaussian(codes.mean[chosen], codes.logvar[chosen]).sample(generator) - shift) * scale
        eps = torch.randn(x0.shape, generator=generator)
        x0, eps, t, with_t5 = (x[mine].to(device) for x in (x0, eps, t, with_t5))
        first, second, third = (tokens[caption][mine].to(device) for tokens in ids)
        with torch.no_grad():
            given = read(clip, first, words.end)
        velocity = learner(OBJECTIVE.path.add_noise(x0, eps, t), t, given, (second, third), words.end, with_t5)
        return OBJECTIVE.losses(velocity.float(), x0, eps, t), None

    def system(average: Learner) -> StableDiffusion3:
        readers = TextEncoders(
            clip, average.clip_g, average.t5, words, t5_words, config.transformer.text_width, config.t5_length
        )
        return StableDiffusion3(readers, average.transformer, autoencoder, config, preview).eval()

    def save(average: Learner, path: Path, told: dict[str, str]) -> None:
        system(average).save(path, told, parts)

    def sample(average: Learner, path: Path) -> None:
        from helpers.show.figures import grid, save_png

        save_png(
            grid(system(average).generate(list(faces.captions[:24]), steps=20, guidance_scale=4.0, progress=False)),
            path,
        )

    return Task("sd3-toy-faces", learner, losses, save, sample, parts)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.sd3.train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = made.add_argument
    add("--size", type=int, default=64, help="pixels a side")
    add("--limit", type=int, help="use this many training pictures at most")
    add("--clip", default="clip", help="weights of the first text encoder: a name of the course, or a file")
    add("--autoencoder", default="autoencoder_16", help="weights of the autoencoder: a name of the course, or a file")
    add_run_arguments(made, steps=12_000, batch_size=32, learning_rate=1e-3)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
