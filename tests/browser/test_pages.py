"""The rendered pages in a real browser: every one loads cleanly, formulas are drawn, figures speak, sliders move."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pages import vendor
from pages.browser import addresses, chromium, find_chromium, serve, watch
from pages.build import HTML

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path (CHROMIUM names one)"),
    pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="no pages: make pages"),
    pytest.mark.skipif(bool(vendor.missing()), reason="no local MathJax and widgets: make pages, with npm installed"),
]
PAGES = addresses(HTML) if HTML.is_dir() else []
WITH_SLIDER = [path for path in PAGES if "SelectionSliderModel" in (HTML / path).read_text()]
DARK_ENOUGH = 0.2  # relative luminance of a dark page's background is below this


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with serve(HTML) as url:
        yield url


@pytest.fixture(params=PAGES)
def opened(request: pytest.FixtureRequest, browser: Any, site: str) -> Iterator[tuple[Any, Any]]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    trouble = watch(page)
    page.goto(f"{site}/{request.param}", wait_until="networkidle")
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")  # a busy machine draws formulas later
    yield page, trouble
    page.close()


def test_every_page_is_clean_and_described(opened: tuple[Any, Any]) -> None:
    page, trouble = opened
    assert not trouble, trouble
    written = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() == written, "a formula was not drawn"
    for picture in page.locator("main img").all():
        assert picture.get_attribute("alt"), f"no description: {picture.get_attribute('src')[:80]}"


@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_a_phone_and_a_dark_screen(path: str, browser: Any, site: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.goto(f"{site}/{path}", wait_until="networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page scrolls sideways on a phone"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", background)[:3])
    assert (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255 < DARK_ENOUGH, "a dark system gets a light page"
    page.close()


@pytest.mark.parametrize("path", WITH_SLIDER)
def test_sliders_move_their_pictures_without_a_kernel(path: str, browser: Any, site: str) -> None:
    page = browser.new_page()
    page.goto(f"{site}/{path}", wait_until="networkidle")
    page.locator(".widget-hslider .noUi-handle").first.wait_for(timeout=30_000)  # drawn after the page has loaded
    page.wait_for_timeout(1000)                                                 # and so are the others
    outputs = page.locator(".cell_output").filter(has=page.locator(".widget-hslider .noUi-handle")).all()
    stored = (HTML / path).read_text().count('"_model_name": "SelectionSliderModel"')
    assert len(outputs) == stored, f"{len(outputs)} sliders drawn of {stored}"
    for output in outputs:
        handle, stack = output.locator(".noUi-handle").first, output.locator("img:visible")
        stack.first.wait_for()
        before = _shown(stack)
        handle.focus()
        page.keyboard.press("ArrowRight" if handle.get_attribute("aria-valuenow") == "0.0" else "ArrowLeft")
        page.wait_for_timeout(200)
        assert _shown(stack) != before, "the slider moved and the picture did not"
    page.close()


def _shown(pictures: Any) -> list[str]:
    return [hashlib.sha256(picture.get_attribute("src").encode()).hexdigest() for picture in pictures.all()]


def test_a_missing_file_is_noticed(tmp_path: Path, browser: Any) -> None:
    """The watch above would tell: a page with a lost picture and a failing script is trouble."""
    (tmp_path / "index.html").write_text("<img src='lost.png'><script>nothing.here()</script>")
    page = browser.new_page()
    trouble = watch(page)
    with serve(tmp_path) as url:
        page.goto(f"{url}/index.html", wait_until="networkidle")
    page.close()
    assert any("lost.png" in line for line in trouble.failed) and len(trouble.errors) >= 1
