"""Datasets of the Hugging Face hub as your own images: `--source owner/name`.

Many sets of images are published there, often with captions. Most are Parquet files: tables with an image in every
row, perhaps with a class and a caption. They are downloaded once and written to a zip in the layout of
`helpers.data.own_images`, which everything after that treats like a zip of yours. A set that consists of image files,
or of one zip, is used as it is.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from helpers.course import course_home
from helpers.data.own_captions import CAPTION_COLUMNS, FILE_COLUMN, TABLES, TEXT_SUFFIX
from helpers.data.own_images import SPLIT_FOLDERS, SUFFIXES
from helpers.files import atomic_write

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w.-]+)*")  # owner/name, perhaps a folder in it
ROWS_AT_ONCE = 64  # read from a table; images are large
READ = ("*.parquet", "*.zip", *(f"*{suffix}" for suffix in SUFFIXES), *TABLES, *(f"*/{table}" for table in TABLES))


class Columns(NamedTuple):
    """Which columns of a table are read."""

    image: str
    label: str | None  # the class: one that the publisher declared as such
    class_names: tuple[str, ...]  # of the label
    caption: str | None


def is_hub_name(source: str | Path) -> bool:
    """Whether this could be the name of a dataset on the hub, which no folder or zip here has."""
    return NAME.fullmatch(str(source)) is not None and not Path(source).expanduser().exists()


def find_images(source: str | Path, *, progress: bool = True) -> Path:
    """The folder or zip with the images of a source: a path of this computer, or a dataset of the hub.

    The latter is downloaded the first time. Later calls ask the hub whether it has changed, and need no network if they
    cannot reach it.

    Args:
        source: a path, or owner/name, or owner/name/folder for one folder of a dataset.
        progress: show a progress bar while tables are written to a zip.

    Raises:
        FileNotFoundError: if there is neither such a path nor such a dataset, or the hub is out of reach.
        ValueError: for a dataset without images, with several zips, or with several tables of different columns.
    """
    if not is_hub_name(source):
        return Path(source).expanduser()
    owner, name, *folders = str(source).split("/")
    within = "/".join(folders)
    snapshot = _download(f"{owner}/{name}", within)
    folder = snapshot / within
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    tables = [path for path in files if path.suffix == ".parquet"]
    zips = [path for path in files if path.suffix == ".zip"]
    if tables:
        # the zip's own name becomes the name of the class where there are no classes
        target = course_home() / "hub" / f"{owner}--{name}" / snapshot.name[:12] / f"{'-'.join([name, *folders])}.zip"
        if not target.exists():
            write_zip(folder, tables, target, progress=progress)
        return target
    if any(path.suffix.lower() in SUFFIXES for path in files):
        return folder
    if len(zips) == 1:
        return zips[0]
    held = f"{len(zips)} zips ({', '.join(path.name for path in zips)})" if zips else "no Parquet, image or zip file"
    raise ValueError(
        f"the dataset {source} has {held}, and one set of images is expected. Download it (hf download --repo-type "
        f"dataset {owner}/{name}), put its images into folders, and pass the folder's path"
    )


def _download(repo: str, within: str) -> Path:
    """The folder of the newest version of a dataset, with those of its files that are read."""
    from helpers.weights.pretrained import fetch

    patterns = [f"{within}/{pattern}" for pattern in READ] if within else READ
    return fetch(repo, [*patterns, f"*{TEXT_SUFFIX}"], repo_type="dataset")


def write_zip(folder: Path, tables: Sequence[Path], target: Path, *, progress: bool = True) -> None:
    """Write the images of Parquet files to a zip, in the folders of their splits and classes, with their captions.

    Args:
        folder: that the tables lie in; a table's split is that part of its path which begins with train, test, ...
        tables: in order.
        target: the zip, written atomically.
        progress: show a progress bar.

    Raises:
        ValueError: for a damaged table, one without images, and for tables of different columns.
    """
    opened = [open_table(table) for table in tables]
    columns = find_columns(opened[0], tables[0].name)
    for table, path in zip(opened, tables, strict=True):
        if table.schema_arrow.names != opened[0].schema_arrow.names:
            raise ValueError(
                f"the tables {tables[0].relative_to(folder)} and {path.relative_to(folder)} have different columns: "
                "they are several datasets in one. Name the folder of one of them, owner/name/folder"
            )
    splits = [split_of(path.relative_to(folder)) for path in tables]
    known = any(splits)
    captions: dict[str, list[str]] = {}
    bar = tqdm(total=sum(table.metadata.num_rows for table in opened), desc=target.name, unit=" images")
    bar.disable = not progress
    with atomic_write(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive, bar:
        for position, (table, split) in enumerate(zip(opened, splits, strict=True)):
            root = split or ("train" if known else "")
            for number, (data, class_name, caption) in enumerate(rows(table, columns)):
                parts = [class_name, f"{position:03}-{number:06}{image_suffix(data)}"]
                name = "/".join(part for part in parts if part)
                archive.writestr("/".join(part for part in (root, name) if part), data)
                if caption:
                    captions.setdefault(root, []).append(json.dumps({FILE_COLUMN: name, CAPTION_COLUMNS[0]: caption}))
                bar.update()
        for root, lines in captions.items():
            archive.writestr("/".join(part for part in (root, TABLES[0]) if part), "\n".join(lines))


def open_table(path: Path) -> "ParquetFile":
    """Open a Parquet file. Raises ValueError for a damaged one."""
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"the table {path} is damaged ({error}): delete it and run the command again") from error


def find_columns(table: "ParquetFile", name: str) -> Columns:
    """Which columns hold the image, the class and the caption: as the publisher declared them, else by their form.

    Args:
        table: the opened file.
        name: of the file, for messages.

    Raises:
        ValueError: if no column holds images.
    """
    import pyarrow

    schema = table.schema_arrow
    information = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = information.get("info", {}).get("features", {})
    declared = {column: feature for column, feature in features.items() if isinstance(feature, dict)}
    images = [column for column, feature in declared.items() if feature.get("_type") == "Image"]
    structures = [field for field in schema if pyarrow.types.is_struct(field.type)]
    images += [field.name for field in structures if field.type.get_field_index("bytes") >= 0]
    images += [field.name for field in schema if pyarrow.types.is_binary(field.type)]
    if not images:
        raise ValueError(f"the table {name} has no images: its columns are {', '.join(schema.names)}")
    labels = [column for column, feature in declared.items() if feature.get("_type") == "ClassLabel"]
    label = labels[0] if labels else None
    class_names = tuple(declared[label].get("names", ())) if label else ()
    caption = next((column for column in CAPTION_COLUMNS if column in schema.names), None)
    return Columns(images[0], label if class_names else None, class_names, caption)


def rows(table: "ParquetFile", columns: Columns) -> Iterator[tuple[bytes, str, str]]:
    """(file of the image, class, caption) of every row that has an image; "" for what it lacks."""
    names = [name for name in (columns.image, columns.label, columns.caption) if name]
    for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
        for row in batch.to_pylist():
            image = row[columns.image]
            data = image.get("bytes") if isinstance(image, dict) else image
            if data:
                yield data, _class_of(row, columns), _caption_of(row, columns)


def _class_of(row: dict[str, Any], columns: Columns) -> str:
    """The name of a row's class, as a folder may be called; "" where it has none, which some publishers write as -1."""
    position = row[columns.label] if columns.label else None
    if position is None or position not in range(len(columns.class_names)):
        return ""
    return re.sub(r'[\\/:*?"<>|]', "_", columns.class_names[position]).lstrip(".")


def _caption_of(row: dict[str, Any], columns: Columns) -> str:
    """A row's caption; of several, the first."""
    caption = row[columns.caption] if columns.caption else None
    if isinstance(caption, list):
        caption = caption[0] if caption else None
    return caption if isinstance(caption, str) else ""


def split_of(path: Path) -> str:
    """The split that a path names, as `train-00000-of-00001.parquet` and `data/test/0000.parquet` do; "" if none."""
    beginnings = {re.split(r"[-_.]", part)[0].lower() for part in path.parts}
    return next((split for split, names in SPLIT_FOLDERS.items() if beginnings & set(names)), "")


def image_suffix(data: bytes) -> str:
    """How a file with these bytes is to end: `.png` for PNG, else `.jpg`; what reads images looks into them anyway."""
    return ".png" if data[1:4] == b"PNG" else ".jpg"
