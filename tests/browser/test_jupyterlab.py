"""The course in JupyterLab: every notebook opens, one runs from top to bottom, its slider moves its image."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pages.browser import find_chromium
from pages.execute import NOTEBOOKS, notebooks
from pages.record import ROOT

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path (CHROMIUM names one)")
LESSONS = [path for path in notebooks() if path.parent == NOTEBOOKS]
RUN = next(path for path in LESSONS if path.stem.startswith("01"))  # the quickest one, and it has sliders
TOKEN = "course"
CELLS = "window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
CODE = f"{CELLS}.filter((cell) => cell.cell_type === 'code')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on a copy of the notebooks: it saves what it runs."""
    course = tmp_path_factory.mktemp("course")
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(NOTEBOOKS, course / "notebooks")
    (course / "00_assets").symlink_to(ROOT / "00_assets")
    (course / "pages").symlink_to(ROOT / "pages")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--port=0",
        "--expose-app-in-browser",
        f"--notebook-dir={course}",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    folders = {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONPATH": _with_root(),
        "OMP_NUM_THREADS": "1",
    }
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | folders, stdout=log, stderr=log)
    try:
        yield _address(server, home)
    finally:
        server.terminate()
        server.wait(30)


def _with_root() -> str:
    return os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])  # the tests' guard stays on it


def _address(server: subprocess.Popen, home: Path) -> str:
    """Where the server listens, once it does."""
    for _ in range(600):
        for server_file in (home / "runtime").glob("jpserver-*.json"):
            return json.loads(server_file.read_text())["url"].rstrip("/")
        assert server.poll() is None, (home / "log").read_text()
        time.sleep(0.1)
    raise TimeoutError((home / "log").read_text())


@pytest.fixture(scope="module")
def page(browser: Any, lab: str) -> Any:
    """JupyterLab, open and empty."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{lab}/lab?token={TOKEN}")
    page.wait_for_function("window.jupyterapp?.shell.layoutModified !== undefined", timeout=60_000)
    page.evaluate("window.jupyterapp.restored.then(() => null)")
    return page


def _open(page: Any, path: Path, kernel: bool) -> Any:
    """Open one notebook, and no other; returns the panel that shows it."""
    page.evaluate("window.jupyterapp.commands.execute('application:close-all')")
    wish = {"path": f"notebooks/{path.name}", "kernelPreference": {"shouldStart": kernel, "name": "python3"}}
    page.evaluate("(wish) => window.jupyterapp.commands.execute('docmanager:open', wish).then(() => null)", wish)
    panel = page.locator(".jp-NotebookPanel:visible")
    panel.locator(".jp-MarkdownOutput h1").first.wait_for(timeout=30_000)
    return panel


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_notebook_opens_with_its_pictures(path: Path, page: Any) -> None:
    panel = _open(page, path, kernel=False)
    panel.locator(".jp-OutputArea img").first.wait_for(timeout=30_000)
    assert page.locator(".jp-Dialog").count() == 0, page.locator(".jp-Dialog").first.inner_text()


def test_one_runs_from_top_to_bottom_and_its_sliders_move(page: Any) -> None:
    panel = _open(page, RUN, kernel=True)
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs').then(() => null)")
    assert page.evaluate(f"{CODE}.every((cell) => !cell.outputs.length)")
    page.wait_for_function("window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'")
    page.evaluate("{ window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_function(
        f"{CODE}.every((cell) => cell.execution_count || !cell.source.trim())", timeout=300_000, polling=500
    )
    counts = page.evaluate(f"{CODE}.map((cell) => cell.execution_count)")
    assert counts == list(range(1, len(counts) + 1))
    errors = f"{CODE}.flatMap((cell) => cell.outputs).filter((output) => output.output_type === 'error')"
    assert page.evaluate(errors) == []
    _move_a_slider(page, panel)


def _move_a_slider(page: Any, panel: Any) -> None:
    """Jupyter draws only what is in sight: scroll to the first slider, move it, and see another image."""
    first = f"{CELLS}.findIndex((cell) => cell.source.includes('image_slider(['))"
    page.evaluate(f"window.jupyterapp.shell.currentWidget.content.scrollToItem({first}, 'center').then(() => null)")
    output = panel.locator(".jp-OutputArea").filter(has=page.locator(".widget-hslider .noUi-handle")).first
    handle = output.locator(".noUi-handle").first
    image = output.locator("img:visible").first
    image.wait_for(timeout=30_000)
    before = image.get_attribute("src")
    handle.focus()
    page.keyboard.press("ArrowRight" if handle.get_attribute("aria-valuenow") == "0.0" else "ArrowLeft")
    page.wait_for_timeout(300)
    assert output.locator("img:visible").first.get_attribute("src") != before, "the slider moved, the image did not"
