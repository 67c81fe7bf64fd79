"""One training in one folder, as a person leaves it alone: progress, log, pictures on the way, checkpoints, weights.

Ctrl-C saves and stops; --resume goes on with the very numbers an uninterrupted run would give. Works alone and
under `accelerate launch`. What is learned is a `Task`; the course's training commands differ in it alone.
"""

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from helpers.course import course_home
from helpers.training.arguments import NOT_RECORDED, command_line, make_folder
from helpers.training.checkpoint import load_checkpoint, save_checkpoint
from helpers.training.ema import EMA
from helpers.training.interrupt import ignoring_broken_pipe, interruptible
from helpers.training.log import read_log
from helpers.training.loop import TrainConfig, TrainState, train
from helpers.training.precision import Precision, choose_precision

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in a quota, for so large a file


@dataclass
class Task:
    """What a training command trains."""

    name: str  # of the run's folder
    model: nn.Module
    loss_fn: Callable[[nn.Module, torch.Generator], tuple[Tensor, Any]]  # for helpers.training.train
    save: Callable[[nn.Module, Path, dict[str, str]], None]  # write an average's weights with metadata
    sample: Callable[[nn.Module, Path], None] | None = None  # draw what an average can do by now into a PNG
    description: Any = None  # plain JSON values, kept in checkpoints
    compile_target: nn.Module | None = None  # the part that --compile compiles; None: the model
    extra_metadata: dict[str, str] = field(default_factory=dict)  # more for the weights' metadata


class Run:
    """A task, the folder it is trained in, and how far it has come."""

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        make_task: Callable[[argparse.Namespace, Any], Task],
    ):
        """`make_task` is given the options and the accelerator; one process at a time, the main one first."""
        from accelerate import Accelerator, InitProcessGroupKwargs

        kind = "cuda" if torch.cuda.is_available() else "cpu"
        self.parser = parser
        self.options = options
        for path, option in ((options.out, "--out"), (options.export and options.export.parent, "--export")):
            if path:  # now, and not after hours of training
                make_folder(path, option)
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # others wait while the main one encodes pictures
        # "no": the loop casts by itself, and accelerate's own setting would cast a second time
        self.accelerator = Accelerator(mixed_precision="no", cpu=kind == "cpu", kwargs_handlers=[patience])
        self.main = self.accelerator.is_main_process
        if options.batch_size % self.accelerator.num_processes:
            raise SystemExit(
                f"--batch-size {options.batch_size} cannot be shared evenly by "
                f"{self.accelerator.num_processes} processes: choose a multiple"
            )
        with self.accelerator.main_process_first():  # one process builds the cache, the others read it
            self.task = make_task(options, self.accelerator)
        self.folder = options.out or course_home() / "runs" / self.task.name
        make_folder(self.folder, "--out")
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.log = self.folder / "log.jsonl"
        self.model = self.task.model.to(self.accelerator.device)
        if self.accelerator.device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.config = TrainConfig(
            steps=options.steps,
            learning_rate=options.learning_rate,
            ema_decay=options.ema,
            warmup=self._warmup(),
            seed=options.seed,
            schedule=options.schedule,
            optimizer_name=options.optimizer,
        )
        self.ema = EMA(self.model, options.ema)
        self.optimizer = self.config.optimizer(self.model)
        if options.compile:
            (self.task.compile_target or self.model).compile()
        self.seconds = self.core_seconds = 0.0  # on the clock; of all cores together, which ignores a busy computer
        self.saved = 0  # the step of the last checkpoint
        self.precision: Precision | None = None  # chosen when the training starts, kept when it goes on

    def _choose_precision(self) -> Precision:
        """What --precision asks for, if the machine has it; the main process decides for all."""
        from accelerate.utils import broadcast_object_list

        chosen = choose_precision(self.options.precision, self.model, self.task.loss_fn, self.options.seed)
        if self.main:
            ignoring_broken_pipe(print, chosen.reason, file=sys.stderr, flush=True)
        return Precision(*broadcast_object_list(list(chosen)))

    def _warmup(self) -> int:
        """Steps of warm-up; where a training may be prolonged they cannot depend on its length."""
        open_ended = self.options.schedule == "inverse-sqrt"
        return 200 if open_ended else min(200, self.options.steps // 10)

    def start(self) -> int:
        """The step to go on from: 0, or the checkpoint's."""
        there = self.checkpoint.exists() or self.log.exists()
        if not self.options.resume:
            if there and self.main:
                raise SystemExit(
                    f"{self.folder} holds a training already: add --resume to go on with it, or --out another folder"
                )
            self.precision = self._choose_precision()
            return 0
        try:
            checkpoint = load_checkpoint(self.checkpoint, self.model, self.ema.module, self.optimizer)
        except ValueError as none_fits:
            raise SystemExit(str(none_fits)) from none_fits
        step = self.saved = checkpoint.step if checkpoint else 0
        if checkpoint:
            self._same_training(checkpoint.description)
            self.seconds, self.core_seconds = (checkpoint.description[name] for name in ("seconds", "core_seconds"))
            if self.options.precision == "auto":  # the numbers must not change with the machine that goes on
                self.precision = Precision.kept(checkpoint.description)
        self.precision = self.precision or self._choose_precision()
        if self.main:
            self._truncate_log(step)
        return step

    def _truncate_log(self, step: int) -> None:
        """Take away what was logged after the checkpoint, to be logged again, and what a kill left half-written."""
        for half in self.folder.glob(".*.safetensors.*"):
            half.unlink(missing_ok=True)
        if self.log.exists():
            fresh = self.log.with_suffix(".new")
            fresh.write_text("".join(json.dumps(row) + "\n" for row in read_log(self.log) if row["step"] <= step))
            os.replace(fresh, self.log)

    def _same_training(self, description: dict) -> None:
        """Going on with other numbers would be a different training under the same name."""
        if description["model"] != json.loads(json.dumps(self.task.description)):
            raise SystemExit(
                f"{self.folder} holds a training of another model, or of one with other parts: "
                "choose --out another folder"
            )
        now = self.settings()
        unknown = {name: self.parser.get_default(name) for name in now}  # options that older checkpoints did not have
        old_settings = unknown | description["settings"]
        changed = {name: (old, now[name]) for name, old in old_settings.items() if now.get(name) != old}
        if now["schedule"] == "inverse-sqrt":  # no number depends on how long it will go on
            changed.pop("steps", None)
        if changed:
            told = ", ".join(f"--{name.replace('_', '-')} was {old}, is {new}" for name, (old, new) in changed.items())
            raise SystemExit(f"{self.folder} holds another training ({told}): same options, or --out another folder")

    def settings(self) -> dict:
        """The options that decide the numbers."""
        return {name: value for name, value in vars(self.options).items() if name not in NOT_RECORDED}

    def save(self, step: int) -> None:
        if self.main:
            description = {
                "settings": self.settings(),
                "seconds": self.seconds,
                "core_seconds": self.core_seconds,
                "model": self.task.description,
                "precision": self.precision,
            }
            save_checkpoint(self.checkpoint, step, self.model, self.ema.module, self.optimizer, description)
        self.saved = step

    def write_log(self, state: TrainState, rate: float) -> None:
        with open(self.log, "a") as file:
            row = {
                "step": state.step,
                "loss": state.loss,
                "learning_rate": state.learning_rate,
                "images_per_second": round(rate, 1),
                "seconds": round(self.seconds, 1),
            }
            file.write(json.dumps(row) + "\n")

    def finish(self) -> Path:
        """Write the averaged weights, fp16, with where they come from."""
        path = self.folder / "weights.safetensors"
        metadata = (
            {
                "command": command_line(self.parser, self.settings()),
                "seed": str(self.options.seed),
                "steps": str(self.config.steps),
                "minutes": f"{self.seconds / 60:.1f}",
                "core_minutes": f"{self.core_seconds / 60:.1f}",
                "threads": str(torch.get_num_threads()),
                "processes": str(self.accelerator.num_processes),
                "torch": torch.__version__,
                "precision": self.precision.name,
                "precision_reason": self.precision.reason,
            }
            | ({"source": self.options.source} if hasattr(self.options, "source") else {})
            | self.task.extra_metadata
        )
        for target in filter(None, [path, self.options.export]):
            self.task.save(self.ema.module, target, metadata)
        return path

    def __call__(self) -> bool:
        """Train to the end, or until interrupted; is it finished?

        Raises:
            SystemExit: saying what stopped it and which checkpoint is there, for a full disk, another file that makes
                trouble, or a loss that is no number.
        """
        try:
            with self._lock_folder():
                return self._train()
        except FloatingPointError as trouble:
            advice = f"try a smaller --learning-rate than {self.options.learning_rate:g} in another folder"
            raise SystemExit(f"stopped: {trouble}. {self._last_checkpoint_note()}; {advice}") from trouble
        except OSError as trouble:
            where = trouble.filename or self.folder
            why = trouble.strerror or trouble
            if trouble.errno in FULL:
                raise SystemExit(
                    f"stopped: {where} cannot be written ({why}). {self._last_checkpoint_note()}: make room, "
                    "then --resume"
                ) from trouble
            raise SystemExit(
                f"stopped by trouble with {where}: {why}. {self._last_checkpoint_note()}: mend it, then --resume"
            ) from trouble

    @contextmanager
    def _lock_folder(self) -> Iterator[None]:
        """Two trainings would write over each other's checkpoints."""
        lock = FileLock(self.folder / "lock")
        if self.main:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise SystemExit(
                    f"another training is running in {self.folder}: wait for it, or choose another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def _last_checkpoint_note(self) -> str:
        return f"The checkpoint of step {self.saved} is whole" if self.saved else "No checkpoint was saved yet"

    def _train(self) -> bool:
        from tqdm.auto import tqdm

        first = self.start()
        steps = train(
            self.model,
            self.task.loss_fn,
            self.config,
            optimizer=self.optimizer,
            ema=self.ema,
            accelerator=self.accelerator,
            first_step=first,
            bf16=self.precision.name == "bf16",
        )
        bar = tqdm(total=self.config.steps, initial=first, unit="step", disable=not self.main)
        rate = 0.0
        last = time.perf_counter()
        spent = time.process_time()
        state = None
        together = self.accelerator.num_processes > 1
        with interruptible(second_signal_raises=not together) as interrupted, bar:
            for state in steps:
                now = time.perf_counter()
                self.seconds = self.seconds + now - last
                last = now
                now = time.process_time()
                self.core_seconds = self.core_seconds + now - spent
                spent = now
                rate = self._throughput(rate, state.step, first)
                self._report(bar, state, rate)
                if self._any_process(interrupted()):
                    break
                if self._maybe_sample(state.step):  # pictures to look at are not training: off the clocks
                    last = time.perf_counter()
                    spent = time.process_time()
            stopped = state is not None and state.step < self.config.steps
            if stopped:
                self.save(state.step)
                self.accelerator.wait_for_everyone()  # a launcher ends all when the first is gone
        if stopped and self.main:
            ignoring_broken_pipe(print, f"stopped after step {state.step} and saved; add --resume to go on", flush=True)
        elif self.main:
            path = self.finish()
            minutes = self.seconds / 60
            ignoring_broken_pipe(
                print, f"trained {self.config.steps} steps in {minutes:.1f} minutes; weights: {path}", flush=True
            )
        return not stopped

    def _any_process(self, yes: bool) -> bool:
        """Whether any process says so: one that left alone would take the others' last steps with it."""
        if self.accelerator.num_processes == 1:
            return yes
        votes = torch.tensor(float(yes), device=self.accelerator.device)
        return self.accelerator.reduce(votes, "sum").item() > 0

    def _throughput(self, rate: float, step: int, first: int) -> float:
        """Images a second, smoothed."""
        now = time.perf_counter()
        if step > first + 1:
            fresh = self.options.batch_size / max(now - self._clock, 1e-9)
            rate = fresh if rate == 0 else 0.95 * rate + 0.05 * fresh
        self._clock = now
        return rate

    def _report(self, bar, state: TrainState, rate: float) -> None:
        last = state.step == self.config.steps
        if self.main:
            ignoring_broken_pipe(bar.update)
            ignoring_broken_pipe(
                bar.set_postfix, loss=f"{state.loss:.4f}", images_per_second=f"{rate:.0f}", refresh=False
            )
            if state.step % self.options.log_every == 0 or last or state.step == 1:
                self.write_log(state, rate)
        if state.step % self.options.checkpoint_every == 0 or last:
            self.save(state.step)

    def _maybe_sample(self, step: int) -> bool:
        every = self.options.sample_every
        due = every and (step % every == 0 or step == self.config.steps)
        if not (self.main and due and self.task.sample):
            return False
        self.task.sample(self.ema.module, self.folder / f"samples-{step:06d}.png")
        return True


def train_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    make_task: Callable[[argparse.Namespace, Any], Task],
    more: bool = False,
) -> int:
    """A training command from its arguments to the end; the exit status: 0 trained, 130 interrupted.

    `more`: another training follows in this process, so several processes stay connected.
    """
    options = parser.parse_args(argv)
    try:
        run = Run(parser, options, make_task)
        finished = run()
    except KeyboardInterrupt:  # while pictures are prepared, or a second time while training
        print("stopped at once; the same command with --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    if not more:
        run.accelerator.end_training()
    return 0 if finished else 130
