"""Ctrl-C while training: a flag that is read between two steps, instead of an exception in the middle of one."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(second_signal_raises: bool = True) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or a polite kill) into a flag.

    Args:
        again_stops: a second one stops at once. False under a launcher, which passes on what every process got.
    """
    caught: list[int] = []

    def note(number, frame):
        caught.append(number)
        if len(caught) == 1:
            again = " (Ctrl-C again: at once, without saving)" if second_signal_raises else ""
            ignoring_broken_pipe(print, f"\nstopping after this step{again}", file=sys.stderr, flush=True)
        elif second_signal_raises:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignoring_broken_pipe(say: Callable, *words, **options) -> None:
    """Say something; where nobody reads any more, go on in silence: `| tee` dies of the same Ctrl-C."""
    try:
        say(*words, **options)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(nowhere, number)
        os.close(nowhere)
