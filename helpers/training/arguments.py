"""The options that the training commands share, and the command line that a weights file remembers."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.training.loop import SCHEDULES
from helpers.training.optimizers import OPTIMIZERS

NOT_RECORDED = {
    "resume",
    "out",
    "export",
    "checkpoint_every",
    "sample_every",
    "log_every",
    "compile",
}  # decide no number


def add_run_arguments(parser: argparse.ArgumentParser, *, steps: int, batch_size: int, learning_rate: float) -> None:
    """The options that every training command has, with its defaults."""
    add = parser.add_argument
    add("--steps", type=int, default=steps, help="updates")
    add("--batch-size", type=int, default=batch_size, help="pictures an update, all processes together")
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
        help="auto: bf16 on a GPU that has it; on a CPU what is faster for this network, measured when it starts",
    )
    add("--compile", action="store_true", help="torch.compile: minutes to start, faster on a GPU")
    add("--out", type=Path, help="folder of the run (default: in the course's home)")
    add("--resume", action="store_true", help="go on from the folder's checkpoint")
    add("--checkpoint-every", type=int, default=500, metavar="STEPS")
    add("--sample-every", type=int, default=1000, metavar="STEPS", help="0: never")
    add("--log-every", type=int, default=50, metavar="STEPS")
    add("--export", type=Path, help="write the final averaged weights (fp16) here as well")


def add_face_arguments(parser: argparse.ArgumentParser, more: Sequence[str] = ()) -> None:
    """The options that say which pictures a training learns from; `more` names sources beside the faces."""
    add = parser.add_argument
    add("--source", choices=["toy-faces", "animal-faces", *more], default="toy-faces", help="pictures to learn from")
    add("--size", type=int, default=64, help="pixels a side")
    add("--limit", type=int, help="use this many training pictures at most")


def make_folder(folder: Path, option: str) -> None:
    """Raises SystemExit for one that cannot be made or written, before anything is trained for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "no right to write"
    except OSError as trouble:
        why = trouble.strerror or str(trouble)
    if why:
        raise SystemExit(f"the folder {folder} cannot be made or written ({why}): choose another {option}")


def command_line(parser: argparse.ArgumentParser, settings: dict[str, Any]) -> str:
    """The shortest command line that gives these settings, free of anybody's folders: recorded with the weights."""
    usual = vars(parser.parse_args([]))
    words = []
    for name, value in settings.items():
        if value != usual[name]:
            values = value if isinstance(value, list) else [value]
            texts = (Path(text).name if Path(text).exists() else text for text in map(str, values))
            words += [f"--{name.replace('_', '-')}", *texts]
    return shlex.join([*parser.prog.split(), *words])
