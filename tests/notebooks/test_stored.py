"""The stored notebooks: executed from the top, every image described, cells short enough to read."""

import ast
import base64
import io
import statistics
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from benchmarks.course import _is_executed
from pages.execute import notebooks
from pages.record import ROOT

PATHS = notebooks()
SHOWN_AS_LAST_VALUE = ("table", "grid", "compare", "image_slider", "training_slider")
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def _code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@each
def test_executed_from_the_top(path: Path) -> None:
    assert _is_executed(path), "run `make execute`: a cell has not run, ran out of order, or failed"


@each
def test_every_picture_is_described(path: Path) -> None:
    for cell in _code(path):
        for output in cell.get("outputs", []):
            for media_type in {"image/png", "image/jpeg", "image/svg+xml"} & set(output.get("data", {})):
                alt = output.metadata.get(media_type, {}).get("alt", "")
                assert len(alt) > 10, f'end this cell in show(figure, alt="..."):\n{cell.source}'


@each
def test_figures_bring_their_own_paper(path: Path) -> None:
    """Opaque, on white where there are words: as legible on a dark page as on a light one."""
    for output in (output for cell in _code(path) for output in cell.get("outputs", [])):
        if png := output.get("data", {}).get("image/png"):
            image = Image.open(io.BytesIO(base64.b64decode(png)))
            assert image.convert("RGBA").getextrema()[3] == (255, 255), "a transparent figure vanishes on a dark page"
            if "widget-view" not in str(output.data):  # a slider's frame may be a bare image, edge to edge
                assert min(image.convert("RGB").getpixel((0, 0))) > 240, "words need light paper behind them"


@each
def test_what_is_made_to_be_seen_is_seen(path: Path) -> None:
    """Jupyter shows a cell's last value alone: a table above an assert is computed for nobody."""
    for cell in _code(path):
        if cell.source.lstrip().startswith("%"):
            continue
        lost = [
            node
            for node in ast.parse(cell.source).body[:-1]
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and getattr(node.value.func, "id", "") in SHOWN_AS_LAST_VALUE
        ]
        assert not lost, f"this is not the cell's last line, and nobody sees it: {ast.unparse(lost[0])}"


@each
def test_cells_are_short(path: Path) -> None:
    lines = [len(cell.source.splitlines()) for cell in _code(path)]
    assert max(lines) <= 40, f"a cell has {max(lines)} lines"
    assert statistics.quantiles(lines, n=10)[-1] <= 25, "one cell in ten may have more than 25 lines"


@each
def test_nothing_of_this_machine_is_stored(path: Path) -> None:
    text = path.read_text()
    for trace in (str(ROOT), str(Path.home()) + "/", "/tmp/ipykernel"):
        assert trace not in text, f"an output holds {trace}: a warning or a path that another machine has not"


def test_the_notebooks_folder_is_known() -> None:
    assert all(path.parent.name in ("notebooks", "solutions") for path in PATHS)
