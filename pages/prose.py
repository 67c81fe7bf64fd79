"""Reads the course as text: its words, numbers and links, and how its notebooks are made up."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from pages.execute import notebooks
from pages.record import ROOT

CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)")
TAG = re.compile(r"<[^<>]*>")
TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\d.]*\w)")
BRACKET = re.compile(r"\([^()]*\)")
SHOWS = re.compile(r"\b(show|table|image_slider|print|check|assert_close)\(|\bassert\b|\bgrid\(|\bcompare\(")


class Makeup(NamedTuple):
    """The proportions of a notebook, for which the house has limits."""

    cells: int  # of code
    lines: int  # of code
    median: float  # lines of a cell
    tenth: float  # one cell in ten is longer than this
    longest: int
    words_per_line: float  # of prose, per line of code
    silent: int  # code cells in a row that show and check nothing, at most


def texts() -> dict[str, str]:
    """Everything that is read as prose: each notebook's (by its name), the pages', and the README's."""
    notebook_texts = {path.stem: "\n\n".join(_cells(path, "markdown")) for path in notebooks()}
    others = [ROOT / "README.md", *sorted((ROOT / "pages").glob("*.md"))]
    return notebook_texts | {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in others}


def docstrings() -> Iterator[tuple[str, str]]:
    """The file and the docstring of every module, class and function."""
    paths: list[Path] = []
    for folder in ("helpers", "benchmarks", "pages"):
        paths += (ROOT / folder).rglob("*.py")
    for path in sorted(paths):
        if "_build" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (said := ast.get_docstring(node)):
                yield str(path.relative_to(ROOT)), said


def plain(text: str) -> str:
    """Prose without code, formulas, tags and the addresses of links."""
    without = FORMULA.sub(" ", CODE.sub(" ", text))
    return re.sub(r"https?://\S+", " ", TAG.sub(" ", LINK.sub(r"\2 ", without)))


def split_words(text: str) -> list[str]:
    """Split the prose of a text into words, as they are written."""
    return TOKEN.findall(plain(text))


def bracket_share(text: str) -> float:
    """The share of the words of a text that stand in brackets."""
    prose = plain(text)
    inside = sum(len(TOKEN.findall(bracket)) for bracket in BRACKET.findall(prose))
    return inside / max(1, len(TOKEN.findall(prose)))


def sections(path: Path) -> dict[str, str]:
    """The heading of every numbered section of a notebook, and the prose before its first cell of code or formula."""
    openings: dict[str, str] = {}
    heading = ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            heading = ""
            continue
        for line in cell.source.splitlines():
            if re.match(r"## \d+\. ", line):
                heading = line.removeprefix("## ")
                openings[heading] = ""
            elif line.startswith("$$"):
                heading = ""
            elif heading and not line.startswith("#"):
                openings[heading] += line + "\n"
    return openings


def code_cells(path: Path) -> list[str]:
    """The source of every cell of code of a notebook, without lines that only IPython understands."""
    return [re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE) for source in _cells(path, "code")]


def numbers(text: str) -> list[str]:
    """The numbers that a text states, as they are written; headings and names of links are left out."""
    return NUMBER.findall(plain(re.sub(r"^#+ .*$", " ", LINK.sub(" ", text), flags=re.MULTILINE)))


def links(text: str) -> list[str]:
    """The targets of the links and images of a text."""
    return [match[3] for match in LINK.finditer(CODE.sub(" ", text))]


def computed(path: Path) -> str:
    """A notebook's code and all that it printed, as one text."""
    notebook = nbformat.read(path, as_version=4)
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts += [cell.source, *(_said(output) for output in cell.outputs)]
    return "\n".join(parts)


def makeup(path: Path) -> Makeup:
    """Measure one notebook."""
    code = _cells(path, "code")
    lines = [len(source.splitlines()) for source in code]
    prose = sum(len(split_words(source)) for source in _cells(path, "markdown"))
    silent = longest = 0
    for source in code:
        silent = 0 if SHOWS.search(source) else silent + 1
        longest = max(longest, silent)
    return Makeup(
        len(code),
        sum(lines),
        statistics.median(lines),
        statistics.quantiles(lines, n=10)[-1],
        max(lines),
        prose / sum(lines),
        longest,
    )


def anchor(heading: str) -> str:
    """The anchor of a heading on GitHub and on the pages, for links to it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _cells(path: Path, cell_type: str) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == cell_type and cell.source.strip()]


def _said(output: NotebookNode) -> str:
    data = output.get("data", {})
    shown = [output.get("text", ""), data.get("text/plain", ""), data.get("text/markdown", "")]
    return "\n".join([*shown, TAG.sub(" ", data.get("text/html", ""))])
