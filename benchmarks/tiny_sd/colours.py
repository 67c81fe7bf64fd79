"""Method 1 on real photographs: are the colours true, and what was seen after how long?

    python -m helpers.tiny_sd.train --source animal-faces --out RUN
    python -m benchmarks.tiny_sd.colours RUN      # reads the run's weights, log and sample grids; a minute

Weights trained on AFHQ do not ship (its licence is CC BY-NC 4.0); the record and a picture of what they generated do.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from benchmarks.record import read_record, write_record
from benchmarks.report import Row, at_least
from benchmarks.tiny_sd.animals_scores import labels_of
from helpers.course import repository_root

RECORD = "00_assets/results/real_faces.json"
IMAGE = "00_assets/image/real_faces_pixels.png"
COUNT = 96  # generated pictures whose colours are compared
TAILS = (0.5, 99.5)  # percentiles between which a channel's range is taken: a single odd pixel is no range


def check() -> list[Row]:
    """Read the record; its photographs and weights are not part of the repository."""
    path = repository_root() / RECORD
    if not path.exists():
        return [Row("real faces, range of the colours", "never run", "python -m benchmarks.tiny_sd.colours RUN", False)]
    shares = read_record(path)["range_coverage"]
    return [
        at_least(f"real faces, range of {channel}, of the data's", 100 * share, 90, "%")
        for channel, share in shares.items()
    ]


def channel_range(images: np.ndarray) -> np.ndarray:
    """(3, 2) low and high percentile of each channel of uint8 (N, 3, H, W) pictures."""
    return np.percentile(images.transpose(1, 0, 2, 3).reshape(3, -1), TAILS, axis=1).T


def range_coverage(samples: np.ndarray, data: np.ndarray) -> dict[str, float]:
    """Share of the data's range, channel by channel, that the samples reach."""
    generated = channel_range(samples)
    real = channel_range(data)
    low = np.maximum(generated[:, 0], real[:, 0])
    high = np.minimum(generated[:, 1], real[:, 1])
    share = np.clip(high - low, 0, None) / (real[:, 1] - real[:, 0])
    return {name: round(float(value), 4) for name, value in zip(("red", "green", "blue"), share, strict=True)}


def colours(images: np.ndarray, statistic: Callable[..., np.ndarray]) -> list[float]:
    """One statistic of each channel: a full range alone could be noise."""
    return statistic(images.astype(np.float64), axis=(0, 2, 3)).round(1).tolist()


def progress_image(folder: Path, log: list[dict]) -> None:
    """The run's sample grids one below the other, each with its step and minutes."""
    grids = sorted(folder.glob("samples-*.png"))
    chosen = [grids[0], grids[len(grids) // 3], grids[-1]]
    figure, axes = plt.subplots(len(chosen), 1, figsize=(7.2, 8.6), layout="constrained")
    for a, path in zip(axes, chosen, strict=True):
        step = int(path.stem.split("-")[1])
        seconds = next(row["seconds"] for row in log if row["step"] >= step)
        a.imshow(Image.open(path))
        a.set_title(f"step {step:,}, {seconds / 60:.0f} minutes")
        a.set_axis_off()
    figure.savefig(repository_root() / IMAGE, dpi=100)


def main(folder: Path) -> None:
    """Generate, compare, and write the record and the picture."""
    from helpers.data import load_faces
    from helpers.show.figures import style, to_rgb_array
    from helpers.tiny_sd.model import TinySD
    from helpers.weights import read_metadata

    style()
    weights = folder / "weights.safetensors"
    if not weights.exists() or not any(folder.glob("samples-*.png")):
        sys.exit(f"{folder} holds no finished run with sample grids: train one with --out {folder}")
    model = TinySD.from_weights(weights)
    metadata = read_metadata(weights)
    labels = labels_of(model, COUNT // len(model.class_names))
    samples = to_rgb_array(model.generate(labels, seed=1000, progress=True)).transpose(0, 3, 1, 2)
    data = load_faces("animal-faces", "train", model.size)
    data = data[np.sort(np.random.default_rng(0).choice(len(data), min(1500, len(data)), replace=False))]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    record = {
        "command": metadata["command"],
        "minutes": float(metadata["minutes"]),
        "steps": int(metadata["steps"]),
        "threads": int(metadata["threads"]),
        "samples": COUNT,
        "percentiles": TAILS,
        "range_of_samples": channel_range(samples).round(1).tolist(),
        "range_of_data": channel_range(data.images).round(1).tolist(),
        "range_coverage": range_coverage(samples, data.images),
        "mean_of_samples": colours(samples, np.mean),
        "mean_of_data": colours(data.images, np.mean),
        "spread_of_samples": colours(samples, np.std),
        "spread_of_data": colours(data.images, np.std),
    }
    write_record(repository_root() / RECORD, record)
    progress_image(folder, log)
    print(json.dumps(record["range_coverage"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.tiny_sd.colours RUN_FOLDER")
    main(Path(sys.argv[1]))
