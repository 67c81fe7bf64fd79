"""The code of the course, from DDPM to Stable Diffusion; `ls helpers` is its table of contents."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from helpers.allocator import keep_freed_memory

try:
    __version__ = version("ddpm-to-stable-diffusion")  # pyproject.toml holds it
except PackageNotFoundError:  # a copy that was not installed
    __version__ = "0+unknown"

# PyTorch's OpenMP threads busy-wait for one another, so beside other programs they starve each other. A short wait and
# then sleep costs nothing on an idle machine and saves much on a busy one (`benchmarks/threads.py`). OpenMP reads the
# setting when torch is imported; a value that is already set is kept.
SPIN_COUNT = ("GOMP_SPINCOUNT", "1000")

if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ[SPIN_COUNT[0]] = SPIN_COUNT[1]

keep_freed_memory()
