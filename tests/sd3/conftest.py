"""Small Stable Diffusion 3 and 3.5 with random weights, made by diffusers and transformers, and ours that read them."""

from types import SimpleNamespace

import pytest

from benchmarks.sd3.reference import SMALL, SMALL_3_5, reference, write_layouts
from helpers.sd3.pipeline import StableDiffusion3


def _build(config, folder) -> SimpleNamespace:
    peer = reference(config, folder / "t5")
    layouts = write_layouts(peer, config, folder)
    tokenizers = layouts["tokenizer"], layouts["tokenizer_3"]
    ours = StableDiffusion3.from_checkpoint(layouts["diffusers"], config=config)
    return SimpleNamespace(config=config, peer=peer, layouts=layouts, tokenizers=tokenizers, ours=ours)


@pytest.fixture(scope="session")
def sd3(tmp_path_factory) -> SimpleNamespace:
    return _build(SMALL, tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="session")
def sd3_5(tmp_path_factory) -> SimpleNamespace:
    return _build(SMALL_3_5, tmp_path_factory.mktemp("sd3_5"))


@pytest.fixture(params=["sd3", "sd3_5"])
def either(request) -> SimpleNamespace:
    """Each of the two."""
    return request.getfixturevalue(request.param)
