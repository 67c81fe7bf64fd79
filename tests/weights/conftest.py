"""Tiny systems with random weights, and a way to record everything that a call reports."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.sd1 import reference as sd1_reference
from benchmarks.sd3 import reference as sd3_reference
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd3.pipeline import StableDiffusion3

Errors = type[BaseException] | tuple[type[BaseException], ...]


class Outcome(NamedTuple):
    """The result of a call, and what it reported."""

    value: Any  # None where the call was refused
    message: str  # the text of every warning, then of the error that refused the call


@pytest.fixture(scope="session")
def attempt() -> Callable[..., Outcome]:
    """Call a function and return its Outcome: for faults that may be mended by a warning or by a refusal."""

    def attempt(call: Callable[[], Any], refusals: Errors = ValueError) -> Outcome:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = call()
                refusal = ""
            except refusals as error:
                value = None
                refusal = str(error)
        reports = [str(warning.message) for warning in caught]
        return Outcome(value, "\n".join([*reports, refusal]).strip())

    return attempt


class SD1:
    """A tiny Stable Diffusion 1: diffusers' pipeline, its files, and a way to load them."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = sd1_reference.reference(sd1_reference.SMALL)
        self.files = sd1_reference.write_layouts(self.pipeline, folder)
        self.folder = self.files["diffusers"]
        self.single_file = self.files["safetensors"]
        self.tokenizer = self.files["tokenizer"]

    def load(self, source: str | Path, **options: Any) -> StableDiffusion1:
        options = {"config": sd1_reference.SMALL, "tokenizer": self.tokenizer} | options
        return StableDiffusion1.from_checkpoint(source, **options)


class SD3:
    """A tiny Stable Diffusion 3: its files, and a way to load them."""

    def __init__(self, folder: Path) -> None:
        pipeline = sd3_reference.reference(sd3_reference.SMALL, folder / "t5")
        self.files = sd3_reference.write_layouts(pipeline, sd3_reference.SMALL, folder)
        self.folder = self.files["diffusers"]
        self.single_file = self.files["single"]
        self.tokenizers = (self.files["tokenizer"], self.files["tokenizer_3"])

    def load(self, source: str | Path, **options: Any) -> StableDiffusion3:
        return StableDiffusion3.from_checkpoint(source, config=sd3_reference.SMALL, **options)


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> SD1:
    return SD1(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> SD3:
    return SD3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def sd1_folder(sd1: SD1, tmp_path: Path) -> Path:
    """A copy of the diffusers folder that a test may change."""
    return Path(shutil.copytree(sd1.folder, tmp_path / "sd1"))


@pytest.fixture
def sd3_folder(sd3: SD3, tmp_path: Path) -> Path:
    """A copy of the diffusers folder that a test may change."""
    return Path(shutil.copytree(sd3.folder, tmp_path / "sd3"))
