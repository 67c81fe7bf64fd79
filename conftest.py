"""Tests and the notebooks among them reach no other machine, and notebooks write nothing here: tests/guard says how."""

import os
import runpy
import sys
from pathlib import Path

import helpers  # noqa: F401  before any test imports torch, and for the kernels of notebooks: how its threads wait

GUARD = Path(__file__).parent / "tests" / "guard"
if str(GUARD) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):  # else a worker, which has it already
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH")]))
    if "sitecustomize" not in sys.modules or Path(sys.modules["sitecustomize"].__file__).parent != GUARD:
        runpy.run_path(str(GUARD / "sitecustomize.py"))
