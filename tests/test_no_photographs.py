"""No photograph of the dataset is in the repository: not as a file, not in a figure, not in a notebook's output.

AFHQ's licence is non-commercial and the other photographs come mostly without one, so none may be republished. Averages
over many of them may, and so may Chelsea (scikit-image's cat, CC0).
"""

import base64
import io
import json
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from helpers.data import load_faces
from helpers.data.chelsea import load_chelsea
from helpers.data.faces import to_uint8
from helpers.show.figures import compare, grid, png_bytes
from pages.record import ROOT
from tests.photographs import Album, images_in, photographs_in, reduced, tiles

PHOTOGRAPHIC = (".jpg", ".jpeg", ".webp", ".heic", ".avif", ".tif", ".tiff", ".bmp", ".gif")
# Tracked files of these formats that show nothing of the dataset: what a network generated, most of it during its
# training, and synthetic faces with a network's boxes on them
TRAININGS = {
    "animals_training": (50, 100, 200, 500, 1000, 2000, 5000, 10000),
    "animals_pixels_training": (500, 1000, 2000, 4000, 6000, 8000, 10000, 14000),
    "animals_own_training": (500, 1000, 2000, 3000, 4500, 7000, 10000, 13000),
}
ALLOWED = {f"00_assets/image/{name}/{step}.webp" for name, steps in TRAININGS.items() for step in steps}
ALLOWED |= {"00_assets/image/animals_own_eight_channels.webp"}
ALLOWED |= {"00_assets/image/noise_to_animals.webp", "00_assets/image/noise_to_animals_still.webp"}
ALLOWED |= {"00_assets/image/answers.webp"}
PLACES = (os.environ.get("ANIMAL_FACES_DIR"), ROOT.parent / "shared" / "animal-faces")


@cache
def repository() -> list[Path]:
    """Every file that is tracked, or would be if it were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so nobody says which files belong to it")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """uint8 (N, 16, 16, 3): the dataset's photographs, where they are."""
    there = [Path(place) for place in PLACES if place and Path(place).exists()]
    if not there:
        pytest.skip("the photographs are not here (ANIMAL_FACES_DIR names their folder), so nothing is compared")
    return photographs_in(there[0])


def test_no_file_of_a_photographic_kind() -> None:
    photographic = {path.relative_to(ROOT).as_posix() for path in repository() if path.suffix.lower() in PHOTOGRAPHIC}
    assert photographic == ALLOWED, (
        "photographs do not belong here; where a file is none, list it in ALLOWED and say why"
    )


def test_no_image_of_the_repository_shows_a_photograph(photographs: np.ndarray) -> None:
    named: list[tuple[str, Image.Image]] = []
    for path in repository():
        named += images_in(path)
    assert len(named) > 200, "the stored outputs alone hold hundreds of images: they were not read"
    copies = Album(photographs).search(named)
    assert not copies, "photographs of the dataset, with their place in the image: " + "; ".join(map(str, copies[:5]))


# Below: what the search finds and what it leaves alone, in a temporary folder.


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """uint8 (48, 3, 64, 64): synthetic faces under film grain stand for photographs, and are always there."""
    cache_dir = tmp_path_factory.mktemp("cache")
    images = load_faces(limit=48, cache_dir=cache_dir, progress=False).images.astype(np.int16)
    grain = np.random.default_rng(0).normal(0, 12, images.shape)
    return (images + grain).clip(0, 255).astype(np.uint8)


def image_of(pixels: np.ndarray) -> Image.Image:
    """(3, H, W) as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(image_of(pixels).resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def recompressed(pixels: np.ndarray) -> Image.Image:
    """Dimmer, paler, and saved as a poor JPEG."""
    pale = ImageEnhance.Contrast(ImageEnhance.Brightness(image_of(pixels)).enhance(0.8)).enhance(0.7)
    file = io.BytesIO()
    pale.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


def touching(images: np.ndarray, columns: int) -> Image.Image:
    """A mosaic without paper between the tiles."""
    rows = [np.concatenate(list(images[start : start + columns]), axis=2) for start in range(0, len(images), columns)]
    return image_of(np.concatenate(rows, axis=1))


def planted(original: np.ndarray, others: np.ndarray) -> dict[str, Image.Image]:
    """One image (3, 64, 64), hidden in every way that a figure or an output could hold it; `others` surround it."""
    eight = np.concatenate([others[:5], original[None], others[5:7]])
    half = np.stack([resized(pixels, 32) for pixels in eight])
    return {
        "whole": image_of(original),
        "mirrored": image_of(original[:, :, ::-1]),
        "half the size": image_of(resized(original, 32)),
        "twice the size": image_of(resized(original, 128)),
        "recompressed": recompressed(original),
        "in a grid": opened(png_bytes(grid(eight, columns=4))),
        "half the size, in a grid": opened(png_bytes(grid(half, columns=8, scale=0.5))),
        "named, in a comparison": opened(png_bytes(compare({"input": eight[:4], "output": eight[4:]}, scale=1.5))),
        "in a mosaic": touching(eight, 4),
        "half the size, in a mosaic": touching(half, 4),
    }


def kept_in_files(image: Image.Image, folder: Path) -> dict[str, Path]:
    """The image in every format of file that can hold an image."""
    file = io.BytesIO()
    image.save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    pixels = np.asarray(image).transpose(2, 0, 1)[None]
    output = {"outputs": [{"data": {"image/png": text[:76] + "\n" + text[76:]}}]}
    widget = {"state": {"value": f'<img alt="a cat" src="data:image/png;base64,{text}">'}}
    paths = {suffix: folder / f"planted.{suffix}" for suffix in ("png", "jpg", "ipynb", "html", "svg", "npz")}
    image.save(paths["png"])
    image.save(paths["jpg"])
    paths["ipynb"].write_text(json.dumps({"cells": [output]}))
    paths["html"].write_text(json.dumps(widget))
    paths["svg"].write_text(f'<svg><image href="data:image/png;base64,{text}"/></svg>')
    np.savez_compressed(paths["npz"], means=pixels)
    return paths


def test_planted_images_are_recognised(faces: np.ndarray) -> None:
    album = Album(np.stack([reduced(image_of(pixels)) for pixels in faces]))
    strangers = np.stack([pixels[:, ::-1] for pixels in faces[:7]])  # upside down: none of the album's
    for way, image in planted(faces[11], strangers).items():
        copies = album.search([(way, image)])
        assert {copy.photograph for copy in copies} == {11}, f"{way}: {copies}"


def test_planted_photographs_are_recognised(photographs: np.ndarray, faces: np.ndarray) -> None:
    """The same with photographs, at the size at which the search keeps them: a file, a grid, an output."""
    album = Album(photographs)
    for row in np.random.default_rng(0).choice(len(photographs), 3, replace=False):
        original = resized(photographs[row].transpose(2, 0, 1), 64)
        ways = planted(original, faces)
        seen = {copy.image for copy in album.search(list(ways.items())) if copy.photograph == row}
        assert seen == set(ways), f"photograph {row} was not recognised: {set(ways) - seen}"


def test_planted_files_are_recognised(faces: np.ndarray, tmp_path: Path) -> None:
    album = Album(np.stack([reduced(image_of(pixels)) for pixels in faces]))
    for suffix, path in kept_in_files(image_of(faces[3]), tmp_path).items():
        copies = album.search(list(images_in(path)))
        assert [copy.photograph for copy in copies] == [3], f"{suffix}: {copies}"


def test_what_is_no_copy_is_left_alone(faces: np.ndarray) -> None:
    """Averages over the album's images, other faces in the same colours, and Chelsea."""
    album = Album(np.stack([reduced(image_of(pixels)) for pixels in faces[:24]]))
    mean = faces[:24].mean(0).astype(np.uint8)
    chelsea = to_uint8(load_chelsea(64))[0].numpy()
    for image in (
        image_of(mean),
        touching(faces[24:], 6),
        opened(png_bytes(grid(faces[24:], columns=6))),
        image_of(chelsea),
        Image.new("RGB", (64, 64), "white"),
    ):
        assert album.search([("harmless", image)]) == []


def test_tiles_are_where_they_were_put(faces: np.ndarray) -> None:
    boxes = tiles(opened(png_bytes(grid(faces[:6], columns=3, scale=1))))
    sides = {(right - left, bottom - top) for left, top, right, bottom in boxes}
    assert len(boxes) >= 6 and (128, 128) in sides
