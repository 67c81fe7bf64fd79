"""Find the single file of a whole model in a downloaded repository, which may hold several copies of it."""

from collections.abc import Callable
from pathlib import Path

from helpers.weights.pretrained import PICKLES, SAFETENSORS


def tensor_names(path: Path) -> list[str]:
    """The names of a safetensors file's tensors, from its header alone; [] for a file that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError, ValueError):
        return []


def find_single_file(folder: Path, belongs: Callable[[str], bool]) -> Path | None:
    """Return the file of a whole model in a folder; None where there is none.

    Safetensors come before pickles. Of several the one with the shortest name is taken, if the names of all others
    begin with it: they are the same model with more in the file, as sd3_medium and sd3_medium_incl_clips are.

    Args:
        belongs: whether a tensor of this name makes its file the model's; pickles are not opened for it.

    Raises:
        ValueError: for several files of different names; it lists them.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    models = [path for path in paths if path.suffix.lower() == SAFETENSORS and any(map(belongs, tensor_names(path)))]
    models = models or [path for path in paths if path.suffix.lower() in PICKLES]
    if not models:
        return None
    shortest = min(models, key=lambda path: len(path.name))
    if not all(path.stem.startswith(shortest.stem) for path in models):
        raise ValueError(
            f"{folder} holds several single files, {', '.join(path.name for path in models[:6])}: pass the path of one"
        )
    return shortest
