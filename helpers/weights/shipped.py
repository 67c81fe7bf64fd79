"""Read and write the course's own weights: fp16 safetensors with metadata and checksums.

A file's metadata holds its training command, seed, time and scores, and two checksums. "sha256" is that of the tensors;
other files refer to the weights by it. The other is that of the metadata themselves: without it, a flipped digit in a
network's configuration would go unnoticed.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from helpers.course import repository_root
from helpers.files import atomic_write
from helpers.weights.names import current_config, current_tensors

Config = TypeVar("Config")

METADATA_CHECKSUM = "sha256_metadata"  # key of the checksum of all other metadata
HELP = "restore it (git checkout) or train it again"  # for a damaged file
MAX_LISTED = 8  # weights that an error message names

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
    "distilled_autoencoder": "python -m helpers.autoencoders.distill --steps 7500 --schedule inverse-sqrt --ema 0.9995 "
    "--export 00_assets/weights/distilled_autoencoder.safetensors",
    "animals_autoencoder": "python -m helpers.autoencoders.train --source animal-faces --patch 4 --kl 0.01 "
    "--equivariance 0.5 --perceptual 0.1 --perceptual-encoder distilled_autoencoder "
    "--adversarial 0.2 --discriminator-start 2000 --steps 3500 --batch-size 16 --learning-rate 0.003 --precision bf16 "
    "--export 00_assets/weights/animals_autoencoder.safetensors",
    "tiny_sd_pixels": "python -m helpers.tiny_sd.train --export 00_assets/weights/tiny_sd_pixels.safetensors",
    "tiny_sd_pretrained": "python -m helpers.tiny_sd.train --method pretrained --steps 16000 "
    "--export 00_assets/weights/tiny_sd_pretrained.safetensors",
    "tiny_sd_own": "python -m helpers.tiny_sd.train --method own --autoencoder faces_autoencoder --steps 16000 "
    "--export 00_assets/weights/tiny_sd_own.safetensors",
    # real animals: the photographs are in ANIMAL_FACES_DIR, TAEF2's two files in the folder taef2
    "tiny_sd_animals_pixels": "python -m helpers.tiny_sd.train --source animal-faces --shift 3.0 --widths 128 192 "
    "--patch 8 --dropout 0.05 --perceptual 0.1 --perceptual-encoder distilled_autoencoder --perceptual-until 0.5 "
    "--steps 14000 --learning-rate 0.001 --schedule inverse-sqrt --ema 0.9999 --precision bf16 "
    "--export 00_assets/weights/tiny_sd_animals_pixels.safetensors",
    "tiny_sd_animals": "python -m helpers.tiny_sd.train --method pretrained --source animal-faces --autoencoder taef2 "
    "--widths 128 192 --dropout 0.1 --steps 10000 --learning-rate 0.001 --schedule inverse-sqrt --ema 0.9999 "
    "--export 00_assets/weights/tiny_sd_animals.safetensors",
    "tiny_sd_animals_128": "python -m helpers.tiny_sd.train --method pretrained --source animal-faces --size 128 "
    "--autoencoder taef2 --shift 2.0 --widths 128 160 192 --dropout 0.05 --steps 10000 --learning-rate 0.001 "
    "--schedule inverse-sqrt --ema 0.9999 --precision bf16 "
    "--export 00_assets/weights/tiny_sd_animals_128.safetensors",
    "tiny_sd_animals_own": "python -m helpers.tiny_sd.train --method own --source animal-faces "
    "--autoencoder animals_autoencoder --shift 2.0 --widths 128 192 --dropout 0.05 --steps 13000 --learning-rate 0.001 "
    "--schedule inverse-sqrt --ema 0.9999 --precision bf16 "
    "--export 00_assets/weights/tiny_sd_animals_own.safetensors",
    "masks": "python -m helpers.vlm.train_masks --export 00_assets/weights/masks.safetensors",
    "paligemma": "python -m helpers.vlm.train --export 00_assets/weights/paligemma.safetensors",
}


def weights_path(name: str) -> Path:
    """Return the path of the course's weights of this name, whether or not the file exists."""
    return repository_root() / "00_assets" / "weights" / f"{name}.safetensors"


def save_weights(module_or_state: nn.Module | Mapping[str, Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """Write a module's weights to a safetensors file, floating-point tensors as fp16, integers as they are.

    Args:
        module_or_state: a module, or its state_dict.
        path: of the file; its folder is created when needed. The write is atomic.
        metadata: text about the weights; the two checksums are added.

    Raises:
        ValueError: for weights that are not finite or overflow fp16 (it names them).
        TypeError: for metadata that is not text.
    """
    state = module_or_state.state_dict() if isinstance(module_or_state, nn.Module) else module_or_state
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must be text, got {key!r}: {value!r}; json.dumps() makes text of anything")
    tensors = {name: _to_fp16(tensor) for name, tensor in state.items()}
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise ValueError(f"these weights are infinite, NaN or above {torch.finfo(torch.half).max:.0f} (fp16): {wrong}")
    write_tensors(path, tensors, metadata)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU tensors in their own dtypes, with checksums, atomically; also used for checkpoints.

    Raises:
        OSError: if the file cannot be written; the error names it.
    """
    stamped = {key: text for key, text in metadata.items() if key != METADATA_CHECKSUM}
    stamped["sha256"] = checksum(tensors)
    stamped[METADATA_CHECKSUM] = _metadata_checksum(stamped)
    with atomic_write(path) as file:
        file.write(save(dict(tensors), stamped))


def _to_fp16(tensor: Tensor) -> Tensor:
    """A contiguous CPU copy: fp16 if the tensor is floating point, else in its own dtype."""
    dtype = torch.half if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata_checksum(metadata: Mapping[str, str]) -> str:
    """SHA-256 of all metadata but the checksum itself."""
    others = {key: text for key, text in metadata.items() if key != METADATA_CHECKSUM}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def load_weights(module: nn.Module, name_or_path: str | Path, strict: bool = True) -> dict[str, str]:
    """Load a file of `save_weights` into a module, in the module's own dtypes and on its device.

    Args:
        module: left as it was if anything is wrong.
        name_or_path: see `find_weights`.
        strict: False ignores weights that the file lacks or the module does not have; shapes must always agree.

    Returns:
        the file's metadata.

    Raises:
        FileNotFoundError: says where it looked and which command trains the weights.
        ValueError: for a damaged file, or one that does not fit the module (it names the weights).
    """
    path = find_weights(name_or_path)
    tensors, metadata = read_tensors(path)
    state = module.state_dict()
    tensors = current_tensors(tensors, state)
    problems = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(state[name].shape)} in the module"
        for name in state.keys() & tensors.keys()
        if state[name].shape != tensors[name].shape
    ]
    if strict:
        problems += [f"{name}: missing from the file" for name in state.keys() - tensors.keys()]
        problems += [f"{name}: unknown to the module" for name in tensors.keys() - state.keys()]
    if problems:
        listed = "; ".join(sorted(problems)[:MAX_LISTED])
        more = f" ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise ValueError(f"{path} does not fit {type(module).__name__}: {listed}{more}")
    module.load_state_dict(tensors, strict=False)
    return metadata


def read_metadata(name_or_path: str | Path) -> dict[str, str]:
    """Return the metadata of a weights file: training command, seed, scores, the module's configuration.

    Only the file's header is read, and checked by its own checksum; damage to the tensors shows when they are loaded.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    path = find_weights(name_or_path)
    _, metadata = _read(path, with_tensors=False)
    return metadata


def read_config(name_or_path: str | Path) -> dict[str, Any]:
    """Return the configuration that a file of `save_with_config` holds; lists come back as tuples.

    Raises:
        FileNotFoundError, ValueError: as `read_metadata`, and for a file without a configuration.
    """
    metadata = read_metadata(name_or_path)
    if "model" not in metadata:
        raise ValueError(
            f"the weights {name_or_path} do not say what they belong to: they were written by "
            f"{metadata.get('command', 'another program')}"
        )
    return _with_tuples(current_config(json.loads(metadata["model"])))


def load_config(config: type[Config], name_or_path: str | Path) -> Config:
    """Construct a config dataclass from the configuration that a file of `save_with_config` holds.

    Raises:
        FileNotFoundError, ValueError: as `read_config`, and for the weights of another type of network.
    """
    fields = read_config(name_or_path)
    try:
        return config(**fields)
    except TypeError as error:
        raise ValueError(
            f"the weights {name_or_path} belong to another network: their configuration has the fields "
            f"{', '.join(fields)}, which is no {config.__name__}"
        ) from error


def save_with_config(module: nn.Module, config: Mapping[str, Any], path: str | Path, metadata: dict[str, str]) -> None:
    """Do what `save_weights` does, and store the module's configuration (JSON values) under "model" in the metadata."""
    save_weights(module, path, {"model": json.dumps(config), **metadata})


def _with_tuples(value: Any) -> Any:
    """JSON values with every list turned into a tuple, at any depth."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_with_tuples(inner) for inner in value)
    return value


def find_weights(name_or_path: str | Path) -> Path:
    """Return the file that a name or a path stands for.

    A string without a folder and without the ending .safetensors is a name in 00_assets/weights, such as "scorer",
    whatever lies in the working directory. Anything else is a path.

    Raises:
        FileNotFoundError: says where it looked and which command trains the weights.
    """
    text = str(name_or_path)
    is_name = isinstance(name_or_path, str) and Path(text).name == text and not text.endswith(".safetensors")
    path = weights_path(text) if is_name else Path(name_or_path).expanduser()
    if path.is_file():
        return path
    command = TRAINING_COMMANDS.get(Path(text).stem)
    if command:
        advice = f"Train them with: {command}"
    else:
        advice = f"The course knows weights for: {', '.join(TRAINING_COMMANDS)}"
        if is_name:
            advice += f". A file in the working directory is written ./{text}"
    raise FileNotFoundError(f"no weights {text!r}; looked for {path}. {advice}")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a file of `write_tensors`, both checked.

    Warns where the metadata have no checksum, as those of files from an older version of the course.

    Raises:
        ValueError: for a damaged file.
    """
    tensors, metadata = _read(path, with_tensors=True)
    if checksum(tensors) != metadata["sha256"]:
        raise ValueError(f"{path} is damaged, {HELP}: its tensors do not have the checksum that it promises")
    return tensors, metadata


def _read(path: Path, with_tensors: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (none of them unless asked for), unchecked, and the metadata, checked."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if with_tensors:
                for name in file.keys():
                    tensors[name] = file.get_tensor(name)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} ({path.stat().st_size} bytes) is damaged, {HELP}: {error}") from error
    if "sha256" not in metadata:
        raise ValueError(f"{path} carries no checksum: it was not written by helpers.weights")
    _check_metadata(path, metadata)
    return tensors, metadata


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise ValueError if metadata differ from their checksum, and warn if there is nothing to check them with."""
    if METADATA_CHECKSUM not in metadata:
        warnings.warn(
            f"{path} was written by an older version of the course, without a checksum of its metadata: they "
            f"are taken as they are (python -m helpers.weights.migration {path} writes one)",
            stacklevel=2,
        )
    elif metadata[METADATA_CHECKSUM] != _metadata_checksum(metadata):
        raise ValueError(f"{path} is damaged, {HELP}: its metadata do not have the checksum that they promise")
