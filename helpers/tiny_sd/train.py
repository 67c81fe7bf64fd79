"""Train tiny Stable Diffusion: `python -m helpers.tiny_sd.train --method pixels|pretrained|own --help`.

Ctrl-C saves and stops; --resume goes on with the very numbers an uninterrupted run would give. Works alone and
under `accelerate launch`.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from helpers.autoencoders import train as autoencoder_training
from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.latents import Latents, cache_latents
from helpers.autoencoders.load import load_autoencoder
from helpers.course import course_home
from helpers.data import Faces, load_faces
from helpers.data.animal_faces import weights_metadata
from helpers.data.own_images import source_name
from helpers.data.sizes import height_and_width, size_text
from helpers.tiny_sd.augment import PARAMETERS
from helpers.tiny_sd.batches import Batches, Details
from helpers.tiny_sd.codecs import CODECS, LATENT_CODECS, Codec, PixelCodec, TrainedCodec
from helpers.tiny_sd.model import TinySD, vocabulary_size
from helpers.tiny_sd.own_captions import CaptionTokenizer, caption_tokenizer
from helpers.tiny_sd.perceptual import PerceptualLoss
from helpers.tiny_sd.samples import Samples, label_agreement
from helpers.tiny_sd.start import (
    check_same_network,
    copy_network,
    inherited_metadata,
    network_options,
    started_config,
)
from helpers.tiny_sd.unet import UNetConfig
from helpers.tiny_sd.validation import IMAGES as VALIDATED
from helpers.tiny_sd.validation import Validation
from helpers.training.arguments import (
    NOT_RECORDED,
    add_face_arguments,
    check_multiple,
    command_line,
    naming_option,
    non_negative_float,
    positive_float,
    positive_int,
    probability,
    share_below_1,
    training_images,
    training_parser,
)
from helpers.training.interrupt import ignoring_broken_pipe
from helpers.training.run import Task, run_task
from helpers.training.setup import check_folders
from helpers.weights import TRAINING_COMMANDS, read_metadata

if TYPE_CHECKING:
    from accelerate import Accelerator

AUTOENCODER_RECIPE: dict[str, Any] = {
    "patch": 4,
    "batch_size": 16,
    "learning_rate": 0.003,
}  # small batches: more updates per minute
MAX_COPIED = 64 * 2**20  # bytes of an autoencoder that is copied into the run's folder
PIXEL_WIDTHS = UNetConfig.widths
P_DROP_CLASS = 0.4  # of images with captions of their own: a prompt is a caption alone
LATENT_WIDTHS = (64, 96)  # latents are small: two resolutions, 8x8 and 4x4, are enough


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    return training_parser(
        "helpers.tiny_sd.train", __doc__, _add_arguments, steps=9000, batch_size=32, learning_rate=1.5e-3
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--method",
        choices=list(CODECS),
        default="pixels",
        help="what is diffused: 1 pixels, 2 a pretrained autoencoder's latents, 3 those of one trained on the faces",
    )
    add_face_arguments(parser)
    add("--captions", choices=["yes", "no"], default="yes", help="whether to learn the images' captions, if any")
    add(
        "--start",
        metavar="WEIGHTS",
        help="fine-tune: begin with this trained network, a name of the course's or a file; method, size, widths and "
        "so on are then its own, and classes of the same name keep what it knows of them",
    )
    add(
        "--autoencoder",
        help="of methods 2 and 3: a name, file, folder or hub repository, see "
        "helpers.autoencoders.load. None: the course's general one (2); trained first, in the run's folder (3)",
    )
    add("--autoencoder-steps", type=positive_int, default=6000, help="of the autoencoder that method 3 trains first")
    add("--autoencoder-channels", type=positive_int, default=4, help="latent channels of that autoencoder")
    add("--objective", choices=["flow", "epsilon"], default="flow", help="rectified flow, or DDPM's noise prediction")
    add(
        "--shift",
        type=positive_float,
        default=1.0,
        help="of the noise levels that it trains on, towards more noise: pixels need more of it than latents, because "
        "the eye and the network average over them (SD3, eq. 23)",
    )
    add(
        "--widths",
        type=positive_int,
        nargs="+",
        help=f"channels at each resolution; None: {PIXEL_WIDTHS} or {LATENT_WIDTHS}",
    )
    add(
        "--patch",
        type=positive_int,
        help="positions per side that become channels; None: 64x64 pixels become 16x16, and their latents 8x8",
    )
    add("--blocks", type=positive_int, default=UNetConfig.blocks, help="residual blocks per resolution")
    add("--dropout", type=share_below_1, default=UNetConfig.dropout, help="in the residual blocks")
    add(
        "--augment",
        type=probability,
        default=0.0,
        metavar="PROBABILITY",
        help="of each non-leaking augmentation: scale, rotation, shift, contrast, brightness (method 1)",
    )
    add(
        "--perceptual",
        type=non_negative_float,
        default=0.0,
        metavar="WEIGHT",
        help="of a perceptual loss on the predicted image (method 1)",
    )
    add("--perceptual-encoder", help="autoencoder whose encoder compares the images: as for --autoencoder")
    add(
        "--perceptual-until",
        type=probability,
        default=1.0,
        metavar="TIME",
        help="noise level, from 0 to 1, up to which the perceptual loss counts",
    )
    add("--perceptual-crop", type=positive_int, metavar="PIXELS", help="side of the random square that it compares")


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    options = parse_options(argv)
    check_options(options)
    if options.method == TrainedCodec.name and not options.autoencoder:
        status = train_own_autoencoder(options)
        if status != 0:
            return status
        if options.dry_run and not (autoencoder_folder(options) / "weights.safetensors").exists():
            print(f"This is the autoencoder; {options.steps:,} steps in its latents follow, which need it trained.")
            return 0
    return run_task(parser(), options, task)


def parse_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line. With --start, options that describe the network are by default those of the trained one.

    Raises:
        SystemExit: for options that do not exist or contradict the weights of --start, and if these cannot be loaded.
    """
    command = parser()
    options = command.parse_args(argv)
    if options.start:
        with naming_option("--start"):
            start = TinySD.from_weights(options.start)
            command.set_defaults(**network_options(start))
            options = command.parse_args(argv)
            check_same_network(options, start)
    return options


def check_options(options: argparse.Namespace) -> None:
    """Raise SystemExit for options that the method does not have, and for values that do not go together."""
    check_folders(options)
    if any(width % 2 for width in options.widths or ()):
        raise SystemExit(f"--widths must be even: half of a time embedding is sines, got {options.widths}")
    if options.method == PixelCodec.name:
        _widths_and_patch(options, pixels=True, downsampling_factor=PixelCodec.downsampling_factor)
    if options.perceptual_crop and options.perceptual_crop > min(height_and_width(options.size)):
        raise SystemExit(f"--perceptual-crop {options.perceptual_crop} is larger than --size {size_text(options.size)}")
    if options.shift != 1 and options.objective != "flow":
        raise SystemExit(f"--shift {options.shift:g} is for --objective flow only: DDPM's schedule has no shift")
    if (options.augment or options.perceptual) and options.method != PixelCodec.name:
        raise SystemExit("--augment and --perceptual work on images: with --method pixels only")
    if options.perceptual and not options.perceptual_encoder:
        raise SystemExit("--perceptual needs --perceptual-encoder: a name, file, folder or hub repository")


def task(options: argparse.Namespace, accelerator: Accelerator) -> Task:
    """Load the images and build codec, batches and network as the options say."""
    autoencoder = chosen_autoencoder(options)  # before the images: an autoencoder that is not there costs no drawing
    faces = training_images(options, progress=accelerator.is_main_process)
    if options.captions == "no":
        faces = replace(faces, captions=None, attributes=None)
    codec, latents = build_codec(options, faces, accelerator, autoencoder)
    model = new_model(options, faces, codec)
    batches = Batches(
        faces,
        options.batch_size,
        p_drop_class=Batches.p_drop_class if model.tokenizer is None else P_DROP_CLASS,
        augment=options.augment,
        accelerator=accelerator,
        latents=latents,
        tokenizer=model.tokenizer,
    )
    description = model.describe()
    metadata = (inherited_metadata(options.start) if options.start else {}) | weights_metadata(faces)
    if model.tokenizer is not None and faces.captions is not None:
        metadata["captions"] = model.tokenizer.summary(faces.captions)
        if accelerator.is_main_process:
            ignoring_broken_pipe(print, f"captions: {metadata['captions']}", file=sys.stderr, flush=True)
    if latents is not None:
        # a training is recognised by the autoencoder's weights, wherever they lie, and not by the last digits of means
        description["codec"] = {name: description["codec"][name] for name in ("method", "fingerprint")}
        metadata["encoding_core_minutes"] = f"{latents.core_seconds / 60:.1f}"
    return Task(
        name=run_name(options),
        model=model,
        loss_fn=batches.losses,
        save=TinySD.save,
        sample=Samples(faces, with_captions=model.tokenizer is not None),
        validate=validation(options, faces, model, accelerator),
        describe_batch=Details.summary,
        facts=facts(faces),
        description=description,
        compile_target=model.unet,
        extra_metadata=metadata,
    )


def run_name(options: argparse.Namespace) -> str:
    """The name of the run's folder."""
    return f"tiny_sd-{options.method}-{source_name(options.source)}-{size_text(options.size)}-{options.objective}"


def autoencoder_source(options: argparse.Namespace) -> str | Path:
    """Name or path of the autoencoder of methods 2 and 3."""
    trained = autoencoder_folder(options) / "weights.safetensors"
    return options.autoencoder or (trained if options.method == TrainedCodec.name else "general_autoencoder")


def chosen_autoencoder(options: argparse.Namespace) -> Autoencoder | None:
    """Load the autoencoder of methods 2 and 3; None for method 1.

    Raises:
        SystemExit: for one that cannot be loaded, and for images that it or the network cannot take.
    """
    if options.method == PixelCodec.name:
        return None
    with naming_option("--autoencoder"):
        autoencoder = load_autoencoder(autoencoder_source(options))
    _widths_and_patch(options, pixels=False, downsampling_factor=autoencoder.config.downsampling_factor)
    return autoencoder


def build_codec(
    options: argparse.Namespace, faces: Faces, accelerator: Accelerator, autoencoder: Autoencoder | None = None
) -> tuple[Codec, Latents | None]:
    """Build the codec of the method; for methods 2 and 3 also encode all images, once.

    Args:
        autoencoder: of `chosen_autoencoder`; None: it is called here.
    """
    autoencoder = autoencoder or chosen_autoencoder(options)
    if autoencoder is None:
        return PixelCodec(), None
    autoencoder = autoencoder.to(accelerator.device)
    latents = cache_latents(autoencoder, faces, progress=accelerator.is_main_process)
    source = autoencoder_source(options)
    if accelerator.is_main_process and not options.dry_run:
        _copy_beside(source, autoencoder_folder(options))
    return LATENT_CODECS[options.method](autoencoder, latents.mean, latents.std, source), latents


def _copy_beside(source: str | Path, folder: Path) -> None:
    """Copy a small autoencoder of this computer into the run's folder, so that the run can move to another one.

    Saved weights name no folder of this computer. What ships, or comes from the hub, is found by its name, and large
    ones are passed as autoencoder= to `TinySD.from_weights`.
    """
    path = Path(source).expanduser()
    if str(source) in TRAINING_COMMANDS or not path.exists() or folder in path.parents:
        return
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    if sum(file.stat().st_size for file in files) > MAX_COPIED:
        return
    target = folder if path.is_file() else folder / path.name
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)


def new_model(options: argparse.Namespace, faces: Faces, codec: Codec) -> TinySD:
    """Build a TinySD for these faces: untrained, the same for the same seed, or with the weights of --start."""
    start = None
    if options.start:
        with naming_option("--start"):
            start = TinySD.from_weights(options.start)
    tokenizer = caption_tokenizer(faces, None if start is None else start.tokenizer)
    config = unet_config(options, faces, codec, tokenizer)
    if start is not None:
        with naming_option("--start"):
            config = started_config(start, config)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = TinySD(config, options.objective, faces.class_names, options.size, codec, options.shift, tokenizer)
    if start is not None:
        with naming_option("--start"):
            copy_network(start, model)
    if options.perceptual:
        with naming_option("--perceptual-encoder"):
            encoder = load_autoencoder(options.perceptual_encoder)
        model.perceptual = PerceptualLoss(
            encoder,
            options.perceptual,
            options.perceptual_until,
            options.perceptual_crop,
        )
    return model


def unet_config(
    options: argparse.Namespace, faces: Faces, codec: Codec, tokenizer: CaptionTokenizer | None = None
) -> UNetConfig:
    """The sizes of the network for this codec. Raises SystemExit for images that the network cannot take."""
    pixels = codec.name == PixelCodec.name
    widths, patch = _widths_and_patch(options, pixels, codec.downsampling_factor)
    # attention is cheap at the first resolution if it has at most 8x8 positions, each of them large
    pixels_per_position = codec.downsampling_factor * patch
    coarse = pixels_per_position >= 8 and max(height_and_width(options.size)) // pixels_per_position <= 8
    vocab_size = vocabulary_size() if faces.attributes is not None else 0
    return UNetConfig(
        channels=codec.channels,
        patch=patch,
        widths=widths,
        blocks=options.blocks,
        attention=(coarse,) + (True,) * (len(widths) - 1),
        head_width=math.gcd(*widths[not coarse :], 32),
        classes=len(faces.class_names),
        vocab_size=vocab_size if tokenizer is None else len(tokenizer),
        caption_length=UNetConfig.caption_length if tokenizer is None else tokenizer.length,
        detail_channels=UNetConfig.detail_channels if pixels else 0,  # with latents, detail is the decoder's task
        dropout=options.dropout,
        augmentation=PARAMETERS if options.augment else 0,
    )


def _widths_and_patch(
    options: argparse.Namespace, pixels: bool, downsampling_factor: int
) -> tuple[tuple[int, ...], int]:
    """The widths and the patch of the network, from the options or by default.

    Raises:
        SystemExit: for a --size that cannot be encoded, cut into patches and halved at every resolution.
    """
    widths = tuple(options.widths or (PIXEL_WIDTHS if pixels else LATENT_WIDTHS))
    patch = options.patch or (UNetConfig.patch if pixels else max(1, 8 // downsampling_factor))
    multiple = downsampling_factor * patch * 2 ** (len(widths) - 1)
    check_multiple(options.size, multiple, " with these --patch and --widths")
    return widths, patch


def validation(
    options: argparse.Namespace, training: Faces, model: TinySD, accelerator: Accelerator
) -> Validation | None:
    """What measures the network on held-out images; None where it is not wanted, and where there are none."""
    if not options.validate_every:
        return None
    try:
        held_out = load_faces(options.source, "val", options.size, limit=VALIDATED, progress=False)
    except ValueError as reason:
        if accelerator.is_main_process:
            ignoring_broken_pipe(print, f"no validation: {reason}", file=sys.stderr, flush=True)
        return None
    return Validation(model, training, held_out, accelerator.device)


def facts(faces: Faces) -> dict[str, Any]:
    """Facts about the training images that explain a training: counts, and whether classes look different."""
    distinct = len({hashlib.sha256(image.tobytes()).digest() for image in faces.images})
    counted = {"images": len(faces), "distinct_images": distinct, "classes": list(faces.class_names)}
    return counted | {"label_agreement": label_agreement(faces)}


# --- method 3's autoencoder ------------------------------------------------------------------------------------------


def autoencoder_folder(options: argparse.Namespace) -> Path:
    """The folder in which method 3 trains its autoencoder."""
    return (options.out or course_home() / "runs" / run_name(options)) / "autoencoder"


def autoencoder_options(options: argparse.Namespace) -> argparse.Namespace:
    """The options of `helpers.autoencoders.train` for method 3's autoencoder."""
    folder = autoencoder_folder(options)
    settings = vars(autoencoder_training.parser().parse_args([])) | AUTOENCODER_RECIPE
    settings |= {
        "source": options.source,
        "size": options.size,
        "limit": options.limit,
        "seed": options.seed,
        "precision": options.precision,
        "steps": options.autoencoder_steps,
        "latent_channels": options.autoencoder_channels,
        "out": folder,
        "resume": options.resume and folder.exists(),
        "dry_run": options.dry_run,
    }
    return argparse.Namespace(**settings)


def train_own_autoencoder(options: argparse.Namespace) -> int:
    """Train method 3's autoencoder, unless it was done before; the exit status is 0 or, interrupted, 130.

    Raises:
        SystemExit: for what would stop the second half of method 3, before the first one begins, and for a first half
            that was trained with other options.
    """
    factor = autoencoder_training.tiny_config(patch=AUTOENCODER_RECIPE["patch"]).downsampling_factor
    _widths_and_patch(options, pixels=False, downsampling_factor=factor)
    first_half = autoencoder_options(options)
    if not options.resume and not options.dry_run and (first_half.out.parent / "log.jsonl").exists():
        raise SystemExit(
            f"{first_half.out.parent} holds a training already: add --resume to go on with it, or --out another folder"
        )
    trained = first_half.out / "weights.safetensors"
    if trained.exists():
        _check_trained_with(first_half, read_metadata(trained)["command"])
        return 0
    return run_task(autoencoder_training.parser(), first_half, autoencoder_training.task, last=False)


def _check_trained_with(options: argparse.Namespace, command: str) -> None:
    """Raise SystemExit unless an autoencoder that this command trained is the one these options would train."""
    settings = {name: value for name, value in vars(options).items() if name not in NOT_RECORDED}
    expected = command_line(autoencoder_training.parser(), settings)
    if command != expected:
        raise SystemExit(
            f"{options.out} holds an autoencoder made by\n  {command}\nand not by\n  {expected}\n"
            "Same options, or --out another folder"
        )


if __name__ == "__main__":
    raise SystemExit(main())
