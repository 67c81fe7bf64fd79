"""Pictures become latents once, before a training: an autoencoder costs more than a small U-Net does.

Latents lie in one file with a journal beside it, a line and a checksum per batch. Reading, going on after a kill and
mending are one walk: what the journal vouches for is kept, the rest is encoded. Alphabet: N pictures, B batch,
C latent channels, h w their height and width.
"""

import hashlib
import json
import os
import secrets
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from helpers.course import course_home
from helpers.data import Faces
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
    shape, per_batch = (len(faces), 2, *one.shape[1:]), max(1, PIXELS // faces.size**2)
    recipe = {"autoencoder": fingerprint(autoencoder), "pictures": _digest(faces),
              "shape": list(shape), "batch": per_batch, "version": 1}  # fmt: skip
    folder = Path(cache_dir).expanduser() if cache_dir is not None else course_home() / "cache"
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"latents-{faces.source or 'pictures'}-{faces.size}-{name}.bin"
    wanted = [slice(start, min(start + per_batch, len(faces))) for start in range(0, len(faces), per_batch)]
    try:
        moments, spent = _Moments(shape[2]), 0.0
        for values, seconds in _through_file(path, recipe, wanted, shape, autoencoder, faces, progress):
            moments.add(values)
            spent += seconds
        values = np.memmap(path, np.float16, "r", shape=shape)
    except OSError as trouble:
        warnings.warn(f"latents cannot be kept in {path} ({trouble.strerror or trouble}); they stay in memory and will "
                      "be made again next time. Set COURSE_HOME or cache_dir to a folder that can be written and has "
                      "room", stacklevel=2)  # fmt: skip
        moments, pieces, start = _Moments(shape[2]), [], time.process_time()
        for part in _bar(wanted, len(wanted), progress):
            pieces.append(_encoded(autoencoder, faces, part))
            moments.add(pieces[-1])
        values, spent = np.concatenate(pieces), time.process_time() - start
    return Latents(values, *moments.mean_and_std(), spent)


def fingerprint(autoencoder: nn.Module) -> str:
    """What tells one autoencoder from another: sha256 over its sizes, with its scale, and its weights."""
    told = json.dumps([type(autoencoder).__name__, asdict(autoencoder.config)])
    weights = checksum({name: tensor.detach().cpu() for name, tensor in autoencoder.state_dict().items()})
    return hashlib.sha256((told + weights).encode()).hexdigest()


def _digest(faces: Faces) -> str:
    """sha256 of the pictures, whatever they are called and wherever they come from."""
    digest = hashlib.sha256()
    for start in range(0, len(faces), 1000):  # in pieces: large ones are read from disk
        digest.update(np.ascontiguousarray(faces.images[start : start + 1000]).data)
    return digest.hexdigest()


class _Moments:
    """Mean and variance of each channel, summed in float64 batch by batch."""

    def __init__(self, channels: int):
        self.count, self.sums = 0, torch.zeros(2, channels, dtype=torch.float64)

    def add(self, values: np.ndarray) -> None:
        """(B, 2, C, h, w)"""
        x = torch.from_numpy(values.astype(np.float64))
        self.count += x[:, :, 0].numel()
        self.sums += torch.stack([x.sum((0, 1, 3, 4)), x.square().sum((0, 1, 3, 4))])

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        mean, square = self.sums / max(self.count, 1)
        return mean.float(), (square - mean**2).clamp(min=1e-12).sqrt().float()


@torch.no_grad()
def _encoded(autoencoder: nn.Module, faces: Faces, part: slice) -> np.ndarray:
    """float16 (B, 2, C, h, w)"""
    pictures = faces.tensor(part, next(autoencoder.parameters()).device)
    both = [autoencoder.to_latents(x.contiguous(memory_format=torch.channels_last)).float().cpu()
            for x in (pictures, pictures.flip(-1))]  # fmt: skip
    values = torch.stack(both, dim=1)
    if not values.abs().max() < torch.finfo(torch.half).max:
        raise ValueError(f"the latents of pictures {part.start} to {part.stop - 1} are not finite or overflow float16: "
                         "is the autoencoder run in half precision? Some (sdxl-vae) need float32")  # fmt: skip
    return values.half().numpy()


def _through_file(path: Path, recipe: dict, wanted: list[slice], shape: tuple[int, ...], autoencoder: nn.Module,
                  faces: Faces, progress: bool) -> Iterator[tuple[np.ndarray, float]]:  # fmt: skip
    """Every batch and what it cost: read where the journal vouches for it, else encoded, written and entered there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    journal, row = path.with_suffix(".jsonl"), int(np.prod(shape[1:])) * 2  # bytes of a picture
    known, damaged = _entries(journal, recipe), 0
    path.touch()
    fresh = journal.with_suffix(f".{secrets.token_hex(4)}")  # without a line that a kill tore
    lines = [{"recipe": recipe}, *known.values()]
    fresh.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(fresh, journal)
    with open(path, "r+b") as file, open(journal, "a") as entries:
        missing = []
        for i, part in enumerate(wanted):  # what is there, first: a bar over the rest alone tells the time left
            file.seek(part.start * row)
            data = file.read((part.stop - part.start) * row) if i in known else b""
            if i in known and hashlib.sha256(data).hexdigest() == known[i]["sha256"]:
                yield np.frombuffer(data, np.float16).reshape(-1, *shape[1:]), known[i]["core_seconds"]
            else:
                damaged += i in known
                missing.append(i)
        if damaged:
            warnings.warn(f"{path} is damaged in {damaged} of {len(wanted)} batches; they are encoded anew",
                          stacklevel=3)  # fmt: skip
        for i in _bar(missing, len(missing), progress):
            start = time.process_time()
            values = _encoded(autoencoder, faces, wanted[i])
            entry = {"batch": i, "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
                     "core_seconds": round(time.process_time() - start, 3)}  # fmt: skip
            file.seek(wanted[i].start * row)
            file.write(values.tobytes())
            file.flush()
            entries.write(json.dumps(entry) + "\n")
            entries.flush()
            yield values, entry["core_seconds"]


def _entries(journal: Path, recipe: dict) -> dict[int, dict]:
    """batch -> its line; one torn by a kill counts for nothing, and neither does another recipe's journal."""
    found: dict[int, dict] = {}
    lines = journal.read_text(errors="replace").splitlines() if journal.exists() else []
    try:
        if not lines or json.loads(lines[0]).get("recipe") != recipe:
            return {}
        for line in lines[1:]:
            entry = json.loads(line)
            found[entry["batch"]] = {name: entry[name] for name in ("batch", "sha256", "core_seconds")}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return found


def _bar(parts: list, count: int, progress: bool):
    from tqdm.auto import tqdm

    return tqdm(parts, total=count, desc="encoding pictures", unit="batch", leave=False,
                disable=not progress or not count)
