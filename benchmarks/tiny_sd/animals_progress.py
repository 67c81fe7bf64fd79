"""What a long training generated on its way: the grids that the trainer wrote to its folder, small enough to ship.

    python -m benchmarks.tiny_sd.animals_progress RUN_FOLDER STEP [STEP ...]
    python -m benchmarks.tiny_sd.animals_progress RUN_FOLDER STEP [STEP ...] --name animals_own_training  # Method 3

The grids of these steps (`samples-001000.png` and so on, see `--sample-every`) become
`00_assets/image/animals_training/1000.webp` and so on. The trainer starts every grid from the same noise, so image i is
always the same attempt.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from helpers.course import repository_root
from helpers.files import atomic_write

IMAGES = "00_assets/image"
ENLARGED = 2  # the trainer draws every pixel this often in each direction
QUALITY = 85
MOST_BYTES = 60_000


def ship_grid(grid: Path, path: Path) -> None:
    """Write the trainer's grid of samples as WebP, one pixel for each generated pixel.

    Raises:
        ValueError: where it takes more than MOST_BYTES.
    """
    with Image.open(grid) as image:
        small = image.convert("RGB").reduce(ENLARGED)
    with atomic_write(path) as file:
        small.save(file, "WEBP", quality=QUALITY, method=6)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} takes {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = argparse.ArgumentParser(
        prog="python -m benchmarks.tiny_sd.animals_progress", description=__doc__.splitlines()[0]
    )
    command_line.add_argument("run", type=Path, help="the folder of the run")
    command_line.add_argument("steps", type=int, nargs="+", help="whose grids ship")
    command_line.add_argument("--name", default="animals_training", help=f"folder in {IMAGES} (%(default)s)")
    return command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Ship the grids; the exit status."""
    options = parser().parse_args(argv)
    grids = {step: options.run / f"samples-{step:06d}.png" for step in options.steps}
    missing = [str(grid) for grid in grids.values() if not grid.is_file()]
    if missing:
        print(f"no grid of samples: {', '.join(missing)}; train with --sample-every", file=sys.stderr)
        return 2
    for step, grid in grids.items():
        path = repository_root() / IMAGES / options.name / f"{step}.webp"
        ship_grid(grid, path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
