"""Renders the course's pages at once, executes the notebooks, and renders the pages again: `make course`.

    python -m pages.course [NAME ...]     # all notebooks, or those whose names start so, such as 02

The first pages show the outputs that are stored in the repository. Then each notebook is executed; one that fails or
takes far too long is named, and the others go on: with COURSE_PROFILE=gpu, where notebooks train for hours and no times
are recorded, after 12 hours. What has been executed is kept: after Ctrl-C, or when the computer was switched off, the
next call continues there, and executes again only what has changed since.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pages.copies import copy_of, drop_outdated, fingerprint_of, keep
from pages.execute import NOTEBOOKS, Execution, clock, limit_of, notebooks, recorded_seconds
from pages.record import ROOT

EXECUTED = ROOT / "pages" / "_build" / "executed"
INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended
UNKNOWN = 60.0  # seconds, for a notebook that was never measured, among others that were
Render = Callable[..., int]


class Progress:
    """Counts the notebooks that are done, estimates how long the rest will take, and prints both.

    The rest is estimated from the recorded seconds of each notebook, times how much slower this computer has been.
    """

    def __init__(self, paths: Sequence[Path], number: int):
        """`paths`: of the notebooks to execute; `number`: how many there are with those done before."""
        known = recorded_seconds()
        self._expected = {path.stem: known.get(path.stem, UNKNOWN) for path in paths if known}
        self._left = [path.stem for path in paths]
        self._number = number
        self._spent = self._was_expected = 0.0
        self._live = sys.stdout.isatty()

    def slowness(self, running: float = 0.0) -> float:
        """This computer's seconds over the recorded ones; `running`: of a notebook that has not ended."""
        done = self._spent / self._was_expected if self._was_expected else 1.0
        if not running or not self._expected:
            return done
        return max(done, (self._spent + running) / (self._was_expected + self._expected[self._left[0]]))

    def left(self, running: float = 0.0) -> str:
        """How long the rest will take; nothing where no record says."""
        if not self._expected or not self._left:
            return ""
        slowness = self.slowness(running)
        current, *others = (self._expected[name] * slowness for name in self._left)
        minutes = (max(0.0, current - running) + sum(others)) / 60
        return f"about {minutes:.0f} min left" if minutes >= 1.5 else "about a minute left"

    def begin(self, name: str) -> None:
        """Print the name of the notebook that starts."""
        self._print(self._title(name), end="" if self._live else " ")

    def watch(self, execution: Execution) -> None:
        """Print the cell of the running notebook, if the output is a terminal."""
        if self._live:
            cell, cells = execution.cells
            where = f"cell {cell:2} of {cells}"
            print(
                f"\r{self._title(execution.name)} {where}, {clock(execution.seconds)}, "
                f"{self.left(execution.seconds)}\x1b[K",
                end="",
                flush=True,
            )

    def end(self, name: str, seconds: float, failure: str = "") -> None:
        """Print how a notebook has ended: its seconds, or its failure."""
        self._left.remove(name)
        if not failure:
            self._spent += seconds
            self._was_expected += self._expected.get(name, 0.0)
        if self._live:
            self._print(f"\r\x1b[K{self._title(name, 1)} ", end="")
        self._print(f"FAILED {failure}" if failure else f"{clock(seconds):>7}   {self.left()}".rstrip())

    def _title(self, name: str, ended: int = 0) -> str:
        return f"{self._number - len(self._left) + 1 - ended:2}/{self._number}  {name:28}"

    def _print(self, text: str, end: str = "\n") -> None:
        print(text, end=end, flush=True)


def render(executed: Path, *, quick: bool = False) -> int:
    """Render the pages in a process of its own; returns its exit status."""
    command = [sys.executable, "-m", "pages.build", "--executed", str(executed), *(["--quick"] if quick else [])]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def execute_all(paths: Sequence[Path], folder: Path, source: Path, progress: Progress) -> dict[str, str]:
    """Execute notebooks, and keep the copies of those that run to the end.

    Returns:
        Of the others, what went wrong: their names, and the cell with one line of the error.
    """
    failures = {}
    for path in paths:
        copy = copy_of(path, folder, source)
        fingerprint = fingerprint_of(path)
        progress.begin(path.stem)
        execution = watched(Execution(path, limit_of(path.stem, progress.slowness())), progress)
        if execution.result:
            keep(execution.result[0], copy, fingerprint)
            progress.end(path.stem, execution.result[1].seconds)
        else:
            failures[path.stem] = execution.failure()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.with_suffix(".error.txt").write_text(execution.whole_error(), encoding="utf-8")
            progress.end(path.stem, execution.seconds, failures[path.stem])
    return failures


def watched(execution: Execution, progress: Progress) -> Execution:
    """Run an execution to its end; after Ctrl-C, stop it."""
    execution.start()
    try:
        while execution.is_alive():
            execution.join(1.0)
            progress.watch(execution)
    except KeyboardInterrupt:
        execution.stop()
        raise
    return execution


def run(names: Sequence[str] = (), source: Path = NOTEBOOKS, folder: Path = EXECUTED, rendered: Render = render) -> int:
    """Everything that `make course` does after the installation.

    Args:
        names: how the notebooks' names start; none: all.
        source: the folder of the notebooks.
        folder: where the executed copies are kept.
        rendered: renders the pages, and returns 0 if that worked.

    Returns:
        0 if all these notebooks have run to their end and the pages are there, else 1; 130 after Ctrl-C.

    Raises:
        ValueError: if a name fits no notebook.
    """
    chosen = notebooks(names, source)
    try:
        done = drop_outdated(notebooks(folder=source), folder, source)
        waiting = [path for path in chosen if path not in done]
        if waiting:
            print("First the pages, from the outputs that are there:", flush=True)
            rendered(folder, quick=True)
            _announce(chosen, waiting)
            failures = execute_all(waiting, folder, source, Progress(waiting, len(chosen)))
            print("Now the pages again, with the new outputs:", flush=True)
        else:
            print("All notebooks were executed before, and nothing has changed since. The pages:", flush=True)
            failures = {}
        status = rendered(folder)
    except KeyboardInterrupt:
        kept = [path for path in chosen if copy_of(path, folder, source).is_file()]
        print(f"\nStopped. {len(kept)} of {_count(chosen)} executed and kept. The next call continues.")
        return INTERRUPTED
    _report(failures, len(chosen), folder)
    return 1 if failures or status else 0


def _announce(chosen: Sequence[Path], waiting: Sequence[Path]) -> None:
    done = len(chosen) - len(waiting)
    before = f" ({done} executed before and kept)" if done else ""
    known = recorded_seconds()
    minutes = sum(known.get(path.stem, UNKNOWN) for path in waiting) / 60
    how_long = f"about {max(1, minutes):.0f} min on two quiet cores" if known else "how long that takes is not known"
    print(f"\nExecuting {_count(waiting)}{before}: {how_long}. The pages can be read meanwhile;", flush=True)
    print("Ctrl-C stops, and the next call continues.", flush=True)


def _count(notebooks: Sequence[Path]) -> str:
    return f"{len(notebooks)} notebook{'' if len(notebooks) == 1 else 's'}"


def _report(failures: dict[str, str], number: int, folder: Path) -> None:
    if not failures:
        return
    print(
        f"\n{len(failures)} of {number} notebooks did not run to their end; the pages show their stored outputs:",
        file=sys.stderr,
    )
    for name, failure in failures.items():
        print(f"  {name}, {failure}", file=sys.stderr)
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    print(f"The whole errors: {shown}/**/*.error.txt. The next call executes these notebooks again.", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module's first lines."""
    parser = argparse.ArgumentParser(
        prog="python -m pages.course", description="Render the pages, execute the notebooks, render the pages again."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="how the notebook's name starts, such as 02")
    os.environ["COURSE_PROFILE"] = os.environ.get("COURSE_PROFILE") or "cpu"
    try:
        return run(parser.parse_args(arguments).names)
    except ValueError as error:
        parser.error(str(error))


def leave(status: int) -> NoReturn:
    """End this process.

    After Ctrl-C at once: sockets of a killed kernel are still open, and because of them ZeroMQ sometimes aborts a
    process that ends as usual.
    """
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
