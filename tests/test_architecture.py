"""The house stands: imports run downwards only, importing is light, and every piece stays small enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import house
from pages.record import ROOT

HELPERS = ROOT / "helpers"
LONGEST_FUNCTION = 45  # statements: a limit on lines would make lines dense
LONGEST_MODULE = 250

# Each floor may use itself and what is listed. Systems never import one another; what they share is text_to_image.
GROUND = {"files", "devices", "course", "weights"}
ALLOWED: dict[str, set[str]] = {
    "allocator": set(),
    "files": set(),
    "devices": set(),
    "course": {"files", "devices"},
    "weights": {"files", "course", "devices"},
    "data": GROUND,
    "show": GROUND,
    "training": GROUND | {"data"},
    "scoring": GROUND | {"data", "training", "layers"},
    "diffusion": GROUND,
    "toy_diffusion": {"diffusion"},
    "layers": GROUND,
}
MIDDLE = {"text", "autoencoders"}
SHARED = "text_to_image"  # below the systems
SYSTEMS = {"sd1", "sd3", "vlm", "tiny_sd"}
ALLOWED |= {name: set(ALLOWED) for name in MIDDLE}
ALLOWED[SHARED] = set(ALLOWED)
ALLOWED |= {name: set(ALLOWED) for name in SYSTEMS}
ALLOWED["generate"] = set(ALLOWED)  # above the systems: one command for all of them
ALLOWED["ask"] = set(ALLOWED) - {"generate"}  # likewise, for the vision-language model
ALLOWED["exercises"] = set(ALLOWED)  # the roof: judges may use any system

MODULES = sorted(HELPERS.rglob("*.py"))
SOURCES = [ROOT / path for path in house.read_sources(*house.PACKAGES)]


def _floor(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "helpers" and len(parts) > 1 else None


def _upward(path: Path, source: str, root: Path = ROOT) -> list[str]:
    parts = path.relative_to(root).with_suffix("").parts
    room = parts[1]
    reached = {_floor(name) for name in house.imported_names(source, ".".join(parts[:-1]))} - {
        None,
        room,
        "__version__",
    }
    if room == "__init__":
        return sorted(reached - {"allocator"})  # which has to come before torch
    assert room in ALLOWED, f"helpers/{room} has no floor yet: add it to ALLOWED in {Path(__file__).name}"
    return sorted(reached - ALLOWED[room])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HELPERS)))
def test_imports_run_downwards(path: Path) -> None:
    assert _upward(path, path.read_text()) == [], "this module imports from a floor above its own"


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("layers/attention.py", "from helpers.tiny_sd.unet import UNet"),
        ("sd1/unet.py", "from helpers.sd3 import mmdit"),
        ("data/faces.py", "def f():\n    import helpers.show.figures"),
        ("show/figures.py", "from ..training.loop import train"),
        ("text_to_image/pipeline.py", "from helpers.sd1 import unet"),
        ("weights/shipped.py", "from helpers.data import faces"),
        ("course.py", "from helpers import weights"),
    ],
)
def test_an_import_upwards_is_noticed(where: str, line: str) -> None:
    assert _upward(HELPERS / where, line)


def test_imports_downwards_are_welcome() -> None:
    source = "import torch\nfrom helpers.layers.attention import Attention\nfrom . import codecs"
    assert _upward(HELPERS / "tiny_sd/unet.py", source) == []


def _new_modules(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in said.stdout.split()}


def test_importing_helpers_is_instant() -> None:
    heavy = {"torch", "torchvision", "numpy", "matplotlib", "PIL", "diffusers", "transformers", "IPython", "sklearn"}
    assert _new_modules("import helpers") & heavy == set()


def test_figures_and_sliders_do_without_torch() -> None:
    assert "torch" not in _new_modules("import helpers.show.figures, helpers.show.sliders")


def test_helpers_import_where_the_reference_libraries_are_absent() -> None:
    """diffusers and transformers are what tests compare with; the course's own code never needs them at import."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in MODULES if path.stem not in ("__init__", "__main__")]
    names = [".".join(path.parts) for path in paths]
    code = (
        "import sys, importlib\n"
        "for absent in ('diffusers', 'transformers', 'denoising_diffusion_pytorch'): sys.modules[absent] = None\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-2000:]


def _statements(node: ast.AST) -> int:
    return sum(isinstance(part, ast.stmt) for part in ast.walk(node))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_small(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert _statements(tree) <= LONGEST_MODULE, f"{_statements(tree)} statements: split it by what it is about"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = _statements(node) - 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} statements: it does not fit a screen"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HELPERS)))
def test_house_rules(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.stem != "__init__" or tree.body:
        assert ast.get_docstring(tree), "a module says in its first line what it is about"
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)), "star import"
        called = node.func if isinstance(node, ast.Call) else None
        assert not (isinstance(called, ast.Attribute) and called.attr == "cuda"), ".cuda(): pass a device instead"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
