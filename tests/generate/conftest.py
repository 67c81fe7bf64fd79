"""A folder to work in, with an image and a mask to start from."""

from pathlib import Path

import pytest

from benchmarks import own_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test, with photo.jpg and mask.png in it."""
    own_images.write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
