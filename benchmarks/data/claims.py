"""What the course claims about its data: decoding and drawing speed, and that no bad file gets past unnoticed.

Speeds are per CPU-second of one thread, so that they mean the same on a busy computer; no real picture is needed.
"""

import io
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
from benchmarks.report import Row, at_least
from helpers.data import Faces, load_faces
from helpers.data.faces import CLASS_NAMES
from helpers.data.images import decode
from helpers.data.toy_faces import draw_face, toy_attributes

ORANGE = (230, 120, 40)
Bad = Callable[[Path], None]  # spoils a small good collection


def check() -> list[Row]:
    """Recompute the claims; half a minute."""
    jpegs = jpegs_like_afhq(24)
    kilobytes = np.mean([len(jpeg) for jpeg in jpegs]) / 1000
    faces = toy_attributes(120, seed=0)
    verdicts = bad_inputs()
    missed = [kind for kind, verdict in verdicts.items() if verdict]
    handled = len(verdicts) - len(missed)
    return [
        at_least(
            f"512 px JPEG ({kilobytes:.0f} kB) to 64 px, per core",
            _rate(lambda one: decode(one, 64), jpegs * 5),
            700,
            "images/s",
        ),
        at_least("drawn faces of 64 px, per core", _rate(lambda one: draw_face(one, 64), faces), 150, "faces/s"),
        Row(
            "kinds of bad input handled" + "".join(f"; not {kind}" for kind in missed),
            f"{handled}",
            f"{len(verdicts)}",
            not missed,
        ),
        *(one.row() for one in loading.comparisons()),
    ]


def run() -> None:
    """Time the way from JPEGs to batches beside torchvision's."""
    loading.run()


def _rate(work: Callable, items: Sequence, rounds: int = 5) -> float:
    """Items per CPU-second, the best of some rounds: what disturbs a measurement only ever slows it."""
    best = 0.0
    for _ in range(rounds):
        start = time.process_time()
        for item in items:
            work(item)
        best = max(best, len(items) / (time.process_time() - start))
    return best


def jpegs_like_afhq(count: int) -> list[bytes]:
    """512 px JPEGs of about 50 kB, as AFHQ's are (0.73 GB / 16,130): drawn faces under photographic grain."""
    rng = np.random.default_rng(0)
    jpegs = []
    for face in toy_attributes(count, seed=0):
        grain = Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)).resize((512, 512))
        pixels = draw_face(face, 512).transpose(1, 2, 0) + 0.08 * (np.asarray(grain, np.float32)[..., None] - 127)
        jpegs.append(_encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=88))
    return jpegs


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def bad_inputs() -> dict[str, str]:
    """Every kind of bad input, met in a folder made for it: "" where it was handled as promised, else what happened."""
    unpainted = Image.fromarray(np.full((64, 64), 30000, np.uint16))  # 30000 of 65535 is 117 of 255
    painted = Image.new("RGB", (64, 64), ORANGE)
    kinds = {
        "truncated": lambda: _skips(_encoded(_noise(), "JPEG")[:3000], "truncated"),
        "zero bytes": lambda: _skips(b"", "zero bytes"),
        "not a picture": lambda: _skips(b"<html>404 Not Found</html>", "not a picture"),
        "one pixel": lambda: _skips(_encoded(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels"),
        "CMYK": lambda: _reads(_encoded(painted.convert("CMYK"), "JPEG"), ORANGE),
        "palette": lambda: _reads(_encoded(painted.quantize(4), "PNG"), ORANGE),
        "16-bit": lambda: _reads(_encoded(unpainted, "PNG"), (117, 117, 117)),
        "EXIF-rotated": _reads_rotated,
        "empty class": lambda: _refuses(_empty_a_class, "dog is empty"),
        "missing class": lambda: _refuses(lambda tree: (tree / "train/wild").rename(tree / "gone"), "wild is missing"),
        "unknown class": lambda: _refuses(lambda tree: (tree / "train/horse").mkdir(), "horse"),
        "unreadable folder": _refuses_unreadable,
        "damaged cache": lambda: _rebuilds(lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x99")),
        "half-written cache": lambda: _rebuilds(lambda path: path.write_bytes(path.read_bytes()[:500])),
    }
    return {kind: _verdict(judge) for kind, judge in kinds.items()}


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
    """Eleven pictures a class, so that one bad one is less than a tenth."""
    for name in CLASS_NAMES:
        (folder / "train" / name).mkdir(parents=True)
        for i in range(11):
            Image.new("RGB", (40, 40), (20 * i, 100, 200)).save(folder / "train" / name / f"{i:02}.png")
    return folder


def _with(spoil: Bad, judge: Callable[[Faces, list[str], Path], str]) -> str:
    """Spoil a good collection, load it, and let `judge` say "" or what is wrong with what came."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = _tree(Path(folder) / "pictures")
        spoil(tree)
        faces = load_faces("animal-faces", size=16, root=tree, cache_dir=Path(folder) / "cache", progress=False)
        return judge(faces, [str(one.message) for one in caught], Path(folder) / "cache")


def _skips(data: bytes, reason: str) -> str:
    """Left out, counted, named with its reason, and warned of."""

    def judge(faces: Faces, warned: list[str], _: Path) -> str:
        named = [one for one in faces.skipped if one.path == "train/cat/bad.jpg" and reason in one.reason]
        good = len(faces) == 33 and len(named) == 1 and any("bad.jpg" in text for text in warned)
        return "" if good else f"{faces}, {faces.skipped}, {warned}"

    return _with(lambda tree: (tree / "train/cat/bad.jpg").write_bytes(data), judge)


def _reads(data: bytes, colour: tuple[int, int, int]) -> str:
    """Used, in its right colour (JPEG and palettes are off by a little)."""

    def judge(faces: Faces, *_: object) -> str:
        off = np.abs(faces.images[0].reshape(3, -1).mean(1) - colour).max()
        return "" if len(faces) == 34 and not faces.skipped and off <= 4 else f"{faces}, colours off by {off:.0f}"

    return _with(lambda tree: (tree / "train/cat/00-special.png").write_bytes(data), judge)


def _reads_rotated() -> str:
    """A picture stored on its side comes out upright: here, the white half on top."""
    stored = np.zeros((64, 64, 3), np.uint8)
    stored[:, :32] = 255  # white left; orientation 6 says: turn clockwise to view
    exif = Image.Exif()
    exif[274] = 6

    def judge(faces: Faces, *_: object) -> str:
        top = faces.images[0][:, :6].mean()
        bottom = faces.images[0][:, 10:].mean()
        return "" if top > 250 and bottom < 5 else f"top {top:.0f}, bottom {bottom:.0f}"

    data = _encoded(Image.fromarray(stored), "JPEG", exif=exif)
    return _with(lambda tree: (tree / "train/cat/00-special.jpg").write_bytes(data), judge)


def _refuses(spoil: Bad, words: str, error: type[Exception] = ValueError) -> str:
    """An error that says what was wrong."""
    try:
        return _with(spoil, lambda faces, *_: f"no error: {faces}")
    except error as caught:
        return "" if words in str(caught) else f"unclear: {caught}"


def _refuses_unreadable() -> str:
    """A folder that the system will not list; simulated, because an administrator may list everything."""

    def scandir(folder: Path) -> object:
        if folder.name == "dog":
            raise PermissionError(13, "Permission denied")
        return os.scandir(folder)

    with mock.patch("helpers.data.collection.os", SimpleNamespace(scandir=scandir)):
        return _refuses(lambda tree: None, "dog cannot be read", PermissionError)


def _rebuilds(damage: Callable[[Path], object]) -> str:
    """A cache that was damaged is built anew, with a warning, and holds the same pixels as before."""

    def judge(faces: Faces, _: list[str], cache: Path) -> str:
        before = np.array(faces.images)
        damage(next(cache.glob("*.npy")))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = load_faces("animal-faces", size=16, root=cache.parent / "pictures", cache_dir=cache, progress=False)
        warned = any("damaged" in str(one.message) for one in caught)
        return "" if warned and np.array_equal(before, again.images) else f"warned: {warned}, {again}"

    return _with(lambda tree: None, judge)
