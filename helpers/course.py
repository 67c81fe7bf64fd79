"""The set-up of a notebook in one call: the profile (cpu or gpu), and device, dtype and seed that follow from it.

    course = begin()                       # COURSE_PROFILE, or "cpu"
    steps = course.pick(cpu=400, gpu=20_000)

Nothing of a notebook is skipped in either profile: only sizes, steps and sources differ.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

PROFILES = ("cpu", "gpu")
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Course:
    """The settings of a notebook: profile, device, dtype, seed, and the folder for its files."""

    profile: str  # "cpu" or "gpu"
    device: "torch.device"
    dtype: "torch.dtype"  # of network activations: bfloat16 where the GPU has it in hardware, else float32
    seed: int
    data_dir: Path  # for outputs and caches; created when the first file is written

    def pick(self, *, cpu: Choice, gpu: Choice) -> Choice:
        """Return the value for this profile: `course.pick(cpu=32, gpu=128)`."""
        return gpu if self.profile == "gpu" else cpu

    def __str__(self) -> str:
        # Without `data_dir`, which differs from one computer to the next: stored notebook outputs stay comparable.
        return f"profile {self.profile}: {self.device}, {str(self.dtype).removeprefix('torch.')}, seed {self.seed}"


def begin(profile: str | None = None, seed: int = 0) -> Course:
    """Choose the profile and seed Python, NumPy and torch.

    Args:
        profile: "cpu" or "gpu"; when None, the environment variable COURSE_PROFILE, else "cpu".
        seed: from 0 to 2**32 - 1, what NumPy accepts.

    Raises:
        ValueError: for an unknown profile, or a seed out of range.
        RuntimeError: if the profile is "gpu" and torch sees no GPU.
    """
    import numpy as np
    import torch

    from helpers.devices import best_device

    source = "begin(profile=...)" if profile else "the environment variable COURSE_PROFILE"
    profile = profile or os.environ.get("COURSE_PROFILE") or "cpu"
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}, set by {source}; there are: {', '.join(PROFILES)}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed must lie between 0 and 2**32 - 1, got {seed}")
    device = torch.device(best_device() if profile == "gpu" else "cpu")
    if profile == "gpu" and device.type == "cpu":
        raise RuntimeError(
            f"the gpu profile, set by {source}, needs a GPU, and torch {torch.__version__} "
            f"(built for CUDA: {torch.version.cuda or 'no'}) sees none. "
            "To go back to the cpu profile, unset COURSE_PROFILE or call begin('cpu')."
        )
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # every device
    return Course(profile, device, _dtype(device), seed, course_home())


def _dtype(device: "torch.device") -> "torch.dtype":
    """bfloat16 if the hardware has it; a T4 or V100 only emulates it, slowly, and float16 overflows in training."""
    import torch

    from helpers.devices import has_bf16

    return torch.bfloat16 if has_bf16(device.type) else torch.float32


def course_home() -> Path:
    """Return the folder for outputs and caches: COURSE_HOME, else ~/.cache/ddpm-to-stable-diffusion. Not created here.

    Outside the checkout, because that may be read-only.

    Raises:
        RuntimeError: for a user without a home directory, where COURSE_HOME does not name a folder that needs none.
    """
    folder = Path(os.environ.get("COURSE_HOME") or "~/.cache/ddpm-to-stable-diffusion")
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise RuntimeError(
            f"the folder {folder} for outputs and caches cannot be found, for this user has no home directory "
            f"({error}): set the environment variable COURSE_HOME to a folder that can be written"
        ) from error


def repository_root() -> Path:
    """Return the folder that holds helpers/, notebooks/ and 00_assets/."""
    return Path(__file__).resolve().parents[1]


def cpu_count() -> int:
    """Return how many CPU cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
