"""Download AFHQ when it is not on this computer: from Kaggle, else from the Hugging Face hub.

Both libraries are imported here only, and called only when there is no local copy. Both show their progress, resume
a broken download and keep what they fetched.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from helpers.course import course_home
from helpers.data import hub
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
    """Download the dataset with kagglehub and return its folder. Raises whatever kagglehub does when it cannot."""
    import kagglehub

    return Path(kagglehub.dataset_download(KAGGLE))


def hub_zip() -> Path:
    """Return where `from_hub` writes its zip."""
    return course_home() / "animal-faces-hub.zip"


def from_hub() -> Path:
    """Download the hub's copy, write it as a zip in the Kaggle layout, and return the zip's path.

    No copy of AFHQ v1 in folders or zips is known on the hub. This one is Parquet with all images in one split: 500 of
    each class, those with the smallest SHA-256, become val here. So that val is *not* AFHQ's: do not compare scores
    across the two copies. Raises whatever huggingface_hub or pyarrow do when they cannot.
    """
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(HUB, repo_type="dataset", allow_patterns=["*.parquet"]))
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{HUB} holds no parquet files any more")
    pack(files, hub_zip())
    return hub_zip()


def pack(parquet_files: list[Path], target: Path) -> None:
    """Write the images of Parquet files to a zip in the Kaggle layout, atomically."""
    digests = [(label, hashlib.sha256(data).hexdigest()) for data, label in rows(parquet_files)]
    val: set[tuple[int, str]] = set()
    for class_label in range(len(CLASS_NAMES)):
        val.update(sorted(item for item in digests if item[0] == class_label)[:HUB_VAL])
    with atomic_write(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for (data, label), item in zip(rows(parquet_files), digests, strict=True):
            split = "val" if item in val else "train"
            archive.writestr(f"afhq/{split}/{CLASS_NAMES[label]}/{item[1][:16]}{hub.image_suffix(data)}", data)


def rows(parquet_files: list[Path]) -> Iterator[tuple[bytes, int]]:
    """Yield (file bytes, label) of every row. Raises ValueError if the labels do not mean cat, dog, wild."""
    for path in parquet_files:
        table = hub.open_table(path)
        columns = hub.find_columns(table, path.name)
        if not columns.class_names:
            columns = columns._replace(label="label", class_names=CLASS_NAMES)
        if columns.class_names != CLASS_NAMES:
            raise ValueError(f"{path.name} has the classes {list(columns.class_names)}, not {list(CLASS_NAMES)}")
        for data, class_name, _ in hub.rows(table, columns):
            if class_name in CLASS_NAMES:  # a row without image or class spoils no other
                yield data, CLASS_NAMES.index(class_name)
