"""Exercises, and the course around them: blanks fail, solutions pass, mistakes are recognised; pages are light.

    python -m benchmarks check exercises    # two minutes: answers are judged anew, pages rendered, weighed and timed

What takes an hour, `python -m benchmarks course` measures and records: two executions of all notebooks, `make test`.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from benchmarks.course import reproduced, test_seconds
from benchmarks.report import Row, at_least, at_most, claim
from helpers.exercises.checking import Exercise, Verdict, exercises
from helpers.exercises.checking import check as judged
from pages.browser import addresses, chromium, find_chromium, first_image, serve
from pages.build import HTML
from pages.execute import NOTEBOOKS, notebooks
from pages.record import ROOT

LEAST = 50
LEAST_MISTAKES = 2
PAGE = 3  # megabytes at most
SITE = 90  # megabytes at most, 28 of them the weights of the model in the page
VISITS = 3
FIRST_IMAGE = 1000  # milliseconds at most, from asking for a page to its first image
IMAGE_SOURCE = re.compile(r'src="([^"]+/_images/[^"]+)"')
CHECKED = re.compile(r'^check\("(\d\d\.\d+)", \w+\)$', re.MULTILINE)


def check() -> list[Row]:
    """Rows: each exercise, their number, the bytes of the pages, the wait for the first image, and the record."""
    rows = [_row(exercise, blank, solution) for exercise, blank, solution in every_exercise()]
    return [*rows, at_least("exercises", len(rows), LEAST), *_weights(), *_first_images(), *_recorded()]


def every_exercise() -> Iterator[tuple[Exercise, Verdict | None, Verdict | None]]:
    """Each exercise with the verdicts on its blank and on its solution; None where there is no such cell."""
    for path in notebooks():
        number = path.stem[:2]
        if path.parent == NOTEBOOKS and (blanks := answers(path)):
            blank = verdicts(list(blanks.values()))
            solved = verdicts(code(NOTEBOOKS / "solutions" / f"{number}_solutions.ipynb"))
            for name, exercise in exercises(number).items():
                yield exercise, blank.get(name), solved.get(name)


def code(path: Path) -> list[str]:
    """The sources of a notebook's code cells; none where there is no notebook."""
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    return [cell.source for cell in cells if cell.cell_type == "code"]


def answers(path: Path) -> dict[str, str]:
    """The cells of a notebook that end in a check, by the exercise's number."""
    return {match[1]: source for source in code(path) if (match := CHECKED.search(source))}


def verdicts(cells: list[str]) -> dict[str, Verdict]:
    """Run cells one after another in a new namespace; the verdict on each answer, by the exercise's number."""
    space: dict[str, Any] = {"check": judged}
    said = {}
    for source in cells:
        *body, last = ast.parse(source).body
        exec(compile(ast.Module(body, []), "<cell>", "exec"), space)
        if (match := CHECKED.search(source)) and isinstance(last, ast.Expr):
            said[match[1]] = eval(compile(ast.Expression(last.value), "<cell>", "eval"), space)
        else:
            exec(compile(ast.Module([last], []), "<cell>", "exec"), space)
    return said


def mistakes_recognised(exercise: Exercise) -> list[bool]:
    """For every typical mistake: whether it is judged wrong, with the message meant for it."""
    said = {message: judged(exercise.number, answer) for message, answer in exercise.mistakes.items()}
    return [verdict.state == "wrong" and message in verdict.text for message, verdict in said.items()]


def _row(exercise: Exercise, blank: Verdict | None, solution: Verdict | None) -> Row:
    caught = mistakes_recognised(exercise)
    fails = blank is not None and blank.state == "blank"
    passes = solution is not None and solution.state == "right"
    measured = f"{'yes' if fails else 'no'}, {'yes' if passes else 'no'}, {sum(caught)} of {len(caught)}"
    enough = fails and passes and all(caught) and len(caught) >= LEAST_MISTAKES
    return claim(f"{exercise.number}: blank fails, solution passes, mistakes caught", measured, "yes, yes, all", enough)


def _weights() -> list[Row]:
    """Megabytes of the heaviest page, without the scripts that all pages share, and of the whole site."""
    subprocess.run([sys.executable, "-m", "pages.build"], cwd=ROOT, check=True, capture_output=True)
    pages = {path: weight(path) / 1e6 for path in HTML.rglob("*.html")}
    heaviest = max(pages, key=pages.__getitem__)
    site = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file()) / 1e6
    return [
        at_most(f"heaviest page ({heaviest.stem}), text and images", pages[heaviest], PAGE, "MB"),
        at_most("the whole site", site, SITE, "MB"),
    ]


def _first_images() -> Iterator[Row]:
    """Milliseconds to the first image of the slowest page, the median of its visits; nothing is cached."""
    if find_chromium() is None:
        print("not checked here: the first image of a page (no Chromium; CHROMIUM names one)", file=sys.stderr)
        return
    with serve(HTML) as url, chromium() as browser:
        visits = {path: [first_image(browser, f"{url}/{path}") for _ in range(VISITS)] for path in addresses(HTML)}
    shown = {path: statistics.median(w for w in waits if w is not None) for path, waits in visits.items() if all(waits)}
    slowest = max(shown, key=shown.__getitem__)
    yield at_most(
        f"first image, slowest of {len(shown)} pages ({Path(slowest).stem})", shown[slowest], FIRST_IMAGE, "ms"
    )


def _recorded() -> Iterator[Row]:
    same = reproduced()
    every = notebooks()
    yield claim(
        "notebooks whose stored outputs two executions gave, byte by byte",
        f"{len(same)} of {len(every)}",
        "every one",
        len(same) == len(every),
    )
    yield test_seconds()


def weight(page: Path) -> int:
    """Bytes of a page's text and of the images that it loads."""
    text = page.read_text()
    images = {(page.parent / name).resolve() for name in IMAGE_SOURCE.findall(text)}
    return len(text.encode()) + sum(image.stat().st_size for image in images)
