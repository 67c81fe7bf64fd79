"""The pages, rendered and opened in a real browser: clean, legible on any screen, with sliders that move."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pages import vendor
from pages.browser import addresses, faint, first_image, serve, watch
from pages.build import HTML, TEXTS
from pages.execute import NOTEBOOKS, WIDGETS, notebooks
from pages.record import ROOT
from pages.reference import ROOMS

BOOKS = {f"notebooks/{path.relative_to(NOTEBOOKS).with_suffix('.html')}": path for path in notebooks()}
REFERENCE = [f"pages/reference/{name}.html" for name in ("index", *ROOMS)]
PAGES = [
    "index.html",
    *BOOKS,
    "notebooks/solutions/index.html",
    *(f"pages/{name.replace('.md', '.html')}" for name in TEXTS),
    *REFERENCE,
    "search.html",
]
PHONE = {"width": 390, "height": 844}
SCREEN = {"width": 1280, "height": 900}
CUT_CODE = """
() => [...document.querySelectorAll("main .cell_input pre")]
  .filter((code) => code.scrollWidth > code.clientWidth)
  .map((code) => code.textContent.split("\\n").reduce((a, b) => (b.length > a.length ? b : a)))
"""  # the longest line of each code cell that scrolls sideways


@pytest.fixture(scope="module")
def rendered() -> Path:
    """The site, made anew from the stored notebooks; any warning is an error."""
    process = subprocess.run(
        [sys.executable, "-m", "pages.build", "--strict"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return HTML


def test_every_page_is_rendered_without_a_warning(rendered: Path) -> None:
    assert addresses(rendered) == sorted(PAGES)


@pytest.fixture(scope="module")
def context(browser: Any) -> Any:
    """One reader for all pages: the scripts that they share are fetched once."""
    return browser.new_context(viewport=SCREEN, color_scheme="light")


@pytest.fixture(scope="module")
def site(rendered: Path) -> Iterator[str]:
    if vendor.missing():
        pytest.skip("no local MathJax and widgets: npm fetches them, where it is installed")
    with serve(rendered) as url:
        yield url


@pytest.fixture(
    scope="module", params=[page for page in PAGES if page not in REFERENCE[2:]]
)  # those look like the first of them
def opened(request: pytest.FixtureRequest, context: Any, site: str) -> Iterator[tuple[str, Any, Any]]:
    """A page's address, the page, and what went wrong; one visit for all that is asked of it below."""
    page = context.new_page()
    trouble = watch(page)
    page.goto(f"{site}/{request.param}", wait_until="networkidle")
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")  # a busy machine draws formulas later
    yield request.param, page, trouble
    page.close()


def test_every_page_is_clean_and_described(opened: tuple[str, Any, Any]) -> None:
    _, page, trouble = opened
    assert not trouble, trouble
    written = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() == written, "a formula was not drawn"
    for image in page.locator("main img").all():
        assert image.get_attribute("alt"), f"no description: {image.get_attribute('src')[:80]}"


def test_code_is_shown_whole_on_a_small_laptop(opened: tuple[str, Any, Any]) -> None:
    path, page, _ = opened
    page.evaluate("() => document.querySelectorAll('details.hide').forEach((folded) => { folded.open = true; })")
    cut = page.evaluate(CUT_CODE)
    assert not cut, f"{path}: {len(cut)} code cells scroll sideways at {SCREEN['width']} pixels, such as {cut[0]}"


def test_no_column_of_a_table_cuts_its_words_in_two(opened: tuple[str, Any, Any]) -> None:
    """A cell whose words may break anywhere is as narrow as a letter, as soon as another column wants the room."""
    _, page, _ = opened
    wraps = page.locator("main :is(th, td), main :is(th, td) p").evaluate_all(
        "(cells) => cells.map((cell) => getComputedStyle(cell).overflowWrap)"
    )
    assert "anywhere" not in wraps


def test_the_sidebar_numbers_the_notebooks_and_folds_the_solutions_away(browser: Any, site: str) -> None:
    page = browser.new_page(viewport=SCREEN)
    page.goto(f"{site}/notebooks/02_ddpm_from_scratch.html", wait_until="load")
    shown = [link.inner_text().strip() for link in page.locator(".bd-sidebar-primary nav a:visible").all()]
    assert "02 DDPM from scratch" in shown and "Solutions" in shown
    assert not [name for name in shown if "Solutions:" in name]
    page.locator(".bd-sidebar-primary li:has(> a:text-is('Solutions')) > details > summary .toctree-toggle").click()
    assert page.get_by_role("link", name="02 Solutions: DDPM from scratch").is_visible()
    page.close()


def test_code_that_is_cut_is_noticed(browser: Any) -> None:
    page = browser.new_page(viewport=SCREEN)
    cells = "".join(f"<div class='cell_input'><pre>{'x' * length}</pre></div>" for length in (400, 8))
    page.set_content(f"<style>pre {{ overflow: auto }}</style><main>{cells}</main>")
    assert page.evaluate(CUT_CODE) == ["x" * 400]
    page.close()


def test_sliders_move_their_pictures_without_a_kernel(opened: tuple[str, Any, Any]) -> None:
    path, page, _ = opened
    if not (stored := _sliders(path)):
        pytest.skip("no slider on this page")
    handles = page.locator(".widget-hslider .noUi-handle")
    page.wait_for_function(f"document.querySelectorAll('.widget-hslider .noUi-handle').length >= {stored}")
    outputs = page.locator(".cell_output").filter(has=handles).all()
    assert len(outputs) == stored, f"{len(outputs)} sliders drawn of {stored}"
    for output in outputs:
        handle = output.locator(".noUi-handle").first
        stack = output.locator("img:visible")
        stack.first.wait_for()
        before = _shown(stack)
        handle.focus()
        page.keyboard.press("ArrowRight" if handle.get_attribute("aria-valuenow") == "0.0" else "ArrowLeft")
        page.wait_for_timeout(200)
        assert _shown(stack) != before, "the slider moved and the image did not"


def test_a_page_that_is_opened_from_a_file_has_its_sliders(rendered: Path, browser: Any) -> None:
    page = browser.new_page()
    trouble = watch(page)
    page.goto((rendered / "notebooks/03_samplers.html").as_uri(), wait_until="load")
    page.locator(".widget-hslider .noUi-handle").first.wait_for()
    assert not trouble, trouble
    page.close()


def test_text_is_legible_on_light_and_dark_pages_and_fits_a_phone(opened: tuple[str, Any, Any]) -> None:
    _, page, _ = opened
    assert not (faint_texts := faint(page)), f"too faint on a light page: {faint_texts}"
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")  # as the reader's system has it
    page.wait_for_timeout(500)  # colours fade over
    assert not (faint_texts := faint(page)), f"too faint on a dark page: {faint_texts}"
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "it scrolls sideways on a phone"


def test_search_finds_classifier_free_guidance(browser: Any, site: str) -> None:
    page = browser.new_page(viewport=SCREEN)
    page.goto(f"{site}/search.html?q=classifier-free+guidance")
    page.locator("#search-results ul.search li a").first.wait_for(timeout=30_000)
    page.wait_for_timeout(500)
    hits = [link.get_attribute("href").partition("?")[0] for link in page.locator("#search-results li a").all()]
    assert {"notebooks/04_guidance_and_flow_matching.html", "pages/glossary.html"} <= {
        name.partition("#")[0] for name in hits
    }
    page.close()


def test_the_first_image_comes_soon(browser: Any, site: str) -> None:
    waited = first_image(browser, f"{site}/notebooks/01_data_exploration.html")
    assert waited is not None and 0 < waited < 10_000  # how long exactly: `python -m benchmarks check exercises`
    assert first_image(browser, f"{site}/pages/glossary.html") is None


def test_faint_text_is_noticed(browser: Any) -> None:
    page = browser.new_page()
    page.set_content(
        "<body style='background:#111'><p style='color:#555'>lost</p><p style='color:#ddd'>seen</p>"
        "<p style='background:#fff;color:#ddd'>lost too</p><p hidden style='color:#111'>hidden</p>"
    )
    assert [text.partition(" ")[2] for text in faint(page)] == ['P "lost"', 'P "lost too"']
    page.close()


def test_a_missing_file_is_noticed(tmp_path: Path, browser: Any) -> None:
    """The watch above would tell: a page with a lost image and a failing script is trouble."""
    (tmp_path / "index.html").write_text("<img src='lost.png'><script>nothing.here()</script>")
    page = browser.new_page()
    trouble = watch(page)
    with serve(tmp_path) as url:
        page.goto(f"{url}/index.html", wait_until="networkidle")
    page.close()
    assert any("lost.png" in line for line in trouble.failed) and len(trouble.errors) >= 1


def _sliders(path: str) -> int:
    """How many sliders the notebook behind a page has stored."""
    if path not in BOOKS:
        return 0
    widgets = nbformat.read(BOOKS[path], as_version=4).metadata.get("widgets", {}).get(WIDGETS, {})
    return sum(model["model_name"] == "SelectionSliderModel" for model in widgets.get("state", {}).values())


def _shown(images: Any) -> list[str]:
    return [hashlib.sha256(image.get_attribute("src").encode()).hexdigest() for image in images.all()]
