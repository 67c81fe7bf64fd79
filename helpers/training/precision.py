"""Whether a machine computes in bfloat16, or would only pretend to."""

import time
from functools import cache

import torch

SLOWER = 4  # emulation costs a hundred times and more; a busy neighbour doubles a time at most


@cache
def computes_bf16(kind: str = "cpu") -> bool:
    """Whether bfloat16 is worth asking for on "cpu" or "cuda"; on a processor measured, once, in milliseconds.

    Processors without instructions for it multiply such matrices one number at a time.
    """
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    seconds = {dtype: _product(torch.ones(256, 256, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.bfloat16] < SLOWER * seconds[torch.float32] + 1e-4


def _product(matrix: torch.Tensor) -> float:
    """Seconds of one product, the best of five; the first brings the library up."""
    found = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        found.append(time.perf_counter() - start)
    return min(found[1:])
