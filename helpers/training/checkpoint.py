"""Checkpoints: the whole state of a training in one checksummed file, so that it can go on as if it had never stopped.

The loop's randomness is a function of (seed, step), so weights, average, optimiser and step are the whole state.
The file is replaced atomically and the previous one is kept: whenever the process dies, a good one is there.
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from helpers.weights import read_tensors, write_tensors
from helpers.weights.names import current_tensors


class Checkpoint(NamedTuple):
    """The state that is not restored into model, average and optimiser."""

    step: int
    description: dict[str, Any]  # the training's settings, as `save_checkpoint` received them


def previous(path: Path) -> Path:
    """The path of the checkpoint before the last one."""
    return path.with_suffix(".previous.safetensors")


def save_checkpoint(
    path: Path,
    step: int,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    description: Mapping[str, Any],
) -> None:
    """Write a checkpoint; the file that was there becomes `previous(path)`.

    Raises:
        OSError: for instance on a full disk; the existing checkpoints are left as they were.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    fresh = path.with_suffix(".new.safetensors")
    write_tensors(fresh, tensors, {"step": str(step), "description": json.dumps(dict(description))})
    if path.exists():
        os.replace(path, previous(path))
    os.replace(fresh, path)


def load_checkpoint(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> Checkpoint | None:
    """Restore the newest good checkpoint into model, average and optimiser; None if there is none at all.

    A damaged file is passed over with a warning, in favour of the previous one.

    Raises:
        ValueError: if no existing checkpoint is good, or it belongs to another network.
    """
    candidates = [p for p in (path, previous(path)) if p.exists()]
    for candidate in candidates:
        try:
            tensors, metadata = read_tensors(candidate)
        except ValueError as damage:
            warnings.warn(f"passing over a damaged checkpoint: {damage}", stacklevel=2)
            continue
        _restore(candidate, tensors, model, average, optimizer)
        return Checkpoint(int(metadata["step"]), json.loads(metadata["description"]))
    if candidates:
        raise ValueError(f"no checkpoint beside {path} is usable; start afresh without --resume, or in another folder")
    return None


def _restore(
    path: Path, tensors: dict[str, Tensor], model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    try:
        model.load_state_dict(current_tensors(parts["model"], model.state_dict()))
        average.load_state_dict(current_tensors(parts["average"], average.state_dict()))
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another network; use another folder for this one. {error}") from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():
        values.update({key: _laid_out_like(value, parameter) for key, value in values.items()})


def _laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    """The same values in the parameter's order in memory: AdamW's fused step pairs them by their place there."""
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
