"""What the course claims about its data: the speed of decoding and of rendering, and that no bad file passes unnoticed.

Speeds are per CPU-second of one thread, so that they mean the same on a busy computer; no photograph is needed.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks.data import loading
from benchmarks.data.jpegs import encode_image, jpegs_like_afhq
from benchmarks.report import Row, at_least
from helpers.data import Faces, load_faces
from helpers.data.faces import CLASS_NAMES
from helpers.data.images import decode
from helpers.data.toy_faces import draw_face, toy_attributes

ORANGE = (230, 120, 40)
Damage = Callable[[Path], object]  # makes a small good collection bad


def check() -> list[Row]:
    """Recompute the claims; half a minute."""
    jpegs = jpegs_like_afhq(24)
    kilobytes = np.mean([len(jpeg) for jpeg in jpegs]) / 1000
    faces = toy_attributes(120, seed=0)
    verdicts = bad_inputs()
    missed = [name for name, verdict in verdicts.items() if verdict]
    handled = len(verdicts) - len(missed)
    return [
        at_least(
            f"512 px JPEG ({kilobytes:.0f} kB) to 64 px, per core",
            _rate(lambda jpeg: decode(jpeg, 64), jpegs * 5),
            700,
            "images/s",
        ),
        at_least("synthetic faces of 64 px, per core", _rate(lambda face: draw_face(face, 64), faces), 150, "faces/s"),
        Row(
            "bad inputs handled as promised" + "".join(f"; not {name}" for name in missed),
            f"{handled}",
            f"{len(verdicts)}",
            not missed,
        ),
        *(comparison.row() for comparison in loading.comparisons()),
    ]


def run() -> None:
    """Time the way from JPEGs to batches beside torchvision's."""
    loading.run()


def _rate(work: Callable, items: Sequence, rounds: int = 5) -> float:
    """Items per CPU-second in the best of some rounds: disturbances only ever slow a measurement."""
    best = 0.0
    for _ in range(rounds):
        start = time.process_time()
        for item in items:
            work(item)
        best = max(best, len(items) / (time.process_time() - start))
    return best


def bad_inputs() -> dict[str, str]:
    """Load each bad input from a folder of its own: by name "" where it was handled as promised, else what happened."""
    unpainted = Image.fromarray(np.full((64, 64), 30000, np.uint16))  # 30000 of 65535 is 117 of 255
    painted = Image.new("RGB", (64, 64), ORANGE)
    inputs = {
        "truncated": lambda: _skips(encode_image(_noise(), "JPEG")[:3000], "truncated"),
        "zero bytes": lambda: _skips(b"", "zero bytes"),
        "not an image": lambda: _skips(b"<html>404 Not Found</html>", "not an image"),
        "one pixel": lambda: _skips(encode_image(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels"),
        "CMYK": lambda: _reads(encode_image(painted.convert("CMYK"), "JPEG"), ORANGE),
        "palette": lambda: _reads(encode_image(painted.quantize(4), "PNG"), ORANGE),
        "16-bit": lambda: _reads(encode_image(unpainted, "PNG"), (117, 117, 117)),
        "EXIF-rotated": _reads_rotated,
        "empty class": lambda: _refuses(_empty_a_class, "dog is empty"),
        "missing class": lambda: _refuses(lambda tree: (tree / "train/wild").rename(tree / "gone"), "wild is missing"),
        "unknown class": lambda: _refuses(lambda tree: (tree / "train/horse").mkdir(), "horse"),
        "unreadable folder": _refuses_unreadable,
        "damaged cache": lambda: _rebuilds(lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x99")),
        "half-written cache": lambda: _rebuilds(lambda path: path.write_bytes(path.read_bytes()[:500])),
    }
    return {name: _verdict(judge) for name, judge in inputs.items()}


def _verdict(judge: Callable[[], str]) -> str:
    try:
        return judge()
    except Exception as error:  # a crash is a verdict too
        return f"{type(error).__name__}: {error}"


def _empty_a_class(tree: Path) -> None:
    for file in (tree / "train/dog").iterdir():
        file.unlink()


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def _tree(folder: Path) -> Path:
    """A collection of eleven images a class: one bad file is less than a tenth of them."""
    for name in CLASS_NAMES:
        (folder / "train" / name).mkdir(parents=True)
        for i in range(11):
            Image.new("RGB", (40, 40), (20 * i, 100, 200)).save(folder / "train" / name / f"{i:02}.png")
    return folder


def _with(spoil: Damage, judge: Callable[[Faces, list[str], Path], str]) -> str:
    """Damage a good collection, load it, and return what `judge` says of the result: "" where all is as promised."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = _tree(Path(folder) / "pictures")
        spoil(tree)
        faces = load_faces("animal-faces", size=16, root=tree, cache_dir=Path(folder) / "cache", progress=False)
        return judge(faces, [str(warning.message) for warning in caught], Path(folder) / "cache")


def _skips(data: bytes, reason: str) -> str:
    """Whether a bad file is left out, counted, named with its reason and warned of."""

    def judge(faces: Faces, warned: list[str], _: Path) -> str:
        named = [
            warning for warning in faces.skipped if warning.path == "train/cat/bad.jpg" and reason in warning.reason
        ]
        good = len(faces) == 33 and len(named) == 1 and any("bad.jpg" in text for text in warned)
        return "" if good else f"{faces}, {faces.skipped}, {warned}"

    return _with(lambda tree: (tree / "train/cat/bad.jpg").write_bytes(data), judge)


def _reads(data: bytes, colour: tuple[int, int, int]) -> str:
    """Whether an unusual file is used, in its right colour (JPEG and palettes are off by a little)."""

    def judge(faces: Faces, *_: object) -> str:
        off = np.abs(faces.images[0].reshape(3, -1).mean(1) - colour).max()
        return "" if len(faces) == 34 and not faces.skipped and off <= 4 else f"{faces}, colours off by {off:.0f}"

    return _with(lambda tree: (tree / "train/cat/00-special.png").write_bytes(data), judge)


def _reads_rotated() -> str:
    """Whether an image stored on its side comes out upright: here, with the white half on top."""
    stored = np.zeros((64, 64, 3), np.uint8)
    stored[:, :32] = 255  # white left; orientation 6 says: turn clockwise to view
    exif = Image.Exif()
    exif[274] = 6

    def judge(faces: Faces, *_: object) -> str:
        top = faces.images[0][:, :6].mean()
        bottom = faces.images[0][:, 10:].mean()
        return "" if top > 250 and bottom < 5 else f"top {top:.0f}, bottom {bottom:.0f}"

    data = encode_image(Image.fromarray(stored), "JPEG", exif=exif)
    return _with(lambda tree: (tree / "train/cat/00-special.jpg").write_bytes(data), judge)


def _refuses(spoil: Damage, message: str, error: type[Exception] = ValueError) -> str:
    """Whether a bad collection raises an error that says what is wrong."""
    try:
        return _with(spoil, lambda faces, *_: f"no error: {faces}")
    except error as caught:
        return "" if message in str(caught) else f"unclear: {caught}"


def _refuses_unreadable() -> str:
    """Whether a folder that cannot be listed is refused; simulated, because an administrator may list everything."""

    def scandir(folder: Path) -> object:
        if folder.name == "dog":
            raise PermissionError(13, "Permission denied")
        return os.scandir(folder)

    with mock.patch("helpers.data.collection.os", SimpleNamespace(scandir=scandir)):
        return _refuses(lambda tree: None, "dog cannot be read", PermissionError)


def _rebuilds(damage: Callable[[Path], object]) -> str:
    """Whether a damaged cache is built anew, with a warning, and holds the same pixels as before."""

    def judge(faces: Faces, _: list[str], cache: Path) -> str:
        before = np.array(faces.images)
        damage(next(cache.glob("*.npy")))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rebuilt = load_faces(
                "animal-faces", size=16, root=cache.parent / "pictures", cache_dir=cache, progress=False
            )
        warned = any("damaged" in str(warning.message) for warning in caught)
        return "" if warned and np.array_equal(before, rebuilt.images) else f"warned: {warned}, {rebuilt}"

    return _with(lambda tree: None, judge)
