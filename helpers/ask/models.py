"""Every PaliGemma, and what the shipped one was trained to answer."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from helpers.devices import check_device
from helpers.files import portable_name
from helpers.training.folder import TRAINED_WEIGHTS
from helpers.vlm.examples import PARTS
from helpers.vlm.pipeline import PaliGemma
from helpers.weights.pretrained import PRECISIONS

SHIPPED = "paligemma"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # of the hub: OWNER/NAME
TRAINED_OBJECTS = {"detect": set(PARTS), "segment": {"face"}}  # of the synthetic faces


@dataclass(frozen=True)
class Model:
    """Loaded weights, ready to answer."""

    name: str  # as records have it
    assistant: PaliGemma

    @property
    def is_shipped(self) -> bool:
        """Whether it is the one that ships, which was trained on synthetic faces alone."""
        return self.name == SHIPPED

    def unknown_objects(self, prompt: str) -> list[str]:
        """The objects of a `detect` or `segment` prompt that the shipped model was never trained to locate."""
        task, _, text = prompt.partition(" ")
        if not self.is_shipped or task not in TRAINED_OBJECTS:
            return []
        return [name for name in text.split(" ; ") if name not in TRAINED_OBJECTS[task]]


def load_model(
    source: str | Path = SHIPPED, *, masks: str | Path | None = None, device: str = "cpu", precision: str = "fp32"
) -> Model:
    """Load a model by its name, its file or folder, or its repository on the hub.

    Args:
        source: "paligemma" for the one that ships, the folder of a training of `helpers.vlm.train` or its weights, a
            folder with published weights, or a repository such as "google/paligemma-3b-mix-224".
        masks: the file vae-oid.npz, with which published weights can answer `segment`; None: without.
        device: "auto" or one of helpers.devices.DEVICES.
        precision: "fp32", or for published weights "bf16" or "fp16".

    Raises:
        FileNotFoundError, ValueError: where nothing is there, and as the loaders of `PaliGemma` do.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    device = check_device(device)
    path = Path(source).expanduser()
    weights = path / TRAINED_WEIGHTS if (path / TRAINED_WEIGHTS).is_file() else path
    if str(source) == SHIPPED or weights.suffix == ".safetensors" and weights.is_file():
        if precision != "fp32":
            raise ValueError("precision is for published weights: the course's own compute in fp32")
        ours: Any = SHIPPED if str(source) == SHIPPED else weights
        name = SHIPPED if str(source) == SHIPPED else portable_name(source)
        return Model(name, PaliGemma.from_weights(ours, masks or "masks", device))
    if not path.exists() and not REPOSITORY.fullmatch(str(source)):
        raise FileNotFoundError(_no_model(str(source)))
    name = portable_name(source) if path.exists() else str(source)
    dtype = PRECISIONS[precision]
    return Model(name, PaliGemma.from_checkpoint(source, masks=masks, dtype=dtype, device=device))


def _no_model(text: str) -> str:
    suggestion = f" Did you mean {SHIPPED}?" if get_close_matches(text, [SHIPPED], 1) else ""
    return (
        f"there is no model {text!r}, neither the one that ships ({SHIPPED}) nor a file or folder.{suggestion} "
        "A repository of the hub is written OWNER/NAME, such as google/paligemma-3b-mix-224"
    )
