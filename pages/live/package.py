"""Writes the live model beside the rendered pages: scripts, style and weights.

A page that is opened from a file may not fetch another file, nor start a Worker from one. It may run scripts. So
everything is a script here: the engine's source is a string in the page's script, of which the page makes a Worker, and
the weights are scripts that assign a string.
"""

import json
import math
import re
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
    "schedules.js",
    "samplers.js",
    "guidance.js",
    "tokenizers.js",
    "activations.js",
    "assembler.js",
    "matmul.js",
    "elementwise.js",
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
FIGURE = re.compile(r"^<!-- live: (?P<model>\w+): (?P<show>[\w ]+) -->$", re.MULTILINE)
WEIGHTS = "weights"  # the folder of the weights, beside the scripts


def engine_source() -> str:
    """The engine as one script: everything from reading weights to sampling."""
    return "\n".join(['"use strict";', *((HERE / name).read_text(encoding="utf-8") for name in ENGINE)])


def page_script(manifest: dict[str, Any]) -> str:
    """The script of a page with a live model: the manifest, the engine as a string, and the user interface."""
    worker = engine_source() + (HERE / "worker.js").read_text(encoding="utf-8")
    controls = _page_file("try_it.html").partition('<p id="live-missing"')[0]
    values = {"MANIFEST": manifest, "WORKER_SOURCE": worker, "CONTROLS": controls}
    constants = "\n".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
    sources = [(HERE / name).read_text(encoding="utf-8") for name in PAGE]
    return "\n".join(["(() => {", '"use strict";', constants, *sources, "})();", ""])


def try_it() -> str:
    """The controls and views of the page "Try it", as a block of HTML in Markdown."""
    return _as_block(_page_file("try_it.html"))


def with_figures(text: str, base: str) -> str:
    """A page's Markdown with each line `<!-- live: MODEL: CONTROL CONTROL ... -->` replaced by a live figure.

    Elsewhere, as in JupyterLab, such a comment is invisible. Nothing is loaded before the reader presses the figure's
    button. MODEL is a name in MODELS, and the figure shows only the named controls of "Try it".

    Args:
        text: of a page or of a notebook's cell.
        base: the folder that `write` filled, as seen from the page, such as "../live/".

    Raises:
        ValueError: for a model or a control that there is not.
    """
    return FIGURE.sub(lambda match: _figure(match["model"], match["show"], base), text)


def _figure(name: str, show: str, base: str) -> str:
    if name not in shipped_models():
        raise ValueError(f"no live model {name!r}: there are {', '.join(shipped_models())}")
    if unknown := set(show.split()) - set(re.findall(r'data-control="(\w+)"', _page_file("try_it.html"))):
        raise ValueError(f"'Try it' has no control {', '.join(sorted(unknown))}")
    model = shipped_models()[name]
    parts = weights_of_parts(model)
    megabytes = math.ceil(sum(len(read_part(weights, part)) for part, weights in parts.items()) / 1e6)
    values = {"model": name, "show": show, "base": base, "title": model.title, "megabytes": str(megabytes)}
    figure = _page_file("figure.html")
    for key, value in values.items():
        figure = figure.replace(f"{{{key}}}", value)
    return _as_block(figure)


def _as_block(html: str) -> str:
    return "\n".join(["```{raw} html", html.strip(), "```"])


def _page_file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


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
