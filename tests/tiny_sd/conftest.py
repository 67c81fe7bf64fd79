"""Faces and networks small enough for a test."""

import numpy as np
import pytest
import torch

from helpers.data import Faces
from helpers.data.captions import caption
from helpers.data.toy_faces import SPECIES, draw_face, toy_attributes
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD, vocabulary_size
from helpers.tiny_sd.unet import UNetConfig

SIZE = 16
SMALL = dict(widths=(8, 16), attention=(False, True), head_width=8, text_width=16, condition_width=16, dropout=0.1)


@pytest.fixture(scope="session")
def faces() -> Faces:
    attributes = toy_attributes(60, seed=5)
    images = np.stack([draw_face(face, SIZE) for face in attributes])
    labels = np.array([SPECIES.index(face.species) for face in attributes])
    return Faces(images, labels, SPECIES, tuple(map(caption, attributes)), attributes, "toy-faces", "train")


@pytest.fixture(scope="module")
def one_home(tmp_path_factory):
    """One course home for all runs of a module, so that the faces are drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def model() -> TinySD:
    """Untrained, but with its zero layers filled, so that every input counts."""
    torch.manual_seed(0)
    system = TinySD(UNetConfig(vocab_size=vocabulary_size(), **SMALL), "flow", SPECIES, SIZE, PixelCodec())
    for parameter in system.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return system
