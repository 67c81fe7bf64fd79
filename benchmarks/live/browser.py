"""The page "Try it" in Chromium: processor time, memory, bytes, and what goes wrong."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pages.browser import Trouble, chromium, serve, watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGE = "pages/try_it.html"
WAIT = 300_000  # milliseconds; a busy machine computes slowly
FURTHER = 3  # images after the first


class Cost(NamedTuple):
    """What a model costs a page."""

    first: float  # processor seconds from the click until the first image, loading the weights included
    further: float  # processor seconds of each further image, the least of a few
    megabytes_loaded: float  # for the first image, the page's scripts included
    megabytes_of_memory: float  # that the page's process held at most
    megabytes_before: float  # that it held before the click


def cost(html: Path, model: str) -> Cost:
    """Generate a few images with a model's default settings, in a browser that was just started."""
    with serve(html) as url, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{url}/{PAGE}", wait_until="networkidle")
        page.select_option("#live-model", model)
        resident = {process: _memory(process) for process in _renderers(browser)}
        start = _processor_seconds(browser)
        _generate(page)
        first = _processor_seconds(browser) - start
        further = []
        for seed in range(FURTHER):
            page.fill("#live-seed", str(seed))
            start = _processor_seconds(browser)
            _generate(page)
            further.append(_processor_seconds(browser) - start)
        loaded = page.evaluate(
            "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/live/'))"
            ".reduce((sum, { transferSize }) => sum + transferSize, 0)"
        )
        seconds = _renderers(browser)
        process = max(seconds, key=seconds.__getitem__)  # after the images it is plain which one it is
        return Cost(first, min(further), loaded / 1e6, _memory(process, "VmHWM"), resident[process])


def trouble_of(html: Path, models: list[str], from_file: bool) -> Trouble:
    """What goes wrong while every model generates an image; from a file the browser is offline."""
    with serve(html) as url, chromium() as browser:
        context = browser.new_context(offline=from_file)
        page = context.new_page()
        trouble = watch(page)
        page.goto(f"{html.as_uri() if from_file else url}/{PAGE}", wait_until="networkidle")
        for model in models:
            page.select_option("#live-model", model)
            page.locator("#live-steps").evaluate("(input) => { input.value = 2; }")
            _generate(page)
        context.close()
        return trouble


def pages_that_load_it(html: Path) -> list[str]:
    """The pages that have a live model in them."""
    return [
        path.relative_to(html).as_posix()
        for path in sorted(html.rglob("*.html"))
        if "live/try_it.js" in path.read_text()
    ]


def _generate(page: "Page") -> None:
    page.evaluate("""() => {
        self.generated = false;
        document.getElementById("live").addEventListener("generated", () => { self.generated = true; }, { once: true });
    }""")
    page.click("#live-generate")
    page.wait_for_function("self.generated", timeout=WAIT)


def _processes(browser: "Browser") -> list[dict[str, Any]]:
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return processes


def _renderers(browser: "Browser") -> dict[int, float]:
    """Processor seconds of every process that shows a page; Chromium keeps a spare one, which does nothing."""
    return {entry["id"]: entry["cpuTime"] for entry in _processes(browser) if entry["type"] == "renderer"}


def _processor_seconds(browser: "Browser") -> float:
    return sum(_renderers(browser).values())


def _memory(process: int, entry: str = "VmRSS") -> float:
    """Megabytes that Linux counts for a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(entry)).split()[1]) * 1024 / 1e6
