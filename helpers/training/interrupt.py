"""Ctrl-C while training: a flag that is read between two steps, instead of an exception in the middle of one."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interruptible(second_signal_raises: bool = True) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT (Ctrl-C) or SIGTERM into a flag; yields a function that reads it.

    Args:
        second_signal_raises: a second signal raises `KeyboardInterrupt`. False under a launcher, which passes on what
            every process received anyway.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) == 1:
            hint = " (Ctrl-C again: at once, without saving)" if second_signal_raises else ""
            ignoring_broken_pipe(print, f"\nstopping after this step{hint}", file=sys.stderr, flush=True)
        elif second_signal_raises:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignoring_broken_pipe(write: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Call a function that prints; after a broken pipe, send all further output nowhere.

    In `python -m ... | tee log` Ctrl-C ends tee, too, and the training must still save its checkpoint.
    """
    try:
        write(*args, **options)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
