"""Images and masks that a request brings are read as training data are: upright, scaled, on white, or refused."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from helpers.data.images import BadImageError, decode
from helpers.sd1.pipeline import StableDiffusion1
from helpers.text_to_image.input_images import image_tensor, mask_tensor
from helpers.vlm.pipeline import image_size
from helpers.vlm.processor import preprocess_image

pytestmark = pytest.mark.fault("images")

ORIENTATION = 274  # the EXIF tag
SIDE = 64
ORANGE = (230, 120, 40)
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def stored(image: Image.Image, file_format: str = "PNG", **options) -> Image.Image:
    """The image as it comes from a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def file_bytes(image: Image.Image) -> bytes:
    """The file that an opened image was read from."""
    return image.fp.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_is_undone_once_by_every_reader(file_format: str, orientation: int):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossless = {"lossless": True} if file_format == "WEBP" else {}

    def photograph() -> Image.Image:
        return stored(Image.fromarray(IMAGE), file_format, exif=exif, **lossless)

    upright = ImageOps.exif_transpose(photograph()).convert("RGB")
    assert image_size(photograph()) == (upright.height, upright.width)
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(image_tensor(photograph()), expected)
    grey = torch.from_numpy(np.array(upright.convert("L")))[None] / 255
    torch.testing.assert_close(mask_tensor(photograph()), grey)
    torch.testing.assert_close(preprocess_image(photograph(), 32), preprocess_image(upright, 32))
    trained_on = decode(file_bytes(photograph()), 64).astype(int)
    assert np.abs(trained_on - decode(file_bytes(stored(upright)), 64)).max() <= 8  # turned after it was resized


def test_loading_before_changes_nothing():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for file_format in ("PNG", "TIFF"):
        fresh, loaded, converted = (stored(Image.fromarray(IMAGE), file_format, exif=exif) for _ in range(3))
        loaded.load()
        expected = image_tensor(fresh)
        torch.testing.assert_close(image_tensor(loaded), expected)
        torch.testing.assert_close(image_tensor(ImageOps.exif_transpose(converted)), expected)
        torch.testing.assert_close(image_tensor(loaded), expected), "reading an image twice turns it once"


def test_damaged_exif_data_cost_nothing_but_the_orientation():
    image = stored(Image.fromarray(IMAGE), exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow comments on it
        assert image_tensor(image).shape == (3, 64, 96)


def ramp(dtype: str, largest: int) -> Image.Image:
    """All grey levels from black to white."""
    return Image.fromarray(np.linspace(0, largest, SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(stored(ramp("uint16", 65535)), id="16-bit PNG"),
        pytest.param(stored(ramp("uint16", 65535), "TIFF"), id="16-bit TIFF"),
        pytest.param(ramp("int32", 65535), id="16 bits in 32"),
        pytest.param(ramp("int32", 255), id="8 bits in 32"),
        pytest.param(ramp("uint8", 255), id="8 bits"),
    ],
)
def test_every_depth_is_scaled_by_every_reader(image: Image.Image):
    grey = torch.linspace(0, 1, SIDE * SIDE).reshape(1, SIDE, SIDE)
    colours = (2 * grey - 1).expand(3, -1, -1)
    torch.testing.assert_close(image_tensor(image), colours, atol=1 / 127, rtol=0)
    torch.testing.assert_close(mask_tensor(image), grey, atol=1 / 255, rtol=0)
    torch.testing.assert_close(preprocess_image(image, SIDE), colours, atol=1 / 127, rtol=0)


def palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([*ORANGE, 0, 0, 0])
    return stored(image, transparency=0)


PAINTED = Image.new("RGB", (SIDE, SIDE), ORANGE)
MODES = {
    "palette": (PAINTED.quantize(4), ORANGE),
    "CMYK": (PAINTED.convert("CMYK"), ORANGE),
    "YCbCr": (PAINTED.convert("YCbCr"), ORANGE),
    "grey with alpha": (Image.new("LA", (SIDE, SIDE), (0, 128)), (127, 127, 127)),
    "premultiplied grey": (Image.new("LA", (SIDE, SIDE), (0, 128)).convert("La"), (127, 127, 127)),
    "transparent": (Image.new("RGBA", (SIDE, SIDE), (*ORANGE, 0)), (255, 255, 255)),
    "half transparent": (Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 128)), (127, 127, 127)),
    "premultiplied": (Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 128)).convert("RGBa"), (127, 127, 127)),
    "opaque RGBA": (Image.new("RGBA", (SIDE, SIDE), (*ORANGE, 255)), ORANGE),
    "palette with a hole": (palette_with_a_hole(), (255, 255, 255)),
    "one bit": (Image.new("1", (SIDE, SIDE), 1), (255, 255, 255)),
    "16-bit with a hole": (stored(Image.fromarray(np.full((SIDE, SIDE), 9, np.uint16)), transparency=9), (255,) * 3),
}


@pytest.mark.parametrize(("image", "colour"), MODES.values(), ids=MODES)
@pytest.mark.filterwarnings("ignore:the mask is transparent")
def test_every_mode_has_the_same_colours_for_every_reader(image: Image.Image, colour: tuple[int, int, int]):
    expected = torch.tensor(colour).view(3, 1, 1) / 127.5 - 1
    for tensor in (image_tensor(image), preprocess_image(image, SIDE)):
        assert (tensor - expected).abs().max() <= 4 / 127.5
    luminance = Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)) / 255
    assert (mask_tensor(image) - luminance).abs().max() <= 4 / 255


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(file_format: str):
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ((255, 255, 255), (0, 0, 0))]
    animation = stored(frames[0], file_format, save_all=True, append_images=frames[1:])
    data = file_bytes(animation)
    assert animation.n_frames == 2
    for tensor in (image_tensor(animation), preprocess_image(animation, SIDE)):
        assert tensor.min() > 0.98
    assert mask_tensor(animation).min() > 0.98 and decode(data, SIDE).min() > 252


@pytest.mark.fault("images", refused=True)
@pytest.mark.parametrize(
    ("read", "name"),
    [
        (image_tensor, "init_image cannot be used: "),
        (mask_tensor, "mask_image cannot be used: "),
        (lambda image: preprocess_image(image, SIDE), "this image cannot be used: "),
    ],
    ids=["init image", "mask", "vision-language"],
)
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param(Image.fromarray(np.full((SIDE, SIDE), 0.5, np.float32)), r"floating-point .*mode F", id="floats"),
        pytest.param(Image.fromarray(np.full((SIDE, SIDE), 70_000, np.int32)), "70000..70000, outside", id="too deep"),
        pytest.param(Image.fromarray(np.full((SIDE, SIDE), -1, np.int32)), "-1..-1, outside 16 bits", id="negative"),
        pytest.param(Image.new("RGB", (0, 0)), r"it has no pixels \(0x0\)", id="empty"),
        pytest.param(Image.new("L", (5, 0)), r"it has no pixels \(5x0\)", id="no rows"),
        pytest.param("truncated PNG", "cannot be read to its end", id="truncated PNG"),
        pytest.param("truncated JPEG", "cannot be read to its end", id="truncated JPEG"),
    ],
)
def test_what_is_no_image_is_refused_by_every_reader(read, name: str, image, reason: str):
    if isinstance(image, str):
        file_format = image.split()[1]
        whole = file_bytes(stored(Image.fromarray(IMAGE), file_format))
        image = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    with pytest.raises(ValueError, match=name + ".*" + reason):
        read(image)


@pytest.mark.fault("images", refused=True)
@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.full((8, 8), torch.nan), ValueError, "mask_image is empty or holds NaN"),
        (torch.full((8, 8), torch.inf), ValueError, r"must be \(H, W\) in \[0, 1\].* values inf to inf"),
        (torch.full((8, 8), -0.5), ValueError, "values -0.5 to -0.5"),
        (torch.full((8, 8), 255, dtype=torch.uint8), ValueError, "values 255 to 255"),
        (torch.ones(1, 8, 8), ValueError, r"got \(1, 8, 8\)"),
        (torch.ones(0, 8), ValueError, "mask_image is empty"),
        (np.ones((8, 8)), TypeError, "mask_image must be a PIL image or a tensor .* got ndarray"),
        ([[1, 0]], TypeError, "got list"),
    ],
)
def test_a_bad_mask_is_refused(mask, error, message: str):
    with pytest.raises(error, match=message):
        mask_tensor(mask)


@pytest.mark.fault("images", refused=True)
@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.full((3, 8, 8), torch.nan), ValueError, "init_image is empty or holds NaN"),
        (torch.full((3, 8, 8), torch.inf), ValueError, "values up to inf"),
        (torch.full((3, 8, 8), -torch.inf), ValueError, "values up to inf"),
        (torch.ones(3, 8, 8, dtype=torch.uint8), ValueError, "got torch.uint8"),
        (torch.ones(1, 3, 8, 8), ValueError, r"got .*\(1, 3, 8, 8\)"),
        (torch.ones(8, 8, 3), ValueError, r"got .*\(8, 8, 3\)"),
        (np.ones((8, 8, 3)), TypeError, "init_image must be a PIL image or a tensor .* got ndarray"),
        (b"\x89PNG", TypeError, "got bytes"),
    ],
)
def test_a_bad_init_image_is_refused(image, error, message: str):
    with pytest.raises(error, match=message):
        image_tensor(image)


ONES = {
    "bool": Image.fromarray(np.ones((SIDE, SIDE), bool)),
    "uint8": Image.fromarray(np.ones((SIDE, SIDE), np.uint8)),
    "uint16": Image.fromarray(np.ones((SIDE, SIDE), np.uint16)),
    "int32": Image.fromarray(np.ones((SIDE, SIDE), np.int32)),
    "RGB": Image.fromarray(np.ones((SIDE, SIDE, 3), np.uint8)),
    "palette": Image.new("P", (SIDE, SIDE), 1),
}
ONES["palette"].putpalette([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("ones", ONES.values(), ids=ONES)
def test_a_mask_of_zeros_and_ones_is_taken_as_such(ones: Image.Image):
    assert (mask_tensor(ones) == 1).all()
    values = np.ones((SIDE, SIDE), np.uint8)
    values[: SIDE // 2] = 0
    assert mask_tensor(Image.fromarray(values)).mean() == 0.5


@pytest.fixture(scope="module")
def inpaint():
    """Generate over a whole image, with the mask that is passed."""
    model = StableDiffusion1.from_weights()
    options = {"init_image": Image.fromarray(IMAGE[:64, :64]), "strength": 1.0, "steps": 2, "progress": False}
    return lambda mask: model.generate("a cat", mask_image=mask, **options)


def test_a_mask_of_ones_regenerates_what_a_white_mask_does(inpaint):
    torch.testing.assert_close(inpaint(ONES["uint8"]), inpaint(Image.new("L", (SIDE, SIDE), 255)), atol=1e-5, rtol=0)


@pytest.mark.fault("images", refused=True)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (SIDE, SIDE), 0), "no value of mask_image is above 0.5, so nothing is regenerated"),
        (Image.new("L", (SIDE, SIDE), 3), "no value of mask_image is above 0.5"),
        (Image.fromarray(np.full((SIDE, SIDE), 255, np.uint16)), "no value of mask_image is above 0.5"),
        (
            Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0)),
            "transparent in 100% .* which count as white",
        ),
    ],
    ids=["black", "almost black", "8 bits in 16", "transparent"],
)
def test_a_mask_that_is_hardly_meant_is_reported(inpaint, mask: Image.Image, message: str):
    with pytest.warns(UserWarning, match=message):
        inpaint(mask)


@pytest.mark.fault("images", refused=True)
def test_an_image_of_a_mode_without_colours_is_named(monkeypatch):
    def refuse(*_):
        raise ValueError("conversion not supported")

    image = Image.new("LAB", (SIDE, SIDE))
    monkeypatch.setattr(image, "convert", refuse)
    with pytest.raises(ValueError, match="mode LAB, of which there is no conversion to RGB"):
        image_tensor(image)
    assert issubclass(BadImageError, Exception)
