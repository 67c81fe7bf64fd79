"""Captions of your own images, as people keep them: a table beside the images, or a text file beside each.

A table is a `metadata.jsonl` or `metadata.csv`, the layout *imagefolder* of Hugging Face: `file_name`, relative to the
table, and the caption as `text`. A text file has the name of its image, `cats/3.txt` for `cats/3.jpg`. Where an image
has both, the table counts.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from helpers.data.collection import Collection
from helpers.data.faces import Skipped
from helpers.data.images import MAX_BYTES, BadImageError, Entry

TABLES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "prompt")  # the first that a row has
TEXT_SUFFIX = ".txt"


class Captions(NamedTuple):
    """The captions of a collection."""

    by_path: dict[str, str]  # path of an image -> its caption, of one line; without images that have none
    unused: list[Skipped]  # tables, rows of tables and text files that give no caption, and why


def read_captions(collection: Collection, images: Iterable[str]) -> Captions:
    """Read the captions of the images with these paths in a folder or zip."""
    by_path: dict[str, str] = {}
    unused: list[Skipped] = []
    known = set(images)
    by_stem = {posixpath.splitext(path)[0]: path for path in known}
    for path in sorted(collection.files):
        stem, suffix = posixpath.splitext(path)
        if suffix.lower() == TEXT_SUFFIX and stem in by_stem:
            text = _read_text(collection, path, unused)
            if text:
                by_path[by_stem[stem]] = text
    for path in sorted(collection.files):
        if posixpath.basename(path) in TABLES:
            by_path |= _read_table(collection, path, known, unused)
    return Captions({path: caption for path, text in by_path.items() if (caption := " ".join(text.split()))}, unused)


def _read_table(collection: Collection, path: str, known: set[str], unused: list[Skipped]) -> dict[str, str]:
    """The captions of a table by the paths of the images; rows without one are added to `unused`."""
    text = _read_text(collection, path, unused)
    captions = {}
    for number, row in _rows(path, text):
        place = f"{path}, row {number}"
        if isinstance(row, str):
            unused.append(Skipped(place, row))
            continue
        name = str(row.get(FILE_COLUMN) or "").replace("\\", "/")
        image = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        caption = next((row[column] for column in CAPTION_COLUMNS if row.get(column)), None)
        if image not in known:
            unused.append(Skipped(place, f"there is no image {name!r}" if name else f"it has no {FILE_COLUMN!r}"))
        elif isinstance(caption, str):
            captions[image] = caption
    return captions


def _rows(path: str, text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows of a table with their numbers, from 1; in the place of one that cannot be read, the reason."""
    if path.endswith(".csv"):
        yield from enumerate(csv.DictReader(io.StringIO(text)), 1)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                row = f"no JSON: {error}"
            yield number, row if isinstance(row, dict | str) else "no JSON object"


def _read_text(collection: Collection, path: str, unused: list[Skipped]) -> str:
    """The text of a file; "" if it cannot be read, which is added to `unused`."""
    try:
        data = collection.read(Entry(path, collection.files[path], 0))
        if len(data) > MAX_BYTES:
            raise BadImageError(f"more than {MAX_BYTES // 2**20} MiB")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        unused.append(Skipped(path, "no text in UTF-8"))
    except (BadImageError, OSError) as error:
        unused.append(Skipped(path, str(error)))
    return ""
