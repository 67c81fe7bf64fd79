"""Build the image cache ahead of time, or check images of your own.

python -m helpers.data --source toy-faces     # builds the cache and says what is in it
python -m helpers.data check FOLDER           # what is in a folder or zip, and what would spoil a training on it
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

from helpers.data.faces import SPLITS
from helpers.data.load import SOURCES, load_faces
from helpers.data.sizes import Size


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status.

    Returns:
        0; 1 if the images could not be loaded, after printing the reason on stderr, and if `check` found something.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        return check(arguments[1:]) if arguments[:1] == ["check"] else build(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def build(arguments: list[str]) -> int:
    """Load images, which builds their cache, and print what is there."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source",
        default="toy-faces",
        help=f"{', '.join(SOURCES)}, a folder or zip of your own images, or owner/name of the hub (default toy-faces)",
    )
    parser.add_argument("--split", choices=(*SPLITS, "all"), default="all")
    _add_size(parser)
    parser.add_argument("--limit", type=int, help="at most this many images of a split")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic faces (default 0)")
    parser.add_argument("--root", help="folder or zip of the photographs (default: ANIMAL_FACES_DIR)")
    parser.add_argument("--cache-dir", help="folder of the cache (default: cache in COURSE_HOME)")
    options = parser.parse_args(arguments)
    credit = ""
    for split in SPLITS if options.split == "all" else (options.split,):
        start = time.perf_counter()
        faces = load_faces(
            options.source,
            split,
            _size_of(options),
            limit=options.limit,
            seed=options.seed,
            root=options.root,
            cache_dir=options.cache_dir,
        )
        print(f"{faces}  {time.perf_counter() - start:.1f} s")
        credit = faces.credit
    if credit:
        print(credit)
    return 0


def check(arguments: list[str]) -> int:
    """Print what is in a folder or zip of images, and what would spoil a training on them."""
    from helpers.data.check import describe, find_faults, inspect_images
    from helpers.data.hub import find_images

    parser = argparse.ArgumentParser(
        prog="python -m helpers.data check",
        description="Say what is in a folder or zip of images, and what would spoil a training on them.",
    )
    parser.add_argument("folder", nargs="?", help="folder or zip, or a dataset of the hub, owner/name")
    _add_size(parser)
    parser.add_argument("--cache-dir", type=Path, help="folder of the cache (default: cache in COURSE_HOME)")
    options = parser.parse_args(arguments)
    if options.folder is None and len(options.size) > 1:
        options.folder = options.size.pop()  # `--size 64 FOLDER`: it is no second number
    if options.folder is None:
        parser.error("which folder, zip or dataset?")
    inspection = inspect_images(find_images(options.folder), _size_of(options), options.cache_dir)
    print("\n".join(describe(inspection)))
    faults = find_faults(inspection)
    for fault in faults:
        print(f"{fault.name}: {fault.text}.")
    if not faults:
        print("nothing was found that would spoil a training")
    size = " ".join(options.size)
    print(f"\nTo train on them: python -m helpers.tiny_sd.train --source {options.folder} --size {size}")
    return 1 if faults else 0


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        nargs="+",
        default=["64"],
        metavar=("PIXELS", "WIDTH"),
        help="pixels a side of the images in training, or height and width of your own (default 64)",
    )


def _size_of(options: argparse.Namespace) -> Size:
    """The size that was asked for. Raises ValueError for what are no whole numbers."""
    try:
        numbers = [int(text) for text in options.size]
    except ValueError:
        raise ValueError(f"--size takes pixels a side, or height and width, got {' '.join(options.size)}") from None
    return numbers[0] if len(numbers) == 1 else numbers


if __name__ == "__main__":
    sys.exit(main())
