"""Train a quantised autoencoder on faces: `python -m helpers.autoencoders.train_vq --help`.

64x64 pixels become a map of 16x16 codes (van den Oord et al. 2017). Four by four pixels are folded into one position
first, and most of the work is done in bfloat16: ten minutes on two CPU cores. Alphabet: B batch, H W of the picture,
h w of the map, N pictures, K codes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.autoencoders.losses import ReconstructionLoss, add_loss_arguments, reconstruction_loss
from helpers.autoencoders.quantizers import usage
from helpers.autoencoders.train import drawn_batch, with_measured_scale
from helpers.autoencoders.vq import VQAutoencoder, VQConfig
from helpers.data import load_faces
from helpers.data.animal_faces import weights_metadata
from helpers.training.arguments import add_face_arguments, add_run_arguments
from helpers.training.run import Task, train_command


def tiny_config(K: int = 1024) -> VQConfig:
    """64x64 pixels become 16x16 codes of 4 numbers; all layers work at 16x16, where a channel costs little."""
    return VQConfig(
        width=64, multipliers=(1,), blocks=1, latent_channels=4, groups=8, patch=4, K=K, code_width=4, ema=True
    )


class Reconstruction(nn.Module):
    """A quantised autoencoder as a training sees it: pictures in, losses out."""

    def __init__(self, autoencoder: VQAutoencoder, loss: ReconstructionLoss):
        super().__init__()
        self.autoencoder = autoencoder
        self.loss = loss

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B,) error and what the quantiser asks for."""
        again, quantized = self.autoencoder(pictures)
        error = self.loss(pictures, again, self.autoencoder.decoder.head.weight)
        return error + quantized.loss.flatten(1).mean(1)


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    config = tiny_config(options.codes)
    if options.size % config.downsampling_factor:
        raise SystemExit(f"--size must be a multiple of {config.downsampling_factor}, got {options.size}")
    faces = load_faces(options.source, "train", options.size, limit=options.limit, progress=accelerator.is_main_process)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = Reconstruction(VQAutoencoder(config), reconstruction_loss(options))

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        return model(drawn_batch(faces, options.batch_size, generator)[mine].to(accelerator.device)), None

    def save(average: Reconstruction, path: Path, told: dict[str, str]) -> None:
        with_measured_scale(average.autoencoder, faces).save(path, told | {"compared_by": model.loss.sees})

    def sample(average: Reconstruction, path: Path) -> None:
        from helpers.show.figures import compare, save_png

        pictures = faces.tensor(slice(0, 8), accelerator.device)
        with torch.no_grad():
            again, quantized = average.autoencoder(pictures)
        print(usage(quantized.indices, config.K), flush=True)
        save_png(compare({"picture": pictures, "decoded": again}), path)

    return Task(
        f"vq-{options.source}-{options.size}",
        model,
        losses,
        save,
        sample,
        asdict(config) | {"compared_by": model.loss.sees},
        extra_metadata=weights_metadata(faces),
    )


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.autoencoders.train_vq",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_face_arguments(made)
    made.add_argument("--codes", type=int, default=1024, help="in the codebook")
    add_loss_arguments(made, error="mse")
    add_run_arguments(made, steps=6000, batch_size=16, learning_rate=4e-3)
    made.set_defaults(precision="bf16", ema=0.998)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
