"""The options that the training commands share, and the command line that a weights file records."""

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers.training.loop import SCHEDULES
from helpers.training.optimizers import OPTIMIZERS

# options that do not affect the trained weights: neither recorded nor compared on --resume
NOT_RECORDED = {
    "resume",
    "out",
    "export",
    "checkpoint_every",
    "sample_every",
    "log_every",
    "compile",
}


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
    add("--steps", type=int, default=steps, help="updates")
    add("--batch-size", type=int, default=batch_size, help="images per update, all processes together")
    add("--learning-rate", type=float, default=learning_rate, help="the largest, after the warm-up")
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
    add("--ema", type=float, default=0.999, help="decay of the averaged weights")
    add("--seed", type=int, default=0)
    add(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="auto: bf16 on a GPU that has it; on a CPU whichever is faster for this network, measured at the start",
    )
    add("--compile", action="store_true", help="torch.compile: minutes to start, faster on a GPU")
    add("--out", type=Path, help="folder of the run (default: in the course's data folder)")
    add("--resume", action="store_true", help="go on from the folder's checkpoint")
    add("--checkpoint-every", type=int, default=500, metavar="STEPS")
    add("--sample-every", type=int, default=1000, metavar="STEPS", help="0: never")
    add("--log-every", type=int, default=50, metavar="STEPS")
    add("--export", type=Path, help="write the final averaged weights (fp16) here as well")


def add_face_arguments(parser: argparse.ArgumentParser, more: Sequence[str] = ()) -> None:
    """Add the options that choose the training images; `more` names sources beside the faces."""
    add = parser.add_argument
    add("--source", choices=["toy-faces", "animal-faces", *more], default="toy-faces", help="images to learn from")
    add("--size", type=int, default=64, help="pixels per side")
    add("--limit", type=int, help="use at most this many training images")


def make_folder(folder: Path, option: str) -> None:
    """Create a folder. Raises SystemExit, naming the option, if it cannot be created or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "no right to write"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise SystemExit(f"the folder {folder} cannot be made or written ({why}): choose another {option}")


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
        for text in map(str, value if isinstance(value, list) else [value]):
            arguments.append(Path(text).name if Path(text).exists() else text)
    return shlex.join([*parser.prog.split(), *arguments])
