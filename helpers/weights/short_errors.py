"""Errors of a few lines, for cells that load weights which a reader has chosen."""

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

WIDTH = 88  # characters of a line


class LoadingError(Exception):
    """What went wrong, and the settings that lead there. Jupyter shows these lines in place of a traceback."""

    def _render_traceback_(self) -> list[str]:
        """Called by IPython: the lines to show."""
        return textwrap.wrap(str(self), WIDTH, break_long_words=False, break_on_hyphens=False)


@contextmanager
def short_errors(*variables: str) -> Iterator[None]:
    """Turn an error of the `with` block about weights or settings into one of a few lines.

    Args:
        variables: names of the environment variables that choose what is loaded; the error lists them.

    Raises:
        LoadingError: for the errors of the course's loaders; the whole traceback is its cause.
    """
    try:
        yield
    except (OSError, ImportError, TypeError, ValueError) as error:
        settings = [f"{name}={os.environ[name]}" if os.environ.get(name) else f"{name} (not set)" for name in variables]
        raise LoadingError(f"{error}. Settings: {', '.join(settings)}") from error
