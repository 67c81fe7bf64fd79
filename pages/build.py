"""Renders the course pages from executed notebooks.

python -m pages.build [--strict] [--quick] [--executed FOLDER]
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
from sphinx.cmd.build import build_main

from pages import launch, redirects, vendor
from pages.execute import NOTEBOOKS, notebooks, write
from pages.fill import up_to_date
from pages.folding import fold_imports
from pages.lighter import lighten
from pages.live import package as live
from pages.record import ROOT
from pages.reference import write_reference

HERE = ROOT / "pages"
SOURCE = HERE / "_build" / "src"
HTML = HERE / "_build" / "html"
UNFINISHED = HERE / "_build" / "html.part"  # until it is whole, the pages of before can be read
PARSED = HERE / "_build" / "parsed"  # what Sphinx keeps of every source: no part of the site
IMAGES = ROOT / "00_assets" / "image"
SOLUTIONS = "notebooks/solutions/index"
TEXTS = (
    "try_it.md",
    "javascript.md",
    "notation.md",
    "glossary.md",
    "time_and_memory.md",
    "generate.md",
    "ask.md",
    "training.md",
    "own_images.md",
    "recipes.md",
    "evidence.md",
    "troubleshooting.md",
    "vocabulary.md",
    "history.md",
    "responsibility.md",
    "next_steps.md",
    "references.md",
)


class Part(NamedTuple):
    """One part of the course: the numbers of its notebooks; an image under 00_assets/image, and its description."""

    numbers: tuple[str, ...]
    image: str = ""
    alt: str = ""


PARTS = {
    "Start here": Part(("00",)),
    "Data": Part(("01",), "toy_faces.png", "Synthetic faces of cats, dogs and wild animals in many colours"),
    "DDPM": Part(("02", "03", "04"), "ddpm.png", "Noise that becomes an image step by step"),
    "Inference": Part(("05", "06"), "sd1.png", "The parts of Stable Diffusion, and the tensors that pass between them"),
    "Autoencoders": Part(("07", "08"), "autoencoders.png", "Images, and what autoencoders reconstruct"),
    "Tiny Stable Diffusion": Part(
        ("09", "10", "11", "12", "13"), "tiny_sd_pixels.png", "Faces generated from captions"
    ),
    "Multimodal": Part(("14", "15"), "multimodal.png", "Synthetic faces with boxes, outlines, questions and answers"),
}


def gather(folder: Path = NOTEBOOKS, source: Path = SOURCE, executed: Path | None = None) -> list[Path]:
    """Lay the sources out for Sphinx as they lie in the repository, so that their links to one another hold.

    Each notebook comes twice: as a page, with a line to launch it and its imports folded, and without outputs, to
    download.

    Args:
        folder: of the notebooks.
        source: where the sources go.
        executed: a folder of executed copies: a notebook that has one there is shown with the copy's outputs.

    Returns:
        The notebooks of `folder`.
    """
    shutil.rmtree(source, ignore_errors=True)
    paths = notebooks(folder=folder)
    where = launch.repository()
    for path in paths:
        place = Path("notebooks") / path.relative_to(folder)
        copy = executed and executed / path.relative_to(folder)
        notebook = nbformat.read(copy if copy and copy.is_file() else path, as_version=4)
        base = "../" * (len(place.parts) - 1) + "live/"
        download = Path(*[".."] * (len(place.parts) - 1), "downloads", path.name)
        shown = fold_imports(launch.launchable(notebook, place, download, where))
        write(_with_figures(shown, base), source / place)
        write(launch.without_outputs(notebook), source / "downloads" / path.name)
    if IMAGES.is_dir():
        shutil.copytree(IMAGES, source / "00_assets" / "image")
    for name in ("index.md", *(f"pages/{text}" for text in TEXTS)):
        text = up_to_date(ROOT / name if "/" in name else HERE / name)
        if "<!-- contents -->" in text:
            text = text.replace("<!-- contents -->", contents(paths, source))
        if "<!-- live -->" in text:
            text = text.replace("<!-- live -->", live.try_it())
        text = live.with_figures(text, "../" * name.count("/") + "live/")
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "pages" / "live").mkdir(exist_ok=True)
    for path in live.HERE.glob("*.js"):  # a chapter shows parts of them
        shutil.copy(path, source / "pages" / "live" / path.name)
    write_reference(source / "pages" / "reference")
    return paths


def _with_figures(notebook: nbformat.NotebookNode, base: str) -> nbformat.NotebookNode:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = live.with_figures(cell.source, base)
    return notebook


def contents(paths: Sequence[Path], source: Path = SOURCE) -> str:
    """The index page's map: the lessons of each part, with an image where there is one, and the sidebar's entries."""
    solutions = [path for path in paths if path.parent.name == "solutions"]
    lessons = [path for path in paths if path not in solutions]
    blocks = [
        _part(name, part, [path for path in lessons if path.stem[:2] in part.numbers], source)
        for name, part in PARTS.items()
    ]
    if solutions:
        _write_index_of_solutions(solutions, source)
        blocks.append(_toctree("Solutions", [f"Solutions <{SOLUTIONS}>"]))
    return "\n\n".join(block for block in blocks if block)


def build(folder: Path = NOTEBOOKS, executed: Path | None = None, *, strict: bool = False, quick: bool = False) -> int:
    """Render the pages into `pages/_build/html`.

    Args:
        folder: of the notebooks.
        executed: a folder of executed copies, whose outputs are shown instead of the stored ones.
        strict: a warning is an error.
        quick: leave the images as large as they are, and don't wait long for scripts from the network.

    Returns:
        Sphinx's exit status; unless it is 0, the pages of before stay.
    """
    without = vendor.fetch(patience=15 if quick else 300)
    if without and not quick:
        print(f"No local copy of {', '.join(without)} (npm fetches them): the pages load them from {vendor.CDN}")
    paths = gather(folder, executed=executed)
    shutil.rmtree(UNFINISHED, ignore_errors=True)
    arguments = ["-q", "-b", "html", "-E", "-d", str(PARSED), "-c", str(HERE), str(SOURCE), str(UNFINISHED)]
    status = build_main([*(["-W", "--keep-going"] if strict else []), *arguments])
    if status == 0:
        if not quick:
            lighten(UNFINISHED)
        live.write(UNFINISHED / "live")
        redirects.write(UNFINISHED)
        shutil.rmtree(HTML, ignore_errors=True)
        UNFINISHED.replace(HTML)
        print(f"{len(paths)} notebooks rendered. Open {HTML / 'index.html'}")
        print(f"or serve it: {sys.executable} -m http.server --directory {HTML.relative_to(ROOT)} 8000")
        print("and open http://localhost:8000 (formulas and sliders work best that way)")
    return status


def _part(name: str, part: Part, lessons: Sequence[Path], source: Path) -> str:
    """A part's heading, image, list of lessons and entry in the sidebar; nothing where it has no lesson yet."""
    if not lessons:
        return ""
    there = (source / "00_assets" / "image" / part.image).is_file()
    figure = f"![{part.alt}](00_assets/image/{part.image})\n\n" if there else ""
    links = "\n".join(f"- {path.stem[:2]} [{_title(path)}](notebooks/{path.name})" for path in lessons)
    return f"### {name}\n\n{figure}{links}\n\n{_toctree(name, [_entry(path) for path in lessons])}"


def _write_index_of_solutions(solutions: Sequence[Path], source: Path) -> None:
    """A page that lists the solutions: their entries in the sidebar stand under its own, folded."""
    lines = [f"- {path.stem[:2]} [{_title(path)}]({path.name})" for path in solutions]
    entries = _toctree("", [f"{path.stem[:2]} {_title(path)} <{path.stem}>" for path in solutions])
    text = "\n\n".join(["# Solutions", "Try each exercise before you look.", "\n".join(lines), entries])
    (source / f"{SOLUTIONS}.md").write_text(text + "\n")


def _entry(path: Path) -> str:
    """A notebook's entry in the sidebar, with its number."""
    return f"{path.stem[:2]} {_title(path)} <notebooks/{path.stem}>"


def _title(path: Path) -> str:
    first = next((cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"), None)
    line = first.source.lstrip().splitlines()[0] if first and first.source.strip() else path.stem
    return line.lstrip("# ").strip()


def _toctree(caption: str, names: Sequence[str]) -> str:
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *names, "```"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and say where to look."""
    parser = argparse.ArgumentParser(prog="python -m pages.build", description="Render the course pages.")
    parser.add_argument("--executed", type=Path, help="folder of executed copies, shown where there is one")
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument("--quick", action="store_true", help="leave the images large: takes a third of the time less")
    options = parser.parse_args(arguments)
    executed = options.executed and options.executed.resolve()
    return build(executed=executed, strict=options.strict, quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
