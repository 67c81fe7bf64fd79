"""Files that mean harm: each a call that must be refused, and what the refusal must say.

Pickles that run code, archives that write elsewhere or swell, headers that lie, configurations that bring programs,
images larger than memory.
"""

import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from benchmarks.faults.training import Outcome
from benchmarks.refusals import Fault, Malware, refused
from helpers.autoencoders.load import load_autoencoder, tiny_from_pair
from helpers.data import load_faces
from helpers.data.images import BadImageError, decode
from helpers.sd1.checkpoint import read as read_sd1
from helpers.sd3.checkpoint import read as read_sd3
from helpers.vlm.checkpoint import config_of
from helpers.vlm.mask_codes import MaskAutoencoder
from helpers.weights import read_tensors
from helpers.weights.folders import folder_tensors
from helpers.weights.pretrained import read_checkpoint

CODE = "is refused: it asks to run code of its own"


def hostile() -> list[Outcome]:
    """Try every hostile file once: one outcome for each sort of file."""
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "pickle that runs code": pickles,
            "zip that writes elsewhere or swells": zips,
            "safetensors header that lies": headers,
            "configuration that brings code, or nonsense": configurations,
            "image of 60,000 x 60,000 pixels": images,
        }
        outcomes = []
        for name, make in cases.items():
            into = Path(folder) / make.__name__
            into.mkdir()
            faults = make(into)
            outcomes.append(Outcome(name, len(faults), sum(map(refused, faults.values())), "nothing: refused"))
    return outcomes


def pickles(into: Path) -> dict[str, Fault]:
    """Pickles that run code, in every format that may hold one."""

    def saved(name: str, content: Any) -> Path:
        torch.save(content, into / name)
        return into / name

    def load(path: Path) -> Callable[[], Any]:
        return lambda: read_checkpoint(path)

    message = "is refused: reading it would run .*system"
    cases = {
        ending: Fault(load(saved(f"evil{ending}", {"state_dict": {"a": Malware()}})), message)
        for ending in (".ckpt", ".pt", ".pth", ".bin")
    }
    halves = [saved(f"tiny_{half}.pth", {"0.weight": Malware()}) for half in ("encoder", "decoder")]
    np.savez(into / "evil.npz", a=np.array([Malware()], dtype=object))
    return cases | {
        "a half of TAESD": Fault(lambda: tiny_from_pair(*halves), message),
        "Stable Diffusion 1": Fault(lambda: read_sd1(into / "evil.ckpt"), message),
        "an .npz of objects": Fault(
            lambda: MaskAutoencoder.from_published(into / "evil.npz"), "not an .npz file of plain"
        ),
    }


def zips(into: Path) -> dict[str, Fault]:
    """Archives that write elsewhere, or are far larger when unpacked."""

    def packed(name: str, entry: str, content: bytes) -> Callable[[], Any]:
        with zipfile.ZipFile(into / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for species in ("cat", "dog", "wild"):
                for i in range(11):
                    archive.writestr(f"afhq/train/{species}/{i}.bmp", _painted(20 * i))
            archive.writestr(entry, content)
        return lambda: _strictly(
            lambda: load_faces("animal-faces", size=16, root=into / name, progress=False, cache_dir=into / "cache")
        )

    out = "holds names that lead out of it"
    return {
        "upwards": Fault(packed("up.zip", "../../escaped.png", b"x"), out),
        "to the root": Fault(packed("root.zip", "/etc/escaped.png", b"x"), out),
        "upwards from within": Fault(packed("within.zip", "afhq/train/../../../escaped.png", b"x"), out),
        "a bomb": Fault(
            packed("bomb.zip", "afhq/train/cat/bomb.png", bytes(65 * 2**20)), "bomb.png: 65 MiB, more than", UserWarning
        ),
        "a checkpoint that swells": Fault(
            lambda: read_checkpoint(_squeezed(into)), "unpack to .*, as weights never do"
        ),
        "an .npz that swells": Fault(lambda: MaskAutoencoder.from_published(_swelling(into)), "as weights never do"),
    }


def _squeezed(into: Path) -> Path:
    """What torch.save wrote, compressed: 40 MB of zeros in 40 kB."""
    torch.save({"a": torch.zeros(10**7)}, into / "large.pth")
    with (
        zipfile.ZipFile(into / "large.pth") as large,
        zipfile.ZipFile(into / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in large.infolist():
            small.writestr(entry.filename, large.read(entry))
    return into / "small.pth"


def _swelling(into: Path) -> Path:
    np.savez_compressed(into / "zeros.npz", a=np.zeros(10**7))
    return into / "zeros.npz"


def _painted(light: int) -> bytes:
    import io

    file = io.BytesIO()
    Image.new("RGB", (40, 40), (light, 100, 200)).save(file, "BMP")
    return file.getvalue()


def _strictly(call: Callable[[], Any]) -> Any:
    """Call with warnings as errors: an image that is left out with a warning counts as refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


def headers(into: Path) -> dict[str, Fault]:
    """Headers of safetensors whose sizes are not the file's."""
    honest = save({"a": torch.zeros(4, 4)})
    length = struct.unpack("<Q", honest[:8])[0]

    def lying(**entry: Any) -> bytes:
        header = json.dumps({"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | entry}).encode()
        return struct.pack("<Q", len(header)) + header + bytes(64)

    files = {
        "longer than the file": struct.pack("<Q", 2**62) + honest[8:],
        "longer than what follows": struct.pack("<Q", length + 1000) + honest[8:],
        "data beyond the end": lying(data_offsets=[0, 2**40]),
        "data from the end to the beginning": lying(data_offsets=[64, 0]),
        "another shape than its data": lying(shape=[2**20, 2**20]),
        "a shape that overflows": lying(shape=[2**62, 8]),
        "another type than its data": lying(dtype="F64"),
        "bytes that nobody owns": honest + bytes(100),
    }
    faults = {}
    for number, (name, content) in enumerate(files.items()):
        path = into / f"{number}.safetensors"
        path.write_bytes(content)
        faults[name] = Fault(partial(read_checkpoint, path), "is damaged or no safetensors file")
        faults[f"{name}, as ours"] = Fault(partial(read_tensors, path), "is damaged")
    return faults


def configurations(into: Path) -> dict[str, Fault]:
    """The JSON files beside published weights."""

    def folder(name: str, file: str, **config: Any) -> Path:
        path = into / name / file
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(config))
        return into / name

    remote = {"AutoModel": "modeling_evil.Evil"}
    vlm = folder("vlm", "config.json", model_type="paligemma", auto_map=remote)
    vae = folder("vae", "config.json", _class_name="AutoencoderKL", auto_map=remote)
    unknown_class = folder("own", "config.json", _class_name=["evil", "Autoencoder"])
    pipelines = {name: folder(name, "model_index.json", _class_name=["evil", "Pipeline"]) for name in ("sd1", "sd3")}
    deep = folder("deep", "config.json")
    (deep / "config.json").write_text("[" * 100_000)
    nonsense = {
        str(value): folder(f"nonsense{i}", "unet/model.safetensors.index.json", weight_map=value)
        for i, value in enumerate(({"a": 1}, {"a": {"b": 1}}, {"a": None}, ["a"], 3))
    }
    index = folder("index", "unet/model.safetensors.index.json", weight_map={"a": "../../secret.safetensors"})
    return {
        "PaliGemma": Fault(lambda: config_of(vlm), CODE),
        "an autoencoder": Fault(lambda: load_autoencoder(vae), CODE),
        "an autoencoder of a class of its own": Fault(lambda: load_autoencoder(unknown_class), CODE),
        "a pipeline for Stable Diffusion 1": Fault(lambda: read_sd1(pipelines["sd1"]), CODE),
        "a pipeline for Stable Diffusion 3": Fault(lambda: read_sd3(pipelines["sd3"]), CODE),
        "an index of files elsewhere": Fault(lambda: folder_tensors(index, "unet", ("model",)), "outside its folder"),
        "brackets without end": Fault(lambda: config_of(deep), "is damaged"),
    } | {
        f"an index of {value}": Fault(partial(folder_tensors, path, "unet", ("model",)), "it should list")
        for value, path in nonsense.items()
    }


def images(into: Path) -> dict[str, Fault]:
    """Image files of few bytes that would be decoded to eleven gigabytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    side = 60_000
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    gif = b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0)
    return {
        name: Fault(partial(decode, data, 64), "too many pixels|60000x60000 pixels", BadImageError)
        for name, data in {"PNG": png, "BMP": bmp, "GIF": gif + b"\x02\x00;"}.items()
    }
