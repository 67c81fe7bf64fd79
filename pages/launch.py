"""The line under a page's title: download the notebook, or open it in Colab; and what Colab needs before."""

import os
import re
import subprocess
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from pages.record import ROOT

GITHUB = re.compile(r"github\.com[:/](?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?$")
COLAB = "https://colab.research.google.com/github"


def repository() -> str | None:
    """ "owner/name" on GitHub: the environment's COURSE_REPOSITORY, or where this clone comes from; None elsewhere.

    Raises:
        ValueError: if COURSE_REPOSITORY is no address of a repository on GitHub.
    """
    address = os.environ.get("COURSE_REPOSITORY", "")
    match = GITHUB.search(address or _origin())
    if address and not match:
        raise ValueError(f"COURSE_REPOSITORY is {address!r}; it should read like https://github.com/owner/name")
    return f"{match['owner']}/{match['name']}" if match else None


def _origin() -> str:
    """Where this clone comes from; "" for a copy without git, or one that lies in another repository's folder."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        return git("remote", "get-url", "origin") if top and Path(top).resolve() == ROOT.resolve() else ""
    except OSError:  # there is no git here
        return ""


def launchable(notebook: NotebookNode, path: Path, target: Path, where: str | None) -> NotebookNode:
    """The notebook with the line under its title.

    Args:
        notebook: as stored; it is not changed.
        path: where it stands in the repository, such as notebooks/01_data_exploration.ipynb.
        target: the download, relative to the page's folder.
        where: "owner/name" on GitHub; None for no link to Colab.
    """
    shown = nbformat.from_dict(notebook)
    ways = [f"{{download}}`Download this notebook <{target}>`", "put it into `notebooks/` of the course"]
    line = f"{ways[0]} ({ways[1]})"
    if where:
        line += f" · [Open in Colab]({COLAB}/{where}/blob/main/{path})\n\n{_colab(where)}"
    title, _, rest = shown.cells[0].source.partition("\n")
    shown.cells[0].source = f"{title}\n\n{line}\n{rest}"
    return shown


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    """A copy with text and code and without outputs, for downloads."""
    bare = nbformat.from_dict(notebook)
    bare.metadata.pop("widgets", None)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    return bare


def _colab(where: str) -> str:
    """Colab opens a notebook alone: the package beside it has to be fetched."""
    clone = f"!git clone --quiet --depth 1 https://github.com/{where} course && pip install -q -e course"
    advice = "Colab has the notebook, not the package beside it. Run this in a first cell:"
    return f"<details><summary>On Colab</summary>\n\n{advice}\n\n```\n{clone}\n%cd course/notebooks\n```\n\n</details>"
