"""Keep freed memory in the process, so that the next large tensor costs no page faults.

glibc hands blocks of more than 32 MB back to the kernel when they are freed, and asks for zeroed pages when the next
tensor of the same size is made. Decoding images at full resolution spent a third of its processor time that way, in
the kernel (`python -m benchmarks.allocator`). With both thresholds raised the process keeps at most as much unused
memory as the thresholds say. Elsewhere than on Linux with glibc nothing is changed, nor where the user has tuned
malloc.
"""

import ctypes
import os
import sys

KEPT_BYTES = 512 * 1024**2  # smaller blocks are reused; as much free memory stays in the process
TRIM_THRESHOLD = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for giving memory back; return whether that was done."""
    if sys.platform != "linux" or _tuned_by_user():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, such as musl
        return False
    return all(mallopt(option, KEPT_BYTES) == 1 for option in (TRIM_THRESHOLD, MMAP_THRESHOLD))


def _tuned_by_user() -> bool:
    return any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
