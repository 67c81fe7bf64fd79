"""Faster ways to compute formulas that `helpers.vlm.gemma` states plainly; tests hold both to the same numbers.

Alphabet: T rows, V vocabulary, D width.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

MANY_ROWS = 16  # from more rows on, `F.linear` is at least as fast on every processor
LARGE_TABLE = 10_000  # tokens; below, the product takes less time than choosing how to compute it


@cache
def processor_is_amd() -> bool:
    """Whether Linux reports an AMD processor. False where it cannot be known."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def prefers_split(hidden_states: Tensor, table: Tensor) -> bool:
    """Whether `split_linear` is the faster one: decided by shape, dtype and processor, never by a timing.

    PyTorch's matrix library (MKL) is tuned for Intel. On AMD processors `split_linear` takes a quarter to two thirds
    of the time of `F.linear` for a few float32 rows; in bfloat16, and on Intel, `F.linear` is up to twice as fast.
    """
    few_rows = hidden_states.ndim == 2 and len(hidden_states) <= MANY_ROWS
    large = len(table) > LARGE_TABLE
    return few_rows and large and table.dtype == torch.float32 and table.is_cpu and processor_is_amd()


def split_linear(hidden_states: Tensor, table: Tensor) -> Tensor:
    """hidden_states @ table.T, (T, D) and (V, D) -> (T, V), for few rows and a large table.

    The time goes into reading the table. A single row would be multiplied by one core, so every core gets a part of
    the table; several rows become the right-hand side of the product.
    """
    cores = torch.get_num_threads()
    if len(hidden_states) > 1 or len(table) % cores:
        return (table @ hidden_states.T).T
    parts = table.unflatten(0, (cores, -1))  # (cores, V / cores, D)
    return torch.bmm(hidden_states.expand(cores, 1, -1), parts.mT).flatten()[None]


def tied_logits(hidden_states: Tensor, table: Tensor) -> Tensor:
    """hidden_states @ table.T, (..., D) and (V, D) -> (..., V), by the faster of the two ways."""
    if prefers_split(hidden_states, table):
        return split_linear(hidden_states, table)
    return F.linear(hidden_states, table)
