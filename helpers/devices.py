"""One rule for devices: commands, trainings and notebooks ask here what to compute on.

NVIDIA's and AMD's GPUs are "cuda", Apple's "mps", Intel's "xpu". The tests run the course on CPUs, and on emulated
devices that refuse what CUDA and Apple's GPUs refuse; Apple's and Intel's own hardware has never run it.
"""

import torch

DEVICES = ("cuda", "mps", "xpu", "cpu")  # the best first
WITHOUT_FLOAT64 = ("mps", "xpu")  # the second: all of Intel's cards for consumers
ADVICE = {
    "cuda": "install a build of torch for your GPU from https://pytorch.org",
    "mps": "it needs a Mac with Apple silicon and macOS 14 or later",
    "xpu": "install a build of torch for Intel's GPUs from https://pytorch.org",
}


def is_available(name: str) -> bool:
    """Whether torch can compute on this kind of device here."""
    if name == "cuda":
        return torch.cuda.is_available()
    if name == "mps":
        return torch.backends.mps.is_available()
    return name == "cpu" or (name == "xpu" and torch.xpu.is_available())


def best_device() -> str:
    """The first of DEVICES that is available."""
    return next(filter(is_available, DEVICES))


def check_device(name: str) -> str:
    """The name of an available device; "auto" is the best one.

    Raises:
        ValueError: for an unknown name, and for a device that torch does not see.
    """
    if name == "auto":
        return best_device()
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}: choose auto or one of {', '.join(DEVICES)}")
    if not is_available(name):
        raise ValueError(f"torch {torch.__version__} sees no device {name!r}: leave it at cpu, or {ADVICE[name]}")
    return name


def has_bf16(name: str) -> bool:
    """Whether a GPU computes in bfloat16: a T4 or V100 only emulates it, slowly, and of Apple's torch does not tell."""
    if name == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return name == "xpu" and torch.xpu.is_available() and torch.xpu.is_bf16_supported()


def precise_device(device: torch.device) -> torch.device:
    """Where to compute in float64 for tensors on `device`: there, or on the CPU where it has none."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device
