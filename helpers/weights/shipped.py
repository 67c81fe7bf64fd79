"""Trained weights as small files that say where they come from: fp16 safetensors, checked when written and when read.

A file's metadata holds its training command, seed, time and scores, a checksum of the tensors, which is the name that
other files know it by, and one of the metadata itself: a flipped digit in a network's description would go unnoticed.
"""

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from helpers.course import repository_root

Config = TypeVar("Config")

METADATA_CHECKSUM = "sha256_metadata"  # the checksum of all other metadata
CHECKSUM_FILE = (
    "SHA256SUMS"  # beside shipped weights that are older than the seal: the checksum of each file (sha256sum -c)
)

# name of a file in 00_assets/weights -> the command that trains it
TRAINING_COMMANDS = {
    "scorer": "python -m helpers.scoring.attributes",
    "clip": "python -m helpers.text.train --export 00_assets/weights/clip.safetensors",
    "autoencoder": "python -m helpers.autoencoders.train --export 00_assets/weights/autoencoder.safetensors",
    "autoencoder_16": "python -m helpers.autoencoders.train --latent-channels 16 "
    "--export 00_assets/weights/autoencoder_16.safetensors",
    "vq": "python -m helpers.autoencoders.train_vq --export 00_assets/weights/vq.safetensors",
    "vq_prior": "python -m helpers.autoencoders.train_prior --export 00_assets/weights/vq_prior.safetensors",
    "sd3": "python -m helpers.sd3.train --export 00_assets/weights/sd3.safetensors",
    "sd1": "python -m helpers.sd1.train --export 00_assets/weights/sd1.safetensors",
    "general_autoencoder": "python -m helpers.autoencoders.train --source patterns --patch 4 --latent-channels 8 "
    "--steps 6000 --batch-size 16 --learning-rate 0.003 --precision bf16 "
    "--export 00_assets/weights/general_autoencoder.safetensors",
    "faces_autoencoder": "python -m helpers.autoencoders.train --patch 4 "
    "--steps 6000 --batch-size 16 --learning-rate 0.003 --precision bf16 "
    "--export 00_assets/weights/faces_autoencoder.safetensors",
    "distilled_autoencoder": "python -m helpers.autoencoders.distill --teacher taef2 --steps 6000 "
    "--schedule inverse-sqrt --ema 0.9995 "
    "--export 00_assets/weights/distilled_autoencoder.safetensors",
    "tiny_sd_pixels": "python -m helpers.tiny_sd.train --export 00_assets/weights/tiny_sd_pixels.safetensors",
    "tiny_sd_pretrained": "python -m helpers.tiny_sd.train --method pretrained --steps 16000 "
    "--export 00_assets/weights/tiny_sd_pretrained.safetensors",
    "tiny_sd_own": "python -m helpers.tiny_sd.train --method own --autoencoder faces_autoencoder --steps 16000 "
    "--export 00_assets/weights/tiny_sd_own.safetensors",
    # the real animals: the photographs are in ANIMAL_FACES_DIR, TAEF2's two files in the folder taef2
    "tiny_sd_animals_pixels": "python -m helpers.tiny_sd.train --source animal-faces "
    "--export 00_assets/weights/tiny_sd_animals_pixels.safetensors",
    "tiny_sd_animals": "python -m helpers.tiny_sd.train --method pretrained --autoencoder taef2 --source animal-faces "
    "--export 00_assets/weights/tiny_sd_animals.safetensors",
    "tiny_sd_animals_128": "python -m helpers.tiny_sd.train --method pretrained --autoencoder taef2 "
    "--source animal-faces --size 128 "
    "--export 00_assets/weights/tiny_sd_animals_128.safetensors",
    "tiny_sd_animals_own": "python -m helpers.tiny_sd.train --method own --source animal-faces "
    "--export 00_assets/weights/tiny_sd_animals_own.safetensors",
    "masks": "python -m helpers.vlm.train_masks --export 00_assets/weights/masks.safetensors",
    "paligemma": "python -m helpers.vlm.train --export 00_assets/weights/paligemma.safetensors",
}


def weights_path(name: str) -> Path:
    """Where the course ships weights of this name, whether or not they are there."""
    return repository_root() / "00_assets" / "weights" / f"{name}.safetensors"


def save_weights(module_or_state: nn.Module | Mapping[str, Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """Write weights as fp16 (integers as they are); a reader sees the old file or the whole new one.

    Args:
        module_or_state: a module, or its state_dict.
        path: of the file; its folder is made when needed.
        metadata: what a reader should know; "sha256" is added.

    Raises:
        ValueError: for weights that are not finite or overflow fp16 (it names them).
        TypeError: for metadata that is not text.
    """
    state = module_or_state.state_dict() if isinstance(module_or_state, nn.Module) else module_or_state
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must be text, got {key!r}: {value!r}; json.dumps() makes text of anything")
    tensors = {name: _packed(tensor) for name, tensor in state.items()}
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise ValueError(f"these weights are infinite, NaN or above {torch.finfo(torch.half).max:.0f} (fp16): {wrong}")
    write_tensors(path, tensors, metadata)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU tensors as they are, checksummed and atomically; training checkpoints are such files too."""
    told = {name: text for name, text in metadata.items() if name != METADATA_CHECKSUM} | {"sha256": checksum(tensors)}
    data = save(dict(tensors), {**told, METADATA_CHECKSUM: _metadata_checksum(told)})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as trouble:
        if trouble.errno and not trouble.filename:
            trouble.filename = str(path)  # a full disk does not say which file it had no room for
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _packed(tensor: Tensor) -> Tensor:
    dtype = torch.half if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _metadata_checksum(metadata: Mapping[str, str]) -> str:
    told = {name: text for name, text in metadata.items() if name != METADATA_CHECKSUM}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def load_weights(module: nn.Module, name_or_path: str | Path, strict: bool = True) -> dict[str, str]:
    """Load a file of `save_weights` into a module, in the module's own dtype and on its device.

    Args:
        module: is left as it was if anything is wrong.
        name_or_path: a file, or a name in 00_assets/weights such as "scorer".
        strict: when False, weights that the file lacks or the module does not know are passed over.

    Returns:
        the file's metadata.

    Raises:
        FileNotFoundError: says what was looked for and which command trains it.
        ValueError: for a damaged file, or one that does not fit the module (it names the weights).
    """
    path = _find(name_or_path)
    tensors, metadata = read_tensors(path)
    state = module.state_dict()
    faults = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(state[name].shape)} in the module"
        for name in state.keys() & tensors.keys()
        if state[name].shape != tensors[name].shape
    ]
    if strict:
        faults += [f"{name}: missing from the file" for name in state.keys() - tensors.keys()]
        faults += [f"{name}: unknown to the module" for name in tensors.keys() - state.keys()]
    if faults:
        more = f" ... and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"{path} does not fit {type(module).__name__}: {'; '.join(sorted(faults)[:8])}{more}")
    module.load_state_dict(tensors, strict=False)
    return metadata


def read_metadata(name_or_path: str | Path) -> dict[str, str]:
    """What a weights file says of itself: its command, seed, scores, and the sizes to build the module with."""
    return read_tensors(_find(name_or_path))[1]


def read_config(name_or_path: str | Path) -> dict[str, Any]:
    """The sizes that a file of `save_with_config` builds its module with; lists come back as tuples.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`, and for a file that describes no module.
    """
    metadata = read_metadata(name_or_path)
    if "model" not in metadata:
        raise ValueError(
            f"the weights {name_or_path} do not say what they belong to: they were written by "
            f"{metadata.get('command', 'another program')}"
        )
    return _with_tuples(json.loads(metadata["model"]))


def load_config(config: type[Config], name_or_path: str | Path) -> Config:
    """The configuration that a file of `save_with_config` tells.

    Raises:
        FileNotFoundError, ValueError: as `read_config`, and for the weights of another kind of network.
    """
    told = read_config(name_or_path)
    try:
        return config(**told)
    except TypeError as error:
        raise ValueError(
            f"the weights {name_or_path} belong to another network: they tell {', '.join(told)}, which "
            f"is no {config.__name__}"
        ) from error


def save_with_config(module: nn.Module, config: Mapping[str, Any], path: str | Path, metadata: dict[str, str]) -> None:
    """`save_weights` with a description of the module, plain JSON values, from which it can be built again."""
    save_weights(module, path, {"model": json.dumps(config), **metadata})


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _find(name_or_path: str | Path) -> Path:
    name = str(name_or_path)
    is_name = isinstance(name_or_path, str) and Path(name).name == name and not name.endswith(".safetensors")
    tried = [Path(name_or_path).expanduser()] + ([weights_path(name)] if is_name else [])
    for path in tried:
        if path.is_file():
            return path
    command = TRAINING_COMMANDS.get(Path(name).stem)
    advice = (
        f"Train them with: {command}" if command else f"The course knows weights for: {', '.join(TRAINING_COMMANDS)}"
    )
    raise FileNotFoundError(f"no weights {name!r}; looked for {' and '.join(map(str, tried))}. {advice}")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of `write_tensors`; a warning where nothing vouches for its metadata.

    Raises:
        ValueError: for a damaged file.
    """
    advice = "restore it (git checkout) or train it again"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} ({path.stat().st_size} bytes) is damaged, {advice}: {error}") from error
    if "sha256" not in metadata:
        raise ValueError(f"{path} carries no checksum: it was not written by helpers.weights")
    if checksum(tensors) != metadata["sha256"]:
        raise ValueError(f"{path} is damaged, {advice}: its tensors do not have the checksum that it promises")
    metadata_ok = (
        metadata[METADATA_CHECKSUM] == _metadata_checksum(metadata)
        if METADATA_CHECKSUM in metadata
        else _matches_checksum_file(path)
    )
    if metadata_ok is None:
        warnings.warn(
            f"{path} was written by an older version of the course, without a checksum of its metadata: they "
            "are taken as they are",
            stacklevel=2,
        )
    elif not metadata_ok:
        raise ValueError(f"{path} is damaged, {advice}: what it says of itself does not have the checksum it promises")
    return tensors, metadata


def _matches_checksum_file(path: Path) -> bool | None:
    """Whether the list beside a file knows these very bytes; None: it does not know the file."""
    try:
        listed = (path.parent / CHECKSUM_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in listed)}
    return sums[path.name] == hashlib.sha256(path.read_bytes()).hexdigest() if path.name in sums else None
