"""Train tiny Stable Diffusion: `python -m helpers.tiny_sd.train --method pixels|pretrained|own --help`.

Ctrl-C saves and stops; --resume goes on with the very numbers an uninterrupted run would give. Works alone and
under `accelerate launch`.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from helpers.autoencoders import train as autoencoder_training
from helpers.autoencoders.latents import Latents, encode_once
from helpers.autoencoders.load import load_autoencoder
from helpers.course import course_home
from helpers.data import Faces, load_faces
from helpers.data.animal_faces import weights_metadata
from helpers.tiny_sd.augment import PARAMETERS
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.codecs import CODECS, Codec, PixelCodec
from helpers.tiny_sd.model import TinySD, vocabulary_size
from helpers.tiny_sd.perceptual import PerceptualLoss
from helpers.tiny_sd.unet import UNetConfig
from helpers.training.arguments import NOT_RECORDED, add_face_arguments, add_run_arguments, command_line
from helpers.training.run import Task, train_command
from helpers.weights import read_metadata

AUTOENCODER_RECIPE = {"patch": 4, "batch-size": 16, "learning-rate": 0.003}  # small batches: more updates a minute
PIXEL_WIDTHS = UNetConfig.widths
LATENT_WIDTHS = (64, 96)  # latents are small: two resolutions, 8x8 and 4x4, are enough


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.tiny_sd.train",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add(
        "--method",
        choices=list(CODECS),
        default="pixels",
        help="what is diffused: 1 pixels, 2 a pretrained autoencoder's latents, 3 those of one trained on the faces",
    )
    add_face_arguments(made)
    add(
        "--autoencoder",
        help="of methods 2 and 3: a name, file, folder or hub repository, see "
        "helpers.autoencoders.load. None: the course's general one (2); trained first, in the run's folder (3)",
    )
    add("--autoencoder-steps", type=int, default=6000, help="where method 3 trains it")
    add("--autoencoder-channels", type=int, default=4, help="where method 3 trains it")
    add("--objective", choices=["flow", "epsilon"], default="flow", help="rectified flow, or DDPM's noise prediction")
    add("--widths", type=int, nargs="+", help=f"channels at each resolution; None: {PIXEL_WIDTHS} or {LATENT_WIDTHS}")
    add(
        "--patch",
        type=int,
        help="positions a side folded into channels; None: what makes 16x16 of 64x64 pixels, and 8x8 of their latents",
    )
    add("--blocks", type=int, default=UNetConfig.blocks, help="residual blocks per resolution")
    add("--dropout", type=float, default=UNetConfig.dropout, help="in the residual blocks")
    add(
        "--augment",
        type=float,
        default=0.0,
        metavar="PROBABILITY",
        help="of each non-leaking augmentation: scale, rotation, shift, contrast, brightness (method 1)",
    )
    add(
        "--perceptual",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="of a perceptual loss on the predicted image (method 1)",
    )
    add("--perceptual-encoder", help="autoencoder whose encoder compares the images: as for --autoencoder")
    add(
        "--perceptual-until",
        type=float,
        default=1.0,
        metavar="TIME",
        help="noise level, from 0 to 1, up to which the perceptual loss counts",
    )
    add("--perceptual-crop", type=int, metavar="PIXELS", help="a side of the random square that it compares")
    add_run_arguments(made, steps=9000, batch_size=32, learning_rate=1.5e-3)
    return made


def unet_config(options: argparse.Namespace, faces: Faces, codec: Codec) -> UNetConfig:
    """The sizes of the network that the options ask for, for what this codec gives."""
    pixels = codec.name == PixelCodec.name
    widths = tuple(options.widths or (PIXEL_WIDTHS if pixels else LATENT_WIDTHS))
    patch = options.patch or (UNetConfig.patch if pixels else max(1, 8 // codec.downsampling_factor))
    coarse = (
        not pixels and options.size // codec.downsampling_factor // patch <= 8
    )  # attention is cheap at the first resolution
    fold = codec.downsampling_factor * patch * 2 ** (len(widths) - 1)
    if options.size % fold:
        raise SystemExit(f"--size must be a multiple of {fold} with these --patch and --widths, got {options.size}")
    return UNetConfig(
        channels=codec.channels,
        patch=patch,
        widths=widths,
        blocks=options.blocks,
        attention=(coarse,) + (True,) * (len(widths) - 1),
        head_width=math.gcd(*widths[not coarse :], 32),
        classes=len(faces.class_names),
        words=vocabulary_size() if faces.attributes is not None else 0,
        fine=UNetConfig.fine if pixels else 0,  # detail is the decoder's task
        dropout=options.dropout,
        augmentation=PARAMETERS if options.augment else 0,
    )


def new_model(options: argparse.Namespace, faces: Faces, codec: Codec) -> TinySD:
    """An untrained TinySD for these faces; the same seed gives the same first weights."""
    config = unet_config(options, faces, codec)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = TinySD(config, options.objective, faces.class_names, options.size, codec)
    if options.perceptual:
        model.perceptual = PerceptualLoss(
            load_autoencoder(options.perceptual_encoder),
            options.perceptual,
            options.perceptual_until,
            options.perceptual_crop,
        )
    return model


def check_pixel_options(options: argparse.Namespace) -> None:
    """Raises SystemExit for options of method 1 that these options cannot have."""
    if (options.augment or options.perceptual) and options.method != PixelCodec.name:
        raise SystemExit("--augment and --perceptual work on images: with --method pixels only")
    if not 0 <= options.augment <= 1:
        raise SystemExit(f"--augment is a probability, got {options.augment}")
    if options.perceptual and not options.perceptual_encoder:
        raise SystemExit("--perceptual needs --perceptual-encoder: a name, file, folder or hub repository")


def sample(average: TinySD, path: Path) -> None:
    """A grid of fresh pictures: a row per class."""
    from helpers.show.figures import grid, save_png

    labels = [label for label in range(len(average.class_names)) for _ in range(8)]
    save_png(grid(average.generate(labels), columns=8), path)


def run_name(options: argparse.Namespace) -> str:
    """Of the run's folder."""
    return f"tiny_sd-{options.method}-{options.source}-{options.size}-{options.objective}"


def autoencoder_folder(options: argparse.Namespace) -> Path:
    """Where method 3 trains its autoencoder."""
    return (options.out or course_home() / "runs" / run_name(options)) / "autoencoder"


def build_codec(options: argparse.Namespace, faces: Faces, accelerator: Any) -> tuple[Codec, Latents | None]:
    """The codec of the method, and for latents those of all pictures, made once."""
    if options.method == PixelCodec.name:
        return PixelCodec(), None
    trained = autoencoder_folder(options) / "weights.safetensors"
    source = options.autoencoder or (trained if options.method == "own" else "general_autoencoder")
    autoencoder = load_autoencoder(source).to(accelerator.device)
    latents = encode_once(autoencoder, faces, progress=accelerator.is_main_process)
    return CODECS[options.method](autoencoder, latents.mean, latents.std, source), latents


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    faces = load_faces(options.source, "train", options.size, limit=options.limit, progress=accelerator.is_main_process)
    codec, latents = build_codec(options, faces, accelerator)
    batches = Batches(
        faces,
        options.batch_size,
        augment=options.augment,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        latents=latents,
    )
    model = new_model(options, faces, codec)
    description = model.describe()
    if latents is not None:  # what tells one training from another; not where the autoencoder lies
        description["codec"] = {name: description["codec"][name] for name in ("method", "fingerprint")}
    metadata = weights_metadata(faces)
    if latents is not None:
        metadata["encoding_core_minutes"] = f"{latents.core_seconds / 60:.1f}"
    return Task(run_name(options), model, batches.losses, TinySD.save, sample, description, model.unet, metadata)


def train_own_autoencoder(options: argparse.Namespace) -> int:
    """The first half of method 3, unless it was done before; the exit status of `helpers.autoencoders.train`.

    Raises SystemExit for what would stop the second half, or for a first half that was trained with other options.
    """
    folder = autoencoder_folder(options)
    faces = SimpleNamespace(class_names=(), attributes=None)
    codec = SimpleNamespace(name="own", channels=1, downsampling_factor=4)
    unet_config(options, faces, codec)
    if (folder.parent / "log.jsonl").exists() and not options.resume:
        raise SystemExit(
            f"{folder.parent} holds a training already: add --resume to go on with it, or --out another folder"
        )
    words = {
        "source": options.source,
        "size": options.size,
        "limit": options.limit,
        "seed": options.seed,
        "precision": options.precision,
        "steps": options.autoencoder_steps,
        "latent-channels": options.autoencoder_channels,
        **AUTOENCODER_RECIPE,
    }
    argv = [text for name, value in words.items() if value is not None for text in (f"--{name}", str(value))]
    if (folder / "weights.safetensors").exists():
        made = read_metadata(folder / "weights.safetensors")["command"]
        parser = autoencoder_training.parser()
        settings = {name: value for name, value in vars(parser.parse_args(argv)).items() if name not in NOT_RECORDED}
        if made != (wanted := command_line(parser, settings)):
            raise SystemExit(
                f"{folder} holds an autoencoder made by\n  {made}\nand not by\n  {wanted}\n"
                "Same options, or --out another folder"
            )
        return 0
    resume = ["--resume"] if options.resume and folder.exists() else []
    return autoencoder_training.main([*argv, "--out", str(folder), *resume], more=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    options = parser().parse_args(argv)
    check_pixel_options(options)
    if options.method == "own" and not options.autoencoder and (status := train_own_autoencoder(options)):
        return status
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
