"""Checkpoints that other people published: read without running their code, and fitted to our modules strictly.

A module's tensors are looked up by name: a `KeyMapping` turns our names into the file's. Whatever is missing, left
over or of another shape is reported together; nothing is loaded then.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# (pattern, replacement) pairs, applied one after the other to a name of ours; "{qkv}" stands for three tensors, q, k, v
KeyMapping = Sequence[tuple[str, str | Callable[[re.Match], str]]]


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of a pickle (.ckpt, .bin, .pt, .pth) that holds data only.

    A `state_dict` level inside is opened; entries that are no tensors (a training's step counter) are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a damaged file, one of another kind, and a pickle that asks to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in (".ckpt", ".bin", ".pt", ".pth"):
        return _pickled(path)
    raise ValueError(f"{path.name} is no checkpoint the course can read: .safetensors, .ckpt, .bin, .pt or .pth")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is damaged or no safetensors file, download it again: {error}"
        ) from error


class _InertObject:
    """Stands in for a training library's object in a checkpoint: it is named there, and never used."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


# what PyTorch Lightning wrote beside the weights of the first Stable Diffusion checkpoints: its callback, and a score
ALLOWED_PICKLE_GLOBALS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


def _pickled(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    check_zip(path)
    try:
        with torch.serialization.safe_globals([(_InertObject, name) for name in ALLOWED_PICKLE_GLOBALS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise ValueError(f"{path} ({size} bytes) is {_nature(path)}: download it again") from error
        raise ValueError(
            f"{path} is refused: reading it would run {wanted[1]}. Weights need no such object, malware "
            "may; look for a .safetensors file of it"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a spoilt pickle makes PyTorch raise nearly anything
        raise ValueError(f"{path} ({size} bytes) is {_nature(path)}: download it again") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a table of named tensors")
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def check_zip(path: Path) -> None:
    """Checkpoints and .npz files are zip archives, but for old ones: refuse one that swells or is damaged.

    Raises:
        ValueError: for both; numbers that were trained hardly shrink, so ten times the size is no file of weights.
    """
    size = path.stat().st_size
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            swells = unpacked > 10 * size + 2**20
            damaged = None if swells else archive.testzip()
    except MemoryError:
        raise
    except Exception as error:  # of a spoilt archive zipfile raises nearly anything
        raise ValueError(f"{path} ({size} bytes) is damaged, download it again: {error}") from error
    if swells:
        raise ValueError(f"{path} is refused: its {size} bytes unpack to {unpacked}, as weights never do")
    if damaged:
        raise ValueError(
            f"{path} is damaged, download it again: {damaged} does not have its checksum (if it was "
            "written without checksums, torch.save it anew with them)"
        )


def _nature(path: Path) -> str:
    """What a file that is no checkpoint looks like."""
    start = path.read_bytes()[:64] if path.stat().st_size < 1e6 else b""
    if start.lstrip().startswith(b"<"):
        return "a web page, not a checkpoint"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the checkpoint itself (git lfs pull)"
    return "damaged or no checkpoint"


def read_json_config(path: Path) -> dict[str, Any]:
    """What a config.json (or model_index.json) tells: JSON, and never code.

    Raises:
        ValueError: for a damaged one, and one that asks for code that came with it: `auto_map` (transformers), or a
            class in a module of its own (diffusers).
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(told).__name__}, not names and values")
    asks = [name for name in ("auto_map", "trust_remote_code") if told.get(name)]
    asks += [name for name in ("_class_name", "model_type") if not isinstance(told.get(name, ""), str)]
    if asks:
        raise ValueError(
            f"{path} is refused: it asks to run code of its own ({', '.join(asks)}), and the course runs "
            "no code that comes with weights; look for a copy without"
        )
    return told


def modern_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors under the names that diffusers gives them since 2023."""
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)"
    return {re.sub(pattern, lambda found: old[found[1]], name): tensor for name, tensor in tensors.items()}


def folder_part(folder: Path, part: str, stems: Sequence[str], variant: str | None = None) -> Path:
    """The weights file of one part of a diffusers folder: safetensors before pickle, full precision before half.

    Args:
        part: the part's folder, such as "unet".
        stems: its file's names without variant and ending, such as "diffusion_pytorch_model".
        variant: "fp16" takes these files alone.

    Raises:
        FileNotFoundError: says what was looked for and what is there.
    """
    names = [
        f"{part}/{stem}{dot}.{ending}"
        for dot in ([f".{variant}"] if variant else ["", ".fp16"])
        for ending, stem in [*(("safetensors", stem) for stem in stems), *(("bin", stem) for stem in stems)]
    ]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = sorted(path.name for path in folder.iterdir())[:8]
    raise FileNotFoundError(
        f"{folder} is no complete folder of weights: none of {', '.join(names)}; it holds "
        f"{', '.join(there) or 'nothing'}"
    )


def folder_tensors(folder: Path, part: str, stems: Sequence[str], variant: str | None = None) -> dict[str, Tensor]:
    """The tensors of one part of a diffusers folder, in one file or in the several that an index lists.

    Arguments and errors as for `folder_part`.
    """
    for dot in [f".{variant}"] if variant else ["", ".fp16"]:
        for stem in stems:
            index = folder / part / f"{stem}.safetensors.index{dot}.json"
            if index.is_file():
                try:
                    files = sorted(set(read_json_config(index)["weight_map"].values()))
                    if not all(isinstance(file, str) for file in files):
                        raise TypeError("a file's name is no text")
                except (ValueError, KeyError, AttributeError, TypeError) as error:
                    raise ValueError(f"{index} is damaged, it should list the files of all tensors: {error}") from error
                if outside := [file for file in files if Path(file).name != file]:
                    raise ValueError(f"{index} is refused: it names files outside its folder: {', '.join(outside)}")
                absent = [file for file in files if not (folder / part / file).is_file()]
                if absent:
                    raise FileNotFoundError(
                        f"{index} lists {', '.join(absent)}, which {folder / part} lacks: download the rest"
                    )
                return {
                    name: tensor for file in files for name, tensor in read_checkpoint(folder / part / file).items()
                }
    return read_checkpoint(folder_part(folder, part, stems, variant))


def fetch(repo: str, patterns: Sequence[str]) -> Path:
    """Download a hub repository's matching files (or find them in the hub's cache), with the hub's progress bars.

    Raises:
        FileNotFoundError: if this is no hub id, the hub is out of reach, or has no such repository; it says what to do.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise FileNotFoundError(f"no checkpoint at {repo}: no file, no folder, and no hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except (OSError, HfHubHTTPError, HTTPError, HFValidationError) as error:
        told = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise FileNotFoundError(
            f"{repo!r} is no file or folder here, and the hub did not give it ({told[-1][:200]}). Download it "
            f"elsewhere (hf download {repo}) and pass the folder's path, or check the name, its licence and the network"
        ) from error


def map_key(name: str, key_mapping: KeyMapping) -> str:
    """A name of ours as they write it, with the braces of what we keep together."""
    for pattern, replacement in key_mapping:
        name = re.sub(pattern, replacement, name)
    return name


def checkpoint_keys(name: str, key_mapping: KeyMapping) -> list[str]:
    """The published tensors that make up our tensor `name`: one, or as many as we keep together."""
    name = map_key(name, key_mapping)
    together = re.search(r"\{(\w+)\}", name)
    return [name.replace(together[0], letter) for letter in together[1]] if together else [name]


def load_pretrained(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    key_mapping: KeyMapping,
    *,
    what: str,
    dtype: torch.dtype = torch.float32,
    hint: Callable[[], str] = str,
) -> None:
    """Load published tensors into a module, which may still be on the meta device; strict.

    Args:
        module: gets the tensors assigned; untouched where anything is wrong.
        tensors: under their published names, all of them this module's.
        renaming: from our names to theirs.
        what: is being loaded, for the message.
        dtype: of the loaded module.
        hint: asked for the likeliest cause when they do not fit.

    Raises:
        ValueError: names the missing, unexpected and mis-shaped tensors.
    """
    state = {}
    faults = []
    used = set()
    for name, ours in module.state_dict().items():
        sources = checkpoint_keys(name, key_mapping)
        used.update(sources)
        absent = [source for source in sources if source not in tensors]
        if absent:
            faults += [f"missing {source}" for source in absent]
            continue
        expected = (len(ours) // len(sources), *ours.shape[1:]) if ours.ndim else ()
        shapes = [_squeezed_shape(tensors[source].shape) for source in sources]
        strange = [source for source, shape in zip(sources, shapes, strict=True) if shape != _squeezed_shape(expected)]
        if strange and _concatenated_shape(shapes) == _squeezed_shape(ours.shape):
            strange = []  # fewer heads of keys and values than of queries: unequal parts of one tensor
        faults += [f"{source} is {tuple(tensors[source].shape)}, made for {expected}" for source in strange]
        if not strange:
            value = torch.cat([tensors[source] for source in sources]) if len(sources) > 1 else tensors[sources[0]]
            state[name] = value.reshape(ours.shape).to(dtype)
    faults += [f"unexpected {name}" for name in tensors.keys() - used]
    if faults:
        more = f" ... and {len(faults) - 6} more" if len(faults) > 6 else ""
        cause = hint()
        raise ValueError(
            f"this is not {what}: {'; '.join(sorted(faults)[:6])}{more}.{' Likeliest cause: ' + cause if cause else ''}"
        )
    module.load_state_dict(state, assign=True)


def guess_cause(causes: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The first of the causes, by a pattern, that matches a tensor's name: what a file may be instead. Or ""."""
    return next((cause for pattern, cause in causes.items() if any(re.search(pattern, name) for name in tensors)), "")


def _concatenated_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of tensors below one another; None where they do not go together."""
    if not all(shapes) or len({shape[1:] for shape in shapes}) != 1:
        return None
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _squeezed_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without trailing ones: a 1x1 convolution's weights are a linear layer's."""
    sizes = list(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)
