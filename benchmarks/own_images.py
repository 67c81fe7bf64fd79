"""Images of one's own: generated and repeated from what their PNGs remember, and trained on from every layout.

PaliGemma 2, which answers questions about them, is compared with transformers, and trainings with planted faults are
examined by the doctor.

python -m benchmarks check own_images    # a quarter of an hour
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks import doctor
from benchmarks.data import planted
from benchmarks.own_layouts import rows
from benchmarks.paligemma.parity import paligemma2_rows
from benchmarks.report import Row, claim
from helpers.data.images import ORIENTATION
from helpers.data.toy_faces import draw_face, toy_attributes
from helpers.generate.__main__ import main

CAPTION = "a striped orange cat with green eyes on a blue background"
FROM_PHOTO = ["--init", "photo.jpg"]
CASES: dict[str, list[str]] = {  # what is special about an image -> its command line
    "class": ["cat"],
    "any class": [""],
    "photographs, pixels": ["dog", "--model", "tiny_sd_animals_pixels", "--steps", "4"],
    "photographs, our own latents": ["wild", "--model", "tiny_sd_animals_own", "--steps", "4"],
    "caption, pixels": [CAPTION, "--model", "tiny_sd_pixels", "--steps", "3"],
    "caption, pretrained latents": [CAPTION, "--model", "tiny_sd_pretrained", "--steps", "3"],
    "caption, our own latents": [CAPTION, "--model", "tiny_sd_own", "--steps", "3"],
    "ddpm": ["cat", "--sampler", "ddpm", "--steps", "3", "--seed", "7"],
    "euler_ancestral": [CAPTION, "--model", "tiny_sd_own", "--sampler", "euler_ancestral", "--steps", "3"],
    "lms": [CAPTION, "--model", "tiny_sd_own", "--sampler", "lms", "--steps", "4"],
    "heun": ["wild", "--sampler", "heun", "--steps", "2"],
    "Stable Diffusion 1": [CAPTION, "--model", "sd1", "--steps", "3"],
    "Stable Diffusion 3": [CAPTION, "--model", "sd3", "--steps", "3"],
    "no guidance": [CAPTION, "--model", "sd1", "--steps", "3", "--guidance-scale", "1"],
    "negative prompt": ["a dog", "--model", "sd3", "--steps", "3", "--negative-prompt", "a blue background"],
    "size": [CAPTION, "--model", "sd1", "--steps", "2", "--size", "96x64", "--clip-skip", "1"],
    "shift": [CAPTION, "--model", "sd3", "--steps", "3", "--shift", "3"],
    "image to image": [CAPTION, "--model", "sd1", "--steps", "5", *FROM_PHOTO, "--strength", "0.6"],
    "image to image, unchanged": [CAPTION, "--model", "sd3", "--steps", "3", *FROM_PHOTO, "--strength", "0"],
    "inpainting": [CAPTION, "--model", "sd3", "--steps", "4", *FROM_PHOTO, "--mask", "mask.png", "--strength", "1"],
}


def write_inputs(folder: Path) -> None:
    """Write `photo.jpg`, a synthetic face that EXIF says to turn, and `mask.png`, white in the middle when upright."""
    face = Image.fromarray(draw_face(toy_attributes(1, seed=3)[0], 120).transpose(1, 2, 0))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by a quarter
    face.crop((0, 0, 120, 90)).transpose(Image.Transpose.ROTATE_90).save(folder / "photo.jpg", exif=exif, quality=95)
    mask = Image.new("L", (120, 90))
    ImageDraw.Draw(mask).rectangle((40, 30, 80, 60), fill=255)
    mask.save(folder / "mask.png")


def run(folder: Path, arguments: list[str]) -> list[Path]:
    """Run the command; returns the files that it wrote. Raises RuntimeError where it fails."""
    files = [str(folder / part) if part in ("photo.jpg", "mask.png") else part for part in arguments]
    output = folder / "generated"
    before = set(output.glob("*"))
    with redirect_stdout(io.StringIO()) as printed:
        status = main([*files, "--out", str(output)])
    if status:
        raise RuntimeError(f"{' '.join(arguments)} ended with {status}: {printed.getvalue()}")
    return sorted(set(output.glob("*")) - before)


def is_repeated(folder: Path, arguments: list[str]) -> bool:
    """Whether an image is byte for byte the same when it is generated from its own PNG."""
    (first,) = run(folder, arguments)
    (second,) = run(folder, ["--again", str(first), *_inputs_of(arguments)])
    return first.read_bytes() == second.read_bytes()


def _inputs_of(arguments: list[str]) -> Iterator[str]:
    for option, value in zip(arguments, arguments[1:]):
        if option in ("--init", "--mask"):
            yield from (option, value)


def check() -> list[Row]:
    """Generate and repeat all images; train on every layout of images; compare PaliGemma 2."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        repeated = [is_repeated(folder, arguments) for arguments in CASES.values()]
    measured = f"{sum(repeated)} of {len(repeated)}"
    images = claim("images repeated from their PNGs byte for byte", measured, "every one", all(repeated))
    return [images, *rows(), *planted.rows(), *doctor.rows(), *paligemma2_rows()]
