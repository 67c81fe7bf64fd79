"""Chelsea by day, at sunset and at night: what a network generates that was fine-tuned on the practice set."""

import shlex
from pathlib import Path

from matplotlib.figure import Figure

from helpers.data.chelsea import load_chelsea
from helpers.generate import practice
from helpers.show.figures import compare
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.train import main

COMMAND = "--start tiny_sd_animals --source my_pets --steps 400 --batch-size 16 --learning-rate 0.001"  # of the page
COLUMNS = 8
SEED = 20


def trained(folder: Path) -> TinySD:
    """Train as the page Your own images does: a few minutes on one core."""
    practice.write(folder / "my_pets")
    options = shlex.split(COMMAND.replace("my_pets", shlex.quote(str(folder / "my_pets"))))
    main([*options, "--sample-every", "0", "--out", str(folder / "run")])
    return TinySD.from_weights(folder / "run" / "weights.safetensors")


def draw(model: TinySD) -> Figure:
    """Her photograph, and a row of generated images for each light; no training image shows her at night."""
    rows = {"the photograph": load_chelsea(model.size)}
    for light in practice.LIGHTS:
        prompts = [f"chelsea {light}"] * COLUMNS
        rows[prompts[0]] = model.generate(prompts=prompts, guidance_scale=3, steps=16, seed=SEED)
    return compare(rows)
