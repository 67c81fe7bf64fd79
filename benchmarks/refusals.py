"""Bad input that must be refused: each case is a call that must raise, and a pattern that its message must match.

The message says what is wrong, where, and what to do. The cases stand beside the systems: `benchmarks.sd1.refusals`,
`benchmarks.sd3.refusals` and `benchmarks.faults.hostile`.
"""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

Call = Callable[[], Any]
Files = TypeVar("Files", bound="CheckpointFiles")


class Fault(NamedTuple):
    """One case: a call, and the error that it must raise."""

    call: Call
    message: str  # a pattern of the error's text
    error: type[Exception] = ValueError


class FileFault(NamedTuple, Generic[Files]):
    """One row of a table of bad checkpoints: `prepare` writes what is needed and returns the call that reads it."""

    name: str
    prepare: Callable[[Files], Call]
    message: str
    error: type[Exception] = ValueError


class Malware:
    """An object whose unpickling would run a command: a loader of weights must refuse it before."""

    def __reduce__(self):
        import os

        return os.system, ("echo this must never be printed",)


def refused(fault: Fault) -> bool:
    """Whether the call raises the expected error with the expected message."""
    try:
        fault.call()
    except Exception as error:
        return isinstance(error, fault.error) and re.search(fault.message, str(error)) is not None
    return False


class CheckpointFiles:
    """Writes damaged and foreign checkpoints into a folder, beginning with good ones of a small model.

    Attributes:
        into: the folder of everything that is written.
        diffusers: the folder of the good model as diffusers writes it.
        tensors: all tensors of the good model, under the names of its single file.
    """

    def __init__(self, into: Path, diffusers: Path, tensors: dict[str, Tensor]):
        self.into = into
        self.diffusers = diffusers
        self.tensors = tensors

    def load(self, path: str | Path, **options: Any) -> Call:
        """The call that reads a checkpoint with the system's own loader."""
        raise NotImplementedError

    def read(self, name: str, content: dict[str, Tensor] | bytes, **options: Any) -> Call:
        """Write tensors as safetensors, or bytes as they are, and return the call that reads the file."""
        path = self.into / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, path)
        return self.load(path, **options)

    def read_pickle(self, name: str, content: Any) -> Call:
        """Write an object with torch.save and return the call that reads the file."""
        torch.save(content, self.into / name)
        return self.load(self.into / name)

    def copy_folder(self, name: str) -> Path:
        """A new copy of the good folder."""
        shutil.copytree(self.diffusers, self.into / name)
        return self.into / name

    def empty_folder(self) -> Path:
        """A folder that holds nothing."""
        path = self.into / "empty"
        path.mkdir(exist_ok=True)
        return path

    def without(self, prefix: str) -> dict[str, Tensor]:
        """All tensors but those whose name starts with a prefix."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(prefix)}

    def with_shape(self, suffix: str, axis: int, size: int) -> dict[str, Tensor]:
        """All tensors; those whose name ends with a suffix get another size along an axis, and zeros."""
        changed = dict(self.tensors)
        for name, tensor in self.tensors.items():
            if name.endswith(suffix):
                shape = list(tensor.shape)
                shape[axis] = size
                changed[name] = tensor.new_zeros(shape)
        return changed


def prepare_all(faults: Iterable[FileFault[Files]], files: Files) -> dict[str, Fault]:
    """Write the files of all rows of a table, and return the cases by name."""
    return {fault.name: Fault(fault.prepare(files), fault.message, fault.error) for fault in faults}
