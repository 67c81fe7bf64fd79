"""The one reader of images: every format and mode that people have becomes upright RGB or a mask, or a reason why not.

Training data, the image and the mask of Stable Diffusion, and the images of the vision-language models all come here.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from helpers.course import cpu_count
from helpers.data.faces import Skipped
from helpers.data.sizes import Size, height_and_width, size_text

Image.init()  # loads Pillow's formats, which it otherwise does at first use: not safe in several threads at once

DECODER_VERSION = 2  # raise it when the pixels change: caches are then built anew
MIN_SIDE = 8  # pixels; nothing can be recognised in fewer
MAX_PIXELS = 80_000_000  # a decompression bomb needs few bytes and much memory
MAX_BYTES = 64 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # not EPS and the like, which start other programs
CHUNK = 256  # images decoded between two updates of the progress bar
ORIENTATION = 274  # number of the EXIF tag
ImageSource = str | Path | Image.Image
Pixels = TypeVar("Pixels")
_UPRIGHT = {  # EXIF orientation -> the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = tuple(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))  # height and width change places


class Entry(NamedTuple):
    """A file that should be an image."""

    path: str  # inside the folder or zip, with /
    bytes: int
    label: int


class BadImageError(Exception):
    """A file that cannot be used; the message says why, without naming the file."""


def decode(data: bytes, size: Size) -> np.ndarray:
    """Decode an image file to uint8 (3, H, W): upright, RGB, the largest central part of this shape, resized.

    CMYK, palette, grey and 1-bit images become RGB; 16-bit grey is scaled (not clipped) to 8 bits; transparent parts
    are blended with white. Resizing is antialiased. JPEG is decoded at the smallest of libjpeg's scales that is at
    least twice `size`, so that the bicubic filter still decides how the result looks: twice as fast, within 1/255 on
    average.

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


def _decode(data: bytes, size: Size) -> np.ndarray:
    opened = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = opened.size
    if min(width, height) < MIN_SIDE:
        raise BadImageError(f"{width}x{height} pixels; at least {MIN_SIDE} a side are needed")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"too many pixels: {width}x{height}")
    height, width = height_and_width(size)
    longer = max(height, width)
    opened.draft(None, (2 * longer, 2 * longer))  # JPEG only; never smaller than this, on either side
    turn = _turn(opened)
    image = _to_rgb(opened)
    if turn in _LYING:
        height, width = width, height
    image = image.resize((width, height), Image.Resampling.BICUBIC, box=central_box(image.size, height, width))
    if turn is not None:  # after resizing: cheap, and the central part is the same either way
        image = image.transpose(turn)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def central_box(size: tuple[int, int], height: int, width: int) -> tuple[float, float, float, float]:
    """The largest box of this shape in the middle of an image: left, top, right, bottom.

    Args:
        size: width and height of the image.
        height, width: the shape, in any unit.
    """
    image_width, image_height = size
    box_width = min(image_width, image_height * width / height)
    box_height = min(image_height, image_width * height / width)
    left = (image_width - box_width) / 2
    top = (image_height - box_height) / 2
    return left, top, left + box_width, top + box_height


# --- opened images --------------------------------------------------------------------------------------------------


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to RGB, turned as its camera was held, transparent parts on white.

    Raises:
        BadImageError: for pixels in floats, and for an image that is empty or cannot be read to its end.
    """
    turn = _load(image)
    image = _to_rgb(image)
    return image if turn is None else image.transpose(turn)


def upright_mask(image: Image.Image) -> np.ndarray:
    """Convert any Pillow image to a mask, float32 (H, W) in [0, 1], turned as `upright_rgb` does.

    Values of 0 and 1 alone are a mask of zeros and ones: as grey levels, none of them could be told from black.
    Transparent parts are blended with white, with a warning, for a mask drawn on a transparent ground means the
    opposite.

    Raises:
        BadImageError: as `upright_rgb`.
    """
    turn = _load(image)
    if turn is not None:
        image = image.transpose(turn)
    if _has_transparency(image) and (share := _transparent_share(image)):
        warnings.warn(
            f"the mask is transparent in {share:.0%} of its pixels, which count as white; flatten it onto black "
            "if they should count as black",
            stacklevel=2,
        )
    rgb = _to_rgb(image)
    values = np.asarray(image if image.mode.startswith("I") else rgb)
    if values.min() == 0 and values.max() == 1 or (values == 1).all():
        is_one = values == 1
        return (is_one if is_one.ndim == 2 else is_one.any(axis=2)).astype(np.float32)
    return np.asarray(rgb.convert("L")).astype(np.float32) / 255


def _load(image: Image.Image) -> Image.Transpose | None:
    """Read the pixels to their end; returns what turns them upright. Raises BadImageError."""
    if not min(image.size):
        raise BadImageError(f"it has no pixels ({image.width}x{image.height})")
    try:
        return _turn(image)
    except Exception as error:  # on malformed files Pillow raises nearly anything
        raise BadImageError(f"it cannot be read to its end ({type(error).__name__}: {error})") from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Load the pixels; returns the transposition that still turns them upright, or None.

    In this order: Pillow turns a TIFF while it loads it, and finds the tag of some PNG files only behind the pixels.
    """
    image.load()
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data: the pixels are as good as without
        orientation = None
    return None if orientation is None else _UPRIGHT.get(orientation)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, transparent parts on white; the image itself, loaded, if it is plain RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if _has_transparency(image):
        image = _to_rgba(image)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError:
        raise BadImageError(f"mode {image.mode}, of which there is no conversion to RGB") from None


def _to_rgba(image: Image.Image) -> Image.Image:
    """An image with transparency, in whatever form, as RGBA."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _has_transparency(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")


def _transparent_share(image: Image.Image) -> float:
    """The share of pixels that are not fully opaque."""
    if image.mode.startswith("I"):
        return float((np.asarray(image) == image.info["transparency"]).mean())
    return float((np.asarray(_to_rgba(image).getchannel("A")) < 255).mean())


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits to 8 bits: Pillow's own conversion would clip every value above 255 to white.

    In 32 bits (mode I), values up to 255 are grey levels of 8 bits, larger ones of 16.
    """
    if image.mode == "F":
        raise BadImageError("floating-point pixels (mode F), whose range nobody states")
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError(f"pixel values {values.min()}..{values.max()}, outside 16 bits")
    if image.mode == "I" and values.max() <= 255:
        values = values * 257
    if isinstance(transparent := image.info.get("transparency"), int):
        values = np.where(values == transparent, 65535, values)
    return Image.fromarray((values / 257).round().astype(np.uint8))  # 65535 = 255 * 257


def read_image(source: ImageSource, name: str, convert: Callable[[Image.Image], Pixels]) -> Pixels:
    """Open the image that someone named, and convert it.

    Args:
        source: a file or a PIL image.
        name: what messages call it, such as "the mask".
        convert: `upright_rgb`, `upright_mask` or what builds on them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for one that cannot be used.
    """
    label = name if isinstance(source, Image.Image) else f"{name} {source}"
    try:
        if isinstance(source, Image.Image):
            return convert(source)
        with Image.open(Path(source).expanduser(), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError(f"{image.width}x{image.height} are too many pixels")
            return convert(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{label}: there is no such file") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{label}: this is no image ({', '.join(FORMATS)})") from None
    except (BadImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{label}: {error}") from error
    except OSError as error:
        raise ValueError(f"{label}: cannot be read ({error.strerror or error})") from error


# --- files ----------------------------------------------------------------------------------------------------------


def native_size(data: bytes) -> int | None:
    """Return the shorter side of an image in pixels, read from its header; None if it is not an image."""
    try:
        return min(Image.open(io.BytesIO(data), formats=FORMATS).size)
    except Exception:  # whatever is wrong with it, `decode` will say so
        return None


def decode_all(
    entries: Sequence[Entry], read: Callable[[Entry], bytes], size: Size, skipped: list[Skipped], progress: bool
) -> Iterator[np.ndarray]:
    """Decode files in order, yielding chunks uint8 (n, 3, H, W); those that cannot be used go to `skipped`.

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
        tqdm(total=len(entries), desc=f"decoding to {size_text(size)} px", unit=" images", disable=not progress) as bar,
    ):
        for start in range(0, len(entries), CHUNK):
            results = list(pool.map(decode_entry, entries[start : start + CHUNK]))
            skipped += [result for result in results if isinstance(result, Skipped)]
            images = [result for result in results if not isinstance(result, Skipped)]
            bar.update(len(results))
            if images:
                yield np.stack(images)
