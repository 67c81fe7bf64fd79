"""The commands for 256 and 512 pixels: shapes that fit, memory below a 16 GB card's; on paper."""

import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.data import Faces
from helpers.tiny_sd.large_images import COMMANDS
from helpers.tiny_sd.train import parser, unet_config
from helpers.tiny_sd.unet import TinyUNet
from helpers.training.memory import GIB, training_memory

BUDGET = 14 * GIB  # of 16: the workspace of single operations and the CUDA context want the rest


def codec(options) -> SimpleNamespace:
    """The shape of what is diffused, without an autoencoder: sdxl-vae's, or that of our own."""
    channels, factor = (4, 8) if options.method == "pretrained" else (options.autoencoder_channels, 4)
    return SimpleNamespace(name=options.method, channels=channels, downsampling_factor=factor)


def test_both_latent_methods_have_a_command_for_both_sizes():
    shapes = {(options.method, options.size) for options in map(parsed, COMMANDS)}
    assert shapes == {("pretrained", 256), ("pretrained", 512), ("own", 256), ("own", 512)}


def parsed(command: str):
    return parser().parse_args(shlex.split(command)[3:])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_step_fits_a_16_gb_card(command):
    options = parsed(command)
    faces = Faces(np.zeros((3, 3, 8, 8), np.uint8), np.arange(3), source=options.source, split="train")
    shape = codec(options)
    side = options.size // shape.downsampling_factor
    with torch.device("meta"):
        model = TinyUNet(unet_config(options, faces, shape))
        x = torch.empty(options.batch_size, shape.channels, side, side)
        t = torch.empty(options.batch_size)

        def forward():
            with torch.autocast("cpu", torch.bfloat16):
                out = model(x, t)
            assert out.shape == x.shape
            return out

        memory = training_memory(model, forward)
    assert memory.total < BUDGET, f"{command}: {memory}, {memory._asdict()}"
