"""Fetching the real AFHQ pictures when they are not on this computer: from Kaggle, else from the Hugging Face hub.

Both libraries are imported here only, and called only when no local copy was found. Both show their progress, resume
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

KAGGLE = "andrewmvd/animal-faces"  # AFHQ v1 in folders, afhq/train/cat/*.jpg, about 0.7 GB
HUB = "huggan/AFHQ"  # AFHQ v1 as parquet, one split; huggan/AFHQv2 is other pictures (re-cropped)
HUB_VAL = 500  # pictures a class set aside as val, as many as AFHQ v1 has


def kaggle_copies() -> list[Path]:
    """What kagglehub fetched completely before, newest last: found without asking the network."""
    home = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    versions = home / "datasets" / KAGGLE / "versions"
    marks = sorted((home / "datasets" / KAGGLE).glob("*.complete"), key=lambda mark: (len(mark.name), mark.name))
    return [versions / mark.stem for mark in marks if (versions / mark.stem).is_dir()]


def from_kaggle() -> Path:
    """The folder that kagglehub downloads the data set to. Raises whatever kagglehub does when it cannot."""
    import kagglehub

    return Path(kagglehub.dataset_download(KAGGLE))


def hub_zip() -> Path:
    """Where `from_hub` puts the pictures."""
    return course_home() / "animal-faces-hub.zip"


def from_hub() -> Path:
    """The hub's copy as a zip in the Kaggle layout. Raises whatever huggingface_hub or pyarrow do when they cannot.

    No copy of AFHQ v1 in folders or zips is known on the hub. This one is parquet (reading it needs `pip install
    pyarrow`) with all pictures in one split: 500 of each class, those with the smallest SHA-256, become val here. So
    that val is *not* AFHQ's: do not compare scores across the two copies.
    """
    if find_spec("pyarrow") is None:  # asked before the download, not after it
        raise ImportError("reading the hub's copy needs pyarrow: pip install pyarrow")
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(HUB, repo_type="dataset", allow_patterns=["*.parquet"]))
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{HUB} holds no parquet files any more")
    pack(files, hub_zip())
    return hub_zip()


def pack(parquet_files: list[Path], target: Path) -> None:
    """Write the pictures of parquet files (columns image.bytes and label) to a zip in the Kaggle layout, atomically."""
    digests = [(label, hashlib.sha256(data).hexdigest()) for data, label in rows(parquet_files)]
    val = {pair for label in range(len(CLASS_NAMES)) for pair in sorted(p for p in digests if p[0] == label)[:HUB_VAL]}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}-{os.getpid()}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for (data, label), pair in zip(rows(parquet_files), digests, strict=True):
                split = "val" if pair in val else "train"
                ending = "png" if data[1:4] == b"PNG" else "jpg"
                archive.writestr(f"afhq/{split}/{CLASS_NAMES[label]}/{pair[1][:16]}.{ending}", data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def rows(parquet_files: list[Path]) -> Iterator[tuple[bytes, int]]:
    """(file bytes, label) of every row. Raises ValueError if the labels do not mean cat, dog, wild."""
    import pyarrow.parquet as parquet

    for path in parquet_files:
        table = parquet.ParquetFile(path)
        described = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = described.get("info", {}).get("features", {}).get("label", {}).get("names", list(CLASS_NAMES))
        if tuple(names) != CLASS_NAMES:
            raise ValueError(f"{path.name} has the classes {names}, not {list(CLASS_NAMES)}")
        for batch in table.iter_batches(batch_size=64, columns=["image", "label"]):
            for row in batch.to_pylist():
                yield row["image"]["bytes"], row["label"]
