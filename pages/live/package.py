"""Writes the live model beside the rendered pages: scripts, style and weights.

A page that is opened from a file may not fetch another file, nor start a Worker from one. It may run scripts. So
everything is a script here: the engine's source is a string in the page's script, of which the page makes a Worker, and
the weights are scripts that assign a string.
"""

import json
from pathlib import Path
from typing import Any

from helpers.data.captions import LENGTH, VOCABULARY
from helpers.data.toy_faces import BACKGROUNDS, EYES, FURS, PATTERNS, SPECIES
from helpers.tiny_sd.unet import UNetConfig
from pages.live.models import LiveModel, read_description, read_part, shipped_models, weights_of_parts, weights_path

HERE = Path(__file__).resolve().parent
# each file uses what stands before it
ENGINE = (
    "safetensors.js",
    "random.js",
    "matmul.js",
    "schedules.js",
    "samplers.js",
    "guidance.js",
    "tokenizers.js",
    "activations.js",
    "attention.js",
    "feature_maps.js",
    "operations.js",
    "embeddings.js",
    "tiny_unet.js",
    "autoencoder.js",
    "text_encoder.js",
    "sd1_unet.js",
    "attention_maps.js",
    "pipelines.js",
    "faults.js",
)
PAGE = ("load.js", "canvas.js", "caption.js", "try_it.js")
WEIGHTS = "weights"  # the folder of the weights, beside the scripts


def engine_source() -> str:
    """The engine as one script: everything from reading weights to sampling."""
    return "\n".join(['"use strict";', *((HERE / name).read_text(encoding="utf-8") for name in ENGINE)])


def page_script(manifest: dict[str, Any]) -> str:
    """The script of a page with a live model: the manifest, the engine as a string, and the user interface."""
    worker = engine_source() + (HERE / "worker.js").read_text(encoding="utf-8")
    constants = f"const MANIFEST = {json.dumps(manifest)};\nconst WORKER_SOURCE = {json.dumps(worker)};"
    sources = [(HERE / name).read_text(encoding="utf-8") for name in PAGE]
    return "\n".join(["(() => {", '"use strict";', constants, *sources, "})();", ""])


def try_it() -> str:
    """The controls and views of the page "Try it", as a block of HTML in Markdown."""
    return "\n".join(["```{raw} html", (HERE / "try_it.html").read_text(encoding="utf-8").strip(), "```"])


def as_script(name: str, data: bytes) -> bytes:
    r"""Bytes as a script that a browser reads with the encoding x-user-defined, in which every byte is a character.

    Such a file is a hundredth larger than its content; base64 would be a third larger. Only the quote, the backslash
    and the ends of lines have to be escaped.
    """
    escaped = data
    for byte, replacement in ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\r", b"\\r")):
        escaped = escaped.replace(byte, replacement)
    return b'(self.liveWeights ??= {}).%s = "%s";\n' % (name.encode(), escaped)


def write(folder: Path) -> dict[str, Any]:
    """Write scripts, style and weights into a folder.

    Returns:
        the manifest: the models, the vocabulary of captions, and the size of every file of weights.
    """
    (folder / WEIGHTS).mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    models = {}
    for name, model in shipped_models().items():
        parts = weights_of_parts(model)
        models[name] = _describe(model, parts)
        for part, weights in parts.items():
            if weights not in sizes:
                script = as_script(weights, read_part(weights, part))
                (folder / WEIGHTS / f"{weights}.js").write_bytes(script)
                sizes[weights] = len(script)
    manifest = {"models": models, "sizes": sizes, "vocabulary": VOCABULARY, "suggestions": suggestions()}
    (folder / "try_it.js").write_text(page_script(manifest), encoding="utf-8")
    (folder / "try_it.css").write_text((HERE / "try_it.css").read_text(encoding="utf-8"), encoding="utf-8")
    return manifest


def _describe(model: LiveModel, parts: dict[str, str]) -> dict[str, Any]:
    """What the page needs to know of a model before its weights are loaded."""
    description = read_description(weights_path(model.weights))
    conditions: dict[str, Any] = {}
    if model.pipeline == "sd1":
        conditions["caption_length"] = LENGTH
    else:
        config = UNetConfig(**description["config"])
        conditions["caption_length"] = config.caption_length if config.vocab_size else 0
        conditions["class_names"] = description["class_names"]
    return {
        "title": model.title,
        "pipeline": model.pipeline,
        "parts": parts,
        "guidance_scale": model.guidance_scale,
        "steps": model.steps,
        "size": description["size"],
        **conditions,
    }


def suggestions() -> dict[str, list[str]]:
    """Parts of captions to choose from, in the order in which a caption has them."""
    return {
        "pattern": list(PATTERNS),
        "fur": list(FURS),
        "animal": ["wild animal" if species == "wild" else species for species in SPECIES],
        "eyes": [f"with {colour} eyes" for colour in EYES],
        "extras": ["with a mane", "and its tongue out"],
        "background": [f"on a {colour} background" for colour in BACKGROUNDS],
    }
