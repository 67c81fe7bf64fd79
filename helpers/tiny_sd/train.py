"""Train tiny Stable Diffusion: `python -m helpers.tiny_sd.train --method pixels --help`.

Ctrl-C saves and stops; --resume goes on with the very numbers an uninterrupted run would give. Works alone and
under `accelerate launch`.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from helpers.data import Faces, load_faces
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD, vocabulary_size
from helpers.tiny_sd.unet import UNetConfig
from helpers.training.run import Task, add_run_arguments, train_command


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(prog="python -m helpers.tiny_sd.train", description=__doc__,
                                   formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    add = made.add_argument
    add("--method", choices=["pixels"], default="pixels", help="what is diffused")
    add("--source", choices=["toy-faces", "animal-faces"], default="toy-faces", help="pictures to learn from")
    add("--size", type=int, default=64, help="pixels a side, a multiple of 16")
    add("--limit", type=int, help="use this many training pictures at most")
    add("--objective", choices=["flow", "epsilon"], default="flow", help="rectified flow, or DDPM's noise prediction")
    add("--widths", type=int, nargs="+", default=list(UNetConfig.widths), help="channels at each resolution")
    add("--patch", type=int, default=UNetConfig.patch, help="pixels a side folded into channels; 1 folds nothing")
    add("--blocks", type=int, default=UNetConfig.blocks, help="residual blocks per resolution")
    add("--dropout", type=float, default=UNetConfig.dropout, help="in the residual blocks")
    add_run_arguments(made, steps=9000, batch_size=32, learning_rate=1.5e-3)
    return made


def new_model(options: argparse.Namespace, faces: Faces) -> TinySD:
    """An untrained TinySD for these faces; the same seed gives the same first weights."""
    levels = len(options.widths)
    config = UNetConfig(
        patch=options.patch,
        widths=tuple(options.widths),
        blocks=options.blocks,
        attention=(False,) + (True,) * (levels - 1),
        head_width=math.gcd(*options.widths[1:], 32),
        classes=len(faces.class_names),
        words=vocabulary_size() if faces.attributes is not None else 0,
        dropout=options.dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        return TinySD(config, options.objective, faces.class_names, options.size, PixelCodec())


def sample(average: TinySD, path: Path) -> None:
    """A grid of fresh pictures: a row per class."""
    from helpers.show.figures import grid, save_png

    labels = [label for label in range(len(average.class_names)) for _ in range(8)]
    save_png(grid(average.generate(labels), columns=8), path)


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    faces = load_faces(options.source, "train", options.size, limit=options.limit, progress=accelerator.is_main_process)
    batches = Batches(faces, options.batch_size, process=accelerator.process_index,
                      processes=accelerator.num_processes)  # fmt: skip
    model = new_model(options, faces)
    name = f"tiny_sd-{options.method}-{options.source}-{options.size}-{options.objective}"
    return Task(name, model, batches.losses, TinySD.save, sample, model.describe(), compiled=model.unet)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
