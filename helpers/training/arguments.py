"""The options that the training commands share, and the command line that a weights file records."""

import argparse
import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from helpers.data.faces import SIZES, Faces
from helpers.data.hub import is_hub_name
from helpers.data.load import SOURCES, load_faces
from helpers.data.sizes import Size, height_and_width, plain_size, size_text
from helpers.training.loop import SCHEDULES
from helpers.training.optimizers import OPTIMIZERS
from helpers.training.trackers import TRACKERS

# options that do not affect the trained weights: neither recorded nor compared on --resume
NOT_RECORDED = {
    "resume",
    "dry_run",
    "push_to_hub",
    "out",
    "export",
    "checkpoint_every",
    "sample_every",
    "validate_every",
    "log_every",
    "compile",
    "report_to",
}


# --- types of options: argparse names the option in front of what they say --------------------------------------------


def positive_int(text: str) -> int:
    """A whole number from 1. Raises argparse.ArgumentTypeError."""
    return _whole(text, 1, math.inf)


def non_negative_int(text: str) -> int:
    """A whole number from 0. Raises argparse.ArgumentTypeError."""
    return _whole(text, 0, math.inf)


def seed_number(text: str) -> int:
    """A seed that every random generator takes. Raises argparse.ArgumentTypeError."""
    return _whole(text, 0, 2**32 - 1)


def image_size(text: str) -> int:
    """A side in pixels that images have. Raises argparse.ArgumentTypeError."""
    return _whole(text, SIZES[0], SIZES[-1])


def image_source(text: str, names: Sequence[str]) -> str:
    """One of these names, the path of a folder or zip, or owner/name. Raises argparse.ArgumentTypeError."""
    if text not in names and not Path(text).expanduser().exists() and not is_hub_name(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither one of {', '.join(names)} nor a folder or zip that exists, nor a dataset of the hub "
            "(owner/name)"
        )
    return text


def positive_float(text: str) -> float:
    """A finite number above 0. Raises argparse.ArgumentTypeError."""
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def non_negative_float(text: str) -> float:
    """A finite number from 0. Raises argparse.ArgumentTypeError."""
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def probability(text: str) -> float:
    """A number from 0 to 1. Raises argparse.ArgumentTypeError."""
    value = _finite(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


def share_below_1(text: str) -> float:
    """A number from 0 to less than 1: a decay, a dropout. Raises argparse.ArgumentTypeError."""
    value = probability(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"must be below 1, got {text}")
    return value


def _whole(text: str, low: float, high: float) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise argparse.ArgumentTypeError(f"must be {bounds}, got {value}")
    return value


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


@contextmanager
def naming_option(option: str) -> Iterator[None]:
    """Turn what is raised for the value of an option into a SystemExit that names the option."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"{option}: {error}") from error


# --- options ----------------------------------------------------------------------------------------------------------


def training_parser(
    module: str,
    doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    **defaults: Any,
) -> argparse.ArgumentParser:
    """Build the parser of a training command: its task's options first, then those that all trainings share.

    Args:
        module: the command is `python -m module`.
        doc: a description of the command, which --help prints.
        add_arguments: adds the options of the task.
        steps, batch_size, learning_rate: the defaults that every training has to choose.
        defaults: of other options, for instance precision="bf16".

    Raises:
        TypeError: for a default of an option that does not exist.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_arguments(parser)
    add_run_arguments(parser, steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    unknown = defaults.keys() - vars(parser.parse_args([]))
    if unknown:
        raise TypeError(f"defaults of options that {module} does not have: {', '.join(sorted(unknown))}")
    parser.set_defaults(**defaults)
    return parser


def add_run_arguments(parser: argparse.ArgumentParser, *, steps: int, batch_size: int, learning_rate: float) -> None:
    """Add the options that every training command has, with these defaults."""
    add = parser.add_argument
    add("--steps", type=positive_int, default=steps, help="updates")
    add("--batch-size", type=positive_int, default=batch_size, help="images per update, all processes together")
    add("--learning-rate", type=positive_float, default=learning_rate, help="the largest, after the warm-up")
    add(
        "--schedule",
        choices=SCHEDULES,
        default="cosine",
        help="of the learning rate: cosine ends at --steps; "
        "inverse-sqrt does not depend on --steps, so that --resume may prolong a training",
    )
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default="adamw",
        help="muon: Muon for the weights of hidden layers, AdamW for the rest",
    )
    add("--ema", type=share_below_1, default=0.999, help="decay of the averaged weights")
    add("--seed", type=seed_number, default=0)
    add(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="auto: bf16 on a GPU that has it; on a CPU whichever of fp32 and bf16 is faster, measured "
        "at the start; fp16, with scaled losses, is for GPUs without bf16",
    )
    add(
        "--gradient-accumulation",
        type=positive_int,
        default=1,
        metavar="PARTS",
        help="compute every batch in so many parts, one after another: a large batch fits a small GPU",
    )
    add("--compile", action="store_true", help="torch.compile: minutes to start, faster on a GPU")
    add("--out", type=Path, help="folder of the run (default: in the course's data folder)")
    add("--resume", action="store_true", help="go on from the folder's checkpoint")
    add(
        "--dry-run",
        action="store_true",
        help="measure a few steps and say what the training will take; writes nothing but the cache of the images",
    )
    add("--checkpoint-every", type=non_negative_int, default=500, metavar="STEPS", help="0: only at the end")
    add(
        "--sample-every",
        type=non_negative_int,
        default=1000,
        metavar="STEPS",
        help="draw samples, the first ones after 200 steps; 0: never",
    )
    add(
        "--validate-every",
        type=non_negative_int,
        default=500,
        metavar="STEPS",
        help="measure the loss on held-out images at fixed noise, where the training has some; 0: never",
    )
    add("--log-every", type=non_negative_int, default=50, metavar="STEPS", help="0: only the first and the last")
    add(
        "--report-to",
        choices=TRACKERS,
        help="send the log to a tracker, whose package you install: tensorboard writes into the run's folder",
    )
    add("--export", type=Path, help="write the final averaged weights (fp16) here as well")
    add("--push-to-hub", metavar="OWNER/NAME", help="upload weights, card and samples; a new repository is private")


def add_face_arguments(parser: argparse.ArgumentParser, more: Sequence[str] = ()) -> None:
    """Add the options that choose the training images; `more` names sources beside the faces."""
    add = parser.add_argument
    names = (*SOURCES, *more)
    add(
        "--source",
        type=partial(image_source, names=names),
        default="toy-faces",
        help=f"images to learn from: {', '.join(names)}, a folder or zip of your own images, or a dataset of the hub "
        "(owner/name)",
    )
    add(
        "--size",
        type=image_size,
        nargs="+",
        action=SizeAction,
        default=64,
        metavar=("PIXELS", "WIDTH"),
        help="pixels per side, or height and width of images of your own",
    )
    add("--limit", type=positive_int, help="use at most this many training images")


def training_images(options: argparse.Namespace, progress: bool) -> Faces:
    """Load the images that the options of `add_face_arguments` choose. Raises SystemExit where they cannot be had."""
    with naming_option("--source"):
        return load_faces(options.source, "train", options.size, limit=options.limit, progress=progress)


class SizeAction(argparse.Action):
    """Stores one number where the image is square, else [height, width]."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: Any, *_: Any) -> None:
        if len(values) > 2:
            parser.error(f"argument --size: one number, or height and width, got {len(values)} numbers")
        setattr(options, self.dest, plain_size(values if len(values) == 2 else values[0]))


def check_multiple(size: Size, multiple: int, why: str = "") -> None:
    """Raise SystemExit unless both sides of --size are multiples of this number."""
    height, width = height_and_width(size)
    if height % multiple or width % multiple:
        raise SystemExit(f"--size must be a multiple of {multiple}{why}, got {size_text(size)}")


def make_folder(folder: Path, option: str) -> None:
    """Create a folder. Raises SystemExit, naming the option, if it cannot be created or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "no right to write"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise SystemExit(f"the folder {folder} cannot be made or written ({why}): choose another {option}")


def without_folder(value: Any) -> Any:
    """A setting as it is recorded: of a path the last part alone, since the folders are those of one computer."""
    if isinstance(value, list):
        return [without_folder(each) for each in value]
    if isinstance(value, str | Path) and (Path(value).is_absolute() or Path(value).exists()):
        return Path(value).name
    return value


def command_line(parser: argparse.ArgumentParser, settings: dict[str, Any]) -> str:
    """The shortest command line that gives these settings; files are named without their folders.

    It is recorded in the metadata of the trained weights.
    """
    defaults = vars(parser.parse_args([]))
    arguments = []
    for name, value in settings.items():
        if value == defaults[name]:
            continue
        arguments.append(f"--{name.replace('_', '-')}")
        arguments += [str(without_folder(each)) for each in (value if isinstance(value, list) else [value])]
    return shlex.join([*parser.prog.split(), *arguments])
