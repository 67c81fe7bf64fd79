"""Read checkpoints that others published, without running their code, and load them strictly into the course's modules.

If a tensor is missing, left over or of another shape, the error lists all of them and nothing is loaded.
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.devices import DEVICES, is_available
from helpers.weights.causes import QUANTISED

# (pattern, replacement) pairs for re.sub, from our parameter names to the checkpoint's. They are applied in order, each
# to the result of those before. For instance, with four of the pairs of Stable Diffusion 1's U-Net:
#
#   name                                                      down.1.transformer.0.block.cross_attention.to_kv.weight
#   (r"\.block\.", ".transformer_blocks.0.")                   down.1.transformer.0.transformer_blocks.0.cross_att...
#   (r"\.cross_attention\.", ".attn2.")                        down.1.transformer.0.transformer_blocks.0.attn2.to_kv...
#   (r"\.to_kv\.", ".to_{kv}.")                                ...transformer_blocks.0.attn2.to_{kv}.weight
#   (r"^down\.(\d+)\.transformer\.", r"down_blocks.\1.attentions.")  down_blocks.1.attentions.0.transformer_blocks.0...
#
# Braces stand for several tensors that we store concatenated: to_{kv}.weight is to_k.weight and then to_v.weight.
KeyMapping = Sequence[tuple[str, str | Callable[[re.Match], str]]]

MAX_LISTED = 6  # tensors that an error message names
SAFETENSORS = ".safetensors"
PICKLES = (".ckpt", ".bin", ".pt", ".pth")
DAMAGED = "damaged or no checkpoint: download it again"
LFS_POINTER = b"version https://git-lfs"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # that all layers can compute in
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # on command lines


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return all tensors of a .safetensors file, or of a pickle (.ckpt, .bin, .pt, .pth) that holds only data.

    Where the tensors are nested under "state_dict", those are returned. Other entries, such as a training's step
    counter, are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a damaged file, one of another format, and a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    ending = path.suffix.lower()
    if ending == ".gguf":
        raise ValueError(f"{path.name} cannot be read: {QUANTISED}")
    if ending not in (SAFETENSORS, *PICKLES):
        raise ValueError(f"{path.name} is no checkpoint the course can read: .safetensors, .ckpt, .bin, .pt or .pth")
    return _read_safetensors(path) if ending == SAFETENSORS else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        guess = _guess_content(path, "damaged or no safetensors file, download it again")
        raise ValueError(f"{path} ({path.stat().st_size} bytes) is {guess}: {error}") from error


class _InertObject:
    """Replaces a training library's object that a pickle refers to: does nothing, whatever it is called with."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# What PyTorch Lightning stored beside the weights of the first Stable Diffusion checkpoints: its callback, and a score
ALLOWED_PICKLE_GLOBALS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a pickle; ValueError where unpickling would need more than tensors and ALLOWED_PICKLE_GLOBALS."""
    size = path.stat().st_size
    check_zip(path)
    try:
        with torch.serialization.safe_globals([(_InertObject, name) for name in ALLOWED_PICKLE_GLOBALS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        global_name = re.search(r"GLOBAL ([\w.]+)", str(error))
        if global_name is None:
            raise ValueError(f"{path} ({size} bytes) is {_guess_content(path, DAMAGED)}") from error
        raise ValueError(
            f"{path} is refused: reading it would run {global_name[1]}. Weights need no such object, malware "
            "may; look for a .safetensors file of it"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a spoilt pickle makes PyTorch raise nearly anything
        raise ValueError(f"{path} ({size} bytes) is {_guess_content(path, DAMAGED)}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a table of named tensors")
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def check_zip(path: Path) -> None:
    """Check a zip archive, as checkpoints and .npz files are: its unpacked size, and the CRC of every member.

    The CRCs take one more pass over the file, which torch.load does not make superfluous: it is built without CRC
    checks and would load a flipped bit silently. Files that are no zip archives, as old checkpoints, pass.

    Raises:
        ValueError: if a CRC differs, or the archive unpacks to more than ten times its size; trained weights hardly
            compress, so that is a zip bomb.
    """
    size = path.stat().st_size
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            is_bomb = unpacked > 10 * size + 2**20
            damaged = None if is_bomb else archive.testzip()
    except MemoryError:
        raise
    except Exception as error:  # of a spoilt archive zipfile raises nearly anything
        raise ValueError(f"{path} ({size} bytes) is damaged, download it again: {error}") from error
    if is_bomb:
        raise ValueError(f"{path} is refused: its {size} bytes unpack to {unpacked}, as weights never do")
    if damaged:
        raise ValueError(
            f"{path} is damaged, download it again: {damaged} does not have its checksum (if it was "
            "written without checksums, torch.save it anew with them)"
        )


def _guess_content(path: Path, otherwise: str) -> str:
    """Describe a file that could not be read as a checkpoint, from its first bytes, and say what to do."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(LFS_POINTER):
        return "a git-lfs pointer, not the checkpoint itself (git lfs pull)"
    if start.lstrip().startswith(b"<"):
        return "a web page, not a checkpoint: download it again"
    if start.startswith(b"GGUF"):
        return f"a GGUF file: {QUANTISED}"
    if path.suffix.lower() != SAFETENSORS and start[8:10] == b'{"':
        return "a safetensors file under another name: let its name end in .safetensors"
    if path.suffix.lower() == SAFETENSORS and start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a pickle under another name: let its name end in .ckpt"
    return otherwise


def read_text(path: Path) -> str:
    """Return the text of a configuration or a vocabulary, without the mark that some editors write first (a BOM).

    Raises:
        ValueError: for a file that is no text, and for the pointer that git leaves of a large one.
    """
    data = path.read_bytes()
    if data.startswith(LFS_POINTER):
        raise ValueError(f"{path} is a git-lfs pointer, not the file itself (git lfs pull)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is no text in UTF-8 ({error})") from error


def read_json_config(path: Path) -> dict[str, Any]:
    """Return the content of a config.json or model_index.json.

    Raises:
        ValueError: for a damaged file, and for one that refers to code shipped with the weights: `auto_map`
            (transformers), or a class from a custom module (diffusers).
    """
    try:
        config = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(config).__name__}, not names and values")
    custom_code = [name for name in ("auto_map", "trust_remote_code") if config.get(name)]
    custom_code += [name for name in ("_class_name", "model_type") if not isinstance(config.get(name, ""), str)]
    if custom_code:
        raise ValueError(
            f"{path} is refused: it asks to run code of its own ({', '.join(custom_code)}), and the course runs "
            "no code that comes with weights; look for a copy without"
        )
    return config


def fetch(repo: str, patterns: Sequence[str], repo_type: str = "model") -> Path:
    """Download the files of a hub repository that match, or find them in the hub's cache; return their folder.

    Args:
        repo: the repository, owner/name.
        patterns: of the paths of the files, as `fnmatch` takes them.
        repo_type: "model" or "dataset".

    Raises:
        FileNotFoundError: if this is no hub id, the hub is out of reach, or has no such repository; it says what to do.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise FileNotFoundError(f"no checkpoint at {repo}: no file, no folder, and no hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, repo_type=repo_type, allow_patterns=list(patterns)))
    except MemoryError:
        raise
    except Exception as error:  # also what the HTTP client raises, of a proxy that it cannot use for instance
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        command = f"hf download {repo}" if repo_type == "model" else f"hf download --repo-type {repo_type} {repo}"
        raise FileNotFoundError(
            f"{repo!r} is no file or folder here, and the hub did not give it ({_first_sentences(lines[-1])}). "
            f"Download it elsewhere ({command}) and pass the folder's path, or check the name, its licence "
            f"and the network{_proxy_note()}"
        ) from error


def _proxy_note() -> str:
    """The environment variables that name a proxy, in words; their values may hold passwords."""
    variables = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
    names = [name for name in variables if os.environ.get(name) or os.environ.get(name.lower())]
    return f" (a proxy is set by {', '.join(names)})" if names else ""


def _first_sentences(text: str, length: int = 200) -> str:
    """The first sentences of a text, as many as fit the length and one at least: none is cut in the middle."""
    first, *rest = re.split(r"(?<=[.!?])\s+", text)
    for sentence in rest:
        if len(first) + 1 + len(sentence) > length:
            break
        first = f"{first} {sentence}"
    return first


def map_key(name: str, key_mapping: KeyMapping) -> str:
    """Translate our parameter name to the checkpoint's; see the module's docstring for an example."""
    for pattern, replacement in key_mapping:
        name = re.sub(pattern, replacement, name)
    return name


def checkpoint_keys(name: str, key_mapping: KeyMapping) -> list[str]:
    """Return the names of the checkpoint's tensors that make up our tensor `name`: one, or several to concatenate."""
    name = map_key(name, key_mapping)
    braces = re.search(r"\{(\w+)\}", name)
    if braces is None:
        return [name]
    return [name.replace(braces[0], letter) for letter in braces[1]]


def check_dtype_and_device(dtype: torch.dtype, device: str | torch.device) -> None:
    """Raise TypeError or ValueError, before anything is read, for what no network can compute in, or on."""
    names = ", ".join(map(str, DTYPES))
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be one of {names}; got {dtype!r}, which is no torch.dtype")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {names}, got {dtype}")
    try:
        kind_of_device = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"device must be one that PyTorch knows, such as 'cpu', got {device!r}: {reason}") from error
    if kind_of_device in DEVICES and not is_available(kind_of_device):
        raise ValueError(f"device is {device!r}, and PyTorch sees no such GPU here: take device='cpu'")


def load_pretrained(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    key_mapping: KeyMapping,
    *,
    what: str,
    dtype: torch.dtype = torch.float32,
    hint: Callable[[], str] = str,
    place: str | Path = "",
) -> None:
    """Load a checkpoint's tensors into a module, strictly.

    Args:
        module: gets the tensors assigned, so it may be on the meta device; untouched where anything is wrong.
        tensors: under the checkpoint's names; every one must belong to this module.
        key_mapping: from our names to the checkpoint's.
        what: name of the part that is loaded, for the error message.
        dtype: of the loaded module.
        hint: called when the tensors do not fit; returns the likeliest cause, or "".
        place: the file or folder that the tensors come from, for the error message.

    Raises:
        ValueError: names the missing, unexpected and mis-shaped tensors, those that are not finite, and those that
            `dtype` cannot hold.
    """
    state = {}
    problems = []
    not_finite = []
    expected_names = set()
    for name, parameter in module.state_dict().items():
        sources = checkpoint_keys(name, key_mapping)
        expected_names.update(sources)
        missing = [f"missing {source}" for source in sources if source not in tensors]
        parts = {source: tensors[source] for source in sources if source in tensors}
        misfits = missing or _misshaped(parameter.shape, parts) or _integers(parameter, parts)
        problems += misfits
        if not misfits:
            values = [part.to(dtype) for part in parts.values()]
            state[name] = (torch.cat(values) if len(values) > 1 else values[0]).reshape(parameter.shape)
            if not state[name].isfinite().all():
                not_finite += _describe_not_finite(parts, dtype)
    problems += [f"unexpected {name}" for name in tensors.keys() - expected_names]
    source_note = f" (in {place})" if str(place) else ""
    if problems:
        cause = hint()
        likeliest = f" Likeliest cause: {cause}" if cause else ""
        raise ValueError(f"this is not {what}: {_listed(sorted(problems))}{source_note}.{likeliest}")
    if not_finite:
        raise ValueError(f"{what} cannot be used, every image would be NaN: {_listed(not_finite)}{source_note}")
    module.load_state_dict(state, assign=True)


def _listed(problems: Sequence[str]) -> str:
    """The first problems, and how many more there are."""
    more = f" ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    return "; ".join(problems[:MAX_LISTED]) + more


def _integers(parameter: Tensor, parts: Mapping[str, Tensor]) -> list[str]:
    """Describe each tensor of integers where the module computes with fractions."""
    if not parameter.is_floating_point():
        return []
    return [
        f"{name} is stored as {part.dtype}: {QUANTISED}" for name, part in parts.items() if not part.is_floating_point()
    ]


def _describe_not_finite(parts: Mapping[str, Tensor], dtype: torch.dtype) -> list[str]:
    """Say of each tensor that is not finite whether it is stored so, or too large for `dtype`."""
    problems = []
    for name, part in parts.items():
        stored = part.float()
        count = int((~stored.isfinite()).sum())
        if count:
            problems.append(
                f"{name} holds NaN or infinity in {count} of {part.numel()} places: download it again, or take a "
                "copy from before it was damaged"
            )
        elif not part.to(dtype).isfinite().all():
            problems.append(
                f"{name} reaches {stored.abs().max():.3g}, and {dtype} ends at {torch.finfo(dtype).max:.3g}: load with "
                "dtype=torch.float32 or torch.bfloat16"
            )
    return problems


def _misshaped(shape: torch.Size, sources: Mapping[str, Tensor]) -> list[str]:
    """Describe each tensor that cannot be its share of a parameter of this shape; [] if all fit.

    Shares are equal, except where there are fewer heads of keys and values than of queries.
    """
    expected = (shape[0] // len(sources), *shape[1:]) if shape else ()
    shapes = {name: _squeezed_shape(tensor.shape) for name, tensor in sources.items()}
    wrong = [name for name in sources if shapes[name] != _squeezed_shape(expected)]
    if _concatenated_shape(list(shapes.values())) == _squeezed_shape(shape):
        return []
    return [f"{name} is {tuple(sources[name].shape)}, made for {expected}" for name in wrong]


def _concatenated_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of tensors concatenated along the first axis; None where the other axes differ."""
    if not all(shapes) or len({shape[1:] for shape in shapes}) != 1:
        return None
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _squeezed_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without trailing ones: a 1x1 convolution's weights are those of a linear layer."""
    sizes = list(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)
