"""Runs the engine outside of a browser, in Node, so that tests and benchmarks can compare it with PyTorch."""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pages.live.models import MODELS, read_part, weights_of_parts
from pages.live.package import HERE, engine_source


def find_node() -> str | None:
    """The path of Node; None where it is not installed."""
    return shutil.which("node")


class Engine:
    """The engine in a Node process: `engine("silu(x)", x=1.5)` evaluates JavaScript where all its names are known.

    A tensor becomes a `Float32Array`, and such an array comes back as a tensor, both flat; bytes become an
    `ArrayBuffer`; everything else goes through JSON.
    """

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.loaded: set[tuple[str, str]] = set()

    def __call__(self, expression: str, **values: Any) -> Any:
        """Evaluate an expression, or statements that end in `return`.

        Raises:
            RuntimeError: with JavaScript's message.
        """
        request = {"expression": expression, "values": {name: _encode(value) for name, value in values.items()}}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return _decode(reply["value"])

    def load(self, name: str, method: str = "") -> str:
        """Load a model of the page; returns the JavaScript that names its pipeline.

        Args:
            name: in MODELS.
            method: of computing, a result of `bestMethod`; "": the best there is.
        """
        variable = f"globalThis.pipeline_{name}_{method}"
        if (name, method) not in self.loaded:
            model = MODELS[name]
            files = {part: read_part(weights, part) for part, weights in weights_of_parts(model).items()}
            read = ", ".join(f"{part}: readSafetensors({part})" for part in files)
            options = "{ vocabulary }, { method: method || undefined }"
            self(
                f"{variable} = new PIPELINES[pipeline]({{ {read} }}, {options}); return null;",
                pipeline=model.pipeline,
                vocabulary=vocabulary(),
                method=method,
                **files,
            )
            self.loaded.add((name, method))
        return variable

    def generate(self, name: str, method: str = "", **request: Any) -> Tensor:
        """An image of a model, (3, size, size) in [-1, 1]; `request` as for `sampleSteps` in pipelines.js."""
        pipeline = self.load(name, method)
        code = """
            const chosen = withFault(pipeline, request.fault);
            let x;
            for (const step of sampleSteps(chosen, request)) x = step.x;
            return chosen.decode(x);"""
        image = self(f"const pipeline = {pipeline}; {code}", request=request)
        size = round((image.numel() / 3) ** 0.5)
        return image.view(3, size, size)


def vocabulary() -> list[str]:
    """The vocabulary of the synthetic faces' captions, as the page's manifest has it."""
    from helpers.data.captions import VOCABULARY

    return list(VOCABULARY)


@contextmanager
def node_engine(source: str | None = None) -> Iterator[Engine]:
    """The engine in a Node process while the context lasts.

    Args:
        source: of the engine; None: what the page runs. Tests pass a mutated one.

    Raises:
        FileNotFoundError: where Node is not installed.
    """
    node = find_node()
    if node is None:
        raise FileNotFoundError("no Node on the path (Debian: apt install nodejs)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.js"
        path.write_text(engine_source() if source is None else source, encoding="utf-8")
        command = [node, str(HERE / "node.js"), str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        try:
            yield Engine(process)
        finally:
            process.terminate()
            process.wait()


def _encode(value: Any) -> Any:
    if isinstance(value, Tensor):
        data = value.detach().contiguous().numpy().astype("<f4").tobytes()
        return {"float32": base64.b64encode(data).decode()}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return {"json": value}


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"float32"}:
        return torch.from_numpy(np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4").copy())
    return value
