"""Makes rendered pages light: every PNG that a page shows becomes a WebP, which all browsers of the last years read.

Lossless where that is small (curves, diagrams), else with losses that nobody sees (grids of faces). What sliders show
goes to the end of a page: a reader sees its beginning before. Source maps, which serve the developers of the theme, are
left out.
"""

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.show.webp import webp

STATE = re.compile(r'<script type="application/vnd\.jupyter\.widget-state\+json">.*?</script>', re.DOTALL)
INSIDE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")  # what sliders show stands in the page itself


def lighten(site: Path) -> None:
    """Replace the images of a rendered site, files in `_images` and those in its pages, and remove source maps."""
    for source_map in (site / "_static").rglob("*.map"):
        source_map.unlink()
    images = sorted((site / "_images").glob("*.png"))
    pages = sorted(site.rglob("*.html"))
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    inside = sorted(set(INSIDE.findall("\n".join(texts.values()))))
    with ThreadPoolExecutor() as pool:
        files = dict(zip(images, pool.map(lambda path: webp(path.read_bytes()), images), strict=True))
        frames = dict(zip(inside, pool.map(lambda data: webp(base64.b64decode(data)), inside), strict=True))
    for page, text in texts.items():
        lighter = INSIDE.sub(lambda match: _inside(frames[match[1]]) or match[0], text)
        for path, smaller in files.items():
            lighter = lighter.replace(f"_images/{path.name}", f"_images/{path.stem}.webp") if smaller else lighter
        lighter = sliders_last(lighter)
        if lighter != text:
            page.write_text(lighter, encoding="utf-8")
    for path, smaller in files.items():
        if smaller:
            path.with_suffix(".webp").write_bytes(smaller)
            path.unlink()


def sliders_last(page: str) -> str:
    """A page with the state of its widgets, most of its bytes, behind everything that is read."""
    state = STATE.search(page)
    if state is None:
        return page
    rest = page[: state.start()] + page[state.end() :]
    body, end, after = rest.rpartition("</body>")
    return f"{body}{state[0]}\n{end}{after}"


def _inside(image: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(image).decode()}" if image else ""
