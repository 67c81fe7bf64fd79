"""Build the image cache ahead of time and print what is in it: `python -m helpers.data --source toy-faces`."""

import argparse
import sys
import time
import warnings

from helpers.data.faces import SPLITS
from helpers.data.load import SOURCES, load_faces


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns 0, or 1 if the images could not be loaded, after printing the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m helpers.data", description=__doc__)
    parser.add_argument("--source", choices=SOURCES, default="toy-faces")
    parser.add_argument("--split", choices=(*SPLITS, "all"), default="all")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default 64)")
    parser.add_argument("--limit", type=int, help="at most this many images of a split")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic faces (default 0)")
    parser.add_argument("--root", help="folder or zip of the photographs (default: ANIMAL_FACES_DIR)")
    parser.add_argument("--cache-dir", help="folder of the cache (default: cache in COURSE_HOME)")
    options = parser.parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    credit = ""
    for split in SPLITS if options.split == "all" else (options.split,):
        start = time.perf_counter()
        try:
            faces = load_faces(
                options.source,
                split,
                options.size,
                limit=options.limit,
                seed=options.seed,
                root=options.root,
                cache_dir=options.cache_dir,
            )
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{faces}  {time.perf_counter() - start:.1f} s")
        credit = faces.credit
    print(credit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
