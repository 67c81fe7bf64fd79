"""Rewrites weights files of an older version of the course with today's names and a checksum of their metadata:

    python -m helpers.weights.migration FILE [FILE ...]

Tensors keep every bit. A file that names another by its checksum, as `sd1` names the CLIP that it was trained with, is
given the new checksum where both are among the files.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from helpers.weights.names import current_config, current_name
from helpers.weights.shipped import METADATA_CHECKSUM, checksum, read_tensors, write_tensors


def migrate(paths: Sequence[Path]) -> list[Path]:
    """Rewrite weights files with today's names; nothing is written before every file has been read.

    Returns:
        the files that were rewritten; the others have today's names and checksums already.

    Raises:
        ValueError: for a damaged file, and where two tensors would get the same name.
    """
    files = {path: read_tensors(path) for path in paths}
    renamed = {
        path: {current_name(name): tensor for name, tensor in tensors.items()} for path, (tensors, _) in files.items()
    }
    for path, (tensors, _) in files.items():
        if len(renamed[path]) != len(tensors):
            raise ValueError(f"{path}: two tensors would get the same name")
    checksums = {metadata["sha256"]: checksum(renamed[path]) for path, (_, metadata) in files.items()}
    changed = []
    for path, (_, metadata) in files.items():
        current = {key: _current_text(key, text, checksums) for key, text in metadata.items()}
        if current != metadata or METADATA_CHECKSUM not in metadata:
            write_tensors(path, renamed[path], current)
            changed.append(path)
    return changed


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {current_name(name): tensor for name, tensor in tensors.items()}


def _current_text(key: str, text: str, checksums: Mapping[str, str]) -> str:
    for old, new in checksums.items():
        text = text.replace(old, new)
    return json.dumps(current_config(json.loads(text))) if key == "model" else text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.weights.migration", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    changed = migrate(parser.parse_args(arguments).files)
    for path in changed:
        print(f"{path}: rewritten in today's form")
    return 0


if __name__ == "__main__":
    sys.exit(main())
