"""Writes the recorded tables into README.md and the pages: `python -m pages.fill`.

A table stands between <!-- name --> and <!-- /name -->. It is stored with the text, so that it can be read on GitHub
too; the rendered pages fill it in anew.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pages import evidence
from pages.record import ROOT, routes, table


def fillings(folder: str) -> dict[str, list[str]]:
    """The lines of every table; `folder` is where the notebooks lie, seen from the text."""
    lessons = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    return {
        "times": table(folder=folder, lessons=lessons),
        "routes": routes(folder=folder),
        "beside": evidence.beside(),
        "cuda": evidence.cuda(),
        "gpu": evidence.gpu_estimates(),
        "faults": evidence.faults(),
        "recipes": evidence.recipes(),
        "shipped": evidence.shipped(),
        "large": evidence.large(),
    }


def filled(text: str, tables: Mapping[str, Sequence[str]]) -> str:
    """A text with the given lines between its marks; marks of other names are left as they are."""
    for name, lines in tables.items():
        marks = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
        between = "\n".join([f"<!-- {name} -->", *lines, f"<!-- /{name} -->"])
        text = marks.sub(between.replace("\\", r"\\"), text)
    return text


def places() -> list[Path]:
    """The texts that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "pages").glob("*.md"))]


def up_to_date(path: Path) -> str:
    """A text with its tables filled in from the present records."""
    at_root = path.parent == ROOT or path.name == "index.md"  # the first page is laid out at the root of the site
    return filled(path.read_text(), fillings("notebooks" if at_root else "../notebooks"))


def main() -> None:
    """Fill every table, and name the texts that changed."""
    for path in places():
        text = up_to_date(path)
        if text != path.read_text():
            path.write_text(text)
            print(f"filled {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
