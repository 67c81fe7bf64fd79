"""`begin`: the profile, the seeds, and the errors when a profile is not available."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import helpers.devices
from helpers.course import begin, course_home, repository_root


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    monkeypatch.delenv("COURSE_HOME", raising=False)


def test_cpu_is_what_a_newcomer_gets(capsys: pytest.CaptureFixture) -> None:
    course = begin()
    assert (course.profile, course.device, course.dtype) == ("cpu", torch.device("cpu"), torch.float32)
    assert course.pick(cpu=1, gpu=2) == 1
    assert str(course) == "profile cpu: cpu, float32, seed 0"
    assert capsys.readouterr() == ("", "")


def test_the_environment_chooses_and_the_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    with pytest.raises(ValueError, match="unknown profile 'laptop', .*variable COURSE_PROFILE; there are: cpu, gpu"):
        begin()
    assert begin("cpu").profile == "cpu"
    monkeypatch.setenv("COURSE_PROFILE", "")
    assert begin().profile == "cpu"


def test_gpu_without_a_gpu_says_how_to_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers.devices, "is_available", lambda name: name == "cpu")
    with pytest.raises(RuntimeError, match=r"needs a GPU.*unset COURSE_PROFILE or call begin\('cpu'\)"):
        begin("gpu")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_only_where_the_card_computes_in_it(monkeypatch: pytest.MonkeyPatch, native: bool, dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # A T4 emulates bfloat16: torch says yes unless asked not to count emulation.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    course = begin("gpu")
    assert course.dtype == dtype and course.device.type == "cuda" and course.pick(cpu=1, gpu=2) == 2


def test_every_generator_is_seeded() -> None:
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()

    begin(seed=3)
    first = draw()
    begin(seed=3)
    assert draw() == first
    begin(seed=4)
    assert all(a != b for a, b in zip(draw(), first))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must lie between"):
        begin(seed=seed)


def test_home_is_chosen_but_not_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert course_home() == Path.home() / ".cache" / "ddpm-to-stable-diffusion"
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "mine"))
    assert begin().data_dir == course_home() == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()


def test_importing_helpers_costs_nothing() -> None:
    code = "import sys, helpers, helpers.course; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository_root()).returncode == 0
