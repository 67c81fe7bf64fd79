"""From the bytes of a picture file to uint8 pixels: every kind of file that people have, or a reason why not."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from helpers.course import cpu_count
from helpers.data.faces import Skipped

Image.init()  # loads Pillow's formats, which it otherwise does at first use: not safe in several threads at once

DECODER_VERSION = 1  # raise it when the pixels change: caches are then made anew
SMALLEST_SIDE = 8  # pixels; less is not a picture of anything
MOST_PIXELS = 80_000_000  # a decompression bomb needs few bytes and much memory
MOST_BYTES = 64 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # not EPS and the like, which start other programs
PIECE = 256  # pictures decoded between two ticks of the progress bar
_UPRIGHT = {  # EXIF orientation (tag 274) to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Entry(NamedTuple):
    """A file that should be a picture."""

    path: str  # inside the folder or zip, with /
    bytes: int
    label: int


class BadPictureError(Exception):
    """A file that cannot be used; the message says why, without naming the file."""


def decode(data: bytes, size: int) -> np.ndarray:
    """The picture as uint8 (3, size, size), upright, RGB, cropped to its central square and resized with antialiasing.

    CMYK, palette, grey and 1-bit pictures become RGB; 16-bit grey is scaled (not cut) to 8; what is transparent lies
    on white. JPEG is decoded at the smallest of libjpeg's scales that leaves twice the size wanted, so that the
    antialiasing bicubic filter still decides how the result looks: twice as fast, within 1/255 on average.

    Raises:
        BadPictureError: for anything else.
    """
    if not data:
        raise BadPictureError("zero bytes")
    if len(data) > MOST_BYTES:
        raise BadPictureError(f"{len(data) / 2**20:.0f} MiB, more than the {MOST_BYTES // 2**20} MiB allowed")
    try:
        return _decode(data, size)
    except (BadPictureError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise BadPictureError(f"not a picture (it begins with {data[:8]!r})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPictureError(f"too many pixels: {error}") from None
    except Exception as error:  # on malformed files Pillow raises nearly anything: OSError, SyntaxError, struct.error
        reason = "truncated" if "truncated" in str(error).lower() else "cannot be decoded"
        raise BadPictureError(f"{reason} ({type(error).__name__}: {error})") from None


def _decode(data: bytes, size: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = picture.size
    if min(width, height) < SMALLEST_SIDE:
        raise BadPictureError(f"{width}x{height} pixels; at least {SMALLEST_SIDE} a side are needed")
    if width * height > MOST_PIXELS:
        raise BadPictureError(f"too many pixels: {width}x{height}")
    orientation = picture.getexif().get(274)
    picture.draft(None, (2 * size, 2 * size))  # JPEG only; never below what is asked for, on either side
    picture = _to_rgb(picture)
    side = min(picture.size)
    left = (picture.width - side) / 2
    top = (picture.height - side) / 2
    picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if orientation in _UPRIGHT:  # after resizing: cheap, and the central square is the same either way
        picture = picture.transpose(_UPRIGHT[orientation])
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Any picture of Pillow's as RGB, turned as its camera was held. Raises BadPictureError for pixels in floats."""
    turn = _UPRIGHT.get(picture.getexif().get(274))
    picture = _to_rgb(picture)
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        picture.load()
        return picture
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _deep_grey(picture).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _deep_grey(picture: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits: Pillow's own conversion would cut every value above 255 to white."""
    if picture.mode == "F":
        raise BadPictureError("floating-point pixels (mode F), whose range nobody states")
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadPictureError(f"pixel values {values.min()}..{values.max()}, outside 16 bits")
    return Image.fromarray((values / 257).round().astype(np.uint8))  # 65535 = 255 * 257


def native_size(data: bytes) -> int | None:
    """The shorter side of a picture in pixels, read from its header; None if it is not a picture."""
    try:
        return min(Image.open(io.BytesIO(data), formats=FORMATS).size)
    except Exception:  # whatever is wrong with it, `decode` will say so
        return None


def decode_all(
    entries: Sequence[Entry], read: Callable[[Entry], bytes], size: int, skipped: list[Skipped], progress: bool
) -> Iterator[np.ndarray]:
    """The pictures in order, in pieces uint8 (n, 3, size, size); what cannot be used is appended to `skipped`.

    Threads, not processes: Pillow and zlib let go of the interpreter while they work, and threads work anywhere.

    Args:
        read: the bytes of an entry; may raise BadPictureError, or OSError for a file that cannot be read.
    """
    from tqdm.auto import tqdm

    def one(entry: Entry) -> np.ndarray | Skipped:
        try:
            return decode(read(entry), size)
        except BadPictureError as bad:
            return Skipped(entry.path, str(bad))
        except OSError as error:
            return Skipped(entry.path, f"cannot be read ({error.strerror or error})")

    with (
        ThreadPoolExecutor(cpu_count()) as pool,
        tqdm(total=len(entries), desc=f"decoding to {size} px", unit=" pictures", disable=not progress) as bar,
    ):
        for start in range(0, len(entries), PIECE):
            results = list(pool.map(one, entries[start : start + PIECE]))
            skipped += [result for result in results if isinstance(result, Skipped)]
            good = [result for result in results if not isinstance(result, Skipped)]
            bar.update(len(results))
            if good:
                yield np.stack(good)
