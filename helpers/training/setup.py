"""A training as it is configured: what is learned (`Task`), and with which options, processes and precision (`Run`)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from helpers.course import course_home
from helpers.devices import best_device
from helpers.files import atomic_write
from helpers.training.arguments import NOT_RECORDED, command_line, make_folder, naming_option, without_folder
from helpers.training.card import check_hub, model_card
from helpers.training.checkpoint import load_checkpoint, save_checkpoint
from helpers.training.clock import TrainingClock
from helpers.training.ema import EMA
from helpers.training.folder import RunFolder
from helpers.training.interrupt import ignoring_broken_pipe
from helpers.training.loop import LossFunction, TrainConfig, TrainState, train
from helpers.training.loss_scaling import LossScale
from helpers.training.measurements import Measurements
from helpers.training.precision import Precision, choose_precision
from helpers.training.processes import Accumulation
from helpers.training.trackers import Tracker, check_tracker
from helpers.weights import read_metadata
from helpers.weights.names import current_config

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Task:
    """What a training command trains."""

    name: str  # of the run's folder
    model: nn.Module
    loss_fn: LossFunction  # for helpers.training.train
    save: Callable[[Any, Path, dict[str, str]], None]  # write the averaged model's weights with metadata
    sample: Callable[[Any, Path], dict[str, Any] | None] | None = None  # write an image of what the averaged model can
    # do by now; what it returns is kept with the measurements
    description: Any = None  # plain JSON values, kept in checkpoints
    compile_target: nn.Module | None = None  # the part that --compile compiles; None: the model
    extra_metadata: dict[str, str] = field(default_factory=dict)  # added to the weights' metadata
    adversary: nn.Module | None = None  # a part of the model that is trained against the rest: a discriminator
    validate: Callable[[Any, Any], dict[str, Any]] | None = None  # measure the averaged model and the current one
    describe_batch: Callable[[Any], dict[str, Any]] | None = None  # of a step's details, for the log
    facts: dict[str, Any] = field(default_factory=dict)  # about the training images, for whoever reads the folder


FIRST_SAMPLES = 200  # steps before the first samples: minutes at most
SHARDING_VARIABLES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
MakeTask = Callable[[argparse.Namespace, "Accelerator"], Task]


def make_accelerator() -> Accelerator:
    """An Accelerator for the GPU or CPU at hand, whatever accelerate's own configuration says about the arithmetic.

    Precision and the size of a batch are the training command's options. Settings in accelerate's environment variables
    would come on top of them: a second cast, gradients divided by a number of accumulation steps, a compiler.

    Raises:
        SystemExit: where they ask for another way to share a model among processes, which the course does not have.
    """
    for name in SHARDING_VARIABLES:
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            raise SystemExit(f"the environment variable {name} asks for sharded training, which this is not: unset it")
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import GradientAccumulationPlugin

    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # the main process may encode images for hours
    return Accelerator(
        mixed_precision="no",
        cpu=best_device() == "cpu",
        kwargs_handlers=[patience],
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
    )


class Run:
    """A task with all that its training needs: accelerator, optimiser, average, folder, clock and precision."""

    def __init__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, make_task: MakeTask):
        """
        Args:
            parser: of the command, whose name and defaults the weights' metadata record.
            options: of `add_run_arguments`, and those of the task.
            make_task: called with the options and the accelerator, in one process at a time, the main one first.

        Raises:
            SystemExit: for folders that cannot be written, and for a batch that cannot be shared by the processes.
        """
        self.parser = parser
        self.options = options
        check_folders(options)
        self.accelerator = make_accelerator()
        self.main = self.accelerator.is_main_process
        self.accumulation = Accumulation(self.accelerator, options.gradient_accumulation)
        if options.batch_size % self.accumulation.num_processes:
            parts = f" in {self.accumulation.parts} parts each" if self.accumulation.parts > 1 else ""
            raise SystemExit(
                f"--batch-size {options.batch_size} cannot be shared evenly by "
                f"{self.accelerator.num_processes} processes{parts}: choose a multiple"
            )
        with self.accelerator.main_process_first():  # one process builds the cache, the others read it
            self.task = make_task(options, cast("Accelerator", self.accumulation))
        self._scratch = TemporaryDirectory() if options.dry_run else None  # removed with this object
        out = Path(self._scratch.name) if self._scratch else options.out or course_home() / "runs" / self.task.name
        self.folder = RunFolder(out)
        self.measurements = Measurements(self.folder.measurements)
        self.model = self.task.model.to(self.accelerator.device)
        if self.accelerator.device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.config = train_config(options)
        self.ema = EMA(self.model, options.ema)
        self.optimizer = self.config.optimizer(self.model)
        if options.compile:
            (self.task.compile_target or self.model).compile()
        self.loss_scale = LossScale()  # where the precision is fp16
        self.clock = TrainingClock()
        self.tracker = Tracker(None, "", self.folder.path, {})  # that of --report-to, once the training starts
        self.step = 0  # the number of updates so far
        self.saved_step = 0  # of the last checkpoint
        self._precision: Precision | None = None

    @property
    def precision(self) -> Precision:
        """What the training computes in. Raises RuntimeError before `start`, which chooses it."""
        if self._precision is None:
            raise RuntimeError("the precision is chosen when the training starts: call start() first")
        return self._precision

    @property
    def settings(self) -> dict[str, Any]:
        """The options that affect the trained weights."""
        return {name: without_folder(value) for name, value in vars(self.options).items() if name not in NOT_RECORDED}

    def start(self) -> int:
        """Restore the checkpoint with --resume, choose the precision, and begin to report.

        Returns:
            The number of updates so far: 0, or the checkpoint's.

        Raises:
            SystemExit: if the folder holds a training and --resume is absent, or if its training is a different one.
        """
        if not self.options.resume:
            if self.main:
                self.folder.refuse_if_used()
                self._write_options()
            self._precision = self._choose_precision()
            self._begin_to_report()
            return 0
        step = self._restore()
        if self._precision is None:
            self._precision = self._choose_precision()
        if self.main:
            self.folder.truncate_log(step)
            self.measurements.truncate(step)
            self._write_options()
        self.step = step
        self._begin_to_report()
        return step

    def train(self, first_step: int = 0, steps: int | None = None) -> Iterator[TrainState]:
        """Train from `first_step` to the last configured step, or to `steps`; yields after each. Call start first."""
        return train(
            self.model,
            self.task.loss_fn,
            self.config if steps is None else replace(self.config, steps=steps),
            optimizer=self.optimizer,
            ema=self.ema,
            accelerator=self.accelerator,
            adversary=self.task.adversary,
            accumulation=self.accumulation,
            first_step=first_step,
            bf16=self.precision.name == "bf16",
            loss_scale=self.loss_scale if self.precision.name == "fp16" else None,
        )

    def _restore(self) -> int:
        """Load the newest good checkpoint, if there is one; returns its step, or 0."""
        try:
            checkpoint = load_checkpoint(self.folder.checkpoint, self.model, self.ema.module, self.optimizer)
        except ValueError as unusable:
            raise SystemExit(str(unusable)) from unusable
        if checkpoint is None:
            return 0
        self._check_same_training(checkpoint.description)
        self.clock.seconds = checkpoint.description["seconds"]
        self.clock.core_seconds = checkpoint.description["core_seconds"]
        self.loss_scale = LossScale(*checkpoint.description.get("loss_scale", ()))
        if self.options.precision == "auto":  # the numbers must not change with the machine that goes on
            self._precision = Precision.stored(checkpoint.description)
        self.saved_step = checkpoint.step
        return checkpoint.step

    def _check_same_training(self, description: dict[str, Any]) -> None:
        """Raise SystemExit for other settings: that would be a different training under the same name."""
        if current_config(description["model"]) != json.loads(json.dumps(self.task.description)):
            raise SystemExit(
                f"{self.folder} holds a training of another model, or of one with other parts: "
                "choose --out another folder"
            )
        settings = self.settings
        defaults = {name: self.parser.get_default(name) for name in settings}  # for options newer than the checkpoint
        stored = defaults | {name: without_folder(value) for name, value in description["settings"].items()}
        changed = {name: old for name, old in stored.items() if settings.get(name) != old}
        if settings["schedule"] == "inverse-sqrt":  # no number depends on how long it will go on
            changed.pop("steps", None)
        if changed:
            listed = ", ".join(
                f"--{name.replace('_', '-')} was {old}, is {settings.get(name)}" for name, old in changed.items()
            )
            raise SystemExit(f"{self.folder} holds another training ({listed}): same options, or --out another folder")

    def _choose_precision(self) -> Precision:
        """The precision that --precision names, if the machine has it; the main process decides for all."""
        from accelerate.utils import broadcast_object_list

        chosen = choose_precision(self.options.precision, self.model, self.task.loss_fn, self.options.seed)
        if self.main:
            ignoring_broken_pipe(print, chosen.reason, file=sys.stderr, flush=True)
        return Precision(*broadcast_object_list(list(chosen)))

    def _write_options(self) -> None:
        """Write what is trained, with which options and on what, for whoever reads the folder."""
        written = {
            "command": command_line(self.parser, self.settings),
            "settings": self.settings,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            **self.task.facts,
        }
        text = json.dumps(written, indent=1)
        if not self.folder.options.exists() or self.folder.options.read_text() != text:
            with atomic_write(self.folder.options) as file:
                file.write(text.encode())

    def _begin_to_report(self) -> None:
        """Start the tracker that --report-to names, in the main process."""
        if self.main and not self.options.dry_run:
            self.tracker = Tracker(self.options.report_to, self.folder.path.name, self.folder.path, self.settings)

    def measured(self, **values: Any) -> None:
        """Keep what was measured at this step, and report it."""
        self.measurements.add(self.step, **values)
        self.tracker.log(self.step, values)

    def validate(self) -> None:
        """Measure the averaged model on held-out images; its weights are kept while no other validation was as good."""
        assert self.task.validate is not None, "call it where the task has a validation"
        best_before = self.measurements.best()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision.name)
        with torch.autocast(self.accelerator.device.type, dtype, enabled=dtype is not None):
            validation = self.task.validate(self.ema.module, self.model)
        self.measured(validation=validation)
        if best_before is None or validation["loss"] < best_before[1]:
            self.task.save(self.ema.module, self.folder.best, self.metadata() | {"steps": str(self.step)})

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint; raises OSError."""
        if self.main:
            description = {
                "settings": self.settings,
                "seconds": self.clock.seconds,
                "core_seconds": self.clock.core_seconds,
                "model": self.task.description,
                "precision": self.precision,
                "loss_scale": [self.loss_scale.value, self.loss_scale.steps],
            }
            save_checkpoint(self.folder.checkpoint, step, self.model, self.ema.module, self.optimizer, description)
        self.saved_step = step

    def metadata(self) -> dict[str, str]:
        """The origin of the weights, which is saved with them."""
        metadata = {
            "command": command_line(self.parser, self.settings),
            "seed": str(self.options.seed),
            "steps": str(self.config.steps),
            "minutes": f"{self.clock.seconds / 60:.1f}",
            "core_minutes": f"{self.clock.core_seconds / 60:.1f}",
            "threads": str(torch.get_num_threads()),
            "processes": str(self.accelerator.num_processes),
            "torch": torch.__version__,
            "precision": self.precision.name,
            "precision_reason": self.precision.reason,
        }
        if hasattr(self.options, "source"):
            metadata["source"] = without_folder(self.options.source)
        return metadata | self.task.extra_metadata

    def save_weights(self) -> None:
        """Write the averaged weights, fp16, into the folder and to --export, with their origin, and a card."""
        metadata = self.metadata()
        self.task.save(self.ema.module, self.folder.weights, metadata)
        if self.options.export:
            self.task.save(self.ema.module, self.options.export, metadata)
        samples = self.folder.last_samples()
        card = model_card(self.task.name, read_metadata(self.folder.weights), samples.name if samples else None)
        with atomic_write(self.folder.card) as file:
            file.write(card.encode())


def check_folders(options: argparse.Namespace) -> None:
    """Raise SystemExit if --out, --export or the hub cannot be written: now, and not after hours of training."""
    if options.dry_run:
        return
    with naming_option("--out"):
        make_folder(options.out or course_home() / "runs", "--out")
    if options.export:
        if options.export.is_dir():
            raise SystemExit(f"--export {options.export} is a folder: name the file that is to be written")
        make_folder(options.export.parent, "--export")
    check_tracker(options.report_to)
    if options.push_to_hub:
        check_hub(options.push_to_hub)


def train_config(options: argparse.Namespace) -> TrainConfig:
    """The training's configuration from the command's options.

    The warm-up takes a tenth of the steps, at most 200. A training that may be prolonged always takes 200, since
    nothing in it may depend on its length.
    """
    open_ended = options.schedule == "inverse-sqrt"
    return TrainConfig(
        steps=options.steps,
        learning_rate=options.learning_rate,
        ema_decay=options.ema,
        warmup=200 if open_ended else min(200, options.steps // 10),
        seed=options.seed,
        schedule=options.schedule,
        optimizer_name=options.optimizer,
    )
