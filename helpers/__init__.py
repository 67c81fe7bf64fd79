"""The code of the course, from DDPM to Stable Diffusion; `ls helpers` is its table of contents."""

import os
import sys

__version__ = "0.1.0"

# PyTorch's OpenMP threads spin while they wait for one another, and beside other programs they starve each other. A
# short wait and then sleep costs nothing on a quiet machine and saves much on a busy one (`benchmarks/threads.py`).
# OpenMP reads it when torch is imported; whoever has set a value keeps it.
WAITING = ("GOMP_SPINCOUNT", "1000")

if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ[WAITING[0]] = WAITING[1]
