"""The lower bounds of pyproject.toml as exact versions: `python -m tests.lowest > versions.txt`."""

import re
import tomllib
from pathlib import Path


def lowest(text: str) -> list[str]:
    """`name==X.*`, the newest repair of X, for every requirement `name>=X` of a pyproject.toml, in its order."""
    project = tomllib.loads(text)["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [re.sub(r">=([\w.]+).*", r"==\1.*", line) for requirements in lists for line in requirements]


if __name__ == "__main__":
    print("\n".join(lowest((Path(__file__).parents[1] / "pyproject.toml").read_text())))
