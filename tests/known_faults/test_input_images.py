"""Images and masks that a request brings: turned upright, scaled by their bit depth, or refused with the reason."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.text_to_image.request import image_tensor, mask_tensor
from helpers.vlm.processor import preprocess_image as vlm_image_tensor

ORIENTATION = 274  # the EXIF tag
ROTATED = 6  # its value for a phone held upright: the stored pixels are turned by 90 degrees
SIDE = 64

SIDEWAYS = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="the EXIF orientation of an init image or mask is ignored: it goes in sideways "
    "(AUTOMATIC1111#15062, mflux#495)",
)
CLIPPED = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="16-bit grey values are clipped at 255 instead of scaled: nearly everything becomes white "
    "(Pillow#5967, unsloth#10970)",
)
FLOATS_ACCEPTED = pytest.mark.xfail(
    strict=True,
    raises=pytest.fail.Exception,
    reason="an image of floats (mode F), whose range nobody states, is accepted and becomes black (Pillow#5967)",
)
NEARLY_EMPTY = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="a mask image of zeros and ones is read as 0 and 1 of 255, and nothing is inpainted "
    "(PAL4Inpaint#4, ControlNet-v1-1-nightly#52)",
)


def as_a_phone_stores_it(upright: np.ndarray, path: Path) -> Image.Image:
    """Save the image turned, with the EXIF orientation that turns it back, and open the file."""
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return Image.open(path)


def test_pillow_turns_the_test_image_upright(tmp_path):
    """The premise of the next tests."""
    from PIL import ImageOps

    upright = np.arange(64 * 96, dtype=np.uint32).reshape(64, 96).astype(np.uint8)
    photograph = as_a_phone_stores_it(upright, tmp_path / "photograph.png")
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(photograph)), upright)


@SIDEWAYS
def test_init_image_is_turned_upright(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    tensor = image_tensor(as_a_phone_stores_it(upright, tmp_path / "photograph.png"))
    expected = torch.from_numpy(upright).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(tensor, expected)


@SIDEWAYS
def test_mask_image_is_turned_upright(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    tensor = mask_tensor(as_a_phone_stores_it(upright, tmp_path / "mask.png"))
    torch.testing.assert_close(tensor, torch.from_numpy(upright)[None] / 255)


def test_vision_language_image_is_turned_upright(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    tensor = vlm_image_tensor(as_a_phone_stores_it(upright, tmp_path / "photograph.png"), 32)
    torch.testing.assert_close(tensor, vlm_image_tensor(Image.fromarray(upright), 32))


@pytest.fixture
def grey_ramp(tmp_path) -> Image.Image:
    """All grey levels from black to white in a 16-bit file."""
    values = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "ramp.png")
    return Image.open(tmp_path / "ramp.png")


@CLIPPED
def test_16_bit_init_image_is_scaled(grey_ramp):
    expected = torch.linspace(-1, 1, SIDE * SIDE).reshape(1, SIDE, SIDE).expand(3, -1, -1)
    torch.testing.assert_close(image_tensor(grey_ramp), expected, atol=1 / 127, rtol=0)


@CLIPPED
def test_16_bit_mask_image_is_scaled(grey_ramp):
    expected = torch.linspace(0, 1, SIDE * SIDE).reshape(1, SIDE, SIDE)
    torch.testing.assert_close(mask_tensor(grey_ramp), expected, atol=1 / 255, rtol=0)


def test_16_bit_vision_language_image_is_scaled(grey_ramp):
    expected = torch.linspace(-1, 1, SIDE * SIDE).reshape(1, SIDE, SIDE).expand(3, -1, -1)
    torch.testing.assert_close(vlm_image_tensor(grey_ramp, SIDE), expected, atol=1 / 127, rtol=0)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(image_tensor, marks=FLOATS_ACCEPTED, id="init image"),
        pytest.param(mask_tensor, marks=FLOATS_ACCEPTED, id="mask image"),
        pytest.param(lambda image: vlm_image_tensor(image, SIDE), id="vision-language image"),
    ],
)
def test_image_of_floats_is_refused(read):
    image = Image.fromarray(np.full((SIDE, SIDE), 0.5, np.float32))
    assert image.mode == "F"
    with pytest.raises((TypeError, ValueError), match="float|mode F"):
        read(image)


@pytest.fixture(scope="module")
def inpaint(sd1):
    """Generate over a whole image, with the mask that is passed."""
    model = sd1.load(sd1.folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))

    def inpaint(mask: np.ndarray) -> torch.Tensor:
        options = {"init_image": image, "mask_image": Image.fromarray(mask), "strength": 1.0}
        return model.generate("a cat", steps=2, progress=False, **options)

    return inpaint


@pytest.fixture(scope="module")
def inpainted(inpaint) -> torch.Tensor:
    """What an ordinary mask, white everywhere, gives."""
    return inpaint(np.full((SIDE, SIDE), 255, np.uint8))


@pytest.mark.parametrize(
    "dtype",
    ["bool", pytest.param("uint8", marks=NEARLY_EMPTY), pytest.param("float32", marks=NEARLY_EMPTY)],
)
def test_mask_image_of_ones_inpaints_everything_or_is_reported(inpaint, inpainted, attempt, dtype):
    ones = np.ones((SIDE, SIDE), dtype)
    images, message = attempt(lambda: inpaint(ones), (TypeError, ValueError))
    inpaints_everything = images is not None and torch.allclose(images, inpainted, atol=1e-5)
    assert inpaints_everything or "mask" in message, f"nothing was inpainted; reported: {message or 'nothing'}"
