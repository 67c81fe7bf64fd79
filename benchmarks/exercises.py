"""Exercises, and the course around them: blanks fail, solutions pass, mistakes are told apart; pages light and quick.

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
from benchmarks.report import Row, at_least, at_most, true
from helpers.exercises.checking import Exercise, Verdict, exercises
from helpers.exercises.checking import check as judged
from pages.browser import addresses, chromium, find_chromium, first_picture, serve
from pages.build import HTML
from pages.execute import NOTEBOOKS, notebooks
from pages.record import ROOT

LEAST = 50
LEAST_MISTAKES = 2
PAGE = 3  # megabytes at most
SITE = 60  # megabytes at most
VISITS = 3
FIRST_PICTURE = 1000  # milliseconds at most, from asking for a page to its first picture
PICTURE = re.compile(r'src="([^"]+/_images/[^"]+)"')
CHECKED = re.compile(r'^check\("(\d\d\.\d+)", \w+\)$', re.MULTILINE)


def check() -> list[Row]:
    """One line per exercise, how many there are, what the pages weigh and wait, and what is on record."""
    rows = [_row(found, blank, solution) for found, blank, solution in every_exercise()]
    return [*rows, at_least("exercises", len(rows), LEAST), *_weights(), *_first_pictures(), *_recorded()]


def every_exercise() -> Iterator[tuple[Exercise, Verdict | None, Verdict | None]]:
    """Each with what is said of its blank in the notebook, and of its solution; None where there is no such cell."""
    for path in notebooks():
        number = path.stem[:2]
        if path.parent == NOTEBOOKS and (blanks := answers(path)):
            blank = verdicts(list(blanks.values()))
            solved = verdicts(code(NOTEBOOKS / "solutions" / f"{number}_solutions.ipynb"))
            for name, found in exercises(number).items():
                yield found, blank.get(name), solved.get(name)


def code(path: Path) -> list[str]:
    """A notebook's code cells; none where there is no notebook."""
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    return [cell.source for cell in cells if cell.cell_type == "code"]


def answers(path: Path) -> dict[str, str]:
    """The cells of a notebook that end in a check, by the exercise's number."""
    return {found[1]: source for source in code(path) if (found := CHECKED.search(source))}


def verdicts(cells: list[str]) -> dict[str, Verdict]:
    """Run cells one after another, in one place of their own, and keep what is said of each answer."""
    space: dict[str, Any] = {"check": judged}
    said = {}
    for source in cells:
        *body, last = ast.parse(source).body
        exec(compile(ast.Module(body, []), "<cell>", "exec"), space)
        if found := CHECKED.search(source):
            said[found[1]] = eval(compile(ast.Expression(last.value), "<cell>", "eval"), space)
        else:
            exec(compile(ast.Module([last], []), "<cell>", "exec"), space)
    return said


def told_apart(found: Exercise) -> list[bool]:
    """Of every typical mistake: is it refused, with the words meant for it?"""
    said = {words: judged(found.number, answer) for words, answer in found.mistakes.items()}
    return [verdict.state == "wrong" and words in verdict.text for words, verdict in said.items()]


def _row(found: Exercise, blank: Verdict | None, solution: Verdict | None) -> Row:
    caught = told_apart(found)
    fails = blank is not None and blank.state == "blank"
    passes = solution is not None and solution.state == "right"
    measured = f"{'yes' if fails else 'no'}, {'yes' if passes else 'no'}, {sum(caught)} of {len(caught)}"
    enough = fails and passes and all(caught) and len(caught) >= LEAST_MISTAKES
    return true(f"{found.number}: blank fails, solution passes, mistakes caught", measured, "yes, yes, all", enough)


def _weights() -> list[Row]:
    """Of the heaviest page, without the scripts that all pages share, and of the whole site."""
    subprocess.run([sys.executable, "-m", "pages.build"], cwd=ROOT, check=True, capture_output=True)
    pages = {path: weight(path) / 1e6 for path in HTML.rglob("*.html")}
    heaviest = max(pages, key=pages.__getitem__)
    site = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file()) / 1e6
    return [
        at_most(f"heaviest page ({heaviest.stem}), text and pictures", pages[heaviest], PAGE, "MB"),
        at_most("the whole site", site, SITE, "MB"),
    ]


def _first_pictures() -> Iterator[Row]:
    """Of the page that lets its reader wait longest, by the middle one of its visits; nothing is cached."""
    if find_chromium() is None:
        print("not checked here: the first picture of a page (no Chromium; CHROMIUM names one)", file=sys.stderr)
        return
    with serve(HTML) as url, chromium() as browser:
        visits = {path: [first_picture(browser, f"{url}/{path}") for _ in range(VISITS)] for path in addresses(HTML)}
    shown = {path: statistics.median(waits) for path, waits in visits.items() if None not in waits}
    slowest = max(shown, key=shown.__getitem__)
    yield at_most(
        f"first picture, slowest of {len(shown)} pages ({Path(slowest).stem})", shown[slowest], FIRST_PICTURE, "ms"
    )


def _recorded() -> Iterator[Row]:
    same = reproduced()
    every = notebooks()
    yield true(
        "notebooks whose stored outputs two executions gave, byte by byte",
        f"{len(same)} of {len(every)}",
        "every one",
        len(same) == len(every),
    )
    yield test_seconds()


def weight(page: Path) -> int:
    """Bytes of a page's text and of the pictures that it loads."""
    text = page.read_text()
    pictures = {(page.parent / name).resolve() for name in PICTURE.findall(text)}
    return len(text.encode()) + sum(picture.stat().st_size for picture in pictures)
