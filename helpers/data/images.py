"""Decode the bytes of image files to uint8 pixels: every format and mode that people have, or a reason why not."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from helpers.course import cpu_count
from helpers.data.faces import Skipped

Image.init()  # loads Pillow's formats, which it otherwise does at first use: not safe in several threads at once

DECODER_VERSION = 1  # raise it when the pixels change: caches are then built anew
MIN_SIDE = 8  # pixels; nothing can be recognised in fewer
MAX_PIXELS = 80_000_000  # a decompression bomb needs few bytes and much memory
MAX_BYTES = 64 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # not EPS and the like, which start other programs
CHUNK = 256  # images decoded between two updates of the progress bar
ORIENTATION = 274  # number of the EXIF tag
_UPRIGHT = {  # EXIF orientation -> the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Entry(NamedTuple):
    """A file that should be an image."""

    path: str  # inside the folder or zip, with /
    bytes: int
    label: int


class BadImageError(Exception):
    """A file that cannot be used; the message says why, without naming the file."""


def decode(data: bytes, size: int) -> np.ndarray:
    """Decode an image file to uint8 (3, size, size): upright, RGB, central square, resized with antialiasing.

    CMYK, palette, grey and 1-bit images become RGB; 16-bit grey is scaled (not clipped) to 8 bits; transparent parts
    are blended with white. JPEG is decoded at the smallest of libjpeg's scales that is at least twice `size`, so that
    the bicubic filter still decides how the result looks: twice as fast, within 1/255 on average.

    Raises:
        BadImageError: for anything else.
    """
    if not data:
        raise BadImageError("zero bytes")
    if len(data) > MAX_BYTES:
        raise BadImageError(f"{len(data) / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB allowed")
    try:
        return _decode(data, size)
    except (BadImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise BadImageError(f"not an image (it begins with {data[:8]!r})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"too many pixels: {error}") from None
    except Exception as error:  # on malformed files Pillow raises nearly anything: OSError, SyntaxError, struct.error
        reason = "truncated" if "truncated" in str(error).lower() else "cannot be decoded"
        raise BadImageError(f"{reason} ({type(error).__name__}: {error})") from None


def _decode(data: bytes, size: int) -> np.ndarray:
    opened = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = opened.size
    if min(width, height) < MIN_SIDE:
        raise BadImageError(f"{width}x{height} pixels; at least {MIN_SIDE} a side are needed")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"too many pixels: {width}x{height}")
    orientation = opened.getexif().get(ORIENTATION)
    opened.draft(None, (2 * size, 2 * size))  # JPEG only; never smaller than this, on either side
    image = _to_rgb(opened)
    side = min(image.size)
    left = (image.width - side) / 2
    top = (image.height - side) / 2
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if orientation in _UPRIGHT:  # after resizing: cheap, and the central square is the same either way
        image = image.transpose(_UPRIGHT[orientation])
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to RGB, turned as its camera was held. Raises BadImageError for pixels in floats."""
    orientation = image.getexif().get(ORIENTATION)
    image = _to_rgb(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, transparent parts on white; the image itself, loaded, if it is plain RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits: Pillow's own conversion would clip every value above 255 to white."""
    if image.mode == "F":
        raise BadImageError("floating-point pixels (mode F), whose range nobody states")
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError(f"pixel values {values.min()}..{values.max()}, outside 16 bits")
    return Image.fromarray((values / 257).round().astype(np.uint8))  # 65535 = 255 * 257


def native_size(data: bytes) -> int | None:
    """Return the shorter side of an image in pixels, read from its header; None if it is not an image."""
    try:
        return min(Image.open(io.BytesIO(data), formats=FORMATS).size)
    except Exception:  # whatever is wrong with it, `decode` will say so
        return None


def decode_all(
    entries: Sequence[Entry], read: Callable[[Entry], bytes], size: int, skipped: list[Skipped], progress: bool
) -> Iterator[np.ndarray]:
    """Decode files in order, yielding chunks uint8 (n, 3, size, size); those that cannot be used go to `skipped`.

    Threads, not processes: Pillow and zlib release the interpreter lock while they work, and threads work anywhere.

    Args:
        read: returns the bytes of an entry; may raise BadImageError, or OSError for a file that cannot be read.
        skipped: is appended to.
    """
    from tqdm.auto import tqdm

    def decode_entry(entry: Entry) -> np.ndarray | Skipped:
        try:
            return decode(read(entry), size)
        except BadImageError as error:
            return Skipped(entry.path, str(error))
        except OSError as error:
            return Skipped(entry.path, f"cannot be read ({error.strerror or error})")

    with (
        ThreadPoolExecutor(cpu_count()) as pool,
        tqdm(total=len(entries), desc=f"decoding to {size} px", unit=" images", disable=not progress) as bar,
    ):
        for start in range(0, len(entries), CHUNK):
            results = list(pool.map(decode_entry, entries[start : start + CHUNK]))
            skipped += [result for result in results if isinstance(result, Skipped)]
            images = [result for result in results if not isinstance(result, Skipped)]
            bar.update(len(results))
            if images:
                yield np.stack(images)
