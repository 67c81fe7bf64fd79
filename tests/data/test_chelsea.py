"""Chelsea: inside the package, cropped to her face, resized as every other photograph is."""

import io
import socket
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data.chelsea import CREDIT, FACE, load_chelsea
from helpers.data.faces import to_uint8
from helpers.data.images import decode
from pages.record import ROOT


def test_shape_and_range() -> None:
    face = load_chelsea()
    assert face.shape == (1, 3, 64, 64) and face.dtype == torch.float32
    assert -1 <= face.min() < -0.8 and 0.4 < face.max() <= 1
    assert load_chelsea(size=128).shape == (1, 3, 128, 128)


def test_resized_as_every_other_photograph_is() -> None:
    """The crop saved to a file and read by `decode`, which AFHQ's files go through, gives the same pixels."""
    from skimage import data

    file = io.BytesIO()
    Image.fromarray(data.chelsea()).crop(FACE).save(file, "PNG")
    assert np.array_equal(decode(file.getvalue(), 64), to_uint8(load_chelsea(64))[0].numpy())


def test_it_is_her_face() -> None:
    """Brown as a whole; two dark pupils where the crop puts them; the nose redder than the rest."""
    face = (load_chelsea(150)[0] + 1) / 2
    red, green, blue = face.mean((1, 2))
    assert red > green > blue
    for column, row in ((41, 56), (112, 66)):  # the pupils, in pixels of a 150 px crop
        pupil = face[:, row - 2 : row + 3, column - 2 : column + 3]
        assert pupil.mean() < 0.5 * face.mean(), "no pupil where the eye should be"
    nose = face[:, 118:124, 84:94].mean((1, 2))
    assert nose[0] / nose[1] > 1.2 * red / green


@pytest.mark.parametrize("size", [7, 301, 64.5, 0, -64])
def test_a_size_that_she_does_not_have_is_refused(size: float) -> None:
    with pytest.raises(ValueError, match="from 8 to 300 pixels"):
        load_chelsea(size)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies in the installed package, and reading it opens no connection and needs no pooch."""
    assert (files("skimage") / "data" / "chelsea.png").is_file()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("load_chelsea opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setitem(sys.modules, "pooch", None)  # importing it raises ImportError
    assert load_chelsea(32).shape == (1, 3, 32, 32)


def test_importing_the_module_is_light() -> None:
    code = "import sys, helpers.data.chelsea; print('skimage' in sys.modules, 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]


def test_the_credit_names_photographer_and_licence() -> None:
    assert "Stefan van der Walt" in CREDIT and "CC0" in CREDIT
