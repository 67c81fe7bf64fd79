"""Records of measurements: JSON files in 00_assets/results, the computer that measured, and sizes of networks."""

import json
import os
import platform
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def read_record(path: Path) -> dict[str, Any]:
    """The record in a JSON file; an empty dictionary where there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_record(path: Path, record: Any) -> None:
    """Replace a JSON file in one move: whoever reads it meanwhile gets the old record or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(unfinished, path)


def hardware(threads: str = "") -> str:
    """Processor, threads and version of PyTorch, as one line for a record.

    Args:
        threads: how the cores were used; "": the number of threads that PyTorch uses in this process.
    """
    import torch

    threads = threads or f"{torch.get_num_threads()} threads"
    return f"{_processor()}, {threads}, torch {torch.__version__}"


def _processor() -> str:
    """The processor's name as Linux gives it, or what Python knows of it elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def parameter_count(module: "nn.Module") -> int:
    """How many numbers the parameters of a module hold; a parameter that is shared counts once."""
    return sum(parameter.numel() for parameter in module.parameters())
