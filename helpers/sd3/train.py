"""Train the tiny Stable Diffusion 3 on synthetic faces: `python -m helpers.sd3.train --help`.

The first text encoder is the shipped tiny CLIP, and the autoencoder is pretrained. The transformer is trained by flow
matching (Esser et al. 2024, section 3), and with it, from scratch, the two other text encoders: tiny stand-ins for
OpenCLIP's and T5's, which in the original are pretrained on billions of texts and frozen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.diffusion import FlowPath, Objective
from helpers.layers.attention import zero_module
from helpers.sd3.encoders import CLIPStates, TextEncoders, concat_text, encode_clip
from helpers.sd3.mmdit import MMDiT, MMDiTConfig
from helpers.sd3.pipeline import SD3Config, StableDiffusion3
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import CLIPTowerConfig, TextTower
from helpers.text.contrastive import CLIP
from helpers.text.t5 import T5Config, T5Encoder, train_t5_tokenizer
from helpers.text_to_image.captioned_latents import CaptionedLatents
from helpers.training.arguments import image_size, naming_option, positive_int, training_parser
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command
from helpers.weights import read_metadata

if TYPE_CHECKING:
    from accelerate import Accelerator

WITHOUT_T5 = 0.25  # share of examples whose T5 states are zero, so that the system works without T5
T5_LENGTH = 24  # tokens
OBJECTIVE = Objective(FlowPath(), "velocity", "velocity", times="logit-normal")  # SD3, section 3.1


def tiny_config(clip: CLIPTowerConfig, t5_vocabulary: int, autoencoder: KLConfig, size: int) -> SD3Config:
    """A transformer over 8x8 tokens, and encoders small enough to ship.

    Args:
        clip: of the first text encoder, which projects.
        t5_vocabulary: tokens of T5's tokenizer.
        autoencoder: of the latents.
        size: pixels a side.
    """
    projection = 64
    clip_g = CLIPTowerConfig(
        width=96,
        layers=2,
        heads=4,
        mlp=384,
        activation="gelu",
        projection=projection,
        vocabulary=clip.vocabulary,
        length=clip.length,
    )
    t5 = T5Config(
        vocabulary=t5_vocabulary, width=96, layers=2, heads=4, head_width=24, mlp=256, num_buckets=16, max_distance=24
    )
    side = size // autoencoder.downsampling_factor // 2
    transformer = MMDiTConfig(
        latent_channels=autoencoder.latent_channels,
        width=144,
        layers=6,
        heads=6,
        text_width=clip.width + clip_g.width,
        pooled_width=(clip.projection or clip.width) + projection,
        pos_embed_max_size=3 * side,
        pos_embed_base_size=side,
    )
    return SD3Config(transformer, autoencoder, clip, clip_g, t5, t5_length=T5_LENGTH, size=size, shift=1.0)


class TrainedParts(nn.Module):
    """What is trained: the transformer, and the two text encoders that are trained with it."""

    def __init__(self, transformer: MMDiT, clip_g: TextTower, t5: T5Encoder):
        super().__init__()
        self.transformer = transformer
        self.clip_g = clip_g
        self.t5 = t5

    def forward(
        self, x: Tensor, t: Tensor, clip_l: CLIPStates, ids: tuple[Tensor, Tensor], end: int, with_t5: Tensor
    ) -> Tensor:
        """Velocity (B, C, h, w).

        Args:
            x, t: (B, C, h, w) noisy latents, and (B,) their times.
            clip_l: output of the first encoder.
            ids: tokens for the second and for the third; `eos_id` is the second's end token.
            with_t5: bool (B,): for the others the third's states are zero.
        """
        states_t5 = self.t5(ids[1]) * with_t5[:, None, None]
        states_g = encode_clip(self.clip_g, ids[0], end)
        condition = concat_text(clip_l, states_g, states_t5, self.transformer.config.text_width)
        return self.transformer(x, t, *condition)


def new_parts(config: SD3Config, seed: int) -> TrainedParts:
    """Initialise what is trained; by adaLN-zero every block of the transformer begins as the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = MMDiT(config.transformer)
        trained = TrainedParts(transformer, TextTower(config.clip_g), T5Encoder(config.t5))
    for name, module in transformer.named_modules():
        if name.endswith("modulation"):
            zero_module(module)
    zero_module(transformer.head)
    return trained


def task(options: argparse.Namespace, accelerator: "Accelerator") -> Task:
    """Load the data and the frozen parts, build the others, and return what `train_command` needs to train them."""
    device = accelerator.device
    with naming_option("--clip"):
        clip_model, tokenizer = CLIP.from_weights(options.clip)
    with naming_option("--autoencoder"):
        autoencoder = KLAutoencoder.from_weights(options.autoencoder).to(device)
    clip_l = clip_model.text.to(device)
    files = {"clip": options.clip, "autoencoder": options.autoencoder}
    parts = {part: read_metadata(file)["sha256"] for part, file in files.items()}
    data = CaptionedLatents(autoencoder, options.size, options.limit, progress=accelerator.is_main_process)
    t5_tokenizer = train_t5_tokenizer(data.texts, T5_LENGTH)
    tokenizer_g = BytePairTokenizer(tokenizer.merges, tokenizer.length, padding=0)
    ids = tokenizer(data.texts), tokenizer_g(data.texts), t5_tokenizer(data.texts)  # (number of texts, L) each
    config = tiny_config(clip_model.text.config, len(t5_tokenizer), autoencoder.config, options.size)
    trained = new_parts(config, options.seed)

    def losses(trained: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        B = options.batch_size
        index, caption = data.sample_indices(B, generator)
        with_t5 = torch.rand(B, generator=generator) >= WITHOUT_T5
        t = OBJECTIVE.sample_times(B, generator)
        x0 = data.sample_latents(index, generator)
        eps = torch.randn(x0.shape, generator=generator)
        x0, eps, t, with_t5 = (process_share(accelerator, x).to(device) for x in (x0, eps, t, with_t5))
        ids_l, ids_g, ids_t5 = (process_share(accelerator, tokens[caption]).to(device) for tokens in ids)
        with torch.no_grad():
            states_l = encode_clip(clip_l, ids_l, tokenizer.eos_id)
        x_t = OBJECTIVE.path.add_noise(x0, eps, t)
        velocity = trained(x_t, t, states_l, (ids_g, ids_t5), tokenizer.eos_id, with_t5)
        return OBJECTIVE.losses(velocity.float(), x0, eps, t, x_t), None

    def with_parts(average: Any) -> StableDiffusion3:
        """The system around averaged parts."""
        encoders = TextEncoders(
            clip_l,
            average.clip_g,
            average.t5,
            tokenizer,
            t5_tokenizer,
            config.transformer.text_width,
            config.t5_length,
        )
        return StableDiffusion3(encoders, average.transformer, autoencoder, config, data.rgb_factors).eval()

    def save(average: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        with_parts(average).save(path, metadata, parts)

    def sample(average: nn.Module, path: Path) -> None:
        from helpers.show.figures import grid, save_png

        images = with_parts(average).generate(data.prompts, steps=20, guidance_scale=4.0, progress=False)
        save_png(grid(images), path)

    return Task("sd3-toy-faces", trained, losses, save, sample, parts)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    return training_parser(
        "helpers.sd3.train", __doc__, _add_arguments, steps=12_000, batch_size=32, learning_rate=1e-3
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=image_size, default=64, help="pixels a side")
    parser.add_argument("--limit", type=positive_int, help="use at most this many training images")
    parser.add_argument(
        "--clip", default="clip", help="weights of the first text encoder: a name of the course, or a file"
    )
    parser.add_argument(
        "--autoencoder", default="autoencoder_16", help="weights of the autoencoder: a name of the course, or a file"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
