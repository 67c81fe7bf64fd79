"""Every format and mode of an image file becomes right pixels, or a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.data import images
from helpers.data.images import BadImageError, decode

ORANGE = (230, 120, 40)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise(width: int = 96, height: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def colour_of(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(3, -1).mean(1)


def deep(value: int) -> Image.Image:
    return Image.fromarray(np.full((32, 32), value, np.uint16))


def palette_with_a_hole() -> bytes:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([*ORANGE, 0, 0, 0])
    return encoded(image, "PNG", transparency=0)


PAINTED = Image.new("RGB", (32, 32), ORANGE)
RIGHT = {
    "JPEG": (encoded(PAINTED, "JPEG"), ORANGE),
    "progressive JPEG": (encoded(PAINTED, "JPEG", progressive=True), ORANGE),
    "PNG": (encoded(PAINTED, "PNG"), ORANGE),
    "WebP": (encoded(PAINTED, "WEBP", lossless=True), ORANGE),
    "BMP": (encoded(PAINTED, "BMP"), ORANGE),
    "CMYK JPEG": (encoded(PAINTED.convert("CMYK"), "JPEG"), ORANGE),
    "CMYK TIFF": (encoded(PAINTED.convert("CMYK"), "TIFF"), ORANGE),
    "palette": (encoded(PAINTED.quantize(4), "PNG"), ORANGE),
    "GIF": (encoded(PAINTED.quantize(4), "GIF"), ORANGE),
    "palette, transparent": (palette_with_a_hole(), (255, 255, 255)),
    "grey": (encoded(Image.new("L", (32, 32), 77), "PNG"), (77, 77, 77)),
    "grey JPEG": (encoded(Image.new("L", (32, 32), 77), "JPEG"), (77, 77, 77)),
    "grey with alpha": (encoded(Image.new("LA", (32, 32), (0, 128)), "PNG"), (127, 127, 127)),
    "one bit": (encoded(Image.new("1", (32, 32), 1), "PNG"), (255, 255, 255)),
    "16-bit": (encoded(deep(30000), "PNG"), (117, 117, 117)),
    "16-bit white": (encoded(deep(65535), "PNG"), (255, 255, 255)),
    "16-bit TIFF": (encoded(deep(300), "TIFF"), (1, 1, 1)),
    "transparent": (encoded(Image.new("RGBA", (32, 32), (*ORANGE, 0)), "PNG"), (255, 255, 255)),
    "half transparent": (encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 128)), "PNG"), (127, 127, 127)),
    "opaque RGBA": (encoded(Image.new("RGBA", (32, 32), (*ORANGE, 255)), "PNG"), ORANGE),
    "YCbCr JPEG": (encoded(Image.new("RGB", (32, 32), ORANGE).convert("YCbCr"), "JPEG"), ORANGE),
}


@pytest.mark.parametrize(("data", "colour"), RIGHT.values(), ids=RIGHT.keys())
def test_every_mode_keeps_its_colour(data: bytes, colour: tuple[int, int, int]) -> None:
    pixels = decode(data, 16)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.abs(colour_of(pixels) - colour).max() <= 4


def bomb() -> bytes:
    """A PNG header that promises 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


WRONG = {
    "zero bytes": (b"", "zero bytes"),
    "a web page": (b"<!DOCTYPE html><html>", "not an image .*<!DOC"),
    "truncated JPEG": (encoded(noise(), "JPEG")[:2000], "truncated"),
    "truncated PNG": (encoded(noise(), "PNG")[:2000], "truncated"),
    "only a JPEG's beginning": (encoded(noise(), "JPEG")[:20], "."),
    "one pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels; at least 8"),
    "a sliver": (encoded(Image.new("RGB", (300, 7)), "JPEG"), "300x7 pixels"),
    "a bomb": (bomb(), "too many pixels"),
    "floating point": (encoded(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF"), "floating-point"),
    "32-bit": (encoded(Image.fromarray(np.full((16, 16), 1 << 20, np.int32)), "TIFF"), "outside 16 bits"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize(("data", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_used_gets_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode(data, 16)


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(BadImageError, match="more than the"):
        decode(encoded(noise(), "PNG"), 16)


@pytest.mark.filterwarnings("ignore")  # Pillow comments on damaged TIFF tags
@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF"]), st.integers(0), st.integers(0, 255), st.booleans())
def test_no_damage_gets_through_as_another_error(file_format: str, place: int, value: int, cut: bool) -> None:
    data = bytearray(encoded(noise(24, 24), file_format))
    place %= len(data)
    data[place] = value
    try:
        assert decode(bytes(data[:place] if cut else data), 8).shape == (3, 8, 8)
    except BadImageError as bad:
        assert str(bad)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(noise(120, 80), "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.abs(decode(data, 16).astype(int) - decode(encoded(upright, "PNG"), 16)).max() <= 1


def test_the_central_square_is_kept() -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255
    kept = decode(encoded(Image.fromarray(pixels), "PNG"), 20)
    assert kept[:, :, 1:-1].min() == 255  # the filter of the outermost columns looks over the edge


def test_resizing_is_antialiased_and_draft_changes_little() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than 32 px can show: the honest answer is grey
    for file_format in ("PNG", "JPEG"):
        assert (
            np.abs(decode(encoded(Image.fromarray(stripes), file_format, quality=100), 32).astype(int) - 127).max()
            <= 12
        )

    smooth = noise(16, 16).resize((512, 512), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(decode(data, 64).astype(int) - full).mean() < 1


def test_small_images_are_enlarged() -> None:
    assert decode(encoded(PAINTED, "PNG"), 64).shape == (3, 64, 64)
