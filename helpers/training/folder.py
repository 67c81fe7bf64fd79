"""The files of one training: its lock, its log, its checkpoints and the weights that it ends with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from helpers.training.arguments import make_folder
from helpers.training.log import append_row, read_log, replace_rows

TRAINED_WEIGHTS = "weights.safetensors"


class RunFolder:
    """The folder of a training run; only the main process writes into it."""

    def __init__(self, path: Path):
        """Create the folder. Raises SystemExit if it cannot be created or written."""
        make_folder(path, "--out")
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.log = path / "log.jsonl"
        self.measurements = path / "measurements.jsonl"
        self.options = path / "options.json"
        self.best = path / "best.safetensors"
        self.weights = path / TRAINED_WEIGHTS
        self.card = path / "README.md"

    @classmethod
    def existing(cls, path: Path) -> Self:
        """The folder of a training that was begun. Raises FileNotFoundError if there is none."""
        if not (path / "options.json").exists():
            raise FileNotFoundError(f"no training was begun in {path}: a run's folder holds options.json and log.jsonl")
        return cls(path)

    def __str__(self) -> str:
        return str(self.path)

    def samples(self, step: int) -> Path:
        """The image file for samples of this step."""
        return self.path / f"samples-{step:06d}.png"

    def last_samples(self) -> Path | None:
        """The newest image of samples; None if there is none."""
        return max(self.path.glob("samples-*.png"), default=None)

    def published(self) -> list[Path]:
        """The files that go to the hub: weights, card, and the newest samples."""
        samples = self.last_samples()
        return [self.weights, self.card] + ([samples] if samples else [])

    def refuse_if_used(self) -> None:
        """Raise SystemExit if a training was begun here: without --resume it would be overwritten."""
        if self.checkpoint.exists() or self.log.exists():
            raise SystemExit(
                f"{self.path} holds a training already: add --resume to go on with it, or --out another folder"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock: two trainings would overwrite each other's checkpoints.

        Raises:
            SystemExit: if another process holds it.
        """
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SystemExit(
                f"another training is running in {self.path}: wait for it, or choose another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def append_to_log(self, row: dict) -> None:
        """Write one line of JSON."""
        append_row(self.log, row)

    def truncate_log(self, step: int) -> None:
        """Drop the rows after a checkpoint's step, which will be logged anew, and half-written rows and files."""
        for unfinished in self.path.glob(".*.safetensors.*"):
            unfinished.unlink(missing_ok=True)
        if self.log.exists():
            replace_rows(self.log, [row for row in read_log(self.log) if row["step"] <= step])
