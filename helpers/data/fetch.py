"""Download AFHQ when it is not on this computer: from Kaggle, else from the Hugging Face hub.

Both libraries are imported here only, and called only when there is no local copy. Both show their progress, resume
a broken download and keep what they fetched.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from helpers.course import course_home
from helpers.data.faces import CLASS_NAMES
from helpers.files import atomic_write

KAGGLE = "andrewmvd/animal-faces"  # AFHQ v1 in folders, afhq/train/cat/*.jpg, about 0.7 GB
HUB = "huggan/AFHQ"  # AFHQ v1 as parquet, one split; huggan/AFHQv2 has other images (re-cropped)
HUB_VAL = 500  # images of a class set aside as val, as many as AFHQ v1 has


def kaggle_copies() -> list[Path]:
    """Return the folders of kagglehub's earlier complete downloads, newest last, without using the network."""
    home = Path(os.environ.get("KAGGLEHUB_CACHE") or os.path.expanduser("~/.cache/kagglehub"))
    versions = home / "datasets" / KAGGLE / "versions"
    markers = sorted((home / "datasets" / KAGGLE).glob("*.complete"), key=lambda path: (len(path.name), path.name))
    return [versions / marker.stem for marker in markers if (versions / marker.stem).is_dir()]


def from_kaggle() -> Path:
    """Download the data set with kagglehub and return its folder. Raises whatever kagglehub does when it cannot."""
    import kagglehub

    return Path(kagglehub.dataset_download(KAGGLE))


def hub_zip() -> Path:
    """Return where `from_hub` writes its zip."""
    return course_home() / "animal-faces-hub.zip"


def from_hub() -> Path:
    """Download the hub's copy, write it as a zip in the Kaggle layout, and return the zip's path.

    No copy of AFHQ v1 in folders or zips is known on the hub. This one is parquet (reading it needs `pip install
    pyarrow`) with all images in one split: 500 of each class, those with the smallest SHA-256, become val here. So that
    val is *not* AFHQ's: do not compare scores across the two copies.

    Raises:
        ImportError: without pyarrow, and whatever huggingface_hub or pyarrow raise when they cannot.
    """
    if find_spec("pyarrow") is None:  # checked before the download, not after it
        raise ImportError("reading the hub's copy needs pyarrow: pip install pyarrow")
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(HUB, repo_type="dataset", allow_patterns=["*.parquet"]))
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{HUB} holds no parquet files any more")
    pack(files, hub_zip())
    return hub_zip()


def pack(parquet_files: list[Path], target: Path) -> None:
    """Write the images of parquet files (columns image.bytes and label) to a zip in the Kaggle layout, atomically."""
    digests = [(label, hashlib.sha256(data).hexdigest()) for data, label in rows(parquet_files)]
    val: set[tuple[int, str]] = set()
    for class_label in range(len(CLASS_NAMES)):
        val.update(sorted(item for item in digests if item[0] == class_label)[:HUB_VAL])
    with atomic_write(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for (data, label), item in zip(rows(parquet_files), digests, strict=True):
            split = "val" if item in val else "train"
            ending = "png" if data[1:4] == b"PNG" else "jpg"
            archive.writestr(f"afhq/{split}/{CLASS_NAMES[label]}/{item[1][:16]}.{ending}", data)


def rows(parquet_files: list[Path]) -> Iterator[tuple[bytes, int]]:
    """Yield (file bytes, label) of every row. Raises ValueError if the labels do not mean cat, dog, wild."""
    import pyarrow.parquet as parquet

    for path in parquet_files:
        table = parquet.ParquetFile(path)
        metadata = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get("label", {}).get("names", list(CLASS_NAMES))
        if tuple(names) != CLASS_NAMES:
            raise ValueError(f"{path.name} has the classes {names}, not {list(CLASS_NAMES)}")
        for batch in table.iter_batches(batch_size=64, columns=["image", "label"]):
            for row in batch.to_pylist():
                data = (row["image"] or {}).get("bytes")
                if data and row["label"] in range(len(CLASS_NAMES)):  # a row without image or class spoils no other
                    yield data, row["label"]
