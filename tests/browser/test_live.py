"""The page "Try it" in a real browser, over http and from a file: it generates what PyTorch generates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sphinx.cmd.build import build_main

from helpers.tiny_sd.model import TinySD
from pages.browser import Trouble, faint, serve, watch
from pages.live import package
from pages.record import ROOT

PROMPT = "a spotted grey dog with blue eyes and its tongue out on a yellow background"
PHONE = {"width": 390, "height": 844}
SCREEN = {"width": 1280, "height": 1000}
WAIT = 120_000  # milliseconds; a busy machine computes slowly


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page alone, as the whole site has it."""
    source = tmp_path_factory.mktemp("source")
    html = tmp_path_factory.mktemp("site")
    text = (ROOT / "pages" / "try_it.md").read_text(encoding="utf-8").replace("<!-- live -->", package.try_it())
    (source / "pages").mkdir()
    (source / "index.md").write_text("# Course\n\n```{toctree}\npages/try_it\npages/figure\npages/plain\n```\n")
    (source / "pages" / "try_it.md").write_text(text)
    figure = package.with_figures("# Figure\n\n<!-- live: own: prompt steps scale seed -->\n", "../live/")
    (source / "pages" / "figure.md").write_text(figure)
    (source / "pages" / "plain.md").write_text(package.with_figures("# Plain\n\nNo figure.\n", "../live/"))
    assert build_main(["-q", "-b", "html", "-E", "-c", str(ROOT / "pages"), str(source), str(html)]) == 0
    package.write(html / "live")
    return html


@pytest.fixture(scope="module", params=["http", "file"])
def opened(request: pytest.FixtureRequest, browser: Any, site: Path) -> Iterator[tuple[Any, Trouble]]:
    with serve(site) as url:
        page = browser.new_page(viewport=SCREEN, color_scheme="light")
        trouble = watch(page)
        page.goto(f"{url if request.param == 'http' else site.as_uri()}/pages/try_it.html", wait_until="networkidle")
        page.evaluate("""document.getElementById("live").addEventListener("generated", ({ detail }) => {
            self.generated = Array.from(detail.image);
        })""")
        yield page, trouble
        page.close()


def _set(page: Any, name: str, value: float) -> None:
    """Move a slider, as a reader would."""
    change = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }"
    page.locator(f"#live-{name}").evaluate(change, str(value))


def _generate(page: Any) -> torch.Tensor:
    page.evaluate("self.generated = null")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("self.generated || document.getElementById('live-status').textContent.includes('not work')",
                           timeout=WAIT)  # fmt: skip
    image = page.evaluate("self.generated")
    assert image, page.inner_text("#live-status")
    return torch.tensor(image).view(3, 64, 64)


def test_nothing_is_loaded_before_it_is_needed(opened: tuple[Any, Trouble]) -> None:
    page, _ = opened
    loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert not [name for name in loaded if "/weights/" in name]


def test_the_page_generates_what_pytorch_generates(opened: tuple[Any, Trouble]) -> None:
    page, trouble = opened
    page.fill("#live-prompt", PROMPT)
    page.fill("#live-seed", "11")
    page.select_option("#live-model", "own")
    _set(page, "steps", 4)
    _set(page, "scale", 3)
    options = {"prompts": [PROMPT], "steps": 4, "guidance_scale": 3.0, "seed": 11}
    expected = TinySD.from_weights("tiny_sd_own").generate(**options)[0]
    assert (_generate(page) - expected).abs().max() <= 1e-4
    assert not trouble, trouble


def test_every_step_can_be_looked_at_with_the_keyboard(opened: tuple[Any, Trouble]) -> None:
    page, _ = opened
    assert page.locator("#live-strip canvas").count() == 5  # four steps, and the image
    image = page.evaluate("document.getElementById('live-estimate').toDataURL()")
    page.focus("#live-scrub")
    page.keyboard.press("Home")
    assert "1 of 4" in page.inner_text("#live-scrub-value")
    assert page.evaluate("document.getElementById('live-estimate').toDataURL()") != image
    assert "pure noise" in page.get_attribute("#live-state", "aria-label")
    assert PROMPT in page.get_attribute("#live-estimate", "aria-label")


def test_an_unknown_word_is_named_and_replaced(opened: tuple[Any, Trouble]) -> None:
    page, _ = opened
    page.fill("#live-prompt", "a stripped cat")
    assert "“stripped”" in page.inner_text("#live-problem")
    page.evaluate("self.generated = null")
    page.press("#live-prompt", "Enter")
    assert page.inner_text("#live-generate") == "Generate", "it must not run"
    page.get_by_role("button", name="striped", exact=True).last.click()
    assert page.input_value("#live-prompt") == "a striped cat" and not page.inner_text("#live-problem")


def test_generating_can_be_stopped(opened: tuple[Any, Trouble]) -> None:
    page, trouble = opened
    _set(page, "steps", 50)
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("document.querySelectorAll('#live-strip canvas').length > 1", timeout=WAIT)
    page.get_by_role("button", name="Stop").click()
    assert page.inner_text("#live-status") == "Stopped."
    _set(page, "steps", 1)
    assert _generate(page).isfinite().all()
    assert not trouble, trouble


def test_a_mistake_can_be_chosen_and_its_symptom_is_named(opened: tuple[Any, Trouble]) -> None:
    page, trouble = opened
    page.select_option("#live-fault", "range")
    assert "becomes black" in page.inner_text("#live-symptom")
    assert (_generate(page) >= -1).all()
    black = page.evaluate("self.generated.filter((value) => value === -1).length")
    assert black > 1000
    page.select_option("#live-fault", "")
    assert not page.inner_text("#live-symptom") and not trouble, trouble


def test_words_of_stable_diffusion_light_up_their_places(opened: tuple[Any, Trouble]) -> None:
    page, trouble = opened
    page.select_option("#live-model", "sd1")
    page.fill("#live-prompt", "a cat with green eyes")
    _set(page, "steps", 1)
    _generate(page)
    word = page.locator("#live-attention button", has_text="eyes")
    word.click(timeout=WAIT)
    assert word.get_attribute("aria-pressed") == "true"
    assert "“eyes”" in page.get_attribute("#live-estimate", "aria-label")
    word.click()
    assert word.get_attribute("aria-pressed") == "false"
    assert not trouble, trouble


def test_it_is_legible_on_a_dark_phone(opened: tuple[Any, Trouble]) -> None:
    page, _ = opened
    assert not (texts := faint(page)), texts
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    page.click("#live-words summary")
    page.wait_for_timeout(500)  # colours fade over
    assert not (texts := faint(page)), texts
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


LOADED = "performance.getEntriesByType('resource').map((entry) => entry.name).filter((name) => name.includes('/live/'))"


@pytest.mark.parametrize("place", ["http", "file"])
def test_a_live_figure_waits_for_the_keyboard_and_then_generates(browser: Any, site: Path, place: str) -> None:
    with serve(site) as url:
        page = browser.new_page(viewport=PHONE, color_scheme="dark")
        trouble = watch(page)
        start = url if place == "http" else site.as_uri()
        page.goto(f"{start}/pages/figure.html", wait_until="networkidle")
        assert page.evaluate(LOADED) == [] and not (texts := faint(page)), texts
        page.locator(".live-figure > button").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelector('#live-status')?.textContent.startsWith('Done')", timeout=WAIT)
        shown = page.locator(".live [data-control]:visible").evaluate_all(
            "all => all.map((one) => one.dataset.control)"
        )
        assert sorted(shown) == ["prompt", "scale", "seed", "steps"]
        assert page.locator("#live-strip canvas").count() == 13  # twelve steps, and the image
        page.wait_for_timeout(500)  # colours fade over
        assert not (texts := faint(page)), texts
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert not trouble, trouble
        page.close()


def test_a_page_without_a_figure_loads_nothing_of_it(browser: Any, site: Path) -> None:
    page = browser.new_page()
    page.goto(f"{site.as_uri()}/pages/plain.html", wait_until="networkidle")
    assert page.evaluate(LOADED) == [] and "try_it.js" not in page.content()
    page.close()


@pytest.mark.parametrize("script", ["delete self.Worker", "self.Worker = function () { throw new Error('refused') }"])
def test_where_no_worker_can_be_had_the_page_says_so(browser: Any, site: Path, script: str) -> None:
    page = browser.new_page()
    page.add_init_script(script)
    page.goto(f"{site.as_uri()}/pages/try_it.html")
    if page.locator("#live").is_visible():
        page.click("#live-generate")
    page.get_by_text("cannot run here").wait_for(timeout=WAIT)
    page.close()


WITHOUT_WEBASSEMBLY = """
const Original = self.Blob;
self.Blob = function (parts, options) {  // the Worker's source is such a Blob
  return new Original(options?.type === "text/javascript" ? ["delete self.WebAssembly;", ...parts] : parts, options);
};
"""


def test_without_webassembly_it_works_and_says_why_it_is_slow(browser: Any, site: Path) -> None:
    page = browser.new_page()
    page.add_init_script(WITHOUT_WEBASSEMBLY)
    page.goto(f"{site.as_uri()}/pages/try_it.html")
    page.select_option("#live-model", "own")
    _set(page, "steps", 1)
    page.click("#live-generate")
    page.get_by_text("no WebAssembly SIMD").wait_for(timeout=WAIT)
    page.close()
