"""Large tensors reuse the memory of those before them, unless the user has tuned malloc."""

import os
import subprocess
import sys

import pytest

from pages.record import ROOT

# pages that the kernel has to zero for twenty tensors of 64 MB, after thirty others: at first the heap still grows
PAGE_FAULTS = """
import resource
import helpers
import torch
for i in range(50):
    if i == 30:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 1024**2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ONE_TENSOR = 64 * 1024**2 // os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def _page_faults(set_by_user: dict[str, str]) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", PAGE_FAULTS]
    run = subprocess.run(command, cwd=ROOT, env=environment | set_by_user, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is one of glibc")
@pytest.mark.parametrize(
    ("set_by_user", "reused"), [({}, True), ({"MALLOC_ARENA_TEST": "8"}, False)], ids=["course", "tuned by the user"]
)
def test_large_tensors_reuse_freed_memory(set_by_user: dict[str, str], reused: bool) -> None:
    faults = _page_faults(set_by_user)
    assert faults < 5 * ONE_TENSOR if reused else faults > 15 * ONE_TENSOR
