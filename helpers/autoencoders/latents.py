"""Pictures become latents once, before a training: an autoencoder costs more than a small U-Net does.

Latents lie in one file with a journal beside it, a line and a checksum per batch. Reading, going on after a kill and
mending are one walk: what the journal vouches for is kept, the rest is encoded. Alphabet: N pictures, B batch,
C latent channels, h w their height and width.
"""

import hashlib
import json
import math
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from helpers.course import course_home
from helpers.data import Faces
from helpers.scoring.reconstruction import psnr
from helpers.training.precision import computes_bf16
from helpers.weights import checksum

PIXELS = 2**18  # encoded at once: 64 pictures of 64x64, one of 512x512


@dataclass(frozen=True)
class Latents:
    """The latents of some pictures and of their mirror images, and how each channel is distributed."""

    values: np.ndarray  # float16 (N, 2, C, h, w), memory-mapped; [:, 1] are those of the mirrored pictures
    mean: Tensor  # (C,)
    std: Tensor  # (C,)
    core_seconds: float  # of processor time that encoding took, whenever that was: a training's figures should tell it

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, chosen: Tensor, mirrored: Tensor) -> Tensor:
        """The latents of some pictures, some of them mirrored, float32 (B, C, h, w), each channel normalised.

        Args:
            chosen: int64 (B,) positions.
            mirrored: bool (B,).
        """
        picked = self.values[chosen.numpy(), mirrored.long().numpy()]
        return normalised(torch.from_numpy(picked).float(), self.mean, self.std)


def normalised(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, C, h, w), each channel brought to mean 0 and unit variance."""
    return (latents - mean[:, None, None].to(latents)) / std[:, None, None].to(latents)


def encode_once(
    autoencoder: nn.Module, faces: Faces, *, cache_dir: str | Path | None = None, progress: bool = True
) -> Latents:
    """The latents of all pictures: from the cache as far as they are there and whole, encoded otherwise.

    Args:
        autoencoder: has a `config` and `to_latents`; nothing random is asked of it.
        faces: pictures.
        cache_dir: None is `course_home() / "cache"`. Where it cannot be written, the latents stay in memory.
        progress: a bar while pictures are encoded.

    Raises:
        ValueError: for pictures whose sides the autoencoder cannot take, and for latents that overflow float16.
    """
    with torch.no_grad():
        one = autoencoder.to_latents(faces.tensor(slice(0, 1), next(autoencoder.parameters()).device))
    shape = (len(faces), 2, *one.shape[1:])
    per_batch = max(1, PIXELS // faces.size**2)
    recipe = {
        "autoencoder": fingerprint(autoencoder),
        "pictures": _digest(faces),
        "shape": list(shape),
        "batch": per_batch,
        "version": 3,
    }
    folder = Path(cache_dir).expanduser() if cache_dir is not None else course_home() / "cache"
    store = _store(folder, faces, recipe)
    bf16 = not store.journal.exists() and encodes_as_well_in_bf16(autoencoder, faces.tensor(slice(0, per_batch)))
    if bf16:
        store = _store(folder, faces, recipe | {"precision": "bf16"})

    def encoded(i: int) -> np.ndarray:
        with torch.autocast(next(autoencoder.parameters()).device.type, torch.bfloat16, enabled=bf16):
            return _encoded(autoencoder, faces, store.batches[i])

    if missing := store.missing():
        try:
            with store.writing():
                missing = store.missing(warn=True)  # another process may have been faster
                for i in _bar(missing, progress):
                    store.put(i, lambda i=i: encoded(i))
        except OSError as trouble:
            return _in_memory(store, encoded, trouble, progress)
    values = np.memmap(store.path, np.float16, "r", shape=shape)
    return Latents(values, *_mean_and_std(values, store.batches), store.core_seconds())


def _store(folder: Path, faces: Faces, recipe: dict) -> "_Store":
    """The file of these latents; its name follows from all that decides its content."""
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return _Store(folder / f"latents-{faces.source or 'pictures'}-{faces.size}-{name}.bin", recipe)


@torch.no_grad()
def encodes_as_well_in_bf16(autoencoder: nn.Module, images: Tensor) -> bool:
    """Whether bf16 encodes these images faster, and the reconstructions keep their PSNR within 0.02 dB.

    Args:
        images: (B, 3, H, W) in [-1, 1], one batch.
    """
    device = next(autoencoder.parameters()).device
    if not computes_bf16(device.type):
        return False
    images = images.to(device)
    seconds = {}
    quality = {}
    for bf16 in (False, True, False, True):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            latents = autoencoder.to_latents(images).float()
        seconds[bf16] = min(time.perf_counter() - start, seconds.get(bf16, math.inf))
        if bf16 not in quality:
            quality[bf16] = psnr(images, autoencoder.to_pictures(latents))
    return seconds[True] < seconds[False] and abs(quality[True] - quality[False]) < 0.02


def _in_memory(store: "_Store", encoded: Callable[[int], np.ndarray], trouble: OSError, progress: bool) -> Latents:
    """What a folder that cannot be written leaves: the batches that are there, and the rest made for now."""
    warnings.warn(
        f"latents cannot be kept in {store.path} ({trouble.strerror or trouble}); they stay in memory and "
        "will be made again next time. Set COURSE_HOME or cache_dir to a folder that can be written and has "
        "room",
        stacklevel=3,
    )
    start = time.process_time()
    missing = set(store.missing())
    values = np.empty(store.shape, np.float16)
    for i in _bar(list(range(len(store.batches))), progress):
        values[store.batches[i]] = encoded(i) if i in missing else store.get(i)
    spent = store.core_seconds() + time.process_time() - start
    return Latents(values, *_mean_and_std(values, store.batches), spent)


def fingerprint(autoencoder: nn.Module) -> str:
    """What tells one autoencoder from another: sha256 over its sizes, with its scale, and its weights."""
    config = {name: value for name, value in asdict(autoencoder.config).items() if name != "latents_of"}
    told = json.dumps([type(autoencoder).__name__, config])
    weights = checksum({name: tensor.detach().cpu() for name, tensor in autoencoder.state_dict().items()})
    return hashlib.sha256((told + weights).encode()).hexdigest()


def latent_space(autoencoder: nn.Module) -> str:
    """The fingerprint of the autoencoder whose latents these are: its own, or that of the one it was distilled from.

    Autoencoders of one latent space can decode each other's latents.
    """
    return getattr(autoencoder.config, "latents_of", "") or fingerprint(autoencoder)


def _digest(faces: Faces) -> str:
    """sha256 of the pictures, whatever they are called and wherever they come from."""
    digest = hashlib.sha256()
    for start in range(0, len(faces), 1000):  # in pieces: large ones are read from disk
        digest.update(np.ascontiguousarray(faces.images[start : start + 1000]).data)
    return digest.hexdigest()


def _mean_and_std(values: np.ndarray, batches: list[slice]) -> tuple[Tensor, Tensor]:
    """(C,) each, summed in float64 batch by batch."""
    sums = torch.zeros(2, values.shape[2], dtype=torch.float64)
    for part in batches:
        x = torch.from_numpy(values[part].astype(np.float64))
        sums += torch.stack([x.sum((0, 1, 3, 4)), x.square().sum((0, 1, 3, 4))])
    mean, square = sums / (values.size / values.shape[2])
    return mean.float(), (square - mean**2).clamp(min=1e-12).sqrt().float()


@torch.no_grad()
def _encoded(autoencoder: nn.Module, faces: Faces, part: slice) -> np.ndarray:
    """float16 (B, 2, C, h, w)"""
    pictures = faces.tensor(part, next(autoencoder.parameters()).device)
    both = [
        autoencoder.to_latents(x.contiguous(memory_format=torch.channels_last)).float().cpu()
        for x in (pictures, pictures.flip(-1))
    ]
    values = torch.stack(both, dim=1)
    if not values.abs().max() < torch.finfo(torch.half).max:
        raise ValueError(
            f"the latents of pictures {part.start} to {part.stop - 1} are not finite or overflow float16: "
            "is the autoencoder run in half precision? Some (sdxl-vae) need float32"
        )
    return values.half().numpy()


class _Store:
    """The file and its journal: which batches are there and whole, and what is there."""

    def __init__(self, path: Path, recipe: dict):
        self.path = path
        self.journal = path.with_suffix(".jsonl")
        self.recipe = recipe
        self.shape = tuple(recipe["shape"])
        count = self.shape[0]
        size = recipe["batch"]
        self.batches = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        self.row = int(np.prod(self.shape[1:])) * np.dtype(np.float16).itemsize  # bytes of a picture

    def missing(self, warn: bool = False) -> list[int]:
        """The batches that must be encoded: never entered in the journal, or other than it says."""
        entries = self._entries()
        good = [i for i in entries if _seal(self._bytes(i), entries[i]) == entries[i]["sha256"]]
        if warn and len(good) < len(entries):
            warnings.warn(
                f"{self.path} is damaged in {len(entries) - len(good)} of {len(self.batches)} batches; they "
                "are encoded anew",
                stacklevel=3,
            )
        return sorted(set(range(len(self.batches))) - set(good))

    def get(self, i: int) -> np.ndarray:
        """float16 (B, 2, C, h, w)"""
        return np.frombuffer(self._bytes(i), np.float16).reshape(-1, *self.shape[1:])

    def core_seconds(self) -> float:
        return sum(entry["core_seconds"] for entry in self._entries().values())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Alone: a second process that wants the same latents waits, and finds them. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            lines = [{"recipe": self.recipe}, *self._entries().values()]  # without a line that a kill tore
            fresh = self.journal.with_suffix(f".{secrets.token_hex(4)}")
            try:
                fresh.write_text("".join(json.dumps(line) + "\n" for line in lines))
                os.replace(fresh, self.journal)
            finally:
                fresh.unlink(missing_ok=True)
            self.path.touch()
            yield

    def put(self, i: int, make: Callable[[], np.ndarray]) -> None:
        """Make a batch, write it, and enter it in the journal. Raises OSError, e.g. on a full disk."""
        start = time.process_time()
        values = make()
        entry = {"batch": i, "core_seconds": round(time.process_time() - start, 3)}
        entry["sha256"] = _seal(values.tobytes(), entry)
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
        """batch -> its line; one torn by a kill counts for nothing, and neither does another recipe's journal."""
        found: dict[int, dict] = {}
        lines = self.journal.read_text(errors="replace").splitlines() if self.journal.exists() else []
        try:
            if not lines or json.loads(lines[0]).get("recipe") != self.recipe:
                return {}
            for line in lines[1:]:
                entry = json.loads(line)
                if entry["batch"] in range(len(self.batches)):
                    found[entry["batch"]] = {name: entry[name] for name in ("batch", "sha256", "core_seconds")}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return found


def _seal(values: bytes, entry: Mapping) -> str:
    """The checksum of a batch and of what its line says of it."""
    return hashlib.sha256(values + json.dumps([entry["batch"], entry["core_seconds"]]).encode()).hexdigest()


def _bar(batches: list[int], progress: bool):
    from tqdm.auto import tqdm

    return tqdm(batches, desc="encoding pictures", unit="batch", disable=not (progress and batches), leave=False)
