"""Opens the rendered pages in a headless Chromium, and notes what goes wrong."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pages import redirects

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET = (  # no sandbox inside containers, and no requests of the browser's own
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

CONTRAST = Path(__file__).with_name("contrast.js")
NOTE_IMAGES = """
document.addEventListener("load", (event) => {
  if (event.target.matches?.("main img") && window.firstImage === undefined) {
    window.firstImage = null;  // loaded; on the screen with the next frame
    requestAnimationFrame(() => setTimeout(() => { window.firstImage = performance.now(); }));
  }
}, true);
"""


@dataclass
class Trouble:
    """What went wrong while a page was open; empty lists are a clean page."""

    failed: list[str] = field(default_factory=list)  # requests without an answer, or answered with an error
    outside: list[str] = field(default_factory=list)  # requests to any other machine
    errors: list[str] = field(default_factory=list)  # errors on the browser's console

    def __bool__(self) -> bool:
        return bool(self.failed or self.outside or self.errors)


def find_chromium() -> str | None:
    """The Chromium to use: the environment's CHROMIUM, or one on the path; None where there is none."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine alone while the context lasts; yields its address."""
    handler = partial(_Silent, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A headless browser while the context lasts.

    Raises:
        FileNotFoundError: where no Chromium is installed.
    """
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        raise FileNotFoundError("no Chromium on the path: install one (Debian: apt install chromium) or set CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


def watch(page: "Page") -> Trouble:
    """Note everything that goes wrong on this page from now on."""
    trouble = Trouble()

    def note_outside(request: Any) -> None:
        if urlsplit(request.url).scheme in ("http", "https") and urlsplit(request.url).hostname != "127.0.0.1":
            trouble.outside.append(request.url)

    def note_error(response: Any) -> None:
        if response.status >= 400:
            trouble.failed.append(f"{response.status} {response.url}")

    page.on("request", note_outside)
    page.on("response", note_error)
    page.on("requestfailed", lambda request: trouble.failed.append(f"{request.failure} {request.url}"))
    page.on("console", lambda said: trouble.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: trouble.errors.append(str(error)))
    return trouble


def addresses(folder: Path) -> list[str]:
    """Every page of rendered documentation, as a path relative to its folder; pages that only redirect are left out."""
    skip = {"genindex.html", *(f"{stem}.html" for stem in redirects.MOVED)}  # the first is empty, and no page links it
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*.html") if p.name not in skip and "_static" not in p.parts
    )


def visit(browser: "Browser", url: str) -> Trouble:
    """Open one page, wait until it has settled, and say what went wrong."""
    page = browser.new_page()
    trouble = watch(page)
    page.goto(url, wait_until="networkidle")
    page.close()
    return trouble


def first_image(browser: "Browser", url: str) -> float | None:
    """Milliseconds from asking for a page until its first image is on the screen; None where it has none.

    Nothing is cached: every call is a first visit.
    """
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(NOTE_IMAGES)
    page.goto(url, wait_until="load")
    if page.locator("main img").count():
        page.wait_for_function("typeof window.firstImage === 'number'", timeout=30_000)
    waited = page.evaluate("window.firstImage")
    context.close()
    return waited


def faint(page: "Page") -> list[str]:
    """The visible texts whose contrast with their background is too low, each with its ratio.

    4.5 to 1 is required, 3 to 1 for large letters (Web Content Accessibility Guidelines 2.1, level AA).
    """
    return page.evaluate(CONTRAST.read_text(encoding="utf-8"))


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: a test's output is no place for an access log."""
