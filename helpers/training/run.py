"""Run a training command from its options to the end: progress, log, samples, checkpoints, weights.

Ctrl-C saves and stops; --resume goes on with the very numbers an uninterrupted run would give. Works alone and
under `accelerate launch`. What is learned is a `Task`; the course's training commands differ in it alone.
"""

import argparse
import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from helpers.training.card import push_to_hub
from helpers.training.forecast import make_forecast
from helpers.training.interrupt import ignoring_broken_pipe, interruptible
from helpers.training.loop import TrainState
from helpers.training.setup import FIRST_SAMPLES, MakeTask, Run, Task

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm

__all__ = ["Run", "Task", "run_task", "train_command", "train_run"]

MANY_COPIES = 0.1  # of the samples: more is worth a warning
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in a quota, for so large a file


def train_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None, make_task: MakeTask) -> int:
    """Run a training command from its command line; the exit status: 0 trained, 130 interrupted."""
    return run_task(parser, parser.parse_args(argv), make_task)


def run_task(
    parser: argparse.ArgumentParser, options: argparse.Namespace, make_task: MakeTask, *, last: bool = True
) -> int:
    """Train what `make_task` builds from the options; the exit status: 0 trained, 130 interrupted.

    Args:
        parser, options, make_task: as for `Run`.
        last: False if another training follows in this process, so that several processes stay connected.
    """
    try:
        run = Run(parser, options, make_task)
        finished = train_run(run)
    except KeyboardInterrupt:  # while data are prepared, or a second time while training
        print("stopped at once; the same command with --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    if last:
        run.accelerator.end_training()
    return 0 if finished else 130


def train_run(run: Run) -> bool:
    """Train to the end, or until interrupted; returns whether it is finished. With --dry-run, print a forecast instead.

    Raises:
        SystemExit: saying what stopped it and which checkpoint is there, for a full disk, another file that makes
            trouble, or a loss that is no number.
    """
    with _explaining_failures(run), run.folder.locked() if run.main else nullcontext():
        first_step = run.start()
        if run.options.dry_run:
            forecast = make_forecast(run)
            if run.main:
                _print(str(forecast))
            return True
        try:
            step = _train_steps(run, first_step)
        finally:
            run.tracker.finish()
        finished = step >= run.config.steps
        if run.main and finished:
            run.save_weights()
            minutes = run.clock.seconds / 60
            _print(f"trained {run.config.steps} steps in {minutes:.1f} minutes; weights: {run.folder.weights}")
            _print_best(run)
            if run.options.push_to_hub:
                _print(push_to_hub(run.options.push_to_hub, *run.folder.published()))
        elif run.main:
            _print(f"stopped after step {step} and saved; add --resume to go on")
    return finished


def _train_steps(run: Run, first_step: int) -> int:
    """Run the loop, with log, checkpoints and samples on the way; the number of updates at its end.

    An interrupted training is saved here, where further signals do no harm.
    """
    from tqdm.auto import tqdm

    step = first_step
    alone = run.accelerator.num_processes == 1
    bar = tqdm(total=run.config.steps, initial=first_step, unit="step", disable=not run.main)
    with interruptible(second_signal_raises=alone) as interrupted, bar:
        run.clock.restart()
        for state in run.train(first_step):
            step = run.step = state.step
            run.clock.step(run.options.batch_size)
            _report(run, bar, state)
            if _due(run.options.checkpoint_every, step) or step == run.config.steps:
                run.save_checkpoint(step)
            if _any_process(run.accelerator, interrupted()):
                break
            if run.main and run.task.validate is not None and _measurement_due(run, run.options.validate_every):
                run.validate()
                run.clock.restart()
            if run.main and run.task.sample is not None and _samples_due(run):
                _sample(run)
                run.clock.restart()
        if step < run.config.steps:
            run.save_checkpoint(step)
            run.accelerator.wait_for_everyone()  # a launcher ends all when the first is gone
    return step


def _report(run: Run, bar: "tqdm", state: TrainState) -> None:
    """Update the progress bar and the log."""
    if not run.main:
        return
    images_per_second = run.clock.images_per_second
    ignoring_broken_pipe(bar.update)
    ignoring_broken_pipe(
        bar.set_postfix, loss=f"{state.loss:.4f}", images_per_second=f"{images_per_second:.0f}", refresh=False
    )
    if _due(run.options.log_every, state.step) or state.step in (1, run.config.steps):
        row = {
            "step": state.step,
            "loss": state.loss,
            "learning_rate": state.learning_rate,
            "images_per_second": round(images_per_second, 1),
            "seconds": round(run.clock.seconds, 1),
            "gradient_norm": round(state.gradient_norm, 5),
        }
        if run.task.describe_batch is not None:
            row |= run.task.describe_batch(state.details)
        run.folder.append_to_log(row)
        run.tracker.log(state.step, row, "training")


def _sample(run: Run) -> None:
    """Write an image of samples, keep what was measured of them, and warn of copies."""
    assert run.task.sample is not None, "call it where the task has samples"
    path = run.folder.samples(run.step)
    measured = run.task.sample(run.ema.module, path)
    if measured is None:
        return
    run.measured(**measured)
    if (measured["copied"] or 0) >= MANY_COPIES:
        _print(
            f"step {run.step}: {measured['copied']:.0%} of the samples repeat a training image ({path}): train on more "
            "images, or stop earlier"
        )


def _print_best(run: Run) -> None:
    """Say at which step the validation loss was lowest, unless that was at the end."""
    best = run.measurements.best()
    if best is not None and best[0] != run.config.steps:
        _print(f"the validation loss was lowest after step {best[0]}, {best[1]:.4f}: {run.folder.best}")


def _samples_due(run: Run) -> bool:
    """Whether samples are to be drawn now; the first ones come early, for whoever waits to see whether it works."""
    every = run.options.sample_every
    return _measurement_due(run, every) or 0 < every and run.step == FIRST_SAMPLES


def _measurement_due(run: Run, every: int) -> bool:
    """Whether something that is measured every so many steps, and at the end, is to be measured now."""
    return every > 0 and (_due(every, run.step) or run.step == run.config.steps)


def _due(every: int, step: int) -> bool:
    """Whether something that happens every so many steps, 0 being never, happens after this one."""
    return every > 0 and step % every == 0


def _any_process(accelerator: "Accelerator", flag: bool) -> bool:
    """Return True on every process if the flag is True on any.

    All must stop at the same step, or the others wait for ever in the next all-reduce.
    """
    if accelerator.num_processes == 1:
        return flag
    votes = torch.tensor(float(flag), device=accelerator.device)
    return accelerator.reduce(votes, "sum").item() > 0


@contextmanager
def _explaining_failures(run: Run) -> Iterator[None]:
    """Turn what may stop a training into a SystemExit that says what to do."""
    try:
        yield
    except FloatingPointError as error:
        if run.main:
            run.measured(stopped=str(error))
        advice = f"try a smaller --learning-rate than {run.options.learning_rate:g} in another folder"
        raise SystemExit(f"stopped: {error}. {_last_checkpoint_note(run)}; {advice}") from error
    except OSError as error:
        where = error.filename or run.folder
        why = error.strerror or error
        note = _last_checkpoint_note(run)
        if error.errno in FULL:
            raise SystemExit(f"stopped: {where} cannot be written ({why}). {note}: make room, then --resume") from error
        raise SystemExit(f"stopped by trouble with {where}: {why}. {note}: mend it, then --resume") from error


def _last_checkpoint_note(run: Run) -> str:
    return f"The checkpoint of step {run.saved_step} is whole" if run.saved_step else "No checkpoint was saved yet"


def _print(line: str) -> None:
    ignoring_broken_pipe(print, line, flush=True)
