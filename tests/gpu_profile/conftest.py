"""The surroundings of a miniature run: the gpu profile, drawn photographs, and a home for caches."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.course import repository_root
from tests.gpu_profile.miniature import miniature, write_autoencoder, write_photographs


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables that name a home, the photographs, and an autoencoder in place of Stable Diffusion XL's."""
    folder = tmp_path_factory.mktemp("gpu_profile")
    return {
        "COURSE_HOME": str(folder / "home"),
        "ANIMAL_FACES_DIR": str(write_photographs(folder)),
        "SDXL_VAE": str(write_autoencoder(folder / "sdxl_vae.safetensors")),
    }


@pytest.fixture
def gpu_profile(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where cells of the gpu profile can be executed; returns the folder of the notebooks."""
    for name in ("SD1_CHECKPOINT", "SD3_CHECKPOINT", "PALIGEMMA", "MINICPM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    folder = repository_root() / "notebooks"
    monkeypatch.chdir(folder)
    with miniature():
        yield folder
