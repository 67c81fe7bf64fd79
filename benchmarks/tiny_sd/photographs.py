"""The three methods on real photographs, side by side after about the same minutes.

    python -m helpers.tiny_sd.train --source animal-faces --method METHOD ...   # three times: see the README
    python -m benchmarks.tiny_sd.photographs PIXELS_RUN PRETRAINED_RUN OWN_RUN         # five minutes

Judged by a classifier of photographs (`helpers.scoring.photographs`) that has seen none of them, real or generated. No
weights trained on AFHQ ship (CC BY-NC 4.0); the record and pictures of what they generated do.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import hardware, parameter_count, read_record, write_record
from benchmarks.report import Row, at_least, at_most
from benchmarks.tiny_sd.animals_scores import balanced, labels_of
from helpers.course import repository_root

RECORD = "00_assets/results/tiny_sd_real.json"
IMAGE = "00_assets/image/real_faces_three_methods.png"
METHODS = ("pixels", "pretrained", "own")
TITLES = {
    "pixels": "Method 1, pixels",
    "pretrained": "Method 2, a pretrained autoencoder",
    "own": "Method 3, our own autoencoder",
}
PER_CLASS = 100  # generated images of every class
HELD_OUT = 80  # photographs of every class
GUIDANCE = 5.0  # of 3.5, 5 and 7 the smallest that made the most of 120 images of other noise
SEED = 1000
REPEATS = 20


def check() -> list[Row]:
    """Read the record; its photographs and weights are not part of the repository."""
    path = repository_root() / RECORD
    if not path.exists():
        return [Row("real faces, three methods", "never run", "python -m benchmarks.tiny_sd.photographs RUNS", False)]
    record = read_record(path)
    methods = record["methods"]
    second = methods["pretrained"]
    rows = [
        at_least("real faces, Method 2: seen as what was asked", 100 * second["agreement"]["of three"], 85, "%"),
        at_most("real faces, Method 2: core minutes, encoding included", second["core_minutes"], 45, "min"),
    ]
    for other in ("pixels", "own"):
        minutes = methods[other]["core_minutes"] / second["core_minutes"]
        rows.append(at_least(f"real faces, {other}: core minutes over those of Method 2", minutes, 0.95, "x"))
    for name, entry in methods.items():
        seen = ", ".join(f"{name_} {100 * part['of three']:.0f}" for name_, part in entry["agreement_by_class"].items())
        if name == "pretrained":  # the rest is claimed above
            rows.append(Row(f"real faces, {name}: seen as asked, by class", f"{seen} %", "printed", True))
        else:
            share = f"{100 * entry['agreement']['of three']:.0f} % ({seen}) in {entry['core_minutes']:.1f} core minutes"
            rows.append(Row(f"real faces, {name}: seen as asked", share, "printed", True))
        kid = entry["kernel_distance"]
        text = f"{kid['value']:.3g} ± {kid['spread']:.2g}, n = {kid['counts']}"
        rows.append(Row(f"real faces, {name}: kernel distance to held-out photographs", text, "printed", True))
        there = (repository_root() / grid_image(name)).exists()
        rows.append(Row(f"real faces, {name}: sample grid", "there" if there else "missing", "there", there))
    return rows


def grid_image(method: str) -> str:
    return f"00_assets/image/real_faces_{method}_samples.png"


def public(command: str) -> str:
    """The command, with FOLDER for somebody's own folder: of autoencoders only hub names and "sdxl-vae" tell others."""
    return re.sub(r"--autoencoder (?!sdxl-vae\b)[^/\s]+(?=\s|$)", "--autoencoder FOLDER", command)


def measured(folder: Path, classifier, photographs: Tensor, real: Tensor) -> tuple[dict, Tensor]:
    """One run's entry in the record, and its pictures, PER_CLASS of each class."""
    from helpers.scoring.frechet import frechet_distance, kernel_distance
    from helpers.scoring.inception import fid, inception_weights
    from helpers.scoring.photographs import agreement
    from helpers.scoring.reconstruction import psnr
    from helpers.tiny_sd.model import TinySD
    from helpers.weights import read_metadata

    weights = folder / "weights.safetensors"
    model = TinySD.from_weights(weights)
    metadata = read_metadata(weights)
    labels = labels_of(model, PER_CLASS)
    images = model.generate(labels, seed=SEED, guidance_scale=GUIDANCE, progress=True)
    probabilities, features = classifier.predict(images)
    kid, frechet = (distance(features, real, repeats=REPEATS) for distance in (kernel_distance, frechet_distance))
    with torch.no_grad():
        reconstructions = torch.cat([model.codec.decode(model.codec.encode(part)) for part in photographs.split(40)])
    extra = [read_metadata(path) for path in [folder / "autoencoder" / "weights.safetensors"] if path.exists()]
    entry = {
        "command": public(metadata["command"]),
        "seed": int(metadata["seed"]),
        "steps": int(metadata["steps"]),
        "parameters": parameter_count(model.unet),
        "codec_psnr": None if model.codec.name == "pixels" else round(psnr(photographs, reconstructions), 2),
        "core_minutes": sum(float(part_metadata["core_minutes"]) for part_metadata in [metadata, *extra])
        + float(metadata.get("encoding_core_minutes", 0)),
        "minutes": sum(float(part_metadata["minutes"]) for part_metadata in [metadata, *extra]),
        "agreement": agreement(probabilities, labels),
        "agreement_by_class": {
            name: agreement(probabilities[i * PER_CLASS : (i + 1) * PER_CLASS], [name] * PER_CLASS)
            for i, name in enumerate(model.class_names)
        },
        "kernel_distance": kid._asdict(),
        "frechet_distance": frechet._asdict(),
        "inception_fid": round(fid(images, photographs), 2) if inception_weights() else None,  # None: no weights here
    }
    return entry, images


def main(folders: list[Path]) -> None:
    """Generate, judge, and write the record and the pictures."""
    from helpers.data import load_faces
    from helpers.scoring.frechet import frechet_distance, kernel_distance
    from helpers.scoring.photographs import PhotographClassifier, agreement
    from helpers.show.figures import grid, save_png, style

    style()
    classifier = PhotographClassifier()
    held_out = load_faces("animal-faces", "val", 64)
    seen = load_faces("animal-faces", "train", 64)
    chosen = balanced(held_out, HELD_OUT)
    photographs = held_out.tensor(chosen)
    probabilities, real = classifier.predict(photographs)
    _, training_features = classifier.predict(seen.tensor(balanced(seen, PER_CLASS)))
    methods: dict[str, dict] = {}
    record = {
        "hardware": hardware(),
        "photographs": {"train": seen.counts, "held out": held_out.counts, "size": 64, "credit": held_out.credit},
        "samples_per_class": PER_CLASS,
        "guidance_scale": GUIDANCE,
        "seed": SEED,
        "held_out": {
            "agreement": agreement(probabilities, [held_out.class_names[held_out.labels[i]] for i in chosen]),
            "kernel_distance": kernel_distance(training_features, real, repeats=REPEATS)._asdict(),
            "frechet_distance": frechet_distance(training_features, real, repeats=REPEATS)._asdict(),
        },
        "methods": methods,
    }
    samples = {}
    for method, folder in zip(METHODS, folders, strict=True):
        methods[method], images = measured(folder, classifier, photographs, real)
        samples[method] = images.unflatten(0, (-1, PER_CLASS))  # (classes, PER_CLASS, ...)
        save_png(grid(samples[method][:, :10].flatten(0, 1), columns=10), repository_root() / grid_image(method))
        print(method, json.dumps(methods[method], indent=1), flush=True)
    write_record(repository_root() / RECORD, record)
    side_by_side(samples, methods)


def side_by_side(samples: dict[str, Tensor], methods: dict[str, dict]) -> None:
    """The three methods beside each other: what was drawn first for each class, unchosen."""
    from matplotlib import pyplot as plt

    from helpers.show.figures import to_rgb_array

    figure, axes = plt.subplots(1, 3, figsize=(12, 2.9), layout="constrained")
    for a, (name, images) in zip(axes, samples.items(), strict=True):
        tiles = np.stack([to_rgb_array(row[:5]) for row in images])  # (classes, 5, H, W, 3)
        a.imshow(tiles.transpose(0, 2, 1, 3, 4).reshape(len(tiles) * tiles.shape[2], -1, 3))
        entry = methods[name]
        a.set_title(
            f"{TITLES[name]}\n{entry['core_minutes']:.0f} minutes of one core: "
            f"{100 * entry['agreement']['of three']:.0f} % as asked",
            fontsize=11,
        )
        a.set_axis_off()
    figure.savefig(repository_root() / IMAGE, dpi=100)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m benchmarks.tiny_sd.photographs PIXELS_RUN PRETRAINED_RUN OWN_RUN")
    main([Path(name) for name in sys.argv[1:]])
