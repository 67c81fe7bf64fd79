"""Train the mask autoencoder behind `<seg>` on the outlines of drawn faces: `python -m helpers.vlm.train_masks --help`.

A minute on two CPU cores. Alphabet: B batch, N faces.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.data.drawing import attributes_of
from helpers.training.arguments import add_run_arguments
from helpers.training.run import Task, train_command
from helpers.vlm.examples import cut_masks
from helpers.vlm.mask_codes import MaskAutoencoder, MaskConfig


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    masks = cut_masks(attributes_of("train", options.faces, seed=0))  # (N, 64, 64)
    config = MaskConfig.tiny()
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = MaskAutoencoder(config)

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        chosen = torch.randint(len(masks), (options.batch_size,), generator=generator)
        mirrored = torch.rand(options.batch_size, generator=generator) < 0.5
        batch = torch.where(mirrored[:, None, None], masks[chosen].flip(-1), masks[chosen])
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        return model(batch[mine].to(accelerator.device)), None

    def sample(average: MaskAutoencoder, path: Path) -> None:
        from helpers.show.figures import compare, save_png

        some = masks[:8].to(accelerator.device)
        with torch.no_grad():
            again = average.decode(average.encode(some))
        save_png(compare({"mask": _grey(some), "decoded": _grey(again)}), path)

    return Task(
        "masks-toy-faces", model, losses, lambda average, path, told: average.save(path, told), sample, asdict(config)
    )


def _grey(masks: Tensor) -> Tensor:
    """(B, H, W) in [0, 1] -> (B, 3, H, W) in [-1, 1]."""
    return (2 * masks[:, None] - 1).expand(-1, 3, -1, -1)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.vlm.train_masks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--faces", type=int, default=6000, help="drawn to learn from")
    add_run_arguments(made, steps=1500, batch_size=64, learning_rate=2e-3)
    made.set_defaults(ema=0.995)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
