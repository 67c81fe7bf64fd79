"""Train the mask autoencoder behind the `<seg>` tokens on synthetic faces: `python -m helpers.vlm.train_masks --help`.

It takes a minute on two CPU cores. Alphabet: B batch, N faces.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from helpers.data.drawing import attributes_of
from helpers.training.arguments import positive_int, training_parser
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command
from helpers.vlm.examples import crop_face_masks
from helpers.vlm.mask_codes import MaskAutoencoder, MaskConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def task(options: argparse.Namespace, accelerator: Accelerator) -> Task:
    """Render the masks and build model, loss and sampling as the options say."""
    masks = crop_face_masks(attributes_of("train", options.faces, seed=0))  # (N, 64, 64)
    config = MaskConfig.tiny()
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = MaskAutoencoder(config)

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        indices = torch.randint(len(masks), (options.batch_size,), generator=generator)
        mirrored = torch.rand(options.batch_size, generator=generator) < 0.5
        batch = torch.where(mirrored[:, None, None], masks[indices].flip(-1), masks[indices])
        return model(process_share(accelerator, batch).to(accelerator.device)), None

    def sample(average: MaskAutoencoder, path: Path) -> None:
        from helpers.show.figures import compare, save_png

        originals = masks[:8].to(accelerator.device)
        with torch.no_grad():
            reconstructions = average.decode(average.encode(originals))
        save_png(compare({"mask": _to_rgb(originals), "decoded": _to_rgb(reconstructions)}), path)

    return Task("masks-toy-faces", model, losses, MaskAutoencoder.save, sample, asdict(config))


def _to_rgb(masks: Tensor) -> Tensor:
    """(B, H, W) in [0, 1] -> (B, 3, H, W) in [-1, 1]."""
    return (2 * masks[:, None] - 1).expand(-1, 3, -1, -1)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    return training_parser(
        "helpers.vlm.train_masks",
        __doc__,
        _add_arguments,
        steps=1500,
        batch_size=64,
        learning_rate=2e-3,
        ema=0.995,
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--faces", type=positive_int, default=6000, help="synthetic faces to train on")


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
