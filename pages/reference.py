"""The API reference: a page for every room of `helpers`, made from the docstrings by Sphinx's autodoc."""

import ast
import re
from pathlib import Path
from typing import Any

from pages.record import ROOT

ROOMS = {  # in the order of the course
    "data": "Images to learn from, captions, and what is known about them",
    "diffusion": "Noise schedules, prediction types and losses, guidance, samplers",
    "layers": "Attention, residual blocks, embeddings, and their optimised versions",
    "text": "Byte-pair encoding, CLIP and T5",
    "text_to_image": "What Stable Diffusion 1 and 3 share",
    "sd1": "Stable Diffusion 1",
    "sd3": "Stable Diffusion 3",
    "autoencoders": "KL and VQ autoencoders, quantisers, losses, and the variants of notebook 07",
    "tiny_sd": "Methods 1 to 3",
    "generate": "Images from prompts with every model, and PNGs that remember their settings",
    "vlm": "PaliGemma, and the parts of MiniCPM-V",
    "ask": "Questions about images, and boxes and masks drawn onto them",
    "training": "The training loop, checkpoints, optimisers, precision",
    "scoring": "What generated images are judged by",
    "weights": "Files of weights: ours, and those that others published",
}
INTRODUCTION = """# API reference

Every public class and function of the companion package `helpers`, from its docstring: what it does, then shapes,
units or range, errors, and the paper. The names of tensors' axes are explained at the top of each module and under
[Notation](../notation.md).
"""
CODE = re.compile(r"(`[^`]*`)")


def write_reference(folder: Path) -> None:
    """Write the sources of the reference's pages: `index.md`, and one page for every room."""
    folder.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        (folder / f"{room}.md").write_text(_page(room))
    links = "\n".join(f"- [`helpers.{room}`]({room}.md): {about}" for room, about in ROOMS.items())
    tree = "\n".join(["```{toctree}", ":hidden:", "", *ROOMS, "```"])
    (folder / "index.md").write_text(f"{INTRODUCTION}\n{links}\n\n{tree}\n")


def _page(room: str) -> str:
    sections = [f"# helpers.{room}\n\n{ROOMS[room]}."]
    for path in sorted((ROOT / "helpers" / room).rglob("*.py")):
        if not path.stem.startswith("__") and _has_public_names(path):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            sections.append(
                f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n   :ignore-module-all:\n```"
            )
    return "\n\n".join(sections) + "\n"


def _has_public_names(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return any(isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") for node in body)


def escape_markup(_app: Any, _object_type: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Handler of autodoc-process-docstring: `*` and `|` outside of code are themselves, not markup."""
    for i, line in enumerate(lines):
        parts = CODE.split(line)
        lines[i] = "".join(part if part.startswith("`") else re.sub(r"([*|])", r"\\\1", part) for part in parts)


def skip_tuple_fields(_app: Any, _object_type: str, _name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    """Handler of autodoc-skip-member: the fields of a NamedTuple stand in its signature already."""
    return True if type(member).__name__ == "_tuplegetter" else None


def shorten_types(
    _app: Any, _object_type: str, _name: str, _object: Any, _options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Handler of autodoc-process-signature: `~collections.abc.Callable[...]` is written as `Callable[...]`."""
    return _without_modules(signature), _without_modules(returned)


def _without_modules(text: str | None) -> str | None:
    return None if text is None else re.sub(r"~(?:collections\.abc|typing)\.", "", text)
