"""One small Stable Diffusion 1 with random weights, made by diffusers and transformers, and ours that read it."""

from pathlib import Path

import pytest

from benchmarks.sd1.reference import SMALL, compvis_tensors, reference, write_layouts
from helpers.sd1.pipeline import StableDiffusion1


@pytest.fixture(scope="session")
def peer():
    return reference(SMALL)


@pytest.fixture(scope="session")
def layouts(peer, tmp_path_factory) -> dict[str, Path]:
    return write_layouts(peer, tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="session")
def ours(layouts) -> StableDiffusion1:
    return StableDiffusion1.from_checkpoint(layouts["diffusers"], config=SMALL)


@pytest.fixture(scope="session")
def tensors(ours):
    """Our weights under the names of a single file; tests copy it before they change it."""
    return compvis_tensors(ours)
