"""Find the weights of a model's parts in a folder or in a repository of the hub: variants, shards, pickles.

A part is a subfolder and the stems of its files, such as ("unet", ("diffusion_pytorch_model",)). Its weights may be one
file or several shards, in full or in half precision, safetensors or pickle. Every reader of the course looks here.
"""

import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from helpers.weights.pretrained import fetch, read_checkpoint, read_json_config

Part = tuple[str, Sequence[str]]  # subfolder, and the stems of its files
ENDINGS = ("safetensors", "bin")
MAX_SHOWN = 8  # files of a folder that an error message names


def find_part(folder: Path, subfolder: str, stems: Sequence[str], variant: str | None = None) -> list[Path]:
    """Return the files that hold one part: a whole file, or all shards.

    Full precision comes before half and any other variant, safetensors before pickles, complete shards before a whole
    file. An index whose shards are missing hides nothing.

    Args:
        subfolder: of the part, "." for the folder itself.
        stems: of its files, such as "diffusion_pytorch_model".
        variant: "fp16" considers only these files.

    Raises:
        FileNotFoundError: says what was looked for and what is there.
        ValueError: for a damaged index, and one that names files elsewhere.
    """
    place = folder / subfolder
    files = {path.name.lower(): path for path in sorted(place.iterdir())} if place.is_dir() else {}
    infixes = [f".{variant}"] if variant else ["", ".fp16", *_other_variants(files, stems)]
    incomplete = ""
    for infix, ending, stem in itertools.product(infixes, ENDINGS, stems):
        shards, missing = _find_shards(files, stem, infix, ending)
        if shards and not missing:
            return shards
        incomplete = incomplete or missing
        whole = files.get(f"{stem}{infix}.{ending}".lower())
        if whole is not None and whole.is_file():
            return [whole]
    if incomplete:
        raise FileNotFoundError(f"{incomplete}, which {place} lacks: download the rest")
    searched = [f"{subfolder}/{stem}{infix}.{ending}" for infix in infixes for ending in ENDINGS for stem in stems]
    there = sorted(path.name for path in folder.iterdir())[:MAX_SHOWN] if folder.is_dir() else []
    raise FileNotFoundError(
        f"{folder} is no complete folder of weights: none of {', '.join(searched)}; it holds "
        f"{', '.join(there) or 'nothing'}"
    )


def _other_variants(files: Mapping[str, Path], stems: Sequence[str]) -> list[str]:
    """What stands between stem and ending in further files, such as ".bf16"; weights for training come last."""
    pattern = rf"(?:{'|'.join(map(re.escape, stems))})(\.[a-z0-9_]+)(?:-\d+-of-\d+)?\.(?:{'|'.join(ENDINGS)})"
    matches = [re.fullmatch(pattern, name) for name in files]
    infixes = {match[1] for match in matches if match} - {".fp16"}
    return sorted(infixes, key=lambda infix: ("ema" in infix, infix))


def _find_shards(files: Mapping[str, Path], stem: str, infix: str, ending: str) -> tuple[list[Path], str]:
    """The shards of a file, by their index or, without one, by their names; and, where some are missing, which."""
    for name in (f"{stem}.{ending}.index{infix}.json", f"{stem}{infix}.{ending}.index.json"):
        index = files.get(name.lower())
        if index is not None:
            listed = _listed_files(index)
            missing = [file for file in listed if file.lower() not in files]
            return [files[file.lower()] for file in listed if file not in missing], (
                f"{index} lists {', '.join(missing[:MAX_SHOWN])}" if missing else ""
            )
    matches = [re.fullmatch(rf"{re.escape((stem + infix).lower())}-(\d+)-of-(\d+)\.{ending}", name) for name in files]
    shards = {int(match[1]): files[match[0]] for match in matches if match}
    counts = [int(match[2]) for match in matches if match]
    absent = sorted(set(range(1, max(counts, default=0) + 1)) - shards.keys())
    note = f"{stem}{infix} comes in {max(counts)} shards without an index: {absent} of them" if absent else ""
    return [shards[number] for number in sorted(shards)], note


def _listed_files(index: Path) -> list[str]:
    """The names of the files that an index lists, which lie beside it."""
    try:
        listed = sorted(set(read_json_config(index)["weight_map"].values()))
        if not all(isinstance(file, str) for file in listed):
            raise TypeError("a file's name is no text")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is damaged, it should list the files of all tensors: {error}") from error
    if outside := [file for file in listed if Path(file).name != file]:
        raise ValueError(f"{index} is refused: it names files outside its folder: {', '.join(outside)}")
    return listed


def read_part(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of the files that `find_part` returned. Raises ValueError for a damaged one."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_checkpoint(file)
    return tensors


def place_of(files: Sequence[Path]) -> Path:
    """The file that holds a part, for error messages; of shards, their folder."""
    return files[0] if len(files) == 1 else files[0].parent


def folder_tensors(folder: Path, part: str, stems: Sequence[str], variant: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of one part of a folder. Arguments and errors as for `find_part` and `read_part`."""
    return read_part(find_part(folder, part, stems, variant))


def find_parts(folder: Path, parts: Mapping[str, Part], variant: str | None = None) -> dict[str, list[Path]]:
    """Return the files of all parts. Parts that do not come in the variant are taken as they are, if any other does.

    Raises:
        FileNotFoundError, ValueError: as `find_part`, and where no part comes in the variant.
    """
    files = {}
    for name, (subfolder, stems) in parts.items():
        if variant:
            try:
                files[name] = find_part(folder, subfolder, stems, variant)
            except FileNotFoundError:
                continue
    if variant and not files:
        raise FileNotFoundError(f"{folder} holds no part as variant {variant!r}: leave variant= out")
    for name, (subfolder, stems) in parts.items():
        if name not in files:
            files[name] = find_part(folder, subfolder, stems)
    return files


def download_parts(repo: str, parts: Mapping[str, Part], others: Sequence[str], variant: str | None = None) -> Path:
    """Download what the parts need of a repository, or find it in the hub's cache; returns the folder.

    Safetensors come before pickles and full precision before half, part by part: a later choice is made only where the
    earlier is missing, or where the hub is out of reach and the cache holds just that one.

    Args:
        parts: as for `find_parts`.
        others: patterns of further files, such as configurations and tokenizers.
        variant: "fp16" prefers these files.

    Raises:
        FileNotFoundError: as `fetch`.
    """
    folder = None
    failure = None
    configurations = [f"{subfolder}/config.json".removeprefix("./") for subfolder, _ in parts.values()]
    try:
        folder = fetch(repo, [*others, *configurations])
    except FileNotFoundError as error:
        failure = error
    present = 0
    for subfolder, stems in parts.values():
        there = _download_part(repo, (subfolder, stems), variant)
        if isinstance(there, Path):
            folder = there
            present += 1
        elif there is not None:
            raise failure or there
    if folder is None or not present:
        raise failure or FileNotFoundError(
            f"{repo} holds none of {', '.join(subfolder for subfolder, _ in parts.values())}: if it holds single "
            f"files, download one of them (hf download {repo} FILE) and pass its path"
        )
    if failure is not None:
        warnings.warn(f"only the weights of {repo} are in the cache, not {', '.join(others)}: {failure}", stacklevel=2)
    return folder


def _download_part(repo: str, part: Part, variant: str | None) -> Path | FileNotFoundError | None:
    """The folder that holds the part now; else the first error, or None where the repository has no such file."""
    subfolder, stems = part
    failure = None
    infixes = [f".{variant}", ""] if variant else ["", ".fp16"]
    for ending, infix in itertools.product(ENDINGS, infixes):
        try:
            folder = fetch(repo, _patterns(subfolder, stems, infix, ending))
            find_part(folder, subfolder, stems, infix.removeprefix(".") or None)
            return folder
        except FileNotFoundError as error:
            if "is no complete folder of weights" not in str(error):
                failure = failure or error
    return failure


def _patterns(subfolder: str, stems: Sequence[str], infix: str, ending: str) -> list[str]:
    """Names of a part's files, whole or in shards, as patterns."""
    prefix = "" if subfolder == "." else f"{subfolder}/"
    patterns = []
    for stem in stems:
        patterns.append(f"{prefix}{stem}{infix}.{ending}")
        patterns.append(f"{prefix}{stem}{infix}-*.{ending}")
        patterns.append(f"{prefix}{stem}.{ending}.index{infix}.json")
    return patterns


def modern_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an autoencoder's attention tensors from diffusers' names of before 2023 to today's."""
    new_names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)"
    return {re.sub(pattern, lambda match: new_names[match[1]], name): tensor for name, tensor in tensors.items()}
