"""Local copies of the scripts that the pages need, so that they open without a network.

MathJax draws the formulas; require.js and the widgets' html-manager move the sliders. They are fetched once, with
npm where it is installed; without them the pages name the same versions on a public content network.
"""

import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "_static" / "vendor"
CDN = "https://cdn.jsdelivr.net/npm"
PACKAGES = {  # folder -> (npm package, what of it is needed: a quarter, the script a page loads)
    "mathjax": (  # without its second renderer, SVG, over a megabyte that no page uses
        "mathjax@3.2.2",
        r"es5/(tex-mml-chtml\.js|(a11y|input/tex/extensions|ui)/.+|output/chtml(\.js|/.+))",
        "es5/tex-mml-chtml.js",
    ),
    "requirejs": ("requirejs@2.3.8", r"require\.js", "require.js"),
    "html-manager": (
        "@jupyter-widgets/html-manager@1.0.15",
        r"dist/(embed-amd\.js|[0-9a-f]+\.woff2)",
        "dist/embed-amd.js",
    ),
}


def script(folder: str) -> str:
    """The address in a page's <script>: a path under _static, or an address on the content network."""
    package, _, path = PACKAGES[folder]
    local = FOLDER / folder / path
    return f"vendor/{folder}/{path}" if local.is_file() else f"{CDN}/{package}/{path}"


def missing() -> list[str]:
    """The packages of which there is no local copy."""
    return [folder for folder, (_, _, path) in PACKAGES.items() if not (FOLDER / folder / path).is_file()]


def fetch(patience: float = 300) -> list[str]:
    """Fetch what is missing with npm, if it comes within `patience` seconds in all.

    Returns:
        What is still missing. Never fails: the pages work without.
    """
    npm = shutil.which("npm")
    end = time.monotonic() + patience
    if npm is None:
        return missing()
    for folder in missing():
        package, pattern, _ = PACKAGES[folder]
        with tempfile.TemporaryDirectory() as scratch:
            command = [npm, "pack", package, "--pack-destination", scratch, "--silent"]
            try:
                subprocess.run(
                    command, capture_output=True, timeout=max(1, end - time.monotonic()), check=True, cwd=scratch
                )
            except (subprocess.SubprocessError, OSError):
                break  # what keeps one package away keeps the others away as well
            archives = list(Path(scratch).glob("*.tgz"))
            if archives:
                _unpack(archives[0], pattern, FOLDER / folder)
    return missing()


def _unpack(archive: Path, pattern: str, target: Path) -> None:
    """Unpack the files whose names match a pattern, and the licence, from an npm archive, all or none."""
    unfinished = target.with_name(target.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    with tarfile.open(archive) as packed:
        names = [m for m in packed.getmembers() if re.fullmatch(rf"package/({pattern}|LICENSE.*)", m.name)]
        packed.extractall(unfinished, members=names, filter="data")
    shutil.rmtree(target, ignore_errors=True)
    (unfinished / "package").replace(target)
    unfinished.rmdir()
