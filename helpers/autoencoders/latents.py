"""Encode all images once, before a training: an autoencoder costs more than a small U-Net does.

The latents are one file with a journal beside it, which has a line with a checksum for each batch. Reading, resuming
after a kill and repairing damage are the same procedure: a batch whose checksum is in the journal is kept, any other is
encoded. Alphabet: N images, B batch, C latent channels, h w their height and width.
"""

import hashlib
import json
import math
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from helpers.autoencoders.interface import Autoencoder
from helpers.course import course_home
from helpers.data import Faces
from helpers.data.sizes import size_text
from helpers.scoring.reconstruction import psnr
from helpers.training.precision import computes_bf16
from helpers.weights import checksum

PIXELS_PER_BATCH = 2**18  # encoded at once: 64 images of 64x64, one of 512x512


@dataclass(frozen=True)
class Latents:
    """The latents of a dataset and of its mirror images, with mean and standard deviation of each channel."""

    values: np.ndarray  # float16 (N, 2, C, h, w), memory-mapped; [:, 1] are those of the mirrored images
    mean: Tensor  # (C,)
    std: Tensor  # (C,)
    core_seconds: float  # of processor time that encoding took, now or earlier: it belongs to the cost of a training

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Tensor, mirrored: Tensor) -> Tensor:
        """Normalised latents of the images at these indices, float32 (B, C, h, w).

        Args:
            indices: int64 (B,).
            mirrored: bool (B,), which images to mirror.
        """
        values = self.values[indices.numpy(), mirrored.long().numpy()]
        return normalize_channels(torch.from_numpy(values).float(), self.mean, self.std)


def normalize_channels(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale each channel of latents (B, C, h, w) to mean 0 and unit variance; mean and std are (C,)."""
    return (latents - mean[:, None, None].to(latents)) / std[:, None, None].to(latents)


def cache_latents(
    autoencoder: Autoencoder, faces: Faces, *, cache_dir: str | Path | None = None, progress: bool = True
) -> Latents:
    """Latents of all images: read from the cache where they are there and undamaged, encoded and cached otherwise.

    Args:
        autoencoder: it encodes without a generator, hence deterministically.
        faces: the images.
        cache_dir: None is `course_home() / "cache"`. If it cannot be written, the latents stay in memory.
        progress: show a progress bar while images are encoded.

    Raises:
        ValueError: for images whose sides the autoencoder cannot take, and for latents that overflow float16.
    """
    with torch.no_grad():
        latent = autoencoder.to_latents(faces.tensor(slice(0, 1), next(autoencoder.parameters()).device))
    shape = (len(faces), 2, *latent.shape[1:])
    per_batch = max(1, PIXELS_PER_BATCH // math.prod(faces.height_and_width))
    recipe = {
        "autoencoder": fingerprint(autoencoder),
        "pictures": _digest(faces),
        "shape": list(shape),
        "batch": per_batch,
        "version": 3,
    }
    folder = Path(cache_dir).expanduser() if cache_dir is not None else course_home() / "cache"
    file = _latent_file(folder, faces, recipe)
    bf16 = not file.journal.exists() and encodes_as_well_in_bf16(autoencoder, faces.tensor(slice(0, per_batch)))
    if bf16:
        file = _latent_file(folder, faces, recipe | {"precision": "bf16"})

    def encode_batch(i: int) -> np.ndarray:
        with torch.autocast(next(autoencoder.parameters()).device.type, torch.bfloat16, enabled=bf16):
            return _encode_images(autoencoder, faces, file.batches[i])

    if file.missing():
        try:
            with file.open_for_writing():
                missing = file.missing(warn=True)  # another process may have been faster
                for i in _progress_bar(missing, progress):
                    file.write_batch(i, encode_batch)
        except OSError as error:
            return _encode_in_memory(file, encode_batch, error, progress)
    values = np.memmap(file.path, np.float16, "r", shape=shape)
    mean, std = _mean_and_std(values, file.batches)
    return Latents(values, mean, std, file.core_seconds())


def _latent_file(folder: Path, faces: Faces, recipe: dict) -> "_LatentFile":
    """The file for these latents; its name contains a digest of everything that decides its content."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    name = f"latents-{faces.source or 'images'}-{size_text(faces.height_and_width)}-{digest}.bin"
    return _LatentFile(folder / name, recipe)


@torch.no_grad()
def encodes_as_well_in_bf16(autoencoder: Autoencoder, images: Tensor) -> bool:
    """Whether this machine computes in bf16, and the reconstructions keep their PSNR within 0.02 dB.

    It is not timed: a clock would answer differently from one run to the next, and the latents with it.

    Args:
        images: (B, 3, H, W) in [-1, 1], one batch.
    """
    device = next(autoencoder.parameters()).device
    if not computes_bf16(device.type):
        return False
    images = images.to(device)
    quality = []
    for bf16 in (False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            latents = autoencoder.to_latents(images).float()
        quality.append(psnr(images, autoencoder.to_images(latents)))
    return abs(quality[1] - quality[0]) < 0.02


def _encode_in_memory(
    file: "_LatentFile", encode_batch: Callable[[int], np.ndarray], error: OSError, progress: bool
) -> Latents:
    """Fallback when the cache cannot be written: read the batches that exist, encode the others into memory."""
    warnings.warn(
        f"latents cannot be kept in {file.path} ({error.strerror or error}); they stay in memory and "
        "will be encoded again next time. Set COURSE_HOME or cache_dir to a folder that can be written and has "
        "room",
        stacklevel=3,
    )
    start = time.process_time()
    missing = set(file.missing())
    values = np.empty(file.shape, np.float16)
    for i in _progress_bar(list(range(len(file.batches))), progress):
        values[file.batches[i]] = encode_batch(i) if i in missing else file.read_batch(i)
    core_seconds = file.core_seconds() + time.process_time() - start
    mean, std = _mean_and_std(values, file.batches)
    return Latents(values, mean, std, core_seconds)


def fingerprint(autoencoder: Autoencoder) -> str:
    """sha256 over an autoencoder's class, its config with the scale, and its weights."""
    config = {name: value for name, value in asdict(autoencoder.config).items() if name != "latents_of"}
    architecture = json.dumps([type(autoencoder).__name__, config])
    weights = checksum({name: tensor.detach().cpu() for name, tensor in autoencoder.state_dict().items()})
    return hashlib.sha256((architecture + weights).encode()).hexdigest()


def latent_space(autoencoder: Autoencoder) -> str:
    """Identify an autoencoder's latent space by a fingerprint: its own, or that of its teacher if it was distilled.

    Autoencoders with the same latent space can decode each other's latents.
    """
    return getattr(autoencoder.config, "latents_of", "") or fingerprint(autoencoder)


def _digest(faces: Faces) -> str:
    """sha256 of the pixels alone, not of labels, names or source."""
    digest = hashlib.sha256()
    for start in range(0, len(faces), 1000):  # in pieces: large ones are read from disk
        digest.update(np.ascontiguousarray(faces.images[start : start + 1000]).data)
    return digest.hexdigest()


def _mean_and_std(values: np.ndarray, batches: list[slice]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (C,), accumulated in float64 batch by batch."""
    sums = torch.zeros(2, values.shape[2], dtype=torch.float64)
    for part in batches:
        x = torch.from_numpy(values[part].astype(np.float64))
        sums += torch.stack([x.sum((0, 1, 3, 4)), x.square().sum((0, 1, 3, 4))])
    mean, mean_square = sums / (values.size / values.shape[2])
    return mean.float(), (mean_square - mean**2).clamp(min=1e-12).sqrt().float()


@torch.no_grad()
def _encode_images(autoencoder: Autoencoder, faces: Faces, part: slice) -> np.ndarray:
    """Encode some of the images and their mirror images: float16 (B, 2, C, h, w)."""
    images = faces.tensor(part, next(autoencoder.parameters()).device)
    both = [
        autoencoder.to_latents(x.contiguous(memory_format=torch.channels_last)).float().cpu()
        for x in (images, images.flip(-1))
    ]
    values = torch.stack(both, dim=1)
    if not values.abs().max() < torch.finfo(torch.half).max:
        raise ValueError(
            f"the latents of images {part.start} to {part.stop - 1} are not finite or overflow float16: "
            "is the autoencoder run in half precision? Some (sdxl-vae) need float32"
        )
    return values.half().numpy()


class _LatentFile:
    """The file of latents and its journal: reads, checks and writes batches."""

    def __init__(self, path: Path, recipe: dict):
        self.path = path
        self.journal = path.with_suffix(".jsonl")
        self.recipe = recipe
        self.shape = tuple(recipe["shape"])
        count = self.shape[0]
        size = recipe["batch"]
        self.batches = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        self.row = int(np.prod(self.shape[1:])) * np.dtype(np.float16).itemsize  # bytes per image

    def missing(self, warn: bool = False) -> list[int]:
        """Indices of the batches that the journal lacks, or whose bytes do not match the checksum there.

        `warn` about the latter.
        """
        entries = self._entries()
        intact = [i for i, entry in entries.items() if _batch_checksum(self._bytes(i), entry) == entry["sha256"]]
        if warn and len(intact) < len(entries):
            warnings.warn(
                f"{self.path} is damaged in {len(entries) - len(intact)} of {len(self.batches)} batches; they "
                "are encoded again",
                stacklevel=3,
            )
        return sorted(set(range(len(self.batches))) - set(intact))

    def read_batch(self, i: int) -> np.ndarray:
        """float16 (B, 2, C, h, w)."""
        return np.frombuffer(self._bytes(i), np.float16).reshape(-1, *self.shape[1:])

    def core_seconds(self) -> float:
        """Processor time that encoding the batches in the journal took."""
        return sum(entry["core_seconds"] for entry in self._entries().values())

    @contextmanager
    def open_for_writing(self) -> Iterator[None]:
        """Lock the file and prepare its journal. A second process waits here, then reads the first one's latents.

        Raises:
            OSError: if the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            lines = [{"recipe": self.recipe}, *self._entries().values()]  # without a line that a kill left incomplete
            temporary = self.journal.with_suffix(f".{secrets.token_hex(4)}")
            try:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
                os.replace(temporary, self.journal)
            finally:
                temporary.unlink(missing_ok=True)
            self.path.touch()
            yield

    def write_batch(self, i: int, encode_batch: Callable[[int], np.ndarray]) -> None:
        """Encode batch i, write it, and enter it in the journal. Raises OSError, e.g. on a full disk."""
        start = time.process_time()
        values = encode_batch(i)
        entry: dict[str, Any] = {"batch": i, "core_seconds": round(time.process_time() - start, 3)}
        entry["sha256"] = _batch_checksum(values.tobytes(), entry)
        with open(self.path, "r+b") as file:
            file.seek(self.batches[i].start * self.row)
            file.write(values.tobytes())
        with open(self.journal, "a") as journal:
            journal.write(json.dumps(entry) + "\n")

    def _bytes(self, i: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.batches[i].start * self.row)
                return file.read((self.batches[i].stop - self.batches[i].start) * self.row)
        except FileNotFoundError:
            return b""

    def _entries(self) -> dict[int, dict]:
        """The journal: batch index -> its line. An incomplete last line and another recipe's journal are ignored."""
        entries: dict[int, dict] = {}
        lines = self.journal.read_text(errors="replace").splitlines() if self.journal.exists() else []
        try:
            if not lines or json.loads(lines[0]).get("recipe") != self.recipe:
                return {}
            for line in lines[1:]:
                entry = json.loads(line)
                if entry["batch"] in range(len(self.batches)):
                    entries[entry["batch"]] = {name: entry[name] for name in ("batch", "sha256", "core_seconds")}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return entries


def _batch_checksum(values: bytes, entry: Mapping) -> str:
    """sha256 over the bytes of a batch, its index and its processor time."""
    return hashlib.sha256(values + json.dumps([entry["batch"], entry["core_seconds"]]).encode()).hexdigest()


def _progress_bar(batches: list[int], progress: bool) -> Iterable[int]:
    from tqdm.auto import tqdm

    return tqdm(batches, desc="encoding images", unit="batch", disable=not (progress and batches), leave=False)
