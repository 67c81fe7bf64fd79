"""Files that are cut short or have a flipped bit, caches built twice at once, folders that cannot be written."""

import hashlib
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.faults.training import Outcome
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import cache_latents
from helpers.course import repository_root
from helpers.data import load_faces
from helpers.data.faces import Faces
from helpers.training.checkpoint import load_checkpoint, previous, save_checkpoint
from helpers.weights import METADATA_CHECKSUM, pretrained, read_tensors, save_weights

Damage = Callable[[Path, random.Random], None]


def truncate(path: Path, chance: random.Random) -> None:
    """Cut a file anywhere."""
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def flip(path: Path, chance: random.Random) -> None:
    """Flip one bit of a file; in half of the tries among its first bytes, which describe the rest."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(min(len(data), 3000) if chance.random() < 0.5 else len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def damaged(what: str, path: Path, intact: Callable[[], bool], tries: int, lost: str, seed: int = 0) -> Outcome:
    """Damage a file several times, and count how often that was noticed.

    Args:
        path: of a good file, which is put back after every try.
        intact: reads what was damaged, and says whether it got just what was there before; a ValueError that names
            the file is as good an answer.
    """
    good = 0
    chance = random.Random(seed)
    data = path.read_bytes()
    for attempt in range(tries):
        (truncate, flip)[attempt % 2](path, chance)
        try:
            good += intact()
        except ValueError as error:
            good += path.name in str(error)
        path.write_bytes(data)
    return Outcome(f"{what} cut short or with a flipped bit", tries, good, lost)


def all_damaged(folder: Path, tries: int) -> list[Outcome]:
    """Damage every sort of file that the course writes and reads back."""
    return [
        _weights(folder, tries),
        _published(folder, tries),
        _checkpoint(folder, tries),
        *_images(folder, tries),
        *_latents(folder, tries),
    ]


def _same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _weights(folder: Path, tries: int) -> Outcome:
    path = folder / "mine.safetensors"
    save_weights(nn.Linear(20, 30), path, {"command": "python -m here", "model": '{"width": 20, "heads": 4}'})
    return _read_back(path, tries)


def _published(folder: Path, tries: int) -> Outcome:
    """A checkpoint of torch.save, as others publish it, is damaged."""
    path = folder / "theirs.pth"
    expected = {"a": torch.randn(20, 30), "b": torch.arange(9)}
    torch.save(expected, path)
    return damaged(
        "a published .pth", path, lambda: _same(pretrained.read_checkpoint(path), expected), tries, "nothing: refused"
    )


def _read_back(path: Path, tries: int) -> Outcome:
    """Read weights while they are damaged."""
    tensors, metadata = read_tensors(path)

    def intact() -> bool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                new_tensors, new_metadata = read_tensors(path)
            except ValueError as error:
                return path.name in str(error)
        warned = any("taken as they are" in str(warning.message) for warning in caught)
        lost_items = metadata.items() - new_metadata.items()
        only_checksum = {(METADATA_CHECKSUM, metadata.get(METADATA_CHECKSUM))}
        return _same(new_tensors, tensors) and (new_metadata == metadata or (warned and lost_items <= only_checksum))

    return damaged("weights", path, intact, tries, "nothing: refused, or the same with a warning")


def _checkpoint(folder: Path, tries: int) -> Outcome:
    """The newest of two is damaged: the one before it is taken, with a warning."""
    path = folder / "checkpoint.safetensors"
    model = nn.Linear(20, 30)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (1, 2):
        model(torch.ones(1, 20)).sum().backward()
        optimizer.step()
        save_checkpoint(path, step, model, model, optimizer, {"settings": step})
    expected = {step: read_tensors(file)[0]["model.weight"] for step, file in ((1, previous(path)), (2, path))}

    def intact() -> bool:
        fresh = nn.Linear(20, 30)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            checkpoint = load_checkpoint(path, fresh, nn.Linear(20, 30), torch.optim.AdamW(fresh.parameters()))
        if checkpoint is None:
            return False
        whole = torch.equal(fresh.weight, expected[checkpoint.step]) and checkpoint.description == {
            "settings": checkpoint.step
        }
        return whole and (checkpoint.step == 2 or any("damaged" in str(warning.message) for warning in caught))

    return damaged("checkpoint", path, intact, tries, "back to the checkpoint before it")


def _rebuilt(make: Callable[[], bool]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _images(folder: Path, tries: int) -> list[Outcome]:
    faces = load_faces(size=16, limit=40, cache_dir=folder, progress=False)
    expected = np.array(faces.images)
    skipped = faces.skipped

    def reload() -> bool:
        reloaded = load_faces(size=16, limit=40, cache_dir=folder, progress=False)
        return np.array_equal(reloaded.images, expected) and reloaded.skipped == skipped

    path = next(folder.glob("*.npy"))
    files = {"cached images": path, "their description": path.with_suffix(".json")}
    return [damaged(what, file, lambda: _rebuilt(reload), tries, "built anew") for what, file in files.items()]


def _autoencoder() -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, latent_channels=4, patch=4)).eval()


def _latents(folder: Path, tries: int) -> list[Outcome]:
    autoencoder = _autoencoder()
    faces = load_faces(size=16, limit=40, cache_dir=folder, progress=False)
    latents = cache_latents(autoencoder, faces, cache_dir=folder, progress=False)
    expected = np.array(latents.values)
    mean = latents.mean

    def reload() -> bool:
        reloaded = cache_latents(autoencoder, faces, cache_dir=folder, progress=False)
        return np.array_equal(reloaded.values, expected) and torch.equal(reloaded.mean, mean)

    path = next(folder.glob("latents-*.bin"))
    files = {"cached latents": path, "their journal": path.with_suffix(".jsonl")}
    return [damaged(what, file, lambda: _rebuilt(reload), tries, "encoded anew") for what, file in files.items()]


# --- two at once, and folders that cannot be written ----------------------------------------------------------------


def built_at_once(tries: int, processes: int = 3) -> Outcome:
    """Several processes build the cache of the same images and latents at the same moment."""
    context = multiprocessing.get_context("forkserver")
    good = 0
    context.set_forkserver_preload(["accelerate", "torch._dynamo", "benchmarks.faults.training", __name__])
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as folder:
            begin = context.Barrier(processes)
            results = context.SimpleQueue()
            builders = [context.Process(target=_build, args=(folder, begin, results)) for _ in range(processes)]
            for builder in builders:
                builder.start()
            for builder in builders:
                builder.join()
            digests = [results.get() for builder in builders if builder.exitcode == 0]
            litter = [path.name for path in Path(folder).iterdir() if path.suffix == ".part"]
            good += len(digests) == processes and len(set(digests)) == 1 and not litter
    return Outcome(f"{processes} processes build one cache at once", tries, good, "nothing: one cache for all")


def _build(folder: str, begin, results) -> None:
    torch.set_num_threads(1)
    begin.wait(60)
    faces = load_faces(size=16, limit=40, cache_dir=folder, progress=False)
    latents = cache_latents(_autoencoder(), faces, cache_dir=folder, progress=False)
    results.put((_digest(faces.images), _digest(latents.values)))


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def full_disk(folder: Path, tries: int) -> Outcome:
    """A disk without room for a cache: images and latents stay in memory, and a warning says so."""
    context = multiprocessing.get_context("forkserver")
    good = 0
    whole = load_faces(size=16, limit=40, cache_dir=folder / "whole", progress=False)
    chance = random.Random(0)
    size = next((folder / "whole").glob("*.npy")).stat().st_size
    latents = cache_latents(_autoencoder(), whole, cache_dir=folder, progress=False)
    digests = _digest(whole.images), _digest(latents.values)
    for attempt in range(tries):
        cache = folder / f"full{attempt}"
        most = chance.randrange(size)
        process = context.Process(target=_starved, args=(cache, most, digests))
        process.start()
        process.join()
        good += process.exitcode == 0
    return Outcome("no room for a cache (a limit on file sizes as a stand-in)", tries, good, "nothing: kept in memory")


def _starved(cache: Path, most_bytes: int, digests: tuple[str, str]) -> None:
    """Exit with 0 where images and latents are right, a warning was issued, and no half-written file is left."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        faces: Faces = load_faces(size=16, limit=40, cache_dir=cache, progress=False)
        litter = list(cache.iterdir())
        latents = cache_latents(_autoencoder(), faces, cache_dir=cache, progress=False)
    warned = any("images stay in memory" in str(warning.message) for warning in caught)
    litter += [path for path in cache.iterdir() if path.suffix not in (".bin", ".jsonl", ".lock")]
    sys.exit(not ((_digest(faces.images), _digest(latents.values)) == digests and warned and not litter))


READ_ONLY = """
import sys, warnings
warnings.simplefilter("error")
from helpers.course import repository_root
try:
    (repository_root() / "written").touch()
    sys.exit("this checkout can be written")
except OSError:
    pass
from helpers.tiny_sd.train import main
sys.exit(main("--size 16 --limit 60 --widths 8 16 --batch-size 8 --steps 4".split()))
"""


def read_only_checkout(home: Path) -> Outcome | None:
    """Train from a checkout that cannot be written: all files go to COURSE_HOME. None: cannot be tried here.

    The checkout is mounted anew, read-only, for this one process.
    """
    root = repository_root()
    shell = f'mount --bind "{root}" "{root}" && mount -o remount,ro,bind "{root}" && cd "{root}" && exec "$@"'
    apart = ["unshare", "--mount", "--map-root-user", "sh", "-c", shell, "sh"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        return None
    process = subprocess.run(
        [*apart, sys.executable, "-c", READ_ONLY],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COURSE_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    good = process.returncode == 0 and any((home / "runs").glob("*/weights.safetensors"))
    if not good:
        print(process.stdout[-500:], process.stderr[-2000:], file=sys.stderr)
    return Outcome("checkout that cannot be written", 1, int(good), "nothing: all is in COURSE_HOME")
